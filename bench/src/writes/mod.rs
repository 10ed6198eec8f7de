//! Writes: how many a second are acknowledged, and how fast a queue of them is made once the database is back. Owns the order
//! of things; must not know how anyone is started, or the load works.
//!
//! # Layout
//! - this file: the settings, the two measurements.
//! - [`writer`]: who takes writes.
//! - [`report`]: the tables.

mod report;
mod writer;

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use tokio::time::Instant;

use self::{
    report::{Drain, Kept, Turn},
    writer::{EVERYONE, Ground, Kind, Writer},
};
use crate::{
    peer::axum_postgres,
    postgres_server::PostgresServer,
    process::{self, Cores},
    put::Until,
};

/// How long everyone is under load when it has just been started.
const WARM: Duration = Duration::from_secs(1);

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    /// How often everyone has a turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long a turn is.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Writes that wait for the database when it is started again; ten times fewer with --quick.
    #[arg(long, default_value_t = 100_000)]
    pending: u64,
    /// How often that is measured.
    #[arg(long, default_value_t = 3)]
    drains: usize,
    /// Connections of everyone to the database: of the hand-written handler, and of each plugin for its writes.
    #[arg(long, default_value_t = axum_postgres::CONNECTIONS)]
    pool: usize,
    /// One round of one second and one short drain: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Where the database and the queue are: on a disk, for what is measured is that they are synced to it.
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    larder: Option<PathBuf>,
    /// Where `postgres.wasm` is.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    plugins_dist: PathBuf,
    /// What makes the tables of the plugin `postgres`.
    #[arg(long, default_value = "plugins/postgres/install-writes.sql")]
    install: PathBuf,
}

impl Options {
    /// The same, shortened if it is to be quick.
    fn shortened(mut self) -> Self {
        if self.quick {
            (self.rounds, self.seconds, self.drains) = (1, 1, 1);
            self.pending = (self.pending / 10).max(1);
        }
        self
    }
}

/// Measures and prints. Everything that was started ends with it, also on an error or an interrupt.
pub(crate) async fn run(options: Options) -> Result<()> {
    let options = options.shortened();
    ensure!(
        options.rounds > 0 && options.drains > 0,
        "a run has at least one round and one drain"
    );
    ensure!(
        options.connections > 0 && options.pending > 0,
        "nothing is written without connections, or without writes"
    );
    let cores = Cores::allowed()?;
    // The load is this program's own, and shares its core with the database.
    process::pin(cores.load)?;
    let base = on_disk(&options)?;
    let directory = tempfile::tempdir_in(&base)?;
    // Its own, because the user of PostgreSQL must reach it.
    let of_postgres = tempfile::tempdir_in(&base)?;
    let sync_us = sync_us(directory.path())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let postgres = PostgresServer::start(cores.load, of_postgres.path(), &options.install);
    let mut run = Run {
        options: &options,
        core: cores.server,
        directory: directory.path().to_owned(),
        postgres: postgres.await?,
        next: 0,
    };
    // Dropping what measures drops the other children, which kills them.
    let measured = tokio::select! {
        measured = run.measure() => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
    };
    let version = run.postgres.version().await;
    run.postgres.stop().await;
    let (turns, drains) = measured?;
    print!("{}", report::turns(&turns, &version?, sync_us));
    print!("{}", report::drains(&drains, options.pending));
    Ok(())
}

/// Who has a place in a round: every other round begins from the other end.
fn turned(round: usize, place: usize, count: usize) -> usize {
    match round % 2 {
        0 => place,
        _ => count - 1 - place,
    }
}

/// What the measurements share.
struct Run<'a> {
    options: &'a Options,
    core: usize,
    directory: PathBuf,
    postgres: PostgresServer,
    /// The number of the next thing. None is written twice in a run, so that what comes late from a former turn is noticed.
    next: u64,
}

impl Run<'_> {
    /// Both measurements.
    async fn measure(&mut self) -> Result<(Vec<Turn>, Vec<Drain>)> {
        let mut writers = Vec::new();
        for kind in EVERYONE {
            writers.push(self.start(kind).await?);
            eprintln!("{}: takes writes", kind.name());
        }
        let turns = self.turns(&writers).await?;
        let mut behind = None;
        for writer in writers {
            match writer.kind {
                Kind::LarderBehind => behind = Some(writer),
                Kind::LarderThrough | Kind::AxumPostgres => writer.server.stop().await,
            }
        }
        let behind = behind.context("write-behind takes part in every run")?;
        let drains = self.drains(&behind).await?;
        behind.server.stop().await;
        Ok((turns, drains))
    }

    async fn turns(&mut self, writers: &[Writer]) -> Result<Vec<Turn>> {
        let rounds = self.options.rounds;
        let mut turns = Vec::new();
        // Round 0 warms up and is thrown away.
        for round in 0..=rounds {
            for place in 0..writers.len() {
                let writer = &writers[turned(round, place, writers.len())];
                let turn = self.turn(writer, round).await?;
                eprintln!("round {round} of {rounds}: {turn}");
                if round > 0 {
                    turns.push(turn);
                }
            }
        }
        Ok(turns)
    }

    async fn drains(&mut self, behind: &Writer) -> Result<Vec<Drain>> {
        let rounds = self.options.drains;
        let mut drains = Vec::new();
        for round in 1..=rounds {
            let (mut kept, mut direct) = (None, None);
            for place in 0..2 {
                match turned(round, place, 2) {
                    0 => kept = Some(self.keep(behind).await?),
                    _ => direct = Some(self.direct().await?),
                }
            }
            let drain = kept
                .zip(direct)
                .map(|(kept, direct)| Drain { kept, direct });
            let drain = drain.context("both have a turn in a round")?;
            eprintln!("drain {round} of {rounds}: {drain}");
            drains.push(drain);
        }
        Ok(drains)
    }

    async fn start(&mut self, kind: Kind) -> Result<Writer> {
        let ground = Ground {
            options: self.options,
            directory: &self.directory,
            core: self.core,
            postgres: &self.postgres,
        };
        let writer = Writer::start(kind, &ground, self.next).await?;
        self.next += 1;
        // What is done once (connections, prepared statements) and what is pending would go on while others are measured.
        let warm = writer.burst(self.next, Until::Over(WARM)).await?;
        self.next += warm.acknowledged;
        writer.drained().await?;
        Ok(writer)
    }

    /// One slice of load, with the CPU time that the server used until all of it was made.
    async fn turn(&mut self, writer: &Writer, round: usize) -> Result<Turn> {
        let until = Until::Over(Duration::from_secs(self.options.seconds));
        self.postgres.clear().await?;
        let (cpu, started) = (writer.server.cpu()?, Instant::now());
        let burst = writer.burst(self.next, until).await?;
        writer.drained().await?;
        let made_seconds = match writer.kind {
            Kind::LarderBehind => started.elapsed().as_secs_f64(),
            // Made when it is acknowledged.
            Kind::LarderThrough | Kind::AxumPostgres => burst.seconds,
        };
        let cpu = writer.server.cpu()? - cpu;
        self.check(writer.kind, burst.acknowledged).await?;
        Ok(Turn {
            round,
            kind: writer.kind,
            burst,
            made_seconds,
            cpu_seconds: cpu.as_secs_f64(),
        })
    }

    /// Stops the database, lets write-behind take what is to be pending, starts the database and waits until all is made.
    async fn keep(&mut self, behind: &Writer) -> Result<Kept> {
        let pending = self.options.pending;
        self.postgres.clear().await?;
        self.postgres.stop().await;
        let cpu = behind.server.cpu()?;
        let taken = behind.burst(self.next, Until::Count(pending)).await;
        let taken = taken.context("while PostgreSQL was stopped")?;
        let taken_cpu = behind.server.cpu()?;
        self.postgres.start_again().await?;
        // It answers from here on: what Larder takes to notice that is part of the time.
        let (started, cpu_then) = (Instant::now(), behind.server.cpu()?);
        behind.drained().await?;
        let drained_seconds = started.elapsed().as_secs_f64();
        let drained_cpu = behind.server.cpu()? - cpu_then;
        self.check(behind.kind, pending).await?;
        Ok(Kept {
            taken,
            taken_cpu_seconds: (taken_cpu - cpu).as_secs_f64(),
            drained_seconds,
            drained_cpu_seconds: drained_cpu.as_secs_f64(),
        })
    }

    /// The same number of writes by the hand-written handler, which is started for it: its connections end with the database.
    async fn direct(&mut self) -> Result<Turn> {
        let writer = self.start(Kind::AxumPostgres).await?;
        self.postgres.clear().await?;
        let cpu = writer.server.cpu()?;
        let burst = writer.burst(self.next, Until::Count(self.options.pending));
        let burst = burst.await?;
        let cpu = writer.server.cpu()? - cpu;
        self.check(writer.kind, self.options.pending).await?;
        writer.server.stop().await;
        Ok(Turn {
            round: 0,
            kind: Kind::AxumPostgres,
            burst,
            made_seconds: burst.seconds,
            cpu_seconds: cpu.as_secs_f64(),
        })
    }

    /// Asks the database for every write that was acknowledged.
    async fn check(&mut self, kind: Kind, acknowledged: u64) -> Result<()> {
        let first = self.next;
        self.next += acknowledged;
        let written = self.postgres.ensure_written(first, acknowledged);
        written.await.with_context(|| kind.name().to_owned())
    }
}

/// The directory of a run, unless a sync costs nothing there.
fn on_disk(options: &Options) -> Result<PathBuf> {
    /// Of statfs(2).
    const TMPFS: u32 = 0x0102_1994;
    const RAMFS: u32 = 0x8584_58f6;
    let directory = options.directory.canonicalize().with_context(|| {
        let directory = options.directory.display();
        format!("{directory} is not there; name another with --directory")
    })?;
    // The width of the number is another on other machines; the numbers are of 32 bits.
    let kind = rustix::fs::statfs(&directory)?.f_type as u32;
    ensure!(
        kind != TMPFS && kind != RAMFS,
        "{} is in memory, where a sync costs nothing; name a directory on a disk with --directory",
        directory.display()
    );
    Ok(directory)
}

/// What one sync of a written page takes there, the median of many, in microseconds.
fn sync_us(directory: &Path) -> Result<f64> {
    let path = directory.join("synced");
    let mut file = File::create(&path)?;
    let mut took = Vec::new();
    for turn in 0..100_u8 {
        file.write_all(&[turn; 4096])?;
        let started = Instant::now();
        file.sync_data()?;
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    crate::report::median(took).context("a hundred syncs have a median")
}

#[cfg(test)]
mod tests {
    use super::turned;

    #[test]
    fn every_other_round_begins_from_the_other_end() {
        let order = |round| [0, 1, 2].map(|place| turned(round, place, 3));
        assert_eq!([order(0), order(1)], [[0, 1, 2], [2, 1, 0]]);
    }
}
