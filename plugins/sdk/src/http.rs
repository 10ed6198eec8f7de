//! An HTTP client over `wasi:http` 0.3. Answers come whole or not at all. The host keeps the connections, looks names up
//! and grants origins.
//!
//! ```no_run
//! # async fn ask(context: larder_plugin::Context) -> Result<serde_json::Value, larder_plugin::Error> {
//! let answer = larder_plugin::http::get("https://api.example.com/weather")
//!     .header("accept", "application/json")
//!     .timeout(context.deadline)
//!     .send()
//!     .await?;
//! if !answer.is_success() {
//!     return Err(answer.into_error());
//! }
//! Ok(answer.json()?)
//! # }
//! ```

#[cfg(target_arch = "wasm32")]
mod wasi;

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contract::types::FailureKind;
use crate::error::Error;

/// How long an answer may take if the request does not say: longer than a host waits by default, so that its own
/// deadline is what ends a call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest body that is taken if the request does not say: what the host takes by default.
const BODY_BYTES_MAX: usize = 8 << 20;

/// A GET.
#[must_use]
pub fn get(url: impl Into<String>) -> Request {
    Request::new("GET", url)
}

/// A POST.
#[must_use]
pub fn post(url: impl Into<String>) -> Request {
    Request::new("POST", url)
}

/// A PUT.
#[must_use]
pub fn put(url: impl Into<String>) -> Request {
    Request::new("PUT", url)
}

/// A DELETE.
#[must_use]
pub fn delete(url: impl Into<String>) -> Request {
    Request::new("DELETE", url)
}

/// A request that is being made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// An absolute URL.
    pub url: String,
    /// The fields, in their order.
    pub headers: Vec<(String, String)>,
    /// The body; none if empty.
    pub body: Vec<u8>,
    timeout: Duration,
    body_bytes_max: usize,
}

impl Request {
    /// A request of any method.
    #[must_use]
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: TIMEOUT,
            body_bytes_max: BODY_BYTES_MAX,
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A body of this media type.
    #[must_use]
    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = body.into();
        request
    }

    /// A body of JSON.
    ///
    /// # Errors
    /// A value that cannot be written as JSON.
    pub fn json(self, value: &impl Serialize) -> Result<Self, Error> {
        Ok(self.body("application/json", serde_json::to_vec(value)?))
    }

    /// How long the whole answer may take; 30 seconds if this is not said. The host's deadline ends the call anyway.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest body to take, in bytes; 8 MiB if this is not said.
    #[must_use]
    pub const fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// Sends it and waits for the whole answer, whatever its status.
    ///
    /// # Errors
    /// A [`Fault`]: there is no whole answer.
    pub async fn send(self) -> Result<Response, Fault> {
        #[cfg(target_arch = "wasm32")]
        return wasi::send(self).await;
        #[cfg(not(target_arch = "wasm32"))]
        crate::testing::send(&self)
    }
}

/// An answer that came whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The fields, in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, as it was sent: a content coding is not undone.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of this name (any case), if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self
            .headers
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok().map(str::trim)
    }

    /// Whether the status is one of 200 to 299.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// What does not fit `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// The failure that this status stands for.
    #[must_use]
    pub fn into_error(self) -> Error {
        let kind = match self.status {
            400 | 422 => FailureKind::InvalidRequest,
            401 | 403 => FailureKind::Denied,
            409 | 412 => FailureKind::Conflict,
            429 => FailureKind::RateLimited,
            500..=599 => FailureKind::Unavailable,
            _ => FailureKind::Internal,
        };
        let mut error = Error::new(
            kind,
            format!("the source answered with status {}", self.status),
        )
        .code(format!("origin-status-{}", self.status));
        // Seconds; a date would need a clock that agrees with the source's.
        let seconds = self
            .header("retry-after")
            .and_then(|value| value.parse::<u64>().ok());
        error.0.retry_after_ms = seconds.and_then(|seconds| seconds.checked_mul(1000));
        error
    }
}

/// Why there is no whole answer. Becomes an [`Error`] of its kind with `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `unavailable`, `timeout`, or `internal` where the request or the sidecar is at fault.
    pub kind: FailureKind,
    /// Its code: `origin-unreachable`, `origin-timeout`, `origin-not-granted`, `url-invalid`, `header-invalid`,
    /// `body-too-long`.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
