//! The log: in which form it is written, and by whom. A thread of its own writes it, so that who reads stderr slowly, or
//! not at all, costs lines and not answers. Knows nothing of what is logged.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use tracing::field::Field;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, Writer};

use super::progress::Progress;
use crate::config::{Log, LogFormat};

/// Lines that wait to be written; more are counted and dropped (law 12).
const LINES_MAX: usize = 4096;

/// The thread that writes. Dropped, it writes what waits, for a second at most.
pub(super) struct Logging {
    dropped: ErrorCounter,
    _thread: WorkerGuard,
}

/// Logs to stderr from here on, above the lines of `progress`. `LARDER_LOG` filters as `RUST_LOG` does elsewhere, over `[log] level`.
pub(super) fn start(log: &Log, progress: &Progress) -> Logging {
    let filter = EnvFilter::try_from_env("LARDER_LOG").unwrap_or_else(|_| {
        // The configuration was read with the same rule: this is never what it falls back on.
        EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"))
    });
    let (writer, thread) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(progress.clone());
    let dropped = writer.error_counter();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match log.format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .fmt_fields(format::debug_fn(field).delimited(" "))
            .init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Logging {
        dropped,
        _thread: thread,
    }
}

impl Logging {
    /// How many lines were dropped because nobody read those before them.
    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = self.dropped.clone();
        move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

/// The message by itself, a field by its name.
fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{field}=")?;
    }
    write!(Harmless(writer), "{value:?}")
}

/// Writes no control character: what a client, a plugin or a source says must not begin a line of its own, nor tell a
/// terminal what to do.
struct Harmless<'w, W>(&'w mut W);

impl<W: fmt::Write> fmt::Write for Harmless<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(char::is_control) {
            self.0.write_str(&rest[..at])?;
            let control = rest[at..].chars().next().unwrap_or_default();
            write!(self.0, "{}", control.escape_default())?;
            rest = &rest[at + control.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_told_as_such() {
        let mut text = String::new();
        write!(Harmless(&mut text), "a\nb\u{1b}[2Jc\u{7f}\u{85}ü").unwrap();
        assert_eq!(text, "a\\nb\\u{1b}[2Jc\\u{7f}\\u{85}ü");
    }
}
