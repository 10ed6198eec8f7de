//! A server as it might be, for the tests of what is shown of it.

use serde_json::{Value, json};

use super::overview::Overview;

/// What it answers so many seconds after the first reading. Every second: 110 requests, of which 90 are hits in memory.
pub(super) fn answer(second: u64) -> Value {
    let durations = json!({"count": 100 * second, "sum_seconds": 1.0, "buckets": [[0.001, 60 * second], [0.025, 99 * second]]});
    json!({
        "version": "0.1.0",
        "now_ms": 1_000_000 + second * 1_000,
        "uptime_ms": 200_000 + second * 1_000,
        "starting": false,
        "draining": false,
        "memory": {"entries": 1_234, "bytes": 12 << 20, "capacity": 256 << 20},
        "in_flight": {"loads": 3, "waiters": 12},
        "redis": {"available": true, "error": null, "pending_purges": 0},
        "queue": {"kind": "disk", "pending": 3, "dead": 1, "bytes": 100, "max_pending": 100_000, "max_bytes": 1, "oldest_ms": null, "delivering": true},
        "routes": [
            {
                "route": "/data/{key}", "loaders": ["demo"], "requests": 100 * second,
                "answers": {"hit": {"memory": 85 * second, "redis": 9 * second, "missing": 0}, "stale": {"stale-if-error": second}, "miss": {"loaded": 4 * second},
                    "failure": {"load": 0}, "write": {"through": second}, "refused": {"request": 0}},
                "failures": {"timeout": second},
                "last_failure": {"code": "timeout", "message": "no answer within 2s", "at_ms": 995_000},
                "durations": durations,
            },
            {
                "route": "/a/rather/long/path/of/{many}/{parts}", "loaders": ["primary", "backup"], "requests": 10 * second,
                "answers": {"hit": {"memory": 5 * second}, "miss": {"loaded": 5 * second}},
                "failures": {}, "last_failure": null, "durations": {"count": 0, "sum_seconds": 0.0, "buckets": []},
            },
        ],
        "plugins": [
            {
                "name": "demo", "kind": "loader", "kinds": ["loader"], "state": "ready", "version": "0.1.0", "digest": "0123456789abcdef", "error": null,
                "calls": 5 * second, "failures": second, "faults": 0, "durations": durations, "memory_peak": 2 << 20, "memory_limit": 64 << 20,
                "instances": 1, "alive": 1, "busy_seconds": 0.02 * f64::from(u32::try_from(second).unwrap()), "breaker": "closed",
                "log": [{"at_ms": 999_000, "level": "info", "message": "started"}],
            },
            {"name": "no-world", "kind": null, "kinds": [], "state": "broken", "version": null, "digest": null, "error": "it exports nothing that Larder knows"},
        ],
        "reloads": [],
    })
}

/// The same, read.
pub(super) fn overview(second: u64) -> Overview {
    Overview::read(&answer(second)).expect("it is an overview")
}
