//! A real Redis for one test: its own process on a free port, with every way of being ill that a test needs.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::{Client, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long the machine may take for what should be instant.
const START_MAX: Duration = Duration::from_secs(10);

pub(super) struct Server {
    child: Option<Child>,
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// A port where nobody listens, and a place for data; nothing runs yet.
    pub(super) fn absent() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            child: None,
            port: listener.local_addr().unwrap().port(),
            directory: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
        }
    }

    /// One that is started with these arguments, every time.
    pub(super) async fn with(arguments: &[&str]) -> Self {
        let mut server = Self::absent();
        server.arguments = arguments.iter().map(|&argument| argument.into()).collect();
        server.run().await;
        server
    }

    pub(super) async fn start() -> Self {
        let mut server = Self::absent();
        server.run().await;
        server
    }

    /// Starts it, with whatever data was saved.
    pub(super) async fn run(&mut self) {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .args(["--loglevel", "warning"])
            .args(&self.arguments)
            .arg("--dir")
            .arg(self.directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot start `redis-server` ({error}): these tests need Redis 7 on the PATH; \
                     `make test` sets it up (Debian: apt-get install redis-server)"
                )
            });
        self.child = Some(child);
        eventually("redis-server answers", START_MAX, async || {
            self.connection().await.is_some()
        })
        .await;
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    async fn connection(&self) -> Option<redis::aio::MultiplexedConnection> {
        let client = Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let pong: Result<String, _> = redis::cmd("PING").query_async(&mut connection).await;
        pong.ok().map(|_| connection)
    }

    /// One command, on a connection of its own; words are separated by spaces.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        let words: Vec<&str> = command.split(' ').collect();
        self.ask_words(&words).await
    }

    pub(super) async fn ask_words<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connection().await.expect("redis-server is there");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query_async(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("redis-server runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// It stays connected and does nothing.
    pub(super) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process too.
        self.kill();
    }
}

/// Waits until the condition holds, looking again and again; fails when it takes longer than `within`.
pub(super) async fn eventually(
    what: &str,
    within: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let looking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within, looking)
        .await
        .unwrap_or_else(|_| panic!("not within {within:?}: {what}"));
}
