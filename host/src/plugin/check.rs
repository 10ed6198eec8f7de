//! `larder check`: judges every file of the plugin directory without serving any, and tells every problem at once.

use std::sync::Arc;

use super::egress::EgressClient;
use super::engine::Engine;
use super::files::{self, ReadError};
use super::judge::{Court, Rejection, Roles};
use crate::config::{Config, Problem};

/// Judges every plugin of the directory as the server would: compiles, describes, checks, starts and probes it, then stops
/// it again. Problems are in the order of the file names. A probe that fails is a warning: the source may be out of reach
/// from here.
pub async fn check(config: &Config) -> Vec<Problem> {
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
    let engine = match Engine::new(&config.storage.dir) {
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
    };
    // One after another: the order of the report is then the order of the files, and a broken one cannot starve the rest.
    for name in listing.plugins.keys() {
        problems.extend(judge(&court, name).await);
    }
    problems
}

async fn judge(court: &Court, name: &str) -> Vec<Problem> {
    let path = files::component_path(&court.dir, name);
    let files = match court.read(name).await {
        Ok(files) => files,
        Err(ReadError::Gone) => return Vec::new(),
        Err(ReadError::Changing) => {
            return Rejection::unread(&path, "it changes while it is read").problems;
        }
        Err(ReadError::Unreadable { path, why }) => {
            return Rejection::unread(&path, &why).problems;
        }
    };
    match court.judge(name, files, Roles::default()).await {
        Ok(candidate) => {
            let mut problems = candidate.warnings;
            if let Err(failure) = candidate.launched.probe {
                problems.push(
                    Problem::warning(format!("its probe fails: {failure}"))
                        .at(path, None)
                        .remedy("it will be served all the same, and probed again until it passes"),
                );
            }
            Arc::clone(&candidate.launched.runtime).stop().await;
            problems
        }
        Err(rejection) => rejection.problems,
    }
}
