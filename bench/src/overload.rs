//! What becomes of requests when ten times as much is asked as a source can do: Larder beside the semaphore that people
//! would write. Each is asked quietly first, then for too much, at times that do not depend on its answers.
//! Must not know how anybody decides whom to serve.

use std::{
    cell::RefCell,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyper::StatusCode;
use tokio::{
    process::Command,
    task::{LocalSet, spawn_local},
    time::{Instant, sleep_until},
};

use crate::{
    client::Client,
    larder,
    process::{Cores, Server},
    redis_server::free_port,
};

const START: Duration = Duration::from_secs(60);
/// How long a request may take, of either contestant; and so for how long the load goes on after the last that counts:
/// once it ends, whoever still waits is served, and that is no overload.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    /// How many things the source does at once.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// How long each of them takes.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// How many times as much is asked for as it can do.
    #[arg(long, default_value_t = 10.0)]
    times: f64,
    /// The length of a phase, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How often each contestant is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    larder: Option<PathBuf>,
    /// Where `demo.wasm` is.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    plugins_dist: PathBuf,
}

/// Who is measured.
#[derive(Clone, Copy)]
enum Contestant {
    Larder,
    Semaphore,
}

impl Contestant {
    const ALL: [Self; 2] = [Self::Larder, Self::Semaphore];

    const fn name(self) -> &'static str {
        match self {
            Self::Larder => "larder",
            Self::Semaphore => "axum-semaphore",
        }
    }

    fn command(self, options: &Options, directory: &Path, listen: SocketAddr) -> Result<Command> {
        match self {
            Self::Larder => {
                let config = write(directory, options, listen)?;
                larder::serve(&larder::program(options.larder.as_deref())?, &config)
            }
            Self::Semaphore => {
                let mut command = Command::new(std::env::current_exe()?);
                command
                    .args(["peer", "axum-semaphore", "--listen", &listen.to_string()])
                    .args(["--latency-ms", &options.latency_ms.to_string()])
                    .args(["--at-once", &options.at_once.to_string()]);
                Ok(command)
            }
        }
    }
}

/// What a phase came to.
#[derive(Default)]
struct Phase {
    /// How long each answer took that gave what was asked for.
    admitted: Vec<Duration>,
    /// How long each took that did not.
    refused: Vec<Duration>,
    broken: usize,
}

/// A contestant in one round.
struct Round {
    quiet: Phase,
    loud: Phase,
    /// Resident memory half-way through the loud phase and at its end, in bytes.
    resident: [u64; 2],
}

/// Measures and prints.
pub(crate) async fn run(options: Options) -> Result<()> {
    ensure!(
        options.rounds > 0 && options.at_once > 0 && options.latency_ms > 0 && options.seconds > 0,
        "a run has at least one round of a second, and a source that takes time"
    );
    let cores = Cores::allowed()?;
    crate::process::pin(cores.load)?;
    let local = LocalSet::new();
    let measured = local.run_until(async {
        let mut all = Contestant::ALL.map(|contestant| (contestant, Vec::new()));
        for round in 0..options.rounds {
            for turn in 0..all.len() {
                let which = (round + turn) % all.len();
                let contestant = all[which].0;
                let measured = measure(contestant, &options, cores).await?;
                all[which].1.push(measured);
            }
            eprintln!("round {} of {} done", round + 1, options.rounds);
        }
        anyhow::Ok(all)
    });
    print!("{}", table(&measured.await?, &options));
    Ok(())
}

async fn measure(contestant: Contestant, options: &Options, cores: Cores) -> Result<Round> {
    let directory = tempfile::tempdir()?;
    let listen = free_port()?;
    let command = contestant.command(options, directory.path(), listen)?;
    let mut server = Server::start(contestant.name(), cores.server, directory.path(), command)?;
    server
        .until(START, async || {
            let answer = Client::connect(listen).await?.get("/data/warm").await?;
            ensure!(answer.status == StatusCode::OK, "{}", answer.status);
            Ok(())
        })
        .await?;
    let capacity = options.at_once as f64 * 1000.0 / options.latency_ms as f64;
    let whole = Duration::from_secs(options.seconds);
    let pool = Rc::new(Pool::new(listen));
    let quiet = phase(&pool, capacity / 4.0, whole, "quiet").await;
    let memory = async {
        sleep_until(Instant::now() + whole / 2).await;
        let middle = server.resident()?;
        sleep_until(Instant::now() + whole / 2).await;
        anyhow::Ok([middle, server.resident()?])
    };
    let loud = phase(&pool, capacity * options.times, whole, "loud");
    let (loud, resident) = tokio::join!(loud, memory);
    let resident = resident?;
    server.stop().await;
    ensure!(
        quiet.refused.is_empty() && quiet.broken == 0,
        "{}: {} of the quiet requests were refused and {} got no answer",
        contestant.name(),
        quiet.refused.len(),
        quiet.broken
    );
    Ok(Round {
        quiet,
        loud,
        resident,
    })
}

/// Connections that are not in use.
struct Pool {
    listen: SocketAddr,
    idle: RefCell<Vec<Client>>,
}

impl Pool {
    fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            idle: RefCell::default(),
        }
    }

    async fn ask(&self, path: &str) -> Result<StatusCode> {
        let idle = self.idle.borrow_mut().pop();
        let mut client = match idle {
            Some(client) => client,
            None => Client::connect(self.listen).await?,
        };
        let status = client.get(path).await?.status;
        self.idle.borrow_mut().push(client);
        Ok(status)
    }
}

/// So many requests a second for so long, each for something that nobody has asked for, and each when it is due: an answer
/// that is late delays none of those that follow.
async fn phase(pool: &Rc<Pool>, rate: f64, length: Duration, name: &str) -> Phase {
    let asked = (rate * (length + TIMEOUT).as_secs_f64()) as usize;
    let start = Instant::now();
    let counted = Rc::new(RefCell::new(Phase::default()));
    let mut requests = Vec::with_capacity(asked);
    for number in 0..asked {
        let due = start + Duration::from_secs_f64(number as f64 / rate);
        sleep_until(due).await;
        let (pool, counted) = (Rc::clone(pool), Rc::clone(&counted));
        let path = format!("/data/{name}-{number}");
        requests.push(spawn_local(async move {
            let answer = pool.ask(&path).await;
            // From when it was due: what the clock of this program was late by is waiting, too.
            let took = due.elapsed();
            if due > start + length {
                return;
            }
            let mut counted = counted.borrow_mut();
            match answer {
                Ok(StatusCode::OK) => counted.admitted.push(took),
                Ok(_) => counted.refused.push(took),
                Err(_) => counted.broken += 1,
            }
        }));
    }
    for request in requests {
        let _ = request.await;
    }
    counted.take()
}

fn write(directory: &Path, options: &Options, listen: SocketAddr) -> Result<PathBuf> {
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins)?;
    let component = options.plugins_dist.join("demo.wasm");
    fs::copy(&component, plugins.join("demo.wasm"))
        .with_context(|| format!("cannot copy {}: `make build` makes it", component.display()))?;
    let sidecar = format!(
        "[config]\nlatency_ms = {}\n[limits]\nconcurrency = {}\n",
        options.latency_ms, options.at_once
    );
    fs::write(plugins.join("demo.toml"), sidecar)?;
    let admin = free_port()?;
    let file = directory.join("larder.toml");
    let text = format!(
        "[server]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n[[routes]]\npath = \"/data/{{key}}\"\nloader = \"demo\"\n"
    );
    fs::write(&file, text)?;
    Ok(file)
}

fn table(all: &[(Contestant, Vec<Round>)], options: &Options) -> String {
    let capacity = options.at_once as f64 * 1000.0 / options.latency_ms as f64;
    let mut text = format!(
        "A source that does {} things at once in {} ms each, asked for {} times what it can do. Medians of {} rounds.\n\n\
         | | p99 when quiet | p99 of the admitted under load | to the quiet one | done, of what can be | p99 of a refusal | memory, second half |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
        options.at_once, options.latency_ms, options.times, options.rounds
    );
    for (contestant, rounds) in all {
        let of = |figure: &dyn Fn(&Round) -> f64| median(rounds.iter().map(figure));
        let ms = |times: &[Duration]| percentile(times, 0.99).as_secs_f64() * 1000.0;
        text.push_str(&format!(
            "| {} | {:.0} ms | {:.0} ms | {:.2} | {:.2} | {:.0} ms | {:+.1} MiB |\n",
            contestant.name(),
            of(&|round| ms(&round.quiet.admitted)),
            of(&|round| ms(&round.loud.admitted)),
            of(&|round| ms(&round.loud.admitted) / ms(&round.quiet.admitted)),
            of(&|round| round.loud.admitted.len() as f64 / (capacity * options.seconds as f64)),
            of(&|round| ms(&round.loud.refused)),
            of(&|round| {
                let [middle, end] = round
                    .resident
                    .map(|bytes| bytes as f64 / f64::from(1 << 20));
                end - middle
            }),
        ));
    }
    text
}

/// The time that `share` of them did not pass; nothing of nothing.
fn percentile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    let last = times.len().saturating_sub(1);
    let index = (times.len() as f64 * share).ceil() as usize;
    times
        .get(index.saturating_sub(1).min(last))
        .copied()
        .unwrap_or_default()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Duration, percentile};

    #[test]
    fn of_a_hundred_the_99th_is_the_last_but_one() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }
}
