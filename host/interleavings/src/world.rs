//! Nodes that share a source and a tier, and hear its words in order, each whenever the checker likes; what is asked of them,
//! and what they must answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::MutexGuard;

use crate::cache::clock::{Clock, ManualClock};
use crate::cache::freshness::{Policy, RefreshAhead};
use crate::cache::generations::{Generations, Mode, Scope};
use crate::cache::memory::MemoryTier;
use crate::cache::tier::{Ended, SharedTier};
use crate::cache::underway::{Pending, Underway};
use crate::cache::{Answer, Ask, Batching, Binding, Bounds, Cache, Counters, Link, Outcome};
use crate::key::{Key, Param, Parts, Resource, Visibility};
use crate::source::{Source, SourceLoader, SourceWriter, found};
use crate::sync::{let_times_run_out, spawn, step};
use crate::tier::{Held, NodeTier, Tier, Word};
use crate::waiters::Waiters;
use crate::write::through::{self, Wish};
use crate::write::{Operation, Precondition, Writer};

const ROUTE: &str = "/data/{key}";
const EPOCH: u64 = 1;
pub(crate) const NOW_MS: u64 = 1_000_000;
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// One node.
pub struct Node {
    /// The host's own.
    pub cache: Arc<Cache>,
    generations: Arc<Generations>,
    memory: Arc<MemoryTier>,
    waiters: Arc<Waiters>,
    /// What the source said at the last purge that this node has made or heard of.
    floor: AtomicUsize,
}

/// Everything.
pub struct World {
    /// The nodes.
    pub nodes: Vec<Arc<Node>>,
    /// What they load from.
    pub source: Arc<Source>,
    tier: Tier,
    /// What the source said when the one purge of a scene was made.
    purged_at: AtomicUsize,
    over: Arc<AtomicBool>,
    /// Only a delete says that the source has changed: a write's first purge comes before it.
    writes: AtomicBool,
    accepted: Arc<Accepted>,
    ask: Ask,
}

impl World {
    /// So many nodes that share a tier; one node without a tier for 0.
    pub fn new(sharing: usize) -> Arc<Self> {
        let source = Arc::new(Source::new());
        let accepted = Arc::new(Accepted::default());
        let tier = Tier::default();
        tier.lock().words = vec![VecDeque::new(); sharing];
        let node = |number| Arc::new(Node::new(number, (sharing > 0).then_some(&tier)));
        Arc::new(Self {
            nodes: (0..sharing.max(1)).map(node).collect(),
            tier,
            purged_at: AtomicUsize::new(0),
            over: Arc::default(),
            writes: AtomicBool::new(false),
            ask: ask(&source, &accepted),
            accepted,
            source,
        })
    }

    /// Lets each node hear what is told, in order, each word whenever the checker likes. Ends with [`World::end`].
    pub fn listen(self: &Arc<Self>) -> Vec<shuttle::future::JoinHandle<()>> {
        let hears = |number| {
            let world = Arc::clone(self);
            spawn(async move {
                while world.hear(number) || !world.over.load(Ordering::Relaxed) {
                    step().await;
                }
            })
        };
        (0..self.nodes.len()).map(hears).collect()
    }

    /// Waits until everything that was told is heard. Times that run out from then on are not of interest.
    pub async fn quiet(&self) {
        let_times_run_out(false);
        self.all_heard().await;
    }

    async fn all_heard(&self) {
        while !self.held().words.iter().all(VecDeque::is_empty) {
            step().await;
        }
    }

    /// Nothing more will be told.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.tier.lock()
    }

    /// Takes the next word in.
    fn hear(&self, number: usize) -> bool {
        let first = |words: &VecDeque<Word>| words.front().cloned();
        let Some(word) = self.held().words.get(number).and_then(first) else {
            return false;
        };
        let node = &self.nodes[number];
        match word {
            Word::Purge(scope, mode, seq) => {
                node.generations.raise_to(&scope, mode, seq, NOW_MS);
                if mode == Mode::Delete || !self.writes.load(Ordering::Relaxed) {
                    self.settle(number);
                }
            }
            Word::Stored(by, key) => {
                if by != number {
                    node.memory.drop_copy(&key);
                }
                node.waiters.wake(&key, Ended::Stored);
            }
            Word::Released(key) => node.waiters.wake(&key, Ended::GivenBack),
        }
        // Only now: who waits until all is heard waits for what was done with it.
        self.held().words[number].pop_front();
        true
    }

    /// From now on this node answers nothing older than what the source said when the purge was made.
    fn settle(&self, number: usize) {
        let value = self.purged_at.load(Ordering::Relaxed);
        self.nodes[number].floor.store(value, Ordering::Relaxed);
    }

    /// A request; what it is answered, unless that is a failure.
    ///
    /// # Panics
    /// When the answer is older than a purge that its node had made or heard of before it came.
    pub async fn get(&self, number: usize) -> Option<usize> {
        let node = &self.nodes[number];
        let floor = node.floor.load(Ordering::Relaxed);
        let entry = match node.cache.answer(&self.ask, false).await {
            Answer::Hit { entry, .. } | Answer::Miss { entry, .. } => entry,
            Answer::Failed { .. } => return None,
            other => panic!("there are no windows: {other:?}"),
        };
        let text = std::str::from_utf8(entry.bytes()).expect("it is a number");
        let found: usize = text.parse().expect("it is a number");
        assert!(
            found >= floor,
            "{found} is answered after the purge of {floor}"
        );
        Some(found)
    }

    /// Changes the source and then purges on a node; once in a scene.
    pub async fn change_and_purge(&self, number: usize, scope: &Scope, mode: Mode) {
        self.purged_at
            .store(self.source.change(), Ordering::Relaxed);
        self.nodes[number].cache.purge(scope, mode).await;
        self.settle(number);
    }

    /// Changes the source through a node. `alone`: nobody else changes it, so that what reads may give afterwards is known.
    pub async fn write(&self, number: usize, alone: bool) {
        self.writes.store(true, Ordering::Relaxed);
        let writer: Arc<dyn Writer> = Arc::new(SourceWriter(Arc::clone(&self.source)));
        let wish = Wish {
            operation: Operation::Delete,
            expect: Precondition::None,
            idempotency_key: None,
            may_keep: true,
        };
        if alone {
            // What it is going to say.
            let value = self.source.says() + 1;
            self.purged_at.store(value, Ordering::Relaxed);
        }
        let cache = &self.nodes[number].cache;
        let done = through::write(cache, &self.ask, &writer, wish).await;
        // Where times run out, nobody knows whether it was made.
        if alone && done.is_ok() {
            self.settle(number);
        }
    }

    /// Accepts a change before it is made, and then makes it, as `write::behind` does; once in a scene. `known`: reads may be
    /// told what it makes of the resource.
    pub async fn accept_and_make(&self, number: usize, known: bool) {
        let cache = &self.nodes[number].cache;
        let value = self.source.says() + 1;
        self.accepted.known.store(known, Ordering::Relaxed);
        step().await;
        self.accepted.value.store(value, Ordering::Relaxed);
        step().await;
        self.purged_at.store(value, Ordering::Relaxed);
        cache.purge(&self.resource(), Mode::Delete).await;
        // It is answered.
        self.settle(number);
        step().await;
        self.source.change();
        step().await;
        cache.purge(&self.resource(), Mode::Delete).await;
        step().await;
        self.accepted.value.store(0, Ordering::Relaxed);
    }

    /// Purges what nobody asks for, and waits until all have heard it: from now on every entry is of before some purge, and
    /// must be looked at.
    pub async fn purge_another(&self) {
        let another = Scope::Tag("another".into());
        self.nodes[0].cache.purge(&another, Mode::Delete).await;
        self.all_heard().await;
    }

    /// The shared tier forgets what it knows of the resource's purges, as an eviction does.
    pub fn evict_generation(&self) {
        self.held().generations.clear();
    }

    /// The resource that is asked for.
    pub fn resource(&self) -> Scope {
        Scope::Resource(self.ask.key.resource().clone())
    }

    /// Nobody has a lease.
    pub fn is_free(&self) -> bool {
        self.held().leases.is_empty()
    }
}

impl Node {
    fn new(number: usize, tier: Option<&Tier>) -> Self {
        let memory = Arc::new(MemoryTier::new(64 * 1024));
        let generations = Arc::new(Generations::new());
        generations.adopt(EPOCH, 0, &[], NOW_MS);
        let waiters = Arc::new(Waiters::default());
        let shared = tier.map(|tier| {
            Arc::new(NodeTier {
                tier: Arc::clone(tier),
                number,
                generations: Arc::clone(&generations),
                waiters: Arc::clone(&waiters),
            }) as Arc<dyn SharedTier>
        });
        let bounds = Bounds {
            loads_max: 100,
            waiters_max: 100,
        };
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW_MS));
        Self {
            cache: Arc::new(Cache::new(
                Arc::clone(&memory),
                shared,
                Arc::clone(&generations),
                clock,
                bounds,
            )),
            generations,
            memory,
            waiters,
            floor: AtomicUsize::new(0),
        }
    }
}

/// The change that is accepted and not made yet: what it makes of the resource, or 0.
#[derive(Default)]
struct Accepted {
    value: AtomicUsize,
    known: AtomicBool,
}

/// As nodes look for it: one step, with the question and the answer on the way.
struct Accepting(Arc<Accepted>);

impl Underway for Accepting {
    fn is_known(&self, _: &Resource) -> bool {
        false
    }

    fn of<'a>(&'a self, _: &'a Resource, _: &'a Parts) -> BoxFuture<'a, Pending> {
        Box::pin(async {
            step().await;
            let value = self.0.value.load(Ordering::Relaxed);
            step().await;
            if value == 0 {
                Pending::Nothing
            } else if self.0.known.load(Ordering::Relaxed) {
                Pending::Known(Outcome::Found(found(value)))
            } else {
                let accepted = Arc::clone(&self.0);
                Pending::Unmade(Box::pin(async move {
                    while accepted.value.load(Ordering::Relaxed) != 0 {
                        step().await;
                    }
                }))
            }
        })
    }
}

fn ask(source: &Arc<Source>, accepted: &Arc<Accepted>) -> Ask {
    let policy = Policy {
        ttl: HOUR,
        ttl_max: HOUR,
        jitter: 0.0,
        refresh_ahead: RefreshAhead::Off,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        missing_ttl: HOUR,
        failure_ttl: Duration::ZERO,
        soft_timeout: None,
        timeout: HOUR,
    };
    let parts = [Param::new("key", "42")];
    let resource = Resource::new(ROUTE, ["42"]);
    let binding = Arc::new(Binding {
        route: ROUTE.into(),
        policy,
        batching: Batching::ALONE,
        chain: vec![Link::Ready(Arc::new(SourceLoader(Arc::clone(source))))],
        counters: Arc::new(Counters::default()),
        places: Arc::default(),
        underway: Some(Arc::new(Accepting(Arc::clone(accepted)))),
    });
    let key = Key::new(&resource, "source~1", &parts).expect("it is short");
    Ask::new(binding, key, Arc::new(parts), Visibility::Public)
}
