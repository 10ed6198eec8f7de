//! What the tests of the engine share: one engine, the guests of `tests/guests`, short ways to ask them.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::{Compiled, Egress, Engine, Launched, Limits, Secrets, Spec, Worker};
use crate::cache::{Batching, Found, Loader, Outcome, Question};
use crate::config::PluginLimits;
use crate::error::Failure;
use crate::key::Param;

/// The engine of all tests. Its cache of compiled code outlives them, so that guests are compiled once.
pub(super) fn engine() -> Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    let storage = || std::env::temp_dir().join("larder-engine-tests");
    Arc::clone(ENGINE.get_or_init(|| Engine::new(&storage(), Worker::Here).expect("an engine")))
}

/// The component of a guest.
pub(super) fn guest(name: &str) -> Bytes {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = root.join(format!("tests/guests/dist/{name}.wasm"));
    std::fs::read(&file)
        .unwrap_or_else(|error| {
            panic!(
                "{}: {error}; run tests/guests/build.sh (or `make build`) first",
                file.display()
            )
        })
        .into()
}

/// The guest, compiled by the shared engine.
pub(super) async fn compiled(name: &str) -> Arc<Compiled> {
    let compiled = engine().compile(name, guest(name)).await;
    compiled.unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// A guest that is about to run.
pub(super) struct Launch {
    pub(super) name: &'static str,
    pub(super) settings: &'static str,
    pub(super) limits: PluginLimits,
    pub(super) tune: fn(&mut Limits),
}

impl Launch {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            settings: "{}",
            limits: PluginLimits::default(),
            tune: |_| {},
        }
    }

    pub(super) fn settings(self, settings: &'static str) -> Self {
        Self { settings, ..self }
    }

    pub(super) fn limits(self, limits: PluginLimits) -> Self {
        Self { limits, ..self }
    }

    pub(super) fn tune(self, tune: fn(&mut Limits)) -> Self {
        Self { tune, ..self }
    }

    pub(super) async fn spec(self) -> Spec {
        let compiled = compiled(self.name).await;
        let mut limits = Limits::resolve(&self.limits, &compiled.exports);
        (self.tune)(&mut limits);
        Spec {
            name: self.name.to_owned(),
            compiled,
            settings: self.settings.to_owned(),
            secrets: Secrets::default(),
            egress: Egress::denied(self.name),
            limits,
        }
    }

    pub(super) async fn launch(self) -> Launched {
        let launched = engine().launch(self.spec().await).await;
        launched.unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    pub(super) async fn loader(self) -> Arc<dyn Loader> {
        self.launch().await.runtime.loader().expect("a loader")
    }
}

/// Asks for `key` with ten seconds to answer (so the plugin's own limit decides).
pub(super) async fn ask(loader: &Arc<dyn Loader>, key: &str) -> Result<Outcome, Failure> {
    ask_within(loader, key, Duration::from_secs(10)).await
}

/// Asks for `key`.
pub(super) async fn ask_within(
    loader: &Arc<dyn Loader>,
    key: &str,
    timeout: Duration,
) -> Result<Outcome, Failure> {
    let question = Question {
        route: "/data/{key}".into(),
        parts: vec![Param::new("key", key)].into(),
        timeout,
        traceparent: None,
        known: None,
        batching: Batching::ALONE,
    };
    loader.load(question).await
}

/// The value, and only that.
pub(super) fn found(outcome: Result<Outcome, Failure>) -> Found {
    match outcome {
        Ok(Outcome::Found(found)) => found,
        other => panic!("not found: {other:?}"),
    }
}

/// What the guest answered, as JSON.
pub(super) fn json(outcome: Result<Outcome, Failure>) -> serde_json::Value {
    serde_json::from_slice(&found(outcome).body).expect("JSON")
}
