//! The load of writes: connections that PUT one numbered thing after the other, as fast as they are answered. Owns HTTP on
//! this side, as lean as it can be, and the numbers; must not know who is under load.
//!
//! `wrk` does not do, because it cannot say which writes were acknowledged: here every number that is given out is
//! acknowledged when a burst ends, or the burst has failed. So the database can be asked for each of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest head and body of an answer.
const ANSWER_MAX: usize = 64 << 10;

/// When a burst ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    /// Nothing more is sent after this; what was sent is waited for.
    Over(Duration),
    /// So many writes are acknowledged.
    Count(u64),
}

/// Whom to write to, and how.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    /// The status that acknowledges the write of a new thing.
    pub(crate) status: u16,
}

/// What came of a burst: the numbers from the first on were acknowledged, all of them.
#[derive(Clone, Copy)]
pub(crate) struct Burst {
    pub(crate) acknowledged: u64,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// What the connections of a burst share.
#[derive(Clone, Copy)]
struct Plan {
    target: Target,
    first: u64,
    until: Until,
    started: Instant,
}

/// Writes the things `first`, `first + 1`, …, each once. Any other answer, or none, is an error.
pub(crate) async fn burst(target: Target, first: u64, until: Until) -> Result<Burst> {
    let mut streams = Vec::new();
    for _ in 0..target.connections {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let given = Arc::new(AtomicU64::new(0));
    let plan = Plan {
        target,
        first,
        until,
        started: Instant::now(),
    };
    let mut connections = JoinSet::new();
    for stream in streams {
        connections.spawn(write(stream, plan, Arc::clone(&given)));
    }
    let mut latencies = Vec::new();
    while let Some(written) = connections.join_next().await {
        latencies.extend(written??);
    }
    let seconds = plan.started.elapsed().as_secs_f64();
    ensure!(!latencies.is_empty(), "nothing was written");
    latencies.sort_unstable();
    let percentile = |of: usize| u64::from(latencies[(latencies.len() - 1) * of / 100]);
    Ok(Burst {
        acknowledged: latencies.len() as u64,
        seconds,
        p50_us: percentile(50),
        p99_us: percentile(99),
    })
}

/// One connection; how long each answer took, in microseconds.
async fn write(mut stream: TcpStream, plan: Plan, given: Arc<AtomicU64>) -> Result<Vec<u32>> {
    let mut latencies = Vec::new();
    let mut answer = Vec::with_capacity(4096);
    while let Some(number) = plan.next(&given) {
        let request = request(plan.target.address, number);
        let sent = Instant::now();
        let acknowledged = timeout(PATIENCE, async {
            stream.write_all(request.as_bytes()).await?;
            read(&mut stream, &mut answer).await
        });
        let status = acknowledged
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))
            .flatten()
            .with_context(|| format!("PUT of thing {number}"))?;
        ensure!(
            status == plan.target.status,
            "PUT of thing {number} was answered with {status}, not with {}: {}",
            plan.target.status,
            String::from_utf8_lossy(&answer)
        );
        latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(latencies)
}

impl Plan {
    fn next(&self, given: &AtomicU64) -> Option<u64> {
        let is_over = match self.until {
            Until::Over(length) => self.started.elapsed() >= length,
            Until::Count(_) => false,
        };
        if is_over {
            return None;
        }
        let place = given.fetch_add(1, Ordering::Relaxed);
        match self.until {
            Until::Count(count) if place >= count => None,
            _ => Some(self.first + place),
        }
    }
}

fn request(address: SocketAddr, number: u64) -> String {
    let body = format!("{{\"value\":{number}}}");
    format!(
        "PUT /things/{number} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer, which is then in the buffer; its status.
async fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<u16> {
    answer.clear();
    loop {
        ensure!(stream.read_buf(answer).await? > 0, "the connection broke");
        if let Some((status, len)) = parse(answer)? {
            match answer.len() {
                found if found == len => return Ok(status),
                found if found > len => bail!("more was answered than asked for"),
                _ => {}
            }
        }
        ensure!(answer.len() <= ANSWER_MAX, "the answer is too long");
    }
}

/// The status of an answer and how long it is with its body; none: its head is not whole yet.
pub(crate) fn parse(answer: &[u8]) -> Result<Option<(u16, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = head.parse(answer)? else {
        return Ok(None);
    };
    let status = head.code.context("there is no status")?;
    let named = |name: &str| {
        let mut headers = head.headers.iter();
        headers.find(|header| header.name.eq_ignore_ascii_case(name))
    };
    ensure!(
        named("transfer-encoding").is_none(),
        "the answer comes in chunks, which nobody here needs"
    );
    let body = match named("content-length") {
        Some(header) => str::from_utf8(header.value)?.trim().parse()?,
        None => 0,
    };
    Ok(Some((status, len + body)))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_is_as_long_as_its_head_and_its_body() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\n{}\n";
        assert_eq!(parse(whole).unwrap(), Some((202, whole.len())));
        assert_eq!(parse(&whole[..30]).unwrap(), None);
        let bare = b"HTTP/1.1 200 OK\r\n\r\n";
        assert_eq!(parse(bare).unwrap(), Some((200, bare.len())));
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse(b"SMTP\r\n\r\n").is_err());
    }
}
