//! Who takes writes in a run: names, the command that starts each, and how it acknowledges. Must not know how they are
//! measured.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tokio::{process::Command, time::sleep};

use super::Options;
use crate::{
    client::Client,
    larder,
    postgres_server::{PASSWORD, PostgresServer, USER},
    process::Server,
    put::{self, Burst, Target, Until},
    redis_server::free_port,
};

/// Larder compiles its component in this time.
const START: Duration = Duration::from_secs(120);
/// How long a queue may go without becoming shorter.
const STALLED: Duration = Duration::from_secs(60);
/// Where the password of the database is for Larder.
const VARIABLE: &str = "DATABASE_PASSWORD";

/// One way of taking `PUT /things/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Larder, `write = "behind"`, the queue on disk.
    LarderBehind,
    /// Larder, `write = "through"`.
    LarderThrough,
    /// A hand-written axum handler with tokio-postgres.
    AxumPostgres,
}

/// In the order of the table.
pub(super) const EVERYONE: [Kind; 3] =
    [Kind::LarderBehind, Kind::LarderThrough, Kind::AxumPostgres];

impl Kind {
    /// The name of its files, and of the peer on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LarderBehind => "larder-behind",
            Self::LarderThrough => "larder-through",
            Self::AxumPostgres => "axum-postgres",
        }
    }

    /// The name in the table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::LarderBehind => "Larder, write-behind, queue on disk",
            Self::LarderThrough => "Larder, write-through",
            Self::AxumPostgres => "axum + tokio-postgres, hand-written",
        }
    }

    /// What a new thing is acknowledged with.
    fn status(self) -> u16 {
        match self {
            Self::LarderBehind => 202,
            Self::LarderThrough => 201,
            Self::AxumPostgres => 200,
        }
    }
}

/// What everyone of a run is started with.
pub(super) struct Ground<'a> {
    pub(super) options: &'a Options,
    pub(super) directory: &'a Path,
    pub(super) core: usize,
    pub(super) postgres: &'a PostgresServer,
}

/// One that runs.
pub(super) struct Writer {
    pub(super) kind: Kind,
    pub(super) server: Server,
    target: Target,
    /// The queue of write-behind is told of here.
    admin: SocketAddr,
}

/// What `GET /queue` says.
#[derive(Deserialize)]
struct Depth {
    pending: u64,
    dead: u64,
}

impl Writer {
    /// Starts it, pinned, and waits until it has acknowledged the write of the thing `first`, which must be a new one.
    pub(super) async fn start(kind: Kind, ground: &Ground<'_>, first: u64) -> Result<Self> {
        let directory = ground.directory.join(kind.name());
        fs::create_dir_all(&directory)?;
        let (listen, admin) = (free_port()?, free_port()?);
        let command = match kind {
            Kind::AxumPostgres => peer_command(ground, listen)?,
            Kind::LarderBehind => larder_command(ground, &directory, (listen, admin), "behind")?,
            Kind::LarderThrough => larder_command(ground, &directory, (listen, admin), "through")?,
        };
        let mut server = Server::start(kind.name(), ground.core, &directory, command)?;
        let target = Target {
            address: listen,
            connections: ground.options.connections,
            status: kind.status(),
        };
        let alone = Target {
            connections: 1,
            ..target
        };
        // One that is refused because its plugin is still being compiled is not made, and may be tried again as new.
        server
            .until(START, async || {
                put::burst(alone, first, Until::Count(1)).await
            })
            .await?;
        Ok(Self {
            kind,
            server,
            target,
            admin,
        })
    }

    /// Load, of which everything is acknowledged.
    pub(super) async fn burst(&self, first: u64, until: Until) -> Result<Burst> {
        let burst = put::burst(self.target, first, until).await;
        burst.with_context(|| format!("{}\n{}", self.kind.name(), self.server.last_lines()))
    }

    /// Waits until nothing is pending any more; at once for those without a queue. Something that was given up is an error.
    pub(super) async fn drained(&self) -> Result<()> {
        if self.kind != Kind::LarderBehind {
            return Ok(());
        }
        let mut client = Client::connect(self.admin).await?;
        let (mut least, mut waited) = (u64::MAX, Duration::ZERO);
        loop {
            let answer = client.get("/queue").await?;
            let depth: Depth = serde_json::from_slice(&answer.body)
                .with_context(|| format!("GET /queue was answered with {}", answer.status))?;
            ensure!(
                depth.dead == 0,
                "{} changes were given up\n{}",
                depth.dead,
                self.server.last_lines()
            );
            if depth.pending == 0 {
                return Ok(());
            }
            if depth.pending < least {
                (least, waited) = (depth.pending, Duration::ZERO);
            }
            if waited > STALLED {
                bail!(
                    "{} changes are pending and none was made for {STALLED:?}\n{}",
                    depth.pending,
                    self.server.last_lines()
                );
            }
            sleep(POLL).await;
            waited += POLL;
        }
    }
}

/// Between two looks at a queue: short beside what is measured, and long beside what a look costs.
const POLL: Duration = Duration::from_millis(20);

fn peer_command(ground: &Ground<'_>, listen: SocketAddr) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["peer", Kind::AxumPostgres.name()])
        .args(["--listen", &listen.to_string()])
        .args(["--postgres", &ground.postgres.parameters()])
        .args(["--connections", &ground.options.pool.to_string()]);
    Ok(command)
}

fn larder_command(
    ground: &Ground<'_>,
    directory: &Path,
    listeners: (SocketAddr, SocketAddr),
    write: &str,
) -> Result<Command> {
    let options = ground.options;
    let config = write_files(
        directory,
        &options.plugins_dist,
        &toml(listeners, write),
        &sidecar(ground.postgres.address, options.pool),
    )?;
    let mut command = larder::serve(&larder::program(options.larder.as_deref())?, &config)?;
    command.env(VARIABLE, PASSWORD);
    Ok(command)
}

fn write_files(directory: &Path, dist: &Path, toml: &str, sidecar: &str) -> Result<PathBuf> {
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins)?;
    let component = dist.join("postgres.wasm");
    fs::copy(&component, plugins.join("postgres.wasm"))
        .with_context(|| format!("cannot copy {}: `make build` makes it", component.display()))?;
    fs::write(plugins.join("postgres.toml"), sidecar)?;
    let file = directory.join("larder.toml");
    fs::write(&file, toml)?;
    Ok(file)
}

/// Nothing switched off, and the queue with room for any run.
fn toml((listen, admin): (SocketAddr, SocketAddr), write: &str) -> String {
    format!(
        r#"[server]
listen = "{listen}"
[admin]
listen = "{admin}"
[plugins]
dir = "plugins"
[storage]
dir = "larder-data"
[writes]
queue = "disk"
max_pending = 10000000
max_bytes = "8GiB"
[[routes]]
path = "/things/{{key}}"
loader = "postgres"
ttl = "1h"
write = "{write}"
"#
    )
}

/// As many connections as the hand-written handler has: an instance makes one call at a time, on one of its own.
fn sidecar(postgres: SocketAddr, pool: usize) -> String {
    let (host, port) = (postgres.ip(), postgres.port());
    format!(
        r#"[config]
host = "{host}"
port = {port}
database = "postgres"
user = "{USER}"
[config.queries."/things/{{key}}"]
sql = "select key, value from things where key = any($key)"
params = {{ key = "text" }}
key = "key"
result = "one"
[config.writes."/things/{{key}}"]
table = "things"
key = {{ key = "text" }}
columns = {{ value = "bigint" }}
[config.order]
[limits]
instances = {pool}
[secrets]
password = {{ env = "{VARIABLE}" }}
[grants]
tcp = ["{postgres}"]
"#
    )
}
