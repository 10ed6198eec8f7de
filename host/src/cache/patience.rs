//! How long one flight waits for the shared tier (law 6): for all that it asks of it together, and not for each step. Knows no
//! Redis.
//!
//! What is not done by then goes on behind, and is not cancelled: a lease that is given after all must be used or given back,
//! or other nodes would wait for nobody until it ends; and an entry that is stored late is stored.

use std::time::{Duration, Instant};

use crate::sync::{JoinHandle, spawn, timeout};

/// What is left of it.
pub(super) struct Patience {
    left: Duration,
}

/// What came of a wait.
pub(super) enum Waited<T> {
    /// It is done.
    Done(T),
    /// It goes on behind.
    Late(JoinHandle<T>),
    /// It panicked, or the server is stopping.
    Lost,
}

impl Patience {
    /// Of this length, part of which is spent already.
    pub(super) fn of(whole: Duration, spent: Duration) -> Self {
        Self {
            left: whole.saturating_sub(spent),
        }
    }

    /// Waits for something that nobody misses when it is given up, as long as there is patience.
    pub(super) async fn try_for<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let started = Instant::now();
        let done = timeout(self.left, work).await.ok();
        self.left = self.left.saturating_sub(started.elapsed());
        done
    }

    /// Waits for something in a task of its own, as long as there is patience.
    pub(super) async fn wait<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Waited<T> {
        let mut task = spawn(work);
        match self.try_for(&mut task).await {
            Some(Ok(done)) => Waited::Done(done),
            Some(Err(_)) => Waited::Lost,
            None => Waited::Late(task),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn law_6_patience_is_for_all_steps_together_and_what_is_late_goes_on() {
        let step = |ms| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            ms
        };
        let mut patience = Patience::of(Duration::from_millis(100), Duration::from_millis(100));
        let Waited::Late(task) = patience.wait(step(10)).await else {
            panic!("there was none left");
        };
        assert_eq!(task.await.ok(), Some(10));
        let mut patience = Patience::of(Duration::from_millis(100), Duration::ZERO);
        assert!(matches!(patience.wait(step(0)).await, Waited::Done(0)));
        let panics = async { panic!("told to") };
        assert!(matches!(patience.wait::<()>(panics).await, Waited::Lost));
    }
}
