//! Reading change feeds: polls, has the changes applied, saves the cursor, waits, and polls again. One reader for each
//! served plugin that has a feed. Knows neither instances (see `feed`) nor what applying a change means.
//!
//! **The order that makes it right.** A page is applied and *then* its cursor saved, when every tier has been told: whoever
//! dies in between reads the page again, and a purge that comes twice costs a load. Without a cursor the first page says where the head of the feed is,
//! and everything of the loader is purged *after* it: what changed before that head is in no page, and nothing that was
//! loaded before it is left.
//!
//! **A swap.** The reader of the version before is told to stop, and the new one begins when that has ended: two never
//! apply and save at once. It finds the saved cursor if it is the same source (the identity of the plugin), else none.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::cursors::Cursors;
use super::runtime::{Change, ChangeFeed, Page};
use super::version::Plugin;
use crate::error::Failure;

/// The shortest wait after a page with changes: there may be more at once.
const AFTER_CHANGES_MIN: Duration = Duration::from_millis(1);
/// The shortest wait after a page without: a feed that does not wait for changes itself must not spin.
const AFTER_NOTHING_MIN: Duration = Duration::from_millis(100);
/// The longest wait that a feed may ask for, and the longest after a failure that says when to come back.
const AFTER_MAX: Duration = Duration::from_secs(60);
/// How long until it is asked again whose turn it is.
const NOT_OURS: Duration = Duration::from_secs(1);

/// What becomes of what feeds tell. Implemented where routes and tiers are known.
pub trait Changes: Send + Sync {
    /// Whether this node is the one to read the feed of a plugin now. Asked before every poll; where nodes do not share
    /// their purges, each reads for itself.
    fn may_poll<'a>(&'a self, _plugin: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }

    /// Whether all that was applied so far is in every tier that there is. Until then no cursor is saved: what a tier could
    /// not be told is kept in memory, so after a restart only reading the page again brings it back (law 4).
    fn is_settled(&self) -> bool {
        true
    }

    /// Purges what the feed of `plugin` says has changed. When it returns, nothing older is served on this node.
    fn apply<'a>(&'a self, plugin: &'a str, changes: Vec<Change>) -> BoxFuture<'a, ()>;
}

/// All readers.
pub(super) struct Feeds {
    cursors: Cursors,
    counts: Arc<Counts>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None`: nobody can apply changes yet (or any more), so nothing is read.
    changes: Option<Arc<dyn Changes>>,
    readers: BTreeMap<String, Running>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// `polls = pages + failures`, and changes are those of the pages.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) polls: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) changes: AtomicU64,
}

impl Feeds {
    /// # Errors
    /// The directory of cursors cannot be made.
    pub(super) fn open(storage: &Path) -> io::Result<Self> {
        Ok(Self {
            cursors: Cursors::open(storage)?,
            counts: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// From now on the feeds of what is served are read. `served` is asked for under the lock that `start` takes too, so a
    /// version that is published meanwhile has its reader in the end, whoever comes first.
    pub(super) fn begin(
        &self,
        changes: Arc<dyn Changes>,
        stops: &TaskTracker,
        served: impl FnOnce() -> Vec<Arc<Plugin>>,
    ) {
        let mut state = self.state.lock();
        state.changes = Some(changes);
        for plugin in served() {
            self.start_in(&mut state, &plugin, stops);
        }
    }

    /// This version is served from now on: its feed is read, and that of the version before no more.
    pub(super) fn start(&self, plugin: &Arc<Plugin>, stops: &TaskTracker) {
        self.start_in(&mut self.state.lock(), plugin, stops);
    }

    fn start_in(&self, state: &mut State, plugin: &Arc<Plugin>, stops: &TaskTracker) {
        let before = state.readers.remove(plugin.name());
        if let Some(before) = &before {
            before.stop.cancel();
        }
        let (Some(changes), Some(feed)) = (&state.changes, plugin.change_feed()) else {
            return;
        };
        let stop = CancellationToken::new();
        let reader = Reader {
            plugin: plugin.name().to_owned(),
            identity: Arc::clone(&plugin.identity),
            version: Arc::downgrade(plugin),
            feed,
            changes: Arc::clone(changes),
            cursors: self.cursors.clone(),
            counts: Arc::clone(&self.counts),
            stop: stop.clone(),
            trouble: None,
        };
        // Tracked, so that shutting down waits until what was read is applied and saved.
        let task = stops.spawn(reader.run(before.map(|before| before.task)));
        let name = plugin.name().to_owned();
        state.readers.insert(name, Running { stop, task });
    }

    /// The plugin is not served any more.
    pub(super) fn stop(&self, name: &str) {
        if let Some(running) = self.state.lock().readers.remove(name) {
            running.stop.cancel();
        }
    }

    /// The server is stopping.
    pub(super) fn stop_all(&self) {
        let mut state = self.state.lock();
        state.changes = None;
        for running in std::mem::take(&mut state.readers).into_values() {
            running.stop.cancel();
        }
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// One reader.
struct Reader {
    plugin: String,
    identity: Arc<str>,
    /// Weak: a version that nobody serves any more is not kept alive to be read.
    version: Weak<Plugin>,
    feed: Arc<dyn ChangeFeed>,
    changes: Arc<dyn Changes>,
    cursors: Cursors,
    counts: Arc<Counts>,
    stop: CancellationToken,
    /// What was wrong the last time.
    trouble: Option<String>,
}

/// How far one reader has come.
#[derive(Default)]
struct Place {
    cursor: Option<Vec<u8>>,
    saved: Option<Vec<u8>>,
}

impl Reader {
    async fn run(mut self, before: Option<JoinHandle<()>>) {
        if let Some(before) = before {
            let _ = before.await;
        }
        let cursor = self.cursors.load(&self.plugin, &self.identity).await;
        let mut place = Place {
            saved: cursor.clone(),
            cursor,
        };
        let mut backoff = Backoff::of_feed();
        // Stopped only here and while it polls: what was read is applied and saved to the end.
        while !self.stop.is_cancelled() {
            let wait = if self.changes.may_poll(&self.plugin).await {
                // A page that has come is applied, even by who is to stop: its source may count it as told.
                let polled = tokio::select! {
                    biased;
                    polled = self.feed.poll(place.cursor.clone()) => polled,
                    () = self.stop.cancelled() => return,
                };
                self.counts.polls.fetch_add(1, Ordering::Relaxed);
                match polled {
                    Ok(page) => {
                        backoff.reset();
                        self.take(page, &mut place).await
                    }
                    Err(failure) => {
                        self.counts.failures.fetch_add(1, Ordering::Relaxed);
                        self.say(Some(format!("its change feed fails: {failure}")));
                        wait_after(&failure, backoff.next_delay())
                    }
                }
            } else {
                NOT_OURS
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Applies a page and saves where it ends; says how long to wait for the next.
    async fn take(&mut self, page: Page, place: &mut Place) -> Duration {
        let Page {
            mut changes,
            cursor,
            poll_after,
        } = page;
        let least = if changes.is_empty() {
            AFTER_NOTHING_MIN
        } else {
            AFTER_CHANGES_MIN
        };
        if place.cursor.is_none() {
            changes.push(Change::Everything);
            tracing::info!(
                plugin = self.plugin,
                "its change feed is read from its head; everything of its loader is purged"
            );
        }
        if !changes.is_empty() {
            self.counts
                .changes
                .fetch_add(changes.len() as u64, Ordering::Relaxed);
            self.changes.apply(&self.plugin, changes).await;
        }
        let mut trouble = None;
        if place.saved.as_ref() != Some(&cursor) && self.changes.is_settled() {
            let saved = self.cursors.save(&self.plugin, &self.identity, &cursor);
            match saved.await {
                Ok(()) => place.saved = Some(cursor.clone()),
                // It is read on: purging late would be worse than purging again after a restart.
                Err(error) => {
                    trouble = Some(format!(
                        "how far its change feed was read cannot be saved: {error}; [storage] dir must be writable"
                    ));
                }
            }
        }
        place.cursor = Some(cursor);
        self.say(trouble);
        poll_after.clamp(least, AFTER_MAX)
    }

    /// Shown with the version, and logged when it says something new.
    fn say(&mut self, trouble: Option<String>) {
        if trouble == self.trouble {
            return;
        }
        match &trouble {
            Some(trouble) => tracing::warn!(plugin = self.plugin, "{trouble}"),
            None => tracing::info!(plugin = self.plugin, "its change feed is read again"),
        }
        if let Some(version) = self.version.upgrade() {
            version.set_feed_trouble(trouble.clone());
        }
        self.trouble = trouble;
    }
}

/// The back-off, or longer if the source says so.
fn wait_after(failure: &Failure, backoff: Duration) -> Duration {
    let asked = failure.retry_after.unwrap_or_default().min(AFTER_MAX);
    backoff.max(asked)
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
