//! Where data comes from, as its loader and its writer ask it: each question one step, with the question and the answer on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::cache::{Found, Loader, Outcome, Question};
use crate::error::{Failure, FailureKind};
use crate::sync::step;
use crate::write::{Mutation, Receipt, Writer};

/// Where data comes from: a number that grows.
pub struct Source {
    value: AtomicUsize,
    loads: AtomicUsize,
    /// Loads that fail before the first that does not.
    failing: AtomicUsize,
}

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            value: AtomicUsize::new(1),
            loads: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
        }
    }

    /// What it says now.
    pub fn says(&self) -> usize {
        self.value.load(Ordering::Relaxed)
    }

    /// Loads so far.
    pub fn loads(&self) -> usize {
        self.loads.load(Ordering::Relaxed)
    }

    /// The next loads fail, this many.
    pub fn fail(&self, loads: usize) {
        self.failing.store(loads, Ordering::Relaxed);
    }

    /// Changes what it says, and gives what it says then.
    pub fn change(&self) -> usize {
        self.value.fetch_add(1, Ordering::Relaxed) + 1
    }
}

pub(crate) struct SourceLoader(pub(crate) Arc<Source>);

impl Loader for SourceLoader {
    fn name(&self) -> &str {
        "source"
    }

    fn load(&self, _: Question) -> BoxFuture<'static, Result<Outcome, Failure>> {
        let source = Arc::clone(&self.0);
        Box::pin(async move {
            step().await;
            source.loads.fetch_add(1, Ordering::Relaxed);
            let failing = source.failing.load(Ordering::Relaxed);
            let value = source.value.load(Ordering::Relaxed);
            step().await;
            if failing > 0 {
                source.failing.store(failing - 1, Ordering::Relaxed);
                return Err(Failure::host(FailureKind::Unavailable, "down", "told to"));
            }
            Ok(Outcome::Found(found(value)))
        })
    }
}

/// Changes the source, and may say what a read would give.
pub(crate) struct SourceWriter(pub(crate) Arc<Source>);

impl Writer for SourceWriter {
    fn name(&self) -> &str {
        "source"
    }

    fn write(&self, mutations: Vec<Mutation>) -> BoxFuture<'static, Vec<Result<Receipt, Failure>>> {
        assert_eq!(mutations.len(), 1);
        let source = Arc::clone(&self.0);
        Box::pin(async move {
            step().await;
            let value = source.change();
            step().await;
            let receipt = Receipt {
                entry: Some(found(value)),
                ..Receipt::default()
            };
            vec![Ok(receipt)]
        })
    }
}

/// What the source says as a value.
pub(crate) fn found(value: usize) -> Found {
    Found {
        status: None,
        content_type: None,
        headers: Vec::new(),
        body: Bytes::from(value.to_string()),
        validator: None,
        ttl: None,
        tags: Vec::new(),
        hints: Vec::new(),
    }
}
