//! PUT and DELETE: the source is changed, and the next read shows it, on every node.

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use larder_tests::{
    Answer, Builder, Client, Larder, Origin, Redis, Reply, Wasm, call, eventually, json,
};

const THROUGH: &str =
    "ttl = \"1h\"\ntimeout = \"20s\"\nstale_if_error = \"1h\"\nwrite = \"through\"";

fn writing(origin: &Origin, lines: &str) -> Builder {
    let url = origin.url();
    let sidecar = format!(
        "[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\n"
    );
    Larder::with()
        .guest("writing", &sidecar)
        .route("/things/{id}", "writing", lines)
}

async fn send(larder: &Larder, method: Method, fields: &[(&str, &str)], body: &str) -> Answer {
    let client = Client::new(larder.public.address());
    let body = Bytes::copy_from_slice(body.as_bytes());
    client.request(method, "/things/42", fields, body).await
}

async fn put(larder: &Larder, body: &str) -> Answer {
    send(larder, Method::PUT, &[("content-type", "text/x")], body).await
}

fn header(origin: &Origin, name: &str) -> Vec<String> {
    let seen = origin.seen("/write/42");
    let header =
        |seen: &larder_tests::origin::Seen| seen.headers[name].to_str().unwrap().to_owned();
    seen.iter().map(header).collect()
}

const HIT: &str = "larder; hit; ttl=N; detail=memory";

#[tokio::test]
async fn a_put_reaches_the_source_and_the_next_read_shows_it() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH).start().await;
    let old = call(&larder.get("/things/42").await);
    larder.get("/things/42").await.expect(200, HIT);
    let answer = put(&larder, "new").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.cache_status(), "larder; fwd=method; fwd-status=204");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let seen = origin.seen("/write/42");
    assert_eq!(
        (&seen[0].method, &seen[0].body[..]),
        (&Method::PUT, &b"new"[..])
    );
    assert_eq!(header(&origin, "content-type"), ["text/x"]);
    assert_eq!(header(&origin, "x-expect"), ["anything"]);
    let new = larder.get("/things/42").await;
    new.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(call(&new), old + 1);
    // A DELETE too.
    let answer = send(&larder, Method::DELETE, &[], "").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(origin.seen("/write/42")[1].method, Method::DELETE);
    assert!(call(&larder.get("/things/42").await) > old + 1);
    let numbers: Vec<u64> = header(&origin, "x-sequence")
        .iter()
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(numbers[0] < numbers[1], "{numbers:?}");
    let keys = header(&origin, "x-key");
    assert_ne!(keys[0], keys[1]);
    let metrics = larder.metrics().await;
    let written = [("outcome", "write"), ("detail", "through")];
    assert_eq!(metrics.sum_where("larder_answers_total", &written), 2.0);
}

#[tokio::test]
async fn what_the_writer_says_is_kept_and_never_the_body_of_the_request() {
    for redis in [None, Some(Redis::start().await)] {
        let origin = Origin::start();
        let said = r#"{"said": true}"#;
        origin.on(
            "/write/42",
            Reply::status(201).etag("\"v2\"").header("x-entry", said),
        );
        let mut builder = writing(&origin, THROUGH);
        if let Some(redis) = &redis {
            builder = builder.redis(&redis.url());
        }
        let larder = builder.start().await;
        larder.get("/things/42").await;
        let answer = put(&larder, "not a representation").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (201, said));
        assert_eq!(answer.header("etag"), Some("\"v2\""));
        assert_eq!(answer.header("content-location"), Some("/things/42"));
        let read = larder.get("/things/42").await;
        read.expect(200, HIT);
        assert_eq!(read.text(), said);
        if let Some(redis) = &redis {
            let other = writing(&origin, THROUGH).redis(&redis.url()).start().await;
            let read = other.get("/things/42").await;
            read.expect(200, "larder; hit; ttl=N; detail=redis");
            assert_eq!(read.text(), said);
        }
        assert_eq!(origin.calls("/42"), 1);
        // A purge covers it as it does what was loaded.
        larder.purge(json!({ "path": "/things/42" })).await;
        assert_ne!(larder.get("/things/42").await.text(), said);
    }
}

#[tokio::test]
async fn law_4_a_load_in_flight_brings_no_old_value_back_on_any_node() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let node = || writing(&origin, THROUGH).redis(&redis.url()).start();
    let nodes: Vec<Larder> = join_all((0..2).map(|_| node())).await;
    for writer in 0..2 {
        let load = origin.gate("/42");
        let write = origin.gate("/write/42");
        let held = load.count();
        let asking = |larder: &Larder| {
            let client = Client::new(larder.public.address());
            tokio::spawn(async move { client.get("/things/42").await })
        };
        // One load began before the change, one while it is made.
        let before = asking(&nodes[0]);
        load.arrived(held + 1).await;
        let writing = {
            let client = Client::new(nodes[writer].public.address());
            let body = Bytes::from_static(b"new");
            tokio::spawn(async move { client.request(Method::PUT, "/things/42", &[], body).await })
        };
        write.arrived(1).await;
        let during = asking(&nodes[1]);
        load.arrived(held + 2).await;
        write.open();
        assert_eq!(writing.await.expect("it ends").status, 204);
        load.open();
        let late = call(&before.await.expect("it ends")).max(call(&during.await.expect("it ends")));
        for larder in &nodes {
            eventually("what was loaded before the change is gone", async || {
                (call(&larder.get("/things/42").await) > late).then_some(())
            })
            .await;
        }
        nodes[0].purge(json!({ "all": true })).await;
    }
}

#[tokio::test]
async fn a_change_that_is_refused_leaves_what_was_there_to_fall_back_on() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH).start().await;
    let old = call(&larder.get("/things/42").await);
    origin.on("/write/42", Reply::status(503));
    let answer = put(&larder, "new").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].as_str()),
        (502, Some("unavailable"))
    );
    origin.on("/42", Reply::status(503));
    let stale = larder.get("/things/42").await;
    stale.expect(
        200,
        "larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error",
    );
    assert_eq!(call(&stale), old);
}

#[tokio::test]
async fn law_4_a_change_of_which_nobody_knows_leaves_nothing_to_fall_back_on() {
    for unknown in [
        Reply::status(503).header("x-outcome", "unknown"),
        Reply::status(200).header("x-do", "panic"),
    ] {
        let origin = Origin::start();
        let larder = writing(&origin, THROUGH).start().await;
        larder.get("/things/42").await;
        origin.on("/write/42", unknown);
        assert_eq!(put(&larder, "new").await.status, 502);
        origin.on("/42", Reply::status(503));
        assert_eq!(larder.get("/things/42").await.status, 502);
    }
}

#[tokio::test]
async fn failures_have_the_status_of_their_kind() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH).start().await;
    for (said, fields, status) in [
        (409, &[][..], 409),
        (409, &[("if-match", "\"v1\"")], 412),
        (409, &[("if-none-match", "*")], 412),
        (403, &[], 403),
        (422, &[], 422),
        (429, &[], 429),
        (503, &[], 502),
    ] {
        origin.on("/write/42", Reply::status(said));
        let answer = send(&larder, Method::PUT, fields, "x").await;
        assert_eq!(answer.status, status, "{said} {fields:?}: {answer:?}");
    }
    assert_eq!(header(&origin, "x-expect")[1..3], ["\"v1\"", "absent"]);
}

#[tokio::test]
async fn a_digest_of_the_cache_is_no_validator_to_write_by() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH).start().await;
    let etag = larder.get("/things/42").await;
    let etag = etag.header("etag").expect("it has one");
    let answer = send(&larder, Method::PUT, &[("if-match", etag)], "x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].as_str()),
        (412, Some("no-validator"))
    );
    assert_eq!(origin.calls("/write/42"), 0);
}

#[tokio::test]
async fn law_12_a_body_is_bounded_however_it_comes() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH)
        .server("body_bytes = \"1KiB\"")
        .start()
        .await;
    assert_eq!(put(&larder, &"x".repeat(1024)).await.status, 204);
    let answer = put(&larder, &"x".repeat(1025)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].as_str()),
        (413, Some("body-too-long"))
    );
    let client = Client::new(larder.public.address());
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let said = client
        .raw(format!(
            "PUT /things/42 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunk}{chunk}0\r\n\r\n"
        ))
        .await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    assert_eq!(origin.calls("/write/42"), 1);
}

#[tokio::test]
async fn a_route_that_does_not_write_says_so_and_one_without_a_writer_is_refused() {
    let origin = Origin::start();
    let larder = writing(&origin, "").start().await;
    let answer = put(&larder, "x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("allow")),
        (405, Some("GET, HEAD"))
    );
    let larder = writing(&origin, THROUGH).start().await;
    let answer = send(&larder, Method::POST, &[], "x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("allow")),
        (405, Some("GET, HEAD, PUT, DELETE"))
    );
    let home = Larder::with()
        .plugin("demo", "")
        .route("/demo/{key}", "demo", "write = \"through\"")
        .write();
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert!(!ran.status.success());
    for words in [
        "none of its loaders is a writer",
        "writer = \"NAME\"",
        "write = \"off\"",
    ] {
        assert!(ran.all().contains(words), "{words}: {}", ran.all());
    }
}

#[tokio::test]
async fn law_6_without_redis_a_change_is_made_all_the_same_and_what_it_ends_is_kept() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let node = || writing(&origin, THROUGH).redis(&redis.url()).start();
    let (one, other) = (node().await, node().await);
    one.get("/things/42").await;
    let old = call(&other.get("/things/42").await);
    redis.freeze();
    one.get("/things/unknown").await;
    assert_eq!(put(&one, "new").await.status, 204);
    assert!(call(&one.get("/things/42").await) > old);
    redis.thaw();
    eventually("the other hears of it", async || {
        (call(&other.get("/things/42").await) > old).then_some(())
    })
    .await;
}

#[tokio::test]
async fn http_writes_to_the_url_that_it_reads() {
    let origin = Origin::start();
    let url = origin.url();
    let sidecar = format!(
        "[config]\nurl = \"{url}/{{id}}\"\nheaders = {{ x-of = \"{{id}}\" }}\n[grants]\nhttp = [{url:?}]\n"
    );
    let larder = Larder::with()
        .plugin("http", &sidecar)
        .route("/things/{id}", "http", THROUGH)
        .start()
        .await;
    origin.on("/42", Reply::status(201).etag("\"v2\""));
    let fields = [
        ("content-type", "text/x"),
        ("if-match", "\"v1\""),
        ("idempotency-key", "once"),
    ];
    let answer = send(&larder, Method::PUT, &fields, "new").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("etag")),
        (201, Some("\"v2\""))
    );
    let seen = origin.seen("/42").remove(0);
    assert_eq!((&seen.method, &seen.body[..]), (&Method::PUT, &b"new"[..]));
    for (name, value) in [
        ("content-type", "text/x"),
        ("if-match", "\"v1\""),
        ("x-of", "42"),
    ] {
        assert_eq!(seen.headers[name], value, "{name}");
    }
    assert!(seen.headers.contains_key("idempotency-key"));
    // What is not there is removed.
    origin.on("/42", Reply::status(404));
    let answer = send(&larder, Method::DELETE, &[], "").await;
    assert_eq!(answer.status, 204, "{answer:?}");
    // What broke off may have been done; what was refused was not.
    origin.on("/42", Reply::reset());
    let answer = put(&larder, "new").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].as_str()),
        (502, Some("outcome-unknown"))
    );
    origin.refuse().await;
    let answer = put(&larder, "new").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["code"].as_str()),
        (502, Some("origin-unreachable"))
    );
}

#[tokio::test]
async fn law_7_the_same_key_and_body_is_one_change_with_one_answer_after_a_restart_too() {
    for redis in [None, Some(Redis::start().await)] {
        let origin = Origin::start();
        origin.on(
            "/write/42",
            Reply::status(201).etag("\"v2\"").header("x-entry", "{}"),
        );
        let mut builder = writing(&origin, THROUGH);
        if let Some(redis) = &redis {
            builder = builder.redis(&redis.url());
        }
        let mut larder = builder.start().await;
        let key = [
            ("idempotency-key", "\"8e03978e\""),
            ("content-type", "text/x"),
        ];
        let first = send(&larder, Method::PUT, &key, "new").await;
        assert_eq!(first.status, 201, "{first:?}");
        for round in 0..2 {
            let again = send(&larder, Method::PUT, &key, "new").await;
            assert_eq!(again.cache_status(), "larder; detail=idempotency-key");
            assert_eq!((again.status, again.text()), (first.status, first.text()));
            assert_eq!(again.header("etag"), first.header("etag"));
            assert_eq!(again.header("content-type"), first.header("content-type"));
            let other = send(&larder, Method::PUT, &key, "another").await;
            assert_eq!(
                (other.status.as_u16(), other.json()["code"].as_str()),
                (422, Some("idempotency-key-reused"))
            );
            // Of another resource it is another key.
            if round == 0 {
                let client = Client::new(larder.public.address());
                let body = Bytes::from_static(b"new");
                let elsewhere = client.request(Method::PUT, "/things/43", &key, body).await;
                assert_eq!(elsewhere.status, 204, "{elsewhere:?}");
                larder.kill().await;
                larder = Larder::start(larder.into_home().await).await;
            }
        }
        assert_eq!(origin.calls("/write/42"), 1);
        assert_ne!(
            header(&origin, "x-key"),
            ["8e03978e"],
            "clients do not share keys"
        );
    }
}

#[tokio::test]
async fn a_change_that_failed_in_passing_is_tried_again_under_its_key() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH).start().await;
    let key = [("idempotency-key", "once")];
    let unknown = Reply::status(503).header("x-outcome", "unknown");
    origin.script(
        "/write/42",
        [unknown, Reply::status(409), Reply::status(204)],
    );
    let mut found = Vec::new();
    for _ in 0..3 {
        found.push(
            send(&larder, Method::PUT, &key, "new")
                .await
                .status
                .as_u16(),
        );
    }
    // What the source has refused is refused again, without asking it.
    assert_eq!(found, [502, 409, 409]);
    let keys = header(&origin, "x-key");
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
}

#[tokio::test]
async fn a_second_attempt_while_the_first_is_made_is_told_so_on_every_node_and_a_client_that_leaves_stops_nothing()
 {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let node = || writing(&origin, THROUGH).redis(&redis.url()).start();
    let (one, other) = (node().await, node().await);
    let gate = origin.gate("/write/42");
    let key = [("idempotency-key", "once")];
    let address = one.public.address();
    let leaving = tokio::spawn(async move {
        let body = Bytes::from_static(b"new");
        Client::new(address)
            .request(Method::PUT, "/things/42", &key, body)
            .await
    });
    gate.arrived(1).await;
    for larder in [&one, &other] {
        let answer = send(larder, Method::PUT, &key, "new").await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["code"].as_str()),
            (409, Some("idempotency-key-in-use"))
        );
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    leaving.abort();
    gate.open();
    eventually("it is made and answered", async || {
        let answer = send(&other, Method::PUT, &key, "new").await;
        (answer.status == 204).then_some(())
    })
    .await;
    assert_eq!(origin.calls("/write/42"), 1);
}

#[tokio::test]
async fn what_would_not_be_what_the_client_means_is_refused() {
    let origin = Origin::start();
    let larder = writing(&origin, THROUGH).start().await;
    for (field, status, code) in [
        (
            ("content-encoding", "gzip"),
            415,
            "content-encoding-unsupported",
        ),
        (("content-range", "bytes 0-1/2"), 400, "partial-put"),
        (
            ("if-unmodified-since", "Fri, 31 Dec 1999 23:59:59 GMT"),
            422,
            "precondition-unsupported",
        ),
    ] {
        let answer = send(&larder, Method::PUT, &[field], "x").await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["code"].as_str()),
            (status, Some(code))
        );
    }
    assert_eq!(origin.calls("/write/42"), 0);
}

#[tokio::test]
async fn law_4_a_server_that_stops_purges_what_a_client_that_left_has_changed() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let node = || writing(&origin, THROUGH).redis(&redis.url()).start();
    let (mut stopping, other) = (node().await, node().await);
    let gate = origin.gate("/write/42");
    let address = stopping.public.address();
    let leaving = tokio::spawn(async move {
        let body = Bytes::from_static(b"new");
        Client::new(address)
            .request(Method::PUT, "/things/42", &[], body)
            .await
    });
    gate.arrived(1).await;
    leaving.abort();
    // Loaded after the first purge: it may have read the old value.
    let old = call(&other.get("/things/42").await);
    other.get("/things/42").await.expect(200, HIT);
    stopping.terminate();
    gate.open();
    stopping.exit().await;
    eventually("it is purged", async || {
        (call(&other.get("/things/42").await) > old).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_8_what_a_route_writes_through_stays_a_writer_and_what_none_does_need_not() {
    let origin = Origin::start();
    for (lines, stays) in [(THROUGH, true), ("", false)] {
        let larder = writing(&origin, lines).start().await;
        larder.install("writing", &Wasm::guest("gated"));
        if stays {
            larder
                .until_refused("writing", &["serves as a writer", "export writer"])
                .await;
            assert_eq!(put(&larder, "new").await.status, 204);
        } else {
            larder
                .until_plugin("writing", "is replaced", |plugin| {
                    plugin["kind"] == "loader" && plugin["kinds"] == json!(["loader"])
                })
                .await;
        }
    }
}
