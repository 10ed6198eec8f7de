//! How long a Larder takes from its start to its first answer, and what memory it takes when nobody asks: with ten plugins,
//! and what a thousand add. The cache of compiled code is warm. Must not know how plugins are loaded.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyper::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    body,
    client::Client,
    finding::{Finding, Goal, median},
    fixture::{Asked, Fixture, Larder, Programs, path},
    process::{Cores, Memory},
};

/// How long a start may take.
const START: Duration = Duration::from_secs(60);
/// How long nobody asks before memory is read: what only a start needs has been given back by then.
const IDLE: Duration = Duration::from_millis(1500);
/// The plugins of the cold start.
const FEW: usize = 10;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// The settings of a run.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How often each is started.
    #[arg(long, default_value_t = 7)]
    starts: usize,
    /// Plugins of the big one. They have the same bytes: compiling so many that differ takes minutes.
    #[arg(long, default_value_t = 1000)]
    plugins: usize,
    /// Two starts of each, and a tenth of the plugins: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
}

/// One start.
#[derive(Clone, Copy)]
struct Started {
    /// Until a route answered.
    took: Duration,
    /// A little later.
    memory: Memory,
}

/// Measures.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    let (starts, many) = match options.quick {
        true => (2, options.plugins.div_ceil(10)),
        false => (options.starts, options.plugins),
    };
    ensure!(
        starts > 0 && many > FEW,
        "at least one start, and more than {FEW} plugins, are measured"
    );
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(body::SHORTEST)?;
    let few = Fixture {
        loaders: FEW,
        distinct: true,
        routes: FEW,
        memory: "256MiB",
        redis: None,
        ttl: "1h",
        text: &text,
    };
    let many = Fixture {
        loaders: many,
        distinct: false,
        ..few
    };
    let mut both = [("few", few, Vec::new()), ("many", many, Vec::new())];
    // Start 0 compiles, fills the kernel's cache of files, and is thrown away.
    for start in 0..=starts {
        for (name, fixture, samples) in &mut both {
            let place = directory.path().join(*name);
            let at = fixture.write(&place, &options.programs)?;
            let begun = Instant::now();
            let larder = Larder::spawn(name, cores.server, &place, at, &options.programs)?;
            let started = until_it_idles(larder, begun, start, fixture, &text)
                .await
                .with_context(|| format!("{} plugins", fixture.loaders))?;
            if start > 0 {
                samples.push(started);
            }
        }
        eprintln!("start {start} of {starts} done");
    }
    let [(_, few, few_samples), (_, many, many_samples)] = both;
    Ok(vec![finding(
        (few.loaders, &few_samples),
        (many.loaders, &many_samples),
    )])
}

/// Asks until it answers, then leaves it alone and looks at its memory. Every plugin must have come up.
async fn until_it_idles(
    mut larder: Larder,
    begun: Instant,
    start: usize,
    fixture: &Fixture<'_>,
    text: &str,
) -> Result<Started> {
    // A key of this start alone: what was asked for most is loaded by itself at the next.
    let asked = Asked {
        route: 0,
        key: start,
    };
    first_answer(&mut larder, asked).await?;
    let took = begun.elapsed();
    larder.check(&[asked], text, "; hit;").await?;
    let ready = larder.admin("/readyz").await?;
    let broken = ready["plugins_not_ready"].as_array().map(Vec::len);
    let listed = ready["parts"]["plugins"].as_object().map(|all| all.len());
    // The loaders and the key policy.
    let expected = fixture.loaders + 1;
    ensure!(
        broken == Some(0) && listed == Some(expected),
        "of {expected} plugins, {listed:?} are listed and {broken:?} are not ready: {}",
        ready["plugins_not_ready"][0]
    );
    sleep(IDLE).await;
    let memory = larder.server.memory()?;
    larder.server.stop().await;
    Ok(Started { took, memory })
}

async fn first_answer(larder: &mut Larder, Asked { route, key }: Asked) -> Result<()> {
    let deadline = Instant::now() + START;
    // One connection, so that asking again costs the one core of the server as little as it can.
    let mut connected = None;
    loop {
        if connected.is_none() {
            connected = Client::connect(larder.at.public).await.ok();
        }
        let seen = match &mut connected {
            None => "nobody listens".to_owned(),
            Some(client) => match client.get(&path(route, key)).await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
                Ok(answer) => answer.status.to_string(),
                Err(error) => {
                    connected = None;
                    format!("{error:#}")
                }
            },
        };
        ensure!(
            larder.server.ended().is_none() && Instant::now() < deadline,
            "there is no answer ({seen})\n{}",
            larder.server.last_lines()
        );
        sleep(Duration::from_millis(1)).await;
    }
}

fn finding(
    (few, few_samples): (usize, &[Started]),
    (many, many_samples): (usize, &[Started]),
) -> Finding {
    let mut table = String::from(
        "| plugins | first answer after | resident | of it the process's own | of it pages of files |\n\
         |---:|---:|---:|---:|---:|\n",
    );
    let mut samples = Vec::new();
    for (plugins, started) in [(few, few_samples), (many, many_samples)] {
        table.push_str(&format!(
            "| {plugins} | {:.0} ms | {:.1} MiB | {:.1} MiB | {:.1} MiB |\n",
            milliseconds(started),
            mebibytes(started, |memory| memory.resident),
            mebibytes(started, |memory| memory.anonymous),
            mebibytes(started, |memory| memory.files),
        ));
        samples.extend(started.iter().map(|start| {
            json!({
                "plugins": plugins,
                "milliseconds": start.took.as_secs_f64() * 1000.0,
                "resident": start.memory.resident,
                "anonymous": start.memory.anonymous,
                "files": start.memory.files,
            })
        }));
    }
    let added = |of: fn(Memory) -> u64| {
        (mebibytes(many_samples, of) - mebibytes(few_samples, of)) / (many - few) as f64
    };
    let resident = added(|memory| memory.resident);
    table.push_str(&format!(
        "\nMedians of {} starts. Each further plugin adds {:.3} MiB: {:.3} MiB of the process's own, {:.3} MiB of pages of \
         files.\n",
        few_samples.len(),
        resident,
        added(|memory| memory.anonymous),
        added(|memory| memory.files),
    ));
    Finding {
        title: "Start and memory".to_owned(),
        table,
        goals: vec![
            Goal::at_most(
                format!("first answer with {few} plugins, compiled before"),
                milliseconds(few_samples),
                50.0,
            )
            .in_units(" ms"),
            Goal::at_most(
                format!("resident with {few} plugins and nobody who asks"),
                mebibytes(few_samples, |memory| memory.resident),
                40.0,
            )
            .in_units(" MiB"),
            Goal::at_most(
                format!("first answer with {many} plugins, compiled before"),
                milliseconds(many_samples),
                2000.0,
            )
            .in_units(" ms"),
            Goal::at_most("resident memory of each of those", resident, 0.5).in_units(" MiB"),
        ],
        samples,
    }
}

fn milliseconds(started: &[Started]) -> f64 {
    median(started.iter().map(|start| start.took.as_secs_f64() * 1e3))
}

fn mebibytes(started: &[Started], of: fn(Memory) -> u64) -> f64 {
    median(started.iter().map(|start| of(start.memory) as f64)) / MEBIBYTE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_adds_is_the_difference_over_how_many_there_are_more() {
        let start = |milliseconds, mebibytes: u64| Started {
            took: Duration::from_millis(milliseconds),
            memory: Memory {
                resident: mebibytes << 20,
                anonymous: mebibytes << 19,
                files: mebibytes << 19,
            },
        };
        let few = [start(40, 30), start(60, 30), start(50, 30)];
        let found = finding((10, &few), (110, &[start(2100, 130)]));
        assert!(
            found
                .table
                .contains("| 10 | 50 ms | 30.0 MiB | 15.0 MiB | 15.0 MiB |")
        );
        assert!(
            found.table.contains("adds 1.000 MiB: 0.500 MiB"),
            "{}",
            found.table
        );
        let reached: Vec<bool> = found.goals.iter().map(Goal::is_reached).collect();
        assert_eq!(reached, [true, true, false, false]);
        assert_eq!(found.samples.len(), 4);
    }
}
