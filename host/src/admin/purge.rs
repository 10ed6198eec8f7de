//! `POST /purge`: what is asked, judged strictly, and how far it is known to have reached.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::audit::Deed;
use super::described::{Headers, derived, unknown_path};
use super::{Admin, Problem};
use crate::cache::generations::{Mode, Scope};

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
    headers: Option<Headers>,
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
    let named: Vec<String> = scopes.iter().map(named).collect();
    let deed = Deed {
        on: named.join(", "),
        outcome: format!("{done}, seq {}", answer["seq"]),
    };
    deed.with(Json(answer).into_response())
}

/// A scope as the audit log has it.
fn named(scope: &Scope) -> String {
    match scope {
        Scope::All => "everything".to_owned(),
        Scope::Route(pattern) => format!("route {pattern}"),
        Scope::Resource(resource) => format!("resource {}", resource.text()),
        Scope::Variant(resource, _) => format!("one variant of resource {}", resource.text()),
        Scope::Tag(tag) => format!("tag {tag}"),
    }
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
            let derived = derived(admin, &routes, path, asked.headers.as_ref())?;
            let key = &derived.ask.key;
            let variant = key.variant().into();
            return Ok(vec![Scope::Variant(key.resource().clone(), variant)]);
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
