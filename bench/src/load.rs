//! The load: one slice of `wrk`. Owns how `wrk` is called and read; must not know who is under load.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::{body::KEYS, client::TENANT, process};

/// A way to put load on an address.
pub(crate) struct Load {
    wrk: PathBuf,
    script: PathBuf,
    /// What the script is given.
    walked: String,
    core: usize,
    connections: u32,
}

/// What `walk.lua` prints when a slice is over. Times are in microseconds.
#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Slice {
    pub(crate) requests: u64,
    pub(crate) duration_us: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    refused_answers: u64,
    broken_connections: u64,
    timeouts: u64,
}

impl Load {
    /// Finds `wrk` and writes its script into `directory`.
    pub(crate) fn new(core: usize, connections: u32, directory: &Path) -> Result<Self> {
        let wrk = process::find_program("wrk", "`.ci/setup bench` installs it (Debian: wrk)")?;
        let script = directory.join("walk.lua");
        fs::write(&script, include_str!("walk.lua"))?;
        Ok(Self {
            wrk,
            script,
            walked: KEYS.to_string(),
            core,
            connections,
        })
    }

    /// How many requests are on their way at once.
    pub(crate) fn connections(&self) -> u32 {
        self.connections
    }

    /// The same for other paths than the usual ones, each in turn. `name` tells it from others of the directory.
    pub(crate) fn of_paths(
        core: usize,
        connections: u32,
        directory: &Path,
        name: &str,
        paths: &[String],
    ) -> Result<Self> {
        let script = directory.join("paths.lua");
        fs::write(&script, include_str!("paths.lua"))?;
        let list = directory.join(name).with_extension("paths");
        fs::write(&list, paths.join("\n"))?;
        Ok(Self {
            script,
            walked: list.display().to_string(),
            ..Self::new(core, connections, directory)?
        })
    }

    /// Asks as fast as it can for `seconds`. A single answer other than 2xx or 3xx is an error: figures of a server
    /// that fails are not figures.
    pub(crate) async fn slice(&self, address: SocketAddr, length: Duration) -> Result<Slice> {
        let mut command = Command::new(&self.wrk);
        command
            .args([
                "--threads",
                "1",
                "--connections",
                &self.connections.to_string(),
            ])
            .args(["--duration", &format!("{}s", length.as_secs())])
            .args(["--header", &format!("{}: {}", TENANT.0, TENANT.1)])
            .arg("--script")
            .arg(&self.script)
            .args([&format!("http://{address}/"), "--", &self.walked])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = process::spawn_on(self.core, &mut command)?
            .wait_with_output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let slice: Slice = text
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok())
            .with_context(|| {
                format!(
                    "wrk failed: {text}{}",
                    String::from_utf8_lossy(&output.stderr)
                )
            })?;
        ensure!(
            slice.refused_answers + slice.broken_connections + slice.timeouts == 0,
            "of {} requests, {} were answered with an error status, {} timed out, and {} connections broke",
            slice.requests,
            slice.refused_answers,
            slice.timeouts,
            slice.broken_connections
        );
        ensure!(slice.requests > 0, "no request was answered");
        Ok(slice)
    }
}
