//! How far each change feed was read: `storage.dir`/feeds/NAME.json, with the identity of the source that was read.
//!
//! A cursor of another source, or one that cannot be read, is none (law 11): the feed then starts at its head, and
//! everything of its loader is purged. So losing one costs loads, never a wrong value.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A cursor's bytes are written as numbers: up to four characters each, for the longest one that a feed may give.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// The directory of cursors. Whoever writes the cursor of a plugin is alone in doing so.
#[derive(Clone)]
pub(super) struct Cursors {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Record {
    identity: String,
    cursor: Vec<u8>,
}

impl Cursors {
    pub(super) fn open(storage: &Path) -> io::Result<Self> {
        let dir = storage.join("feeds");
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Where the feed of this plugin was read to, if it was the feed of this source.
    pub(super) async fn load(&self, plugin: &str, identity: &str) -> Option<Vec<u8>> {
        let path = self.path(plugin);
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.map_err(io::Error::other).flatten() {
            Ok(record) => record
                .filter(|record| record.identity == identity)
                .map(|record| record.cursor),
            Err(error) => {
                tracing::warn!(
                    plugin,
                    "how far its change feed was read is forgotten: {error}"
                );
                None
            }
        }
    }

    /// Remembers a cursor. After this it outlives the process and the machine; before, the one before it does.
    pub(super) async fn save(&self, plugin: &str, identity: &str, cursor: &[u8]) -> io::Result<()> {
        let (dir, path) = (self.dir.clone(), self.path(plugin));
        let record = Record {
            identity: identity.to_owned(),
            cursor: cursor.to_owned(),
        };
        tokio::task::spawn_blocking(move || {
            let aside = path.with_extension("json.new");
            let mut file = File::create(&aside)?;
            file.write_all(&serde_json::to_vec(&record)?)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(dir)?.sync_all()
        })
        .await
        .map_err(io::Error::other)
        .flatten()
    }

    fn path(&self, plugin: &str) -> PathBuf {
        self.dir.join(format!("{plugin}.json"))
    }
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > RECORD_BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes are too many")));
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cursor_is_found_again_by_the_same_source_alone() {
        let storage = tempfile::tempdir().unwrap();
        let cursors = Cursors::open(storage.path()).unwrap();
        assert_eq!(cursors.load("pg", "pg~1").await, None);
        cursors.save("pg", "pg~1", b"\0\xff7").await.unwrap();
        cursors.save("pg", "pg~1", b"\0\xff8").await.unwrap();
        let again = Cursors::open(storage.path()).unwrap();
        assert_eq!(
            again.load("pg", "pg~1").await.as_deref(),
            Some(&b"\0\xff8"[..])
        );
        assert_eq!(again.load("pg", "pg~2").await, None);
        assert_eq!(again.load("other", "pg~1").await, None);
    }

    #[tokio::test]
    async fn law_11_a_damaged_cursor_is_none() {
        let storage = tempfile::tempdir().unwrap();
        let cursors = Cursors::open(storage.path()).unwrap();
        cursors.save("pg", "pg~1", b"7").await.unwrap();
        for garbage in [&b""[..], b"{\"identity\": \"pg~1\"", b"\0\0\0"] {
            fs::write(cursors.path("pg"), garbage).unwrap();
            assert_eq!(cursors.load("pg", "pg~1").await, None);
        }
    }
}
