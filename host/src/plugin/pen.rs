//! The writer of a component: a few instances of its own, one call after another in each.
//!
//! Writes are not mixed with loads: a load that traps must not take a change along, of which nobody then knows whether it was
//! made. A call that traps fails all of its changes.

use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::bindings::{self, types, writer};
use super::breaker::Breaker;
use super::fault::{self, Denials};
use super::instance::{self, Live, Mould, metered, sliced};
use super::meter::Meter;
use crate::error::{Failure, FailureKind, Origin};
use crate::write::{Mutation, Receipt, Writer};

/// Instances at most, unless `[limits] instances` says more: so many calls at once.
const INSTANCES_MIN: usize = 8;

/// A running writer.
pub(super) struct Pen(Arc<Shared>);

struct Shared {
    mould: Mould,
    breaker: Arc<Breaker>,
    /// Those that no call is in.
    idle: Mutex<Vec<Live>>,
    places: Semaphore,
}

impl Pen {
    /// A writer that makes its instances when they are needed, `first` apart.
    pub(super) fn new(mould: Mould, first: Option<Live>, breaker: Arc<Breaker>) -> Self {
        let places = mould.kit.limits.instances.max(INSTANCES_MIN);
        Self(Arc::new(Shared {
            mould,
            breaker,
            idle: Mutex::new(first.into_iter().collect()),
            places: Semaphore::new(places),
        }))
    }

    /// Why calls are refused just now.
    pub(super) fn open(&self) -> Option<String> {
        self.0.breaker.open()
    }

    /// Lets the calls in flight end, then stops the instances.
    pub(super) async fn stop(&self) {
        let shared = &self.0;
        let all = shared.mould.kit.limits.instances.max(INSTANCES_MIN);
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        if let Ok(places) = shared.places.acquire_many(all).await {
            places.forget();
        }
        shared.places.close();
        let idle = std::mem::take(&mut *shared.idle.lock());
        for live in idle {
            shared.mould.stop(live).await;
        }
    }
}

impl Shared {
    async fn write(
        self: &Arc<Self>,
        mutations: Vec<Mutation>,
    ) -> Result<Vec<Result<Receipt, Failure>>, Failure> {
        let kit = &self.mould.kit;
        let longest = mutations.iter().map(|mutation| mutation.timeout).max();
        let timeout = longest.unwrap_or_default().min(kit.limits.timeout);
        let deadline = Instant::now() + timeout;
        let place = timeout_at(deadline, self.places.acquire()).await;
        let _place = match place {
            Ok(Ok(place)) => place,
            Ok(Err(_closed)) => return Err(fault::stopped(&kit.name)),
            // Nobody was told of the change.
            Err(_) => {
                let message = format!(
                    "`{}` was busy with other changes for {timeout:?} ([limits] instances)",
                    kit.name
                );
                return Err(Failure::host(
                    FailureKind::Overloaded,
                    "writer-busy",
                    message,
                ));
            }
        };
        let mut live = self.instance(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout_at(deadline, self.write_in(&mut live, &mutations, left)).await {
            Ok(answered) => {
                // It trapped: the store is dead, and dropped with what is returned here.
                let said = answered?;
                self.idle.lock().push(live);
                Ok(said)
            }
            Err(_elapsed) => Err(fault::timeout(&kit.name, timeout)),
        }
    }

    /// An instance, by the deadline. One that takes longer to begin is there for the next call. However that fails, nobody was
    /// told of any change.
    async fn instance(self: &Arc<Self>, deadline: Instant) -> Result<Live, Failure> {
        let idle = self.idle.lock().pop();
        if let Some(live) = idle {
            return Ok(live);
        }
        let kit = &self.mould.kit;
        let (give, given) = oneshot::channel();
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let begun = shared
                .mould
                .begin(Meter::slice(shared.mould.kit.limits.cpu));
            if let Err(Ok(late)) = give.send(begun.await) {
                shared.idle.lock().push(late);
            }
        });
        let failed = |failure| Failure {
            origin: Origin::Host,
            kind: FailureKind::Unavailable,
            ..failure
        };
        match timeout_at(deadline, given).await {
            Ok(Ok(begun)) => begun.map_err(failed),
            Ok(Err(_panicked)) => Err(fault::stopped(&kit.name)),
            Err(_late) => {
                let message = format!("`{}` is being started; ask again", kit.name);
                Err(Failure::host(
                    FailureKind::Overloaded,
                    "writer-starting",
                    message,
                ))
            }
        }
    }

    async fn write_in(
        &self,
        live: &mut Live,
        mutations: &[Mutation],
        left: Duration,
    ) -> Result<Vec<Result<Receipt, Failure>>, Failure> {
        let Mould {
            engine,
            kit,
            worldly,
        } = &self.mould;
        let store = &mut live.store;
        let guest = match &worldly.writer {
            Some(indices) => indices.load(&mut *store, &live.instance),
            None => Err(wasmtime::format_err!("the component exports no `writer`")),
        }
        .map_err(|error| instance::host(kit, &error))?;
        let told = mutations.iter().map(|mutation| {
            let timeout = mutation.timeout.min(left);
            bindings::mutation(&Mutation {
                timeout,
                ..mutation.clone()
            })
        });
        let told: Vec<writer::Mutation> = told.collect();
        let meter = Arc::clone(&store.data().meter);
        meter.enforce(true);
        let ran = metered(
            engine,
            kit,
            &meter,
            store.run_concurrent(async |accessor| {
                sliced(&meter, guest.call_write(accessor, told)).await
            }),
        )
        .await;
        let said = match ran {
            Ok(Ok(said)) => said,
            Ok(Err(error)) | Err(error) => return Err(fault::of(&error, kit, store.data_mut())),
        };
        self.judge(said, mutations.len())
    }

    /// A list of another length says nothing of any change.
    fn judge(
        &self,
        said: Vec<Result<writer::Receipt, types::Failure>>,
        wanted: usize,
    ) -> Result<Vec<Result<Receipt, Failure>>, Failure> {
        let kit = &self.mould.kit;
        if said.len() != wanted {
            let message = format!(
                "`{}` gave {} results for {wanted} changes; it must give one for each",
                kit.name,
                said.len()
            );
            return Err(Failure::fault(Origin::Limit, "results-miscounted", message));
        }
        let receipts = said.into_iter().map(|said| {
            bindings::receipt(said, kit.limits.body).map_err(|failure| kit.conceal(failure))
        });
        Ok(receipts.collect())
    }
}

impl Writer for Pen {
    fn name(&self) -> &str {
        &self.0.mould.kit.name
    }

    fn write(&self, mutations: Vec<Mutation>) -> BoxFuture<'static, Vec<Result<Receipt, Failure>>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let count = mutations.len();
            let all = |failure: Failure| vec![Err(failure); count];
            let admission = match shared.breaker.admit(Clock::now()) {
                Ok(admission) => admission,
                Err(failure) => return all(failure),
            };
            let denials = Denials::watch(&shared.mould.kit);
            let results = shared.write(mutations).await;
            let ended = results.as_ref().map(drop).map_err(Failure::clone);
            admission.ended(Clock::now(), &ended);
            match results {
                Ok(results) => results
                    .into_iter()
                    .map(|result| result.map_err(|failure| denials.explain(failure)))
                    .collect(),
                Err(failure) => all(denials.explain(failure)),
            }
        })
    }
}
