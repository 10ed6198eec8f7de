//! hyper with a connection to Redis of its own, which all requests share without waiting for each other: the most that
//! tokio and hyper can do where answers are in Redis. Owns that connection.

use std::{cell::RefCell, collections::VecDeque, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
    task::{spawn_local, yield_now},
};

use super::{
    Source, bare_hyper,
    resp::{self, Reply},
};

/// What the keys of this peer begin with, so that it can share a Redis with others.
const PREFIX: &str = "hyper:";

/// How much is read at a time, at least.
const CHUNK: usize = 64 * 1024;

/// The connection, as requests see it.
#[derive(Default)]
struct Redis {
    pipeline: RefCell<Pipeline>,
    asked: Notify,
}

#[derive(Default)]
struct Pipeline {
    /// Commands to send.
    out: Vec<u8>,
    /// Who waits, in the order in which Redis answers.
    waiting: VecDeque<oneshot::Sender<Option<Bytes>>>,
}

impl Redis {
    /// The reply to a command that `write` adds: a value, or nothing.
    async fn ask(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<Option<Bytes>> {
        let (sender, reply) = oneshot::channel();
        {
            let mut pipeline = self.pipeline.borrow_mut();
            write(&mut pipeline.out);
            pipeline.waiting.push_back(sender);
        }
        self.asked.notify_one();
        reply.await.context("the connection to Redis has ended")
    }
}

pub(super) async fn serve(
    listen: SocketAddr,
    source: Source,
    ttl: Duration,
    address: SocketAddr,
) -> Result<()> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let redis = Rc::new(Redis::default());
    let source = Rc::new(source);
    spawn_local(write(writer, Rc::clone(&redis)));
    let reading = read(reader, Rc::clone(&redis));
    let answer = move |key: String| {
        let (redis, source) = (Rc::clone(&redis), Rc::clone(&source));
        async move {
            if let Some(body) = redis.ask(|out| resp::get(out, PREFIX, &key)).await? {
                return Ok(body);
            }
            let body = source.load(&key).await;
            redis
                .ask(|out| resp::set(out, PREFIX, &key, &body, ttl.as_secs()))
                .await?;
            Ok(body.into())
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = bare_hyper::serve(listen, answer) => ended,
    }
}

async fn write(mut stream: OwnedWriteHalf, redis: Rc<Redis>) -> Result<()> {
    let mut out = Vec::new();
    loop {
        redis.asked.notified().await;
        // Whoever else is ready to ask does so first, and one write takes all of it.
        yield_now().await;
        std::mem::swap(&mut out, &mut redis.pipeline.borrow_mut().out);
        stream.write_all(&out).await?;
        out.clear();
    }
}

async fn read(mut stream: OwnedReadHalf, redis: Rc<Redis>) -> Result<()> {
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(CHUNK);
        if stream.read_buf(&mut bytes).await? == 0 {
            bail!("Redis has closed the connection");
        }
        while let Some((reply, length)) = resp::reply(&bytes)? {
            // Not copied: the answer is a part of what was read.
            let whole = bytes.split_to(length).freeze();
            let value = match reply {
                Reply::Value(value) => Some(whole.slice(value)),
                Reply::Nothing | Reply::Done => None,
            };
            if let Some(sender) = redis.pipeline.borrow_mut().waiting.pop_front() {
                // Who has left meanwhile needs no answer.
                let _ = sender.send(value);
            }
        }
    }
}
