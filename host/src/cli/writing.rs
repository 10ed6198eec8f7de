//! Changes that are accepted before they are made: the queue that the configuration names, opened.

use std::sync::Arc;

use anyhow::bail;

use crate::cache::Cache;
use crate::cache::queue::{Bounds, Queue};
use crate::cache::redis::RedisTier;
use crate::config::{Config, QueueKind, Writes};
use crate::write::behind::{Batching, Behind};
use crate::write::disk::DiskQueue;

/// Opens the queue, if any route needs one.
pub(super) fn open(
    config: &Config,
    cache: &Arc<Cache>,
    redis: Option<&Arc<RedisTier>>,
) -> anyhow::Result<Option<Arc<Behind>>> {
    if !config.writes_behind() {
        return Ok(None);
    }
    let bounds = bounds(&config.writes);
    let queue: Arc<dyn Queue> = match (config.writes.queue, redis) {
        (QueueKind::Disk, _) => Arc::new(DiskQueue::open(&config.storage.dir, bounds)?),
        (QueueKind::Redis, Some(_)) => bail!("merged below"),
        (QueueKind::Redis, None) => bail!("[writes] queue = \"redis\" needs [redis]"),
    };
    Ok(Some(Behind::new(queue, Arc::clone(cache), bounds)))
}

fn bounds(writes: &Writes) -> Bounds {
    Bounds {
        items_max: writes.max_pending as u64,
        bytes_max: writes.max_bytes,
    }
}

/// How what is pending is made.
pub(super) fn batching(writes: &Writes) -> Batching {
    Batching {
        max: writes.batch_max,
        at_once: writes.concurrency,
        give_up: writes.give_up,
    }
}
