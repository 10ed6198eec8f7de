//! How the writers are: how many calls each has, how large, and whether its source is to be had. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::failing::{FIRST_WAIT, LONGEST_WAIT, doubled, jittered};
use super::lanes::Batching;
use crate::error::{Failure, FailureKind};

/// Between attempts of a writer whose source is not to be had, at most.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A writer that failed so often in a row will hardly be helped by waiting a little more.
const HOPELESS: u32 = 5;

/// All of them, by name.
pub(super) struct Writers {
    batching: Batching,
    lines: HashMap<Arc<str>, Line>,
}

/// One.
struct Line {
    /// Calls.
    out: usize,
    /// Batches of at most so many, because larger ones took too long.
    cap: usize,
    /// Batches in a row that failed as a whole.
    streak: u32,
    paused: Option<Instant>,
}

impl Writers {
    pub(super) fn new(batching: Batching) -> Self {
        Self {
            batching,
            lines: HashMap::new(),
        }
    }

    fn line(&mut self, writer: &Arc<str>) -> &mut Line {
        let cap = self.batching.max;
        let line = self.lines.entry(Arc::clone(writer));
        line.or_insert(Line {
            out: 0,
            cap,
            streak: 0,
            paused: None,
        })
    }

    /// Whether it may have another call now.
    pub(super) fn may_go(&mut self, writer: &Arc<str>, now: Instant) -> bool {
        let at_once = self.batching.at_once;
        let line = self.line(writer);
        // One at a time is enough to find out whether its source is back.
        let at_once = if line.streak > 0 { 1 } else { at_once };
        line.out < at_once && line.paused.is_none_or(|until| until <= now)
    }

    /// How many changes a call may have.
    pub(super) fn cap(&mut self, writer: &Arc<str>) -> usize {
        self.line(writer).cap
    }

    /// It has another call.
    pub(super) fn begun(&mut self, writer: &Arc<str>) {
        self.line(writer).out += 1;
    }

    /// One with so many changes has ended. `died`: the plugin did; `in_vain`: nothing was made, and all of it may be later.
    pub(super) fn ended(
        &mut self,
        (writer, size): (&Arc<str>, usize),
        results: &[Result<(), Failure>],
        (died, in_vain): (bool, bool),
        now: Instant,
    ) {
        let most = self.batching.max;
        let line = self.line(writer);
        line.out = line.out.saturating_sub(1);
        let failures = || results.iter().filter_map(|result| result.as_ref().err());
        if in_vain {
            line.streak = line.streak.saturating_add(1);
            let asked = failures().filter_map(|failure| failure.retry_after).min();
            let pause = doubled(FIRST_WAIT, line.streak, LONGEST_PAUSE);
            let pause = asked.map_or(pause, |asked| pause.max(asked.min(LONGEST_WAIT)));
            line.paused = Some(now + jittered(pause));
            if failures().all(|failure| failure.kind == FailureKind::Timeout) {
                line.cap = (size / 2).max(1);
            }
        } else if !died {
            line.streak = 0;
            line.paused = None;
            line.cap = line.cap.saturating_mul(2).min(most);
        }
    }

    /// When it goes on, if it pauses.
    pub(super) fn resumed(&self, writer: &Arc<str>) -> Option<Instant> {
        self.lines.get(writer)?.paused
    }

    /// When the next of them goes on.
    pub(super) fn resumed_next(&self, now: Instant) -> Option<Instant> {
        let paused = self.lines.values().filter_map(|line| line.paused);
        paused.filter(|until| *until > now).min()
    }

    /// Whether none of them gets anything done.
    pub(super) fn are_hopeless(&self) -> bool {
        self.lines.values().all(|line| line.streak >= HOPELESS)
    }
}
