//! One loaded version of one plugin, and who keeps it alive. Knows neither files nor how it was judged.
//!
//! A version is held by the set that serves it, by every snapshot of routes that names it, and by every call in flight.
//! When the last of them lets go, its instances are stopped: nobody has to count requests, and a swap waits for nobody.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::compile::Exports;
use super::descriptor::Descriptor;
use super::engine::Description;
use super::runtime::{ChangeFeed, Condition, Runtime};
use crate::cache::{Loader, Outcome, Question};
use crate::error::Failure;
use crate::key::{Decision, KeyPolicy, PolicyRequest};
use crate::write::{Mutation, Receipt, Writer};

/// How long a replaced or removed version may be held before it is stopped all the same. Every call has a deadline far
/// below it, so only a leak (or a call that hangs in the host) gets there; its answer is `plugin-not-loaded`.
pub(super) const RETIRE_MAX: Duration = Duration::from_secs(30);

/// What a plugin can be. One component may be several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PluginKind {
    /// `loader`
    Loader,
    /// `blocking-loader`
    BlockingLoader,
    /// `batch-loader`
    BatchLoader,
    /// `key-policy`
    KeyPolicy,
    /// `writer`
    Writer,
    /// `change-feed`
    ChangeFeed,
}

impl PluginKind {
    /// The name of its interface in the contract.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::BlockingLoader => "blocking-loader",
            Self::BatchLoader => "batch-loader",
            Self::KeyPolicy => "key-policy",
            Self::Writer => "writer",
            Self::ChangeFeed => "change-feed",
        }
    }

    /// What a component's exports make it; what routes load through comes first.
    pub(super) fn of(exports: &Exports) -> Vec<Self> {
        [
            (exports.batch_loader, Self::BatchLoader),
            (exports.loader, Self::Loader),
            (exports.blocking_loader, Self::BlockingLoader),
            (exports.key_policy, Self::KeyPolicy),
            (exports.writer, Self::Writer),
            (exports.change_feed, Self::ChangeFeed),
        ]
        .into_iter()
        .filter_map(|(exported, kind)| exported.then_some(kind))
        .collect()
    }

    /// Whether routes may load through it.
    pub(super) const fn loads(self) -> bool {
        matches!(
            self,
            Self::Loader | Self::BlockingLoader | Self::BatchLoader
        )
    }
}

/// What tells the entries of one source from those of another: the file stem, then what the author says the source is,
/// then how the operator configured it. Without metadata the component's digest stands for the author's word.
pub(super) fn identity(
    stem: &str,
    description: Option<&Description>,
    digest: &str,
    config: &Map<String, Value>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    // Every field goes in with its length before it: no two different lists of fields are one text (law 2).
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(stem.as_bytes());
    match description {
        Some(description) => {
            field(b"described");
            field(description.name.as_bytes());
            field(&description.cache_version.to_le_bytes());
        }
        None => {
            field(b"digest");
            field(digest.as_bytes());
        }
    }
    let mut canonical = String::new();
    canonical_object(config, &mut canonical);
    field(canonical.as_bytes());
    format!("{stem}~{}", &hasher.finalize().to_hex()[..16])
}

/// JSON with sorted names and no spaces: two sidecars that say the same in another order are one configuration.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(object) => canonical_object(object, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn canonical_object(object: &Map<String, Value>, out: &mut String) {
    // serde_json may keep insertion order (a feature any crate of the build can turn on), so sorting is done here.
    let mut members: Vec<_> = object.iter().collect();
    members.sort_unstable_by_key(|(name, _)| *name);
    out.push('{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(name.as_str()).to_string());
        out.push(':');
        canonical(value, out);
    }
    out.push('}');
}

/// One loaded version of one plugin. Immutable. When its last holder lets go, its instances are stopped and dropped.
pub struct Plugin {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) digest: String,
    pub(super) identity: Arc<str>,
    pub(super) kinds: Vec<PluginKind>,
    pub(super) described: bool,
    pub(super) descriptor: Arc<Descriptor>,
    loader: Option<Arc<dyn Loader>>,
    key_policy: Option<Arc<dyn KeyPolicy>>,
    writer: Option<Arc<dyn Writer>>,
    holder: Arc<Holder>,
    /// What the probe of this version said last, if it failed. It changes; shown, never acted on.
    probe_failure: Mutex<Option<String>>,
    /// What is wrong with its change feed, likewise.
    feed_trouble: Mutex<Option<String>>,
}

/// What is known of a version before it runs.
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) digest: String,
    pub(super) identity: Arc<str>,
    pub(super) kinds: Vec<PluginKind>,
    pub(super) described: bool,
    pub(super) descriptor: Arc<Descriptor>,
}

impl Plugin {
    pub(super) fn new(facts: Facts, runtime: Arc<dyn Runtime>, stops: &TaskTracker) -> Arc<Self> {
        let holder = Arc::new(Holder::new(runtime, stops));
        let loader = Arc::clone(&holder.runtime).loader().map(|inner| {
            Arc::new(HeldLoader {
                inner,
                holder: Arc::clone(&holder),
            }) as Arc<dyn Loader>
        });
        let key_policy = Arc::clone(&holder.runtime).key_policy().map(|inner| {
            Arc::new(HeldPolicy {
                inner,
                _holder: Arc::clone(&holder),
            }) as Arc<dyn KeyPolicy>
        });
        let writer = Arc::clone(&holder.runtime).writer().map(|inner| {
            Arc::new(HeldWriter {
                inner,
                holder: Arc::clone(&holder),
            }) as Arc<dyn Writer>
        });
        Arc::new(Self {
            name: facts.name,
            version: facts.version,
            digest: facts.digest,
            identity: facts.identity,
            kinds: facts.kinds,
            described: facts.described,
            descriptor: facts.descriptor,
            loader,
            key_policy,
            writer,
            holder,
            probe_failure: Mutex::default(),
            feed_trouble: Mutex::default(),
        })
    }

    pub(super) fn probe_failure(&self) -> Option<String> {
        self.probe_failure.lock().clone()
    }

    pub(super) fn set_probe_failure(&self, failure: Option<String>) {
        *self.probe_failure.lock() = failure;
    }

    pub(super) fn feed_trouble(&self) -> Option<String> {
        self.feed_trouble.lock().clone()
    }

    pub(super) fn set_feed_trouble(&self, trouble: Option<String>) {
        *self.feed_trouble.lock() = trouble;
    }

    /// The file stem.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the component calls its version, if it says.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// BLAKE3 of the component, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// `STEM~` and 16 hex digits: what keys are made with. Equal for versions whose entries may be shared.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// What it can be used as.
    pub fn kinds(&self) -> &[PluginKind] {
        &self.kinds
    }

    /// What it says about itself.
    pub fn descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }

    /// To load through it.
    pub fn loader(&self) -> Option<Arc<dyn Loader>> {
        self.loader.clone()
    }

    /// To derive keys with it.
    pub fn key_policy(&self) -> Option<Arc<dyn KeyPolicy>> {
        self.key_policy.clone()
    }

    /// To write through it.
    pub fn writer(&self) -> Option<Arc<dyn Writer>> {
        self.writer.clone()
    }

    /// To be told what changed. It does not keep this version alive.
    pub(super) fn change_feed(&self) -> Option<Arc<dyn ChangeFeed>> {
        self.runtime().change_feed()
    }

    /// How its instances are.
    pub(super) fn condition(&self) -> Condition {
        self.holder.runtime.condition()
    }

    /// Whether a fresh instance of the same files could do no better.
    pub(super) fn is_well(&self) -> bool {
        self.probe_failure().is_none()
            && self.feed_trouble().is_none()
            && self.condition() == Condition::Ready
    }

    pub(super) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.holder.runtime)
    }

    pub(super) fn loads(&self) -> bool {
        self.kinds.iter().any(|kind| kind.loads())
    }

    pub(super) fn derives(&self) -> bool {
        self.kinds.contains(&PluginKind::KeyPolicy)
    }

    /// Stops it now, whoever still holds it.
    pub(super) fn stop(&self) {
        self.holder.stop();
    }

    /// Stops it [`RETIRE_MAX`] from now, unless everybody lets go before.
    pub(super) fn retire(&self) {
        let holder = Arc::downgrade(&self.holder);
        let gone = self.holder.gone.clone();
        let name = self.name.clone();
        // Not tracked: it may outlive nobody, and shutting down does not wait for it.
        tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = tokio::time::sleep(RETIRE_MAX) => {
                    if let Some(holder) = holder.upgrade() {
                        tracing::warn!(plugin = name, "a replaced version is still in use after {RETIRE_MAX:?}: stopping it");
                        holder.stop();
                    }
                }
            }
        });
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Keeps a runtime, and stops it exactly once: when dropped, or before.
struct Holder {
    runtime: Arc<dyn Runtime>,
    stops: TaskTracker,
    /// Drops may happen on any thread, so the runtime to stop on is remembered.
    tokio: Handle,
    stopped: AtomicBool,
    gone: CancellationToken,
    _gone_on_drop: DropGuard,
}

impl Holder {
    fn new(runtime: Arc<dyn Runtime>, stops: &TaskTracker) -> Self {
        let gone = CancellationToken::new();
        Self {
            runtime,
            stops: stops.clone(),
            tokio: Handle::current(),
            stopped: AtomicBool::new(false),
            _gone_on_drop: gone.clone().drop_guard(),
            gone,
        }
    }

    fn stop(&self) {
        if !self.stopped.swap(true, Ordering::AcqRel) {
            let stop = Arc::clone(&self.runtime).stop();
            self.stops.spawn_on(stop, &self.tokio);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A loader that keeps its version alive, in the hands of a route and in each of its calls.
struct HeldLoader {
    inner: Arc<dyn Loader>,
    holder: Arc<Holder>,
}

impl Loader for HeldLoader {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn load(&self, question: Question) -> BoxFuture<'static, Result<Outcome, Failure>> {
        let holder = Arc::clone(&self.holder);
        let load = self.inner.load(question);
        Box::pin(async move {
            let outcome = load.await;
            drop(holder);
            outcome
        })
    }
}

/// A writer that keeps its version alive, likewise.
struct HeldWriter {
    inner: Arc<dyn Writer>,
    holder: Arc<Holder>,
}

impl Writer for HeldWriter {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn write(&self, mutations: Vec<Mutation>) -> BoxFuture<'static, Vec<Result<Receipt, Failure>>> {
        let holder = Arc::clone(&self.holder);
        let write = self.inner.write(mutations);
        Box::pin(async move {
            let results = write.await;
            drop(holder);
            results
        })
    }
}

/// A key policy that keeps its version alive. Its calls are synchronous: the caller's own reference outlives them.
struct HeldPolicy {
    inner: Arc<dyn KeyPolicy>,
    _holder: Arc<Holder>,
}

impl KeyPolicy for HeldPolicy {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn derive(&self, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.inner.derive(request)
    }

    fn derive_fresh(&self, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.inner.derive_fresh(request)
    }

    fn quarantine(&self, why: &str) {
        self.inner.quarantine(why);
    }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
