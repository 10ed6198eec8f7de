//! Bytes → compiled component, through the cache of compiled code on disk.
//!
//! Compiling is the slowest thing the host does (milliseconds for a small Rust guest, seconds for Python) and the one a
//! hostile component could make slower still: so its size is capped, one is compiled at a time, and in a process of its own
//! whose CPU time and memory are bounded ([`worker`]). What was compiled is kept under the digest of the component and the
//! compatibility hash of the engine, and mapped the next time; who is mapped does not wait for who is compiled.

mod bounded;
mod worker;

use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore, watch};
use wasmtime::component::Component;
use xxhash_rust::xxh3::Xxh3;

use super::adapter;
use super::descriptor::Descriptor;
use super::engine::Description;
use super::examine;
use super::prepared::Prepared;
use super::runtime::Refusal;

pub use bounded::compile_component;
pub use worker::{CompileLimits, Task, Worker};

/// Compiled components that the cache keeps; the ones that were not used for longest go first. More than there may be plugins
/// in the directory, or a start would throw away what the next start needs.
const KEPT: usize = 2048;

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
    /// Notes an interface of the contract by its name; one that this host does not know is ignored.
    pub(super) fn add(&mut self, interface: &str) {
        match interface {
            "loader" => self.loader = true,
            "blocking-loader" => self.blocking_loader = true,
            "batch-loader" => self.batch_loader = true,
            "key-policy" => self.key_policy = true,
            "writer" => self.writer = true,
            "change-feed" => self.change_feed = true,
            "metadata" => self.metadata = true,
            "lifecycle" => self.lifecycle = true,
            _ => {}
        }
    }

    /// Whether routes may load through it.
    pub(super) const fn loads(&self) -> bool {
        self.loader || self.blocking_loader || self.batch_loader
    }

    /// Whether it has something that lives with the world around it.
    pub(super) const fn is_worldly(&self) -> bool {
        self.loads() || self.change_feed || self.writer
    }

    /// Whether this host has a use for it.
    pub(super) const fn is_useful(&self) -> bool {
        self.is_worldly() || self.key_policy
    }
}

/// A component that was compiled (or mapped from the cache) and judged: it can be instantiated by the engine it came from.
/// It knows nothing of the plugin that it was compiled for: plugins whose files have the same bytes share one.
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
    /// What it says about itself, once it was asked. It says the same whenever it is asked: it can reach nothing then.
    pub(super) described: OnceCell<Option<Described>>,
}

impl Compiled {
    /// Where its code and its data lie; nothing there is changed as long as it is held.
    pub(super) fn image(&self) -> Range<usize> {
        let (worldly, pure) = (&self.prepared.worldly, &self.prepared.pure);
        let worldly = worldly.as_ref().map(|worldly| &worldly.pre);
        let pre = worldly.or_else(|| pure.as_ref().map(|pure| &pure.pre));
        pre.map_or(0..0, |pre| {
            let image = pre.component().image_range();
            image.start.addr()..image.end.addr()
        })
    }
}

/// What a component says about itself, read.
#[derive(Clone)]
pub(super) struct Described {
    pub(super) description: Description,
    pub(super) descriptor: Arc<Descriptor>,
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

/// A component that is compiled now, for whoever shows that it takes a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiling {
    /// The file stem of the plugin.
    pub plugin: Arc<str>,
    /// Bytes of the component.
    pub bytes: usize,
}

/// Says what is compiled as long as it is, however that ends.
struct Told<'a>(&'a watch::Sender<Option<Compiling>>);

impl<'a> Told<'a> {
    fn of(now: &'a watch::Sender<Option<Compiling>>, plugin: &str, bytes: usize) -> Self {
        let plugin = plugin.into();
        now.send_replace(Some(Compiling { plugin, bytes }));
        Self(now)
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// The cache and the worker behind it.
pub(super) struct Compiler {
    /// `None`: it cannot be kept from other users, so nothing is mapped from it.
    directory: Option<PathBuf>,
    worker: Worker,
    turn: Semaphore,
    now: watch::Sender<Option<Compiling>>,
    compiled: AtomicU64,
    mapped: AtomicU64,
}

/// The code of a component: of a key policy, with the adapter in it. What cannot have one is compiled as it is, and asked at
/// greater length; what is wrong with a component is told of it as it came.
fn code_of(engine: &wasmtime::Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
    if examine::only_derives(bytes)
        && let Some(with) = adapter::with_adapter(bytes)
        && let Ok(code) = engine.precompile_component(&with)
    {
        return Ok(code);
    }
    engine.precompile_component(bytes)
}

/// Says which engines can run the same compiled code.
fn compatibility(engine: &wasmtime::Engine) -> u64 {
    let mut hash = Xxh3::new();
    engine.precompile_compatibility_hash().hash(&mut hash);
    adapter::REVISION.hash(&mut hash);
    hash.finish()
}

impl Compiler {
    /// A cache in `directory`, which is made if need be and belongs to this user alone.
    pub(super) fn new(directory: &Path, worker: Worker) -> anyhow::Result<Self> {
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
        Ok(Self {
            directory: kept.then(|| directory.to_owned()),
            worker,
            turn: Semaphore::new(1),
            now: watch::Sender::new(None),
            compiled: AtomicU64::new(0),
            mapped: AtomicU64::new(0),
        })
    }

    /// The component. `digest` is that of its bytes. Dropping the future ends the compiler.
    pub(super) async fn compile(
        &self,
        engine: &wasmtime::Engine,
        name: &str,
        bytes: Bytes,
        digest: &str,
    ) -> Result<Component, Refusal> {
        let compatibility = compatibility(engine);
        let file = self.file(compatibility, digest);
        if let Some(component) = self.mapped(engine, file.as_ref()).await? {
            return Ok(component);
        }
        let stopping = |_| Refusal::bare("the server is stopping");
        let _turn = self.turn.acquire().await.map_err(stopping)?;
        // Whoever had the turn before may have compiled the same.
        if let Some(component) = self.mapped(engine, file.as_ref()).await? {
            return Ok(component);
        }
        // Told because it may take a while, in which nothing else of this plugin is seen.
        tracing::info!(plugin = name, bytes = bytes.len(), "compiling");
        let _told = Told::of(&self.now, name, bytes.len());
        let size = bytes.len();
        let worker = self.worker;
        let code = worker.compile(engine, compatibility, name, bytes).await?;
        self.compiled.fetch_add(1, Ordering::Relaxed);
        let (engine, name) = (engine.clone(), name.to_owned());
        aside(move || load(&engine, &name, size, &code, file.as_deref())).await?
    }

    /// Whether there is code of a component for this engine in the cache.
    pub(super) fn keeps(&self, engine: &wasmtime::Engine, digest: &str) -> bool {
        let file = self.file(compatibility(engine), digest);
        file.is_some_and(|file| file.exists())
    }

    /// Where code is kept.
    fn file(&self, compatibility: u64, digest: &str) -> Option<PathBuf> {
        let name = format!("{}-{compatibility:016x}.cwasm", &digest[..32]);
        Some(self.directory.as_ref()?.join(name))
    }

    /// What is compiled now.
    pub(super) fn now(&self) -> watch::Receiver<Option<Compiling>> {
        self.now.subscribe()
    }

    async fn mapped(
        &self,
        engine: &wasmtime::Engine,
        file: Option<&PathBuf>,
    ) -> Result<Option<Component>, Refusal> {
        let Some(file) = file.cloned() else {
            return Ok(None);
        };
        let engine = engine.clone();
        let component = aside(move || map(&engine, &file)).await?;
        let found = u64::from(component.is_some());
        self.mapped.fetch_add(found, Ordering::Relaxed);
        Ok(component)
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

/// The BLAKE3 digest of a component's bytes, in hex.
pub(super) async fn digest_of(bytes: Bytes) -> Result<String, Refusal> {
    aside(move || blake3::hash(&bytes).to_hex().to_string()).await
}

/// Runs what reads, hashes and writes megabytes where it keeps no request waiting.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Refusal::bare(format!("the compiler failed: {error}")))
}

/// The component of code that was just compiled. It is kept and mapped, if there is a file to keep it in: a mapping costs no
/// memory that the system could not take back.
fn load(
    engine: &wasmtime::Engine,
    name: &str,
    size: usize,
    code: &[u8],
    file: Option<&Path>,
) -> Result<Component, Refusal> {
    let component = run_later(engine, Code::Told(code))
        .map_err(|error| examine::not_compiled(name, size, &format!("{error:#}")))?;
    let Some(file) = file else {
        return Ok(component);
    };
    // A cache that cannot be written costs time at the next start, nothing else.
    if let Err(error) = keep(code, file) {
        tracing::warn!(plugin = name, file = %file.display(), "compiled code was not kept: {error:#}");
        return Ok(component);
    }
    Ok(map(engine, file).unwrap_or(component))
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
fn map(engine: &wasmtime::Engine, file: &Path) -> Option<Component> {
    let written = fs::read_to_string(digest_file(file)).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file).ok()?).ok()?;
    if hasher.finalize().to_hex().as_str() != written.trim() {
        tracing::warn!(file = %file.display(), "compiled code was damaged; compiling again");
        return None;
    }
    match run_later(engine, Code::Kept(file)) {
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

/// Where compiled code comes from.
enum Code<'a> {
    /// The compiler, just now.
    Told(&'a [u8]),
    /// The cache, as [`map`] has checked it.
    Kept(&'a Path),
}

/// Turns compiled code into what can be run.
#[allow(
    unsafe_code,
    reason = "running compiled code: the one allowance of the workspace, argued below"
)]
fn run_later(engine: &wasmtime::Engine, code: Code<'_>) -> wasmtime::Result<Component> {
    // SAFETY: what is given here is run, so it must be what `Engine::precompile_component` gave, unchanged.
    // `Told` is what it gave to this very process, or to a child of it: the same image of this program (/proc/self/exe),
    // which wrote it to a pipe that nobody else holds, with a digest that was compared.
    // `Kept` lies in a directory that only this process's user can enter (checked by `ours_alone`), was put there from `Told`
    // by a rename of a complete file, is never written in place, and its bytes have just been compared with the digest that
    // was written beside it. Who can change it in between is the same user, who can replace this very program too. Files of
    // another wasmtime, other settings or another processor have another name, and wasmtime itself refuses them.
    unsafe {
        match code {
            Code::Told(code) => Component::deserialize(engine, code),
            Code::Kept(file) => Component::deserialize_file(engine, file),
        }
    }
}

/// Writes the compiled code and then its digest, each by a rename: a reader finds both or misses.
fn keep(code: &[u8], file: &Path) -> io::Result<()> {
    replace(file, code)?;
    replace(&digest_file(file), blake3::hash(code).to_hex().as_bytes())
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

#[cfg(test)]
mod tests {
    use super::super::engine::{Waiting, config};
    use super::super::testing::guest;
    use super::*;

    /// Any will do where there is one component.
    const DIGEST: &str = "00000000000000000000000000000000";

    #[tokio::test]
    async fn without_a_directory_of_its_own_every_component_is_compiled_and_runs() {
        let engine = wasmtime::Engine::new(&config(false, Waiting::Can)).unwrap();
        let compiler = Compiler {
            directory: None,
            worker: Worker::Here,
            turn: Semaphore::new(1),
            now: watch::Sender::new(None),
            compiled: AtomicU64::new(0),
            mapped: AtomicU64::new(0),
        };
        for _ in 0..2 {
            let component = compiler
                .compile(&engine, "echo", guest("echo"), DIGEST)
                .await
                .unwrap();
            let shape = component.component_type();
            let mut exports = shape.exports(&engine).map(|(name, _)| name);
            assert!(exports.any(|name| name.starts_with("larder:plugin/loader")));
        }
        assert_eq!(compiler.counts(), (2, 0));
    }

    /// The process that compiles has no pool of instances, and the engine that runs the code most often has one.
    #[test]
    fn the_pool_does_not_change_what_is_compiled() {
        let [with, without] = [true, false].map(|pooling| {
            Waiting::EACH.map(|waiting| {
                let engine = wasmtime::Engine::new(&config(pooling, waiting));
                engine.map(|engine| compatibility(&engine))
            })
        });
        for (with, without) in with.into_iter().zip(without) {
            // A machine without the address space has no pool to compare.
            if let Ok(with) = with {
                assert_eq!(with, without.unwrap());
            }
        }
    }

    #[tokio::test]
    async fn what_is_compiled_already_does_not_wait_for_what_is_being_compiled() {
        let storage = tempfile::tempdir().unwrap();
        let engine = wasmtime::Engine::new(&config(false, Waiting::Can)).unwrap();
        let compiler = Compiler::new(storage.path(), Worker::Here).unwrap();
        let ask = || compiler.compile(&engine, "echo", guest("echo"), DIGEST);
        ask().await.unwrap();
        let _turn = compiler.turn.acquire().await.unwrap();
        ask().await.unwrap();
        assert_eq!(compiler.counts(), (1, 1));
    }
}
