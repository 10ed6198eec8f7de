//! A TCP connection of WASI 0.3 as tokio's traits see one. Owns one read and one write in flight; must not know what is sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasip3::clocks::monotonic_clock;
use wasip3::sockets::types::{ErrorCode, TcpSocket};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::wit_stream;

/// How much is read or written at a time.
const CHUNK: usize = 16 << 10;
/// After so much that was there without waiting, a pause: what is made of it is computing, and `[limits] cpu` is the longest
/// that may go on without one.
const BREATH: usize = 128 << 10;

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// A connection.
pub(crate) struct Stream {
    reading: Reading,
    /// What was read since the last wait.
    unpaused: usize,
    writing: Writing,
    /// How the receiving ended, once it has.
    received: Option<Boxed<Result<(), ErrorCode>>>,
    /// Held as long as the connection: dropped, it would close.
    _socket: TcpSocket,
}

enum Reading {
    /// What has come and was not taken yet, and where from there is more.
    Idle {
        reader: StreamReader<u8>,
        came: Vec<u8>,
        taken: usize,
    },
    Busy(Boxed<(StreamReader<u8>, StreamResult, Vec<u8>)>),
    /// Nothing more will come.
    Ended,
}

enum Writing {
    Idle(StreamWriter<u8>),
    /// What could not be sent comes back.
    Busy(Boxed<(StreamWriter<u8>, Vec<u8>)>),
    Ended,
}

impl Stream {
    /// Over a socket that is connected.
    pub(super) fn new(socket: TcpSocket) -> Self {
        let (writer, to_send) = wit_stream::new();
        // How the sending ends is told by the writer, too.
        drop(socket.send(to_send));
        let (reader, received) = socket.receive();
        Self {
            reading: Reading::Idle {
                reader,
                came: Vec::new(),
                taken: 0,
            },
            unpaused: 0,
            writing: Writing::Idle(writer),
            received: Some(Box::pin(async move { received.await })),
            _socket: socket,
        }
    }

    /// Until nothing is being written.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Writing::Busy(writing) = &mut self.writing else {
            return Poll::Ready(Ok(()));
        };
        let (writer, left) = ready!(writing.as_mut().poll(cx));
        if left.is_empty() {
            self.writing = Writing::Idle(writer);
            Poll::Ready(Ok(()))
        } else {
            self.writing = Writing::Ended;
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.reading, Reading::Ended) {
                Reading::Idle {
                    reader,
                    came,
                    taken,
                } if taken < came.len() => {
                    let length = buffer.remaining().min(came.len() - taken);
                    buffer.put_slice(&came[taken..taken + length]);
                    this.reading = Reading::Idle {
                        reader,
                        came,
                        taken: taken + length,
                    };
                    return Poll::Ready(Ok(()));
                }
                Reading::Idle {
                    mut reader,
                    mut came,
                    ..
                } => {
                    came.clear();
                    came.reserve(CHUNK);
                    let pause = this.unpaused >= BREATH;
                    this.reading = Reading::Busy(Box::pin(async move {
                        if pause {
                            monotonic_clock::wait_for(1).await;
                        }
                        let (state, came) = reader.read(came).await;
                        (reader, state, came)
                    }));
                }
                Reading::Busy(mut reading) => match reading.as_mut().poll(cx) {
                    Poll::Pending => {
                        this.unpaused = 0;
                        this.reading = Reading::Busy(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready((reader, state, came)) => {
                        this.unpaused += came.len();
                        if !came.is_empty() || matches!(state, StreamResult::Complete(_)) {
                            this.reading = Reading::Idle {
                                reader,
                                came,
                                taken: 0,
                            };
                        }
                    }
                },
                // A connection that breaks ends its stream just as one that is closed does: what comes after tells which.
                Reading::Ended => {
                    let Some(received) = &mut this.received else {
                        return Poll::Ready(Ok(()));
                    };
                    let result = ready!(received.as_mut().poll(cx));
                    this.received = None;
                    return Poll::Ready(result.map_err(|code| super::error(&code)));
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx))?;
        let Writing::Idle(mut writer) = std::mem::replace(&mut this.writing, Writing::Ended) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let chunk = bytes[..bytes.len().min(CHUNK)].to_vec();
        let length = chunk.len();
        let mut writing: Boxed<(StreamWriter<u8>, Vec<u8>)> = Box::pin(async move {
            let left = writer.write_all(chunk).await;
            (writer, left)
        });
        // Begun at once; taken for written, as a socket's buffer would.
        this.writing = match writing.as_mut().poll(cx) {
            Poll::Pending => Writing::Busy(writing),
            Poll::Ready((writer, left)) if left.is_empty() => Writing::Idle(writer),
            Poll::Ready(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_written(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx))?;
        // Dropping the writer tells the other side.
        this.writing = Writing::Ended;
        Poll::Ready(Ok(()))
    }
}
