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
    contestant::{Contestant, Ground, Tier, start_origin},
    finding::Finding,
    languages::Places,
    larder,
    load::Load,
    plot,
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
    #[arg(long, default_values_t = [300, 16_384])]
    body: Vec<usize>,
    /// How often everyone has a turn.
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// How long a turn is. Short turns keep the pairs of a round close together in time.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// One round of one second: shows that everything runs, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Where to keep the raw samples, one JSON object a line.
    #[arg(long)]
    samples: Option<PathBuf>,
    /// Where to draw the figures of all sizes, as SVG.
    #[arg(long)]
    pub(crate) plot: Option<PathBuf>,
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    larder: Option<PathBuf>,
    /// Where `demo.wasm` and `tenant-key.wasm` are.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    pub(crate) plugins_dist: PathBuf,
    #[command(flatten)]
    pub(crate) scripts: Places,
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
        result = print(&options) => result,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    }
}

async fn print(options: &Options) -> Result<()> {
    let mut raw = String::new();
    for finding in measure(options).await? {
        print!("{}", finding.markdown());
        raw.push_str(&finding.ndjson());
    }
    if let Some(file) = &options.samples {
        fs::write(file, raw).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Measures everyone with bodies of each size, and draws it.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    let contestants = options.contestants();
    let (mut findings, mut bars) = (Vec::new(), Vec::new());
    for &size in &options.body {
        let samples = measure_size(options, &contestants, size).await?;
        findings.push(report::finding(size, &contestants, &samples));
        bars.push(report::bars(size, &samples));
    }
    if let Some(file) = &options.plot {
        let picture = plot::svg("Requests per CPU-second of the server", &bars);
        fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(findings)
}

/// A contestant that runs.
struct Entrant {
    contestant: Contestant,
    server: Server,
    address: SocketAddr,
}

/// One table's worth of samples.
async fn measure_size(
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
    let mut ground = Ground {
        directory: directory.path(),
        redis_url: &redis_url,
        origin: None,
        text: &text,
    };
    let mut origin = None;
    if contestants
        .iter()
        .any(|contestant| contestant.asks_origin())
    {
        let (mut server, address) = start_origin(cores.load, &ground)?;
        server
            .until(START, async || first_answer(address).await)
            .await?;
        ground.origin = Some(address);
        origin = Some(server);
    }

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
        entrants.push(entrant);
    }
    // From now on proxies have nothing but what they keep.
    if let Some(origin) = origin {
        origin.stop().await;
    }
    for entrant in &entrants {
        entrant.walk(&text, Expect::Hit).await?;
        let name = entrant.contestant.name();
        eprintln!("{name}: filled with {} keys, answers checked", body::KEYS);
    }

    let (rounds, length) = match options.quick {
        true => (1, Duration::from_secs(1)),
        false => (options.rounds, Duration::from_secs(options.seconds)),
    };
    let mut samples = Vec::new();
    // Round 0 warms up (branch predictors, allocators, the machine's clock) and is thrown away.
    for round in 0..=rounds {
        for at in order(entrants.len(), round) {
            let entrant = &entrants[at];
            let sample = entrant.turn(&load, &mut redis, round, length).await?;
            if round > 0 {
                samples.push(sample);
            }
        }
        eprintln!("round {round} of {rounds} done");
    }

    for entrant in entrants {
        entrant.walk(&text, Expect::Hit).await?;
        entrant.server.stop().await;
    }
    redis.stop().await;
    Ok(samples)
}

/// Who has the turns of a round, one after another: everyone begins once, and every other round goes the other way.
/// Neighbours stay neighbours.
fn order(count: usize, round: usize) -> Vec<usize> {
    let turn = |at: usize| (at + round) % count;
    let order = (0..count).map(turn);
    match round % 2 {
        0 => order.collect(),
        _ => order.rev().collect(),
    }
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
    async fn walk(&self, text: &str, expect: Expect) -> Result<()> {
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
        let switches = self.server.switches();
        let cpu = self.server.cpu()?;
        let slice = load
            .slice(self.address, length)
            .await
            .with_context(|| name.to_owned())?;
        let cpu = self.server.cpu()? - cpu;
        let switches = self.server.switches().since(switches).sum();
        let found = redis.keys_found().await? - found;

        // Redis counts the keys it found, which shows without a word from the contestant where its answers came from. A
        // few may be missing where concurrent requests share a look-up, and a few too many may be those that the load
        // had not waited for at the end of the turn before.
        let requests = slice.requests as f64;
        match self.contestant.tier() {
            Tier::Memory => ensure!(
                found as f64 <= requests * 0.01 + f64::from(load.connections()),
                "{name} asked Redis instead of its memory: {found} keys for {requests} requests"
            ),
            Tier::Redis => ensure!(
                found as f64 > requests * 0.9,
                "{name} found {found} keys in Redis for {requests} requests: it did not answer from Redis"
            ),
        }
        Ok(Sample {
            round,
            contestant: self.contestant,
            requests: slice.requests,
            seconds: slice.duration_us as f64 / 1e6,
            cpu_seconds: cpu.as_secs_f64(),
            switches,
            p50_us: slice.p50_us,
            p99_us: slice.p99_us,
        })
    }
}

async fn first_answer(address: SocketAddr) -> Result<Answer> {
    Client::connect(address).await?.get(&body::path(0)).await
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn everyone_has_one_turn_and_neighbours_stay_together() {
        for round in 0..10 {
            let order = order(5, round);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            let apart = |pair: &[usize]| pair[0].abs_diff(pair[1]);
            assert!(order.windows(2).all(|pair| matches!(apart(pair), 1 | 4)));
        }
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [0, 2, 1]);
        assert_eq!(order(3, 2), [2, 0, 1]);
    }
}
