//! A real `redis-server` on a port of its own, with nothing on disk unless that is asked for, and the ways in which it can fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use redis::{AsyncCommands, FromRedisValue, ToRedisArgs, Value};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::ports;
use crate::wait::eventually;

/// A Redis. Ends when it is dropped.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    password: Option<String>,
    /// Further arguments.
    further: &'static [&'static str],
    child: Child,
    dir: tempfile::TempDir,
}

impl Redis {
    /// Starts one that asks for no password.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one that can be told to [load](Redis::begin_loading).
    pub async fn start_to_load() -> Self {
        Self::start_with(&["--enable-debug-command", "local"]).await
    }

    /// Starts one that has on disk what it has answered for.
    pub async fn start_durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await
    }

    async fn start_with(further: &'static [&'static str]) -> Self {
        let mut dir = tempfile::tempdir().expect("a temporary directory");
        // Another process may take the port between the look and the start: then the server exits, and another is tried.
        for _ in 0..5 {
            let port = ports::free();
            let child = spawn(port, None, further, &dir);
            let mut redis = Self {
                port,
                password: None,
                further,
                child,
                dir,
            };
            if redis.until_ready().await {
                return redis;
            }
            dir = redis.dir;
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The `url` of Larder's `[redis]`, with the password if there is one.
    pub fn url(&self) -> String {
        url(self.port, self.password.as_deref())
    }

    /// Kills it as a power cut would: at once, and everything in it is gone.
    pub async fn kill(&mut self) {
        self.child
            .kill()
            .await
            .expect("a running redis-server can be killed");
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.child.kill().await.ok();
        let password = self.password.as_deref();
        self.child = spawn(self.port, password, self.further, &self.dir);
        assert!(self.until_ready().await, "redis-server does not come back");
    }

    /// SIGSTOP: connections stand, nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Full: every command that would take memory is refused with OOM.
    pub async fn fill(&self) {
        self.set("maxmemory-policy", "noeviction").await;
        self.set("maxmemory", "1").await;
    }

    /// Has room again.
    pub async fn empty(&self) {
        self.set("maxmemory", "0").await;
    }

    /// Refuses writes with READONLY: a replica that has lost its primary, as after a failover that went the other way.
    pub async fn make_read_only(&self) {
        // Nobody listens on port 1; what it holds stays.
        self.run::<()>("REPLICAOF", &["127.0.0.1", "1"]).await;
    }

    /// Takes writes again.
    pub async fn make_writable(&self) {
        self.run::<()>("REPLICAOF", &["NO", "ONE"]).await;
    }

    /// Reads its own data anew, and so slowly that it does so until [`Redis::finish_loading`]: connections stand, and what
    /// is asked is answered with LOADING. It must have been started to allow that.
    pub async fn begin_loading(&self) {
        self.set("loading-process-events-interval-bytes", "1024")
            .await;
        self.set("key-load-delay", "1000").await;
        // A millisecond for each, after which it looks who asks: seconds for all of them.
        self.run::<Value>("DEBUG", &["POPULATE", "5000", "filler", "2048"])
            .await;
        let url = self.url();
        tokio::spawn(async move {
            let mut connection = redis::Client::open(url)?
                .get_multiplexed_async_connection_with_config(
                    &redis::AsyncConnectionConfig::new().set_response_timeout(None),
                )
                .await?;
            let mut reload = redis::cmd("DEBUG");
            reload
                .arg("RELOAD")
                .query_async::<()>(&mut connection)
                .await
        });
        self.until_loading(true).await;
    }

    /// Reads the rest of it at once.
    pub async fn finish_loading(&self) {
        self.set("key-load-delay", "0").await;
        self.until_loading(false).await;
    }

    async fn until_loading(&self, loading: bool) {
        let wanted = format!("loading:{}\r\n", u8::from(loading));
        eventually("redis-server is loading, or has loaded", async || {
            let info: String = self.run("INFO", &["persistence"]).await;
            info.contains(&wanted).then_some(())
        })
        .await;
    }

    /// Asks for another password from now on (the empty one: none), and drops every connection that came in with the old one.
    pub async fn change_password(&mut self, password: &str) {
        self.set("requirepass", password).await;
        self.password = (!password.is_empty()).then(|| password.to_owned());
        self.run::<Value>("CLIENT", &["KILL", "TYPE", "normal"])
            .await;
    }

    /// Every key that matches the pattern, sorted.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.run("KEYS", &[pattern]).await;
        keys.sort_unstable();
        keys
    }

    /// The keys of entries under Larder's default prefix: `larder:e:…`.
    pub async fn entries(&self) -> Vec<String> {
        self.keys("larder:e:*").await
    }

    /// How long a key has to live; `None` if it is not there or lives for ever.
    pub async fn ttl(&self, key: &str) -> Option<Duration> {
        let left: i64 = self.run("PTTL", &[key]).await;
        u64::try_from(left).ok().map(Duration::from_millis)
    }

    /// The bytes of a key.
    pub async fn bytes(&self, key: &str) -> Vec<u8> {
        self.run("GET", &[key]).await
    }

    /// Puts bytes under a key, keeping its time to live.
    pub async fn overwrite(&self, key: &str, bytes: &[u8]) {
        let mut connection = self.connection().await.expect("redis answers");
        redis::cmd("SET")
            .arg(key)
            .arg(bytes)
            .arg("KEEPTTL")
            .query_async::<()>(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("SET {key}: {error}"));
    }

    /// Puts a list where a string belongs.
    pub async fn make_list(&self, key: &str) {
        self.run::<Value>("DEL", &[key]).await;
        self.run::<Value>("RPUSH", &[key, "not", "an", "entry"])
            .await;
    }

    /// Any command.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run<T: FromRedisValue>(&self, command: &str, arguments: &[impl ToRedisArgs]) -> T {
        let mut connection = self.connection().await.expect("redis answers");
        let mut call = redis::cmd(command);
        for argument in arguments {
            call.arg(argument);
        }
        call.query_async(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    async fn set(&self, name: &str, value: &str) {
        self.run::<()>("CONFIG", &["SET", name, value]).await;
    }

    /// A connection for each command: what the tests do to the server must not depend on what it does to connections.
    async fn connection(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        redis::Client::open(self.url())?
            .get_multiplexed_async_connection()
            .await
    }

    /// Whether it, and no other, answers a PING; false if it has exited.
    async fn until_ready(&mut self) -> bool {
        eventually("redis-server answers or exits", async || {
            if self.child.try_wait().is_ok_and(|exit| exit.is_some()) {
                return Some(false);
            }
            let mut connection = self.connection().await.ok()?;
            let pong: String = connection.ping().await.ok()?;
            let mut info = redis::cmd("INFO");
            info.arg("server");
            let info: String = info.query_async(&mut connection).await.ok()?;
            // Another test's server may have the port; then this one is about to exit.
            let ours = format!("process_id:{}\r\n", self.child.id()?);
            (pong == "PONG" && info.contains(&ours)).then_some(true)
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("redis-server runs"), signal).expect("it can be signalled");
    }
}

fn spawn(port: u16, password: Option<&str>, further: &[&str], dir: &tempfile::TempDir) -> Child {
    let mut command = Command::new("redis-server");
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(further)
        .arg("--dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    command.spawn().unwrap_or_else(|error| {
        panic!("cannot start redis-server ({error}); install the package redis-server")
    })
}

fn url(port: u16, password: Option<&str>) -> String {
    match password {
        Some(password) => format!("redis://:{password}@127.0.0.1:{port}"),
        None => format!("redis://127.0.0.1:{port}"),
    }
}
