//! `POST /purge`: what is asked, judged strictly, and how far it is known to have reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::{Admin, Problem};
use crate::cache::generations::{Mode, Scope};
use crate::route::Snapshot;

/// Exactly one of the first five; the last two belong to `path`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    path: Option<String>,
    tag: Option<String>,
    tags: Option<Vec<String>>,
    route: Option<String>,
    all: Option<bool>,
    #[serde(default)]
    mode: PurgeMode,
    /// What the request of the variant has, as far as its route looks at it.
    headers: Option<BTreeMap<String, String>>,
    /// Only this variant of the path.
    #[serde(default)]
    exact: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PurgeMode {
    #[default]
    Delete,
    Expire,
}

const TAGS_MAX: usize = 1000;

pub(super) async fn purge(State(admin): State<Admin>, body: Bytes) -> Response {
    let asked: Purge = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => {
            let detail = format!(
                "the body is not a purge: {error}; send for example {{\"path\": \"/data/42\"}}"
            );
            return Problem::new(StatusCode::BAD_REQUEST, "invalid-purge", detail).into_response();
        }
    };
    let scopes = match scopes(&admin, &asked) {
        Ok(scopes) => scopes,
        Err(problem) => return problem.into_response(),
    };
    let (mode, done) = match asked.mode {
        PurgeMode::Delete => (Mode::Delete, "deleted"),
        PurgeMode::Expire => (Mode::Expire, "expired"),
    };
    // In a task of its own: a client that leaves must not leave half a purge behind.
    let (cache, purging) = (Arc::clone(&admin.cache), scopes.clone());
    let purged = tokio::spawn(async move {
        let mut all = Vec::with_capacity(purging.len());
        for scope in &purging {
            all.push(cache.purge(scope, mode).await);
        }
        all
    });
    let purged = match purged.await {
        Ok(purged) => purged,
        Err(error) => {
            let detail = format!("the purge did not end: {error}; send it again");
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "purge-aborted", detail)
                .into_response();
        }
    };
    // A purge is done on this node at once; a shared tier that could not be told is told as soon as it is back.
    let shared = purged.iter().all(|purged| purged.shared);
    let pending: &[&str] = if shared { &[] } else { &["redis"] };
    let mut answer = json!({
        "seq": purged.iter().map(|purged| purged.seq).max(),
        "done": done,
        "scopes": scopes.iter().map(describe).collect::<Vec<_>>(),
        "pending": pending,
    });
    // Of several purges, what holds of the one that came least far.
    if admin.cache.shared().is_some() {
        answer["nodes"] = json!(purged.iter().map(|purged| purged.nodes).min().flatten());
        answer["replicas"] = json!(purged.iter().filter_map(|purged| purged.replicas).min());
        answer["durable"] = json!(purged.iter().all(|purged| purged.durable));
    }
    Json(answer).into_response()
}

fn scopes(admin: &Admin, asked: &Purge) -> Result<Vec<Scope>, Problem> {
    let invalid = |detail: &str| Problem::new(StatusCode::BAD_REQUEST, "invalid-purge", detail);
    let given = [
        asked.path.is_some(),
        asked.tag.is_some(),
        asked.tags.is_some(),
        asked.route.is_some(),
        asked.all.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        return Err(invalid(
            "give exactly one of `path`, `tag`, `tags`, `route`, `all`",
        ));
    }
    if asked.headers.is_some() && !asked.exact {
        return Err(invalid(
            "`headers` say which variant of a path is meant: add `\"exact\": true`, or leave them out to purge every variant",
        ));
    }
    let routes = admin.routes.load();
    if let Some(path) = &asked.path {
        if asked.exact {
            return Ok(vec![variant(admin, &routes, path, asked.headers.as_ref())?]);
        }
        let (path, _) = path.split_once('?').unwrap_or((path, ""));
        let (_, resource) = routes.resource(path).ok_or_else(|| unknown_path(path))?;
        return Ok(vec![Scope::Resource(resource)]);
    }
    if asked.exact {
        return Err(invalid("`exact` goes with `path` alone"));
    }
    if let Some(pattern) = &asked.route {
        let route = routes
            .routes()
            .iter()
            .find(|route| *route.pattern == **pattern)
            .ok_or_else(|| {
                let detail = format!("there is no route {pattern}; GET /routes lists them");
                Problem::new(StatusCode::NOT_FOUND, "unknown-route", detail)
            })?;
        return Ok(vec![Scope::Route(Arc::clone(&route.pattern))]);
    }
    match (&asked.tag, &asked.tags, asked.all) {
        (_, _, Some(true)) => Ok(vec![Scope::All]),
        (_, _, Some(false)) => Err(invalid("`all` can only be true")),
        (Some(tag), _, _) => Ok(vec![Scope::Tag(tag.as_str().into())]),
        (_, Some(tags), _) if tags.is_empty() || tags.len() > TAGS_MAX => {
            Err(invalid("give 1 to 1000 tags"))
        }
        (_, Some(tags), _) => Ok(tags
            .iter()
            .map(|tag| Scope::Tag(tag.as_str().into()))
            .collect()),
        _ => Err(invalid(
            "give exactly one of `path`, `tag`, `tags`, `route`, `all`",
        )),
    }
}

fn unknown_path(path: &str) -> Problem {
    let detail = format!("no route has the path {path}; GET /routes lists them");
    Problem::new(StatusCode::NOT_FOUND, "unknown-path", detail)
}

/// The variant that a GET of this path and query with these headers would be answered with.
fn variant(
    admin: &Admin,
    routes: &Snapshot,
    path: &str,
    headers: Option<&BTreeMap<String, String>>,
) -> Result<Scope, Problem> {
    let mut sent = HeaderMap::new();
    for (name, value) in headers.into_iter().flatten() {
        let header = HeaderName::try_from(name).ok();
        let (Some(name), Ok(value)) = (header, HeaderValue::try_from(value)) else {
            let detail =
                format!("the header {name:?} has a name or a value that HTTP does not allow");
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-purge",
                detail,
            ));
        };
        sent.append(name, value);
    }
    let derived = match routes.derive(path, &sent, &admin.metrics) {
        Ok(derived) => derived,
        Err((None, _)) => return Err(unknown_path(path)),
        Err((Some(route), refusal)) => {
            let detail = format!(
                "a GET of {path} with these headers has no variant, because {} refuses it: {refusal}; to purge every variant of a path, leave `exact` out",
                route.pattern
            );
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "no-variant",
                detail,
            ));
        }
    };
    let key = &derived.ask.key;
    Ok(Scope::Variant(key.resource().clone(), key.variant().into()))
}

fn describe(scope: &Scope) -> serde_json::Value {
    match scope {
        Scope::All => json!({"all": true}),
        Scope::Route(pattern) => json!({"route": &**pattern}),
        Scope::Resource(resource) => json!({"resource": resource.text()}),
        Scope::Variant(resource, variant) => {
            json!({"resource": resource.text(), "variant": &**variant})
        }
        Scope::Tag(tag) => json!({"tag": &**tag}),
    }
}
