//! Where the CPU time of a request goes, as a flame graph, and how many system calls it makes. Owns who is sampled and how that is
//! drawn; must not know what a server does with its time.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use inferno::{
    collapse::{Collapse as _, perf},
    flamegraph,
};
use serde_json::json;
use tokio::process::Command;

use crate::{
    body,
    finding::Finding,
    fixture::{Asked, Fixture, Larder, Programs, fill, path},
    load::Load,
    process::{Cores, find_program},
    redis_server::RedisServer,
};

/// Samples a second. Not a round number, so that it does not beat with what happens every millisecond.
const FREQUENCY: &str = "997";
/// Bytes of each stack that are kept to be unwound: Larder has no frame pointers.
const STACK: &str = "dwarf,16384";
/// Bytes of each answer.
const BODY: usize = 300;
/// Keys that are asked for.
const KEYS: usize = 1000;
/// Frames that are narrower than this are not drawn, in percent of the width: they have no room for a name.
const NARROWEST: f64 = 0.15;

/// The settings of a run.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Which way of a request.
    #[arg(long, value_enum, default_value_t = Way::Memory)]
    way: Way,
    /// Where to draw it.
    #[arg(long, default_value = "target/bench/flame.svg")]
    svg: PathBuf,
    /// How long samples are taken.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many requests are on their way at once.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// A second of it: shows that everything runs.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
}

/// The ways of a request; a key policy is remembered on each.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// A hit in the memory tier.
    Memory,
    /// A hit in Redis, without a memory tier.
    Redis,
    /// A load by a loader in Rust that keeps nothing.
    Load,
}

impl Way {
    /// What `Cache-Status` says of its answers.
    fn from(self) -> &'static str {
        match self {
            Self::Memory => "detail=memory",
            Self::Redis => "detail=redis",
            Self::Load => "fwd=uri-miss",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Memory => "a hit in memory",
            Self::Redis => "a hit in Redis",
            Self::Load => "a load",
        }
    }
}

/// Measures.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    let perf = find_program(
        "perf",
        "`.ci/setup bench` installs it (Debian: linux-perf); it needs root, or kernel.perf_event_paranoid of 1",
    )?;
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(BODY)?;
    let redis = match options.way {
        Way::Redis => Some(RedisServer::start(cores.load, directory.path()).await?),
        _ => None,
    };
    let fixture = Fixture {
        loaders: 1,
        components: 1,
        routes: 1,
        memory: if options.way == Way::Memory {
            "64MiB"
        } else {
            "0"
        },
        redis: redis.as_ref().map(|redis| redis.url.as_str()),
        ttl: if options.way == Way::Load { "0" } else { "1h" },
        text: &text,
    };
    let larder = fixture
        .start("larder", cores.server, directory.path(), &options.programs)
        .await?;
    fill(larder.at.public, KEYS, |key| path(0, key), "").await?;
    let asked: Vec<Asked> = (0..KEYS).map(|key| Asked { route: 0, key }).collect();
    let from = options.way.from();
    larder.check(&asked, &text, from).await?;
    let paths: Vec<String> = asked.iter().map(|it| path(it.route, it.key)).collect();
    let load = Load::of_paths(
        cores.load,
        options.connections,
        directory.path(),
        "asked",
        &paths,
    )?;
    let length = Duration::from_secs(if options.quick { 1 } else { options.seconds });
    // Warm, for what is done on first use is not what a request costs.
    load.slice(larder.at.public, Duration::from_secs(1)).await?;
    let calls = system_calls(&perf, &larder, (&load, length)).await?;
    let taken = directory.path().join("perf.data");
    let file = taken.display().to_string();
    let arguments = [
        "record",
        "-q",
        "-F",
        FREQUENCY,
        "--call-graph",
        STACK,
        "-o",
        &file,
    ];
    watched((&perf, &arguments), &larder, (&load, length)).await?;
    draw(&perf, &taken, options).await?;
    larder.check(&asked, &text, from).await?;
    larder.server.stop().await;
    let (title, file) = (options.way.title(), options.svg.display());
    Ok(vec![Finding {
        title: format!("Where the time of {title} goes"),
        table: format!("{calls:.2} system calls a request. The flame graph is {file}.\n"),
        goals: Vec::new(),
        samples: vec![json!({ "way": title, "system_calls": calls })],
    }])
}

/// How long `perf` may take to begin.
const BEGINNING: Duration = Duration::from_secs(1);

/// Puts load on a server while `perf` watches it; returns how many requests there were, and what `perf` said.
async fn watched(
    (perf, arguments): (&Path, &[&str]),
    larder: &Larder,
    (load, length): (&Load, Duration),
) -> Result<(u64, String)> {
    // Before and after the load the server does nothing, so all that is seen is of these requests.
    let watched = length + 2 * BEGINNING;
    let mut command = Command::new(perf);
    command
        .args(arguments)
        .args(["-p", &larder.server.pid().to_string()])
        .args(["--", "sleep", &watched.as_secs().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let watching = command.spawn().context("perf cannot be started")?;
    let slice = async {
        tokio::time::sleep(BEGINNING).await;
        load.slice(larder.at.public, length).await
    };
    let (slice, watched) = tokio::join!(slice, watching.wait_with_output());
    let (slice, watched) = (slice?, watched?);
    let said = String::from_utf8_lossy(&watched.stderr).into_owned();
    ensure!(watched.status.success(), "perf: {}", said.trim());
    Ok((slice.requests, said))
}

/// How many system calls there are for each request.
async fn system_calls(perf: &Path, larder: &Larder, load: (&Load, Duration)) -> Result<f64> {
    let arguments = ["stat", "-x", ";", "-e", "raw_syscalls:sys_enter"];
    let (requests, said) = watched((perf, &arguments), larder, load).await?;
    let mut lines = said.lines();
    let line = lines.find(|line| line.contains("raw_syscalls"));
    let count = line.and_then(|line| line.split(';').next()?.parse::<f64>().ok());
    let count = count.with_context(|| format!("perf counted no system calls: {}", said.trim()))?;
    Ok(count / requests as f64)
}

/// Turns samples into a picture.
async fn draw(perf: &Path, taken: &Path, options: &Options) -> Result<()> {
    // Without inlined functions: to find them takes minutes.
    let told = Command::new(perf)
        .args(["script", "--no-inline", "-i"])
        .arg(taken)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .await?;
    ensure!(told.status.success(), "perf script: {}", told.status);
    let mut stacks = Vec::new();
    perf::Folder::from(perf::Options::default())
        .collapse(BufReader::new(told.stdout.as_slice()), &mut stacks)
        .context("the samples cannot be read")?;
    if let Some(directory) = options.svg.parent() {
        fs::create_dir_all(directory)?;
    }
    let svg = File::create(&options.svg)
        .with_context(|| format!("cannot write {}", options.svg.display()))?;
    let mut drawn = flamegraph::Options::default();
    drawn.title = format!("Larder: {}", options.way.title());
    drawn.min_width = NARROWEST;
    drawn.deterministic = true;
    flamegraph::from_reader(&mut drawn, stacks.as_slice(), BufWriter::new(svg))
        .context("the flame graph cannot be drawn")
}
