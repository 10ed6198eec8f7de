//! What the engine is given to run a plugin, and what it gives back: the vocabulary between the registry and the engine.
//!
//! Owns types and no behaviour; knows neither files nor wasmtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::account::Account;
use super::compile::Compiled;
use super::limits::Limits;
use super::{Egress, Secrets};
use crate::cache::Loader;
use crate::error::Failure;
use crate::key::{KeyPolicy, Param};
use crate::write::Writer;

/// All that it takes to run one version of one plugin.
pub struct Spec {
    /// The file stem.
    pub name: String,
    /// The component.
    pub compiled: Arc<Compiled>,
    /// The sidecar's `[config]` as one JSON object: what `settings.get` returns.
    pub settings: String,
    /// What `secrets.get` finds.
    pub secrets: Secrets,
    /// What the plugin may reach.
    pub egress: Arc<Egress>,
    /// What it may use.
    pub limits: Limits,
}

/// A plugin that runs.
pub struct Launched {
    /// Runs for as long as somebody holds it.
    pub runtime: Arc<dyn Runtime>,
    /// What `lifecycle.probe` said; `Ok` for a component without `lifecycle`. A failing probe does not stop the plugin:
    /// whether it is served is the registry's to decide.
    pub probe: Result<(), Failure>,
}

impl fmt::Debug for Launched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launched")
            .field("condition", &self.runtime.condition())
            .field("probe", &self.probe)
            .finish()
    }
}

/// The running instances of one version of one plugin.
pub trait Runtime: Send + Sync {
    /// The loader, if the component exports `batch-loader`, `loader` or `blocking-loader`.
    fn loader(self: Arc<Self>) -> Option<Arc<dyn Loader>>;

    /// The key policy, if the component exports `key-policy`.
    fn key_policy(self: Arc<Self>) -> Option<Arc<dyn KeyPolicy>>;

    /// The writer, if the component exports `writer`.
    fn writer(self: Arc<Self>) -> Option<Arc<dyn Writer>>;

    /// The change feed, if the component exports `change-feed`.
    fn change_feed(self: Arc<Self>) -> Option<Arc<dyn ChangeFeed>>;

    /// Asks a fresh instance whether the source is reachable (`start`, then `probe`, each within its budget).
    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// How it is now.
    fn condition(&self) -> Condition;

    /// What it has done since it was loaded. Of a part that nobody counts, nothing.
    fn account(&self) -> Account {
        Account::default()
    }

    /// The most linear memory that one of its instances ever had, in bytes.
    fn memory_peak(&self) -> usize;

    /// Lets calls in flight finish (bounded by the plugin's timeout), calls `lifecycle.stop` (10 s), drops the instances.
    /// Later calls fail with `plugin-not-loaded`.
    fn stop(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

/// Tells what changed at a source.
pub trait ChangeFeed: Send + Sync {
    /// Gives the changes after a cursor, or the head of the feed without one. Ends within its deadline, whatever the guest
    /// does. One poll at a time; one that is dropped costs the feed its instance.
    fn poll(&self, cursor: Option<Vec<u8>>) -> BoxFuture<'_, Result<Page, Failure>>;
}

/// What changed since a cursor: the contract's `page`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Oldest first.
    pub changes: Vec<Change>,
    /// Where this page ends.
    pub cursor: Vec<u8>,
    /// How long until the next poll, as the feed asks for it.
    pub poll_after: Duration,
}

/// One thing that changed: the contract's `change`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One resource, in all its variants.
    Item {
        /// The pattern of its route; `None`: every route of this loader.
        route: Option<String>,
        /// Its path parameters, decoded.
        params: Vec<Param>,
    },
    /// Everything that carries this tag.
    Tag(String),
    /// Everything of this loader.
    Everything,
}

/// How a running plugin is. The worst of its parts is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It answers.
    Ready,
    /// An instance died and its replacement is not up yet.
    Restarting {
        /// Why the last attempt failed.
        last_error: String,
    },
    /// The plugin breaker is open: half of the recent calls were faults.
    Open {
        /// The last of them.
        last_error: String,
    },
    /// A key policy gave different answers to the same request.
    Quarantined {
        /// What differed.
        why: String,
    },
}

/// Why a component (or a version of it) is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong, naming the thing.
    pub message: String,
    /// How to mend it.
    pub remedy: Option<String>,
}

impl Refusal {
    /// A refusal that says how to mend what is wrong.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A refusal with nothing to suggest.
    pub fn bare(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, " ({remedy})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}
