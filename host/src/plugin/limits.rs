//! What one plugin may use of the machine (law 9): names, defaults and bounds, in one table.
//!
//! Owns numbers and nothing else; who enforces which of them is said beside each field.

use std::time::Duration;

use super::compile::Exports;
use crate::config::PluginLimits;

/// The limits of one plugin, resolved: what the sidecar leaves out has the default of the plugin's kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory of one instance, all its memories together.
    pub memory: usize,
    /// The longest uninterrupted slice of guest code of an async loader; the whole call of a key policy or a blocking loader.
    pub cpu: Duration,
    /// Wall clock of one call; the smaller of it and the question's own timeout wins.
    pub timeout: Duration,
    /// Instances of an async loader, or the size of the pool of a blocking one.
    pub instances: usize,
    /// Calls at once in one async instance.
    pub concurrency: usize,
    /// Bytes of one body, to or from the guest.
    pub body: usize,
    /// Outbound requests at once of one instance.
    pub fetches: usize,
    /// Calls that wait in the host for a place in an instance; over it: 503.
    pub queue: usize,
    /// Bytes that a guest may hand to the host in one call beside a body: names, tags, headers, messages.
    pub host_data: usize,
    /// Lines (of stdout, stderr and the `log` interface) that reach the host's log in a second; more are counted and dropped.
    pub log_lines: u32,
    /// Bytes of one such line; the rest of it is cut.
    pub log_line: usize,
    /// Wall clock of each of `start`, `probe` and `stop`.
    pub lifecycle: Duration,
}

/// One row of the table of limits, for the docs and `larder check --defaults`.
#[derive(Clone, Copy, Debug)]
pub struct LimitRow {
    /// The key under `[limits]`, or the name of a bound that is not configurable.
    pub name: &'static str,
    /// The default, as it would be written.
    pub default: &'static str,
    /// Whether a sidecar can set it.
    pub configurable: bool,
    /// What it bounds, in one sentence.
    pub meaning: &'static str,
}

const MEBIBYTE: usize = 1024 * 1024;

const TABLE: &[LimitRow] = &[
    LimitRow { name: "memory", default: "64MiB", configurable: true, meaning: "linear memory of one instance" },
    LimitRow {
        name: "cpu",
        default: "50ms",
        configurable: true,
        meaning: "the longest uninterrupted slice of guest code of an async loader; the whole call of a key policy or a blocking loader",
    },
    LimitRow { name: "timeout", default: "2s", configurable: true, meaning: "wall clock of one call" },
    LimitRow { name: "instances", default: "1 (blocking: 8)", configurable: true, meaning: "instances of a loader" },
    LimitRow { name: "concurrency", default: "256", configurable: true, meaning: "calls at once in one async instance" },
    LimitRow { name: "body", default: "8MiB", configurable: true, meaning: "one body, to or from the guest" },
    LimitRow { name: "fetches", default: "32", configurable: true, meaning: "outbound requests at once of one instance" },
    LimitRow { name: "queue", default: "10000", configurable: false, meaning: "calls that wait for a place in an instance; over it: 503" },
    LimitRow { name: "host-data", default: "4MiB", configurable: false, meaning: "what a guest hands to the host in one call beside a body" },
    LimitRow {
        name: "log-lines",
        default: "100",
        configurable: false,
        meaning: "lines a plugin may log in a second (stdout and stderr included); more are counted and dropped",
    },
    LimitRow { name: "log-line", default: "4KiB", configurable: false, meaning: "one such line; the rest of it is cut" },
    LimitRow { name: "lifecycle", default: "10s", configurable: false, meaning: "wall clock of each of start, probe and stop" },
    LimitRow { name: "component", default: "64MiB", configurable: false, meaning: "the size of a component file" },
];

impl Limits {
    /// The sidecar's `[limits]` with the defaults of the plugin's kind filled in.
    pub fn resolve(given: &PluginLimits, exports: &Exports) -> Self {
        let blocking = exports.blocking_loader && !exports.loader;
        let bytes = |given: Option<u64>, default: usize| {
            given.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX))
        };
        Self {
            memory: bytes(given.memory, 64 * MEBIBYTE),
            cpu: given.cpu.unwrap_or(Duration::from_millis(50)),
            timeout: given.timeout.unwrap_or(Duration::from_secs(2)),
            instances: given.instances.unwrap_or(if blocking { 8 } else { 1 }).max(1),
            concurrency: given.concurrency.unwrap_or(256).max(1),
            body: bytes(given.body, 8 * MEBIBYTE),
            fetches: given.fetches.unwrap_or(32),
            queue: 10_000,
            host_data: 4 * MEBIBYTE,
            log_lines: 100,
            log_line: 4096,
            lifecycle: Duration::from_secs(10),
        }
    }

    /// Every limit with its default, for the docs.
    pub fn table() -> &'static [LimitRow] {
        TABLE
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::resolve(&PluginLimits::default(), &Exports::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocking_loader_has_a_pool_and_an_async_one_a_single_instance() {
        let blocking = Exports { blocking_loader: true, ..Exports::default() };
        assert_eq!(Limits::resolve(&PluginLimits::default(), &blocking).instances, 8);
        assert_eq!(Limits::default().instances, 1);
    }

    #[test]
    fn what_the_sidecar_says_wins() {
        let given = PluginLimits { memory: Some(1), instances: Some(3), ..PluginLimits::default() };
        let limits = Limits::resolve(&given, &Exports::default());
        assert_eq!((limits.memory, limits.instances), (1, 3));
    }
}
