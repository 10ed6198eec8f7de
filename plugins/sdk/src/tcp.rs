//! TCP over WASI 0.3, as tokio's traits see it: for a protocol that a crate speaks over any `AsyncRead + AsyncWrite`. The
//! host looks names up and allows what `[grants] tcp` of the sidecar names. With the feature `tcp`.
//!
//! ```no_run
//! # async fn ping() -> std::io::Result<()> {
//! let mut stream = larder_plugin::tcp::connect("db.internal", 5432).await?;
//! # let _ = &mut stream; Ok(()) }
//! ```
//!
//! Natively this is tokio's own stream, so that tests speak to a real server within a runtime of tokio's.

use std::future::Future;
use std::io;

#[cfg(target_arch = "wasm32")]
mod wasi;

#[cfg(not(target_arch = "wasm32"))]
pub use tokio::net::TcpStream as Stream;
#[cfg(target_arch = "wasm32")]
pub use wasi::Stream;

/// Opens a connection to the first address of `host`, a name or a literal address, that takes one.
///
/// # Errors
/// The error of the last address; `PermissionDenied` where a grant is missing; the host adds the line to write to the
/// failure of the call.
pub async fn connect(host: &str, port: u16) -> io::Result<Stream> {
    #[cfg(target_arch = "wasm32")]
    return wasi::connect(host, port).await;
    #[cfg(not(target_arch = "wasm32"))]
    Stream::connect((host, port)).await
}

/// Runs a task on, after the call that began it has been answered: a connection that later calls use, say. It ends with
/// the instance.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    #[cfg(target_arch = "wasm32")]
    wit_bindgen::spawn_local(task);
    #[cfg(not(target_arch = "wasm32"))]
    tokio::task::spawn_local(task);
}
