//! A run: start the contestants, fill them, check them, measure them in interleaved rounds, check again.
//! Owns the order of things; must not know how one contestant or the load works.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use hyper::StatusCode;
use tokio::time::{Instant, sleep};

use crate::{
    body,
    client::{Answer, Client},
    contestant::{Contestant, Ground, Tier},
    larder,
    load::Load,
    process::{Cores, Server},
    redis_server::RedisServer,
    report::{self, Sample},
};

/// How long a contestant may take to its first answer. Larder compiles its components in this time.
const START: Duration = Duration::from_secs(60);

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    /// Who takes part; everyone if left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Contestant>,
    /// The size of an answer in bytes; may be given more than once.
    #[arg(long, default_values_t = [300])]
    body: Vec<usize>,
    /// How often everyone has a turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long a turn is. Short turns keep the pairs of a round close together in time.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// One round of one second: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Where to keep the raw samples, one JSON object a line.
    #[arg(long)]
    samples: Option<PathBuf>,
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    larder: Option<PathBuf>,
    /// Where `demo.wasm` and `tenant-key.wasm` are.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    pub(crate) plugins_dist: PathBuf,
    /// The Python of the tutorial's app.
    #[arg(long, default_value = "bench/.venv/bin/python")]
    pub(crate) python: PathBuf,
    /// The directory of the tutorial's app.
    #[arg(long, default_value = "bench/tutorial")]
    pub(crate) tutorial: PathBuf,
}

impl Options {
    /// The host to measure.
    pub(crate) fn larder(&self) -> Result<PathBuf> {
        larder::program(self.larder.as_deref())
    }

    fn contestants(&self) -> Vec<Contestant> {
        let everyone = Contestant::value_variants().iter().copied();
        everyone
            .filter(|contestant| self.only.is_empty() || self.only.contains(contestant))
            .collect()
    }
}

/// Measures and prints. Everything that was started ends with it, also on an error or an interrupt.
pub(crate) async fn run(options: Options) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    // Dropping the run drops its children, which kills them.
    tokio::select! {
        result = measure_all(&options) => result,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn measure_all(options: &Options) -> Result<()> {
    let mut raw = String::new();
    for &size in &options.body {
        let contestants = options.contestants();
        let samples = measure(options, &contestants, size).await?;
        print!("{}", report::table(size, &contestants, &samples));
        raw.push_str(&report::raw(size, &samples)?);
    }
    if let Some(file) = &options.samples {
        fs::write(file, raw).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// A contestant that runs.
struct Entrant {
    contestant: Contestant,
    server: Server,
    address: SocketAddr,
}

/// One table's worth of samples.
async fn measure(
    options: &Options,
    contestants: &[Contestant],
    size: usize,
) -> Result<Vec<Sample>> {
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(size)?;
    let load = Load::new(cores.load, options.connections, directory.path())?;
    let mut redis = RedisServer::start(cores.load, directory.path()).await?;
    let redis_url = redis.url.clone();
    let ground = Ground {
        directory: directory.path(),
        redis_url: &redis_url,
        text: &text,
    };

    let mut entrants = Vec::new();
    for &contestant in contestants {
        let (server, address) = contestant.start(options, cores.server, &ground)?;
        let mut entrant = Entrant {
            contestant,
            server,
            address,
        };
        entrant.wait_until_it_answers().await?;
        entrant.walk(&text, Expect::Filled).await?;
        entrant.walk(&text, Expect::Hit).await?;
        eprintln!(
            "{}: filled with {} keys, answers checked",
            contestant.name(),
            body::KEYS
        );
        entrants.push(entrant);
    }

    let (rounds, length) = match options.quick {
        true => (1, Duration::from_secs(1)),
        false => (options.rounds, Duration::from_secs(options.seconds)),
    };
    let mut samples = Vec::new();
    // Round 0 warms up (branch predictors, allocators, the machine's clock) and is thrown away.
    for round in 0..=rounds {
        for entrant in &entrants {
            let sample = entrant.turn(&load, &mut redis, round, length).await?;
            if round > 0 {
                samples.push(sample);
            }
        }
        eprintln!("round {round} of {rounds} done");
    }

    for mut entrant in entrants {
        entrant.walk(&text, Expect::Hit).await?;
        entrant.server.stop().await;
    }
    redis.stop().await;
    Ok(samples)
}

/// What a walk over all keys must find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The right answer, from wherever.
    Filled,
    /// The right answer, from the contestant's own tier.
    Hit,
}

impl Entrant {
    async fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let seen = match first_answer(self.address).await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
                Ok(answer) => format!(
                    "{}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                ),
                Err(error) => format!("{error:#}"),
            };
            if self.server.ended().is_some() || Instant::now() > deadline {
                let name = self.contestant.name();
                bail!(
                    "{name} does not answer with 200 ({seen})\n{}",
                    self.server.last_lines()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks for every key once and compares the answers byte for byte.
    async fn walk(&mut self, text: &str, expect: Expect) -> Result<()> {
        let name = self.contestant.name();
        let mut client = Client::connect(self.address).await?;
        for number in 0..body::KEYS {
            let path = body::path(number);
            let answer = client.get(&path).await.with_context(|| name.to_owned())?;
            let right = body::render(text, &body::key(number));
            ensure!(
                answer.status == StatusCode::OK && answer.body == right,
                "{name}: GET {path} was answered with {} and {:?} instead of 200 and {:?}",
                answer.status,
                String::from_utf8_lossy(&answer.body),
                String::from_utf8_lossy(&right)
            );
            if let (Expect::Hit, Some(detail)) = (expect, self.contestant.hit_detail()) {
                let status = answer.cache_status();
                ensure!(
                    status.contains("hit") && status.contains(detail),
                    "{name}: GET {path} was answered with `Cache-Status: {status}`, not as a hit with {detail}\n{}",
                    self.server.last_lines()
                );
            }
        }
        Ok(())
    }

    /// One slice of load, with the CPU time the server used for it.
    async fn turn(
        &self,
        load: &Load,
        redis: &mut RedisServer,
        round: usize,
        length: Duration,
    ) -> Result<Sample> {
        let name = self.contestant.name();
        let found = redis.keys_found().await?;
        let cpu = self.server.cpu()?;
        let slice = load
            .slice(self.address, length)
            .await
            .with_context(|| name.to_owned())?;
        let cpu = self.server.cpu()? - cpu;
        let found = redis.keys_found().await? - found;

        // Redis counts the keys it found, which shows without a word from the contestant where its answers came
        // from. A few may be missing where concurrent requests share a look-up.
        let per_request = found as f64 / slice.requests as f64;
        match self.contestant.tier() {
            Tier::Memory => ensure!(
                per_request < 0.01,
                "{name} asked Redis instead of its memory"
            ),
            Tier::Redis => ensure!(
                per_request > 0.9,
                "{name} found {per_request:.2} keys in Redis per request: it did not answer from Redis"
            ),
        }
        Ok(Sample {
            round,
            contestant: self.contestant,
            requests: slice.requests,
            seconds: slice.duration_us as f64 / 1e6,
            cpu_seconds: cpu.as_secs_f64(),
            p50_us: slice.p50_us,
            p99_us: slice.p99_us,
        })
    }
}

async fn first_answer(address: SocketAddr) -> Result<Answer> {
    Client::connect(address).await?.get(&body::path(0)).await
}
