//! Changes that are accepted before they are made: the queue that the configuration names, opened.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

use crate::cache::Cache;
use crate::cache::queue::{Bounds, Queue};
use crate::cache::redis::{Lasting, RedisTier};
use crate::cache::tier::SharedTier as _;
use crate::config::{Config, Durability, QueueKind, Writes};
use crate::write::behind::{Batching, Behind};
use crate::write::disk::DiskQueue;

/// Opens the queue, if any route needs one.
pub(super) fn open(
    config: &Config,
    cache: &Arc<Cache>,
    redis: Option<&Arc<RedisTier>>,
) -> anyhow::Result<Option<Arc<Behind>>> {
    let bounds = bounds(&config.writes);
    let is_on_disk = config.writes_behind() && config.writes.queue == QueueKind::Disk;
    if !is_on_disk {
        warn_of_left_behind(&config.storage.dir, bounds);
    }
    if !config.writes_behind() {
        return Ok(None);
    }
    let queue: Arc<dyn Queue> = match (config.writes.queue, redis) {
        (QueueKind::Disk, _) => Arc::new(DiskQueue::open(&config.storage.dir, bounds)?),
        (QueueKind::Redis, Some(redis)) => {
            tokio::spawn(warn_if_weak(Arc::clone(redis), config.writes.durability));
            redis.queue(bounds)
        }
        (QueueKind::Redis, None) => bail!("[writes] queue = \"redis\" needs [redis]"),
    };
    Ok(Some(Behind::new(queue, Arc::clone(cache), bounds)))
}

/// Says what Redis promises of the queue, as soon as it can be asked: once, loudly where it is less than is asked for.
async fn warn_if_weak(redis: Arc<RedisTier>, asked: Durability) {
    const AGAIN: Duration = Duration::from_millis(500);
    while !redis.health().available {
        tokio::time::sleep(AGAIN).await;
    }
    let promised = redis.durability().await;
    let wanted = match asked {
        Durability::Always => Lasting::Always,
        Durability::EverySecond => Lasting::EverySecond,
        Durability::Memory => Lasting::Memory,
    };
    if promised.lasting < wanted || promised.evicts.is_some() {
        tracing::warn!(
            "writes: the queue in Redis is safe only so far: {promised}; [writes] durability says what is asked for"
        );
    } else {
        tracing::info!("writes: {promised}");
    }
}

/// Changes that were accepted under another configuration lie there until it is in force again.
fn warn_of_left_behind(storage: &Path, bounds: Bounds) {
    match DiskQueue::left_behind(storage, bounds) {
        Ok(0) => {}
        Ok(left) => tracing::warn!(
            "writes: {left} changes that were accepted lie in {}, and nobody makes them: no route writes behind by way of the disk any more; write queue = \"disk\" into [writes] and write = \"behind\" into their routes until they are made",
            storage.display()
        ),
        Err(error) => {
            tracing::warn!(%error, "writes: what an earlier configuration has left cannot be read");
        }
    }
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
