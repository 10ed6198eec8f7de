//! What a store holds for one instance: WASI, the host's own interfaces, the memory limit, the meter of guest code.
//!
//! Owns the host side of `settings`, `secrets` and `log`. Decides nothing about grants: the egress does.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tracing::Level;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{
    Deterministic, HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView,
};
use wasmtime_wasi_http::{
    Error as HttpError, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView,
};

use super::account::Calls;
use super::bindings::{log, secrets, settings, types};
use super::engine::{Engine, TABLE_ELEMENTS};
use super::limits::Limits;
use super::meter::Meter;
use super::output::{Output, Sink, Stream, Voice};
use super::turns::Suspicion;
use super::{Egress, SecretError, Secrets, sockets};
use crate::error::Failure;

/// All that is random in a key policy, one byte over and over: it is pure, so it sees the same however often and in
/// whatever pieces it asks. A longer seed would give a used instance other bytes than a fresh one.
const FIXED_RANDOM: u8 = 0x4c;

/// What the instances of one plugin are furnished with. One per running version, shared by its stores.
pub(super) struct Kit {
    /// The file stem.
    pub(super) name: String,
    /// What `settings.get` returns.
    pub(super) settings: String,
    /// What `secrets.get` finds; `None`: nothing is granted.
    pub(super) secrets: Option<Secrets>,
    /// What may be reached; `None`: nothing at all.
    pub(super) egress: Option<Arc<Egress>>,
    /// What may be used.
    pub(super) limits: Limits,
    /// Where the instances' lines go.
    pub(super) voice: Arc<Voice>,
    /// The most linear memory that one instance ever had, in bytes.
    pub(super) memory_peak: Arc<AtomicUsize>,
    /// What its calls came to.
    pub(super) calls: Arc<Calls>,
    /// Whether a limit was passed lately.
    pub(super) suspicion: Suspicion,
}

impl Kit {
    /// A failure as it may be told: without the secrets that the guest was given.
    pub(super) fn conceal(&self, mut failure: Failure) -> Failure {
        let Some(secrets) = &self.secrets else {
            return failure;
        };
        let conceal = |text: &str| secrets.redactor().redact_cut(text).into_owned();
        failure.message = conceal(&failure.message);
        if let Cow::Owned(code) = &failure.code {
            failure.code = Cow::Owned(conceal(code));
        }
        for detail in &mut failure.details {
            detail.name = conceal(&detail.name);
            detail.value = conceal(&detail.value);
        }
        failure
    }
}

/// The data of a store: one instance.
pub(super) struct State {
    kit: Arc<Kit>,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Box<dyn WasiHttpHooks>,
    table: ResourceTable,
    /// What it prints.
    pub(super) output: Arc<Output>,
    /// How long its code runs.
    pub(super) meter: Arc<Meter>,
    /// How much memory it has.
    pub(super) memory: MemoryLimit,
    /// Places for its sockets.
    pub(super) socket_places: Arc<Semaphore>,
    /// Those that are taken by WASI 0.3.
    pub(super) places: sockets::Places,
    /// Places for its look-ups of names.
    pub(super) lookups: Arc<Semaphore>,
}

impl State {
    /// What it may reach; `None`: nothing.
    pub(super) fn egress(&self) -> Option<&Arc<Egress>> {
        self.kit.egress.as_ref()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.kit.calls.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which world an instance lives in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purity {
    /// Loaders: real clocks, real randomness, what the egress grants.
    Worldly,
    /// Key policies: frozen clocks, fixed randomness, nothing to reach.
    Pure,
}

/// A store for one instance of a plugin in the engine of its component, its limits set.
pub(super) fn store(
    (engine, of_component): (&Arc<Engine>, &wasmtime::Engine),
    kit: &Arc<Kit>,
    purity: Purity,
    meter: Meter,
) -> wasmtime::Result<Store<State>> {
    let output = Output::new(&kit.voice);
    let mut wasi = WasiCtx::builder();
    wasi.stdout(Sink::new(&output, Stream::Stdout));
    wasi.stderr(Sink::new(&output, Stream::Stderr));
    match (purity, &kit.egress) {
        (Purity::Pure, _) => {
            wasi.wall_clock(Frozen)
                .monotonic_clock(Frozen)
                .secure_random(Deterministic::new(vec![FIXED_RANDOM]))
                .insecure_random(Deterministic::new(vec![FIXED_RANDOM]))
                .insecure_random_seed(u128::from_le_bytes([FIXED_RANDOM; 16]));
        }
        (Purity::Worldly, Some(egress)) => egress.furnish(&mut wasi)?,
        (Purity::Worldly, None) => {}
    }
    let limits = &kit.limits;
    wasi.max_random_size(limits.random as u64);
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.handles);
    let meter = Arc::new(meter);
    let state = State {
        wasi: wasi.build(),
        http: WasiHttpCtx::new(),
        hooks: match (&kit.egress, purity) {
            (Some(egress), Purity::Worldly) => Box::new(egress.hooks()),
            _ => Box::new(NoHttp),
        },
        table,
        output,
        socket_places: sockets::socket_room(kit.egress.as_ref()),
        places: sockets::Places::default(),
        lookups: sockets::lookup_room(),
        meter: Arc::clone(&meter),
        memory: MemoryLimit {
            bytes_max: limits.memory,
            bytes: 0,
            elements_max: limits.table_elements,
            elements: 0,
            peak: Arc::clone(&kit.memory_peak),
            refused: None,
        },
        kit: Arc::clone(kit),
    };
    kit.calls.alive.fetch_add(1, Ordering::Relaxed);
    let mut store = Store::new(of_component, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(kit.limits.handed);
    // Of the handles that a guest makes by itself (futures, streams, resources of its own) the host keeps a slot each.
    store.set_max_component_handles(kit.limits.handles);
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(kit.limits.handles);
    }
    store.set_epoch_deadline(1);
    let engine = Arc::clone(engine);
    let yields = purity == Purity::Worldly;
    store.epoch_deadline_callback(move |_| {
        let is_long = meter.tick()?;
        // A guest that runs keeps the ticker awake. A key policy's call that meets one end of an epoch may be as short as any.
        if is_long || yields {
            engine.pulse();
        } else {
            engine.pulse_short();
        }
        // The first tick of a slice usually began before the slice did; yielding there would only cost latency.
        Ok(match is_long && yields {
            true => UpdateDeadline::Yield(1),
            false => UpdateDeadline::Continue(1),
        })
    });
    Ok(store)
}

/// The memory limit of a store: all its memories together, and all its tables together.
pub(super) struct MemoryLimit {
    bytes_max: usize,
    bytes: usize,
    /// Of all the stores of the plugin.
    peak: Arc<AtomicUsize>,
    elements_max: usize,
    elements: usize,
    /// The last growth that was refused: what the guest traps with afterwards is blamed on it.
    refused: Option<Grown>,
}

/// What a guest can let grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grown {
    /// Linear memory, in bytes.
    Memory,
    /// Tables, in elements: each costs the host eight bytes or more.
    Tables,
}

impl MemoryLimit {
    /// What was refused to grow since the last time this was asked.
    pub(super) fn take_refused(&mut self) -> Option<Grown> {
        self.refused.take()
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired - current);
        if bytes > self.bytes_max {
            self.refused = Some(Grown::Memory);
            return Ok(false);
        }
        self.bytes = bytes;
        self.peak.fetch_max(bytes, Ordering::Relaxed);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.elements.saturating_add(desired - current);
        if desired > TABLE_ELEMENTS || elements > self.elements_max {
            self.refused = Some(Grown::Tables);
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut *self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl types::Host for State {}

impl settings::Host for State {
    fn get(&mut self) -> wasmtime::Result<String> {
        Ok(self.kit.settings.clone())
    }
}

impl secrets::Host for State {
    fn get(&mut self, name: String) -> wasmtime::Result<Result<String, secrets::SecretError>> {
        let Some(secrets) = &self.kit.secrets else {
            return Ok(Err(secrets::SecretError::NotGranted));
        };
        Ok(secrets.get(&name).map_err(|no| {
            if let Some(egress) = &self.kit.egress {
                egress.deny(no.sentence);
            }
            match no.error {
                SecretError::NotGranted => secrets::SecretError::NotGranted,
                SecretError::Unavailable => secrets::SecretError::Unavailable,
            }
        }))
    }
}

impl log::Host for State {
    fn log(
        &mut self,
        level: log::Level,
        message: String,
        fields: Vec<types::Param>,
    ) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Trace => Level::TRACE,
            log::Level::Debug => Level::DEBUG,
            log::Level::Info => Level::INFO,
            log::Level::Warn => Level::WARN,
            log::Level::Error => Level::ERROR,
        };
        let fields = fields.iter().map(|field| (&*field.name, &*field.value));
        self.output.log(level, &message, fields);
        Ok(())
    }
}

/// A clock that stands still.
struct Frozen;

impl HostWallClock for Frozen {
    fn resolution(&self) -> std::time::Duration {
        std::time::Duration::from_secs(1)
    }

    fn now(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

impl HostMonotonicClock for Frozen {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Sends nothing: for instances that only describe themselves.
struct NoHttp;

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ),
    HttpError,
>;

impl WasiHttpHooks for NoHttp {
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _written: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(std::future::ready(Err(HttpError::HttpRequestDenied)))
    }
}
