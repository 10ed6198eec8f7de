//! The connections to one Redis. Reconnects nothing: a link that failed is
//! dropped and another one made (see `keeper`).

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, PushInfo, PushKind, Value};

use super::copies::Copies;
use super::dial::dial;
use super::lane::{Held, Lane};
use super::names::Names;
use super::topology::Tls;
use super::trouble::{IN_FLIGHT_MAX, Trouble};
use crate::cache::freshness::millis;
use crate::key::Key;

/// How long connecting, authenticating included, may take. Nobody waits for it.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

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
