//! What one plugin may reach, and how it gets there: origins, endpoints, directories and environment variables, each
//! behind a grant.
//!
//! - [`grants`]: the rule. Pure.
//! - [`resolve`]: name → addresses that the rule admits.
//! - [`client`]: the host's one outbound client, its pools and its bounds.
//! - [`hooks`]: where `wasi:http` meets it.
//! - [`sockets`]: what sockets may do. [`known`]: which addresses they may be connected to, and why.
//! - [`tape`]: what was sent and answered, recorded, or answered from a recording.
//!
//! Everything not granted is denied, and the denial names the exact line to add (law 9). Knows nothing of stores, drivers
//! or the cache.

mod client;
mod grants;
mod hooks;
mod known;
mod resolve;
mod sockets;
mod tape;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

pub use client::EgressClient;
pub use hooks::EgressHooks;
pub(super) use sockets::NoAddress;
pub use tape::{Bytestring, Exchange, Reply, Sent, Tape};

use self::client::Pool;
use self::grants::{Origin, Reach};
use self::known::Known;
use self::resolve::Resolver;
use super::limits::Limits;
use super::needs::list_line;
use super::redact::Redactor;
use crate::config::{DirMode, Grants, Problem};

/// Denial sentences that are kept, and shown with the failure of the call that met them.
const DENIALS_KEPT: usize = 16;
/// Denial sentences that are logged in the life of one plugin version: a guest that makes names up must not fill the log.
const DENIALS_LOGGED: u64 = 64;

/// What one version of a plugin may reach. Its requests share the pool of every plugin with exactly the same rights.
pub struct Egress {
    plugin: String,
    grants: Grants,
    reach: Arc<Reach>,
    /// `None`: no origin is granted, so nothing is ever sent.
    pool: Option<Arc<Pool>>,
    /// `None`: nothing is granted, so no name is ever looked up.
    resolver: Option<Resolver>,
    /// What look-ups gave, for sockets to be connected to.
    known: Mutex<Known>,
    /// Bytes of one body, either way.
    body_bytes_max: usize,
    /// Requests at once; further ones wait, which slows the guest down instead of failing it.
    fetches: Arc<Semaphore>,
    /// Sockets that one instance may have open at once.
    sockets_max: usize,
    /// A guest may put a secret where a name or a host belongs.
    redactor: Arc<Redactor>,
    denials: Mutex<VecDeque<String>>,
    denied: AtomicU64,
    logged: AtomicU64,
    /// Everything sent goes through it.
    tape: Option<Arc<Tape>>,
}

impl Egress {
    /// The rights of `plugin` by the grants of its sidecar. What `redactor` knows is kept out of denials.
    ///
    /// # Errors
    /// One problem per grant that is not understood or cannot be given: all of them, without a file or a line, which the
    /// caller knows.
    pub fn new(
        plugin: &str,
        grants: &Grants,
        limits: &Limits,
        client: &Arc<EgressClient>,
        redactor: &Arc<Redactor>,
    ) -> Result<Arc<Self>, Vec<Problem>> {
        let mut problems = Vec::new();
        let reach = Reach::parse(&grants.http, &grants.tcp, &grants.networks);
        let reach = Arc::new(reach.unwrap_or_else(|found| {
            problems.extend(found);
            Reach::default()
        }));
        for (guest, dir) in &grants.dirs {
            if let Err(why) = usable(&dir.host) {
                problems.push(
                    Problem::error(format!(
                        "[grants] dirs: {guest:?} cannot be given: {}: {why}",
                        dir.host.display()
                    ))
                    .remedy("name a directory that exists and that Larder may read"),
                );
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let pool = (!grants.http.is_empty()).then(|| client.pool(&reach));
        Ok(Arc::new(Self {
            plugin: plugin.to_owned(),
            grants: grants.clone(),
            resolver: Some(client.resolver(&reach)),
            reach,
            pool,
            known: Mutex::default(),
            body_bytes_max: limits.body,
            fetches: Arc::new(Semaphore::new(limits.fetches.max(1))),
            sockets_max: limits.fetches.max(1),
            redactor: Arc::clone(redactor),
            denials: Mutex::default(),
            denied: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            tape: client.tape(),
        }))
    }

    /// No rights at all: for describing a component, and for key policies.
    pub fn denied(plugin: &str) -> Arc<Self> {
        Arc::new(Self {
            plugin: plugin.to_owned(),
            grants: Grants::default(),
            reach: Arc::default(),
            pool: None,
            resolver: None,
            known: Mutex::default(),
            body_bytes_max: 0,
            fetches: Arc::new(Semaphore::new(1)),
            sockets_max: 0,
            redactor: Arc::default(),
            denials: Mutex::default(),
            denied: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            tape: None,
        })
    }

    /// The hooks of one store. `wasi:http` 0.2 and 0.3 send through the same ones.
    pub fn hooks(self: &Arc<Self>) -> EgressHooks {
        EgressHooks::new(Arc::clone(self))
    }

    /// Gives a store what is granted apart from HTTP and sockets: directories and environment variables.
    ///
    /// # Errors
    /// A granted directory that has gone since [`Egress::new`] looked.
    pub fn furnish(&self, wasi: &mut WasiCtxBuilder) -> wasmtime::Result<()> {
        for (guest, dir) in &self.grants.dirs {
            let perms = match dir.mode {
                DirMode::ReadOnly => FsPerms::ReadOnly,
                DirMode::ReadWrite => FsPerms::ReadWrite,
            };
            wasi.preopened_dir(&dir.host, guest, perms)
                .map_err(|error| {
                    error.context(format!("the granted directory {}", dir.host.display()))
                })?;
        }
        for name in &self.grants.env {
            // A granted variable that the host does not have is absent in the guest too.
            if let Ok(value) = std::env::var(name) {
                wasi.env(name, value);
            }
        }
        Ok(())
    }

    /// The last denials, distinct, the newest last: each a sentence that names the exact line to add.
    pub fn denials(&self) -> Vec<String> {
        self.denials.lock().iter().cloned().collect()
    }

    /// How often something was denied so far. A call during which this rose met a denial, the newest of
    /// [`Egress::denials`] (or, with several calls in one instance, a neighbour did).
    pub fn denied_count(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    /// Refuses an origin, with the line that would grant it beside those that are.
    fn deny_origin(&self, origin: &Origin) {
        self.deny(format!(
            "{origin} is not granted: {}",
            self.line("http", &self.grants.http, &origin.to_string())
        ));
    }

    /// Refuses an address that a granted name resolved to.
    fn deny_address(&self, refused: &resolve::Refused) {
        self.deny(format!(
            "{} resolves to {}, which is {} and not granted: {}",
            refused.name,
            refused.address,
            refused.kind,
            self.line(
                "networks",
                &self.grants.networks,
                &ipnet::IpNet::from(refused.address.to_canonical()).to_string()
            )
        ));
    }

    /// What to write where, so that it is granted.
    fn line(&self, grant: &str, granted: &[String], missing: &str) -> String {
        format!(
            "in {}.toml under [grants] write `{}`",
            self.plugin,
            list_line(grant, granted, &[missing.to_owned()])
        )
    }

    /// Remembers that something was denied, and logs it within bounds. `sentence` names the line to add.
    pub(super) fn deny(&self, sentence: String) {
        let sentence = self.redactor.redact(&sentence).into_owned();
        let mut denials = self.denials.lock();
        if let Some(at) = denials.iter().position(|known| *known == sentence) {
            denials.remove(at);
        } else {
            if denials.len() == DENIALS_KEPT {
                denials.pop_front();
            }
            match self.logged.fetch_add(1, Ordering::Relaxed) {
                logged if logged < DENIALS_LOGGED => {
                    tracing::warn!(plugin = self.plugin, "denied: {sentence}");
                }
                DENIALS_LOGGED => {
                    tracing::warn!(plugin = self.plugin, "denied: further ones are not logged");
                }
                _ => {}
            }
        }
        denials.push_back(sentence);
        // Counted while the lock is held, so that who sees the count finds the sentence.
        self.denied.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a directory can be granted, told at load instead of as a riddle at the first call.
fn usable(dir: &std::path::Path) -> Result<(), String> {
    std::fs::read_dir(dir)
        .map(drop)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "egress_tests.rs"]
mod tests;
