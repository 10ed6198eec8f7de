//! What a read sees of a change that is accepted and not made yet.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Behind;
use super::record::Record;
use crate::cache::queue::{Queue, State, WriteId};
use crate::cache::underway::{Pending, Underway};
use crate::cache::{Absence, Found, Outcome};
use crate::key::{Parts, Resource};
use crate::write::Operation;

/// The changes of one route, as its reads ask for them.
pub struct Reads {
    behind: Arc<Behind>,
    /// Whether what was sent is what a read would give.
    is_value: bool,
}

impl Reads {
    /// Of a route whose writer says, or whose operator, that a payload is a representation; or not.
    pub fn new(behind: Arc<Behind>, is_value: bool) -> Self {
        Self { behind, is_value }
    }
}

impl Underway for Reads {
    fn is_known(&self, resource: &Resource) -> bool {
        self.behind.queue().holds(resource)
    }

    fn of<'a>(&'a self, resource: &'a Resource, parts: &'a Parts) -> BoxFuture<'a, Pending> {
        Box::pin(async move {
            let queued = match self.behind.queue().newest(resource).await {
                Ok(None) => return Pending::Nothing,
                Ok(Some(queued)) => queued,
                Err(_) => return Pending::Unknown,
            };
            // What was sent under other parts says nothing of the variant that is asked for.
            let known = Record::decode(&queued.record)
                .ok()
                .filter(|record| self.is_value && record.parts[..] == parts[..]);
            match known {
                Some(record) => Pending::Known(outcome(record.operation)),
                None => Pending::Unmade(Box::pin(made(Arc::clone(self.behind.queue()), queued.id))),
            }
        })
    }
}

fn outcome(operation: Operation) -> Outcome {
    match operation {
        Operation::Put(payload) => Outcome::Found(Found {
            status: None,
            content_type: payload.content_type,
            headers: Vec::new(),
            body: payload.body,
            validator: None,
            ttl: None,
            tags: Vec::new(),
            hints: Vec::new(),
        }),
        Operation::Delete => Outcome::Missing(Absence::default()),
    }
}

/// Ends when a change is not pending any more: those before it are not either, and those after it are no matter of a read that
/// came before them. Which node makes it is not known, so it is looked for, ever less often; what waits are loads, which are
/// bounded.
async fn made(queue: Arc<dyn Queue>, id: WriteId) {
    const LONGEST: Duration = Duration::from_millis(100);
    let mut wait = Duration::from_millis(2);
    loop {
        tokio::time::sleep(wait).await;
        match queue.find(&id).await {
            Ok(Some(known)) if known.state == State::Pending => {}
            Err(_) => {}
            Ok(_) => return,
        }
        wait = (wait * 2).min(LONGEST);
    }
}
