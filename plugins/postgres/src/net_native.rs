//! What the plugin needs of the world, natively: tokio's sockets and timers, for the tests.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream as Stream;

pub(crate) async fn connect(host: &str, port: u16) -> io::Result<Stream> {
    Stream::connect((host, port)).await
}

pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

pub(crate) async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub(crate) fn log(message: &str, fields: &[(&str, &str)]) {
    eprintln!("{message} {fields:?}");
}
