//! Nodes, a source, and the tier that nodes share as the scripts in Redis make it: each of them one step, with the question
//! and the answer on the way for as long as the checker likes, and its words heard by each node in order, whenever it likes.
//!
//! The tier is a model, because the checker must decide when each step of it happens; that the scripts do what the model
//! does is for the tests against a real Redis to show.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
// None of the checker's: a step of the tier is one.
use parking_lot::{Mutex, MutexGuard};
use shuttle::rand::Rng as _;

use crate::cache::clock::{Clock, ManualClock};
use crate::cache::entry::Entry;
use crate::cache::freshness::{Policy, RefreshAhead};
use crate::cache::generations::{Checked, Generation, Generations, Mode, Scope, Verdict};
use crate::cache::memory::MemoryTier;
use crate::cache::tier::{
    Claim, Duty, Ended, Lease, Leasing, Lookup, Noted, Noting, Purged, Put, SharedTier, TierHealth,
};
use crate::cache::{
    Answer, Ask, Batching, Binding, Bounds, Cache, Counters, Found, Link, Loader, Outcome, Question,
};
use crate::error::{Failure, FailureKind};
use crate::key::{Key, Param, Resource, Visibility};
use crate::sync::{let_times_run_out, may_times_run_out, spawn, step, timeout};
use crate::waiters::Waiters;
use crate::write::through::{self, Wish};
use crate::write::{Mutation, Operation, Precondition, Receipt, Writer};

const ROUTE: &str = "/data/{key}";
const EPOCH: u64 = 1;
const NOW_MS: u64 = 1_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// Where data comes from: a number that grows.
pub struct Source {
    value: AtomicUsize,
    loads: AtomicUsize,
    /// Loads that fail before the first that does not.
    failing: AtomicUsize,
}

impl Source {
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

struct SourceLoader(Arc<Source>);

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
struct SourceWriter(Arc<Source>);

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
fn found(value: usize) -> Found {
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

/// What is told to all nodes.
#[derive(Clone)]
enum Word {
    Purge(Scope, Mode, u64),
    Stored(usize, String),
    Released(String),
}

#[derive(Default)]
struct Held {
    seq: u64,
    generations: HashMap<String, Generation>,
    entries: HashMap<String, (Arc<Entry>, Instant)>,
    /// The token and the seq of the load's stamp.
    leases: HashMap<String, (u64, u64)>,
    tokens: u64,
    /// One queue for each node.
    words: Vec<VecDeque<Word>>,
}

impl Held {
    fn tell(&mut self, word: &Word) {
        for queue in &mut self.words {
            queue.push_back(word.clone());
        }
    }
}

/// The tier that nodes share.
type Tier = Arc<Mutex<Held>>;

/// One node.
pub struct Node {
    /// The host's own.
    pub cache: Arc<Cache>,
    generations: Arc<Generations>,
    memory: Arc<MemoryTier>,
    waiters: Arc<Waiters>,
    number: usize,
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
    ask: Ask,
}

struct NodeTier {
    tier: Tier,
    number: usize,
    generations: Arc<Generations>,
    waiters: Arc<Waiters>,
}

impl World {
    /// So many nodes that share a tier; one node without a tier for 0.
    pub fn new(sharing: usize) -> Arc<Self> {
        let source = Arc::new(Source {
            value: AtomicUsize::new(1),
            loads: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
        });
        let tier = Tier::default();
        tier.lock().words = vec![VecDeque::new(); sharing];
        let node = |number| Arc::new(Node::new(number, (sharing > 0).then_some(&tier)));
        Arc::new(Self {
            nodes: (0..sharing.max(1)).map(node).collect(),
            tier,
            purged_at: AtomicUsize::new(0),
            over: Arc::default(),
            writes: AtomicBool::new(false),
            ask: ask(&source),
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
        let text = std::str::from_utf8(&entry.content.body).expect("it is a number");
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
            let value = self.source.value.load(Ordering::Relaxed) + 1;
            self.purged_at.store(value, Ordering::Relaxed);
        }
        let cache = &self.nodes[number].cache;
        let done = through::write(cache, &self.ask, &writer, wish).await;
        // Where times run out, nobody knows whether it was made.
        if alone && done.is_ok() {
            self.settle(number);
        }
    }

    /// What the source says now.
    pub fn says(&self) -> usize {
        self.source.value.load(Ordering::Relaxed)
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
            number,
            floor: AtomicUsize::new(0),
        }
    }

    /// Which it is.
    pub fn number(&self) -> usize {
        self.number
    }
}

fn ask(source: &Arc<Source>) -> Ask {
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
    Ask {
        binding: Arc::new(Binding {
            route: ROUTE.into(),
            policy,
            batching: Batching::ALONE,
            chain: vec![Link::Ready(Arc::new(SourceLoader(Arc::clone(source))))],
            counters: Arc::new(Counters::default()),
        }),
        key: Key::new(&resource, "source~1", &parts).expect("it is short"),
        parts: Arc::new(parts),
        visibility: Visibility::Public,
    }
}

impl NodeTier {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.tier.lock()
    }

    /// `store.lua`, and before it the head of the group.
    async fn store(&self, key: &Key, entry: &Arc<Entry>, token: u64) -> Put {
        let stamp = entry.stamp;
        if !self.generations.is_current(stamp) {
            return Put::Refused;
        }
        step().await;
        let group_seq = self.held().seq;
        step().await;
        if group_seq < stamp.seq {
            return Put::Refused;
        }
        step().await;
        let put = self
            .held()
            .store(key, (entry, group_seq), (token, self.number));
        step().await;
        put
    }
}

impl Held {
    fn store(
        &mut self,
        key: &Key,
        (entry, group_seq): (&Arc<Entry>, u64),
        (token, by): (u64, usize),
    ) -> Put {
        if self
            .leases
            .get(key.text())
            .is_none_or(|lease| lease.0 != token)
        {
            return Put::Refused;
        }
        let (resource, seq) = (key.resource().text(), entry.stamp.seq);
        match self.generations.get(resource) {
            Some(generation) if generation.judge(seq) != Verdict::Alive => return Put::Refused,
            Some(_) => {}
            None if seq < group_seq => return Put::Refused,
            None => {
                let mut generation = Generation::default();
                generation.raise(Mode::Delete, group_seq);
                self.generations.insert(resource.to_owned(), generation);
            }
        }
        let stored = (copy_of(entry), Instant::now());
        self.entries.insert(key.text().to_owned(), stored);
        self.leases.remove(key.text());
        self.tell(&Word::Stored(by, key.text().to_owned()));
        Put::Stored
    }

    /// `acquire.lua`: the token, or none if another has it.
    fn acquire(&mut self, key: &str, claim: Claim) -> Option<(u64, Option<Duration>)> {
        // Of a node that died, where times may run out.
        let over = may_times_run_out() && shuttle::rand::thread_rng().gen_range(0..4) == 0;
        let lease = self.leases.get(key);
        if !over && lease.is_some_and(|(_, seq)| *seq >= claim.least_seq) {
            return None;
        }
        self.tokens += 1;
        let lease = (self.tokens, claim.stamp.seq);
        self.leases.insert(key.to_owned(), lease);
        let stored = self.entries.get(key);
        Some((self.tokens, stored.map(|(_, at)| at.elapsed())))
    }

    /// `release.lua`.
    fn release(&mut self, key: &str, token: u64) {
        if self.leases.get(key).is_some_and(|lease| lease.0 == token) {
            self.leases.remove(key);
            self.tell(&Word::Released(key.to_owned()));
        }
    }
}

/// Another node's, as it comes out of bytes.
fn copy_of(entry: &Entry) -> Arc<Entry> {
    Arc::new(Entry {
        content: Arc::clone(&entry.content),
        times: entry.times,
        stamp: entry.stamp,
        checked: Checked::default(),
        as_of_ms: NOW_MS,
    })
}

/// Gives a lease back when it is dropped, behind, unless it has ended.
struct Guard {
    tier: Tier,
    key: Key,
    token: u64,
    ended: Arc<AtomicBool>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        let (tier, key, token) = (Arc::clone(&self.tier), self.key.clone(), self.token);
        spawn(async move {
            step().await;
            let mut held = tier.lock();
            held.release(key.text(), token);
        });
    }
}

impl SharedTier for NodeTier {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Lookup> {
        Box::pin(async move {
            step().await;
            let found = {
                let held = self.held();
                let generation = held.generations.get(key.resource().text()).copied();
                held.entries.get(key.text()).cloned().zip(generation)
            };
            step().await;
            let Some(((entry, _), generation)) = found else {
                return Lookup::Absent;
            };
            match generation.judge(entry.stamp.seq) {
                Verdict::Dead => Lookup::Absent,
                verdict => Lookup::Found(copy_of(&entry), verdict),
            }
        })
    }

    fn lease<'a>(&'a self, key: &'a Key, claim: Claim) -> BoxFuture<'a, Leasing> {
        Box::pin(async move {
            let mut waiter = self.waiters.wait_for(key.text());
            step().await;
            let acquired = self.held().acquire(key.text(), claim);
            step().await;
            let Some((token, stored_ago)) = acquired else {
                return Leasing::Held(Box::pin(async move {
                    let told = timeout(HOUR, waiter.ended()).await;
                    told.unwrap_or(Ended::Unknown)
                }));
            };
            let ended = Arc::new(AtomicBool::new(false));
            Leasing::Granted {
                lease: Lease {
                    token,
                    ended: Arc::clone(&ended),
                    guard: Box::new(Guard {
                        tier: Arc::clone(&self.tier),
                        key: key.clone(),
                        token,
                        ended,
                    }),
                },
                stored_ago,
            }
        })
    }

    fn put<'a>(
        &'a self,
        key: &'a Key,
        entry: &'a Arc<Entry>,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Put> {
        Box::pin(async move {
            let put = self.store(key, entry, lease.token).await;
            if put == Put::Stored {
                lease.ended.store(true, Ordering::Relaxed);
            }
            put
        })
    }

    fn purge<'a>(&'a self, scope: &'a Scope, mode: Mode) -> BoxFuture<'a, Purged> {
        Box::pin(async move {
            let own_seq = self.generations.seq();
            step().await;
            let seq = {
                let mut held = self.held();
                held.seq = held.seq.max(own_seq) + 1;
                let seq = held.seq;
                held.tell(&Word::Purge(scope.clone(), mode, seq));
                seq
            };
            step().await;
            if let Scope::Resource(resource) = scope {
                let mut held = self.held();
                let lost = Generation {
                    delete: seq,
                    expire: 0,
                };
                let generation = held.generations.entry(resource.text().to_owned());
                generation
                    .and_modify(|generation| generation.raise(mode, seq))
                    .or_insert(lost);
            }
            step().await;
            self.generations.raise_to(scope, mode, seq, NOW_MS);
            Purged {
                seq,
                shared: true,
                nodes: None,
                replicas: None,
                durable: true,
            }
        })
    }

    fn duty<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Duty> {
        Box::pin(async { Duty::Unavailable })
    }

    fn note<'a>(&'a self, _: &'a Resource, _: &'a str, _: Noting<'a>) -> BoxFuture<'a, Noted> {
        Box::pin(async { Noted::Unavailable })
    }

    fn variants<'a>(&'a self, _: &'a Resource) -> BoxFuture<'a, Vec<(String, Arc<Entry>)>> {
        Box::pin(async { Vec::new() })
    }

    fn patience(&self) -> Duration {
        HOUR
    }

    fn health(&self) -> TierHealth {
        TierHealth {
            available: true,
            error: None,
            pending_purges: 0,
        }
    }
}
