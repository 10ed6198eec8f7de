//! How a test waits: until something is so, and at most so long. No test waits for time to pass as such.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

/// How long a condition may take that nothing in the specification bounds: generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Waits until `probe` gives something, within [`PATIENCE`].
///
/// # Panics
/// When it does not: `what` says what never happened.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, probe).await
}

/// Waits until `probe` gives something, within a bound that the test is about.
///
/// # Panics
/// When it does not: `what` says what never happened.
pub async fn eventually_within<T>(
    within: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // The clock is read before the probe: a probe that begins within the bound counts.
        let late = start.elapsed() > within;
        if let Some(found) = probe().await {
            return found;
        }
        assert!(!late, "within {within:?} it never happened: {what}");
    }
}

/// Tries until it succeeds; a try that begins before the deadline counts.
///
/// # Errors
/// What the last one failed with.
pub async fn tried_until<T, E>(
    deadline: Instant,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let late = Instant::now() > deadline;
        match attempt().await {
            Err(_) if !late => {}
            ended => return ended,
        }
    }
}

/// Waits until `deadline` has passed on this process's clock: for what must *not* happen until then, or must not be so
/// any more after it. `probe` is called all the while and may assert.
pub async fn throughout(deadline: Instant, mut probe: impl AsyncFnMut()) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < deadline {
        tick.tick().await;
        probe().await;
    }
}
