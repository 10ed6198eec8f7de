//! `GET /entries?path=/data/42`: every stored variant of a resource, and why it is fresh or stale.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, Problem};
use crate::cache::TierName;
use crate::cache::entry::{Entry, EntryKind, TagRoom};
use crate::cache::freshness::Freshness;
use crate::cache::generations::{Covered, Verdict};
use crate::key::Resource;
use crate::route::Route;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    path: String,
}

pub(super) async fn entries(
    State(admin): State<Admin>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(Asked { path })) = asked else {
        let detail = "say which resource: GET /entries?path=/data/42";
        return Problem::new(StatusCode::BAD_REQUEST, "invalid-query", detail).into_response();
    };
    let Some((route, resource)) = admin.routes.load().resource(&path) else {
        let detail = format!("no route has the path {path}; GET /routes lists them");
        return Problem::new(StatusCode::NOT_FOUND, "unknown-path", detail).into_response();
    };
    let found = admin.cache.variants(&resource).await;
    let entries: Vec<Value> = found
        .iter()
        .map(|(key, tier, entry)| entry_json(&admin, &route, &resource, key, *tier, entry))
        .collect();
    Json(json!({"path": path, "route": &*route.pattern, "entries": entries})).into_response()
}

/// The parts that a key is made of, decoded; none of those that it holds as a digest.
fn parts(key: &str) -> Vec<crate::key::Param> {
    crate::route::text::decode_query(crate::key::variant_of(key)).unwrap_or_default()
}

fn entry_json(
    admin: &Admin,
    route: &Route,
    resource: &Resource,
    key: &str,
    tier: TierName,
    entry: &Entry,
) -> Value {
    let covered = Covered {
        route: &route.pattern,
        resource,
        variant: crate::key::variant_of(key),
        tags: entry.tags(),
    };
    let verdict = admin
        .cache
        .generations()
        .judge(entry.stamp(), Some(entry.checked()), covered);
    let now_ms = admin.cache.clock().now_ms();
    let times = entry.times();
    let freshness = match times.freshness(now_ms, verdict, &route.binding.policy.bounds()) {
        Freshness::Fresh { left_ms } => json!({"state": "fresh", "left_ms": left_ms}),
        Freshness::Stale {
            over_ms,
            while_revalidate,
            if_error,
        } => json!({
            "state": "stale", "over_ms": over_ms, "while_revalidate": while_revalidate, "if_error": if_error,
        }),
        Freshness::Dead => json!({"state": "dead"}),
    };
    let mut room = TagRoom::default();
    json!({
        "key": key,
        "parts": parts(key),
        "tier": match tier { TierName::Memory => "memory", TierName::Redis => "redis" },
        "kind": match entry.kind() { EntryKind::Found => "found", EntryKind::Missing => "missing" },
        "freshness": freshness,
        "purged": match verdict { Verdict::Alive => "no", Verdict::Expired => "expired", Verdict::Dead => "deleted" },
        "current": key.contains(&format!(":{}:", crate::key::encode(&route.identity))),
        "status": entry.status(),
        "content_type": entry.content_type(),
        "bytes": entry.len(),
        "etag": entry.etag(&mut room),
        "tags": entry.tags(),
        "visibility": entry.visibility(),
        "loader": entry.maker(),
        "age_ms": times.age_ms(now_ms),
        "ttl_ms": times.ttl_ms,
        "stale_while_revalidate_ms": times.swr_ms,
        "stale_if_error_ms": times.sie_ms,
        "stamp": entry.stamp().seq,
    })
}
