//! What a purge of a tag costs, by how many entries it covers: two routes of one Larder with Redis, whose entries carry one
//! tag each. In each round both are filled anew, and purged one after the other, in turns of who is first.
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
use tokio::time::{Instant, sleep};

use crate::{
    client::Client,
    larder,
    process::{Cores, Server},
    redis_server::{RedisServer, free_port},
};

const START: Duration = Duration::from_secs(60);
/// Connections that fill at once.
const FILLERS: usize = 32;
/// Every n-th key is asked for after a purge, to see that it is gone.
const SAMPLES: usize = 100;

/// The settings of a run.
#[derive(Args)]
pub(crate) struct Options {
    /// Entries that the one tag covers.
    #[arg(long, default_value_t = 100_000)]
    many: usize,
    /// Entries that the other covers.
    #[arg(long, default_value_t = 10)]
    few: usize,
    /// How often both are filled and purged.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
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

/// Measures and prints.
pub(crate) async fn run(options: Options) -> Result<()> {
    ensure!(options.rounds > 0, "a run has at least one round");
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let redis = RedisServer::start(cores.load, directory.path()).await?;
    let (listen, admin) = (free_port()?, free_port()?);
    let config = write(directory.path(), &options, (listen, admin), &redis.url)?;
    let command = larder::serve(&larder::program(options.larder.as_deref())?, &config)?;
    let mut server = Server::start("larder", cores.server, directory.path(), command)?;
    wait_until_it_answers(&mut server, listen).await?;
    let both = [
        Covered {
            name: "many",
            entries: options.many,
        },
        Covered {
            name: "few",
            entries: options.few,
        },
    ];
    let mut admin = Client::connect(admin).await?;
    let mut pairs = Vec::new();
    // Round 0 warms up and is thrown away.
    for round in 0..=options.rounds {
        for covered in both {
            fill(listen, covered).await?;
        }
        // After the filling the connection and the caches of the processor are cold: whoever came first would pay for it.
        for _ in 0..10 {
            purge(&mut admin, "neither").await?;
        }
        let mut took = [Duration::ZERO; 2];
        for turn in 0..2 {
            let which = (round + turn) % 2;
            took[which] = purge(&mut admin, both[which].name).await?;
        }
        for covered in both {
            gone(listen, covered).await?;
        }
        if round > 0 {
            pairs.push(took);
        }
        eprintln!("round {round} of {} done", options.rounds);
    }
    server.stop().await;
    redis.stop().await;
    print!("{}", table(both, &pairs));
    Ok(())
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
            "[[routes]]\npath = \"/{name}/{{key}}\"\nloader = \"{name}\"\nttl = \"1h\"\n"
        ));
    }
    let file = directory.join("larder.toml");
    fs::write(&file, toml)?;
    Ok(file)
}

/// Loads every entry, and asks for it once more: it must be a hit.
async fn fill(listen: SocketAddr, covered: Covered) -> Result<()> {
    let mut fillers = tokio::task::JoinSet::new();
    for filler in 0..FILLERS {
        fillers.spawn(async move {
            let mut client = Client::connect(listen).await?;
            for key in (filler..covered.entries).step_by(FILLERS) {
                let path = format!("/{}/{key}", covered.name);
                client.get(&path).await?;
                let again = client.get(&path).await?;
                ensure!(
                    again.status == StatusCode::OK && again.cache_status().contains("hit"),
                    "GET {path} was answered with {} and `Cache-Status: {}`, not as a hit",
                    again.status,
                    again.cache_status()
                );
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}

async fn purge(admin: &mut Client, tag: &str) -> Result<Duration> {
    let body = format!("{{\"tag\": \"{tag}\"}}");
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

fn table([many, few]: [Covered; 2], pairs: &[[Duration; 2]]) -> String {
    let micros = |which: usize| median(pairs.iter().map(|pair| pair[which].as_secs_f64() * 1e6));
    let ratio = median(
        pairs
            .iter()
            .map(|pair| pair[0].as_secs_f64() / pair[1].as_secs_f64()),
    );
    format!(
        "| a tag that covers | median of {} purges | to the other, paired by round |\n|---:|---:|---:|\n\
         | {} | {:.0} µs | |\n| {} | {:.0} µs | {ratio:.2} |\n",
        pairs.len(),
        few.entries,
        micros(1),
        many.entries,
        micros(0),
    )
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::{Covered, Duration, table};

    #[test]
    fn the_ratio_is_paired_by_round() {
        let [many, few] =
            [("many", 9), ("few", 2)].map(|(name, entries)| Covered { name, entries });
        let round = |many, few| [many, few].map(Duration::from_micros);
        let text = table(
            [many, few],
            &[round(100, 100), round(300, 200), round(200, 50)],
        );
        assert!(text.contains("| 9 | 200 µs | 1.50 |"), "{text}");
        assert!(text.contains("| 2 | 100 µs | |"), "{text}");
    }
}
