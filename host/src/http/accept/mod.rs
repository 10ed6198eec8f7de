//! Connections: accepted up to a cap, secured if there is a certificate, drained on shutdown. Must not know what is served.
//!
//! - `connection`: one of them, from its first byte: TLS, then HTTP/1.1 or HTTP/2.
//! - `fast`: plain reads are answered before hyper; `head`: which are so plain.
//! - `stall`: a client that does not take what is written to it is cut off.
//! - `pace`: the same of each response over HTTP/2, whose windows are the client's to open; and who asks for nothing.

mod connection;
mod fast;
mod head;
mod pace;
mod stall;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use crate::http::tls::Tls;
use crate::metrics::Connections;
use connection::Protocols;

pub use fast::{NoReads, Read, Reads, Rendered, Waiting};
pub use head::Head;

/// Bounds of a listener (law 12).
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Connections at once; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a request head may take, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what is written to it.
    pub write_timeout: Duration,
    /// Bytes of a request head.
    pub header_bytes_max: usize,
    /// Fields of a request head.
    pub headers_max: usize,
    /// Requests at once on one connection of HTTP/2.
    pub streams_max: u32,
    /// How long requests in flight may take after shutdown begins.
    pub drain: Duration,
}

/// At the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// The common name of the certificate that it has shown.
    pub certificate: Option<Arc<str>>,
}

/// Serves until `shutdown` says so, then lets requests in flight finish, no longer than `bounds.drain`. With `tls` nothing
/// but TLS is spoken. `make` makes the service of a connection, and who answers plain reads.
pub async fn serve<M, S, R, B>(
    listener: TcpListener,
    make: M,
    bounds: Bounds,
    tls: Option<Arc<Tls>>,
    mut shutdown: watch::Receiver<bool>,
    counts: Connections,
) where
    M: Fn(Peer) -> (S, R) + Clone + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    R: Reads + Send + Unpin + 'static,
    B: http_body::Body<Data = Bytes> + Default + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let protocols = Arc::new(Protocols::new(&bounds, counts.clone()));
    loop {
        let accept = async {
            // The place first: over the cap nothing is accepted, and the backlog holds the rest.
            let place = Arc::clone(&places).acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let (place, stream, address) = tokio::select! {
            biased;
            () = told(&mut shutdown) => break,
            next = accept => match next {
                Some((place, Ok((stream, address)))) => (place, stream, address),
                Some((_, Err(error))) => {
                    // Out of descriptors, or a connection that was reset before it was taken: neither ends the server.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                None => break,
            },
        };
        counts.accepted.inc();
        let _ = stream.set_nodelay(true);
        let (make, protocols) = (make.clone(), Arc::clone(&protocols));
        let (watcher, mut shutdown) = (graceful.watcher(), shutdown.clone());
        let acceptor = tls.as_ref().map(|tls| tls.acceptor());
        tokio::spawn(async move {
            // Until its first request has begun there is nothing to drain: shutdown ends it there and then. What begins in
            // the same moment is seen by the watcher, which was made before.
            let begun = tokio::select! {
                biased;
                () = told(&mut shutdown) => None,
                begun = protocols.begin(stream, acceptor) => begun,
            };
            if let Some(begun) = begun {
                let certificate = begun.certificate();
                let served = make(Peer {
                    address,
                    certificate,
                });
                protocols.serve(begun, served, watcher).await;
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
