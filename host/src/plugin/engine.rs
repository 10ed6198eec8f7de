//! The engine of the process: wasmtime's settings, the linkers, the ticker, the cache of compiled code.
//!
//! Everything else of the plugin host runs on it. It starts no instance by itself: `lifecycle`, `driver`, `blocking` and
//! `policy` do.
//!
//! # Two of wasmtime's
//! Where guests can wait, wasmtime keeps a record of every call into one: who called, what it waits for. That is most of what
//! a short call costs. Key policies never wait, so a component that is a key policy and nothing else is compiled for, and
//! runs in, an engine of wasmtime's that cannot do that. One that is more runs in the other, whatever it is asked.

use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::compile::{Compiled, Compiler, Compiling, Worker, digest_of};
use super::examine;
use super::gather::Tally;
use super::launch;
use super::linkers;
use super::pages;
use super::runtime::{Launched, Refusal, Spec};
use super::shared::Shared;
use super::state::State;
use super::ticker::Ticker;
use super::turns::Turns;

/// Stack of guest code. An overflow traps; what lies below it is the host's.
const WASM_STACK: usize = 1024 * 1024;
/// Stack of a fiber: what is left of it after the guest's part is for host functions, and a guest cannot reach it.
const FIBER_STACK: usize = 3 * 1024 * 1024;
/// Instances of core modules, memories, tables and stacks that the pool has room for. Address space, not memory. More than
/// there may be plugins, for each of those keeps an instance, and whoever describes, replaces or calls one needs another.
const POOL: u32 = 2000;
/// Core modules, memories and tables of one component; Python's components have dozens of modules.
const PER_COMPONENT: u32 = 100;
/// Elements of one table in the pool.
pub(super) const TABLE_ELEMENTS: usize = 50_000;

/// Whether guests of an engine can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The component model's asynchronous functions, futures and streams are there.
    Can,
    /// They are not, and a call costs less.
    Cannot,
}

impl Waiting {
    /// Both.
    pub(super) const EACH: [Self; 2] = [Self::Can, Self::Cannot];
}

/// The engine of the process.
pub struct Engine {
    /// Whose guests can wait.
    waiting: wasmtime::Engine,
    /// Whose guests cannot.
    pure: wasmtime::Engine,
    ticker: Ticker,
    compiler: Compiler,
    /// What is in use, for whoever brings the same bytes.
    compiled: Shared<Compiled>,
    /// Whose pages were given back.
    given: Mutex<Vec<Weak<Compiled>>>,
    loaders: Linker<State>,
    /// For key policies that are loaders, too.
    policies: Linker<State>,
    /// For those that are nothing else.
    pure_policies: Linker<State>,
    tally: Tally,
    turns: Turns,
}

/// What `metadata.describe` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The plugin's own name.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// The author's word for "stored entries changed shape".
    pub cache_version: u32,
    /// A JSON document: parameters, response, settings, needs.
    pub descriptor: String,
}

/// The names on the outside of a component, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// E.g. `larder:plugin/loader@0.1.0`.
    pub exports: Vec<String>,
    /// E.g. `wasi:http/handler@0.3.0`.
    pub imports: Vec<String>,
}

impl Engine {
    /// An engine whose components `worker` compiles, and whose compiled code is cached under `storage`/compiled.
    ///
    /// # Errors
    /// When wasmtime cannot be set up here or the directory cannot be made.
    pub fn new(storage: &Path, worker: Worker) -> anyhow::Result<Arc<Self>> {
        let (waiting, pure) = (pooled(Waiting::Can)?, pooled(Waiting::Cannot)?);
        let unlinked = |error: wasmtime::Error| anyhow::anyhow!("{error:#}");
        Ok(Arc::new(Self {
            ticker: Ticker::start([waiting.weak(), pure.weak()]),
            compiler: Compiler::new(&storage.join("compiled"), worker)?,
            loaders: linkers::for_loaders(&waiting).map_err(unlinked)?,
            policies: linkers::for_policies(&waiting).map_err(unlinked)?,
            pure_policies: linkers::for_policies(&pure).map_err(unlinked)?,
            compiled: Shared::default(),
            given: Mutex::default(),
            tally: Tally::default(),
            turns: Turns::new(),
            waiting,
            pure,
        }))
    }

    /// Compiles (or maps from the cache) on a bounded worker, and judges exports and imports. Whoever brings the bytes of
    /// something that is in use gets that.
    ///
    /// # Errors
    /// What is wrong with the component and how to mend it.
    pub async fn compile(
        self: &Arc<Self>,
        name: &str,
        bytes: Bytes,
    ) -> Result<Arc<Compiled>, Refusal> {
        examine::bytes(name, &bytes)?;
        let digest = digest_of(bytes.clone()).await?;
        if let Some(compiled) = self.compiled.get(&digest) {
            return Ok(compiled);
        }
        let size = bytes.len();
        let component = self.component(name, bytes, &digest).await?;
        let compiled = examine::component(self, name, &component, digest.clone(), size)?;
        Ok(self.compiled.share(&digest, compiled))
    }

    /// The component, in the engine that suits it.
    async fn component(
        &self,
        name: &str,
        bytes: Bytes,
        digest: &str,
    ) -> Result<Component, Refusal> {
        if examine::only_derives(&bytes) {
            // It may have been built with parts that can wait, whether or not it uses them: then it is no component here, and
            // that is not tried again as long as its code for the other engine is kept.
            let is_kept = self.compiler.keeps(&self.waiting, digest);
            if !is_kept {
                let compiled = self
                    .compiler
                    .compile(&self.pure, name, bytes.clone(), digest);
                let compiled = compiled.await;
                if compiled.is_ok() {
                    return compiled;
                }
            }
        }
        self.compiler
            .compile(&self.waiting, name, bytes, digest)
            .await
    }

    /// Lets go of the pages of files that only loading needs: of the program, and of what was compiled and is in use, each once:
    /// who is served runs the rest of it. Blocks for as long as reading the process's mappings takes.
    pub(super) fn give_pages_back(&self) {
        let mut given = self.given.lock();
        given.retain(|compiled| compiled.strong_count() > 0);
        let mut held = self.compiled.all();
        held.retain(|compiled| {
            let mut known = given.iter().map(Weak::as_ptr);
            !known.any(|known| known == Arc::as_ptr(compiled))
        });
        given.extend(held.iter().map(Arc::downgrade));
        match pages::give_back(&held) {
            Ok(bytes) => tracing::debug!(bytes, "let go of pages that a start needs"),
            Err(error) => tracing::debug!(%error, "pages that a start needs stay"),
        }
    }

    /// What is compiled now, one at a time.
    pub(super) fn compiling(&self) -> watch::Receiver<Option<Compiling>> {
        self.compiler.now()
    }

    /// What a component exports and imports, whether or not this host could run it.
    ///
    /// # Errors
    /// It is no component.
    pub(super) async fn outline(&self, name: &str, bytes: Bytes) -> Result<Outline, Refusal> {
        examine::bytes(name, &bytes)?;
        let digest = digest_of(bytes.clone()).await?;
        let component = self.component(name, bytes, &digest).await?;
        Ok(Outline {
            exports: linkers::exports_of(&component),
            imports: linkers::imports_of(&component),
        })
    }

    /// Calls `metadata.describe` in a throw-away, fully denied, limited instance. `None`: no metadata.
    ///
    /// # Errors
    /// It trapped or passed a limit.
    pub async fn describe(
        self: &Arc<Self>,
        compiled: &Compiled,
    ) -> Result<Option<Description>, Refusal> {
        launch::describe(self, compiled).await
    }

    /// Instantiates, starts and probes. On an error nothing is left running.
    ///
    /// # Errors
    /// Why the plugin cannot run.
    pub async fn launch(self: &Arc<Self>, spec: Spec) -> Result<Launched, Refusal> {
        launch::launch(self, spec).await
    }

    /// The linker of loaders.
    pub(super) fn loaders(&self) -> &Linker<State> {
        &self.loaders
    }

    /// The linker of key policies in the engine of this component.
    pub(super) fn policies(&self, component: &Component) -> &Linker<State> {
        if wasmtime::Engine::same(component.engine(), &self.pure) {
            &self.pure_policies
        } else {
            &self.policies
        }
    }

    /// The batches of all loaders.
    pub(super) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Who may compute for long.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Guest code runs now, so epochs must pass.
    pub(super) fn pulse(&self) {
        self.ticker.pulse();
    }

    /// So does a call that is nearly always at its end in a moment.
    pub(super) fn pulse_short(&self) {
        self.ticker.pulse_short();
    }

    /// Where everything compiled lies that is in use.
    #[cfg(test)]
    pub(super) fn images(&self) -> Vec<std::ops::Range<usize>> {
        let used = self.compiled.all();
        used.iter().map(|compiled| compiled.image()).collect()
    }

    /// How many components were compiled and how many came from the cache.
    #[cfg(test)]
    pub(super) fn compiler(&self) -> &Compiler {
        &self.compiler
    }
}

/// An engine with a pool of instances, if there is room for one.
fn pooled(waiting: Waiting) -> anyhow::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config(true, waiting)).or_else(|error| {
        // The pool reserves terabytes of address space, which a container or a ulimit may not give.
        tracing::info!("no room for the pool of instances ({error}); allocating on demand");
        wasmtime::Engine::new(&config(false, waiting)).map_err(|error| {
            anyhow::anyhow!("wasmtime cannot be set up on this machine: {error:#}")
        })
    })
}

/// What a compiler and the engine that runs its code must agree on; the pool is the latter's alone.
pub(super) fn config(pooling: bool, waiting: Waiting) -> Config {
    let can_wait = waiting == Waiting::Can;
    let mut config = Config::new();
    config
        .concurrency_support(can_wait)
        .wasm_component_model_async(can_wait)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        // Where in the guest it happened is said by its own last lines; a symbol map of every component would cost memory.
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable)
        // For the same reason. And no debugger of this process looks for the frames of guests: every component would register
        // its own with the system's unwinder, which takes longer the more there are.
        .generate_address_map(false)
        .native_unwind_info(false);
    if pooling {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(POOL)
            .total_core_instances(POOL * 20)
            // A key policy has the memory of its adapter beside its own.
            .total_memories(if can_wait { POOL } else { 2 * POOL })
            .total_tables(POOL * 2)
            .total_stacks(POOL)
            .total_gc_heaps(POOL / 20)
            .max_core_instances_per_component(PER_COMPONENT)
            .max_memories_per_component(PER_COMPONENT)
            .max_tables_per_component(PER_COMPONENT)
            .max_tables_per_module(4)
            .max_memories_per_module(4)
            .table_elements(TABLE_ELEMENTS)
            .max_core_instance_size(4 * 1024 * 1024)
            .max_component_instance_size(4 * 1024 * 1024);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
