//! The counters, defined against each other: for every route
//!
//! `requests = hits + stale + misses + writes + bypass + failures + refused + left`
//!
//! and `larder_answers_total` carries all the right-hand sides by `outcome` and `detail`. A route's counters are found once;
//! counting is one atomic addition.

pub mod durations;
pub mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use prometheus_client::encoding::{
    EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text::encode,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::cache::Counters;
use crate::cache::places::RoutePlaces;
use crate::error::Failure;
use durations::Durations;

/// How a request ended, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    HitMemory,
    HitRedis,
    HitMissing,
    StaleWhileRevalidate,
    StaleSoftTimeout,
    StaleIfError,
    MissLoaded,
    MissCollapsed,
    MissRevalidated,
    /// What a change that is pending makes of it.
    MissPending,
    Bypass,
    Failed,
    NotCached,
    Written,
    WriteAccepted,
    WriteFailed,
    /// Answered by the host before the cache was asked: 400, 403, 405, 422, 429, 5xx of a key policy.
    Refused,
    /// Not answered: the client closed its connection, or its stream, while it waited.
    Left,
}

impl Outcome {
    const ALL: [(Self, &'static str, &'static str); 18] = [
        (Self::HitMemory, "hit", "memory"),
        (Self::HitRedis, "hit", "redis"),
        (Self::HitMissing, "hit", "missing"),
        (
            Self::StaleWhileRevalidate,
            "stale",
            "stale-while-revalidate",
        ),
        (Self::StaleSoftTimeout, "stale", "stale-soft-timeout"),
        (Self::StaleIfError, "stale", "stale-if-error"),
        (Self::MissLoaded, "miss", "loaded"),
        (Self::MissCollapsed, "miss", "collapsed"),
        (Self::MissRevalidated, "miss", "revalidated"),
        (Self::MissPending, "miss", "pending"),
        (Self::Bypass, "bypass", "key-policy"),
        (Self::Failed, "failure", "load"),
        (Self::NotCached, "failure", "only-if-cached"),
        (Self::Written, "write", "through"),
        (Self::WriteAccepted, "write", "behind"),
        (Self::WriteFailed, "failure", "write"),
        (Self::Refused, "refused", "request"),
        (Self::Left, "left", "client"),
    ];
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabel {
    route: Arc<str>,
    outcome: &'static str,
    detail: &'static str,
}

/// One route's counters. They outlive snapshots: a reload starts no counter anew.
///
/// What a hit in memory counts stands first, in one cache line: with thousands of routes each request meets one that nobody has
/// met for a while, and each line of it comes from memory.
#[repr(C, align(64))]
pub struct RouteMetrics {
    requests: AtomicU64,
    answers: [AtomicU64; Outcome::ALL.len()],
    /// What the loads of this route did; the cache counts here.
    pub loads: Arc<Counters>,
    /// What it has taken of the places to load and to wait.
    pub places: Arc<RoutePlaces>,
    /// How long requests took that the memory tier did not answer. Those it does take some microseconds, less than looking at
    /// the clock twice is worth.
    pub durations: Durations,
    failures: Mutex<Failures>,
}

/// Why loads failed.
#[derive(Default)]
struct Failures {
    by_code: BTreeMap<String, u64>,
    last: Option<LastFailure>,
}

/// The last failure of a route.
#[derive(Clone, Debug)]
pub struct LastFailure {
    /// Its code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// When, by the clock of the cache, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Codes are a plugin's own words: of more than these the others count as one (law 12).
const CODES_MAX: usize = 16;
const OTHER: &str = "other";

impl RouteMetrics {
    /// A request came.
    #[inline]
    pub fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }
    /// And ended so.
    #[inline]
    pub fn answer(&self, outcome: Outcome) {
        self.answers[outcome as usize].fetch_add(1, Relaxed);
    }
    /// A load failed, and was answered with that or with something stale.
    pub fn failed(&self, failure: &Failure, now_ms: u64) {
        let mut failures = self.failures.lock();
        let is_known = failures.by_code.contains_key(&*failure.code);
        let code = if is_known || failures.by_code.len() < CODES_MAX {
            failure.code.clone().into_owned()
        } else {
            OTHER.to_owned()
        };
        *failures.by_code.entry(code).or_default() += 1;
        failures.last = Some(LastFailure {
            code: failure.code.clone().into_owned(),
            message: failure.message.clone(),
            at_ms: now_ms,
        });
    }
    /// How many failures of each code there were, and the last.
    pub fn failures(&self) -> (BTreeMap<String, u64>, Option<LastFailure>) {
        let failures = self.failures.lock();
        (failures.by_code.clone(), failures.last.clone())
    }
    /// Requests.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
    /// How they ended: outcome, detail, how many.
    pub fn ended(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let names = Outcome::ALL.iter();
        names
            .zip(&self.answers)
            .map(|((_, outcome, detail), count)| (*outcome, *detail, count.load(Relaxed)))
    }
}

/// What the connections of a listener came to.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Accepted.
    pub accepted: Counter,
    /// Cut, because the client took nothing of what was sent to it.
    pub stalled: Counter,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: Counter,
}

/// All metrics of the process.
pub struct Metrics {
    /// Requests that no route matched.
    pub unrouted: Counter,
    /// Requests for many reads, and the reads in them: each of these is a request of its route too.
    pub batch_requests: Counter,
    /// Reads that were asked for in such.
    pub batch_items: Counter,
    /// Clients that watch now.
    pub watchers: Gauge,
    /// Those that were one too many.
    pub watchers_refused: Counter,
    /// Events sent to them.
    pub watch_events: Counter,
    /// The connections of the public listener.
    pub connections: Connections,
    /// Derivations of key policies, remembered ones included, and those that really called the policy.
    pub derivations: Counter,
    /// Derivations that called a policy because none was remembered.
    pub derivations_called: Counter,
    routes: Mutex<HashMap<Arc<str>, Arc<RouteMetrics>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        Self {
            unrouted: Counter::default(),
            batch_requests: Counter::default(),
            batch_items: Counter::default(),
            watchers: Gauge::default(),
            watchers_refused: Counter::default(),
            watch_events: Counter::default(),
            connections: Connections::default(),
            derivations: Counter::default(),
            derivations_called: Counter::default(),
            routes: Mutex::default(),
        }
    }

    /// The handles of a route, the same ones for every snapshot.
    pub fn route(&self, pattern: &Arc<str>) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock();
        let handles = routes.entry(Arc::clone(pattern)).or_insert_with(|| {
            Arc::new(RouteMetrics {
                requests: AtomicU64::default(),
                answers: Default::default(),
                loads: Arc::default(),
                places: Arc::default(),
                durations: Durations::default(),
                failures: Mutex::default(),
            })
        });
        Arc::clone(handles)
    }

    /// Everything in the text format of Prometheus (OpenMetrics 1.0), with `extra` gauges and counters measured now.
    pub fn render(&self, extra: &[Sample], labelled: Vec<Labelled>) -> String {
        let mut registry = Registry::with_prefix("larder");
        self.register_answers(&mut registry);
        registry.register(
            "unrouted_requests",
            "Requests that no route matched",
            self.unrouted.clone(),
        );
        registry.register(
            "batch_requests",
            "Requests for many reads at once (POST /_batch)",
            self.batch_requests.clone(),
        );
        registry.register(
            "batch_items",
            "Reads in those requests; each is a request of its route too",
            self.batch_items.clone(),
        );
        registry.register("watchers", "Clients that watch now", self.watchers.clone());
        registry.register(
            "watchers_refused",
            "Clients that were one too many to watch",
            self.watchers_refused.clone(),
        );
        registry.register(
            "watch_events",
            "Events sent to clients that watch",
            self.watch_events.clone(),
        );
        registry.register(
            "connections",
            "Connections accepted on the public listener",
            self.connections.accepted.clone(),
        );
        registry.register(
            "connections_stalled",
            "Connections that were cut because the client took nothing of what was sent to it",
            self.connections.stalled.clone(),
        );
        registry.register(
            "tls_handshakes_failed",
            "TLS handshakes of the public listener that failed or took too long",
            self.connections.handshakes_failed.clone(),
        );
        registry.register(
            "derivations",
            "Keys derived, remembered ones included",
            self.derivations.clone(),
        );
        registry.register(
            "derivations_called",
            "Keys derived by calling a key policy",
            self.derivations_called.clone(),
        );
        self.register_loads(&mut registry);
        self.register_durations(&mut registry);
        for sample in extra {
            sample.register(&mut registry);
        }
        for family in labelled {
            registry.register(family.name, family.help, family);
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
    }

    fn register_durations(&self, registry: &mut Registry) {
        let failures = Family::<FailureLabel, Counter>::default();
        let routes = self.routes.lock();
        let mut all: Vec<_> = routes.iter().collect();
        all.sort_by(|a, b| a.0.cmp(b.0));
        let mut durations = Vec::new();
        for (route, handles) in all {
            durations.push((Arc::clone(route), handles.durations.read()));
            for (code, count) in handles.failures().0 {
                let route = Arc::clone(route);
                failures
                    .get_or_create(&FailureLabel { route, code })
                    .inc_by(count);
            }
        }
        registry.register(
            "load_failures",
            "Requests whose load failed, by code; of more than 16 codes of a route the others are one",
            failures,
        );
        registry.register_with_unit(
            "request_duration",
            "How long requests took that the memory tier did not answer",
            Unit::Seconds,
            durations::Histograms(durations),
        );
    }

    fn register_answers(&self, registry: &mut Registry) {
        let requests = Family::<RouteLabel, Counter>::default();
        let answers = Family::<AnswerLabel, Counter>::default();
        for (route, handles) in self.routes.lock().iter() {
            let label = RouteLabel {
                route: Arc::clone(route),
            };
            requests.get_or_create(&label).inc_by(handles.requests());
            for (outcome, detail, count) in handles.ended() {
                let label = AnswerLabel {
                    route: Arc::clone(route),
                    outcome,
                    detail,
                };
                answers.get_or_create(&label).inc_by(count);
            }
        }
        registry.register("requests", "Requests by route", requests);
        registry.register(
            "answers",
            "Answers by route; their sum over a route is its requests",
            answers,
        );
    }

    fn register_loads(&self, registry: &mut Registry) {
        let loads = Family::<LoadLabel, Counter>::default();
        let dropped = Family::<RouteLabel, Counter>::default();
        let clamped = Family::<RouteLabel, Counter>::default();
        let fallbacks = Family::<RouteLabel, Counter>::default();
        let ahead = Family::<RouteLabel, Counter>::default();
        let overtaken = Family::<RouteLabel, Counter>::default();
        for (route, handles) in self.routes.lock().iter() {
            let counts = &handles.loads;
            let results = [
                ("found", &counts.loads_found),
                ("missing", &counts.loads_missing),
                ("not-modified", &counts.loads_not_modified),
                ("failed", &counts.loads_failed),
                ("earlier", &counts.loads_earlier),
                ("pending", &counts.loads_pending),
            ];
            for (result, count) in results {
                let label = LoadLabel {
                    route: Arc::clone(route),
                    result,
                };
                loads.get_or_create(&label).inc_by(count.load(Relaxed));
            }
            let label = RouteLabel {
                route: Arc::clone(route),
            };
            dropped
                .get_or_create(&label)
                .inc_by(counts.headers_dropped.load(Relaxed));
            clamped
                .get_or_create(&label)
                .inc_by(counts.ttl_clamped.load(Relaxed));
            fallbacks
                .get_or_create(&label)
                .inc_by(counts.chain_fallbacks.load(Relaxed));
            ahead
                .get_or_create(&label)
                .inc_by(counts.refreshed_ahead.load(Relaxed));
            overtaken
                .get_or_create(&label)
                .inc_by(counts.not_stored_purged.load(Relaxed));
        }
        registry.register("loads", "Flights by what they brought back", loads);
        registry.register(
            "loader_headers_dropped",
            "Headers of loaders that the host does not send",
            dropped,
        );
        registry.register(
            "ttl_clamped",
            "Times to live asked for above ttl_max",
            clamped,
        );
        registry.register(
            "chain_fallbacks",
            "Loaders asked after the first of a chain",
            fallbacks,
        );
        registry.register(
            "refreshes_ahead",
            "Loads that a hit began before the end of the ttl (refresh_ahead)",
            ahead,
        );
        registry.register(
            "loads_overtaken",
            "Loads not stored because a purge overtook them",
            overtaken,
        );
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailureLabel {
    route: Arc<str>,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LoadLabel {
    route: Arc<str>,
    result: &'static str,
}

/// A value measured at the moment of asking.
pub struct Sample {
    /// Without the `larder_` before it and the `_total` behind it.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What it is now.
    pub value: u64,
    /// Whether it only grows.
    pub counter: bool,
}

impl Sample {
    fn register(&self, registry: &mut Registry) {
        if self.counter {
            let counter: Counter = Counter::default();
            counter.inc_by(self.value);
            registry.register(self.name, self.help, counter);
        } else {
            let gauge: Gauge = Default::default();
            gauge.set(i64::try_from(self.value).unwrap_or(i64::MAX));
            registry.register(self.name, self.help, gauge);
        }
    }
}

/// Values of the same name, measured at the moment of asking, apart by one label.
#[derive(Debug)]
pub struct Labelled {
    /// Without the `larder_` before it and the `_total` behind it.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// The name of the label.
    pub label: &'static str,
    /// The label's value, and what it is now.
    pub values: Vec<(String, u64)>,
    /// Whether they only grow.
    pub counter: bool,
}

impl EncodeMetric for Labelled {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (value, count) in &self.values {
            let label = [(self.label, value.as_str())];
            let mut encoder = encoder.encode_family(&label)?;
            if self.counter {
                encoder.encode_counter::<NoLabelSet, u64, u64>(count, None)?;
            } else {
                encoder.encode_gauge(count)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        if self.counter {
            MetricType::Counter
        } else {
            MetricType::Gauge
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_stands_at_its_own_index() {
        for (index, (outcome, ..)) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }

    #[test]
    fn law_12_codes_beyond_the_bound_are_one() {
        let metrics = Metrics::new();
        let route = metrics.route(&"/a".into());
        for i in 0..CODES_MAX + 3 {
            let mut failure = Failure::host(crate::error::FailureKind::Unavailable, "x", "no");
            failure.code = format!("code-{i}").into();
            route.failed(&failure, 7);
        }
        let (by_code, last) = route.failures();
        assert_eq!(by_code.len(), CODES_MAX + 1);
        assert_eq!(by_code[OTHER], 3);
        assert_eq!(
            last.unwrap().code,
            "code-18",
            "the last is told by its own name"
        );
        let text = metrics.render(&[], Vec::new());
        assert!(
            text.contains("larder_load_failures_total{route=\"/a\",code=\"other\"} 3"),
            "{text}"
        );
    }

    #[test]
    fn durations_are_a_histogram_for_each_route() {
        let metrics = Metrics::new();
        let route = metrics.route(&"/a".into());
        route.durations.add(std::time::Duration::from_millis(3));
        let text = metrics.render(&[], Vec::new());
        for wanted in [
            "# TYPE larder_request_duration_seconds histogram",
            "larder_request_duration_seconds_bucket{le=\"0.0025\",route=\"/a\"} 0",
            "larder_request_duration_seconds_bucket{le=\"0.005\",route=\"/a\"} 1",
            "larder_request_duration_seconds_bucket{le=\"+Inf\",route=\"/a\"} 1",
            "larder_request_duration_seconds_count{route=\"/a\"} 1",
            "larder_request_duration_seconds_sum{route=\"/a\"} 0.003",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn a_reload_starts_no_counter_anew() {
        let metrics = Metrics::new();
        let pattern: Arc<str> = "/data/{key}".into();
        metrics.route(&pattern).request();
        metrics.route(&pattern).request();
        let text = metrics.render(&[], Vec::new());
        assert!(
            text.contains("larder_requests_total{route=\"/data/{key}\"} 2"),
            "{text}"
        );
    }
}
