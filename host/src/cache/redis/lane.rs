//! The look-ups of requests, gathered: those of one turn of the scheduler go to Redis as one command. Knows keys, not
//! what is found under them.
//!
//! A request that asks by itself costs a write to the socket, a read from it and two turns of the connection's task: more
//! than Redis's whole answer. So requests leave their questions here, and the lane's task waits one turn before it sends:
//! everybody who is ready to run leaves a question meanwhile. Nobody waits for a clock: when the machine is idle, a turn
//! is over at once.
//!
//! A cluster takes no command for keys of several slots: there, a command for each look-up, sent together.
//!
//! The answers of one command arrive together, so a short value may wait for the long one that was asked for beside it:
//! [`GATHERED_MAX`] bounds for how many.

use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use tokio::sync::{mpsc, oneshot};

use super::link::{Trouble, ask};
use super::names::Names;
use crate::key::Key;

/// Look-ups in one command.
const GATHERED_MAX: usize = 64;

/// An entry as Redis holds it and the generation of its resource, each if it is there: read in one step.
pub(super) type Held = (Option<Vec<u8>>, Option<Vec<u8>>);

struct Question {
    key: Key,
    answer: oneshot::Sender<Result<Held, Trouble>>,
}

/// The way in. When the last one is dropped, the task behind it answers what is under way and ends.
pub(super) struct Lane {
    // Without a bound of its own: who asks holds a place among the link's commands, and a question that its asker has left
    // is forgotten one turn later, before it is sent.
    questions: mpsc::UnboundedSender<Question>,
}

impl Lane {
    /// A lane on this connection; a command may take `limit`. In a cluster, each look-up is a command of its own.
    pub(super) fn new(
        connection: MultiplexedConnection,
        names: Names,
        (limit, clustered): (Duration, bool),
    ) -> Self {
        let (questions, asked) = mpsc::unbounded_channel();
        tokio::spawn(run(connection, names, (limit, clustered), asked));
        Self { questions }
    }

    /// What is held under a key.
    pub(super) async fn look_up(&self, key: &Key) -> Result<Held, Trouble> {
        let (answer, answered) = oneshot::channel();
        let key = key.clone();
        // An error on either way means that the task is gone: it ends with the runtime, or by a panic.
        let ended = || Trouble::Lost("the task that asks Redis has ended".into());
        let question = Question { key, answer };
        self.questions.send(question).map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

async fn run(
    connection: MultiplexedConnection,
    names: Names,
    (limit, clustered): (Duration, bool),
    mut asked: mpsc::UnboundedReceiver<Question>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut questions = Vec::with_capacity(GATHERED_MAX);
    loop {
        tokio::select! {
            // What was gathered is sent before more is gathered.
            biased;
            Some(()) = under_way.next() => {}
            count = asked.recv_many(&mut questions, GATHERED_MAX) => {
                if count == 0 {
                    break;
                }
                // Behind everybody who is ready: what they ask in this turn goes along.
                tokio::task::yield_now().await;
                while questions.len() < GATHERED_MAX && let Ok(question) = asked.try_recv() {
                    questions.push(question);
                }
                let gathered = std::mem::replace(&mut questions, Vec::with_capacity(GATHERED_MAX));
                let connection = connection.clone();
                under_way.push(if clustered {
                    fetch_each(connection, &names, limit, gathered).left_future()
                } else {
                    fetch(connection, &names, limit, gathered).right_future()
                });
            }
        }
    }
    while under_way.next().await.is_some() {}
}

/// Asks what was gathered and hands the answers out. Who no longer waits is not missed.
async fn fetch(
    mut connection: MultiplexedConnection,
    names: &Names,
    limit: Duration,
    mut questions: Vec<Question>,
) {
    questions.retain(|question| !question.answer.is_closed());
    if questions.is_empty() {
        return;
    }
    let room: usize = questions
        .iter()
        .map(|question| names.len_of(&question.key))
        .sum();
    let mut command = Cmd::with_capacity(1 + 2 * questions.len(), 4 + room);
    command.arg("MGET");
    for question in &questions {
        names.push_entry(&mut command, question.key.text());
        names.push_generation(&mut command, question.key.resource());
    }
    let answer = ask(&mut connection, &command, limit).await;
    match answer.and_then(|value| held(value, questions.len())) {
        Ok(held) => {
            for (question, held) in questions.into_iter().zip(held) {
                let _ = question.answer.send(Ok(held));
            }
        }
        Err(trouble) => fail(questions, &trouble),
    }
}

/// As [`fetch`], with a command for each question: keys of different slots.
async fn fetch_each(
    mut connection: MultiplexedConnection,
    names: &Names,
    limit: Duration,
    mut questions: Vec<Question>,
) {
    questions.retain(|question| !question.answer.is_closed());
    if questions.is_empty() {
        return;
    }
    let mut commands = redis::Pipeline::with_capacity(questions.len());
    for question in &questions {
        let mut command = Cmd::with_capacity(3, 4 + names.len_of(&question.key));
        command.arg("MGET");
        names.push_entry(&mut command, question.key.text());
        names.push_generation(&mut command, question.key.resource());
        commands.add_command(command);
    }
    let count = questions.len();
    let answers =
        tokio::time::timeout(limit, connection.send_packed_commands(&commands, 0, count)).await;
    match answers {
        Err(_) => fail(questions, &Trouble::Slow(limit)),
        Ok(Err(error)) => fail(questions, &Trouble::of(&error)),
        Ok(Ok(answers)) if answers.len() == count => {
            for (question, answer) in questions.into_iter().zip(answers) {
                let answer = answer.extract_error().map_err(|error| Trouble::of(&error));
                let held = answer.and_then(|value| {
                    let nothing = || Trouble::Strange("MGET was answered with nothing".into());
                    held(value, 1)?.next().ok_or_else(nothing)
                });
                let _ = question.answer.send(held);
            }
        }
        Ok(Ok(_)) => {
            let what = "not every command was answered";
            fail(questions, &Trouble::Strange(what.into()));
        }
    }
}

/// What was sent together has failed once, however many asked in it: one of them, who still listens, reports it.
fn fail(questions: Vec<Question>, trouble: &Trouble) {
    let mut unreported = Some(trouble.clone());
    for question in questions {
        let told = unreported.take();
        let told = told.unwrap_or_else(|| Trouble::Reported(trouble.to_string()));
        if let Err(Err(unheard)) = question.answer.send(Err(told)) {
            unreported = Some(unheard).filter(|it| !matches!(it, Trouble::Reported(_)));
        }
    }
}

/// A list of twice as many values as questions, in their order. A key of another type reads as nothing.
fn held(answer: Value, questions: usize) -> Result<impl Iterator<Item = Held>, Trouble> {
    let values = match answer {
        Value::Array(values) if values.len() == 2 * questions => values,
        _ => {
            let what = "MGET was not answered with a value for each key";
            return Err(Trouble::Strange(what.into()));
        }
    };
    let bytes = |value| match value {
        Some(Value::BulkString(bytes)) => Some(bytes),
        _ => None,
    };
    let mut values = values.into_iter();
    Ok(std::iter::from_fn(move || {
        let entry = values.next()?;
        Some((bytes(Some(entry)), bytes(values.next())))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_fall_to_the_questions_in_their_order() {
        let text = |text: &str| Value::BulkString(text.into());
        let answer = vec![text("e1"), text("g1"), Value::Nil, text("g2")];
        let held: Vec<_> = held(Value::Array(answer), 2).unwrap().collect();
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(held, [(bytes("e1"), bytes("g1")), (None, bytes("g2"))]);
    }

    #[test]
    fn a_list_of_another_length_is_nobodys_answer() {
        for answer in [
            Value::Array(vec![Value::Nil; 3]),
            Value::Array(vec![Value::Nil; 5]),
            Value::Okay,
        ] {
            assert!(matches!(held(answer, 2), Err(Trouble::Strange(_))));
        }
    }
}
