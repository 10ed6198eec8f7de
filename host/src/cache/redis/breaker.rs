//! Whether commands are sent at all (law 6). Closed: there is a link. Open: there is none, requests find that out with
//! one load of a pointer, and only the keeper talks to Redis.
//!
//! Opens at once when the connection is lost, and after [`FAILURES_MAX`] failures in a row otherwise; answers that are late
//! together are one failure. How long it stays open at least, and when it closes, is the keeper's. Logs when it changes,
//! never per request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::counters::{Counters, count};
use super::link::Link;
use super::trouble::Trouble;

/// Failures in a row that open it.
const FAILURES_MAX: u32 = 3;

/// The breaker, and with it the link in use.
pub(super) struct Breaker {
    link: ArcSwapOption<Link>,
    /// Redis answers and takes no writes.
    refusing: AtomicBool,
    /// Whether an outage has been logged; starts out false so that being down from the start is logged too.
    outage_logged: AtomicBool,
    error: Mutex<Option<String>>,
    /// Told when the breaker opens.
    opened: Box<dyn Fn() + Send + Sync>,
    /// Whether another server takes over where this one only copies.
    moves: bool,
    counters: Arc<Counters>,
}

impl Breaker {
    /// An open breaker. `opened` is called whenever a closed one opens. `moves`: a server that has become read-only is
    /// given up, because another one takes its place.
    pub(super) fn new(
        counters: Arc<Counters>,
        moves: bool,
        opened: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            moves,
            link: ArcSwapOption::empty(),
            refusing: AtomicBool::new(false),
            outage_logged: AtomicBool::new(false),
            error: Mutex::new(Some("not connected yet".into())),
            opened,
            counters,
        }
    }

    /// The link to send commands on; none while the breaker is open.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.load_full()
    }

    /// Closes: requests use this link from now on.
    pub(super) fn close(&self, link: Arc<Link>) {
        *self.error.lock() = None;
        self.refusing.store(false, Ordering::Relaxed);
        self.outage_logged.store(false, Ordering::Relaxed);
        self.link.store(Some(link));
        tracing::info!("redis: connected; the shared tier is in use");
    }

    /// Still open: connecting or catching up failed.
    pub(super) fn stay_open(&self, trouble: &Trouble) {
        *self.error.lock() = Some(trouble.to_string());
        if !self.outage_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = %trouble, "redis: not to be had; going on without the shared tier and trying again");
        }
    }

    /// Counts a failed command against its link.
    pub(super) fn failed(&self, link: &Link, trouble: &Trouble) {
        match trouble {
            Trouble::Lost(_) => {
                count(&self.counters.errors);
                self.trip(link.id, trouble);
            }
            Trouble::Slow(_) | Trouble::Fault(_) => {
                count(match trouble {
                    Trouble::Slow(_) => &self.counters.timeouts,
                    _ => &self.counters.errors,
                });
                if link.failed(trouble) >= FAILURES_MAX {
                    self.trip(link.id, trouble);
                }
            }
            Trouble::ReadOnly(_) if self.moves => {
                count(&self.counters.errors);
                self.trip(link.id, trouble);
            }
            Trouble::RefusesWrites(why) | Trouble::ReadOnly(why) => {
                count(&self.counters.errors);
                if !self.refusing.swap(true, Ordering::Relaxed) {
                    *self.error.lock() = Some(why.clone());
                    tracing::warn!(error = %trouble, "redis: takes no writes; what it holds is still read");
                }
            }
            // Of the map and not of this server.
            Trouble::Reported(_) | Trouble::Moved(_) | Trouble::Away => {}
            Trouble::Strange(_) | Trouble::NoScript | Trouble::Crowded => {
                count(&self.counters.errors);
            }
        }
    }

    /// A write went through.
    pub(super) fn wrote(&self) {
        if self.refusing.load(Ordering::Relaxed) && self.refusing.swap(false, Ordering::Relaxed) {
            *self.error.lock() = None;
            tracing::info!("redis: takes writes again");
        }
    }

    /// Opens, if `id` is still the link in use: many requests notice the same outage, and a late one must not close
    /// the door on the link that came after it.
    pub(super) fn trip(&self, id: u64, trouble: &Trouble) {
        let current = self.link.load();
        if current.as_ref().is_none_or(|link| link.id != id) {
            return;
        }
        let previous = self.link.compare_and_swap(&*current, None);
        if previous.as_ref().is_none_or(|link| link.id != id) {
            return;
        }
        *self.error.lock() = Some(trouble.to_string());
        self.outage_logged.store(true, Ordering::Relaxed);
        count(&self.counters.breaker_opens);
        tracing::warn!(error = %trouble, "redis: lost; going on without the shared tier and trying again");
        (self.opened)();
    }

    /// What is wrong now.
    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }
}
