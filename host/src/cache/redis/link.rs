//! The connections to one Redis, and what one command on them can end in. Reconnects nothing: a link that failed is
//! dropped and another one made (see `keeper`).

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, PushInfo, PushKind, RedisError,
    Value,
};

use super::copies::Copies;
use super::dial::dial;
use super::lane::{Held, Lane};
use super::names::Names;
use super::refused::explained;
use super::topology::Tls;
use crate::cache::freshness::millis;
use crate::key::Key;

/// Commands under way at once. A Redis that stops reading must not collect requests without bound (law 12).
pub(super) const IN_FLIGHT_MAX: usize = 1024;
/// How long connecting, authenticating included, may take. Nobody waits for it.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

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

/// Which server is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// Another one after every start of the server.
    pub(super) run: String,
    /// It copies another one.
    pub(super) is_replica: bool,
}

impl Server {
    /// From what `INFO` answers.
    fn of(info: &str) -> Self {
        Self {
            run: field(info, "run_id").unwrap_or_default().to_owned(),
            is_replica: field(info, "role") == Some("slave"),
        }
    }

    /// How many servers copy the one whose `INFO` this is.
    pub(super) fn replicas_of(info: &str) -> u32 {
        let count = field(info, "connected_slaves");
        count
            .and_then(|count| count.parse().ok())
            .unwrap_or_default()
    }
}

/// A field of what `INFO` answers.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// The connection of a link that a command is sent on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Road {
    /// That of the look-ups: for what loads store, and what else a request waits for.
    Requests,
    /// For what nobody waits for, so that a long answer holds up no request.
    Control,
}

/// A set of connections made together, and given up together.
pub(super) struct Link {
    /// Tells it from the link before it.
    pub(super) id: u64,
    /// For the look-ups of requests. One: a second one was measured to cost more in system calls than it gains.
    lane: Lane,
    /// See [`Road::Control`].
    pub(super) control: MultiplexedConnection,
    /// For `WAIT`, which holds up what is behind it.
    pub(super) waits: MultiplexedConnection,
    /// Whether replicas have what was written.
    pub(super) copies: Copies,
    /// Who answers there, and where.
    pub(super) server: Server,
    pub(super) at: ConnectionAddr,
    failures: Failures,
    made: Instant,
    in_flight: AtomicUsize,
}

impl Link {
    /// Connects. `lost` is called as soon as one of the connections breaks, whether or not anybody uses it.
    pub(super) async fn connect(
        client: &Client,
        id: u64,
        tls: &Tls,
        (names, limit, clustered): (&Names, Duration, bool),
        lost: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Result<Self, Trouble> {
        let told = lost.clone();
        let watch = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost();
            }
            Ok::<(), ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            // Every command has a bound of its own below.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(IN_FLIGHT_MAX)
            .set_push_sender(watch);
        let connect = || client.get_multiplexed_async_connection_with_config(&config);
        let connect = async || connect().await.map_err(|error| Trouble::of(&error));
        let dial = async || {
            let dialled = dial(client.get_connection_info(), tls);
            let dialled = tokio::time::timeout(CONNECT_TIMEOUT, dialled).await;
            dialled.map_err(|_| Trouble::Slow(CONNECT_TIMEOUT))?
        };
        let (requests, mut control, waits) =
            tokio::try_join!(dial(), connect(), connect()).map_err(Trouble::at_connecting)?;
        let info = ask(&mut control, &redis::cmd("INFO"), CONNECT_TIMEOUT).await?;
        let info: String = redis::from_redis_value(info)
            .map_err(|error| Trouble::Strange(error.to_string()).at_connecting())?;
        let how = (limit, clustered);
        Ok(Self {
            id,
            lane: Lane::new(requests, names.clone(), how, told),
            control,
            waits,
            copies: Copies::default(),
            server: Server::of(&info),
            at: client.get_connection_info().addr().clone(),
            failures: Failures::default(),
            made: Instant::now(),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Counts a failure and returns how many there were in a row.
    pub(super) fn failed(&self, trouble: &Trouble) -> u32 {
        self.failures.count(trouble, millis(self.made.elapsed()))
    }

    /// Whether the last command that ended was a failure.
    pub(super) fn is_doubtful(&self) -> bool {
        self.failures.in_a_row.load(Ordering::Relaxed) > 0
    }

    /// Sends a command and waits for its answer, for `limit` at most.
    pub(super) async fn ask(
        &self,
        road: Road,
        command: &Cmd,
        limit: Duration,
    ) -> Result<Value, Trouble> {
        let _slot = Slot::take(&self.in_flight)?;
        let value = match road {
            Road::Requests => self.lane.ask(command, limit).await?,
            Road::Control => ask(&mut self.control.clone(), command, limit).await?,
        };
        self.failures.clear();
        Ok(value)
    }

    /// Reads an entry and the generation of its resource, together with whoever else looks something up just now.
    pub(super) async fn look_up(&self, key: &Key) -> Result<Held, Trouble> {
        let _slot = Slot::take(&self.in_flight)?;
        let held = self.lane.look_up(key).await?;
        self.failures.clear();
        Ok(held)
    }
}

/// Sends a command and waits for its answer, for `limit` at most. An error that Redis answers is trouble too.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
    limit: Duration,
) -> Result<Value, Trouble> {
    let answer = tokio::time::timeout(limit, connection.send_packed_command(command))
        .await
        .map_err(|_| Trouble::Slow(limit))?;
    match answer {
        Ok(value @ Value::ServerError(_)) => match value.extract_error() {
            Err(error) => Err(Trouble::of(&error)),
            Ok(_) => Err(Trouble::Strange("an error that is none".into())),
        },
        Ok(value) => Ok(value),
        Err(error) => Err(Trouble::of(&error)),
    }
}

/// Failures since the last answer.
#[derive(Default)]
struct Failures {
    in_a_row: AtomicU32,
    /// When a missing answer was last counted, in milliseconds since the link was made; 0: never.
    slow_ms: AtomicU64,
}

impl Failures {
    /// Of the answers that are missing at one time only one counts: commands share a connection, so one pause of Redis
    /// (or of this process) makes all that were under way late, however many there were. A command that was sent after
    /// one was counted, and is late too, is the next.
    fn count(&self, trouble: &Trouble, now_ms: u64) -> u32 {
        if let Trouble::Slow(limit) = trouble {
            let sent_ms = now_ms.saturating_sub(millis(*limit));
            let last_ms = self.slow_ms.load(Ordering::Relaxed);
            let same_pause = last_ms > 0 && sent_ms < last_ms;
            // Who loses this race was late together with who won it.
            if same_pause
                || self
                    .slow_ms
                    .compare_exchange(last_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                return self.in_a_row.load(Ordering::Relaxed);
            }
        }
        self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn clear(&self) {
        // A store only where there is something to clear: the line is shared by every core.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }
}

/// A place among the commands under way, given back when it is dropped: at the answer, the timeout, or when the asker
/// goes away.
struct Slot<'a>(&'a AtomicUsize);

impl<'a> Slot<'a> {
    fn take(in_flight: &'a AtomicUsize) -> Result<Self, Trouble> {
        let slot = Self(in_flight);
        if in_flight.fetch_add(1, Ordering::Relaxed) < IN_FLIGHT_MAX {
            Ok(slot)
        } else {
            Err(Trouble::Crowded)
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_at_the_same_time_is_one_failure() {
        let failures = Failures::default();
        let slow = Trouble::Slow(Duration::from_millis(100));
        for (now_ms, expect) in [(500, 1), (501, 1), (599, 1), (600, 2), (650, 2), (710, 3)] {
            assert_eq!(failures.count(&slow, now_ms), expect, "{now_ms} ms");
        }
        let fault = Trouble::Fault("LOADING".into());
        assert_eq!(failures.count(&fault, 711), 4, "answers count each");
        failures.clear();
        assert_eq!(failures.count(&slow, 900), 1);
    }

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

    #[test]
    fn law_12_places_are_bounded_and_given_back() {
        let in_flight = AtomicUsize::new(0);
        let slots: Vec<_> = (0..IN_FLIGHT_MAX)
            .map(|_| Slot::take(&in_flight).unwrap())
            .collect();
        assert!(Slot::take(&in_flight).is_err());
        drop(slots);
        assert_eq!(in_flight.load(Ordering::Relaxed), 0);
        assert!(Slot::take(&in_flight).is_ok());
    }
}
