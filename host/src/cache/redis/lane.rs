//! The connection of requests, and their look-ups, gathered: those of one turn of the scheduler go to Redis as one command.
//! Knows keys, not what is found under them.
//!
//! A request that asks by itself costs a write to the socket, a read from it and two turns of the connection's task: more
//! than Redis's whole answer. So requests leave their questions here, and the lane's task waits one turn before it sends:
//! everybody who is ready to run leaves a question meanwhile. Nobody waits for a clock: when the machine is idle, a turn
//! is over at once.
//!
//! A cluster takes no command for keys of several slots: there, a command for each look-up, sent together.
//!
//! The task speaks RESP itself (see [`resp`](super::resp)): a look-up is what Larder does most, and with a client for every command
//! a hit took 1.4 of the instructions. What is answered is handed out value by value as it arrives.
//! Other commands go the same way, each as it is: what is stored is sent on the connection that it is looked up on.
//!
//! # Time
//!
//! A look-up has its limit from the moment its command is written down for the socket. One timer is for all: limits are
//! alike, so they end in the order of the commands, and while Redis answers the timer is not touched but once per limit.
//! Who asked for something else minds the time himself. Either way the command keeps its place in the row until its answer
//! has come: Redis answers in order, and what comes too late is read and let go.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::dial::Stream;
use super::names::Names;
use super::resp::{Garbage, READ, Token, Tokens, Whole, begin, push};
use super::trouble::{IN_FLIGHT_MAX, Trouble};
use crate::key::Key;

/// Look-ups in one command: the answers of one command arrive together, so a short value may wait for the long ones before it.
const GATHERED_MAX: usize = 64;
/// A buffer of commands that a long one has made larger is not kept.
const KEPT_MAX: usize = 4 * READ;

/// An entry as Redis holds it and the generation of its resource, each if it is there: read in one step.
pub(super) type Held = (Option<Bytes>, Option<Bytes>);

type Answer<T> = oneshot::Sender<Result<T, Trouble>>;

/// What was asked in this turn.
#[derive(Default)]
struct Asked {
    /// The keys of the look-ups, as they are sent.
    bytes: Vec<u8>,
    look_ups: Vec<(Range<usize>, Answer<Held>)>,
    /// The other commands, as they are sent. Apart: one may be long, and who leaves it holds everybody up.
    others: Vec<(Vec<u8>, Answer<Value>)>,
}

impl Asked {
    fn is_empty(&self) -> bool {
        self.look_ups.is_empty() && self.others.is_empty()
    }

    /// Notes what `write` has to say.
    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        start..self.bytes.len()
    }
}

/// Where questions are left. Without a bound of its own: who asks holds a place among the link's commands, and a question that
/// its asker has left is forgotten one turn later, before it is sent.
#[derive(Default)]
struct Inbox {
    asked: Asked,
    /// Of the task, while it waits for a question.
    waker: Option<Waker>,
    /// The task has ended.
    is_closed: bool,
}

/// The way in. When it is dropped, the task behind it ends: whoever waits for an answer holds it.
pub(super) struct Lane {
    names: Names,
    inbox: Arc<Mutex<Inbox>>,
    _task: AbortOnDropHandle<()>,
}

impl Lane {
    /// A lane on this connection; a look-up may take `limit`. In a cluster, each is a command of its own. `lost` is called when
    /// the connection breaks.
    pub(super) fn new(
        stream: Box<dyn Stream>,
        names: Names,
        (limit, clustered): (Duration, bool),
        lost: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let inbox = Arc::default();
        let gathered_max = if clustered { 1 } else { GATHERED_MAX };
        let wire = Wire::new(stream, (limit, gathered_max), Arc::clone(&inbox));
        let task = tokio::spawn(wire.run(lost));
        Self {
            names,
            inbox,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What is held under a key.
    pub(super) async fn look_up(&self, key: &Key) -> Result<Held, Trouble> {
        let (answer, answered) = oneshot::channel();
        self.leave(|asked| {
            let keys = asked.write(|bytes| self.names.write_keys(bytes, key));
            asked.look_ups.push((keys, answer));
        })?;
        answered.await.map_err(|_| ended())?
    }

    /// Sends a command and waits for its answer, for `limit` at most.
    pub(super) async fn ask(&self, command: &Cmd, limit: Duration) -> Result<Value, Trouble> {
        let (answer, answered) = oneshot::channel();
        let bytes = command.get_packed_command();
        self.leave(|asked| asked.others.push((bytes, answer)))?;
        let answered = tokio::time::timeout(limit, answered).await;
        let answered = answered.map_err(|_| Trouble::Slow(limit))?;
        answered.map_err(|_| ended())?
    }

    fn leave(&self, question: impl FnOnce(&mut Asked)) -> Result<(), Trouble> {
        let waker = {
            let mut inbox = self.inbox.lock();
            if inbox.is_closed {
                return Err(ended());
            }
            question(&mut inbox.asked);
            inbox.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// The task is gone: with the connection, with the runtime, or by a panic.
fn ended() -> Trouble {
    Trouble::Lost("the task that asks Redis has ended".into())
}

/// A command whose answer has not come whole.
enum Command {
    LookUps {
        /// How many it asks.
        count: usize,
        /// How many of them have no answer, and are waited for: as many of the [`Wire::askers`].
        waiting: usize,
        deadline: Instant,
    },
    Other(Option<Answer<Value>>),
}

/// The answer that is being read, of look-ups.
#[derive(Default)]
struct Reading {
    /// Its head was read.
    has_begun: bool,
    /// Values that it lacks.
    missing: usize,
    /// Answers in a value that is a list, which is no value of ours.
    foreign: usize,
    /// The entry whose generation comes next.
    entry: Option<Option<Bytes>>,
}

/// The connection is lost, and this is why.
struct Lost(String);

impl From<std::io::Error> for Lost {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Garbage> for Lost {
    fn from(garbage: Garbage) -> Self {
        Self(garbage.to_string())
    }
}

/// What the task has.
struct Wire {
    stream: Box<dyn Stream>,
    inbox: Arc<Mutex<Inbox>>,
    limit: Duration,
    gathered_max: usize,
    /// What is sent next; empty but while it is written down.
    asked: Asked,
    out: Vec<u8>,
    /// How much of it the socket has.
    sent: usize,
    is_flushed: bool,
    tokens: Tokens,
    commands: VecDeque<Command>,
    askers: VecDeque<Answer<Held>>,
    reading: Reading,
    whole: Whole,
    timer: Pin<Box<Sleep>>,
    is_timed: bool,
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Nobody leaves a question from here on, and who has left one learns it: its way back is dropped.
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        inbox.asked = Asked::default();
    }
}

impl Wire {
    fn new(
        stream: Box<dyn Stream>,
        (limit, gathered_max): (Duration, usize),
        inbox: Arc<Mutex<Inbox>>,
    ) -> Self {
        Self {
            stream,
            inbox,
            limit,
            gathered_max,
            asked: Asked::default(),
            out: Vec::new(),
            sent: 0,
            is_flushed: true,
            tokens: Tokens::default(),
            commands: VecDeque::new(),
            askers: VecDeque::new(),
            reading: Reading::default(),
            whole: Whole::default(),
            timer: Box::pin(sleep_until(Instant::now())),
            is_timed: false,
        }
    }

    /// Runs until the connection is lost, or the task is aborted.
    async fn run(mut self, lost: impl Fn()) {
        loop {
            match poll_fn(|context| self.poll(context)).await {
                Ok(()) => {
                    // Behind everybody who is ready: what they ask in this turn goes along.
                    tokio::task::yield_now().await;
                    self.take();
                }
                Err(Lost(why)) => {
                    // Before anybody is told: who asks again does not ask here.
                    lost();
                    self.lose(why);
                    return;
                }
            }
        }
    }

    /// Sends, reads, and minds the time. Ready when something is asked.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.send(context)?;
        let is_behind = self.read(context)?;
        // Again after it was set anew: only who asks is woken.
        while self.is_timed && self.timer.as_mut().poll(context).is_ready() {
            self.expire();
        }
        let mut inbox = self.inbox.lock();
        if !inbox.asked.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if is_behind {
            context.waker().wake_by_ref();
        } else {
            inbox.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Sends what the socket takes.
    fn send(&mut self, context: &mut Context<'_>) -> Result<(), Lost> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            match Pin::new(&mut self.stream).poll_write(context, rest)? {
                Poll::Pending => {
                    // While it takes as much as is asked, it is never done: what it has must go all the same (law 12).
                    if self.sent >= KEPT_MAX && self.sent * 2 >= self.out.len() {
                        self.out.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(());
                }
                Poll::Ready(0) => return Err(Lost("the connection takes no more".into())),
                Poll::Ready(sent) => self.sent += sent,
            }
            self.is_flushed = false;
        }
        if !self.is_flushed && Pin::new(&mut self.stream).poll_flush(context)?.is_ready() {
            self.is_flushed = true;
        }
        self.out.clear();
        self.out.shrink_to(KEPT_MAX);
        self.sent = 0;
        Ok(())
    }

    /// Reads what there is, and hands it out. `true`: there may be more, and others have their turn first: what they are done
    /// with is read over.
    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, Lost> {
        loop {
            let room = self.tokens.room();
            let spare = room.capacity() - room.len();
            let Poll::Ready(count) = pin!(self.stream.read_buf(room)).poll(context) else {
                return Ok(false);
            };
            let count = count?;
            if count == 0 {
                return Err(Lost("the connection was closed".into()));
            }
            while let Some(token) = self.tokens.next()? {
                self.take_in(token)?;
            }
            if count == spare {
                return Ok(true);
            }
        }
    }

    /// Writes down what was asked.
    fn take(&mut self) {
        // Their rooms are used in turn.
        std::mem::swap(&mut self.asked, &mut self.inbox.lock().asked);
        let mut asked = std::mem::take(&mut self.asked);
        // Who no longer waits is not missed.
        asked.look_ups.retain(|(_, answer)| !answer.is_closed());
        asked.others.retain(|(_, answer)| !answer.is_closed());
        let count = asked.look_ups.len().div_ceil(self.gathered_max) + asked.others.len();
        // Of those that nobody waits for any more, too (law 12).
        if self.commands.len() + count > IN_FLIGHT_MAX {
            // Each is told, and none reports it for others: the server has not failed.
            for (_, answer) in asked.look_ups.drain(..) {
                let _ = answer.send(Err(Trouble::Crowded));
            }
            for (_, answer) in asked.others.drain(..) {
                let _ = answer.send(Err(Trouble::Crowded));
            }
        }
        let deadline = Instant::now() + self.limit;
        while !asked.look_ups.is_empty() {
            let count = asked.look_ups.len().min(self.gathered_max);
            begin(&mut self.out, 1 + 2 * count);
            push(&mut self.out, &["MGET"]);
            for (keys, answer) in asked.look_ups.drain(..count) {
                self.out.extend_from_slice(&asked.bytes[keys]);
                self.askers.push_back(answer);
            }
            let waiting = count;
            self.commands.push_back(Command::LookUps {
                count,
                waiting,
                deadline,
            });
            if !self.is_timed {
                self.timer.as_mut().reset(deadline);
                self.is_timed = true;
            }
        }
        for (command, answer) in asked.others.drain(..) {
            self.out.extend_from_slice(&command);
            self.commands.push_back(Command::Other(Some(answer)));
        }
        asked.bytes.clear();
        asked.bytes.shrink_to(KEPT_MAX);
        self.asked = asked;
    }

    /// Takes in a piece of the answer to the first of the commands.
    fn take_in(&mut self, token: Token) -> Result<(), Lost> {
        match self.commands.front_mut() {
            None => {
                // As a server says why it closes a connection.
                let Token::Error(line) = token else {
                    return Err(Lost("an answer to nothing that was asked".into()));
                };
                Err(Lost(line))
            }
            Some(Command::Other(answer)) => {
                if let Some(value) = self.whole.add(token)? {
                    if let Some(answer) = answer.take() {
                        let _ = answer.send(value);
                    }
                    self.commands.pop_front();
                }
                Ok(())
            }
            Some(Command::LookUps { count, waiting, .. }) => {
                let reading = &mut self.reading;
                if !reading.has_begun {
                    reading.has_begun = true;
                    let trouble = match token {
                        Token::List(length) => {
                            reading.missing = length;
                            let what = "MGET was not answered with a value for each key";
                            (length != 2 * *count).then(|| Trouble::Strange(what.into()))
                        }
                        Token::Error(line) => Some(Trouble::of_line(&line)),
                        _ => Some(Trouble::Strange("MGET was not answered with a list".into())),
                    };
                    if let Some(trouble) = trouble {
                        let failed = self.askers.drain(..std::mem::take(waiting));
                        fail(failed.map(|answer| ((), answer)), &trouble);
                    }
                } else if reading.foreign > 0 {
                    reading.foreign -= 1;
                    if let Token::List(length) = token {
                        reading.foreign = reading.foreign.saturating_add(length);
                    }
                } else {
                    reading.missing -= 1;
                    // A key of another type reads as nothing.
                    let value = match token {
                        Token::Bulk(bytes) => Some(bytes),
                        Token::List(length) => {
                            reading.foreign = length;
                            None
                        }
                        _ => None,
                    };
                    match reading.entry.take() {
                        None => reading.entry = Some(value),
                        Some(entry) if *waiting > 0 => {
                            *waiting -= 1;
                            if let Some(answer) = self.askers.pop_front() {
                                let _ = answer.send(Ok((entry, value)));
                            }
                        }
                        Some(_) => {}
                    }
                }
                if reading.missing == 0 && reading.foreign == 0 {
                    *reading = Reading::default();
                    self.commands.pop_front();
                }
                Ok(())
            }
        }
    }

    /// Ends the wait of those whose limit has passed.
    fn expire(&mut self) {
        let now = Instant::now();
        self.is_timed = false;
        for command in &mut self.commands {
            let Command::LookUps {
                waiting, deadline, ..
            } = command
            else {
                continue;
            };
            if *waiting == 0 {
                continue;
            }
            if *deadline > now {
                self.timer.as_mut().reset(*deadline);
                self.is_timed = true;
                break;
            }
            let late = self.askers.drain(..std::mem::take(waiting));
            fail(late.map(|answer| ((), answer)), &Trouble::Slow(self.limit));
        }
    }

    /// Tells everybody who waits, or is about to, that the connection is gone.
    fn lose(&mut self, why: String) {
        let mut inbox = self.inbox.lock();
        inbox.is_closed = true;
        let asked = std::mem::take(&mut inbox.asked);
        drop(inbox);
        let lost = Trouble::Lost(why);
        let waiting = self.askers.drain(..).map(|answer| ((), answer));
        let about_to = asked.look_ups.into_iter().map(|(_, answer)| ((), answer));
        fail(waiting.chain(about_to), &lost);
        let others = self.commands.drain(..).filter_map(|command| match command {
            Command::Other(answer) => answer,
            Command::LookUps { .. } => None,
        });
        for answer in others.chain(asked.others.into_iter().map(|(_, answer)| answer)) {
            let _ = answer.send(Err(lost.clone()));
        }
    }
}

/// What was sent together has failed once, however many asked in it: one of them, who still listens, reports it.
fn fail<Q, T>(questions: impl Iterator<Item = (Q, Answer<T>)>, trouble: &Trouble) {
    let mut unreported = Some(trouble.clone());
    for (_, answer) in questions {
        let told = unreported.take();
        let told = told.unwrap_or_else(|| Trouble::Reported(trouble.to_string()));
        if let Err(Err(unheard)) = answer.send(Err(told)) {
            unreported = Some(unheard).filter(|it| !matches!(it, Trouble::Reported(_)));
        }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
