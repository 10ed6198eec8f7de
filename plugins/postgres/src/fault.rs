//! What a refusal of the database means to the cache. Owns which SQLSTATE is which kind of failure, and what clients may read
//! of it; must not know what was asked.

use std::error::Error as _;
use std::io;

use larder_plugin_support::{Failure, FailureKind};
use tokio_postgres::Error;
use tokio_postgres::error::DbError;

/// What went wrong, for two readers: clients see the failure, and the log has what the database said.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) failure: Failure,
    /// The database's own words, which may name tables and values: for operators.
    pub(crate) said: String,
    /// The SQLSTATE, if the server gave one.
    pub(crate) state: Option<String>,
    /// Whether the connection is gone, and with it nothing but the connection.
    pub(crate) lost: bool,
    /// Whether a value that was bound is at fault.
    pub(crate) value: bool,
    /// Whether what was prepared does not fit the database any more.
    pub(crate) outdated: bool,
}

impl Fault {
    /// One that has nothing more to tell operators than clients.
    pub(crate) fn new(kind: FailureKind, code: &str, message: String) -> Self {
        Self {
            said: message.clone(),
            failure: Failure::new(kind, code, message),
            state: None,
            lost: false,
            value: false,
            outdated: false,
        }
    }

    /// The database is not there.
    pub(crate) fn unreachable(message: String) -> Self {
        Self::new(FailureKind::Unavailable, "database-unreachable", message)
    }

    /// The failure as the operator sees it, at start and in probes: with the words of the database.
    pub(crate) fn for_operator(self) -> Failure {
        let mut failure = self.failure;
        if failure.message != self.said {
            failure.message = format!("{}: {}", failure.message, self.said);
        }
        failure
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => refused(refusal),
            None => broken(&error),
        }
    }
}

/// The server answered, with an error.
fn refused(refusal: &DbError) -> Fault {
    let state = refusal.code().code();
    let (kind, code, message) = meaning(state);
    let mut fault = Fault::new(kind, code, format!("{message} (SQLSTATE {state})"));
    fault.state = Some(state.to_owned());
    fault.said = refusal.message().to_owned();
    for more in [refusal.detail(), refusal.hint()].into_iter().flatten() {
        fault.said.push_str("; ");
        fault.said.push_str(more);
    }
    fault.lost = matches!(state, "57P01" | "57P02" | "57P05");
    fault.value = is_of_a_value(state);
    // A dropped or altered table or column, a changed type, a statement that somebody discarded.
    fault.outdated =
        matches!(state, "0A000" | "26000") || state.starts_with("42") && state != "42501";
    fault
}

/// Invalid text, out of range, no date, an impossible date, no UTF-8: what a client wrote is no value of the type.
fn is_of_a_value(state: &str) -> bool {
    matches!(state, "22P02" | "22003" | "22007" | "22008" | "22021")
}

/// The kind, the code and a sentence for each SQLSTATE (PostgreSQL's documentation, appendix A).
fn meaning(state: &str) -> (FailureKind, &'static str, &'static str) {
    use FailureKind::{Denied, Internal, InvalidRequest, Timeout, Unavailable};
    match state {
        _ if is_of_a_value(state) => (
            InvalidRequest,
            "parameter-unfit",
            "a parameter does not fit the type that the query gives it",
        ),
        "42501" => (
            Denied,
            "database-denied",
            "the database does not let this user run the query; grant it what the query reads",
        ),
        "57014" => (
            Timeout,
            "statement-timeout",
            "the database did not finish the query in time",
        ),
        "53300" => (
            Unavailable,
            "database-full",
            "the database has no connection to spare; lower `connections` or raise its max_connections",
        ),
        "3D000" => (
            Internal,
            "database-unknown",
            "the server has no such database; correct `database` in [config] of the sidecar",
        ),
        _ => match &state[..2.min(state.len())] {
            "28" => (
                Denied,
                "credentials-refused",
                "the database does not accept the user or the password; correct `user` in [config] or `password` in [secrets] of the sidecar",
            ),
            "08" | "53" | "57" | "58" => (
                Unavailable,
                "database-unavailable",
                "the database cannot answer now",
            ),
            "40" | "55" => (
                Unavailable,
                "database-conflict",
                "the query ran into another transaction",
            ),
            "42" => (
                Internal,
                "query-invalid",
                "the database does not understand the query; correct `sql` in [config.queries] of the sidecar",
            ),
            _ => (
                Internal,
                "query-failed",
                "the database could not run the query; its words are in the log",
            ),
        },
    }
}

/// There was no answer, or none that is understood.
fn broken(error: &Error) -> Fault {
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    let by_io = error
        .source()
        .is_some_and(|source| source.downcast_ref::<io::Error>().is_some());
    let text = error.to_string();
    if text.contains("TLS") {
        // Also what the host says of a broken handshake; which of the two names it, and the remedy, is the same.
        let mut fault = Fault::new(
            FailureKind::Unavailable,
            "tls-failed",
            "no encrypted connection to the database; see `tls`, `ca` and `server_name` in [config] of the sidecar".to_owned(),
        );
        fault.said = if why.is_empty() { text } else { why };
        return fault;
    }
    if why == "password missing" {
        return Fault::new(
            FailureKind::Denied,
            "password-missing",
            "the database asks for a password; add `password = { env = \"…\" }` to [secrets] of the sidecar".to_owned(),
        );
    }
    if error.is_closed() || by_io {
        let mut fault = Fault::new(
            FailureKind::Unavailable,
            "connection-lost",
            "the connection to the database broke off".to_owned(),
        );
        fault.said = if why.is_empty() { text } else { why };
        fault.lost = true;
        return fault;
    }
    let mut fault = Fault::new(
        FailureKind::Internal,
        "protocol-error",
        "the database answered something that was not expected; its words are in the log"
            .to_owned(),
    );
    fault.said = if why.is_empty() {
        text
    } else {
        format!("{text}: {why}")
    };
    fault
}

#[cfg(test)]
mod tests {
    use super::meaning;

    #[test]
    fn every_class_of_sqlstate_has_its_kind() {
        for (state, kind, code) in [
            ("22P02", "InvalidRequest", "parameter-unfit"),
            ("22012", "Internal", "query-failed"),
            ("42501", "Denied", "database-denied"),
            ("42601", "Internal", "query-invalid"),
            ("28P01", "Denied", "credentials-refused"),
            ("28000", "Denied", "credentials-refused"),
            ("57014", "Timeout", "statement-timeout"),
            ("57P03", "Unavailable", "database-unavailable"),
            ("53300", "Unavailable", "database-full"),
            ("40001", "Unavailable", "database-conflict"),
            ("3D000", "Internal", "database-unknown"),
            ("XX000", "Internal", "query-failed"),
            ("", "Internal", "query-failed"),
        ] {
            let (found, word, _) = meaning(state);
            assert_eq!(
                (format!("{found:?}").rsplit("::").next().unwrap(), word),
                (kind, code),
                "{state}"
            );
        }
    }
}
