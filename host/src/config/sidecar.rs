//! `NAME.toml` beside `NAME.wasm`: what an operator grants a plugin, and how much of the machine it may use.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The sidecar of one plugin, resolved: defaults filled in, relative paths made absolute against the plugin directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    /// `[config]`: free keys, as one JSON object; what `settings.get` returns.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// `[secrets]`: name → where its value is read, when the guest asks.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `[grants]`
    pub grants: Grants,
    /// `[limits]`; `None` fields take the default of the plugin's kind.
    pub limits: PluginLimits,
}

/// Where a secret's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable of the host.
    Env(String),
    /// A file, one trailing newline removed.
    File(PathBuf),
}

/// `[grants]`: everything not named is denied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    /// Origins: `scheme://host[:port]`, e.g. `https://api.example.com`, `http://127.0.0.1:9000`.
    pub http: Vec<String>,
    /// `host:port` or `address:port`.
    pub tcp: Vec<String>,
    /// CIDR ranges that granted names may resolve into although they are private, loopback or link-local.
    pub networks: Vec<String>,
    /// Guest path → host directory.
    pub dirs: BTreeMap<String, DirGrant>,
    /// Names of environment variables of the host that the guest sees.
    pub env: Vec<String>,
}

/// One of `[grants] dirs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirGrant {
    /// The directory on the host, absolute.
    pub host: PathBuf,
    /// Read-only or read-write.
    pub mode: DirMode,
}

/// How a granted directory may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirMode {
    /// `"ro"`
    #[default]
    ReadOnly,
    /// `"rw"`
    ReadWrite,
}

/// `[limits]`: law 9. `None` = the default (some differ by kind).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginLimits {
    /// Bytes of linear memory of one instance. 64 MiB.
    pub memory: Option<u64>,
    /// The longest uninterrupted slice of guest code (async loaders), or a whole call (key policies, blocking loaders). 50 ms.
    pub cpu: Option<Duration>,
    /// Wall clock of one call. 2 s.
    pub timeout: Option<Duration>,
    /// Instances. 1 for async loaders, 8 for blocking ones.
    pub instances: Option<usize>,
    /// Calls at once in one async instance. 256.
    pub concurrency: Option<usize>,
    /// Bytes of one body, to or from the guest. 8 MiB.
    pub body: Option<u64>,
    /// Outbound requests at once of one instance. 32.
    pub fetches: Option<usize>,
}
