//! The command line: `check` reports every problem at once with file, line and remedy; `serve` refuses what cannot be
//! served; `wit` prints the contract.

use larder_tests::larder::{Home, Ran, repository};
use larder_tests::{Larder, Wasm};

/// The line (from 1) of the first line of `larder.toml` that begins so.
fn line(home: &Home, start: &str) -> usize {
    let text = std::fs::read_to_string(home.path("larder.toml")).expect("the configuration");
    let line = text
        .lines()
        .position(|line| line.trim_start().starts_with(start));
    line.unwrap_or_else(|| panic!("no line {start:?} in {text}")) + 1
}

fn assert_says(ran: &Ran, words: &[&str]) {
    let said = ran.all();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

#[tokio::test]
async fn check_reports_every_problem_at_once_with_file_line_and_remedy() {
    let home = Larder::with()
        .component("needy", Wasm::guest("needy"), "[config]\nbse = \"x\"\n")
        .component(
            "key",
            Wasm::plugin("demo"),
            "[config]\nlatency_ms = 1\n[limit]\nmemory = \"1MiB\"\n",
        )
        .component("broken", Wasm::plugin("demo"), "")
        .section("[memory]\ncapcity = \"1MiB\"")
        .section("[redis]\nurl = \"localhost\"")
        .route("/data/{key}", "demo", "ttl = \"soon\"")
        .route("/late/{key}", "key", "tll = \"60s\"")
        .route("/again/{key}", "key", "write = \"beside\"")
        .write();
    home.install_bytes("broken", b"no component");
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let at = |start: &str| format!("larder.toml:{}:", line(&home, start));
    assert_says(
        &ran,
        &[
            // One problem each: its place, its word, and what to do.
            &at("capcity"),
            "capcity",
            "capacity",
            &at("url = \"localhost\""),
            &at("ttl = \"soon\""),
            "soon",
            &at("tll"),
            "tll",
            "did you mean \"ttl\"",
            &at("write"),
            "beside",
            "needy.toml:",
            "base",
            "bse",
            "key.toml:",
            "limit",
            "limits",
            "broken.wasm",
            "demo",
        ],
    );
    let remedies = ran.all().matches("remedy:").count();
    assert!(remedies >= 6, "{remedies} remedies in:\n{}", ran.all());
}

#[tokio::test]
async fn check_is_content_with_what_is_sound() {
    let home = Larder::with()
        .plugin("demo", "[config]\ntext = \"x {key}\"\n")
        .route("/data/{key}", "demo", "ttl = \"60s\"")
        .write();
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(!ran.all().contains("error:"), "{ran:?}");
}

#[tokio::test]
async fn check_prints_every_default() {
    let home = Larder::with().write();
    let ran = home.run(&["check", "--defaults"]).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert_says(
        &ran,
        &[
            "127.0.0.1:8080",
            "127.0.0.1:8081",
            "256MiB",
            "stale_while_revalidate",
            "stale_if_error",
            "missing_ttl",
            "failure_ttl",
            "soft_timeout",
            "ttl_max",
            "jitter",
            "100ms",
            "64MiB",
            "50ms",
            "fetches",
        ],
    );
}

#[tokio::test]
async fn the_quickstart_is_sound() {
    let home = Larder::with().write();
    let examples = repository().join("examples/quickstart/larder.toml");
    // The components are copied in by `examples/run`; here they stand in a directory of the test's own.
    let text = std::fs::read_to_string(&examples).expect("the quickstart");
    home.configure(
        &text
            .replace("listen = \"127.0.0.1:8080\"", "listen = \"127.0.0.1:0\"")
            .replace("listen = \"127.0.0.1:8081\"", "listen = \"127.0.0.1:0\""),
    );
    home.install("demo", &Wasm::plugin("demo"));
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
}

#[tokio::test]
async fn serve_exits_with_1_on_a_problem_of_the_configuration() {
    for (settings, word) in [
        (
            "[[routes]]\npath = \"/data/{key}\"\nloader = \"demo\"\ntll = \"60s\"",
            "tll",
        ),
        ("[[routes]]\npath = \"data\"\nloader = \"demo\"", "path"),
        ("[[routes]]\npath = \"/docs\"\nloader = \"demo\"", "/docs"),
        (
            "[[routes]]\npath = \"/a/{x}\"\nloader = \"demo\"\n[[routes]]\npath = \"/a/{y}\"\nloader = \"demo\"",
            "/a/",
        ),
        ("[writes]\nqueue = \"redis\"", "[redis]"),
        (
            "[redis]\nurl = \"redis://127.0.0.1:1\"\nmode = \"sentinel\"",
            "both url and urls",
        ),
    ] {
        let home = Larder::with().plugin("demo", "").section(settings).write();
        let ran = home.run(&["serve", "--config", "larder.toml"]).await;
        assert_eq!(ran.status.code(), Some(1), "{settings}: {ran:?}");
        assert_says(&ran, &[word]);
    }
}

#[tokio::test]
async fn off_loopback_the_admin_listener_wants_a_token() {
    let home = Larder::with()
        .plugin("demo", "")
        .route("/data/{key}", "demo", "")
        .write();
    home.configure("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"0.0.0.0:0\"\n");
    for command in ["serve", "check"] {
        let ran = home.run(&[command, "--config", "larder.toml"]).await;
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        assert_says(&ran, &["token"]);
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let home = Larder::with()
        .plugin("demo", "")
        .route("/data/{key}", "demo", "")
        .write();
    let ran = home
        .run(&["serve", "--config", "larder.toml", "--listen", &address])
        .await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert_says(&ran, &[&address, "listen"]);
}

#[tokio::test]
async fn a_configuration_that_is_not_there_is_named() {
    let home = Larder::with().write();
    let ran = home.run(&["serve", "--config", "nowhere.toml"]).await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert_says(&ran, &["nowhere.toml"]);
}

#[tokio::test]
async fn flags_override_the_environment_which_overrides_the_file() {
    let server = || {
        Larder::with()
            .plugin("demo", "[config]\nlatency_ms = 0\n")
            .route("/data/{key}", "demo", "")
            .section("[memory]\ncapacity = \"1MiB\"")
            .env("LARDER_MEMORY_CAPACITY", "0")
    };
    let larder = server().start().await;
    for _ in 0..2 {
        larder
            .get("/data/42")
            .await
            .expect(200, "larder; fwd=uri-miss");
    }
    let larder = server().flags(&["--memory", "1MiB"]).start().await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn wit_prints_the_contract_as_the_repository_has_it() {
    let home = Larder::with().write();
    let ran = home.run(&["wit"]).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let mut files: Vec<_> = std::fs::read_dir(repository().join("wit"))
        .expect("wit/")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wit"));
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a file of the contract");
        // One package in one text: the package line is there once, everything else as it is.
        for line in text
            .lines()
            .filter(|line| !line.starts_with("package ") && !line.trim().is_empty())
        {
            assert!(
                ran.stdout.contains(line),
                "{}: {line:?} is not printed",
                file.display()
            );
        }
    }
}

#[tokio::test]
async fn the_commands_are_listed() {
    let home = Larder::with().write();
    let help = home.run(&["--help"]).await;
    assert_eq!(help.status.code(), Some(0));
    assert_says(
        &help,
        &[
            "serve", "check", "openapi", "entry", "purge", "plugins", "plugin", "wit",
        ],
    );
}

#[tokio::test]
async fn a_strict_check_takes_warnings_for_errors() {
    let sidecar = "[config]\npath = \"/data\"\nformat = \"json\"\nkey = \"name\"\n[grants]\ndirs = { \"/data\" = { host = \"../data\", mode = \"ro\" } }\n";
    let home = Larder::with()
        .plugin("files", sidecar)
        .route("/people/{name}", "files", "write = \"through\"")
        .section("[writes]\nconcurrency = 2")
        .write();
    std::fs::create_dir(home.path("data")).expect("a directory");
    let check = async |flags: &[&str]| {
        home.run(&[&["check", "--config", "larder.toml"], flags].concat())
            .await
    };
    let ran = check(&[]).await;
    let at = format!("warning: larder.toml:{}:", line(&home, "[writes]"));
    assert_says(
        &ran,
        &[
            &at,
            "no route has write = \"behind\"",
            "files.toml:6: route \"/people/{name}\" writes through \"files\", which may only read",
            "mode = \"rw\"",
            "0 errors, 2 warnings",
        ],
    );
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(check(&["--strict"]).await.status.code(), Some(1));
    home.reconfigure("[writes]\nconcurrency = 2", "");
    home.sidecar("files", &sidecar.replace("\"ro\"", "\"rw\""));
    let ran = check(&["--strict"]).await;
    assert!(ran.status.success(), "{ran:?}");
}
