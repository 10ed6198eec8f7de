//! The two files of a plugin: which names count, when they are unchanged, and reading them whole. Knows nothing of what
//! is in them.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// A larger component is not even read. The largest language toolchains make about 40 MB.
const COMPONENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SIDECAR_BYTES_MAX: u64 = 1024 * 1024;
/// Plugins in one directory; what is over it is not looked at (law 12).
const PLUGINS_MAX: usize = 1024;
/// How often a pair of files that changes while it is being read is read again.
const READS_MAX: usize = 5;

/// What a file looks like from outside. Equal stamps mean equal content: a write changes the times, a move the inode.
///
/// The change time is in it because the modification time can be set back (`cp -p`, `rsync -t`, `tar`), and the change time
/// cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// It exists.
    File {
        inode: u64,
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    /// It exists, and cannot be looked at.
    Unreadable,
}

impl Stamp {
    /// `None`: there is no such file. Follows links, so that a directory of links to versions works.
    fn of(path: &Path) -> Option<Self> {
        match std::fs::metadata(path) {
            Ok(metadata) => Some(Self::from(&metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(Self::Unreadable),
        }
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self::File {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The stamps of a plugin's two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    pub(super) component: Option<Stamp>,
    pub(super) sidecar: Option<Stamp>,
}

impl Stamps {
    pub(super) fn of(dir: &Path, name: &str) -> Self {
        Self {
            component: Stamp::of(&component_path(dir, name)),
            sidecar: Stamp::of(&sidecar_path(dir, name)),
        }
    }
}

/// `DIR/NAME.wasm`
pub(super) fn component_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.wasm"))
}

/// `DIR/NAME.toml`
pub(super) fn sidecar_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.toml"))
}

/// What lies in the plugin directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The components, by name.
    pub(super) plugins: BTreeMap<String, Stamps>,
    /// Sidecars without a component.
    pub(super) lone_sidecars: Vec<String>,
    /// Components whose file name cannot be the name of a plugin.
    pub(super) misnamed: Vec<PathBuf>,
    /// Components over [`PLUGINS_MAX`].
    pub(super) left_out: usize,
}

/// Lists the directory, not its sub-directories. Names that begin with a dot are an editor's or a copier's own business.
///
/// # Errors
/// The directory cannot be listed. That is not the same as an empty one: nothing is retired because of it.
pub(super) fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut sidecars = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if file_name.starts_with('.') {
            continue;
        }
        if let Some(name) = file_name.strip_suffix(".toml") {
            sidecars.push(name.to_owned());
        } else if let Some(name) = file_name.strip_suffix(".wasm") {
            if !is_name(name) {
                listing.misnamed.push(path);
            } else if listing.plugins.len() == PLUGINS_MAX {
                listing.left_out += 1;
            } else {
                let stamps = Stamps::of(dir, name);
                if stamps.component.is_some() {
                    listing.plugins.insert(name.to_owned(), stamps);
                }
            }
        }
    }
    listing.lone_sidecars = sidecars
        .into_iter()
        .filter(|name| !listing.plugins.contains_key(name))
        .collect();
    listing.lone_sidecars.sort();
    Ok(listing)
}

/// The rule of [`is_name`], as the end of a sentence.
pub(super) const NAME_RULE: &str =
    "use letters, digits, '-', '_' and '.', 64 at most, and begin with a letter, a digit or '_'";

/// Whether a file stem can name a plugin: it appears in routes, keys, metrics and paths without escaping.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

/// A plugin's two files, read at one moment.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) component: Bytes,
    /// `None`: there is no sidecar, which is as good as an empty one.
    pub(super) sidecar: Option<String>,
    /// Where the sidecar is or would be: its paths are relative to there, and its problems name it.
    pub(super) sidecar_path: PathBuf,
    /// Of both files: what tells whether there is anything new.
    pub(super) digest: blake3::Hash,
}

/// Why files were not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// There is no component: the plugin is removed.
    Gone,
    /// One of them is not readable, or too large, or not text.
    Unreadable { path: PathBuf, why: String },
    /// They kept changing: whoever writes them is not done.
    Changing,
}

/// Reads both files as they are at one moment: if either looks different afterwards, what was read may be half of one
/// version and half of another, and is thrown away.
pub(super) fn read(dir: &Path, name: &str) -> Result<Files, ReadError> {
    for _ in 0..READS_MAX {
        let before = Stamps::of(dir, name);
        if before.component.is_none() {
            return Err(ReadError::Gone);
        }
        let component = read_file(&component_path(dir, name), COMPONENT_BYTES_MAX);
        let sidecar = read_file(&sidecar_path(dir, name), SIDECAR_BYTES_MAX);
        if Stamps::of(dir, name) != before {
            continue;
        }
        let component = component?.ok_or(ReadError::Changing)?;
        let sidecar = sidecar?
            .map(|bytes| {
                String::from_utf8(bytes).map_err(|error| ReadError::Unreadable {
                    path: sidecar_path(dir, name),
                    why: format!("not UTF-8: {error}"),
                })
            })
            .transpose()?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(component.len() as u64).to_le_bytes());
        hasher.update(&component);
        // An absent sidecar and an empty one mean the same.
        hasher.update(sidecar.as_deref().unwrap_or_default().as_bytes());
        return Ok(Files {
            component: component.into(),
            sidecar,
            sidecar_path: sidecar_path(dir, name),
            digest: hasher.finalize(),
        });
    }
    Err(ReadError::Changing)
}

fn read_file(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let unreadable = |why: String| ReadError::Unreadable {
        path: path.to_owned(),
        why,
    };
    // Asked before it is opened: opening a pipe would wait for its writer.
    let size = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(unreadable("not a file".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let too_large = || unreadable(format!("larger than {bytes_max} bytes"));
    if size > bytes_max {
        return Err(too_large());
    }
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large());
    }
    Ok(Some(bytes))
}
