//! What a purge costs, of a tag and of a route, by how many entries it covers: two routes of one Larder with Redis, whose
//! entries carry one tag each. In each round both are filled anew, and purged one after the other, in turns of who is first.
//! Must not know how anything is stored.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hyper::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    client::Client,
    finding::{Finding, Goal, median},
    fixture::fill,
    larder,
    process::{Cores, Server},
    redis_server::{RedisServer, free_port},
};

const START: Duration = Duration::from_secs(60);
/// How much longer the purge of much may take.
const FLAT: f64 = 1.05;
/// Purges before those that are measured.
const WARMING: usize = 10;
/// Every n-th key is asked for after a purge, to see that it is gone.
const SAMPLES: usize = 100;

/// The settings of a run.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Entries that the one purge covers.
    #[arg(long, default_value_t = 100_000)]
    many: usize,
    /// Entries that the other covers.
    #[arg(long, default_value_t = 10)]
    few: usize,
    /// How often both are filled and purged.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// One round, and a hundredth of the entries: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    larder: Option<PathBuf>,
    /// Where `demo.wasm` is.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    plugins_dist: PathBuf,
}

/// One of the two: the route, the plugin and the tag are of this name.
#[derive(Clone, Copy)]
struct Covered {
    name: &'static str,
    entries: usize,
}

/// By what is purged.
#[derive(Clone, Copy)]
enum By {
    Tag,
    Route,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Route => "route",
        }
    }

    /// The purge of all entries of one of the two.
    fn purge(self, name: &str) -> String {
        match self {
            Self::Tag => format!("{{\"tag\": \"{name}\"}}"),
            Self::Route => format!("{{\"route\": \"{}\"}}", pattern(name)),
        }
    }
}

fn pattern(name: &str) -> String {
    format!("/{name}/{{key}}")
}

/// Measures.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    ensure!(options.rounds > 0, "a run has at least one round");
    let (rounds, many) = match options.quick {
        true => (1, options.many.div_ceil(100)),
        false => (options.rounds, options.many),
    };
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let redis = RedisServer::start(cores.load, directory.path()).await?;
    let (listen, admin) = (free_port()?, free_port()?);
    let config = write(directory.path(), options, (listen, admin), &redis.url)?;
    let command = larder::serve(&larder::program(options.larder.as_deref())?, &config)?;
    let mut server = Server::start("larder", cores.server, directory.path(), command)?;
    wait_until_it_answers(&mut server, listen).await?;
    let both = [("many", many), ("few", options.few)];
    let both = both.map(|(name, entries)| Covered { name, entries });
    let mut findings = Vec::new();
    for by in [By::Tag, By::Route] {
        let mut pairs = Vec::new();
        // Round 0 warms up and is thrown away.
        for round in 0..=rounds {
            let took = one_round(by, both, round, (listen, admin)).await?;
            if round > 0 {
                pairs.push(took);
            }
            eprintln!("by {}: round {round} of {rounds} done", by.name());
        }
        findings.push(finding(by, both, &pairs));
    }
    server.stop().await;
    redis.stop().await;
    Ok(findings)
}

async fn one_round(
    by: By,
    both: [Covered; 2],
    round: usize,
    (listen, admin): (SocketAddr, SocketAddr),
) -> Result<[Duration; 2]> {
    for Covered { name, entries } in both {
        // Each is loaded, and then found: an entry that was not kept would be covered by no purge.
        for from in ["", "; hit;"] {
            fill(listen, entries, move |key| format!("/{name}/{key}"), from).await?;
        }
    }
    // Filling may take longer than a connection is kept on which nothing is asked.
    let mut admin = Client::connect(admin).await?;
    // After the filling the connection and the caches of the processor are cold: whoever came first would pay for it.
    for _ in 0..WARMING {
        purge(&mut admin, By::Tag.purge("neither")).await?;
    }
    let mut took = [Duration::ZERO; 2];
    for turn in 0..2 {
        let which = (round + turn) % 2;
        took[which] = purge(&mut admin, by.purge(both[which].name)).await?;
    }
    for covered in both {
        gone(listen, covered).await?;
    }
    Ok(took)
}

async fn wait_until_it_answers(server: &mut Server, listen: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + START;
    loop {
        let asked = async { Client::connect(listen).await?.get("/few/0").await };
        match asked.await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            _ if server.ended().is_some() || Instant::now() > deadline => {
                bail!("larder does not answer\n{}", server.last_lines())
            }
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

fn write(
    directory: &Path,
    options: &Options,
    (listen, admin): (SocketAddr, SocketAddr),
    redis: &str,
) -> Result<PathBuf> {
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins)?;
    let component = options.plugins_dist.join("demo.wasm");
    let mut toml = format!(
        "[server]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n[redis]\nurl = \"{redis}\"\ntimeout = \"1s\"\n"
    );
    for name in ["many", "few"] {
        fs::copy(&component, plugins.join(name).with_extension("wasm")).with_context(|| {
            format!("cannot copy {}: `make build` makes it", component.display())
        })?;
        let sidecar = format!("[config]\nlatency_ms = 0\ntags = [\"{name}\"]\n");
        fs::write(plugins.join(name).with_extension("toml"), sidecar)?;
        toml.push_str(&format!(
            "[[routes]]\npath = \"{}\"\nloader = \"{name}\"\nttl = \"1h\"\n",
            pattern(name)
        ));
    }
    let file = directory.join("larder.toml");
    fs::write(&file, toml)?;
    Ok(file)
}

async fn purge(admin: &mut Client, body: String) -> Result<Duration> {
    let started = Instant::now();
    let answer = admin.post("/purge", body).await?;
    let took = started.elapsed();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(
        answer.status == StatusCode::OK && text.contains("\"pending\":[]"),
        "the purge was answered with {} and {text}",
        answer.status
    );
    Ok(took)
}

async fn gone(listen: SocketAddr, covered: Covered) -> Result<()> {
    let mut client = Client::connect(listen).await?;
    for key in (0..covered.entries).step_by(covered.entries.div_ceil(SAMPLES)) {
        let path = format!("/{}/{key}", covered.name);
        let answer = client.get(&path).await?;
        ensure!(
            answer.cache_status().contains("fwd=uri-miss"),
            "GET {path} was answered with `Cache-Status: {}` after it was purged",
            answer.cache_status()
        );
    }
    Ok(())
}

fn finding(by: By, [many, few]: [Covered; 2], pairs: &[[Duration; 2]]) -> Finding {
    let micros = |which: usize| median(pairs.iter().map(|pair| pair[which].as_secs_f64() * 1e6));
    let ratio = median(
        pairs
            .iter()
            .map(|[many, few]| many.as_secs_f64() / few.as_secs_f64()),
    );
    let table = format!(
        "| a {} that covers | median of {} purges | to the other, paired by round |\n|---:|---:|---:|\n\
         | {} | {:.0} µs | |\n| {} | {:.0} µs | {ratio:.2} |\n",
        by.name(),
        pairs.len(),
        few.entries,
        micros(1),
        many.entries,
        micros(0),
    );
    let samples = pairs.iter().enumerate().map(|(round, [many, few])| {
        json!({
            "round": round + 1,
            "by": by.name(),
            "many_micros": many.as_secs_f64() * 1e6,
            "few_micros": few.as_secs_f64() * 1e6,
        })
    });
    Finding {
        title: format!("Purging a {}", by.name()),
        table,
        goals: vec![Goal::at_most(
            format!(
                "time of a purge that covers {}, to one that covers {}",
                many.entries, few.entries
            ),
            ratio,
            FLAT,
        )],
        samples: samples.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_paired_by_round() {
        let [many, few] =
            [("many", 9), ("few", 2)].map(|(name, entries)| Covered { name, entries });
        let round = |many, few| [many, few].map(Duration::from_micros);
        let found = finding(
            By::Tag,
            [many, few],
            &[round(100, 100), round(300, 200), round(200, 50)],
        );
        let text = &found.table;
        assert!(text.contains("| 9 | 200 µs | 1.50 |"), "{text}");
        assert!(text.contains("| 2 | 100 µs | |"), "{text}");
        assert!(!found.goals[0].is_reached());
    }

    #[test]
    fn a_route_is_purged_by_its_pattern() {
        assert_eq!(By::Route.purge("few"), r#"{"route": "/few/{key}"}"#);
    }
}
