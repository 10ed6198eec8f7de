//! `POST /warm`: asks for paths as clients would, a few at once and not too many a second, so that who comes after finds them.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Deed;
use super::described::{Headers, derived};
use super::{Admin, Problem};
use crate::cache::Answer;
use crate::cache::pace::paced;

/// Paths of one request at most (law 12).
const PATHS_MAX: usize = 10_000;
/// Asked for a second, unless the request says otherwise.
const RATE: u32 = 100;
const RATE_MAX: u32 = 10_000;
/// Failures that are told one by one.
const TOLD_MAX: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Warm {
    paths: Vec<String>,
    /// Sent with each of them.
    headers: Option<Headers>,
    /// The most that are asked for in a second.
    rate: Option<u32>,
}

/// What became of the paths.
#[derive(Default)]
struct Became {
    loaded: usize,
    fresh: usize,
    stale: usize,
    bypassed: usize,
    failed: usize,
    told: Vec<Value>,
}

impl Became {
    fn fails(&mut self, path: &str, code: &str, detail: &str) {
        self.failed += 1;
        if self.told.len() < TOLD_MAX {
            self.told
                .push(json!({"path": path, "code": code, "detail": detail}));
        }
    }

    fn count(&mut self, path: &str, asked: Result<Option<Answer>, Problem>) {
        match asked {
            Ok(Some(Answer::Hit { .. })) => self.fresh += 1,
            Ok(Some(Answer::Miss { .. })) => self.loaded += 1,
            Ok(Some(Answer::Stale { .. } | Answer::NotCached)) => self.stale += 1,
            Ok(None | Some(Answer::Bypass { .. })) => self.bypassed += 1,
            Ok(Some(Answer::Failed { failure, .. })) => {
                self.fails(path, &failure.code, &failure.message);
            }
            Err(problem) => self.fails(path, problem.code, &problem.detail),
        }
    }
}

/// Ends with the client that asked: what is being loaded then is loaded, and no more is begun.
pub(super) async fn warm(State(admin): State<Admin>, body: Bytes) -> Response {
    let asked = match read(&body) {
        Ok(asked) => asked,
        Err(detail) => {
            return Problem::new(StatusCode::BAD_REQUEST, "invalid-warm", detail).into_response();
        }
    };
    let admin = &admin;
    let headers = asked.headers.as_ref();
    let count = asked.paths.len();
    let answers = paced(asked.paths, asked.rate.unwrap_or(RATE), async |path| {
        let answer = ask(admin, &path, headers).await;
        (path, answer)
    });
    let became = answers
        .fold(Became::default(), async |mut became, (path, answer)| {
            became.count(&path, answer);
            became
        })
        .await;
    let deed = Deed {
        on: format!("{count} paths"),
        outcome: format!("{} loaded, {} failed", became.loaded, became.failed),
    };
    let answer = Json(json!({
        "asked": count,
        "loaded": became.loaded,
        "fresh": became.fresh,
        "stale": became.stale,
        "bypassed": became.bypassed,
        "failed": became.failed,
        "failures": became.told,
    }));
    deed.with(answer.into_response())
}

fn read(body: &Bytes) -> Result<Warm, String> {
    let asked: Warm = serde_json::from_slice(body).map_err(|error| {
        format!("the body says no paths: {error}; send for example {{\"paths\": [\"/data/42\"]}}")
    })?;
    if asked.paths.is_empty() || asked.paths.len() > PATHS_MAX {
        return Err(format!("give 1 to {PATHS_MAX} paths"));
    }
    if asked.rate.is_some_and(|rate| rate == 0 || rate > RATE_MAX) {
        return Err(format!("`rate` is from 1 to {RATE_MAX} a second"));
    }
    Ok(asked)
}

/// What is answered; none where its key policy says not to cache it: nothing of it would be kept.
async fn ask(
    admin: &Admin,
    path: &str,
    headers: Option<&Headers>,
) -> Result<Option<Answer>, Problem> {
    // The routes as they are when it is asked for: a plugin may be replaced meanwhile.
    let derived = derived(admin, &admin.routes.load(), path, headers)?;
    if derived.bypass.is_some() {
        return Ok(None);
    }
    Ok(Some(admin.cache.answer(&derived.ask, false).await))
}
