//! Each change that is asked of this listener, as one line of the log at the target [`TARGET`]: what, on what, what became of
//! it, who asked, from where. Must not know how anything is changed.
//!
//! Texts are written as Rust writes strings, so that none of them can begin a line of its own or colour one. No token is among
//! them, and of a variant no more than that it was one: its parts may be a consumer's credentials.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::access::{Caller, is_read};

/// Where the lines are found.
pub const TARGET: &str = "larder::audit";

/// The longest text of a line, in characters (law 12).
const TEXT_MAX: usize = 500;

/// Lines of who may not, in one second: anybody who reaches the listener can cause them (law 12).
const REFUSED_MAX: u32 = 20;

/// What a handler says of a change it was asked for; it goes with the response.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    /// What was changed.
    pub(super) on: String,
    /// What became of it.
    pub(super) outcome: String,
}

impl Deed {
    /// Says it with a response.
    pub(super) fn with(self, mut response: Response) -> Response {
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the line when the answer is known.
pub(super) async fn audit(request: Request, next: Next) -> Response {
    if is_read(request.method()) {
        return next.run(request).await;
    }
    let what = format!("{} {}", request.method(), request.uri().path());
    let caller = request.extensions().get::<Caller>().cloned();
    let response = next.run(request).await;
    let status = response.status();
    // What no address answers changes nothing.
    if status == StatusCode::METHOD_NOT_ALLOWED || !may_write(status) {
        return response;
    }
    let said = response.extensions().get::<Deed>();
    let (on, outcome) = said.map_or(("", status.as_str()), |deed| (&*deed.on, &*deed.outcome));
    let peer = caller.as_ref().and_then(|it| it.peer.as_ref());
    write(
        &what,
        on,
        outcome,
        &caller
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        &peer.map_or_else(|| "-".to_owned(), |peer| peer.address.to_string()),
    );
    response
}

/// One line. `who` and `peer` are of who asked, `"-"` where nobody is at the other end.
pub fn write(what: &str, on: &str, outcome: &str, who: &str, peer: &str) {
    let cut = |text: &str| match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    let (what, on, outcome, who) = (cut(what), cut(on), cut(outcome), cut(who));
    tracing::info!(target: TARGET, what, on, outcome, who, peer, "change");
}

/// Whether there is room for a line of this answer. What is left out is counted, and told with the next second's first.
fn may_write(status: StatusCode) -> bool {
    static SECOND: Mutex<Option<(Instant, u32)>> = Mutex::new(None);
    static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
    if status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN {
        return true;
    }
    let now = Instant::now();
    let written = {
        let mut second = SECOND.lock();
        let (began, written) = second
            .filter(|(began, _)| now - *began < Duration::from_secs(1))
            .unwrap_or((now, 0));
        *second = Some((began, written.saturating_add(1)));
        written
    };
    if written >= REFUSED_MAX {
        LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        return false;
    }
    if written == 0 {
        let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::warn!(target: TARGET, left_out, "more changes were refused than are written");
        }
    }
    true
}
