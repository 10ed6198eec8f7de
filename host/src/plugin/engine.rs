//! The one wasmtime engine of the process: its settings, its two linkers, its ticker, its cache of compiled code.
//!
//! Everything else of the plugin host runs on it. It starts no instance by itself: `lifecycle`, `driver`, `blocking` and
//! `policy` do.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use wasmtime::component::Linker;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::compile::{Compiled, Compiler, Compiling, Worker};
use super::examine;
use super::gather::Tally;
use super::launch;
use super::linkers;
use super::runtime::{Launched, Refusal, Spec};
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

/// The one wasmtime engine of the process.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    ticker: Ticker,
    compiler: Compiler,
    loaders: Linker<State>,
    policies: Linker<State>,
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
        let wasmtime = match wasmtime::Engine::new(&config(true)) {
            Ok(engine) => engine,
            Err(error) => {
                // The pool reserves terabytes of address space, which a container or a ulimit may not give.
                tracing::info!("no room for the pool of instances ({error}); allocating on demand");
                wasmtime::Engine::new(&config(false)).map_err(|error| {
                    anyhow::anyhow!("wasmtime cannot be set up on this machine: {error:#}")
                })?
            }
        };
        let loaders =
            linkers::for_loaders(&wasmtime).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let policies =
            linkers::for_policies(&wasmtime).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(Arc::new(Self {
            ticker: Ticker::start(wasmtime.weak()),
            compiler: Compiler::new(&wasmtime, &storage.join("compiled"), worker)?,
            loaders,
            policies,
            tally: Tally::default(),
            turns: Turns::new(),
            wasmtime,
        }))
    }

    /// Compiles (or maps from the cache) on a bounded worker, and judges exports and imports.
    ///
    /// # Errors
    /// What is wrong with the component and how to mend it.
    pub async fn compile(
        self: &Arc<Self>,
        name: &str,
        bytes: Bytes,
    ) -> Result<Arc<Compiled>, Refusal> {
        examine::bytes(name, &bytes)?;
        let (component, digest) = self
            .compiler
            .compile(&self.wasmtime, name, bytes.clone())
            .await?;
        examine::component(self, name, &component, digest, bytes.len()).map(Arc::new)
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
        let (component, _) = self.compiler.compile(&self.wasmtime, name, bytes).await?;
        Ok(Outline {
            exports: linkers::exports_of(&self.wasmtime, &component),
            imports: linkers::imports_of(&self.wasmtime, &component),
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

    /// The engine that components and stores belong to.
    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// The linker of loaders.
    pub(super) fn loaders(&self) -> &Linker<State> {
        &self.loaders
    }

    /// The linker of key policies.
    pub(super) fn policies(&self) -> &Linker<State> {
        &self.policies
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

    /// How many components were compiled and how many came from the cache.
    #[cfg(test)]
    pub(super) fn compiler(&self) -> &Compiler {
        &self.compiler
    }
}

/// What a compiler and the engine that runs its code must agree on; the pool is the latter's alone.
pub(super) fn config(pooling: bool) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        // Where in the guest it happened is said by its own last lines; a symbol map of every component would cost memory.
        .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    if pooling {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(POOL)
            .total_core_instances(POOL * 20)
            .total_memories(POOL)
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
