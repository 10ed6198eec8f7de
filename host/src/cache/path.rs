//! The way of a request through the tiers. Read top to bottom; every exit is a named [`Answer`], and that name is what
//! the response header, the log line and the metric show.
//!
//! Every stale answer passes [`Cache::judge`] at the moment it is given, not when it was found: a bound may be passed
//! while a request waits (law 5), and a purge may arrive (law 4).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Cache;
use super::ask::Ask;
use super::entry::{Entry, EntryKind};
use super::flight::{Boarding, Flight, FlightGuard, FlightResult, Loaded, LoadedBy, overloaded};
use super::freshness::Freshness;
use super::generations::{Covered, Verdict};
use super::load::{Known, Seen};
use super::places::{Full, Kind};
use super::tier::Lookup;
use crate::error::{Failure, FailureKind};
use crate::sync::{spawn, timeout};
use crate::trace::Span;

/// Which tier answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierName {
    /// The one in this process.
    Memory,
    /// The one that nodes share.
    Redis,
}

/// Why an answer past its ttl was given.
#[derive(Clone, Debug)]
pub enum StaleReason {
    /// It is reloaded behind.
    WhileRevalidate,
    /// The load takes longer than the soft timeout and goes on.
    SoftTimeout,
    /// The load failed, now or within `failure_ttl`.
    IfError(Arc<Failure>),
}

/// What was in hand when a load was needed: the `fwd` of `Cache-Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Nothing that could be named.
    UriMiss,
    /// An entry past its ttl.
    Stale,
}

/// How the cache answered. One variant per way out.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Fresh.
    Hit {
        /// What.
        entry: Entry,
        /// From where.
        tier: TierName,
        /// Milliseconds until the end of its ttl.
        left_ms: u64,
    },
    /// Past its ttl, inside a window.
    Stale {
        /// What.
        entry: Entry,
        /// Milliseconds since the end of its ttl.
        over_ms: u64,
        /// Why.
        reason: StaleReason,
    },
    /// Loaded now.
    Miss {
        /// What.
        entry: Entry,
        /// What was in hand before.
        forward: Forward,
        /// Whether a tier took it.
        stored: bool,
        /// Whether another request's load was joined.
        collapsed: bool,
        /// Whether the loader said that the entry in hand is still true.
        revalidated: bool,
        /// Whether it is what a change that is pending will make of it.
        pending: bool,
    },
    /// Loaded past the cache, because the key policy said so.
    Bypass {
        /// What; never stored.
        result: Result<Entry, Arc<Failure>>,
    },
    /// No answer and nothing stale to give.
    Failed {
        /// Why.
        failure: Arc<Failure>,
        /// What was in hand before.
        forward: Forward,
    },
    /// `only-if-cached`, and nothing there.
    NotCached,
}

/// A fresh entry of the memory tier.
pub struct AtHand {
    /// What.
    pub entry: Entry,
    /// Milliseconds until the end of its ttl.
    pub left_ms: u64,
    /// When that was.
    pub now_ms: u64,
}

/// An entry in hand that is not fresh.
#[derive(Clone)]
struct Candidate {
    entry: Entry,
    /// What the tier it came from says of it, which this node may not know: a purge of before its start.
    by_tier: Verdict,
}

impl Cache {
    /// The hit path: a fresh entry of the memory tier, or nothing. Synchronous; takes no lock across an await.
    #[inline]
    pub fn peek(&self, ask: &Ask) -> Option<AtHand> {
        let entry = self.memory.get(&ask.key)?;
        let now_ms = self.clock.now_ms();
        match self.judge_at(ask, &entry, now_ms).1 {
            Freshness::Fresh { left_ms } => Some(AtHand {
                entry,
                left_ms,
                now_ms,
            }),
            _ => None,
        }
    }

    /// Answers a question.
    pub async fn answer(self: &Arc<Self>, ask: &Ask, only_if_cached: bool) -> Answer {
        // A result that is older than this seq is not for this request: see `is_for`.
        let arrival = self.generations.seq();

        // Memory tier.
        let mut candidate = None;
        if let Some(entry) = self.memory.get(&ask.key) {
            match self.judge(ask, &entry) {
                (_, Freshness::Fresh { left_ms }) => {
                    self.refresh_ahead(ask, &entry, left_ms);
                    return Answer::Hit {
                        entry,
                        tier: TierName::Memory,
                        left_ms,
                    };
                }
                (Verdict::Dead, _) => {}
                _ => {
                    candidate = Some(Candidate {
                        entry,
                        by_tier: Verdict::Alive,
                    });
                }
            }
        }

        // Shared tier. Its trouble is not the request's trouble (law 6).
        let mut seen = Seen {
            asked: None,
            waited: Duration::ZERO,
            until_ms: 0,
        };
        if let Some(shared) = self.shared.as_ref().filter(|_| !self.knows_better(ask)) {
            let (mark, now) = (self.memory.mark(), Instant::now());
            let span = Span::current().client("look up in the shared tier");
            let found = shared.get(&ask.key).await;
            drop(span);
            match found {
                Lookup::Unavailable => {}
                Lookup::Absent => seen.asked = Some(now),
                Lookup::Found(..) if self.knows_better(ask) => {}
                Lookup::Found(entry, by_tier) => {
                    seen.asked = Some(now);
                    let (verdict, freshness) = self.judge_both(ask, &entry, by_tier);
                    if let Freshness::Fresh { left_ms } = freshness {
                        self.memory.insert_unless_dropped(mark, &ask.key, &entry);
                        self.refresh_ahead(ask, &entry, left_ms);
                        return Answer::Hit {
                            entry,
                            tier: TierName::Redis,
                            left_ms,
                        };
                    }
                    let newer = candidate.as_ref().is_none_or(|held: &Candidate| {
                        held.entry.times().loaded_ms < entry.times().loaded_ms
                    });
                    if verdict != Verdict::Dead && newer {
                        candidate = Some(Candidate { entry, by_tier });
                    }
                }
            }
            // Whoever has an answer by now does not ask.
            seen.waited = now.elapsed();
        }

        // What is past every window is shown to its loader, but it is not what this request falls back on.
        let forward = match &candidate {
            Some(held) if self.is_stale(ask, held) => Forward::Stale,
            _ => Forward::UriMiss,
        };
        let failure = self.remembered_failure(ask);

        // Stale while it is reloaded behind; not reloaded while a failure is remembered.
        if let Some(held) = &candidate
            && let Freshness::Stale {
                over_ms,
                while_revalidate: true,
                if_error,
            } = self.judge_held(ask, held)
        {
            match failure {
                None => self.refresh_behind(ask, held, seen),
                // Nothing is reloaded behind: it is given because the load failed, and says so.
                Some(failure) if if_error => {
                    return self.failed(ask, candidate.as_ref(), failure, forward);
                }
                Some(_) => {}
            }
            let entry = held.entry.clone();
            return Answer::Stale {
                entry,
                over_ms,
                reason: StaleReason::WhileRevalidate,
            };
        }
        if only_if_cached {
            return Answer::NotCached;
        }
        if let Some(failure) = failure {
            return self.failed(ask, candidate.as_ref(), failure, forward);
        }

        // Given back also when the client leaves.
        let _waiting = match self.waiters.take(&ask.binding.places, Kind::Waiter) {
            Ok(place) => place,
            Err(Full::Route(most) | Full::Host(most)) => {
                let message = format!(
                    "this route's share of the {most} requests that may wait for loads is taken, and so is what all share \
                     ([server] max_waiters)"
                );
                let failure = Arc::new(overloaded("too-many-waiters", message));
                return self.failed(ask, candidate.as_ref(), failure, forward);
            }
        };
        self.load_in_foreground(ask, candidate, forward, arrival, seen)
            .await
    }

    /// Whether what other nodes have stored may be older than a change that this node alone knows of. Asked after it was fetched: a
    /// change that is accepted later is followed by a purge that is later than what was fetched.
    pub(super) fn knows_better(&self, ask: &Ask) -> bool {
        let underway = ask.binding.underway.as_ref();
        underway.is_some_and(|underway| underway.is_known(ask.key.resource()))
    }

    /// Joins or leads a flight and waits for it, no longer than the soft timeout while something stale is in hand.
    async fn load_in_foreground(
        self: &Arc<Self>,
        ask: &Ask,
        candidate: Option<Candidate>,
        forward: Forward,
        arrival: u64,
        seen: Seen,
    ) -> Answer {
        loop {
            let (flight, collapsed) = match self.board(ask) {
                Err(failure) => {
                    return self.failed(ask, candidate.as_ref(), Arc::new(failure), forward);
                }
                Ok(Boarding::Join(flight)) => (flight, true),
                Ok(Boarding::Lead(guard)) => {
                    (self.take_off(ask, candidate.as_ref(), guard, seen), false)
                }
            };
            let result = match self.wait(ask, &flight, candidate.as_ref()).await {
                Ok(result) => result,
                Err(stale) => return stale,
            };
            match result {
                Ok(loaded) if !self.is_for(ask, &loaded, arrival) => {
                    // A purge came after the flight began and before this request arrived; only the entry's tags
                    // revealed it. Any flight boarded from here on is stamped at `arrival` or later: this loop ends.
                }
                Ok(Loaded { entry, stored, by }) => {
                    let collapsed = collapsed || by == LoadedBy::Earlier;
                    let revalidated = by == LoadedBy::Revalidation;
                    return Answer::Miss {
                        entry,
                        forward,
                        stored: stored && !collapsed,
                        collapsed,
                        revalidated,
                        pending: by == LoadedBy::Pending,
                    };
                }
                Err(failure) => return self.failed(ask, candidate.as_ref(), failure, forward),
            }
        }
    }

    /// Waits for a flight. `Err` is the stale answer that the soft timeout gives instead.
    async fn wait(
        &self,
        ask: &Ask,
        flight: &Flight,
        candidate: Option<&Candidate>,
    ) -> Result<FlightResult, Answer> {
        let span = Span::current().child("wait for the load");
        span.link(flight.trace.get());
        let (Some(soft_timeout), Some(held)) = (ask.binding.policy.soft_timeout, candidate) else {
            return Ok(flight.wait().await);
        };
        if let Ok(result) = timeout(soft_timeout, flight.wait()).await {
            return Ok(result);
        }
        match self.judge_held(ask, held) {
            Freshness::Stale { over_ms, .. } => {
                let entry = held.entry.clone();
                Err(Answer::Stale {
                    entry,
                    over_ms,
                    reason: StaleReason::SoftTimeout,
                })
            }
            // Past its bound by now, or purged: there is nothing to give but the load itself.
            _ => Ok(flight.wait().await),
        }
    }

    /// The end of a failed load: the stale entry if its bound still allows it, else the failure.
    fn failed(
        &self,
        ask: &Ask,
        candidate: Option<&Candidate>,
        failure: Arc<Failure>,
        forward: Forward,
    ) -> Answer {
        // `invalid-request` is the source's answer to the question, not trouble of the source.
        if let Some(held) = candidate
            && failure.kind != FailureKind::InvalidRequest
            && let Freshness::Stale {
                over_ms,
                if_error: true,
                ..
            } = self.judge_held(ask, held)
        {
            let entry = held.entry.clone();
            return Answer::Stale {
                entry,
                over_ms,
                reason: StaleReason::IfError(failure),
            };
        }
        Answer::Failed { failure, forward }
    }

    /// Reloads behind what is still fresh for `left_ms` more, if its route wants that by now.
    #[inline]
    pub fn refresh_ahead(self: &Arc<Self>, ask: &Ask, entry: &Entry, left_ms: u64) {
        if ask.bounds().refreshes_ahead {
            self.refresh_if_due(ask, entry, left_ms);
        }
    }

    /// One flight of all nodes reloads: a node that finds the lease taken waits for what comes of it, and one that comes
    /// late finds what was stored since its own entry was.
    fn refresh_if_due(self: &Arc<Self>, ask: &Ask, entry: &Entry, left_ms: u64) {
        /// How far two readings of when one entry was loaded may lie apart: the offset between this node's clock and the
        /// tier's is known within half a round trip.
        const WOBBLE_MS: u64 = 100;
        let (policy, counters) = (&ask.binding.policy, &ask.binding.counters);
        let load_ms = counters.load_us.load(Ordering::Relaxed) as f64 / 1000.0;
        let ttl_ms = entry.times().ttl_within(ask.bounds());
        let ahead = policy.refresh_ahead;
        if !ahead.is_due(left_ms, ttl_ms, load_ms, rand::random())
            || self.remembered_failure(ask).is_some()
        {
            return;
        }
        let Ok(Boarding::Lead(guard)) = self.board(ask) else {
            return;
        };
        counters.refreshed_ahead.fetch_add(1, Ordering::Relaxed);
        let age = Duration::from_millis(entry.times().age_ms(self.clock.now_ms()));
        let now = Instant::now();
        let seen = Seen {
            asked: Some(now.checked_sub(age).unwrap_or(now)),
            waited: Duration::ZERO,
            until_ms: entry.times().loaded_ms.saturating_add(WOBBLE_MS),
        };
        let held = Candidate {
            entry: entry.clone(),
            by_tier: Verdict::Alive,
        };
        self.take_off(ask, Some(&held), guard, seen);
    }

    /// Starts a reload that nobody waits for, unless one is in the air or the bound on loads is reached.
    fn refresh_behind(self: &Arc<Self>, ask: &Ask, held: &Candidate, seen: Seen) {
        if let Ok(Boarding::Lead(guard)) = self.board(ask) {
            self.take_off(ask, Some(held), guard, seen);
        }
    }

    fn board(&self, ask: &Ask) -> Result<Boarding, Failure> {
        let covered = self.covered(ask);
        self.flights.board(
            &ask.key,
            &ask.binding.places,
            || self.generations.stamp(),
            // A soft purge too: who comes after it wants what the source says now.
            |stamp| self.generations.judge(stamp, None, covered) == Verdict::Alive,
        )
    }

    /// Flies in a task of the host: the client that started it may leave.
    fn take_off(
        self: &Arc<Self>,
        ask: &Ask,
        held: Option<&Candidate>,
        guard: FlightGuard,
        seen: Seen,
    ) -> Arc<Flight> {
        let flight = Arc::clone(guard.flight());
        // Judged now that the flight has its stamp: a purge may have come while a tier was asked, and a 304 to a
        // validator from before it would bring back what was purged.
        let known = held
            .filter(|held| self.judge_both(ask, &held.entry, held.by_tier).0 != Verdict::Dead)
            .map(|held| Known {
                entry: held.entry.clone(),
            });
        let (cache, ask) = (Arc::clone(self), ask.clone());
        let span = load_span(&ask);
        if let Some(link) = span.as_link() {
            let _ = flight.trace.set(link);
        }
        spawn(span.clone().scope(async move {
            let result = cache.fly(&ask, guard.flight().stamp, known, seen).await;
            if let Err(failure) = &result {
                span.fail(|| failure.to_string());
            }
            guard.land(result);
        }));
        flight
    }

    /// Loads past the cache: nothing is read, stored or joined. In a task of the host like every load.
    pub async fn bypass(self: &Arc<Self>, ask: &Ask) -> Answer {
        let place = match self.flights.take_place(&ask.binding.places) {
            Ok(place) => place,
            Err(failure) => {
                return Answer::Bypass {
                    result: Err(Arc::new(failure)),
                };
            }
        };
        let (cache, owned) = (Arc::clone(self), ask.clone());
        let load = spawn(load_span(&owned).scope(async move {
            let _place = place;
            cache.load_uncached(&owned).await
        }));
        let result = load.await.unwrap_or_else(|_| {
            let message = "the load ended without a result: it panicked or the server is stopping";
            Err(Arc::new(Failure::host(
                FailureKind::Internal,
                "load-aborted",
                message,
            )))
        });
        Answer::Bypass { result }
    }

    fn remembered_failure(&self, ask: &Ask) -> Option<Arc<Failure>> {
        let remembered = self.failures.get(&ask.key, self.clock.now_ms())?;
        // A purge also ends a remembered failure.
        let verdict = self
            .generations
            .judge(remembered.stamp, None, self.covered(ask));
        (verdict == Verdict::Alive).then_some(remembered.failure)
    }

    /// Whether a flight's result may answer a request that arrived at seq `arrival`. A result that is still alive may;
    /// one that a purge covers only if nothing was purged between the flight's stamp and the arrival: generations
    /// keep only their last purge, so an older one could hide behind it.
    fn is_for(&self, ask: &Ask, loaded: &Loaded, arrival: u64) -> bool {
        let stamp = loaded.entry.stamp();
        stamp.seq >= arrival && stamp.epoch == self.generations.epoch()
            || self.judge(ask, &loaded.entry).0 == Verdict::Alive
    }

    /// What generations and times say of an entry now.
    #[inline]
    pub(super) fn judge(&self, ask: &Ask, entry: &Entry) -> (Verdict, Freshness) {
        self.judge_at(ask, entry, self.clock.now_ms())
    }

    // Every hit passes it.
    #[inline(always)]
    fn judge_at(&self, ask: &Ask, entry: &Entry, now_ms: u64) -> (Verdict, Freshness) {
        let covered = Covered {
            route: &ask.binding.route,
            resource: ask.key.resource(),
            variant: ask.key.variant(),
            tags: entry.tags(),
        };
        let mut verdict = self
            .generations
            .judge(entry.stamp(), Some(entry.checked()), covered);
        // Cut off from the other nodes, it may have been purged there: fit to fall back on, not to pass as fresh.
        if verdict == Verdict::Alive && self.generations.is_overdue(entry.as_of_ms(), now_ms) {
            verdict = Verdict::Expired;
        }
        (verdict, self.freshness(ask, entry, verdict, now_ms))
    }

    fn is_stale(&self, ask: &Ask, held: &Candidate) -> bool {
        matches!(self.judge_held(ask, held), Freshness::Stale { .. })
    }

    fn judge_held(&self, ask: &Ask, held: &Candidate) -> Freshness {
        self.judge_both(ask, &held.entry, held.by_tier).1
    }

    fn judge_both(&self, ask: &Ask, entry: &Entry, by_tier: Verdict) -> (Verdict, Freshness) {
        let now_ms = self.clock.now_ms();
        let (own, freshness) = self.judge_at(ask, entry, now_ms);
        if by_tier <= own {
            return (own, freshness);
        }
        (by_tier, self.freshness(ask, entry, by_tier, now_ms))
    }

    fn freshness(&self, ask: &Ask, entry: &Entry, verdict: Verdict, now_ms: u64) -> Freshness {
        let freshness = entry.times().freshness(now_ms, verdict, ask.bounds());
        match (entry.kind(), freshness) {
            // An absence has no windows: past its ttl it is asked again.
            (EntryKind::Missing, Freshness::Stale { .. }) => Freshness::Dead,
            _ => freshness,
        }
    }

    pub(super) fn covered<'a>(&self, ask: &'a Ask) -> Covered<'a> {
        Covered {
            route: &ask.binding.route,
            resource: ask.key.resource(),
            variant: ask.key.variant(),
            tags: &[],
        }
    }
}

/// The trace of a load, which is led by what is traced here, or by nothing.
fn load_span(ask: &Ask) -> Span {
    let leads = Span::current();
    if !leads.is_some() {
        return Span::NONE;
    }
    let span = leads.load(format!("load {}", ask.binding.route));
    span.set("http.route", ask.binding.route.to_string());
    span
}
