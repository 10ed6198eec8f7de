//! What a bad guest can do: its own request fails within the limit, with a problem that says what happened; the host and
//! its neighbours go on.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::{Answer, Larder, Origin, Reply, Value, before, call, eventually};

/// `faulty` (async), `faulty-blocking` and the keys under `faulty-policy`, beside a `demo` that must not notice.
async fn larder() -> Larder {
    Larder::with()
        .guest("faulty", "[limits]\ntimeout = \"1s\"\n")
        .guest(
            "faulty-blocking",
            "[limits]\ntimeout = \"1s\"\ninstances = 4\n",
        )
        .guest("faulty-policy", "")
        .guest("echo", "")
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route("/faulty/{key}", "faulty", "failure_ttl = \"50ms\"")
        .route(
            "/blocking/{key}",
            "faulty-blocking",
            "failure_ttl = \"50ms\"",
        )
        .route("/policy/{key}", "echo", "key = \"faulty-policy\"")
        .route("/demo/{key}", "demo", "ttl = \"1s\"")
        .start()
        .await
}

/// The time that a call with a limit of one second may take in all: it may be asked twice (once more, alone), and the
/// machine may be busy.
const WITHIN: Duration = Duration::from_secs(10);

/// Asks for a fault, and asserts that it is answered in time with one of these statuses, and that the plugin and its
/// neighbours answer afterwards.
async fn contained(larder: &Larder, route: &str, fault: &str, statuses: &[u16]) -> Answer {
    let asked = Instant::now();
    let answer = larder.get(&format!("/{route}/{fault}")).await;
    let took = asked.elapsed();
    assert!(
        statuses.contains(&answer.status.as_u16()),
        "{route} {fault}: {answer:?}"
    );
    assert!(took < WITHIN, "{route} {fault} took {took:?}");
    answer.problem();
    let neighbour = larder.get(&format!("/demo/{route}-{fault}")).await;
    assert_eq!(
        neighbour.status, 200,
        "after {route} {fault}: {neighbour:?}"
    );
    // The instance is replaced: at once, or after the grace.
    eventually(
        &format!("{route} answers again after {fault}"),
        async || {
            let answer = larder.get(&format!("/{route}/ok-after-{fault}")).await;
            (answer.status == 200).then_some(())
        },
    )
    .await;
    answer
}

#[tokio::test]
async fn law_9_a_fault_of_an_async_loader_costs_its_own_request_alone() {
    // One server each, so that the breaker of one fault's plugin does not answer for the next.
    for (fault, statuses) in [
        ("panic", &[502][..]),
        ("trap-now", &[502]),
        ("exit", &[502]),
        ("loop", &[502, 504]),
        ("recurse", &[502]),
        ("bomb", &[502, 504]),
        ("huge", &[502, 504]),
        ("hang", &[504]),
        ("sleep-block", &[502, 504]),
        ("not-modified", &[502]),
        ("status-99", &[502]),
    ] {
        let larder = larder().await;
        let answer = contained(&larder, "faulty", fault, statuses).await;
        let code = answer.json()["code"].clone();
        let expect = format!(
            "larder; fwd=uri-miss; fwd-status={}; detail={}",
            answer.status.as_u16(),
            code.as_str().unwrap_or_default()
        );
        assert_eq!(answer.cache_status(), expect, "{fault}");
    }
}

#[tokio::test]
async fn law_9_a_fault_of_a_blocking_loader_costs_its_own_request_alone() {
    let larder = larder().await;
    for (fault, statuses) in [
        ("panic", &[502][..]),
        ("loop", &[502, 504]),
        ("bomb", &[502, 504]),
        ("hang", &[504]),
    ] {
        contained(&larder, "blocking", fault, statuses).await;
    }
}

#[tokio::test]
async fn law_9_a_fault_of_a_key_policy_costs_its_own_request_alone() {
    let larder = larder().await;
    for fault in ["panic", "loop", "sleep"] {
        let answer = contained(&larder, "policy", fault, &[500]).await;
        let code = answer.json()["code"].clone();
        assert_eq!(
            answer.cache_status(),
            format!("larder; detail={}", code.as_str().unwrap_or_default()),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn the_last_words_of_a_guest_are_in_the_error() {
    let larder = larder().await;
    let detail = |answer: &Answer| {
        answer.problem()["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let panicked = detail(&larder.get("/faulty/panic").await);
    assert!(
        panicked.contains("the guest panics on purpose"),
        "{panicked}"
    );
    let trapped = detail(&larder.get("/faulty/trap-now").await);
    assert!(trapped.contains("the guest traps on purpose"), "{trapped}");
}

#[tokio::test]
async fn law_9_output_and_logs_of_a_guest_are_bounded() {
    let larder = larder().await;
    for fault in ["stderr-flood", "log-flood"] {
        let answer = larder.get(&format!("/faulty/{fault}")).await;
        assert!(
            matches!(answer.status.as_u16(), 200 | 502 | 504),
            "{answer:?}"
        );
    }
    // 100,000 lines of 100 bytes were said, twice.
    assert!(
        larder.log().len() < 5 << 20,
        "{} bytes of log",
        larder.log().len()
    );
    assert_eq!(larder.get("/demo/x").await.status, 200);
}

#[tokio::test]
async fn law_3_of_a_hundred_reads_in_flight_one_traps_and_ninety_nine_are_answered() {
    let origin = Origin::start();
    let larder = before(&origin, "timeout = \"20s\"").start().await;
    origin.on("/bad", Reply::counted().header("x-do", "panic"));
    let gate = origin.gate("/*");
    let requests = join_all(
        (0..99)
            .map(|id| format!("/things/{id}"))
            .chain(["/things/bad".to_owned()])
            .map(|path| {
                let larder = &larder;
                async move { larder.get(&path).await }
            }),
    );
    // All hundred are in the instance, held at the origin, when one of them traps it.
    let release = async {
        gate.arrived(100).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(requests, release);
    let (bad, good) = answers.split_last().expect("a hundred answers");
    for (id, answer) in good.iter().enumerate() {
        assert_eq!(answer.status, 200, "{id}: {answer:?}");
    }
    bad.problem();
    assert_eq!(bad.status, 502, "{bad:?}");
    assert_eq!(
        origin.calls("/bad"),
        2,
        "the culprit is asked once more, alone"
    );
}

#[tokio::test]
async fn law_9_a_slow_load_does_not_hold_up_the_others_of_its_instance() {
    let larder = larder().await;
    let asked = Instant::now();
    let answers = join_all((0..100).map(|i| {
        let larder = &larder;
        async move { larder.get(&format!("/faulty/slow-{}", 300 + i % 3)).await }
    }))
    .await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?} for loads that wait 300 ms beside each other",
        asked.elapsed()
    );
}

#[tokio::test]
async fn law_9_what_is_not_granted_is_denied_and_the_denial_names_the_line_to_add() {
    let origin = Origin::start();
    let larder = larder().await;
    let said = async |key: &str| {
        larder
            .get(&format!("/faulty/{key}"))
            .await
            .text()
            .to_owned()
    };
    // A slash in a path parameter is encoded.
    let url = origin.url().replace('/', "%2F");
    for fetch in [format!("fetch-{url}%2Fx"), format!("fetch2-{url}%2Fx")] {
        let text = said(&fetch).await;
        assert!(
            text.contains("error") || text.contains("code"),
            "{fetch}: {text}"
        );
    }
    assert_eq!(origin.connections(), 0, "not even a connection is made");
    for denied in ["fs", "read-%2Fetc%2Fhostname", "secret-token"] {
        let text = said(denied).await;
        assert!(text.contains("error"), "{denied}: {text}");
    }
    let text = said(&format!("net-{}", origin.address().port())).await;
    assert!(text.contains("error"), "{text}");
    assert_eq!(origin.connections(), 0);
    assert_eq!(
        larder.get("/faulty/env").await.json()["data"],
        Value::Array(Vec::new()),
        "no environment"
    );
    // The log names the line of the grant.
    larder
        .until_logged(&format!("http = [\"{}\"]", origin.url()))
        .await;
}

#[tokio::test]
async fn law_9_a_grant_opens_exactly_what_it_names() {
    let (granted, other) = (Origin::start(), Origin::start());
    let larder = Larder::with()
        .guest(
            "faulty",
            &format!(
                "[secrets]\ntoken = {{ env = \"SOME_TOKEN\" }}\n[grants]\nhttp = [\"{}\"]\nenv = [\"GREETING\"]\n\
                 dirs = {{ \"/data\" = {{ host = \"data\", mode = \"ro\" }} }}\n",
                granted.url()
            ),
        )
        .route("/faulty/{key}", "faulty", "")
        .env("SOME_TOKEN", "swordfish")
        .env("GREETING", "hello")
        .write();
    std::fs::create_dir_all(larder.path("plugins/data")).expect("a directory to grant");
    std::fs::write(larder.path("plugins/data/file"), "inside").expect("a file in it");
    std::fs::write(larder.path("plugins/secret-file"), "outside").expect("a file beside it");
    let larder = Larder::start(larder).await;
    let data =
        async |key: &str| larder.get(&format!("/faulty/{key}")).await.json()["data"].to_string();
    let url = |origin: &Origin| origin.url().replace('/', "%2F");
    for fetch in ["fetch", "fetch2"] {
        assert!(
            data(&format!("{fetch}-{}%2Fx", url(&granted)))
                .await
                .contains("ok")
        );
        let denied = data(&format!("{fetch}-{}%2Fx", url(&other))).await;
        assert!(denied.contains("error"), "{denied}");
    }
    assert_eq!(other.connections(), 0);
    assert!(data("read-%2Fdata%2Ffile").await.contains("inside"));
    for outside in [
        "read-%2Fdata%2F..%2Fsecret-file",
        "read-%2Fetc%2Fhostname",
        "read-%2Fsecret-file",
    ] {
        assert!(data(outside).await.contains("error"), "{outside}");
    }
    assert!(data("secret-token").await.contains("swordfish"));
    assert!(data("secret-other").await.contains("error"));
    assert_eq!(data("env").await, "[[\"GREETING\",\"hello\"]]");
}

#[tokio::test]
async fn law_9_no_redirect_is_followed_past_the_grant() {
    let (granted, other) = (Origin::start(), Origin::start());
    granted.on(
        "/42",
        Reply::status(302).header("location", &format!("{}/42", other.url())),
    );
    let larder = before(&granted, "").start().await;
    let answer = larder.get("/things/42").await;
    assert_eq!(
        answer.status, 302,
        "it is the loader's to judge: {answer:?}"
    );
    assert_eq!(other.total(), 0);
}

#[tokio::test]
async fn law_9_a_granted_name_that_resolves_to_loopback_needs_a_network_too() {
    let origin = Origin::start();
    let port = origin.address().port();
    let named = format!("http://localhost:{port}");
    for (networks, status) in [
        ("", 502),
        ("networks = [\"127.0.0.0/8\", \"::1/128\"]", 200),
    ] {
        let sidecar =
            format!("[config]\nurl = \"{named}\"\n[grants]\nhttp = [\"{named}\"]\n{networks}\n");
        let larder = Larder::with()
            .guest("gated", &sidecar)
            .route("/things/{id}", "gated", "")
            .start()
            .await;
        let answer = larder.get("/things/42").await;
        assert_eq!(answer.status, status, "{networks}: {answer:?}");
        if status == 502 {
            assert_eq!(origin.connections(), 0);
            let told = format!("{}{}", answer.text(), larder.log());
            assert!(
                told.contains("networks"),
                "the denial names the line to add: {told}"
            );
        }
    }
}

#[tokio::test]
async fn a_key_policy_is_pure_by_its_linker() {
    let parts = async |larder: &Larder, key: &str| {
        let answer = larder.get(&format!("/policy/{key}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["parts"].to_string()
    };
    let (one, two) = (larder().await, larder().await);
    // Frozen clocks: the same from call to call (another query is another derivation) and from process to process.
    let clock = parts(&one, "clock").await;
    for query in 0..20 {
        assert_eq!(parts(&one, &format!("clock?again={query}")).await, clock);
    }
    assert_eq!(parts(&two, "clock").await, clock);
    // A fixed seed: the first numbers of two instances are the same.
    assert_eq!(parts(&one, "random").await, parts(&two, "random").await);
    assert_eq!(
        parts(&one, "env").await,
        "[[\"key\",\"env\"]]",
        "an empty environment"
    );
    parts(&one, "print").await;
}

#[tokio::test]
async fn an_impure_key_policy_is_found_out_and_taken_out_of_service() {
    let larder = larder().await;
    // Another query is another derivation, in an instance that counts what it was asked.
    let mut query = 0;
    eventually("the policy is quarantined", async || {
        query += 1;
        larder.get(&format!("/policy/impure?{query}")).await;
        let plugin = larder.plugin("faulty-policy").await;
        (plugin["state"] == "quarantined").then_some(())
    })
    .await;
    let answer = larder.get("/policy/impure-no-more").await;
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(answer.problem()["code"], "policy-impure");
    assert!(
        larder.plugin("faulty-policy").await["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty())
    );
}

#[tokio::test]
async fn what_a_key_policy_decides_has_its_status() {
    let larder = larder().await;
    for (key, status) in [
        ("reject-invalid-request", 422),
        ("reject-denied", 403),
        ("reject-rate-limited", 429),
        ("reject-internal", 500),
        ("reject-unavailable", 500),
    ] {
        let answer = larder.get(&format!("/policy/{key}")).await;
        let code = key.replace("reject", "faulty");
        answer.expect_problem(status, &code);
        answer.expect(status, &format!("larder; detail={code}"));
    }
    let limited = larder.get("/policy/reject-rate-limited").await;
    assert_eq!(
        limited.header("retry-after"),
        Some("2"),
        "1,500 ms, rounded up"
    );
    for load in 1..=2 {
        let bypass = larder.get("/policy/bypass").await;
        assert!(
            bypass
                .cache_status()
                .starts_with("larder; fwd=bypass; detail="),
            "{bypass:?}"
        );
        assert!(!bypass.cache_status().contains("stored"), "{bypass:?}");
        assert_eq!(bypass.json()["load"], load, "neither read nor stored");
    }
    let private = larder.get("/policy/private").await;
    assert!(
        private
            .header("cache-control")
            .unwrap_or_default()
            .starts_with("private"),
        "{private:?}"
    );
}

#[tokio::test]
async fn long_parts_are_digested_and_parts_that_are_too_long_are_refused() {
    let larder = larder().await;
    let long = larder.get("/policy/big-part-10000").await;
    long.expect(200, "larder; fwd=uri-miss; stored");
    larder
        .get("/policy/big-part-10000")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    larder
        .get("/policy/big-part-10001")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    larder
        .get("/policy/big-part")
        .await
        .expect_problem(500, "key-too-large");
}

#[tokio::test]
async fn the_breaker_opens_for_a_plugin_that_keeps_trapping_and_closes_again() {
    let larder = Larder::with()
        .guest("faulty", "")
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route("/faulty/{key}", "faulty", "failure_ttl = \"0\"")
        .route("/demo/{key}", "demo", "")
        .start()
        .await;
    // Together, because one after the other they would wait for the back-off of the restarts, and be too few in 10 s.
    let open = eventually("the breaker opens", async || {
        let answers = join_all((0..30).map(|i| {
            let larder = &larder;
            async move { larder.get(&format!("/faulty/panic-{i}")).await }
        }))
        .await;
        let is_open = |answer: &Answer| answer.problem()["code"] == "plugin-breaker-open";
        answers.into_iter().find(is_open)
    })
    .await;
    assert!(matches!(open.status.as_u16(), 502 | 503), "{open:?}");
    assert!(open.header("retry-after").is_some(), "{open:?}");
    assert_eq!(larder.get("/demo/x").await.status, 200, "others go on");
    // Open for 5 s, then one call is let through.
    eventually("the breaker closes", async || {
        let answer = larder.get("/faulty/ok-again").await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn failures_that_a_loader_returns_do_not_open_the_breaker() {
    let larder = Larder::with()
        .guest("faulty", "")
        .route("/faulty/{key}", "faulty", "failure_ttl = \"0\"")
        .start()
        .await;
    for _ in 0..60 {
        larder
            .get("/faulty/fail-unavailable")
            .await
            .expect_problem(502, "faulty-unavailable");
    }
    assert_eq!(larder.get("/faulty/ok-x").await.status, 200);
}

#[tokio::test]
async fn a_connection_opened_by_one_load_serves_the_next() {
    let origin = Origin::start();
    let larder = before(&origin, "").start().await;
    for id in 0..20 {
        assert_eq!(call(&larder.get(&format!("/things/{id}")).await), 1);
    }
    assert!(
        origin.connections() <= 2,
        "{} connections for 20 loads in a row",
        origin.connections()
    );
}
