//! What plugins cost, in CPU time of the server for each request: a miss by what loads, and a hit by what derives the key.
//! Owns who is compared with whom, and what had to be reached; must not know how a server or a load works.

use std::{fmt::Write as _, path::Path, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use crate::{
    body,
    finding::{Finding, Goal},
    generator::Pace,
    process::Cores,
    report::median,
    script::Paths,
    subject::{Key, Kind, Plan, Programs, Subject, Turn},
};

/// Room for about as many entries of 300 bytes as the 100,000 that the bare handler's cache is given: whoever loads a key that
/// never comes again makes room for it, too.
const CAPACITY: &str = "64MiB";

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    programs: Programs,
    /// Where `data-rust.wasm` and `data-python.wasm` are: bench/loaders/build makes them.
    #[arg(long, default_value = "bench/loaders/dist")]
    loaders_dist: PathBuf,
    /// Leaves the loader in Python out: its component is large, and takes a minute to build.
    #[arg(long)]
    no_python: bool,
    /// The size of an answer in bytes.
    #[arg(long, default_value_t = 300)]
    body: usize,
    /// How often everyone has a turn.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long a turn is.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// One round of one second: shows that everything runs, not what it costs.
    #[arg(long)]
    pub(crate) quick: bool,
}

impl Options {
    fn loader(&self, name: &str) -> PathBuf {
        self.loaders_dist.join(name).with_extension("wasm")
    }

    fn rounds(&self) -> (usize, Duration) {
        match self.quick {
            true => (1, Duration::from_secs(1)),
            false => (self.rounds, Duration::from_secs(self.seconds)),
        }
    }
}

/// One line of a table.
struct Role {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    paths: Paths,
}

/// The turns of everyone, by round, in the order of the roles.
type Rounds = Vec<Vec<Turn>>;

/// A line, another that it is compared with, and what may lie between the two.
struct Comparison {
    what: &'static str,
    line: &'static str,
    with: &'static str,
    goal: Option<f64>,
}

pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    ensure!(
        options.rounds > 0 && options.seconds > 0,
        "a run has at least one round of a second"
    );
    Ok(vec![misses(options).await?, keys(options).await?])
}

/// A miss: the same source in the process of the bare handler, and behind the contract of a loader.
async fn misses(options: &Options) -> Result<Finding> {
    let larder = |loader| Kind::Larder {
        loader,
        key: Key::PathNative,
        capacity: CAPACITY,
    };
    let mut roles = vec![
        Role {
            name: "bare-hit",
            title: "axum + moka, hit",
            kind: Kind::Bare,
            paths: Paths::Known,
        },
        Role {
            name: "bare-miss",
            title: "axum + moka, miss, loaded natively",
            kind: Kind::Bare,
            paths: Paths::New,
        },
        Role {
            name: "hit",
            title: "Larder, hit",
            kind: larder(options.loader("data-rust")),
            paths: Paths::Known,
        },
        Role {
            name: "miss-rust",
            title: "Larder, miss, loader in Rust",
            kind: larder(options.loader("data-rust")),
            paths: Paths::New,
        },
        Role {
            name: "miss-demo",
            title: "Larder, miss, the first-party `demo`",
            kind: larder(options.programs.plugin("demo")),
            paths: Paths::New,
        },
    ];
    let mut comparisons = vec![
        Comparison {
            what: "a miss through a loader in Rust, over the same load done natively by axum + moka",
            line: "miss-rust",
            with: "bare-miss",
            goal: Some(6.0),
        },
        Comparison {
            what: "a miss through a loader in Rust, over a hit of the same Larder",
            line: "miss-rust",
            with: "hit",
            goal: None,
        },
        Comparison {
            what: "a miss of axum + moka, over a hit of the same",
            line: "bare-miss",
            with: "bare-hit",
            goal: None,
        },
    ];
    if !options.no_python {
        roles.push(Role {
            name: "miss-python",
            title: "Larder, miss, loader in Python",
            kind: larder(options.loader("data-python")),
            paths: Paths::New,
        });
        comparisons.push(Comparison {
            what: "a miss through a loader in Python, over the same load done natively by axum + moka",
            line: "miss-python",
            with: "bare-miss",
            goal: Some(40.0),
        });
    }
    let rounds = rounds(options, &roles).await?;
    let title = "What a plugin costs: a miss by what loads";
    Ok(finding(title, &roles, &rounds, &comparisons))
}

/// A hit: the same key of a policy in Wasm and of the host, for requests that were remembered and for new ones.
async fn keys(options: &Options) -> Result<Finding> {
    let role = |name, title, key, paths| Role {
        name,
        title,
        kind: Kind::Larder {
            loader: options.loader("data-rust"),
            key,
            capacity: CAPACITY,
        },
        paths,
    };
    let roles = [
        role(
            "path-known",
            "the path, by the host; remembered requests",
            Key::PathNative,
            Paths::Known,
        ),
        role(
            "native-known",
            "tenant and path, by the host; remembered requests",
            Key::SameNative,
            Paths::Known,
        ),
        role(
            "policy-known",
            "tenant and path, by the policy; remembered requests",
            Key::Policy,
            Paths::Known,
        ),
        role(
            "native-new",
            "tenant and path, by the host; every request new",
            Key::SameNative,
            Paths::KnownAnew,
        ),
        role(
            "policy-new",
            "tenant and path, by the policy; every request new",
            Key::Policy,
            Paths::KnownAnew,
        ),
    ];
    let comparisons = [
        Comparison {
            what: "a key policy that the memo cannot help, over the same key by the host",
            line: "policy-new",
            with: "native-new",
            goal: Some(1.5),
        },
        Comparison {
            what: "a key policy with the memo, over the same key by the host",
            line: "policy-known",
            with: "native-known",
            goal: Some(0.1),
        },
        Comparison {
            what: "a key that looks at a header with the memo, over one of the path alone, both by the host",
            line: "native-known",
            with: "path-known",
            goal: None,
        },
    ];
    let rounds = rounds(options, &roles).await?;
    let title = "What a plugin costs: a hit by what derives the key";
    Ok(finding(title, &roles, &rounds, &comparisons))
}

/// Starts everyone and gives everyone a turn in each round; ends them.
async fn rounds(options: &Options, roles: &[Role]) -> Result<Rounds> {
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(options.body)?;
    let mut subjects = Vec::new();
    for role in roles {
        subjects.push(start(role, options, &text, cores, directory.path()).await?);
    }
    let (rounds, length) = options.rounds();
    let mut measured = Vec::new();
    // Round 0 warms up and is thrown away; every other one goes the other way round.
    for round in 0..=rounds {
        let mut turns = vec![None; roles.len()];
        let forth = 0..roles.len();
        let order: Vec<usize> = match round % 2 {
            0 => forth.collect(),
            _ => forth.rev().collect(),
        };
        for which in order {
            turns[which] = Some(turn(&mut subjects[which], &roles[which], cores, length).await?);
        }
        if round > 0 {
            measured.push(turns.into_iter().flatten().collect());
        }
        eprintln!("round {round} of {rounds} done");
    }
    for subject in subjects {
        subject.stop().await;
    }
    Ok(measured)
}

async fn start(
    role: &Role,
    options: &Options,
    text: &str,
    cores: Cores,
    directory: &Path,
) -> Result<Subject> {
    let plan = Plan {
        name: role.name,
        kind: role.kind.clone(),
        paths: role.paths,
        text,
        cores: &[cores.server],
    };
    Subject::start(plan, &options.programs, directory).await
}

/// A turn, and the proof that it was what it is called: how many keys were derived anew, and how many loads there were.
async fn turn(subject: &mut Subject, role: &Role, cores: Cores, length: Duration) -> Result<Turn> {
    let mut load = subject.load(vec![cores.load], Pace::Closed);
    load.length = length;
    if matches!(role.kind, Kind::Bare) {
        return subject.turn(load).await;
    }
    let derived = "larder_derivations_called_total";
    let before = subject.counter(derived).await?;
    let turn = subject.turn(load).await?;
    let anew = (subject.counter(derived).await? - before) as f64 / turn.outcome.requests as f64;
    let name = role.name;
    match role.paths {
        Paths::Known => ensure!(
            anew < 0.01,
            "{name}: {anew:.2} keys a request were derived, not remembered"
        ),
        _ => ensure!(
            anew > 0.99,
            "{name}: {anew:.2} keys a request were derived: the memo has helped"
        ),
    }
    Ok(turn)
}

fn finding(title: &str, roles: &[Role], rounds: &Rounds, comparisons: &[Comparison]) -> Finding {
    let place = |name: &str| roles.iter().position(|role| role.name == name);
    let middle = |of: &dyn Fn(&Vec<Turn>) -> f64| {
        median(rounds.iter().map(of).collect()).unwrap_or(f64::NAN)
    };
    let mut table = format!(
        "CPU time of the server for each request. Medians of {} rounds; differences are paired by round.\n\n\
         | | CPU a request | requests/s |\n|---|---:|---:|\n",
        rounds.len()
    );
    for (which, role) in roles.iter().enumerate() {
        let _ = writeln!(
            table,
            "| {} | {:.2} µs | {:.0} |",
            role.title,
            middle(&|turns| turns[which].micros()),
            middle(&|turns| turns[which].per_second()),
        );
    }
    let mut goals = Vec::new();
    table.push('\n');
    for comparison in comparisons {
        let (Some(line), Some(with)) = (place(comparison.line), place(comparison.with)) else {
            continue;
        };
        let added = middle(&|turns| turns[line].micros() - turns[with].micros());
        match comparison.goal {
            Some(goal) => goals.push(Goal::at_most(comparison.what, added, goal).in_units(" µs")),
            None => {
                let _ = writeln!(table, "- {}: {added:.2} µs", comparison.what);
            }
        }
    }
    let samples = rounds.iter().enumerate().flat_map(|(round, turns)| {
        turns.iter().zip(roles).map(move |(turn, role)| {
            json!({
                "round": round + 1,
                "who": role.name,
                "requests": turn.outcome.requests,
                "seconds": turn.outcome.seconds,
                "cpu_seconds": turn.cpu.as_secs_f64(),
                "p50_us": turn.outcome.p50.as_micros() as u64,
                "p99_us": turn.outcome.p99.as_micros() as u64,
            })
        })
    });
    Finding {
        title: title.to_owned(),
        samples: samples.collect(),
        table,
        goals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::Outcome;

    #[test]
    fn what_is_added_is_paired_by_round() {
        let turn = |micros: u64| Turn {
            outcome: Outcome {
                requests: 1_000,
                seconds: 1.0,
                p50: Duration::ZERO,
                p99: Duration::ZERO,
                gap: Duration::ZERO,
                late_p99: Duration::ZERO,
            },
            cpu: Duration::from_millis(micros),
        };
        let role = |name| Role {
            name,
            title: name,
            kind: Kind::Bare,
            paths: Paths::Known,
        };
        let comparison = |what, goal| Comparison {
            what,
            line: "b",
            with: "a",
            goal,
        };
        // The machine was twice as slow in round 2: the medians of 10, 20, 22 and of 13, 26, 26 are 6 apart.
        let rounds = [[10, 13], [20, 26], [22, 26]].map(|round| round.map(turn).to_vec());
        let found = finding(
            "costs",
            &[role("a"), role("b")],
            &rounds.to_vec(),
            &[comparison("told", None), comparison("asked", Some(3.5))],
        );
        assert!(
            found.table.contains("| b | 26.00 µs | 1000 |"),
            "{}",
            found.table
        );
        assert!(found.table.contains("- told: 4.00 µs"), "{}", found.table);
        assert_eq!(found.goals[0].reached, 4.0);
        assert!(!found.goals[0].is_reached());
        assert_eq!(found.samples.len(), 6);
    }
}
