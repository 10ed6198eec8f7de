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
//! # A tier that is slow
//!
//! A flight waits for the tier as long as it has [`Patience`], and then loads. The lease that it asked for may yet be given,
//! while it loads or after: it then stores with it, unless another node has stored since this flight's look-up.
//!
//! # What was stored just before
//!
//! Between a flight's look-up and its lease another node may have stored and ended its own. So the tier says with the
//! lease how long ago the entry it holds was stored, by its own clock; if that is not longer ago than this flight's
//! look-up, it looks again. Two durations are compared, and no clocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ask::Ask;
use super::entry::Entry;
use super::freshness::Freshness;
use super::generations::{Stamp, Verdict};
use super::load::Seen;
use super::patience::{Patience, Waited};
use super::tier::{Claim, Ended, Lease, Leasing, Lookup, SharedTier};
use super::{Cache, tier};
use crate::sync::{JoinHandle, timeout};

/// How a flight goes on.
pub(super) enum Taken {
    /// It loads, and may store in the shared tier.
    Lease(Right, Stamp),
    /// Another node has loaded.
    Loaded(Entry),
    /// It loads, and stores in this node's memory alone.
    Alone(Stamp),
}

/// The right to store, or the hope for it. Dropped, it is given back.
pub(super) enum Right {
    /// It is given.
    Given(Lease),
    /// It was asked for.
    Awaited(JoinHandle<Answered>),
}

/// What became of the attempt to take a lease.
pub(super) struct Answered {
    leasing: Leasing,
    /// How long ago the tier was asked for the key, when this was known.
    asked_ago: Duration,
}

impl Right {
    /// The lease, as soon as it is known whether it is given.
    pub(super) async fn lease(self) -> Option<Lease> {
        let task = match self {
            Self::Given(lease) => return Some(lease),
            Self::Awaited(task) => task,
        };
        let answered = task.await.ok()?;
        match answered.leasing {
            Leasing::Granted { lease, stored_ago } => {
                is_before(stored_ago, answered.asked_ago).then_some(lease)
            }
            Leasing::Held(_) | Leasing::Unavailable => None,
        }
    }
}

/// Whether the entry that is there was stored before this flight looked for one.
fn is_before(stored_ago: Option<Duration>, asked_ago: Duration) -> bool {
    stored_ago.is_none_or(|ago| ago > asked_ago)
}

impl Cache {
    /// Takes the lease of a key, or waits for who has it. `asked` is since when something may have been stored that this
    /// flight's leader has not seen.
    pub(super) async fn take_lease(
        &self,
        ask: &Ask,
        shared: &Arc<dyn SharedTier>,
        (mut asked, seen): (Instant, Seen),
        patience: &mut Patience,
    ) -> Taken {
        let longest = ask.binding.policy.timeout + tier::LIVENESS;
        let started = Instant::now();
        let mut given_back = false;
        loop {
            // Before the load, which begins with the lease: a purge that comes now is younger than this.
            let stamp = self.generations.stamp();
            let claim = Claim {
                stamp,
                least_seq: self.generations.covering_seq(self.covered(ask)),
            };
            let (tier, key) = (Arc::clone(shared), ask.key.clone());
            let answered = patience.wait(async move {
                let leasing = tier.lease(&key, claim).await;
                let asked_ago = asked.elapsed();
                Answered { leasing, asked_ago }
            });
            let answered = match answered.await {
                Waited::Done(answered) => answered,
                Waited::Late(task) => return Taken::Lease(Right::Awaited(task), stamp),
                Waited::Lost => return Taken::Alone(stamp),
            };
            let ended = match answered.leasing {
                Leasing::Unavailable => return Taken::Alone(stamp),
                Leasing::Granted { lease, stored_ago } => {
                    let right = Right::Given(lease);
                    if is_before(stored_ago, answered.asked_ago) {
                        return Taken::Lease(right, stamp);
                    }
                    return match self.look_again(ask, shared, seen, patience).await {
                        Some(entry) => Taken::Loaded(entry),
                        None => Taken::Lease(right, stamp),
                    };
                }
                Leasing::Held(_) if given_back || started.elapsed() >= longest => {
                    return Taken::Alone(stamp);
                }
                Leasing::Held(ended) => {
                    let left = longest.saturating_sub(started.elapsed());
                    let left = left.max(Duration::from_millis(1));
                    timeout(left, ended).await
                }
            };
            // What it waited for was another's load, and not the tier.
            *patience = Patience::of(shared.patience(), Duration::ZERO);
            given_back = matches!(ended, Ok(Ended::GivenBack));
            if !given_back {
                asked = Instant::now();
                if let Some(entry) = self.look_again(ask, shared, seen, patience).await {
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
        patience: &mut Patience,
    ) -> Option<Entry> {
        let mark = self.memory.mark();
        let found = patience.try_for(shared.get(&ask.key)).await;
        let Some(Lookup::Found(entry, by_tier)) = found else {
            return None;
        };
        if self.knows_better(ask) {
            return None;
        }
        let (own, freshness) = self.judge(ask, &entry);
        let fresh =
            own.max(by_tier) == Verdict::Alive && matches!(freshness, Freshness::Fresh { .. });
        if !fresh || !seen.is_news(&entry) {
            return None;
        }
        self.memory.insert_unless_dropped(mark, &ask.key, &entry);
        Some(entry)
    }
}
