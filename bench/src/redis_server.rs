//! The Redis of a run: started on a free port, without persistence, ended with the run. Also owns the
//! count of keys it was asked for, which proves where answers came from.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::process::{Server, find_program};

const START: Duration = Duration::from_secs(10);

/// A Redis that ends when this is dropped.
pub(crate) struct RedisServer {
    server: Server,
    connection: MultiplexedConnection,
    /// `redis://127.0.0.1:PORT/`
    pub(crate) url: String,
}

impl RedisServer {
    /// Starts Redis on a core and waits until it answers.
    pub(crate) async fn start(core: usize, directory: &Path) -> Result<Self> {
        let program = find_program(
            "redis-server",
            "`.ci/setup bench` installs it (Debian: redis-server)",
        )?;
        let address: SocketAddr = free_port()?;
        let mut command = Command::new(program);
        command
            .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(directory);
        let mut server = Server::start("redis", core, directory, command)?;
        let url = format!("redis://{address}/");
        let client = redis::Client::open(url.as_str())?;
        let deadline = Instant::now() + START;
        let connection = loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => break connection,
                Err(error) if server.ended().is_some() || Instant::now() > deadline => {
                    bail!(
                        "redis-server does not answer: {error}\n{}",
                        server.last_lines()
                    )
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        Ok(Self {
            server,
            connection,
            url,
        })
    }

    /// How many keys were asked for and found since Redis started.
    pub(crate) async fn keys_found(&mut self) -> Result<u64> {
        let info: String = redis::cmd("INFO")
            .arg("stats")
            .query_async(&mut self.connection)
            .await?;
        info.lines()
            .find_map(|line| line.strip_prefix("keyspace_hits:")?.trim().parse().ok())
            .context("INFO stats of Redis has no keyspace_hits")
    }

    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

/// An address on loopback that nobody listens on. Another process can take it before it is used; the
/// server then fails to start and says so.
pub(crate) fn free_port() -> Result<SocketAddr> {
    let listener =
        std::net::TcpListener::bind("127.0.0.1:0").context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}
