//! The configuration read again while the server runs: file, environment and flags, all or nothing.
//!
//! # Step by step
//! (1) Everything is read and judged, and nothing touched: a problem ends it here. (2) What cannot change while the server
//! runs is as it was, and named. (3) The routes are bound and put in place in one step; requests in flight keep the table that
//! they began with (law 8). (4) The tokens are replaced; whoever has an old one is refused from the next request on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::args::Settings;
use super::binding::Binder;
use super::check::{absent, named};
use super::{supervisor, tokens};
use crate::admin::{Configuration, Tokens, audit};
use crate::cache::Cache;
use crate::config::reload::{Change, in_force};
use crate::config::{Config, Problem, Route, Write};
use crate::plugin::Registry;
use crate::write::notes::Notes;

/// What a reload stands on.
pub(super) struct Reloader {
    /// Where the configuration is, and the flags over it.
    pub(super) settings: Settings,
    pub(super) binder: Arc<Binder>,
    pub(super) registry: Arc<Registry>,
    pub(super) cache: Arc<Cache>,
    pub(super) tokens: Arc<ArcSwap<Tokens>>,
    pub(super) notes: Arc<ArcSwapOption<Notes>>,
    /// Held by the one reload that goes on.
    pub(super) turn: Mutex<()>,
    /// Whether the last one was refused.
    pub(super) is_refused: AtomicBool,
}

impl Configuration for Reloader {
    fn reload(&self) -> Result<Vec<Change>, Vec<Problem>> {
        let _turn = self.turn.lock();
        supervisor::reloading();
        let became = self.take_over();
        self.is_refused.store(became.is_err(), Ordering::Relaxed);
        match &became {
            Ok(changes) => {
                tell(changes);
                supervisor::ready("serving");
            }
            Err(problems) => {
                for problem in problems {
                    error!("{}", problem.on_one_line());
                }
                error!("the configuration is not taken over: the one before stays in force");
                supervisor::ready("serving; the configuration that was read last was refused");
            }
        }
        became
    }

    fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}

impl Reloader {
    /// At SIGHUP.
    pub(super) async fn at_signal(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let became = tokio::task::spawn_blocking(move || this.reload()).await;
        let outcome = match became {
            Ok(became) => said(&became),
            Err(panic) => format!("it did not end: {panic}"),
        };
        audit::write(
            "SIGHUP",
            "configuration",
            &outcome,
            "who may signal the process",
            "-",
        );
    }

    fn take_over(&self) -> Result<Vec<Change>, Vec<Problem>> {
        let (read, warnings) = self.settings.load()?;
        let tokens = tokens::read(&read.admin)?;
        let before = self.binder.config();
        let absent = absent(&read, |route| newly_named(&before, route));
        if !absent.is_empty() {
            return Err(absent);
        }
        let (config, mut changes) = in_force(&before, read, self.binder.queues());
        if self.notes.load().is_none() {
            let notes = notes(&config, &self.cache)
                .map_err(|error| vec![Problem::error(format!("{error:#}"))])?;
            self.notes.store(notes.map(Arc::new));
        }
        let config = Arc::new(config);
        let problems = self.binder.bind(&config, &self.registry)?;
        self.registry.configure(&config);
        for warning in warnings.iter().chain(&problems) {
            warn!("{}", warning.on_one_line());
        }
        let is_named = |change: &Change| change.setting.contains("token");
        if *self.tokens.load_full() != tokens && !changes.iter().any(is_named) {
            changes.push(Change {
                setting: "admin, what is in the files of its tokens".to_owned(),
                from: None,
                to: None,
                waits: false,
            });
        }
        self.tokens.store(Arc::new(tokens));
        Ok(changes)
    }
}

/// Plugins that a route did not name before. One that is not there is a slip then; one that was there when the route was
/// made, and is gone, is no reason to take nothing over.
fn newly_named(before: &Config, route: &Route) -> Vec<String> {
    let same = before.routes.iter().find(|other| other.path == route.path);
    let known: Vec<_> = same.into_iter().flat_map(named).collect();
    let names = named(route).filter(|name| !known.contains(name));
    names.cloned().collect()
}

/// What became of a reload, for the audit log.
pub(super) fn said(became: &Result<Vec<Change>, Vec<Problem>>) -> String {
    match became {
        Ok(changes) => {
            let waiting = changes.iter().filter(|change| change.waits).count();
            format!(
                "{} changed, {waiting} of these after a restart",
                changes.len()
            )
        }
        Err(problems) => format!("refused, {} problems", problems.len()),
    }
}

fn tell(changes: &[Change]) {
    for change in changes {
        if change.waits {
            warn!("{change}; it needs a restart, and until then it is as it was");
        } else {
            info!("{change}");
        }
    }
    info!(
        "the configuration was read again; settings that differ: {}",
        changes.len()
    );
}

/// Where answers to changes are remembered: where nodes agree, if they do. None where no route writes through.
pub(super) fn notes(config: &Config, cache: &Cache) -> anyhow::Result<Option<Notes>> {
    use anyhow::Context as _;
    let is_through = |route: &crate::config::Route| route.write == Write::Through;
    if !config.routes.iter().any(is_through) {
        return Ok(None);
    }
    Ok(Some(match cache.shared() {
        Some(shared) => Notes::Shared(Arc::clone(shared)),
        None => Notes::open(&config.storage.dir).with_context(|| {
            format!(
                "opening {}/answers.redb; give each server a [storage] dir of its own, which it may write to",
                config.storage.dir.display()
            )
        })?,
    }))
}
