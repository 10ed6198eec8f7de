//! Several `redis-server` processes that belong together: a master that Sentinels watch, a cluster, and one that is reached
//! by TLS or a Unix socket. Everything on free ports of loopback, nothing on disk that stays.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use redis::{FromRedisValue, Value};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::ports;
use crate::wait::{eventually, eventually_within};

/// A failover, and a cluster that finds itself, take seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// One process. Ends when it is dropped.
#[derive(Debug)]
pub struct Process {
    /// Where it listens.
    pub port: u16,
    child: Child,
    dir: tempfile::TempDir,
}

impl Process {
    /// Starts `redis-server` with further arguments, and waits until it answers.
    async fn start(arguments: &[&str]) -> Self {
        Self::start_in(
            tempfile::tempdir().expect("a temporary directory"),
            arguments,
        )
        .await
    }

    async fn start_in(dir: tempfile::TempDir, arguments: &[&str]) -> Self {
        let port = ports::free();
        let text = port.to_string();
        let mut command = Command::new("redis-server");
        // A Sentinel's first argument is the file that it writes to.
        if let Some((file, rest)) = arguments
            .split_first()
            .filter(|(first, _)| !first.starts_with("--"))
        {
            command
                .arg(file)
                .args(["--port", &text, "--bind", "127.0.0.1"]);
            command.args(rest);
        } else {
            command.args(["--port", &text, "--bind", "127.0.0.1"]);
            command.args(["--save", "", "--appendonly", "no"]);
            command.args(arguments);
        }
        let child = command
            .args(["--daemonize", "no"])
            .arg("--dir")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed");
        let process = Self { port, child, dir };
        eventually("redis-server answers", async || {
            process.ask::<String>("PING", &[]).await.ok().map(|_| ())
        })
        .await;
        process
    }

    /// One server that copies nobody, and is not copied yet.
    pub async fn alone() -> Self {
        Self::start(&["--repl-diskless-sync-delay", "0"]).await
    }

    /// One that copies another.
    pub async fn copying(master: &Self) -> Self {
        let of = format!("127.0.0.1 {}", master.port);
        Self::start(&["--replicaof", &of]).await
    }

    /// Waits until this many others have its data.
    pub async fn until_copied_by(&self, count: usize) {
        eventually_within(PATIENCE, "it is copied", async || {
            let info: String = self.run("INFO", &["replication"]).await;
            (info.matches("state=online").count() == count).then_some(())
        })
        .await;
    }

    /// A Sentinel that watches a master as `mymaster`, alone, and takes it for dead after `down_after_ms`.
    pub async fn sentinel_of(master: &Self, quorum: usize, down_after_ms: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "sentinel monitor mymaster 127.0.0.1 {} {quorum}\nsentinel down-after-milliseconds mymaster {down_after_ms}\nsentinel failover-timeout mymaster 3000\n",
            master.port
        );
        std::fs::write(&file, text).expect("a file can be written");
        let file = file.to_str().expect("a path of letters").to_owned();
        Self::start_in(dir, &[&file, "--sentinel"]).await
    }

    /// Of a Sentinel: waits until it knows of this many replicas of `mymaster`.
    pub async fn until_watching(&self, replicas: usize) {
        eventually_within(PATIENCE, "the Sentinel knows of the replicas", async || {
            let known: Vec<Value> = self.run("SENTINEL", &["replicas", "mymaster"]).await;
            (known.len() >= replicas).then_some(())
        })
        .await;
    }

    /// Of a Sentinel: waits until it names another master than the one on `port`.
    pub async fn until_promoted(&self, port: u16) {
        eventually_within(PATIENCE, "a replica is promoted", async || {
            let named: Vec<String> = self
                .run("SENTINEL", &["get-master-addr-by-name", "mymaster"])
                .await;
            (named.get(1)? != &port.to_string()).then_some(())
        })
        .await;
    }

    /// SIGSTOP: connections stand, nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(Pid::from_raw).expect("it runs");
        kill_process(id, signal).expect("it can be signalled");
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.child
            .kill()
            .await
            .expect("a running server can be killed");
    }

    /// A file in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn ask<T: FromRedisValue>(
        &self,
        command: &str,
        arguments: &[&str],
    ) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(command)
            .arg(arguments)
            .query_async(&mut connection)
            .await
    }

    /// Any command.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run<T: FromRedisValue>(&self, command: &str, arguments: &[&str]) -> T {
        let answer = self.ask(command, arguments).await;
        answer.unwrap_or_else(|error| panic!("{command} {arguments:?}: {error}"))
    }
}

/// One that listens on a Unix socket too, at `path("redis.sock")`.
pub async fn on_a_socket() -> Process {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("redis.sock");
    let socket = socket.to_str().expect("a path of letters").to_owned();
    Process::start_in(dir, &["--unixsocket", &socket]).await
}

/// One that is reached by TLS on the port it returns, with the certificate in `directory`. `mutual`: it asks for one of
/// the same authority.
pub async fn with_tls(directory: &Path, mutual: bool) -> (Process, u16) {
    let port = ports::free();
    let arguments = tls_arguments(directory, port, mutual);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Process::start(&arguments).await, port)
}

fn tls_arguments(directory: &Path, port: u16, mutual: bool) -> Vec<String> {
    let file = |name: &str| {
        directory
            .join(name)
            .to_str()
            .expect("a path of letters")
            .to_owned()
    };
    [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.crt"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.crt"),
        // Where its certificate does not say that it is.
        "--bind",
        "127.0.0.1",
        "127.0.0.2",
        "--tls-auth-clients",
        if mutual { "yes" } else { "no" },
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A master with two replicas, and three Sentinels that watch it as `mymaster`.
#[derive(Debug)]
pub struct Watched {
    /// The master first, until it is killed.
    pub servers: Vec<Process>,
    /// The Sentinels.
    pub sentinels: Vec<Process>,
}

impl Watched {
    /// Starts all of them, and waits until the Sentinels know of everybody.
    pub async fn start() -> Self {
        let mut servers = vec![Process::alone().await];
        for _ in 0..2 {
            servers.push(Process::copying(&servers[0]).await);
        }
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Process::sentinel_of(&servers[0], 2, 500).await);
        }
        let watched = Self { servers, sentinels };
        eventually_within(PATIENCE, "the Sentinels know of everybody", async || {
            for sentinel in &watched.sentinels {
                sentinel.until_watching(2).await;
                let others = sentinel
                    .run::<Vec<Value>>("SENTINEL", &["sentinels", "mymaster"])
                    .await;
                if others.len() < 2 {
                    return None;
                }
            }
            Some(())
        })
        .await;
        watched.servers[0].until_copied_by(2).await;
        watched
    }

    /// The lines of `[redis]`.
    pub fn settings(&self) -> String {
        let urls: Vec<String> = self.sentinels.iter().map(Process::url).collect();
        format!("mode = \"sentinel\"\nurl = \"redis://mymaster\"\nurls = {urls:?}")
    }

    /// Waits until the Sentinels name another master than the one on `port`.
    pub async fn until_promoted(&self, port: u16) {
        self.sentinels[0].until_promoted(port).await;
    }
}

/// Three masters with a replica each.
#[derive(Debug)]
pub struct Cluster {
    /// The masters first.
    pub servers: Vec<Process>,
    /// Where each is reached by TLS, where they are.
    tls_ports: Vec<u16>,
}

impl Cluster {
    /// Starts one, and waits until every server takes it for whole.
    ///
    /// # Panics
    /// When `redis-cli` refuses to make it.
    pub async fn start() -> Self {
        Self::of_servers(None).await
    }

    /// One that is reached by TLS, and whose servers speak TLS to each other, with the certificates in `directory`.
    pub async fn with_tls(directory: &Path) -> Self {
        Self::of_servers(Some(directory)).await
    }

    async fn of_servers(certificates: Option<&Path>) -> Self {
        let (mut servers, mut tls_ports) = (Vec::new(), Vec::new());
        for _ in 0..6 {
            let bus = ports::free().to_string();
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "1000",
                "--repl-diskless-sync-delay",
                "0",
            ];
            let mut arguments = arguments.map(str::to_owned).to_vec();
            if let Some(directory) = certificates {
                let port = ports::free();
                tls_ports.push(port);
                arguments.extend(tls_arguments(directory, port, true));
                let inside = ["--tls-cluster", "yes", "--tls-replication", "yes"];
                arguments.extend(inside.map(str::to_owned));
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            servers.push(Process::start(&arguments).await);
        }
        let cluster = Self { servers, tls_ports };
        let addresses: Vec<String> = cluster
            .servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        cluster
            .cli(
                &[
                    &["create"][..],
                    &addresses,
                    &["--cluster-replicas", "1", "--cluster-yes"],
                ]
                .concat(),
            )
            .await;
        eventually_within(PATIENCE, "the cluster is whole", async || {
            for server in &cluster.servers {
                let info: String = server.run("CLUSTER", &["INFO"]).await;
                let nodes: String = server.run("CLUSTER", &["NODES"]).await;
                if !info.contains("cluster_state:ok")
                    || nodes.matches(" slave ").count() + nodes.matches("myself,slave ").count() < 3
                {
                    return None;
                }
            }
            Some(())
        })
        .await;
        cluster
    }

    /// `redis-cli --cluster …`
    ///
    /// # Panics
    /// When it fails.
    pub async fn cli(&self, arguments: &[&str]) {
        let ran = Command::new("redis-cli")
            .arg("--cluster")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("redis-cli is installed");
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    }

    /// The lines of `[redis]`.
    pub fn settings(&self) -> String {
        let url = |server: usize| match self.tls_ports.get(server) {
            Some(port) => format!("rediss://127.0.0.1:{port}"),
            None => self.servers[server].url(),
        };
        format!("mode = \"cluster\"\nurls = [{:?}, {:?}]", url(0), url(1))
    }

    /// Which of the servers is the master that holds a key, as `asked` sees it.
    pub async fn holder_of(&self, key: &str, asked: usize) -> usize {
        let slot: u32 = self.servers[asked].run("CLUSTER", &["KEYSLOT", key]).await;
        let masters = self.masters(asked).await;
        let port = masters
            .iter()
            .find_map(|(slots, port)| slots.contains(&i64::from(slot)).then_some(*port));
        let port = port.expect("every slot is held");
        let place = self
            .servers
            .iter()
            .position(|server| i64::from(server.port) == port);
        place.expect("it is one of these")
    }

    /// Waits until the cluster is whole without this server, as `asked` sees it: until its replica was promoted.
    pub async fn until_replaced(&self, dead: usize, asked: usize) {
        let port = i64::from(self.servers[dead].port);
        eventually_within(PATIENCE, "a replica is promoted", async || {
            let info: String = self.servers[asked].run("CLUSTER", &["INFO"]).await;
            let masters = self.masters(asked).await;
            (info.contains("cluster_state:ok") && masters.iter().all(|(_, master)| *master != port))
                .then_some(())
        })
        .await;
    }

    /// Ranges of slots and the port of the master that holds them, as `asked` sees it.
    async fn masters(&self, asked: usize) -> Vec<(RangeInclusive<i64>, i64)> {
        let map: Vec<Vec<Value>> = self.servers[asked].run("CLUSTER", &["SLOTS"]).await;
        let range = |range: &Vec<Value>| {
            let [
                Value::Int(first),
                Value::Int(last),
                Value::Array(master),
                ..,
            ] = range.as_slice()
            else {
                return None;
            };
            let Value::Int(port) = master.get(1)? else {
                return None;
            };
            Some((*first..=*last, *port))
        };
        map.iter().filter_map(range).collect()
    }

    /// The name that the cluster has for a server.
    pub async fn name_of(&self, server: usize) -> String {
        self.servers[server].run("CLUSTER", &["MYID"]).await
    }
}
