//! The house rules as tests: who may know whom, how files begin, what is not written here, and that a released contract is
//! not broken. Reads source text; runs nothing of Larder.

use std::path::{Path, PathBuf};

use larder_tests::larder::repository;

/// One `.rs` file: its path from the top of the repository, its text, and its code (without comments, strings and what is
/// compiled for unit tests alone).
struct Source {
    path: String,
    text: String,
    code: String,
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "dist" {
            walk(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Every source file below these directories.
fn sources(below: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for directory in below {
        walk(&repository().join(directory), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a source file is text");
        let code = code_of(&text);
        let path = path
            .strip_prefix(repository())
            .expect("it is below")
            .to_string_lossy()
            .into_owned();
        Source { path, text, code }
    };
    paths.into_iter().map(read).collect()
}

/// What is left without line comments, string literals and everything from the first `#[cfg(test)]` on: unit tests stand
/// at the end of a file and may use more than the file itself.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut code = String::new();
    for line in text.lines() {
        let (mut quoted, mut escaped) = (false, false);
        let mut previous = ' ';
        for (at, c) in line.char_indices() {
            if !quoted && line[at..].starts_with("//") {
                break;
            }
            // A quote in a character literal opens no string.
            if c == '"' && !escaped && previous != '\'' {
                quoted = !quoted;
            } else if !quoted {
                code.push(c);
            }
            escaped = quoted && c == '\\' && !escaped;
            previous = c;
        }
        code.push('\n');
    }
    code
}

/// Whether code names a path such as `redis::` or `crate::http`: as a whole word, and not as the end of a longer path.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        // A lone word is a crate only in a path or after `use`.
        let is_path =
            path.contains("::") || code[at + path.len()..].starts_with("::") || is_use(code, at);
        is_path && !word(before) && before != Some(':') && !word(after)
    })
}

/// Whether the word at `at` is what a `use` begins with.
fn is_use(code: &str, at: usize) -> bool {
    code[..at].trim_end().ends_with("use")
}

#[test]
fn the_search_finds_crates_and_modules_and_no_other_words() {
    let code = code_of(
        "use redis::Cmd; // axum::Router\nlet text = \"hyper::x\"; let c = '\"'; tokio::spawn(x);\n",
    );
    assert!(names(&code, "redis") && names(&code, "tokio"));
    assert!(!names(&code, "axum") && !names(&code, "hyper"));
    assert!(
        !names("crate::cache::redis::Tier", "redis")
            && names("crate::cache::redis::Tier", "crate::cache::redis")
    );
    assert!(!names("let redis = 1; my_redis::x", "redis"));
}

/// DESIGN section 10: a place, and what it must not know. A place is a file or a directory.
const MUST_NOT_KNOW: &[(&str, &[&str])] = &[
    (
        "host/src/http",
        &[
            "wasmtime",
            "wasmtime_wasi",
            "wasmtime_wasi_http",
            "redis",
            "crate::cache::redis",
            "crate::admin",
            "crate::plugin",
            "crate::cli",
        ],
    ),
    (
        "host/src/admin",
        &[
            "wasmtime",
            "redis",
            "crate::cache::redis",
            "crate::http",
            "crate::cli",
        ],
    ),
    (
        "host/src/cache",
        &[
            "axum",
            "hyper",
            "wasmtime",
            "wasmtime_wasi",
            "crate::http",
            "crate::admin",
            "crate::plugin",
            "crate::route",
            "crate::config",
            "crate::cli",
            "crate::metrics",
            "crate::write",
        ],
    ),
    (
        "host/src/plugin",
        &[
            "axum",
            "redis",
            "crate::http",
            "crate::admin",
            "crate::route",
            "crate::cache::redis",
            "crate::cli",
        ],
    ),
    (
        "host/src/route",
        &[
            "wasmtime",
            "redis",
            "axum",
            "crate::http",
            "crate::admin",
            "crate::cli",
        ],
    ),
    (
        "host/src/write",
        &[
            "axum",
            "hyper",
            "wasmtime",
            "redis",
            "crate::http",
            "crate::admin",
            "crate::plugin",
            "crate::route",
            "crate::config",
            "crate::cli",
            "crate::metrics",
        ],
    ),
    (
        "host/src/config",
        &[
            "tokio",
            "hyper",
            "axum",
            "wasmtime",
            "redis",
            "crate::http",
            "crate::admin",
            "crate::cache",
            "crate::plugin",
            "crate::route",
            "crate::cli",
        ],
    ),
    (
        "host/src/key.rs",
        &[
            "tokio",
            "std::time",
            "std::fs",
            "std::net",
            "std::io",
            "std::env",
            "hyper",
            "axum",
            "redis",
            "wasmtime",
            "crate::cache",
            "crate::http",
            "crate::plugin",
            "crate::config",
        ],
    ),
    (
        "host/src/cache/freshness.rs",
        &[
            "tokio",
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
            "redis",
        ],
    ),
    (
        "host/src/cache/entry.rs",
        &[
            "tokio",
            "std::fs",
            "std::time::Instant",
            "std::time::SystemTime",
            "redis",
        ],
    ),
    (
        "host/src/error.rs",
        &[
            "tokio",
            "crate::cache",
            "crate::http",
            "crate::plugin",
            "crate::config",
            "crate::route",
        ],
    ),
];

/// Names that only one place may say, and that place.
const ONLY_THERE: &[(&str, &str)] = &[
    ("wasmtime", "host/src/plugin"),
    ("wasmtime_wasi", "host/src/plugin"),
    ("wasmtime_wasi_http", "host/src/plugin"),
    ("redis", "host/src/cache/redis"),
    ("notify", "host/src/plugin"),
    ("jsonschema", "host/src/plugin"),
    ("ratatui", "host/src/cli/operate/top"),
    ("indicatif", "host/src/cli/progress"),
];

/// Whether a file is a place, or in it: `a/b` is `a/b.rs` and everything below `a/b/`.
fn is_in(path: &str, place: &str) -> bool {
    path == place
        || path
            .strip_prefix(place)
            .is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

#[test]
fn nothing_knows_what_it_must_not_know() {
    let mut faults = Vec::new();
    for source in sources(&["host/src"]) {
        for (place, unknown) in MUST_NOT_KNOW {
            if is_in(&source.path, place) {
                let named = unknown.iter().filter(|path| names(&source.code, path));
                faults.extend(
                    named.map(|path| {
                        format!("{} names {path}; {place} must not know it", source.path)
                    }),
                );
            }
        }
        for (path, place) in ONLY_THERE {
            if !is_in(&source.path, place) && names(&source.code, path) {
                faults.push(format!("{} names {path}; only {place} may", source.path));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_places_that_the_rules_name_exist() {
    for (place, _) in MUST_NOT_KNOW {
        assert!(
            repository().join(place).exists(),
            "{place} has moved: move its rule"
        );
    }
}

#[test]
fn the_tests_and_the_plugins_do_not_know_the_host() {
    for manifest in [
        "tests/Cargo.toml",
        "plugins/Cargo.toml",
        "tests/guests/Cargo.toml",
    ] {
        let text = std::fs::read_to_string(repository().join(manifest)).expect("a manifest");
        assert!(
            !text
                .lines()
                .any(|line| line.starts_with("larder =") || line.starts_with("larder.")),
            "{manifest}"
        );
    }
    for source in sources(&["tests", "plugins"]) {
        assert!(
            !names(&source.code, "larder::config") && !names(&source.code, "larder::cache"),
            "{}",
            source.path
        );
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for source in sources(&["host", "tests", "bench", "plugins"]) {
        let first = source.text.lines().next().unwrap_or_default();
        let words = first
            .strip_prefix("//! ")
            .map_or(0, |rest| rest.split_whitespace().count());
        assert!(
            words >= 3,
            "{} begins with {first:?}, not with `//!` and what it owns",
            source.path
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, so that this file does not find itself.
    let banned = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore"),
        concat!("d", "bg!("),
        concat!("FIX", "ME"),
    ];
    for source in sources(&["host", "tests", "bench", "plugins"]) {
        for word in banned {
            let line = source.text.lines().position(|line| line.contains(word));
            assert!(
                line.is_none(),
                "{}:{}: {word}",
                source.path,
                line.unwrap_or_default() + 1
            );
        }
    }
}

#[test]
fn no_black_box_test_sleeps() {
    let sleeps = [concat!("sl", "eep("), concat!("sl", "eep_until(")];
    for source in sources(&["tests"]) {
        // The guests are what is tested, and some of them are there to misbehave.
        if source.path.starts_with("tests/guests/") {
            continue;
        }
        for word in sleeps {
            assert!(
                !source.code.contains(word),
                "{}: {word}: wait for a condition instead",
                source.path
            );
        }
    }
}

#[test]
fn unsafe_code_has_two_named_allowances() {
    let named = ["host/src/plugin/compile.rs", "host/src/plugin/pages.rs"];
    for source in sources(&["host", "tests/src"]) {
        let allowed = source.code.contains("(unsafe_code");
        assert!(
            !allowed || named.contains(&source.path.as_str()),
            "{} allows unsafe code",
            source.path
        );
    }
}

mod contract {
    //! A released contract stays loadable: compared with the component tooling's own semver check, world by world.

    use std::path::Path;

    use larder_tests::larder::repository;
    use wit_parser::Resolve;

    /// The text of a contract: all files of a directory as one, so that a test can edit it.
    fn text(directory: &Path) -> String {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.expect("a file").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "wit"))
            .collect();
        files.sort();
        let mut package = None;
        let mut all = String::new();
        for file in files {
            let text = std::fs::read_to_string(file).expect("a file of the contract");
            for line in text.lines() {
                if line.starts_with("package ") {
                    package = Some(line.to_owned());
                } else {
                    all += line;
                    all.push('\n');
                }
            }
        }
        // Doc comments before the package line would document the package twice; they stand before the first item now.
        format!("{}\n{all}", package.expect("a package line"))
    }

    fn current() -> String {
        text(&repository().join("wit"))
    }

    /// Every released text, with its version.
    fn released() -> Vec<(String, String)> {
        let releases =
            std::fs::read_dir(repository().join("tests/fixtures/wit")).expect("the fixtures");
        let releases = releases.map(|entry| entry.expect("a directory"));
        let mut all: Vec<_> = releases
            .map(|entry| {
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    text(&entry.path()),
                )
            })
            .collect();
        all.sort();
        all
    }

    fn version(text: &str) -> &str {
        let line = text
            .lines()
            .find(|line| line.starts_with("package "))
            .expect("a package line");
        line.trim_end_matches(';')
            .split_once('@')
            .expect("a version")
            .1
    }

    /// Whether every world of `old` is still served by `new`. An item may be added where nothing that exists grows.
    fn compatible(old: &str, new: &str) -> Result<(), String> {
        // Two packages of one name and version cannot stand in one `Resolve`; build metadata tells them apart, and
        // counts for nothing else.
        let renamed = format!("{}+released", version(old));
        let old = old.replacen(&format!("@{};", version(old)), &format!("@{renamed};"), 1);
        let mut resolve = Resolve::default();
        let mut push = |text: &str| {
            let pushed = resolve.push_source("contract.wit", text);
            pushed.map_err(|error| format!("{error:#}"))
        };
        let (old, new) = (push(&old)?, push(new)?);
        let worlds = resolve.packages[old].worlds.clone();
        for (name, old) in worlds {
            let Some(new) = resolve.packages[new].worlds.get(&name) else {
                return Err(format!("the world `{name}` is gone"));
            };
            wit_component::semver_check(resolve.clone(), old, *new)
                .map_err(|error| format!("the world `{name}`: {error:#}"))?;
        }
        Ok(())
    }

    #[test]
    fn the_contract_breaks_no_release() {
        let released = released();
        assert!(!released.is_empty());
        for (version, text) in released {
            if let Err(why) = compatible(&text, &current()) {
                panic!(
                    "wit/ breaks plugins built for {version}: {why}; make a new interface or world instead, and leave the released ones as they are"
                );
            }
        }
    }

    #[test]
    fn the_current_version_is_among_the_releases() {
        let current = current();
        let known = released()
            .into_iter()
            .any(|(release, _)| release == version(&current));
        assert!(
            known,
            "keep the text of {} in tests/fixtures/wit/ when it is released",
            version(&current)
        );
    }

    #[test]
    fn the_check_finds_what_breaks_a_plugin() {
        let sound = current();
        assert_eq!(compatible(&sound, &sound), Ok(()));
        for (what, from, to) in [
            ("a removed field", "    status: option<u16>,\n", ""),
            (
                "an added field",
                "    status: option<u16>,\n",
                "    status: option<u16>,\n    extra: u8,\n",
            ),
            (
                "a field of another type",
                "    deadline-ms: u32,\n",
                "    deadline-ms: u64,\n",
            ),
            (
                "an added case",
                "    not-modified(renewal),\n",
                "    not-modified(renewal),\n    gone,\n",
            ),
            ("a removed kind", "    rate-limited,\n", ""),
            (
                "a function that is async no more",
                "  load: async func(",
                "  load: func(",
            ),
            (
                "another result",
                "  derive: func(request: request) -> decision;",
                "  derive: func(request: request) -> option<decision>;",
            ),
            (
                "a removed function",
                "  probe: async func() -> result<_, failure>;\n",
                "",
            ),
        ] {
            assert!(
                sound.contains(from),
                "{what}: the contract has no {from:?} any more: mend this test"
            );
            let broken = sound.replacen(from, to, 1);
            assert!(compatible(&sound, &broken).is_err(), "{what} was not found");
        }
    }

    #[test]
    fn the_check_lets_the_contract_grow() {
        let grown = format!(
            "{}\n@since(version = 0.1.0)\ninterface extra {{\n  more: func();\n}}\n@since(version = 0.1.0)\nworld extra-plugin {{\n  export extra;\n}}\n",
            current()
        );
        assert_eq!(compatible(&current(), &grown), Ok(()));
    }
}
