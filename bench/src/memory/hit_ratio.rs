//! How many requests of a trace find their entry: what the memory tier keeps its entries in, the very file of it, beside moka. In this process, for what is compared is whom they keep. Must not know how either decides that.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use quick_cache::{DefaultHashBuilder, Weighter};
use serde_json::json;

use super::{bounded::Bounded, trace::Trace};
use crate::finding::{Finding, Goal};

/// Moka keeps its books behind; it is given time for that after every so many requests, which is more often than it takes it.
const BOOKS: usize = 64;
/// A trace has at least so many requests for each entry there is room for: else a large cache is measured while it fills.
const FOR_EACH: usize = 20;
/// A ratio of hits is shown to so many places, and so compared.
const PLACES: f64 = 1000.0;

/// The settings of a run.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many entries there is room for; may be given more than once.
    #[arg(long, default_values_t = [1_000, 10_000, 50_000, 200_000])]
    room: Vec<usize>,
    /// What an entry weighs in bytes; may be given more than once.
    #[arg(long, default_values_t = [512, 2048])]
    weight: Vec<u32>,
    /// Requests of each trace, or twenty for each entry there is room for; the first quarter does not count.
    #[arg(long, default_value_t = 2_000_000)]
    requests: usize,
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The smallest cache and a tenth of the requests: shows that everything runs.
    #[arg(long)]
    quick: bool,
}

/// One trace on one size of cache.
struct Sample {
    trace: Trace,
    room: usize,
    weight: u32,
    tier: f64,
    moka: f64,
}

/// Measures.
pub(crate) fn measure(options: &Options) -> Result<Vec<Finding>> {
    let (rooms, requests) = match options.quick {
        true => (&options.room[..1], options.requests / 10),
        false => (&options.room[..], options.requests),
    };
    ensure!(
        requests >= 4 && rooms.iter().all(|room| *room > 0),
        "a trace has at least four requests, and a cache room for one entry"
    );
    let mut samples = Vec::new();
    for &trace in Trace::value_variants() {
        for &room in rooms {
            let keys = trace.keys(requests.max(room * FOR_EACH), room, options.seed);
            for &weight in &options.weight {
                samples.push(Sample {
                    trace,
                    room,
                    weight,
                    tier: hits(&keys, &Tier::new(room, weight)),
                    moka: hits(&keys, &Moka::new(room, weight)),
                });
            }
        }
    }
    Ok(vec![finding(&samples)])
}

/// A cache under test.
trait Evicting {
    /// Whether the key is there; if not, it is from now on.
    fn ask(&self, number: usize, key: u64) -> bool;
}

fn hits(keys: &[u64], cache: &impl Evicting) -> f64 {
    let warm = keys.len() / 4;
    let mut hits = 0_usize;
    for (number, &key) in keys.iter().enumerate() {
        let hit = cache.ask(number, key);
        hits += usize::from(hit && number >= warm);
    }
    hits as f64 / (keys.len() - warm) as f64
}

#[derive(Clone)]
struct Weight(u32);

impl Weighter<u64, ()> for Weight {
    fn weight(&self, _: &u64, (): &()) -> u64 {
        self.0.into()
    }
}

/// The memory tier's.
struct Tier(Bounded<u64, (), Weight, DefaultHashBuilder>);

impl Tier {
    fn new(room: usize, weight: u32) -> Self {
        let capacity = room as u64 * u64::from(weight);
        let hasher = DefaultHashBuilder::default();
        Self(Bounded::new(capacity, Weight(weight), hasher))
    }
}

impl Evicting for Tier {
    fn ask(&self, _: usize, key: u64) -> bool {
        let hit = self.0.held().get(&key).is_some();
        if !hit {
            self.0.insert(key, ());
        }
        hit
    }
}

struct Moka(moka::sync::Cache<u64, ()>);

impl Moka {
    fn new(room: usize, weight: u32) -> Self {
        let cache = moka::sync::Cache::builder()
            .max_capacity(room as u64 * u64::from(weight))
            .weigher(move |_, ()| weight)
            .build();
        Self(cache)
    }
}

impl Evicting for Moka {
    fn ask(&self, number: usize, key: u64) -> bool {
        let hit = self.0.get(&key).is_some();
        if !hit {
            self.0.insert(key, ());
        }
        if number.is_multiple_of(BOOKS) {
            self.0.run_pending_tasks();
        }
        hit
    }
}

fn finding(samples: &[Sample]) -> Finding {
    let mut table = String::from(
        "| trace | room for | an entry weighs | Larder's memory tier | moka | |\n|---|---:|---:|---:|---:|---:|\n",
    );
    let mut goals = Vec::new();
    for &trace in Trace::value_variants() {
        let mut worst = f64::INFINITY;
        for sample in samples.iter().filter(|sample| sample.trace == trace) {
            let (tier, moka) = (rounded(sample.tier), rounded(sample.moka));
            worst = worst.min(tier - moka);
            table.push_str(&format!(
                "| {} | {} | {} | {tier:.3} | {moka:.3} | {:+.3} |\n",
                trace.name(),
                sample.room,
                sample.weight,
                tier - moka
            ));
        }
        if trace == Trace::Moving {
            // Not among what was to be reached: so that it is seen what it costs elsewhere to be good there.
            continue;
        }
        goals.push(Goal::at_least(
            format!("hits of 100 more than moka, at worst: {}", trace.name()),
            rounded(worst) * 100.0,
            0.0,
        ));
    }
    Finding {
        title: "Hit ratio".to_owned(),
        table,
        goals,
        samples: samples
            .iter()
            .map(|sample| {
                json!({
                    "trace": sample.trace.name(), "room": sample.room, "weight": sample.weight,
                    "tier": sample.tier, "moka": sample.moka,
                })
            })
            .collect(),
    }
}

fn rounded(ratio: f64) -> f64 {
    (ratio * PLACES).round() / PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_found_but_for_its_first_request() {
        let keys: Vec<u64> = (0..4000).map(|request| request % 500).collect();
        assert_eq!(hits(&keys, &Tier::new(1000, 1024)), 1.0);
        assert_eq!(hits(&keys, &Moka::new(1000, 1024)), 1.0);
    }

    #[test]
    fn a_trace_on_which_moka_finds_more_misses_its_goal() {
        let sample = |trace, tier, moka| Sample {
            trace,
            room: 10,
            weight: 1,
            tier,
            moka,
        };
        let found = finding(&[
            sample(Trace::Zipf, 0.5, 0.5),
            sample(Trace::Zipf1, 0.5, 0.4),
            sample(Trace::Scans, 0.4, 0.5),
            sample(Trace::Loop, 0.5, 0.4),
        ]);
        let reached: Vec<bool> = found.goals.iter().map(Goal::is_reached).collect();
        assert_eq!(reached, [true, true, false, true]);
    }
}
