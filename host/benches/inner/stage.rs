//! What the pieces are tried on: the routes, plugins and tiers of a server, without its listeners. Must not know what is
//! measured.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderValue};
use larder::cache::clock::SystemClock;
use larder::cache::entry::Entry;
use larder::cache::generations::Generations;
use larder::cache::memory::MemoryTier;
use larder::cache::{Bounds, Cache, Loader};
use larder::config::{self, Config, Environment, Overrides};
use larder::http::encoding::Encoder;
use larder::key::KeyPolicy;
use larder::metrics::Metrics;
use larder::plugin::{Registry, Worker};
use larder::route::Snapshot;
use larder::route::derive::Derived;
use tokio::runtime::Runtime;

/// Lengths of bodies.
pub(crate) const BODIES: [usize; 2] = [300, 16 * 1024];
/// Routes beside the two that are asked.
const OTHERS: usize = 98;

/// A server without its listeners, on one thread.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    pub(crate) snapshot: Snapshot,
    pub(crate) cache: Arc<Cache>,
    pub(crate) encoder: Encoder,
    /// What was asked for, and is in memory.
    pub(crate) hit: Arc<Derived>,
    headers: HeaderMap,
    metrics: Metrics,
    /// Its files, and what holds the plugins in service.
    _kept: (tempfile::TempDir, Arc<Registry>),
}

impl Stage {
    /// One whose loader answers with so many bytes.
    ///
    /// # Panics
    /// When the plugins were not built.
    pub(crate) fn of(body: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = configuration(directory.path(), body);
        let registry = Registry::open(&config, Worker::Here).expect("a plugin directory");
        runtime.block_on(registry.judge(Arc::new(|_| ())));
        let metrics = Metrics::new();
        let (snapshot, problems) = Snapshot::build(&config, registry.set(), &metrics, None);
        assert!(problems.is_empty(), "{problems:?} {:?}", registry.status());
        let cache = Arc::new(Cache::new(
            Arc::new(MemoryTier::new(config.memory.capacity)),
            None,
            Arc::new(Generations::new()),
            Arc::new(SystemClock::new()),
            Bounds {
                loads_max: config.server.max_loads,
                waiters_max: config.server.max_waiters,
            },
        ));
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-tenant"),
            HeaderValue::from_static("acme"),
        )]);
        let hit = snapshot.derive("/policy/k0042", &headers, &metrics);
        let hit = hit.unwrap_or_else(|(_, refusal)| panic!("{refusal}"));
        runtime.block_on(cache.answer(&hit.ask, false));
        let stage = Self {
            runtime,
            snapshot,
            cache,
            encoder: Encoder::new(config.memory.capacity / 10),
            hit,
            headers,
            metrics,
            _kept: (directory, registry),
        };
        assert!(stage.entry().len() >= body);
        stage
    }

    /// What a request for this path and query of the tenant becomes.
    pub(crate) fn derive(&self, target: &str) -> Arc<Derived> {
        let derived = self.snapshot.derive(target, &self.headers, &self.metrics);
        derived.unwrap_or_else(|(_, refusal)| panic!("{target}: {refusal}"))
    }

    /// The entry that is in memory.
    pub(crate) fn entry(&self) -> Entry {
        let entry = self.cache.memory().get(&self.hit.ask.key);
        entry.expect("it was loaded and stored")
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.cache.clock().now_ms()
    }

    pub(crate) fn policy(&self) -> Arc<dyn KeyPolicy> {
        let plugin = self.snapshot.plugins.get("tenant-key");
        plugin
            .and_then(|plugin| plugin.key_policy())
            .expect("it is served")
    }

    pub(crate) fn loader(&self) -> Arc<dyn Loader> {
        let plugin = self.snapshot.plugins.get("demo");
        plugin
            .and_then(|plugin| plugin.loader())
            .expect("it is served")
    }
}

/// A target that never came before, each time.
pub(crate) fn another(begin: &'static str) -> impl FnMut() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    move || format!("{begin}{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Writes the files of a server, and reads its configuration.
fn configuration(directory: &Path, body: usize) -> Config {
    let plugins = directory.join("plugins");
    std::fs::create_dir(&plugins).expect("a plugin directory");
    let text = format!("Data for key {{key}}{}", "x".repeat(body));
    for (name, sidecar) in [
        ("demo", format!("text = {text:?}\nlatency_ms = 0\n")),
        ("tenant-key", "header = \"x-tenant\"\n".to_owned()),
    ] {
        let from = dist().join(name).with_extension("wasm");
        std::fs::copy(&from, plugins.join(name).with_extension("wasm"))
            .unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", from.display()));
        let file = plugins.join(name).with_extension("toml");
        std::fs::write(file, format!("[config]\n{sidecar}")).expect("a sidecar is written");
    }
    let mut text = format!(
        "[plugins]\ndir = {plugins:?}\n[storage]\ndir = {:?}\n\
         [[routes]]\npath = \"/native/{{key}}\"\nloader = \"demo\"\nttl = \"1h\"\n\
         [[routes]]\npath = \"/policy/{{key}}\"\nloader = \"demo\"\nttl = \"1h\"\n\
         key = \"tenant-key\"\nkey_headers = [\"x-tenant\"]\n",
        env!("CARGO_TARGET_TMPDIR")
    );
    for other in 0..OTHERS {
        text.push_str(&format!(
            "[[routes]]\npath = \"/other-{other}/{{key}}\"\nloader = \"demo\"\n"
        ));
    }
    let file = directory.join("larder.toml");
    std::fs::write(&file, text).expect("a configuration is written");
    // Nothing of what the environment says, which is of a server.
    let nothing = Environment::new::<String>([]);
    let loaded = config::load(Some(&file), &Overrides::default(), &nothing);
    loaded.unwrap_or_else(|problems| panic!("{problems:?}")).0
}

/// Where the plugins are that `make build` makes.
fn dist() -> PathBuf {
    let named = std::env::var_os("PLUGINS_DIST").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist"))
}
