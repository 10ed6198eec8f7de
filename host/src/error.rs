//! What a load, a derivation or the host itself can fail with. Owns the vocabulary of failures; knows nobody.
//!
//! A failure is never an outcome and never a value (law 10): nothing in this file can be stored as an entry.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::key::Param;

/// What went wrong, as the contract's `failure-kind` says it, plus the two kinds that only the host produces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The question cannot be answered whatever is tried: 422.
    InvalidRequest,
    /// The source (or the policy) refuses: 403 from a policy, 502 from a loader.
    Denied,
    /// A write met another one. Never returned by loads.
    Conflict,
    /// The source cannot be reached or answers nonsense: 502.
    Unavailable,
    /// No answer in time: 504.
    Timeout,
    /// The source (or the policy) asks for patience: 429.
    RateLimited,
    /// A fault of the plugin: 502 from a loader, 500 from a policy.
    Internal,
    /// Host only: a bound is reached (law 12): 503 with `Retry-After`.
    Overloaded,
    /// Host only: the plugin behind the route is broken or removed: 503 `plugin-not-loaded`.
    NotLoaded,
}

/// Who says so. The plugin breaker counts faults (traps and limits), never what a plugin returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The plugin returned it: the plugin itself is healthy.
    Returned,
    /// The guest trapped (panic, unreachable, stack overflow, exit).
    Trap,
    /// The guest passed a limit (memory, cpu, wall clock, output, fuel).
    Limit,
    /// The host says so (queue full, not loaded, breaker open, deadline of the host).
    Host,
}

/// A failure: kind for the machine, `code` stable for the consumer, `message` for the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// Who says so.
    pub origin: Origin,
    /// A stable word in kebab-case, e.g. `source-refused`. Empty codes are replaced by the kind's name.
    pub code: Cow<'static, str>,
    /// One sentence for a human.
    pub message: String,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// Named details, e.g. the parameter at fault.
    pub details: Vec<Param>,
}

impl FailureKind {
    /// The name as the contract spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate-limited",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::NotLoaded => "plugin-not-loaded",
        }
    }
}

impl Failure {
    /// A failure that the host itself reports.
    pub fn host(kind: FailureKind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            origin: Origin::Host,
            code: Cow::Borrowed(code),
            message: message.into(),
            retry_after: None,
            details: Vec::new(),
        }
    }

    /// A fault of the guest: it trapped or passed a limit.
    pub fn fault(origin: Origin, code: &'static str, message: impl Into<String>) -> Self {
        let kind = if code == "timeout" {
            FailureKind::Timeout
        } else {
            FailureKind::Internal
        };
        Self {
            kind,
            origin,
            ..Self::host(kind, code, message)
        }
    }

    /// Whether the plugin (not the source) is to blame: what the plugin breaker counts.
    pub fn is_fault(&self) -> bool {
        matches!(self.origin, Origin::Trap | Origin::Limit)
    }

    /// Whether the next loader of a chain may be tried. `NotLoaded` and `Overloaded` are the host's own
    /// forms of "unavailable", so a chain goes on after them too.
    pub fn lets_chain_go_on(&self) -> bool {
        match self.kind {
            FailureKind::Unavailable
            | FailureKind::Timeout
            | FailureKind::RateLimited
            | FailureKind::Internal
            | FailureKind::Overloaded
            | FailureKind::NotLoaded => true,
            FailureKind::InvalidRequest | FailureKind::Denied | FailureKind::Conflict => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Failure {}
