//! What a plugin has done since it was loaded: calls and how long they took, faults, the last lines it logged. Counted where
//! calls end; knows neither what was asked nor who is told.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::metrics::durations::{Durations, Read};

/// Lines kept of a plugin for whoever looks at it (law 12).
const LINES_MAX: usize = 50;
/// A line that a plugin logged, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// What.
    pub text: String,
}

/// The last lines of a plugin.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<VecDeque<Line>>);

impl Lines {
    /// One more; over the bound the oldest goes.
    pub(super) fn push(&self, level: &'static str, text: &str) {
        let line = Line {
            at_ms: now_ms(),
            level,
            text: text.to_owned(),
        };
        let mut lines = self.0.lock();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    pub(super) fn read(&self) -> Vec<Line> {
        self.0.lock().iter().cloned().collect()
    }
}

/// What calls came to: `calls = answered + failures + faults`, of those that reached the plugin and ended.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) calls: AtomicU64,
    /// Failures that the plugin returned, and those that it had no time for.
    pub(super) failures: AtomicU64,
    /// Traps and passed limits.
    pub(super) faults: AtomicU64,
    pub(super) durations: Durations,
    /// Stores that are alive: loaders, writers, the feed, idle key policies.
    pub(super) alive: AtomicU64,
    /// How long its code had a thread, in nanoseconds.
    busy_ns: AtomicU64,
}

impl Calls {
    /// Runs a piece of guest code, and adds how long it had the thread.
    ///
    /// By the monotonic clock: the processor's own is a system call, a good part of what a short call costs.
    pub(super) fn timed<T>(&self, run: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let ran = run();
        self.had_thread(began.elapsed());
        ran
    }

    /// Its code had a thread for so long.
    pub(super) fn had_thread(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns.fetch_add(took, Relaxed);
    }

    /// How long its code had a thread.
    pub(super) fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_ns.load(Relaxed))
    }
}

/// All of it at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Calls of loaders and writers that ended.
    pub calls: u64,
    /// Of these, failures that the plugin returned.
    pub failures: u64,
    /// Of these, traps and passed limits.
    pub faults: u64,
    /// How long they took.
    pub durations: Read,
    /// The most linear memory that one instance had, in bytes.
    pub memory_peak: u64,
    /// What one instance may have.
    pub memory_limit: u64,
    /// Instances at most.
    pub instances: u64,
    /// Calls that wait for a place in one.
    pub waiting: u64,
    /// Calls that were turned away: there was no room to wait, or they could not be answered in time.
    pub shed: u64,
    /// Instances that there are now: those of its writer and of its feed too, and of a key policy those that wait to be used.
    pub alive: u64,
    /// How long its code had a thread of this process: processor time, where the machine has processors enough.
    pub busy: Duration,
    /// Whether its breaker is open.
    pub is_open: bool,
    /// The last lines it logged, oldest first.
    pub lines: Vec<Line>,
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_thread_is_added_up() {
        let calls = Calls::default();
        let (mut lasted, turn) = (Duration::ZERO, Duration::from_micros(200));
        for _ in 0..2 {
            lasted += calls.timed(|| {
                let began = Instant::now();
                while began.elapsed() < turn {}
                began.elapsed()
            });
        }
        assert!(calls.busy() >= lasted && lasted >= turn * 2);
    }

    #[test]
    fn law_12_the_oldest_line_goes() {
        let lines = Lines::default();
        for i in 0..=LINES_MAX {
            lines.push("info", &i.to_string());
        }
        let read = lines.read();
        assert_eq!((read.len(), &*read[0].text), (LINES_MAX, "1"));
    }
}
