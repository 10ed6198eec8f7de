//! Who may compute for long: guest code that does not give its thread back takes turns, so that whatever needs a thread of
//! the server for a moment finds one (law 9). Knows nothing of stores.
//!
//! A thread that runs a task which yields every millisecond is there for others; with a dozen such tasks in its queue, each
//! step of anything else waits for all of them. So whoever was interrupted goes on only when it is its turn: there is one
//! turn less than there are threads. Who gives the thread back by itself within two epochs never waits for one.
//!
//! Not all that takes long can be interrupted: to fill memory, or to hand it over, is one instruction. So a plugin that
//! passed a limit lately needs a turn from the first moment on, with all it does, of which there is one for all such; and it
//! hands over what else its thread had to do.
//!
//! Key policies are called on the thread of the request and cannot yield. One that is under suspicion is called apart:
//! where the thread that it blocks is none that serves, one call after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// Calls apart, the one that runs included. Each blocks a thread; over it: 503 (law 12).
pub(super) const APART_MAX: usize = 8;

/// How long a plugin that passed a limit is under suspicion: for as long as its breaker remembers.
const SUSPECTED: Duration = Duration::from_secs(10);

/// Whether a plugin passed a limit lately.
#[derive(Default)]
pub(super) struct Suspicion {
    /// Whether `since` is set: the one look that a good plugin costs.
    arisen: AtomicBool,
    since: Mutex<Option<Instant>>,
}

/// The turns of a process.
pub(super) struct Turns {
    /// Of those who were interrupted.
    long: Arc<Semaphore>,
    /// Of those under suspicion: one, so that nobody else waits for them, and they take no more than a core.
    suspects: Arc<Semaphore>,
    apart: Mutex<()>,
    /// Calls in `apart`, and waiting for it.
    aside: AtomicUsize,
}

/// Who waits for a turn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// Those who were interrupted.
    Long,
    /// Those under suspicion.
    Suspects,
}

/// One computation's way to its turns.
pub(super) struct Turn {
    long: PollSemaphore,
    suspects: PollSemaphore,
    /// In which line it stands.
    waits: Option<Line>,
    held: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// As many as there are cores, but for one.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self {
            long: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))),
            suspects: Arc::new(Semaphore::new(1)),
            apart: Mutex::default(),
            aside: AtomicUsize::new(0),
        }
    }

    /// For one computation.
    pub(super) fn turn(&self) -> Turn {
        Turn {
            long: PollSemaphore::new(Arc::clone(&self.long)),
            suspects: PollSemaphore::new(Arc::clone(&self.suspects)),
            waits: None,
            held: None,
        }
    }

    /// Runs a call that may block its thread, after those before it, without blocking one that serves. `None`: too many
    /// wait already, or for longer than `patience`.
    pub(super) fn apart<T>(&self, patience: Duration, call: impl FnOnce() -> T) -> Option<T> {
        struct Aside<'a>(&'a AtomicUsize);
        impl Drop for Aside<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.aside.fetch_add(1, Ordering::Relaxed);
        let _aside = Aside(&self.aside);
        if before >= APART_MAX {
            return None;
        }
        let run = || {
            let _alone = self.apart.try_lock_for(patience)?;
            Some(call())
        };
        hand_over(run)
    }
}

/// Runs what may block its thread for long, after another thread has taken over everything else that this one had to do.
pub(super) fn hand_over<T>(run: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
        // There is no other thread.
        _ => run(),
    }
}

impl Suspicion {
    /// It passed a limit now.
    pub(super) fn arises(&self) {
        *self.since.lock() = Some(Instant::now());
        self.arisen.store(true, Ordering::Relaxed);
    }

    /// It passed one lately.
    pub(super) fn stands(&self) -> bool {
        if !self.arisen.load(Ordering::Relaxed) {
            return false;
        }
        let mut since = self.since.lock();
        let stands = since.is_some_and(|since| since.elapsed() < SUSPECTED);
        if !stands {
            *since = None;
            self.arisen.store(false, Ordering::Relaxed);
        }
        stands
    }
}

impl Turn {
    /// Ready when it is its turn in the line where its like wait, or when there is none for it.
    pub(super) fn poll(&mut self, line: Option<Line>, cx: &mut Context<'_>) -> Poll<()> {
        // Who stands in one line neither changes to another nor walks off: the turn that it is given would be nobody's.
        let Some(line) = self.waits.or(line) else {
            return Poll::Ready(());
        };
        if self.held.is_none() {
            self.waits = Some(line);
            let turns = match line {
                Line::Long => &mut self.long,
                Line::Suspects => &mut self.suspects,
            };
            // They are never closed.
            self.held = ready!(turns.poll_acquire(cx));
            self.waits = None;
        }
        Poll::Ready(())
    }

    /// Others first.
    pub(super) fn end(&mut self) {
        self.held = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn there_are_so_many_turns_and_who_waits_longest_has_the_next() {
        let turns = Turns::new();
        let mut all: Vec<_> = (0..turns.long.available_permits() + 2)
            .map(|_| turns.turn())
            .collect();
        let mut having = Vec::new();
        for turn in &mut all {
            having.push(poll!(poll_fn(|cx| turn.poll(Some(Line::Long), cx))).is_ready());
        }
        let places = having.iter().filter(|has| **has).count();
        assert_eq!(places + 2, all.len());
        all[0].end();
        // The first comes back for another one, after those who wait.
        assert!(poll!(poll_fn(|cx| all[0].poll(Some(Line::Long), cx))).is_pending());
        assert!(poll!(poll_fn(|cx| all[places].poll(Some(Line::Long), cx))).is_ready());
        assert!(poll!(poll_fn(|cx| all[places + 1].poll(Some(Line::Long), cx))).is_pending());
        // Nobody waits for those under suspicion.
        let mut suspects = [turns.turn(), turns.turn()];
        assert!(poll!(poll_fn(|cx| suspects[0].poll(Some(Line::Suspects), cx))).is_ready());
        assert!(poll!(poll_fn(|cx| suspects[1].poll(Some(Line::Suspects), cx))).is_pending());
        // Who was waiting when it came under suspicion waits on where it was, and leaves no turn behind.
        assert!(poll!(poll_fn(|cx| all[places + 1].poll(Some(Line::Suspects), cx))).is_pending());
        all[1 % places].end();
        all[places].end();
        drop(all);
        assert_eq!(turns.long.available_permits(), places);
    }

    #[tokio::test]
    async fn law_9_a_turn_is_never_left_with_who_is_cleared_while_it_waits() {
        let turns = Turns::new();
        let [mut first, mut cleared, mut next] = [turns.turn(), turns.turn(), turns.turn()];
        let suspects = Some(Line::Suspects);
        assert!(poll!(poll_fn(|cx| first.poll(suspects, cx))).is_ready());
        assert!(poll!(poll_fn(|cx| cleared.poll(suspects, cx))).is_pending());
        // Its suspicion ends, and then it is given the turn: it takes it, and gives it back like anyone.
        first.end();
        assert!(poll!(poll_fn(|cx| cleared.poll(None, cx))).is_ready());
        cleared.end();
        assert!(poll!(poll_fn(|cx| next.poll(suspects, cx))).is_ready());
        // Who needs none has none.
        assert!(poll!(poll_fn(|cx| cleared.poll(None, cx))).is_ready());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn law_9_a_call_apart_blocks_nobody_and_no_crowd_gathers() {
        let turns = Arc::new(Turns::new());
        let (entered, has_entered) = tokio::sync::oneshot::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let blocked = {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                turns.apart(Duration::ZERO, || {
                    entered.send(()).expect("the test waits for it");
                    released.recv().expect("the test lets it go");
                })
            })
        };
        // The runtime has one thread, and still this goes on.
        has_entered.await.expect("it has begun");
        let other = Arc::clone(&turns);
        let refused = tokio::spawn(async move { other.apart(Duration::ZERO, || ()) });
        assert_eq!(refused.await.expect("it ends"), None, "one after the other");
        release.send(()).expect("it waits for this");
        assert_eq!(blocked.await.expect("it ends"), Some(()));
        assert_eq!(turns.apart(Duration::ZERO, || ()), Some(()));
    }
}
