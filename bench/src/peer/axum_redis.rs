//! axum with cache-aside over redis-rs: the handler that Larder is there to replace. Owns its one handler.
//!
//! One multiplexed connection is shared by all requests, as redis-rs recommends. It does not reconnect,
//! which a service would want; that is in this peer's favour, as reconnecting costs a little on every call.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
    routing::get,
};
use redis::{AsyncCommands, RedisResult, aio::MultiplexedConnection};

use super::Source;

/// What the keys of this peer begin with, so that it can share a Redis with others.
pub(crate) const PREFIX: &str = "axum:";

#[derive(Clone)]
struct Handler {
    redis: MultiplexedConnection,
    source: Arc<Source>,
    ttl_seconds: u64,
}

pub(super) async fn router(source: Arc<Source>, ttl: Duration, redis: &str) -> Result<Router> {
    let redis = redis::Client::open(redis)
        .context("--redis is not the address of a Redis")?
        .get_multiplexed_async_connection()
        .await
        .with_context(|| format!("cannot reach {redis}"))?;
    Ok(Router::new()
        .route("/data/{key}", get(data))
        .with_state(Handler {
            redis,
            source,
            ttl_seconds: ttl.as_secs(),
        }))
}

async fn data(State(mut handler): State<Handler>, Path(key): Path<String>) -> impl IntoResponse {
    let name = format!("{PREFIX}{key}");
    let cached: RedisResult<Option<Vec<u8>>> = handler.redis.get(&name).await;
    let body = match cached {
        Ok(Some(body)) => body,
        // Redis being down is no reason to fail: the source still has the answer.
        Ok(None) | Err(_) => {
            let body = handler.source.load(&key).await;
            let _: RedisResult<()> = handler
                .redis
                .set_ex(&name, &body, handler.ttl_seconds)
                .await;
            body
        }
    };
    ([(CONTENT_TYPE, "application/json")], body)
}
