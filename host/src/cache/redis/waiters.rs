//! Flights of this node that wait for another's lease to end, and who wakes them: the push channel, the keeper when Redis
//! is lost, and the clock as a fallback. As many as there are flights, which are bounded. Knows no Redis.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::cache::tier::Ended;
use crate::sync::{AtomicUsize, Mutex};

/// Who waits for which key.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Mutex<Waiting>,
    /// As many as wait: asked with every word, without the lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    by_key: HashMap<Arc<str>, Vec<(u64, oneshot::Sender<Ended>)>>,
    tickets: u64,
}

/// One that waits. No longer once it is dropped.
#[derive(Debug)]
pub(super) struct Waiter {
    waiters: Arc<Waiters>,
    key: Arc<str>,
    ticket: u64,
    ended: oneshot::Receiver<Ended>,
}

impl Waiters {
    /// To be called before the lease is asked for, so that its end cannot be told between the refusal and this.
    pub(super) fn wait_for(self: &Arc<Self>, key: &str) -> Waiter {
        let (tell, ended) = oneshot::channel();
        let key: Arc<str> = key.into();
        // Before it is in the list: who is told of the key after this, looks.
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut waiting = self.waiting.lock();
        waiting.tickets += 1;
        let ticket = waiting.tickets;
        waiting
            .by_key
            .entry(Arc::clone(&key))
            .or_default()
            .push((ticket, tell));
        drop(waiting);
        Waiter {
            waiters: Arc::clone(self),
            key,
            ticket,
            ended,
        }
    }

    /// Whether anybody waits.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Wakes who waits for this key.
    pub(super) fn wake(&self, key: &str, ended: Ended) {
        if !self.any() {
            return;
        }
        let woken = self.waiting.lock().by_key.remove(key);
        for (_, tell) in woken.into_iter().flatten() {
            let _ = tell.send(ended);
        }
    }

    /// Wakes everybody: nobody can be told any more.
    pub(super) fn wake_all(&self) {
        if !self.any() {
            return;
        }
        let woken = std::mem::take(&mut self.waiting.lock().by_key);
        for (_, tell) in woken.into_values().flatten() {
            let _ = tell.send(Ended::Unknown);
        }
    }
}

impl Waiter {
    /// How the lease ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Ended {
        (&mut self.ended).await.unwrap_or(Ended::Unknown)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock();
        if let Some(list) = waiting.by_key.get_mut(&self.key) {
            list.retain(|(ticket, _)| *ticket != self.ticket);
            if list.is_empty() {
                waiting.by_key.remove(&self.key);
            }
        }
        drop(waiting);
        self.waiters.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_for_its_key_and_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::default());
        let (mut one, mut two) = (waiters.wait_for("a"), waiters.wait_for("a"));
        let mut other = waiters.wait_for("b");
        waiters.wake("a", Ended::Stored);
        assert_eq!(
            (one.ended().await, two.ended().await),
            (Ended::Stored, Ended::Stored)
        );
        assert!(other.ended.try_recv().is_err(), "another key");
        waiters.wake_all();
        assert_eq!(other.ended().await, Ended::Unknown);
        drop((one, two, other));
        let gone = waiters.wait_for("c");
        drop(gone);
        assert!(!waiters.any());
        assert!(waiters.waiting.lock().by_key.is_empty());
    }
}
