//! What a command can end in other than its answer: the words that the rest of this room decides by. Sends nothing, and
//! decides nothing.

use std::time::Duration;

use redis::{ErrorKind, RedisError};

use super::refused::explained;

/// Commands under way at once. A Redis that stops reading must not collect requests without bound (law 12).
pub(super) const IN_FLIGHT_MAX: usize = 1024;

/// Why a command has no answer to work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The connection is gone, or was not let in. The next command would fare no better.
    #[error("{0}")]
    Lost(String),
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// Redis answers, but takes no writes: full, read-only, or short of replicas.
    #[error("{0}")]
    RefusesWrites(String),
    /// Redis answers, but it only copies another one.
    #[error("{0}")]
    ReadOnly(String),
    /// Redis answers that it cannot do it now.
    #[error("{0}")]
    Fault(String),
    /// Another server of the cluster holds the slot, or is about to.
    #[error("{0}")]
    Moved(String),
    /// The server that holds the slot is not connected now.
    #[error("the server that holds the key is not connected")]
    Away,
    /// Redis answered something that fits no question of ours, or a key holds another type.
    #[error("{0}")]
    Strange(String),
    /// A script it does not know yet.
    #[error("the script is not loaded")]
    NoScript,
    /// What others who asked in the same command have met, and reported.
    #[error("{0}")]
    Reported(String),
    /// Too many commands under way already.
    #[error("more than {IN_FLIGHT_MAX} commands under way")]
    Crowded,
}

impl Trouble {
    pub(super) fn of(error: &RedisError) -> Self {
        let lost = error.is_io_error()
            || matches!(
                error.kind(),
                ErrorKind::Parse
                    | ErrorKind::AuthenticationFailed
                    | ErrorKind::InvalidClientConfig
                    | ErrorKind::RESP3NotSupported
            );
        Self::named(error.code().unwrap_or_default(), error.to_string(), lost)
    }

    /// An error as Redis answers it: a code, and what it says.
    pub(super) fn of_line(line: &str) -> Self {
        let code = line.split(' ').next().unwrap_or_default();
        Self::named(code, line.to_owned(), false)
    }

    /// What an error of this code is. `lost`: it is none that Redis has answered.
    fn named(code: &str, text: String, lost: bool) -> Self {
        // Redis before 7 wraps what a script ran into: its code is then in the text alone.
        let says = |word: &str| code == word || text.contains(&format!("-{word} "));
        if says("NOSCRIPT") {
            return Self::NoScript;
        }
        if says("READONLY") {
            return Self::ReadOnly(text);
        }
        if ["OOM", "NOREPLICAS", "MISCONF"].into_iter().any(says) {
            return Self::RefusesWrites(text);
        }
        // A slot that is being moved has some of its keys here and some there; soon it has all of them in one place.
        if ["MOVED", "ASK", "TRYAGAIN"].into_iter().any(says) {
            return Self::Moved(text);
        }
        if says("WRONGTYPE") {
            return Self::Strange(text);
        }
        if lost || says("NOAUTH") || says("WRONGPASS") {
            Self::Lost(text)
        } else {
            Self::Fault(text)
        }
    }

    /// What went wrong at connecting means that there is no connection.
    pub(super) fn at_connecting(self) -> Self {
        match self {
            Self::Slow(_) => self,
            other => Self::Lost(explained(other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn errors_are_the_same_trouble_whoever_reads_them() {
        let kind = |trouble: &Trouble| std::mem::discriminant(trouble);
        for (line, expected) in [
            ("NOSCRIPT No matching script.", Trouble::NoScript),
            (
                "READONLY You can't write.",
                Trouble::ReadOnly(String::new()),
            ),
            (
                "OOM command not allowed",
                Trouble::RefusesWrites(String::new()),
            ),
            (
                "MISCONF Errors writing",
                Trouble::RefusesWrites(String::new()),
            ),
            (
                "NOREPLICAS Not enough",
                Trouble::RefusesWrites(String::new()),
            ),
            ("MOVED 7 127.0.0.1:1", Trouble::Moved(String::new())),
            ("ASK 7 127.0.0.1:1", Trouble::Moved(String::new())),
            ("TRYAGAIN Multiple keys", Trouble::Moved(String::new())),
            (
                "WRONGTYPE Operation against",
                Trouble::Strange(String::new()),
            ),
            (
                "NOAUTH Authentication required.",
                Trouble::Lost(String::new()),
            ),
            ("WRONGPASS invalid", Trouble::Lost(String::new())),
            ("LOADING Redis is loading", Trouble::Fault(String::new())),
            ("NOPERM this user", Trouble::Fault(String::new())),
            ("CLUSTERDOWN Hash slot", Trouble::Fault(String::new())),
            (
                "ERR Error running script: @user_script:1: -OOM command",
                Trouble::RefusesWrites(String::new()),
            ),
            ("", Trouble::Fault(String::new())),
        ] {
            assert_eq!(kind(&Trouble::of_line(line)), kind(&expected), "{line}");
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            let error = value.and_then(Value::extract_error).unwrap_err();
            assert_eq!(kind(&Trouble::of(&error)), kind(&expected), "{line}");
        }
    }
}
