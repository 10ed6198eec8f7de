//! Law 9: everything that is not granted is denied, at once, and the denial names the exact line to add. A real guest tries
//! by WASI 0.2 and by 0.3, against real servers.

use larder_tests::{Answer, Echo, Larder, Value, Wasm, eventually};

/// `faulty` with this sidecar, on `/faulty/{key}`.
async fn faulty(sidecar: &str) -> Larder {
    Larder::with()
        .guest("faulty", sidecar)
        .route(
            "/faulty/{key}",
            "faulty",
            "failure_ttl = \"1ms\"\nttl = \"0\"",
        )
        .start()
        .await
}

/// What comes of a try: `{"ok": …}` or `{"error": text}`.
async fn comes_of(larder: &Larder, key: &str) -> Value {
    let answer = ask(larder, key).await;
    assert_eq!(answer.status, 200, "{key}: {answer:?}");
    answer.json()["data"].clone()
}

async fn ask(larder: &Larder, key: &str) -> Answer {
    let key = key.replace('%', "%25").replace('/', "%2F");
    let key = key.replace('[', "%5B").replace(']', "%5D");
    larder.get(&format!("/faulty/{key}")).await
}

/// Asserts that a try fails, and that the log holds these words then.
async fn denied(larder: &Larder, key: &str, words: &[&str]) {
    let came = comes_of(larder, key).await;
    assert!(came["error"].is_string(), "{key}: {came}");
    eventually(&format!("the log tells of {key}: {words:?}"), async || {
        let log = larder.log();
        words.iter().all(|word| log.contains(word)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_9_a_granted_endpoint_is_reached_by_both_versions_of_wasi() {
    let echo = Echo::start();
    let port = echo.address().port();
    let larder = faulty(&format!(
        "[grants]\ntcp = [\"127.0.0.1:{port}\", \"localhost:{port}\"]\nnetworks = [\"127.0.0.0/8\", \"::1/128\"]\n"
    ))
    .await;
    for way in ["echo", "echo3"] {
        for host in ["127.0.0.1", "localhost"] {
            let came = comes_of(&larder, &format!("{way}-{host}:{port}")).await;
            assert_eq!(
                came["ok"],
                "hello",
                "{way} {host}: {came}\n{}",
                larder.log()
            );
        }
    }
    assert_eq!(echo.accepted(), 4);
}

#[tokio::test]
async fn law_9_an_endpoint_that_is_not_granted_is_denied_with_the_line_to_add() {
    let (echo, granted) = (Echo::start(), Echo::start());
    let (port, other) = (echo.address().port(), granted.address().port());
    let larder = faulty(&format!("[grants]\ntcp = [\"127.0.0.1:{other}\"]\n")).await;
    let line = format!(
        "in faulty.toml under [grants] write `tcp = [\"127.0.0.1:{other}\", \"127.0.0.1:{port}\"]`"
    );
    for way in ["echo", "echo3"] {
        denied(&larder, &format!("{way}-127.0.0.1:{port}"), &[&line]).await;
        // The same address in other clothes is the same address, and the same denial.
        for disguise in ["2130706433", "0x7f.1", "0177.0.0.1"] {
            denied(&larder, &format!("{way}-{disguise}:{port}"), &[&line]).await;
        }
    }
    assert_eq!(echo.accepted(), 0, "not even a connection is made");
    assert_eq!(
        comes_of(&larder, &format!("echo-127.0.0.1:{other}")).await["ok"],
        "hello"
    );
}

#[tokio::test]
async fn law_9_a_granted_name_that_leads_inside_needs_a_network_for_sockets_too() {
    let echo = Echo::start();
    let port = echo.address().port();
    let larder = faulty(&format!("[grants]\ntcp = [\"localhost:{port}\"]\n")).await;
    for way in ["echo", "echo3"] {
        let words = [
            "localhost resolves to",
            "loopback",
            "under [grants] write `networks = [",
        ];
        denied(&larder, &format!("{way}-localhost:{port}"), &words).await;
    }
    // Nor by its address, which the name would have given.
    let words = [&*format!("\"127.0.0.1:{port}\"]`")];
    denied(&larder, &format!("echo-127.0.0.1:{port}"), &words).await;
    assert_eq!(echo.accepted(), 0);
}

#[tokio::test]
async fn law_9_only_granted_names_are_looked_up() {
    let larder =
        faulty("[grants]\ntcp = [\"localhost:1\"]\nnetworks = [\"127.0.0.0/8\", \"::1/128\"]\n")
            .await;
    for way in ["lookup", "lookup3"] {
        let came = comes_of(&larder, &format!("{way}-localhost")).await;
        assert!(
            came["ok"].as_array().is_some_and(|it| !it.is_empty()),
            "{came}"
        );
        // What is told to the world in a name would be told to whoever answers for `evil.test`.
        let words = [
            "sockets may not look up s3cret.evil.test",
            "`tcp = [\"localhost:1\", \"s3cret.evil.test:PORT\"]`",
        ];
        denied(&larder, &format!("{way}-s3cret.evil.test"), &words).await;
    }
}

#[tokio::test]
async fn law_9_a_guest_neither_listens_nor_sends_datagrams() {
    let echo = Echo::start();
    let larder = faulty(&format!("[grants]\ntcp = [\"{}\"]\n", echo.address())).await;
    for (key, word) in [
        (
            "listen-127.0.0.1:0",
            "listening on 127.0.0.1:0 is not granted",
        ),
        ("listen-0.0.0.0:0", "listening on 0.0.0.0:"),
        ("listen3", "listening on 0.0.0.0:0 is not granted"),
        ("udp3", "UDP is not granted"),
    ] {
        denied(&larder, key, &[word]).await;
    }
    denied(
        &larder,
        &format!("udp-{}", echo.address()),
        &["UDP is not granted"],
    )
    .await;
}

#[tokio::test]
async fn law_12_an_instance_has_only_so_many_sockets() {
    let echo = Echo::start();
    let to = echo.address();
    let larder = faulty(&format!(
        "[grants]\ntcp = [\"{to}\"]\n[limits]\nfetches = 5\n"
    ))
    .await;
    // Once more after each, so that what is closed is seen to be free again. By WASI 0.3 only the streams are kept: they
    // hold a connection as well as its socket does.
    for way in ["many", "many3", "many", "many3"] {
        let came = comes_of(&larder, &format!("{way}-20-{to}")).await;
        assert_eq!(came["ok"], 5, "{way}: {came}");
        eventually("the connections are closed", async || {
            (echo.open() == 0).then_some(())
        })
        .await;
    }
    let line = "in faulty.toml under [limits] write `fetches = 10`";
    larder.until_logged(line).await;
}

#[tokio::test]
async fn law_9_a_denied_load_fails_at_once_and_says_what_to_add() {
    let echo = Echo::start();
    let to = echo.address();
    // A call that waited for its timeout would be a 504, and this one is long.
    let larder =
        faulty("[secrets]\ntoken = { env = \"NOT_SET_ANYWHERE\" }\n[limits]\ntimeout = \"1m\"\n")
            .await;
    for way in ["reach", "reach3"] {
        let answer = ask(&larder, &format!("{way}-{to}")).await;
        answer.expect_problem(502, "source-unreachable");
        let line = format!("in faulty.toml under [grants] write `tcp = [\\\"{to}\\\"]`");
        assert!(answer.text().contains(&line), "{}", answer.text());
    }
    denied(
        &larder,
        "secret-password",
        &["in faulty.toml under [secrets] write `password = { env = \"PASSWORD\" }`"],
    )
    .await;
    denied(
        &larder,
        "secret-token",
        &["the environment variable NOT_SET_ANYWHERE: it is not set"],
    )
    .await;
    assert_eq!(echo.accepted(), 0);
}

/// Each way in which a plugin could say a secret where operators and consumers read.
#[tokio::test]
async fn law_9_a_secret_appears_nowhere() {
    const SECRET: &str = "correct-horse-battery-staple";
    for how in ["log", "stderr", "panic", "fail"] {
        let larder = Larder::with()
            .guest("faulty", "[secrets]\ntoken = { env = \"SOME_TOKEN\" }\n")
            .route("/faulty/{key}", "faulty", "failure_ttl = \"1ms\"")
            .env("SOME_TOKEN", SECRET)
            .start()
            .await;
        let answer = ask(&larder, &format!("leak-{how}-token")).await;
        let mut told = format!("{answer:?}\n{}", answer.text());
        if how != "log" {
            answer.problem();
            assert!(told.contains("[secret token]"), "{how}: {told}");
        }
        if how != "fail" {
            eventually(&format!("the log tells of {how}"), async || {
                larder.log().contains("[secret token]").then_some(())
            })
            .await;
        }
        told.push_str(&larder.plugin("faulty").await.to_string());
        told.push_str(&larder.log());
        assert!(!told.contains(SECRET), "{how}: {told}");
        assert!(
            !told.contains("battery"),
            "nor a piece of it: {how}: {told}"
        );
    }
}

/// A secret in the place of a host or a name would be told by the denial.
#[tokio::test]
async fn law_9_a_denial_holds_no_secret() {
    let larder = Larder::with()
        .guest("faulty", "[secrets]\ntoken = { env = \"SOME_TOKEN\" }\n")
        .route("/faulty/{key}", "faulty", "ttl = \"0\"")
        .env("SOME_TOKEN", "correct-horse")
        .start()
        .await;
    assert_eq!(
        comes_of(&larder, "secret-token").await["ok"],
        "correct-horse"
    );
    denied(
        &larder,
        "lookup-correct-horse.evil.test",
        &["[secret token].evil.test"],
    )
    .await;
    denied(
        &larder,
        "secret-correct-horse",
        &["the secret \"[secret token]\" is not granted"],
    )
    .await;
    assert!(!larder.log().contains("correct-horse"), "{}", larder.log());
}

#[tokio::test]
async fn law_8_a_pinned_plugin_is_exactly_the_pinned_component() {
    let (demo, files) = (Wasm::plugin("demo").bytes(), Wasm::plugin("files").bytes());
    let home = Larder::with()
        .component("demo", Wasm::plugin("demo"), "digest = \"sha256:0000\"\n")
        .route("/demo/{key}", "demo", "")
        .write();
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert!(
        ran.all()
            .contains("demo.toml:1: digest of the file: it is not 64 hexadecimal digits"),
        "{ran:?}"
    );
    let zeros = "0".repeat(64);
    std::fs::write(
        home.path("plugins/demo.toml"),
        format!("digest = \"sha256:{zeros}\"\n"),
    )
    .expect("a sidecar");
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let said = ran.all();
    assert!(
        said.contains(&format!("and digest says sha256:{zeros}")),
        "{said}"
    );
    // The refusal holds the line that accepts what is there.
    let line = said
        .split("write digest = ")
        .nth(1)
        .expect("the line to add");
    let line = format!("digest = {}\n", line.lines().next().unwrap_or_default());
    home.sidecar("demo", &line);
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");

    let larder = Larder::start(home).await;
    assert_eq!(larder.get("/demo/1").await.status, 200);
    larder.install_bytes("demo", &files);
    eventually("the swap is refused", async || {
        let plugin = larder.plugin("demo").await;
        let error = plugin["error"].as_str().unwrap_or_default().to_owned();
        error
            .contains("not the component that is pinned")
            .then_some(())
    })
    .await;
    assert_eq!(larder.plugin("demo").await["state"], "ready");
    assert_eq!(
        larder.get("/demo/2").await.status,
        200,
        "the one before serves on"
    );
    larder.install_bytes("demo", &demo);
    eventually("nothing is wrong any more", async || {
        larder.plugin("demo").await["error"].is_null().then_some(())
    })
    .await;
}

#[tokio::test]
async fn check_tells_the_faults_of_a_sidecar_with_their_lines() {
    let home = Larder::with()
        .guest(
            "needy",
            "[config]\nbse = \"hunter2\"\nbase = 5\n\n[grants]\ntpc = []\n\n[secrets]\ntoken = { env = \"NOT_SET_ANYWHERE\" }\n",
        )
        .write();
    let ran = home.run(&["check"]).await;
    let said = ran.all();
    for words in [
        "needy.toml:2: [config] bse: unknown key\n  remedy: did you mean \"base\"?",
        "needy.toml:3: [config] base: expected a string, found a whole number",
        "needy.toml:6: unknown key \"tpc\" in [grants]\n  remedy: did you mean \"tcp\"?",
        "needy.toml:9: the secret \"token\" is not available: the environment variable NOT_SET_ANYWHERE: it is not set",
        "needy needs the grant `http` (the origin that the setting `base` names)",
        "in needy.toml under [grants] write `http = [\"https://api.example.com\"]`, with your own values",
    ] {
        assert!(said.contains(words), "{words:?} is not in:\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_sidecar_that_is_not_toml_has_that_one_fault() {
    let home = Larder::with()
        .guest(
            "needy",
            "[config\nbase = \"x\"\n\n[grants]\nhttp = [\"https://a.test\"]\n",
        )
        .write();
    let said = home.run(&["check"]).await.all();
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert!(said.contains("needy.toml:1: this is not TOML"), "{said}");
}
