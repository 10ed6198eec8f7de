//! The lease of a key in Redis: one flight of all nodes has it, renews it while it loads, and stores only with it.
//!
//! It ends by itself [`LIVENESS`] after it was last renewed, so that a node that died holds nobody up, while a load may
//! take as long as it may. Its value names the owner and the seq of its load's stamp: a lease whose load began before a
//! purge that covers the key is taken over, for its load would be refused, and nobody shall wait for that.
//!
//! # Why at most one stores
//!
//! `acquire.lua`, `renew.lua`, `release.lua` and `store.lua` run alone, in the slot of the key. A store needs the owner's
//! token in the lease, and removes it; a take-over replaces it. So of any two flights only the later owner's store can
//! come after the take-over, and the earlier one's before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::counters::count;
use super::link::Trouble;
use super::scripts::Acquired;
use super::waiters::Waiter;
use crate::cache::tier::{Claim, Ended, LIVENESS, Lease, Leasing};
use crate::key::Key;

/// How often a lease is renewed: two renewals may be lost.
const RENEW_EVERY: Duration = Duration::from_millis(300);
/// Whoever waits for a lease tries again this long after it should have ended, at most; each after another while.
const SPREAD_MS: u64 = 50;

/// Gives the lease back when it is dropped, unless it has ended with a store.
struct Guard {
    shared: Arc<Shared>,
    key: Key,
    token: u64,
    ended: Arc<AtomicBool>,
    _renewal: AbortOnDropHandle<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let (shared, key, token) = (Arc::clone(&self.shared), self.key.clone(), self.token);
        // Outside of a runtime it ends by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { shared.give_back(&key, token).await });
        }
    }
}

impl Shared {
    /// Takes the lease of a key, or says how to wait for who has it.
    pub(super) async fn take_lease(self: &Arc<Self>, key: &Key, claim: Claim) -> Leasing {
        // What would be stored with it would be refused; see `put`.
        if self.pending.is_ahead() {
            return Leasing::Unavailable;
        }
        // As in `put`: who has waited for Redis in vain does not wait for it again.
        let link = self.link_of(key.resource());
        let Some(link) = link.filter(|link| !link.is_doubtful()) else {
            return Leasing::Unavailable;
        };
        // Before the lease is asked for: its end may be told at once.
        let waiter = self.waiters.wait_for(key.text());
        let token = rand::random();
        let acquired = self
            .scripts
            .acquire(&link, key, (token, claim), self.timeout)
            .await;
        match acquired {
            Ok(Acquired::Granted { stored_ago }) => {
                self.wrote(&link);
                let ended = Arc::new(AtomicBool::new(false));
                let renewal = renew(Arc::clone(self), key.clone(), token);
                let guard = Guard {
                    shared: Arc::clone(self),
                    key: key.clone(),
                    token,
                    ended: Arc::clone(&ended),
                    _renewal: AbortOnDropHandle::new(tokio::spawn(renewal)),
                };
                Leasing::Granted {
                    lease: Lease {
                        token,
                        ended,
                        guard: Box::new(guard),
                    },
                    stored_ago,
                }
            }
            Ok(Acquired::Held { left }) => {
                count(&self.counters.lease_waits);
                Leasing::Held(Box::pin(wait(waiter, left)))
            }
            Err(trouble) => {
                self.failed(&link, &trouble);
                Leasing::Unavailable
            }
        }
    }

    async fn give_back(&self, key: &Key, token: u64) {
        let link = self.link_of(key.resource());
        let Some(link) = link.filter(|link| !link.is_doubtful()) else {
            return;
        };
        let given = self
            .scripts
            .release(&link, key, (token, &self.node), self.timeout);
        if let Err(trouble) = given.await {
            self.failed(&link, &trouble);
        }
    }
}

/// Waits until the end of a lease is told, or until it must have ended by itself.
async fn wait(mut waiter: Waiter, left: Duration) -> Ended {
    let spread = Duration::from_millis(rand::random_range(1..=SPREAD_MS));
    timeout(left.min(LIVENESS) + spread, waiter.ended())
        .await
        .unwrap_or(Ended::Unknown)
}

/// Renews a lease until it is lost. Aborted when it ends.
async fn renew(shared: Arc<Shared>, key: Key, token: u64) {
    loop {
        sleep(RENEW_EVERY).await;
        let Some(link) = shared.link_of(key.resource()) else {
            continue;
        };
        match shared
            .scripts
            .renew(&link, &key, token, shared.timeout)
            .await
        {
            Ok(true) => {}
            Ok(false) => {
                count(&shared.counters.leases_lost);
                return;
            }
            Err(Trouble::Moved(_)) => shared.map_wanted.notify_one(),
            Err(trouble) => shared.failed(&link, &trouble),
        }
    }
}
