//! One typed tree of everything an operator can set. Owns names, types and defaults; reads only the files it is given.
//!
//! - [`load`] turns `larder.toml`, the environment and flags into [`Config`], and reports every problem at once.
//! - [`defaults`]: the one table of settings. [`kind`]: how each kind of value is read.
//! - `parse`: the tables of the file; `routes`: `[[routes]]`; `reader`: a typed reader that knows places; `layers`: what
//!   stands over the file.
//! - [`reload`]: a configuration beside the one that is in force.
//! - [`sidecar`]: the `.toml` beside a plugin.

mod cors;
pub mod defaults;
mod json;
pub mod kind;
mod layers;
mod outline;
mod parse;
pub mod problem;
mod reader;
pub mod reload;
mod routes;
pub mod sidecar;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parse::parse;

pub use cors::Cors;
pub(crate) use kind::{endpoint, origin};
pub use layers::{Environment, Overrides};
pub use outline::{Declared, Outline};
pub use problem::{Problem, Severity};
pub(crate) use reader::nearest;
pub use sidecar::{DirGrant, DirMode, Grants, PluginLimits, SecretSource, Sidecar};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "larder.toml";

/// `larder.toml`, resolved: every default filled in, every relative path made absolute against the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from; `None` when `serve` runs without one.
    pub file: Option<PathBuf>,
    /// `[server]`
    pub server: Server,
    /// `[admin]`
    pub admin: Admin,
    /// `[openapi]`
    pub openapi: OpenApi,
    /// `[log]`
    pub log: Log,
    /// `[traces]`
    pub traces: Traces,
    /// `[memory]`
    pub memory: Memory,
    /// `[redis]`; absent = the memory tier alone.
    pub redis: Option<Redis>,
    /// `[plugins]`
    pub plugins: Plugins,
    /// `[storage]`
    pub storage: Storage,
    /// `[warm]`
    pub warm: Warm,
    /// `[writes]`
    pub writes: Writes,
    /// `[[routes]]`; with no file, one route per loader is made at `/NAME/{key}` (see `implicit_routes`).
    pub routes: Vec<Route>,
    /// No file was given: serve every loader of the plugin directory at `/NAME/{key}`.
    pub implicit_routes: bool,
    /// What all of it was made of, to be told from another.
    pub written: reload::Written,
}

impl Config {
    /// Whether any route accepts changes before they are made.
    pub fn writes_behind(&self) -> bool {
        self.routes.iter().any(|route| route.write == Write::Behind)
    }

    /// Whether what is asked for most is remembered: with no tier, asking for it again would leave nothing behind.
    pub fn warms(&self) -> bool {
        self.warm.keys > 0 && (self.memory.capacity > 0 || self.redis.is_some())
    }
}

/// `[server]`: the public listener and its bounds (law 12).
#[derive(Clone, Debug)]
pub struct Server {
    /// Where consumers connect.
    pub listen: SocketAddr,
    /// Connections at once; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// Requests waiting for a load at once; over it: 503.
    pub max_waiters: usize,
    /// Clients that watch at once.
    pub max_watchers: usize,
    /// Loads at once; over it: 503.
    pub max_loads: usize,
    /// The certificate and its key; with them nothing but TLS is spoken.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a client may take to send a request head, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// Fields of a request head.
    pub max_headers: usize,
    /// Bytes of a request body (reads carry none; a larger one is refused).
    pub body_bytes: u64,
    /// How long it may take to come.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// Requests at once on one connection of HTTP/2.
    pub max_streams: usize,
    /// How long connections are still accepted after SIGTERM.
    pub drain_delay: Duration,
    /// How long requests in flight may take after that.
    pub drain: Duration,
}

/// `[admin]`: the second listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where operators connect.
    pub listen: SocketAddr,
    /// The certificate and its key; with them nothing but TLS is spoken.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Who must have signed the certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// `Authorization: Bearer` text; required when `listen` is not loopback.
    pub token: Option<TokenSource>,
    /// The same of who may ask for everything and change nothing; never without `token`.
    pub read_token: Option<TokenSource>,
}

/// Where a token stands.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Here.
    Written(String),
    /// On the first line of a file.
    File(PathBuf),
}

/// Without the token: what is printed is read by others.
impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Written(_) => f.write_str("Written(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// `[openapi]`: the API document and its page.
#[derive(Clone, Debug)]
pub struct OpenApi {
    /// What the API is called.
    pub title: String,
    /// Its version, as its consumers count it.
    pub version: String,
    /// Whether the public listener answers `/openapi.json` and `/docs`.
    pub serve: bool,
}

/// `[traces]`: where spans are collected.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The collector; none: nothing is traced.
    pub endpoint: Option<url::Url>,
    /// 0.0–1.0 of the requests of which no client says whether they are.
    pub sample: f64,
    /// What the server is called.
    pub service: String,
}

/// `[log]`: what is written to stderr.
#[derive(Clone, Debug)]
pub struct Log {
    /// In which form.
    pub format: LogFormat,
    /// Directives of a filter.
    pub level: String,
    /// Whether each request is a line.
    pub requests: bool,
}

/// In which form the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// `[memory]`: the memory tier.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Bytes of all entries with their keys; 0 turns the tier off.
    pub capacity: u64,
}

/// `[redis]`: the tier that all nodes share.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Where the servers are.
    pub servers: RedisServers,
    /// What every key begins with.
    pub prefix: String,
    /// How long one command may take before the request goes on without Redis.
    pub timeout: Duration,
    /// How long a node that hears nothing trusts what it has.
    pub trust: Duration,
    /// Who signs the servers' certificates.
    pub ca: Option<PathBuf>,
    /// This node's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Which servers there are. URLs may hold passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// One.
    Single(String),
    /// The master that Sentinels name.
    Sentinel {
        /// A URL whose host is the master's name.
        master: String,
        /// Where the Sentinels are.
        sentinels: Vec<String>,
    },
    /// Some servers of a cluster.
    Cluster(Vec<String>),
}

/// `[plugins]`
#[derive(Clone, Debug)]
pub struct Plugins {
    /// The directory of `NAME.wasm` and `NAME.toml`, not searched recursively.
    pub dir: PathBuf,
    /// Whether the directory is watched.
    pub watch: bool,
    /// CPU time of compiling one component.
    pub compile_cpu: Duration,
    /// Address space of the process that compiles one component, in bytes.
    pub compile_memory: u64,
}

/// `[storage]`
#[derive(Clone, Debug)]
pub struct Storage {
    /// Compiled components, and what outlives a restart.
    pub dir: PathBuf,
}

/// `[warm]`: what is asked for again after a start.
#[derive(Clone, Copy, Debug)]
pub struct Warm {
    /// The keys that are asked for most; 0 = off.
    pub keys: usize,
    /// So many in a second.
    pub rate: u32,
}

/// `[writes]`: changes that are accepted before they are made.
#[derive(Clone, Copy, Debug)]
pub struct Writes {
    /// Where they wait.
    pub queue: QueueKind,
    /// What Redis is meant to promise of them.
    pub durability: Durability,
    /// So many at most.
    pub max_pending: usize,
    /// Bytes of them at most.
    pub max_bytes: u64,
    /// How long one is tried.
    pub give_up: Duration,
    /// In one call of a writer.
    pub batch_max: usize,
    /// Calls of one writer at once.
    pub concurrency: usize,
    /// How long they are still made after SIGTERM.
    pub drain: Duration,
}

/// Where changes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// On this node's disk.
    Disk,
    /// In Redis.
    Redis,
}

/// What outlives a crash of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing.
    Memory,
    /// All but the last second.
    EverySecond,
    /// All.
    Always,
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];
}

/// What becomes of query parameters that nothing declares or keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownQuery {
    /// They are as if they were not there.
    Ignore,
    /// The request is refused.
    Refuse,
}

/// What reads see while a change is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReads {
    /// They wait for it.
    Wait,
    /// What was sent.
    Payload,
}

/// One of `[[routes]]`.
#[derive(Clone, Debug)]
pub struct Route {
    /// The pattern, e.g. `/data/{key}`.
    pub path: String,
    /// The chain: the next is tried when one fails. Never empty.
    pub loaders: Vec<String>,
    /// How the parts are derived.
    pub key: KeySource,
    /// How long a value is fresh when the loader does not say.
    pub ttl: Duration,
    /// The longest time to live a loader may ask for; longer ones are clamped and counted.
    pub ttl_max: Duration,
    /// 0.0–1.0 of the ttl, taken off at random, so that entries stored together do not end together.
    pub jitter: f64,
    /// When a hit reloads behind what is still fresh.
    pub refresh_ahead: RefreshAhead,
    /// After the ttl: answer the stale entry and reload behind. Counted from the end of the ttl.
    pub stale_while_revalidate: Duration,
    /// After the ttl: answer the stale entry when the load fails. Counted from the end of the ttl.
    pub stale_if_error: Duration,
    /// How long an absence is remembered when the loader does not say.
    pub missing_ttl: Duration,
    /// After a failure: how long stale (or the failure) is answered without asking again.
    pub failure_ttl: Duration,
    /// With something stale in hand: answer it after this long and go on loading. `None` = off.
    pub soft_timeout: Option<Duration>,
    /// How long one load may take.
    pub timeout: Duration,
    /// How long a miss waits for others before a batching loader is asked. Zero: each is asked alone.
    pub batch_window: Duration,
    /// Loads at once, if that is bounded beside the route's share of all.
    pub max_loads: Option<usize>,
    /// The most misses in one call of a batching loader.
    pub batch_max: usize,
    /// What PUT and DELETE do.
    pub write: Write,
    /// The plugin that writes; none: the first of the loaders that does.
    pub writer: Option<String>,
    /// What reads see of a change that is pending; none: as the writer says.
    pub pending: Option<PendingReads>,
    /// Whether the last change of a resource may stand for those before it.
    pub coalesce: bool,
    /// In which codings bodies may leave.
    pub compress: Vec<Coding>,
    /// `CDN-Cache-Control`, as text.
    pub cdn_cache_control: Option<String>,
    /// The header that tags are sent in.
    pub tags_header: Option<String>,
    /// Whether clients may watch its resources.
    pub watch: bool,
    /// Which pages of other origins may use it.
    pub cors: Option<Cors>,
    /// What becomes of query parameters that nothing declares or keys.
    pub unknown_query: UnknownQuery,
    /// What the operator says of it.
    pub outline: Outline,
    /// The line in the file, for messages; 0 when there is no file.
    pub line: usize,
}

/// When a hit reloads behind what is still fresh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RefreshAhead {
    /// Never.
    Off,
    /// Shortly before the end, by how long loads take.
    Auto,
    /// When this share of the ttl is over, above 0.0 and below 1.0.
    After(f64),
}

/// What PUT and DELETE do on a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Write {
    /// Nothing: they are answered with 405.
    #[default]
    Off,
    /// The source is changed, then answered.
    Through,
    /// The change is made durable in a queue, then answered, then made.
    Behind,
}

/// A route's `key` (and `key_headers`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Left out: all path parameters plus the query parameters that the loaders' descriptors declare.
    Default,
    /// `key = { path = […], query = […], headers = […] }`
    Listed {
        /// Path parameters.
        path: Vec<String>,
        /// Query parameters.
        query: Vec<String>,
        /// Headers, lower case.
        headers: Vec<String>,
    },
    /// `key = "policy-plugin"`, `key_headers = […]`
    Policy {
        /// The plugin's name.
        plugin: String,
        /// The headers let through to it, lower case.
        headers: Vec<String>,
    },
}

/// Reads the configuration: flags over `LARDER_…` variables over the file. `path` is the file; none: `./larder.toml` if
/// there is one. With it come the warnings.
///
/// # Errors
/// Every problem, warnings among them, when at least one is an error.
pub fn load(
    path: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    match read(path, overrides, environment) {
        (Some(config), problems) if problems.iter().all(|p| p.severity == Severity::Warning) => {
            Ok((config, problems))
        }
        (_, problems) => Err(problems),
    }
}

/// As [`load`], for `larder check`, which goes on to judge the plugins: a tree in which whatever is at fault has its
/// default, or (a route) is left out. `None` when the file cannot be read at all.
pub fn read(
    path: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> (Option<Config>, Vec<Problem>) {
    let default = Path::new(DEFAULT_FILE);
    let path = path.or_else(|| default.is_file().then_some(default));
    let Some(path) = path else {
        let (config, problems) = parse("", None, overrides, environment);
        return (Some(config), problems);
    };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let (config, problems) = parse(&text, Some(path), overrides, environment);
            (Some(config), problems)
        }
        Err(error) => {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "name a file that exists with --config, or leave --config and LARDER_CONFIG out to serve every loader of ./plugins"
                }
                std::io::ErrorKind::InvalidData => "save it as UTF-8",
                _ => "make it a file that this user may read",
            };
            let problem = Problem::error(format!("cannot read the configuration: {error}"))
                .at(path, None)
                .remedy(remedy);
            (None, vec![problem])
        }
    }
}
