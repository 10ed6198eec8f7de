//! A terminal with a person before it: a command in a pseudo-terminal (of `script`, which every Linux has), the screen that it
//! draws, the keys that are pressed. Understands of escape sequences what the programs under test say.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::wait::eventually;

/// Columns and rows.
const WIDTH: usize = 100;
const HEIGHT: usize = 30;

/// A command that runs in a terminal. It is ended when this is dropped, because its terminal is gone.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Screen>>,
    drawn: JoinHandle<()>,
    dir: tempfile::TempDir,
}

/// What a command in a terminal came to.
#[derive(Debug)]
pub struct Ended {
    /// What it exited with, as a shell says it.
    pub code: i32,
    /// The modes of the terminal (`stty -g`) before it ran and afterwards.
    pub modes: (String, String),
    /// Whether the other screen was left, and the cursor is to be seen.
    pub is_clean: bool,
    /// What is on the screen in the end.
    pub screen: String,
    /// Everything that was written to the terminal, raw.
    pub raw: String,
}

impl Terminal {
    /// Starts a program with these variables over the environment of the test, in a directory.
    pub fn start(
        directory: &Path,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        // The program's own shell says who it is, is replaced by it, and the outer one looks at what it left.
        let inside = r#"stty rows "$ROWS" cols "$COLS"; stty -g > "$NOTES/before"
            sh -c 'echo $$ > "$NOTES/pid.new"; mv "$NOTES/pid.new" "$NOTES/pid"; exec "$0" "$@"' "$PROGRAM" $ARGUMENTS
            echo $? > "$NOTES/code"; stty -g > "$NOTES/after""#;
        let mut command = Command::new("script");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LARDER_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["-qfc", inside, "/dev/null"])
            .current_dir(directory)
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .env("ROWS", HEIGHT.to_string())
            .env("COLS", WIDTH.to_string())
            .env("NOTES", dir.path())
            .env("PROGRAM", program)
            // Without spaces in them: the shell takes them apart.
            .env("ARGUMENTS", arguments.join(" "))
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("script(1) is there: of bsdutils or util-linux");
        let keys = child.stdin.take().expect("it is piped");
        let mut output = child.stdout.take().expect("it is piped");
        let screen = Arc::new(Mutex::new(Screen::default()));
        let drawing = Arc::clone(&screen);
        let drawn = tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes).await {
                drawing.lock().write(&bytes[..read]);
            }
        });
        Self {
            child,
            keys,
            screen,
            drawn,
            dir,
        }
    }

    /// Presses keys.
    pub async fn press(&mut self, keys: &str) {
        self.keys
            .write_all(keys.as_bytes())
            .await
            .expect("it reads keys");
        self.keys.flush().await.expect("it reads keys");
    }

    /// The screen as lines without what is blank at their ends.
    pub fn screen(&self) -> String {
        self.screen.lock().text()
    }

    /// Waits until the screen shows what is looked for, and gives what `find` makes of it.
    ///
    /// # Panics
    /// When it never does.
    pub async fn until<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let shown = std::panic::AssertUnwindSafe(eventually(what, async || find(&self.screen())));
        match futures_util::FutureExt::catch_unwind(shown).await {
            Ok(found) => found,
            Err(_) => panic!("{what}: the screen is\n{}", self.screen()),
        }
    }

    /// Waits until this text is on the screen.
    ///
    /// # Panics
    /// When it never is.
    pub async fn until_text(&self, text: &str) {
        self.until(text, |screen| screen.contains(text).then_some(()))
            .await;
    }

    /// Sends a signal to the program itself.
    ///
    /// # Panics
    /// When it is not there.
    pub fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.note("pid")).expect("it has started");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("it runs");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(mut self) -> Ended {
        eventually("the program ends", async || {
            self.child.try_wait().expect("it can be asked")
        })
        .await;
        (&mut self.drawn).await.expect("all of it is drawn");
        let note = |name| {
            let note = std::fs::read_to_string(self.note(name));
            note.expect("the shell has noted it").trim().to_owned()
        };
        let screen = self.screen.lock();
        Ended {
            code: note("code").parse().expect("a status"),
            modes: (note("before"), note("after")),
            screen: screen.text(),
            is_clean: !screen.is_other && !screen.is_cursor_hidden,
            raw: String::from_utf8_lossy(&screen.raw).into_owned(),
        }
    }

    fn note(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Cells, and where the next character goes.
#[derive(Debug)]
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    is_other: bool,
    is_cursor_hidden: bool,
    /// Bytes that are the begin of something.
    pending: Vec<u8>,
    raw: Vec<u8>,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            cells: vec![vec![' '; WIDTH]; HEIGHT],
            row: 0,
            column: 0,
            is_other: false,
            is_cursor_hidden: false,
            pending: Vec::new(),
            raw: Vec::new(),
        }
    }
}

impl Screen {
    fn text(&self) -> String {
        let line = |cells: &Vec<char>| cells.iter().collect::<String>().trim_end().to_owned();
        let lines: Vec<String> = self.cells.iter().map(line).collect();
        lines.join("\n")
    }

    fn write(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let whole = match std::str::from_utf8(&pending) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = std::str::from_utf8(&pending[..whole]).expect("it is looked at");
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let Some(sequence) = rest.strip_prefix('\u{1b}') else {
                self.put(c);
                rest = &rest[c.len_utf8()..];
                continue;
            };
            let Some(length) = sequence_length(sequence) else {
                break;
            };
            self.obey(&sequence[..length]);
            rest = &sequence[length..];
        }
        let kept = [rest.as_bytes(), &pending[whole..]].concat();
        self.pending = kept;
    }

    fn put(&mut self, c: char) {
        match c {
            '\r' => self.column = 0,
            '\n' if self.row + 1 == HEIGHT => {
                self.cells.remove(0);
                self.cells.push(vec![' '; WIDTH]);
            }
            '\n' => self.row += 1,
            c if c.is_control() => {}
            c => {
                if self.column == WIDTH {
                    self.column = 0;
                    self.put('\n');
                }
                self.cells[self.row][self.column] = c;
                self.column += 1;
            }
        }
    }

    /// One sequence, without its escape character.
    fn obey(&mut self, sequence: &str) {
        let Some(control) = sequence.strip_prefix('[') else {
            return;
        };
        let (arguments, command) = control.split_at(control.len() - 1);
        let mut numbers = arguments.split(';').map(|number| number.parse().ok());
        let mut number = |otherwise: usize| numbers.next().flatten().unwrap_or(otherwise);
        match (command, arguments) {
            ("h" | "l", "?1049") => self.is_other = command == "h",
            ("h" | "l", "?25") => self.is_cursor_hidden = command == "l",
            ("H", _) => {
                self.row = (number(1) - 1).min(HEIGHT - 1);
                self.column = (number(1) - 1).min(WIDTH - 1);
            }
            ("A", _) => self.row = self.row.saturating_sub(number(1)),
            ("B", _) => self.row = (self.row + number(1)).min(HEIGHT - 1),
            ("C", _) => self.column = (self.column + number(1)).min(WIDTH - 1),
            ("D", _) => self.column = self.column.saturating_sub(number(1)),
            ("G", _) => self.column = (number(1) - 1).min(WIDTH - 1),
            ("J", "2") => self.cells = vec![vec![' '; WIDTH]; HEIGHT],
            ("J", _) => {
                self.cells[self.row][self.column.min(WIDTH - 1)..].fill(' ');
                for row in &mut self.cells[self.row + 1..] {
                    row.fill(' ');
                }
            }
            ("K", "2") => self.cells[self.row].fill(' '),
            ("K", _) => self.cells[self.row][self.column.min(WIDTH - 1)..].fill(' '),
            _ => {}
        }
    }
}

/// How long a sequence is that begins after its escape character; none if its end has not come yet.
fn sequence_length(after: &str) -> Option<usize> {
    if !after.starts_with('[') {
        return after.chars().next().map(char::len_utf8);
    }
    let end = after[1..].find(|c: char| ('@'..='~').contains(&c))?;
    Some(end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_say_to_a_terminal_is_on_the_screen() {
        let mut screen = Screen::default();
        for piece in [
            "\u{1b}[?1049h\u{1b}[2;",
            "3Hab\u{1b}[31mc\u{1b}[1;1Hx\r\n",
            "\u{1b}[2Cz",
        ] {
            screen.write(piece.as_bytes());
        }
        assert_eq!(screen.text().trim_end(), "x\n  zbc");
        assert!(screen.is_other);
        screen.write("\u{1b}[1A\u{1b}[2K\r≤".as_bytes());
        assert_eq!(screen.text().trim_end(), "≤\n  zbc");
    }
}
