//! The peers in other languages: the command that starts each. Must not know what they answer, or who measures them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use tokio::process::Command;

use crate::process::find_program;

/// Where they are.
#[derive(Args)]
pub(crate) struct Places {
    /// The Python of the apps.
    #[arg(long, default_value = "bench/.venv/bin/python")]
    python: PathBuf,
    /// The directory of the tutorial's app.
    #[arg(long, default_value = "bench/tutorial")]
    tutorial: PathBuf,
    /// The directory of the other peers.
    #[arg(long, default_value = "bench/peers")]
    peers: PathBuf,
}

/// What each of them is told.
pub(crate) struct Setting<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) redis_url: &'a str,
    pub(crate) text: &'a str,
    pub(crate) ttl_seconds: &'a str,
}

impl Places {
    /// The tutorial's app.
    pub(crate) fn fastapi(&self, setting: &Setting<'_>) -> Result<Command> {
        self.uvicorn(&self.tutorial, setting)
    }

    /// FastAPI with cashews.
    pub(crate) fn cashews(&self, setting: &Setting<'_>) -> Result<Command> {
        self.uvicorn(&self.peers.join("cashews"), setting)
    }

    /// A script of Node.js.
    pub(crate) fn node(&self, script: &str, setting: &Setting<'_>) -> Result<Command> {
        let directory = present(&self.peers.join("node"))?;
        ensure!(
            directory.join("node_modules").is_dir(),
            "{} has no node_modules: `.ci/setup bench` installs them",
            directory.display()
        );
        let program = find_program("node", "`.ci/setup bench` says how (Debian: nodejs)")?;
        let mut command = Command::new(program);
        command.arg(directory.join(script));
        tell(&mut command, setting);
        command.env("NODE_ENV", "production");
        Ok(command)
    }

    /// uvicorn with uvloop and httptools, one worker and no access log, as its documentation advises.
    fn uvicorn(&self, app: &Path, setting: &Setting<'_>) -> Result<Command> {
        // Not canonicalised: a virtual environment is found by the path of its own link.
        let python = std::path::absolute(&self.python)?;
        ensure!(
            python.is_file(),
            "{} is not there: `.ci/setup bench` makes the virtual environment",
            python.display()
        );
        let mut command = Command::new(python);
        let port = setting.listen.port().to_string();
        command
            .args(["-m", "uvicorn", "app:app", "--app-dir"])
            .arg(present(app)?)
            .args(["--host", "127.0.0.1", "--port", &port])
            .args(["--loop", "uvloop", "--http", "httptools"])
            .args([
                "--workers",
                "1",
                "--no-access-log",
                "--log-level",
                "warning",
            ]);
        tell(&mut command, setting);
        Ok(command)
    }
}

fn present(directory: &Path) -> Result<PathBuf> {
    directory.canonicalize().with_context(|| {
        format!(
            "{} is not there: run from the repository's root",
            directory.display()
        )
    })
}

fn tell(command: &mut Command, setting: &Setting<'_>) {
    command
        .env("PORT", setting.listen.port().to_string())
        .env("REDIS_URL", setting.redis_url)
        .env("TEXT", setting.text)
        .env("LATENCY_MS", "0")
        .env("TTL_SECONDS", setting.ttl_seconds);
}
