//! What is remembered of each plugin's last good version, in `storage.dir`/plugins/NAME.json: its identity and its
//! descriptor. With them a route whose plugin is broken at start, or removed, still finds the entries it stored.
//!
//! It is a convenience, not a truth: what cannot be read is forgotten (law 11), what cannot be written is logged.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::descriptor::Descriptor;
use super::version::{Plugin, PluginKind};

/// A record is a descriptor and a few words.
const RECORD_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Plugins remembered: more than any directory holds, fewer than would fill a disk (law 12).
const RECORDS_MAX: usize = 1024;

/// What is known of a plugin without running it.
#[derive(Clone, Debug)]
pub struct LastKnown {
    /// As [`Plugin::identity`].
    pub identity: Arc<str>,
    /// As [`Plugin::descriptor`].
    pub descriptor: Arc<Descriptor>,
    /// Whether routes loaded through it.
    pub loads: bool,
    /// Whether routes derived keys with it.
    pub derives: bool,
}

impl LastKnown {
    pub(super) fn of(plugin: &Plugin) -> Self {
        Self {
            identity: Arc::clone(&plugin.identity),
            descriptor: Arc::clone(&plugin.descriptor),
            loads: plugin.loads(),
            derives: plugin.kinds.contains(&PluginKind::KeyPolicy),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Record {
    identity: String,
    loads: bool,
    derives: bool,
    /// `null`: the component says nothing about itself.
    descriptor: Option<Value>,
}

/// The directory of records.
#[derive(Clone)]
pub(super) struct LastGood {
    dir: PathBuf,
}

impl LastGood {
    pub(super) fn open(storage: &Path) -> io::Result<Self> {
        let dir = storage.join("plugins");
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Every readable record, by plugin.
    pub(super) fn load(&self) -> BTreeMap<String, LastKnown> {
        let mut known = BTreeMap::new();
        let Ok(files) = std::fs::read_dir(&self.dir) else {
            return known;
        };
        for file in files.flatten().take(RECORDS_MAX) {
            let path = file.path();
            let (Some(name), Some("json")) = (
                path.file_stem().and_then(|stem| stem.to_str()),
                path.extension().and_then(|extension| extension.to_str()),
            ) else {
                continue;
            };
            match read(&path) {
                Ok(record) => {
                    known.insert(name.to_owned(), record);
                }
                Err(error) => tracing::warn!(
                    plugin = name,
                    "what was known of its last good version is forgotten: {}: {error}",
                    path.display()
                ),
            }
        }
        known
    }

    /// Remembers a version. The record is complete or absent, whenever the process dies: it is written beside and moved
    /// into place.
    pub(super) fn save(&self, plugin: &Plugin) -> io::Result<()> {
        let record = Record {
            identity: plugin.identity().to_owned(),
            loads: plugin.loads(),
            derives: plugin.derives(),
            descriptor: plugin.described.then(|| plugin.descriptor.raw.clone()),
        };
        // Saves of one plugin are serialised by its judgement, so one name for the half-written file is enough.
        let unfinished = self.dir.join(format!(".{}.json.new", plugin.name()));
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec(&record)?)?;
        file.sync_data()?;
        std::fs::rename(
            &unfinished,
            self.dir.join(format!("{}.json", plugin.name())),
        )
    }
}

fn read(path: &Path) -> Result<LastKnown, String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if size > RECORD_BYTES_MAX {
        return Err(format!("{size} bytes are too many"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let descriptor = match record.descriptor {
        Some(raw) => Descriptor::build(raw).map_err(|error| error.to_string())?,
        None => Descriptor::unknown(),
    };
    Ok(LastKnown {
        identity: record.identity.into(),
        descriptor: Arc::new(descriptor),
        loads: record.loads,
        derives: record.derives,
    })
}
