//! `larder check`: judges every file of the plugin directory without serving any, and tells every problem at once.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::compile::Worker;
use super::egress::EgressClient;
use super::engine::Engine;
use super::files::{self, ReadError};
use super::judge::{Court, Rejection, Roles};
use super::set::PluginSet;
use super::version::Plugin;
use crate::config::{Config, Problem};

const STOP_MAX: Duration = Duration::from_secs(15);

/// Judges every plugin of the directory as the server would: compiles, describes, checks, starts and probes it, then stops
/// it again. Problems are in the order of the file names. A probe that fails is a warning: the source may be out of reach
/// from here.
///
/// `bind` is told of what would be served, and tells what is wrong between that and the routes.
pub async fn check(
    config: &Config,
    worker: Worker,
    bind: impl FnOnce(Arc<PluginSet>) -> Vec<Problem>,
) -> Vec<Problem> {
    let dir = &config.plugins.dir;
    let listing = match files::list(dir) {
        Ok(listing) => listing,
        Err(error) => {
            return vec![
                Problem::warning(format!("the plugin directory cannot be read: {error}"))
                    .at(dir.clone(), None)
                    .remedy("create it, or set `dir` under [plugins]"),
            ];
        }
    };
    let mut problems = Vec::new();
    for path in listing.misnamed {
        problems.push(
            Problem::error("the file name cannot be the name of a plugin")
                .at(path, None)
                .remedy("use letters, digits, '-', '_' and '.', 64 at most, and begin with a letter, a digit or '_'"),
        );
    }
    for name in listing.lone_sidecars {
        problems.push(
            Problem::warning("there is no component for this sidecar")
                .at(files::sidecar_path(dir, &name), None)
                .remedy(format!("put {name}.wasm beside it, or remove it")),
        );
    }
    if listing.left_out > 0 {
        problems.push(
            Problem::error(format!(
                "{} more components than are loaded",
                listing.left_out
            ))
            .at(dir.clone(), None)
            .remedy("split the directory"),
        );
    }
    let engine = match Engine::new(&config.storage.dir, worker) {
        Ok(engine) => engine,
        Err(error) => {
            problems.push(
                Problem::error(format!("plugins cannot be judged: {error:#}"))
                    .at(config.storage.dir.clone(), None),
            );
            return problems;
        }
    };
    let court = Court {
        engine,
        client: EgressClient::new(),
        dir: dir.clone(),
        offline: false,
    };
    // One after another: the order of the report is then the order of the files, and a broken one cannot starve the rest.
    let stops = TaskTracker::new();
    let mut set = PluginSet::default();
    for name in listing.plugins.keys() {
        let (judged, plugin) = judge(&court, name, &stops).await;
        problems.extend(judged);
        if let Some(plugin) = plugin {
            set = set.with(&plugin);
        }
    }
    let set = Arc::new(set);
    problems.extend(bind(Arc::clone(&set)));
    for plugin in set.iter() {
        plugin.stop();
    }
    stops.close();
    // A plugin's `stop` has a budget of its own; this is for one that passes it.
    let _ = tokio::time::timeout(STOP_MAX, stops.wait()).await;
    problems
}

async fn judge(
    court: &Court,
    name: &str,
    stops: &TaskTracker,
) -> (Vec<Problem>, Option<Arc<Plugin>>) {
    let path = files::component_path(&court.dir, name);
    let files = match court.read(name).await {
        Ok(files) => files,
        Err(ReadError::Gone) => return (Vec::new(), None),
        Err(ReadError::Changing) => {
            let rejection = Rejection::unread(&path, "it changes while it is read");
            return (rejection.problems, None);
        }
        Err(ReadError::Unreadable { path, why }) => {
            return (Rejection::unread(&path, &why).problems, None);
        }
    };
    match court.judge(name, files, Roles::default()).await {
        Ok(candidate) => {
            let mut problems = candidate.warnings;
            if let Err(failure) = &candidate.launched.probe {
                problems.push(
                    Problem::warning(format!("its probe fails: {failure}"))
                        .at(path, None)
                        .remedy("it will be served all the same, and probed again until it passes"),
                );
            }
            let plugin = Plugin::new(candidate.facts, candidate.launched.runtime, stops);
            (problems, Some(plugin))
        }
        Err(rejection) => (rejection.problems, None),
    }
}
