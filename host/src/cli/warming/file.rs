//! The keys that are asked for most, written down: `storage.dir`/hot-keys. Must not know what they are for.
//!
//! A line that says what it is, in which version, and the digest of all that follows; then a key a line, as JSON, hottest
//! first. What is torn, damaged, too large or of another version is none (law 11): losing it costs loads, never a wrong value.
//! Parts may name users and tenants, so nobody but this user may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::cache::hot::HotKey;

const HEADER: &str = "larder hot-keys 1 ";
/// What does not fit is left out: the coldest.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The file. Whoever has it is alone in writing it.
pub(crate) struct HotFile {
    dir: PathBuf,
    /// It could not be written, and that is told: once, not every minute.
    is_told: AtomicBool,
    /// A write goes on when whoever began it does not.
    writing: Arc<Mutex<()>>,
}

impl HotFile {
    pub(crate) fn new(storage: &Path) -> Self {
        Self {
            dir: storage.to_owned(),
            is_told: false.into(),
            writing: Arc::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("hot-keys")
    }

    /// What was saved last. What cannot be read is told here.
    pub(super) async fn load(&self) -> Vec<HotKey> {
        let path = self.path();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read.map_err(io::Error::other).flatten() {
            Ok(keys) => keys,
            Err(error) => {
                tracing::warn!(
                    file = %self.path().display(),
                    "what was asked for most before the start is forgotten: {error}"
                );
                Vec::new()
            }
        }
    }

    /// Replaces what was saved. After this it outlives the process and the machine; before, what was there does. What cannot
    /// be written is told here.
    pub(super) async fn save(&self, keys: Vec<HotKey>) {
        let (dir, path) = (self.dir.clone(), self.path());
        let writing = Arc::clone(&self.writing);
        let written = tokio::task::spawn_blocking(move || {
            let _alone = writing.lock();
            write(&dir, &path, &keys)
        })
        .await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => self.is_told.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        file = %self.path().display(),
                        "what is asked for most will not be known after a restart: {error}"
                    );
                }
            }
        }
    }
}

fn write(dir: &Path, path: &Path, keys: &[HotKey]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let aside = path.with_extension("new");
    // Left by a server that was killed while it wrote.
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&aside)?;
    file.write_all(&text(keys)?)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

fn text(keys: &[HotKey]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    let room = usize::try_from(BYTES_MAX).unwrap_or(usize::MAX) - header(&[]).len();
    for key in keys {
        let fitting = lines.len();
        serde_json::to_writer(&mut lines, key)?;
        lines.push(b'\n');
        if lines.len() > room {
            lines.truncate(fitting);
            break;
        }
    }
    let mut text = header(&lines).into_bytes();
    text.append(&mut lines);
    Ok(text)
}

fn header(lines: &[u8]) -> String {
    format!("{HEADER}{}\n", blake3::hash(lines).to_hex())
}

fn read(path: &Path) -> io::Result<Vec<HotKey>> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if size > BYTES_MAX {
        return Err(io::Error::other(format!("{size} bytes are too many")));
    }
    let text = fs::read(path)?;
    let end = header(&[]).len();
    let lines = text.get(end..).unwrap_or_default();
    if !text.starts_with(header(lines).as_bytes()) {
        return Err(io::Error::other(
            "it is damaged, or of another version of Larder",
        ));
    }
    let lines = serde_json::Deserializer::from_slice(lines).into_iter();
    Ok(lines.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::cache::hot::HotKeys;
    use crate::cache::hot::testing::ask;

    fn keys(values: &[&str]) -> Vec<HotKey> {
        let hot = HotKeys::new(100);
        for value in values {
            hot.missed(&ask(value), &"rule".into());
        }
        hot.take_stock().unwrap()
    }

    #[tokio::test]
    async fn what_is_saved_is_found_again_and_nobody_else_may_read_it() {
        let storage = tempfile::tempdir().unwrap();
        let file = HotFile::new(&storage.path().join("not yet there"));
        assert_eq!(file.load().await, []);
        let first = keys(&["1", "ü\n\"", ""]);
        file.save(first.clone()).await;
        assert_eq!(file.load().await, first);
        // As after a kill in the midst of writing, with whatever access.
        fs::write(file.dir.join("hot-keys.new"), "torn").unwrap();
        let second = keys(&["2"]);
        file.save(second.clone()).await;
        assert_eq!(file.load().await, second);
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&file.dir).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn law_11_a_torn_or_damaged_file_is_none() {
        let storage = tempfile::tempdir().unwrap();
        let file = HotFile::new(storage.path());
        file.save(keys(&["1", "2"])).await;
        let whole = fs::read(file.path()).unwrap();
        for length in 0..whole.len() {
            fs::write(file.path(), &whole[..length]).unwrap();
            assert_eq!(file.load().await, [], "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(file.path(), damaged).unwrap();
            assert_eq!(file.load().await, [], "the byte {at}");
        }
        let newer = String::from_utf8(whole).unwrap();
        let newer = newer.replacen("hot-keys 1", "hot-keys 2", 1);
        fs::write(file.path(), newer).unwrap();
        assert_eq!(file.load().await, []);
    }

    #[tokio::test]
    async fn law_12_a_file_that_is_too_large_is_none_and_none_is_written() {
        let storage = tempfile::tempdir().unwrap();
        let file = HotFile::new(storage.path());
        // A megabyte and more, as no key is: 15 of them fit, and what is written whole by another hand is no better.
        let mut large = keys(&["1"]).remove(0);
        large.key = "x".repeat(1024 * 1024).into();
        let lines = serde_json::to_string(&large).unwrap().repeat(16);
        let text = format!("{}{lines}", header(lines.as_bytes()));
        fs::write(file.path(), &text).unwrap();
        assert_eq!(file.load().await, []);
        file.save(vec![large; 20]).await;
        assert_eq!(file.load().await.len(), 15);
    }
}
