//! How long to wait before something that failed is tried again, until it succeeds: an instance is made again at once, then
//! after 100 ms, doubling to 5 s; a change feed is asked again after 100 ms, doubling to 30 s.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);

/// The waits of one slot, or of one change feed.
pub(super) struct Backoff {
    next: Duration,
    begin: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::ZERO, Duration::from_secs(5))
    }
}

impl Backoff {
    /// The waits of a change feed.
    pub(super) fn of_feed() -> Self {
        Self::new(FIRST, Duration::from_secs(30))
    }

    fn new(begin: Duration, longest: Duration) -> Self {
        Self {
            next: begin,
            begin,
            longest,
        }
    }

    /// The wait before the next attempt; each is longer than the one before.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).clamp(FIRST, self.longest);
        delay
    }

    /// Something succeeded: the waits begin anew.
    pub(super) fn reset(&mut self) {
        self.next = self.begin;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_waits_double_to_five_seconds() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::ZERO);
    }

    #[test]
    fn a_feed_is_asked_again_after_100_ms_doubling_to_thirty_seconds() {
        let mut backoff = Backoff::of_feed();
        let waits: Vec<_> = (0..10).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(
            waits,
            [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000]
        );
        backoff.reset();
        assert_eq!(backoff.next_delay(), Duration::from_millis(100));
    }
}
