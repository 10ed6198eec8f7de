//! Medians, ratios paired by round, and the table. Pure but for printing; must not know how samples are made.

use std::fmt::Write;

use serde::Serialize;

use crate::contestant::Contestant;

/// One contestant in one round.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) contestant: Contestant,
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
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
}

/// A sample as it is kept, one JSON object a line.
#[derive(Serialize)]
struct Raw {
    body: usize,
    round: usize,
    contestant: &'static str,
    requests: u64,
    seconds: f64,
    cpu_seconds: f64,
    p50_us: u64,
    p99_us: u64,
}

/// All samples as NDJSON.
pub(crate) fn raw(body: usize, samples: &[Sample]) -> serde_json::Result<String> {
    let mut text = String::new();
    for sample in samples {
        let raw = Raw {
            body,
            round: sample.round,
            contestant: sample.contestant.name(),
            requests: sample.requests,
            seconds: sample.seconds,
            cpu_seconds: sample.cpu_seconds,
            p50_us: sample.p50_us,
            p99_us: sample.p99_us,
        };
        text.push_str(&serde_json::to_string(&raw)?);
        text.push('\n');
    }
    Ok(text)
}

/// What a Larder is held against, and the ratio to reach.
struct Goal {
    larder: Contestant,
    reference: Contestant,
    ratio: f64,
}

/// The ratios this version has to reach, in requests per CPU-second.
const GOALS: [Goal; 2] = [
    Goal {
        larder: Contestant::LarderMemory,
        reference: Contestant::AxumMoka,
        ratio: 0.70,
    },
    Goal {
        larder: Contestant::LarderRedis,
        reference: Contestant::AxumRedis,
        ratio: 0.85,
    },
];

/// The table in Markdown, and a line for each goal.
pub(crate) fn table(body: usize, contestants: &[Contestant], samples: &[Sample]) -> String {
    let mut text = format!(
        "\n### Bodies of {body} bytes\n\n\
         | | requests per CPU-second | to axum + moka | to axum + redis-rs | requests/s | p50 | p99 |\n\
         |---|---:|---:|---:|---:|---:|---:|\n"
    );
    for &contestant in contestants {
        let figure =
            |of: fn(&Sample) -> f64| median(of_contestant(samples, contestant).map(of).collect());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            contestant.title(),
            thousands(figure(Sample::per_cpu_second)),
            two_places(ratio(samples, contestant, Contestant::AxumMoka)),
            two_places(ratio(samples, contestant, Contestant::AxumRedis)),
            thousands(figure(Sample::per_second)),
            milliseconds(figure(|sample| sample.p50_us as f64)),
            milliseconds(figure(|sample| sample.p99_us as f64)),
        );
    }
    text.push('\n');
    for goal in &GOALS {
        if let Some(reached) = ratio(samples, goal.larder, goal.reference) {
            let _ = writeln!(
                text,
                "- {}: {reached:.2} of {} (to reach: {:.2}){}",
                goal.larder.title(),
                goal.reference.title(),
                goal.ratio,
                if reached < goal.ratio {
                    ", NOT reached"
                } else {
                    ""
                }
            );
        }
    }
    text
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
    fn the_table_says_when_a_goal_is_missed() {
        let samples = [
            sample(0, Contestant::LarderMemory, 60_000),
            sample(0, Contestant::AxumMoka, 100_000),
        ];
        let text = table(
            300,
            &[Contestant::LarderMemory, Contestant::AxumMoka],
            &samples,
        );
        assert!(
            text.contains("| 60,000 | 0.60 | – | 30,000 | 0.50 ms | 1.00 ms |"),
            "{text}"
        );
        assert!(
            text.contains("0.60 of axum + moka, bare (to reach: 0.70), NOT reached"),
            "{text}"
        );
    }
}
