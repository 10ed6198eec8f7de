//! How long answers take while there is time: at half of what the server can do, at a fixed rate, each counted from when its
//! request was due. Larder's memory hit beside the bare handler's.
//! Owns rates and what had to be reached; must not know how a server or a load works.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    body,
    finding::{Finding, Goal},
    generator::Pace,
    process::Cores,
    report::{median, thousands},
    script::Paths,
    subject::{Key, Kind, Plan, Programs, Subject, Turn},
};

/// A turn in which the generator was later than this with one request of a hundred says nothing of the server.
const LATE_MAX: Duration = Duration::from_micros(100);
/// How often such a turn is repeated: somebody else may have had the load's core for a moment.
const ATTEMPTS: usize = 5;

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    programs: Programs,
    /// The size of an answer in bytes.
    #[arg(long, default_value_t = 300)]
    body: usize,
    /// The part of what a server can do that it is asked for.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// How often everyone has a turn. Many that are short: a machine that stands still for some milliseconds spoils one, and not
    /// the median.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// How long a turn is; there are three in a round, of which the first finds out what the server can do.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// One round of turns of a second: shows that everything runs, not how calm it is.
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Who is measured, and as which line of the table.
const EVERYONE: [(&str, &str); 2] = [
    ("axum-moka", "axum + moka, bare"),
    ("larder-memory", "Larder, memory hit, key policy in Wasm"),
];
const BARE: usize = 0;
const LARDER: usize = 1;

/// One server in one round.
struct Round {
    /// As fast as it answers.
    full: Turn,
    /// At its share of that.
    own: Turn,
    /// At the rate of who can do less: the same for everyone.
    same: Turn,
}

impl Round {
    /// What one core can do. That the load has kept it busy all the time is not said, so the core's own time counts.
    fn capacity(full: &Turn) -> f64 {
        full.outcome.requests as f64 / full.cpu.as_secs_f64()
    }
}

pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    ensure!(
        options.rounds > 0 && options.seconds > 0 && options.share > 0.0 && options.share < 1.0,
        "a run has at least one round of a second, and asks for a part of what a server can do"
    );
    let (rounds, length) = match options.quick {
        true => (1, Duration::from_secs(1)),
        false => (options.rounds, Duration::from_secs(options.seconds)),
    };
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(options.body)?;
    let kinds = [
        Kind::Bare,
        Kind::Larder {
            loader: options.programs.plugin("demo"),
            key: Key::Policy,
            capacity: "256MiB",
        },
    ];
    let mut subjects = Vec::new();
    for ((name, _), kind) in EVERYONE.into_iter().zip(kinds) {
        let plan = Plan {
            name,
            kind,
            paths: Paths::Known,
            text: &text,
            cores: &[cores.server],
        };
        subjects.push(Subject::start(plan, &options.programs, directory.path()).await?);
    }
    let mut measured = Vec::new();
    // Round 0 warms up and is thrown away; every other one goes the other way round.
    for round in 0..=rounds {
        let turns = all(&mut subjects, options.share, length, cores, round % 2 == 1).await?;
        if round > 0 {
            measured.push(turns);
        }
        eprintln!("round {round} of {rounds} done");
    }
    for subject in subjects {
        subject.stop().await;
    }
    Ok(vec![finding(options.share, &measured)])
}

/// Everyone's turns of one round: first what everyone can do, then everyone's share of it, then the same rate for everyone.
async fn all(
    subjects: &mut [Subject],
    share: f64,
    length: Duration,
    cores: Cores,
    is_reversed: bool,
) -> Result<[Round; 2]> {
    let order = match is_reversed {
        false => [BARE, LARDER],
        true => [LARDER, BARE],
    };
    let mut full = [None; 2];
    for which in order {
        full[which] = Some(turn(&mut subjects[which], Pace::Closed, length, cores).await?);
    }
    let [Some(bare), Some(larder)] = full else {
        bail!("somebody had no turn");
    };
    let rates = [bare, larder].map(|full| Round::capacity(&full) * share);
    let slower = rates[BARE].min(rates[LARDER]);
    let mut open = [[None; 2]; 2];
    for (turns, rates) in open.iter_mut().zip([rates, [slower; 2]]) {
        for which in order {
            let pace = Pace::Open(rates[which]);
            turns[which] = Some(turn(&mut subjects[which], pace, length, cores).await?);
        }
    }
    let [
        [Some(own_bare), Some(own_larder)],
        [Some(same_bare), Some(same_larder)],
    ] = open
    else {
        bail!("somebody had no turn");
    };
    Ok([
        Round {
            full: bare,
            own: own_bare,
            same: same_bare,
        },
        Round {
            full: larder,
            own: own_larder,
            same: same_larder,
        },
    ])
}

/// A turn in which the generator kept up.
async fn turn(subject: &mut Subject, pace: Pace, length: Duration, cores: Cores) -> Result<Turn> {
    let mut late = Duration::ZERO;
    for _ in 0..ATTEMPTS {
        let mut load = subject.load(vec![cores.load], pace);
        load.length = length;
        let turn = subject.turn(load).await?;
        late = turn.outcome.late_p99;
        if late <= LATE_MAX {
            return Ok(turn);
        }
        eprintln!(
            "{}: the load fell behind by {late:?}, once more",
            subject.name
        );
    }
    bail!(
        "{}: in {ATTEMPTS} turns one request of a hundred was made {late:?} late or more (at most {LATE_MAX:?}): the load could not \
         keep up with its own rate; give it a core that nobody else uses, or a smaller --share",
        subject.name
    )
}

fn finding(share: f64, rounds: &[[Round; 2]]) -> Finding {
    let middle = |of: &dyn Fn(&[Round; 2]) -> f64| {
        median(rounds.iter().map(of).collect()).unwrap_or(f64::NAN)
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let to_bare = |of: fn(&Round) -> Duration| {
        middle(&|round| micros(of(&round[LARDER])) / micros(of(&round[BARE])))
    };
    let mut table = format!(
        "Asked for at a fixed rate, {share} of what each can do itself (**own rate**), and then of what the slower can do (**same \
         rate**); counted from when a request was due. Medians of {} rounds.\n\n\
         | | can do, requests/s | p50, own rate | p99, own rate | p99 of slices, own rate | p50, same rate | p99, same rate | load late by, p99 |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
        rounds.len()
    );
    for (which, (_, title)) in EVERYONE.into_iter().enumerate() {
        let time = |of: fn(&Round) -> Duration| {
            format!("{:.0} µs", middle(&|all| micros(of(&all[which]))))
        };
        let _ = writeln!(
            table,
            "| {title} | {} | {} | {} | {} | {} | {} | {} |",
            thousands(Some(middle(&|all| Round::capacity(&all[which].full)))),
            time(|round| round.own.outcome.p50),
            time(|round| round.own.outcome.p99),
            time(|round| round.own.outcome.p99_of_slices),
            time(|round| round.same.outcome.p50),
            time(|round| round.same.outcome.p99),
            time(|round| round.own.outcome.late_p99),
        );
    }
    let same = to_bare(|round| round.same.outcome.p99);
    let _ = writeln!(
        table,
        "\n- p99 to the bare handler's at the same rate: {same:.2}"
    );
    let own = to_bare(|round| round.own.outcome.p99);
    let slices = to_bare(|round| round.own.outcome.p99_of_slices);
    let _ = writeln!(
        table,
        "- p99 of slices to the bare handler's, each at its own rate: {slices:.2}"
    );
    let samples = rounds.iter().enumerate().flat_map(|(round, all)| {
        all.iter()
            .zip(EVERYONE)
            .flat_map(move |(turns, (name, _))| {
                let turns = [
                    ("full", &turns.full),
                    ("own", &turns.own),
                    ("same", &turns.same),
                ];
                turns.map(|(load, turn)| {
                    json!({
                        "round": round + 1,
                        "who": name,
                        "load": load,
                        "requests": turn.outcome.requests,
                        "seconds": turn.outcome.seconds,
                        "cpu_seconds": turn.cpu.as_secs_f64(),
                        "p50_us": micros(turn.outcome.p50),
                        "p99_us": micros(turn.outcome.p99),
                    "p99_of_slices_us": micros(turn.outcome.p99_of_slices),
                        "late_p99_us": micros(turn.outcome.late_p99),
                    })
                })
            })
    });
    Finding {
        title: "Latency of a calm server".to_owned(),
        samples: samples.collect(),
        table,
        goals: vec![Goal::at_most(
            format!("p99 at {share} of the saturating load, to the bare handler's at its own"),
            own,
            2.0,
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Outcome;

    #[test]
    fn each_is_held_against_the_other_at_its_own_rate_and_at_the_same() {
        let turn = |p99: u64| Turn {
            outcome: Outcome {
                requests: 50_000,
                seconds: 1.0,
                p50: Duration::from_micros(p99 / 2),
                p99: Duration::from_micros(p99),
                p99_of_slices: Duration::from_micros(p99 / 4),
                late_p99: Duration::from_micros(7),
            },
            cpu: Duration::from_millis(500),
        };
        let round = |own, same| Round {
            full: turn(1_000),
            own: turn(own),
            same: turn(same),
        };
        // The machine stumbled in round 2, under both.
        let found = finding(
            0.5,
            &[
                [round(100, 100), round(150, 120)],
                [round(400, 100), round(900, 120)],
                [round(100, 100), round(150, 120)],
            ],
        );
        let table = &found.table;
        assert!(
            table.contains(
                "| axum + moka, bare | 100,000 | 50 µs | 100 µs | 25 µs | 50 µs | 100 µs | 7 µs |"
            ),
            "{table}"
        );
        assert!(table.contains("at the same rate: 1.20"), "{table}");
        assert_eq!(found.goals[0].reached, 1.5);
        assert_eq!(found.samples.len(), 18);
    }
}
