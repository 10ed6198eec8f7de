//! The tier against a real Redis, in health ([`health`]) and in every kind of trouble ([`trouble`]).

mod duties;
mod health;
mod leases;
mod queue;
mod server;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use self::server::{Server, eventually};
use super::*;
use crate::cache::clock::SystemClock;
use crate::cache::entry::{Content, Draft, EntryKind, Etag};
use crate::cache::freshness::Times;
use crate::cache::generations::{Covered, Stamp};
use crate::key::{Param, Visibility};

const ROUTE: &str = "/data/{key}";
/// How long one command may take: so long that a busy machine is not taken for an ill Redis.
const TIMEOUT: Duration = Duration::from_millis(500);
/// How soon after healing the tier must work again: the two seconds of the specification, and what a busy machine adds.
const HEALED_WITHIN: Duration = Duration::from_secs(5);
/// How long a node that hears nothing is trusted.
const TRUST: Duration = Duration::from_secs(1);

/// One node: its record, its tier, and how often its memory was to be dropped.
struct Node {
    generations: Arc<Generations>,
    clock: Arc<SystemClock>,
    tier: Arc<RedisTier>,
    resyncs: Arc<AtomicUsize>,
}

impl Node {
    /// A node whose tier need not be there yet.
    fn start(server: &Server) -> Self {
        Self::start_at(Servers::Single(server.url()))
    }

    fn start_at(servers: Servers) -> Self {
        Self::start_keeping(servers, false)
    }

    fn start_keeping(servers: Servers, kept: bool) -> Self {
        let generations = Arc::new(Generations::new());
        let clock = Arc::new(SystemClock::new());
        let resyncs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&resyncs);
        let settings = RedisSettings {
            servers,
            tls: Tls::default(),
            prefix: "larder".into(),
            timeout: TIMEOUT,
            trust: TRUST,
            journal: None,
            longest_life_ms: 3_600_000,
            kept,
        };
        let tier = RedisTier::start(
            settings,
            Arc::clone(&generations),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Hooks {
                resync: Box::new(move || {
                    counted.fetch_add(1, Ordering::SeqCst);
                }),
                stored: Box::new(|_| ()),
            },
        )
        .unwrap();
        Self {
            generations,
            clock,
            tier,
            resyncs,
        }
    }

    /// A node whose tier is in use.
    async fn connected(server: &Server) -> Self {
        let node = Self::start(server);
        node.wait_available().await;
        node
    }

    async fn wait_available(&self) {
        eventually("the tier is in use", HEALED_WITHIN, async || {
            self.tier.health().available
        })
        .await;
    }

    /// The whole of healing: in use, nothing left to tell, and storing and reading work.
    async fn wait_working(&self) {
        let probe = key("probe");
        eventually("the tier works again", HEALED_WITHIN, async || {
            self.tier.health().pending_purges == 0
                && self.put(&probe, &self.load("probe")).await == Put::Stored
                && self.reads(&probe).await == Seen::Alive("probe".into())
        })
        .await;
    }

    /// An entry as a load that starts now would make it.
    fn load(&self, body: &str) -> Entry {
        self.load_stamped(body, self.generations.stamp())
    }

    fn load_stamped(&self, body: &str, stamp: Stamp) -> Entry {
        keep(self.draft(body, stamp))
    }

    fn draft(&self, body: &str, stamp: Stamp) -> Draft {
        Draft {
            content: Content {
                kind: EntryKind::Found,
                status: 200,
                content_type: Some("text/plain".into()),
                headers: vec![Param::new("x-source", "test")],
                body: Bytes::from(body.to_owned()),
                validator: None,
                etag: Etag::of("\"1\""),
                tags: vec!["red".into()],
                visibility: Visibility::Public,
                maker: "demo".into(),
                variants: None,
            },
            times: Times {
                loaded_ms: self.clock.now_ms(),
                ttl_ms: 60_000,
                ttl_from_loader: false,
                swr_ms: 0,
                sie_ms: 0,
            },
            stamp,
            as_of_ms: self.clock.now_ms(),
        }
    }

    /// Asks for the lease of a load that would begin now.
    async fn lease(&self, key: &Key, least_seq: u64) -> Leasing {
        let claim = Claim {
            stamp: self.generations.stamp(),
            least_seq,
        };
        self.tier.lease(key, claim).await
    }

    async fn put(&self, key: &Key, entry: &Entry) -> Put {
        loop {
            match self.lease(key, 0).await {
                Leasing::Granted { lease, .. } => return self.tier.put(key, entry, &lease).await,
                // The one before is on its way back.
                Leasing::Held(ended) => {
                    ended.await;
                }
                Leasing::Unavailable => return Put::Unavailable,
            }
        }
    }

    /// Stores an entry that is loaded now.
    async fn fill(&self, key: &Key, body: &str) {
        assert_eq!(self.put(key, &self.load(body)).await, Put::Stored, "{body}");
    }

    /// What a reader sees: the worse of the tier's word and the node's own record.
    async fn reads(&self, key: &Key) -> Seen {
        match self.tier.get(key).await {
            Lookup::Unavailable => Seen::Unavailable,
            Lookup::Absent => Seen::Nothing,
            Lookup::Found(entry, verdict) => {
                let covered = Covered {
                    route: ROUTE,
                    resource: key.resource(),
                    variant: key.variant(),
                    tags: entry.tags(),
                };
                let own = self
                    .generations
                    .judge(entry.stamp(), Some(entry.checked()), covered);
                let body = String::from_utf8(entry.bytes().to_vec()).unwrap();
                match verdict.max(own) {
                    Verdict::Alive => Seen::Alive(body),
                    Verdict::Expired => Seen::Expired(body),
                    Verdict::Dead => Seen::Nothing,
                }
            }
        }
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(self.tier.counters()).load(Ordering::Relaxed)
    }

    async fn purge(&self, scope: Scope, mode: Mode) -> Purged {
        self.tier.purge(&scope, mode).await
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Alive(String),
    Expired(String),
    Nothing,
    Unavailable,
}

fn alive(body: &str) -> Seen {
    Seen::Alive(body.into())
}

fn resource(value: &str) -> Resource {
    Resource::new(ROUTE, [value])
}

fn key(value: &str) -> Key {
    Key::new(&resource(value), "demo~1", &[Param::new("key", value)]).unwrap()
}

/// Under any key: the tier is told by which one it is stored.
fn keep(draft: Draft) -> Entry {
    draft.keep(key("any").text())
}

fn entry_name(value: &str) -> String {
    format!("larder:e:{}", key(value).text())
}

fn generation_name(value: &str) -> String {
    format!("larder:g:{{{}}}", resource(value).text())
}

/// Every way of purging the entries that [`Node::load`] makes for `value`.
fn scopes(value: &str) -> [Scope; 4] {
    [
        Scope::Resource(resource(value)),
        Scope::Tag("red".into()),
        Scope::Route(ROUTE.into()),
        Scope::All,
    ]
}
