//! The plugin breaker: a plugin of whose recent calls half were faults is not asked for a while.
//!
//! Counts faults (traps and passed limits), never failures that a plugin returned: a source that is down is not the
//! plugin's fault. Takes the time as an argument and does no I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::account::Calls;
use crate::error::{Failure, FailureKind, Origin};

/// How far back calls count, in seconds; one bucket each.
const WINDOW: usize = 10;
/// Fewer calls than this say nothing.
const CALLS_MIN: u32 = 20;
/// How long it stays open before one call is tried.
const OPEN: Duration = Duration::from_secs(5);

/// The breaker of one running plugin.
pub(super) struct Breaker {
    name: String,
    /// What calls came to since the start; the breaker itself looks back no further than its window.
    calls: Arc<Calls>,
    origin: Instant,
    /// 0: closed; else when one call may be tried, in milliseconds after `origin` plus one.
    open_until: AtomicU64,
    /// A tried call is on its way.
    trying: AtomicBool,
    buckets: [Bucket; WINDOW],
    last_error: Mutex<String>,
}

#[derive(Default)]
struct Bucket {
    second: AtomicU64,
    calls: AtomicU32,
    faults: AtomicU32,
}

/// Leave to make one call. Dropped without an outcome (the caller went away), it counts as nothing.
pub(super) struct Admission<'a> {
    breaker: &'a Breaker,
    begun: Instant,
    /// The one call that is tried while the breaker is open.
    trial: bool,
}

impl Breaker {
    /// A closed breaker.
    pub(super) fn new(name: &str, now: Instant, calls: &Arc<Calls>) -> Arc<Self> {
        Arc::new(Self {
            calls: Arc::clone(calls),
            name: name.to_owned(),
            origin: now,
            open_until: AtomicU64::new(0),
            trying: AtomicBool::new(false),
            buckets: Default::default(),
            last_error: Mutex::new(String::new()),
        })
    }

    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// `plugin-breaker-open`, with the time after which it may be asked again.
    pub(super) fn admit(&self, now: Instant) -> Result<Admission<'_>, Failure> {
        let until = self.open_until.load(Ordering::Acquire);
        let trial = if until == 0 {
            false
        } else if self.millis(now) < until || self.trying.swap(true, Ordering::AcqRel) {
            return Err(self.refused(now, until));
        } else {
            true
        };
        Ok(Admission {
            breaker: self,
            begun: now,
            trial,
        })
    }

    /// The last fault, if the breaker is open.
    pub(super) fn open(&self) -> Option<String> {
        (self.open_until.load(Ordering::Acquire) != 0).then(|| self.last_error.lock().clone())
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn refused(&self, now: Instant, until: u64) -> Failure {
        let wait = Duration::from_millis(until.saturating_sub(self.millis(now)));
        Failure {
            retry_after: Some(wait.max(Duration::from_secs(1))),
            ..Failure::host(
                FailureKind::Unavailable,
                "plugin-breaker-open",
                format!(
                    "`{}` failed too often and is not asked for now; last: {}",
                    self.name,
                    self.last_error.lock()
                ),
            )
        }
    }

    /// Counts a call. Two threads may meet at the turn of a second and lose a count between them: the breaker is a
    /// threshold, not a ledger.
    fn count(&self, now: Instant, fault: Option<&Failure>) {
        let second = self.millis(now) / 1000;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the remainder is below WINDOW"
        )]
        let bucket = &self.buckets[(second % WINDOW as u64) as usize];
        if bucket.second.swap(second, Ordering::Relaxed) != second {
            bucket.calls.store(0, Ordering::Relaxed);
            bucket.faults.store(0, Ordering::Relaxed);
        }
        bucket.calls.fetch_add(1, Ordering::Relaxed);
        let Some(fault) = fault else { return };
        bucket.faults.fetch_add(1, Ordering::Relaxed);
        let (mut calls, mut faults) = (0, 0);
        for bucket in &self.buckets {
            if bucket.second.load(Ordering::Relaxed) + WINDOW as u64 > second {
                calls += bucket.calls.load(Ordering::Relaxed);
                faults += bucket.faults.load(Ordering::Relaxed);
            }
        }
        *self.last_error.lock() = fault.to_string();
        if calls >= CALLS_MIN && faults * 2 >= calls {
            self.open_again(now);
        }
    }

    fn open_again(&self, now: Instant) {
        let until = self.millis(now) + u64::try_from(OPEN.as_millis()).unwrap_or(u64::MAX);
        if self.open_until.swap(until, Ordering::AcqRel) == 0 {
            tracing::warn!(plugin = %self.name, "half of the recent calls were faults; not asked for {OPEN:?}");
        }
    }

    fn close(&self) {
        for bucket in &self.buckets {
            bucket.calls.store(0, Ordering::Relaxed);
            bucket.faults.store(0, Ordering::Relaxed);
        }
        self.open_until.store(0, Ordering::Release);
        tracing::info!(plugin = %self.name, "answers again");
    }
}

impl Admission<'_> {
    /// The call ended: `fault` is why, if the plugin is to blame.
    pub(super) fn ended<T>(self, now: Instant, result: &Result<T, Failure>) {
        // A call that was turned away is none.
        if let Err(failure) = result
            && failure.kind == FailureKind::Overloaded
            && failure.origin == Origin::Host
        {
            return;
        }
        let fault = result.as_ref().err().filter(|failure| failure.is_fault());
        let calls = &self.breaker.calls;
        calls
            .durations
            .add(now.saturating_duration_since(self.begun));
        calls.calls.fetch_add(1, Ordering::Relaxed);
        match (result, fault) {
            (Ok(_), _) => {}
            (Err(_), None) => {
                calls.failures.fetch_add(1, Ordering::Relaxed);
            }
            (Err(_), Some(_)) => {
                calls.faults.fetch_add(1, Ordering::Relaxed);
            }
        }
        // One that never reached the guest, for want of a place or of an instance, says nothing of it: a trial that ended so
        // leaves the breaker as it is.
        if let Err(failure) = result
            && failure.origin == Origin::Host
        {
            return;
        }
        match (self.trial, fault) {
            (false, fault) => self.breaker.count(now, fault),
            (true, None) => self.breaker.close(),
            (true, Some(fault)) => {
                *self.breaker.last_error.lock() = fault.to_string();
                self.breaker.open_again(now);
            }
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.trial {
            self.breaker.trying.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Result<(), Failure> {
        Err(Failure::fault(Origin::Trap, "trap", "boom"))
    }

    fn calls(breaker: &Arc<Breaker>, now: Instant, n: usize, result: &Result<(), Failure>) {
        for _ in 0..n {
            if let Ok(admission) = breaker.admit(now) {
                admission.ended(now, result);
            }
        }
    }

    #[test]
    fn it_opens_at_twenty_calls_of_which_half_were_faults_and_half_opens_after_five_seconds() {
        let start = Instant::now();
        let breaker = Breaker::new("x", start, &Arc::default());
        calls(&breaker, start, 10, &Ok(()));
        calls(&breaker, start, 9, &fault());
        assert!(breaker.open().is_none());
        calls(&breaker, start, 1, &fault());
        assert_eq!(breaker.open().as_deref(), Some("trap: boom"));
        let refused = breaker.admit(start).err().unwrap();
        assert_eq!(
            (&*refused.code, refused.retry_after),
            ("plugin-breaker-open", Some(OPEN))
        );

        let later = start + OPEN;
        let trial = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err(), "one call is tried, not two");
        trial.ended(later, &fault());
        assert!(breaker.admit(later).is_err());

        let later = later + OPEN;
        breaker.admit(later).unwrap().ended(later, &Ok(()));
        assert!(breaker.open().is_none());
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_tried_call_that_goes_away_lets_another_be_tried() {
        let start = Instant::now();
        let breaker = Breaker::new("x", start, &Arc::default());
        calls(&breaker, start, 20, &fault());
        let later = start + OPEN;
        drop(breaker.admit(later).unwrap());
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn a_trial_that_never_reached_the_guest_leaves_it_open() {
        let start = Instant::now();
        let breaker = Breaker::new("x", start, &Arc::default());
        calls(&breaker, start, 20, &fault());
        let later = start + OPEN;
        let no_place: Result<(), _> = Err(Failure::host(FailureKind::Timeout, "timeout", "full"));
        breaker.admit(later).unwrap().ended(later, &no_place);
        assert!(breaker.open().is_some());
        // Nor does it pass for a call that went well.
        breaker.admit(later).unwrap().ended(later, &Ok(()));
        calls(&breaker, later, 100, &no_place);
        calls(&breaker, later, 20, &fault());
        assert!(breaker.open().is_some());
    }

    #[test]
    fn returned_failures_and_old_faults_do_not_count() {
        let start = Instant::now();
        let breaker = Breaker::new("x", start, &Arc::default());
        let returned = Err(Failure {
            origin: Origin::Returned,
            ..Failure::host(FailureKind::Unavailable, "down", "the source is down")
        });
        calls(&breaker, start, 100, &returned);
        assert!(breaker.open().is_none());
        calls(&breaker, start, 50, &fault());
        assert!(breaker.open().is_none());
        let later = start + Duration::from_secs(11);
        calls(&breaker, later, 19, &fault());
        assert!(
            breaker.open().is_none(),
            "nineteen calls in the window say nothing"
        );
        calls(&breaker, later, 1, &fault());
        assert!(breaker.open().is_some());
    }
}
