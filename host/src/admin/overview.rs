//! `GET /overview`: everything that the dashboard shows, at one moment. Counters are since the start; who asks twice knows rates.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::{Admin, queue};
use crate::metrics::durations::Read;
use crate::plugin::{Account, Event, Line};
use crate::route::Route;

pub(super) async fn overview(State(admin): State<Admin>) -> Json<Value> {
    let (entries, bytes) = admin.cache.memory().size();
    let (loads, waiters) = admin.cache.in_flight();
    let redis = admin.cache.shared().map(|shared| {
        let health = shared.health();
        json!({"available": health.available, "error": health.error, "pending_purges": health.pending_purges})
    });
    let queue = match &admin.behind {
        None => Value::Null,
        Some(_) => queue::queue(State(admin.clone())).await.map_or_else(
            |problem| json!({"error": problem.detail}),
            |Json(queue)| queue,
        ),
    };
    let routes = admin.routes.load();
    let accounts = admin.plugins.accounts();
    let plugins = admin.plugins.status();
    let plugins = plugins.iter().map(|status| {
        let mut row = super::plugin_json(status);
        let account = accounts.iter().find(|(name, _)| *name == status.name);
        if let (Value::Object(row), Some((_, account))) = (&mut row, account) {
            row.extend(of_account(account));
        }
        row
    });
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now_ms": admin.cache.clock().now_ms(),
        "uptime_ms": u64::try_from(admin.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "starting": routes.is_starting(),
        "draining": *admin.draining.borrow(),
        "memory": {"entries": entries, "bytes": bytes, "capacity": admin.cache.memory().capacity()},
        "in_flight": {"loads": loads, "waiters": waiters},
        "redis": redis,
        "queue": queue,
        "routes": routes.routes().iter().map(of_route).collect::<Vec<_>>(),
        "plugins": plugins.collect::<Vec<_>>(),
        "reloads": admin.plugins.history().iter().map(of_event).collect::<Vec<_>>(),
    }))
}

fn of_route(route: &Arc<Route>) -> Value {
    let metrics = &route.brief.metrics;
    let mut answers = Map::new();
    for (outcome, detail, count) in metrics.ended() {
        answers.entry(outcome).or_insert_with(|| json!({}))[detail] = count.into();
    }
    let (failures, last) = metrics.failures();
    let (loads, waiters) = metrics.places.taken();
    json!({
        "route": &*route.pattern,
        "loaders": route.config.loaders,
        "requests": metrics.requests(),
        "answers": answers,
        "in_flight": {"loads": loads, "waiters": waiters},
        "failures": failures,
        "last_failure": last.map(|last| json!({"code": last.code, "message": last.message, "at_ms": last.at_ms})),
        "durations": of_durations(&metrics.durations.read()),
    })
}

/// Seconds; each bucket with how many took no longer.
fn of_durations(read: &Read) -> Value {
    json!({"count": read.count, "sum_seconds": read.sum_seconds, "buckets": read.buckets})
}

fn of_account(account: &Account) -> Map<String, Value> {
    let members = [
        ("calls", json!(account.calls)),
        ("failures", json!(account.failures)),
        ("faults", json!(account.faults)),
        ("durations", of_durations(&account.durations)),
        ("memory_peak", json!(account.memory_peak)),
        ("memory_limit", json!(account.memory_limit)),
        ("instances", json!(account.instances)),
        ("waiting", json!(account.waiting)),
        ("shed", json!(account.shed)),
        ("alive", json!(account.alive)),
        ("busy_seconds", json!(account.busy.as_secs_f64())),
        (
            "breaker",
            json!(if account.is_open { "open" } else { "closed" }),
        ),
        ("log", account.lines.iter().map(of_line).collect()),
    ];
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn of_line(line: &Line) -> Value {
    json!({"at_ms": line.at_ms, "level": line.level, "message": line.text})
}

fn of_event(event: &Event) -> Value {
    json!({"at_ms": event.at_ms, "plugin": event.plugin, "result": event.result, "detail": event.detail})
}
