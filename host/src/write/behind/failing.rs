//! What a failure says of the next attempt: whether there is one, and when. Pure.

use std::time::Duration;

use crate::error::{Failure, FailureKind, Origin};

/// After the first failure.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Between attempts of one change at most.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What another attempt would come to.
pub(super) enum Severity {
    /// Another attempt would end the same.
    Permanent,
    /// The plugin's: a few attempts may help.
    Fault,
    /// It passes.
    Passing,
}

pub(super) fn severity(failure: &Failure) -> Severity {
    match (failure.kind, failure.origin) {
        (_, Origin::Trap | Origin::Limit) if failure.kind != FailureKind::Timeout => {
            Severity::Fault
        }
        (FailureKind::InvalidRequest | FailureKind::Denied | FailureKind::Conflict, _) => {
            Severity::Permanent
        }
        (FailureKind::Internal, _) => Severity::Fault,
        _ => Severity::Passing,
    }
}

/// Whether the plugin died.
pub(super) fn is_fault(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| failure.is_fault() && failure.kind != FailureKind::Timeout)
}

pub(super) fn is_passing(failure: Option<&Failure>) -> bool {
    failure.is_some_and(|failure| matches!(severity(failure), Severity::Passing))
}

/// Why a change was given up, as it is kept with it.
pub(super) fn reason(failure: &Failure, attempts: u32) -> String {
    serde_json::json!({
        "kind": failure.kind.name(),
        "code": failure.code,
        "message": failure.message,
        "attempts": attempts,
    })
    .to_string()
}

/// Twice as long each time.
pub(super) fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    let factor = 1_u32 << times.saturating_sub(1).min(16);
    first.saturating_mul(factor).min(longest)
}

/// Between half of it and all of it.
pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
