//! The queue on this node's disk: one file in `[storage] dir`, written by one thread that syncs it once for all changes that
//! wait for it. Knows nothing of what a change is.
//!
//! # Layout
//! - this file: the queue as it is asked.
//! - [`thread`]: who writes, and tells.
//! - [`table`]: what is in the file, and what one transaction does to it.
//! - [`index`]: what is pending, in memory.
//!
//! # What is promised
//!
//! A change is answered for when the transaction that holds it is on the disk: the store syncs the file, and only then are
//! those who wait told. A transaction is there whole or not at all, however the machine ends. Where writing or syncing fails,
//! nobody is told that a change was accepted, and the file is opened again before the next: what the disk then holds is
//! what counts, and not what was thought to be on it.
//!
//! # Order
//!
//! One thread gives the numbers, and the index is brought up to date in their order before anybody is told. So whoever was told
//! of a change finds it, or a later one, as the newest of its resource; and whoever consumes the queue and has seen a
//! number has seen all below it.

mod index;
#[cfg(test)]
mod power_tests;
mod table;
#[cfg(test)]
mod tests;
mod thread;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use redb::{Database, DatabaseError};
use tokio::sync::{mpsc, oneshot, watch};

use self::index::Index;
use self::thread::Command;
use crate::cache::queue::{
    Bounds, DeadLetter, Depth, Item, Known, Pushed, Queue, Queued, Revived, Settlement,
    Unavailable, WriteId,
};
use crate::cache::tier::{Duty, Saved, Tenure};
use crate::key::Resource;

/// The file in the storage directory.
const FILE: &str = "writes.redb";
/// Commands that wait for the thread at most; more wait for a place among them.
const WAITING_MAX: usize = 4096;
/// Between attempts to open a file that failed.
const AGAIN: Duration = Duration::from_millis(250);
/// Memory that the store keeps of the file.
const CACHE_BYTES: usize = 32 << 20;

/// How the file is opened, now and after it failed.
type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The queue. Dropping it ends its thread and closes the file.
pub struct DiskQueue {
    shared: Arc<Shared>,
    /// None: it is closed.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

struct Shared {
    file: RwLock<File>,
    /// The last sequence that was accepted.
    last: watch::Sender<u64>,
    bounds: Bounds,
}

struct File {
    /// None: it failed, and is opened again before it is used.
    database: Option<Arc<Database>>,
    index: Index,
}

/// Why the queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be written to.
    #[error("{0}")]
    Directory(#[from] std::io::Error),
    /// Another process has it open.
    #[error("another server has {0} open: give each a [storage] dir of its own")]
    InUse(String),
    /// It is damaged, or from a later version.
    #[error(
        "{path} cannot be read ({error}). Changes that were accepted lie in it: restore it, or move it away to begin with an empty queue"
    )]
    Damaged {
        /// Which.
        path: String,
        /// What the store says.
        error: String,
    },
}

impl DiskQueue {
    /// Opens the queue of a storage directory, or makes it.
    ///
    /// # Errors
    /// [`OpenError`]. A damaged file is never set aside by itself: what is in it was acknowledged.
    pub fn open(storage: &Path, bounds: Bounds) -> Result<Self, OpenError> {
        std::fs::create_dir_all(storage)?;
        let path = storage.join(FILE);
        let name = path.display().to_string();
        let is_new = !path.exists();
        let opener: Opener = Box::new(move || table::builder(CACHE_BYTES).create(&path));
        let queue = Self::start(opener, bounds).map_err(|error| match error {
            redb::Error::DatabaseAlreadyOpen => OpenError::InUse(name),
            error => OpenError::Damaged {
                path: name,
                error: error.to_string(),
            },
        })?;
        if is_new {
            // The name of a new file is only as durable as its directory.
            std::fs::File::open(storage)?.sync_all()?;
        }
        Ok(queue)
    }

    /// How many changes, pending and dead, are in a storage directory whose queue is not used; 0 where there is none.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn left_behind(storage: &Path, bounds: Bounds) -> Result<u64, OpenError> {
        if !storage.join(FILE).exists() {
            return Ok(0);
        }
        let queue = Self::open(storage, bounds)?;
        let depth = queue.shared.file.read().index.depth();
        Ok(depth.pending + depth.dead)
    }

    fn start(opener: Opener, bounds: Bounds) -> Result<Self, redb::Error> {
        let (database, index) = load(&opener)?;
        let (last, _) = watch::channel(index.last());
        let shared = Arc::new(Shared {
            file: RwLock::new(File {
                database: Some(Arc::new(database)),
                index,
            }),
            last,
            bounds,
        });
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("larder-writes".to_owned())
            .spawn(move || of_thread.run(&opener, waiting))
            .map_err(redb::Error::Io)?;
        Ok(Self {
            shared,
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
        })
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let commands = self.commands.lock().clone()?;
        commands.send(command(tell)).await.ok()?;
        told.await.ok()
    }

    /// Reads the file aside, not among the tasks of the runtime.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let Some(database) = self.shared.file.read().database.clone() else {
            return Err(Unavailable(
                "the file failed, and is being opened again".to_owned(),
            ));
        };
        let read = tokio::task::spawn_blocking(move || read(&database));
        match read.await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => Err(Unavailable(error.to_string())),
            Err(error) => Err(Unavailable(error.to_string())),
        }
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        // Without a sender the thread ends, when it has written what waits.
        drop(self.commands.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

fn load(opener: &Opener) -> Result<(Database, Index), redb::Error> {
    let database = opener()?;
    let index = table::read_index(&database)?;
    Ok((database, index))
}

fn ended<T>() -> Result<T, Unavailable> {
    Err(Unavailable("the server is stopping".to_owned()))
}

impl Queue for DiskQueue {
    fn kind(&self) -> &'static str {
        "disk"
    }

    fn partitions(&self) -> u16 {
        1
    }

    fn partition_of(&self, _resource: &Resource) -> u8 {
        0
    }

    fn push(&self, item: Item) -> BoxFuture<'_, Pushed> {
        Box::pin(async move {
            let pushed = self.ask(|tell| Command::Push(item, tell)).await;
            pushed.unwrap_or_else(|| Pushed::Unavailable {
                why: "the server is stopping".to_owned(),
                uncertain: true,
            })
        })
    }

    fn find<'a>(&'a self, id: &'a WriteId) -> BoxFuture<'a, Result<Option<Known>, Unavailable>> {
        let id = id.clone();
        Box::pin(self.read(move |database| table::find(database, &id)))
    }

    fn newest<'a>(
        &'a self,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<Option<Queued>, Unavailable>> {
        Box::pin(async move {
            loop {
                let (head, is_open) = {
                    let file = self.shared.file.read();
                    (file.index.newest(resource), file.database.is_some())
                };
                let Some(head) = head else {
                    return Ok(None);
                };
                if !is_open {
                    // It is known that there is one: whoever asks must not take it for none.
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                let read = self
                    .read(move |database| table::queued(database, head))
                    .await?;
                if read.is_some() {
                    return Ok(read);
                }
                // It was settled between the two looks: who has been told of that may not be told of it.
            }
        })
    }

    fn holds(&self, resource: &Resource) -> bool {
        self.shared.file.read().index.newest(resource).is_some()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        drop(self.commands.lock().take());
        let thread = self.thread.lock().take();
        Box::pin(async move {
            if let Some(thread) = thread {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        })
    }

    fn own(&self, _partition: u8) -> BoxFuture<'_, Duty> {
        Box::pin(async { Duty::Ours(Box::new(Always)) })
    }

    fn scan(
        &self,
        _partition: u8,
        after: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<Queued>, Unavailable>> {
        Box::pin(async move {
            let heads = self.shared.file.read().index.after(after, max);
            self.read(move |database| table::all_queued(database, heads))
                .await
        })
    }

    fn news(&self, _partition: u8, after: u64) -> BoxFuture<'_, ()> {
        let mut last = self.shared.last.subscribe();
        Box::pin(async move {
            // Subscribed first: what comes after the look is a change.
            while self.shared.file.read().index.after(after, 1).is_empty() {
                if last.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        })
    }

    fn fetch(
        &self,
        _partition: u8,
        sequence: u64,
    ) -> BoxFuture<'_, Result<Option<Bytes>, Unavailable>> {
        Box::pin(self.read(move |database| table::record(database, sequence)))
    }

    fn settle(
        &self,
        _partition: u8,
        settlements: Vec<Settlement>,
    ) -> BoxFuture<'_, Result<(), Unavailable>> {
        Box::pin(async move {
            let settled = self.ask(|tell| Command::Settle(settlements, tell)).await;
            settled.unwrap_or_else(ended)
        })
    }

    fn dead<'a>(
        &'a self,
        after: Option<&'a WriteId>,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, Unavailable>> {
        let after = after.cloned();
        Box::pin(self.read(move |database| table::dead(database, after.as_ref(), max)))
    }

    fn revive<'a>(
        &'a self,
        id: &'a WriteId,
        unless: (bool, u64),
    ) -> BoxFuture<'a, Result<Revived, Unavailable>> {
        Box::pin(async move {
            let revived = self.ask(|tell| Command::Revive(id.clone(), unless, tell));
            revived.await.unwrap_or_else(ended)
        })
    }

    fn discard<'a>(&'a self, id: &'a WriteId) -> BoxFuture<'a, Result<bool, Unavailable>> {
        Box::pin(async move {
            let discarded = self.ask(|tell| Command::Discard(id.clone(), tell)).await;
            discarded.unwrap_or_else(ended)
        })
    }

    fn depth(&self) -> BoxFuture<'_, Result<Depth, Unavailable>> {
        let depth = self.shared.file.read().index.depth();
        Box::pin(async move { Ok(depth) })
    }
}

/// A queue of one node is always that node's.
struct Always;

impl Tenure for Always {
    fn progress(&self) -> Option<Vec<u8>> {
        None
    }

    fn stands(&self) -> bool {
        true
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn save<'a>(&'a self, _progress: &'a [u8]) -> BoxFuture<'a, Saved> {
        Box::pin(async { Saved::Saved })
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
