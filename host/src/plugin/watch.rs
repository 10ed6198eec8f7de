//! When a plugin's files are judged: after 100 ms without change. Sees stamps, never contents.
//!
//! The kernel's notifications only say "look now". What counts is a listing of the directory compared with what was
//! settled before: that is right however a file was replaced (written in place, renamed over, swapped behind a link), and
//! it is right again after a notification was lost (a full queue, a network mount), because the listing is also made every
//! few seconds.
//!
//! **Why a settled stamp is safe.** Files are read at the earliest 100 ms after the change that their stamps tell of, and
//! the kernel's clock for stamps ticks every few milliseconds. So a write after the read gets a later stamp than the one
//! that was settled, and is seen.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::files::{self, Stamps};
use super::registry::{Cause, Shared};

/// How long a plugin's two files must look the same.
const QUIET: Duration = Duration::from_millis(100);
/// How long to go on listening before looking.
const COALESCE: Duration = Duration::from_millis(20);
/// How often the directory is looked at without being told to.
const RESCAN: Duration = Duration::from_secs(5);
/// The same, while notifications cannot be had.
const RESCAN_DEAF: Duration = Duration::from_secs(1);

/// Which plugins changed, and since when they look the way they do. Takes the time from its caller.
#[derive(Debug, Default)]
pub(super) struct Debounce {
    /// What was judged, by plugin.
    settled: BTreeMap<String, Stamps>,
    /// What looks different, and since when it looks so.
    pending: BTreeMap<String, (Stamps, Instant)>,
}

impl Debounce {
    /// Begins with what was judged already.
    pub(super) fn settled(settled: BTreeMap<String, Stamps>) -> Self {
        Self {
            settled,
            pending: BTreeMap::new(),
        }
    }

    /// Takes a listing (removed plugins included, without a component) and says which plugins are to be judged now.
    fn observe(&mut self, now: Instant, seen: BTreeMap<String, Stamps>) -> Vec<String> {
        // Plugins that nobody speaks of any more are forgotten.
        self.settled.retain(|name, _| seen.contains_key(name));
        self.pending.retain(|name, _| seen.contains_key(name));
        let mut due = Vec::new();
        for (name, stamps) in seen {
            if self.settled.get(&name) == Some(&stamps) {
                self.pending.remove(&name);
                continue;
            }
            match self.pending.get(&name) {
                Some((since_stamps, since)) if *since_stamps == stamps => {
                    if now.duration_since(*since) >= QUIET {
                        self.pending.remove(&name);
                        self.settled.insert(name.clone(), stamps);
                        due.push(name);
                    }
                }
                _ => {
                    self.pending.insert(name, (stamps, now));
                }
            }
        }
        due
    }

    /// When to look again although nothing is heard.
    fn next_due(&self) -> Option<Instant> {
        self.pending.values().map(|(_, since)| *since + QUIET).min()
    }
}

/// Watches until the registry closes.
pub(super) fn start(shared: &Arc<Shared>, debounce: Debounce) {
    let closing = shared.closing.clone();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        tokio::select! {
            () = closing.cancelled() => {}
            () = watch(shared, debounce) => {}
        }
    });
}

async fn watch(shared: Arc<Shared>, mut debounce: Debounce) {
    let heard = Arc::new(Notify::new());
    let mut ear = Ear::new(Arc::clone(&heard));
    let mut listable = true;
    loop {
        // Before the listing, so that nothing falls between the two.
        ear.attach(shared.dir());
        match list(&shared).await {
            Ok(seen) => {
                listable = true;
                for name in debounce.observe(Instant::now(), seen) {
                    // Not awaited: plugins settle side by side, each in its own order.
                    tokio::spawn(Arc::clone(&shared).settle(name, Cause::Files));
                }
            }
            Err(error) => {
                // A directory that cannot be listed is not an empty one: everything goes on as it is.
                if std::mem::take(&mut listable) {
                    tracing::warn!(
                        "the plugin directory {} cannot be read, so changes are not seen: {error}",
                        shared.dir().display()
                    );
                }
            }
        }
        let rescan = Instant::now() + if ear.hears() { RESCAN } else { RESCAN_DEAF };
        let wake = debounce.next_due().unwrap_or(rescan).min(rescan);
        tokio::select! {
            // A file that is being written makes an event per write: they are looked at together.
            () = heard.notified() => tokio::time::sleep(COALESCE).await,
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// The stamps of everything that is there, and of everything that was.
async fn list(shared: &Arc<Shared>) -> std::io::Result<BTreeMap<String, Stamps>> {
    let dir = shared.dir().clone();
    let names = shared.names();
    tokio::task::spawn_blocking(move || {
        let mut seen = files::list(&dir)?.plugins;
        for name in names {
            seen.entry(name).or_insert_with_key(|name| Stamps {
                component: None,
                ..Stamps::of(&dir, name)
            });
        }
        Ok(seen)
    })
    .await
    .map_err(std::io::Error::other)?
}

/// The kernel's notifications for one directory.
struct Ear {
    heard: Arc<Notify>,
    /// The watcher, and the inode it is attached to: a directory that is replaced needs a new one.
    attached: Option<(RecommendedWatcher, u64)>,
    /// Whether it was said that there are none.
    complained: bool,
}

impl Ear {
    fn new(heard: Arc<Notify>) -> Self {
        Self {
            heard,
            attached: None,
            complained: false,
        }
    }

    fn hears(&self) -> bool {
        self.attached.is_some()
    }

    /// Makes sure that the directory that is there now is the one that is listened to.
    fn attach(&mut self, dir: &Path) {
        let inode = std::fs::metadata(dir).ok().map(|it| it.ino());
        if self.attached.as_ref().map(|(_, inode)| *inode) == inode {
            return;
        }
        self.attached = None;
        let Some(inode) = inode else {
            return;
        };
        let heard = Arc::clone(&self.heard);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and we read them. An error (a full queue) is a reason to look.
            if !matches!(
                event,
                Ok(notify::Event {
                    kind: EventKind::Access(_),
                    ..
                })
            ) {
                heard.notify_one();
            }
        })
        .and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.attached = Some((watcher, inode)),
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(
                        "no notifications for {} ({error}): it is looked at every {RESCAN_DEAF:?} instead",
                        dir.display()
                    );
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
