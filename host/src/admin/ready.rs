//! `GET /readyz`: whether the server is to be sent requests, and how each of its parts does. Answers whoever asks, so it says
//! no more of a fault than which part has it, and what `GET /plugins` says of a plugin.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::Admin;
use crate::plugin::PluginState;

/// 200 once configuration and plugins are judged. Redis or a source being down, or a broken plugin, is told and is no
/// reason to take the node away: it still answers. Draining is.
pub(super) async fn readyz(State(admin): State<Admin>) -> Response {
    let starting = admin.routes.load().is_starting();
    let draining = *admin.draining.borrow();
    let ready = !starting && !draining;
    let plugins = admin.plugins.status();
    let broken: Vec<Value> = plugins
        .iter()
        .filter(|status| status.state != PluginState::Ready)
        .map(|status| json!({"name": status.name, "state": status.state.name(), "error": status.error}))
        .collect();
    let redis = admin.cache.shared().map(|shared| {
        let health = shared.health();
        json!({"available": health.available, "error": health.error, "pending_purges": health.pending_purges})
    });
    let of_plugins: Map<String, Value> = plugins
        .iter()
        .map(|status| {
            let part = part(status.state.name(), status.error.as_deref());
            (status.name.clone(), part)
        })
        .collect();
    let parts = json!({
        "configuration": configuration(&admin, starting),
        "plugins": of_plugins,
        "redis": of_redis(&admin),
        "write_queue": write_queue(&admin).await,
        "draining": if draining {
            part("yes", Some("the server was told to stop; send requests elsewhere"))
        } else {
            part("no", None)
        },
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "ready": ready, "starting": starting, "draining": draining, "redis": redis,
        "plugins_not_ready": broken, "parts": parts,
    });
    (status, Json(body)).into_response()
}

/// How a part does, and why it is not as it should be.
fn part(state: &str, why: Option<&str>) -> Value {
    json!({"state": state, "why": why})
}

fn configuration(admin: &Admin, starting: bool) -> Value {
    if starting {
        part("starting", Some("the plugins are still being judged"))
    } else if admin.configuration.is_refused() {
        let why = "the one that was read last was refused, and the one before stays in force; the log says why";
        part("refused", Some(why))
    } else {
        part("ready", None)
    }
}

fn of_redis(admin: &Admin) -> Value {
    let Some(shared) = admin.cache.shared() else {
        return part("none", None);
    };
    let health = shared.health();
    match (health.available, health.error) {
        (true, None) => part("ready", None),
        (true, Some(why)) => part("degraded", Some(&why)),
        (false, why) => part("away", why.as_deref()),
    }
}

async fn write_queue(admin: &Admin) -> Value {
    let Some(behind) = &admin.behind else {
        return part("none", None);
    };
    let bounds = behind.bounds();
    match behind.queue().depth().await {
        Err(error) => part("away", Some(&error.to_string())),
        Ok(depth)
            if depth.pending + depth.dead >= bounds.items_max
                || depth.bytes >= bounds.bytes_max =>
        {
            part(
                "full",
                Some("changes are answered with 503; GET /queue says how many wait"),
            )
        }
        Ok(depth) if depth.dead > 0 => {
            let why = format!(
                "{} changes were given up; GET /queue/dead lists them",
                depth.dead
            );
            part("ready", Some(&why))
        }
        Ok(_) => part("ready", None),
    }
}
