//! The command line of the benchmark: `run` measures, `peer` serves one of the handlers that Larder is
//! measured against. Owns the parsing of arguments; must not know how anything is started or counted.
//!
//! # Layout
//!
//! - [`all`]: every measurement, one after the other
//! - [`body`]: the answer every contestant must give, byte for byte
//! - [`peer`]: the hand-written handlers, as a good Rust user would write them
//! - [`contestant`]: what takes part, and the command that starts each
//! - [`proxies`]: nginx and Varnish, and what they are configured with
//! - [`languages`]: the peers in other languages
//! - [`larder`]: the configuration that Larder is measured with
//! - [`process`]: pinned child processes and their CPU clocks
//! - [`client`]: one keep-alive connection, to fill and to check before anything is timed
//! - [`load`]: `wrk`, one slice at a time
//! - [`generator`]: the load of the program's own, as fast as it is answered or at a fixed rate
//! - [`script`]: what that load asks for, and what each answer must be
//! - [`put`]: the load of writes, of which each is remembered
//! - [`redis_server`]: the Redis of a run, and how many keys it was asked for
//! - [`postgres_server`]: the PostgreSQL of a run, and whether everything is in it
//! - [`run`]: start, fill, check, measure in rounds
//! - [`purge`]: what a purge costs, by how much it covers
//! - [`subject`]: a server that is under that load
//! - [`cost`]: what plugins cost
//! - [`calm`]: how long answers take while there is time
//! - [`cores`]: what a request costs when the server has two cores
//! - [`writes`]: writes that are acknowledged, and how fast what waits is made
//! - [`fixture`]: a Larder with so many plugins and routes
//! - [`start`]: the first answer, and memory when nobody asks
//! - [`memory`]: what an entry takes in memory, and whom its tier keeps
//! - [`flame`]: where the time of a request goes
//! - [`flat`]: whether a request costs the same however much there is
//! - [`finding`]: what a measurement has found, and what had to be reached
//! - [`report`]: medians, ratios paired by round, the table
//! - [`plot`]: figures as a picture

mod all;
mod body;
mod calm;
mod client;
mod compiled;
mod contestant;
mod cores;
mod cost;
mod finding;
mod fixture;
mod flame;
mod flat;
mod generator;
mod languages;
mod larder;
mod load;
mod memory;
mod overload;
mod peer;
mod plot;
mod postgres_server;
mod process;
mod profile;
mod proxies;
mod purge;
mod put;
mod redis_server;
mod report;
mod run;
mod script;
mod start;
mod subject;
mod writes;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::finding::Finding;

/// Measures Larder beside what people would pick instead.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What remains of a measurement beside its table.
#[derive(Args)]
struct Kept {
    /// Where to keep the raw samples, one JSON object a line.
    #[arg(long)]
    samples: Option<PathBuf>,
}

/// A measurement, and what remains of it.
#[derive(Args)]
struct With<O: Args> {
    #[command(flatten)]
    options: O,
    #[command(flatten)]
    kept: Kept,
}

#[derive(Subcommand)]
enum Command {
    /// Makes every measurement of Larder beside others, one after the other, and keeps tables, samples and plot.
    All(all::Options),
    /// Starts the contestants, measures them in interleaved rounds and prints a table in Markdown.
    Run(run::Options),
    /// Measures what a loader and a key policy add to a request.
    Cost(With<cost::Options>),
    /// Measures how long answers take at half of what the server can do.
    Calm(With<calm::Options>),
    /// Measures what a request costs on one core and on two.
    Cores(With<cores::Options>),
    /// Starts with ten and with a thousand plugins: the first answer, and memory.
    Start(With<start::Options>),
    /// Fills the memory tier: what an entry takes beside what was to be kept.
    Memory(With<memory::Options>),
    /// Replays traces on the memory tier's eviction and on moka.
    HitRatio(With<memory::hit_ratio::Options>),
    /// Measures requests beside few and beside many routes, keys in Redis, and plugins.
    Flat(With<flat::Options>),
    /// Samples the server under load: a flame graph, and system calls a request.
    Flame(With<flame::Options>),
    /// Purges a tag and a route that cover many entries beside such that cover few.
    Purge(With<purge::Options>),
    /// Measures acknowledged writes and how fast a queue of them is made, and prints tables in Markdown.
    Writes(writes::Options),
    /// Asks for ten times what a source can do, and prints a table in Markdown.
    Overload(overload::Options),
    /// Serves one hand-written handler until it is killed.
    Peer(peer::Options),
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // The message alone: a backtrace says nothing about a program that is not installed.
        Err(error) => {
            eprintln!("larder-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::All(options) => all::run(&options),
        Command::Run(options) => runtime()?.block_on(run::run(options)),
        Command::Cost(With { options, kept }) => show(cost::measure(&options), &kept),
        Command::Calm(With { options, kept }) => show(calm::measure(&options), &kept),
        Command::Cores(With { options, kept }) => show(cores::measure(&options), &kept),
        Command::Start(With { options, kept }) => show(start::measure(&options), &kept),
        Command::Memory(With { options, kept }) => show(memory::measure(&options), &kept),
        Command::HitRatio(With { options, kept }) => {
            show(async { memory::hit_ratio::measure(&options) }, &kept)
        }
        Command::Flat(With { options, kept }) => show(flat::measure(&options), &kept),
        Command::Flame(With { options, kept }) => show(flame::measure(&options), &kept),
        Command::Purge(With { options, kept }) => show(purge::measure(&options), &kept),
        Command::Writes(options) => runtime()?.block_on(writes::run(options)),
        Command::Overload(options) => runtime()?.block_on(overload::run(options)),
        Command::Peer(options) => peer::serve(options),
    }
}

/// One thread on purpose: children inherit the affinity of the thread that starts them, so pinning a child is pinning this
/// thread for the length of one spawn.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Prints what a measurement finds, and keeps what it was made of. Everything that was started ends with it, also on an interrupt.
fn show(
    findings: impl Future<Output = anyhow::Result<Vec<Finding>>>,
    kept: &Kept,
) -> anyhow::Result<()> {
    let findings = runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Dropping the measurement drops its children, which kills them.
        tokio::select! {
            findings = findings => findings,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })?;
    for finding in &findings {
        print!("{}", finding.markdown());
    }
    if let Some(file) = &kept.samples {
        let samples: String = findings.iter().map(Finding::ndjson).collect();
        fs::write(file, samples).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
