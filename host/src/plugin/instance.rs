//! One instance of a loader's component, from `start` to `stop`.
//!
//! Owns the life of a store: it is instantiated and started within a budget of wall clock that holds even for a busy loop
//! (the guest is interrupted every epoch, so the deadline is looked at), and stopped the same way. Who calls the loader in
//! it is `driver` and `blocking`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::ready;

use wasmtime::Store;
use wasmtime::component::Instance;

use super::bindings::{self, lifecycle};
use super::engine::Engine;
use super::fault;
use super::meter::Meter;
use super::prepared::Worldly;
use super::state::{self, Kit, Purity, State};
use super::turns::{Line, hand_over};
use crate::error::{Failure, FailureKind, Origin};

/// What every instance of one running loader is made of.
pub(super) struct Mould {
    pub(super) engine: Arc<Engine>,
    pub(super) kit: Arc<Kit>,
    pub(super) worldly: Worldly,
}

/// A started instance. Its meter is not enforced yet.
pub(super) struct Live {
    pub(super) store: Store<State>,
    pub(super) instance: Instance,
}

/// One of the three calls of a component's life.
#[derive(Clone, Copy)]
enum Step {
    Start,
    Probe,
    Stop,
}

impl Mould {
    /// Instantiates and starts.
    ///
    /// # Errors
    /// It trapped, passed its budget, or its `start` said no.
    pub(super) async fn begin(&self, meter: Meter) -> Result<Live, Failure> {
        let budget = self.kit.limits.lifecycle;
        let mut store = state::store(
            (&self.engine, self.worldly.pre.engine()),
            &self.kit,
            Purity::Worldly,
            meter,
        )
        .map_err(|error| host(&self.kit, &error))?;
        let made = tokio::time::timeout(budget, {
            let meter = Arc::clone(&store.data().meter);
            let made = self.worldly.pre.instantiate_async(&mut store);
            async move { metered(&self.engine, &self.kit, &meter, made).await }
        })
        .await;
        let instance = match made {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => return Err(fault::of(&error, &self.kit, store.data_mut())),
            Err(_) => return Err(fault::timeout(&self.kit.name, budget)),
        };
        let mut live = Live { store, instance };
        self.step(&mut live, Step::Start).await?;
        Ok(live)
    }

    /// `lifecycle.probe`; `Ok` without `lifecycle`.
    ///
    /// # Errors
    /// What the probe said, or why it could not.
    pub(super) async fn probe(&self, live: &mut Live) -> Result<(), Failure> {
        self.step(live, Step::Probe).await
    }

    /// `lifecycle.stop`, then the end.
    pub(super) async fn stop(&self, mut live: Live) {
        if let Err(failure) = self.step(&mut live, Step::Stop).await {
            tracing::warn!(plugin = %self.kit.name, "stopping failed: {failure}");
        }
    }

    async fn step(&self, live: &mut Live, step: Step) -> Result<(), Failure> {
        let Some(indices) = &self.worldly.lifecycle else {
            return Ok(());
        };
        let budget = self.kit.limits.lifecycle;
        let store = &mut live.store;
        let guest = indices
            .load(&mut *store, &live.instance)
            .map_err(|error| host(&self.kit, &error))?;
        let meter = Arc::clone(&store.data().meter);
        meter.enforce(false);
        let ended = tokio::time::timeout(
            budget,
            metered(
                &self.engine,
                &self.kit,
                &meter,
                store.run_concurrent(async |accessor| call(&guest, accessor, step).await),
            ),
        )
        .await;
        match ended {
            Ok(Ok(Ok(said))) => {
                said.map_err(|returned| self.kit.conceal(bindings::failure(returned)))
            }
            Ok(Ok(Err(error)) | Err(error)) => Err(fault::of(&error, &self.kit, store.data_mut())),
            Err(_) => Err(Failure::fault(
                Origin::Limit,
                "timeout",
                format!(
                    "`{}`: {} took longer than {budget:?}",
                    self.kit.name,
                    step.name()
                ),
            )),
        }
    }
}

/// Runs a future that runs guest code: the ticker is kept awake and the meter told of every turn. Who was interrupted, or
/// is of a plugin under suspicion, goes on when it is its turn.
pub(super) async fn metered<F: Future>(
    engine: &Engine,
    kit: &Kit,
    meter: &Meter,
    future: F,
) -> F::Output {
    let mut future = pin!(future);
    let mut turn = engine.turns().turn();
    poll_fn(|cx| {
        let suspect = kit.suspicion.stands();
        let line = match suspect {
            true => Some(Line::Suspects),
            false => meter.interrupted().then_some(Line::Long),
        };
        ready!(turn.poll(line, cx));
        engine.pulse();
        meter.turn_begins();
        let polled = kit.calls.timed(|| {
            if suspect {
                hand_over(|| future.as_mut().poll(cx))
            } else {
                future.as_mut().poll(cx)
            }
        });
        meter.turn_ends();
        turn.end();
        polled
    })
    .await
}

/// wasmtime polls the closure of `run_concurrent` between any two pieces of guest code: there a slice ends.
pub(super) async fn sliced<F: Future>(meter: &Meter, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        meter.slice_begins();
        future.as_mut().poll(cx)
    })
    .await
}

async fn call(
    guest: &lifecycle::Guest,
    accessor: &wasmtime::component::Accessor<State>,
    step: Step,
) -> wasmtime::Result<Result<(), bindings::types::Failure>> {
    match step {
        Step::Start => guest.call_start(accessor).await,
        Step::Probe => guest.call_probe(accessor).await,
        Step::Stop => guest.call_stop(accessor).await.map(Ok),
    }
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Probe => "probe",
            Self::Stop => "stop",
        }
    }
}

/// The host could not make an instance: the pool is exhausted, or a grant cannot be furnished.
pub(super) fn host(kit: &Kit, error: &wasmtime::Error) -> Failure {
    Failure::host(
        FailureKind::Unavailable,
        "plugin-not-instantiated",
        format!("`{}` cannot be instantiated: {error:#}", kit.name),
    )
}
