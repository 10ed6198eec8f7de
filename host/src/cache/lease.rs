//! How a flight comes to load: by the lease of its key, which one flight has across all nodes; by what another node has
//! loaded meanwhile; or alone. Knows no Redis.
//!
//! # Who loads
//!
//! Whoever is given the lease loads, and only with it stores in the shared tier. Whoever is not waits for the word of the
//! one that has it. Stored: the entry is there. Given back without a store (the load failed, or is not to be kept): the
//! lease is tried for once more, so that one of those who wait stores; who does not get it then loads alone, because a
//! key whose answers are not kept would otherwise be loaded by one node after the other. The wait is bounded too: by what
//! one load may take, and the time in which a lease of a dead node ends.
//!
//! # What was stored just before
//!
//! Between a flight's look-up and its lease another node may have stored and ended its own. So the tier says with the
//! lease how long ago the entry it holds was stored, by its own clock; if that is not longer ago than this flight's
//! look-up, it looks again. Two durations are compared, and no clocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::freshness::Freshness;
use super::generations::{Stamp, Verdict};
use super::load::Seen;
use super::path::Ask;
use super::tier::{Claim, Ended, Lease, Leasing, Lookup, SharedTier};
use super::{Cache, tier};

/// How a flight goes on.
pub(super) enum Taken {
    /// It loads, and may store in the shared tier.
    Lease(Lease, Stamp),
    /// Another node has loaded.
    Loaded(Arc<Entry>),
    /// It loads, and stores in this node's memory alone.
    Alone(Stamp),
}

impl Cache {
    /// Takes the lease of a key, or waits for who has it. `asked` is since when something may have been stored that this
    /// flight's leader has not seen.
    pub(super) async fn take_lease(
        &self,
        ask: &Ask,
        shared: &Arc<dyn SharedTier>,
        (mut asked, seen): (Instant, Seen),
    ) -> Taken {
        let patience = ask.binding.policy.timeout + tier::LIVENESS;
        let started = Instant::now();
        let mut given_back = false;
        loop {
            // Before the load, which begins with the lease: a purge that comes now is younger than this.
            let stamp = self.generations.stamp();
            let claim = Claim {
                stamp,
                least_seq: self.generations.covering_seq(self.covered(ask)),
            };
            let ended = match shared.lease(&ask.key, claim).await {
                Leasing::Unavailable => return Taken::Alone(stamp),
                Leasing::Granted { lease, stored_ago } => {
                    if stored_ago.is_none_or(|ago| ago > asked.elapsed()) {
                        return Taken::Lease(lease, stamp);
                    }
                    return match self.look_again(ask, shared, seen).await {
                        Some(entry) => Taken::Loaded(entry),
                        None => Taken::Lease(lease, stamp),
                    };
                }
                Leasing::Held(_) if given_back || started.elapsed() >= patience => {
                    return Taken::Alone(stamp);
                }
                Leasing::Held(ended) => {
                    let left = patience.saturating_sub(started.elapsed());
                    let left = left.max(Duration::from_millis(1));
                    tokio::time::timeout(left, ended).await
                }
            };
            given_back = matches!(ended, Ok(Ended::GivenBack));
            if !given_back {
                asked = Instant::now();
                if let Some(entry) = self.look_again(ask, shared, seen).await {
                    return Taken::Loaded(entry);
                }
            }
        }
    }

    /// What another node has stored meanwhile, if it is fresh. This node keeps it.
    async fn look_again(
        &self,
        ask: &Ask,
        shared: &Arc<dyn SharedTier>,
        seen: Seen,
    ) -> Option<Arc<Entry>> {
        let mark = self.memory.mark();
        let Lookup::Found(entry, by_tier) = shared.get(&ask.key).await else {
            return None;
        };
        let (own, freshness) = self.judge(&ask.binding, &ask.key, &entry);
        let fresh =
            own.max(by_tier) == Verdict::Alive && matches!(freshness, Freshness::Fresh { .. });
        if !fresh || !seen.is_news(&entry) {
            return None;
        }
        self.memory.insert_unless_dropped(mark, &ask.key, &entry);
        Some(entry)
    }
}
