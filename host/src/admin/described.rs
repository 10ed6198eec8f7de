//! A request that an operator describes by its path and headers, and what it becomes. Must not know what it is described for.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{Admin, Problem};
use crate::route::Snapshot;
use crate::route::derive::Derived;

/// Names and values, as far as the request's route looks at them.
pub(super) type Headers = BTreeMap<String, String>;

pub(super) fn unknown_path(path: &str) -> Problem {
    let detail = format!("no route has the path {path}; GET /routes lists them");
    Problem::new(StatusCode::NOT_FOUND, "unknown-path", detail)
}

/// What a GET of this path and query with these headers is.
///
/// # Errors
/// Headers that HTTP does not allow (400), a path that no route has (404), what its route refuses (422).
pub(super) fn derived(
    admin: &Admin,
    routes: &Snapshot,
    path: &str,
    headers: Option<&Headers>,
) -> Result<Arc<Derived>, Problem> {
    let mut sent = HeaderMap::new();
    for (name, value) in headers.into_iter().flatten() {
        let header = HeaderName::try_from(name).ok();
        let (Some(name), Ok(value)) = (header, HeaderValue::try_from(value)) else {
            let detail =
                format!("the header {name:?} has a name or a value that HTTP does not allow");
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid-header",
                detail,
            ));
        };
        sent.append(name, value);
    }
    routes
        .derive(path, &sent, &admin.metrics)
        .map_err(|(route, refusal)| {
            let Some(route) = route else {
                return unknown_path(path);
            };
            let detail = format!(
                "a GET of {path} with these headers names nothing that is cached, because {} refuses it: {refusal}",
                route.pattern
            );
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no-variant", detail)
        })
}
