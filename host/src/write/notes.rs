//! Where is remembered what was answered by which key: with the tier that nodes share, or on this node's disk. Knows nothing
//! of what is in a note.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use redb::{
    Database, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, WriteTransaction,
};

use crate::cache::tier::{Noted, Noting, SharedTier};
use crate::key::Resource;

/// Notes on disk at most (law 12): the ones that would end first go.
const NOTES_MAX: u64 = 100_000;

/// By name: when it ends, in milliseconds since 1970, and what it says.
const NOTES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("notes");
/// By end and name.
const ENDS: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("ends");

/// The place.
#[derive(Clone)]
pub enum Notes {
    /// Nodes agree on them.
    Shared(Arc<dyn SharedTier>),
    /// This node's own.
    Disk(Arc<Mutex<Database>>),
}

impl Notes {
    /// Opens the file of a storage directory, or makes it. One that is damaged is set aside: what it held is forgotten, and
    /// told (law 11).
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn open(storage: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(storage)?;
        let path = storage.join("answers.redb");
        let database = match Database::create(&path) {
            Ok(database) => database,
            Err(error @ redb::DatabaseError::DatabaseAlreadyOpen) => return Err(error.into()),
            Err(error) => {
                let aside = path.with_extension("redb.damaged");
                tracing::warn!(
                    "what was answered by which Idempotency-Key is forgotten: {} cannot be read ({error}), and is set aside as {}",
                    path.display(),
                    aside.display()
                );
                std::fs::rename(&path, aside)?;
                Database::create(&path)?
            }
        };
        Ok(Self::Disk(Arc::new(Mutex::new(database))))
    }

    /// Replaces the note of this name under a resource, if it is what is expected, in one step. Done, it outlives a restart.
    pub async fn note(&self, resource: &Resource, name: &str, noting: Noting<'_>) -> Noted {
        match self {
            Self::Shared(tier) => tier.note(resource, name, noting).await,
            Self::Disk(database) => {
                let database = Arc::clone(database);
                let name = format!("{}:{name}", resource.text());
                let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                let (expect, value) = (own(noting.expect), own(noting.value));
                let life = noting.life;
                let written = tokio::task::spawn_blocking(move || {
                    let noting = Noting {
                        expect: expect.as_deref(),
                        value: value.as_deref(),
                        life,
                    };
                    write(&database.lock(), &name, noting, now_ms())
                });
                match written.await {
                    Ok(Ok(noted)) => noted,
                    Ok(Err(error)) => {
                        tracing::warn!(
                            "an Idempotency-Key cannot be remembered: {error}; [storage] dir must be writable"
                        );
                        Noted::Unavailable
                    }
                    Err(_) => Noted::Unavailable,
                }
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(since.unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn write(
    database: &Database,
    name: &str,
    noting: Noting<'_>,
    now_ms: u64,
) -> Result<Noted, redb::Error> {
    let transaction = database.begin_write()?;
    let held = {
        let table = transaction.open_table(NOTES)?;
        let held = table.get(name)?;
        held.map(|held| {
            let (ends, text) = held.value();
            (ends, text.to_vec())
        })
    };
    let living = held.as_ref().filter(|(ends, _)| *ends > now_ms);
    if living.map(|(_, text)| text.as_slice()) != noting.expect {
        let living = living.map(|(_, text)| text.clone());
        transaction.abort()?;
        return Ok(Noted::Holds(living));
    }
    if let Some((ends, _)) = held {
        remove(&transaction, ends, name)?;
    }
    if let Some(value) = noting.value {
        let ends = now_ms.saturating_add(millis(noting.life));
        transaction.open_table(NOTES)?.insert(name, (ends, value))?;
        transaction.open_table(ENDS)?.insert((ends, name), ())?;
    }
    prune(&transaction, now_ms)?;
    transaction.commit()?;
    Ok(Noted::Done)
}

fn remove(transaction: &WriteTransaction, ends: u64, name: &str) -> Result<(), redb::Error> {
    transaction.open_table(NOTES)?.remove(name)?;
    transaction.open_table(ENDS)?.remove((ends, name))?;
    Ok(())
}

/// Forgets what has ended, a few with each that is written, and what is over the bound.
fn prune(transaction: &WriteTransaction, now_ms: u64) -> Result<(), redb::Error> {
    const AT_ONCE: usize = 4;
    for _ in 0..AT_ONCE {
        let first = {
            let ends = transaction.open_table(ENDS)?;
            let over = ends.len()? > NOTES_MAX;
            let first = ends.first()?;
            first.and_then(|(key, _)| {
                let (ends, name) = key.value();
                (over || ends <= now_ms).then(|| (ends, name.to_owned()))
            })
        };
        let Some((ends, name)) = first else {
            return Ok(());
        };
        remove(transaction, ends, &name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Arc<Mutex<Database>> {
        match Notes::open(dir).unwrap() {
            Notes::Disk(database) => database,
            Notes::Shared(_) => unreachable!("it is on disk"),
        }
    }

    fn noting<'a>(expect: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Noting<'a> {
        Noting {
            expect,
            value,
            life: Duration::from_millis(100),
        }
    }

    #[test]
    fn a_note_is_replaced_by_who_knows_it_outlives_a_restart_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path());
        let change =
            |database: &Mutex<Database>, expect: Option<&[u8]>, value: Option<&[u8]>, now| {
                write(&database.lock(), "a", noting(expect, value), now).unwrap()
            };
        assert_eq!(change(&database, None, Some(b"1"), 0), Noted::Done);
        let holds = Noted::Holds(Some(b"1".to_vec()));
        assert_eq!(change(&database, None, Some(b"2"), 99), holds);
        assert_eq!(change(&database, Some(b"0"), None, 99), holds);
        drop(database);
        let database = open(dir.path());
        assert_eq!(change(&database, Some(b"1"), Some(b"2"), 99), Noted::Done);
        assert_eq!(change(&database, Some(b"2"), None, 198), Noted::Done);
        assert_eq!(change(&database, Some(b"2"), None, 198), Noted::Holds(None));
        assert_eq!(change(&database, None, Some(b"3"), 198), Noted::Done);
        assert_eq!(
            change(&database, None, Some(b"4"), 298),
            Noted::Done,
            "it has ended"
        );
    }

    #[test]
    fn law_12_what_has_ended_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path());
        for number in 0..50_u64 {
            let name = number.to_string();
            write(&database.lock(), &name, noting(None, Some(b"x")), number).unwrap();
        }
        for number in 0..20_u64 {
            let name = format!("later {number}");
            write(&database.lock(), &name, noting(None, Some(b"x")), 1000).unwrap();
        }
        let database = database.lock();
        let transaction = database.begin_write().unwrap();
        assert_eq!(transaction.open_table(NOTES).unwrap().len().unwrap(), 20);
        assert_eq!(transaction.open_table(ENDS).unwrap().len().unwrap(), 20);
    }

    #[test]
    fn law_11_a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("answers.redb"), b"garbage").unwrap();
        let database = open(dir.path());
        let written = write(&database.lock(), "a", noting(None, Some(b"1")), 0);
        assert_eq!(written.unwrap(), Noted::Done);
        assert!(dir.path().join("answers.redb.damaged").exists());
    }
}
