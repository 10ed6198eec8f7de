//! How plugins are, as the operator is shown: states, rows of `GET /plugins`, counts. Changes nothing.

use std::sync::Arc;

use super::runtime::Condition;
use super::version::{Plugin, PluginKind};

/// How a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginState {
    /// Its first version is being judged.
    Loading,
    /// It is served.
    Ready,
    /// It is served, but its source does not answer its probe, its change feed fails, or its breaker is open.
    Degraded,
    /// It is served, and an instance of it is being replaced.
    Restarting,
    /// No version of it can be served.
    Broken,
    /// A key policy that is not pure: it is not asked any more.
    Quarantined,
    /// Its file was removed.
    Retired,
}

impl PluginState {
    /// The name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Restarting => "restarting",
            Self::Broken => "broken",
            Self::Quarantined => "quarantined",
            Self::Retired => "retired",
        }
    }
}

/// One row of `GET /plugins`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginStatus {
    /// The file stem.
    pub name: String,
    /// What it can be used as; of a broken one, as far as is known.
    pub kinds: Vec<PluginKind>,
    /// How it is.
    pub state: PluginState,
    /// The served version's own name for itself.
    pub version: Option<String>,
    /// BLAKE3 of the served component, in hex.
    pub digest: Option<String>,
    /// What is wrong: with the files that lie there (then the version before is served), or with what is served.
    pub error: Option<String>,
}

/// What became of a version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The file stem.
    pub plugin: String,
    /// `served`, `refused` or `removed`.
    pub result: &'static str,
    /// Which version, or why not.
    pub detail: String,
}

/// Why a plugin was not reloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// There is no such plugin, and no file of that name.
    #[error("there is no plugin of this name")]
    Unknown,
    /// What lies in the directory is refused; the version before, if there is one, goes on serving.
    #[error("{0}")]
    Refused(String),
}

/// How often what happened, since the start. `served versions = swaps`, `swaps + refusals = judgements with an end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistryCounts {
    /// Versions that came to be served.
    pub swaps: u64,
    /// Candidates that were refused.
    pub refusals: u64,
    /// Plugins whose file was removed.
    pub retired: u64,
    /// Batches that loaders were asked.
    pub batches: u64,
    /// Questions in them.
    pub batch_questions: u64,
    /// Times that change feeds were polled.
    pub feed_polls: u64,
    /// Polls that failed.
    pub feed_failures: u64,
    /// Changes that feeds told, a new start among them.
    pub feed_changes: u64,
    /// Change feeds that this node reads now, for all nodes or for itself.
    pub feeds_read: u64,
}

/// What is shown of a plugin, apart from the version that is served.
#[derive(Clone, Debug, Default)]
pub(super) struct Face {
    /// Why the files that lie there are not served.
    pub(super) refusal: Option<String>,
    pub(super) kinds: Vec<PluginKind>,
    pub(super) removed: bool,
    /// Raised by each judgement, so that a waiting second try knows that it came too late.
    pub(super) judgements: u64,
}

impl Face {
    /// How a plugin is of which this version is served, if one is.
    pub(super) fn status(self, name: String, served: Option<&Arc<Plugin>>) -> PluginStatus {
        let Some(plugin) = served else {
            let state = match (&self.refusal, self.removed) {
                (Some(_), _) => PluginState::Broken,
                (None, true) => PluginState::Retired,
                (None, false) => PluginState::Loading,
            };
            return PluginStatus {
                name,
                kinds: self.kinds,
                state,
                version: None,
                digest: None,
                error: self.refusal,
            };
        };
        let (state, trouble) = match plugin.condition() {
            Condition::Ready => {
                let probe = plugin.probe_failure();
                let probe = probe.map(|failure| format!("its probe fails: {failure}"));
                match probe.or_else(|| plugin.feed_trouble()) {
                    Some(trouble) => (PluginState::Degraded, Some(trouble)),
                    None => (PluginState::Ready, None),
                }
            }
            Condition::Restarting { last_error } => (PluginState::Restarting, Some(last_error)),
            Condition::Open { last_error } => (PluginState::Degraded, Some(last_error)),
            Condition::Quarantined { why } => (PluginState::Quarantined, Some(why)),
        };
        let refused = self
            .refusal
            .map(|why| format!("the files that lie there are not served: {why}"));
        let error = match (refused, trouble) {
            (Some(refused), Some(trouble)) => Some(format!("{refused}; what is served: {trouble}")),
            (refused, trouble) => refused.or(trouble),
        };
        PluginStatus {
            name,
            kinds: plugin.kinds().to_vec(),
            state,
            version: plugin.version().map(str::to_owned),
            digest: Some(plugin.digest().to_owned()),
            error,
        }
    }
}
