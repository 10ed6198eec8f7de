//! The tables of `larder.toml` that stand once, and what must hold between them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::defaults as setting;
use super::kind::Fault;
use super::layers::{Environment, Layers, Origin, Overrides};
use super::problem::Problem;
use super::reader::{Document, Table, document};
use super::{Admin, Config, Memory, Plugins, Redis, Server, Storage, routes};

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
    (config, problems)
}

fn read_tables(document: &Document<'_>, root: &Table<'_>, file: Option<&Path>) -> Config {
    root.refuse_unbuilt(
        "writes",
        "[writes]",
        "remove it; reads are served, and PUT and DELETE are answered with 405",
    );
    let server = read_server(root.section("server"));
    Config {
        file: file.map(Path::to_owned),
        admin: read_admin(root.section("admin"), server.listen),
        server,
        memory: read_memory(root.section("memory")),
        redis: read_redis(root.section("redis"), document),
        plugins: read_plugins(root.section("plugins")),
        storage: read_storage(root.section("storage")),
        routes: routes::read(root, document, file.is_some()),
        implicit_routes: file.is_none(),
    }
}

fn read_server(table: Table<'_>) -> Server {
    let server = Server {
        listen: table.value(&setting::server::listen),
        max_connections: table.value(&setting::server::max_connections),
        max_waiters: table.value(&setting::server::max_waiters),
        max_loads: table.value(&setting::server::max_loads),
        header_timeout: table.value(&setting::server::header_timeout),
        // The kind keeps sizes within an i64, and this machine's memory keeps a head far below.
        header_bytes: usize::try_from(table.value(&setting::server::header_bytes))
            .unwrap_or(usize::MAX),
        max_headers: table.value(&setting::server::max_headers),
        body_bytes: table.value(&setting::server::body_bytes),
        drain: table.value(&setting::server::drain),
    };
    table.finish();
    server
}

fn read_admin(table: Table<'_>, public: SocketAddr) -> Admin {
    let admin = Admin {
        listen: table.value(&setting::admin::listen),
        token: table.optional(&setting::admin::token),
    };
    let address = admin.listen;
    if !address.ip().to_canonical().is_loopback()
        && table.origin(&setting::admin::token) == Origin::Default
    {
        table.fault(
            &setting::admin::listen,
            Fault::new(
                format!("{address} is not loopback, and no token protects it: anybody who can reach it could purge and reload"),
                format!(
                    "set token in [admin] (or LARDER_ADMIN_TOKEN), or listen on \"127.0.0.1:{}\"",
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

/// Whether two listeners cannot stand side by side. Port 0 is a free port of the system's choice.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let every = |ip: IpAddr| ip.is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || every(a.ip()) || every(b.ip()))
}

fn read_memory(table: Table<'_>) -> Memory {
    let memory = Memory {
        capacity: table.value(&setting::memory::capacity),
    };
    table.finish();
    memory
}

fn read_redis(table: Table<'_>, document: &Document<'_>) -> Option<Redis> {
    table.refuse_unbuilt(
        setting::redis::urls.key,
        "urls of [redis]",
        "name one server in url, without mode",
    );
    let several = table.raw(setting::redis::urls.key).is_some();
    let _single = table.optional(&setting::redis::mode);
    let url = table.optional(&setting::redis::url);
    let prefix = table.value(&setting::redis::prefix);
    let timeout = table.value(&setting::redis::timeout);
    // A URL that is there and bad has been reported; only one that is nowhere is missing.
    if table.origin(&setting::redis::url) == Origin::Default && !several {
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
    table.finish();
    Some(Redis {
        url: url?,
        prefix,
        timeout,
    })
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
