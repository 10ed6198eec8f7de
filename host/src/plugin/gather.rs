//! Where the misses of a route wait for each other, to enter a batching loader in one call. Owns who goes with whom; when a
//! window ends, the driver says.
//!
//! It lies below the flights: what comes here is the one load of its key, and who joins that waits there (law 3).
//!
//! **A batch is of one route.** The contract would let routes share one, for every question carries its own. But window and
//! size are the route's, and of a batch with questions of two routes neither could be kept for both; and a source that
//! answers many questions in one go (a statement, a bulk endpoint) does so for one kind of question.
//!
//! Bounded (law 12) by what is bounded already: a batch by its size, all of them by the loads that may be in the air.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::queue::{Asked, Job};
use crate::key::Parts;

/// The batches that are open, by route: at most one each.
#[derive(Default)]
pub(super) struct Gather {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<Arc<str>, Batch>,
    opened: u64,
}

struct Batch {
    number: u64,
    asked: Vec<Asked>,
    parts: HashSet<Parts>,
}

/// Batches that were asked, and the questions in them; what is asked again alone is not counted again.
#[derive(Default)]
pub(super) struct Tally {
    batches: AtomicU64,
    questions: AtomicU64,
}

impl Tally {
    /// One more batch, of so many questions.
    pub(super) fn batch(&self, questions: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.questions
            .fetch_add(questions as u64, Ordering::Relaxed);
    }

    /// Batches, and questions in them.
    pub(super) fn read(&self) -> (u64, u64) {
        (
            self.batches.load(Ordering::Relaxed),
            self.questions.load(Ordering::Relaxed),
        )
    }
}

/// A batch that has just been opened: whoever opened it sees to it that it is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    route: Arc<str>,
    number: u64,
}

/// What a question led to.
#[derive(Default)]
pub(super) struct Joined {
    /// Batches that go now: because it is full, or because it holds a question that is like the new one.
    pub(super) go: Vec<Job>,
    /// The question is the first of a batch.
    pub(super) opened: Option<Opened>,
}

impl Gather {
    /// Takes a question into the batch of its route, of at most `max`.
    ///
    /// The guest is promised that no two questions of a batch are alike. Two flights of one key can meet here (one began
    /// before a purge, one after it), and so can requests that a key policy lets past the cache: then the batch before
    /// goes, and the new one begins another.
    pub(super) fn join(&self, asked: Asked, max: usize) -> Joined {
        let mut joined = Joined::default();
        let route = Arc::clone(&asked.question.route);
        let parts = Arc::clone(&asked.question.parts);
        let mut state = self.state.lock();
        let has_alike = |batch: &Batch| batch.parts.contains(&parts);
        if state.open.get(&route).is_some_and(has_alike) {
            joined.go.extend(state.close(&route));
        }
        if !state.open.contains_key(&route) {
            state.opened += 1;
            let number = state.opened;
            joined.opened = Some(Opened {
                route: Arc::clone(&route),
                number,
            });
            let batch = Batch {
                number,
                asked: Vec::new(),
                parts: HashSet::new(),
            };
            state.open.insert(Arc::clone(&route), batch);
        }
        let is_full = state.open.get_mut(&route).is_some_and(|batch| {
            batch.asked.push(asked);
            batch.parts.insert(parts);
            batch.asked.len() >= max
        });
        if is_full {
            joined.go.extend(state.close(&route));
            joined.opened = None;
        }
        joined
    }

    /// The window of a batch has ended: it goes, if it has not gone already.
    pub(super) fn close(&self, opened: &Opened) -> Option<Job> {
        let mut state = self.state.lock();
        let number = state.open.get(&opened.route)?.number;
        (number == opened.number)
            .then(|| state.close(&opened.route))
            .flatten()
    }

    /// All go.
    pub(super) fn close_all(&self) -> Vec<Job> {
        let open = std::mem::take(&mut self.state.lock().open);
        open.into_values()
            .map(|batch| Job::new(batch.asked))
            .collect()
    }
}

impl State {
    fn close(&mut self, route: &Arc<str>) -> Option<Job> {
        Some(Job::new(self.open.remove(route)?.asked))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::super::generation::Ticket;
    use super::*;
    use crate::cache::{Batching, Question};
    use crate::key::Param;

    /// Questions, and what keeps their callers waiting.
    #[derive(Default)]
    struct Callers(
        Vec<oneshot::Receiver<Result<super::super::bindings::Answer, crate::error::Failure>>>,
    );

    impl Callers {
        fn ask(&mut self, route: &str, key: &str) -> Asked {
            let (reply, answer) = oneshot::channel();
            self.0.push(answer);
            Asked {
                question: Question {
                    route: route.into(),
                    parts: vec![Param::new("key", key)].into(),
                    timeout: Duration::from_secs(1),
                    traceparent: None,
                    known: None,
                    batching: Batching::ALONE,
                },
                deadline: Instant::now(),
                reply,
                ticket: Ticket::default(),
            }
        }
    }

    fn keys(job: Job) -> Vec<String> {
        let asked = job.still_asked().into_iter();
        asked
            .map(|asked| asked.question.parts[0].value.clone())
            .collect()
    }

    #[test]
    fn a_full_batch_goes_at_once_and_its_window_then_closes_nothing() {
        let (gather, mut callers) = (Gather::default(), Callers::default());
        let opened = gather.join(callers.ask("/a", "1"), 2).opened.unwrap();
        let mut joined = gather.join(callers.ask("/a", "2"), 2);
        assert_eq!(joined.opened, None);
        assert_eq!(keys(joined.go.remove(0)), ["1", "2"]);
        // The next batch of the route is another one, and the window of the first is not its own.
        let next = gather.join(callers.ask("/a", "3"), 2).opened.unwrap();
        assert!(gather.close(&opened).is_none());
        assert_eq!(keys(gather.close(&next).unwrap()), ["3"]);
    }

    #[test]
    fn routes_do_not_share_a_batch() {
        let (gather, mut callers) = (Gather::default(), Callers::default());
        let one = gather.join(callers.ask("/a", "1"), 2).opened.unwrap();
        let other = gather.join(callers.ask("/b", "1"), 2).opened.unwrap();
        assert_eq!(keys(gather.close(&one).unwrap()), ["1"]);
        assert_eq!(keys(gather.close(&other).unwrap()), ["1"]);
    }

    #[test]
    fn no_two_questions_of_a_batch_are_alike() {
        let (gather, mut callers) = (Gather::default(), Callers::default());
        gather.join(callers.ask("/a", "1"), 9);
        gather.join(callers.ask("/a", "2"), 9);
        let mut joined = gather.join(callers.ask("/a", "1"), 9);
        assert_eq!(keys(joined.go.remove(0)), ["1", "2"]);
        assert_eq!(keys(gather.close(&joined.opened.unwrap()).unwrap()), ["1"]);
    }

    #[test]
    fn who_has_left_is_not_asked_for() {
        let (gather, mut callers) = (Gather::default(), Callers::default());
        let opened = gather.join(callers.ask("/a", "1"), 9).opened.unwrap();
        gather.join(callers.ask("/a", "2"), 9);
        callers.0.remove(0);
        assert_eq!(keys(gather.close(&opened).unwrap()), ["2"]);
    }
}
