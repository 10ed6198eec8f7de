//! The counters, defined against each other: for every route
//!
//! `requests = hits + stale + misses + writes + bypass + failures + refused`
//!
//! and `larder_answers_total` carries all the right-hand sides by `outcome` and `detail`. Handles are resolved once per
//! route; counting is one atomic addition.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::cache::Counters;

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
}

impl Outcome {
    const ALL: [(Self, &'static str, &'static str); 17] = [
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

/// One route's handles. They outlive snapshots: a reload starts no counter anew.
pub struct RouteMetrics {
    requests: Counter,
    answers: [Counter; Outcome::ALL.len()],
    /// What the loads of this route did; the cache counts here.
    pub loads: Arc<Counters>,
}

impl RouteMetrics {
    /// A request came.
    #[inline]
    pub fn request(&self) {
        self.requests.inc();
    }
    /// And ended so.
    #[inline]
    pub fn answer(&self, outcome: Outcome) {
        self.answers[outcome as usize].inc();
    }
}

/// All metrics of the process.
pub struct Metrics {
    requests: Family<RouteLabel, Counter>,
    answers: Family<AnswerLabel, Counter>,
    /// Requests that no route matched.
    pub unrouted: Counter,
    /// Requests for many reads, and the reads in them: each of these is a request of its route too.
    pub batch_requests: Counter,
    /// Reads that were asked for in such.
    pub batch_items: Counter,
    /// Connections accepted on the public listener.
    pub connections: Counter,
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
            requests: Family::default(),
            answers: Family::default(),
            unrouted: Counter::default(),
            batch_requests: Counter::default(),
            batch_items: Counter::default(),
            connections: Counter::default(),
            derivations: Counter::default(),
            derivations_called: Counter::default(),
            routes: Mutex::default(),
        }
    }

    /// The handles of a route, the same ones for every snapshot.
    pub fn route(&self, pattern: &Arc<str>) -> Arc<RouteMetrics> {
        let mut routes = self.routes.lock();
        let handles = routes.entry(Arc::clone(pattern)).or_insert_with(|| {
            let answers = Outcome::ALL.map(|(_, outcome, detail)| {
                let label = AnswerLabel {
                    route: Arc::clone(pattern),
                    outcome,
                    detail,
                };
                self.answers.get_or_create(&label).clone()
            });
            let requests = self
                .requests
                .get_or_create(&RouteLabel {
                    route: Arc::clone(pattern),
                })
                .clone();
            Arc::new(RouteMetrics {
                requests,
                answers,
                loads: Arc::default(),
            })
        });
        Arc::clone(handles)
    }

    /// Everything in the text format of Prometheus (OpenMetrics 1.0), with `extra` gauges and counters measured now.
    pub fn render(&self, extra: &[Sample]) -> String {
        let mut registry = Registry::with_prefix("larder");
        registry.register("requests", "Requests by route", self.requests.clone());
        registry.register(
            "answers",
            "Answers by route; their sum over a route is its requests",
            self.answers.clone(),
        );
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
        registry.register(
            "connections",
            "Connections accepted on the public listener",
            self.connections.clone(),
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
        for sample in extra {
            sample.register(&mut registry);
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a String cannot fail");
        text
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
            let gauge: prometheus_client::metrics::gauge::Gauge = Default::default();
            gauge.set(i64::try_from(self.value).unwrap_or(i64::MAX));
            registry.register(self.name, self.help, gauge);
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
    fn a_reload_starts_no_counter_anew() {
        let metrics = Metrics::new();
        let pattern: Arc<str> = "/data/{key}".into();
        metrics.route(&pattern).request();
        metrics.route(&pattern).request();
        let text = metrics.render(&[]);
        assert!(
            text.contains("larder_requests_total{route=\"/data/{key}\"} 2"),
            "{text}"
        );
    }
}
