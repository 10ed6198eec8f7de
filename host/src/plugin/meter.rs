//! How long guest code may run: the meter that the epoch ticks of one store arrive at.
//!
//! Owns the two ways to count. An async instance is bounded by the *slice*: guest code between two moments at which it
//! gives the thread back by itself. A blocking loader or a key policy is bounded by the *call*. Wall clock is not counted
//! here: a guest that waits in the host never meets an epoch, so every call also has a deadline of the host's.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The meter of one store. Only ever touched by whoever drives the store, so every access is relaxed.
pub(super) struct Meter {
    what: What,
    limit: Duration,
    /// Off during `instantiate`, `start`, `probe` and `stop`: those have a budget of wall clock alone.
    enforced: AtomicBool,
    /// Ticks in this slice.
    ticks: AtomicU64,
    /// The guest was interrupted to be fair, not because it was done: what runs next is the same slice.
    interrupted: AtomicBool,
    /// Processor time of this call before this turn, in nanoseconds.
    spent: AtomicU64,
    /// The thread's processor time when this turn began, in nanoseconds.
    began: AtomicU64,
    exceeded: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Ticks between two moments at which the guest gives the thread back by itself.
    Slice,
    /// Ticks of a synchronous call.
    Call,
    /// Processor time of an asynchronous call, over all its turns.
    Turns,
}

impl Meter {
    /// Bounds the longest uninterrupted slice.
    pub(super) fn slice(limit: Duration) -> Self {
        Self::new(What::Slice, limit)
    }

    /// Bounds one synchronous call that never leaves its thread.
    pub(super) fn call(limit: Duration) -> Self {
        Self::new(What::Call, limit)
    }

    /// Bounds the guest code of one call that may wait and move between threads.
    pub(super) fn turns(limit: Duration) -> Self {
        Self::new(What::Turns, limit)
    }

    fn new(what: What, limit: Duration) -> Self {
        Self {
            what,
            limit,
            enforced: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            interrupted: AtomicBool::new(false),
            spent: AtomicU64::new(0),
            began: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
        }
    }

    /// From now on the limit holds.
    pub(super) fn enforce(&self, on: bool) {
        self.reset();
        self.enforced.store(on, Ordering::Relaxed);
    }

    /// A new call (or slice) begins.
    pub(super) fn reset(&self) {
        self.ticks.store(0, Ordering::Relaxed);
        self.spent.store(0, Ordering::Relaxed);
        self.began.store(self.thread_time(), Ordering::Relaxed);
    }

    /// The future that runs the store is polled: guest code may run now.
    pub(super) fn turn_begins(&self) {
        if !self.interrupted.swap(false, Ordering::Relaxed) && self.what == What::Slice {
            self.ticks.store(0, Ordering::Relaxed);
        }
        self.began.store(self.thread_time(), Ordering::Relaxed);
    }

    /// Whether the guest was interrupted, and what runs next is the rest of a slice that is long already.
    pub(super) fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// The poll ended.
    pub(super) fn turn_ends(&self) {
        if self.what == What::Turns {
            let spent = self
                .thread_time()
                .saturating_sub(self.began.load(Ordering::Relaxed));
            self.spent.fetch_add(spent, Ordering::Relaxed);
        }
    }

    /// The store's event loop came round: the guest code that ran before gave the thread back.
    pub(super) fn slice_begins(&self) {
        self.ticks.store(0, Ordering::Relaxed);
    }

    /// Guest code was running when an epoch ended. Says whether it should let others run first.
    ///
    /// # Errors
    /// [`CpuLimit`], which traps the guest.
    ///
    /// Ticks are counted as they are *met*, so time in which the machine ran somebody else is not blamed on the guest:
    /// however late a tick arrives, it counts once. The first one is not counted either, because it usually began before
    /// the slice did.
    pub(super) fn tick(&self) -> Result<bool, CpuLimit> {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let used = match self.what {
            What::Slice | What::Call => Duration::from_millis(ticks - 1),
            What::Turns => Duration::from_nanos(
                self.spent.load(Ordering::Relaxed)
                    + self
                        .thread_time()
                        .saturating_sub(self.began.load(Ordering::Relaxed)),
            ),
        };
        if used > self.limit && self.enforced.load(Ordering::Relaxed) {
            self.exceeded.store(true, Ordering::Relaxed);
            return Err(CpuLimit);
        }
        let fair = ticks > 1;
        self.interrupted.store(fair, Ordering::Relaxed);
        Ok(fair)
    }

    /// Whether the limit was passed: why the store is dead.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Processor time of this thread in nanoseconds. A system call, so only where it is what is counted.
    fn thread_time(&self) -> u64 {
        if self.what != What::Turns {
            return 0;
        }
        let time = clock_gettime(ClockId::ThreadCPUTime);
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
            + u64::try_from(time.tv_nsec).unwrap_or(0)
    }
}

/// The guest ran for longer than `[limits] cpu` allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct CpuLimit;

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest ran for longer than [limits] cpu allows")
    }
}

impl std::error::Error for CpuLimit {}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_until_exceeded(meter: &Meter) -> usize {
        (1..1000)
            .find(|_| meter.tick().is_err())
            .expect("the limit holds")
    }

    #[test]
    fn a_slice_ends_when_the_guest_gives_the_thread_back_and_not_when_it_is_interrupted() {
        let meter = Meter::slice(Duration::from_millis(5));
        meter.enforce(true);
        for _ in 0..6 {
            meter.turn_begins();
            meter.tick().unwrap();
        }
        // The seventh tick of the same slice is one too many; after a slice of its own accord it would not be.
        meter.slice_begins();
        meter.tick().unwrap();
        assert_eq!(ticks_until_exceeded(&meter), 6);
        assert!(meter.exceeded());
    }

    #[test]
    fn interrupted_turns_are_one_slice() {
        let meter = Meter::slice(Duration::from_millis(5));
        meter.enforce(true);
        let mut ticks = 0;
        loop {
            meter.turn_begins();
            ticks += 1;
            if meter.tick().is_err() {
                break;
            }
            assert!(ticks < 100);
            // A first tick does not interrupt, so the next one is met in the same turn.
            if ticks == 1 && meter.tick().is_err() {
                break;
            }
        }
        assert_eq!(ticks, 6);
    }

    #[test]
    fn nothing_is_exceeded_while_it_is_not_enforced() {
        let meter = Meter::slice(Duration::ZERO);
        for _ in 0..100 {
            assert!(meter.tick().is_ok());
        }
        assert!(!meter.exceeded());
    }
}
