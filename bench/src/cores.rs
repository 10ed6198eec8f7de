//! What a request costs when the server has two cores: Larder's memory hit beside the bare handler's, each with one core, with
//! one that the load has too, and with two that the load has too.
//! Owns who has which core, and what had to be reached; must not know how a server or a load works.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    body,
    finding::{Finding, Goal},
    generator::Pace,
    process::Cores,
    profile::{Place, Profile, Profiler, grown, shown},
    report::{median, thousands},
    script::Paths,
    subject::{Key, Kind, Plan, Programs, Subject, Turn},
};

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    programs: Programs,
    /// The size of an answer in bytes.
    #[arg(long, default_value_t = 300)]
    body: usize,
    /// How often everyone has a turn. Many that are short: a machine that is slower for some seconds is so in few of them.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// How long a turn is.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// How often `perf` looks at everyone afterwards, at what the time goes into; 0 does without it.
    #[arg(long, default_value_t = 0)]
    profiles: usize,
    /// One round of turns of one second: shows that everything runs, not what it costs.
    #[arg(long)]
    pub(crate) quick: bool,
}

/// Who has which cores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seating {
    /// The server has the first, the load the second.
    Apart,
    /// Both have the first alone.
    Together,
    /// Both have both.
    Both,
}

impl Seating {
    const ALL: [Self; 3] = [Self::Apart, Self::Together, Self::Both];

    const fn title(self) -> &'static str {
        match self {
            Self::Apart => "one core, the load on the other",
            Self::Together => "one core, the load on the same",
            Self::Both => "two cores, the load on the same",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::Together => "together",
            Self::Both => "both",
        }
    }

    fn server(self, cores: Cores) -> Vec<usize> {
        match self {
            Self::Apart | Self::Together => vec![cores.server],
            Self::Both => vec![cores.server, cores.load],
        }
    }

    fn load(self, cores: Cores) -> Vec<usize> {
        match self {
            Self::Apart => vec![cores.load],
            Self::Together | Self::Both => self.server(cores),
        }
    }
}

/// Who is measured, each in every seating.
const EVERYONE: [(&str, &str); 2] = [
    ("larder", "Larder, memory hit, key policy in Wasm"),
    ("axum-moka", "axum + moka, bare"),
];

/// How many of the functions that take more time on two cores are shown.
const GROWN: usize = 12;
/// A turn that `perf` looks at.
const PROFILED: Duration = Duration::from_secs(2);

/// Everyone's turns in one round: by who, and by seating.
type Round = [[Turn; 3]; 2];

pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    ensure!(
        options.rounds > 0 && options.seconds > 0,
        "a run has at least one round of a second"
    );
    let (rounds, length) = match options.quick {
        true => (1, Duration::from_secs(1)),
        false => (options.rounds, Duration::from_secs(options.seconds)),
    };
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(options.body)?;
    let mut subjects = Vec::new();
    for (who, _) in EVERYONE {
        for seating in Seating::ALL {
            let kind = match who {
                "larder" => Kind::Larder {
                    loader: options.programs.plugin("demo"),
                    key: Key::Policy,
                    capacity: "256MiB",
                },
                _ => Kind::Bare,
            };
            let plan = Plan {
                name: &format!("{who}-{}", seating.name()),
                kind,
                paths: Paths::Known,
                text: &text,
                cores: &seating.server(cores),
            };
            subjects.push(Subject::start(plan, &options.programs, directory.path()).await?);
        }
    }
    let mut measured = Vec::new();
    // Round 0 warms up and is thrown away; every other one goes the other way round.
    for round in 0..=rounds {
        let mut turns = vec![None; subjects.len()];
        let forth = 0..subjects.len();
        let order: Vec<usize> = match round % 2 {
            0 => forth.collect(),
            _ => forth.rev().collect(),
        };
        for which in order {
            let seating = Seating::ALL[which % Seating::ALL.len()];
            let subject = &mut subjects[which];
            let mut load = subject.load(seating.load(cores), Pace::Closed);
            load.length = length;
            turns[which] = Some(subject.turn(load).await?);
        }
        let turns: Vec<Turn> = turns.into_iter().flatten().collect();
        if let ([a, b, c, d, e, f], true) = (turns.as_slice(), round > 0) {
            measured.push([[*a, *b, *c], [*d, *e, *f]]);
        }
        eprintln!("round {round} of {rounds} done");
    }
    let mut findings = vec![finding(&measured)];
    if options.profiles > 0 {
        let profiler = Profiler::new(directory.path())?;
        let mut profiles = vec![Profile::default(); subjects.len()];
        for _ in 0..options.profiles {
            for (which, subject) in subjects.iter_mut().enumerate() {
                let seating = Seating::ALL[which % Seating::ALL.len()];
                let mut load = subject.load(seating.load(cores), Pace::Closed);
                load.length = PROFILED;
                profiler.look(subject, load, &mut profiles[which]).await?;
            }
        }
        findings.push(profiled(&profiles));
    }
    for subject in subjects {
        subject.stop().await;
    }
    Ok(findings)
}

/// What a second core adds, and to what.
fn profiled(profiles: &[Profile]) -> Finding {
    let seatings = Seating::ALL.len();
    let mut table = String::from(
        "CPU time of the server for each request, by where it is spent, in ns, and what it asked of the system, for 1000 requests. With \
         `perf` looking.\n\n\
         | | | in all | the kernel | the program | libraries | system calls | futex calls | slept | sent away |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut samples = Vec::new();
    for (which, profile) in profiles.iter().enumerate() {
        let (who, title) = EVERYONE[which / seatings];
        let seating = Seating::ALL[which % seatings];
        let places = Place::ALL.map(|(place, _)| profile.of_place(place));
        let [calls, futexes, slept, sent_away] = profile.counts();
        let _ = writeln!(
            table,
            "| {title} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {calls:.0} | {futexes:.2} | {slept:.2} | {sent_away:.2} |",
            seating.title(),
            profile.all(),
            places[0],
            places[1],
            places[2],
        );
        samples.push(json!({
            "who": who, "cores": seating.name(), "ns": profile.all(), "calls": calls, "futexes": futexes,
            "slept": slept, "sent_away": sent_away,
            "places": Place::ALL.map(|(_, name)| name), "of_places": places,
        }));
    }
    for ((who, title), profiles) in EVERYONE.into_iter().zip(profiles.chunks(seatings)) {
        let [_, one, two] = profiles else { continue };
        let _ = write!(
            table,
            "\n{title}: what takes most more on two cores than on one, the load on the same, in ns a request:\n\n\
             | function | one core | two cores | |\n|---|---:|---:|---:|\n"
        );
        for (function, before, after) in grown(one, two, GROWN) {
            let _ = writeln!(
                table,
                "| `{}` | {before:.0} | {after:.0} | {:+.0} |",
                shown(&function),
                after - before
            );
            samples.push(json!({ "who": who, "function": function, "one": before, "two": after }));
        }
    }
    Finding {
        title: "What a second core adds to".to_owned(),
        table,
        goals: Vec::new(),
        samples,
    }
}

fn finding(rounds: &[Round]) -> Finding {
    let middle =
        |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of).collect()).unwrap_or(f64::NAN);
    let mut table = format!(
        "CPU time of the server for each request. Medians of {} rounds; ratios are paired by round.\n\n\
         | | | CPU a request | to one core apart | to one core together | cores busy | requests/s |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
        rounds.len()
    );
    for (who, (_, title)) in EVERYONE.into_iter().enumerate() {
        for (place, seating) in Seating::ALL.into_iter().enumerate() {
            let to =
                |other: usize| middle(&|all| all[who][place].micros() / all[who][other].micros());
            let _ = writeln!(
                table,
                "| {title} | {} | {:.2} µs | {:.2} | {:.2} | {:.2} | {} |",
                seating.title(),
                middle(&|all| all[who][place].micros()),
                to(0),
                to(1),
                middle(&|all| {
                    let turn = &all[who][place];
                    turn.cpu.as_secs_f64() / turn.outcome.seconds
                }),
                thousands(Some(middle(&|all| all[who][place].per_second()))),
            );
        }
    }
    let grows = |who: usize, from: usize| {
        middle(&|all: &Round| all[who][2].micros() / all[who][from].micros())
    };
    let beside = middle(&|all| {
        let [larder, bare] = all.map(|turns| turns[2].micros() / turns[0].micros());
        larder / bare
    });
    let _ = write!(
        table,
        "\n- the bare handler, two cores to one: {:.2}; Larder's growth to that, paired by round: {beside:.2}\n\
         - Larder, two cores to one when the load shares it, too: {:.2}\n",
        grows(1, 0),
        grows(0, 1),
    );
    let samples = rounds.iter().enumerate().flat_map(|(round, all)| {
        let everyone = all.iter().zip(EVERYONE);
        everyone.flat_map(move |(turns, (who, _))| {
            turns.iter().zip(Seating::ALL).map(move |(turn, seating)| {
                json!({
                    "round": round + 1,
                    "who": who,
                    "cores": seating.name(),
                    "requests": turn.outcome.requests,
                    "seconds": turn.outcome.seconds,
                    "cpu_seconds": turn.cpu.as_secs_f64(),
                })
            })
        })
    });
    Finding {
        title: "Two cores".to_owned(),
        samples: samples.collect(),
        table,
        goals: vec![Goal::at_most(
            "CPU a request of Larder with two cores, to that with one",
            grows(0, 0),
            1.1,
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Outcome;

    #[test]
    fn the_growth_is_that_of_the_same_round() {
        let turn = |micros: u64| Turn {
            outcome: Outcome {
                requests: 100_000,
                seconds: 1.0,
                p50: Duration::ZERO,
                p99: Duration::ZERO,
                gap: Duration::ZERO,
                late_p99: Duration::ZERO,
            },
            cpu: Duration::from_millis(micros * 100),
        };
        let round = |times: usize| {
            [[10, 11, 12], [10, 10, 11]].map(|who| who.map(|micros| turn(micros * times as u64)))
        };
        let found = finding(&[round(1), round(2), round(3)]);
        assert_eq!(found.goals[0].reached, 1.2);
        assert!(
            found
                .table
                .contains("two cores to one: 1.10; Larder's growth to that, paired by round: 1.09"),
            "{}",
            found.table
        );
        assert!(
            found.table.contains(
                "| two cores, the load on the same | 24.00 µs | 1.20 | 1.09 | 2.40 | 100,000 |"
            ),
            "{}",
            found.table
        );
        assert_eq!(found.samples.len(), 18);
    }
}
