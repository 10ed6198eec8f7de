//! The read path: one load per key, what a loader sees, what shares a value, and every exit of the cache that a fresh or
//! absent value can take. What happens after the end of a ttl is in `freshness.rs`.

use futures_util::future::join_all;
use larder_tests::{Larder, Origin, Reply, Value, before, call, eventually, json, sidecar};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_3_a_thousand_cold_requests_are_one_load() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\ntimeout = \"20s\"")
        .start()
        .await;
    let gate = origin.gate("/42");
    let requests = join_all((0..1000).map(|_| larder.get("/things/42")));
    // All of them wait before the one load may end: none can be a hit by coming late.
    let release = async {
        larder.until_waiting(1000).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(requests, release);
    assert_eq!(origin.calls("/42"), 1);
    let stored = answers
        .iter()
        .filter(|a| a.is("larder; fwd=uri-miss; stored"))
        .count();
    let collapsed = answers
        .iter()
        .filter(|a| a.is("larder; fwd=uri-miss; collapsed"))
        .count();
    assert_eq!((stored, collapsed), (1, 999));
    assert!(answers.iter().all(|answer| call(answer) == 1));
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn law_3_the_client_that_started_a_load_may_leave() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\ntimeout = \"20s\"")
        .start()
        .await;
    let gate = origin.gate("/42");
    let mut leader = larder.public.connect().await;
    leader
        .send("GET /things/42 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    gate.arrived(1).await;
    let others = join_all((0..20).map(|_| larder.get("/things/42")));
    let release = async {
        larder.until_waiting(21).await;
        drop(leader);
        // The server has seen it leave: only the others wait.
        eventually("the leader's request has ended", async || {
            let waiting = larder.metrics().await.sum(larder_tests::metrics::WAITING);
            (waiting <= 20.0).then_some(())
        })
        .await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(others, release);
    assert!(answers.iter().all(|answer| call(answer) == 1));
    assert_eq!(
        origin.calls("/42"),
        1,
        "the others were served by the load that the lost client had started"
    );
}

#[tokio::test]
async fn law_3_a_load_that_nobody_waits_for_any_more_is_still_stored() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\ntimeout = \"20s\"")
        .start()
        .await;
    let gate = origin.gate("/42");
    let mut leader = larder.public.connect().await;
    leader
        .send("GET /things/42 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    gate.arrived(1).await;
    drop(leader);
    gate.open();
    // Whether it joins the flight or finds the entry, there is no second load.
    let answer = larder.get("/things/42").await;
    assert_eq!((call(&answer), origin.calls("/42")), (1, 1));
}

#[tokio::test]
async fn law_3_a_leader_that_traps_has_one_successor_and_strands_nobody() {
    for fault in ["panic", "loop"] {
        let origin = Origin::start();
        let larder = before(&origin, "ttl = \"60s\"\ntimeout = \"20s\"")
            .start()
            .await;
        origin.script(
            "/42",
            [Reply::counted().header("x-do", fault), Reply::counted()],
        );
        let gate = origin.gate("/42");
        let requests = join_all((0..50).map(|_| larder.get("/things/42")));
        let release = async {
            larder.until_waiting(50).await;
            gate.open();
        };
        let (answers, ()) = tokio::join!(requests, release);
        assert!(
            answers.iter().all(|answer| call(answer) == 2),
            "{fault}: {:?}",
            answers[0]
        );
        assert_eq!(
            origin.calls("/42"),
            2,
            "{fault}: the read is asked again once, alone"
        );
    }
}

#[tokio::test]
async fn law_3_a_leader_that_traps_for_good_fails_everybody_once() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"60s\"\ntimeout = \"20s\"\nfailure_ttl = \"60s\"",
    )
    .start()
    .await;
    origin.on("/42", Reply::counted().header("x-do", "panic"));
    let gate = origin.gate("/42");
    let requests = join_all((0..50).map(|_| larder.get("/things/42")));
    let release = async {
        larder.until_waiting(50).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(requests, release);
    for answer in &answers {
        let problem = answer.problem();
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap_or_default()
                .contains("told to panic"),
            "{problem}"
        );
    }
    assert_eq!(origin.calls("/42"), 2);
}

#[tokio::test]
async fn law_3_a_leader_that_hangs_strands_nobody_and_has_one_successor() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"60s\"\ntimeout = \"500ms\"\nfailure_ttl = \"50ms\"",
    )
    .start()
    .await;
    origin.script("/42", [Reply::hang(), Reply::counted()]);
    let answers = join_all((0..50).map(|_| larder.get("/things/42"))).await;
    for answer in &answers {
        answer.expect_problem(504, "timeout");
        answer.expect(504, "larder; fwd=uri-miss; fwd-status=504; detail=timeout");
    }
    assert_eq!(origin.calls("/42"), 1);
    // The next load is one again, although the first call still sits in the guest.
    let gate = origin.gate("/42");
    let next = join_all((0..50).map(|_| async {
        // The failure is remembered for a moment; whoever asks within it asks again.
        eventually("the failure is forgotten", async || {
            let answer = larder.get("/things/42").await;
            (answer.status == 200).then_some(answer)
        })
        .await
    }));
    let release = async {
        gate.arrived(1).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(next, release);
    assert!(answers.iter().all(|answer| call(answer) == 2));
    assert_eq!(origin.calls("/42"), 2);
}

#[tokio::test]
async fn law_3_a_leader_that_fails_fails_its_followers_and_the_failure_is_remembered() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"60s\"\ntimeout = \"20s\"\nfailure_ttl = \"60s\"",
    )
    .start()
    .await;
    origin.on("/42", Reply::status(503));
    let gate = origin.gate("/42");
    let requests = join_all((0..50).map(|_| larder.get("/things/42")));
    let release = async {
        larder.until_waiting(50).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(requests, release);
    for answer in &answers {
        answer.expect_problem(502, "origin-fails");
        answer.expect(
            502,
            "larder; fwd=uri-miss; fwd-status=502; detail=origin-fails",
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let again = larder.get("/things/42").await;
    again.expect(
        502,
        "larder; fwd=uri-miss; fwd-status=502; detail=origin-fails",
    );
    assert_eq!(origin.calls("/42"), 1, "not asked again within failure_ttl");
}

#[tokio::test]
async fn law_10_a_failure_is_forgotten_after_failure_ttl() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\nfailure_ttl = \"100ms\"")
        .start()
        .await;
    origin.script("/42", [Reply::status(503), Reply::counted()]);
    assert_eq!(larder.get("/things/42").await.status, 502);
    let answer = eventually("it is loaded again", async || {
        let answer = larder.get("/things/42").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(origin.calls("/42"), 2);
}

#[tokio::test]
async fn law_1_what_is_not_in_the_key_reaches_no_loader_and_makes_no_entry() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let first = larder
        .get_with(
            "/things/42?utm=a&lang=de",
            &[
                ("cookie", "session=1"),
                ("x-forwarded-host", "evil"),
                ("accept-language", "de"),
                (
                    "traceparent",
                    "00-11111111111111111111111111111111-2222222222222222-01",
                ),
            ],
        )
        .await;
    first.expect(200, "larder; fwd=uri-miss; stored");
    let second = larder
        .get_with("/things/42?utm=b", &[("cookie", "session=2")])
        .await;
    second.expect(200, "larder; hit; ttl=N; detail=memory");
    assert_eq!(first.body, second.body);
    let seen = origin.seen("/42");
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0].target, "/42",
        "the loader was given the path parameter alone"
    );
    let headers = format!("{:?}", seen[0].headers);
    for word in ["session", "evil", "11111111", "cookie", "forwarded"] {
        assert!(
            !headers.contains(word),
            "{word} of the client's request reached the origin: {headers}"
        );
    }
}

#[tokio::test]
async fn law_1_what_is_in_the_key_reaches_the_loader_and_makes_entries() {
    let origin = Origin::start();
    let key = "ttl = \"60s\"\nkey = { path = [\"id\"], query = [\"lang\"], headers = [\"accept-language\"] }";
    let larder = before(&origin, key).start().await;
    let ask = async |path: &str, language: Option<&str>| {
        let headers: Vec<_> = language.iter().map(|l| ("accept-language", *l)).collect();
        larder.get_with(path, &headers).await
    };
    // (path, header, whether an equal question was asked before)
    for (path, language, hit) in [
        ("/things/42", None, false),
        ("/things/42?lang=de", None, false),
        ("/things/42?lang=fr", None, false),
        ("/things/42?lang=", None, false),
        ("/things/42?x=1&lang=de&y=2", None, true),
        ("/things/42?lang=de&lang=fr", None, false),
        ("/things/42?lang=fr&lang=de", None, false),
        ("/things/42?lang=de%26lang%3Dfr", None, false),
        ("/things/42", Some("de"), false),
        ("/things/42", Some("fr"), false),
        ("/things/42?lang=de", Some("de"), false),
        ("/things/42?lang=de", Some("de"), true),
        ("/things/42", None, true),
    ] {
        let answer = ask(path, language).await;
        assert_eq!(answer.is_hit(), hit, "{path} {language:?}: {answer:?}");
    }
    let targets: Vec<_> = origin
        .seen("/42")
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(targets[1], "/42?lang=de");
    assert_eq!(
        targets[3], "/42?lang=",
        "an empty parameter is empty, an absent one is omitted"
    );
    assert_eq!(
        targets[4], "/42?lang=de&lang=fr",
        "a repeated name is a repeated part, in request order"
    );
    assert_eq!(targets[7], "/42?accept-language=de");
}

#[tokio::test]
async fn law_2_a_moved_boundary_is_another_entry() {
    let origin = Origin::start();
    let larder = Larder::with()
        .plugin(
            "http",
            &sidecar(&origin, &format!("{}/{{a}}/{{b}}", origin.url())),
        )
        .route("/pairs/{a}/{b}", "http", "ttl = \"60s\"")
        .start()
        .await;
    for (path, asked) in [
        ("/pairs/a/bc", "/a/bc"),
        ("/pairs/ab/c", "/ab/c"),
        ("/pairs/a%2Fb/c", "/a%2Fb/c"),
    ] {
        let answer = larder.get(path).await;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(answer.json()["path"], asked);
    }
    assert_eq!(larder.get("/pairs/a/bc").await.json()["path"], "/a/bc");
    assert_eq!(larder.get("/pairs/ab/c").await.json()["path"], "/ab/c");
}

#[tokio::test]
async fn law_2_equal_parts_of_two_resources_are_two_entries() {
    let origin = Origin::start();
    // The policy leaves the path out of the parts: still, a policy splits a resource and never joins two.
    let larder = before(
        &origin,
        "ttl = \"60s\"\nkey = { path = [], query = [\"id\"] }",
    )
    .start()
    .await;
    larder
        .get("/things/1?id=x")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    larder
        .get("/things/2?id=x")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(origin.calls("/x"), 2);
}

#[tokio::test]
async fn a_key_policy_plugin_keeps_tenants_apart_and_marks_answers_private() {
    let origin = Origin::start();
    let larder = Larder::with()
        .guest("gated", &sidecar(&origin, &origin.url()))
        .plugin("tenant-key", "[config]\nquery = [\"page\"]\n")
        .route(
            "/orders/{id}",
            "gated",
            "ttl = \"60s\"\nkey = \"tenant-key\"\nkey_headers = [\"x-tenant\"]",
        )
        .start()
        .await;
    let ask = async |tenant: &str, path: &str| larder.get_with(path, &[("x-tenant", tenant)]).await;
    let first = ask("acme", "/orders/7?page=1&utm=x").await;
    first.expect(200, "larder; fwd=uri-miss; stored");
    assert!(
        first
            .header("cache-control")
            .unwrap_or_default()
            .starts_with("private"),
        "{first:?}"
    );
    ask("acme", "/orders/7?utm=y&PAGE=1")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    ask("umbrella", "/orders/7?page=1")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let seen: Vec<_> = origin
        .seen("/acme")
        .into_iter()
        .map(|seen| seen.target)
        .collect();
    assert_eq!(
        seen,
        ["/acme?id=7&page=1"],
        "the parts: tenant, path, the named query"
    );
    let nobody = larder.get("/orders/7").await;
    nobody.expect_problem(422, "tenant-missing");
    nobody.expect(422, "larder; detail=tenant-missing");
}

#[tokio::test]
async fn an_absence_is_answered_404_and_remembered_for_missing_ttl() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\nmissing_ttl = \"300ms\"")
        .start()
        .await;
    origin.script("/42", [Reply::status(404), Reply::counted()]);
    let first = larder.get("/things/42").await;
    first.expect(404, "larder; fwd=uri-miss; stored");
    first.problem();
    let second = larder.get("/things/42").await;
    second.expect(404, "larder; hit; ttl=N; detail=missing");
    second.problem();
    for absence in [first, second] {
        let cache_control = absence.header("cache-control");
        assert_eq!(cache_control, Some("public, max-age=0"), "{absence:?}");
    }
    let found = eventually("the absence is forgotten", async || {
        let answer = larder.get("/things/42").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    found.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(origin.calls("/42"), 2);
}

#[tokio::test]
async fn a_loaders_own_ttl_wins_is_clamped_at_ttl_max_and_zero_means_do_not_store() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\nttl_max = \"1h\"")
        .start()
        .await;
    origin.on("/long", Reply::counted().header("x-ttl-ms", "600000"));
    origin.on(
        "/endless",
        Reply::counted().header("x-ttl-ms", "999999999999"),
    );
    origin.on("/never", Reply::counted().header("x-ttl-ms", "0"));
    for (path, seconds) in [
        ("/things/plain", 60),
        ("/things/long", 600),
        ("/things/endless", 3600),
    ] {
        let answer = larder.get(path).await;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(answer.max_age(), Some(seconds), "{path}: {answer:?}");
        let ttl = larder.get(path).await.ttl();
        assert!(
            (seconds as i64 - 25..=seconds as i64).contains(&ttl),
            "{path}: {ttl}"
        );
    }
    assert_eq!(
        larder
            .metrics()
            .await
            .sum(larder_tests::metrics::TTL_CLAMPED),
        1.0
    );
    for load in 1..=3 {
        let answer = larder.get("/things/never").await;
        answer.expect(200, "larder; fwd=uri-miss");
        assert_eq!(call(&answer), load);
    }
}

#[tokio::test]
async fn jitter_shortens_ttls_so_that_they_do_not_end_together() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1000s\"\njitter = 0.5")
        .start()
        .await;
    let mut ttls = Vec::new();
    for id in 0..20 {
        larder.get(&format!("/things/{id}")).await;
        ttls.push(larder.get(&format!("/things/{id}")).await.ttl());
    }
    // 20 s of patience for a slow machine; half of the ttl is the most that jitter takes.
    assert!(
        ttls.iter().all(|ttl| (480..=1000).contains(ttl)),
        "{ttls:?}"
    );
    let (least, most) = (ttls.iter().min(), ttls.iter().max());
    assert!(
        most.zip(least)
            .is_some_and(|(most, least)| most - least > 100),
        "{ttls:?}"
    );
}

#[tokio::test]
async fn only_if_cached_asks_no_source() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let ask = async || {
        larder
            .get_with("/things/42", &[("cache-control", "only-if-cached")])
            .await
    };
    let answer = ask().await;
    answer.expect_problem(504, "only-if-cached");
    answer.expect(504, "larder; detail=only-if-cached");
    assert_eq!(origin.total(), 0);
    larder.get("/things/42").await;
    ask().await.expect(200, "larder; hit; ttl=N; detail=memory");
    assert_eq!(origin.total(), 1);
}

#[tokio::test]
async fn a_clients_no_cache_and_no_store_are_ignored() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    larder
        .get_with("/things/42", &[("cache-control", "no-store")])
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    for field in [
        ("cache-control", "no-cache"),
        ("cache-control", "no-store"),
        ("pragma", "no-cache"),
        ("cache-control", "max-age=0"),
    ] {
        larder
            .get_with("/things/42", &[field])
            .await
            .expect(200, "larder; hit; ttl=N; detail=memory");
    }
    assert_eq!(origin.calls("/42"), 1);
}

#[tokio::test]
async fn every_kind_of_failure_has_its_status() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"\ntimeout = \"600ms\"")
        .start()
        .await;
    for (id, reply, status, code) in [
        (
            "invalid",
            Reply::counted().header("x-do", "invalid"),
            422,
            "told-to",
        ),
        (
            "denied",
            Reply::counted().header("x-do", "denied"),
            502,
            "told-to",
        ),
        (
            "internal",
            Reply::counted().header("x-do", "internal"),
            502,
            "told-to",
        ),
        ("down", Reply::status(500), 502, "origin-fails"),
        ("reset", Reply::reset(), 502, "origin-unreachable"),
        ("short", Reply::cut_short(), 502, "origin-unreachable"),
        ("hang", Reply::hang(), 504, "timeout"),
        ("limited", Reply::status(429), 429, "origin-limits"),
    ] {
        origin.on(&format!("/{id}"), reply);
        let answer = larder.get(&format!("/things/{id}")).await;
        answer.expect_problem(status, code);
        answer.expect(
            status,
            &format!("larder; fwd=uri-miss; fwd-status={status}; detail={code}"),
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{id}");
        let retry = answer.header("retry-after");
        assert_eq!(retry, (id == "limited").then_some("2"), "{id}: {answer:?}");
    }
}

#[tokio::test]
async fn the_http_plugin_tells_the_ways_of_an_origin_apart() {
    let origin = Origin::start();
    let url = format!("{}/{{id}}", origin.url());
    let larder = Larder::with()
        .plugin("http", &sidecar(&origin, &url))
        .route("/things/{id}", "http", "ttl = \"60s\"\ntimeout = \"600ms\"")
        .start()
        .await;
    for (id, reply, status, code) in [
        ("400", Reply::status(400), 422, Some("origin-status-400")),
        ("401", Reply::status(401), 502, Some("origin-status-401")),
        ("403", Reply::status(403), 502, Some("origin-status-403")),
        ("404", Reply::status(404), 404, None),
        ("410", Reply::status(410), 404, None),
        (
            "429",
            Reply::status(429).header("retry-after", "7"),
            429,
            Some("origin-status-429"),
        ),
        ("500", Reply::status(500), 502, Some("origin-status-500")),
        ("503", Reply::status(503), 502, Some("origin-status-503")),
        (
            "302",
            Reply::status(302).header("location", "http://127.0.0.1:1/"),
            502,
            Some("origin-status-302"),
        ),
        ("reset", Reply::reset(), 502, Some("origin-unreachable")),
        ("short", Reply::cut_short(), 502, Some("origin-unreachable")),
    ] {
        origin.on(&format!("/{id}"), reply);
        let answer = larder.get(&format!("/things/{id}")).await;
        let problem = answer.problem();
        assert_eq!(answer.status, status, "{id}: {answer:?}");
        if let Some(code) = code {
            assert_eq!(problem["code"], code, "{id}");
        }
        assert_eq!(
            answer.header("retry-after"),
            (id == "429").then_some("7"),
            "{id}"
        );
    }
    origin.on("/hang", Reply::hang());
    assert_eq!(larder.get("/things/hang").await.status, 504);
    origin.on("/drip", Reply::drip(std::time::Duration::from_millis(200)));
    assert_eq!(
        larder.get("/things/drip").await.status,
        504,
        "a body that drips past the deadline is late"
    );
    for dots in ["%2E", "%2e%2E"] {
        larder
            .get(&format!("/things/{dots}"))
            .await
            .expect_problem(422, "part-is-dots");
    }
    origin.refuse().await;
    larder
        .get("/things/refused")
        .await
        .expect_problem(502, "origin-unreachable");
}

#[tokio::test]
async fn a_chain_goes_on_after_trouble_and_not_after_an_answer() {
    let (primary, backup) = (Origin::start(), Origin::start());
    let url = |origin: &Origin| format!("{}/{{id}}", origin.url());
    let larder = Larder::with()
        .component("primary", larder_tests::Wasm::plugin("http"), &sidecar(&primary, &url(&primary)))
        .component("backup", larder_tests::Wasm::plugin("http"), &sidecar(&backup, &url(&backup)))
        .section("[[routes]]\npath = \"/things/{id}\"\nloaders = [\"primary\", \"backup\"]\nttl = \"60s\"\ntimeout = \"1s\"")
        .start()
        .await;
    for (id, reply, status, asks_backup) in [
        ("fine", Reply::counted(), 200, false),
        ("absent", Reply::status(404), 404, false),
        ("denied", Reply::status(401), 502, false),
        ("invalid", Reply::status(422), 422, false),
        ("down", Reply::status(503), 200, true),
        ("limited", Reply::status(429), 200, true),
        ("reset", Reply::reset(), 200, true),
        ("internal", Reply::status(302), 200, true),
    ] {
        primary.on(&format!("/{id}"), reply);
        let answer = larder.get(&format!("/things/{id}")).await;
        assert_eq!(answer.status, status, "{id}: {answer:?}");
        assert_eq!(
            backup.calls(&format!("/{id}")),
            usize::from(asks_backup),
            "{id}"
        );
        if asks_backup {
            answer.expect(200, "larder; fwd=uri-miss; stored");
        }
    }
}

#[tokio::test]
async fn headers_that_a_loader_may_not_send_are_dropped_and_counted() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let given = Reply::counted()
        .header("x-header", "x-kept: yes")
        .header("x-header", "set-cookie: a=1")
        .header("x-header", "cache-control: no-store")
        .header("x-header", "transfer-encoding: chunked")
        .header("x-header", "content-length: 3")
        .header("x-header", "cache-status: other; hit")
        .header("x-header", "bad name: x");
    origin.on("/42", given);
    let answer = larder.get("/things/42").await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(answer.header("x-kept"), Some("yes"));
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    assert_eq!(answer.json()["call"], json!(1));
    assert_eq!(
        larder
            .metrics()
            .await
            .sum(larder_tests::metrics::HEADERS_DROPPED),
        6.0
    );
}

#[tokio::test]
async fn law_12_the_memory_tier_keeps_within_its_bytes() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1h\"")
        .section("[memory]\ncapacity = \"1MiB\"")
        .start()
        .await;
    origin.on("/*", Reply::counted().body(vec![b'x'; 64 * 1024]));
    for id in 0..64 {
        larder
            .get(&format!("/things/{id}"))
            .await
            .expect(200, "larder; fwd=uri-miss; stored");
    }
    let mut kept = 0;
    for id in 0..64 {
        let answer = larder
            .get_with(
                &format!("/things/{id}"),
                &[("cache-control", "only-if-cached")],
            )
            .await;
        kept += usize::from(answer.status == 200);
    }
    assert!(
        (1..=16).contains(&kept),
        "{kept} entries of 64 KiB in 1 MiB"
    );
}

#[tokio::test]
async fn with_neither_tier_every_request_loads_and_none_is_stored() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").no_memory().start().await;
    for load in 1..=3 {
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; fwd=uri-miss");
        assert_eq!(call(&answer), load);
    }
}

#[tokio::test]
async fn the_entries_of_a_resource_are_listed_with_all_their_variants() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"60s\"\nkey = { path = [\"id\"], query = [\"lang\"] }",
    )
    .start()
    .await;
    for path in ["/things/42?lang=de", "/things/42?lang=fr", "/things/43"] {
        larder.get(path).await;
    }
    let entries = larder.entries("/things/42").await;
    assert_eq!(entries.as_array().map(Vec::len), Some(2), "{entries}");
    let text = entries.to_string();
    assert!(
        text.contains("lang=de") && text.contains("lang=fr") && !text.contains("id=43"),
        "{text}"
    );
    assert_eq!(larder.entries("/things/44").await, Value::Array(Vec::new()));
}
