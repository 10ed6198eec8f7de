//! A server of the measurements that follow a load of the program's own: Larder as a measurement wants it, or the bare
//! handler; started, and asked by its script. Owns their files and their commands; must not know what is made of the figures.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyper::StatusCode;
use tokio::process::Command;

use crate::{
    body,
    client::{Client, TENANT},
    generator::{Load, Outcome, Pace},
    larder,
    process::{Server, Switches},
    redis_server::free_port,
    script::{Paths, Script},
};

/// How long a server may take to its first answer. Larder compiles its components in this time.
const START: Duration = Duration::from_secs(60);

/// Where the programs are.
#[derive(Args, Clone)]
pub(crate) struct Programs {
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    pub(crate) larder: Option<PathBuf>,
    /// Where `demo.wasm` and `tenant-key.wasm` are.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    pub(crate) plugins_dist: PathBuf,
}

impl Programs {
    /// A component of the first-party ones.
    pub(crate) fn plugin(&self, name: &str) -> PathBuf {
        self.plugins_dist.join(name).with_extension("wasm")
    }
}

/// The key of Larder's route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// The tenant and the path parameter, by the key policy `tenant-key`, in Wasm.
    Policy,
    /// The same parts, derived by the host.
    SameNative,
    /// The path parameter, derived by the host.
    PathNative,
}

/// Who answers.
#[derive(Clone)]
pub(crate) enum Kind {
    /// Larder; the loader is a component that is told the text as `text`.
    Larder {
        loader: PathBuf,
        key: Key,
        /// The `[memory] capacity`.
        capacity: &'static str,
    },
    /// axum and moka, nothing else; the source is its own.
    Bare,
}

/// What is to be started.
pub(crate) struct Plan<'a> {
    /// Of its directory and its log.
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    pub(crate) paths: Paths,
    /// What the source answers, with `{key}` in it.
    pub(crate) text: &'a str,
    pub(crate) cores: &'a [usize],
}

/// A server that answers.
pub(crate) struct Subject {
    pub(crate) name: String,
    server: Server,
    address: SocketAddr,
    /// The listener of the operator, of Larder.
    admin: Option<SocketAddr>,
    /// Taken while a load goes on.
    script: Option<Script>,
}

/// What a turn came to.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) outcome: Outcome,
    /// The CPU time of the server meanwhile, user and system.
    pub(crate) cpu: Duration,
}

impl Turn {
    /// Microseconds of the server's CPU time for each request.
    pub(crate) fn micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.outcome.requests as f64
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.outcome.requests as f64 / self.outcome.seconds
    }
}

impl Subject {
    /// Starts a server in a directory of its own within `directory`, and asks it by its script: every key that is known once to
    /// fill, then a thousand requests whose answers are compared.
    pub(crate) async fn start(
        plan: Plan<'_>,
        programs: &Programs,
        directory: &Path,
    ) -> Result<Self> {
        let directory = directory.join(plan.name);
        fs::create_dir_all(&directory)?;
        let listen = free_port()?;
        let (command, admin) = plan.kind.command(programs, &directory, listen, plan.text)?;
        let mut server = Server::start_among(plan.name, plan.cores, &directory, command)?;
        server
            .until(START, async || {
                let answer = Client::connect(listen).await?.get(&body::path(0)).await?;
                ensure!(
                    answer.status == StatusCode::OK,
                    "{}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                );
                Ok(())
            })
            .await?;
        if plan.paths != Paths::New {
            let mut client = Client::connect(listen).await?;
            for number in 0..body::KEYS {
                client.get(&body::path(number)).await?;
            }
        }
        let told = match (&plan.kind, plan.paths) {
            (Kind::Bare, _) => None,
            (Kind::Larder { .. }, Paths::New) => Some("fwd=uri-miss"),
            (Kind::Larder { .. }, _) => Some("detail=memory"),
        };
        let mut subject = Self {
            name: plan.name.to_owned(),
            server,
            address: listen,
            admin,
            script: Some(Script::new(plan.paths, listen, plan.text, told)?),
        };
        // Few enough that nothing is measured, and of every answer each byte is looked at, as always.
        let load = Load {
            connections: 4,
            length: Duration::from_millis(50),
            ..subject.load(plan.cores.to_vec(), Pace::Closed)
        };
        subject.turn(load).await?;
        eprintln!("{}: started, answers checked", subject.name);
        Ok(subject)
    }

    /// A load on this server, of 64 connections and a second, that has these cores.
    pub(crate) fn load(&self, cores: Vec<usize>, pace: Pace) -> Load {
        Load {
            address: self.address,
            connections: 64,
            cores,
            pace,
            lead: Duration::ZERO,
            length: Duration::from_secs(1),
        }
    }

    /// One slice of load, with the CPU time that the server used for it.
    pub(crate) async fn turn(&mut self, load: Load) -> Result<Turn> {
        let script = self
            .script
            .take()
            .with_context(|| format!("{}: the load before has failed", self.name))?;
        let before = self.server.cpu()?;
        let (outcome, script) = load
            .run(script)
            .await
            .with_context(|| format!("{}\n{}", self.name, self.server.last_lines()))?;
        let cpu = self.server.cpu()?.saturating_sub(before);
        self.script = Some(script);
        Ok(Turn { outcome, cpu })
    }

    /// As the system knows it.
    pub(crate) fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// The name of its program's file.
    pub(crate) fn program(&self) -> Result<String> {
        let file = fs::read_link(format!("/proc/{}/exe", self.pid()))?;
        let name = file.file_name().context("a program has a file")?;
        Ok(name.to_string_lossy().into_owned())
    }

    /// How often its threads have left their cores so far.
    pub(crate) fn switches(&self) -> Switches {
        self.server.switches()
    }

    /// A counter of Larder's, by its whole name.
    pub(crate) async fn counter(&self, name: &str) -> Result<u64> {
        let admin = self.admin.context("this server counts nothing")?;
        let answer = Client::connect(admin).await?.get("/metrics").await?;
        let text = String::from_utf8_lossy(&answer.body);
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .with_context(|| format!("{}: the metrics have no `{name}`", self.name))
    }

    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

impl Kind {
    /// The command, and where it listens for the operator.
    fn command(
        &self,
        programs: &Programs,
        directory: &Path,
        listen: SocketAddr,
        text: &str,
    ) -> Result<(Command, Option<SocketAddr>)> {
        match self {
            Self::Larder {
                loader,
                key,
                capacity,
            } => {
                let admin = free_port()?;
                let plugins = directory.join("plugins");
                put(
                    &plugins,
                    "source",
                    loader,
                    &format!("[config]\ntext = \"{text}\"\n{}", waits_not(loader)),
                )?;
                if *key == Key::Policy {
                    let sidecar = format!("[config]\nheader = \"{}\"\n", TENANT.0);
                    put(
                        &plugins,
                        "tenant-key",
                        &programs.plugin("tenant-key"),
                        &sidecar,
                    )?;
                }
                let config = directory.join("larder.toml");
                fs::write(&config, toml([listen, admin], *key, capacity))?;
                let program = larder::program(programs.larder.as_deref())?;
                Ok((larder::serve(&program, &config)?, Some(admin)))
            }
            Self::Bare => {
                let mut command = Command::new(std::env::current_exe()?);
                command
                    .args(["peer", "axum-moka", "--latency-ms", "0"])
                    .args(["--ttl-seconds", "3600", "--text", text])
                    .args(["--listen", &listen.to_string()]);
                Ok((command, None))
            }
        }
    }
}

/// `demo` pretends to be slow, unless it is told not to.
fn waits_not(loader: &Path) -> &'static str {
    match loader.file_stem() {
        Some(name) if name == "demo" => "latency_ms = 0\n",
        _ => "",
    }
}

/// Puts a component and its sidecar into a plugin directory.
fn put(plugins: &Path, name: &str, component: &Path, sidecar: &str) -> Result<()> {
    fs::create_dir_all(plugins)?;
    fs::copy(component, plugins.join(name).with_extension("wasm")).with_context(|| {
        format!(
            "cannot copy {}: `make build` makes the first-party plugins, bench/loaders/build those of the benchmark",
            component.display()
        )
    })?;
    Ok(fs::write(
        plugins.join(name).with_extension("toml"),
        sidecar,
    )?)
}

fn toml([listen, admin]: [SocketAddr; 2], key: Key, capacity: &str) -> String {
    let tenant = TENANT.0;
    let key = match key {
        Key::Policy => format!("key = \"tenant-key\"\nkey_headers = [\"{tenant}\"]"),
        Key::SameNative => format!("key = {{ path = [\"key\"], headers = [\"{tenant}\"] }}"),
        Key::PathNative => "key = { path = [\"key\"] }".to_owned(),
    };
    format!(
        r#"[server]
listen = "{listen}"
[admin]
listen = "{admin}"
[memory]
capacity = "{capacity}"
[plugins]
dir = "plugins"
[storage]
dir = "larder-data"
[[routes]]
path = "/data/{{key}}"
loader = "source"
{key}
ttl = "1h"
"#
    )
}
