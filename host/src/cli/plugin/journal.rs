//! What was logged during one call: the plugin's own lines, and the host's warnings. Bounded; knows nothing of the call.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::show::printable;

/// The target of a plugin's own lines.
const PLUGIN: &str = "larder::plugin";
/// Lines that are kept; a plugin's rate is bounded anyway (100 in a second).
const LINES_MAX: usize = 1000;

/// The lines, in the order they were said.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    kept: Vec<String>,
    dropped: usize,
}

impl Journal {
    /// From now on everything logged in this process is written here.
    pub(super) fn start() -> Self {
        let journal = Self::default();
        let filter = Targets::new()
            .with_target(PLUGIN, Level::TRACE)
            .with_target("larder", Level::WARN);
        tracing_subscriber::registry()
            .with(journal.clone().with_filter(filter))
            .init();
        journal
    }

    /// `  LEVEL  WHO  LINE` for each.
    pub(super) fn text(&self) -> String {
        let lines = self.0.lock();
        let mut text: String = lines
            .kept
            .iter()
            .map(|line| format!("  {line}\n"))
            .collect();
        if lines.dropped > 0 {
            text.push_str(&format!("  … and {} lines more\n", lines.dropped));
        }
        text
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let own = metadata.target() == PLUGIN;
        // The host's own modules have targets that begin like the plugins'.
        if !own && *metadata.level() > Level::WARN {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        let who = match &said.stream {
            Some(stream) if own => stream,
            _ => "larder",
        };
        let level = metadata.level().as_str().to_lowercase();
        let line = format!("{level:<5}  {who:<6}  {}", printable(&said.message));
        let mut lines = self.0.lock();
        if lines.kept.len() < LINES_MAX {
            lines.kept.push(line.trim_end().to_owned());
        } else {
            lines.dropped += 1;
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Said {
    message: String,
    /// `stdout`, `stderr` or `log`.
    stream: Option<String>,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "stream" => self.stream = Some(value.to_owned()),
            "message" => value.clone_into(&mut self.message),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}
