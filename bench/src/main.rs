//! The command line of the benchmark: `run` measures, `peer` serves one of the handlers that Larder is
//! measured against. Owns the parsing of arguments; must not know how anything is started or counted.
//!
//! # Layout
//!
//! - [`body`]: the answer every contestant must give, byte for byte
//! - [`peer`]: the hand-written handlers, as a good Rust user would write them
//! - [`contestant`]: what takes part, and the command that starts each
//! - [`larder`]: the configuration that Larder is measured with
//! - [`process`]: pinned child processes and their CPU clocks
//! - [`client`]: one keep-alive connection, to fill and to check before anything is timed
//! - [`load`]: `wrk`, one slice at a time
//! - [`put`]: the load of writes, of which each is remembered
//! - [`redis_server`]: the Redis of a run, and how many keys it was asked for
//! - [`postgres_server`]: the PostgreSQL of a run, and whether everything is in it
//! - [`run`]: start, fill, check, measure in rounds
//! - [`purge`]: what a purge of a tag costs, by how much it covers
//! - [`writes`]: writes that are acknowledged, and how fast what waits is made
//! - [`report`]: medians, ratios paired by round, the table

mod body;
mod client;
mod contestant;
mod larder;
mod load;
mod overload;
mod peer;
mod postgres_server;
mod process;
mod purge;
mod put;
mod redis_server;
mod report;
mod run;
mod writes;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Larder beside what people would pick instead.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the contestants, measures them in interleaved rounds and prints a table in Markdown.
    Run(run::Options),
    /// Purges a tag that covers many entries beside one that covers few, and prints a table in Markdown.
    Purge(purge::Options),
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
        // The runner has one thread on purpose: children inherit the affinity of the thread that starts
        // them, so pinning a child is pinning this thread for the length of one spawn.
        Command::Run(options) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(run::run(options)),
        Command::Purge(options) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(purge::run(options)),
        Command::Writes(options) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(writes::run(options)),
        Command::Overload(options) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(overload::run(options)),
        Command::Peer(options) => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?
            .block_on(peer::serve(options)),
    }
}
