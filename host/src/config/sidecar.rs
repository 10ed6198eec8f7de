//! `NAME.toml` beside `NAME.wasm`: what an operator grants a plugin, and how much of the machine it may use.
//!
//! Owns the shape of the file. Knows nothing of the plugin: whether the settings fit its schema, whether a directory
//! exists and what a name resolves to is judged where the component is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::defaults::{file as file_keys, grants, limits};
use super::json::json;
use super::kind::{self, Digest, Fault, Text, VariableName};
use super::problem::Problem;
use super::reader::{Table, document};

/// The sidecar of one plugin, resolved: defaults filled in, relative paths made absolute against the plugin directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sidecar {
    /// `digest`: `sha256:` and 64 hexadecimal digits in lower case; no other component is taken.
    pub digest: Option<String>,
    /// `[config]`: free keys, as one JSON object; what `settings.get` returns.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// `[secrets]`: name → where its value is read, when the guest asks.
    pub secrets: BTreeMap<String, SecretSource>,
    /// `[grants]`
    pub grants: Grants,
    /// `[limits]`; `None` fields take the default of the plugin's kind.
    pub limits: PluginLimits,
    /// The text is not TOML to its end: what seems absent may be there.
    pub broken: bool,
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
    /// Origins: `scheme://host[:port]`, e.g. `https://api.example.com`, `http://127.0.0.1:9000`; lower case, and without
    /// the port that the scheme has anyway.
    pub http: Vec<String>,
    /// Endpoints: `name:port`, `address:port` or `[address]:port`; lower case.
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

/// Reads a sidecar. `file` is what problems name, `dir` the plugin directory that relative paths are relative to.
///
/// The sidecar holds what could be read; it must not be used when one of the problems is an error.
pub fn parse(text: &str, file: &Path, dir: &Path) -> (Sidecar, Vec<Problem>) {
    let base = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let (sidecar, mut problems) =
        document(text, Some(file), base.clone(), None, |document, root| {
            let sidecar = Sidecar {
                digest: root.read::<Digest>(file_keys::digest.key),
                broken: document.is_broken(),
                config: config(root.section("config")),
                secrets: secrets(root.section("secrets"), &base),
                grants: read_grants(root.section("grants"), &base),
                limits: read_limits(root.section("limits")),
            };
            root.finish();
            sidecar
        });
    problems.sort();
    (sidecar, problems)
}

/// `[config]`: any keys at all; the plugin's own schema judges them.
fn config(mut table: Table<'_>) -> serde_json::Map<String, Value> {
    let mut config = serde_json::Map::new();
    for (key, value) in table.take_all() {
        if let Some(value) = json(&table, key, value) {
            config.insert(key.to_owned(), value);
        }
    }
    config
}

/// `[secrets]`: `name = { env = "…" }` or `{ file = "…" }`.
fn secrets(mut table: Table<'_>, dir: &Path) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    for (name, value) in table.take_all() {
        let line = table.line_at(value);
        let example =
            format!("write {name} = {{ env = \"VARIABLE\" }} or {name} = {{ file = \"path\" }}");
        let DeValue::Table(entries) = value.get_ref() else {
            // The value may be the secret itself, written into the wrong place: it is not repeated.
            let message = "a secret does not stand in this file: it is read from the environment or from a file";
            table.fault_at(name, line, Fault::new(message, example));
            continue;
        };
        let inner = table.inner(format!("{name} of [secrets]"), line, entries);
        let env = inner.read::<VariableName>("env");
        let file = inner.read::<Text>("file");
        let source = match (env, file) {
            (Some(env), None) => Some(SecretSource::Env(env)),
            (None, Some(file)) => Some(SecretSource::File(dir.join(file))),
            (Some(_), Some(_)) => {
                table.fault_at(
                    name,
                    line,
                    Fault::new("both env and file are given", example),
                );
                None
            }
            (None, None) => {
                if inner.raw("env").is_none() && inner.raw("file").is_none() {
                    table.fault_at(
                        name,
                        line,
                        Fault::new("it does not say where the secret is", example),
                    );
                }
                None
            }
        };
        inner.finish();
        secrets.extend(source.map(|source| (name.to_owned(), source)));
    }
    secrets
}

fn read_grants(table: Table<'_>, dir: &Path) -> Grants {
    let values = |list: Option<Vec<(String, usize)>>| -> Vec<String> {
        list.into_iter().flatten().map(|(value, _)| value).collect()
    };
    let grants = Grants {
        http: values(table.list(&grants::http)),
        tcp: values(table.list(&grants::tcp)),
        networks: values(table.list(&grants::networks)),
        dirs: dirs(&table, dir),
        env: values(table.list(&grants::env)),
    };
    table.finish();
    grants
}

/// `dirs = { "/guest" = { host = "path", mode = "ro" } }`
fn dirs(table: &Table<'_>, dir: &Path) -> BTreeMap<String, DirGrant> {
    let mut dirs = BTreeMap::new();
    let key = grants::dirs.key;
    let Some(value) = table.raw(key) else {
        return dirs;
    };
    let DeValue::Table(entries) = value.get_ref() else {
        let fault = Fault::new(
            format!("expected a table, found {}", kind::found(value.get_ref())),
            r#"write dirs = { "/data" = { host = "data", mode = "ro" } }"#,
        );
        table.fault_at(key, table.line_at(value), fault);
        return dirs;
    };
    for (guest, value) in entries {
        let (guest, line) = (guest.get_ref().as_ref(), table.line_at(value));
        let Some(grant) = dir_grant(table, guest, value, dir) else {
            continue;
        };
        if let Err(fault) = guest_path(guest) {
            table.fault_at(key, line, fault);
            continue;
        }
        dirs.insert(guest.to_owned(), grant);
    }
    dirs
}

/// Where a guest finds a directory: one spelling for each place, so that no two grants can name the same.
fn guest_path(path: &str) -> Result<(), Fault> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let plain = |segment: &&str| !matches!(*segment, "" | "." | "..");
    if path == "/" || (path.starts_with('/') && !path.contains('\0') && segments.iter().all(plain))
    {
        return Ok(());
    }
    let remedy = if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        "write an absolute path without . and .., such as \"/data\"".to_owned()
    } else {
        let tidy: Vec<&str> = path.split('/').filter(plain).collect();
        format!("write \"/{}\"", tidy.join("/"))
    };
    Err(Fault::new(
        format!("{path:?} is not a path that a plugin can be given"),
        remedy,
    ))
}

fn dir_grant(
    table: &Table<'_>,
    guest: &str,
    value: &Spanned<DeValue<'_>>,
    dir: &Path,
) -> Option<DirGrant> {
    let line = table.line_at(value);
    let DeValue::Table(entries) = value.get_ref() else {
        let host = value.get_ref().as_str().unwrap_or("path");
        let fault = Fault::new(
            format!(
                "{guest:?} is given {}, not a table",
                kind::found(value.get_ref())
            ),
            format!("write {guest:?} = {{ host = {host:?}, mode = \"ro\" }}"),
        );
        table.fault_at(grants::dirs.key, line, fault);
        return None;
    };
    let inner = table.inner(format!("{guest:?} of dirs in [grants]"), line, entries);
    let host = inner.read::<kind::Directory>("host");
    if inner.raw("host").is_none() {
        inner.missing(
            format!("{guest:?} of dirs in [grants] does not say which directory of the host it is"),
            format!("write {guest:?} = {{ host = \"path\", mode = \"ro\" }}"),
        );
    }
    let mode = inner.read::<kind::Access>("mode");
    inner.finish();
    Some(DirGrant {
        host: dir.join(host?),
        mode: mode.unwrap_or_default(),
    })
}

fn read_limits(table: Table<'_>) -> PluginLimits {
    let limits = PluginLimits {
        memory: table.optional(&limits::memory),
        cpu: table.optional(&limits::cpu),
        timeout: table.optional(&limits::timeout),
        instances: table.optional(&limits::instances),
        concurrency: table.optional(&limits::concurrency),
        body: table.optional(&limits::body),
        fetches: table.optional(&limits::fetches),
    };
    table.finish();
    limits
}
