//! Runs what a page tells its reader to type: all of it in the order of the page, by one shell, beside a real server, in a
//! directory that looks like a checkout. Owns the rewriting of ports and of paths of the system; must not know which pages there are.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use larder_tests::larder::{program, repository};
use larder_tests::ports;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::Setting;
use crate::page::{Block, Page};
use crate::transcript::{compare, exchanges, expecting, with_last_write};

/// How long a page may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The directory in which a page is followed, and the ports that stand for those of the page.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    public: u16,
    admin: u16,
    redis: u16,
}

impl Stage {
    /// A directory with what a checkout has after `make build`, and the configuration of the server: that of the quickstart,
    /// and what the page has besides.
    pub(crate) fn new(setting: &Setting) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let stage = Self {
            dir,
            public: ports::free(),
            admin: ports::free(),
            redis: ports::free(),
        };
        let at = |name: &str| stage.dir.path().join(name);
        for directory in ["bin", "plugins", "examples", "etc/bash_completion.d"] {
            fs::create_dir_all(at(directory)).expect("a directory");
        }
        symlink(program(), at("bin/larder")).expect("the program");
        symlink(repository().join("plugins/dist"), at("plugins/dist")).expect("the components");
        copy(
            &repository().join("examples/quickstart"),
            &at("examples/quickstart"),
        );
        // As `examples/run` leaves it.
        fs::copy(
            repository().join("plugins/dist/demo.wasm"),
            at("examples/quickstart/plugins/demo.wasm"),
        )
        .expect("the demo");
        let example = fs::read_to_string(at("examples/quickstart/larder.toml")).expect("a file");
        let settings = format!("{example}\n{}", setting.settings)
            .replace("dir = \"plugins\"", "dir = \"examples/quickstart/plugins\"");
        fs::write(at("larder.toml"), stage.rewritten(&settings)).expect("larder.toml");
        for component in setting.components {
            component.install(&at("examples/quickstart"));
        }
        stage
    }

    /// The text with the ports of this stage in place of those that pages name, and what belongs to the system in here.
    fn rewritten(&self, text: &str) -> String {
        let stage = self.dir.path().display();
        text.replace(":8080", &format!(":{}", self.public))
            .replace(":8081", &format!(":{}", self.admin))
            .replace(":6379", &format!(":{}", self.redis))
            .replace(" 6379", &format!(" {}", self.redis))
            .replace(" /etc/", &format!(" {stage}/etc/"))
            .replace(" /usr/local/", &format!(" {stage}/usr/local/"))
    }

    /// Follows the page.
    ///
    /// # Panics
    /// When a command fails, or says something else than the page shows.
    pub(crate) async fn follow(&self, page: &Page, setting: &Setting) {
        let mut script = include_str!("prelude.sh").to_owned();
        if setting.git {
            script.push_str("git init -q\ngit add examples\ngit -c user.name=x -c user.email=x@example.com commit -qm x\n");
        }
        if setting.redis {
            script.push_str("redis-server --port \"$REDIS_PORT\" --save ''\n");
        }
        if setting.serves {
            script.push_str("larder serve --config larder.toml\n");
        }
        let mut shown = Vec::new();
        for block in page.blocks.iter().filter(|block| setting.follows(block)) {
            match block.language.as_str() {
                "sh" => {
                    let commands = self.rewritten(&block.text);
                    let _ = writeln!(
                        script,
                        "printf '\\n@@%s\\n' {}\n{}",
                        block.line,
                        expecting(&commands)
                    );
                }
                "console" => {
                    for (command, output) in exchanges(&block.text) {
                        let mark = format!("{}.{}", block.line, shown.len());
                        let command = with_last_write(&self.rewritten(&command));
                        let _ = writeln!(
                            script,
                            "printf '\\n@@%s\\n' {mark}\n{{ EXPECT=\n{command}\n}} 2>&1 || true\nunset EXPECT"
                        );
                        shown.push((mark, command, self.rewritten(&output)));
                    }
                }
                // A file that the reader writes.
                "toml" => {
                    let (name, text) = (file_of(block), self.rewritten(&block.text));
                    let _ = writeln!(
                        script,
                        "printf '\\n@@%s\\n' {}\ncat > {name} <<'END'\n{text}END",
                        block.line
                    );
                }
                _ => {}
            }
        }
        script.push_str("printf '\\n@@end\\n'\n");
        let said = self.run(&page.path, &script).await;
        for (mark, command, wanted) in shown {
            let after = said
                .split_once(&format!("@@{mark}\n"))
                .map_or("", |(_, after)| after);
            let got = after.split_once("\n@@").map_or(after, |(got, _)| got);
            if let Err(missing) = compare(&wanted, got) {
                panic!(
                    "{}:{mark}: {command}\ndoes not say\n{missing}\nbut\n{got}",
                    page.path
                );
            }
        }
    }

    /// Runs the script, and gives what it printed.
    async fn run(&self, page: &str, script: &str) -> String {
        let at = |name: &str| self.dir.path().join(name);
        fs::write(at("script"), script).expect("the script");
        let output = File::create(at("stdout")).expect("a file");
        let errors = File::create(at("stderr")).expect("a file");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            // A hook of git runs with the repository's own directory in its environment, and a page makes another.
            let text = name.to_string_lossy();
            if text.starts_with("LARDER_") || text.starts_with("GIT_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("script")
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", at("bin").display()))
            // Whatever file the page writes, its server listens here.
            .env("LARDER_SERVER_LISTEN", format!("127.0.0.1:{}", self.public))
            .env("LARDER_ADMIN_LISTEN", format!("127.0.0.1:{}", self.admin))
            .env("ADMIN_PORT", self.admin.to_string())
            .env("REDIS_PORT", self.redis.to_string())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("bash is there");
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let ended = tokio::time::timeout(LIMIT, child.wait()).await;
        // The shell ends what it has started; if it could not, it is ended here.
        if let Some(group) = group {
            kill_process_group(group, Signal::KILL).ok();
        }
        let text = |name| fs::read_to_string(at(name)).unwrap_or_default();
        let said = text("stdout");
        let whole = || {
            format!(
                "\n--- stdout\n{said}\n--- stderr\n{}\n--- server\n{}",
                text("stderr"),
                text("log")
            )
        };
        match ended {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => said,
            Ok(status) => panic!(
                "{page}: ended with {status:?} after the last line that begins with @@{}",
                whole()
            ),
            Err(_) => panic!("{page}: takes longer than {LIMIT:?}{}", whole()),
        }
    }
}

/// The file that a block of settings is: its first line says so, and else it is `larder.toml`.
pub(crate) fn file_of(block: &Block) -> String {
    let first = block.text.lines().next().unwrap_or_default();
    let name = first.strip_prefix("# ").unwrap_or_default();
    let name = name.split([' ', ',']).next().unwrap_or_default();
    if name.ends_with(".toml") {
        name
    } else {
        "larder.toml"
    }
    .to_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        // What a run leaves behind is not of the repository.
        if from.extension().is_some_and(|end| end == "wasm") || from.ends_with("larder-data") {
            continue;
        }
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file is copied");
        }
    }
}
