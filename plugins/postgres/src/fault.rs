//! What a refusal of the database means to the cache. Owns which SQLSTATE is which kind of failure, and what clients may read
//! of it; must not know what was asked.

use std::error::Error as _;
use std::io;

use larder_plugin_support::{Failure, FailureKind, Param};
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
    /// More of what the server gave.
    refusal: Option<Box<Refusal>>,
    /// Whether what was prepared does not fit the database any more.
    pub(crate) outdated: bool,
}

#[derive(Debug, Clone)]
struct Refusal {
    /// The column that it names, if it does.
    column: Option<String>,
    /// Its sentence alone, without the values of rows that its details tell.
    sentence: String,
}

impl Fault {
    /// One that has nothing more to tell operators than clients.
    pub(crate) fn new(kind: FailureKind, code: &str, message: String) -> Self {
        Self {
            said: message.clone(),
            refusal: None,
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

    /// Whether what was to be written is at fault: the same again would fail again, and others would not.
    pub(crate) fn is_of_data(&self) -> bool {
        self.state
            .as_deref()
            .is_some_and(|state| of_data(state).is_some())
    }

    /// Whether a value is none of the type that it is read as.
    pub(crate) fn value_is_unfit(&self) -> bool {
        self.state
            .as_deref()
            .is_some_and(|state| state.starts_with("22"))
    }

    /// The column that the server names.
    pub(crate) fn column(&self) -> Option<&str> {
        self.refusal.as_ref()?.column.as_deref()
    }

    /// What the server says of it that any client may read.
    fn sentence(&self) -> &str {
        self.refusal
            .as_ref()
            .map_or(&self.failure.message, |refusal| &refusal.sentence)
    }

    /// Whether it ran into another transaction, and changed nothing.
    pub(crate) fn is_of_others(&self) -> bool {
        matches!(self.state.as_deref(), Some("40001" | "40P01"))
    }

    /// What it means where something was to be changed.
    pub(crate) fn of_change(mut self) -> Self {
        let Some(state) = self.state.as_deref() else {
            return self;
        };
        let (kind, code, message) = if let Some((kind, code)) = of_data(state) {
            (kind, code, self.sentence())
        } else {
            match state {
                "42501" => (
                    FailureKind::Denied,
                    "database-denied",
                    "the database does not let this user write; grant it select, insert, update and delete on the table, and \
                     run plugins/postgres/install-writes.sql with `-v writer=USER` where [config.order] or [config.once] is set",
                ),
                "42P10" => (
                    FailureKind::Internal,
                    "key-not-unique",
                    "the columns of `key` are not those of a primary key or a unique index of the table; correct [config.writes] of \
                     the sidecar, or add the index",
                ),
                "25006" => (
                    FailureKind::Unavailable,
                    "database-read-only",
                    "the database takes no changes now: it is a replica, or made read-only",
                ),
                "40001" | "40P01" => (
                    FailureKind::Unavailable,
                    "database-conflict",
                    "the change ran into others again and again",
                ),
                _ if state.starts_with("42") || state == "3F000" => (
                    FailureKind::Internal,
                    "write-invalid",
                    "the database does not understand the change; correct [config.writes] of the sidecar, and run \
                     plugins/postgres/install-writes.sql where [config.order] or [config.once] is set",
                ),
                _ => return self,
            }
        };
        self.failure = Failure::new(kind, code, format!("{message} (SQLSTATE {state})"));
        self
    }

    /// It, where what was sent before the connection ended may have changed something.
    pub(crate) fn unknown(mut self) -> Self {
        let message = "the connection to the database broke off before it answered; the change may have been made";
        self.failure = Failure::new(
            FailureKind::Unavailable,
            "outcome-unknown",
            message.to_owned(),
        );
        self.state = None;
        self
    }

    /// It, where a part or a member is known that it is about, and the type that it does not fit.
    pub(crate) fn about(mut self, name: &str, type_name: Option<&str>) -> Self {
        let what = type_name.map_or_else(
            || self.failure.message.clone(),
            |type_name| format!("is no value of the type {type_name}: {}", self.sentence()),
        );
        self.failure.message = format!("`{name}`: {what}");
        self.failure.details = vec![Param {
            name: name.to_owned(),
            value: what,
        }];
        self
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
    fault.refusal = Some(Box::new(Refusal {
        column: refusal.column().map(str::to_owned),
        sentence: refusal.message().to_owned(),
    }));
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

/// What a SQLSTATE means that says that what was to be written is at fault.
fn of_data(state: &str) -> Option<(FailureKind, &'static str)> {
    use FailureKind::{Conflict, InvalidRequest};
    Some(match state {
        "21000" => (Conflict, "row-twice"),
        "23001" | "23503" => (Conflict, "reference-broken"),
        "23502" => (InvalidRequest, "value-missing"),
        "23505" | "23P01" => (Conflict, "not-unique"),
        "23514" | "44000" => (InvalidRequest, "check-failed"),
        // What a trigger raises.
        "P0001" => (InvalidRequest, "refused-by-trigger"),
        _ if state.starts_with("22") => (InvalidRequest, "value-unfit"),
        _ if state.starts_with("23") => (Conflict, "constraint-broken"),
        _ => return None,
    })
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
