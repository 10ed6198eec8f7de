//! Where the changes of a route go: to the writer that it names now, which need not be the one that was there when they were
//! accepted.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Snapshot, WriteLink, Writes};
use crate::error::{Failure, FailureKind};
use crate::write::behind::{Destination, Destinations};

/// As the routes are now.
pub struct WriteRoutes(pub Arc<ArcSwap<Snapshot>>);

impl Destinations for WriteRoutes {
    fn of(&self, route: &str) -> Destination {
        let snapshot = self.0.load();
        let Some(found) = snapshot.of_pattern(route) else {
            return nowhere(
                route,
                format!("there is no route {route} any more, so nobody makes its changes"),
            );
        };
        let (name, writer) = match &found.writes {
            Writes::Through(link) | Writes::Behind(link) => match link {
                WriteLink::Ready(writer) => (writer.name(), Ok(Arc::clone(writer))),
                WriteLink::NotLoaded { name, why } => {
                    (name.as_str(), Err(not_loaded(absent_writer(name, why))))
                }
            },
            Writes::Off => {
                return nowhere(
                    route,
                    format!(
                        "the route {route} does not write any more, so nobody makes its changes"
                    ),
                );
            }
        };
        Destination {
            name: name.into(),
            writer,
            timeout: found.binding.policy.timeout,
            coalesce: found.config.coalesce,
        }
    }
}

/// The writer of a route is not there.
pub fn absent_writer(name: &str, why: &str) -> String {
    format!("the plugin `{name}` that writes for this route is not loaded: {why}")
}

fn not_loaded(message: String) -> Failure {
    Failure::host(FailureKind::NotLoaded, "plugin-not-loaded", message)
}

/// Its changes wait: the route may come back.
fn nowhere(route: &str, message: String) -> Destination {
    Destination {
        // No plugin is called so.
        name: format!("route {route}").into(),
        writer: Err(not_loaded(message)),
        timeout: std::time::Duration::ZERO,
        coalesce: false,
    }
}
