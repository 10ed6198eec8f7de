//! axum with a moka cache and nothing else: the least that answers from memory. Owns its one handler.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
    routing::get,
};
use moka::future::Cache;

use super::Source;

#[derive(Clone)]
struct Handler {
    cache: Cache<String, Bytes>,
    source: Arc<Source>,
}

pub(super) fn router(source: Arc<Source>, ttl: Duration) -> Router {
    let cache = Cache::builder()
        .max_capacity(100_000)
        .time_to_live(ttl)
        .build();
    Router::new()
        .route("/data/{key}", get(data))
        .with_state(Handler { cache, source })
}

async fn data(State(handler): State<Handler>, Path(key): Path<String>) -> impl IntoResponse {
    let body = match handler.cache.get(&key).await {
        Some(body) => body,
        // Only a miss pays for the entry API, which gives one load per key.
        None => handler
            .cache
            .entry_by_ref(&key)
            .or_insert_with(async { handler.source.load(&key).await.into() })
            .await
            .into_value(),
    };
    ([(CONTENT_TYPE, "application/json")], body)
}
