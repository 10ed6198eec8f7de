//! What one plugin may use of the machine (law 9): names, defaults and bounds, in one table.
//!
//! Owns numbers and nothing else; who enforces which of them is said beside each field.

use std::time::Duration;

use super::compile::Exports;
use crate::config::PluginLimits;
use crate::config::defaults::{Setting, limits};
use crate::config::kind::{Count, Room, Timeout};

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
    /// Bytes that a guest may hand to the host in one call: a body and what is beside it. A batching loader hands over the
    /// bodies of all its questions at once, which lie in its memory at once: as much as that.
    pub handed: usize,
    /// Wall clock of each of `start`, `probe` and `stop`.
    pub lifecycle: Duration,
    /// How long a change feed may wait for the first change of a page; `timeout` is added to it.
    pub feed_wait: Duration,
    /// Changes that a change feed is asked for at once.
    pub feed_page: u32,
    /// Bytes of the cursor of a change feed.
    pub feed_cursor: usize,
    /// Handles that an instance may hold: streams, timers, sockets, requests, whatever the host keeps for it, and its own.
    pub handles: usize,
    /// Elements of all tables of an instance together.
    pub table_elements: usize,
    /// Random bytes that one call of `wasi:random` gives.
    pub random: usize,
}

/// One bound that no sidecar sets, for `larder check --defaults`. Those that it sets are rows of `config::defaults`.
#[derive(Clone, Copy, Debug)]
pub struct LimitRow {
    /// What it is called.
    pub name: &'static str,
    /// The default, as it would be written.
    pub default: &'static str,
    /// What it bounds, in one sentence.
    pub meaning: &'static str,
}

const MEBIBYTE: usize = 1024 * 1024;

/// The pool of a blocking loader, for each of its instances runs one load at a time.
const BLOCKING_INSTANCES: usize = 8;

const TABLE: &[LimitRow] = &[
    LimitRow {
        name: "queue",
        default: "10000",
        meaning: "calls that wait for a place in an instance; over it: 503",
    },
    LimitRow {
        name: "host-data",
        default: "4MiB",
        meaning: "what a guest hands to the host in one call beside a body",
    },
    LimitRow {
        name: "log-lines",
        default: "100",
        meaning: "lines a plugin may log in a second (stdout and stderr included); more are counted and dropped",
    },
    LimitRow {
        name: "log-line",
        default: "4KiB",
        meaning: "one such line; the rest of it is cut",
    },
    LimitRow {
        name: "lifecycle",
        default: "10s",
        meaning: "wall clock of each of start, probe and stop",
    },
    LimitRow {
        name: "feed-wait",
        default: "10s",
        meaning: "how long a change feed may wait for the first change of a page; [limits] timeout is added to it",
    },
    LimitRow {
        name: "feed-page",
        default: "1000",
        meaning: "changes that a change feed is asked for at once",
    },
    LimitRow {
        name: "feed-cursor",
        default: "64KiB",
        meaning: "the cursor of a change feed",
    },
    LimitRow {
        name: "handles",
        default: "65536",
        meaning: "what one instance may hold of the host at once: streams, timers, sockets, requests",
    },
    LimitRow {
        name: "table-elements",
        default: "200000",
        meaning: "the elements of all tables of one instance; a single table has at most 50000",
    },
    LimitRow {
        name: "random",
        default: "1MiB",
        meaning: "random bytes that a guest may ask for in one call",
    },
    LimitRow {
        name: "component",
        default: "64MiB",
        meaning: "the size of a component file",
    },
    LimitRow {
        name: "compilers",
        default: "1",
        meaning: "components that are compiled at once, each in a process of its own within compile_cpu and compile_memory of [plugins]",
    },
];

impl Limits {
    /// The sidecar's `[limits]` with the defaults of the plugin's kind filled in.
    pub fn resolve(given: &PluginLimits, exports: &Exports) -> Self {
        let blocking = exports.blocking_loader && !exports.loader && !exports.batch_loader;
        let bytes = |given: Option<u64>, default: &Setting<Room>| {
            let bytes = given.unwrap_or_else(|| default.default_value());
            usize::try_from(bytes).unwrap_or(usize::MAX)
        };
        let count = |given: Option<usize>, default: &Setting<Count>| {
            given.unwrap_or_else(|| default.default_value())
        };
        let time = |given: Option<Duration>, default: &Setting<Timeout>| {
            given.unwrap_or_else(|| default.default_value())
        };
        let pool = blocking.then_some(BLOCKING_INSTANCES);
        let host_data = 4 * MEBIBYTE;
        let memory = bytes(given.memory, &limits::memory);
        let body = bytes(given.body, &limits::body);
        let bodies = if exports.batch_loader {
            body.max(memory)
        } else {
            body
        };
        Self {
            memory,
            cpu: time(given.cpu, &limits::cpu),
            timeout: time(given.timeout, &limits::timeout),
            instances: count(given.instances.or(pool), &limits::instances).max(1),
            concurrency: count(given.concurrency, &limits::concurrency).max(1),
            body,
            fetches: count(given.fetches, &limits::fetches),
            queue: 10_000,
            host_data,
            handed: bodies.saturating_add(host_data),
            log_lines: 100,
            log_line: 4096,
            lifecycle: Duration::from_secs(10),
            feed_wait: Duration::from_secs(10),
            feed_page: 1000,
            feed_cursor: 64 * 1024,
            handles: 65_536,
            table_elements: 200_000,
            random: MEBIBYTE,
        }
    }

    /// Every bound that no sidecar sets.
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
        let blocking = Exports {
            blocking_loader: true,
            ..Exports::default()
        };
        assert_eq!(
            Limits::resolve(&PluginLimits::default(), &blocking).instances,
            8
        );
        assert_eq!(Limits::default().instances, 1);
    }

    #[test]
    fn every_bound_that_no_sidecar_sets_is_in_the_docs() {
        let docs = include_str!("../../../docs/configuration.md");
        for row in Limits::table() {
            let line = format!("| {} | {} | {} |", row.name, row.default, row.meaning);
            assert!(docs.contains(&line), "docs/configuration.md lacks: {line}");
        }
    }

    #[test]
    fn what_the_sidecar_says_wins() {
        let given = PluginLimits {
            memory: Some(1),
            instances: Some(3),
            ..PluginLimits::default()
        };
        let limits = Limits::resolve(&given, &Exports::default());
        assert_eq!((limits.memory, limits.instances), (1, 3));
    }
}
