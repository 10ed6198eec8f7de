//! A real PostgreSQL on a port of its own, with its data in a temporary directory, and the ways in which it can go away.
//! Knows no more of Larder than the SQL that it ships.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};

use crate::ports;
use crate::wait::eventually;

/// The password of the superuser `postgres`: the tests' own way in.
const OWN_PASSWORD: &str = "the-tests-own-way-in";
/// The user of the plugin under test: it may read.
pub const READER: &str = "larder";
/// Its password.
pub const PASSWORD: &str = "Pa55-of-the-reader-é";

/// A PostgreSQL. Ends when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    child: Child,
    dir: tempfile::TempDir,
    /// Further settings, as arguments of the server.
    settings: Vec<String>,
}

impl Postgres {
    /// Starts one with an empty database `postgres` and the user [`READER`], whose password is asked for with
    /// SCRAM-SHA-256. Every statement is in its log.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = Vec::new();
        initialise(dir.path()).await;
        // Another process may take the port between the look and the start: then the server exits, and another is tried.
        let mut port = ports::free();
        let mut postgres = Self {
            child: spawn(dir.path(), port, &settings),
            port,
            dir,
            settings,
        };
        for _ in 0..5 {
            if postgres.until_ready().await {
                postgres
                    .run(&format!("create role {READER} login password '{PASSWORD}'"))
                    .await;
                return postgres;
            }
            port = ports::free();
            postgres.port = port;
            postgres.child = spawn(postgres.dir.path(), port, &postgres.settings);
        }
        panic!("postgres does not start:\n{}", postgres.log());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How many statements of its log hold this text: executions, and not what was only prepared.
    pub fn executed(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains("LOG:  execute ") && line.contains(text))
            .count()
    }

    /// Runs SQL as the superuser, on a connection of its own.
    ///
    /// # Panics
    /// When it fails.
    pub async fn run(&self, sql: &str) {
        let session = self.session().await;
        session
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// A session of the superuser, for what takes several steps.
    ///
    /// # Panics
    /// When there is none.
    pub async fn session(&self) -> Client {
        self.connect().await.expect("postgres takes a connection")
    }

    /// Runs a file of SQL through `psql`, as the superuser, with variables (`reader=larder`).
    ///
    /// # Panics
    /// When it fails.
    pub async fn run_file(&self, file: &Path, variables: &[&str]) {
        let mut command = Command::new(programs().join("psql"));
        command
            .args([
                "-X",
                "-q",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-d",
                "postgres",
            ])
            .args(["-p", &self.port.to_string(), "-v", "ON_ERROR_STOP=1"])
            .env("PGPASSWORD", OWN_PASSWORD)
            .env("PGCLIENTENCODING", "UTF8");
        for variable in variables {
            command.args(["-v", variable]);
        }
        command.arg("-f").arg(file);
        let output = command.output().await.expect("psql runs");
        assert!(
            output.status.success(),
            "psql -f {}: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The ISO codes of `examples/postgres` as tables that [`READER`] may read, and the outbox of the plugin.
    pub async fn load_iso_codes(&self) {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .find(|dir| dir.join("examples/postgres/load.sql").exists())
            .expect("the manifest is in the repository");
        self.run_file(&repository.join("examples/postgres/load.sql"), &[])
            .await;
        self.run_file(
            &repository.join("plugins/postgres/install.sql"),
            &[&format!("reader={READER}")],
        )
        .await;
        self.run_file(&repository.join("examples/postgres/watch.sql"), &[])
            .await;
        self.run(&format!(
            "grant select on all tables in schema public to {READER}"
        ))
        .await;
    }

    /// Offers TLS from now on, with a certificate for `localhost` and 127.0.0.1; gives the authority's, as PEM.
    pub async fn encrypt(&mut self, key: &[&str]) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        certificates(dir.path(), key);
        for name in ["server.crt", "server.key"] {
            let to = self.dir.path().join("data").join(name);
            fs::copy(dir.path().join(name), &to).expect("a file is copied");
            // The server takes a key that is its own, and nobody else's.
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("it is ours");
            if let Some((user, group)) = unprivileged() {
                chown(&to, Some(user), Some(group)).expect("root may give a file away");
            }
        }
        self.stop().await;
        self.settings.push("ssl=on".to_owned());
        self.restart().await;
        fs::read_to_string(dir.path().join("ca.crt")).expect("there is a certificate")
    }

    /// Ends it as a package update does: every connection is told, and nothing is lost.
    pub async fn stop(&mut self) {
        self.signal(Signal::INT);
        self.child.wait().await.expect("postgres ends");
    }

    /// Kills it, with all that it has started, as a power cut would. What was committed is there when it is started again.
    pub async fn kill(&mut self) {
        self.child
            .kill()
            .await
            .expect("a running postgres can be killed");
    }

    /// Starts it again on the same port, with what it had.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        // Killed, it has left processes behind that end by themselves; until then another does not start.
        for _ in 0..20 {
            self.child = spawn(self.dir.path(), self.port, &self.settings);
            if self.until_ready().await {
                return;
            }
        }
        panic!("postgres does not come back:\n{}", self.log());
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .password(OWN_PASSWORD)
            .dbname("postgres")
            .application_name("the test");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Whether it answers; false if it has exited.
    async fn until_ready(&mut self) -> bool {
        eventually("postgres answers or exits", async || {
            if self.child.try_wait().is_ok_and(|exit| exit.is_some()) {
                return Some(false);
            }
            let session = self.connect().await.ok()?;
            session.batch_execute("select 1").await.ok().map(|()| true)
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.expect("postgres runs"), signal).expect("it can be signalled");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, and with its children: a killed one would leave them behind for a while.
        if self.child.id().is_some() {
            self.signal(Signal::QUIT);
        }
    }
}

/// Makes an authority (`ca.crt`), and a certificate of it for this machine (`server.crt`, `server.key`), with keys as
/// `openssl req -newkey` calls them.
///
/// # Panics
/// When `openssl` is not there.
pub fn certificates(dir: &Path, key: &[&str]) {
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(dir)
            .output()
            .expect("openssl runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let days = ["-days", "2", "-nodes"];
    for (name, more) in [
        ("ca", &["-x509", "-subj", "/CN=authority"][..]),
        ("server", &["-subj", "/CN=server"][..]),
    ] {
        let files = [
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.crt"),
        ];
        let arguments = [&["req", "-newkey"], key, more, &days, &files].concat();
        openssl(&arguments);
    }
    std::fs::write(
        dir.join("names"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.crt",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.crt",
    ]);
}

/// Makes the data directory and the superuser.
async fn initialise(dir: &Path) {
    let password = dir.join("password");
    fs::write(&password, OWN_PASSWORD).expect("a file is written");
    if let Some((user, group)) = unprivileged() {
        for path in [dir, &password] {
            chown(path, Some(user), Some(group)).expect("root may give a directory away");
        }
    }
    let output = command("initdb", dir)
        .args([
            "--username",
            "postgres",
            "--auth",
            "scram-sha-256",
            "--pwfile",
        ])
        .arg(&password)
        .args([
            "--encoding",
            "UTF8",
            "--locale",
            "C.UTF-8",
            "--no-sync",
            "--pgdata",
        ])
        .arg(dir.join("data"))
        .output()
        .await
        .expect("initdb runs");
    assert!(
        output.status.success(),
        "initdb: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn spawn(dir: &Path, port: u16, settings: &[String]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .expect("a log is opened");
    let mut command = command("postgres", dir);
    command
        .arg("-D")
        .arg(dir.join("data"))
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories=", "-c", "fsync=off"])
        // Its transactions would keep the snapshot's horizon back when no test expects it.
        .args(["-c", "autovacuum=off"])
        .args(["-c", "log_statement=all", "-c", "log_connections=on"]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("postgres runs")
}

/// A program of PostgreSQL, as a user that it agrees to run as: it refuses root.
fn command(program: &str, dir: &Path) -> Command {
    let mut command = Command::new(programs().join(program));
    command.current_dir(dir);
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command
}

/// Who to be instead of root: the user that Debian's package makes. None: we are not root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").expect("there is a list of users");
    let fields: Vec<&str> = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == "postgres")
        .expect("there is a user postgres; install the package postgresql");
    let id = |at: usize| fields[at].parse().expect("a user has numbers");
    Some((id(2), id(3)))
}

/// Where Debian keeps the programs of the newest version; else they are looked for on the path.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    versions
        .map(|version| version.path())
        .max_by_key(|path| {
            path.file_name()
                .and_then(|name| name.to_str()?.parse::<u32>().ok())
        })
        .map(|path| path.join("bin"))
        .unwrap_or_default()
}
