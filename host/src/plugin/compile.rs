//! Bytes → compiled component, through the cache of compiled code on disk.
//!
//! Compiling is the slowest thing the host does (milliseconds for a small Rust guest, seconds for Python) and the one a
//! hostile component could make slower still: so its size is capped, one is compiled at a time, and never on the runtime's
//! own threads. What was compiled is kept under the digest of the component and the compatibility hash of the engine, and
//! mapped the next time.

use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::Semaphore;
use wasmtime::component::Component;
use xxhash_rust::xxh3::Xxh3;

use super::examine;
use super::prepared::Prepared;
use super::runtime::Refusal;

/// Compiled components that the cache keeps; the ones that were not used for longest go first.
const KEPT: usize = 128;

/// Which of the contract's interfaces a component exports. Others are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exports {
    /// `loader`
    pub loader: bool,
    /// `blocking-loader`
    pub blocking_loader: bool,
    /// `batch-loader`
    pub batch_loader: bool,
    /// `key-policy`
    pub key_policy: bool,
    /// `writer`
    pub writer: bool,
    /// `change-feed`
    pub change_feed: bool,
    /// `metadata`
    pub metadata: bool,
    /// `lifecycle`
    pub lifecycle: bool,
}

impl Exports {
    /// Whether routes may load through it.
    pub(super) const fn loads(&self) -> bool {
        self.loader || self.blocking_loader || self.batch_loader
    }

    /// Whether this host has a use for it.
    pub(super) const fn is_useful(&self) -> bool {
        self.loads() || self.key_policy || self.change_feed
    }
}

/// A component that was compiled (or mapped from the cache) and judged: it can be instantiated by the engine it came from.
#[derive(Clone)]
pub struct Compiled {
    /// BLAKE3 of the component's bytes, in hex.
    pub digest: String,
    /// Bytes of the component.
    pub size: u64,
    /// What it can do.
    pub exports: Exports,
    /// What it asks of the host, e.g. `wasi:http/handler@0.3.0`, in the component's order.
    pub imports: Vec<String>,
    /// Its imports resolved, its exports looked up.
    pub(super) prepared: Prepared,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("digest", &self.digest)
            .field("size", &self.size)
            .field("exports", &self.exports)
            .field("imports", &self.imports)
            .finish_non_exhaustive()
    }
}

/// The cache and the worker before it.
pub(super) struct Compiler {
    /// `None`: it cannot be kept from other users, so nothing is mapped from it.
    directory: Option<Arc<PathBuf>>,
    compatibility: u64,
    worker: Arc<Semaphore>,
    compiled: Arc<AtomicU64>,
    mapped: Arc<AtomicU64>,
}

impl Compiler {
    /// A cache in `directory`, which is made if need be and belongs to this user alone.
    pub(super) fn new(engine: &wasmtime::Engine, directory: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| {
                format!(
                    "{} cannot be made; [storage] dir must be writable",
                    directory.display()
                )
            })?;
        let kept = ours_alone(directory);
        if kept {
            prune(directory);
        }
        let mut hash = Xxh3::new();
        engine.precompile_compatibility_hash().hash(&mut hash);
        Ok(Self {
            directory: kept.then(|| Arc::new(directory.to_owned())),
            compatibility: hash.finish(),
            worker: Arc::new(Semaphore::new(1)),
            compiled: Arc::default(),
            mapped: Arc::default(),
        })
    }

    /// The component, and the BLAKE3 digest of its bytes in hex.
    pub(super) async fn compile(
        &self,
        engine: &wasmtime::Engine,
        name: &str,
        bytes: Bytes,
    ) -> Result<(Component, String), Refusal> {
        let turn = Arc::clone(&self.worker)
            .acquire_owned()
            .await
            .map_err(|_| Refusal::bare("the server is stopping"))?;
        let engine = engine.clone();
        let name = name.to_owned();
        let directory = self.directory.clone();
        let compatibility = self.compatibility;
        let (compiled, mapped) = (Arc::clone(&self.compiled), Arc::clone(&self.mapped));
        let work = move || {
            // Held until the compiler is done, also when nobody waits for it any more: it cannot be interrupted.
            let _turn = turn;
            let digest = blake3::hash(&bytes).to_hex().to_string();
            let file = directory.map(|directory| {
                directory.join(format!("{}-{compatibility:016x}.cwasm", &digest[..32]))
            });
            if let Some(component) = file.as_ref().and_then(|file| map(&engine, file)) {
                mapped.fetch_add(1, Ordering::Relaxed);
                return Ok((component, digest));
            }
            // Told because it may take a while, in which nothing else of this plugin is seen.
            tracing::info!(plugin = name, bytes = bytes.len(), "compiling");
            let component = Component::from_binary(&engine, &bytes)
                .map_err(|error| examine::not_compiled(&name, &bytes, &error))?;
            compiled.fetch_add(1, Ordering::Relaxed);
            // A cache that cannot be written costs time at the next start, nothing else.
            if let Some(file) = file
                && let Err(error) = keep(&component, &file)
            {
                tracing::warn!(plugin = name, file = %file.display(), "compiled code was not kept: {error:#}");
            }
            Ok((component, digest))
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|error| Err(Refusal::bare(format!("the compiler failed: {error}"))))
    }

    /// How many components were compiled, and how many were mapped from the cache.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u64, u64) {
        (
            self.compiled.load(Ordering::Relaxed),
            self.mapped.load(Ordering::Relaxed),
        )
    }
}

/// Makes the directory one that no other user can enter; says whether it is.
fn ours_alone(directory: &Path) -> bool {
    let ours = fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
        .and_then(|()| fs::metadata(directory))
        .is_ok_and(|meta| meta.uid() == rustix::process::geteuid().as_raw());
    if !ours {
        tracing::warn!(directory = %directory.display(), "the directory belongs to another user, so compiled code is not cached in it");
    }
    ours
}

/// The component from the cache; `None` if it is not there, is not what was written, or does not fit.
#[allow(
    unsafe_code,
    reason = "mapping compiled code: the one allowance of the workspace, argued below"
)]
fn map(engine: &wasmtime::Engine, file: &Path) -> Option<Component> {
    let written = fs::read_to_string(digest_file(file)).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file).ok()?).ok()?;
    if hasher.finalize().to_hex().as_str() != written.trim() {
        tracing::warn!(file = %file.display(), "compiled code was damaged; compiling again");
        return None;
    }
    // SAFETY: `deserialize_file` runs what the file holds, so the file must be what `Component::serialize` gave, unchanged.
    // It lies in a directory that only this process's user can enter (checked by `ours_alone`), is put there by a rename of a
    // complete file, is never written in place, and its bytes have just been compared with the digest that was written
    // beside it. Who can change it in between is the same user, who can replace this very program too. Files of another
    // wasmtime, other settings or another processor have another name, and wasmtime itself refuses them.
    let component = unsafe { Component::deserialize_file(engine, file) };
    match component {
        Ok(component) => {
            touch(file);
            Some(component)
        }
        Err(error) => {
            tracing::warn!(file = %file.display(), "compiled code does not fit ({error}); compiling again");
            None
        }
    }
}

/// Writes the compiled code and then its digest, each by a rename: a reader finds both or misses.
fn keep(component: &Component, file: &Path) -> anyhow::Result<()> {
    let code = component
        .serialize()
        .map_err(|error| anyhow::anyhow!("{error:#}"))?;
    replace(file, &code)?;
    replace(&digest_file(file), blake3::hash(&code).to_hex().as_bytes())?;
    Ok(())
}

fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let aside = file.with_extension(format!("{}-{unique}.tmp", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut out| out.write_all(bytes))
        .and_then(|()| fs::rename(&aside, file));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn digest_file(file: &Path) -> PathBuf {
    file.with_extension("blake3")
}

/// Marks a file as used now.
fn touch(file: &Path) {
    if let Ok(file) = File::options().append(true).open(file) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// Removes what was not used for longest, and what an interrupted write left behind (law 12).
fn prune(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut kept = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("cwasm") => {
                let used = path.metadata().and_then(|meta| meta.modified()).ok();
                kept.push((used, path));
            }
            Some("tmp") => {
                let _ = fs::remove_file(path);
            }
            _ => {}
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT);
    for (_, file) in &kept[..surplus] {
        let _ = fs::remove_file(digest_file(file));
        let _ = fs::remove_file(file);
    }
}
