//! What happens around and after the end of a ttl: stale windows and their bounds, the soft timeout, revalidation, and the
//! header fields that tell downstream caches of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::{
    Answer, Larder, Origin, Redis, Reply, before, call, eventually, json, throughout,
};

/// Asks until the answer is no fresh hit any more.
async fn until_expired(larder: &Larder, path: &str) -> Answer {
    eventually("the ttl ends", async || {
        let answer = larder.get(path).await;
        (!answer.is("larder; hit; ttl=N; detail=memory")).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_fresh_answer_tells_its_age_and_its_whole_ttl() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let first = larder.get("/things/42").await;
    first.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(first.header("cache-control"), Some("public, max-age=60"));
    let aged = eventually("a second passes", async || {
        let answer = larder.get("/things/42").await;
        (answer.header("age") != Some("0")).then_some(answer)
    })
    .await;
    aged.expect(200, "larder; hit; ttl=N; detail=memory");
    let age: i64 = aged
        .header("age")
        .and_then(|age| age.parse().ok())
        .expect("a hit has an Age");
    assert_eq!(
        aged.header("cache-control"),
        Some("public, max-age=60"),
        "downstream subtracts the Age"
    );
    assert!((59..=60).contains(&(age + aged.ttl())), "{aged:?}");
}

#[tokio::test]
async fn an_expired_entry_without_windows_is_a_miss() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"300ms\"").start().await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let answer = until_expired(&larder, "/things/42").await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(call(&answer), 2);
}

#[tokio::test]
async fn an_expired_entry_inside_a_window_is_loaded_again_in_the_foreground() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"300ms\"\nstale_if_error = \"1h\"")
        .start()
        .await;
    larder.get("/things/42").await;
    let answer = until_expired(&larder, "/things/42").await;
    answer.expect(200, "larder; fwd=stale; fwd-status=200; stored");
    assert_eq!(call(&answer), 2);
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_reloads_once_behind() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"300ms\"\nstale_while_revalidate = \"1h\"\ntimeout = \"20s\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    let gate = origin.gate("/42");
    let stale = until_expired(&larder, "/things/42").await;
    stale.expect(200, "larder; hit; ttl=-N; detail=stale-while-revalidate");
    gate.arrived(1).await;
    // While the reload is held, everybody is answered, and nobody starts another.
    for answer in join_all((0..50).map(|_| larder.get("/things/42"))).await {
        answer.expect(200, "larder; hit; ttl=-N; detail=stale-while-revalidate");
        assert_eq!(call(&answer), 1);
    }
    assert_eq!(origin.calls("/42"), 2);
    gate.open();
    eventually("what was reloaded behind is answered", async || {
        let answer = larder.get("/things/42").await;
        (call(&answer) >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_5_nothing_is_answered_past_stale_while_revalidate() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"200ms\"\nstale_while_revalidate = \"600ms\"\ntimeout = \"20s\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    // Loaded before this moment, so dead 800 ms after it at the latest.
    let dead = Instant::now() + Duration::from_millis(800);
    let gate = origin.gate("/42");
    let stale = until_expired(&larder, "/things/42").await;
    stale.expect(200, "larder; hit; ttl=-N; detail=stale-while-revalidate");
    gate.arrived(1).await;
    throughout(dead, async || {}).await;
    // The held reload is still the only flight: this request waits for it instead of taking what is dead.
    let (late, ()) = tokio::join!(larder.get("/things/42"), async {
        larder.until_waiting(1).await;
        gate.open();
    });
    assert_eq!(call(&late), 2);
    assert!(!late.is_hit(), "{late:?}");
}

#[tokio::test]
async fn law_5_stale_if_error_answers_until_the_bound_and_never_after() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"200ms\"\nstale_if_error = \"1500ms\"\nfailure_ttl = \"50ms\"",
    )
    .start()
    .await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let dead = Instant::now() + Duration::from_millis(1700);
    origin.on("/42", Reply::status(503));
    let mut stale = 0;
    let failed = eventually("stale answers end", async || {
        let asked = Instant::now();
        let answer = larder.get("/things/42").await;
        if answer.status != 200 {
            return Some(answer);
        }
        assert_eq!(call(&answer), 1);
        assert!(
            asked < dead,
            "asked {:?} past the bound, answered {answer:?}",
            asked - dead
        );
        if !answer.is("larder; hit; ttl=N; detail=memory") {
            answer.expect(
                200,
                "larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error",
            );
            stale += 1;
        }
        None
    })
    .await;
    assert!(stale > 0, "the window answered nothing");
    failed.expect_problem(502, "origin-fails");
    failed.expect(
        502,
        "larder; fwd=uri-miss; fwd-status=502; detail=origin-fails",
    );
    throughout(Instant::now() + Duration::from_millis(300), async || {
        assert_eq!(
            larder.get("/things/42").await.status,
            502,
            "what is dead came back"
        );
    })
    .await;
}

#[tokio::test]
async fn within_failure_ttl_stale_is_answered_without_asking_again() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"200ms\"\nstale_if_error = \"1h\"\nfailure_ttl = \"1h\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    origin.on("/42", Reply::status(503));
    let first = until_expired(&larder, "/things/42").await;
    first.expect(
        200,
        "larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error",
    );
    for _ in 0..20 {
        let answer = larder.get("/things/42").await;
        answer.expect(
            200,
            "larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error",
        );
    }
    assert_eq!(origin.calls("/42"), 2);
}

#[tokio::test]
async fn a_source_that_hangs_leaves_stale_with_the_status_of_a_timeout() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"200ms\"\nstale_if_error = \"1h\"\ntimeout = \"400ms\"\nfailure_ttl = \"1h\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    origin.on("/42", Reply::hang());
    let answer = until_expired(&larder, "/things/42").await;
    answer.expect(
        200,
        "larder; fwd=stale; fwd-status=504; ttl=-N; detail=stale-if-error",
    );
}

#[tokio::test]
async fn an_invalid_request_and_a_new_absence_are_not_hidden_by_stale() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"200ms\"\nstale_if_error = \"1h\"\nmissing_ttl = \"1h\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    origin.on("/42", Reply::status(404));
    let answer = eventually("the absence is learned", async || {
        let answer = larder.get("/things/42").await;
        (answer.status == 404).then_some(answer)
    })
    .await;
    assert!(answer.cache_status().contains("stored"), "{answer:?}");
    larder
        .get("/things/42")
        .await
        .expect(404, "larder; hit; ttl=N; detail=missing");
}

/// An answer that is not kept says as much of the one before as an answer that is.
#[tokio::test]
async fn what_is_not_kept_is_not_hidden_by_stale_either() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let route = "ttl = \"200ms\"\nstale_while_revalidate = \"1h\"\nstale_if_error = \"1h\"\nmissing_ttl = \"0\"";
    for larder in [
        before(&origin, route),
        before(&origin, route).redis(&redis.url()),
    ] {
        origin.on("/42", Reply::counted());
        let larder = larder.start().await;
        larder.get("/things/42").await;
        origin.on("/42", Reply::status(404));
        let gone = async || {
            let answer = larder.get("/things/42").await;
            (answer.status == 404).then_some(())
        };
        eventually("the absence is seen", gone).await;
        origin.on("/42", Reply::status(500));
        let failed = larder.get("/things/42").await;
        assert_eq!(failed.status, 502, "nothing older comes back: {failed:?}");
    }
}

#[tokio::test]
async fn past_the_soft_timeout_stale_is_answered_now_and_fresh_the_next_time() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"300ms\"\nstale_if_error = \"1h\"\nsoft_timeout = \"100ms\"\ntimeout = \"20s\"",
    )
    .start()
    .await;
    larder.get("/things/42").await;
    let gate = origin.gate("/42");
    let stale = until_expired(&larder, "/things/42").await;
    stale.expect(200, "larder; hit; ttl=-N; detail=stale-soft-timeout");
    assert_eq!((call(&stale), gate.count()), (1, 1), "the load goes on");
    // Longer than a ttl, so that what the load brings is still fresh when it is asked for.
    origin.on("/42", Reply::counted().header("x-ttl-ms", "60000"));
    gate.open();
    let fresh = eventually("what the load brought is answered", async || {
        let answer = larder.get("/things/42").await;
        (call(&answer) >= 2).then_some(answer)
    })
    .await;
    assert!(call(&fresh) <= 3, "{fresh:?}");
}

#[tokio::test]
async fn without_anything_stale_the_soft_timeout_does_nothing() {
    let origin = Origin::start();
    let larder = before(
        &origin,
        "ttl = \"60s\"\nstale_if_error = \"1h\"\nsoft_timeout = \"50ms\"\ntimeout = \"20s\"",
    )
    .start()
    .await;
    let gate = origin.gate("/42");
    let release = async {
        gate.arrived(1).await;
        throughout(Instant::now() + Duration::from_millis(200), async || {}).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(larder.get("/things/42"), release);
    answer.expect(200, "larder; fwd=uri-miss; stored");
}

#[tokio::test]
async fn not_modified_renews_the_entry() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"300ms\"\nstale_if_error = \"1h\"")
        .start()
        .await;
    origin.on("/42", Reply::json("{\"v\":1}").etag("\"v1\""));
    let first = larder.get("/things/42").await;
    first.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(first.header("etag"), Some("\"v1\""));
    let renewed = until_expired(&larder, "/things/42").await;
    renewed.expect(200, "larder; fwd=stale; fwd-status=304; stored");
    assert_eq!(renewed.body, first.body);
    assert_eq!(renewed.header("content-type"), Some("application/json"));
    let asked = origin.seen("/42")[1].headers.get("if-none-match").cloned();
    assert_eq!(
        asked.as_ref().map(|v| v.as_bytes()),
        Some(&b"\"v1\""[..]),
        "the source is shown its validator"
    );
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn the_http_plugin_revalidates_by_etag() {
    let origin = Origin::start();
    origin.on("/42", Reply::json("{\"v\":1}").etag("W/\"v1\""));
    let larder = Larder::with()
        .plugin(
            "http",
            &larder_tests::sidecar(&origin, &format!("{}/{{id}}", origin.url())),
        )
        .route(
            "/things/{id}",
            "http",
            "ttl = \"300ms\"\njitter = 0.0\nstale_if_error = \"1h\"",
        )
        .start()
        .await;
    let first = larder.get("/things/42").await;
    assert_eq!(first.header("etag"), Some("W/\"v1\""));
    let renewed = until_expired(&larder, "/things/42").await;
    renewed.expect(200, "larder; fwd=stale; fwd-status=304; stored");
    assert_eq!(renewed.body, first.body);
}

#[tokio::test]
async fn a_validator_is_shown_only_to_the_loader_that_made_the_entry() {
    let (primary, backup) = (Origin::start(), Origin::start());
    let larder = Larder::with()
        .component("primary", larder_tests::Wasm::guest("gated"), &larder_tests::sidecar(&primary, &primary.url()))
        .component("backup", larder_tests::Wasm::guest("gated"), &larder_tests::sidecar(&backup, &backup.url()))
        .section("[[routes]]\npath = \"/things/{id}\"\nloaders = [\"primary\", \"backup\"]\nttl = \"200ms\"\njitter = 0.0\nstale_if_error = \"1h\"")
        .start()
        .await;
    primary.on("/42", Reply::json("1").etag("\"p\""));
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    primary.on("/42", Reply::status(503));
    eventually("the backup is asked", async || {
        larder.get("/things/42").await;
        (backup.calls("/42") > 0).then_some(())
    })
    .await;
    assert!(primary.seen("/42")[1].headers.contains_key("if-none-match"));
    assert!(!backup.seen("/42")[0].headers.contains_key("if-none-match"));
}

#[tokio::test]
async fn a_consumer_that_has_the_entity_is_answered_304() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let first = larder.get("/things/42").await;
    let etag = first
        .header("etag")
        .expect("a digest of the content, without a validator")
        .to_owned();
    for known in [
        etag.clone(),
        format!("\"other\", {etag}"),
        "*".to_owned(),
        format!("W/{etag}"),
    ] {
        let answer = larder
            .get_with("/things/42", &[("if-none-match", &known)])
            .await;
        answer.expect(304, "larder; hit; ttl=N; detail=memory");
        assert!(answer.body.is_empty());
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
    }
    let answer = larder
        .get_with("/things/42", &[("if-none-match", "\"other\"")])
        .await;
    answer.expect(200, "larder; hit; ttl=N; detail=memory");
    // A load can be answered so as well.
    let cold = larder
        .get_with("/things/43", &[("if-none-match", "*")])
        .await;
    cold.expect(304, "larder; fwd=uri-miss; stored");
}

/// Of one hour: over after 36 ms, when a hit is to begin a reload.
const AHEAD: &str =
    "ttl = \"1h\"\njitter = 0\nrefresh_ahead = \"0.001%\"\nfailure_ttl = \"1h\"\ntimeout = \"20s\"";

/// Asks until a hit has begun to reload ahead: each answer is the first value, and a hit.
async fn until_refreshing(larder: &Larder) {
    eventually("a hit reloads ahead", async || {
        let answer = larder.get("/things/42").await;
        // From memory, or from Redis: the word for what was stored there may have come after the copy that it lets go.
        assert!(answer.is_hit(), "{answer:?}");
        assert_eq!(call(&answer), 1);
        let metrics = larder.metrics().await;
        (metrics.sum("larder_refreshes_ahead_total") > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_hit_reloads_ahead_once_and_nobody_waits_for_it() {
    let origin = Origin::start();
    let larder = before(&origin, AHEAD).start().await;
    larder.get("/things/42").await;
    let gate = origin.gate("/42");
    until_refreshing(&larder).await;
    gate.arrived(1).await;
    for _ in 0..10 {
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; hit; ttl=N; detail=memory");
        assert_eq!(call(&answer), 1);
    }
    assert_eq!(origin.calls("/42"), 2, "one reload");
    gate.open();
    eventually("the reloaded value is a hit", async || {
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; hit; ttl=N; detail=memory");
        (call(&answer) > 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reload_ahead_that_fails_leaves_the_fresh_value_and_is_not_tried_again_at_once() {
    let origin = Origin::start();
    origin.script("/42", [Reply::counted(), Reply::status(503)]);
    let larder = before(&origin, AHEAD).start().await;
    larder.get("/things/42").await;
    until_refreshing(&larder).await;
    eventually("it has failed", async || {
        let failed = larder.metrics().await;
        (failed.sum_where("larder_loads_total", &[("result", "failed")]) > 0.0).then_some(())
    })
    .await;
    for _ in 0..10 {
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; hit; ttl=N; detail=memory");
        assert_eq!(call(&answer), 1);
    }
    assert_eq!(origin.calls("/42"), 2, "within failure_ttl");
}

#[tokio::test]
async fn law_4_a_purge_keeps_a_reload_ahead_from_being_stored() {
    let origin = Origin::start();
    let larder = before(&origin, AHEAD).start().await;
    larder.get("/things/42").await;
    let gate = origin.gate("/42");
    until_refreshing(&larder).await;
    gate.arrived(1).await;
    larder.purge(json!({ "path": "/things/42" })).await;
    let asked = async { larder.get("/things/42").await };
    let release = async {
        gate.arrived(2).await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(asked, release);
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(call(&answer), 3);
}

#[tokio::test]
async fn law_3_of_all_nodes_one_reloads_ahead() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let node = async || before(&origin, AHEAD).redis(&redis.url()).start().await;
    let [one, other] = [node().await, node().await];
    one.get("/things/42").await;
    assert!(other.get("/things/42").await.is_hit());
    let gate = origin.gate("/42");
    until_refreshing(&one).await;
    gate.arrived(1).await;
    until_refreshing(&other).await;
    gate.release_one();
    for node in [&one, &other] {
        eventually("the reload has reached the node", async || {
            let answer = node.get("/things/42").await;
            assert!(answer.is_hit(), "{answer:?}");
            (call(&answer) == 2).then_some(())
        })
        .await;
    }
    gate.open();
}
