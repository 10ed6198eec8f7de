//! Fresh, stale or dead: pure arithmetic that takes `now`. Every path that serves an entry asks this file, so that all
//! of them check the same bound (law 5).

use std::time::Duration;

use super::generations::Verdict;

/// A route's freshness policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The longest time to live a loader may ask for.
    pub ttl_max: Duration,
    /// How long a value is fresh when the loader does not say.
    pub ttl: Duration,
    /// Counted from the end of the ttl.
    pub stale_while_revalidate: Duration,
    /// Counted from the end of the ttl.
    pub stale_if_error: Duration,
    /// When a hit reloads behind what is still fresh.
    pub refresh_ahead: RefreshAhead,
    /// 0.0–1.0 of the ttl, taken off at random.
    pub jitter: f64,
    /// How long an absence is remembered when the loader does not say.
    pub missing_ttl: Duration,
    /// How long a failure is remembered.
    pub failure_ttl: Duration,
    /// With something stale in hand: answer it after this long.
    pub soft_timeout: Option<Duration>,
    /// How long one load may take.
    pub timeout: Duration,
}

impl Policy {
    /// What a hit asks of it.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            ttl_max_ms: millis(self.ttl_max),
            ttl_ms: millis(self.ttl),
            swr_ms: millis(self.stale_while_revalidate),
            sie_ms: millis(self.stale_if_error),
            refreshes_ahead: self.refresh_ahead != RefreshAhead::Off,
        }
    }
}

/// What a hit asks of a policy, in milliseconds. Held with each question, for with thousands of routes every request meets one
/// that nobody has met for a while, and to go there costs as much as all that a hit computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// [`Policy::ttl_max`]
    pub ttl_max_ms: u64,
    /// [`Policy::ttl`]
    pub ttl_ms: u64,
    /// [`Policy::stale_while_revalidate`]
    pub swr_ms: u64,
    /// [`Policy::stale_if_error`]
    pub sie_ms: u64,
    /// Whether [`Policy::refresh_ahead`] is on.
    pub refreshes_ahead: bool,
}

/// When a hit reloads behind what is still fresh, so that nobody has to wait once it no longer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RefreshAhead {
    /// Never.
    Off,
    /// By chance, likelier the nearer the end is and the longer loads take: XFetch (Vattani, Chierichetti and Lowenstein,
    /// "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015) with β = 1.
    Auto,
    /// When this share of the ttl is over.
    After(f64),
}

impl RefreshAhead {
    /// Whether an entry that is fresh for `left_ms` more of its `ttl_ms` is to be reloaded now, where a load takes
    /// `load_ms`; `random` is uniform in 0.0–1.0.
    pub fn is_due(self, left_ms: u64, ttl_ms: u64, load_ms: f64, random: f64) -> bool {
        match self {
            Self::Off => false,
            Self::Auto => (left_ms as f64) < load_ms * -random.ln(),
            Self::After(share) => ttl_ms.saturating_sub(left_ms) as f64 >= ttl_ms as f64 * share,
        }
    }
}

/// The times of one entry, in milliseconds. Durations, not instants, except for when it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it was loaded (or renewed), on this node's clock: milliseconds since 1970.
    pub loaded_ms: u64,
    /// How long it is fresh, jitter already taken off.
    pub ttl_ms: u64,
    /// Whether the loader gave the ttl (then the reader's own `ttl` does not cut it, only `ttl_max` does).
    pub ttl_from_loader: bool,
    /// The window after the ttl in which it may be served while it is reloaded behind.
    pub swr_ms: u64,
    /// The window after the ttl in which it may be served when the load fails.
    pub sie_ms: u64,
}

/// What may be done with an entry now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Before the end of its ttl.
    Fresh {
        /// Milliseconds until then.
        left_ms: u64,
    },
    /// Past its ttl (or expired by a purge) and inside at least one window.
    Stale {
        /// Milliseconds since the end of the ttl; 0 when a purge ended it early.
        over_ms: u64,
        /// May be served while it is reloaded behind.
        while_revalidate: bool,
        /// May be served when the load fails.
        if_error: bool,
    },
    /// Past every window or older than a purge: never served. Its validator may still be shown to the loader
    /// unless it is older than a purge.
    Dead,
}

impl Times {
    /// What may be done at `now_ms` with an entry of these times that generations judge as `verdict`, by a reader whose
    /// policy says `bounds`: of two configurations the smaller duration counts.
    pub fn freshness(&self, now_ms: u64, verdict: Verdict, bounds: &Bounds) -> Freshness {
        if verdict == Verdict::Dead {
            return Freshness::Dead;
        }
        let end_ms = self.loaded_ms.saturating_add(self.ttl_within(bounds));
        if now_ms < end_ms && verdict == Verdict::Alive {
            return Freshness::Fresh {
                left_ms: end_ms - now_ms,
            };
        }
        // An expired entry is past its ttl, but its windows still count from the original end of it.
        let open = |window_ms: u64| window_ms > 0 && now_ms < end_ms.saturating_add(window_ms);
        let (swr_ms, sie_ms) = self.windows_within(bounds);
        let (while_revalidate, if_error) = (open(swr_ms), open(sie_ms));
        if while_revalidate || if_error {
            Freshness::Stale {
                over_ms: now_ms.saturating_sub(end_ms),
                while_revalidate,
                if_error,
            }
        } else {
            Freshness::Dead
        }
    }

    /// The ttl as a reader with this policy sees it.
    pub fn ttl_within(&self, bounds: &Bounds) -> u64 {
        let bound_ms = if self.ttl_from_loader {
            bounds.ttl_max_ms
        } else {
            bounds.ttl_ms.min(bounds.ttl_max_ms)
        };
        self.ttl_ms.min(bound_ms)
    }

    /// The windows, revalidating and on error, in milliseconds: the smaller of what was stored and what this policy says.
    pub fn windows_within(&self, bounds: &Bounds) -> (u64, u64) {
        (
            self.swr_ms.min(bounds.swr_ms),
            self.sie_ms.min(bounds.sie_ms),
        )
    }

    /// Milliseconds from the load to the end of the last window: how long any tier needs to keep it.
    pub fn life_ms(&self) -> u64 {
        self.ttl_ms.saturating_add(self.swr_ms.max(self.sie_ms))
    }

    /// Whole milliseconds since the load; 0 if clocks disagree about the order.
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.loaded_ms)
    }
}

/// Milliseconds of a duration, saturating.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Takes `jitter` (0.0–1.0) of the ttl off, by `random` (0.0–1.0). Downwards only: a bound that is set is never passed.
pub fn jittered(ttl_ms: u64, jitter: f64, random: f64) -> u64 {
    // A ttl that was not zero stays at least a millisecond: jitter must not turn "store" into "do not store".
    let off = (ttl_ms as f64 * jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0)) as u64;
    (ttl_ms - off.min(ttl_ms)).max(u64::from(ttl_ms > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        ttl: Duration::from_secs(60),
        ttl_max: Duration::from_secs(3600),
        jitter: 0.0,
        refresh_ahead: RefreshAhead::Off,
        stale_while_revalidate: Duration::from_secs(30),
        stale_if_error: Duration::from_secs(600),
        missing_ttl: Duration::from_secs(5),
        failure_ttl: Duration::from_secs(1),
        soft_timeout: None,
        timeout: Duration::from_secs(2),
    };
    const TIMES: Times = Times {
        loaded_ms: 1_000_000,
        ttl_ms: 60_000,
        ttl_from_loader: false,
        swr_ms: 30_000,
        sie_ms: 600_000,
    };

    fn check(after_ms: u64, verdict: Verdict, expect: Freshness) {
        assert_eq!(
            TIMES.freshness(1_000_000 + after_ms, verdict, &POLICY.bounds()),
            expect,
            "{after_ms} ms, {verdict:?}"
        );
    }

    fn stale(over_ms: u64, while_revalidate: bool, if_error: bool) -> Freshness {
        Freshness::Stale {
            over_ms,
            while_revalidate,
            if_error,
        }
    }

    #[test]
    fn windows_start_at_the_end_of_the_ttl_and_are_not_added() {
        check(0, Verdict::Alive, Freshness::Fresh { left_ms: 60_000 });
        check(59_999, Verdict::Alive, Freshness::Fresh { left_ms: 1 });
        check(60_000, Verdict::Alive, stale(0, true, true));
        check(89_999, Verdict::Alive, stale(29_999, true, true));
        check(90_000, Verdict::Alive, stale(30_000, false, true));
        check(659_999, Verdict::Alive, stale(599_999, false, true));
        check(660_000, Verdict::Alive, Freshness::Dead);
    }

    #[test]
    fn an_expired_entry_keeps_its_windows_from_the_original_end() {
        check(10, Verdict::Expired, stale(0, true, true));
        check(90_000, Verdict::Expired, stale(30_000, false, true));
        check(660_000, Verdict::Expired, Freshness::Dead);
        check(10, Verdict::Dead, Freshness::Dead);
    }

    #[test]
    fn expiring_where_no_window_is_configured_is_the_end() {
        let policy = Policy {
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            ..POLICY
        };
        assert_eq!(
            TIMES.freshness(1_000_010, Verdict::Expired, &policy.bounds()),
            Freshness::Dead
        );
    }

    #[test]
    fn law_5_the_smaller_of_two_configurations_counts() {
        let policy = Policy {
            ttl: Duration::from_secs(10),
            stale_if_error: Duration::from_secs(20),
            ..POLICY
        };
        assert_eq!(
            TIMES.freshness(1_010_000, Verdict::Alive, &policy.bounds()),
            stale(0, true, true)
        );
        assert_eq!(
            TIMES.freshness(1_040_000, Verdict::Alive, &policy.bounds()),
            Freshness::Dead
        );
        // A ttl from the loader is cut by ttl_max alone.
        let given = Times {
            ttl_from_loader: true,
            ..TIMES
        };
        assert_eq!(
            given.freshness(1_010_000, Verdict::Alive, &policy.bounds()),
            Freshness::Fresh { left_ms: 50_000 }
        );
    }

    #[test]
    fn a_reload_ahead_is_due_by_share_or_by_chance_and_load_time() {
        let due =
            |ahead: RefreshAhead, left_ms, random| ahead.is_due(left_ms, 60_000, 100.0, random);
        assert!(!due(RefreshAhead::Off, 0, 0.0));
        let last_fifth = RefreshAhead::After(0.8);
        assert!(!due(last_fifth, 12_002, 0.0) && due(last_fifth, 12_000, 1.0));
        // With an even chance within 69 ms of the end, for loads of 100 ms: e^-0.69 is a half.
        assert!(due(RefreshAhead::Auto, 69, 0.5) && !due(RefreshAhead::Auto, 70, 0.5));
        assert!(!due(RefreshAhead::Auto, 1, 1.0));
        assert!(
            !RefreshAhead::Auto.is_due(1, 60_000, 0.0, 0.0),
            "no load was measured"
        );
    }

    #[test]
    fn jitter_only_shortens_and_never_turns_storing_off() {
        assert_eq!(jittered(1000, 0.1, 1.0), 900);
        assert_eq!(jittered(1000, 0.1, 0.0), 1000);
        assert_eq!(jittered(1, 1.0, 1.0), 1);
        assert_eq!(jittered(0, 0.5, 0.5), 0);
    }
}
