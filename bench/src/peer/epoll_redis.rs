//! A bare epoll loop that asks Redis for every request: the limit of the kernel where answers are in Redis. Owns the
//! connection to Redis and who waits for what on it.
//!
//! All that was asked in one round of events goes to Redis in one write.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Source,
    epoll::{self, Answers, Client, Clients},
    resp::{self, Reply},
};

/// What the keys of this peer begin with, so that it can share a Redis with others.
const PREFIX: &str = "epoll:";

/// Room for what Redis says at once: so many clients, so large a value.
const ROOM: usize = 4 * 1024 * 1024;

/// How much is read at a time: what is sent on at once is still in the core's own cache.
const CHUNK: usize = 128 * 1024;

/// Who waits for a reply.
enum Waiting {
    Get(Client, String),
    Set,
}

struct Shared {
    redis: TcpStream,
    source: Source,
    ttl_seconds: u64,
    /// Commands to send.
    out: Vec<u8>,
    /// Who waits, in the order in which Redis answers.
    waiting: VecDeque<Waiting>,
    /// What Redis has said; from `seen` to `heard` is yet to be read.
    replies: Vec<u8>,
    heard: usize,
}

pub(super) fn serve(
    listen: SocketAddr,
    source: Source,
    ttl: Duration,
    redis: SocketAddr,
) -> Result<()> {
    let redis = TcpStream::connect(redis).with_context(|| format!("cannot reach {redis}"))?;
    redis.set_nodelay(true)?;
    redis.set_nonblocking(true)?;
    let shared = Shared {
        redis,
        source,
        ttl_seconds: ttl.as_secs(),
        out: Vec::new(),
        waiting: VecDeque::new(),
        replies: vec![0; ROOM],
        heard: 0,
    };
    epoll::serve(listen, shared)
}

impl Answers for Shared {
    fn backend(&self) -> Option<BorrowedFd<'_>> {
        Some(self.redis.as_fd())
    }

    fn asked(&mut self, _clients: &mut Clients, who: Client, key: &str) -> Result<()> {
        resp::get(&mut self.out, PREFIX, key);
        self.waiting.push_back(Waiting::Get(who, key.to_owned()));
        Ok(())
    }

    fn heard(&mut self, clients: &mut Clients) -> Result<()> {
        ensure!(self.heard < ROOM, "Redis says more than there is room for");
        let end = ROOM.min(self.heard + CHUNK);
        match self.redis.read(&mut self.replies[self.heard..end]) {
            Ok(0) => bail!("Redis has closed the connection"),
            Ok(length) => self.heard += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let mut seen = 0;
        while let Some((reply, length)) = resp::reply(&self.replies[seen..self.heard])? {
            let bytes = &self.replies[seen..seen + length];
            match (self.waiting.pop_front(), reply) {
                (Some(Waiting::Get(who, _)), Reply::Value(value)) => {
                    clients.answer(who, &bytes[value])?;
                }
                (Some(Waiting::Get(who, key)), Reply::Nothing) => {
                    let body = self.source.load_at_once(&key);
                    resp::set(&mut self.out, PREFIX, &key, &body, self.ttl_seconds);
                    self.waiting.push_back(Waiting::Set);
                    clients.answer(who, &body)?;
                }
                (Some(Waiting::Set), Reply::Done) => {}
                _ => bail!("Redis answered what nobody had asked"),
            }
            seen += length;
        }
        self.replies.copy_within(seen..self.heard, 0);
        self.heard -= seen;
        Ok(())
    }

    fn all_asked(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        // What 64 clients ask for fits into the socket's buffer; the rest, if ever, goes with the next round.
        match self.redis.write(&self.out) {
            Ok(length) => drop(self.out.drain(..length)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
