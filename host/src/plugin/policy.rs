//! Key policies: reused instances, synchronous calls on the thread of the request.
//!
//! A derivation is on the path of every request, so it takes no task, no fiber and no lock but the pool's: about a
//! microsecond. That is sound because a policy can only compute: its linker holds nothing that waits, and its epochs end
//! it after `[limits] cpu`.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use parking_lot::Mutex;
use wasmtime::Store;
use wasmtime::component::{ComponentType, Lower, TypedFunc};

use super::bindings::{self, key_policy};
use super::breaker::Breaker;
use super::engine::Engine;
use super::fault;
use super::instance;
use super::meter::Meter;
use super::prepared::Pure;
use super::state::{self, Kit, Purity, State};
use super::turns::APART_MAX;
use crate::error::{Failure, FailureKind};
use crate::key::{self, Decision, KeyPolicy, PolicyRequest};

/// Idle instances that are kept; there are rarely more than threads.
const IDLE_MAX: usize = 64;

/// A running key policy.
pub(super) struct Policy {
    engine: Arc<Engine>,
    kit: Arc<Kit>,
    pure: Pure,
    idle: Mutex<Vec<Deriver>>,
    breaker: Arc<Breaker>,
    quarantined: OnceLock<String>,
}

/// One instance, with a request of its own to fill: after the first calls a derivation allocates nothing on its way in.
struct Deriver {
    store: Store<State>,
    derive: TypedFunc<(Arc<Request>,), (key_policy::Decision,)>,
    request: Arc<Request>,
}

/// The contract's `request`, lowered from where it lies.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Request {
    method: &'static str,
    route: Arc<str>,
    path: Vec<Pair>,
    query: Vec<Pair>,
    headers: Vec<Pair>,
}

/// The contract's `param`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Pair {
    name: String,
    value: String,
}

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
        let made = self
            .pure
            .pre
            .instantiate(&mut store)
            .and_then(|instance| instance.get_typed_func(&mut store, self.pure.derive));
        match made {
            Ok(derive) => Ok(Deriver {
                store,
                derive,
                request: Arc::default(),
            }),
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

    /// Makes a call, apart while the policy is under suspicion of blocking its thread.
    ///
    /// # Errors
    /// The call's, and that too many wait to be made apart.
    fn careful<T>(&self, call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        if !self.kit.suspicion.stands() {
            return call();
        }
        let patience = self.kit.limits.cpu * 2;
        let called = self.engine.turns().apart(patience, call);
        called.unwrap_or_else(|| {
            Err(fault::overloaded(
                &self.kit.name,
                APART_MAX,
                std::time::Duration::ZERO,
            ))
        })
    }

    fn call(&self, deriver: &mut Deriver, request: &PolicyRequest) -> Result<Decision, Failure> {
        deriver.fill(request);
        self.engine.pulse();
        deriver.store.data().meter.reset();
        deriver.store.set_epoch_deadline(1);
        let Deriver {
            store,
            derive,
            request,
        } = deriver;
        let called = self
            .kit
            .calls
            .timed(|| derive.call(&mut *store, (Arc::clone(request),)));
        match called {
            Ok((decision,)) => {
                let decision = bindings::decision(decision);
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

impl KeyPolicy for Policy {
    fn name(&self) -> &str {
        &self.kit.name
    }

    fn derive(&self, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.in_service()?;
        let admission = self.breaker.admit(Instant::now())?;
        let result = self.careful(|| {
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
        admission.ended(Instant::now(), &result);
        result
    }

    fn derive_fresh(&self, request: &PolicyRequest) -> Result<Decision, Failure> {
        self.in_service()?;
        self.careful(|| {
            let mut deriver = self.instantiate()?;
            self.call(&mut deriver, request)
        })
    }

    fn quarantine(&self, why: &str) {
        if self.quarantined.set(why.to_owned()).is_ok() {
            tracing::error!(plugin = %self.kit.name, why, "the key policy is in quarantine");
            self.idle.lock().clear();
        }
    }
}

impl Deriver {
    fn fill(&mut self, from: &PolicyRequest) {
        // wasmtime gave its clone back when the last call ended, so this is the only one.
        let request = Arc::get_mut(&mut self.request);
        let request = match request {
            Some(request) => request,
            None => {
                self.request = Arc::default();
                Arc::get_mut(&mut self.request).expect("nobody else has it yet")
            }
        };
        request.method = from.method;
        if !Arc::ptr_eq(&request.route, &from.route) {
            request.route = Arc::clone(&from.route);
        }
        refill(&mut request.path, &from.path);
        refill(&mut request.query, &from.query);
        refill(&mut request.headers, &from.headers);
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

/// Writes `from` over `pairs`, keeping their allocations.
fn refill(pairs: &mut Vec<Pair>, from: &[key::Param]) {
    pairs.truncate(from.len());
    for (pair, from) in pairs.iter_mut().zip(from) {
        pair.name.clone_from(&from.name);
        pair.value.clone_from(&from.value);
    }
    for from in &from[pairs.len()..] {
        pairs.push(Pair {
            name: from.name.clone(),
            value: from.value.clone(),
        });
    }
}

impl Default for Request {
    fn default() -> Self {
        Self {
            method: "",
            route: Arc::from(""),
            path: Vec::new(),
            query: Vec::new(),
            headers: Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
