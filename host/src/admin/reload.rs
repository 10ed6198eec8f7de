//! `POST /reload`: the configuration is read again, all or nothing.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::audit::Deed;
use super::{Admin, Problem};
use crate::config;
use crate::config::reload::Change;

/// The configuration of the server, as far as this listener asks.
pub trait Configuration: Send + Sync {
    /// Reads it again, and takes it over if nothing is wrong with it. Blocks for as long as files take.
    ///
    /// # Errors
    /// Every problem: then nothing has changed.
    fn reload(&self) -> Result<Vec<Change>, Vec<config::Problem>>;

    /// Whether the one that was read last was refused.
    fn is_refused(&self) -> bool;
}

pub(super) async fn reload(State(admin): State<Admin>) -> Response {
    let configuration = admin.configuration;
    let became = tokio::task::spawn_blocking(move || configuration.reload()).await;
    match became {
        Ok(Ok(changes)) => {
            let waiting = changes.iter().filter(|change| change.waits).count();
            let deed = Deed {
                on: "configuration".to_owned(),
                outcome: format!(
                    "{} changed, {waiting} of these after a restart",
                    changes.len()
                ),
            };
            deed.with(Json(taken_over(&changes)).into_response())
        }
        Ok(Err(problems)) => {
            let texts: Vec<String> = problems.iter().map(config::Problem::on_one_line).collect();
            let detail = format!(
                "the configuration before stays in force: {}",
                texts.join("; ")
            );
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "configuration-refused",
                detail,
            )
            .into_response()
        }
        Err(panic) => {
            let detail = format!("it did not end: {panic}; send it again");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "aborted", detail).into_response()
        }
    }
}

fn taken_over(changes: &[Change]) -> Value {
    let listed = changes.iter().map(|change| {
        json!({
            "setting": change.setting,
            "from": change.from,
            "to": change.to,
            "needs_restart": change.waits,
        })
    });
    json!({"changes": listed.collect::<Vec<_>>()})
}
