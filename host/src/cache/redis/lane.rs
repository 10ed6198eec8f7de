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
use super::link::{IN_FLIGHT_MAX, Trouble};
use super::names::Names;
use super::resp::{Garbage, READ, Token, Tokens, Whole, begin, push};
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
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::key::Resource;

    const LIMIT: Duration = Duration::from_millis(100);

    fn key(value: &str) -> Key {
        Key::new(&Resource::new("/r", [value]), "demo~1", &[]).unwrap()
    }

    /// A server that answers when it is told to.
    struct Peer {
        stream: DuplexStream,
        tokens: Tokens,
    }

    impl Peer {
        /// The next command that is sent.
        async fn command(&mut self) -> Vec<String> {
            let (mut whole, mut words) = (Whole::default(), None);
            while words.is_none() {
                match self.tokens.next().unwrap() {
                    Some(token) => words = whole.add(token).unwrap(),
                    None => {
                        let count = self.stream.read_buf(self.tokens.room()).await.unwrap();
                        assert!(count > 0, "the lane has left");
                    }
                }
            }
            redis::from_redis_value(words.unwrap().unwrap()).unwrap()
        }

        /// The values of the resources whose keys are asked for next.
        async fn asked(&mut self) -> Vec<String> {
            let command = self.command().await;
            assert_eq!(command[0], "MGET");
            let keys = command[1..].chunks(2);
            keys.map(|keys| {
                let value = keys[1].strip_prefix("larder:g:{%2Fr:");
                let value = value.and_then(|value| value.strip_suffix("}"));
                let value = value.unwrap_or_else(|| panic!("{keys:?}")).to_owned();
                assert_eq!(keys[0], format!("larder:e:{}", key(&value).text()));
                value
            })
            .collect()
        }

        async fn answer(&mut self, text: &str) {
            self.stream.write_all(text.as_bytes()).await.unwrap();
        }

        /// Answers with entries, each of generation 1.
        async fn give(&mut self, entries: &[&str]) {
            let mut answer = format!("*{}\r\n", 2 * entries.len());
            for entry in entries {
                answer.push_str(&format!("${}\r\n{entry}\r\n$1\r\n1\r\n", entry.len()));
            }
            self.answer(&answer).await;
        }

        /// Nothing was sent but what was read.
        async fn is_asked_nothing(&mut self) {
            let more = tokio::time::timeout(LIMIT / 2, self.command()).await;
            assert!(more.is_err(), "{more:?}");
        }
    }

    struct Stage {
        lane: Arc<Lane>,
        peer: Peer,
        losses: Arc<AtomicUsize>,
    }

    impl Stage {
        /// A lane and its server, with so many bytes between them.
        fn with(clustered: bool, between: usize) -> Self {
            let (ours, theirs) = duplex(between);
            let losses = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&losses);
            let lost = move || {
                counted.fetch_add(1, Ordering::SeqCst);
            };
            let how = (LIMIT, clustered);
            let lane = Lane::new(Box::new(ours), Names::new("larder"), how, lost);
            Self {
                lane: Arc::new(lane),
                peer: Peer {
                    stream: theirs,
                    tokens: Tokens::default(),
                },
                losses,
            }
        }

        fn new() -> Self {
            Self::with(false, 1 << 20)
        }

        /// Looks this up, in a task of its own.
        fn ask(&self, value: &str) -> JoinHandle<Result<Held, Trouble>> {
            let (lane, key) = (Arc::clone(&self.lane), key(value));
            tokio::spawn(async move { lane.look_up(&key).await })
        }

        fn losses(&self) -> usize {
            self.losses.load(Ordering::SeqCst)
        }
    }

    fn held(entry: &str) -> Result<Held, Trouble> {
        Ok((Some(entry.to_owned().into()), Some("1".into())))
    }

    // One thread: what is asked before the test waits is asked in one turn. And a clock that stands while anybody has something
    // to do, and goes to the end of the limit when nobody has.
    #[tokio::test(start_paused = true)]
    async fn what_is_asked_in_a_turn_is_one_command_and_in_a_cluster_one_each() {
        for (clustered, expected) in [
            (false, vec![vec!["1", "2"]]),
            (true, vec![vec!["1"], vec!["2"]]),
        ] {
            let mut stage = Stage::with(clustered, 1 << 20);
            let (one, other) = (stage.ask("1"), stage.ask("2"));
            for values in expected {
                assert_eq!(stage.peer.asked().await, values);
                stage.peer.give(&values).await;
            }
            assert_eq!(one.await.unwrap(), held("1"));
            assert_eq!(other.await.unwrap(), held("2"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_command_takes_is_asked_in_two() {
        let mut stage = Stage::new();
        let values: Vec<_> = (0..=GATHERED_MAX).map(|value| value.to_string()).collect();
        let asks: Vec<_> = values.iter().map(|value| stage.ask(value)).collect();
        for part in values.chunks(GATHERED_MAX) {
            assert_eq!(stage.peer.asked().await, part);
            let part: Vec<_> = part.iter().map(String::as_str).collect();
            stage.peer.give(&part).await;
        }
        for (ask, value) in asks.into_iter().zip(values) {
            assert_eq!(ask.await.unwrap(), held(&value));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_not_asked_for() {
        let mut stage = Stage::new();
        let (leaving, leaves) = (key("1"), key("2"));
        // Asked, and dropped before the lane has its turn.
        assert!(stage.lane.look_up(&leaving).now_or_never().is_none());
        let stays = stage.ask("3");
        assert!(stage.lane.look_up(&leaves).now_or_never().is_none());
        assert_eq!(stage.peer.asked().await, ["3"]);
        stage.peer.give(&["3"]).await;
        assert_eq!(stays.await.unwrap(), held("3"));
        assert!(stage.lane.look_up(&leaves).now_or_never().is_none());
        stage.peer.is_asked_nothing().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_answered_too_late_is_nobodys_and_shifts_nothing() {
        let mut stage = Stage::new();
        let late = [stage.ask("1"), stage.ask("2")];
        assert_eq!(stage.peer.asked().await, ["1", "2"]);
        let [one, other] = late;
        assert_eq!(one.await.unwrap(), Err(Trouble::Slow(LIMIT)));
        // It is one answer that is missing.
        assert!(matches!(other.await.unwrap(), Err(Trouble::Reported(_))));
        let mut command = redis::cmd("PING");
        let also_late = stage.lane.ask(command.arg("late"), LIMIT).await;
        assert_eq!(also_late, Err(Trouble::Slow(LIMIT)));
        assert_eq!(stage.peer.command().await, ["PING", "late"]);

        let (lane, next) = (Arc::clone(&stage.lane), stage.ask("3"));
        let ping = tokio::spawn(async move { lane.ask(&redis::cmd("PING"), LIMIT).await });
        assert_eq!(stage.peer.asked().await, ["3"]);
        assert_eq!(stage.peer.command().await, ["PING"]);
        stage.peer.give(&["old 1", "old 2"]).await;
        stage.peer.answer("$4\r\nlate\r\n").await;
        stage.peer.give(&["new 3"]).await;
        stage.peer.answer("+PONG\r\n").await;
        assert_eq!(next.await.unwrap(), held("new 3"));
        let pong = Value::SimpleString("PONG".into());
        assert_eq!(ping.await.unwrap(), Ok(pong));
        assert_eq!(stage.losses(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn half_an_answer_is_had_by_half_of_those_who_asked() {
        let mut stage = Stage::new();
        let (one, other) = (stage.ask("1"), stage.ask("2"));
        assert_eq!(stage.peer.asked().await, ["1", "2"]);
        stage
            .peer
            .answer("*4\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n2")
            .await;
        assert_eq!(one.await.unwrap(), held("1"), "before the rest is there");
        assert_eq!(other.await.unwrap(), Err(Trouble::Slow(LIMIT)));
        let next = stage.ask("3");
        assert_eq!(stage.peer.asked().await, ["3"]);
        stage.peer.answer("\r\n$-1\r\n").await;
        stage.peer.give(&["3"]).await;
        assert_eq!(next.await.unwrap(), held("3"));
    }

    #[tokio::test(start_paused = true)]
    async fn each_command_has_its_own_limit() {
        let mut stage = Stage::new();
        let first = stage.ask("1");
        assert_eq!(stage.peer.asked().await, ["1"]);
        tokio::time::advance(LIMIT / 2).await;
        let second = stage.ask("2");
        assert_eq!(stage.peer.asked().await, ["2"]);
        let asked = Instant::now();
        assert_eq!(first.await.unwrap(), Err(Trouble::Slow(LIMIT)));
        // The timer has a resolution of a millisecond.
        let slack = Duration::from_millis(2);
        assert!(asked.elapsed() <= LIMIT / 2 + slack);
        assert_eq!(second.await.unwrap(), Err(Trouble::Slow(LIMIT)));
        assert!(asked.elapsed() >= LIMIT && asked.elapsed() <= LIMIT + slack);
        // And what is asked after a time in which nothing was.
        tokio::time::advance(10 * LIMIT).await;
        let (third, asked) = (stage.ask("3"), Instant::now());
        assert_eq!(third.await.unwrap(), Err(Trouble::Slow(LIMIT)));
        assert!(asked.elapsed() >= LIMIT && asked.elapsed() <= LIMIT + slack);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_in_an_answer_is_lost_once() {
        let mut stage = Stage::new();
        let (one, other) = (stage.ask("1"), stage.ask("2"));
        assert_eq!(stage.peer.asked().await, ["1", "2"]);
        let lane = Arc::clone(&stage.lane);
        let ping = tokio::spawn(async move { lane.ask(&redis::cmd("PING"), LIMIT).await });
        let later = stage.ask("3");
        assert_eq!(stage.peer.asked().await, ["3"]);
        stage
            .peer
            .answer("*4\r\n$1\r\n1\r\n$1\r\n1\r\n$1000\r\n2")
            .await;
        assert_eq!(one.await.unwrap(), held("1"));
        let between = duplex(1).0;
        drop(std::mem::replace(&mut stage.peer.stream, between));
        let lost = Trouble::Lost("the connection was closed".into());
        assert_eq!(other.await.unwrap(), Err(lost.clone()));
        let reported = Trouble::Reported(lost.to_string());
        assert_eq!(later.await.unwrap(), Err(reported));
        assert_eq!(ping.await.unwrap(), Err(lost));
        assert_eq!(stage.losses(), 1);
        assert_eq!(stage.ask("4").await.unwrap(), Err(ended()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_while_the_connection_breaks_is_lost_with_it_once() {
        let stage = Stage::new();
        // The lane waits.
        tokio::task::yield_now().await;
        drop(stage.peer);
        // Asked before it has its turn: it sees the end first, and then the questions.
        let (one, other) = (key("1"), key("2"));
        let (one, other) =
            tokio::join!(biased; stage.lane.look_up(&one), stage.lane.look_up(&other));
        let lost = Trouble::Lost("the connection was closed".into());
        assert_eq!(one, Err(lost.clone()));
        assert_eq!(other, Err(Trouble::Reported(lost.to_string())));
        assert_eq!(stage.losses.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_while_nobody_asks_is_lost_too() {
        for last_words in ["", "-ERR max number of clients reached\r\n", "+OK\r\n"] {
            let mut stage = Stage::new();
            stage.peer.answer(last_words).await;
            drop(stage.peer);
            while stage.losses.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            let asked = stage.lane.look_up(&key("1")).await;
            assert_eq!(asked, Err(ended()), "{last_words}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_answer_is_the_end_of_the_connection() {
        let mut stage = Stage::new();
        let ask = stage.ask("1");
        assert_eq!(stage.peer.asked().await, ["1"]);
        stage.peer.answer("HTTP/1.1 400 Bad Request\r\n").await;
        assert!(matches!(ask.await.unwrap(), Err(Trouble::Lost(_))));
        assert_eq!(stage.losses(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_of_its_command_and_strange_values_are_none() {
        let mut stage = Stage::new();
        let mut check = async |answer: &str, expected: Result<Held, Trouble>| {
            let ask = stage.ask("1");
            assert_eq!(stage.peer.asked().await, ["1"]);
            stage.peer.answer(answer).await;
            assert_eq!(ask.await.unwrap(), expected, "{answer}");
        };
        let one = || Some("1".into());
        let moved = "MOVED 7 127.0.0.1:1";
        check(&format!("-{moved}\r\n"), Err(Trouble::Moved(moved.into()))).await;
        check("*2\r\n$-1\r\n$1\r\n1\r\n", Ok((None, one()))).await;
        check("*2\r\n:7\r\n$1\r\n1\r\n", Ok((None, one()))).await;
        let nested = "*2\r\n*2\r\n*1\r\n$1\r\na\r\n*0\r\n$1\r\n1\r\n";
        check(nested, Ok((None, one()))).await;
        check("*2\r\n$1\r\n1\r\n*2\r\n:1\r\n:2\r\n", Ok((one(), None))).await;
        let strange = |what: &str| {
            Err(Trouble::Strange(format!(
                "MGET was not answered with {what}"
            )))
        };
        for answer in [
            "*0\r\n",
            "*1\r\n$1\r\na\r\n",
            "*3\r\n:1\r\n*1\r\n:2\r\n:3\r\n",
        ] {
            check(answer, strange("a value for each key")).await;
        }
        for answer in ["$-1\r\n", "+OK\r\n", "$2\r\nab\r\n", ":4\r\n"] {
            check(answer, strange("a list")).await;
        }
        check("*2\r\n$1\r\n1\r\n$1\r\n1\r\n", held("1")).await;
        assert_eq!(stage.losses(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_among_short_ones_and_a_long_command_go_through() {
        // Less than is read at once, and more: then there is more when a read has ended, and nobody says so.
        for between in [1000, 1 << 22] {
            long_ones_go_through(Stage::with(false, between)).await;
        }
    }

    async fn long_ones_go_through(mut stage: Stage) {
        let long = "long ".repeat(200_000);
        let asks = ["1", "2", "3"].map(|value| stage.ask(value));
        assert_eq!(stage.peer.asked().await, ["1", "2", "3"]);
        stage.peer.give(&["1", &long, "3"]).await;
        for (ask, entry) in asks.into_iter().zip(["1", &long, "3"]) {
            assert_eq!(ask.await.unwrap(), held(entry));
        }
        let (lane, sent) = (Arc::clone(&stage.lane), long.clone());
        let store = tokio::spawn(async move {
            let mut command = redis::cmd("SET");
            lane.ask(command.arg("key").arg(sent), LIMIT).await
        });
        assert_eq!(stage.peer.command().await, ["SET", "key", &long]);
        stage.peer.answer("+OK\r\n").await;
        assert_eq!(store.await.unwrap(), Ok(Value::Okay));
    }

    #[tokio::test(start_paused = true)]
    async fn law_12_what_is_not_answered_is_bounded_also_when_nobody_waits_for_it() {
        let mut stage = Stage::with(true, 1 << 20);
        for _ in 0..IN_FLIGHT_MAX / 2 {
            let asks = [stage.ask("1"), stage.ask("2")];
            for ask in asks {
                assert_eq!(ask.await.unwrap(), Err(Trouble::Slow(LIMIT)));
            }
        }
        assert_eq!(stage.ask("3").await.unwrap(), Err(Trouble::Crowded));
        stage.peer.give(&["1"]).await;
        let ask = stage.ask("3");
        for _ in 1..IN_FLIGHT_MAX {
            stage.peer.give(&["1"]).await;
        }
        stage.peer.give(&["3"]).await;
        assert_eq!(ask.await.unwrap(), held("3"));
    }

    #[tokio::test]
    async fn law_12_what_the_socket_has_is_let_go_though_there_is_always_more() {
        let (ours, mut theirs) = duplex(READ);
        let mut wire = Wire::new(Box::new(ours), (LIMIT, GATHERED_MAX), Arc::default());
        let (mut taken, more) = (vec![0; READ], vec![b'x'; READ]);
        wire.out.extend_from_slice(&more);
        for _ in 0..200 {
            wire.out.extend_from_slice(&more);
            // Each in a turn of its own: the runtime lets a task do so much in one.
            tokio::task::yield_now().await;
            let sent = poll_fn(|context| Poll::Ready(wire.send(context))).await;
            assert!(sent.is_ok() && !wire.out.is_empty());
            tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut taken)
                .await
                .unwrap();
        }
        assert!(
            wire.out.capacity() <= 4 * KEPT_MAX,
            "{}",
            wire.out.capacity()
        );
    }
}
