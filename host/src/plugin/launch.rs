//! From a compiled component to a running plugin: `describe`, `start`, `probe`, and the [`Runtime`] that is handed out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::account::Account;
use super::async_loader::AsyncLoader;
use super::bindings::metadata;
use super::blocking::{self, BlockingLoader};
use super::breaker::Breaker;
use super::compile::Compiled;
use super::engine::{Description, Engine};
use super::fault::{self, Denials};
use super::feed::Feed;
use super::instance::{self, Mould};
use super::limits::Limits;
use super::meter::Meter;
use super::output::Voice;
use super::pen::Pen;
use super::policy::Policy;
use super::prepared::Worldly;
use super::runtime::{ChangeFeed, Condition, Launched, Refusal, Runtime, Spec};
use super::state::{self, Kit, Purity};
use super::turns::Suspicion;
use crate::cache::Loader;
use crate::error::Failure;
use crate::key::KeyPolicy;
use crate::write::{Mutation, Receipt, Writer};

/// Calls `metadata.describe` in an instance that may reach nothing.
pub(super) async fn describe(
    engine: &Arc<Engine>,
    compiled: &Compiled,
) -> Result<Option<Description>, Refusal> {
    let prepared = &compiled.prepared;
    let (pre, indices, purity) = match (&prepared.worldly, &prepared.pure) {
        (Some(worldly), _) => (&worldly.pre, &worldly.metadata, Purity::Worldly),
        (None, Some(pure)) => (&pure.pre, &pure.metadata, Purity::Pure),
        (None, None) => return Ok(None),
    };
    let Some(indices) = indices else {
        return Ok(None);
    };
    let limits = Limits::default();
    let kit = Arc::new(Kit {
        name: "metadata".to_owned(),
        settings: "{}".to_owned(),
        secrets: None,
        egress: None,
        voice: Voice::new(
            "metadata",
            limits.log_lines,
            limits.log_line,
            &Arc::default(),
        ),
        memory_peak: Arc::default(),
        calls: Arc::default(),
        suspicion: Suspicion::default(),
        limits,
    });
    let budget = kit.limits.lifecycle;
    let host = |error: &wasmtime::Error| {
        Refusal::bare(format!(
            "its `metadata.describe` cannot be called: {error:#}"
        ))
    };
    // Wall clock bounds it: it runs once per version, and nobody waits for it.
    let mut store = state::store((engine, pre.engine()), &kit, purity, Meter::slice(budget))
        .map_err(|e| host(&e))?;
    if purity == Purity::Pure {
        // Here a policy's component runs on a fiber, so it can be interrupted like any other.
        let pulse = Arc::clone(engine);
        store.epoch_deadline_callback(move |_| {
            pulse.pulse();
            Ok(wasmtime::UpdateDeadline::Yield(1))
        });
    }
    let meter = Arc::clone(&store.data().meter);
    let called = async {
        let instance = pre.instantiate_async(&mut store).await?;
        let guest = indices.load(&mut store, &instance)?;
        guest.call_describe(&mut store).await
    };
    let described =
        tokio::time::timeout(budget, instance::metered(engine, &kit, &meter, called)).await;
    match described {
        Ok(Ok(description)) => Ok(Some(description.into())),
        Ok(Err(error)) => {
            let failure = fault::of(&error, &kit, store.data_mut());
            Err(Refusal::new(
                format!("its `metadata.describe` failed: {failure}"),
                "describe returns constants: it has no settings, no secrets and no network",
            ))
        }
        Err(_) => Err(Refusal::new(
            format!("its `metadata.describe` took longer than {budget:?}"),
            "describe returns constants: it has no settings, no secrets and no network",
        )),
    }
}

impl From<metadata::Description> for Description {
    fn from(said: metadata::Description) -> Self {
        Self {
            name: said.name,
            version: said.version,
            cache_version: said.cache_version,
            descriptor: said.descriptor,
        }
    }
}

/// Instantiates, starts and probes.
pub(super) async fn launch(engine: &Arc<Engine>, spec: Spec) -> Result<Launched, Refusal> {
    let Spec {
        name,
        compiled,
        settings,
        secrets,
        egress,
        limits,
    } = spec;
    let kit = Arc::new(Kit {
        voice: Voice::new(&name, limits.log_lines, limits.log_line, secrets.redactor()),
        memory_peak: Arc::default(),
        calls: Arc::default(),
        suspicion: Suspicion::default(),
        name,
        settings,
        secrets: Some(secrets),
        egress: Some(egress),
        limits,
    });
    let policy = match compiled.prepared.pure.clone() {
        None => None,
        Some(pure) => {
            let policy = Policy::start(engine, &kit, pure).map_err(|failure| {
                Refusal::bare(format!("`{}` cannot be instantiated: {failure}", kit.name))
            })?;
            Some(Arc::new(policy))
        }
    };
    let breaker = Breaker::new(&kit.name, Instant::now(), &kit.calls);
    let Begun {
        source,
        feed,
        pen,
        probe,
    } = match compiled.prepared.worldly.clone() {
        None => Begun {
            source: None,
            feed: None,
            pen: None,
            probe: Ok(()),
        },
        Some(worldly) => begin(engine, &kit, worldly, &breaker).await?,
    };
    let runtime = Arc::new(Running {
        engine: Arc::clone(engine),
        compiled,
        kit,
        breaker,
        source,
        feed,
        pen,
        policy,
    });
    Ok(Launched { runtime, probe })
}

/// What lives in the world, started.
struct Begun {
    source: Option<Source>,
    feed: Option<Arc<Feed>>,
    pen: Option<Arc<Pen>>,
    probe: Result<(), Failure>,
}

async fn begin(
    engine: &Arc<Engine>,
    kit: &Arc<Kit>,
    worldly: Worldly,
    breaker: &Arc<Breaker>,
) -> Result<Begun, Refusal> {
    let is_async = worldly.loader.is_some() || worldly.batch.is_some();
    let is_blocking = worldly.blocking.is_some() && !is_async;
    let has_feed = worldly.feed.is_some();
    let mould = || Mould {
        engine: Arc::clone(engine),
        kit: Arc::clone(kit),
        worldly: worldly.clone(),
    };
    let meter = if is_blocking {
        blocking::meter(&mould())
    } else {
        Meter::slice(kit.limits.cpu)
    };
    let denials = Denials::watch(kit);
    let mut first = mould().begin(meter).await.map_err(|failure| {
        let failure = denials.explain(failure);
        Refusal::bare(format!("`{}` does not start: {failure}", kit.name))
    })?;
    let probe = mould()
        .probe(&mut first)
        .await
        .map_err(|failure| denials.explain(failure));
    let breaker = Arc::clone(breaker);
    // Slow changes are no reason to refuse loads.
    let breaker_of_writes = Breaker::new(&kit.name, Instant::now(), &kit.calls);
    // The first instance is the loader's, where there is one; else the writer's, else the feed's. Others make their own.
    let mut first = Some(first);
    let source = match first.take_if(|_| is_async || is_blocking) {
        None => None,
        Some(first) if is_async => {
            let loader = AsyncLoader::start(mould(), first, breaker);
            Some(Source::Async(Arc::new(loader)))
        }
        Some(first) => {
            let loader = BlockingLoader::start(mould(), first, breaker);
            Some(Source::Blocking(Arc::new(loader)))
        }
    };
    let pen = worldly
        .writer
        .is_some()
        .then(|| Arc::new(Pen::new(mould(), first.take(), breaker_of_writes)));
    let feed = has_feed.then(|| Arc::new(Feed::new(mould(), first)));
    Ok(Begun {
        source,
        feed,
        pen,
        probe,
    })
}

/// A plugin that runs.
struct Running {
    engine: Arc<Engine>,
    /// Held, so that whoever brings the same bytes finds it.
    compiled: Arc<Compiled>,
    kit: Arc<Kit>,
    breaker: Arc<Breaker>,
    source: Option<Source>,
    feed: Option<Arc<Feed>>,
    pen: Option<Arc<Pen>>,
    policy: Option<Arc<Policy>>,
}

/// Its loader. A component that exports several is used through the async one.
enum Source {
    Async(Arc<AsyncLoader>),
    Blocking(Arc<BlockingLoader>),
}

/// What a holder of the loader holds: the loader, and with it the whole runtime.
struct Held {
    _runtime: Arc<Running>,
    loader: Arc<dyn Loader>,
}

impl Loader for Held {
    fn name(&self) -> &str {
        self.loader.name()
    }

    fn load(
        &self,
        question: crate::cache::Question,
    ) -> BoxFuture<'static, Result<crate::cache::Outcome, Failure>> {
        self.loader.load(question)
    }
}

/// What a holder of the writer holds.
struct HeldPen {
    _runtime: Arc<Running>,
    pen: Arc<Pen>,
}

impl Writer for HeldPen {
    fn name(&self) -> &str {
        self.pen.name()
    }

    fn write(&self, mutations: Vec<Mutation>) -> BoxFuture<'static, Vec<Result<Receipt, Failure>>> {
        self.pen.write(mutations)
    }
}

impl Runtime for Running {
    fn loader(self: Arc<Self>) -> Option<Arc<dyn Loader>> {
        let loader: Arc<dyn Loader> = match self.source.as_ref()? {
            Source::Async(loader) => Arc::clone(loader) as _,
            Source::Blocking(loader) => Arc::clone(loader) as _,
        };
        Some(Arc::new(Held {
            _runtime: self,
            loader,
        }))
    }

    fn key_policy(self: Arc<Self>) -> Option<Arc<dyn KeyPolicy>> {
        self.policy.clone().map(|policy| policy as _)
    }

    fn writer(self: Arc<Self>) -> Option<Arc<dyn Writer>> {
        let pen = self.pen.clone()?;
        Some(Arc::new(HeldPen {
            _runtime: self,
            pen,
        }))
    }

    fn change_feed(self: Arc<Self>) -> Option<Arc<dyn ChangeFeed>> {
        self.feed.clone().map(|feed| feed as _)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let worldly = self.compiled.prepared.worldly.as_ref();
            let Some(worldly) = worldly.filter(|worldly| worldly.lifecycle.is_some()) else {
                return Ok(());
            };
            let mould = Mould {
                engine: Arc::clone(&self.engine),
                kit: Arc::clone(&self.kit),
                worldly: worldly.clone(),
            };
            let denials = Denials::watch(&self.kit);
            let begun = mould.begin(Meter::slice(self.kit.limits.cpu)).await;
            let mut live = begun.map_err(|failure| denials.explain(failure))?;
            let probed = mould.probe(&mut live).await;
            if probed.is_ok() {
                mould.stop(live).await;
            }
            probed.map_err(|failure| denials.explain(failure))
        })
    }

    fn condition(&self) -> Condition {
        if let Some(why) = self.policy.as_ref().and_then(|policy| policy.quarantined()) {
            return Condition::Quarantined {
                why: why.to_owned(),
            };
        }
        let open = self.policy.as_ref().and_then(|policy| policy.open());
        let open = open.or_else(|| self.pen.as_ref()?.open());
        if let Some(last_error) = self.breaker.open().or(open) {
            return Condition::Open { last_error };
        }
        let restarting = match &self.source {
            None => None,
            Some(Source::Async(loader)) => loader.restarting(),
            Some(Source::Blocking(loader)) => loader.restarting(),
        };
        match restarting {
            Some(last_error) => Condition::Restarting { last_error },
            None => Condition::Ready,
        }
    }

    fn memory_peak(&self) -> usize {
        self.kit.memory_peak.load(Ordering::Relaxed)
    }

    fn account(&self) -> Account {
        let (kit, calls) = (&self.kit, &self.kit.calls);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (waiting, shed) = match &self.source {
            None => (0, 0),
            Some(Source::Async(loader)) => loader.waiting(),
            Some(Source::Blocking(loader)) => loader.waiting(),
        };
        Account {
            calls: read(&calls.calls),
            failures: read(&calls.failures),
            faults: read(&calls.faults),
            durations: calls.durations.read(),
            memory_peak: self.memory_peak() as u64,
            memory_limit: kit.limits.memory as u64,
            instances: kit.limits.instances as u64,
            waiting: waiting as u64,
            shed,
            alive: read(&calls.alive),
            busy: calls.busy(),
            is_open: matches!(self.condition(), Condition::Open { .. }),
            lines: kit.voice.lines(),
        }
    }

    fn stop(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match &self.source {
                None => {}
                Some(Source::Async(loader)) => loader.stop().await,
                Some(Source::Blocking(loader)) => loader.stop().await,
            }
            if let Some(pen) = &self.pen {
                pen.stop().await;
            }
            if let Some(feed) = &self.feed {
                feed.stop().await;
            }
        })
    }
}
