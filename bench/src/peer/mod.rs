//! The hand-written peers: what a good Rust user would write instead of running Larder. Owns what they
//! share (the slow source, the listener); must not know that they are being measured.

mod axum_bounded;
mod axum_moka;
pub(crate) mod axum_postgres;
mod axum_redis;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::{Router, serve::ListenerExt};
use clap::{Args, ValueEnum};
use tokio::net::TcpListener;

use crate::body;

/// Which handler is served.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// axum, and a moka cache in the process.
    #[value(name = "axum-moka")]
    Moka,
    /// axum, and cache-aside over redis-rs.
    #[value(name = "axum-redis")]
    Redis,
    /// axum, and a semaphore before the source.
    #[value(name = "axum-semaphore")]
    Semaphore,
    /// axum, and upserts with tokio-postgres.
    #[value(name = "axum-postgres")]
    Postgres,
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
}

/// Serves until the process is killed.
pub(crate) async fn serve(options: Options) -> Result<()> {
    let source = Arc::new(Source {
        text: options.text,
        latency: Duration::from_millis(options.latency_ms),
    });
    let ttl = Duration::from_secs(options.ttl_seconds);
    let router: Router = match options.kind {
        Kind::Moka => axum_moka::router(source, ttl),
        Kind::Redis => axum_redis::router(source, ttl, &options.redis).await?,
        Kind::Semaphore => axum_bounded::router(source, options.at_once),
        Kind::Postgres => axum_postgres::router(&options.postgres, options.connections).await?,
    };
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?
        // Without it a small answer can wait for the acknowledgement of the one before.
        .tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
    Ok(axum::serve(listener, router).await?)
}
