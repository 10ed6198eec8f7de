//! What a flight does: look once more, ask the chain, make the entry, store it only if it is not older than a purge.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ask::Ask;
use super::entry::{Content, Draft, Entry, EntryKind};
use super::failures::Remembered;
use super::flight::{FlightResult, Loaded, LoadedBy};
use super::freshness::{Freshness, Times, jittered, millis};
use super::generations::{Stamp, Verdict};
use super::lease::{Right, Taken};
use super::memory::Mark;
use super::patience::{Patience, Waited};
use super::source::{Outcome, Question};
use super::tier::{Put, SharedTier};
use super::underway::Pending;
use super::{Cache, Counters, Link};
use crate::error::{Failure, FailureKind, Origin};
use crate::key::Key;
use crate::sync;
use crate::trace::Span;

/// The entry in hand when a load begins: its validator is shown to the loader that made it.
pub(super) struct Known {
    pub entry: Entry,
}

/// What a flight's leader has seen of the tiers, so that it knows what another flight has stored since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When the shared tier was asked in vain, if it answered.
    pub(super) asked: Option<Instant>,
    /// How long it has waited for that.
    pub(super) waited: Duration,
    /// An entry that was loaded by then, by this node's clock, is what is to be replaced although it is fresh.
    pub(super) until_ms: u64,
}

impl Seen {
    /// Whether an entry may stand for the flight's own load, as far as its age goes.
    pub(super) fn is_news(self, entry: &Entry) -> bool {
        entry.times().loaded_ms > self.until_ms
    }
}

impl Counters {
    /// Notes how long a load took.
    fn took(&self, time: Duration) {
        let us = u64::try_from(time.as_micros())
            .unwrap_or(u64::MAX / 8)
            .max(1);
        // Two loads that end at once may count as one: it is an average.
        let before = self.load_us.load(Ordering::Relaxed);
        let now = if before == 0 {
            us
        } else {
            before - before / 8 + us / 8
        };
        self.load_us.store(now.max(1), Ordering::Relaxed);
    }
}

impl Cache {
    /// Flies once. `stamp` was noted before this began.
    pub(super) async fn fly(
        &self,
        ask: &Ask,
        stamp: Stamp,
        known: Option<Known>,
        seen: Seen,
    ) -> FlightResult {
        let counters = &ask.binding.counters;
        // Another flight may have landed between the leader's look-up and its boarding (see `flight`).
        if let Some(entry) = self.stored_meanwhile(ask, seen) {
            return Ok(self.earlier(ask, entry));
        }
        // Without an answer from the shared tier a moment ago there is no use in waiting for it again.
        let shared = self.shared.as_ref().zip(seen.asked);
        let (right, stamp) = match shared {
            None => (None, stamp),
            Some((shared, asked)) => {
                let mut patience = Patience::of(shared.patience(), seen.waited);
                let span = Span::current().child("lease");
                let taken = self.take_lease(ask, shared, (asked, seen), &mut patience);
                let taken = taken.await;
                drop(span);
                match taken {
                    Taken::Loaded(entry) => return Ok(self.earlier(ask, entry)),
                    Taken::Lease(right, stamp) => (Some((shared, right, patience)), stamp),
                    Taken::Alone(stamp) => (None, stamp),
                }
            }
        };
        // Judged once more, now that the stamp is the last: a purge may have come while another node's lease was waited for. One
        // that comes from here on is younger than the stamp, and what is made of a 304 is then as dead as what it renews.
        let known = known.filter(|known| self.judge(ask, &known.entry).0 != Verdict::Dead);
        // Who has the lease is the only one to store while it loads. Of others' stores while it loads alone this node may hear
        // before it ends, and what it keeps then would be older than those.
        let alone = !matches!(right, Some((_, Right::Given(_), _)));
        let mark = alone.then(|| self.memory.mark());
        let started = Instant::now();
        let loaded = self.ask_source(ask, stamp, known.as_ref()).await;
        counters.took(started.elapsed());
        match loaded {
            Ok((draft, by)) => {
                let counter = match (by, draft.content.kind) {
                    (LoadedBy::Revalidation, _) => &counters.loads_not_modified,
                    (LoadedBy::Pending, _) => &counters.loads_pending,
                    (_, EntryKind::Missing) => &counters.loads_missing,
                    (_, EntryKind::Found) => &counters.loads_found,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                self.failures.forget(&ask.key);
                let entry = draft.keep(ask.key.text());
                let mark = mark.unwrap_or_else(|| self.memory.mark());
                let put = match right {
                    Some((shared, right, patience)) if self.may_store(ask, &entry) => {
                        let span = Span::current().client("store in the shared tier");
                        let put = put(shared, (&ask.key, &entry), right, patience).await;
                        drop(span);
                        put
                    }
                    Some((shared, right, patience)) if self.is_hidden(ask, &entry, &known) => {
                        put(shared, (&ask.key, &ended(ask, &entry)), right, patience).await;
                        None
                    }
                    _ => None,
                };
                let stored = self.keep(ask, &entry, put, mark);
                if let Some(known) = known.filter(|_| !stored) {
                    self.memory.remove_if_same(&ask.key, &known.entry);
                }
                Ok(Loaded { entry, stored, by })
            }
            Err(failure) => {
                counters.loads_failed.fetch_add(1, Ordering::Relaxed);
                let failure = Arc::new(failure);
                self.remember(ask, stamp, &failure);
                Err(failure)
            }
        }
    }

    fn earlier(&self, ask: &Ask, entry: Entry) -> Loaded {
        let counters = &ask.binding.counters;
        counters.loads_earlier.fetch_add(1, Ordering::Relaxed);
        Loaded {
            entry,
            stored: false,
            by: LoadedBy::Earlier,
        }
    }

    fn stored_meanwhile(&self, ask: &Ask, seen: Seen) -> Option<Entry> {
        let entry = self.memory.get(&ask.key)?;
        if !seen.is_news(&entry) {
            return None;
        }
        let (verdict, freshness) = self.judge(ask, &entry);
        let fresh = verdict == Verdict::Alive && matches!(freshness, Freshness::Fresh { .. });
        fresh.then_some(entry)
    }

    /// Puts the entry into the memory tier unless a purge overtook the load. Returns whether any tier holds it.
    pub(super) fn keep(&self, ask: &Ask, entry: &Entry, put: Option<Put>, mark: Mark) -> bool {
        if put == Some(Put::Refused) || !self.may_store(ask, entry) {
            if entry.times().ttl_ms > 0 {
                ask.binding
                    .counters
                    .not_stored_purged
                    .fetch_add(1, Ordering::Relaxed);
            }
            return false;
        }
        let in_memory = self.memory.insert_unless_dropped(mark, &ask.key, entry);
        // A resynchronisation may have cleared the tier between the check and the insertion; then this entry's stamp
        // is of before it. Clear, then insert, then this check: removed. Insert, then clear: gone either way.
        if in_memory && !self.generations.is_current(entry.stamp()) {
            self.memory.remove_if_same(&ask.key, entry);
            return false;
        }
        in_memory || put == Some(Put::Stored)
    }

    /// Whether something that is not to be kept would be hidden by the entry that was in hand, which has a window left: the
    /// source has said something else since, or that there is nothing.
    fn is_hidden(&self, ask: &Ask, entry: &Entry, known: &Option<Known>) -> bool {
        let is_served = |known: &Known| !matches!(self.judge(ask, &known.entry).1, Freshness::Dead);
        entry.times().ttl_ms == 0 && known.as_ref().is_some_and(is_served)
    }

    pub(super) fn may_store(&self, ask: &Ask, entry: &Entry) -> bool {
        entry.times().ttl_ms > 0
            && self.generations.is_current(entry.stamp())
            && self.judge(ask, entry).0 == Verdict::Alive
    }

    fn remember(&self, ask: &Ask, stamp: Stamp, failure: &Arc<Failure>) {
        let failure_ttl_ms = millis(ask.binding.policy.failure_ttl);
        // What the host refused for its own bounds says nothing of the source.
        let of_the_host = failure.origin == Origin::Host
            && matches!(
                failure.kind,
                FailureKind::Overloaded | FailureKind::NotLoaded
            );
        if failure_ttl_ms == 0 || of_the_host {
            return;
        }
        let until_ms = self.clock.now_ms().saturating_add(failure_ttl_ms);
        self.failures.remember(
            ask.key.clone(),
            Remembered {
                failure: Arc::clone(failure),
                until_ms,
                stamp,
            },
        );
    }

    /// Loads past every tier; for `bypass`.
    pub(super) async fn load_uncached(&self, ask: &Ask) -> Result<Entry, Arc<Failure>> {
        let stamp = self.generations.stamp();
        let (mut draft, _) = self.ask_source(ask, stamp, None).await.map_err(Arc::new)?;
        draft.times.ttl_ms = 0;
        Ok(draft.keep(ask.key.text()))
    }

    /// Asks the source, unless a change is on its way there (see `underway`). `stamp` was noted before.
    async fn ask_source(
        &self,
        ask: &Ask,
        stamp: Stamp,
        known: Option<&Known>,
    ) -> Result<(Draft, LoadedBy), Failure> {
        let Some(underway) = &ask.binding.underway else {
            return self.ask_chain(ask, stamp, known).await;
        };
        let unkept = |(mut draft, by): (Draft, LoadedBy)| {
            draft.times.ttl_ms = 0;
            (draft, by)
        };
        let timeout = ask.binding.policy.timeout;
        let looked = underway.of(ask.key.resource(), &ask.parts);
        let Ok(pending) = sync::timeout(timeout, looked).await else {
            return Err(unmade(timeout));
        };
        match pending {
            Pending::Nothing => self.ask_chain(ask, stamp, known).await,
            Pending::Unknown => self.ask_chain(ask, stamp, known).await.map(unkept),
            Pending::Known(outcome) => {
                let as_of_ms = self.clock.now_ms();
                let made = self.make_entry(ask, (stamp, as_of_ms), None, UNMADE, outcome);
                made.map(|(draft, _)| unkept((draft, LoadedBy::Pending)))
            }
            Pending::Unmade(made) => {
                if sync::timeout(timeout, made).await.is_err() {
                    return Err(unmade(timeout));
                }
                // Its stamp is older than the change: it is served to who waits for it, and not kept.
                self.ask_chain(ask, stamp, known).await
            }
        }
    }

    /// Asks the loaders in turn until one answers, or fails in a way that forbids going on.
    async fn ask_chain(
        &self,
        ask: &Ask,
        stamp: Stamp,
        known: Option<&Known>,
    ) -> Result<(Draft, LoadedBy), Failure> {
        let mut last = None;
        for (place, link) in ask.binding.chain.iter().enumerate() {
            if place > 0 {
                ask.binding
                    .counters
                    .chain_fallbacks
                    .fetch_add(1, Ordering::Relaxed);
            }
            match self.ask_link(ask, stamp, known, link).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.lets_chain_go_on() => last = Some(failure),
                Err(failure) => return Err(failure),
            }
        }
        Err(last.unwrap_or_else(|| {
            Failure::host(
                FailureKind::NotLoaded,
                "plugin-not-loaded",
                "the route has no loader",
            )
        }))
    }

    async fn ask_link(
        &self,
        ask: &Ask,
        stamp: Stamp,
        known: Option<&Known>,
        link: &Link,
    ) -> Result<(Draft, LoadedBy), Failure> {
        let loader = match link {
            Link::Ready(loader) => loader,
            Link::NotLoaded { name, why } => {
                let message = format!("the plugin `{name}` behind this route is not loaded: {why}");
                return Err(Failure::host(
                    FailureKind::NotLoaded,
                    "plugin-not-loaded",
                    message,
                ));
            }
        };
        let timeout = ask.binding.policy.timeout;
        let known = known.filter(|known| known.entry.maker() == loader.name());
        let load = Span::current();
        let span = if load.is_some() {
            load.call(format!("call {}", loader.name()))
        } else {
            Span::NONE
        };
        let question = Question {
            route: Arc::clone(&ask.binding.route),
            parts: Arc::clone(&ask.parts),
            timeout,
            traceparent: span.traceparent(),
            known: known.and_then(|known| known.entry.validator()),
            batching: ask.binding.batching,
        };
        let as_of_ms = self.clock.now_ms();
        // The loader ends itself in time and knows best what to say of it; this is for one that does not.
        const GRACE: Duration = Duration::from_millis(100);
        let outcome = match sync::timeout(timeout + GRACE, loader.load(question)).await {
            Ok(outcome) => outcome.inspect_err(|failure| span.fail(|| failure.to_string()))?,
            Err(_) => {
                let message = format!(
                    "loader `{}` did not answer within {timeout:?}",
                    loader.name()
                );
                return Err(Failure::host(FailureKind::Timeout, "timeout", message));
            }
        };
        drop(span);
        self.make_entry(ask, (stamp, as_of_ms), known, loader.name(), outcome)
    }

    pub(super) fn make_entry(
        &self,
        ask: &Ask,
        (stamp, as_of_ms): (Stamp, u64),
        known: Option<&Known>,
        maker: &str,
        outcome: Outcome,
    ) -> Result<(Draft, LoadedBy), Failure> {
        let policy = &ask.binding.policy;
        let (content, given, default, by) = match outcome {
            Outcome::Found(found) => {
                let given = found.ttl;
                let (content, dropped) = Content::from_found(found, maker, ask.visibility)?;
                ask.binding
                    .counters
                    .headers_dropped
                    .fetch_add(dropped as u64, Ordering::Relaxed);
                (content, given, policy.ttl, LoadedBy::Loader)
            }
            Outcome::Missing(absence) => {
                let content = Content::missing(absence.tags, maker, ask.visibility);
                (content, absence.ttl, policy.missing_ttl, LoadedBy::Loader)
            }
            Outcome::NotModified(renewal) => match known {
                Some(known) if known.entry.has_validator() => (
                    Content {
                        // What the key policy says of it now.
                        visibility: ask.visibility,
                        ..known.entry.draft().content
                    },
                    renewal.ttl,
                    policy.ttl,
                    LoadedBy::Revalidation,
                ),
                _ => {
                    let message = format!(
                        "loader `{maker}` answered not-modified although it was shown no validator"
                    );
                    return Err(Failure::host(
                        FailureKind::Internal,
                        "not-modified-without-validator",
                        message,
                    ));
                }
            },
        };
        let times = self.times(ask, content.kind, given, default);
        Ok((
            Draft {
                content,
                times,
                stamp,
                as_of_ms,
            },
            by,
        ))
    }

    fn times(
        &self,
        ask: &Ask,
        kind: EntryKind,
        given: Option<Duration>,
        default: Duration,
    ) -> Times {
        let policy = &ask.binding.policy;
        if given.is_some_and(|given| given > policy.ttl_max) {
            ask.binding
                .counters
                .ttl_clamped
                .fetch_add(1, Ordering::Relaxed);
        }
        let ttl = given.unwrap_or(default).min(policy.ttl_max);
        let (swr, sie) = match kind {
            EntryKind::Found => (policy.stale_while_revalidate, policy.stale_if_error),
            EntryKind::Missing => (Duration::ZERO, Duration::ZERO),
        };
        Times {
            loaded_ms: self.clock.now_ms(),
            ttl_ms: jittered(millis(ttl), policy.jitter, rand::random()),
            // An absence's ttl is not the route's `ttl` either: a reader must not cut it by that.
            ttl_from_loader: given.is_some() || kind == EntryKind::Missing,
            swr_ms: millis(swr),
            sie_ms: millis(sie),
        }
    }
}

/// What is stored in place of an entry that something has ended which is not kept itself: an absence that is past its ttl from
/// the beginning. The tier has it for the shortest time there is; the copies of other nodes go at once, as with any store.
fn ended(ask: &Ask, by: &Entry) -> Entry {
    let times = Times {
        ttl_ms: 0,
        swr_ms: 1,
        sie_ms: 0,
        ..by.times()
    };
    let draft = Draft {
        content: Content::missing(Vec::new(), by.maker(), ask.visibility),
        times,
        stamp: by.stamp(),
        as_of_ms: by.as_of_ms(),
    };
    draft.keep(ask.key.text())
}

/// Who an entry is of that no loader has made.
const UNMADE: &str = "a pending change";

fn unmade(timeout: Duration) -> Failure {
    let message = format!(
        "a change of this resource was accepted and is not made yet; it was waited for {timeout:?}"
    );
    Failure {
        retry_after: Some(Duration::from_secs(1)),
        ..Failure::host(FailureKind::Overloaded, "write-pending", message)
    }
}

/// Stores an entry in the shared tier, if the right to do so is or will be given. None if it is not, or not in time: then it
/// is stored behind, or not.
pub(super) async fn put(
    shared: &Arc<dyn SharedTier>,
    (key, entry): (&Key, &Entry),
    right: Right,
    mut patience: Patience,
) -> Option<Put> {
    let (shared, key, entry) = (Arc::clone(shared), key.clone(), entry.clone());
    let put = patience.wait(async move {
        let lease = right.lease().await?;
        Some(shared.put(&key, &entry, &lease).await)
    });
    match put.await {
        Waited::Done(put) => put,
        Waited::Late(_) | Waited::Lost => None,
    }
}
