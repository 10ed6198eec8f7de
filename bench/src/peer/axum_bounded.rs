//! axum before a source that does so many things at once: a semaphore, waited for no longer than a request may take. First
//! come, first served, as `tokio::sync::Semaphore` and the layers made of it are. Owns its one handler.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{sync::Semaphore, time::timeout};

use super::Source;

/// How long a request may take: the default of a route of Larder.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Handler {
    places: Arc<Semaphore>,
    source: Arc<Source>,
}

pub(super) fn router(source: Arc<Source>, at_once: usize) -> Router {
    let places = Arc::new(Semaphore::new(at_once));
    Router::new()
        .route("/data/{key}", get(data))
        .with_state(Handler { places, source })
}

async fn data(State(handler): State<Handler>, Path(key): Path<String>) -> Response {
    let loaded = timeout(TIMEOUT, async {
        let _place = handler.places.acquire().await;
        handler.source.load(&key).await
    });
    match loaded.await {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
