//! One connection, from its first byte: the TLS handshake, which protocol it speaks, and its requests. Must not know what
//! is served, nor how many connections there are.
//!
//! Which protocol is told by the first bytes, over TLS and without it alike: HTTP/2 begins with a preface that is no request
//! of HTTP/1.1 (RFC 9113 section 3.4). They are read once for each connection, with the deadline of a request head; a
//! request on a connection that is open pays nothing for it.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::Bounds;
use super::fast::{Exchange, Fast, HeadTimer, Reads, Told};
use super::pace::{Pace, Paced};
use super::stall::Watched;
use crate::http::tls;
use crate::metrics::Connections;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client of HTTP/2 may send before it is read (law 12): the window of one stream, and of all of a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Streams that a client has reset before they were taken (rapid reset, CVE-2023-44487), and that were reset here for what
/// it sent: one more ends the connection.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_OWN_MAX: usize = 256;

/// How connections are spoken to.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    handshake_timeout: Duration,
    header_timeout: Duration,
    write_timeout: Duration,
    headers_max: usize,
    counts: Connections,
}

/// A connection whose protocol is known.
pub(super) enum Begun {
    Plain(TcpStream, Bytes, bool),
    Secured(Box<TlsStream<TcpStream>>, Bytes, bool),
}

impl Begun {
    /// The common name of the certificate that the client has shown.
    pub(super) fn certificate(&self) -> Option<Arc<str>> {
        let Self::Secured(stream, ..) = self else {
            return None;
        };
        let (_, session) = stream.get_ref();
        tls::common_name(session.peer_certificates()?.first()?)
    }
}

impl Protocols {
    pub(super) fn new(bounds: &Bounds, counts: Connections) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .header_read_timeout(bounds.header_timeout)
            .max_buf_size(bounds.header_bytes_max.max(8192))
            // And no `pipeline_flush`: with it hyper copies every answer of a pipeline into one buffer that nothing bounds, and
            // loses what is in it where it closes before it has read all that was sent.
            .max_headers(bounds.headers_max);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(bounds.streams_max)
            // The list counts 32 bytes for each field (RFC 9113 section 6.5.2). h2 derives from it how many CONTINUATION
            // frames a head may have.
            .max_header_list_size(u32::try_from(bounds.header_bytes_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(16 * 1024)
            .max_send_buf_size(64 * 1024)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_OWN_MAX)
            // A client that is gone without a word answers no ping.
            .keep_alive_interval(bounds.header_timeout)
            .keep_alive_timeout(bounds.write_timeout);
        Self {
            http1,
            http2,
            handshake_timeout: bounds.handshake_timeout,
            header_timeout: bounds.header_timeout,
            write_timeout: bounds.write_timeout,
            headers_max: bounds.headers_max,
            counts,
        }
    }

    /// What the client speaks; none if it does not say so in time, or its handshake fails.
    pub(super) async fn begin(
        &self,
        mut stream: TcpStream,
        tls: Option<TlsAcceptor>,
    ) -> Option<Begun> {
        let Some(acceptor) = tls else {
            let (first, is_http2) = self.first(&mut stream).await?;
            return Some(Begun::Plain(stream, first, is_http2));
        };
        let handshake = tokio::time::timeout(self.handshake_timeout, acceptor.accept(stream));
        let mut stream = match handshake.await {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err(error)) => {
                self.counts.handshakes_failed.inc();
                debug!(%error, "a TLS handshake failed");
                return None;
            }
            Err(_) => {
                self.counts.handshakes_failed.inc();
                debug!("a TLS handshake took too long");
                return None;
            }
        };
        let (first, is_http2) = self.first(&mut *stream).await?;
        Some(Begun::Secured(stream, first, is_http2))
    }

    /// The first bytes, and whether they are the preface of HTTP/2.
    async fn first<T: AsyncRead + Unpin>(&self, stream: &mut T) -> Option<(Bytes, bool)> {
        let mut first = [0; PREFACE.len()];
        let mut filled = 0;
        let read = async {
            while filled < first.len() && first[..filled] == PREFACE[..filled] {
                match stream.read(&mut first[filled..]).await {
                    Ok(n) if n > 0 => filled += n,
                    _ => return None,
                }
            }
            Some(())
        };
        tokio::time::timeout(self.header_timeout, read)
            .await
            .ok()??;
        let is_http2 = first[..filled] == PREFACE[..];
        Some((Bytes::copy_from_slice(&first[..filled]), is_http2))
    }

    /// Serves its requests to their end, or to shutdown's.
    pub(super) async fn serve<S, R, B>(
        &self,
        begun: Begun,
        (service, reads): (S, R),
        watcher: Watcher,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        R: Reads + Send + Unpin + 'static,
        B: http_body::Body<Data = Bytes> + Default + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let read = (service.clone(), reads);
        match begun {
            Begun::Plain(stream, first, false) => self.http1(stream, first, read, watcher).await,
            Begun::Plain(stream, first, true) => self.http2(stream, first, service, watcher).await,
            Begun::Secured(stream, first, false) => {
                self.http1(stream, first, read, watcher).await;
            }
            Begun::Secured(stream, first, true) => {
                self.http2(stream, first, service, watcher).await;
            }
        }
    }

    fn watched<T>(&self, stream: T, first: Bytes) -> Watched<T> {
        let cut = self.counts.stalled.clone();
        Watched::new(stream, first, self.write_timeout, cut)
    }

    async fn http1<T, S, R, B>(
        &self,
        stream: T,
        first: Bytes,
        (service, reads): (S, R),
        watcher: Watcher,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S::Future: Send + 'static,
        R: Reads + Send + Unpin + 'static,
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let exchange = Arc::new(Exchange::default());
        let told = Arc::clone(&exchange);
        let service = service_fn(move |request: Request<Incoming>| {
            let (asked, told) = (service.call(request), Arc::clone(&told));
            async move {
                let response = asked.await?;
                Ok::<_, Infallible>(response.map(|body| Told::new(body, told)))
            }
        });
        let timer = HeadTimer {
            exchange: Arc::clone(&exchange),
            limit: self.header_timeout,
        };
        let io = self.watched(stream, first);
        let io = TokioIo::new(Fast::new(io, reads, self.headers_max, exchange));
        let connection = self
            .http1
            .clone()
            .timer(timer)
            .serve_connection(io, service);
        if let Err(error) = watcher.watch(connection).await {
            debug!(%error, "a connection ended early");
        }
    }

    async fn http2<T, S, B>(&self, stream: T, first: Bytes, service: S, watcher: Watcher)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Default + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let pace = Arc::new(Pace::default());
        let (counted, headers_max) = (Arc::clone(&pace), self.headers_max);
        let service = service_fn(move |request: Request<Incoming>| {
            let active = counted.begin();
            // HTTP/1.1 has this bound in its parser.
            let asked = (request.headers().len() <= headers_max).then(|| service.call(request));
            async move {
                let response = match asked {
                    Some(asked) => match asked.await {
                        Ok(response) => response,
                        Err(never) => match never {},
                    },
                    None => {
                        let mut response = Response::new(B::default());
                        *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                        response
                    }
                };
                Ok::<_, Infallible>(response.map(|body| Paced::new(body, active)))
            }
        });
        let io = TokioIo::new(self.watched(stream, first));
        let connection = watcher.watch(self.http2.serve_connection(io, service));
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    debug!(%error, "a connection ended early");
                }
            }
            () = self.held_back(&pace) => {
                self.counts.stalled.inc();
                debug!("a client takes nothing of its responses: its connection is closed");
            }
            () = self.idle(&pace) => debug!("a client asks for nothing: its connection is closed"),
        }
    }

    /// Until the client has held a response back for `write_timeout`.
    fn held_back(&self, pace: &Pace) -> impl Future<Output = ()> + Send {
        let mut every = later(self.write_timeout);
        async move {
            loop {
                every.tick().await;
                if !pace.is_kept() {
                    return;
                }
            }
        }
    }

    /// Until nothing was asked for `header_timeout`, twice as long at most.
    fn idle(&self, pace: &Pace) -> impl Future<Output = ()> + Send {
        let mut every = later(self.header_timeout);
        async move {
            let mut seen = 0;
            loop {
                every.tick().await;
                let (requests, active) = pace.requests();
                if requests == seen && !active {
                    return;
                }
                seen = requests;
            }
        }
    }
}

fn later(period: Duration) -> tokio::time::Interval {
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    every
}
