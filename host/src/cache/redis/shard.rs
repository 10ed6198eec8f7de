//! The servers that hold the keys, as requests see them: which of them holds a slot, and whether it is spoken to. One of
//! them holds the group too.

use std::sync::Arc;

use parking_lot::Mutex;
use redis::ConnectionAddr;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::breaker::Breaker;
use super::counters::Counters;
use super::names::{group_slot, partition_slot, slot_of};
use super::topology::{Address, Layout, NOBODY};
use crate::key::Resource;

/// One server.
pub(super) struct Shard {
    /// Where it is, in a cluster; elsewhere that shows at connecting.
    pub(super) at: Option<Address>,
    /// Whether it is spoken to, and on which connections.
    pub(super) breaker: Breaker,
    /// Told when the breaker opens.
    pub(super) opened: Arc<Notify>,
    /// Which run of which server was spoken to last, and where: after a failover it is another.
    pub(super) last: Mutex<Option<(String, Option<ConnectionAddr>)>>,
    /// Connects it; none for the one that holds the group.
    pub(super) tended: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Shard {
    /// A server that is not spoken to yet. `rouse` is called when it is lost.
    pub(super) fn new(
        at: Option<Address>,
        moves: bool,
        counters: &Arc<Counters>,
        rouse: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        let opened = Arc::new(Notify::new());
        let told = Arc::clone(&opened);
        let breaker = Breaker::new(
            Arc::clone(counters),
            moves,
            Box::new(move || {
                told.notify_one();
                rouse();
            }),
        );
        Arc::new(Self {
            at,
            breaker,
            opened,
            last: Mutex::new(None),
            tended: Mutex::new(None),
        })
    }
}

/// Which server holds what. Never changed: another one takes its place.
pub(super) struct Map {
    shards: Vec<Arc<Shard>>,
    group: Option<usize>,
    /// By slot; none where there is one server.
    layout: Option<Layout>,
}

impl Map {
    /// One server that holds everything.
    pub(super) fn single(shard: Arc<Shard>) -> Self {
        Self {
            shards: vec![shard],
            group: Some(0),
            layout: None,
        }
    }

    /// A cluster of which nothing is known yet.
    pub(super) fn unknown() -> Self {
        Self {
            shards: Vec::new(),
            group: None,
            layout: None,
        }
    }

    /// A cluster. `shard` gives the shard of a master, and whether it holds the group.
    pub(super) fn of(layout: Layout, mut shard: impl FnMut(&Address, bool) -> Arc<Shard>) -> Self {
        let group = Some(layout.slots[group_slot()])
            .filter(|index| *index != NOBODY)
            .map(usize::from);
        let shards = layout
            .masters
            .iter()
            .enumerate()
            .map(|(index, master)| shard(master, group == Some(index)))
            .collect();
        Self {
            shards,
            group,
            layout: Some(layout),
        }
    }

    /// The server that holds the group.
    pub(super) fn group(&self) -> Option<&Arc<Shard>> {
        self.shards.get(self.group?)
    }

    /// The server that holds a resource, its entries and their leases.
    pub(super) fn of_resource(&self, resource: &Resource) -> Option<&Arc<Shard>> {
        self.of_slot(|| slot_of(resource))
    }

    /// The server that holds a partition of the queue.
    pub(super) fn of_partition(&self, partition: u8) -> Option<&Arc<Shard>> {
        self.of_slot(|| partition_slot(partition))
    }

    fn of_slot(&self, slot: impl FnOnce() -> usize) -> Option<&Arc<Shard>> {
        match &self.layout {
            None => self.shards.first(),
            Some(layout) => self.shards.get(usize::from(layout.slots[slot()])),
        }
    }

    pub(super) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    pub(super) fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
    }
}
