//! One connection that many loads share: opened, told how to speak, driven, and given up when it has gone silent. Owns the
//! statements that are prepared on it; must not know how many connections there are, or what answers mean.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_channel::{mpsc, oneshot};
use futures_util::future::{join, poll_fn};
use larder_plugin_support::FailureKind;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, Config, RowStream, Statement};

use crate::fault::Fault;
use crate::net;
use crate::settings::{Query, Settings, Tls};
use crate::sql::{self, Column};
use crate::tls::Connector;

/// A connection that says nothing for so long, while a load waits and until it gives up, is given up too.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a connection that nobody needs any more may take to end.
const GOODBYE: Duration = Duration::from_secs(5);
/// A server that was heard so lately is taken to be there.
const FRESH: Duration = Duration::from_millis(20);

/// Where and as whom to connect.
pub(crate) struct Server {
    pub(crate) settings: Settings,
    pub(crate) connector: Connector,
    /// Asked for at every connection, so that a new password needs no restart.
    pub(crate) password: Box<dyn Fn() -> Result<Option<String>, Fault>>,
}

/// What a connection is for.
pub(crate) enum Purpose {
    /// Loads, which do not write.
    Loads,
    /// Changes, each of which sees one moment and fails where that has passed.
    Writes,
    /// The change feed: an item for every notification on `channel`, and the end of the stream when the connection ends.
    Feed {
        channel: String,
        woken: mpsc::Sender<()>,
    },
}

/// An open connection.
pub(crate) struct Connection {
    client: Client,
    statements: RefCell<HashMap<String, Statement>>,
    /// The statement timeout that the session has now.
    timeout_ms: Cell<u32>,
    loads: Cell<usize>,
    heard: Cell<Instant>,
    /// To end the connection whatever the other side does.
    alive: RefCell<Option<oneshot::Sender<()>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("loads", &self.loads)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens one, within the `connect_timeout` of the settings.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn open(server: &Server, purpose: Purpose) -> Result<Self, Fault> {
        let settings = &server.settings;
        let too_late = async {
            net::sleep(settings.connect_timeout).await;
            Err(Fault::unreachable(format!(
                "the database at {}:{} did not take a connection within {} ms; is it there, and is `connect_timeout` long enough?",
                settings.host,
                settings.port,
                settings.connect_timeout.as_millis()
            )))
        };
        futures_lite::future::or(Self::connect(server, purpose), too_late).await
    }

    async fn connect(server: &Server, purpose: Purpose) -> Result<Self, Fault> {
        let settings = &server.settings;
        let stream = net::connect(&settings.host, settings.port)
            .await
            .map_err(|error| no_socket(settings, &error))?;
        let mut config = Config::new();
        config
            .user(&settings.user)
            .dbname(&settings.database)
            .application_name("larder")
            .ssl_mode(match settings.tls {
                Tls::Require => SslMode::Require,
                Tls::Prefer => SslMode::Prefer,
                Tls::Disable => SslMode::Disable,
            });
        if let Some(password) = (server.password)()? {
            config.password(password);
        }
        let (client, mut connection) = config.connect_raw(stream, server.connector.clone()).await?;
        let (alive, given_up) = oneshot::channel();
        let (mut woken, session) = match purpose {
            Purpose::Loads => (None, "set default_transaction_read_only = on".to_owned()),
            Purpose::Writes => (
                None,
                "set default_transaction_isolation = 'repeatable read'".to_owned(),
            ),
            Purpose::Feed { channel, woken } => (
                Some(woken),
                format!("set statement_timeout = '10s'; listen {channel}"),
            ),
        };
        net::spawn(async move {
            let drive = async {
                // An error ends every request that is in flight, and tells each.
                while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                    if let (AsyncMessage::Notification(_), Some(woken)) = (message, &mut woken) {
                        // Full: the feed is awake already, or about to be.
                        woken.try_send(()).ok();
                    }
                }
            };
            // Told to: at once. Dropped: it says goodbye, unless nobody listens.
            let end = async {
                if given_up.await.is_err() {
                    net::sleep(GOODBYE).await;
                }
            };
            futures_lite::future::or(drive, end).await;
        });
        // What the JSON of times and intervals looks like must not hang on the server's settings.
        client
            .batch_execute(&format!(
                "set timezone = 'UTC'; set intervalstyle = 'iso_8601'; {session}"
            ))
            .await?;
        Ok(Self {
            client,
            statements: RefCell::default(),
            timeout_ms: Cell::new(0),
            loads: Cell::new(0),
            heard: Cell::new(Instant::now()),
            alive: RefCell::new(Some(alive)),
        })
    }

    /// Whether it has ended, or was given up and is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.alive.borrow().is_none()
    }

    /// How many loads are in flight on it.
    pub(crate) fn loads(&self) -> usize {
        self.loads.get()
    }

    /// Counts a load on it until the lease is dropped.
    pub(crate) fn lease(self: &Rc<Self>) -> Lease {
        self.loads.set(self.loads.get() + 1);
        Lease {
            connection: Rc::clone(self),
            since: Instant::now(),
        }
    }

    /// The statement of a query, and whether it was prepared before.
    ///
    /// # Errors
    /// When the database does not understand it, or it does not give what the settings say.
    pub(crate) async fn statement(&self, query: &Query) -> Result<(Statement, bool), Fault> {
        let known = self.statements.borrow().get(&query.route).cloned();
        if let Some(statement) = known {
            return Ok((statement, true));
        }
        let described = self.client.prepare(&query.sql).await?;
        let columns: Vec<Column<'_>> = described
            .columns()
            .iter()
            .map(|column| Column {
                name: column.name(),
                is_bytes: *column.type_() == Type::BYTEA,
            })
            .collect();
        fits(query, &columns)?;
        let key = query.key.map(|at| (at, &query.parameters[at]));
        let text = sql::as_json(&query.sql, &columns, key);
        let statement = self.client.prepare(&text).await?;
        self.heard.set(Instant::now());
        self.statements
            .borrow_mut()
            .insert(query.route.clone(), statement.clone());
        Ok((statement, false))
    }

    /// Prepares the statement of this query anew the next time.
    pub(crate) fn forget(&self, query: &Query) {
        self.statements.borrow_mut().remove(&query.route);
    }

    /// Runs a statement; the server gives up after about `within`.
    ///
    /// # Errors
    /// What the database says against it.
    pub(crate) async fn run(
        &self,
        statement: &Statement,
        arguments: &[Argument],
        within: Duration,
    ) -> Result<RowStream, Fault> {
        let timeout_ms = timeout_ms(within);
        let set = async {
            if self.timeout_ms.replace(timeout_ms) == timeout_ms {
                return Ok(());
            }
            let set = format!("set statement_timeout = {timeout_ms}");
            self.client.batch_execute(&set).await
        };
        // Both are sent when they are polled first, in this order and with nothing in between: one round trip.
        let (set, rows) = join(set, self.client.query_raw(statement, arguments)).await;
        if set.is_err() {
            // It is told the next time; what was asked ran all the same, and may have changed something.
            self.timeout_ms.set(0);
        }
        let rows = rows?;
        self.hear();
        Ok(rows)
    }

    /// The statement of this text, and whether it was prepared before.
    ///
    /// # Errors
    /// What the database says against it.
    pub(crate) async fn prepared(&self, sql: &str) -> Result<(Statement, bool), Fault> {
        let known = self.statements.borrow().get(sql).cloned();
        if let Some(statement) = known {
            return Ok((statement, true));
        }
        let statement = self.client.prepare(sql).await?;
        self.hear();
        self.statements
            .borrow_mut()
            .insert(sql.to_owned(), statement.clone());
        Ok((statement, false))
    }

    /// Runs a text with arguments, for as long as the session lets it.
    ///
    /// # Errors
    /// What the database says against it.
    pub(crate) async fn rows(&self, sql: &str, arguments: &[Argument]) -> Result<RowStream, Fault> {
        let (statement, _) = self.prepared(sql).await?;
        Ok(self.client.query_raw(&statement, arguments).await?)
    }

    /// Prepares this text anew the next time.
    pub(crate) fn forget_text(&self, sql: &str) {
        self.statements.borrow_mut().remove(sql);
    }

    /// Asks whether the server is there, unless it was heard a moment ago.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn confirm(&self) -> Result<(), Fault> {
        if self.heard.get().elapsed() >= FRESH {
            self.client.batch_execute("").await?;
            self.hear();
        }
        Ok(())
    }

    /// Something came from the server.
    pub(crate) fn hear(&self) {
        self.heard.set(Instant::now());
    }

    /// Ends it at once: every load on it is told that it is lost.
    pub(crate) fn give_up(&self) {
        if let Some(alive) = self.alive.borrow_mut().take() {
            alive.send(()).ok();
        }
    }
}

/// Why there is no connection to talk over.
fn no_socket(settings: &Settings, error: &io::Error) -> Fault {
    let server = format!("{}:{}", settings.host, settings.port);
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!(
            "the connection to the database at {server} is not granted; add `tcp = [\"{server}\"]` to [grants] of the sidecar \
             (and `networks`, where the name stands for a private address)"
        );
        return Fault::new(FailureKind::Internal, "database-not-granted", message);
    }
    Fault::unreachable(format!(
        "no connection to the database at {server}: {error}"
    ))
}

/// How long the server may take where somebody waits for `within`: a tenth less, so that its answer is there in time. In
/// steps of an eighth at most, so that it seldom has to be told.
fn timeout_ms(within: Duration) -> u32 {
    let most = u32::try_from(within.as_millis() * 9 / 10)
        .unwrap_or(u32::MAX)
        .clamp(1, 1 << 30);
    let step = (1 << most.ilog2()) / 8;
    most - most % step.max(1)
}

/// Whether a query gives what the settings say of it.
fn fits(query: &Query, columns: &[Column<'_>]) -> Result<(), Fault> {
    let refuse = |message: String| {
        Err(Fault::new(
            FailureKind::Internal,
            "query-unfit",
            format!("[config.queries.\"{}\"]: {message}", query.route),
        ))
    };
    if let Some(key) = query
        .key()
        .filter(|key| columns.iter().all(|column| column.name != key.name))
    {
        return refuse(format!(
            "the query gives no column `{0}`, which `key` names; select it, as `{0}`",
            key.name
        ));
    }
    let twice = columns
        .iter()
        .enumerate()
        .find(|(at, column)| columns[..*at].iter().any(|other| other.name == column.name));
    match twice {
        Some((_, column)) => refuse(format!(
            "the query gives two columns `{0}`, and an object has one; name them apart with `as`",
            column.name
        )),
        None if columns.is_empty() => refuse("the query gives no columns".to_owned()),
        None => Ok(()),
    }
}

/// A load on a connection.
pub(crate) struct Lease {
    connection: Rc<Connection>,
    since: Instant,
}

impl std::ops::Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.loads.set(connection.loads.get() - 1);
        // Nobody was answered since this load began. A server that lives cuts statements off itself, and says so.
        let silent = connection.heard.get() < self.since && self.since.elapsed() >= SILENCE;
        if silent {
            connection.give_up();
        }
    }
}

/// A value as text, for the server to read as the type that the statement gives it; none is NULL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Argument(pub(crate) Option<String>);

impl Argument {
    /// An array of values, as PostgreSQL writes it (its documentation, 8.15.2).
    pub(crate) fn list<'v>(values: impl Iterator<Item = &'v str>) -> Self {
        let mut text = String::from("{");
        for (at, value) in values.enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push('"');
            for character in value.chars() {
                if matches!(character, '"' | '\\') {
                    text.push('\\');
                }
                text.push(character);
            }
            text.push('"');
        }
        text.push('}');
        Self(Some(text))
    }
}

impl ToSql for Argument {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match &self.0 {
            None => IsNull::Yes,
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::{Argument, timeout_ms};
    use std::time::Duration;

    #[test]
    fn the_server_gives_up_before_the_one_who_waits() {
        for (within, expect) in [
            (0, 1),
            (1, 1),
            (50, 44),
            (1990, 1664),
            (2000, 1792),
            (2100, 1792),
            (60_000, 53_248),
        ] {
            assert_eq!(
                timeout_ms(Duration::from_millis(within)),
                expect,
                "{within}"
            );
        }
        assert_eq!(timeout_ms(Duration::MAX), 1 << 30);
    }

    #[test]
    fn an_array_holds_any_text() {
        let list = Argument::list(["a", "", "b,c", "\"", "\\", "NULL", "{é}"].into_iter());
        assert_eq!(list.0.unwrap(), r#"{"a","","b,c","\"","\\","NULL","{é}"}"#);
        assert_eq!(Argument::list([].into_iter()).0.unwrap(), "{}");
    }
}
