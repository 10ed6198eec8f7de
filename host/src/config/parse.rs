//! The tables of `larder.toml` that stand once, and what must hold between them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::defaults as setting;
use super::kind::{self, Fault};
use super::layers::{Environment, Layers, Origin, Overrides};
use super::problem::Problem;
use super::reader::{Document, Table, document};
use super::reload::Written;
use super::{
    Admin, Config, Log, Memory, OpenApi, Plugins, QueueKind, Redis, RedisServers, Route, Server,
    Storage, TokenSource, Traces, Warm, Write, Writes, routes,
};

/// Reads the text of the file. Without a file the text is empty, and every loader is served.
pub(super) fn parse(
    text: &str,
    file: Option<&Path>,
    overrides: &Overrides,
    environment: &Environment,
) -> (Config, Vec<Problem>) {
    let dir = file
        .and_then(Path::parent)
        .filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    // This fails only where there is no working directory; paths relative to it stay as they are then.
    let base = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let layers = Layers::new(overrides, environment);
    let (config, mut problems) = document(text, file, base, Some(layers), |document, root| {
        let config = read_tables(document, &root, file);
        root.finish();
        config
    });
    problems.extend(environment.unknown());
    problems.sort();
    // What is at fault is read more than once.
    problems.dedup();
    (config, problems)
}

fn read_tables(document: &Document<'_>, root: &Table<'_>, file: Option<&Path>) -> Config {
    let server = read_server(root.section("server"));
    let body_bytes = server.body_bytes;
    let redis = read_redis(root.section("redis"), document);
    let routes = routes::read(root, document, file.is_some());
    Config {
        file: file.map(Path::to_owned),
        admin: read_admin(root.section("admin"), server.listen),
        server,
        openapi: read_openapi(root.section("openapi")),
        log: read_log(root.section("log")),
        traces: read_traces(root.section("traces")),
        memory: read_memory(root.section("memory")),
        plugins: read_plugins(root.section("plugins")),
        storage: read_storage(root.section("storage")),
        warm: read_warm(root.section("warm")),
        writes: read_writes(
            root.section("writes"),
            (redis.is_some(), body_bytes),
            &routes,
        ),
        redis,
        routes,
        implicit_routes: file.is_none(),
        written: Written::of(root, document),
    }
}

fn read_server(table: Table<'_>) -> Server {
    let server = Server {
        listen: table.value(&setting::server::listen),
        max_connections: table.value(&setting::server::max_connections),
        max_waiters: table.value(&setting::server::max_waiters),
        max_watchers: table.value(&setting::server::max_watchers),
        max_loads: table.value(&setting::server::max_loads),
        identity: read_identity(&table, &setting::server::cert, &setting::server::key),
        handshake_timeout: table.value(&setting::server::handshake_timeout),
        header_timeout: table.value(&setting::server::header_timeout),
        // The kind keeps sizes within an i64, and this machine's memory keeps a head far below.
        header_bytes: usize::try_from(table.value(&setting::server::header_bytes))
            .unwrap_or(usize::MAX),
        max_headers: table.value(&setting::server::max_headers),
        body_bytes: table.value(&setting::server::body_bytes),
        body_timeout: table.value(&setting::server::body_timeout),
        write_timeout: table.value(&setting::server::write_timeout),
        max_streams: table.value(&setting::server::max_streams),
        drain_delay: table.value(&setting::server::drain_delay),
        drain: table.value(&setting::server::drain),
    };
    table.finish();
    server
}

fn read_admin(table: Table<'_>, public: SocketAddr) -> Admin {
    let admin = Admin {
        listen: table.value(&setting::admin::listen),
        identity: read_identity(&table, &setting::admin::cert, &setting::admin::key),
        client_ca: table.file(&setting::admin::client_ca),
        token: read_token(&table, &setting::admin::token, &setting::admin::token_file),
        read_token: read_token(
            &table,
            &setting::admin::read_token,
            &setting::admin::read_token_file,
        ),
    };
    let is_guarded = table.origin(&setting::admin::token) != Origin::Default
        || table.origin(&setting::admin::token_file) != Origin::Default;
    if admin.read_token.is_some() && !is_guarded {
        let fault = || {
            Fault::new(
                "without token, who shows none may change everything",
                "write token or token_file too",
            )
        };
        if table.origin(&setting::admin::read_token) == Origin::Default {
            table.fault(&setting::admin::read_token_file, fault());
        } else {
            table.fault(&setting::admin::read_token, fault());
        }
    }
    if admin.client_ca.is_some()
        && table.origin(&setting::admin::cert) == Origin::Default
        && table.origin(&setting::admin::key) == Origin::Default
    {
        table.fault(
            &setting::admin::client_ca,
            Fault::new(
                "it means nothing without cert: clients show certificates over TLS alone",
                "write cert and key too",
            ),
        );
    }
    let address = admin.listen;
    if !address.ip().to_canonical().is_loopback() && !is_guarded {
        table.fault(
            &setting::admin::listen,
            Fault::new(
                format!("{address} is not loopback, and no token protects it: anybody who can reach it could purge and reload"),
                format!(
                    "set token or token_file in [admin] (or LARDER_ADMIN_TOKEN), or listen on \"127.0.0.1:{}\"",
                    address.port()
                ),
            ),
        );
    }
    if collide(address, public) {
        table.fault(
            &setting::admin::listen,
            Fault::new(
                format!("{address} is taken by [server], which listens on {public}"),
                "give the two listeners different ports",
            ),
        );
    }
    table.finish();
    admin
}

/// A token, or the file that it is in. What is set above the file wins, as it does for one setting.
fn read_token(
    table: &Table<'_>,
    text: &setting::Setting<kind::Token>,
    file: &setting::Setting<kind::File>,
) -> Option<TokenSource> {
    let (written, named) = (table.optional(text), table.file(file));
    let (of_text, of_file) = (table.origin(text), table.origin(file));
    match (written, named) {
        (Some(token), None) => Some(TokenSource::Written(token)),
        (None, Some(path)) => Some(TokenSource::File(path)),
        (None, None) => None,
        (Some(token), Some(_)) if of_text.rank() > of_file.rank() => {
            Some(TokenSource::Written(token))
        }
        (Some(_), Some(path)) if of_text.rank() < of_file.rank() => Some(TokenSource::File(path)),
        (Some(_), Some(_)) => {
            let fault = Fault::new(
                format!("it stands beside {}, and there is one token", text.key),
                format!("leave out one of {} and {}", text.key, file.key),
            );
            table.fault(file, fault);
            None
        }
    }
}

/// Whether two listeners cannot stand side by side. Port 0 is a free port of the system's choice.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let every = |ip: IpAddr| ip.is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || every(a.ip()) || every(b.ip()))
}

fn read_openapi(table: Table<'_>) -> OpenApi {
    let openapi = OpenApi {
        title: table.value(&setting::openapi::title),
        version: table.value(&setting::openapi::version),
        serve: table.value(&setting::openapi::serve),
    };
    table.finish();
    openapi
}

fn read_log(table: Table<'_>) -> Log {
    let log = Log {
        format: table.value(&setting::log::format),
        level: table.value(&setting::log::level),
        requests: table.value(&setting::log::requests),
    };
    table.finish();
    log
}

fn read_traces(table: Table<'_>) -> Traces {
    let traces = Traces {
        endpoint: table.optional(&setting::traces::endpoint),
        sample: table.value(&setting::traces::sample),
        service: table.value(&setting::traces::service),
    };
    table.finish();
    traces
}

fn read_memory(table: Table<'_>) -> Memory {
    let memory = Memory {
        capacity: table.value(&setting::memory::capacity),
    };
    table.finish();
    memory
}

fn read_redis(table: Table<'_>, document: &Document<'_>) -> Option<Redis> {
    let servers = read_servers(&table, document);
    let redis = servers.map(|servers| Redis {
        servers,
        prefix: table.value(&setting::redis::prefix),
        timeout: table.value(&setting::redis::timeout),
        trust: table.value(&setting::redis::trust),
        ca: table.file(&setting::redis::ca),
        identity: read_identity(&table, &setting::redis::cert, &setting::redis::key),
    });
    if redis.is_none() {
        // Asked for, so that they are known, and judged.
        let _ = table.value(&setting::redis::prefix);
        let _ = table.value(&setting::redis::timeout);
        let _ = table.value(&setting::redis::trust);
        let _ = table.file(&setting::redis::ca);
        let _ = read_identity(&table, &setting::redis::cert, &setting::redis::key);
    }
    table.finish();
    redis
}

/// A certificate and its key: both, or neither.
fn read_identity(
    table: &Table<'_>,
    cert: &setting::Setting<kind::File>,
    key: &setting::Setting<kind::File>,
) -> Option<(PathBuf, PathBuf)> {
    match (table.file(cert), table.file(key)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (there, _) => {
            let (there, missing) = if there.is_some() {
                (cert, "key")
            } else {
                (key, "cert")
            };
            table.fault(
                there,
                Fault::new(
                    format!("it means nothing without {missing}"),
                    format!(
                        "write {missing} too: a certificate and its private key belong together"
                    ),
                ),
            );
            None
        }
    }
}

/// Where Redis is. What is missing for the mode is reported.
fn read_servers(table: &Table<'_>, document: &Document<'_>) -> Option<RedisServers> {
    let mode = table.value(&setting::redis::mode);
    let url = table.optional(&setting::redis::url);
    let urls = table.list(&setting::redis::urls);
    let has_url = table.origin(&setting::redis::url) != Origin::Default;
    let several: Vec<_> = urls.iter().flatten().map(|(url, _)| url.clone()).collect();
    let refuse = |message: &str, remedy: &str| {
        table.fault(&setting::redis::urls, Fault::new(message, remedy));
        None
    };
    if !has_url && urls.is_none() {
        missing_servers(table, document);
        return None;
    }
    match mode {
        kind::Mode::Single if urls.is_some() => refuse(
            "several servers are a cluster, or Sentinels",
            "write mode = \"cluster\" or mode = \"sentinel\", or name one server in url",
        ),
        kind::Mode::Single => url.map(RedisServers::Single),
        // Emptied by faults that were reported, or empty from the start.
        kind::Mode::Cluster if urls.is_some() && has_url => refuse(
            "it stands beside url, and of a cluster either names servers",
            "put them all into urls",
        ),
        kind::Mode::Cluster => {
            let seeds = if urls.is_some() {
                several
            } else {
                url.into_iter().collect()
            };
            (!seeds.is_empty()).then_some(RedisServers::Cluster(seeds))
        }
        kind::Mode::Sentinel if !has_url || urls.is_none() => {
            let fault = Fault::new(
                "with Sentinels both url and urls are needed",
                "write url = \"redis://[user:password@]NAME\", where NAME is the master's name, and urls = [\"redis://host:26379\", …], the Sentinels",
            );
            table.fault(&setting::redis::mode, fault);
            None
        }
        kind::Mode::Sentinel => {
            url.filter(|_| !several.is_empty())
                .map(|master| RedisServers::Sentinel {
                    master,
                    sentinels: several,
                })
        }
    }
}

/// A URL that is there and bad has been reported; only one that is nowhere is missing.
fn missing_servers(table: &Table<'_>, document: &Document<'_>) {
    match table.touch() {
        Some(Origin::File(_)) => table.missing(
            "[redis] does not say where Redis is",
            "write url = \"redis://127.0.0.1:6379\", or remove the table to cache in memory alone",
        ),
        Some(Origin::Variable(name)) if !table.is_present() => document.report_elsewhere(
            Problem::warning(format!("{name} is set, but no Redis is configured"))
                .remedy("set LARDER_REDIS_URL too, or unset it"),
        ),
        Some(Origin::Variable(_)) => table.missing(
            "[redis] does not say where Redis is",
            "write url = \"redis://127.0.0.1:6379\", or set LARDER_REDIS_URL",
        ),
        Some(Origin::Flag(_) | Origin::Default) | None => {}
    }
}

fn read_plugins(table: Table<'_>) -> Plugins {
    let plugins = Plugins {
        dir: table.directory(&setting::plugins::dir),
        watch: table.value(&setting::plugins::watch),
        compile_cpu: table.value(&setting::plugins::compile_cpu),
        compile_memory: table.value(&setting::plugins::compile_memory),
    };
    table.finish();
    plugins
}

fn read_storage(table: Table<'_>) -> Storage {
    let storage = Storage {
        dir: table.directory(&setting::storage::dir),
    };
    table.finish();
    storage
}

fn read_warm(table: Table<'_>) -> Warm {
    let warm = Warm {
        keys: table.value(&setting::warm::keys),
        rate: table.value(&setting::warm::rate),
    };
    table.finish();
    warm
}

fn read_writes(table: Table<'_>, (has_redis, body_bytes): (bool, u64), routes: &[Route]) -> Writes {
    let writes = Writes {
        queue: table.value(&setting::writes::queue),
        durability: table.value(&setting::writes::durability),
        max_pending: table.value(&setting::writes::max_pending),
        max_bytes: table.value(&setting::writes::max_bytes),
        give_up: table.value(&setting::writes::give_up),
        batch_max: table.value(&setting::writes::batch_max),
        concurrency: table.value(&setting::writes::concurrency),
        drain: table.value(&setting::writes::drain),
    };
    let is_single = table.value(&setting::writes::single_writer);
    let is_behind = routes.iter().any(|route| route.write == Write::Behind);
    match writes.queue {
        QueueKind::Redis if !has_redis => table.fault(
            &setting::writes::queue,
            Fault::new(
                "there is no [redis] to keep it in",
                "write [redis] with url = \"redis://127.0.0.1:6379\", or queue = \"disk\"",
            ),
        ),
        QueueKind::Disk if has_redis && is_behind && !is_single => table.fault(
            &setting::writes::queue,
            Fault::new(
                "the queue is on this node's disk, and the nodes that share [redis] would not see what is pending in it",
                "write queue = \"redis\" into [writes], or single_writer = true if no other node takes changes of these routes",
            ),
        ),
        _ => {}
    }
    // Of a queue in parts, each has its share.
    let (share, parts) = match writes.queue {
        QueueKind::Disk => (writes.max_bytes, ""),
        QueueKind::Redis => (
            writes.max_bytes / 16,
            ", a sixteenth for each part of the queue in Redis",
        ),
    };
    if is_behind && share < body_bytes {
        table.warn(
            &setting::writes::max_bytes,
            Fault::new(
                format!(
                    "a body of {body_bytes} bytes ([server] body_bytes) never fits in it{parts}"
                ),
                "raise it, or lower body_bytes",
            ),
        );
    }
    table.finish();
    writes
}
