//! What is accepted and how layers stand over each other; the families of what is refused are beside this file.

mod layers;
mod refused_main;
mod refused_routes;
mod refused_sidecar;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::defaults::{Place, SECTIONS};
use super::kind::{Form, Period};
use super::parse::parse;
use super::*;

/// A route to append where routes are not the matter.
const ROUTE: &str = "\n[[routes]]\npath = \"/x\"\nloader = \"demo\"\n";

fn read_text(text: &str) -> (Config, Vec<Problem>) {
    parse(
        text,
        Some(Path::new("larder.toml")),
        &Overrides::default(),
        &Environment::default(),
    )
}

fn render(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

/// Reads `larder.toml` and compares its problems, one after the other. Both texts begin on the line after their quote.
fn check(input: &str, expect: &str) {
    let input = &input[1..];
    let text = if input.contains("routes") || input.starts_with('#') {
        input.to_owned()
    } else {
        format!("{input}{ROUTE}")
    };
    assert_eq!(render(&read_text(&text).1), expect[1..], "{input}");
}

/// As [`check`], for a sidecar.
fn check_sidecar(input: &str, expect: &str) {
    let (_, problems) = sidecar::parse(&input[1..], Path::new("demo.toml"), Path::new("plugins"));
    assert_eq!(render(&problems), expect[1..], "{input}");
}

fn sound(text: &str) -> Config {
    let (config, problems) = read_text(text);
    assert_eq!(render(&problems), "");
    config
}

#[test]
fn the_example_of_the_documentation_is_read_whole() {
    let config = sound(
        r#"
        [server]
        listen = "127.0.0.1:0"
        max_connections = 7
        header_timeout = "1m 30s"
        header_bytes = "16KiB"
        drain = "0"
        [admin]
        listen = "[::]:0"
        token = "s3cret"
        [memory]
        capacity = "0"
        [redis]
        url = "redis://:pw@127.0.0.1:6390/2"
        mode = "single"
        prefix = "app:larder"
        timeout = "50ms"
        [plugins]
        dir = "../components"
        watch = false
        [storage]
        dir = "/var/lib/larder"
        [warm]
        keys = 500
        rate = 20
        [[routes]]
        path = "/data/{key}"
        loaders = ["primary", "backup"]
        key = { path = ["key"], query = ["lang"], headers = ["Accept-Language"] }
        ttl = "1h"
        ttl_max = "2h"
        jitter = 1
        stale_while_revalidate = "30s"
        stale_if_error = "1h"
        missing_ttl = "0"
        failure_ttl = "1.5s"
        soft_timeout = "200ms"
        refresh_ahead = "80%"
        timeout = "5s"
        batch_window = "5ms"
        batch_max = 500
        write = "off"
        [[routes]]
        path = "/tenants/{tenant}/{*rest}"
        loader = "demo"
        key = "tenant-key"
        key_headers = ["X-Tenant"]
        [[routes]]
        path = "/a/{id}/{{braces}}"
        loader = "demo"
        key = { query = ["lang"] }
        "#,
    );
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.file.as_deref(), Some(Path::new("larder.toml")));
    assert!(!config.implicit_routes);
    let server = &config.server;
    assert_eq!(server.listen.to_string(), "127.0.0.1:0");
    assert_eq!(server.max_connections, 7);
    assert_eq!(server.header_timeout, Duration::from_secs(90));
    assert_eq!(server.header_bytes, 16 * 1024);
    assert_eq!(server.drain, Duration::ZERO);
    assert_eq!(
        config.admin.token,
        Some(TokenSource::Written("s3cret".to_owned()))
    );
    assert_eq!(config.memory.capacity, 0);
    let redis = config.redis.as_ref().unwrap();
    assert_eq!(
        redis.servers,
        RedisServers::Single("redis://:pw@127.0.0.1:6390/2".into())
    );
    assert_eq!(redis.prefix, "app:larder");
    assert_eq!(redis.timeout, Duration::from_millis(50));
    assert_eq!(config.plugins.dir, here.join("../components"));
    assert!(!config.plugins.watch);
    assert_eq!(config.storage.dir, Path::new("/var/lib/larder"));
    assert_eq!((config.warm.keys, config.warm.rate), (500, 20));
    assert!(config.warms(), "there is Redis");

    let [data, tenants, braces] = &config.routes[..] else {
        panic!("{:?}", config.routes);
    };
    let names = |list: &[&str]| -> Vec<String> { list.iter().map(|&n| n.to_owned()).collect() };
    assert_eq!(data.loaders, ["primary", "backup"]);
    assert_eq!(data.line, 26);
    assert_eq!(
        data.key,
        KeySource::Listed {
            path: names(&["key"]),
            query: names(&["lang"]),
            headers: names(&["accept-language"]),
        }
    );
    assert_eq!(data.ttl, Duration::from_secs(3600));
    assert_eq!(data.ttl_max, Duration::from_secs(7200));
    assert!((data.jitter - 1.0).abs() < f64::EPSILON);
    assert_eq!(data.missing_ttl, Duration::ZERO);
    assert_eq!(data.failure_ttl, Duration::from_millis(1500));
    assert_eq!(
        (data.batch_window, data.batch_max),
        (Duration::from_millis(5), 500)
    );
    assert_eq!(data.soft_timeout, Some(Duration::from_millis(200)));
    assert_eq!(data.refresh_ahead, RefreshAhead::After(0.8));
    assert_eq!(data.timeout, Duration::from_secs(5));
    assert_eq!(
        tenants.key,
        KeySource::Policy {
            plugin: "tenant-key".to_owned(),
            headers: names(&["x-tenant"]),
        }
    );
    // A listed key that does not speak of the path keeps all of it.
    assert_eq!(
        braces.key,
        KeySource::Listed {
            path: names(&["id"]),
            query: names(&["lang"]),
            headers: names(&[]),
        }
    );
}

#[test]
fn without_a_file_every_loader_is_served_from_memory() {
    let (config, problems) = parse("", None, &Overrides::default(), &Environment::default());
    assert_eq!(render(&problems), "");
    assert!(config.implicit_routes);
    assert!(config.routes.is_empty());
    assert!(config.redis.is_none());
    let here = std::env::current_dir().unwrap();
    assert_eq!(config.plugins.dir, here.join("plugins"));
    assert_eq!(config.storage.dir, here.join("larder-data"));
    assert!(config.warms());
}

#[test]
fn a_route_at_fault_is_left_out_and_the_others_are_read() {
    let (config, problems) = read_text(&format!(
        "[[routes]]\npath = \"data\"\nloader = \"a\"\n{ROUTE}"
    ));
    assert_eq!(problems.len(), 1);
    assert_eq!(config.routes.len(), 1);
    assert_eq!(config.routes[0].path, "/x");
}

#[test]
fn a_ttl_beyond_ttl_max_is_cut_even_where_it_is_a_default() {
    let config = sound(&format!("{ROUTE}ttl_max = \"2s\"\n"));
    let route = &config.routes[0];
    assert_eq!(
        (route.ttl, route.missing_ttl),
        (Duration::from_secs(2), Duration::from_secs(2))
    );
}

#[test]
fn a_sidecar_is_read_whole() {
    let text = r#"
        [config]
        text = "Data for key {key}"
        latency_ms = 150
        share = 0.5
        hex = 0xff
        big = 18446744073709551615
        since = 2024-01-31
        [config.headers]
        list = [1, "two", { three = true }]
        [secrets]
        token = { env = "API_TOKEN" }
        password = { file = "secrets/password" }
        [grants]
        http = ["https://API.example.com", "http://127.0.0.1:9000", "http://[::1]:80"]
        networks = ["10.0.0.0/8", "fd00::/8"]
        env = ["TZ"]
        dirs = { "/data" = { host = "data", mode = "rw" }, "/etc/x" = { host = "/etc/x" } }
        [limits]
        memory = "32MiB"
        cpu = "10ms"
        timeout = "1s"
        instances = 2
        concurrency = 16
        body = "1MiB"
        fetches = 4
    "#;
    let (sidecar, problems) =
        sidecar::parse(text, Path::new("p/demo.toml"), Path::new("/srv/plugins"));
    assert_eq!(render(&problems), "");
    assert_eq!(
        serde_json::Value::Object(sidecar.config),
        serde_json::json!({
            "text": "Data for key {key}", "latency_ms": 150, "share": 0.5, "hex": 255, "big": u64::MAX,
            "since": "2024-01-31", "headers": {"list": [1, "two", {"three": true}]},
        })
    );
    assert_eq!(
        sidecar.secrets,
        BTreeMap::from([
            (
                "token".to_owned(),
                SecretSource::Env("API_TOKEN".to_owned())
            ),
            (
                "password".to_owned(),
                SecretSource::File("/srv/plugins/secrets/password".into())
            ),
        ])
    );
    let dir = |host: &str, mode| DirGrant {
        host: PathBuf::from(host),
        mode,
    };
    assert_eq!(
        sidecar.grants,
        Grants {
            http: [
                "https://api.example.com",
                "http://127.0.0.1:9000",
                "http://[::1]"
            ]
            .map(str::to_owned)
            .to_vec(),
            tcp: Vec::new(),
            networks: vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()],
            dirs: BTreeMap::from([
                (
                    "/data".to_owned(),
                    dir("/srv/plugins/data", DirMode::ReadWrite)
                ),
                ("/etc/x".to_owned(), dir("/etc/x", DirMode::ReadOnly)),
            ]),
            env: vec!["TZ".to_owned()],
        }
    );
    assert_eq!(
        sidecar.limits,
        PluginLimits {
            memory: Some(32 << 20),
            cpu: Some(Duration::from_millis(10)),
            timeout: Some(Duration::from_secs(1)),
            instances: Some(2),
            concurrency: Some(16),
            body: Some(1 << 20),
            fetches: Some(4),
        }
    );
}

#[test]
fn an_empty_sidecar_is_the_default() {
    let (sidecar, problems) = sidecar::parse("", Path::new("demo.toml"), Path::new("plugins"));
    assert_eq!((sidecar, problems), (Sidecar::default(), Vec::new()));
}

/// The defaults are read out of the table by the code that reads the file; here they are written into a file, so that each
/// is proved to be of its kind, as the documentation shows it, and the one in force.
#[test]
fn every_default_written_out_changes_nothing() {
    let mut text = String::from("[redis]\nurl = \"redis://127.0.0.1\"\n");
    let mut routes = ROUTE.to_owned();
    let mut sidecar_text = String::new();
    for section in SECTIONS {
        let target = match section.place {
            Place::Main if section.name == "redis" => &mut text,
            Place::Main => {
                text.push_str(&format!("{}\n", section.header));
                &mut text
            }
            Place::Repeated => &mut routes,
            // The top of the file has no header.
            Place::Sidecar if section.name == "file" => &mut sidecar_text,
            Place::Sidecar => {
                sidecar_text.push_str(&format!("{}\n", section.header));
                &mut sidecar_text
            }
        };
        for row in section.rows.iter().filter(|row| row.form != Form::Compound) {
            if let Some(default) = row.default_toml() {
                // Redis stands first in its own table, which is open only at the beginning.
                let line = format!("{} = {default}\n", row.key);
                if section.name == "redis" {
                    target.insert_str("[redis]\n".len(), &line);
                } else {
                    target.push_str(&line);
                }
            }
        }
    }
    let written = sound(&(text + &routes));
    let mut bare = sound(&format!("[redis]\nurl = \"redis://127.0.0.1\"\n{ROUTE}"));
    bare.routes[0].line = written.routes[0].line;
    assert_eq!(format!("{written:?}"), format!("{bare:?}"));
    let (_, problems) = sidecar::parse(&sidecar_text, Path::new("demo.toml"), Path::new("plugins"));
    assert_eq!(render(&problems), "");
}

/// The defaults that the design fixes.
#[test]
fn the_defaults_are_the_ones_that_are_promised() {
    let config = sound(ROUTE);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.memory.capacity, 256 << 20);
    assert!(config.plugins.watch);
    assert!(config.server.max_connections >= 10_000 && config.server.max_waiters >= 10_000);
    let route = &config.routes[0];
    assert_eq!(route.key, KeySource::Default);
    assert_eq!(route.ttl, Duration::from_secs(60));
    assert_eq!(route.ttl_max, Duration::from_secs(30 * 24 * 3600));
    assert!((route.jitter - 0.1).abs() < f64::EPSILON);
    assert_eq!(route.stale_while_revalidate, Duration::ZERO);
    assert_eq!(route.stale_if_error, Duration::ZERO);
    assert_eq!(route.missing_ttl, Duration::from_secs(5));
    assert_eq!(route.failure_ttl, Duration::from_secs(1));
    assert_eq!(route.soft_timeout, None);
    assert_eq!(route.refresh_ahead, RefreshAhead::Off);
    assert_eq!(route.timeout, Duration::from_secs(2));
    assert_eq!(
        (route.batch_window, route.batch_max),
        (Duration::from_millis(1), 100)
    );
    let listing = defaults::text();
    for line in [
        "ttl_max                  \"30d\"",
        "capacity                 \"256MiB\"",
    ] {
        assert!(listing.contains(line), "{listing}");
    }
}

#[test]
fn bare_zero_is_a_duration_and_a_size() {
    use super::kind::{Scalar as _, Size};
    assert_eq!(Period::parse("0").unwrap(), Duration::ZERO);
    assert_eq!(Size::parse("0").unwrap(), 0);
    assert_eq!(Size::parse("1.5KiB").unwrap(), 1536);
    assert_eq!(Size::parse("1kB").unwrap(), 1000);
}

/// `docs/configuration.md` holds the tables of [`defaults`] between two marks each. `UPDATE_DOCS=1` rewrites them.
#[test]
fn the_documentation_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let mut wanted = found.clone();
    for (name, sidecar) in [("larder.toml", false), ("sidecar", true)] {
        let (begin, end) = (
            format!("<!-- begin {name} -->\n"),
            format!("<!-- end {name} -->"),
        );
        let (before, rest) = wanted
            .split_once(&begin)
            .expect("the mark where the tables begin");
        let (_, after) = rest
            .split_once(&end)
            .expect("the mark where the tables end");
        wanted = format!(
            "{before}{begin}\n{}{end}{after}",
            defaults::markdown(sidecar)
        );
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    } else {
        assert!(
            found == wanted,
            "docs/configuration.md is not the table of settings: run the tests with UPDATE_DOCS=1"
        );
    }
}
