//! Flags over environment over file.

use std::ffi::OsString;
use std::path::Path;

use super::{ROUTE, render};
use crate::config::defaults as setting;
use crate::config::parse::parse;
use crate::config::{Config, Environment, Overrides, Problem, TokenSource};

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::new(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value)),
    )
}

fn read(file: &str, overrides: &Overrides, variables: &[(&str, &str)]) -> (Config, Vec<Problem>) {
    let text = format!("{file}{ROUTE}");
    parse(
        &text,
        Some(Path::new("/etc/larder/larder.toml")),
        overrides,
        &environment(variables),
    )
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file =
        "[server]\nlisten = \"127.0.0.1:1\"\ndrain = \"1s\"\n[memory]\ncapacity = \"1KiB\"\n";
    let variables = [
        ("LARDER_SERVER_LISTEN", "127.0.0.1:2"),
        ("LARDER_MEMORY_CAPACITY", "2KiB"),
    ];
    let mut overrides = Overrides::default();
    overrides.set(
        "--listen",
        &setting::server::listen,
        Some(OsString::from("127.0.0.1:3")),
    );
    overrides.set("--memory", &setting::memory::capacity, None);
    let (config, problems) = read(file, &overrides, &variables);
    assert_eq!(render(&problems), "");
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.memory.capacity, 2048);
    assert_eq!(config.server.drain.as_secs(), 1);
}

#[test]
fn every_setting_that_stands_once_has_a_variable() {
    let variables = [
        ("LARDER_SERVER_MAX_HEADERS", "7"),
        ("LARDER_PLUGINS_WATCH", "false"),
        ("LARDER_ADMIN_TOKEN", "t"),
        ("LARDER_REDIS_URL", "redis://h"),
        ("LARDER_REDIS_TIMEOUT", "7ms"),
        // Empty is how a compose file says "not set"; the other two are read elsewhere.
        ("LARDER_MEMORY_CAPACITY", ""),
        ("LARDER_LOG", "debug"),
        ("LARDER_CONFIG", "x"),
        ("PATH", "/bin"),
    ];
    let (config, problems) = read("", &Overrides::default(), &variables);
    assert_eq!(render(&problems), "");
    assert_eq!(config.server.max_headers, 7);
    assert!(!config.plugins.watch);
    assert_eq!(
        config.admin.token,
        Some(TokenSource::Written("t".to_owned()))
    );
    assert_eq!(config.redis.unwrap().timeout.as_millis(), 7);
    assert_eq!(config.memory.capacity, 256 << 20);
}

#[test]
fn a_token_of_the_environment_stands_over_a_file_of_the_file() {
    let file = "[admin]\ntoken_file = \"token\"\n";
    let over = [("LARDER_ADMIN_TOKEN", "t")];
    let (config, problems) = read(file, &Overrides::default(), &over);
    assert_eq!(render(&problems), "");
    let written = Some(TokenSource::Written("t".to_owned()));
    assert_eq!(config.admin.token, written);
    let over = [("LARDER_ADMIN_TOKEN_FILE", "/run/token")];
    let (config, _) = read("[admin]\ntoken = \"t\"\n", &Overrides::default(), &over);
    let named = Some(TokenSource::File("/run/token".into()));
    assert_eq!(config.admin.token, named);
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_others_to_the_working_directory() {
    let file = "[plugins]\ndir = \"p\"\n[storage]\ndir = \"s\"\n";
    let (config, _) = read(
        file,
        &Overrides::default(),
        &[("LARDER_STORAGE_DIR", "here")],
    );
    assert_eq!(config.plugins.dir, Path::new("/etc/larder/p"));
    assert_eq!(
        config.storage.dir,
        std::env::current_dir().unwrap().join("here")
    );
    let mut overrides = Overrides::default();
    overrides.set(
        "--plugins-dir",
        &setting::plugins::dir,
        Some(OsString::from("/abs")),
    );
    let (config, _) = read(file, &overrides, &[]);
    assert_eq!(config.plugins.dir, Path::new("/abs"));
    assert_eq!(config.storage.dir, Path::new("/etc/larder/s"));
}

#[test]
fn a_bad_value_is_named_by_who_set_it() {
    let mut overrides = Overrides::default();
    overrides.set(
        "--redis",
        &setting::redis::url,
        Some(OsString::from("http://:geheim@h")),
    );
    let variables = [
        ("LARDER_ADMIN_LISTEN", "0.0.0.0:9"),
        ("LARDER_SERVER_DRAIN", "20"),
        ("LARDER_SERVER_LISTN", "x"),
    ];
    let (_, problems) = read("", &overrides, &variables);
    assert_eq!(
        render(&problems),
        "error: --redis: its scheme is \"http\", not redis\n  \
         remedy: write \"redis://[user:password@]host:6379[/database]\", the same with rediss:// for TLS, or \
         \"redis+unix:///path/of/the/socket\"\n\
         error: LARDER_ADMIN_LISTEN: 0.0.0.0:9 is not loopback, and no token protects it: anybody who can reach it could \
         purge and reload\n  \
         remedy: set token or token_file in [admin] (or LARDER_ADMIN_TOKEN), or listen on \"127.0.0.1:9\"\n\
         error: LARDER_SERVER_DRAIN: \"20\" is not a duration: time unit needed, for example 20sec or 20ms\n  \
         remedy: write \"20s\" or \"20ms\"\n\
         warning: the environment variable LARDER_SERVER_LISTN sets nothing\n  \
         remedy: did you mean LARDER_SERVER_LISTEN? Otherwise unset it\n"
    );
}

/// The file's value will matter on the day that the flag is gone.
#[test]
fn what_the_file_says_is_judged_even_where_a_flag_stands_over_it() {
    let mut overrides = Overrides::default();
    overrides.set(
        "--memory",
        &setting::memory::capacity,
        Some(OsString::from("1MiB")),
    );
    let (config, problems) = read("[memory]\ncapacity = 5\n", &overrides, &[]);
    assert_eq!(config.memory.capacity, 1 << 20);
    assert_eq!(
        render(&problems),
        "error: /etc/larder/larder.toml:2: capacity of [memory]: expected a size, found the integer 5\n  \
         remedy: write \"5B\"\n"
    );
}

#[test]
fn a_redis_setting_without_redis_is_warned_of() {
    let (config, problems) = read("", &Overrides::default(), &[("LARDER_REDIS_PREFIX", "app")]);
    assert!(config.redis.is_none());
    assert_eq!(
        render(&problems),
        "warning: LARDER_REDIS_PREFIX is set, but no Redis is configured\n  remedy: set LARDER_REDIS_URL too, or unset it\n"
    );
}
