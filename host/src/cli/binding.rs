//! Routes bound to plugins, put in place in one step: when a plugin is swapped, and when the configuration is another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::warn;

use crate::cache::Link;
use crate::cache::redis::RedisTier;
use crate::config::{Config, Problem, Severity};
use crate::metrics::Metrics;
use crate::plugin::{PluginSet, Registry};
use crate::route::Snapshot;
use crate::write::behind::Behind;

/// What routes are made of, and where they are put.
pub(super) struct Binder {
    /// The configuration in force. Its lock is held while a table is made of it and put in place: whoever makes one looks
    /// at the plugins under it, so an older table never replaces a newer one.
    config: Mutex<Arc<Config>>,
    routes: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    behind: Option<Arc<Behind>>,
    redis: Option<Arc<RedisTier>>,
    /// The longest that any entry may live which was stored since the start, in milliseconds.
    longest_life_ms: AtomicU64,
}

impl Binder {
    pub(super) fn new(
        config: &Arc<Config>,
        routes: &Arc<ArcSwap<Snapshot>>,
        metrics: &Arc<Metrics>,
        behind: Option<&Arc<Behind>>,
        redis: Option<&Arc<RedisTier>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            longest_life_ms: AtomicU64::new(Snapshot::longest_life_ms(config)),
            config: Mutex::new(Arc::clone(config)),
            routes: Arc::clone(routes),
            metrics: Arc::clone(metrics),
            behind: behind.cloned(),
            redis: redis.cloned(),
        })
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock())
    }

    /// Whether changes can be accepted before they are made.
    pub(super) fn queues(&self) -> bool {
        self.behind.is_some()
    }

    /// The longest that any entry may live which was stored since the start, in milliseconds.
    pub(super) fn longest_life_ms(&self) -> u64 {
        self.longest_life_ms.load(Ordering::Relaxed)
    }

    fn build(&self, config: &Config, plugins: Arc<PluginSet>) -> (Snapshot, Vec<Problem>) {
        Snapshot::build(config, plugins, &self.metrics, self.behind.as_ref())
    }

    /// Binds the routes anew to each set of plugins. Calls are serialised by the registry.
    pub(super) fn rebind(self: Arc<Self>) -> Arc<dyn Fn(Arc<PluginSet>) + Send + Sync> {
        Arc::new(move |plugins| {
            let config = self.config.lock();
            let (snapshot, problems) = self.build(&config, plugins);
            for problem in problems {
                warn!("{}", problem.on_one_line());
            }
            self.routes.store(Arc::new(snapshot));
        })
    }

    /// Binds the routes of a configuration, which is in force from then on.
    ///
    /// # Errors
    /// Every problem, when at least one is an error: then nothing has changed.
    pub(super) fn bind(
        &self,
        config: &Arc<Config>,
        registry: &Registry,
    ) -> Result<Vec<Problem>, Vec<Problem>> {
        let mut in_force = self.config.lock();
        // A set that is published after this is told to `rebind`, which waits for the lock and binds that.
        let (snapshot, problems) = self.build(config, registry.set());
        let is_error = |problem: &Problem| problem.severity == Severity::Error;
        if problems.iter().any(is_error) {
            return Err(problems);
        }
        // Before the first entry is stored that lives longer than those before it.
        let longest_ms = Snapshot::longest_life_ms(config);
        self.longest_life_ms
            .fetch_max(longest_ms, Ordering::Relaxed);
        if let Some(redis) = &self.redis {
            redis.outlive(longest_ms);
        }
        warn_of_absent(&snapshot);
        self.routes.store(Arc::new(snapshot));
        *in_force = Arc::clone(config);
        Ok(problems)
    }
}

/// A route whose plugin is not there is served all the same: it may come later.
fn warn_of_absent(snapshot: &Snapshot) {
    for route in snapshot.routes() {
        for link in &route.binding.chain {
            if let Link::NotLoaded { name, why } = link {
                warn!(
                    route = &*route.pattern,
                    plugin = name,
                    "its misses are answered with 503: {why}"
                );
            }
        }
    }
}
