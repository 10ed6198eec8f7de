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
    compiled::Compiled,
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
    /// Plugins of the big ones. Those of one have bytes of their own, each; those of the other are of ten components.
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

/// All starts of one.
struct Measured {
    plugins: usize,
    /// How many of the plugins differ in their bytes.
    components: usize,
    started: Vec<Started>,
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
        components: FEW,
        routes: FEW,
        memory: "256MiB",
        redis: None,
        ttl: "1h",
        text: &text,
    };
    let many = Fixture {
        loaders: many,
        components: many,
        ..few
    };
    let alike = Fixture {
        components: FEW,
        ..many
    };
    let mut all = [
        ("few", few, Vec::new()),
        ("many", many, Vec::new()),
        ("alike", alike, Vec::new()),
    ];
    let programs = &options.programs;
    let compiled = Compiled::by_the_host(cores.server, directory.path(), &few, programs).await?;
    for (name, fixture, _) in &all {
        compiled.keep_for(&directory.path().join(name), fixture.components, programs)?;
    }
    // Start 0 fills the kernel's cache of files, and is thrown away.
    for start in 0..=starts {
        for (name, fixture, samples) in &mut all {
            let place = directory.path().join(*name);
            let at = fixture.write(&place, &options.programs)?;
            let begun = Instant::now();
            let larder = Larder::spawn(name, cores.server, &place, at, &options.programs)?;
            let started = until_it_idles(larder, begun, start, fixture, &text)
                .await
                .with_context(|| format!("{} plugins", fixture.loaders))?;
            Compiled::were_found(&place, fixture.components)?;
            if start > 0 {
                samples.push(started);
            }
        }
        eprintln!("start {start} of {starts} done");
    }
    Ok(vec![finding(&all.map(|(_, fixture, started)| Measured {
        plugins: fixture.loaders,
        components: fixture.components,
        started,
    }))])
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

fn finding(all: &[Measured; 3]) -> Finding {
    let mut table = String::from(
        "| plugins | of different bytes | first answer after | resident | of it the process's own | of it pages of files |\n\
         |---:|---:|---:|---:|---:|---:|\n",
    );
    let mut samples = Vec::new();
    for measured in all {
        let Measured {
            plugins,
            components,
            started,
        } = measured;
        table.push_str(&format!(
            "| {plugins} | {components} | {:.0} ms | {:.1} MiB | {:.1} MiB | {:.1} MiB |\n",
            milliseconds(started),
            mebibytes(started, |memory| memory.resident),
            mebibytes(started, |memory| memory.anonymous),
            mebibytes(started, |memory| memory.files),
        ));
        samples.extend(started.iter().map(|start| {
            json!({
                "plugins": plugins,
                "different": components,
                "milliseconds": start.took.as_secs_f64() * 1000.0,
                "resident": start.memory.resident,
                "anonymous": start.memory.anonymous,
                "files": start.memory.files,
            })
        }));
    }
    let [few, many, alike] = all;
    let added = |to: &Measured, of: fn(Memory) -> u64| {
        (mebibytes(&to.started, of) - mebibytes(&few.started, of))
            / (to.plugins - few.plugins) as f64
    };
    let resident = added(many, |memory| memory.resident);
    table.push_str(&format!(
        "\nMedians of {} starts. Each further plugin with bytes of its own adds {:.3} MiB: {:.3} MiB of the process's own, \
         {:.3} MiB of pages of files. Each further one of bytes that are there adds {:.3} MiB.\n",
        few.started.len(),
        resident,
        added(many, |memory| memory.anonymous),
        added(many, |memory| memory.files),
        added(alike, |memory| memory.resident),
    ));
    let (few_plugins, many_plugins) = (few.plugins, many.plugins);
    Finding {
        title: "Start and memory".to_owned(),
        table,
        goals: vec![
            Goal::at_most(
                format!("first answer with {few_plugins} plugins, compiled before"),
                milliseconds(&few.started),
                50.0,
            )
            .in_units(" ms"),
            Goal::at_most(
                format!("resident with {few_plugins} plugins and nobody who asks"),
                mebibytes(&few.started, |memory| memory.resident),
                40.0,
            )
            .in_units(" MiB"),
            Goal::at_most(
                format!(
                    "first answer with {many_plugins} plugins that all differ, compiled before"
                ),
                milliseconds(&many.started),
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
        let of = |plugins, components, started: &[Started]| Measured {
            plugins,
            components,
            started: started.to_vec(),
        };
        let few = [start(40, 30), start(60, 30), start(50, 30)];
        let found = finding(&[
            of(10, 10, &few),
            of(110, 110, &[start(2100, 130)]),
            of(110, 10, &[start(1000, 80)]),
        ]);
        assert!(
            found
                .table
                .contains("| 10 | 10 | 50 ms | 30.0 MiB | 15.0 MiB | 15.0 MiB |")
        );
        assert!(
            found.table.contains("adds 1.000 MiB: 0.500 MiB")
                && found.table.contains("that are there adds 0.500 MiB"),
            "{}",
            found.table
        );
        let reached: Vec<bool> = found.goals.iter().map(Goal::is_reached).collect();
        assert_eq!(reached, [true, true, false, false]);
        assert_eq!(found.samples.len(), 5);
    }
}
