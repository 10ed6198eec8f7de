//! Purges: by path, tag, route and all; before, during and after loads; `delete` and `expire`; and what `POST /purge` says.

use futures_util::future::join_all;
use larder_tests::{Answer, Larder, Origin, Redis, Reply, Value, before, call, eventually, json};

/// The ways to say "purge what `/things/42` holds", the tag being one that only the load reveals.
fn ways() -> [Value; 6] {
    [
        json!({ "path": "/things/42" }),
        json!({ "path": "/things/42", "exact": true }),
        json!({ "tag": "red" }),
        json!({ "tags": ["green", "red"] }),
        json!({ "route": "/things/{id}" }),
        json!({ "all": true }),
    ]
}

fn tagged() -> Reply {
    Reply::counted().header("x-tags", "blue,red")
}

#[tokio::test]
async fn law_4_a_purge_ends_what_is_stored() {
    for way in ways() {
        let origin = Origin::start();
        origin.on("/42", tagged());
        let larder = before(
            &origin,
            "ttl = \"1h\"\nstale_if_error = \"1h\"\nstale_while_revalidate = \"1h\"",
        )
        .start()
        .await;
        larder.get("/things/42").await;
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=memory");
        larder.purge(way.clone()).await;
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(call(&answer), 2, "{way}");
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=memory");
    }
}

#[tokio::test]
async fn a_purge_of_something_else_ends_nothing() {
    let origin = Origin::start();
    origin.on("/42", tagged());
    let larder = before(&origin, "ttl = \"1h\"")
        .route("/others/{id}", "gated", "")
        .start()
        .await;
    larder.get("/things/42").await;
    for other in [
        json!({ "path": "/things/43" }),
        json!({ "path": "/things/43", "exact": true }),
        json!({ "tag": "green" }),
        json!({ "tags": ["green", "re", "blue,red"] }),
        json!({ "route": "/others/{id}" }),
    ] {
        larder.purge(other).await;
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=memory");
    }
}

#[tokio::test]
async fn law_4_a_purge_during_a_load_is_seen_by_who_comes_after_it() {
    for way in ways() {
        let origin = Origin::start();
        origin.on("/42", tagged());
        let larder = before(
            &origin,
            "ttl = \"1h\"\nstale_if_error = \"1h\"\ntimeout = \"20s\"",
        )
        .start()
        .await;
        let gate = origin.gate("/42");
        let early = join_all((0..5).map(|_| larder.get("/things/42")));
        let (early, late) = tokio::join!(early, async {
            larder.until_waiting(5).await;
            gate.arrived(1).await;
            larder.purge(way.clone()).await;
            let late = join_all((0..5).map(|_| larder.get("/things/42")));
            let release = async {
                // They wait too, for whichever flight: then the old answer is let go.
                larder.until_waiting(10).await;
                gate.open();
            };
            tokio::join!(late, release).0
        });
        // Who asked before the purge may have the answer from before it, but it is not stored.
        for answer in &early {
            assert!(
                !answer.is("larder; fwd=uri-miss; stored") || call(answer) > 1,
                "{way}: {answer:?}"
            );
        }
        for answer in &late {
            assert!(
                call(answer) >= 2,
                "{way}: joined a flight from before the purge: {answer:?}"
            );
        }
        let after = larder.get("/things/42").await;
        assert!(
            call(&after) >= 2,
            "{way}: stored although it is older than the purge: {after:?}"
        );
    }
}

#[tokio::test]
async fn law_4_a_purge_during_a_load_that_nobody_else_waits_for_keeps_it_from_being_stored() {
    for way in ways() {
        let origin = Origin::start();
        origin.on("/42", tagged());
        let larder = before(&origin, "ttl = \"1h\"\ntimeout = \"20s\"")
            .start()
            .await;
        let gate = origin.gate("/42");
        let (first, ()) = tokio::join!(larder.get("/things/42"), async {
            gate.arrived(1).await;
            larder.purge(way.clone()).await;
            gate.open();
        });
        first.expect(200, "larder; fwd=uri-miss");
        let after = larder.get("/things/42").await;
        after.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(call(&after), 2, "{way}");
    }
}

#[tokio::test]
async fn law_4_a_purge_during_a_background_refresh_kills_old_and_new() {
    for way in ways() {
        let origin = Origin::start();
        origin.on("/42", tagged());
        let larder = before(&origin, "ttl = \"200ms\"\nstale_while_revalidate = \"1h\"\nstale_if_error = \"1h\"\ntimeout = \"20s\"").start().await;
        larder.get("/things/42").await;
        let gate = origin.gate("/42");
        until(
            &larder,
            "larder; hit; ttl=-N; detail=stale-while-revalidate",
        )
        .await;
        gate.arrived(1).await;
        larder.purge(way.clone()).await;
        let (after, ()) = tokio::join!(larder.get("/things/42"), async {
            larder.until_waiting(1).await;
            gate.open();
        });
        assert!(
            call(&after) >= 3,
            "{way}: calls 1 and 2 began before the purge: {after:?}"
        );
        assert!(call(&larder.get("/things/42").await) >= 3, "{way}");
    }
}

#[tokio::test]
async fn law_4_a_purge_after_the_soft_timeout_keeps_the_late_fill_out() {
    for way in ways() {
        let origin = Origin::start();
        origin.on("/42", tagged());
        let larder = before(
            &origin,
            "ttl = \"200ms\"\nstale_if_error = \"1h\"\nsoft_timeout = \"50ms\"\ntimeout = \"20s\"",
        )
        .start()
        .await;
        larder.get("/things/42").await;
        let gate = origin.gate("/42");
        until(&larder, "larder; hit; ttl=-N; detail=stale-soft-timeout").await;
        gate.arrived(1).await;
        larder.purge(way.clone()).await;
        let (after, ()) = tokio::join!(larder.get("/things/42"), async {
            larder.until_waiting(1).await;
            gate.open();
        });
        assert!(
            call(&after) >= 3,
            "{way}: calls 1 and 2 began before the purge: {after:?}"
        );
    }
}

#[tokio::test]
async fn law_4_not_modified_does_not_revive_what_was_purged() {
    let origin = Origin::start();
    origin.on("/42", Reply::json("{\"call\":1}").etag("\"1\""));
    let larder = before(
        &origin,
        "ttl = \"200ms\"\nstale_if_error = \"1h\"\ntimeout = \"20s\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    let gate = origin.gate("/42");
    let early = eventually("the ttl ends", async || {
        let answer = larder.get("/things/42").await;
        (!answer.is_hit()).then_some(answer)
    });
    let (_, after) = tokio::join!(early, async {
        // The revalidation is under way, its 304 decided, when the purge comes.
        gate.arrived(1).await;
        origin.on("/42", Reply::json("{\"call\":2}").etag("\"2\""));
        larder.purge(json!({ "path": "/things/42" })).await;
        let (after, ()) = tokio::join!(larder.get("/things/42"), async {
            larder.until_waiting(2).await;
            gate.open();
        });
        after
    });
    assert_eq!(call(&after), 2, "{after:?}");
    let last = origin.seen("/42").pop().expect("it was asked");
    assert!(
        !last.headers.contains_key("if-none-match"),
        "what is older than a purge has no validator to show"
    );
    assert_eq!(call(&larder.get("/things/42").await), 2);
}

async fn until(larder: &Larder, status: &str) -> Answer {
    eventually(&format!("/things/42 is answered {status:?}"), async || {
        let answer = larder.get("/things/42").await;
        answer.is(status).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_purge_by_path_ends_every_variant() {
    let origin = Origin::start();
    let key = "ttl = \"1h\"\nkey = { path = [\"id\"], query = [\"lang\"], headers = [\"accept-language\"] }";
    let larder = before(&origin, key).start().await;
    let ask = async |(path, language): (&str, Option<&str>)| {
        let headers = language.map(|language| ("accept-language", language));
        larder.get_with(path, headers.as_slice()).await
    };
    for variant in VARIANTS {
        ask(variant)
            .await
            .expect(200, "larder; fwd=uri-miss; stored");
    }
    larder.purge(json!({ "path": "/things/42" })).await;
    for variant in VARIANTS {
        assert!(!ask(variant).await.is_hit(), "{variant:?}");
    }
}

#[tokio::test]
async fn a_purge_names_a_resource_as_a_url_does() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1h\"").start().await;
    for (asked, purged) in [
        ("/things/a%20b", "/things/a%20b"),
        ("/things/a%2Fb", "/things/a%2fb"),
        ("/things/%61bc", "/things/abc"),
        ("/things/x?utm=1", "/things/x?utm=2"),
    ] {
        larder
            .get(asked)
            .await
            .expect(200, "larder; fwd=uri-miss; stored");
        larder.purge(json!({ "path": purged })).await;
        larder
            .get(asked)
            .await
            .expect(200, "larder; fwd=uri-miss; stored");
    }
}

/// Of one resource: the path, and the `accept-language` that is asked with.
const VARIANTS: [(&str, Option<&str>); 4] = [
    ("/things/42", None),
    ("/things/42?lang=de", None),
    ("/things/42", Some("fr")),
    ("/things/42?lang=de", Some("fr")),
];

#[tokio::test]
async fn law_4_a_purge_of_one_variant_ends_that_one_on_every_node_and_no_other() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let key = "ttl = \"1h\"\nkey = { path = [\"id\"], query = [\"lang\"], headers = [\"accept-language\"] }";
    let node = async || before(&origin, key).redis(&redis.url()).start().await;
    let nodes = [node().await, node().await];
    let ask = async |node: &Larder, (path, language): (&str, Option<&str>)| {
        let headers = language.map(|language| ("accept-language", language));
        node.get_with(path, headers.as_slice()).await
    };
    for mode in ["delete", "expire"] {
        for purged in VARIANTS {
            for variant in VARIANTS {
                ask(&nodes[0], variant).await;
                ask(&nodes[1], variant).await;
                assert!(ask(&nodes[1], variant).await.is_hit(), "{variant:?}");
            }
            let mut purge = json!({ "path": purged.0, "exact": true, "mode": mode });
            if let Some(language) = purged.1 {
                // By another case of the name, and beside a header that its route does not look at.
                purge["headers"] = json!({ "Accept-Language": language, "x-other": "1" });
            }
            let told = nodes[0].purge(purge).await;
            assert_eq!(told["pending"], json!([]), "{told}");
            nodes[1].until_heard(&told).await;
            for node in [&nodes[1], &nodes[0]] {
                for variant in VARIANTS.into_iter().filter(|it| *it != purged) {
                    assert!(ask(node, variant).await.is_hit(), "{purged:?} {variant:?}");
                }
            }
            assert!(!ask(&nodes[1], purged).await.is_hit(), "{mode} {purged:?}");
        }
    }
}

#[tokio::test]
async fn a_purge_of_a_variant_that_cannot_be_says_why_and_ends_nothing() {
    let origin = Origin::start();
    let key = "ttl = \"1h\"\nkey = { path = [\"id\"], query = [\"lang\"] }";
    let larder = before(&origin, key).start().await;
    larder.get("/things/42").await;
    for (asked, status, code, words) in [
        (
            json!({ "path": "/things/42", "headers": { "accept": "text/html" } }),
            400,
            "invalid-purge",
            "\"exact\": true",
        ),
        (
            json!({ "tag": "red", "exact": true }),
            400,
            "invalid-purge",
            "goes with `path`",
        ),
        (
            json!({ "path": "/things/42", "headers": { "a b": "c" }, "exact": true }),
            400,
            "invalid-header",
            "\"a b\"",
        ),
        (
            json!({ "path": "/nothing/42", "exact": true }),
            404,
            "unknown-path",
            "/nothing/42",
        ),
        (
            json!({ "path": "/things/%ff", "exact": true }),
            422,
            "no-variant",
            "path parameter",
        ),
    ] {
        let answer = larder.admin.post("/purge", &asked).await;
        let problem = answer.expect_problem(status, code);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(words), "{asked}: {detail}");
    }
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn expire_ends_the_ttl_and_leaves_the_windows() {
    for way in ways() {
        let origin = Origin::start();
        origin.on("/42", tagged());
        let larder = before(
            &origin,
            "ttl = \"1h\"\nstale_if_error = \"1h\"\nfailure_ttl = \"50ms\"",
        )
        .start()
        .await;
        larder.get("/things/42").await;
        let mut purge = way.clone();
        purge["mode"] = json!("expire");
        larder.purge(purge.clone()).await;
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; fwd=stale; fwd-status=200; stored");
        assert_eq!(call(&answer), 2, "{way}");
        // With the source down, the expired entry is what there is.
        origin.on("/42", Reply::status(503));
        larder.purge(purge).await;
        let answer = larder.get("/things/42").await;
        answer.expect(
            200,
            "larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error",
        );
        assert_eq!(call(&answer), 2, "{way}");
        // Nor does a cache downstream take it for fresh until the end that its ttl once had.
        let age = answer.header("age").unwrap_or_default();
        let whole = format!("public, max-age={age}");
        assert_eq!(answer.header("cache-control"), Some(&*whole), "{way}");
    }
}

#[tokio::test]
async fn a_purge_ends_a_remembered_failure() {
    for way in [
        json!({ "path": "/things/42" }),
        json!({ "route": "/things/{id}" }),
        json!({ "all": true }),
    ] {
        let origin = Origin::start();
        origin.on("/42", Reply::status(503));
        let larder = before(&origin, "ttl = \"1h\"\nfailure_ttl = \"1h\"")
            .start()
            .await;
        larder
            .get("/things/42")
            .await
            .expect_problem(502, "origin-fails");
        origin.on("/42", Reply::counted());
        larder
            .get("/things/42")
            .await
            .expect_problem(502, "origin-fails");
        larder.purge(way.clone()).await;
        assert_eq!(call(&larder.get("/things/42").await), 2, "{way}");
    }
}

#[tokio::test]
async fn a_purge_ends_a_remembered_absence() {
    let origin = Origin::start();
    origin.script("/42", [Reply::status(404), Reply::counted()]);
    let larder = before(&origin, "ttl = \"1h\"\nmissing_ttl = \"1h\"")
        .start()
        .await;
    assert_eq!(larder.get("/things/42").await.status, 404);
    larder.purge(json!({ "path": "/things/42" })).await;
    assert_eq!(call(&larder.get("/things/42").await), 2);
}

#[tokio::test]
async fn purges_have_an_order_and_unknown_things_are_404() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1h\"").start().await;
    let first = larder.purge(json!({ "all": true })).await;
    let second = larder.purge(json!({ "tag": "nobody-has-it" })).await;
    let seq = |answer: &Value| {
        answer["seq"]
            .as_u64()
            .unwrap_or_else(|| panic!("no seq in {answer}"))
    };
    assert!(seq(&second) > seq(&first), "{first} then {second}");
    for unknown in [
        json!({ "path": "/nowhere/42" }),
        json!({ "route": "/nowhere/{id}" }),
    ] {
        let answer = larder.admin.post("/purge", &unknown).await;
        answer.problem();
        assert_eq!(answer.status, 404, "{unknown}: {answer:?}");
    }
    for nonsense in [
        json!({}),
        json!({ "pth": "/things/42" }),
        json!({ "path": "/things/42", "tag": "x" }),
        json!({ "path": "/things/42", "mode": "gently" }),
        json!({ "all": false }),
        json!([]),
        json!("all"),
    ] {
        let answer = larder.admin.post("/purge", &nonsense).await;
        answer.problem();
        assert!(
            matches!(answer.status.as_u16(), 400 | 422),
            "{nonsense}: {answer:?}"
        );
    }
    let text = larder
        .admin
        .request(
            http::Method::POST,
            "/purge",
            &[("content-type", "application/json")],
            "{".into(),
        )
        .await;
    assert!(matches!(text.status.as_u16(), 400 | 422), "{text:?}");
}

#[tokio::test]
async fn a_purge_is_seen_under_load_by_whoever_asks_after_it() {
    let origin = Origin::start();
    origin.on("/42", tagged());
    let larder = before(&origin, "ttl = \"1h\"\nstale_if_error = \"1h\"")
        .start()
        .await;
    let readers = join_all((0..8).map(|_| async {
        for _ in 0..100 {
            larder.get("/things/42").await;
        }
    }));
    let purger = async {
        for round in 0..40 {
            // Calls up to this number arrived before the purge, so their loads began before it.
            let before = origin.calls("/42") as u64;
            larder.purge(ways()[round % 5].clone()).await;
            let answer = larder.get("/things/42").await;
            assert!(
                call(&answer) > before,
                "round {round}: {answer:?} after {before} calls"
            );
        }
    };
    tokio::join!(readers, purger);
}
