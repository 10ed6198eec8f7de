//! A lane over a pipe whose other end the test holds: what is asked, in which order it is answered, and what is left when
//! either side stops.

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
    let (one, other) = tokio::join!(biased; stage.lane.look_up(&one), stage.lane.look_up(&other));
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
