//! The PostgreSQL of a run: made anew on a free port with the durability that it has by default, stopped and started as the
//! run wants it, ended with it. Also owns the table that is written to, and the question whether everything is in it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

use crate::{
    process::{Server, find_program},
    redis_server::free_port,
};

/// The user of everyone who is measured.
pub(crate) const USER: &str = "writer";
/// Of that user, and of the superuser. Nothing but this run can reach the database.
pub(crate) const PASSWORD: &str = "of-one-run";
/// Who makes the tables.
const SUPERUSER: &str = "postgres";

const START: Duration = Duration::from_secs(60);
const REMEDY: &str = "`.ci/setup bench` installs it (Debian: postgresql)";

/// What is written to, and who may.
const TABLE: &str = "
    create role writer login password 'of-one-run';
    create table things (key text primary key, value bigint not null);
    grant select, insert, update, delete on things to writer;
";

/// A PostgreSQL. To be stopped whatever happens: dropped it is killed, and its processes write for a moment longer.
pub(crate) struct PostgresServer {
    core: usize,
    directory: PathBuf,
    programs: PathBuf,
    server: Option<Server>,
    pub(crate) address: SocketAddr,
}

impl PostgresServer {
    /// Makes a database with the table `things` and what `install` (a file for `psql`) makes, on a core.
    pub(crate) async fn start(core: usize, directory: &Path, install: &Path) -> Result<Self> {
        let mut postgres = Self {
            core,
            directory: directory.to_owned(),
            programs: programs()?,
            server: None,
            address: free_port()?,
        };
        postgres.initialise().await?;
        postgres.start_again().await?;
        let session = postgres.session().await?;
        for setting in ["fsync", "synchronous_commit"] {
            let row = session.query_one(&format!("show {setting}"), &[]).await?;
            let value: String = row.get(0);
            ensure!(value == "on", "PostgreSQL has {setting} = {value}, not on");
        }
        session.batch_execute(TABLE).await?;
        postgres.install(install).await?;
        Ok(postgres)
    }

    /// Starts it with what it had; returns when it answers.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        let mut command = self.command("postgres")?;
        command
            .arg("-D")
            .arg(self.directory.join("data"))
            .args(["-p", &self.address.port().to_string()])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories="])
            // Of all who are measured together, whatever the pool of each.
            .args(["-c", "max_connections=500"]);
        let mut server = Server::start("postgres", self.core, &self.directory, command)?;
        let address = self.address;
        let asked = server.until(START, async || {
            let session = connect(address).await?;
            Ok(session.batch_execute("select 1").await?)
        });
        asked.await?;
        self.server = Some(server);
        Ok(())
    }

    /// Ends it as a package update does: every connection is told, and nothing is lost.
    pub(crate) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            // SIGTERM would wait for those who are connected.
            server.stop_by(Signal::INT).await;
        }
    }

    /// As the one who is measured would say it to `tokio_postgres`.
    pub(crate) fn parameters(&self) -> String {
        let port = self.address.port();
        format!("host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname=postgres")
    }

    /// `15.14`
    pub(crate) async fn version(&self) -> Result<String> {
        let session = self.session().await?;
        let row = session.query_one("show server_version", &[]).await?;
        let version: String = row.get(0);
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }

    /// Forgets all that was written, so that everyone begins with the same empty tables and nothing left to flush.
    pub(crate) async fn clear(&self) -> Result<()> {
        let session = self.session().await?;
        session
            .batch_execute("truncate things, larder.written")
            .await?;
        Ok(session.batch_execute("checkpoint").await?)
    }

    /// Whether the numbers from `first` on are all there, `count` of them, each in its own row, and nothing besides.
    pub(crate) async fn ensure_written(&self, first: u64, count: u64) -> Result<()> {
        let session = self.session().await?;
        let row = session
            .query_one(
                "select count(*), count(*) filter (where key::bigint = value), \
                 coalesce(min(value), 0), coalesce(max(value), 0) from things",
                &[],
            )
            .await?;
        let found: [i64; 4] = std::array::from_fn(|column| row.get(column));
        // The key is the primary one: as many different numbers between these two are all of them.
        let wanted = [count, count, first, first + count - 1].map(u64::cast_signed);
        ensure!(
            found == wanted,
            "{count} writes were acknowledged, numbers {first} to {}, and PostgreSQL has {} rows, {} of them as written, numbers {} to {}",
            wanted[3],
            found[0],
            found[1],
            found[2],
            found[3]
        );
        Ok(())
    }

    async fn session(&self) -> Result<Client> {
        connect(self.address).await
    }

    /// Makes the data directory and the superuser.
    async fn initialise(&self) -> Result<()> {
        let password = self.directory.join("password");
        fs::write(&password, PASSWORD)?;
        if let Some((user, group)) = unprivileged()? {
            for path in [&self.directory, &password] {
                chown(path, Some(user), Some(group))?;
            }
        }
        let mut command = self.command("initdb")?;
        command
            .args(["--username", SUPERUSER, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C.UTF-8", "--pwfile"])
            .arg(&password)
            .arg("--pgdata")
            .arg(self.directory.join("data"));
        succeed(command).await
    }

    async fn install(&self, file: &Path) -> Result<()> {
        let file = file.canonicalize().with_context(|| {
            let file = file.display();
            format!(
                "{file} is not there: run from the repository's root, or name it with --install"
            )
        })?;
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["-X", "-q", "-h", "127.0.0.1", "-U", SUPERUSER])
            .args(["-d", "postgres", "-p", &self.address.port().to_string()])
            .args(["-v", &format!("writer={USER}"), "-f"])
            .arg(file)
            .env("PGPASSWORD", PASSWORD);
        succeed(command).await
    }

    /// A program of PostgreSQL, as a user that it agrees to run as: it refuses root.
    fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.directory);
        if let Some((user, group)) = unprivileged()? {
            command.uid(user).gid(group);
        }
        Ok(command)
    }
}

async fn connect(address: SocketAddr) -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user(SUPERUSER)
        .password(PASSWORD)
        .dbname("postgres");
    let (client, connection) = config.connect(NoTls).await?;
    // It ends with the client; what it could report, the client reports as well.
    tokio::spawn(connection);
    Ok(client)
}

async fn succeed(mut command: Command) -> Result<()> {
    let program = command.as_std().get_program().to_owned();
    let program = program.display();
    let output = command.kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Who to be instead of root: the user that Debian's package makes. None: we are not root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").context("there is no list of users")?;
    let ids = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields[..] {
            [SUPERUSER, _, user, group, ..] => Some((user.parse().ok()?, group.parse().ok()?)),
            _ => None,
        }
    });
    let ids = ids.with_context(|| {
        format!("PostgreSQL refuses to run as root, and there is no user `postgres`: {REMEDY}")
    })?;
    Ok(Some(ids))
}

/// Where Debian keeps the programs of the newest version; else they are looked for on the path.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions
        .flatten()
        .filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            let programs = version.path().join("bin");
            programs
                .join("initdb")
                .is_file()
                .then_some((number, programs))
        })
        .max();
    match newest {
        Some((_, programs)) => Ok(programs),
        None => {
            let initdb = find_program("initdb", REMEDY)?;
            Ok(initdb.parent().map(Path::to_owned).unwrap_or_default())
        }
    }
}
