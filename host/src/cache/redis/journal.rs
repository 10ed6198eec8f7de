//! Purges that could not be told, on disk: written and synced before they are acknowledged, read again at the next start.
//!
//! One small file, replaced as a whole: it holds what is pending, so it is bounded as that is. Nodes may share a storage
//! directory, so each takes the first name that nobody holds; and it takes over what nodes that are gone have left under
//! theirs: told by another, a purge is told all the same.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::names::{scope_of, told};
use super::pending::Pending;
use crate::cache::generations::{Mode, Scope};

/// Nodes that share a storage directory at most.
const NAMES_MAX: usize = 64;
/// What the file begins with.
const HEADING: &str = "larder pending purges 1";

/// The file of this node.
pub(super) struct Journal {
    directory: PathBuf,
    place: usize,
    /// Held as long as this node runs.
    _lock: File,
    /// Counts purges that are to be written, and how far the file has come.
    wanted: AtomicU64,
    written: Mutex<u64>,
}

impl Journal {
    /// A place in the directory, which is made if need be. None, with a warning, where nothing can be kept.
    pub(super) fn open(directory: &Path) -> Option<Self> {
        match Self::try_open(directory) {
            Ok(journal) => Some(journal),
            Err(error) => {
                tracing::warn!(
                    directory = %directory.display(), %error,
                    "purges that Redis cannot be told would not outlive a restart: make [storage] dir writable"
                );
                None
            }
        }
    }

    fn try_open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for place in 0..NAMES_MAX {
            if let Some(lock) = lock(directory, place)? {
                return Ok(Self {
                    directory: directory.to_owned(),
                    place,
                    _lock: lock,
                    wanted: AtomicU64::new(0),
                    written: Mutex::new(0),
                });
            }
        }
        Err(io::Error::other(format!(
            "{NAMES_MAX} nodes keep their purges there already"
        )))
    }

    /// What this node, or one that is gone, has kept and not told. Purges of everything where that cannot be read.
    pub(super) fn recall(&self) -> Vec<(Scope, Mode)> {
        let mut recalled = read(&file(&self.directory, self.place));
        for place in (0..NAMES_MAX).filter(|place| *place != self.place) {
            let left = file(&self.directory, place);
            // Locked while it is read and removed: its node may be starting at this moment.
            if left.exists()
                && let Ok(Some(_lock)) = lock(&self.directory, place)
            {
                recalled.extend(read(&left));
                // Ours holds them from the next write on; until then they are there twice rather than not at all.
                if self.rewrite(&render(recalled.iter())).is_ok() {
                    let _ = fs::remove_file(&left);
                }
            }
        }
        recalled
    }

    /// Writes down what is pending, this purge of the caller's included, and says whether it is safe. Writers that meet
    /// share one write.
    pub(super) async fn write(&self, pending: &Pending) -> bool {
        let wanted = self.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        let mut written = self.written.lock().await;
        if *written >= wanted {
            return true;
        }
        // Everybody counted up to here has kept their purge before they counted.
        let covers = self.wanted.load(Ordering::Acquire);
        let kept = pending.snapshot();
        let text = render(
            kept.iter()
                .map(|kept| (kept.scope.clone(), kept.mode))
                .collect::<Vec<_>>()
                .iter(),
        );
        let (path, aside) = self.paths();
        let saved = tokio::task::spawn_blocking(move || replace(&path, &aside, &text)).await;
        match saved.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                *written = covers;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a purge that Redis cannot be told would not outlive a restart");
                false
            }
        }
    }

    fn paths(&self) -> (PathBuf, PathBuf) {
        let path = file(&self.directory, self.place);
        let aside = path.with_extension("tmp");
        (path, aside)
    }

    fn rewrite(&self, text: &str) -> io::Result<()> {
        let (path, aside) = self.paths();
        replace(&path, &aside, text)
    }
}

fn file(directory: &Path, place: usize) -> PathBuf {
    directory.join(format!("pending-purges-{place}"))
}

/// The lock of a place; none while another process holds it.
fn lock(directory: &Path, place: usize) -> io::Result<Option<File>> {
    let path = file(directory, place).with_extension("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn render<'a>(purges: impl Iterator<Item = &'a (Scope, Mode)>) -> String {
    let mut text = format!("{HEADING}\n");
    for (scope, mode) in purges {
        text.push_str(&told(scope, *mode));
        text.push('\n');
    }
    text.push_str("end\n");
    text
}

/// What a file holds; nothing if there is none; everything if it is not what was written.
fn read(path: &Path) -> Vec<(Scope, Mode)> {
    let everything = |why: &str| {
        tracing::warn!(file = %path.display(), why, "the purges kept there cannot be read: everything is purged");
        vec![(Scope::All, Mode::Delete)]
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return everything(&error.to_string()),
    };
    let lines = text
        .strip_prefix(HEADING)
        .and_then(|text| text.strip_prefix('\n')?.strip_suffix("end\n"));
    let Some(lines) = lines else {
        return everything("it does not begin and end as it should");
    };
    lines
        .lines()
        .map(scope_of)
        .collect::<Option<Vec<_>>>()
        .unwrap_or_else(|| everything("a line in it is no purge"))
}

/// Complete on disk, name and all, before it returns.
fn replace(path: &Path, aside: &Path, text: &str) -> io::Result<()> {
    let mut out = File::create(aside)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(aside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Resource;

    fn purges() -> Vec<(Scope, Mode)> {
        vec![
            (
                Scope::Resource(Resource::new("/data/{key}", ["4:2"])),
                Mode::Delete,
            ),
            (Scope::Tag("a:b\nc".into()), Mode::Expire),
            (Scope::Route("/data/{key}".into()), Mode::Delete),
            (Scope::All, Mode::Expire),
        ]
    }

    fn pending(purges: &[(Scope, Mode)]) -> Pending {
        let pending = Pending::default();
        for (scope, mode) in purges {
            pending.keep(scope, *mode, false);
        }
        pending
    }

    #[tokio::test]
    async fn what_was_written_is_recalled_after_a_restart_until_it_was_told() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let pending = pending(&purges());
        assert!(journal.write(&pending).await);
        drop(journal);
        let journal = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.recall(), purges());
        pending.forget(&pending.snapshot());
        assert!(journal.write(&pending).await);
        drop(journal);
        assert!(Journal::open(directory.path()).unwrap().recall().is_empty());
    }

    #[tokio::test]
    async fn nodes_that_share_a_directory_do_not_share_a_file_and_take_over_what_the_dead_left() {
        let directory = tempfile::tempdir().unwrap();
        let first = Journal::open(directory.path()).unwrap();
        let second = Journal::open(directory.path()).unwrap();
        assert!(first.write(&pending(&purges()[..1])).await);
        assert!(second.write(&pending(&purges()[1..2])).await);
        assert_eq!(
            Journal::open(directory.path()).unwrap().recall(),
            [],
            "those of the living are theirs"
        );
        drop((first, second));
        let third = Journal::open(directory.path()).unwrap();
        assert_eq!(third.recall(), purges()[..2]);
        drop(third);
        let fourth = Journal::open(directory.path()).unwrap();
        assert_eq!(fourth.recall(), purges()[..2], "not told yet");
    }

    #[test]
    fn what_cannot_be_read_becomes_a_purge_of_everything() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        let whole = render(purges().iter());
        for damaged in [&whole[..whole.len() - 5], "", &whole.replace("all", "some")] {
            fs::write(file(directory.path(), 0), damaged).unwrap();
            assert_eq!(journal.recall(), [(Scope::All, Mode::Delete)], "{damaged}");
        }
    }
}
