//! What `GET /overview` told, and what lies between two readings of it: pure. Knows nothing of how it is shown.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::config::Problem;

/// How requests ended: by outcome, then by detail.
type Answers = BTreeMap<String, BTreeMap<String, u64>>;

/// One reading. Counters are since the start of the server.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Overview {
    pub(super) version: String,
    pub(super) now_ms: u64,
    pub(super) uptime_ms: u64,
    pub(super) starting: bool,
    pub(super) draining: bool,
    pub(super) memory: Memory,
    pub(super) in_flight: InFlight,
    pub(super) redis: Option<Redis>,
    pub(super) queue: Option<Queue>,
    pub(super) routes: Vec<Route>,
    pub(super) plugins: Vec<Plugin>,
}

/// The memory tier; sizes in bytes.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Memory {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) capacity: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct InFlight {
    pub(super) loads: u64,
    pub(super) waiters: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Redis {
    pub(super) available: bool,
    pub(super) error: Option<String>,
    pub(super) pending_purges: u64,
}

/// The queue of changes, or why nothing is known of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Queue {
    Depth {
        pending: u64,
        dead: u64,
        max_pending: u64,
    },
    Unknown {
        error: String,
    },
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Route {
    pub(super) route: String,
    pub(super) loaders: Vec<String>,
    pub(super) requests: u64,
    pub(super) answers: Answers,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) last_failure: Option<LastFailure>,
    pub(super) durations: Durations,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LastFailure {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) at_ms: u64,
}

/// The end of each bucket in seconds with how many took no longer, and how many there were.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Durations {
    pub(super) count: u64,
    pub(super) buckets: Vec<(f64, u64)>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Plugin {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) version: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) error: Option<String>,
    /// None where no version is served.
    #[serde(flatten)]
    pub(super) account: Option<Account>,
}

/// What a version of a plugin did since it is served.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Account {
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) faults: u64,
    pub(super) durations: Durations,
    pub(super) memory_peak: u64,
    pub(super) memory_limit: u64,
    pub(super) instances: u64,
    pub(super) alive: u64,
    pub(super) busy_seconds: f64,
    pub(super) breaker: String,
    pub(super) log: Vec<Line>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    pub(super) level: String,
    pub(super) message: String,
}

impl Overview {
    /// Reads an answer.
    ///
    /// # Errors
    /// It has another shape: something else answered, or another version of Larder.
    pub(super) fn read(answer: &Value) -> Result<Self, Problem> {
        Self::deserialize(answer).map_err(|error| {
            Problem::error(format!(
                "GET /overview answered what this larder does not know: {error}"
            ))
            .remedy("ask with the larder of the server's version, or print what it answered with --json")
        })
    }
}

/// What came between two readings, or since the start where there is one.
pub(super) struct Span<'a> {
    pub(super) now: &'a Overview,
    pub(super) before: Option<&'a Overview>,
}

impl Span<'_> {
    /// How long it was, in seconds; never 0.
    #[allow(clippy::cast_precision_loss, reason = "it is shown to people")]
    pub(super) fn seconds(&self) -> f64 {
        let ms = match self.before {
            Some(before) => self.now.now_ms.saturating_sub(before.now_ms),
            None => self.now.uptime_ms,
        };
        ms.max(1) as f64 / 1e3
    }

    /// Of a route.
    pub(super) fn of(&self, route: &Route) -> Tally {
        let before = self.before.map_or(&[][..], |before| &before.routes);
        let before = before.iter().find(|other| other.route == route.route);
        let mut tally = Tally::default();
        tally.add(route, before);
        tally
    }

    /// Of all routes together.
    pub(super) fn all(&self) -> Tally {
        let mut all = Tally::default();
        for route in &self.now.routes {
            all.merge(self.of(route));
        }
        all
    }

    /// What share of one processor a plugin's code took, in percent. A version that was swapped in meanwhile counts from zero.
    pub(super) fn processor(&self, plugin: &Plugin) -> Option<f64> {
        let account = plugin.account.as_ref()?;
        let before = self.before.and_then(|before| {
            let same = |other: &&Plugin| other.name == plugin.name && other.digest == plugin.digest;
            before.plugins.iter().find(same)?.account.as_ref()
        });
        let busy = account.busy_seconds - before.map_or(0.0, |before| before.busy_seconds);
        Some(100.0 * busy.max(0.0) / self.seconds())
    }
}

/// Counts of a span.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) answers: Answers,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) durations: Durations,
}

impl Tally {
    fn add(&mut self, now: &Route, before: Option<&Route>) {
        let since = |now: u64, then: Option<u64>| now.saturating_sub(then.unwrap_or(0));
        self.requests = since(now.requests, before.map(|before| before.requests));
        for (outcome, details) in &now.answers {
            let then = before.and_then(|before| before.answers.get(outcome));
            let details = details.iter().map(|(detail, count)| {
                let then = then.and_then(|then| then.get(detail)).copied();
                (detail.clone(), since(*count, then))
            });
            self.answers.insert(outcome.clone(), details.collect());
        }
        for (code, count) in &now.failures {
            let then = before.and_then(|before| before.failures.get(code)).copied();
            self.failures.insert(code.clone(), since(*count, then));
        }
        let then = before.map(|before| &before.durations);
        let buckets = now.durations.buckets.iter().enumerate();
        self.durations = Durations {
            count: since(now.durations.count, then.map(|then| then.count)),
            buckets: buckets
                .map(|(at, (end, count))| {
                    let then = then.and_then(|then| then.buckets.get(at));
                    (*end, since(*count, then.map(|(_, count)| *count)))
                })
                .collect(),
        };
    }

    fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        for (outcome, details) in other.answers {
            let mine = self.answers.entry(outcome).or_default();
            for (detail, count) in details {
                *mine.entry(detail).or_default() += count;
            }
        }
        for (code, count) in other.failures {
            *self.failures.entry(code).or_default() += count;
        }
        self.durations.count += other.durations.count;
        if self.durations.buckets.is_empty() {
            self.durations.buckets = other.durations.buckets;
        } else {
            for ((_, mine), (_, more)) in self
                .durations
                .buckets
                .iter_mut()
                .zip(other.durations.buckets)
            {
                *mine += more;
            }
        }
    }

    /// How many ended so.
    pub(super) fn count(&self, outcome: &str) -> u64 {
        self.answers
            .get(outcome)
            .map_or(0, |details| details.values().sum())
    }

    /// How many ended so in particular.
    pub(super) fn detail(&self, outcome: &str, detail: &str) -> u64 {
        let details = self.answers.get(outcome);
        details
            .and_then(|details| details.get(detail))
            .copied()
            .unwrap_or(0)
    }

    /// Requests that asked for something, and in a way that a route takes.
    pub(super) fn reads(&self) -> u64 {
        let others = self.count("write") + self.count("refused");
        self.requests.saturating_sub(others)
    }
}

impl Durations {
    /// What a share of them took no longer than, in seconds: the end of its bucket, infinite beyond the last. None where
    /// nothing was measured.
    #[allow(clippy::cast_precision_loss, reason = "it is shown to people")]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let wanted = share * self.count as f64;
        let found = self
            .buckets
            .iter()
            .find(|(_, count)| *count as f64 >= wanted);
        Some(found.map_or(f64::INFINITY, |(end, _)| *end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::operate::top::testing::{answer, overview};
    use serde_json::json;

    #[test]
    fn a_span_is_what_lies_between_two_readings() {
        let (before, now) = (overview(0), overview(10));
        let span = Span {
            now: &now,
            before: Some(&before),
        };
        let all = span.all();
        assert_eq!((all.requests, all.reads()), (1_100, 1_090));
        assert_eq!(all.detail("hit", "memory"), 900);
        assert_eq!(all.failures["timeout"], 10);
        assert!((span.seconds() - 10.0).abs() < 1e-9);
        assert_eq!(all.durations.quantile(0.5), Some(0.001));
        assert_eq!(all.durations.quantile(0.99), Some(0.025));
        assert_eq!(all.durations.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(span.processor(&now.plugins[0]), Some(2.0));
        assert_eq!(span.processor(&now.plugins[1]), None, "nothing is served");
    }

    #[test]
    fn what_another_version_counts_from_zero_is_not_less_than_nothing() {
        let (before, mut now) = (overview(10), overview(10));
        now.plugins[0].digest = Some("another".into());
        if let Some(account) = &mut now.plugins[0].account {
            account.busy_seconds = 0.1;
        }
        now.now_ms += 1_000;
        let span = Span {
            now: &now,
            before: Some(&before),
        };
        assert_eq!(span.processor(&now.plugins[0]), Some(10.0));
    }

    #[test]
    fn what_answers_otherwise_is_refused_with_a_remedy() {
        let mut other = answer(0);
        other["now_ms"] = json!("noon");
        let problem = Overview::read(&other).unwrap_err().to_string();
        assert!(
            problem.contains("/overview") && problem.contains("--json"),
            "{problem}"
        );
        let mut queue = answer(0);
        queue["queue"] = json!({"error": "Redis does not answer"});
        let read = Overview::read(&queue).unwrap();
        assert!(matches!(read.queue, Some(Queue::Unknown { .. })));
    }
}
