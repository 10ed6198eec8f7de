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

use super::failing::{
    FIRST_WAIT, LONGEST_WAIT, Severity, doubled, is_fault, is_passing, jittered, reason, severity,
};
use super::lane::{Lane, State, Waiting, route_of};
use super::writers::Writers;
use crate::cache::queue::{Queued, Settlement, accepted_ms};
use crate::error::Failure;
use crate::key::Resource;

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

/// Whether a partition is still known to be this node's.
pub(super) type Stands = Arc<dyn Fn() -> bool + Send + Sync>;

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

/// All that is pending on the partitions of this node.
pub(super) struct Lanes {
    batching: Batching,
    /// The partitions that this node consumes, and how to know whether it still may.
    owned: HashMap<u8, Stands>,
    /// What was settled while a partition was being read: that may have found it pending still.
    settled: HashMap<u8, HashSet<u64>>,
    lanes: HashMap<Resource, Lane>,
    /// Lanes to be looked at, by route. One that was closed or is out meanwhile is passed over.
    ready: BTreeMap<Arc<str>, VecDeque<Resource>>,
    /// Lanes that are out, by partition.
    out: Vec<usize>,
    asleep: BTreeMap<(Instant, u64), Resource>,
    writers: Writers,
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
            owned: HashMap::new(),
            settled: HashMap::new(),
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            out: vec![0; usize::from(u8::MAX) + 1],
            asleep: BTreeMap::new(),
            writers: Writers::new(batching),
            held_bytes: 0,
            ticket: 0,
            turn: None,
        }
    }

    /// A partition is consumed by this node from now on, as long as it stands.
    pub(super) fn own(&mut self, partition: u8, stands: Stands) {
        self.owned.insert(partition, stands);
    }

    /// It is not any more: what is not out is forgotten here. What is out stays in its lane, with those before it that are made
    /// with it: should the partition come back, the next of the resource waits for it; and should it not, none of those is
    /// left pending to be made after it.
    pub(super) fn disown(&mut self, partition: u8) {
        self.owned.remove(&partition);
        self.settled.remove(&partition);
        let (held_bytes, asleep) = (&mut self.held_bytes, &mut self.asleep);
        self.lanes.retain(|_, lane| {
            if lane.partition != partition {
                return true;
            }
            let State::Out(out) = lane.state else {
                if let State::Asleep(until, ticket) = lane.state {
                    asleep.remove(&(until, ticket));
                }
                *held_bytes -= lane.waiting.iter().map(Waiting::held).sum::<u64>();
                return false;
            };
            while let Some(last) = lane.waiting.pop_back_if(|last| last.sequence > out) {
                *held_bytes -= last.held();
            }
            // Others may settle them meanwhile: before another attempt, here, the queue is asked.
            for waiting in &mut lane.waiting {
                *held_bytes -= waiting.held();
                waiting.record = None;
            }
            true
        });
        let lanes = &self.lanes;
        for line in self.ready.values_mut() {
            line.retain(|resource| lanes.contains_key(resource));
        }
    }

    /// A partition is about to be read.
    pub(super) fn reading(&mut self, partition: u8) {
        self.settled.insert(partition, HashSet::new());
    }

    /// All that was found is here.
    pub(super) fn have_read(&mut self, partition: u8) {
        self.settled.remove(&partition);
    }

    /// A change that was found pending when its partition was read. One that is here already is left alone, and so is one that
    /// was settled since the reading began: it would be made once more, after those that came after it.
    pub(super) fn add(&mut self, partition: u8, queued: Queued, variant: u64) {
        let was_settled = self.settled.get(&partition);
        if !self.owned.contains_key(&partition)
            || was_settled.is_some_and(|settled| settled.contains(&queued.sequence))
        {
            return;
        }
        let len = queued.record.len() as u64;
        let is_held = self.held_bytes + len <= HELD_BYTES_MAX;
        let resource = queued.resource;
        let is_new = !self.lanes.contains_key(&resource);
        let lane = self.lanes.entry(resource.clone()).or_insert_with(|| Lane {
            route: route_of(&resource),
            partition,
            waiting: VecDeque::new(),
            state: State::Ready,
            failures: 0,
            is_outage: false,
            company: usize::MAX,
        });
        let Err(place) = lane.place_of(queued.sequence) else {
            return;
        };
        let waiting = Waiting {
            sequence: queued.sequence,
            variant,
            is_out: false,
            id: queued.id,
            record: is_held.then_some(queued.record),
            len,
            attempts: 0,
            faults: 0,
        };
        self.held_bytes += waiting.held();
        lane.waiting.insert(place, waiting);
        if is_new {
            let route = Arc::clone(&lane.route);
            self.ready.entry(route).or_default().push_back(resource);
        }
    }

    /// The next changes to be made, if there are any now.
    pub(super) fn next_batch(&mut self, now: Instant, way: &dyn Fn(&str) -> Way) -> Option<Batch> {
        self.wake(now);
        // Whether a lease stands is looked at now, and not when its loss is heard of: another node may have it by then.
        let standing: HashSet<u8> = self
            .owned
            .iter()
            .filter(|(_, stands)| stands())
            .map(|(partition, _)| *partition)
            .collect();
        let routes: Vec<Arc<str>> = self.routes_in_turn();
        for (place, route) in routes.iter().enumerate() {
            let writer = way(route).writer;
            if !self.writers.may_go(&writer, now) {
                continue;
            }
            let mut members: Vec<Member> = Vec::new();
            let mut room = Room {
                cap: self.writers.cap(&writer),
                bytes: 0,
                standing: &standing,
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
                self.writers.begun(&writer);
                return Some(Batch { writer, members });
            }
        }
        None
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
        room: &mut Room<'_>,
        members: &mut Vec<Member>,
    ) {
        /// So many that do not fit are passed over at most.
        const PASSED_MAX: usize = 1000;
        let Some(line) = self.ready.get_mut(route) else {
            return;
        };
        let mut passed = Vec::new();
        while members.len() < room.cap && passed.len() < PASSED_MAX {
            let Some(resource) = line.pop_front() else {
                break;
            };
            let lane = self.lanes.get_mut(&resource);
            let Some(lane) = lane.filter(|lane| lane.state == State::Ready) else {
                continue;
            };
            let Some(chosen) = lane.chosen(coalesce) else {
                continue;
            };
            if !room.has_place(members.len(), lane, lane.waiting[chosen].len) {
                passed.push(resource);
                continue;
            }
            room.cap = room.cap.min(lane.company);
            for waiting in lane.waiting.iter_mut().take(chosen + 1) {
                waiting.is_out = true;
            }
            let waiting = &lane.waiting[chosen];
            room.bytes += waiting.len;
            members.push(Member {
                partition: lane.partition,
                sequence: waiting.sequence,
                resource,
                record: waiting.record.clone(),
            });
            lane.state = State::Out(waiting.sequence);
            self.out[usize::from(lane.partition)] += 1;
        }
        for resource in passed.into_iter().rev() {
            line.push_front(resource);
        }
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
        self.writers.ended(
            (&batch.writer, batch.members.len()),
            results,
            (died, in_vain),
            now,
        );
        let resumed = self.writers.resumed(&batch.writer);
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
            Severity::Passing => {
                // However long it is asked to wait, it is given up in time.
                let left_ms = (accepted_ms(member.sequence) + give_up_ms).saturating_sub(now_ms);
                let left = Duration::from_millis(left_ms);
                Fate::Again {
                    wait: Wait::Doubled(failure.retry_after.map(|asked| asked.min(left))),
                    solo: None,
                }
            }
        }
    }

    fn waiting(&mut self, member: &Member) -> Option<&mut Waiting> {
        let lane = self.lanes.get_mut(&member.resource)?;
        let place = lane.place_of(member.sequence).ok()?;
        lane.waiting.get_mut(place)
    }

    /// It is tried again, after a wait.
    fn again(&mut self, resource: &Resource, wait: Wait, company: Option<usize>, now: Instant) {
        if !self.comes_back(resource) {
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

    /// A lane is not out any more: whether it has anything left that is to be made here. If not, it is closed.
    fn comes_back(&mut self, resource: &Resource) -> bool {
        let Some(lane) = self.lanes.get_mut(resource) else {
            return false;
        };
        if let State::Out(out) = lane.state {
            self.out[usize::from(lane.partition)] -= 1;
            let were_out = lane.waiting.iter_mut();
            for waiting in were_out.take_while(|waiting| waiting.sequence <= out) {
                waiting.is_out = false;
            }
        }
        if self.owned.contains_key(&lane.partition) && !lane.waiting.is_empty() {
            return true;
        }
        if let Some(lane) = self.lanes.remove(resource) {
            self.held_bytes -= lane.waiting.iter().map(Waiting::held).sum::<u64>();
        }
        false
    }

    /// A lane whose change is settled, or left to whoever has its partition, goes on with the next.
    fn reopen(&mut self, resource: &Resource) {
        if !self.comes_back(resource) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(resource) else {
            return;
        };
        lane.state = State::Ready;
        lane.failures = 0;
        lane.is_outage = false;
        lane.company = usize::MAX;
        let line = self.ready.entry(Arc::clone(&lane.route)).or_default();
        line.push_back(resource.clone());
    }

    fn settle(&mut self, member: &Member, end: &Result<(), String>, ended: &mut Ended) {
        let Some(lane) = self.lanes.get_mut(&member.resource) else {
            return;
        };
        for waiting in &lane.waiting {
            // Those before it were made with it: the source has what they would have left behind them.
            // One that was found later though it is earlier was not.
            let is_covered = waiting.is_out && waiting.sequence < member.sequence && end.is_ok();
            if waiting.sequence != member.sequence && !is_covered {
                continue;
            }
            ended.coalesced += u64::from(is_covered);
            ended.settlements.push((
                lane.partition,
                Settlement {
                    sequence: waiting.sequence,
                    id: waiting.id.clone(),
                    resource: member.resource.clone(),
                    end: end.clone(),
                },
            ));
        }
    }

    /// What was settled is written down: the next of its lane may go out. Those of a lane come together, by their sequence.
    pub(super) fn released(&mut self, partition: u8, settlements: &[Settlement]) {
        if let Some(settled) = self.settled.get_mut(&partition) {
            settled.extend(settlements.iter().map(|settlement| settlement.sequence));
        }
        for (place, settlement) in settlements.iter().enumerate() {
            let resource = &settlement.resource;
            if let Some(lane) = self.lanes.get_mut(resource)
                && let Ok(place) = lane.place_of(settlement.sequence)
                && let Some(waiting) = lane.waiting.remove(place)
            {
                self.held_bytes -= waiting.held();
            }
            let next = settlements.get(place + 1);
            if next.is_none_or(|next| next.resource != *resource) {
                self.reopen(resource);
            }
        }
    }

    /// It could not be written down what became of these: whoever has their partition makes them again, this node too.
    pub(super) fn abandoned(&mut self, settlements: &[Settlement]) {
        let resources: HashSet<_> = settlements.iter().map(|it| &it.resource).collect();
        for resource in resources {
            self.reopen(resource);
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
        let line = self.ready.entry(Arc::clone(&lane.route)).or_default();
        line.push_back(resource);
    }

    /// When there may be something to do next, if nothing else happens until then.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let roused = self.asleep.first_key_value().map(|((until, _), _)| *until);
        let resumed = self.writers.resumed_next(now);
        roused.into_iter().chain(resumed).min()
    }

    /// Whether a partition is consumed here.
    pub(super) fn owns(&self, partition: u8) -> bool {
        self.owned.contains_key(&partition)
    }

    /// Whether any change of a partition is out, or not written down yet.
    pub(super) fn are_out(&self, partition: u8) -> bool {
        self.out[usize::from(partition)] > 0
    }

    /// Whether nothing is out, and nothing is to be made that could be made now: for who waits until all is made.
    pub(super) fn is_idle(&self) -> bool {
        let is_ready = self.ready.values().any(|line| !line.is_empty());
        self.out.iter().all(|out| *out == 0) && (!is_ready || self.writers.are_hopeless())
    }

    /// The partitions that are consumed here.
    pub(super) fn owned(&self) -> Vec<u8> {
        let mut owned: Vec<u8> = self.owned.keys().copied().collect();
        owned.sort_unstable();
        owned
    }
}

/// Room in a batch.
struct Room<'a> {
    cap: usize,
    bytes: u64,
    standing: &'a HashSet<u8>,
}

impl Room<'_> {
    fn has_place(&self, taken: usize, lane: &Lane, len: u64) -> bool {
        taken < lane.company
            && (taken == 0 || self.bytes + len <= BATCH_BYTES_MAX)
            && self.standing.contains(&lane.partition)
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

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
