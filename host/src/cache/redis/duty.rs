//! What one node of all does at a time: a lease, renewed like that of a key, and beside it how far the duty has come.
//!
//! # Why nothing is left out
//!
//! `acquire.lua` and `save.lua` run alone, and a take-over replaces the token that a save needs. So whoever takes the duty and
//! *then* reads how far it had come has the last word of every holder before. What they did after that word is done again,
//! and that must do no harm; what is saved was done before.
//!
//! Both lie in the slot of the group: of a master that fails, a replica has the progress only if it has the purges that were
//! written before it. A resource's generation lies in a slot of its own, and is told again after a failover (see `keeper`).
//! What was evicted, lost or is no progress is none: the duty begins anew.
//!
//! # While Redis is away
//!
//! Nobody has a duty then. The holder cannot know whether it alone is cut off, while the others have found a successor: so
//! it stops when its lease must have ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use redis::Value;

use super::Shared;
use super::lease::{Held, Of, Taken};
use super::link::{Link, Road};
use super::names::Names;
use super::trouble::Trouble;
use crate::cache::generations::Stamp;
use crate::cache::tier::{Claim, Duty, Saved, Tenure};

/// What stands before a progress, so that nothing else is taken for one (law 11).
const MARK: &[u8] = b"larder:1:";

/// The lease of a duty is of no load, so no purge takes it away.
const CLAIM: Claim = Claim {
    stamp: Stamp {
        epoch: 0,
        seq: 0,
        sync: 0,
    },
    least_seq: 0,
};

struct Tenant {
    held: Held,
    progress: Option<Vec<u8>>,
}

impl Shared {
    pub(super) async fn take_duty(self: &Arc<Self>, name: &str) -> Duty {
        let of = Of::Duty(Names::duty(name).into());
        match self.take(of, CLAIM).await {
            // Only now, when nobody else can save any more.
            Taken::Ours { held, .. } => match self.progress_of(held.of.text()).await {
                Ok(progress) => Duty::Ours(Box::new(Tenant { held, progress })),
                Err(_) => Duty::Unavailable,
            },
            Taken::Others(ended) => Duty::Others(Box::pin(async {
                let _ = ended.await;
            })),
            Taken::Unavailable => Duty::Unavailable,
        }
    }

    async fn progress_of(&self, duty: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let link = self.group_link().ok_or(Trouble::Away)?;
        let mut command = redis::cmd("GET");
        command.arg(self.names.progress(duty));
        match link.ask(Road::Control, &command, self.timeout).await {
            Ok(Value::BulkString(found)) => Ok(found.strip_prefix(MARK).map(<[u8]>::to_vec)),
            Ok(_) | Err(Trouble::Strange(_)) => Ok(None),
            Err(trouble) => {
                self.failed(&link, &trouble);
                Err(trouble)
            }
        }
    }

    async fn save(&self, link: &Link, (duty, token): (&str, u64), progress: &[u8]) -> Saved {
        let progress = [MARK, progress].concat();
        let saved = self
            .scripts
            .save(link, (duty, token), &progress, self.timeout);
        match saved.await {
            Ok(true) => {
                self.wrote(link);
                Saved::Saved
            }
            Ok(false) => Saved::Lost,
            Err(trouble) => {
                self.failed(link, &trouble);
                Saved::Unavailable
            }
        }
    }
}

impl Tenure for Tenant {
    fn progress(&self) -> Option<Vec<u8>> {
        self.progress.clone()
    }

    fn stands(&self) -> bool {
        self.held.standing.stands()
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.held.standing.lost())
    }

    fn save<'a>(&'a self, progress: &'a [u8]) -> BoxFuture<'a, Saved> {
        Box::pin(async move {
            let shared = &self.held.shared;
            let Some(link) = shared.group_link() else {
                return Saved::Unavailable;
            };
            let duty = (self.held.of.text(), self.held.token);
            shared.save(&link, duty, progress).await
        })
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let held = &self.held;
            held.shared.give_back(&held.of, held.token).await;
            held.ended.store(true, Ordering::Release);
        })
    }
}
