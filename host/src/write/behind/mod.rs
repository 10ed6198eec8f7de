//! Write-behind: a change is made durable in a queue, then answered, then made.
//!
//! # Layout
//! - this file: a change is accepted, and what became of it is told.
//! - [`record`]: a change as bytes.
//! - [`lanes`]: which changes are made next; [`lane`]: those of one resource; [`failing`]: whether and when again; [`writers`]: how their writers are.
//! - [`deliver`]: makes them.
//! - [`reads`]: what a read sees of a change that is pending.
//!
//! # What is acknowledged
//!
//! What the queue has made durable, and no less. Then what the cache has of the resource is purged (a `delete`: it is not even
//! something to fall back on), then it is answered: so whoever has the answer reads nothing older (`cache::underway` argues it).
//! A node that dies between the queue and the purge has answered nobody.

pub mod deliver;
mod failing;
mod lane;
mod lanes;
pub mod reads;
pub mod record;
mod writers;

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use self::deliver::{Counters, Delivery, Destination, Destinations};
pub use self::lanes::Batching;
use self::record::Record;
use super::idempotency::print;
use super::through::{Wish, key, scoped};
use crate::cache::generations::{Mode, Scope};
use crate::cache::queue::{Bounds, Item, Known, Pushed, Queue, State, Unavailable, WriteId};
use crate::cache::{Ask, Cache};
use crate::error::{Failure, FailureKind};

/// The changes of a node that are accepted before they are made.
pub struct Behind {
    queue: Arc<dyn Queue>,
    cache: Arc<Cache>,
    bounds: Bounds,
    counters: Arc<Counters>,
    delivery: OnceLock<Arc<Delivery>>,
}

/// A change that was accepted, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// By which its client asks for it.
    pub id: WriteId,
    /// What is known of it.
    pub known: Known,
    /// Whether it was accepted before, under the same `Idempotency-Key`.
    pub again: bool,
}

/// Why a change was not accepted.
#[derive(Debug)]
pub enum NotAccepted {
    /// Another change was accepted with this `Idempotency-Key`.
    Another,
    /// It would not fit into an empty queue.
    TooLong {
        /// Bytes that fit into a part of it.
        share: u64,
    },
    /// There is no room, or the queue is not to be had.
    Failed(Failure),
}

impl Behind {
    /// With this queue. Nothing is made before [`Behind::deliver`].
    pub fn new(queue: Arc<dyn Queue>, cache: Arc<Cache>, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            queue,
            cache,
            bounds,
            counters: Arc::default(),
            delivery: OnceLock::new(),
        })
    }

    /// Begins to make what is pending.
    pub fn deliver(&self, destinations: Arc<dyn Destinations>, batching: Batching) {
        let (queue, cache) = (Arc::clone(&self.queue), Arc::clone(&self.cache));
        let counters = Arc::clone(&self.counters);
        self.delivery
            .get_or_init(|| Delivery::start(queue, cache, destinations, batching, counters));
    }

    /// Lets what is pending be made for so long at most; what is not made then stays in the queue.
    pub async fn stop(&self, limit: Duration) {
        if let Some(delivery) = self.delivery.get() {
            delivery.stop(limit).await;
        }
        self.queue.close().await;
    }

    /// Accepts a change: durable when this says so, and seen by whoever reads after that. To be polled to its end, in a task of
    /// the host.
    ///
    /// # Errors
    /// [`NotAccepted`]
    pub async fn accept(&self, ask: &Ask, wish: Wish) -> Result<Accepted, NotAccepted> {
        let resource = ask.key.resource();
        let partition = self.queue.partition_of(resource);
        let (idempotency_key, number) = match wish.idempotency_key {
            Some(key) => {
                let key = scoped(ask, &key);
                // The same key is the same id: the queue itself knows a change that it has accepted before, whatever became of
                // the node that was told so.
                let digest = blake3::hash(key.as_bytes());
                let (first, _) = digest.as_bytes().split_at(16);
                let number = first.try_into().map_or(0, u128::from_le_bytes);
                (key, number)
            }
            None => (key(), unheard_of(self.cache.clock().now_ms())),
        };
        let id = WriteId::new(partition, number);
        let print = print(&wish.operation, &wish.expect);
        let record = Record {
            route: ask.binding.route.to_string(),
            parts: ask.parts.to_vec(),
            operation: wish.operation,
            idempotency_key,
        };
        let record = record.encode();
        let share = self.bounds.bytes_max / u64::from(self.queue.partitions());
        if record.len() as u64 > share {
            return Err(NotAccepted::TooLong { share });
        }
        let pushed = self.queue.push(Item {
            id: id.clone(),
            resource: resource.clone(),
            print,
            record,
        });
        match pushed.await {
            Pushed::Accepted { sequence } => {
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                self.purge(ask).await;
                Ok(Accepted {
                    id,
                    known: Known {
                        state: State::Pending,
                        sequence,
                    },
                    again: false,
                })
            }
            Pushed::Known(known) => {
                // Whoever accepted it may not have come to this.
                if known.state == State::Pending {
                    self.purge(ask).await;
                }
                Ok(Accepted {
                    id,
                    known,
                    again: true,
                })
            }
            Pushed::Another => Err(NotAccepted::Another),
            Pushed::Full(depth) => {
                self.counters.full.fetch_add(1, Ordering::Relaxed);
                let (pending, dead, bytes) = (depth.pending, depth.dead, depth.bytes);
                Err(failed(
                    "queue-full",
                    format!(
                        "no more fit into this part of the queue: {pending} changes are pending in it and {dead} given up and kept, {bytes} bytes in all ([writes] max_pending, max_bytes)"
                    ),
                ))
            }
            Pushed::Unavailable { why, uncertain } => {
                if uncertain {
                    self.purge(ask).await;
                }
                let maybe = if uncertain {
                    "; the change may have been accepted: send it again with the same Idempotency-Key"
                } else {
                    ""
                };
                Err(failed(
                    "queue-unavailable",
                    format!("the queue cannot take the change: {why}{maybe}"),
                ))
            }
        }
    }

    async fn purge(&self, ask: &Ask) {
        let resource = Scope::Resource(ask.key.resource().clone());
        self.cache.purge(&resource, Mode::Delete).await;
    }

    /// What is known of a change, and how often it was tried as far as this node knows.
    ///
    /// # Errors
    /// The queue is not to be had.
    pub async fn find(&self, id: &WriteId) -> Result<Option<Known>, Unavailable> {
        if u16::from(id.partition()) >= self.queue.partitions() {
            return Ok(None);
        }
        self.queue.find(id).await
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    /// How much may be in it.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The partitions whose changes this node makes.
    pub fn delivering(&self) -> Vec<u8> {
        let delivery = self.delivery.get();
        delivery.map(|it| it.partitions()).unwrap_or_default()
    }

    /// What was done since the start.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// The number of an id that nobody else has, nor can guess. It grows with time, so that a store which sorts ids has those of one
/// moment in one place.
fn unheard_of(now_ms: u64) -> u128 {
    const RANDOM_BITS: u32 = 76;
    (u128::from(now_ms) << RANDOM_BITS) | (rand::random::<u128>() >> (128 - RANDOM_BITS))
}

fn failed(code: &'static str, message: String) -> NotAccepted {
    NotAccepted::Failed(Failure {
        retry_after: Some(Duration::from_secs(1)),
        ..Failure::host(FailureKind::Overloaded, code, message)
    })
}
