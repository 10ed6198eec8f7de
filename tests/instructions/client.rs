//! A connection that asks one request after another and reads each answer to its end. Must not know what is asked.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// In valgrind everything takes fifty times as long.
const STUCK: Duration = Duration::from_secs(60);

pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await;
        let stream = stream.expect("the server takes the connection");
        // A request leaves in one piece anyhow; what matters is that it does not wait for an acknowledgement.
        stream.set_nodelay(true).expect("a socket has the option");
        Self(stream)
    }

    /// The whole answer to a GET of `path` with these lines in its head.
    ///
    /// # Panics
    /// When the connection ends, or nothing comes for a minute.
    pub(crate) async fn ask(&mut self, path: &str, head: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: larder.test\r\n{head}\r\n");
        let sent = self.0.write_all(request.as_bytes()).await;
        sent.expect("the connection takes a request");
        tokio::time::timeout(STUCK, self.answer())
            .await
            .unwrap_or_else(|_| panic!("no answer to {path} within {STUCK:?}"))
    }

    async fn answer(&mut self) -> String {
        let mut all = Vec::new();
        loop {
            let n = self.0.read_buf(&mut all).await;
            let n = n.expect("the connection is read");
            let text = String::from_utf8_lossy(&all);
            assert!(n > 0, "closed in the middle of {text:?}");
            if is_whole(&text) {
                return text.into_owned();
            }
        }
    }
}

/// Whether a text is a head and as much as that says follows.
fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    // A 304 says the length of what it does not send.
    head.starts_with("HTTP/1.1 304 ") || body.len() >= length.unwrap_or(0)
}
