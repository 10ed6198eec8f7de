//! `/queue`: changes that are accepted and not made, and those that were given up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::audit::Deed;
use super::{Admin, Problem};
use crate::cache::queue::{DeadLetter, Queued, Revived, Unavailable, WriteId, accepted_ms};
use crate::metrics::Sample;
use crate::write::Operation;
use crate::write::behind::Behind;
use crate::write::behind::record::Record;

/// Dead letters in one answer.
const LISTED: usize = 20;
/// The most that may be asked for.
const LISTED_MAX: usize = 100;

fn behind(admin: &Admin) -> Result<&Arc<Behind>, Problem> {
    admin.behind.as_ref().ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-queue",
            "no route writes behind, so there is no queue; write = \"behind\" in [[routes]] makes one",
        )
    })
}

fn unavailable(error: Unavailable) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "queue-unavailable",
        error.to_string(),
    )
}

/// `GET /queue`: how much is in it.
pub(super) async fn queue(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let behind = behind(&admin)?;
    let depth = behind.queue().depth().await.map_err(unavailable)?;
    let bounds = behind.bounds();
    Ok(Json(json!({
        "kind": behind.queue().kind(),
        "pending": depth.pending,
        "dead": depth.dead,
        "bytes": depth.bytes,
        "max_pending": bounds.items_max,
        "max_bytes": bounds.bytes_max,
        "oldest_ms": depth.oldest.map(accepted_ms),
        "delivering": behind.delivering(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /queue/dead`: a page of the dead letters, in the order of their ids.
pub(super) async fn dead(
    State(admin): State<Admin>,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let behind = behind(&admin)?;
    let after = page.after.as_deref().map(id).transpose()?;
    let limit = page.limit.unwrap_or(LISTED).clamp(1, LISTED_MAX);
    let letters = behind.queue().dead(after.as_ref(), limit).await;
    let letters = letters.map_err(unavailable)?;
    let next = (letters.len() == limit)
        .then(|| letters.last().map(|last| last.queued.id.to_string()))
        .flatten();
    Ok(Json(json!({
        "dead": letters.iter().map(described).collect::<Vec<_>>(),
        "next": next,
    })))
}

fn id(text: &str) -> Result<WriteId, Problem> {
    text.parse().map_err(|error| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid-id",
            format!("{text:?}: {error}; GET /queue/dead lists them"),
        )
    })
}

/// A dead letter; times in milliseconds since 1970. The body of the change is not shown, only how long it is.
fn described(letter: &DeadLetter) -> Value {
    let record = Record::decode(&letter.queued.record).ok();
    let (method, content_type, body_bytes) = match record.as_ref().map(|it| &it.operation) {
        Some(Operation::Put(put)) => (Some("PUT"), put.content_type.as_deref(), put.body.len()),
        Some(Operation::Delete) => (Some("DELETE"), None, 0),
        None => (None, None, letter.queued.record.len()),
    };
    let parts = record.as_ref().map(|it| &it.parts);
    json!({
        "id": letter.queued.id.as_str(),
        "route": record.as_ref().map(|it| &it.route),
        "parts": parts,
        "method": method,
        "content_type": content_type,
        "body_bytes": body_bytes,
        "accepted_ms": accepted_ms(letter.queued.sequence),
        "dead_ms": letter.at_ms,
        "superseded": letter.superseded,
        "reason": serde_json::from_str::<Value>(&letter.reason).unwrap_or(Value::Null),
    })
}

/// One of them, or all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: Option<String>,
    #[serde(default)]
    all: bool,
    /// Of one: though a later change of its resource was made since.
    #[serde(default)]
    force: bool,
}

impl Which {
    fn read(body: &Bytes) -> Result<Self, Problem> {
        let remedy = "send {\"id\": \"…\"} or {\"all\": true}";
        let refuse =
            |detail: String| Problem::new(StatusCode::BAD_REQUEST, "invalid-choice", detail);
        let which: Self = serde_json::from_slice(body).map_err(|error| {
            refuse(format!(
                "the body says nothing of dead letters: {error}; {remedy}"
            ))
        })?;
        match (&which.id, which.all) {
            (Some(_), true) | (None, false) => {
                Err(refuse(format!("it names not exactly one of id and all; {remedy}")))
            }
            (None, true) if which.force => Err(refuse(
                "force is for one dead letter, by its id: all that are superseded are never tried again at once".to_owned(),
            )),
            _ => Ok(which),
        }
    }
}

/// `POST /queue/dead/retry`: makes dead letters pending again.
pub(super) async fn retry(State(admin): State<Admin>, body: Bytes) -> Response {
    each(&admin, &body, What::Retry).await
}

/// `POST /queue/dead/drop`: forgets dead letters.
pub(super) async fn drop(State(admin): State<Admin>, body: Bytes) -> Response {
    each(&admin, &body, What::Drop).await
}

#[derive(Clone, Copy)]
enum What {
    Retry,
    Drop,
}

/// What was done.
#[derive(Default)]
struct Done {
    done: u64,
    superseded: u64,
}

async fn each(admin: &Admin, body: &Bytes, deed: What) -> Response {
    let (which, behind) = match Which::read(body).and_then(|it| Ok((it, behind(admin)?))) {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    let on = which.id.as_ref().map_or_else(
        || "every dead letter".to_owned(),
        |id| {
            format!(
                "dead letter {id}{}",
                if which.force { ", by force" } else { "" }
            )
        },
    );
    let behind = Arc::clone(behind);
    // In a task of its own: a client that leaves must not leave half of it behind.
    let done = tokio::spawn(async move { choose(&behind, which, deed).await });
    let done = match done.await {
        Ok(Ok(done)) => done,
        Ok(Err(problem)) => return problem.into_response(),
        Err(error) => {
            let detail = format!("it did not end: {error}; send it again");
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "aborted", detail)
                .into_response();
        }
    };
    let word = match deed {
        What::Retry => "retried",
        What::Drop => "dropped",
    };
    let told = Deed {
        on,
        outcome: format!("{} {word}, {} superseded", done.done, done.superseded),
    };
    let mut answer = json!({word: done.done});
    if matches!(deed, What::Retry) {
        answer["superseded"] = done.superseded.into();
    }
    told.with(Json(answer).into_response())
}

async fn choose(behind: &Behind, which: Which, deed: What) -> Result<Done, Problem> {
    let mut all = Done::default();
    if let Some(text) = which.id {
        let id = id(&text)?;
        one(behind, &id, (deed, which.force, 0), &mut all).await?;
        return match (all.done, all.superseded) {
            (0, 0) => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "unknown-write",
                format!("there is no dead letter {id}; GET /queue/dead lists them"),
            )),
            (0, _) => Err(Problem::new(
                StatusCode::CONFLICT,
                "superseded",
                format!(
                    "a later change of this resource was made since, or is pending: made now, {id} would revert it. Drop it, or send \"force\": true"
                ),
            )),
            _ => Ok(all),
        };
    }
    // In the order in which they were accepted: that is what the source is to end with.
    let mut letters = every(behind).await?;
    letters.sort_unstable();
    let mut revived = HashMap::new();
    for (_, id, resource) in letters {
        let but = revived.get(&resource).copied().unwrap_or_default();
        if let Some(sequence) = one(behind, &id, (deed, false, but), &mut all).await? {
            revived.insert(resource, sequence);
        }
    }
    Ok(all)
}

/// Every dead letter: its sequence, its id, and the text of its resource.
async fn every(behind: &Behind) -> Result<Vec<(u64, WriteId, String)>, Problem> {
    let mut letters = Vec::new();
    let mut after = None;
    loop {
        let page = behind.queue().dead(after.as_ref(), LISTED_MAX).await;
        let page = page.map_err(unavailable)?;
        let Some(last) = page.last() else {
            return Ok(letters);
        };
        after = Some(last.queued.id.clone());
        letters.extend(page.into_iter().map(|letter| {
            let Queued {
                sequence,
                id,
                resource,
                ..
            } = letter.queued;
            (sequence, id, resource.text().to_owned())
        }));
    }
}

/// Does it to one; where it is pending again, its new place.
async fn one(
    behind: &Behind,
    id: &WriteId,
    (deed, force, but): (What, bool, u64),
    all: &mut Done,
) -> Result<Option<u64>, Problem> {
    match deed {
        What::Retry => {
            let revived = behind.queue().revive(id, (force, but)).await;
            match revived.map_err(unavailable)? {
                Revived::Done { sequence } => {
                    all.done += 1;
                    return Ok(Some(sequence));
                }
                Revived::Superseded => all.superseded += 1,
                Revived::Unknown => {}
            }
        }
        What::Drop => {
            let dropped = behind.queue().discard(id).await.map_err(unavailable)?;
            all.done += u64::from(dropped);
        }
    }
    Ok(None)
}

/// What the queue counted, and how much is in it; where it is not to be had, that is left out.
pub(super) async fn samples(behind: &Behind, now_ms: u64) -> Vec<Sample> {
    let counts = behind.counters();
    let counter = |name, help, count: &AtomicU64| Sample {
        name,
        help,
        value: count.load(Ordering::Relaxed),
        counter: true,
    };
    let gauge = |name, help, value| Sample {
        name,
        help,
        value,
        counter: false,
    };
    let depth = behind.queue().depth().await;
    let of_depth = depth.map_or_else(
        |_| Vec::new(),
        |depth| {
            let age_ms = depth
                .oldest
                .map_or(0, |oldest| now_ms.saturating_sub(accepted_ms(oldest)));
            vec![
                gauge(
                    "writes_pending",
                    "Changes in the queue that are not made yet",
                    depth.pending,
                ),
                gauge("writes_dead", "Dead letters in the queue", depth.dead),
                gauge("writes_bytes", "Bytes of both", depth.bytes),
                gauge(
                    "writes_oldest_age_seconds",
                    "How long ago the oldest change that is pending was accepted",
                    age_ms / 1000,
                ),
            ]
        },
    );
    let mut samples = vec![
        counter(
            "writes_accepted",
            "Changes that this node made durable in the queue and answered with 202",
            &counts.accepted,
        ),
        counter(
            "writes_applied",
            "Changes from the queue that this node made, alone or as part of a later one",
            &counts.applied,
        ),
        counter(
            "writes_coalesced",
            "Of these, as part of a later one",
            &counts.coalesced,
        ),
        counter(
            "writes_retried",
            "Attempts at changes that failed and are made again",
            &counts.retried,
        ),
        counter(
            "writes_died",
            "Changes that this node gave up and kept as dead letters",
            &counts.died,
        ),
        counter(
            "writes_batches",
            "Calls of writers with changes from the queue",
            &counts.batches,
        ),
        counter(
            "writes_refused_full",
            "Changes that were refused because the queue had no room",
            &counts.full,
        ),
    ];
    samples.extend(of_depth);
    samples
}
