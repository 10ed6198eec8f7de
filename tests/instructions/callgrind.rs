//! Larder inside of callgrind: how the server gets there with its plugins compiled, and how many instructions it has executed
//! between two moments. Must not know what it is asked.
//!
//! valgrind shows the program a processor of its own, the same on every machine with AVX2, so which variant of `memcpy` runs
//! does not depend on where the test does. The compiled code of plugins is for that processor too, so the compiler
//! must run in valgrind as well: see `compiler.c`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_tests::larder::{program, repository};
use larder_tests::{Builder, Larder, eventually_within};
use tempfile::TempDir;
use tokio::process::Command;

/// How long a server may take to be ready in valgrind, its plugins being compiled there first.
const START: Duration = Duration::from_secs(120);

/// What a server needs around it to be counted.
pub(crate) struct Callgrind {
    directory: TempDir,
    larder: Larder,
    dumps: usize,
}

impl Callgrind {
    /// Starts the server. Nothing is counted yet.
    ///
    /// # Panics
    /// When valgrind or a C compiler is missing.
    pub(crate) async fn start(server: Builder) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let compiler = compiler(directory.path()).await;
        let prefix = format!("--vgdb-prefix={}/vgdb", directory.path().display());
        let out = format!("--callgrind-out-file={}/out", directory.path().display());
        let home = server
            // One thread answers, so that none steals another's work.
            .env("TOKIO_WORKER_THREADS", "1")
            .env("LD_PRELOAD", &compiler.display().to_string())
            .inside(&[
                "valgrind",
                "--quiet",
                "--tool=callgrind",
                "--instr-atstart=no",
                "--vgdb=yes",
                &prefix,
                &out,
            ])
            .write();
        let larder = Larder::start_within(home, START).await;
        Self {
            directory,
            larder,
            dumps: 0,
        }
    }

    /// The server.
    pub(crate) fn larder(&self) -> &Larder {
        &self.larder
    }

    /// Counts from now on.
    pub(crate) async fn begin(&mut self) {
        self.tell("instrumentation on").await;
        self.instructions().await;
    }

    /// The instructions of the whole process, all its threads, since this was asked last.
    pub(crate) async fn instructions(&mut self) -> u64 {
        self.tell("dump").await;
        self.dumps += 1;
        let file = self.directory.path().join(format!("out.{}", self.dumps));
        eventually_within(
            Duration::from_secs(30),
            "callgrind has written",
            async || total(&fs::read_to_string(&file).ok()?),
        )
        .await
    }

    async fn tell(&self, what: &str) {
        let told = Command::new("vgdb")
            .arg(format!("--pid={}", self.larder.id()))
            .arg(format!(
                "--vgdb-prefix={}/vgdb",
                self.directory.path().display()
            ))
            .args(what.split(' '))
            .output()
            .await
            .expect("vgdb is part of valgrind; `.ci/setup test` installs it");
        let said = String::from_utf8_lossy(&told.stderr);
        assert!(told.status.success(), "callgrind: {what}: {said}");
    }
}

/// The sum that ends what callgrind writes.
fn total(dump: &str) -> Option<u64> {
    dump.lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok())
}

/// The library that makes a server in valgrind compile in valgrind.
async fn compiler(directory: &Path) -> PathBuf {
    let script = directory.join("compiler");
    // The limits of the process are for the program alone; valgrind needs more. `--bounded` leaves them out.
    let text = format!(
        "#!/bin/sh\nexec valgrind --quiet --tool=none --vgdb=no '{}' \"$@\" --bounded\n",
        program().display()
    );
    fs::write(&script, text).expect("a script is written");
    let executable = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&script, executable).expect("and can be made a program");
    let library = directory.join("compiler.so");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"])
        .arg(format!("-DCOMPILER=\"{}\"", script.display()))
        .arg("-o")
        .arg(&library)
        .arg(repository().join("tests/instructions/compiler.c"))
        .arg("-ldl")
        .output()
        .await
        .expect("there is a C compiler");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "compiler.c: {said}");
    library
}
