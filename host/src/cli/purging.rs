//! What change feeds tell, purged as `POST /purge` purges: through the cache, in every tier, with `delete`. Knows routes and
//! tiers; must not know how feeds are read.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tracing::warn;

use crate::cache::Cache;
use crate::cache::generations::Mode;
use crate::cache::tier::Duty;
use crate::plugin::{Change, Changes};
use crate::route::Snapshot;

/// Purges of one page between two moments at which others of the thread may run.
const TURN: usize = 256;

/// Where changes end up.
pub(super) struct Purging {
    /// The routes as they are now: a change means what is served.
    pub(super) routes: Arc<ArcSwap<Snapshot>>,
    /// The tiers.
    pub(super) cache: Arc<Cache>,
}

impl Changes for Purging {
    /// What is purged for a change depends on the routes of its loader: nodes that have others read for themselves, while a new
    /// configuration is rolled out.
    fn duty<'a>(&'a self, plugin: &'a str, identity: &'a str) -> BoxFuture<'a, Option<Duty>> {
        Box::pin(async move {
            let shared = self.cache.shared()?;
            let routes = self.routes.load().digest_of(plugin);
            let feed = format!("feed:{plugin}:{identity}:{routes:016x}");
            Some(shared.duty(&feed).await)
        })
    }

    fn is_settled(&self) -> bool {
        let shared = self.cache.shared();
        shared.is_none_or(|shared| shared.health().pending_purges == 0)
    }

    fn apply<'a>(&'a self, plugin: &'a str, changes: Vec<Change>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let scopes = self.routes.load().scopes(plugin, &changes);
            if let Some(fault) = scopes.fault {
                warn!(plugin, "a change that its feed tells is unclear: {fault}");
            }
            for turn in scopes.purge.chunks(TURN) {
                for scope in turn {
                    self.cache.purge(scope, Mode::Delete).await;
                }
                tokio::task::yield_now().await;
            }
        })
    }
}
