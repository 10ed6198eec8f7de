//! Changes to receipts: all of one route that came together are one statement, which makes each or says why not. Must not know
//! how the database is reached.
//!
//! # What is certain
//!
//! A statement is a transaction, and its answer is read to the end, which the server sends when that is committed. So an error
//! of the server means that nothing was made, and the change may be tried again, here or by the host. Where the connection
//! ends after the statement was sent nobody knows, and that is what the failure says (`outcome-unknown`).
//!
//! # One bad change among many
//!
//! fails the statement, so the rest is made one by one; that happens to clients that send what does not fit, and costs as much
//! as if they had not been gathered.
//!
//! # Layout
//! - this file: which statement, how often, and what its end means.
//! - [`settings`]: what the sidecar says.
//! - [`row`]: a change as the statement takes it.
//! - [`sql`]: the statement.

pub(crate) mod row;
pub(crate) mod settings;
pub(crate) mod sql;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use larder_plugin_support::{Failure, FailureKind};

use crate::connection::{Argument, Lease};
use crate::exports::larder::plugin::writer::{Mutation, Receipt};
use crate::fault::Fault;
use crate::net;
use crate::pool::Pool;
use crate::settings::Settings;
use row::{Bound, Row};
use settings::Write;

/// How often a statement that ran into others is run in all. Each time another has come through.
const ATTEMPTS: usize = 10;
/// How often old rows of the side tables are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How long a call waits for that.
const PRUNING: Duration = Duration::from_millis(200);

/// What makes changes in one instance.
pub(crate) struct Writes {
    statements: Vec<Change>,
    pool: Rc<Pool>,
    /// How long the rows of the side tables are kept; none: they are not used, or nobody prunes them here.
    keep: [Option<Duration>; 2],
    pruned: Cell<Option<Instant>>,
}

/// The changes of a route, and their statement.
struct Change {
    write: Write,
    sql: String,
}

/// What became of a change.
struct Made {
    verdict: String,
    created: bool,
}

impl Writes {
    /// # Errors
    /// A failure that names the setting that makes no sense.
    pub(crate) fn new(settings: &Settings, pool: Rc<Pool>) -> Result<Self, Failure> {
        let sides = settings.sides();
        let statements = settings.writes()?.into_iter().map(|write| Change {
            sql: sql::change(&write, sides),
            write,
        });
        let keep = [
            settings.order.as_ref().map(|order| order.keep),
            settings.once.as_ref().map(|once| once.keep),
        ];
        Ok(Self {
            statements: statements.collect(),
            pool,
            keep: keep.map(|keep| keep.filter(|keep| !keep.is_zero())),
            pruned: Cell::new(None),
        })
    }

    /// Makes all of them, with one statement for each route.
    pub(crate) async fn write(&self, mutations: &[Mutation]) -> Vec<Result<Receipt, Failure>> {
        let mut results: Vec<Option<Result<Receipt, Failure>>> =
            mutations.iter().map(|_| None).collect();
        let mut groups: Vec<(&Change, Vec<(usize, Row)>)> = Vec::new();
        for (at, mutation) in mutations.iter().enumerate() {
            let row = self.change_of(mutation).and_then(|change| {
                let row = Row::new(&change.write, mutation)?;
                Ok((change, row))
            });
            match row {
                Ok((change, row)) => match groups
                    .iter_mut()
                    .find(|(known, _)| std::ptr::eq(*known, change))
                {
                    Some((_, rows)) => rows.push((at, row)),
                    None => groups.push((change, vec![(at, row)])),
                },
                Err(fault) => results[at] = Some(Err(told(fault, &mutation.target.route))),
            }
        }
        let made = join_all(groups.iter().map(|(change, rows)| async move {
            let deadlines = rows.iter().map(|(at, _)| mutations[*at].target.deadline_ms);
            // The one who waits longest counts: the others are answered by the host when their time is over.
            let deadline = Duration::from_millis(deadlines.max().unwrap_or_default().into());
            let rows: Vec<&Row> = rows.iter().map(|(_, row)| row).collect();
            self.make(change, &rows, deadline).await
        }))
        .await;
        for ((change, rows), made) in groups.iter().zip(made) {
            for ((at, _), made) in rows.iter().zip(made) {
                let receipt = made.and_then(|made| receipt(&made, &change.write, &mutations[*at]));
                results[*at] = Some(receipt.map_err(|fault| told(fault, &change.write.route)));
            }
        }
        self.prune().await;
        results
            .into_iter()
            .map(|result| result.expect("every change was gathered or refused"))
            .collect()
    }

    /// Connects, and has every statement planned: are the settings right, is the key unique, may this user write?
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn probe(&self) -> Result<(), Fault> {
        if self.statements.is_empty() {
            return Ok(());
        }
        let connection = self.pool.lease().await?;
        for Change { write, sql } in &self.statements {
            let planned = async {
                let rows = connection
                    .rows(&format!("explain {sql}"), &[none_at_all()])
                    .await?;
                rows.try_for_each(|_| async { Ok(()) })
                    .await
                    .map_err(Fault::from)
            };
            planned.await.map_err(|fault: Fault| {
                let mut fault = fault.of_change();
                fault.said = format!("[config.writes.\"{}\"]: {}", write.route, fault.said);
                fault
            })?;
        }
        Ok(())
    }

    fn change_of(&self, mutation: &Mutation) -> Result<&Change, Fault> {
        let route = &mutation.target.route;
        let change = self
            .statements
            .iter()
            .find(|change| change.write.route == *route);
        change.ok_or_else(|| {
            let message = format!("nothing says how {route} is written; add [config.writes.\"{route}\"] to the sidecar");
            // Not `internal`, of which the host thinks that it may have been made.
            Fault::new(FailureKind::Denied, "write-missing", message)
        })
    }

    /// Makes the changes of one route, in one statement, or, where one of them is at fault, one by one.
    async fn make(
        &self,
        change: &Change,
        rows: &[&Row],
        deadline: Duration,
    ) -> Vec<Result<Made, Fault>> {
        let start = Instant::now();
        match self.within(deadline, change, rows).await {
            Ok(made) => made.into_iter().map(Ok).collect(),
            Err(fault) if fault.is_of_data() && rows.len() > 1 => {
                let mut all = Vec::with_capacity(rows.len());
                for row in rows {
                    let left = deadline.saturating_sub(start.elapsed());
                    all.push(self.make_one(change, row, left).await);
                }
                all
            }
            Err(fault) if fault.is_of_data() => {
                let row = rows[0];
                let left = deadline.saturating_sub(start.elapsed());
                vec![Err(self.explained(fault, change, row, left).await)]
            }
            Err(fault) => rows.iter().map(|_| Err(fault.clone())).collect(),
        }
    }

    async fn make_one(&self, change: &Change, row: &Row, left: Duration) -> Result<Made, Fault> {
        let start = Instant::now();
        match self.within(left, change, &[row]).await {
            Ok(mut made) => Ok(made.swap_remove(0)),
            Err(fault) if fault.is_of_data() => {
                let left = left.saturating_sub(start.elapsed());
                Err(self.explained(fault, change, row, left).await)
            }
            Err(fault) => Err(fault),
        }
    }

    async fn within(
        &self,
        deadline: Duration,
        change: &Change,
        rows: &[&Row],
    ) -> Result<Vec<Made>, Fault> {
        let sent = Cell::new(false);
        let too_late = async {
            net::sleep(deadline).await;
            let ms = deadline.as_millis();
            Err(if sent.get() {
                let message = format!(
                    "the database did not answer within {ms} ms; the change may have been made"
                );
                Fault::new(FailureKind::Timeout, "database-timeout", message)
            } else {
                Fault::unreachable(format!(
                    "no connection to the database was to be had within {ms} ms; the change was not made"
                ))
            })
        };
        let made =
            futures_lite::future::or(self.run(deadline, change, rows, &sent), too_late).await;
        made.map_err(Fault::of_change)
    }

    /// Runs the statement, and runs it again where it certainly changed nothing and another time may be better.
    async fn run(
        &self,
        within: Duration,
        change: &Change,
        rows: &[&Row],
        sent: &Cell<bool>,
    ) -> Result<Vec<Made>, Fault> {
        let start = Instant::now();
        let argument = all(rows);
        let mut attempts = 0;
        let mut is_second = false;
        loop {
            let connection = self.pool.lease().await?;
            // Nothing goes on in this instance between two calls: what became of the connection is not known yet.
            let prepared = async {
                connection.confirm().await?;
                connection.prepared(&change.sql).await
            };
            let (statement, was_prepared) = match prepared.await {
                Err(fault) if fault.lost && !is_second => {
                    connection.give_up();
                    is_second = true;
                    continue;
                }
                prepared => prepared?,
            };
            let left = within.saturating_sub(start.elapsed());
            sent.set(true);
            let made = read(&connection, &statement, &argument, left, rows.len()).await;
            let fault = match made {
                Err(fault) => fault,
                made => return made,
            };
            if fault.lost {
                // It may not know yet that it has ended, and must not take another change with it.
                connection.give_up();
                return Err(fault.unknown());
            }
            sent.set(false);
            if fault.outdated && was_prepared && !is_second {
                is_second = true;
                connection.forget_text(&change.sql);
            } else if fault.is_of_others() && attempts + 1 < ATTEMPTS {
                attempts += 1;
            } else {
                return Err(fault);
            }
        }
    }

    /// The fault of one change, with the part or the member that it is about, where that can be found out.
    async fn explained(&self, fault: Fault, change: &Change, row: &Row, left: Duration) -> Fault {
        if let Some(column) = fault.column().map(str::to_owned) {
            let columns = &change.write.columns;
            let member = columns
                .iter()
                .find(|one| one.column == column)
                .map(|one| &one.member);
            return fault.about(member.unwrap_or(&column), None);
        }
        if !fault.value_is_unfit() {
            return fault;
        }
        let search = async {
            for bound in &row.values {
                if self.is_unfit(bound).await? {
                    return Some(bound);
                }
            }
            None
        };
        let too_late = async {
            net::sleep(left).await;
            None
        };
        match futures_lite::future::or(search, too_late).await {
            Some(bound) => fault.about(&bound.name, Some(&bound.type_name)),
            None => fault,
        }
    }

    /// Whether a value is none of its type; none: it cannot be said.
    async fn is_unfit(&self, bound: &Bound) -> Option<bool> {
        let connection = self.pool.lease().await.ok()?;
        let argument = Argument(Some(format!("[{{\"v\":{}}}]", bound.json)));
        let read = async {
            let rows = connection
                .rows(&sql::reading(&bound.type_name), &[argument])
                .await?;
            rows.try_for_each(|_| async { Ok(()) })
                .await
                .map_err(Fault::from)
        };
        match read.await {
            Ok(()) => Some(false),
            Err(fault) if fault.value_is_unfit() => Some(true),
            Err(_) => None,
        }
    }

    /// Removes what is old from the side tables now and then, after the changes. That it cannot is told.
    async fn prune(&self) {
        let is_due = self
            .pruned
            .get()
            .is_none_or(|last| last.elapsed() >= PRUNE_EVERY);
        if self.keep == [None, None] || !is_due {
            return;
        }
        self.pruned.set(Some(Instant::now()));
        let keep = self
            .keep
            .map(|keep| Argument(keep.map(|keep| format!("{} milliseconds", keep.as_millis()))));
        let pruning = async {
            let connection = self.pool.lease().await?;
            let sql = "select larder.prune_writes($1::text::interval, $2::text::interval)";
            let rows = connection.rows(sql, &keep).await?;
            rows.try_for_each(|_| async { Ok(()) }).await?;
            Ok(())
        };
        let too_late = async {
            net::sleep(PRUNING).await;
            Ok(())
        };
        // What takes long goes on in the server; what ran into a change is done the next time.
        let pruned: Result<(), Fault> = futures_lite::future::or(pruning, too_late).await;
        if let Err(fault) = pruned
            && !fault.is_of_others()
            && !fault.lost
        {
            let message = format!(
                "old rows cannot be removed from larder.written and larder.once: {}",
                fault.said
            );
            net::log(&message, &[("code", &fault.failure.code)]);
        }
    }
}

/// Runs the statement once; the answer is read to its end, for then it is committed.
async fn read(
    connection: &Lease,
    statement: &tokio_postgres::Statement,
    argument: &Argument,
    within: Duration,
    count: usize,
) -> Result<Vec<Made>, Fault> {
    let rows = connection
        .run(statement, std::slice::from_ref(argument), within)
        .await?;
    let rows: Vec<_> = rows.try_collect().await?;
    connection.hear();
    let mut made: Vec<Option<Made>> = (0..count).map(|_| None).collect();
    for row in rows {
        let number: i32 = row.try_get(0)?;
        let place = usize::try_from(number)
            .ok()
            .and_then(|number| made.get_mut(number));
        *place.ok_or_else(not_expected)? = Some(Made {
            verdict: row.try_get(1)?,
            created: row.try_get(2)?,
        });
    }
    made.into_iter()
        .map(|made| made.ok_or_else(not_expected))
        .collect()
}

fn not_expected() -> Fault {
    Fault::new(
        FailureKind::Internal,
        "protocol-error",
        "the database answered for other changes than it was sent".to_owned(),
    )
}

/// Rows as the one argument of the statement.
fn all(rows: &[&Row]) -> Argument {
    let rows = rows
        .iter()
        .enumerate()
        .map(|(number, row)| row.numbered(number));
    let rows: Vec<String> = rows.collect();
    Argument(Some(format!("[{}]", rows.join(","))))
}

fn none_at_all() -> Argument {
    Argument(Some("[]".to_owned()))
}

fn receipt(made: &Made, write: &Write, mutation: &Mutation) -> Result<Receipt, Fault> {
    let conflict = |code: &str, message: &str| {
        Err(Fault::new(FailureKind::Conflict, code, message.to_owned()))
    };
    let tags = match made.verdict.as_str() {
        "present" => return conflict("row-present", "there is such a row already"),
        "absent" => return conflict("row-absent", "there is no such row"),
        // A younger change was made, and nothing by this one.
        "late" => Vec::new(),
        _ => row::tags(write, mutation),
    };
    Ok(Receipt {
        created: made.created,
        validator: None,
        entry: None,
        tags,
        hints: Vec::new(),
    })
}

/// The failure for clients; operators find the rest in the log.
fn told(fault: Fault, route: &str) -> Failure {
    let is_the_clients = matches!(
        fault.failure.kind,
        FailureKind::InvalidRequest | FailureKind::Conflict
    );
    if !is_the_clients && fault.said != fault.failure.message {
        net::log(
            &fault.said,
            &[("route", route), ("code", &fault.failure.code)],
        );
    }
    fault.failure
}
