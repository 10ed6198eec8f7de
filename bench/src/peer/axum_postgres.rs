//! axum with an upsert over tokio-postgres: the handler that Larder's writes are there to replace. Owns its one handler.
//!
//! A few connections are shared by all requests: tokio-postgres sends the statement of one while those of others are on
//! their way. Like `axum_redis` it does not reconnect, which is in this peer's favour.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::put,
};
use serde::Deserialize;
use tokio_postgres::{Client, NoTls, Statement};

/// Connections, unless another number is given.
pub(crate) const CONNECTIONS: usize = 16;

const UPSERT: &str = "insert into things (key, value) values ($1, $2) \
                      on conflict (key) do update set value = excluded.value";

/// A connection with its prepared statement.
struct Session {
    client: Client,
    upsert: Statement,
}

struct Pool {
    sessions: Vec<Session>,
    turn: AtomicUsize,
}

/// The body of a PUT.
#[derive(Deserialize)]
struct Thing {
    value: i64,
}

pub(super) async fn router(postgres: &str, connections: usize) -> Result<Router> {
    let mut sessions = Vec::new();
    for _ in 0..connections.max(1) {
        let (client, connection) = tokio_postgres::connect(postgres, NoTls)
            .await
            .context("cannot reach the PostgreSQL of --postgres")?;
        tokio::spawn(connection);
        let upsert = client.prepare(UPSERT).await?;
        sessions.push(Session { client, upsert });
    }
    let turn = AtomicUsize::new(0);
    Ok(Router::new()
        .route("/things/{key}", put(write))
        .with_state(Arc::new(Pool { sessions, turn })))
}

async fn write(
    State(pool): State<Arc<Pool>>,
    Path(key): Path<String>,
    Json(thing): Json<Thing>,
) -> Result<StatusCode, (StatusCode, String)> {
    let turn = pool.turn.fetch_add(1, Ordering::Relaxed);
    let Session { client, upsert } = &pool.sessions[turn % pool.sessions.len()];
    match client.execute(upsert, &[&key, &thing.value]).await {
        // Committed: each statement is a transaction.
        Ok(_) => Ok(StatusCode::OK),
        Err(error) => Err((StatusCode::BAD_GATEWAY, error.to_string())),
    }
}
