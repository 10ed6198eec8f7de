//! The source by itself: what stands behind a proxy that caches. Owns its one handler.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    http::header::CONTENT_TYPE,
    response::IntoResponse,
    routing::get,
};

use super::Source;

pub(super) fn router(source: Arc<Source>) -> Router {
    Router::new()
        .route("/data/{key}", get(data))
        .with_state(source)
}

async fn data(State(source): State<Arc<Source>>, Path(key): Path<String>) -> impl IntoResponse {
    (
        [(CONTENT_TYPE, "application/json")],
        source.load(&key).await,
    )
}
