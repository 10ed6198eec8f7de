//! Questions to outcomes: which query answers which question, what is bound to it, and which of them one statement can
//! answer together. Must not know how the database is reached, or what a row looks like.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use larder_plugin_support::{Failure, FailureKind, Outcome, Param, Question, no_such_part};
use tokio_postgres::Row;

use crate::answer;
use crate::connection::{Argument, Lease};
use crate::fault::Fault;
use crate::net;
use crate::pool::Pool;
use crate::settings::{Query, Settings};

/// The rows that are for one question, each as JSON.
type Rows = Rc<Vec<String>>;

/// What answers questions in one instance.
pub(crate) struct Loads {
    queries: Vec<Query>,
    pool: Rc<Pool>,
    rows_max: usize,
    body_max: usize,
}

/// What one statement is run for: one question, or all of a gathering.
struct Gathering<'q> {
    query: &'q Query,
    /// What is bound. The gathered one is `None` here, and one of `keys` for each question.
    arguments: Vec<Argument>,
    /// The distinct keys; of a query that gathers nothing, one that means nothing.
    keys: Vec<String>,
    /// Which questions ask for which key: places in the list of questions.
    askers: Vec<Vec<usize>>,
    deadline: Duration,
}

impl Loads {
    /// # Errors
    /// A failure that names the setting that makes no sense.
    pub(crate) fn new(settings: &Settings, pool: Rc<Pool>) -> Result<Self, Failure> {
        Ok(Self {
            queries: settings.queries()?,
            pool,
            rows_max: settings.rows_max,
            body_max: settings.body_max,
        })
    }

    /// Answers all of them, with as few statements as there are gatherings.
    pub(crate) async fn load_many(&self, questions: &[Question]) -> Vec<Result<Outcome, Failure>> {
        let mut results: Vec<Option<Result<Outcome, Failure>>> = vec![None; questions.len()];
        let mut gatherings: Vec<Gathering<'_>> = Vec::new();
        let mut known: HashMap<(&str, Vec<Argument>), usize> = HashMap::new();
        for (asker, question) in questions.iter().enumerate() {
            let (query, mut arguments) = match self.arguments(question) {
                Ok(found) => found,
                Err(fault) => {
                    results[asker] = Some(Err(told(fault, None, &question.target.route)));
                    continue;
                }
            };
            let key = query
                .key
                .and_then(|at| arguments[at].0.take())
                .unwrap_or_default();
            let at = *known
                .entry((&query.route, arguments.clone()))
                .or_insert_with(|| {
                    gatherings.push(Gathering {
                        query,
                        arguments,
                        keys: Vec::new(),
                        askers: Vec::new(),
                        deadline: Duration::ZERO,
                    });
                    gatherings.len() - 1
                });
            gatherings[at].add(
                asker,
                key,
                Duration::from_millis(question.target.deadline_ms.into()),
            );
        }
        let answers = join_all(gatherings.iter().map(|gathering| self.gather(gathering))).await;
        for (gathering, answers) in gatherings.iter().zip(answers) {
            for (askers, answer) in gathering.askers.iter().zip(answers) {
                for &asker in askers {
                    let parts = &questions[asker].target.parts;
                    let outcome = answer
                        .clone()
                        .and_then(|rows| answer::outcome(gathering.query, parts, &rows));
                    results[asker] = Some(outcome.map_err(|fault| {
                        told(fault, Some(gathering.query), &gathering.query.route)
                    }));
                }
            }
        }
        results
            .into_iter()
            .map(|result| result.expect("every question was gathered or refused"))
            .collect()
    }

    /// Connects, and prepares every query: are the settings right?
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn probe(&self) -> Result<(), Fault> {
        let connection = self.pool.lease().await?;
        for query in &self.queries {
            connection.statement(query).await.map_err(|mut fault| {
                fault.said = format!("[config.queries.\"{}\"]: {}", query.route, fault.said);
                fault
            })?;
        }
        Ok(())
    }

    /// The query of a question, and what is bound to it.
    fn arguments(&self, question: &Question) -> Result<(&Query, Vec<Argument>), Fault> {
        let target = &question.target;
        let query = self
            .queries
            .iter()
            .find(|query| query.route == target.route)
            .ok_or_else(|| {
                let message = format!(
                    "no query answers {0}; add [config.queries.\"{0}\"] to the sidecar",
                    target.route
                );
                Fault::new(FailureKind::Internal, "query-missing", message)
            })?;
        let arguments = query
            .parameters
            .iter()
            .map(|parameter| {
                let values = target
                    .parts
                    .iter()
                    .filter(|part| part.name == parameter.name);
                let values: Vec<&str> = values.map(|part| part.value.as_str()).collect();
                argument(&parameter.name, parameter.is_list(), &values)
            })
            .collect::<Result<Vec<_>, _>>()?;
        match query.key {
            Some(at) if arguments[at].0.is_none() => Err(missing(&query.parameters[at].name)),
            _ => Ok((query, arguments)),
        }
    }

    /// The rows for each of the keys.
    async fn gather(&self, gathering: &Gathering<'_>) -> Vec<Result<Rows, Fault>> {
        let start = Instant::now();
        match self
            .within(gathering.deadline, gathering, &gathering.keys)
            .await
        {
            Ok(rows) => rows.into_iter().map(|rows| Ok(Rc::new(rows))).collect(),
            // One key that is no value of its type, or answers that are too large together, must not fail the others. One
            // after the other: what was too large for the memory at once still is.
            Err(fault)
                if gathering.keys.len() > 1 && (fault.value || fault.failure.code == TOO_LARGE) =>
            {
                let mut answers = Vec::with_capacity(gathering.keys.len());
                for key in &gathering.keys {
                    let left = gathering.deadline.saturating_sub(start.elapsed());
                    let answer = self
                        .within(left, gathering, std::slice::from_ref(key))
                        .await;
                    answers.push(answer.map(|mut rows| Rc::new(rows.swap_remove(0))));
                }
                answers
            }
            Err(fault) => vec![Err(fault); gathering.keys.len()],
        }
    }

    async fn within(
        &self,
        deadline: Duration,
        gathering: &Gathering<'_>,
        keys: &[String],
    ) -> Result<Vec<Vec<String>>, Fault> {
        let too_late = async {
            net::sleep(deadline).await;
            let message = format!(
                "the database did not answer within {} ms",
                deadline.as_millis()
            );
            Err(Fault::new(
                FailureKind::Timeout,
                "database-timeout",
                message,
            ))
        };
        futures_lite::future::or(self.ask(deadline, gathering, keys), too_late).await
    }

    /// Asks, and asks once more where a connection broke off (it may have been dead for long) or what was prepared has gone
    /// out of date: a query may always be repeated.
    async fn ask(
        &self,
        within: Duration,
        gathering: &Gathering<'_>,
        keys: &[String],
    ) -> Result<Vec<Vec<String>>, Fault> {
        let start = Instant::now();
        let mut again = true;
        loop {
            let connection = self.pool.lease().await?;
            let mut was_prepared = false;
            let left = within.saturating_sub(start.elapsed());
            let asked = self
                .ask_on(&connection, left, gathering, keys, &mut was_prepared)
                .await;
            match asked {
                Err(fault) if again && fault.lost => {}
                Err(fault) if again && fault.outdated && was_prepared => {
                    connection.forget(gathering.query);
                }
                asked => return asked,
            }
            again = false;
        }
    }

    async fn ask_on(
        &self,
        connection: &Lease,
        within: Duration,
        gathering: &Gathering<'_>,
        keys: &[String],
        was_prepared: &mut bool,
    ) -> Result<Vec<Vec<String>>, Fault> {
        let (statement, known) = connection.statement(gathering.query).await?;
        *was_prepared = known;
        let mut arguments = gathering.arguments.clone();
        if let Some(at) = gathering.query.key {
            arguments[at] = Argument::list(keys.iter().map(String::as_str));
        }
        let rows = connection.run(&statement, &arguments, within).await?;
        let mut rows = std::pin::pin!(rows);
        let mut answers = vec![Vec::new(); keys.len()];
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            connection.hear();
            let text: &str = row.try_get(1)?;
            for place in places(&row, gathering.query.key.is_some())? {
                let answer: &mut Vec<String> = answers.get_mut(place).ok_or_else(out_of_place)?;
                bytes += text.len();
                if bytes > self.body_max || answer.len() == self.rows_max {
                    return Err(self.too_large(answer.len() == self.rows_max));
                }
                answer.push(text.to_owned());
            }
        }
        Ok(answers)
    }

    fn too_large(&self, by_rows: bool) -> Fault {
        let message = if by_rows {
            format!(
                "the query gives more than {} rows; limit it, or raise `rows_max`",
                self.rows_max
            )
        } else {
            format!(
                "the query gives more than {} bytes; limit it, or raise `body_max` and [limits] body",
                self.body_max
            )
        };
        Fault::new(FailureKind::Internal, TOO_LARGE, message)
    }
}

/// The failure for clients; operators find the rest in the log.
fn told(fault: Fault, query: Option<&Query>, route: &str) -> Failure {
    let mut failure = fault.failure;
    if failure.kind == FailureKind::InvalidRequest {
        // What a client got wrong is the client's to know. The server does not say which value it was; often it can be
        // but one.
        let only = query.and_then(|query| match &query.parameters[..] {
            [only] => Some(only),
            _ => query.key(),
        });
        if let Some(parameter) = only.filter(|_| fault.value) {
            failure.details = vec![Param {
                name: parameter.name.clone(),
                value: format!("is no value of the type {}", parameter.type_name),
            }];
        }
    } else if fault.said != failure.message {
        net::log(&fault.said, &[("route", route), ("code", &failure.code)]);
    }
    failure
}

const TOO_LARGE: &str = "answer-too-large";

impl Gathering<'_> {
    fn add(&mut self, asker: usize, key: String, deadline: Duration) {
        // The one who waits longest counts: the others are answered by the host when their time is over.
        self.deadline = self.deadline.max(deadline);
        match self.keys.iter().position(|known| *known == key) {
            Some(at) => self.askers[at].push(asker),
            None => {
                self.keys.push(key);
                self.askers.push(vec![asker]);
            }
        }
    }
}

/// Which keys a row is for, counted from 0. One row may be for several: `7` and `07` are one number.
fn places(row: &Row, gathered: bool) -> Result<Vec<usize>, Fault> {
    if !gathered {
        return Ok(vec![0]);
    }
    let places: Vec<i32> = row.try_get(0)?;
    places
        .into_iter()
        .map(|place| usize::try_from(place - 1).map_err(|_| out_of_place()))
        .collect()
}

fn out_of_place() -> Fault {
    Fault::new(
        FailureKind::Internal,
        "protocol-error",
        "the database put a row where no question is".to_owned(),
    )
}

/// What is bound for the parts of one name.
fn argument(name: &str, is_list: bool, values: &[&str]) -> Result<Argument, Fault> {
    let refuse = |code: &str, message: String| {
        let mut fault = Fault::new(FailureKind::InvalidRequest, code, message.clone());
        fault.failure.details.push(Param {
            name: name.to_owned(),
            value: message,
        });
        Err(fault)
    };
    // PostgreSQL's text has no such character, and one among many must not fail the others.
    if values.iter().any(|value| value.contains('\0')) {
        return refuse(
            "parameter-unfit",
            format!("`{name}` holds the character U+0000, which the database cannot take"),
        );
    }
    match values {
        [] => Ok(Argument(None)),
        values if is_list => Ok(Argument::list(values.iter().copied())),
        [value] => Ok(Argument(Some((*value).to_owned()))),
        _ => refuse(
            "parameter-repeated",
            format!("`{name}` is given {} times; give it once", values.len()),
        ),
    }
}

fn missing(name: &str) -> Fault {
    let failure = no_such_part(name);
    Fault::new(failure.kind, &failure.code, failure.message)
}
