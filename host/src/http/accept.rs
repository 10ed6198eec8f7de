//! Connections: accepted up to a cap, given a deadline for each request head, drained on shutdown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

/// Bounds of a listener (law 12).
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections at once; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// How long a request head may take, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Bytes of a request head.
    pub header_bytes_max: usize,
    /// Fields of a request head.
    pub headers_max: usize,
    /// How long requests in flight may take after shutdown begins.
    pub drain: Duration,
}

/// Serves until `shutdown` says so, then lets requests in flight finish, no longer than `bounds.drain`.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    bounds: Bounds,
    mut shutdown: watch::Receiver<bool>,
    accepted: impl Fn(),
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(bounds.header_bytes_max.max(8192))
        .max_headers(bounds.headers_max)
        // One copy into one buffer, and one write. `pipeline_flush` would do that too, but under it hyper asks a body for its
        // next piece whether or not the last was sent: what streams would be kept without a bound for a client that does not
        // read.
        .writev(false);
    loop {
        let accept = async {
            // The place first: over the cap nothing is accepted, and the backlog holds the rest.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, stream) = tokio::select! {
            biased;
            () = told(&mut shutdown) => break,
            next = accept => match next {
                Some((place, Ok((stream, _)))) => (place, stream),
                Some((_, Err(error))) => {
                    // Out of descriptors, or a connection that was reset before it was taken: neither ends the server.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                None => break,
            },
        };
        accepted();
        let _ = stream.set_nodelay(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(bounds.drain, graceful.shutdown())
        .await
        .is_err()
    {
        warn!(drain = ?bounds.drain, "requests were still in flight when the drain limit ended; their connections are closed");
    }
}

/// Until shutdown begins; forever if nobody can say so any more.
async fn told(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
