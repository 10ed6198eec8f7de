//! What is pending on this node's disk, in memory: enough to say in what order, and what is the newest of a resource. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::table::Effect;
use crate::cache::queue::{Depth, WriteId};
use crate::key::Resource;

/// A pending change without its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) id: WriteId,
    pub(super) resource: Resource,
    /// Bytes of its record.
    pub(super) len: u64,
}

/// All of them.
#[derive(Default)]
pub(super) struct Index {
    pending: BTreeMap<u64, Head>,
    of_resource: HashMap<Resource, BTreeSet<u64>>,
    dead: u64,
    bytes: u64,
    last: u64,
}

impl Index {
    /// What a file held when it was opened.
    pub(super) fn new(
        heads: impl IntoIterator<Item = Head>,
        (dead, dead_bytes): (u64, u64),
        last: u64,
    ) -> Self {
        let mut index = Self {
            dead,
            bytes: dead_bytes,
            last,
            ..Self::default()
        };
        for head in heads {
            index.apply(Effect::Added(head));
        }
        index
    }

    /// What a transaction has done.
    pub(super) fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Added(head) => {
                self.bytes += head.len;
                self.last = self.last.max(head.sequence);
                let of_resource = self.of_resource.entry(head.resource.clone());
                of_resource.or_default().insert(head.sequence);
                self.pending.insert(head.sequence, head);
            }
            Effect::Applied { sequence } => {
                if let Some(head) = self.remove(sequence) {
                    self.bytes -= head.len;
                }
            }
            // Its bytes stay.
            Effect::Buried { sequence } => {
                if self.remove(sequence).is_some() {
                    self.dead += 1;
                }
            }
            Effect::Discarded { len } => {
                self.dead -= 1;
                self.bytes -= len;
            }
        }
    }

    fn remove(&mut self, sequence: u64) -> Option<Head> {
        let head = self.pending.remove(&sequence)?;
        if let Some(of_resource) = self.of_resource.get_mut(&head.resource) {
            of_resource.remove(&sequence);
            if of_resource.is_empty() {
                self.of_resource.remove(&head.resource);
            }
        }
        Some(head)
    }

    pub(super) fn newest(&self, resource: &Resource) -> Option<Head> {
        let sequence = self.of_resource.get(resource)?.last()?;
        self.pending.get(sequence).cloned()
    }

    pub(super) fn after(&self, sequence: u64, max: usize) -> Vec<Head> {
        let after = self.pending.range(sequence.saturating_add(1)..);
        after.take(max).map(|(_, head)| head.clone()).collect()
    }

    /// The highest number that was given.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn depth(&self) -> Depth {
        Depth {
            pending: self.pending.len() as u64,
            dead: self.dead,
            bytes: self.bytes,
            oldest: self.pending.first_key_value().map(|(first, _)| *first),
        }
    }
}
