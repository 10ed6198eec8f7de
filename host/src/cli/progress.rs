//! What `larder serve` is waiting for, on a terminal: components that are compiled, keys that are asked for again, requests that
//! end before it does. Alone in naming indicatif. Where stderr is no terminal nothing is drawn, and the log is all there is.

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::plugin::Compiling;

/// How often a line that only turns is drawn again.
const TURN: Duration = Duration::from_millis(100);

/// The lines at the bottom of the terminal; none where there is no terminal. Clones are the same lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Option<MultiProgress>);

/// One of the lines, which goes when this is dropped.
#[derive(Debug)]
pub(super) struct Bar(Option<ProgressBar>);

impl Progress {
    /// On stderr, if that is a terminal.
    pub(super) fn on_stderr() -> Self {
        Self(io::stderr().is_terminal().then(MultiProgress::new))
    }

    /// Something of which nobody knows how long it takes.
    pub(super) fn wait(&self, what: String) -> Bar {
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        let bar = self.add(ProgressBar::new_spinner, style);
        if let Some(bar) = &bar.0 {
            bar.set_message(what);
            bar.enable_steady_tick(TURN);
        }
        bar
    }

    /// So many things.
    pub(super) fn count(&self, what: &'static str, of: usize) -> Bar {
        let style = ProgressStyle::with_template("{bar:30} {pos} of {len} {msg}");
        let of = u64::try_from(of).unwrap_or(u64::MAX);
        let bar = self.add(|| ProgressBar::new(of), style);
        if let Some(bar) = &bar.0 {
            bar.set_message(what);
            bar.tick();
        }
        bar
    }

    fn add(
        &self,
        bar: impl FnOnce() -> ProgressBar,
        style: Result<ProgressStyle, indicatif::style::TemplateError>,
    ) -> Bar {
        Bar(self.0.as_ref().map(|lines| {
            let bar = lines.add(bar());
            // A template is a literal; a wrong one would only look plain.
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar
        }))
    }

    /// Shows each component while it is compiled, as long as anybody compiles.
    pub(super) fn follow(&self, mut compiling: watch::Receiver<Option<Compiling>>) {
        if self.0.is_none() {
            return;
        }
        let lines = self.clone();
        tokio::spawn(async move {
            loop {
                let now = compiling.borrow_and_update().clone();
                let _line = now.map(|Compiling { plugin, bytes }| {
                    let size = ByteSize(bytes as u64).display().iec();
                    lines.wait(format!("compiling {plugin}, {size},"))
                });
                if compiling.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Writes something else to stderr: the lines make room, and come back below it.
    pub(super) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(lines) => lines.suspend(write),
            None => write(),
        }
    }
}

impl Bar {
    /// One of the things is done.
    pub(super) fn one(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// What is written goes above the lines, an event of the log at a time.
impl Write for Progress {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.above(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_there_is_nothing() {
        let none = Progress::default();
        let (bar, line) = (none.count("keys", 1), none.wait("x".to_owned()));
        bar.one();
        assert!(bar.0.is_none() && line.0.is_none());
        assert_eq!(none.above(|| 7), 7);
    }
}
