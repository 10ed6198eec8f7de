//! Medians, ratios paired by round, the table and what has to be reached. Pure; must not know how samples are made.

use std::fmt::Write;

use clap::ValueEnum;
use serde_json::json;

use crate::{
    contestant::Contestant,
    finding::{Finding, Goal},
    plot::Bars,
};

/// One contestant in one round.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) contestant: Contestant,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// How often a thread of it has left the core.
    pub(crate) switches: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

impl Sample {
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    fn per_cpu_second(&self) -> f64 {
        self.requests as f64 / self.cpu_seconds
    }

    /// Context switches for each thousand requests.
    fn switches(&self) -> f64 {
        self.switches as f64 * 1_000.0 / self.requests as f64
    }
}

/// What a Larder is held against, and the ratio to reach.
struct Held {
    /// The size of the bodies.
    body: usize,
    larder: Contestant,
    /// Of several, the best counts.
    references: &'static [Contestant],
    ratio: f64,
}

const NGINX: &[Contestant] = &[Contestant::Nginx, Contestant::NginxSendfile];

/// The ratios to reach, in requests per CPU-second.
const GOALS: [Held; 7] = [
    Held::memory(300, &[Contestant::AxumMoka], 1.10),
    Held::redis(300, &[Contestant::AxumRedis], 1.15),
    Held::memory(300, NGINX, 1.4),
    Held::memory(300, &[Contestant::Varnish], 2.4),
    Held::memory(300, &[Contestant::Fastapi], 33.0),
    Held::memory(16_384, &[Contestant::AxumMoka], 1.05),
    Held::redis(16_384, &[Contestant::AxumRedis], 1.10),
];

impl Held {
    const fn memory(body: usize, references: &'static [Contestant], ratio: f64) -> Self {
        let larder = Contestant::LarderMemory;
        Self {
            body,
            larder,
            references,
            ratio,
        }
    }

    const fn redis(body: usize, references: &'static [Contestant], ratio: f64) -> Self {
        let larder = Contestant::LarderRedis;
        Self {
            body,
            larder,
            references,
            ratio,
        }
    }

    /// What was reached of it, if everyone it names took part.
    fn goal(&self, samples: &[Sample]) -> Option<Goal> {
        let ratios: Option<Vec<(f64, Contestant)>> = self
            .references
            .iter()
            .map(|&reference| Some((ratio(samples, self.larder, reference)?, reference)))
            .collect();
        let (reached, reference) = ratios?.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let what = format!(
            "{}, to {}, {} bytes",
            plain(self.larder.title()),
            plain(reference.title()),
            thousands(Some(self.body as f64))
        );
        Some(Goal::at_least(what, reached, self.ratio))
    }
}

/// What was found with bodies of one size.
pub(crate) fn finding(body: usize, contestants: &[Contestant], samples: &[Sample]) -> Finding {
    let held = GOALS.iter().filter(|held| held.body == body);
    Finding {
        title: format!("Bodies of {} bytes", thousands(Some(body as f64))),
        table: table(contestants, samples),
        goals: held.filter_map(|held| held.goal(samples)).collect(),
        samples: samples.iter().map(|sample| raw(body, sample)).collect(),
    }
}

fn raw(body: usize, sample: &Sample) -> serde_json::Value {
    json!({
        "body": body,
        "round": sample.round,
        "contestant": sample.contestant.name(),
        "requests": sample.requests,
        "seconds": sample.seconds,
        "cpu_seconds": sample.cpu_seconds,
        "switches": sample.switches,
        "p50_us": sample.p50_us,
        "p99_us": sample.p99_us,
    })
}

fn table(contestants: &[Contestant], samples: &[Sample]) -> String {
    let mut text = String::from(
        "| | requests per CPU-second | to axum + moka | to axum + redis-rs | requests/s | p50 | p99 | switches per 1,000 |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for &contestant in contestants {
        let figure = |of: fn(&Sample) -> f64| figure(samples, contestant, of);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            contestant.title(),
            thousands(figure(Sample::per_cpu_second)),
            two_places(ratio(samples, contestant, Contestant::AxumMoka)),
            two_places(ratio(samples, contestant, Contestant::AxumRedis)),
            thousands(figure(Sample::per_second)),
            milliseconds(figure(|sample| sample.p50_us as f64)),
            milliseconds(figure(|sample| sample.p99_us as f64)),
            thousands(figure(Sample::switches)),
        );
    }
    text
}

/// The bars of one size, for the plot.
pub(crate) fn bars(body: usize, samples: &[Sample]) -> Bars {
    let everyone = Contestant::value_variants().iter();
    let bar = |contestant: &Contestant| {
        let value = figure(samples, *contestant, Sample::per_cpu_second)?;
        Some((plain(contestant.title()), value))
    };
    Bars {
        name: format!("{} bytes", thousands(Some(body as f64))),
        bars: everyone.filter_map(bar).collect(),
    }
}

/// A title where Markdown is not read.
fn plain(title: &str) -> String {
    title.replace("**", "").replace('`', "")
}

/// The median over the rounds.
fn figure(samples: &[Sample], contestant: Contestant, of: fn(&Sample) -> f64) -> Option<f64> {
    median(of_contestant(samples, contestant).map(of).collect())
}

fn of_contestant(samples: &[Sample], contestant: Contestant) -> impl Iterator<Item = &Sample> {
    samples
        .iter()
        .filter(move |sample| sample.contestant == contestant)
}

/// The median over rounds of a contestant's requests per CPU-second in units of the reference's *in the same
/// round*: the machine changes its speed every few seconds, and a pair was measured within seconds.
fn ratio(samples: &[Sample], contestant: Contestant, reference: Contestant) -> Option<f64> {
    median(
        of_contestant(samples, contestant)
            .filter_map(|sample| {
                let pair =
                    of_contestant(samples, reference).find(|other| other.round == sample.round)?;
                Some(sample.per_cpu_second() / pair.per_cpu_second())
            })
            .collect(),
    )
}

/// The middle of the values, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

pub(crate) fn thousands(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn two_places(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

pub(crate) fn milliseconds(microseconds: Option<f64>) -> String {
    microseconds.map_or("–".to_owned(), |value| {
        format!("{:.2} ms", value / 1_000.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: usize, contestant: Contestant, requests: u64) -> Sample {
        Sample {
            round,
            contestant,
            requests,
            seconds: 2.0,
            cpu_seconds: 1.0,
            switches: 900,
            p50_us: 500,
            p99_us: 1_000,
        }
    }

    #[test]
    fn medians_of_odd_even_and_no_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_ratio_pairs_the_samples_of_one_round() {
        // The machine was twice as fast in round 1; unpaired medians would say 0.75.
        let samples = [
            sample(0, Contestant::LarderMemory, 50),
            sample(0, Contestant::AxumMoka, 100),
            sample(1, Contestant::LarderMemory, 100),
            sample(1, Contestant::AxumMoka, 200),
            sample(2, Contestant::LarderMemory, 75),
        ];
        let paired = ratio(&samples, Contestant::LarderMemory, Contestant::AxumMoka);
        assert_eq!(paired, Some(0.5));
        assert_eq!(
            ratio(&samples, Contestant::LarderMemory, Contestant::AxumRedis),
            None
        );
    }

    #[test]
    fn the_table_has_a_line_for_everyone_and_says_what_is_missed() {
        let samples = [
            sample(0, Contestant::LarderMemory, 60_000),
            sample(0, Contestant::AxumMoka, 100_000),
        ];
        let who = [Contestant::LarderMemory, Contestant::AxumMoka];
        let finding = finding(300, &who, &samples);
        assert!(
            finding
                .table
                .contains("| 60,000 | 0.60 | – | 30,000 | 0.50 ms | 1.00 ms | 15 |"),
            "{}",
            finding.table
        );
        let [goal] = &finding.goals[..] else {
            panic!(
                "one pair took part, and {} goals are judged",
                finding.goals.len()
            );
        };
        assert!(!goal.is_reached());
        assert_eq!(
            goal.what,
            "Larder, memory hit, key policy in Wasm, to axum + moka, bare, 300 bytes"
        );
    }

    #[test]
    fn of_two_references_the_better_counts() {
        let samples = [
            sample(0, Contestant::LarderMemory, 120),
            sample(0, Contestant::Nginx, 100),
            sample(0, Contestant::NginxSendfile, 60),
        ];
        let held = GOALS.iter().find(|held| held.references == NGINX).unwrap();
        let goal = held.goal(&samples).unwrap();
        assert!((goal.reached - 1.2).abs() < 1e-9, "{}", goal.reached);
        assert!(held.goal(&samples[..2]).is_none());
    }

    #[test]
    fn a_plain_title_has_no_marks() {
        let title = plain(Contestant::Nginx.title());
        assert_eq!(title, "nginx proxy_cache hit, sendfile off");
    }

    #[test]
    fn everyone_who_was_measured_has_a_bar() {
        let samples = [
            sample(0, Contestant::LarderMemory, 120),
            sample(1, Contestant::LarderMemory, 140),
        ];
        let bars = bars(16_384, &samples);
        assert_eq!(bars.name, "16,384 bytes");
        let title = "Larder, memory hit, key policy in Wasm".to_owned();
        assert_eq!(bars.bars, [(title, 130.0)]);
    }
}
