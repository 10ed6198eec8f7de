//! The hand-written peers: what a good Rust user would write instead of running Larder. Owns what they
//! share (the slow source, the listener); must not know that they are being measured.

mod axum_bounded;
mod axum_moka;
pub(crate) mod axum_postgres;
mod axum_redis;
mod bare_hyper;
mod epoll;
mod epoll_memory;
mod epoll_redis;
mod hyper_memory;
mod hyper_redis;
mod origin;
mod resp;

use std::{
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use axum::{Router, serve::ListenerExt};
use clap::{Args, ValueEnum};
use tokio::{net::TcpListener, runtime::Builder, task::LocalSet};

use crate::body;

/// Which handler is served.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A bare epoll loop, and a map.
    EpollMemory,
    /// hyper without a router, and a map.
    HyperMemory,
    /// axum, and a moka cache in the process.
    #[value(name = "axum-moka")]
    Moka,
    /// A bare epoll loop that asks Redis.
    EpollRedis,
    /// hyper without a router, and its own connection to Redis.
    HyperRedis,
    /// axum, and cache-aside over redis-rs.
    #[value(name = "axum-redis")]
    Redis,
    /// The same on a runtime of one thread.
    #[value(name = "axum-redis-current")]
    RedisCurrent,
    /// axum, and a semaphore before the source.
    #[value(name = "axum-semaphore")]
    Semaphore,
    /// axum, and upserts with tokio-postgres.
    #[value(name = "axum-postgres")]
    Postgres,
    /// axum, and the source alone: what a proxy asks.
    Origin,
}

/// The settings of a peer.
#[derive(Args)]
pub(crate) struct Options {
    kind: Kind,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What the source answers; `{key}` stands for the key.
    #[arg(long, default_value = "Data for key {key}")]
    text: String,
    /// How slow the source is.
    #[arg(long, default_value_t = 150)]
    latency_ms: u64,
    /// How many things the source of `axum-semaphore` does at once.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// How long an answer is kept.
    #[arg(long, default_value_t = 60)]
    ttl_seconds: u64,
    /// The Redis of `axum-redis`.
    #[arg(long, default_value = "redis://127.0.0.1:6379/")]
    redis: String,
    /// The PostgreSQL of `axum-postgres`, as `key=value` pairs.
    #[arg(long, default_value = "host=127.0.0.1 user=postgres")]
    postgres: String,
    /// Connections of `axum-postgres` to it.
    #[arg(long, default_value_t = axum_postgres::CONNECTIONS)]
    connections: usize,
}

/// What a miss asks: the tutorial's slow answer.
struct Source {
    text: String,
    latency: Duration,
}

impl Source {
    async fn load(&self, key: &str) -> Vec<u8> {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        body::render(&self.text, key)
    }

    /// For a loop that can wait for nothing; see `at_once`.
    fn load_at_once(&self, key: &str) -> Vec<u8> {
        body::render(&self.text, key)
    }
}

/// Serves until the process is killed.
pub(crate) fn serve(options: Options) -> Result<()> {
    let Options { listen, redis, .. } = options;
    let source = Source {
        text: options.text,
        latency: Duration::from_millis(options.latency_ms),
    };
    let ttl = Duration::from_secs(options.ttl_seconds);
    match options.kind {
        Kind::EpollMemory => epoll_memory::serve(listen, at_once(source)?),
        Kind::EpollRedis => epoll_redis::serve(listen, at_once(source)?, ttl, address(&redis)?),
        Kind::HyperMemory => on_one_thread(hyper_memory::serve(listen, source)),
        Kind::HyperRedis => {
            on_one_thread(hyper_redis::serve(listen, source, ttl, address(&redis)?))
        }
        Kind::RedisCurrent => on_one_thread(async {
            serve_axum(
                listen,
                axum_redis::router(source.into(), ttl, &redis).await?,
            )
            .await
        }),
        Kind::Redis => on_many_threads(async {
            serve_axum(
                listen,
                axum_redis::router(source.into(), ttl, &redis).await?,
            )
            .await
        }),
        Kind::Moka => on_many_threads(serve_axum(listen, axum_moka::router(source.into(), ttl))),
        Kind::Semaphore => {
            let router = axum_bounded::router(source.into(), options.at_once);
            on_many_threads(serve_axum(listen, router))
        }
        Kind::Postgres => on_many_threads(async {
            let router = axum_postgres::router(&options.postgres, options.connections).await?;
            serve_axum(listen, router).await
        }),
        Kind::Origin => on_many_threads(serve_axum(listen, origin::router(source.into()))),
    }
}

fn on_one_thread(served: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(served))
}

fn on_many_threads(served: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(served)
}

/// A source for a loop that can wait for nothing.
fn at_once(source: Source) -> Result<Source> {
    ensure!(
        source.latency.is_zero(),
        "a bare loop cannot wait for its source: give it --latency-ms 0"
    );
    Ok(source)
}

/// Where a Redis is, for those who speak to it themselves.
fn address(redis: &str) -> Result<SocketAddr> {
    let authority = redis.strip_prefix("redis://");
    authority
        .map(|rest| rest.trim_end_matches('/'))
        .and_then(|authority| authority.to_socket_addrs().ok()?.next())
        .with_context(|| format!("--redis {redis} is not redis://HOST:PORT/"))
}

async fn serve_axum(listen: SocketAddr, router: Router) -> Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?
        // Without it a small answer can wait for the acknowledgement of the one before.
        .tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
    Ok(axum::serve(listener, router).await?)
}
