//! Two Larders side by side, loaded in turn: the CPU time of a request, and the ratio paired by round. Owns the order of turns;
//! must not know in what the two differ.

use std::{path::Path, time::Duration};

use anyhow::Result;
use serde_json::json;

use super::Options;
use crate::{
    finding::{Finding, Goal, median},
    fixture::{Asked, Larder, path},
    load::Load,
    process::Cores,
};

/// How much more a request may cost where there is much.
const FLAT: f64 = 1.05;

/// One of the two, filled.
pub(super) struct Side {
    /// "10 routes"
    what: String,
    larder: Larder,
    asked: Vec<Asked>,
    /// What `Cache-Status` says of every answer.
    from: &'static str,
}

impl Side {
    pub(super) fn new(
        what: String,
        larder: Larder,
        asked: Vec<Asked>,
        from: &'static str,
    ) -> Result<Self> {
        Ok(Self {
            what,
            larder,
            asked,
            from,
        })
    }

    /// Microseconds of CPU time a request, and how many there were.
    async fn turn(&self, load: &Load, length: Duration) -> Result<Turn> {
        let before = self.larder.server.cpu()?;
        let slice = load.slice(self.larder.at.public, length).await?;
        let used = self.larder.server.cpu()? - before;
        Ok(Turn {
            requests: slice.requests,
            micros: used.as_secs_f64() * 1e6 / slice.requests as f64,
        })
    }
}

/// What one had in one round.
#[derive(Clone, Copy)]
struct Turn {
    requests: u64,
    micros: f64,
}

/// The two.
pub(super) struct Pair {
    pub(super) title: String,
    pub(super) few: Side,
    pub(super) many: Side,
}

impl Pair {
    /// Checks, measures in rounds, checks again, and stops both.
    pub(super) async fn measure(
        self,
        options: &Options,
        cores: Cores,
        directory: &Path,
        text: &str,
    ) -> Result<Finding> {
        let sides = [&self.few, &self.many];
        let mut loads = Vec::new();
        for (side, name) in sides.iter().zip(["few", "many"]) {
            side.larder.check(&side.asked, text, side.from).await?;
            let paths: Vec<String> = side.asked.iter().map(|it| path(it.route, it.key)).collect();
            loads.push(Load::of_paths(
                cores.load,
                options.connections,
                directory,
                name,
                &paths,
            )?);
        }
        let length = Duration::from_secs(options.seconds);
        let mut rounds = Vec::new();
        // Round 0 warms up and is thrown away.
        for round in 0..=options.rounds {
            let mut turns = [None; 2];
            for turn in 0..2 {
                let which = (round + turn) % 2;
                turns[which] = Some(sides[which].turn(&loads[which], length).await?);
            }
            if let (true, [Some(few), Some(many)]) = (round > 0, turns) {
                rounds.push([few, many]);
            }
            eprintln!("{}: round {round} of {} done", self.title, options.rounds);
        }
        for side in sides {
            side.larder.check(&side.asked, text, side.from).await?;
        }
        let finding = finding(&self.title, [&self.few.what, &self.many.what], &rounds);
        self.few.larder.server.stop().await;
        self.many.larder.server.stop().await;
        Ok(finding)
    }
}

fn finding(title: &str, [few, many]: [&str; 2], rounds: &[[Turn; 2]]) -> Finding {
    let micros = |which: usize| median(rounds.iter().map(|round| round[which].micros));
    let ratio = median(rounds.iter().map(|[few, many]| many.micros / few.micros));
    let table = format!(
        "| | CPU time of a request | to the other, paired by round |\n|---|---:|---:|\n\
         | {few} | {:.2} µs | |\n| {many} | {:.2} µs | {ratio:.3} |\n\n\
         Medians of {} rounds.\n",
        micros(0),
        micros(1),
        rounds.len()
    );
    Finding {
        title: title.to_owned(),
        table,
        goals: vec![Goal::at_most(
            format!("CPU time of a request, {many} to {few}"),
            ratio,
            FLAT,
        )],
        samples: rounds
            .iter()
            .enumerate()
            .flat_map(|(round, turns)| {
                [few, many].into_iter().zip(turns).map(move |(what, turn)| {
                    json!({
                        "round": round + 1,
                        "of": what,
                        "requests": turn.requests,
                        "cpu_micros": turn.micros,
                    })
                })
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_paired_by_round() {
        let turn = |micros| Turn {
            requests: 1,
            micros,
        };
        let rounds = [[10.0, 10.0], [20.0, 22.0], [10.0, 20.0]];
        let rounds = rounds.map(|round| round.map(turn));
        let found = finding("x", ["few", "many"], &rounds);
        assert!(
            found.table.contains("| many | 20.00 µs | 1.100 |"),
            "{}",
            found.table
        );
        assert!(!found.goals[0].is_reached());
        assert_eq!(found.samples.len(), 6);
    }
}
