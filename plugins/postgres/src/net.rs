//! What the plugin needs of the world: a socket, tasks, time and a log. Must not know what is sent.

use std::time::Duration;

use larder_plugin::Level;
pub(crate) use larder_plugin::tcp::{connect, spawn};

/// Waits, in the tests too: they speak to a real server.
pub(crate) async fn sleep(duration: Duration) {
    #[cfg(target_arch = "wasm32")]
    larder_plugin::sleep(duration).await;
    #[cfg(not(target_arch = "wasm32"))]
    tokio::time::sleep(duration).await;
}

/// Tells operators of something to look into.
pub(crate) fn log(message: &str, fields: &[(&str, &str)]) {
    larder_plugin::log(Level::Warn, message, fields);
}
