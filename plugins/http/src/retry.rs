//! Whether a request is made again, and when. Pure: it is given the time that is left and what chance says.
//!
//! A source that is down must not be asked more often for being down. So retries are paid from a bucket that requests
//! fill: in the long run one retry for ten requests, whatever fails, and a few more at the start.

use std::time::Duration;

/// The wait before the first retry, half of it to chance; it doubles with each.
const WAIT: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is worth waiting for with a client on the line. A longer one is told to the cache.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// What pays for retries, in tenths of one.
#[derive(Debug)]
pub(crate) struct Budget(u32);

impl Budget {
    const RETRY: u32 = 10;
    const REQUEST: u32 = 1;
    const MAX: u32 = 5 * Self::RETRY;

    /// Full: a source that is rarely asked can be asked again, too.
    pub(crate) const fn new() -> Self {
        Self(Self::MAX)
    }

    /// A request is made.
    pub(crate) fn earn(&mut self) {
        self.0 = (self.0 + Self::REQUEST).min(Self::MAX);
    }

    /// Pays for a retry, if it can.
    pub(crate) fn spend(&mut self) -> bool {
        let left = self.0.checked_sub(Self::RETRY);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// How long to wait before retry number `retry` (from 0), if there is time for it in what is `left`. `retry_after` is what
/// the source asked for; `chance` is any number.
pub(crate) fn wait(
    retry: u32,
    retry_after: Option<Duration>,
    left: Duration,
    chance: u64,
) -> Option<Duration> {
    let most = WAIT.saturating_mul(1 << retry.min(10)).min(WAIT_MAX);
    let half = most / 2;
    let jitter = Duration::from_micros(chance % (half.as_micros() as u64 + 1));
    let wait = match retry_after {
        Some(asked) if asked > RETRY_AFTER_MAX => return None,
        // Never before the source said; chance keeps those apart that it said the same to.
        Some(asked) => asked + jitter,
        None => half + jitter,
    };
    (wait < left).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::{Budget, wait};
    use std::time::Duration;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn under_total_failure_retries_stay_near_a_tenth_of_the_requests() {
        let mut budget = Budget::new();
        let mut retries = 0;
        for _ in 0..1000 {
            budget.earn();
            while budget.spend() {
                retries += 1;
            }
        }
        assert_eq!(retries, 5 + 100 - 1); // the first request found the bucket full
    }

    #[test]
    fn waits_double_and_chance_takes_up_to_half() {
        let second = Duration::from_secs(10);
        for (retry, most) in [(0, 50), (1, 100), (2, 200), (5, 1000), (100, 1000)] {
            let half = most * 1000 / 2;
            assert_eq!(wait(retry, None, second, 0), Some(MS * most / 2));
            assert_eq!(wait(retry, None, second, half.into()), Some(MS * most));
            assert!(wait(retry, None, second, u64::MAX).unwrap() <= MS * most);
        }
    }

    #[test]
    fn no_wait_ends_after_the_deadline() {
        assert_eq!(wait(0, None, MS * 25, 0), None);
        assert_eq!(wait(0, None, MS * 26, 0), Some(MS * 25));
        assert_eq!(wait(0, None, Duration::ZERO, 0), None);
    }

    #[test]
    fn the_source_is_not_asked_before_it_said() {
        let left = Duration::from_secs(10);
        assert_eq!(wait(0, Some(MS * 1000), left, 0), Some(MS * 1000));
        assert_eq!(wait(0, Some(Duration::ZERO), left, 7000), Some(MS * 7));
        assert_eq!(wait(0, Some(MS * 1001), left, 0), None);
        assert_eq!(wait(0, Some(MS * 1000), MS * 1000, 0), None);
    }
}
