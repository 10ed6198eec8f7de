//! Larder as a process: a directory with its configuration and plugins, the program started on it, its two listeners and
//! its log. Knows its command line, files and HTTP surfaces, and nothing of its insides.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::client::{Answer, Client};
use crate::metrics::{Metrics, WAITING};
use crate::usage::Usage;
use crate::wait::{PATIENCE, eventually, eventually_within};

/// A component to put into the plugin directory.
#[derive(Clone, Debug)]
pub struct Wasm(PathBuf);

impl Wasm {
    /// A first-party plugin, as `make build` leaves it.
    pub fn plugin(name: &str) -> Self {
        Self(repository().join(format!("plugins/dist/{name}.wasm")))
    }

    /// A guest of the tests, as `tests/guests/build.sh` leaves it.
    pub fn guest(name: &str) -> Self {
        Self(repository().join(format!("tests/guests/dist/{name}.wasm")))
    }

    /// The plugin of an example, as `examples/EXAMPLE/build` leaves it.
    pub fn example(example: &str, name: &str) -> Self {
        Self(repository().join(format!("examples/{example}/dist/{name}.wasm")))
    }

    /// Its bytes.
    ///
    /// # Panics
    /// When it was not built.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap_or_else(|error| {
            let path = self.0.display();
            panic!("{path}: {error}; `make test` makes it, and `make build` if it is a plugin")
        })
    }
}

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the repository")
}

/// The program under test: `LARDER_BIN`, else the one that was built beside this test.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("LARDER_BIN") {
        return program.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    // target/release/deps/NAME-HASH → target/release/larder
    let program = test
        .parent()
        .and_then(Path::parent)
        .expect("a test is in target/PROFILE/deps")
        .join("larder");
    assert!(
        program.exists(),
        "{} is not there; build it with `cargo build --release`, or name it in LARDER_BIN",
        program.display()
    );
    program
}

/// What `larder.toml` and the plugin directory will hold.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    server: String,
    admin: String,
    rest: String,
    plugins: Vec<(String, Wasm, Option<String>)>,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    inside: Vec<String>,
    awaits_redis: bool,
}

impl Builder {
    /// A first-party plugin under its own name, with the text of its sidecar.
    #[must_use]
    pub fn plugin(self, name: &str, sidecar: &str) -> Self {
        self.component(name, Wasm::plugin(name), sidecar)
    }

    /// A guest of the tests under its own name, with the text of its sidecar.
    #[must_use]
    pub fn guest(self, name: &str, sidecar: &str) -> Self {
        self.component(name, Wasm::guest(name), sidecar)
    }

    /// Any component under any name, with the text of its sidecar; the empty text is no sidecar.
    #[must_use]
    pub fn component(mut self, name: &str, wasm: Wasm, sidecar: &str) -> Self {
        let sidecar = (!sidecar.is_empty()).then(|| sidecar.to_owned());
        self.plugins.push((name.to_owned(), wasm, sidecar));
        self
    }

    /// A route of one loader, with further settings as lines of TOML.
    #[must_use]
    pub fn route(mut self, path: &str, loader: &str, settings: &str) -> Self {
        let _ = write!(
            self.rest,
            "\n[[routes]]\npath = {path:?}\nloader = {loader:?}\n{settings}\n"
        );
        self
    }

    /// Lines of `[server]`, beside `listen`.
    #[must_use]
    pub fn server(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Lines of `[admin]`, beside `listen`.
    #[must_use]
    pub fn admin(mut self, lines: &str) -> Self {
        self.admin.push_str(lines);
        self.admin.push('\n');
        self
    }

    /// Whole sections of `larder.toml`.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        let _ = write!(self.rest, "\n{text}\n");
        self
    }

    /// `[redis]` at this URL, with everything else at its default. The start waits until it is in use: a server is ready
    /// without it (law 6), so the first request could still do without.
    #[must_use]
    pub fn redis(mut self, url: &str) -> Self {
        self.awaits_redis = true;
        self.section(&format!("[redis]\nurl = {url:?}"))
    }

    /// No memory tier: every hit is a hit in Redis.
    #[must_use]
    pub fn no_memory(self) -> Self {
        self.section("[memory]\ncapacity = \"0\"")
    }

    /// An environment variable of the server.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Further arguments of `larder serve`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The program that the server runs inside of, with its own arguments: a debugger, a profiler.
    #[must_use]
    pub fn inside(mut self, program: &[&str]) -> Self {
        self.inside = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Writes the directory, and starts nothing.
    pub fn write(self) -> Home {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home {
            dir,
            environment: self.environment,
            flags: self.flags,
            inside: self.inside,
            awaits_redis: self.awaits_redis,
        };
        fs::create_dir(home.path("plugins")).expect("a plugin directory");
        fs::create_dir(home.path("aside")).expect("a directory to write in before renaming");
        for (name, wasm, sidecar) in &self.plugins {
            if let Some(sidecar) = sidecar {
                home.sidecar(name, sidecar);
            }
            home.install(name, wasm);
        }
        // A restart finds memory empty, unless that is what a test is about.
        let warm = if self.rest.contains("[warm]") {
            ""
        } else {
            "\n[warm]\nkeys = 0\n"
        };
        home.configure(&format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n{}\n[admin]\nlisten = \"127.0.0.1:0\"\n{}\n{}{warm}",
            self.server, self.admin, self.rest
        ));
        home
    }

    /// Writes the directory, starts the server, and waits until it is ready.
    pub async fn start(self) -> Larder {
        Larder::start(self.write()).await
    }
}

/// A directory with `larder.toml` and `plugins/`. Removed when dropped.
#[derive(Debug)]
pub struct Home {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    inside: Vec<String>,
    awaits_redis: bool,
}

impl Home {
    /// A file or directory in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `larder.toml`, whole.
    pub fn configure(&self, text: &str) {
        fs::write(self.path("larder.toml"), text).expect("larder.toml is written");
    }

    /// Replaces a text in `larder.toml`.
    ///
    /// # Panics
    /// When it is not there.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("larder.toml")).expect("it was written");
        assert!(text.contains(from), "{from:?} is not in\n{text}");
        self.configure(&text.replace(from, to));
    }

    /// Puts a component into the plugin directory, or replaces one, as an operator should: written aside, then renamed.
    pub fn install(&self, name: &str, wasm: &Wasm) {
        self.install_bytes(name, &wasm.bytes());
    }

    /// The same with any bytes.
    pub fn install_bytes(&self, name: &str, bytes: &[u8]) {
        self.put(&format!("{name}.wasm"), bytes);
    }

    /// Writes the sidecar of a plugin, aside and then renamed.
    pub fn sidecar(&self, name: &str, text: &str) {
        self.put(&format!("{name}.toml"), text.as_bytes());
    }

    fn put(&self, file: &str, bytes: &[u8]) {
        let aside = self.path("aside").join(file);
        fs::write(&aside, bytes).expect("a file is written aside");
        fs::rename(&aside, self.path("plugins").join(file)).expect("and renamed");
    }

    /// Removes a component from the plugin directory; its sidecar stays.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path("plugins").join(format!("{name}.wasm")))
            .expect("the component is there");
    }

    /// The program with these arguments, in this directory, with nothing of Larder's in its environment but what the
    /// builder says.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.inside.split_first() {
            None => Command::new(program()),
            Some((outer, arguments)) => {
                let mut outer = Command::new(outer);
                outer.args(arguments).arg(program());
                outer
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LARDER_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// When it does not end within [`PATIENCE`].
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_within(PATIENCE, arguments).await
    }

    /// Runs the program to its end, which may take long.
    ///
    /// # Panics
    /// When it does not end within this time.
    pub async fn run_within(&self, limit: Duration, arguments: &[&str]) -> Ran {
        let output = tokio::time::timeout(limit, self.command(arguments).output())
            .await
            .unwrap_or_else(|_| {
                let what = arguments.join(" ");
                panic!("`larder {what}` does not end within {limit:?}")
            })
            .expect("the program starts");
        Ran {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What a program that has ended said.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ran {
    /// Both outputs, for who does not care which.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A running server. Dropping it kills it; a test that is about its end calls [`Larder::terminate`]. When the test fails,
/// its log is printed.
#[derive(Debug)]
pub struct Larder {
    /// The public listener.
    pub public: Client,
    /// The admin listener.
    pub admin: Client,
    home: Home,
    child: Child,
    log: Log,
}

impl Deref for Larder {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Larder {
    /// Begins the description of one.
    pub fn with() -> Builder {
        Builder::default()
    }

    /// Starts the server on a directory and waits until it is ready.
    ///
    /// # Panics
    /// When it exits instead, or is not ready in time.
    pub async fn start(home: Home) -> Self {
        Self::start_within(home, PATIENCE).await
    }

    /// The same where a start takes longer.
    ///
    /// # Panics
    /// When it exits instead, or is not ready within this time.
    pub async fn start_within(home: Home, limit: Duration) -> Self {
        let log = Log::default();
        let (child, public, admin) = launch(&home, &log, limit).await;
        let larder = Self {
            public: Client::new(public),
            admin: Client::new(admin),
            home,
            child,
            log,
        };
        larder.until_ready().await;
        larder
    }

    /// Ends the server with SIGTERM and starts it again on the same directory.
    pub async fn restart(&mut self) {
        self.terminate();
        self.exit().await;
        self.start_again().await;
    }

    /// Ends the server with SIGKILL and starts it again on the same directory.
    pub async fn crash(&mut self) {
        self.kill().await;
        self.start_again().await;
    }

    /// Starts a server that has ended, on the same directory.
    pub async fn start_again(&mut self) {
        let (child, public, admin) = launch(&self.home, &self.log, PATIENCE).await;
        self.child = child;
        self.public = Client::new(public);
        self.admin = Client::new(admin);
        self.until_ready().await;
    }

    async fn until_ready(&self) {
        eventually("the server is ready, with its Redis", async || {
            let asked = self
                .admin
                .attempt(http::Method::GET, "/readyz", &[], bytes::Bytes::new());
            let ready = asked.await.ok().filter(|answer| answer.status == 200)?;
            let redis = ready.json()["redis"]["available"] == true;
            (redis || !self.home.awaits_redis).then_some(())
        })
        .await;
    }

    /// GET from the public listener.
    pub async fn get(&self, path: &str) -> Answer {
        self.public.get(path).await
    }

    /// GET with header fields from the public listener.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.public.get_with(path, headers).await
    }

    /// Purges, and gives what `POST /purge` answered.
    ///
    /// # Panics
    /// When it is not 200.
    pub async fn purge(&self, what: Value) -> Value {
        let answer = self.admin.post("/purge", &what).await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        answer.json()
    }

    /// Waits until it has heard of a purge that was answered so, here or by another node.
    pub async fn until_heard(&self, told: &Value) {
        let seq = told["seq"].as_f64().expect("a purge has a seq");
        eventually("the purge is heard", async || {
            (self.metrics().await.sum("larder_purge_seq") >= seq).then_some(())
        })
        .await;
    }

    /// `GET /plugins`, the one of this name.
    ///
    /// # Panics
    /// When there is none.
    pub async fn plugin(&self, name: &str) -> Value {
        let all = self.admin.get("/plugins").await.json();
        let found = self.find_plugin(&all, name);
        found.unwrap_or_else(|| panic!("no plugin {name} in {all}"))
    }

    fn find_plugin(&self, all: &Value, name: &str) -> Option<Value> {
        let list = all.as_array().expect("GET /plugins is an array");
        list.iter().find(|plugin| plugin["name"] == name).cloned()
    }

    /// Waits until a plugin is so, and gives it as `GET /plugins` says it.
    pub async fn until_plugin(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the plugin {name} {what}"), async || {
            let all = self.admin.get("/plugins").await.json();
            self.find_plugin(&all, name).filter(&is)
        })
        .await
    }

    /// Waits until the error of a plugin holds all of these words, and gives it.
    pub async fn until_refused(&self, name: &str, words: &[&str]) -> String {
        let says = |plugin: &Value| {
            let error = plugin["error"].as_str().unwrap_or_default();
            words.iter().all(|word| error.contains(word))
        };
        let plugin = self
            .until_plugin(name, &format!("has an error that names {words:?}"), says)
            .await;
        plugin["error"].as_str().unwrap_or_default().to_owned()
    }

    /// `POST /plugins/NAME/reload`.
    pub async fn reload(&self, name: &str) -> Answer {
        self.admin
            .post(&format!("/plugins/{name}/reload"), &Value::Null)
            .await
    }

    /// `/metrics`, read.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Metrics::parse(answer.text())
    }

    /// Waits until this many requests wait for a flight: so a test knows that they have joined before it goes on.
    pub async fn until_waiting(&self, requests: usize) {
        eventually(
            &format!("{requests} requests wait for a flight"),
            async || (self.metrics().await.sum(WAITING) >= requests as f64).then_some(()),
        )
        .await;
    }

    /// `GET /entries?path=…`: every stored variant of a resource.
    pub async fn entries(&self, path: &str) -> Value {
        let answer = self.admin.get(&format!("/entries?path={path}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["entries"].clone()
    }

    /// Everything it has said so far on standard output and standard error.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until it has said this: what is logged is written a little later, by a thread of its own.
    pub async fn until_logged(&self, words: &str) {
        eventually(&format!("the log says {words:?}"), async || {
            self.log().contains(words).then_some(())
        })
        .await;
    }

    /// The number of its process.
    ///
    /// # Panics
    /// When it has ended.
    pub fn id(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// Waits until everything that was said is read: after the process has ended, and with it its outputs.
    pub async fn log_ended(&self) {
        eventually("the log is read to its end", async || {
            self.log.is_ended().then_some(())
        })
        .await;
    }

    /// What it uses of the machine now.
    ///
    /// # Panics
    /// When it has ended.
    pub fn usage(&self) -> Usage {
        Usage::of(self.id())
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGSTOP: its connections stand, and it does nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("the server runs"), signal).expect("it can be signalled");
    }

    /// SIGKILL: nothing is said or saved.
    pub async fn kill(&mut self) {
        self.child
            .kill()
            .await
            .expect("a running server can be killed");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|exit| exit.is_none())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not within [`PATIENCE`] and the longest drain.
    pub async fn exit(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE + Duration::from_secs(10), self.child.wait())
            .await
            .expect("the server ends")
            .expect("and has a status")
    }

    /// The directory, after the server was killed.
    pub async fn into_home(mut self) -> Home {
        self.child.kill().await.ok();
        let empty = Home {
            dir: tempfile::tempdir().expect("a temporary directory"),
            environment: Vec::new(),
            flags: Vec::new(),
            inside: Vec::new(),
            awaits_redis: false,
        };
        std::mem::replace(&mut self.home, empty)
    }
}

impl Drop for Larder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the server said ---\n{}--- end ---", self.log());
        }
    }
}

/// What the server says, as it says it.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<String>>, Arc<()>);

impl Log {
    /// Reads what a process writes, until it ends.
    pub fn follow(&self, output: impl AsyncRead + Unpin + Send + 'static) {
        let log = self.0.clone();
        let follows = self.1.clone();
        let mut lines = BufReader::new(output).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut log = log.lock();
                log.push_str(&line);
                log.push('\n');
            }
            drop(follows);
        });
    }

    /// Whether nobody writes any more.
    pub fn is_ended(&self) -> bool {
        Arc::strong_count(&self.1) == 1
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.lock().clone()
    }

    /// The address after `what` on the last line that has both, of the lines after the first `since` bytes.
    pub fn address(&self, since: usize, what: &str) -> Option<SocketAddr> {
        let log = self.0.lock();
        let after = |line: &str| {
            let text = line.split_once(what)?.1;
            let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            text[..end.unwrap_or(text.len())].parse().ok()
        };
        log[since..].lines().rev().find_map(after)
    }
}

/// Starts the program and reads from its log where it listens: port 0 in the configuration leaves no race for a port.
async fn launch(home: &Home, log: &Log, limit: Duration) -> (Child, SocketAddr, SocketAddr) {
    let since = log.0.lock().len();
    let mut child = home
        .command(&["serve", "--config", "larder.toml"])
        .args(&home.flags)
        .spawn()
        .expect("the program starts");
    log.follow(child.stdout.take().expect("standard output is piped"));
    log.follow(child.stderr.take().expect("standard error is piped"));
    let what = "the server says where it listens, or exits";
    let found = eventually_within(limit, what, async || {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(Err(status));
        }
        let public = log
            .address(since, "listening on http://")
            .or_else(|| log.address(since, "listening on https://"))?;
        let admin = log.address(since, "admin on http://")?;
        Some(Ok((public, admin)))
    })
    .await;
    match found {
        Ok((public, admin)) => (child, public, admin),
        Err(status) => panic!("the server ended with {status}:\n{}", log.text()),
    }
}
