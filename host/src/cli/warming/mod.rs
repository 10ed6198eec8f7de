//! What is asked for most outlives a restart: written down while the server runs, and asked for again after it started,
//! hottest first and with restraint. Knows routes and tiers; must not know how a key is counted or a file is laid out.

mod file;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, timeout};
use tracing::{debug, info};

use super::progress::Progress;
use crate::cache::hot::{HotKey, HotKeys};
use crate::cache::pace::paced;
use crate::cache::{Answer, Cache};
use crate::route::Snapshot;

pub(super) use file::HotFile;

/// A node that is killed has forgotten this much at most.
const SAVED_EVERY: Duration = Duration::from_secs(60);
/// How long Redis may take to be there. What it has need not be loaded; but if it is away, the sources are all there is.
const REDIS_WITHIN: Duration = Duration::from_secs(5);

/// What became of the keys of before the start.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Asked for, and there now.
    pub(super) replayed: AtomicU64,
    /// No question any more.
    pub(super) skipped: AtomicU64,
    /// Asked for, and not to be had.
    pub(super) failed: AtomicU64,
}

/// What the replay stands on.
pub(super) struct Warming {
    /// What is asked for most.
    pub(super) hot: Arc<HotKeys>,
    /// Where it is written down.
    pub(super) file: HotFile,
    /// The most that are asked for in a second.
    pub(super) rate: u32,
    /// The routes as they are now; bound when this begins.
    pub(super) routes: Arc<ArcSwap<Snapshot>>,
    /// The tiers and flights.
    pub(super) cache: Arc<Cache>,
    /// For the metrics.
    pub(super) replayed: Arc<Replayed>,
    /// Where it is shown how far this has come.
    pub(super) progress: Progress,
}

impl Warming {
    /// Runs until the server is told to stop, and then writes down what is asked for most once more.
    pub(super) async fn run(self, mut stopping: watch::Receiver<bool>) {
        let before = self.file.load().await;
        // Restored before anything is saved: a server that stops again at once has forgotten nothing.
        let routes = self.routes.load_full();
        for key in &before {
            if let Some((route, ask)) = routes.again(key) {
                self.hot.restore(&ask, &route.rule_identity, key.count);
            }
        }
        drop(routes);
        let working = async {
            tokio::join!(self.replay(before), keep(&self.hot, &self.file));
        };
        tokio::select! {
            () = working => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        save(&self.hot, &self.file).await;
    }

    async fn replay(&self, before: Vec<HotKey>) {
        if before.is_empty() {
            return;
        }
        // Late is no harm: who comes first loads.
        let _ = timeout(REDIS_WITHIN, self.until_shared()).await;
        let counts = &self.replayed;
        let bar = self
            .progress
            .count("keys of before the start", before.len());
        paced(before, self.rate, async |key| {
            let count = match self.ask(&key).await {
                None => &counts.skipped,
                Some(Answer::Failed { failure, .. }) => {
                    debug!(key = &*key.key, "not there after the start: {failure}");
                    &counts.failed
                }
                Some(_) => &counts.replayed,
            };
            count.fetch_add(1, Ordering::Relaxed);
            bar.one();
        })
        .collect::<()>()
        .await;
        drop(bar);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        info!(
            replayed = read(&counts.replayed),
            skipped = read(&counts.skipped),
            failed = read(&counts.failed),
            "what was asked for most before the start is there again"
        );
    }

    /// None: it is no question any more. The routes are as they are when it is asked for: a plugin may be replaced meanwhile.
    async fn ask(&self, key: &HotKey) -> Option<Answer> {
        let (_, ask) = self.routes.load().again(key)?;
        Some(self.cache.answer(&ask, false).await)
    }

    async fn until_shared(&self) {
        let Some(shared) = self.cache.shared() else {
            return;
        };
        let mut look = interval(Duration::from_millis(20));
        while !shared.health().available {
            look.tick().await;
        }
    }
}

/// Writes it down every minute, for who is killed.
async fn keep(hot: &HotKeys, file: &HotFile) {
    let mut every = interval_at(Instant::now() + SAVED_EVERY, SAVED_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        save(hot, file).await;
    }
}

/// Where nothing was asked for, what is written down stands.
async fn save(hot: &HotKeys, file: &HotFile) {
    if let Some(hottest) = hot.take_stock() {
        file.save(hottest).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::hot::testing::ask;

    /// The clock stands still but for these waits, and while the file is written.
    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_is_written_down_every_minute() {
        let storage = tempfile::tempdir().unwrap();
        let (hot, file) = (HotKeys::new(2), HotFile::new(storage.path()));
        let rule = "rule".into();
        for key in ["1", "2", "2", "3", "3", "3"] {
            hot.missed(&ask(key), &rule);
        }
        let killed_after = async |seconds| {
            let kept = timeout(Duration::from_secs(seconds), keep(&hot, &file)).await;
            assert!(kept.is_err(), "it goes on until it is killed");
            let found = HotFile::new(storage.path()).load().await;
            let values = found.iter().map(|key| key.parts[0].value.clone());
            values.collect::<Vec<_>>()
        };
        assert!(killed_after(59).await.is_empty());
        assert_eq!(killed_after(61).await, ["3", "2"]);
        // Nothing was asked for since: what is written stands.
        assert_eq!(killed_after(61).await, ["3", "2"]);
        for _ in 0..5 {
            hot.missed(&ask("1"), &rule);
        }
        assert_eq!(killed_after(61).await, ["1", "3"]);
    }
}
