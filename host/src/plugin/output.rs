//! What a plugin prints and logs: bounded by rate and size (law 12), without its secrets, told to the host's log, its last
//! lines kept for errors.
//!
//! Owns the rate of a plugin ([`Voice`]) and the last lines of an instance ([`Output`]). Knows no wasmtime store.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::account::{Line, Lines};
use super::redact::Redactor;

/// Lines kept of an instance, for the message of its failures.
const LAST_LINES: usize = 5;
/// Bytes of those lines together.
const LAST_BYTES: usize = 1024;
/// What one write may hold: the permit that WASI's streams give.
const PERMIT: usize = 64 * 1024;

/// The voice of one plugin in the host's log: all its instances share one rate.
pub(super) struct Voice {
    plugin: String,
    lines_per_second: u32,
    line_bytes: usize,
    redactor: Arc<Redactor>,
    window: Mutex<Window>,
    dropped: AtomicU64,
    /// The last of what was told.
    lines: Lines,
}

struct Window {
    began: Instant,
    lines: u32,
    /// Dropped since the last line that said so.
    untold: u64,
}

impl Voice {
    /// At most `lines_per_second` lines of `line_bytes` bytes, without what `redactor` knows.
    pub(super) fn new(
        plugin: &str,
        lines_per_second: u32,
        line_bytes: usize,
        redactor: &Arc<Redactor>,
    ) -> Arc<Self> {
        Arc::new(Self {
            redactor: Arc::clone(redactor),
            plugin: plugin.to_owned(),
            lines_per_second,
            line_bytes,
            window: Mutex::new(Window {
                began: Instant::now(),
                lines: 0,
                untold: 0,
            }),
            dropped: AtomicU64::new(0),
            lines: Lines::default(),
        })
    }

    /// Lines that were dropped since the plugin was loaded.
    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Whether one more line may be told now; says how many were dropped before it.
    fn admit(&self) -> bool {
        let mut window = self.window.lock();
        if window.began.elapsed() >= Duration::from_secs(1) {
            window.began = Instant::now();
            window.lines = 0;
            let untold = std::mem::take(&mut window.untold);
            if untold > 0 {
                tracing::warn!(target: "larder::plugin", plugin = %self.plugin, dropped = untold, "the plugin logged more than {} lines in a second; the rest was dropped", self.lines_per_second);
            }
        }
        if window.lines >= self.lines_per_second {
            window.untold += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        window.lines += 1;
        true
    }

    /// The last lines that were told, oldest first.
    pub(super) fn lines(&self) -> Vec<Line> {
        self.lines.read()
    }

    /// How much of a line is looked at: what is told of it, and a secret that reaches over the end of that.
    fn room(&self) -> usize {
        self.line_bytes + self.redactor.longest()
    }

    /// What is told of a line of which at most [`Voice::room`] was taken.
    fn fit(&self, line: &str) -> String {
        // A line that is cut off, or that is not finished, may end in the middle of a secret.
        let line = self.redactor.redact_cut(line);
        let line = &line[..line.floor_char_boundary(self.line_bytes)];
        harmless(line).into_owned()
    }

    fn tell(&self, level: Level, stream: &'static str, line: &str) {
        if !self.admit() {
            return;
        }
        self.lines.push(name(level), line);
        let plugin = &*self.plugin;
        // `tracing` wants its level at compile time.
        match level {
            Level::ERROR => tracing::error!(target: "larder::plugin", plugin, stream, "{line}"),
            Level::WARN => tracing::warn!(target: "larder::plugin", plugin, stream, "{line}"),
            Level::INFO => tracing::info!(target: "larder::plugin", plugin, stream, "{line}"),
            Level::DEBUG => tracing::debug!(target: "larder::plugin", plugin, stream, "{line}"),
            Level::TRACE => tracing::trace!(target: "larder::plugin", plugin, stream, "{line}"),
        }
    }
}

/// As people read it.
fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// What one instance prints: lines are told as they end, the last few are kept.
pub(super) struct Output {
    voice: Arc<Voice>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: VecDeque<String>,
    bytes: usize,
    /// The unfinished line of each stream.
    partial: [Vec<u8>; 2],
}

impl Output {
    /// The output of a new instance.
    pub(super) fn new(voice: &Arc<Voice>) -> Arc<Self> {
        Arc::new(Self {
            voice: Arc::clone(voice),
            kept: Mutex::new(Kept::default()),
        })
    }

    /// A line of the `log` interface, its fields behind its message.
    pub(super) fn log<'a>(
        &self,
        level: Level,
        message: &str,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        let room = self.voice.room();
        let mut line = String::new();
        push_bounded(&mut line, message, room);
        for (name, value) in fields {
            for text in [" ", name, "=", value] {
                push_bounded(&mut line, text, room);
            }
        }
        let line = self.voice.fit(&line);
        if level <= Level::WARN {
            self.kept.lock().keep(&line);
        }
        self.voice.tell(level, "log", &line);
    }

    /// The last lines the guest printed, oldest first; empty if it printed nothing.
    pub(super) fn last_lines(&self) -> String {
        let mut kept = self.kept.lock();
        for stream in 0..kept.partial.len() {
            let partial = std::mem::take(&mut kept.partial[stream]);
            if !partial.is_empty() {
                let partial = self.voice.fit(&String::from_utf8_lossy(&partial));
                kept.keep(&partial);
            }
        }
        let mut text = String::new();
        for line in &kept.last {
            if !text.is_empty() {
                // Not a line break: what this goes into is logged, too.
                text.push_str(" ␤ ");
            }
            text.push_str(line);
        }
        text
    }

    fn write(&self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (line, rest) = match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&bytes[..end], Some(&bytes[end + 1..])),
                None => (bytes, None),
            };
            let mut kept = self.kept.lock();
            let partial = &mut kept.partial[stream as usize];
            let room = self.voice.room().saturating_sub(partial.len());
            partial.extend_from_slice(&line[..line.len().min(room)]);
            let Some(rest) = rest else { return };
            let whole = std::mem::take(partial);
            bytes = rest;
            if whole.is_empty() {
                continue;
            }
            let whole = self.voice.fit(&String::from_utf8_lossy(&whole));
            kept.keep(&whole);
            drop(kept);
            match stream {
                Stream::Stdout => self.voice.tell(Level::INFO, "stdout", &whole),
                Stream::Stderr => self.voice.tell(Level::WARN, "stderr", &whole),
            }
        }
    }
}

impl Kept {
    fn keep(&mut self, line: &str) {
        let mut text = String::new();
        push_bounded(&mut text, line, LAST_BYTES / 2);
        self.bytes += text.len();
        self.last.push_back(text);
        while self.last.len() > LAST_LINES || self.bytes > LAST_BYTES {
            let Some(first) = self.last.pop_front() else {
                break;
            };
            self.bytes -= first.len();
        }
    }
}

/// The text without what a terminal obeys, each such character replaced by one that shows it. A line break must not look
/// like a line of the host, an escape must not move its cursor, and text must not be turned around (law 9).
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| match c {
        '\n' | '\r' => '␤',
        '\t' => ' ',
        // U+2400 on are pictures of the control characters, in their order.
        '\0'..='\x1f' => {
            char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        '\x7f' => '␡',
        c if harmful(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    Cow::Owned(text.chars().map(shown).collect())
}

fn harmful(c: char) -> bool {
    // Beside the control characters: line and paragraph separators, and what reorders text.
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Appends what fits, cut at a character.
fn push_bounded(line: &mut String, text: &str, max: usize) {
    let room = max.saturating_sub(line.len());
    line.push_str(&text[..text.floor_char_boundary(room)]);
}

/// Which of the two standard streams.
#[derive(Clone, Copy)]
pub(super) enum Stream {
    /// Told at `info`.
    Stdout,
    /// Told at `warn`.
    Stderr,
}

/// A standard stream of one instance. Always ready, never waits: what is over the bound is dropped.
#[derive(Clone)]
pub(super) struct Sink {
    output: Arc<Output>,
    stream: Stream,
}

impl Sink {
    /// The given stream of an instance.
    pub(super) fn new(output: &Arc<Output>, stream: Stream) -> Self {
        Self {
            output: Arc::clone(output),
            stream,
        }
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.output.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PERMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(lines_per_second: u32) -> (Arc<Voice>, Arc<Output>) {
        let voice = Voice::new("test", lines_per_second, 64, &Arc::default());
        let output = Output::new(&voice);
        (voice, output)
    }

    #[test]
    fn the_last_lines_are_kept_and_an_unfinished_one_counts() {
        let (_, output) = output(100);
        output.write(Stream::Stdout, b"one\ntwo\nthree\nfour\nfive\nsi");
        output.write(Stream::Stdout, b"x\npart");
        assert_eq!(output.last_lines(), "three ␤ four ␤ five ␤ six ␤ part");
    }

    /// Law 12: a flood is neither kept nor told.
    #[test]
    fn law_12_a_flood_is_counted_and_dropped() {
        let (voice, output) = output(10);
        for _ in 0..1000 {
            output.write(Stream::Stderr, b"flood flood flood\n");
        }
        output.write(Stream::Stderr, &vec![b'x'; 1 << 20]);
        assert!(output.last_lines().len() <= LAST_BYTES + LAST_LINES);
        assert!(voice.dropped() >= 980, "{}", voice.dropped());
    }

    /// Law 9: nor in pieces, nor over the end of what is told of a line.
    #[test]
    fn law_9_what_a_plugin_says_holds_no_secret() {
        let redactor = Arc::new(Redactor::default());
        redactor.learn("token", "correct horse battery staple");
        let voice = Voice::new("test", 100, 64, &redactor);
        let output = Output::new(&voice);
        output.write(Stream::Stderr, b"it is correct horse ");
        output.write(Stream::Stderr, b"battery staple, yes\n");
        let fields = [("auth", "Bearer correct horse battery staple")];
        output.log(Level::ERROR, "refused", fields.into_iter());
        let long = format!("{}correct horse battery staple\n", "x".repeat(50));
        output.write(Stream::Stderr, long.as_bytes());
        output.write(Stream::Stderr, b"unfinished correct horse batt");
        assert_eq!(
            output.last_lines(),
            format!(
                "it is [secret token], yes ␤ refused auth=Bearer [secret token] ␤ {}[secret token] ␤ unfinished [secret token]",
                "x".repeat(50)
            )
        );
    }

    /// Law 9: what a terminal obeys is shown instead, whichever way it is said.
    #[test]
    fn law_9_no_escape_gets_through() {
        let (_, output) = output(10);
        let bad = "\x1b]0;t\x07 \x1b[2J\r\u{9b}31m \u{202e}";
        output.log(Level::WARN, bad, std::iter::empty());
        output.write(Stream::Stderr, format!("{bad}\n{bad}").as_bytes());
        let told = output.last_lines();
        assert!(!told.contains(harmful), "{told:?}");
        assert_eq!(told.matches("␛[2J␤").count(), 3, "{told:?}");
    }

    #[test]
    fn a_log_line_is_one_line_and_is_cut_at_a_character() {
        let (_, output) = output(10);
        output.log(Level::WARN, &"ü\n".repeat(100), [("a", "b")].into_iter());
        let line = output.last_lines();
        assert!(line.len() <= 130 && !line.contains('\n'), "{line}");
    }
}
