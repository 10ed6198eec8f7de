//! What takes part in a run: names, the command that starts each, and where each must have its answers from.
//! Must not know how they are measured.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use tokio::process::Command;

use crate::{
    larder::{self, Key, Setting},
    process::Server,
    redis_server::free_port,
    run::Options,
};

/// How long every contestant keeps an answer: longer than any run.
const TTL_SECONDS: &str = "3600";

/// One way of answering `GET /data/{key}` from a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contestant {
    /// Larder, hits in its memory tier, key policy in Wasm.
    LarderMemory,
    /// Larder, hits in its memory tier, key derived by the host (for information).
    LarderMemoryNative,
    /// Larder, hits in its Redis tier, key policy in Wasm.
    LarderRedis,
    /// A bare axum handler with moka.
    AxumMoka,
    /// A hand-written axum handler with redis-rs.
    AxumRedis,
    /// The tutorial's FastAPI app with redis-py.
    Fastapi,
}

/// Where an answer has to come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Memory,
    Redis,
}

impl Contestant {
    /// The name on the command line and of log files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LarderMemory => "larder-memory",
            Self::LarderMemoryNative => "larder-memory-native",
            Self::LarderRedis => "larder-redis",
            Self::AxumMoka => "axum-moka",
            Self::AxumRedis => "axum-redis",
            Self::Fastapi => "fastapi",
        }
    }

    /// The name in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::LarderMemory => "Larder, memory hit, key policy in Wasm",
            Self::LarderMemoryNative => "Larder, memory hit, native key",
            Self::LarderRedis => "Larder, Redis hit, key policy in Wasm",
            Self::AxumMoka => "axum + moka, bare",
            Self::AxumRedis => "axum + redis-rs, hand-written",
            Self::Fastapi => "FastAPI + redis-py, the tutorial's",
        }
    }

    pub(crate) fn tier(self) -> Tier {
        match self {
            Self::LarderMemory | Self::LarderMemoryNative | Self::AxumMoka => Tier::Memory,
            Self::LarderRedis | Self::AxumRedis | Self::Fastapi => Tier::Redis,
        }
    }

    /// The `detail` of a hit in `Cache-Status`, from those who send it.
    pub(crate) fn hit_detail(self) -> Option<&'static str> {
        match self {
            Self::LarderMemory | Self::LarderMemoryNative => Some("detail=memory"),
            Self::LarderRedis => Some("detail=redis"),
            Self::AxumMoka | Self::AxumRedis | Self::Fastapi => None,
        }
    }

    /// Starts it, pinned. It may not answer yet.
    pub(crate) fn start(
        self,
        options: &Options,
        core: usize,
        ground: &Ground<'_>,
    ) -> Result<(Server, SocketAddr)> {
        let directory = ground.directory.join(self.name());
        fs::create_dir_all(&directory)?;
        let listen = free_port()?;
        let command = match self {
            Self::LarderMemory => {
                larder_command(options, &directory, ground, listen, Key::Policy, None)?
            }
            Self::LarderMemoryNative => {
                larder_command(options, &directory, ground, listen, Key::Native, None)?
            }
            Self::LarderRedis => larder_command(
                options,
                &directory,
                ground,
                listen,
                Key::Policy,
                Some(ground.redis_url),
            )?,
            Self::AxumMoka | Self::AxumRedis => {
                let mut command = Command::new(std::env::current_exe()?);
                command
                    .args([
                        "peer",
                        self.name(),
                        "--latency-ms",
                        "0",
                        "--ttl-seconds",
                        TTL_SECONDS,
                    ])
                    .args(["--listen", &listen.to_string()])
                    .args(["--redis", ground.redis_url, "--text", ground.text]);
                command
            }
            Self::Fastapi => fastapi_command(options, ground, listen)?,
        };
        Ok((
            Server::start(self.name(), core, &directory, command)?,
            listen,
        ))
    }
}

/// What all contestants of a run share.
pub(crate) struct Ground<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) redis_url: &'a str,
    pub(crate) text: &'a str,
}

fn larder_command(
    options: &Options,
    directory: &Path,
    ground: &Ground<'_>,
    listen: SocketAddr,
    key: Key,
    redis: Option<&str>,
) -> Result<Command> {
    let setting = Setting {
        listen,
        admin: free_port()?,
        key,
        redis,
        text: ground.text,
    };
    let config = larder::write(directory, &options.plugins_dist, &setting)?;
    larder::serve(&options.larder()?, &config)
}

/// uvicorn with uvloop and httptools, one worker and no access log, as its documentation advises.
fn fastapi_command(options: &Options, ground: &Ground<'_>, listen: SocketAddr) -> Result<Command> {
    // Not canonicalised: a virtual environment is found by the path of its own link.
    let python = std::path::absolute(&options.python)?;
    ensure!(
        python.is_file(),
        "{} is not there: `.ci/setup bench` makes the virtual environment",
        python.display()
    );
    let app = options.tutorial.canonicalize().with_context(|| {
        format!(
            "{} is not there: run from the repository's root",
            options.tutorial.display()
        )
    })?;
    let mut command = Command::new(python);
    command
        .args(["-m", "uvicorn", "app:app", "--app-dir"])
        .arg(app)
        .args(["--host", "127.0.0.1", "--port", &listen.port().to_string()])
        .args(["--loop", "uvloop", "--http", "httptools"])
        .args([
            "--workers",
            "1",
            "--no-access-log",
            "--log-level",
            "warning",
        ])
        .env("REDIS_URL", ground.redis_url)
        .env("TEXT", ground.text)
        .env("LATENCY_MS", "0")
        .env("TTL_SECONDS", TTL_SECONDS);
    Ok(command)
}
