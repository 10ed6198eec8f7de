//! The usual pair of a test: an origin, and Larder in front of it through the guest `gated` (which does what the origin
//! tells it) on the route `/things/{id}`.

use crate::larder::{Builder, Larder};
use crate::origin::Origin;

/// The sidecar of `gated` or of `http` in front of an origin: `url` is what `[config] url` holds. Every load may have a
/// request to the origin at the same time, so that gates can hold as many as a test wants.
pub fn sidecar(origin: &Origin, url: &str) -> String {
    format!(
        "[config]\nurl = \"{url}\"\n[grants]\nhttp = [\"{}\"]\n[limits]\nfetches = 1000\nconcurrency = 1000\ntimeout = \"20s\"\n",
        origin.url()
    )
}

/// A server with `gated` in front of `origin` on `/things/{id}`: the load of `/things/42` asks the origin for `/42`.
/// `settings` are the lines of the route; the ttl is exact, because `jitter` is 0 here unless they say otherwise.
pub fn before(origin: &Origin, settings: &str) -> Builder {
    let jitter = if settings.contains("jitter") {
        ""
    } else {
        "jitter = 0.0\n"
    };
    Larder::with()
        .guest("gated", &sidecar(origin, &origin.url()))
        .route("/things/{id}", "gated", &format!("{jitter}{settings}"))
}

/// The number of the origin's call that an answer holds, when the origin answers with [`crate::Reply::counted`].
///
/// # Panics
/// When the answer is no such body.
#[track_caller]
pub fn call(answer: &crate::Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["call"]
        .as_u64()
        .unwrap_or_else(|| panic!("not the origin's body: {answer:?}"))
}
