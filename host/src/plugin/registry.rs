//! Which plugins there are, and which version of each is served. Judges what the directory holds, swaps in one step.
//!
//! - A `Slot` is a plugin's place: its judgements happen one after another there, those of different plugins side by side.
//!
//! **A swap, step by step** (law 8). (1) The new version is compiled, checked, started and probed by [`super::judge`],
//! touching nothing. (2) Under the publishing lock a new set is made, stored, and told to `on_change`, which rebuilds
//! whatever was made from the old one before the lock is let go: sets are told in the order they are stored, and when
//! `reload` returns, new requests meet the new version. (3) The old version is held by nobody but the requests that pinned
//! it; when the last of them ends it stops itself. No step waits for a request, and no request waits for a step.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch::Receiver;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::account::{Account, now_ms};
use super::compile::{Compiling, Worker};
use super::egress::EgressClient;
use super::engine::Engine;
use super::feeds::{Changes, Feeds};
use super::files::{self, ReadError};
use super::judge::{Candidate, Court, Rejection, Roles, sentence};
use super::last_good::LastGood;
use super::set::{PLACES_MAX, PluginSet};
use super::status::{Event, Face, PluginStatus, RegistryCounts, ReloadError};
use super::version::Plugin;
use super::watch;
use crate::config::{Config, Problem, Write};

/// The first wait before something that failed is tried again; it doubles up to [`BACKOFF_MAX`].
/// Versions whose fate is kept.
const HISTORY_MAX: usize = 50;
/// At the start, so many plugins are read while they wait for a judge, so that none waits for the disk.
const READ_AHEAD: usize = 2;
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// So long after the last plugin was loaded, what loading it needed is given back.
const LOADED: Duration = Duration::from_millis(500);

/// Told of each new set, in order, before whoever caused it goes on. It must not block, and may call [`Registry::set`].
pub type OnChange = Arc<dyn Fn(Arc<PluginSet>) + Send + Sync>;

/// The plugins of one directory. Dropping it ends the watching; what is served stays as long as somebody holds it.
pub struct Registry {
    shared: Arc<Shared>,
    /// Whether changes of the directory take effect by themselves.
    watched: bool,
}

pub(super) struct Shared {
    court: Court,
    last_good: LastGood,
    feeds: Feeds,
    set: ArcSwap<PluginSet>,
    /// `None` until the initial set is complete. Its lock is the publishing lock.
    on_change: Mutex<Option<OnChange>>,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// The plugins that some route may write through: they stay writers. Others may be one and cease to be.
    writers: RwLock<HashSet<String>>,
    /// Judgements at once: compiling takes all it can get of a core.
    judges: Semaphore,
    judges_max: usize,
    /// A version was taken into service.
    loaded: Notify,
    stops: TaskTracker,
    pub(super) closing: CancellationToken,
    history: Mutex<VecDeque<Event>>,
    swaps: AtomicU64,
    refusals: AtomicU64,
    retired: AtomicU64,
}

/// A plugin's place.
#[derive(Default)]
struct Slot {
    /// Held during a judgement.
    judging: tokio::sync::Mutex<Judged>,
    face: Mutex<Face>,
}

/// Contents of a plugin's files that were judged.
#[derive(Clone, Copy, Debug, Default)]
struct Judged {
    /// The last, good or bad.
    last: Option<blake3::Hash>,
    /// The one that is served.
    served: Option<blake3::Hash>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acted {
    Served,
    /// What was there is kept, until the files change.
    Kept,
    /// What was there is kept; the candidate may be fine a little later.
    KeptForNow,
}

/// Why a plugin is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its files may have changed; unchanged content is left alone.
    Files,
    /// Somebody asks for it; unchanged content is left alone if it serves well.
    Reload,
    /// What was refused may be fine by now. Of this many tries, unless there was another judgement since.
    Again { tries: u32, judgements: u64 },
}

impl Registry {
    /// A registry of the plugin directory of `config`, whose components `worker` compiles. Nothing is judged yet.
    ///
    /// # Errors
    /// The engine or the storage directory cannot be set up.
    pub fn open(config: &Config, worker: Worker) -> anyhow::Result<Arc<Self>> {
        let engine = Engine::new(&config.storage.dir, worker)?;
        let unusable = || {
            format!(
                "the storage directory {} cannot be used",
                config.storage.dir.display()
            )
        };
        let last_good = LastGood::open(&config.storage.dir).with_context(unusable)?;
        let feeds = Feeds::open(&config.storage.dir).with_context(unusable)?;
        let known = last_good.load();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let judges = cores.max(2);
        let shared = Arc::new(Shared {
            court: Court {
                engine,
                client: EgressClient::new(),
                dir: config.plugins.dir.clone(),
                offline: false,
            },
            last_good,
            feeds,
            set: ArcSwap::from_pointee(PluginSet::knowing(known)),
            on_change: Mutex::new(None),
            slots: Mutex::default(),
            writers: RwLock::new(writers(config)),
            judges: Semaphore::new(judges),
            judges_max: judges,
            loaded: Notify::new(),
            stops: TaskTracker::new(),
            closing: CancellationToken::new(),
            history: Mutex::default(),
            swaps: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            retired: AtomicU64::new(0),
        });
        Ok(Arc::new(Self {
            shared,
            watched: config.plugins.watch,
        }))
    }

    /// What is compiled now, for whoever shows it.
    pub fn compiling(&self) -> Receiver<Option<Compiling>> {
        self.shared.court.engine.compiling()
    }

    /// Judges everything in the plugin directory, side by side, then watches it. A plugin that is refused does not stop
    /// the others: it is shown by [`Registry::status`]. A directory that does not exist is an empty one.
    ///
    /// `on_change` is not called for the set that this makes; call [`Registry::set`] for it.
    pub async fn judge(&self, on_change: OnChange) {
        let debounce = self.shared.load_all().await;
        *self.shared.on_change.lock() = Some(on_change);
        tokio::spawn(keep_lean(Arc::clone(&self.shared)));
        if self.watched {
            watch::start(&self.shared, debounce);
        }
    }

    /// Other routes are in force, which may write through other plugins.
    pub fn configure(&self, config: &Config) {
        *self.shared.writers.write() = writers(config);
    }

    /// What is served now.
    pub fn set(&self) -> Arc<PluginSet> {
        self.shared.set.load_full()
    }

    /// Every plugin, by name, broken and removed ones included.
    pub fn status(&self) -> Vec<PluginStatus> {
        let slots: Vec<_> = self.shared.slots.lock().clone().into_iter().collect();
        let set = self.set();
        slots
            .into_iter()
            .map(|(name, slot)| {
                let (face, served) = (slot.face.lock().clone(), set.get(&name));
                face.status(name, served)
            })
            .collect()
    }

    /// What the served version of each plugin has done.
    pub fn accounts(&self) -> Vec<(String, Account)> {
        let plugins = self.set();
        let of = |plugin: &Arc<Plugin>| (plugin.name().to_owned(), plugin.runtime().account());
        plugins.iter().map(of).collect()
    }

    /// The last versions that were taken into service, refused or removed, oldest first.
    pub fn history(&self) -> Vec<Event> {
        self.shared.history.lock().iter().cloned().collect()
    }

    /// How often what happened.
    pub fn counts(&self) -> RegistryCounts {
        let (batches, batch_questions) = self.shared.court.engine.tally().read();
        let feeds = self.shared.feeds.counts();
        RegistryCounts {
            batches,
            batch_questions,
            feed_polls: feeds.polls.load(Ordering::Relaxed),
            feed_failures: feeds.failures.load(Ordering::Relaxed),
            feed_changes: feeds.changes.load(Ordering::Relaxed),
            feeds_read: feeds.reading.load(Ordering::Relaxed),
            swaps: self.shared.swaps.load(Ordering::Relaxed),
            refusals: self.shared.refusals.load(Ordering::Relaxed),
            retired: self.shared.retired.load(Ordering::Relaxed),
        }
    }

    /// Begins to read the change feeds of what is served. To be called when the routes are bound: what a feed tells before
    /// that would be purged nowhere.
    pub fn read_feeds(&self, changes: Arc<dyn Changes>) {
        let served = || self.set().iter().cloned().collect();
        self.shared.feeds.begin(changes, &self.shared.stops, served);
    }

    /// Judges a plugin's files now, as if they had changed. Files that are served already and do well are left alone;
    /// a version that is degraded, restarting or quarantined is replaced by a fresh one of the same files.
    ///
    /// The judgement goes on to its end even if this future is dropped.
    ///
    /// # Errors
    /// [`ReloadError`]
    pub async fn reload(&self, name: &str) -> Result<PluginStatus, ReloadError> {
        if !files::is_name(name) {
            return Err(ReloadError::Unknown);
        }
        let known = self.shared.slots.lock().contains_key(name);
        let stamps = files::Stamps::of(&self.shared.court.dir, name);
        if !known && stamps.component.is_none() {
            return Err(ReloadError::Unknown);
        }
        let judged = tokio::spawn(Arc::clone(&self.shared).settle(name.to_owned(), Cause::Reload));
        if let Err(panic) = judged.await {
            return Err(ReloadError::Refused(format!("judging it failed: {panic}")));
        }
        let slot = self.shared.slot(name);
        let refusal = slot.face.lock().refusal.clone();
        match refusal {
            Some(why) => Err(ReloadError::Refused(why)),
            None => {
                let face = slot.face.lock().clone();
                Ok(face.status(name.to_owned(), self.set().get(name)))
            }
        }
    }

    /// Stops everything: watching, second tries, and every version, each after its calls in flight. Returns when all have
    /// stopped, or after `within`.
    pub async fn shutdown(&self, within: Duration) {
        self.shared.closing.cancel();
        self.shared.feeds.stop_all();
        for plugin in self.set().iter() {
            plugin.stop();
        }
        self.shared.stops.close();
        if tokio::time::timeout(within, self.shared.stops.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "{} plugin versions had not stopped after {within:?}",
                self.shared.stops.len()
            );
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.feeds.stop_all();
    }
}

/// A judgement that ended: what it came to stands in the plugin's slot, unless it panicked.
fn told(judged: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(panic)) = judged {
        tracing::error!("judging a plugin failed: {panic}");
    }
}

impl Shared {
    pub(super) fn dir(&self) -> &PathBuf {
        &self.court.dir
    }

    /// The plugins that have a place: what is there, broken or removed.
    pub(super) fn names(&self) -> Vec<String> {
        self.slots.lock().keys().cloned().collect()
    }

    /// Judges everything that lies in the directory, and returns what it looked like before it was read: a file that
    /// changed meanwhile then differs, and is judged again.
    async fn load_all(self: &Arc<Self>) -> watch::Debounce {
        let dir = self.court.dir.clone();
        let listed = tokio::task::spawn_blocking(move || files::list(&dir)).await;
        let listing = match listed {
            Ok(Ok(listing)) => listing,
            Ok(Err(error)) => {
                tracing::warn!(
                    "the plugin directory {} cannot be read: {error}",
                    self.court.dir.display()
                );
                files::Listing::default()
            }
            Err(panic) => {
                tracing::error!("listing the plugin directory failed: {panic}");
                files::Listing::default()
            }
        };
        for path in &listing.misnamed {
            tracing::warn!(
                "{} is not loaded: a plugin's name has letters, digits, '-', '_' and '.', 64 at most",
                path.display()
            );
        }
        if listing.left_out > 0 {
            tracing::error!(
                "{} more components lie in {} than are loaded",
                listing.left_out,
                self.court.dir.display()
            );
        }
        // So many at once and no more: each that waits for a judge holds its files and a thread that has read them, and a
        // thousand of those take hundreds of megabytes that are not given back.
        let at_once = self.judges_max + READ_AHEAD;
        let mut judgements = tokio::task::JoinSet::new();
        for name in listing.plugins.keys() {
            if judgements.len() == at_once {
                told(judgements.join_next().await);
            }
            judgements.spawn(Arc::clone(self).settle(name.clone(), Cause::Files));
        }
        while !judgements.is_empty() {
            told(judgements.join_next().await);
        }
        watch::Debounce::settled(listing.plugins)
    }

    fn slot(&self, name: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.len() >= PLACES_MAX && !slots.contains_key(name) {
            // Names of removed plugins are kept to be shown, not for ever (law 12). One that a judgement holds stays: two
            // places for one name would let two judgements of it run at once.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.face.lock().removed);
        }
        Arc::clone(slots.entry(name.to_owned()).or_default())
    }

    /// Judges one plugin's files and acts on the verdict. Judgements of one plugin happen one after another.
    pub(super) async fn settle(self: Arc<Self>, name: String, cause: Cause) {
        let slot = self.slot(&name);
        let mut judged = slot.judging.lock().await;
        if self.closing.is_cancelled() {
            return;
        }
        if let Cause::Again { judgements, .. } = cause
            && judgements != slot.face.lock().judgements
        {
            return;
        }
        let unread = |path: &Path, why: &str| {
            self.refuse(&name, &slot, &Rejection::unread(path, why));
        };
        let files = match self.court.read(&name).await {
            Ok(files) => files,
            Err(ReadError::Gone) => {
                *judged = Judged::default();
                self.remove(&name, &slot);
                return;
            }
            // Whoever writes them makes another change, and with it another judgement.
            Err(ReadError::Changing) => {
                judged.last = None;
                let path = files::component_path(self.dir(), &name);
                unread(&path, "it changes while it is read");
                return;
            }
            Err(ReadError::Unreadable { path, why }) => {
                judged.last = None;
                unread(&path, &why);
                return;
            }
        };
        let digest = files.digest;
        let is_known_bad = judged.last == Some(digest) && judged.served != Some(digest);
        if is_known_bad && cause == Cause::Files {
            return;
        }
        let old = self.set.load().get(&name).cloned();
        if let Some(old) = &old
            && judged.served == Some(digest)
            && (cause == Cause::Files || old.is_well())
        {
            // What lies there is what is served: nothing to do, and nothing to complain of (any more).
            judged.last = Some(digest);
            slot.face.lock().refusal = None;
            return;
        }
        let judgements = {
            let mut face = slot.face.lock();
            face.judgements += 1;
            face.judgements
        };
        let Ok(_judge) = self.judges.acquire().await else {
            return;
        };
        let roles = old.as_ref().map_or(Roles::default(), |old| Roles {
            loads: old.loads(),
            derives: old.derives(),
            writes: old.writer().is_some() && self.writers.read().contains(&name),
        });
        let verdict = self.court.judge(&name, files, roles).await;
        judged.last = Some(digest);
        let same = judged.served == Some(digest);
        match self.act(&slot, &name, old, same, verdict) {
            Acted::Served => judged.served = Some(digest),
            Acted::Kept => {}
            Acted::KeptForNow => {
                let tries = match cause {
                    Cause::Again { tries, .. } => tries + 1,
                    Cause::Files | Cause::Reload => 0,
                };
                self.try_again(name, tries, judgements);
            }
        }
    }

    /// Swaps, or keeps what there is. `same`: the candidate is of the files that are served.
    fn act(
        &self,
        slot: &Slot,
        name: &str,
        old: Option<Arc<Plugin>>,
        same: bool,
        verdict: Result<Candidate, Rejection>,
    ) -> Acted {
        let candidate = match verdict {
            Ok(candidate) => candidate,
            Err(rejection) => {
                self.refuse(name, slot, &rejection);
                return if rejection.may_pass {
                    Acted::KeptForNow
                } else {
                    Acted::Kept
                };
            }
        };
        for warning in &candidate.warnings {
            tracing::warn!(plugin = name, "{}", sentence(warning));
        }
        let failing = candidate.launched.probe.err();
        // From here on it stops itself when it is let go of.
        let plugin = Plugin::new(candidate.facts, candidate.launched.runtime, &self.stops);
        if self.closing.is_cancelled() {
            return Acted::Kept;
        }
        match (failing, old) {
            (Some(failure), Some(old)) if same => {
                // It does no better than the one before, of the same files.
                slot.face.lock().refusal = None;
                let asked_already = old.probe_failure().is_some();
                old.set_probe_failure(Some(failure.to_string()));
                if !asked_already {
                    self.probe_again(&old);
                }
                Acted::Kept
            }
            (Some(failure), Some(_)) => {
                // It runs, but what it reads from does not answer. The one before does, or did: keep it, and look again.
                let problem = Problem::error(format!("its probe fails: {failure}"))
                    .at(files::component_path(self.dir(), name), None)
                    .remedy("it will be served when the probe passes");
                let rejection = Rejection::of(vec![problem], plugin.kinds().to_vec());
                self.refuse(name, slot, &rejection);
                Acted::KeptForNow
            }
            (failing, old) => {
                self.serve(slot, plugin, old, failing.map(|it| it.to_string()));
                Acted::Served
            }
        }
    }

    /// The swap.
    fn serve(
        &self,
        slot: &Slot,
        plugin: Arc<Plugin>,
        old: Option<Arc<Plugin>>,
        failing: Option<String>,
    ) {
        {
            let mut face = slot.face.lock();
            face.refusal = None;
            face.kinds = plugin.kinds().to_vec();
            face.removed = false;
        }
        plugin.set_probe_failure(failing.clone());
        self.publish(|set| set.with(&plugin));
        self.feeds.start(&plugin, &self.stops);
        self.swaps.fetch_add(1, Ordering::Relaxed);
        self.loaded.notify_one();
        let version = plugin.version().unwrap_or("no version of its own");
        let digest = plugin.digest().get(..12).unwrap_or_default();
        self.note(plugin.name(), "served", format!("{version}, {digest}"));
        tracing::info!(
            plugin = plugin.name(),
            version = plugin.version(),
            identity = plugin.identity(),
            "{}",
            if old.is_some() { "replaced" } else { "loaded" }
        );
        if let Some(old) = old {
            old.retire();
        }
        self.remember(&plugin);
        if let Some(failing) = failing {
            tracing::warn!(plugin = plugin.name(), "its probe fails: {failing}");
            self.probe_again(&plugin);
        }
    }

    /// Keeps what became of a version, for whoever looks; over the bound the oldest goes (law 12).
    fn note(&self, plugin: &str, result: &'static str, detail: String) {
        let mut history = self.history.lock();
        if history.len() == HISTORY_MAX {
            history.pop_front();
        }
        history.push_back(Event {
            at_ms: now_ms(),
            plugin: plugin.to_owned(),
            result,
            detail,
        });
    }

    /// The candidate is not served; whatever was, still is. Logged when it says something new.
    fn refuse(&self, name: &str, slot: &Slot, rejection: &Rejection) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        let text = rejection.text();
        let kinds = {
            let mut face = slot.face.lock();
            if !rejection.kinds.is_empty() {
                face.kinds.clone_from(&rejection.kinds);
            }
            face.removed = false;
            if face.refusal.as_ref() != Some(&text) {
                tracing::warn!(plugin = name, "refused: {text}");
                self.note(name, "refused", text.clone());
                face.refusal = Some(text);
            }
            face.kinds.clone()
        };
        // What could not even be compiled may be a loader.
        let loads = kinds.is_empty() || kinds.iter().any(|kind| kind.loads());
        let set = self.set.load();
        if set.get(name).is_none() && set.is_refused(name) != loads {
            self.publish(|set| set.refusing(name, loads));
        }
    }

    /// The component is gone.
    fn remove(&self, name: &str, slot: &Slot) {
        let old = self.set.load().get(name).cloned();
        {
            let mut face = slot.face.lock();
            if face.removed {
                return;
            }
            face.removed = true;
            face.refusal = None;
            face.judgements += 1;
        }
        tracing::info!(plugin = name, "removed");
        self.note(name, "removed", String::new());
        self.retired.fetch_add(1, Ordering::Relaxed);
        if old.is_some() || self.set.load().is_refused(name) {
            self.publish(|set| set.without(name));
        }
        if let Some(old) = old {
            self.feeds.stop(name);
            old.retire();
        }
    }

    fn publish(&self, change: impl FnOnce(&PluginSet) -> PluginSet) {
        let on_change = self.on_change.lock();
        let set = Arc::new(change(&self.set.load()));
        self.set.store(Arc::clone(&set));
        if let Some(on_change) = &*on_change {
            on_change(set);
        }
    }

    /// Writes down what is needed to find its entries when it is gone.
    fn remember(&self, plugin: &Arc<Plugin>) {
        let last_good = self.last_good.clone();
        let plugin = Arc::downgrade(plugin);
        // Tracked, so that shutting down does not cut it off.
        self.stops.spawn_blocking(move || {
            let Some(plugin) = plugin.upgrade() else {
                return;
            };
            if let Err(error) = last_good.save(&plugin) {
                tracing::warn!(
                    plugin = plugin.name(),
                    "its last good version cannot be remembered: {error}"
                );
            }
        });
    }

    /// Judges the same files again after a while, if nobody else does before.
    fn try_again(self: &Arc<Self>, name: String, tries: u32, judgements: u64) {
        let shared = Arc::downgrade(self);
        let closing = self.closing.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = tokio::time::sleep(backoff(tries)) => {
                    if let Some(shared) = shared.upgrade() {
                        // Boxed: this is the second half of a cycle of futures.
                        let again: futures_util::future::BoxFuture<'static, ()> =
                            Box::pin(shared.settle(name, Cause::Again { tries, judgements }));
                        again.await;
                    }
                }
            }
        });
    }

    /// Asks a degraded version's probe again until it passes, or another version is served.
    fn probe_again(&self, plugin: &Arc<Plugin>) {
        let plugin = Arc::downgrade(plugin);
        let closing = self.closing.clone();
        tokio::spawn(async move {
            for tries in 0.. {
                tokio::select! {
                    () = closing.cancelled() => return,
                    () = tokio::time::sleep(backoff(tries)) => {}
                }
                // Weak: a version that nobody serves any more is not kept alive to be probed.
                let Some(current) = plugin.upgrade() else {
                    return;
                };
                let runtime = current.runtime();
                let name = current.name().to_owned();
                drop(current);
                let outcome = runtime.probe().await.map_err(|failure| failure.to_string());
                let Some(current) = plugin.upgrade() else {
                    return;
                };
                match outcome {
                    Ok(()) => {
                        current.set_probe_failure(None);
                        tracing::info!(plugin = name, "its probe passes");
                        return;
                    }
                    Err(failure) => {
                        let new = Some(failure);
                        if new != current.probe_failure() {
                            tracing::warn!(
                                plugin = name,
                                "its probe fails: {}",
                                new.as_deref().unwrap_or_default()
                            );
                            current.set_probe_failure(new);
                        }
                    }
                }
            }
        });
    }
}

/// Gives back what only loading plugins needs: once all that lay in the directory at the start were judged, and later
/// whenever some were loaded and no more come. Whoever is answered meanwhile does not wait for it.
async fn keep_lean(shared: Arc<Shared>) {
    shared.loaded.notify_one();
    let again = async {
        loop {
            shared.loaded.notified().await;
            while timeout(LOADED, shared.loaded.notified()).await.is_ok() {}
            let engine = Arc::clone(&shared.court.engine);
            let given = tokio::task::spawn_blocking(move || engine.give_pages_back());
            let _ = given.await;
        }
    };
    let _: Option<()> = shared.closing.run_until_cancelled(again).await;
}

/// The plugins that routes may write through: the one that is named, or any of the loaders.
fn writers(config: &Config) -> HashSet<String> {
    let writing = config
        .routes
        .iter()
        .filter(|route| route.write != Write::Off);
    let candidates = writing.flat_map(|route| match &route.writer {
        Some(writer) => std::slice::from_ref(writer),
        None => route.loaders.as_slice(),
    });
    candidates.cloned().collect()
}

/// 1 s, 2 s, 4 s … 60 s.
fn backoff(tries: u32) -> Duration {
    BACKOFF_MIN
        .saturating_mul(1 << tries.min(6))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
