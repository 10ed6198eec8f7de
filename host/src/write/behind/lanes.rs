//! Which changes are made next: in order for each resource, in batches for each writer, failures again after a while. Pure: it
//! is told the time and what became of what it gave out. Knows neither queues nor plugins.
//!
//! # Order
//!
//! A resource has a lane: its pending changes by their sequence. At most one of a lane is out at a time, and the lane is
//! closed until it is written down what became of it ([`Lanes::released`]); only then does the next go out. Were the next
//! made before that, a node that died in between would find the first pending still, make it again, and revert the second.
//!
//! # Who fails, and what follows
//!
//! - A change fails by itself: its lane waits, twice as long each time; the others go on.
//! - A whole batch fails because its source is not to be had: the writer pauses, and asks again with one batch, after a second at
//!   most: so a source that is down is not asked by every change there is, and one that is back is soon found. Then all goes
//!   out at once.
//! - A whole batch fails because the plugin died of it: half of each such batch goes out next, and so on, until the one that it
//!   dies of is alone, and is given up after a few times.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::queue::{Queued, Settlement, WriteId, accepted_ms};
use crate::error::{Failure, FailureKind, Origin};
use crate::key::Resource;

/// After the first failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Between attempts of one change at most.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Between attempts of a writer whose source is not to be had, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A change that its writer dies of, or calls a fault of its own, is given up after so many attempts.
pub(super) const FAULTS_MAX: u32 = 5;
/// Bytes of records that are kept in memory; of others the place alone, and they are read again.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// Bytes of records in one batch, but for the first.
const BATCH_BYTES_MAX: u64 = 8 << 20;

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub struct Batching {
    /// Changes in one at most.
    pub max: usize,
    /// Batches of one writer at once.
    pub at_once: usize,
    /// How long a change is tried, from when it was accepted.
    pub give_up: Duration,
}

/// Where the changes of a route go, as things are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The writer.
    pub(super) writer: Arc<str>,
    /// Whether the latest of a resource may stand for those before it.
    pub(super) coalesce: bool,
}

/// A change that is out.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) partition: u8,
    pub(super) sequence: u64,
    pub(super) resource: Resource,
    /// None: it is to be read again.
    pub(super) record: Option<Bytes>,
}

/// Changes that go to one writer at once: of different resources.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) writer: Arc<str>,
    pub(super) members: Vec<Member>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// To be written down, by partition.
    pub(super) settlements: Vec<(u8, Settlement)>,
    /// Changes that were made as part of a later one.
    pub(super) coalesced: u64,
    /// Changes that are tried again.
    pub(super) again: u64,
}

struct Waiting {
    partition: u8,
    sequence: u64,
    id: WriteId,
    record: Option<Bytes>,
    len: u64,
    attempts: u32,
    faults: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the line of its route.
    Ready,
    /// Until then.
    Asleep(Instant, u64),
    /// One of its changes is out: this one.
    Out(u64),
}

struct Lane {
    route: Arc<str>,
    waiting: VecDeque<Waiting>,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// It sleeps because the source of its writer was not to be had.
    is_outage: bool,
    /// It may be in a batch of so many.
    company: usize,
}

/// A writer.
struct Line {
    out: usize,
    /// Batches of at most so many, because larger ones took too long.
    cap: usize,
    /// Batches in a row that failed as a whole.
    streak: u32,
    paused: Option<Instant>,
}

/// All that is pending on the partitions of this node.
pub(super) struct Lanes {
    batching: Batching,
    owned: HashSet<u8>,
    lanes: HashMap<Resource, Lane>,
    ready: BTreeMap<Arc<str>, VecDeque<Resource>>,
    asleep: BTreeMap<(Instant, u64), Resource>,
    writers: HashMap<Arc<str>, Line>,
    held_bytes: u64,
    /// Tells apart what sleeps until the same moment.
    ticket: u64,
    /// The route after which the next batch begins, so that none waits for ever.
    turn: Option<Arc<str>>,
}

impl Lanes {
    pub(super) fn new(batching: Batching) -> Self {
        Self {
            batching,
            owned: HashSet::new(),
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            asleep: BTreeMap::new(),
            writers: HashMap::new(),
            held_bytes: 0,
            ticket: 0,
            turn: None,
        }
    }

    /// A partition is consumed by this node from now on.
    pub(super) fn own(&mut self, partition: u8) {
        self.owned.insert(partition);
    }

    /// It is not any more: what is not out is forgotten here. What is out stays in its lane, so that, should the partition come
    /// back, the next of the resource waits for it.
    pub(super) fn disown(&mut self, partition: u8) {
        self.owned.remove(&partition);
        let resources: Vec<_> = self.lanes.keys().cloned().collect();
        for resource in resources {
            self.forget(&resource, |waiting, out| {
                waiting.partition == partition && out != Some(waiting.sequence)
            });
        }
    }

    /// Takes changes out of a lane.
    fn forget(&mut self, resource: &Resource, is_meant: impl Fn(&Waiting, Option<u64>) -> bool) {
        let Some(lane) = self.lanes.get_mut(resource) else {
            return;
        };
        let out = match lane.state {
            State::Out(sequence) => Some(sequence),
            State::Ready | State::Asleep(..) => None,
        };
        let held_bytes = &mut self.held_bytes;
        lane.waiting.retain(|waiting| {
            let is_meant = is_meant(waiting, out);
            if is_meant && waiting.record.is_some() {
                *held_bytes -= waiting.len;
            }
            !is_meant
        });
        if lane.waiting.is_empty() && out.is_none() {
            self.close(resource);
        }
    }

    /// Removes a lane with nothing in it.
    fn close(&mut self, resource: &Resource) {
        let Some(lane) = self.lanes.remove(resource) else {
            return;
        };
        match lane.state {
            State::Asleep(until, ticket) => drop(self.asleep.remove(&(until, ticket))),
            State::Ready => {
                if let Some(line) = self.ready.get_mut(&lane.route) {
                    line.retain(|other| other != resource);
                }
            }
            State::Out(_) => {}
        }
    }

    /// A change that was found pending, in the order of its partition. One that is here already is left alone.
    pub(super) fn add(&mut self, partition: u8, queued: Queued) {
        if !self.owned.contains(&partition) {
            return;
        }
        let len = queued.record.len() as u64;
        let is_held = self.held_bytes + len <= HELD_BYTES_MAX;
        let resource = queued.resource;
        let is_new = !self.lanes.contains_key(&resource);
        let lane = self.lanes.entry(resource.clone()).or_insert_with(|| Lane {
            route: route_of(&resource),
            waiting: VecDeque::new(),
            state: State::Ready,
            failures: 0,
            is_outage: false,
            company: usize::MAX,
        });
        let place = lane
            .waiting
            .partition_point(|waiting| waiting.sequence < queued.sequence);
        let there = lane.waiting.get(place);
        if there.is_some_and(|waiting| waiting.sequence == queued.sequence) {
            return;
        }
        if is_held {
            self.held_bytes += len;
        }
        lane.waiting.insert(
            place,
            Waiting {
                partition,
                sequence: queued.sequence,
                id: queued.id,
                record: is_held.then_some(queued.record),
                len,
                attempts: 0,
                faults: 0,
            },
        );
        if is_new {
            let route = Arc::clone(&lane.route);
            self.ready.entry(route).or_default().push_back(resource);
        }
    }

    /// The next changes to be made, if there are any now.
    pub(super) fn next_batch(&mut self, now: Instant, way: &dyn Fn(&str) -> Way) -> Option<Batch> {
        self.wake(now);
        let routes: Vec<Arc<str>> = self.routes_in_turn();
        for (place, route) in routes.iter().enumerate() {
            let writer = way(route).writer;
            if !self.may_go(&writer, now) {
                continue;
            }
            let mut members: Vec<Member> = Vec::new();
            let mut room = Room {
                cap: self.line(&writer).cap,
                bytes: 0,
            };
            // The routes of one writer share its batches.
            for route in routes[place..].iter().chain(&routes[..place]) {
                let way = way(route);
                if way.writer == writer {
                    self.take(route, way.coalesce, &mut room, &mut members);
                }
            }
            self.turn = Some(Arc::clone(route));
            if !members.is_empty() {
                self.line(&writer).out += 1;
                return Some(Batch { writer, members });
            }
        }
        None
    }

    fn line(&mut self, writer: &Arc<str>) -> &mut Line {
        let cap = self.batching.max;
        let line = self.writers.entry(Arc::clone(writer));
        line.or_insert(Line {
            out: 0,
            cap,
            streak: 0,
            paused: None,
        })
    }

    fn may_go(&mut self, writer: &Arc<str>, now: Instant) -> bool {
        let at_once = self.batching.at_once;
        let line = self.line(writer);
        // One at a time is enough to find out whether its source is back.
        let at_once = if line.streak > 0 { 1 } else { at_once };
        line.out < at_once && line.paused.is_none_or(|until| until <= now)
    }

    /// Those with something to do, beginning after the one whose turn was last.
    fn routes_in_turn(&mut self) -> Vec<Arc<str>> {
        self.ready.retain(|_, line| !line.is_empty());
        let mut routes: Vec<_> = self.ready.keys().cloned().collect();
        if let Some(turn) = &self.turn {
            let after = routes.partition_point(|route| route <= turn);
            routes.rotate_left(after);
        }
        routes
    }

    /// Takes what fits from the line of a route.
    fn take(
        &mut self,
        route: &Arc<str>,
        coalesce: bool,
        room: &mut Room,
        members: &mut Vec<Member>,
    ) {
        let Some(mut line) = self.ready.remove(route) else {
            return;
        };
        let mut left = VecDeque::new();
        while let Some(resource) = line.pop_front() {
            let Some(lane) = self.lanes.get_mut(&resource) else {
                continue;
            };
            let chosen = if coalesce {
                lane.waiting.back()
            } else {
                lane.waiting.front()
            };
            let Some(waiting) = chosen else { continue };
            if !room.has_place(members.len(), lane.company, waiting.len) {
                left.push_back(resource);
                if members.len() >= room.cap {
                    break;
                }
                continue;
            }
            room.cap = room.cap.min(lane.company);
            room.bytes += waiting.len;
            lane.state = State::Out(waiting.sequence);
            members.push(Member {
                partition: waiting.partition,
                sequence: waiting.sequence,
                resource,
                record: waiting.record.clone(),
            });
        }
        left.append(&mut line);
        self.ready.insert(Arc::clone(route), left);
    }

    /// What became of a batch: as many results as members, in their order. The lanes of what is settled stay closed until
    /// [`Lanes::released`].
    pub(super) fn ended(
        &mut self,
        batch: &Batch,
        results: &[Result<(), Failure>],
        (now, now_ms): (Instant, u64),
    ) -> Ended {
        let mut ended = Ended::default();
        let died = results.iter().all(|result| is_fault(result.as_ref().err()));
        let in_vain = !results.is_empty()
            && results
                .iter()
                .all(|result| is_passing(result.as_ref().err()));
        self.judge_writer(batch, results, (died, in_vain), now);
        let resumed = self.line(&batch.writer).paused;
        for (member, result) in batch.members.iter().zip(results) {
            let fate = self.fate(batch, member, result.as_ref().err(), (died, now_ms));
            match fate {
                Fate::Again { wait, solo } => {
                    ended.again += 1;
                    let wait = match (wait, resumed) {
                        // It is not the change that fails, and not the change that has to wait.
                        (Wait::Doubled(None), Some(resumed)) if in_vain => Wait::Until(resumed),
                        (wait, _) => wait,
                    };
                    self.again(&member.resource, wait, solo, now);
                }
                Fate::Settled(end) => self.settle(member, &end, &mut ended),
            }
        }
        if results.iter().any(Result::is_ok) {
            self.recovered();
        }
        ended
    }

    /// What a whole batch says of its writer.
    fn judge_writer(
        &mut self,
        batch: &Batch,
        results: &[Result<(), Failure>],
        (died, in_vain): (bool, bool),
        now: Instant,
    ) {
        let most = self.batching.max;
        let line = self.line(&batch.writer);
        line.out = line.out.saturating_sub(1);
        if in_vain {
            line.streak = line.streak.saturating_add(1);
            let asked = results
                .iter()
                .filter_map(|result| result.as_ref().err()?.retry_after)
                .min();
            let pause = doubled(FIRST_WAIT, line.streak, LONGEST_PAUSE);
            let pause = asked.map_or(pause, |asked| pause.max(asked.min(LONGEST_WAIT)));
            line.paused = Some(now + jittered(pause));
            let is_late = |result: &Result<(), Failure>| matches!(result, Err(failure) if failure.kind == FailureKind::Timeout);
            if results.iter().all(is_late) {
                line.cap = (batch.members.len() / 2).max(1);
            }
        } else if !died {
            line.streak = 0;
            line.paused = None;
            line.cap = line.cap.saturating_mul(2).min(most);
        }
    }

    fn fate(
        &mut self,
        batch: &Batch,
        member: &Member,
        failure: Option<&Failure>,
        (died, now_ms): (bool, u64),
    ) -> Fate {
        let Some(failure) = failure else {
            return Fate::Settled(Ok(()));
        };
        let give_up_ms = u64::try_from(self.batching.give_up.as_millis()).unwrap_or(u64::MAX);
        let is_over = accepted_ms(member.sequence).saturating_add(give_up_ms) <= now_ms;
        let is_alone = batch.members.len() == 1;
        let Some(waiting) = self.waiting(member) else {
            return Fate::Again {
                wait: Wait::None,
                solo: None,
            };
        };
        waiting.attempts += 1;
        let attempts = waiting.attempts;
        let dead = || Fate::Settled(Err(reason(failure, attempts)));
        if died && !is_alone {
            // It is not known whose fault it was.
            return Fate::Again {
                wait: Wait::None,
                solo: Some(batch.members.len().div_ceil(2)),
            };
        }
        match severity(failure) {
            Severity::Permanent => dead(),
            Severity::Fault => {
                waiting.faults += 1;
                if waiting.faults >= FAULTS_MAX || is_over {
                    return dead();
                }
                Fate::Again {
                    wait: Wait::Doubled(None),
                    solo: is_fault(Some(failure)).then_some(1),
                }
            }
            Severity::Passing if is_over => dead(),
            Severity::Passing => Fate::Again {
                wait: Wait::Doubled(failure.retry_after),
                solo: None,
            },
        }
    }

    fn waiting(&mut self, member: &Member) -> Option<&mut Waiting> {
        let lane = self.lanes.get_mut(&member.resource)?;
        let of_member = |waiting: &&mut Waiting| waiting.sequence == member.sequence;
        lane.waiting.iter_mut().find(of_member)
    }

    /// It is tried again, after a wait.
    fn again(&mut self, resource: &Resource, wait: Wait, company: Option<usize>, now: Instant) {
        if !self.is_ours(resource) {
            self.forget_all(resource);
            return;
        }
        self.ticket += 1;
        let ticket = self.ticket;
        let Some(lane) = self.lanes.get_mut(resource) else {
            return;
        };
        if let Some(company) = company {
            lane.company = company;
        }
        let until = match wait {
            Wait::None => {
                lane.state = State::Ready;
                let route = Arc::clone(&lane.route);
                let line = self.ready.entry(route).or_default();
                line.push_front(resource.clone());
                return;
            }
            Wait::Until(resumed) => {
                lane.is_outage = true;
                resumed
            }
            Wait::Doubled(asked) => {
                lane.failures = lane.failures.saturating_add(1);
                let wait = jittered(doubled(FIRST_WAIT, lane.failures, LONGEST_WAIT));
                now + asked.map_or(wait, |asked| wait.max(asked))
            }
        };
        lane.state = State::Asleep(until, ticket);
        self.asleep.insert((until, ticket), resource.clone());
    }

    /// Whether the partition of a lane is still consumed here.
    fn is_ours(&self, resource: &Resource) -> bool {
        let lane = self.lanes.get(resource);
        let first = lane.and_then(|lane| lane.waiting.front());
        first.is_some_and(|first| self.owned.contains(&first.partition))
    }

    fn forget_all(&mut self, resource: &Resource) {
        if let Some(lane) = self.lanes.get_mut(resource) {
            // Nothing is out any more; it is in no line.
            lane.state = State::Out(0);
        }
        self.forget(resource, |_, _| true);
        self.lanes.remove(resource);
    }

    fn settle(&mut self, member: &Member, end: &Result<(), String>, ended: &mut Ended) {
        let Some(lane) = self.lanes.get_mut(&member.resource) else {
            return;
        };
        for waiting in &lane.waiting {
            // Those before it were made with it: the source has what they would have left behind them.
            let is_covered = waiting.sequence < member.sequence && end.is_ok();
            if waiting.sequence != member.sequence && !is_covered {
                continue;
            }
            ended.coalesced += u64::from(is_covered);
            ended.settlements.push((
                waiting.partition,
                Settlement {
                    sequence: waiting.sequence,
                    id: waiting.id.clone(),
                    resource: member.resource.clone(),
                    end: end.clone(),
                },
            ));
        }
    }

    /// What was settled is written down: the next of its lane may go out.
    pub(super) fn released(&mut self, settlements: &[(u8, Settlement)]) {
        let mut opened = HashSet::new();
        for (_, settlement) in settlements {
            self.forget(&settlement.resource, |waiting, _| {
                waiting.sequence == settlement.sequence
            });
            opened.insert(&settlement.resource);
        }
        for resource in opened {
            let is_ours = self.is_ours(resource);
            let Some(lane) = self.lanes.get_mut(resource) else {
                continue;
            };
            if !is_ours {
                self.forget_all(resource);
                continue;
            }
            lane.state = State::Ready;
            lane.failures = 0;
            lane.is_outage = false;
            lane.company = usize::MAX;
            let route = Arc::clone(&lane.route);
            self.ready
                .entry(route)
                .or_default()
                .push_back(resource.clone());
        }
    }

    /// It could not be written down what became of these, for their partition is not this node's any more.
    pub(super) fn abandoned(&mut self, settlements: &[(u8, Settlement)]) {
        for (_, settlement) in settlements {
            self.forget_all(&settlement.resource);
        }
    }

    /// A source is back: what its outage held up need not wait. Of which source is not asked: the others fail once more.
    fn recovered(&mut self) {
        let lanes = &self.lanes;
        let held: Vec<_> = self
            .asleep
            .iter()
            .filter(|(_, resource)| lanes.get(*resource).is_some_and(|lane| lane.is_outage))
            .map(|(key, _)| *key)
            .collect();
        for key in held {
            self.rouse(key);
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some((&key, _)) = self.asleep.first_key_value() {
            if key.0 > now {
                break;
            }
            self.rouse(key);
        }
    }

    fn rouse(&mut self, key: (Instant, u64)) {
        let Some(resource) = self.asleep.remove(&key) else {
            return;
        };
        let Some(lane) = self.lanes.get_mut(&resource) else {
            return;
        };
        lane.state = State::Ready;
        lane.is_outage = false;
        let route = Arc::clone(&lane.route);
        self.ready.entry(route).or_default().push_back(resource);
    }

    /// When there may be something to do next, if nothing else happens until then.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let roused = self.asleep.first_key_value().map(|((until, _), _)| *until);
        let resumed = self.writers.values().filter_map(|line| line.paused);
        let resumed = resumed.filter(|until| *until > now).min();
        roused.into_iter().chain(resumed).min()
    }

    /// Whether a partition is consumed here.
    pub(super) fn owns(&self, partition: u8) -> bool {
        self.owned.contains(&partition)
    }

    /// Whether any change is out, or not written down yet.
    pub(super) fn are_out(&self) -> bool {
        let mut lanes = self.lanes.values();
        lanes.any(|lane| matches!(lane.state, State::Out(_)))
    }

    /// Whether nothing is out, and nothing is to be made that could be made now: for who waits until all is made.
    pub(super) fn is_idle(&self) -> bool {
        /// A writer that failed so often in a row will hardly be helped by waiting a little more.
        const HOPELESS: u32 = 5;
        let is_hopeless = |line: &Line| line.streak >= HOPELESS;
        let is_ready = self.ready.values().any(|line| !line.is_empty());
        !self.are_out() && (!is_ready || self.writers.values().all(is_hopeless))
    }

    /// The partitions that are consumed here.
    pub(super) fn owned(&self) -> Vec<u8> {
        let mut owned: Vec<u8> = self.owned.iter().copied().collect();
        owned.sort_unstable();
        owned
    }
}

/// Room in a batch.
struct Room {
    cap: usize,
    bytes: u64,
}

impl Room {
    fn has_place(&self, taken: usize, company: usize, len: u64) -> bool {
        taken < self.cap && taken < company && (taken == 0 || self.bytes + len <= BATCH_BYTES_MAX)
    }
}

enum Fate {
    /// It is no longer pending: made, or given up for this reason.
    Settled(Result<(), String>),
    /// It is tried again, in a batch of at most so many if that is said.
    Again { wait: Wait, solo: Option<usize> },
}

#[derive(Clone, Copy)]
enum Wait {
    None,
    /// Until its writer goes on.
    Until(Instant),
    /// Twice as long each time, and no shorter than was asked for.
    Doubled(Option<Duration>),
}

enum Severity {
    /// Another attempt would end the same.
    Permanent,
    /// The plugin's: a few attempts may help.
    Fault,
    /// It passes.
    Passing,
}

fn severity(failure: &Failure) -> Severity {
    match (failure.kind, failure.origin) {
        (_, Origin::Trap | Origin::Limit) if failure.kind != FailureKind::Timeout => {
            Severity::Fault
        }
        (FailureKind::InvalidRequest | FailureKind::Denied | FailureKind::Conflict, _) => {
            Severity::Permanent
        }
        (FailureKind::Internal, _) => Severity::Fault,
        _ => Severity::Passing,
    }
}

/// Whether the plugin died.
fn is_fault(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| failure.is_fault() && failure.kind != FailureKind::Timeout)
}

fn is_passing(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| matches!(severity(failure), Severity::Passing))
}

/// Why a change was given up, as it is kept with it.
pub(super) fn reason(failure: &Failure, attempts: u32) -> String {
    serde_json::json!({
        "kind": failure.kind.name(),
        "code": failure.code,
        "message": failure.message,
        "attempts": attempts,
    })
    .to_string()
}

/// The pattern of a resource's route: what its text begins with.
fn route_of(resource: &Resource) -> Arc<str> {
    let text = resource.text();
    let route = text.split_once(':').map_or(text, |(route, _)| route);
    percent_encoding::percent_decode_str(route)
        .decode_utf8_lossy()
        .into()
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1_u32 << times.saturating_sub(1).min(16);
    first.saturating_mul(factor).min(longest)
}

/// Between half of it and all of it.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
