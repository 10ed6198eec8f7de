//! The changes of one resource that are pending, in their order. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::queue::WriteId;
use crate::key::Resource;

/// A change that is pending.
pub(super) struct Waiting {
    pub(super) sequence: u64,
    /// Of the parts: another variant of the resource is another thing.
    pub(super) variant: u64,
    /// It is out, or the one that is out stands for it.
    pub(super) is_out: bool,
    pub(super) id: WriteId,
    pub(super) record: Option<Bytes>,
    pub(super) len: u64,
    pub(super) attempts: u32,
    pub(super) faults: u32,
}

/// Where a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In the line of its route.
    Ready,
    /// Until then.
    Asleep(Instant, u64),
    /// One of its changes is out: this one.
    Out(u64),
}

/// The changes of a resource that are pending.
pub(super) struct Lane {
    pub(super) route: Arc<str>,
    pub(super) partition: u8,
    /// By their sequence.
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) state: State,
    /// Failures in a row.
    pub(super) failures: u32,
    /// It sleeps because the source of its writer was not to be had.
    pub(super) is_outage: bool,
    /// It may be in a batch of so many.
    pub(super) company: usize,
}

impl Waiting {
    /// Bytes of it that are kept in memory.
    pub(super) fn held(&self) -> u64 {
        if self.record.is_some() { self.len } else { 0 }
    }
}

impl Lane {
    /// Where a change is, or would be.
    pub(super) fn place_of(&self, sequence: u64) -> Result<usize, usize> {
        let place = self.waiting.partition_point(|it| it.sequence < sequence);
        match self.waiting.get(place) {
            Some(there) if there.sequence == sequence => Ok(place),
            _ => Err(place),
        }
    }

    /// The place of the next to go out: of the first, or of the last of those that one may stand for.
    pub(super) fn chosen(&self, coalesce: bool) -> Option<usize> {
        let first = self.waiting.front()?;
        if !coalesce {
            return Some(0);
        }
        let same = self.waiting.iter();
        let same = same.take_while(|it| it.variant == first.variant);
        Some(same.count() - 1)
    }
}

/// The pattern of a resource's route: what its text begins with.
pub(super) fn route_of(resource: &Resource) -> Arc<str> {
    let text = resource.text();
    let route = text.split_once(':').map_or(text, |(route, _)| route);
    percent_encoding::percent_decode_str(route)
        .decode_utf8_lossy()
        .into()
}
