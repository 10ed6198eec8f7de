//! The change feed: what the outbox of `install.sql` says, woken by `NOTIFY`. Owns the cursor and what has been told; must
//! not know what the cache does with a change.
//!
//! Rows are in the order of their transactions, and transactions commit in another one. So the cursor never passes the
//! oldest transaction that still runs (`pg_snapshot_xmin`): below it everything is settled, and no row can appear there any
//! more. What lies above it and is committed is told at once all the same, for a purge may be repeated and must not wait for
//! somebody else's long transaction; it is remembered here until the cursor has passed it.
//!
//! ```text
//! A: begin, writes x (xid 100)
//! B: begin, writes y (xid 101), commits     → told: y, the cursor stays below 100
//! A: commits                                → told: x, the cursor passes both
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_channel::mpsc;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use larder_plugin_support::{FailureKind, Param};
use serde_json::{Map, Value};
use tokio_postgres::Row;

use crate::connection::{Argument, Connection, Purpose, Server};
use crate::exports::larder::plugin::change_feed::{Change, Item, Page};
use crate::fault::Fault;
use crate::net;
use crate::settings::FeedSettings;

/// What `install.sql` notifies on.
const CHANNEL: &str = "larder";
/// The most rows that are remembered as told while an older transaction runs. Beyond it, changes wait for that one to end.
const TOLD_MAX: usize = 10_000;
/// How long the server may take for a look at the outbox, before the connection counts as dead.
const LOOK: Duration = Duration::from_secs(5);
/// How often old rows are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

const HEAD: &str =
    "select feed.id::text, pg_snapshot_xmin(pg_current_snapshot())::text from larder.feed";

/// The rows are in the primary key's order: what is settled comes first.
const LOOK_AFTER: &str = "
    select outbox.xid::text, outbox.id, outbox.route, outbox.params::text, outbox.tag,
           outbox.xid < pg_snapshot_xmin(pg_current_snapshot())
    from larder.outbox
    where (outbox.xid, outbox.id) > ($1::text::xid8, $2::int8)
    order by outbox.xid, outbox.id limit $3::int8";

/// Asked after the rows were read: what was removed meanwhile is known by then.
const STILL_THERE: &str = "
    select feed.id::text = $1::text
       and (feed.pruned_xid, feed.pruned_id) <= ($2::text::xid8, $3::int8)
       and $2::text::xid8 <= pg_snapshot_xmax(pg_current_snapshot())
    from larder.feed";

/// A place in the outbox: a transaction, and a row of it.
type Place = (u64, i64);

/// How far the host has come: `VERSION FEED XID ID`, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cursor {
    /// Which outbox: a new one counts anew.
    feed: String,
    after: Place,
}

impl Cursor {
    /// None: written by something else, and as good as none.
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let words: Vec<&str> = text.split(' ').collect();
        let ["1", feed, xid, id] = words[..] else {
            return None;
        };
        Some(Self {
            feed: feed.to_owned(),
            after: (xid.parse().ok()?, id.parse().ok()?),
        })
    }

    fn written(&self) -> Vec<u8> {
        format!("1 {} {} {}", self.feed, self.after.0, self.after.1).into_bytes()
    }
}

/// A row of the outbox.
struct Told {
    place: Place,
    change: Change,
    settled: bool,
}

/// The feed of one instance. Polled by one at a time.
pub(crate) struct Feed {
    server: Rc<Server>,
    settings: FeedSettings,
    line: RefCell<Option<Rc<Line>>>,
    /// Above the cursor, and told already.
    told: RefCell<BTreeSet<Place>>,
    pruned: Cell<Option<Instant>>,
}

/// A connection that listens.
struct Line {
    connection: Connection,
    woken: RefCell<mpsc::Receiver<()>>,
}

impl Feed {
    pub(crate) fn new(server: Rc<Server>, settings: FeedSettings) -> Self {
        Self {
            server,
            settings,
            line: RefCell::default(),
            told: RefCell::default(),
            pruned: Cell::new(None),
        }
    }

    /// The page of an instance that has no feed.
    pub(crate) fn off() -> Page {
        Page {
            changes: Vec::new(),
            cursor: b"off".to_vec(),
            poll_after_ms: 60_000,
            hints: Vec::new(),
        }
    }

    /// The changes after `cursor`, at most `max`, waiting up to `wait` for the first.
    ///
    /// # Errors
    /// Why they cannot be read. The next poll connects anew.
    pub(crate) async fn poll(
        &self,
        cursor: Option<&[u8]>,
        max: u32,
        wait: Duration,
    ) -> Result<Page, Fault> {
        let polled = self.look_and_wait(cursor, max, wait).await;
        if polled.is_err() {
            self.line.take();
        }
        polled
    }

    async fn look_and_wait(
        &self,
        cursor: Option<&[u8]>,
        max: u32,
        wait: Duration,
    ) -> Result<Page, Fault> {
        let end = Instant::now() + wait;
        let line = self.line().await?;
        let Some(mut cursor) = cursor.and_then(Cursor::read) else {
            return Ok(page(Vec::new(), &self.head(&line).await?));
        };
        loop {
            let changes = self.look(&line, &mut cursor, max).await?;
            let left = end.saturating_duration_since(Instant::now());
            if !changes.is_empty() {
                return Ok(page(changes, &cursor));
            }
            self.prune(&line).await;
            if left.is_zero() {
                return Ok(Page {
                    // A host that does not wait is not to ask without end.
                    poll_after_ms: if wait.is_zero() {
                        as_ms(self.settings.every)
                    } else {
                        0
                    },
                    ..page(changes, &cursor)
                });
            }
            line.wait(left.min(self.settings.every)).await?;
        }
    }

    async fn line(&self) -> Result<Rc<Line>, Fault> {
        let open = self
            .line
            .borrow()
            .clone()
            .filter(|line| !line.connection.is_closed());
        if let Some(line) = open {
            return Ok(line);
        }
        let (woken, receiver) = mpsc::channel(1);
        let purpose = Purpose::Feed {
            channel: CHANNEL.to_owned(),
            woken,
        };
        let line = Rc::new(Line {
            connection: Connection::open(&self.server, purpose).await?,
            woken: RefCell::new(receiver),
        });
        self.line.replace(Some(Rc::clone(&line)));
        Ok(line)
    }

    /// Where the feed is now: what commits from here on lies behind it.
    async fn head(&self, line: &Line) -> Result<Cursor, Fault> {
        self.told.borrow_mut().clear();
        let rows = line.rows(HEAD, &[]).await?;
        let row = rows.first().ok_or_else(not_installed)?;
        Ok(Cursor {
            feed: row.try_get(0)?,
            after: (number(row.try_get(1)?)?, -1),
        })
    }

    /// What is new, and the cursor moved over what is settled.
    async fn look(&self, line: &Line, cursor: &mut Cursor, max: u32) -> Result<Vec<Change>, Fault> {
        let max = max.max(1) as usize;
        let limit = max + self.told.borrow().len();
        let (xid, id) = (text(cursor.after.0), text(cursor.after.1));
        let rows = line
            .rows(LOOK_AFTER, &[xid.clone(), id.clone(), text(limit)])
            .await?;
        let rows = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let still = line
            .rows(STILL_THERE, &[Argument(Some(cursor.feed.clone())), xid, id])
            .await?;
        let still: bool = still.first().ok_or_else(not_installed)?.try_get(0)?;
        if !still {
            // Rows were removed that were never told, or this is another outbox.
            *cursor = self.head(line).await?;
            return Ok(vec![Change::Everything]);
        }
        let mut told = self.told.borrow_mut();
        let mut changes = Vec::new();
        for row in rows {
            let known = told.contains(&row.place);
            if changes.len() == max && !known {
                break;
            }
            if row.settled {
                told.remove(&row.place);
                cursor.after = row.place;
            } else if !known && told.len() == TOLD_MAX {
                break;
            } else {
                told.insert(row.place);
            }
            if !known {
                changes.push(row.change);
            }
        }
        Ok(changes)
    }

    /// Removes old rows now and then, where the settings say so. It may be forbidden: that is told, and no reason not to go on.
    async fn prune(&self, line: &Line) {
        let due = self
            .pruned
            .get()
            .is_none_or(|last| last.elapsed() >= PRUNE_EVERY);
        if self.settings.keep.is_zero() || !due {
            return;
        }
        self.pruned.set(Some(Instant::now()));
        let keep = format!("{} milliseconds", self.settings.keep.as_millis());
        if let Err(fault) = line
            .rows(
                "select larder.prune($1::text::interval)",
                &[Argument(Some(keep))],
            )
            .await
        {
            let message = format!(
                "old changes cannot be removed from larder.outbox: {}",
                fault.said
            );
            net::log(&message, &[("code", &fault.failure.code)]);
        }
    }
}

impl Line {
    async fn rows(&self, sql: &str, arguments: &[Argument]) -> Result<Vec<Row>, Fault> {
        let work = async {
            let rows = self
                .connection
                .rows(sql, arguments)
                .await
                .map_err(explained)?;
            rows.try_collect()
                .await
                .map_err(|error| explained(Fault::from(error)))
        };
        let too_late = async {
            net::sleep(LOOK).await;
            self.connection.give_up();
            Err(Fault::unreachable(
                "the database does not answer the change feed".to_owned(),
            ))
        };
        futures_lite::future::or(work, too_late).await
    }

    /// Until somebody wakes us, or `wait` is over.
    async fn wait(&self, wait: Duration) -> Result<(), Fault> {
        #[allow(
            clippy::await_holding_refcell_ref,
            reason = "the feed is polled by one at a time"
        )]
        let woken = async {
            match self.woken.borrow_mut().next().await {
                Some(()) => Ok(()),
                None => Err(Fault::unreachable(
                    "the connection of the change feed broke off".to_owned(),
                )),
            }
        };
        futures_lite::future::or(woken, net::sleep(wait).map(Ok)).await
    }
}

/// The tables are not there, or not for this user: the remedy is ours to name.
fn explained(mut fault: Fault) -> Fault {
    let state = fault.state.as_deref().unwrap_or_default();
    if matches!(state, "42P01" | "3F000" | "42883" | "42501") {
        fault.failure.message = format!(
            "the change feed cannot read the outbox (SQLSTATE {state}); run plugins/postgres/install.sql in the database with `-v reader={{user}}`, \
             or remove [config.feed]"
        );
    }
    fault
}

fn not_installed() -> Fault {
    Fault::new(
        FailureKind::Internal,
        "feed-empty",
        "larder.feed has no row; run plugins/postgres/install.sql again".to_owned(),
    )
}

fn page(changes: Vec<Change>, cursor: &Cursor) -> Page {
    Page {
        changes,
        cursor: cursor.written(),
        poll_after_ms: 0,
        hints: Vec::new(),
    }
}

fn read(row: &Row) -> Result<Told, Fault> {
    let place = (number(row.try_get(0)?)?, row.try_get(1)?);
    let (route, params, tag): (Option<String>, Option<&str>, Option<String>) =
        (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    let change = match (route, tag) {
        (Some(route), _) => Change::Item(Item {
            route: Some(route),
            params: self::params(params.unwrap_or("{}"))?,
        }),
        (None, Some(tag)) => Change::Tag(tag),
        (None, None) => Change::Everything,
    };
    Ok(Told {
        place,
        change,
        settled: row.try_get(5)?,
    })
}

fn params(object: &str) -> Result<Vec<Param>, Fault> {
    let object: Map<String, Value> =
        serde_json::from_str(object).map_err(|error| garbled(&error.to_string()))?;
    let param = |(name, value)| Param {
        name,
        value: match value {
            Value::String(text) => text,
            other => other.to_string(),
        },
    };
    Ok(object.into_iter().map(param).collect())
}

fn number(text: &str) -> Result<u64, Fault> {
    text.parse().map_err(|_| garbled(text))
}

fn garbled(what: &str) -> Fault {
    Fault::new(
        FailureKind::Internal,
        "protocol-error",
        format!("the outbox holds what it should not: {what}"),
    )
}

fn text(value: impl ToString) -> Argument {
    Argument(Some(value.to_string()))
}

fn as_ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Cursor, params};

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_anything_else_is_none() {
        let cursor = Cursor {
            feed: "b5c".to_owned(),
            after: (u64::MAX, -1),
        };
        assert_eq!(Cursor::read(&cursor.written()), Some(cursor));
        for bytes in [
            &b""[..],
            b"off",
            b"2 a 1 1",
            b"1 a 1",
            b"1 a 1 1 1",
            b"1 a -1 1",
            b"\xff",
        ] {
            assert_eq!(Cursor::read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn parameters_are_text() {
        let params = params(r#"{"a": "x", "b": 7}"#).expect("an object");
        let params: Vec<_> = params
            .iter()
            .map(|param| (param.name.as_str(), param.value.as_str()))
            .collect();
        assert_eq!(params, [("a", "x"), ("b", "7")]);
    }
}
