//! How long things took, in buckets that a hit can afford to count in. Knows nothing of what took that long.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;

/// Where the buckets of durations end, in microseconds; the last has no end.
pub const BUCKETS_US: [u64; 12] = [
    250, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// How long things took: how many within each of [`BUCKETS_US`], and beyond.
#[derive(Debug, Default)]
pub struct Durations {
    counts: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Durations {
    /// One more.
    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|end| *end < us);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// As they are now: each of [`BUCKETS_US`] with how many took no longer, all of them, and their sum in seconds.
    pub fn read(&self) -> Read {
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BUCKETS_US.len());
        for (end, bucket) in BUCKETS_US.iter().zip(&self.counts) {
            count += bucket.load(Relaxed);
            buckets.push((micros(*end), count));
        }
        count += self.counts[BUCKETS_US.len()].load(Relaxed);
        Read {
            buckets,
            count,
            sum_seconds: micros(self.sum_us.load(Relaxed)),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "it is shown to people")]
fn micros(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Durations at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// The end of each bucket in seconds, and how many took no longer.
    pub buckets: Vec<(f64, u64)>,
    /// All.
    pub count: u64,
    /// Seconds in all.
    pub sum_seconds: f64,
}

/// Durations by route, as Prometheus reads them.
#[derive(Debug)]
pub(super) struct Histograms(pub(super) Vec<(Arc<str>, Read)>);

impl EncodeMetric for Histograms {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (route, read) in &self.0 {
            // The encoder adds them up itself.
            let mut before = 0;
            let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(read.buckets.len() + 1);
            for (end, within) in &read.buckets {
                buckets.push((*end, within - before));
                before = *within;
            }
            buckets.push((f64::INFINITY, read.count - before));
            let label = [("route", &**route)];
            encoder.encode_family(&label)?.encode_histogram(
                read.sum_seconds,
                read.count,
                &buckets,
                None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>,
            )?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_every_bucket_that_ends_after_it() {
        let durations = Durations::default();
        for us in [1, 250, 251, 3_000_000] {
            durations.add(Duration::from_micros(us));
        }
        let read = durations.read();
        assert_eq!(read.buckets[0], (0.000_25, 2));
        assert_eq!(read.buckets[1], (0.001, 3));
        assert_eq!(read.buckets[11], (2.5, 3), "one is beyond");
        assert_eq!(read.count, 4);
        assert!((read.sum_seconds - 3.000_502).abs() < 1e-9);
    }
}
