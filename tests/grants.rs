//! Law 9: everything that is not granted is denied, at once, and the denial names the exact line to add. A real guest tries
//! by WASI 0.2 and by 0.3, against real servers.

use larder_tests::{Answer, Echo, Larder, Value, eventually};

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
    for _ in 0..3 {
        assert_eq!(comes_of(&larder, &format!("many-20-{to}")).await["ok"], 5);
    }
    let line = "in faulty.toml under [limits] write `fetches = 10`";
    assert!(larder.log().contains(line), "{}", larder.log());
}
