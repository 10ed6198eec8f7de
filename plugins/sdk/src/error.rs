//! A failure of a kind. Knows the contract's kinds and nothing of where a failure comes from.

use std::fmt;
use std::time::Duration;

use crate::contract::types::{Failure, FailureKind, Param};

/// Why there is no answer. Any error becomes one with `?`, of the kind `internal`, unless it says its kind itself as the
/// errors of [`crate::http`] do. Failures are shown to consumers: no secrets in them.
///
/// It is no [`std::error::Error`] itself; that is what lets `?` take every other one.
#[derive(Clone, Debug)]
pub struct Error(pub(crate) Failure);

impl Error {
    /// A failure of this kind, with a sentence for people. Its code, for programs, is the kind's name until
    /// [`Error::code`] says otherwise.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self(Failure {
            kind,
            code: String::new(),
            message: message.into(),
            retry_after_ms: None,
            details: Vec::new(),
        })
    }

    /// The question cannot be answered by anybody: 422.
    #[must_use]
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(FailureKind::InvalidRequest, message)
    }

    /// The source says that this is not allowed.
    #[must_use]
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Denied, message)
    }

    /// A write meets a state that it did not expect.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Conflict, message)
    }

    /// The source is not to be had now: stale answers and the next loader of a chain stand in.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unavailable, message)
    }

    /// The source did not answer in time.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Timeout, message)
    }

    /// The source wants to be asked later.
    #[must_use]
    pub fn rate_limited(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        let mut error = Self::new(FailureKind::RateLimited, message);
        error.0.retry_after_ms = retry_after.map(crate::reply::millis);
        error
    }

    /// Something is wrong with the plugin or its settings.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }

    /// Gives it a code that programs can tell it by: `kebab-case`, and stable.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.0.code = code.into();
        self
    }

    /// Adds a detail.
    #[must_use]
    pub fn detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.details.push(Param {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// Its code; empty if none was given.
    #[must_use]
    pub fn get_code(&self) -> &str {
        &self.0.code
    }

    /// Its sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let any: &dyn std::error::Error = &error;
        if let Some(fault) = any.downcast_ref::<crate::http::Fault>() {
            return Self::new(fault.kind, fault.to_string()).code(fault.code);
        }
        // What an error says of itself often names only itself: the reasons are in its sources.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(reason) = source {
            message.push_str(": ");
            message.push_str(&reason.to_string());
            source = reason.source();
        }
        Self::internal(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_an_internal_failure_that_says_what_it_says() {
        fn parse(text: &str) -> Result<u8, Error> {
            Ok(text.parse::<u8>()?)
        }
        let error = parse("x").unwrap_err();
        assert_eq!(error.kind(), FailureKind::Internal);
        assert_eq!(error.message(), "invalid digit found in string");
    }
}
