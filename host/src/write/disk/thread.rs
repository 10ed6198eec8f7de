//! The thread that writes: one transaction for all who wait, then everybody is told.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::Database;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::table::{self, Effect};
use super::{AGAIN, Opener, Shared, load};
use crate::cache::queue::{Bounds, Depth, Item, Pushed, Revived, Settlement, Unavailable, WriteId};
use crate::key::Resource;

/// Commands in one transaction at most.
const GROUP_MAX: usize = 1024;

/// What the thread is asked, with who is to be told.
pub(super) enum Command {
    Push(Item, oneshot::Sender<Pushed>),
    Settle(Vec<Settlement>, oneshot::Sender<Result<(), Unavailable>>),
    Revive(
        WriteId,
        (bool, u64),
        oneshot::Sender<Result<Revived, Unavailable>>,
    ),
    Discard(WriteId, oneshot::Sender<Result<bool, Unavailable>>),
}

impl Shared {
    /// The thread: takes all that waits, writes it in one transaction, tells everybody.
    pub(super) fn run(&self, opener: &Opener, mut waiting: mpsc::Receiver<Command>) {
        let mut group = Vec::new();
        loop {
            // A file that failed is opened again whether or not anybody asks: what is in it is to be made.
            let first = if self.file.read().database.is_some() {
                waiting.blocking_recv()
            } else {
                match waiting.try_recv() {
                    Ok(first) => Some(first),
                    Err(TryRecvError::Disconnected) => None,
                    Err(TryRecvError::Empty) => {
                        std::thread::park_timeout(AGAIN);
                        let _ = self.database(opener);
                        continue;
                    }
                }
            };
            let Some(first) = first else { break };
            group.push(first);
            while group.len() < GROUP_MAX {
                match waiting.try_recv() {
                    Ok(command) => group.push(command),
                    Err(_) => break,
                }
            }
            self.write(opener, &mut group);
        }
        self.file.write().database = None;
    }

    fn write(&self, opener: &Opener, group: &mut Vec<Command>) {
        let database = match self.database(opener) {
            Ok(database) => database,
            Err(error) => {
                for command in group.drain(..) {
                    command.refuse(&error.to_string(), false);
                }
                return;
            }
        };
        let depth = self.file.read().index.depth();
        let newest = |resource: &Resource| {
            let newest = self.file.read().index.newest(resource);
            newest.map(|head| head.sequence)
        };
        match commit(&database, group, (depth, self.bounds), &newest) {
            Ok((effects, answers)) => {
                let last = {
                    let mut file = self.file.write();
                    for effect in effects {
                        file.index.apply(effect);
                    }
                    file.index.last()
                };
                // Only now, when whoever looks finds it.
                for answer in answers {
                    answer();
                }
                group.clear();
                self.last.send_if_modified(|known| {
                    let is_new = *known != last;
                    *known = last;
                    is_new
                });
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    "writes: the queue on disk failed; no change is accepted until it can be written to again"
                );
                // What is on the disk is not known: it is read before anything else is done.
                drop(database);
                self.file.write().database = None;
                for command in group.drain(..) {
                    command.refuse(&error.to_string(), true);
                }
            }
        }
    }

    /// The file, opened again if it failed.
    fn database(&self, opener: &Opener) -> Result<Arc<Database>, redb::Error> {
        if let Some(database) = &self.file.read().database {
            return Ok(Arc::clone(database));
        }
        let (database, index) = load(opener)?;
        tracing::info!("writes: the queue on disk can be written to again");
        let database = Arc::new(database);
        let last = index.last();
        {
            let mut file = self.file.write();
            file.database = Some(Arc::clone(&database));
            file.index = index;
        }
        // What nobody was told of may be there.
        self.last.send_replace(last);
        Ok(database)
    }
}

impl Command {
    /// Nothing was done. Uncertain: or it was, and nobody knows.
    fn refuse(self, why: &str, uncertain: bool) {
        let unavailable = || Unavailable(why.to_owned());
        match self {
            Self::Push(_, tell) => {
                let why = why.to_owned();
                let _ = tell.send(Pushed::Unavailable { why, uncertain });
            }
            Self::Settle(_, tell) => {
                let _ = tell.send(Err(unavailable()));
            }
            Self::Revive(_, _, tell) => {
                let _ = tell.send(Err(unavailable()));
            }
            Self::Discard(_, tell) => {
                let _ = tell.send(Err(unavailable()));
            }
        }
    }
}

/// To be called when the transaction is on the disk.
type Answer = Box<dyn FnOnce()>;

/// One transaction for all of a group. Those who wait are left in it until it is on the disk.
fn commit(
    database: &Database,
    group: &mut Vec<Command>,
    (depth, bounds): (Depth, Bounds),
    newest: &dyn Fn(&Resource) -> Option<u64>,
) -> Result<(Vec<Effect>, Vec<Answer>), redb::Error> {
    let now_ms = now_ms();
    let transaction = database.begin_write()?;
    let mut outcomes = Vec::with_capacity(group.len());
    let effects = {
        let mut work = table::Work::begin(&transaction, (depth, bounds), newest, now_ms)?;
        for command in group.iter() {
            outcomes.push(match command {
                Command::Push(item, _) => Outcome::Pushed(work.push(item)?),
                Command::Settle(settlements, _) => {
                    for settlement in settlements {
                        work.settle(settlement)?;
                    }
                    Outcome::Settled
                }
                Command::Revive(id, unless, _) => Outcome::Revived(work.revive(id, *unless)?),
                Command::Discard(id, _) => Outcome::Discarded(work.discard(id)?),
            });
        }
        work.finish()?
    };
    transaction.commit()?;
    let answers = group.drain(..).zip(outcomes);
    let answers = answers.map(|(command, outcome)| -> Answer {
        Box::new(move || match (command, outcome) {
            (Command::Push(_, tell), Outcome::Pushed(pushed)) => drop(tell.send(pushed)),
            (Command::Settle(_, tell), Outcome::Settled) => drop(tell.send(Ok(()))),
            (Command::Revive(_, _, tell), Outcome::Revived(it)) => drop(tell.send(Ok(it))),
            (Command::Discard(_, tell), Outcome::Discarded(it)) => drop(tell.send(Ok(it))),
            _ => {}
        })
    });
    Ok((effects, answers.collect()))
}

enum Outcome {
    Pushed(Pushed),
    Settled,
    Revived(Revived),
    Discarded(bool),
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX >> 20)
}
