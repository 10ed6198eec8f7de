//! Reading change feeds: polls, has the changes applied, saves the cursor, waits, and polls again. One reader for each
//! served plugin that has a feed. Knows neither instances (see `feed`) nor what applying a change means, nor where nodes agree on
//! who reads.
//!
//! **The order that makes it right.** A page is applied and *then* its cursor saved, when every tier has been told: whoever
//! dies in between reads the page again, and a purge that comes twice costs a load. Without a cursor the first page says where the head of the feed is,
//! and everything of the loader is purged *after* it: what changed before that head is in no page, and nothing that was
//! loaded before it is left.
//!
//! **Several nodes.** Where they share a tier, one of them reads for all ([`Duty`]) and keeps the cursor there; the others hear
//! its purges as any. Whoever comes next begins at the cursor that was saved last, and so repeats what was applied and not
//! saved. A page that a node read before it was frozen is applied when it wakes up, and again that costs loads; its cursor is
//! not saved any more. Who cannot read the feed lets another try.
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
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::cursors::Cursors;
use super::runtime::{Change, ChangeFeed, Page};
use super::version::Plugin;
use crate::cache::tier::{Duty, Saved, Tenure};
use crate::error::Failure;

/// The shortest wait after a page with changes: there may be more at once.
const AFTER_CHANGES_MIN: Duration = Duration::from_millis(1);
/// The shortest wait after a page without: a feed that does not wait for changes itself must not spin.
const AFTER_NOTHING_MIN: Duration = Duration::from_millis(100);
/// The longest wait that a feed may ask for, and the longest after a failure that says when to come back.
const AFTER_MAX: Duration = Duration::from_secs(60);
/// How long until it is asked again whose duty it is, when nobody knows.
const AWAY_EVERY: Duration = Duration::from_millis(100);
/// For so long that is not told: at every start it takes a moment.
const AWAY_TOLD_AFTER: Duration = Duration::from_secs(2);
const AWAY: &str = "its change feed is not read: while Redis is away nobody knows which node is to read it; until then what a \
                    node has is trusted for [redis] trust";
/// A place that does not change is written down again, so that it is not forgotten where it lies.
const SAVE_AGAIN: Duration = Duration::from_secs(3600);

/// What becomes of what feeds tell. Implemented where routes and tiers are known.
pub trait Changes: Send + Sync {
    /// The duty to read the feed of a plugin, where one node reads for all who would purge the same for what it tells; none:
    /// nodes do not share their purges, so each reads for itself. Another source, by its identity, is another feed.
    fn duty<'a>(&'a self, plugin: &'a str, identity: &'a str) -> BoxFuture<'a, Option<Duty>>;

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
    /// Feeds that this node reads now.
    pub(super) reading: AtomicU64,
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
            if let Some(before) = before {
                state.readers.insert(plugin.name().to_owned(), before);
            }
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
        // It stays in the list: who comes next waits for its end.
        if let Some(running) = self.state.lock().readers.get(name) {
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

/// Where it is written down how far a feed was read.
enum Bookmark {
    /// On this node's disk: it reads for itself.
    Own,
    /// With the tier that nodes share: it reads for all of them, as long as that is its duty.
    Shared(Box<dyn Tenure>),
}

impl Bookmark {
    /// Ends when another node may read; for who reads for itself, never.
    async fn lost(&self) {
        match self {
            Self::Own => std::future::pending().await,
            Self::Shared(tenure) => tenure.lost().await,
        }
    }

    fn stands(&self) -> bool {
        match self {
            Self::Own => true,
            Self::Shared(tenure) => tenure.stands(),
        }
    }

    async fn end(self) {
        if let Self::Shared(tenure) = self {
            tenure.end().await;
        }
    }
}

/// How far one reader has come.
struct Place {
    cursor: Option<Vec<u8>>,
    saved: Option<Vec<u8>>,
    saved_at: Instant,
    /// Another reads by now.
    lost: bool,
}

impl Place {
    fn at(cursor: Option<Vec<u8>>) -> Self {
        Self {
            saved: cursor.clone(),
            cursor,
            saved_at: Instant::now(),
            lost: false,
        }
    }

    /// Whether the place is not, or only long ago, written down.
    fn is_unsaved(&self) -> bool {
        self.saved != self.cursor || self.saved_at.elapsed() >= SAVE_AGAIN
    }
}

impl Reader {
    async fn run(mut self, before: Option<JoinHandle<()>>) {
        if let Some(before) = before {
            let _ = before.await;
        }
        let (changes, stop) = (Arc::clone(&self.changes), self.stop.clone());
        let (plugin, identity) = (self.plugin.clone(), Arc::clone(&self.identity));
        let mut backoff = Backoff::of_feed();
        let mut away_since = None;
        while !stop.is_cancelled() {
            let duty = tokio::select! {
                duty = changes.duty(&plugin, &identity) => duty,
                () = stop.cancelled() => return,
            };
            if !matches!(duty, Some(Duty::Unavailable)) {
                away_since = None;
            }
            let wait: BoxFuture<'static, ()> = match duty {
                None => Box::pin(sleep(self.read(Bookmark::Own, &mut backoff).await)),
                Some(Duty::Ours(tenure)) => {
                    let bookmark = Bookmark::Shared(tenure);
                    Box::pin(sleep(self.read(bookmark, &mut backoff).await))
                }
                Some(Duty::Others(end)) => {
                    self.say(None);
                    end
                }
                Some(Duty::Unavailable) => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= AWAY_TOLD_AFTER {
                        self.say(Some(AWAY.to_owned()));
                    }
                    Box::pin(sleep(AWAY_EVERY))
                }
            };
            tokio::select! {
                () = wait => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads until it is to stop, until another reads, or, if another could, until the feed fails. Says how long not to read
    /// then.
    async fn read(&mut self, bookmark: Bookmark, backoff: &mut Backoff) -> Duration {
        let cursor = match &bookmark {
            Bookmark::Own => self.cursors.load(&self.plugin, &self.identity).await,
            Bookmark::Shared(tenure) => tenure.progress(),
        };
        let mut place = Place::at(cursor);
        let _counted = Reading::new(&self.counts);
        let mut rest = Duration::ZERO;
        // Stopped only here and while it polls: what was read is applied and saved to the end.
        while !self.stop.is_cancelled() && bookmark.stands() && !place.lost {
            // A page that has come is applied, even by who is to stop: its source may count it as told.
            let polled = tokio::select! {
                biased;
                polled = self.feed.poll(place.cursor.clone()) => polled,
                () = self.stop.cancelled() => break,
                () = bookmark.lost() => break,
            };
            self.counts.polls.fetch_add(1, Ordering::Relaxed);
            let wait = match polled {
                Ok(page) => {
                    backoff.reset();
                    self.take(page, &mut place, &bookmark).await
                }
                Err(failure) => {
                    self.counts.failures.fetch_add(1, Ordering::Relaxed);
                    self.say(Some(format!("its change feed fails: {failure}")));
                    let wait = wait_after(&failure, backoff.next_delay());
                    if let Bookmark::Shared(_) = &bookmark {
                        // Another node may reach the source.
                        rest = wait;
                        break;
                    }
                    wait
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = self.stop.cancelled() => break,
                () = bookmark.lost() => break,
            }
        }
        bookmark.end().await;
        rest
    }

    /// Applies a page and saves where it ends; says how long to wait for the next.
    async fn take(&mut self, page: Page, place: &mut Place, bookmark: &Bookmark) -> Duration {
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
        place.cursor = Some(cursor);
        // It is read on where that fails: purging late would be worse than purging again after a restart.
        let mut trouble = None;
        if place.is_unsaved() && self.changes.is_settled() {
            trouble = self.save(place, bookmark).await.err();
        }
        self.say(trouble);
        poll_after.clamp(least, AFTER_MAX)
    }

    /// Writes down how far was read.
    async fn save(&self, place: &mut Place, bookmark: &Bookmark) -> Result<(), String> {
        let Some(cursor) = &place.cursor else {
            return Ok(());
        };
        match bookmark {
            Bookmark::Own => {
                let saved = self.cursors.save(&self.plugin, &self.identity, cursor);
                saved.await.map_err(|error| {
                    format!(
                        "how far its change feed was read cannot be saved: {error}; [storage] dir must be writable"
                    )
                })?;
            }
            Bookmark::Shared(tenure) => match tenure.save(cursor).await {
                Saved::Saved => {}
                Saved::Lost => {
                    place.lost = true;
                    return Ok(());
                }
                Saved::Unavailable => {
                    return Err("how far its change feed was read cannot be saved in Redis; /readyz says how that is, and `larder redis-acl` what its user must be allowed".into());
                }
            },
        }
        place.saved.clone_from(&place.cursor);
        place.saved_at = Instant::now();
        Ok(())
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

/// Counts a reader while it reads.
struct Reading(Arc<Counts>);

impl Reading {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.reading.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::Relaxed);
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
