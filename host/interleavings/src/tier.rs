//! The tier that nodes share, as the scripts in Redis make it: each of them one step, with the question and the answer on the
//! way for as long as the checker likes.
//!
//! It is a model, because the checker must decide when each step happens; that the scripts do what the model does is for the
//! tests against a real Redis to show.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
// None of the checker's: a step of the tier is one.
use parking_lot::{Mutex, MutexGuard};
use shuttle::rand::Rng as _;

use crate::cache::entry::{Draft, Entry};
use crate::cache::generations::{Generation, Generations, Mode, Scope, Verdict};
use crate::cache::tier::{
    Claim, Duty, Ended, Lease, Leasing, Lookup, Noted, Noting, Purged, Put, SharedTier, TierHealth,
};
use crate::key::{Key, Resource};
use crate::sync::{may_times_run_out, spawn, step, timeout};
use crate::waiters::Waiters;
use crate::world::{HOUR, NOW_MS};

/// What is told to all nodes.
#[derive(Clone)]
pub(crate) enum Word {
    Purge(Scope, Mode, u64),
    Stored(usize, String),
    Released(String),
}

#[derive(Default)]
pub(crate) struct Held {
    seq: u64,
    pub(crate) generations: HashMap<String, Generation>,
    entries: HashMap<String, (Entry, Instant)>,
    /// The token and the seq of the load's stamp.
    pub(crate) leases: HashMap<String, (u64, u64)>,
    tokens: u64,
    /// One queue for each node.
    pub(crate) words: Vec<VecDeque<Word>>,
}

impl Held {
    fn tell(&mut self, word: &Word) {
        for queue in &mut self.words {
            queue.push_back(word.clone());
        }
    }
}

/// The tier that nodes share.
pub(crate) type Tier = Arc<Mutex<Held>>;

/// The tier as one node has it.
pub(crate) struct NodeTier {
    pub(crate) tier: Tier,
    pub(crate) number: usize,
    pub(crate) generations: Arc<Generations>,
    pub(crate) waiters: Arc<Waiters>,
}

impl NodeTier {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.tier.lock()
    }

    /// `store.lua`, and before it the head of the group.
    async fn store(&self, key: &Key, entry: &Entry, token: u64) -> Put {
        let stamp = entry.stamp();
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
        (entry, group_seq): (&Entry, u64),
        (token, by): (u64, usize),
    ) -> Put {
        if self
            .leases
            .get(key.text())
            .is_none_or(|lease| lease.0 != token)
        {
            return Put::Refused;
        }
        let (resource, seq) = (key.resource().text(), entry.stamp().seq);
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
fn copy_of(entry: &Entry) -> Entry {
    let draft = Draft {
        as_of_ms: NOW_MS,
        ..entry.draft()
    };
    draft.keep(&entry.key())
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
            match generation.judge(entry.stamp().seq) {
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

    fn put<'a>(&'a self, key: &'a Key, entry: &'a Entry, lease: &'a Lease) -> BoxFuture<'a, Put> {
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

    fn variants<'a>(&'a self, _: &'a Resource) -> BoxFuture<'a, Vec<(String, Entry)>> {
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
