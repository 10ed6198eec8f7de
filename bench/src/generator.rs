//! A load of the program's own: many connections, driven by one thread that does nothing else. Asks as fast as it is answered,
//! or at a fixed rate whatever is answered; judges every answer, and says when it could not keep up itself.
//! Owns sockets and clocks; must not know what is asked for, nor of whom.
//!
//! `wrk` would do for the first, but not for keys that never come again whose answers are to be compared, and not at all for
//! the second: it asks when it was answered, so a server that stands still is asked nothing meanwhile, and nobody waits.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};
use tokio::sync::oneshot;

use crate::{
    process,
    script::{Asked, Script},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest head and body of an answer.
const ANSWER_MAX: usize = 256 << 10;

/// How many answers are read before it is looked what is due: to read one takes some microseconds, and 64 of them would make the
/// load late by itself whenever a server has stood still.
const READ_AT_ONCE: usize = 8;

/// When requests are made.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// The next as soon as there is an answer, on every connection.
    Closed,
    /// So many a second, each when it is due.
    Open(f64),
}

/// A load.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    /// The cores that its thread may use.
    pub(crate) cores: Vec<usize>,
    pub(crate) pace: Pace,
    /// At the start, how long what is due does not count: a server first has to accept the connections.
    pub(crate) lead: Duration,
    pub(crate) length: Duration,
}

/// What came of it. Every request was answered, and rightly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    /// From the first request that counts to the last answer.
    pub(crate) seconds: f64,
    /// How long answers took; of [`Pace::Open`] from when the request was due.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Of [`Pace::Open`], the longest time between two looks at its sockets: how long somebody else had the load's core.
    pub(crate) gap: Duration,
    /// How much later than it could a request was made: it was due, and a connection was free. What the generator itself adds.
    pub(crate) late_p99: Duration,
}

impl Load {
    /// Asks for what the script says, for as long as the load lasts. The script comes back, to go on from where it is.
    pub(crate) async fn run(self, mut script: Script) -> Result<(Outcome, Script)> {
        let (done, outcome) = oneshot::channel();
        // A thread of its own, because it is pinned and never yields; it ends with the load.
        thread::Builder::new().name("load".into()).spawn(move || {
            let outcome = self.drive(&mut script);
            let _ = done.send(outcome.map(|outcome| (outcome, script)));
        })?;
        outcome.await.context("the load has ended without a word")?
    }

    fn drive(&self, script: &mut Script) -> Result<Outcome> {
        process::pin_among(&self.cores)?;
        let mut driver = Driver::connect(self)?;
        match self.pace {
            Pace::Closed => driver.closed(script, self.length)?,
            Pace::Open(rate) => driver.open(script, rate, self.length)?,
        }
        driver.outcome()
    }
}

/// One connection, with at most one request under way.
struct Connection {
    stream: TcpStream,
    asked: Asked,
    answer: Vec<u8>,
    /// From when the answer is waited for.
    since: Option<Instant>,
    /// When the last answer was there.
    free: Instant,
}

struct Driver {
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
    connections: Vec<Connection>,
    /// Those that nothing is under way on; who is free longest comes first, so that all are used.
    idle: VecDeque<usize>,
    started: Instant,
    /// What was due earlier does not count.
    counted: Instant,
    last: Instant,
    gap: Duration,
    took: Vec<Duration>,
    late: Vec<Duration>,
}

impl Driver {
    fn connect(load: &Load) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::new();
        for number in 0..load.connections {
            let stream = TcpStream::connect(load.address)
                .with_context(|| format!("cannot connect to {}", load.address))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
            connections.push(Connection {
                stream,
                asked: Asked::default(),
                answer: Vec::with_capacity(4096),
                since: None,
                free: Instant::now(),
            });
        }
        let now = Instant::now();
        Ok(Self {
            epoll,
            events: Vec::with_capacity(match load.pace {
                Pace::Closed => load.connections,
                Pace::Open(_) => READ_AT_ONCE,
            }),
            idle: (0..connections.len()).collect(),
            connections,
            started: now,
            counted: now + load.lead,
            last: now,
            gap: Duration::ZERO,
            took: Vec::new(),
            late: Vec::new(),
        })
    }

    fn closed(&mut self, script: &mut Script, length: Duration) -> Result<()> {
        while self.started.elapsed() < length {
            while let Some(number) = self.idle.pop_front() {
                let now = Instant::now();
                self.send(number, now, script)?;
            }
            self.receive(script, Some(PATIENCE))?;
        }
        self.drain(script)
    }

    fn open(&mut self, script: &mut Script, rate: f64, length: Duration) -> Result<()> {
        let total = (rate * length.as_secs_f64()) as u64;
        let mut sent = 0;
        let mut looked = self.counted;
        while sent < total {
            let due = self.started + Duration::from_secs_f64(sent as f64 / rate);
            let now = Instant::now();
            self.gap = self.gap.max(now.saturating_duration_since(looked));
            looked = now.max(looked);
            match self.idle.pop_front() {
                Some(number) if due <= now => {
                    let possible = due.max(self.connections[number].free);
                    if due >= self.counted {
                        self.late.push(now.saturating_duration_since(possible));
                    }
                    self.send(number, due, script)?;
                    sent += 1;
                    continue;
                }
                Some(number) => self.idle.push_front(number),
                None => {}
            }
            // Asked without waiting: no clock of the kernel wakes anybody within the 20 µs between two requests.
            self.receive(script, Some(Duration::ZERO))?;
        }
        self.drain(script)
    }

    /// Waits for all that is under way.
    fn drain(&mut self, script: &mut Script) -> Result<()> {
        while self.idle.len() < self.connections.len() {
            self.receive(script, Some(PATIENCE))?;
        }
        Ok(())
    }

    fn send(&mut self, number: usize, since: Instant, script: &mut Script) -> Result<()> {
        let connection = &mut self.connections[number];
        script.next(&mut connection.asked);
        connection.since = Some(since);
        // A request is smaller than any socket's buffer, and no other is in there.
        let request = &connection.asked.request;
        let written = connection.stream.write(request)?;
        ensure!(
            written == request.len(),
            "a request was not taken whole: {written} of {} bytes",
            request.len()
        );
        Ok(())
    }

    /// Reads what has been answered, waiting no longer than `limit` for something.
    fn receive(&mut self, script: &Script, limit: Option<Duration>) -> Result<()> {
        let limit = limit.map(Timespec::try_from).transpose()?;
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if events.is_empty() && limit.is_some_and(|limit| limit.tv_sec > 0) {
            bail!("no answer within {PATIENCE:?}");
        }
        for event in events.drain(..) {
            self.read(event.data.u64() as usize, script)?;
        }
        self.events = events;
        Ok(())
    }

    fn read(&mut self, number: usize, script: &Script) -> Result<()> {
        let connection = &mut self.connections[number];
        let mut chunk = [0; 16 << 10];
        match connection.stream.read(&mut chunk) {
            Ok(0) => bail!("the server closed a connection"),
            Ok(read) => connection.answer.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        ensure!(
            connection.answer.len() <= ANSWER_MAX,
            "an answer is too long"
        );
        let now = Instant::now();
        let since = connection
            .since
            .context("an answer came that nobody has asked for")?;
        if script.is_answered(&connection.asked, &connection.answer)? {
            connection.answer.clear();
            connection.since = None;
            connection.free = now;
            self.last = now;
            if since >= self.counted {
                self.took.push(now.saturating_duration_since(since));
            }
            self.idle.push_back(number);
        }
        Ok(())
    }

    fn outcome(mut self) -> Result<Outcome> {
        ensure!(!self.took.is_empty(), "nothing that counts was asked for");
        self.took.sort_unstable();
        self.late.sort_unstable();
        Ok(Outcome {
            requests: self.took.len() as u64,
            seconds: (self.last - self.counted).as_secs_f64(),
            p50: percentile(&self.took, 50),
            p99: percentile(&self.took, 99),
            gap: self.gap,
            late_p99: percentile(&self.late, 99),
        })
    }
}

/// The value that so many percent of these, which are sorted, do not pass; nothing of nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Paths;

    /// Answers what it is asked on one connection, the first request after `delay`.
    fn server(delay: Duration) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            thread::park_timeout(delay);
            while stream.read(&mut request).is_ok_and(|read| read > 0) {
                let key = std::str::from_utf8(&request[10..15]).unwrap();
                let body = format!("{{\"data\":\"about {key}\"}}");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}", body.len());
                let answer = format!("{head}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    async fn outcome(delay: Duration, pace: Pace) -> Outcome {
        outcome_after(Duration::ZERO, delay, pace).await
    }

    async fn outcome_after(lead: Duration, delay: Duration, pace: Pace) -> Outcome {
        let address = server(delay);
        let load = Load {
            address,
            connections: 1,
            cores: vec![process::Cores::allowed().unwrap().load],
            pace,
            lead,
            length: Duration::from_millis(500),
        };
        let script = Script::new(Paths::Known, address, "about {key}", None).unwrap();
        load.run(script).await.unwrap().0
    }

    #[tokio::test]
    async fn a_server_that_stands_still_is_waited_for_from_when_requests_are_due() {
        let delay = Duration::from_millis(400);
        // One of the closed loop waits; four fifths of those of the open one do.
        let closed = outcome(delay, Pace::Closed).await;
        assert!(closed.p50 < delay / 10, "{closed:?}");
        let open = outcome(delay, Pace::Open(200.0)).await;
        assert_eq!(open.requests, 100);
        assert!(open.p50 > delay / 10, "{open:?}");
        assert!(open.p99 > delay / 2, "{open:?}");
        assert!(open.late_p99 < delay / 10, "{open:?}");
    }

    #[tokio::test]
    async fn what_is_due_while_the_server_gets_ready_does_not_count() {
        let (lead, delay) = (Duration::from_millis(300), Duration::from_millis(100));
        let open = outcome_after(lead, delay, Pace::Open(200.0)).await;
        assert_eq!(open.requests, 40);
        assert!(open.p99 < delay / 2, "{open:?}");
        assert!(open.seconds < 0.4, "{open:?}");
        assert!(open.gap < Duration::from_millis(200), "{open:?}");
    }

    #[test]
    fn of_a_hundred_the_99th_is_the_last_but_one() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 99), Duration::from_millis(99));
        assert_eq!(percentile(&times, 50), Duration::from_millis(50));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
