//! How long answers take while there is time: at half of what the server can do, at a fixed rate, each counted from when its
//! request was due. Larder's memory hit beside the bare handler's, in pairs of short turns that a stall of the machine spoils one
//! of, and in long ones as it comes.
//! Owns rates and what had to be reached; must not know how a server or a load works.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    body,
    finding::{Finding, Goal},
    generator::{Outcome, Pace},
    process::Cores,
    report::{median, thousands},
    script::Paths,
    subject::{Key, Kind, Plan, Programs, Subject, Turn},
};

/// A turn in which the generator was later than this with one request of a hundred says nothing of the server.
const LATE_MAX: Duration = Duration::from_micros(100);
/// How often such a turn is repeated: somebody else may have had the load's core for a moment.
const ATTEMPTS: usize = 3;

/// In each round, how often both have a short turn, one after the other.
const PAIRS: usize = 16;
/// How long a short turn is, and how much of it does not count, while connections are accepted.
const SHORT: Duration = Duration::from_millis(160);
const LEAD: Duration = Duration::from_millis(40);
/// The load looks at its sockets all the time. If it did not for so long, the machine has stood still.
const GAP_MAX: Duration = Duration::from_millis(1);
/// Of the pairs of a run at least one of so many must be free of that, or nothing is said.
const KEPT_MIN: usize = 4;

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
    /// How often everyone has a long turn of each kind, and sixteen short ones.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long a long turn is; there are three in a round, of which the first finds out what the server can do.
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

/// Two short turns, one after the other: the bare handler's and Larder's, each at its own rate.
type Pair = [Turn; 2];

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
    let (mut measured, mut pairs) = (Vec::new(), Vec::new());
    // Round 0 warms up and is thrown away; every other one goes the other way round.
    for round in 0..=rounds {
        let turns = all(&mut subjects, options.share, length, cores, round % 2 == 1).await?;
        let rates = turns
            .each_ref()
            .map(|turns| Round::capacity(&turns.full) * options.share);
        let short = in_pairs(&mut subjects, rates, cores).await?;
        if round > 0 {
            measured.push(turns);
            pairs.extend(short);
        }
        eprintln!("round {round} of {rounds} done");
    }
    for subject in subjects {
        subject.stop().await;
    }
    Ok(vec![finding(options.share, &measured, &pairs)?])
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

/// The short turns of a round; every other pair goes the other way round.
async fn in_pairs(subjects: &mut [Subject], rates: [f64; 2], cores: Cores) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for pair in 0..PAIRS {
        let order = match pair % 2 {
            0 => [BARE, LARDER],
            _ => [LARDER, BARE],
        };
        let mut turns = [None; 2];
        for which in order {
            let pace = Pace::Open(rates[which]);
            let mut load = subjects[which].load(vec![cores.load], pace);
            (load.lead, load.length) = (LEAD, SHORT);
            turns[which] = Some(subjects[which].turn(load).await?);
        }
        if let [Some(bare), Some(larder)] = turns {
            pairs.push([bare, larder]);
        }
    }
    Ok(pairs)
}

/// Whether the load had its core all the time, in both turns of a pair: whose turn a stall fell into is chance.
fn is_undisturbed(pair: &Pair) -> bool {
    pair.iter().all(|turn| {
        let Outcome { gap, late_p99, .. } = turn.outcome;
        gap <= GAP_MAX && late_p99 <= LATE_MAX
    })
}

/// A turn in which the generator kept up, if there is one: how late it was stands beside what it found.
async fn turn(subject: &mut Subject, pace: Pace, length: Duration, cores: Cores) -> Result<Turn> {
    let mut attempt = 1;
    loop {
        let mut load = subject.load(vec![cores.load], pace);
        load.length = length;
        let turn = subject.turn(load).await?;
        let late = turn.outcome.late_p99;
        if late <= LATE_MAX || attempt == ATTEMPTS {
            return Ok(turn);
        }
        eprintln!(
            "{}: the load fell behind by {late:?}, once more",
            subject.name
        );
        attempt += 1;
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn finding(share: f64, rounds: &[[Round; 2]], pairs: &[Pair]) -> Result<Finding> {
    let kept: Vec<&Pair> = pairs.iter().filter(|pair| is_undisturbed(pair)).collect();
    ensure!(
        !kept.is_empty() && kept.len() * KEPT_MIN >= pairs.len(),
        "in all but {} of {} pairs of turns the load did not have its core for more than {GAP_MAX:?}: the machine has too much else \
         to do",
        kept.len(),
        pairs.len()
    );
    let ratio = |pair: &Pair| micros(pair[LARDER].outcome.p99) / micros(pair[BARE].outcome.p99);
    let ratios: Vec<f64> = kept.iter().map(|pair| ratio(pair)).collect();
    let beyond = |bound: fn(f64) -> bool| ratios.iter().filter(|ratio| bound(**ratio)).count();
    let paired = median(ratios.clone()).unwrap_or(f64::NAN);
    let middle = |of: &dyn Fn(&[Round; 2]) -> f64| {
        median(rounds.iter().map(of).collect()).unwrap_or(f64::NAN)
    };
    let to_bare = |of: fn(&Round) -> Duration| {
        middle(&|round| micros(of(&round[LARDER])) / micros(of(&round[BARE])))
    };
    let mut table = format!(
        "Asked for at a fixed rate, {share} of what each can do itself (**own rate**), and of what the slower can do (**same \
         rate**); counted from when a request was due. Medians of {} rounds; **in pairs**: of short turns at their own rates, {} of {} pairs, \
         those in which the load had its core all the time.\n\n\
         | | can do, requests/s | p50, in pairs | p99, in pairs | p50, own rate | p99, own rate | p50, same rate | p99, same rate | load late by, p99 |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        rounds.len(),
        kept.len(),
        pairs.len(),
    );
    for (which, (_, title)) in EVERYONE.into_iter().enumerate() {
        let time = |of: fn(&Round) -> Duration| {
            format!("{:.0} µs", middle(&|all| micros(of(&all[which]))))
        };
        let short = |of: fn(&Outcome) -> Duration| {
            let times = kept.iter().map(|pair| micros(of(&pair[which].outcome)));
            format!("{:.0} µs", median(times.collect()).unwrap_or(f64::NAN))
        };
        let _ = writeln!(
            table,
            "| {title} | {} | {} | {} | {} | {} | {} | {} | {} |",
            thousands(Some(middle(&|all| Round::capacity(&all[which].full)))),
            short(|outcome| outcome.p50),
            short(|outcome| outcome.p99),
            time(|round| round.own.outcome.p50),
            time(|round| round.own.outcome.p99),
            time(|round| round.same.outcome.p50),
            time(|round| round.same.outcome.p99),
            time(|round| round.own.outcome.late_p99),
        );
    }
    let _ = writeln!(
        table,
        "\n- raw: p99 to the bare handler's in long turns, each at its own rate: {:.2}; at the same rate: {:.2}\n\
         - pairs in which Larder's p99 was more than twice the bare handler's: {}; less than half of it: {}. Stalls of the machine fall \
         on both alike, Larder's own on one side",
        to_bare(|round| round.own.outcome.p99),
        to_bare(|round| round.same.outcome.p99),
        beyond(|ratio| ratio > 2.0),
        beyond(|ratio| ratio < 0.5),
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
                        "late_p99_us": micros(turn.outcome.late_p99),
                    })
                })
            })
    });
    let short = pairs.iter().enumerate().map(|(number, pair)| {
        json!({
            "pair": number + 1,
            "is_undisturbed": is_undisturbed(pair),
            "p99_us": pair.map(|turn| micros(turn.outcome.p99)),
            "p50_us": pair.map(|turn| micros(turn.outcome.p50)),
            "gap_us": pair.map(|turn| micros(turn.outcome.gap)),
        })
    });
    Ok(Finding {
        title: "Latency of a calm server".to_owned(),
        samples: samples.chain(short).collect(),
        table,
        goals: vec![Goal::at_most(
            format!(
                "p99 at {share} of the saturating load, to the bare handler's at its own, in pairs"
            ),
            paired,
            2.0,
        )],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(p99: u64, gap: u64, late: u64) -> Turn {
        Turn {
            outcome: Outcome {
                requests: 50_000,
                seconds: 1.0,
                p50: Duration::from_micros(p99 / 2),
                p99: Duration::from_micros(p99),
                gap: Duration::from_micros(gap),
                late_p99: Duration::from_micros(late),
            },
            cpu: Duration::from_millis(500),
        }
    }

    fn calm(p99: u64) -> Turn {
        turn(p99, 30, 7)
    }

    fn round(own: u64, same: u64) -> Round {
        Round {
            full: calm(1_000),
            own: calm(own),
            same: calm(same),
        }
    }

    #[test]
    fn each_is_held_against_the_other_in_pairs_and_the_raw_figures_stand_beside() {
        // The machine stumbled in round 2, and once within a pair, which the load did not see.
        let rounds = [
            [round(100, 100), round(150, 120)],
            [round(400, 100), round(900, 120)],
            [round(100, 100), round(150, 120)],
        ];
        let pairs = [
            [calm(100), calm(120)],
            [calm(200), calm(240)],
            [calm(100), calm(9_000)],
            [calm(9_000), calm(120)],
            [calm(300), calm(360)],
        ];
        let found = finding(0.5, &rounds, &pairs).unwrap();
        let table = &found.table;
        assert!(
            table.contains(
                "| axum + moka, bare | 100,000 | 100 µs | 200 µs | 50 µs | 100 µs | 50 µs | 100 µs | 7 µs |"
            ),
            "{table}"
        );
        assert!(
            table.contains("own rate: 1.50; at the same rate: 1.20"),
            "{table}"
        );
        assert!(
            table.contains("twice the bare handler's: 1; less than half of it: 1."),
            "{table}"
        );
        assert_eq!(found.goals[0].reached, 1.2);
        assert_eq!(found.samples.len(), 18 + 5);
    }

    #[test]
    fn a_pair_in_which_the_load_stood_still_counts_for_neither() {
        let good = [calm(100), calm(100)];
        assert!(is_undisturbed(&good));
        for bad in [turn(100, 1_001, 7), turn(100, 30, 101)] {
            assert!(!is_undisturbed(&[bad, calm(100)]));
            assert!(!is_undisturbed(&[calm(100), bad]));
        }
        let rounds = [[round(100, 100), round(100, 100)]];
        // Larder's turns were the bad ones here, and the other way round no better.
        let bad = [calm(100), turn(100_000, 90_000, 7)];
        let found = finding(0.5, &rounds, &[bad, good, bad, bad]).unwrap();
        assert_eq!(found.goals[0].reached, 1.0);
        assert!(finding(0.5, &rounds, &[bad, good, bad, bad, bad]).is_err());
        assert!(finding(0.5, &rounds, &[]).is_err());
    }
}
