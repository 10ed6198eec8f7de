//! What the shared tier, the plugins and the replay after the start counted, in the form that `/metrics` prints. Knows what is counted, not when it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::traces::Counts;
use super::warming::Replayed;
use crate::cache::redis::RedisTier;
use crate::http::encoding::Encoder;
use crate::http::tls::Tls;
use crate::metrics::Sample;
use crate::plugin::Registry;

/// What the shared tier and the plugins counted, read when `/metrics` is asked.
pub(super) fn samples(
    redis: Option<Arc<RedisTier>>,
    registry: &Arc<Registry>,
    replayed: &Arc<Replayed>,
    encoder: &Arc<Encoder>,
    certificates: Vec<(&'static str, Arc<Tls>)>,
    log_lines_dropped: impl Fn() -> u64 + Send + Sync + 'static,
    spans: Option<impl Fn() -> Counts + Send + Sync + 'static>,
) -> Arc<dyn Fn() -> Vec<Sample> + Send + Sync> {
    let (registry, replayed) = (Arc::clone(registry), Arc::clone(replayed));
    let encoder = Arc::clone(encoder);
    Arc::new(move || {
        let counter = |name, help, value| Sample {
            name,
            help,
            value,
            counter: true,
        };
        let plugins = registry.counts();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut samples = vec![
            counter(
                "log_lines_dropped",
                "Lines of the log that were dropped because nobody read those before them",
                log_lines_dropped(),
            ),
            counter(
                "plugin_swaps",
                "Plugin versions that came to be served",
                plugins.swaps,
            ),
            counter(
                "plugin_refusals",
                "Plugin versions that were refused",
                plugins.refusals,
            ),
            counter(
                "plugins_retired",
                "Plugins whose file was removed",
                plugins.retired,
            ),
            counter(
                "batches",
                "Calls of loaders that take batches",
                plugins.batches,
            ),
            counter(
                "batch_questions",
                "Questions in those calls",
                plugins.batch_questions,
            ),
            counter(
                "feed_polls",
                "Times that change feeds were polled",
                plugins.feed_polls,
            ),
            counter(
                "feed_failures",
                "Polls of change feeds that failed",
                plugins.feed_failures,
            ),
            counter(
                "feed_changes",
                "Changes that change feeds told",
                plugins.feed_changes,
            ),
            Sample {
                name: "feeds_read",
                help: "Change feeds that this node reads now; of nodes that share Redis, one does",
                value: plugins.feeds_read,
                counter: false,
            },
            Sample {
                name: "encoded_bytes",
                help: "Bytes of bodies in other content codings, kept beside their entries",
                value: encoder.bytes(),
                counter: false,
            },
            counter(
                "hot_keys_replayed",
                "Keys of before the start that were asked for again and are there",
                read(&replayed.replayed),
            ),
            counter(
                "hot_keys_skipped",
                "Keys of before the start whose route is gone or no longer means the same",
                read(&replayed.skipped),
            ),
            counter(
                "hot_keys_failed",
                "Keys of before the start that were asked for again and could not be loaded",
                read(&replayed.failed),
            ),
        ];
        if let Some(spans) = &spans {
            let counts = spans();
            samples.extend([
                counter(
                    "spans",
                    "Spans that ended; those that are neither sent nor failed wait, or were dropped",
                    counts.ended,
                ),
                counter(
                    "spans_sent",
                    "Spans that the collector took",
                    counts.sent,
                ),
                counter(
                    "spans_failed",
                    "Spans that the collector did not take",
                    counts.failed,
                ),
            ]);
        }
        for (listener, tls) in &certificates {
            let (ends, failures) = if *listener == "admin" {
                (
                    "admin_tls_certificate_not_after_seconds",
                    "admin_tls_reload_failures",
                )
            } else {
                ("tls_certificate_not_after_seconds", "tls_reload_failures")
            };
            samples.push(Sample {
                name: ends,
                help: "When the certificate that is served ends, in seconds of Unix time",
                value: tls.not_after(),
                counter: false,
            });
            samples.push(counter(
                failures,
                "Times that changed certificates could not be served; the old ones are",
                tls.failures(),
            ));
        }
        if let Some(redis) = &redis {
            let counts = redis.counters();
            samples.extend([
                counter(
                    "redis_hits",
                    "Look-ups in Redis that found a living entry",
                    read(&counts.hits),
                ),
                counter(
                    "redis_misses",
                    "Look-ups in Redis that found nothing or a purged entry",
                    read(&counts.misses),
                ),
                counter(
                    "redis_foreign",
                    "Look-ups in Redis that found bytes that are no entry, and entries of the queue that are no changes",
                    read(&counts.foreign),
                ),
                counter(
                    "lease_waits",
                    "Loads that waited for another node's",
                    read(&counts.lease_waits),
                ),
                counter(
                    "leases_lost",
                    "Leases that were lost while their load ran",
                    read(&counts.leases_lost),
                ),
                counter(
                    "redis_errors",
                    "Redis commands that failed",
                    read(&counts.errors),
                ),
                counter(
                    "redis_timeouts",
                    "Redis commands without an answer in time",
                    read(&counts.timeouts),
                ),
                counter(
                    "redis_stores",
                    "Entries stored in Redis",
                    read(&counts.stores),
                ),
                counter(
                    "redis_stores_refused",
                    "Entries that a purge kept out of Redis",
                    read(&counts.stores_refused),
                ),
                counter(
                    "redis_breaker_opens",
                    "Times the breaker before Redis opened",
                    read(&counts.breaker_opens),
                ),
                counter(
                    "redis_resyncs",
                    "Times the record of purges was reread",
                    read(&counts.resyncs),
                ),
            ]);
        }
        samples
    })
}
