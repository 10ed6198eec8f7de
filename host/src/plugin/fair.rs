//! Who waits for a plugin, and whose turn it is: by route, and under overload the last who came first. Knows what is
//! waited for by its size and its deadline alone; the time is told to it.
//!
//! **Routes take turns.** Each has a lane of its own, and the lanes are served in turn, so a route that asks for ten times
//! what the plugin can do waits behind itself and not before its neighbours. Where there is no room left, it is the
//! longest lane that gives way.
//!
//! **A standing lane is served from its end.** A lane that empties within the time of a call is a burst, and first come is
//! first served. One that has not been empty for longer than that is asked for more than is done: in whatever order it is
//! served, the same number is answered in time. First come, first served would let everybody wait until nobody's time
//! is left; from the end, who is served has hardly waited, and takes as long as on a quiet day.
//!
//! **Who cannot be served in time is told so early**: in a standing lane, who has waited for half of its time, or has less
//! left than a call takes. The place of a call that nobody will wait for is worth more to another.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What waits.
pub(super) trait Waits {
    /// Nobody waits for its answer any more.
    fn is_gone(&self) -> bool;
    /// How many places it takes in the queue; at least one.
    fn size(&self) -> usize;
    /// When its caller stops waiting.
    fn deadline(&self) -> Instant;
}

/// All who wait for one plugin.
pub(super) struct Fair<T> {
    lanes: HashMap<Arc<str>, Lane<T>>,
    /// The routes of which somebody waits, the next to be served first.
    turns: VecDeque<Arc<str>>,
    size: usize,
    max: usize,
    service: Service,
}

struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    size: usize,
    /// Since when it has not been empty.
    since: Instant,
}

struct Waiting<T> {
    item: T,
    arrived: Instant,
}

/// What became of a look for the next.
pub(super) struct Next<T> {
    /// Whose turn it is.
    pub(super) taken: Option<T>,
    /// Who cannot be served in time, and is to be told.
    pub(super) shed: Vec<T>,
}

/// How many were turned away before a plugin; the log is told when that begins, and again after it has ceased for a while.
#[derive(Default)]
pub(super) struct Shed {
    count: AtomicU64,
    last: Mutex<Option<Instant>>,
}

impl Shed {
    /// For so long nobody must have been turned away for it to begin again.
    const PAUSE: Duration = Duration::from_secs(10);

    /// These many more, of the plugin of this name.
    pub(super) fn add(&self, name: &str, number: usize) {
        if number == 0 {
            return;
        }
        self.count.fetch_add(number as u64, Ordering::Relaxed);
        let now = Instant::now();
        let last = self.last.lock().replace(now);
        if last.is_none_or(|last| now.saturating_duration_since(last) > Self::PAUSE) {
            tracing::warn!(
                plugin = name,
                "it is asked for more than it does: calls are turned away; [limits] concurrency and instances bound what it does at once"
            );
        }
    }

    /// How many so far.
    pub(super) fn so_far(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// How long a call takes: a moving average in which each of the last few counts most.
#[derive(Clone, Copy, Debug, Default)]
struct Service(Option<Duration>);

/// Below this a lane that is not empty says nothing yet: so long a thread may be busy with something else.
const STANDING_MIN: Duration = Duration::from_millis(10);

impl<T: Waits> Fair<T> {
    /// Room for so many.
    pub(super) fn new(max: usize) -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            size: 0,
            max,
            service: Service::default(),
        }
    }

    /// How many wait, by their sizes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// A call took so long.
    pub(super) fn took(&mut self, time: Duration) {
        let before = self.service.0.unwrap_or(time);
        self.service.0 = Some(before - before / 8 + time / 8);
    }

    /// How long those who wait will keep `places` busy.
    pub(super) fn backlog(&self, places: usize) -> Duration {
        let each = self.service.0.unwrap_or_default();
        let size = u32::try_from(self.size).unwrap_or(u32::MAX);
        each.saturating_mul(size) / u32::try_from(places.max(1)).unwrap_or(u32::MAX)
    }

    /// One more waits. Gives back who has to go for it because there is no room: of the longest lane, and that may be
    /// the one that has just come.
    pub(super) fn push(&mut self, route: &Arc<str>, item: T, now: Instant) -> Vec<T> {
        let size = item.size();
        let lane = self.lanes.entry(Arc::clone(route)).or_insert_with(|| {
            self.turns.push_back(Arc::clone(route));
            Lane {
                waiting: VecDeque::new(),
                size: 0,
                since: now,
            }
        });
        lane.waiting.push_back(Waiting { item, arrived: now });
        lane.size += size;
        self.size += size;
        let mut gone = Vec::new();
        while self.size > self.max {
            gone.push(self.give_way(now));
        }
        gone
    }

    fn give_way(&mut self, now: Instant) -> T {
        let standing = self.standing();
        let longest = self.lanes.iter_mut().max_by_key(|(_, lane)| lane.size);
        let (route, lane) = longest.expect("more than there is room for wait somewhere");
        let route = Arc::clone(route);
        // Those whose callers have left stand at the front, where the oldest are.
        let is_left = lane
            .waiting
            .front()
            .is_some_and(|first| first.item.is_gone());
        let first = is_left || lane.is_standing(now, standing);
        let given = lane.take(first).expect("a lane of some size is not empty");
        self.size -= given.size();
        if lane.waiting.is_empty() {
            self.lanes.remove(&route);
            self.turns.retain(|turn| *turn != route);
        }
        given
    }

    /// Whose turn it is now, and who has to be told that it will not be theirs.
    pub(super) fn pop(&mut self, now: Instant) -> Next<T> {
        let (standing, service) = (self.standing(), self.service.0.unwrap_or_default());
        let mut next = Next {
            taken: None,
            shed: Vec::new(),
        };
        while next.taken.is_none()
            && let Some(route) = self.turns.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&route) else {
                continue;
            };
            let before = lane.size;
            let is_standing = lane.is_standing(now, standing);
            while lane.waiting.front().is_some_and(|first| {
                first.item.is_gone() || is_standing && first.is_late(now, service)
            }) {
                next.shed.extend(lane.take(true));
            }
            // Of who is left the last may have left too.
            while let Some(item) = lane.take(!is_standing) {
                if !item.is_gone() {
                    next.taken = Some(item);
                    break;
                }
            }
            self.size -= before - lane.size;
            if lane.waiting.is_empty() {
                self.lanes.remove(&route);
            } else {
                self.turns.push_back(route);
            }
        }
        next
    }

    /// All of them.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.turns.clear();
        self.size = 0;
        let lanes = self.lanes.drain().flat_map(|(_, lane)| lane.waiting);
        lanes.map(|waiting| waiting.item).collect()
    }

    fn standing(&self) -> Duration {
        self.service.0.unwrap_or_default().max(STANDING_MIN)
    }
}

impl<T: Waits> Lane<T> {
    fn is_standing(&self, now: Instant, after: Duration) -> bool {
        now.saturating_duration_since(self.since) > after
    }

    fn take(&mut self, first: bool) -> Option<T> {
        let waiting = if first {
            self.waiting.pop_front()
        } else {
            self.waiting.pop_back()
        }?;
        self.size -= waiting.item.size();
        Some(waiting.item)
    }
}

impl<T: Waits> Waiting<T> {
    fn is_late(&self, now: Instant, service: Duration) -> bool {
        let deadline = self.item.deadline();
        let half = deadline.saturating_duration_since(self.arrived) / 2;
        now > self.arrived + half || now + service > deadline
    }
}

#[cfg(test)]
#[path = "fair_tests.rs"]
mod tests;
