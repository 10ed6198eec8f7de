//! Key policies: reused instances, synchronous calls on the thread of the request.
//!
//! A derivation is on the path of every request, so it takes no task, no fiber and no lock but the pool's: about a
//! microsecond. That is sound because a policy can only compute: its linker holds nothing that waits, and its epochs end
//! it after `[limits] cpu`, and up to two long ones more (see `ticker`).

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::Mutex;
use smallvec::SmallVec;
use wasmtime::Store;
use wasmtime::component::{ComponentType, Lower, TypedFunc, WasmList};

use super::adapter::{self, Said};
use super::bindings::{self, key_policy};
use super::breaker::Breaker;
use super::engine::Engine;
use super::fault;
use super::instance;
use super::limits::Limits;
use super::meter::Meter;
use super::prepared::{self, Pure};
use super::state::{self, Kit, Purity, State};
use super::turns::APART_MAX;
use crate::error::{Failure, FailureKind};
use crate::key::{self, Decision, KeyPolicy, Param, PolicyRequest};

/// Idle instances that are kept; there are rarely more than threads.
const IDLE_MAX: usize = 64;

/// Bytes of a page of memory.
const PAGE: u64 = 64 * 1024;

/// A running key policy.
pub(super) struct Policy {
    engine: Arc<Engine>,
    kit: Arc<Kit>,
    pure: Pure,
    idle: Mutex<Vec<Deriver>>,
    breaker: Arc<Breaker>,
    quarantined: OnceLock<String>,
}

/// One instance.
struct Deriver {
    store: Store<State>,
    derive: Derive,
}

/// What is called. It is called with requests that do not live as long as its type says: it copies, and keeps nothing.
enum Derive {
    /// The adapter's.
    Whole(Whole),
    /// The policy's own.
    Each(TypedFunc<(Request<'static>,), (key_policy::Decision,)>),
}

/// How an instance is asked through the adapter.
struct Whole {
    derive: TypedFunc<(&'static [u8],), (u64,)>,
    memory_of_policy: TypedFunc<(), (WasmList<u8>,)>,
    /// The policy's memory, as long as it was when it was asked for: it grows, and nothing else. What a policy says is read in it
    /// before the instance is called again.
    memory: Option<WasmList<u8>>,
    /// What the last request was written to.
    piece: Vec<u8>,
}

/// The contract's `request`, lowered from where it lies.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Request<'a> {
    method: &'a str,
    route: &'a str,
    path: &'a [Pair<'a>],
    query: &'a [Pair<'a>],
    headers: &'a [Pair<'a>],
}

/// The contract's `param`.
#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Pair<'a> {
    name: &'a str,
    value: &'a str,
}

/// Most requests have no more of a kind.
type Pairs<'a> = SmallVec<[Pair<'a>; 4]>;

impl Policy {
    /// Makes the first instance, so that a component of another shape is refused now.
    ///
    /// # Errors
    /// It does not instantiate.
    pub(super) fn start(engine: &Arc<Engine>, kit: &Arc<Kit>, pure: Pure) -> Result<Self, Failure> {
        let policy = Self {
            engine: Arc::clone(engine),
            breaker: Breaker::new(&kit.name, Instant::now(), &kit.calls),
            kit: Arc::clone(kit),
            pure,
            idle: Mutex::default(),
            quarantined: OnceLock::new(),
        };
        let first = policy.instantiate()?;
        policy.idle.lock().push(first);
        Ok(policy)
    }

    /// Why it was taken out of service.
    pub(super) fn quarantined(&self) -> Option<&str> {
        self.quarantined.get().map(String::as_str)
    }

    /// The last fault, if too many calls were faults.
    pub(super) fn open(&self) -> Option<String> {
        self.breaker.open()
    }

    fn instantiate(&self) -> Result<Deriver, Failure> {
        let meter = Meter::call(self.kit.limits.cpu);
        meter.enforce(true);
        let mut store = state::store(
            (&self.engine, self.pure.pre.engine()),
            &self.kit,
            Purity::Pure,
            meter,
        )
        .map_err(|error| instance::host(&self.kit, &error))?;
        self.engine.pulse();
        let made = self.pure.pre.instantiate(&mut store).and_then(|instance| {
            Ok(match self.pure.derive {
                prepared::Derive::Whole { derive, memory } => Derive::Whole(Whole {
                    derive: instance.get_typed_func(&mut store, derive)?,
                    memory_of_policy: instance.get_typed_func(&mut store, memory)?,
                    memory: None,
                    piece: Vec::new(),
                }),
                prepared::Derive::Each(index) => {
                    Derive::Each(instance.get_typed_func(&mut store, index)?)
                }
            })
        });
        match made {
            Ok(derive) => Ok(Deriver { store, derive }),
            Err(error) => Err(fault::of(&error, &self.kit, store.data_mut())),
        }
    }

    fn in_service(&self) -> Result<(), Failure> {
        match self.quarantined.get() {
            None => Ok(()),
            Some(why) => Err(Failure::host(
                FailureKind::Internal,
                "policy-impure",
                format!("`{}` is in quarantine: {why}", self.kit.name),
            )),
        }
    }

    /// Makes a call, apart while the policy is under suspicion of blocking its thread. It is told when that was asked for, or
    /// when its turn came; whoever asks is told, too, how long it had the thread.
    ///
    /// # Errors
    /// The call's, and that too many wait to be made apart.
    fn careful<T>(&self, asked: Instant, call: impl FnOnce() -> Result<T, Failure>) -> Called<T> {
        let called = if self.kit.suspicion.stands() {
            let patience = self.kit.limits.cpu * 2;
            let apart = || (Instant::now(), call());
            self.engine.turns().apart(patience, apart)
        } else {
            Some((asked, call()))
        };
        // The clock is looked at once before a call and once after it, for all who ask: that is a good part of a short call.
        let ended = Instant::now();
        let result = match called {
            Some((began, result)) => {
                self.kit.calls.had_thread(ended - began);
                result
            }
            None => Err(fault::overloaded(
                &self.kit.name,
                APART_MAX,
                std::time::Duration::ZERO,
            )),
        };
        Called { result, ended }
    }

    fn call(&self, deriver: &mut Deriver, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.engine.pulse_short();
        let Deriver { store, derive } = deriver;
        store.data().meter.reset();
        store.set_epoch_deadline(1);
        let decision = match derive {
            Derive::Whole(by) => whole(store, by, request, &self.kit.limits),
            Derive::Each(derive) => each(store, *derive, request),
        };
        match decision {
            Ok(decision) => {
                // It is refused for that in a moment. To make it and to hand it over took its thread as long as a loop does.
                if bytes(&decision) > key::PARTS_BYTES_MAX {
                    self.kit.suspicion.arises();
                }
                Ok(decision)
            }
            Err(error) => Err(fault::of(&error, &self.kit, store.data_mut())),
        }
    }
}

/// Asks through the adapter. As many bytes of the decision are read as a plugin may hand over.
fn whole(
    store: &mut Store<State>,
    by: &mut Whole,
    request: &PolicyRequest,
    limits: &Limits,
) -> wasmtime::Result<Decision> {
    adapter::request(request, &mut by.piece);
    let derive: TypedFunc<(&[u8],), _> = by.derive;
    let (said,) = derive.call(&mut *store, (&by.piece,))?;
    let (pages, at) = (said >> 32, said as u32);
    let known = by.memory.take();
    let memory = match known.filter(|memory| memory.len() as u64 >= pages * PAGE) {
        Some(memory) => memory,
        None => lent(store, by.memory_of_policy, limits.memory)?,
    };
    let said = Said::new(memory.as_le_slice(&*store), limits.handed).decision(at);
    by.memory = Some(memory);
    Ok(said?)
}

/// The policy's memory. It is not handed over: what is read of it is counted as it is read. Its length may be as much as a policy's
/// memories may be, and no more, for a component that is not what it seems.
fn lent(
    store: &mut Store<State>,
    memory_of_policy: TypedFunc<(), (WasmList<u8>,)>,
    longest: usize,
) -> wasmtime::Result<WasmList<u8>> {
    let most = store.hostcall_fuel();
    store.set_hostcall_fuel(longest);
    let memory = memory_of_policy.call(&mut *store, ());
    store.set_hostcall_fuel(most);
    Ok(memory?.0)
}

/// Asks the policy itself, lowering each text from where it lies.
fn each(
    store: &mut Store<State>,
    derive: TypedFunc<(Request<'_>,), (key_policy::Decision,)>,
    request: &PolicyRequest,
) -> wasmtime::Result<Decision> {
    let (path, query, headers) = (
        pairs(&request.path),
        pairs(&request.query),
        pairs(&request.headers),
    );
    let request = Request {
        method: request.method,
        route: &request.route,
        path: &path,
        query: &query,
        headers: &headers,
    };
    let (decision,) = derive.call(store, (request,))?;
    Ok(bindings::decision(decision))
}

/// What came of a call, and when.
struct Called<T> {
    result: Result<T, Failure>,
    ended: Instant,
}

impl KeyPolicy for Policy {
    fn name(&self) -> &str {
        &self.kit.name
    }

    fn derive(&self, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.in_service()?;
        let asked = Instant::now();
        let admission = self.breaker.admit(asked)?;
        let Called { result, ended } = self.careful(asked, || {
            let idle = self.idle.lock().pop();
            let mut deriver = idle.map_or_else(|| self.instantiate(), Ok)?;
            let decision = self.call(&mut deriver, request)?;
            // An instance that trapped is dropped above; this one answers again.
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(deriver);
            }
            Ok(decision)
        });
        admission.ended(ended, &result);
        result
    }

    fn derive_fresh(&self, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.in_service()?;
        let called = self.careful(Instant::now(), || {
            let mut deriver = self.instantiate()?;
            self.call(&mut deriver, request)
        });
        called.result
    }

    fn quarantine(&self, why: &str) {
        if self.quarantined.set(why.to_owned()).is_ok() {
            tracing::error!(plugin = %self.kit.name, why, "the key policy is in quarantine");
            self.idle.lock().clear();
        }
    }
}

/// Of all parts together.
fn bytes(decision: &Decision) -> usize {
    let (Decision::Cache(derived) | Decision::Bypass(derived)) = decision else {
        return 0;
    };
    let parts = derived.parts.iter();
    parts.map(|part| part.name.len() + part.value.len()).sum()
}

fn pairs(params: &[Param]) -> Pairs<'_> {
    let pairs = params
        .iter()
        .map(|Param { name, value }| Pair { name, value });
    pairs.collect()
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
