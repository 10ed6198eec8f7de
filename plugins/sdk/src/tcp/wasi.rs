//! Names, addresses and connections of WASI 0.3, as tokio's traits see one. A connection owns one read and one write in
//! flight. Must not know what is sent.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasip3::clocks::monotonic_clock;
use wasip3::sockets::ip_name_lookup::{self, ErrorCode as NameError};
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
    TcpSocket,
};
use wasip3::wit_bindgen::{StreamReader, StreamResult, StreamWriter};
use wasip3::wit_stream;

/// How much is read or written at a time.
const CHUNK: usize = 16 << 10;
/// After so much that was there without waiting, a pause: what is made of it is computing, and `[limits] cpu` is the longest
/// that may go on without one.
const BREATH: usize = 128 << 10;

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;

/// Opens a connection to the first address of `host` that takes one.
///
/// # Errors
/// The error of the last address; `PermissionDenied` where a grant is missing.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
    for address in addresses(host).await? {
        match connect_to(address, port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn addresses(host: &str) -> io::Result<Vec<IpAddress>> {
    if let Ok(literal) = host.parse::<IpAddr>() {
        return Ok(vec![match literal {
            IpAddr::V4(address) => IpAddress::Ipv4(octets(address)),
            IpAddr::V6(address) => IpAddress::Ipv6(segments(address)),
        }]);
    }
    ip_name_lookup::resolve_addresses(host.to_owned())
        .await
        .map_err(|code| {
            let kind = match code {
                NameError::AccessDenied => io::ErrorKind::PermissionDenied,
                _ => io::ErrorKind::NotFound,
            };
            io::Error::new(
                kind,
                format!("the name `{host}` gives no address ({code:?})"),
            )
        })
}

async fn connect_to(address: IpAddress, port: u16) -> io::Result<Stream> {
    let (family, remote) = match address {
        IpAddress::Ipv4(address) => (
            IpAddressFamily::Ipv4,
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }),
        ),
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port,
                flow_info: 0,
                address,
                scope_id: 0,
            }),
        ),
    };
    let socket = TcpSocket::create(family).map_err(|code| error(&code))?;
    // A peer that is gone without a word is noticed in the end; where it cannot be set, the deadlines still notice.
    socket.set_keep_alive_enabled(true).ok();
    socket.connect(remote).await.map_err(|code| error(&code))?;
    Ok(Stream::new(socket))
}

const fn octets(address: Ipv4Addr) -> (u8, u8, u8, u8) {
    let [a, b, c, d] = address.octets();
    (a, b, c, d)
}

const fn segments(address: Ipv6Addr) -> (u16, u16, u16, u16, u16, u16, u16, u16) {
    let [a, b, c, d, e, f, g, h] = address.segments();
    (a, b, c, d, e, f, g, h)
}

/// The standard library's words for those of WASI.
fn error(code: &ErrorCode) -> io::Error {
    let kind = match code {
        ErrorCode::AccessDenied => io::ErrorKind::PermissionDenied,
        ErrorCode::Timeout => io::ErrorKind::TimedOut,
        ErrorCode::RemoteUnreachable => io::ErrorKind::HostUnreachable,
        ErrorCode::ConnectionRefused => io::ErrorKind::ConnectionRefused,
        ErrorCode::ConnectionBroken => io::ErrorKind::BrokenPipe,
        ErrorCode::ConnectionReset => io::ErrorKind::ConnectionReset,
        ErrorCode::ConnectionAborted => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    match kind {
        io::ErrorKind::Other => io::Error::other(format!("{code:?}")),
        kind => kind.into(),
    }
}

/// A connection.
pub struct Stream {
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
    fn new(socket: TcpSocket) -> Self {
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
                    return Poll::Ready(result.map_err(|code| error(&code)));
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
