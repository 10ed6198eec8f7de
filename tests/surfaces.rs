//! Both listeners: methods, problems, bounds of connections and heads, drain, health, metrics, and who may ask.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use larder_tests::{
    Larder, Metrics, Origin, Reply, Value, before, call, eventually, json, metrics,
};

#[tokio::test]
async fn an_unknown_path_is_a_404_problem() {
    let origin = Origin::start();
    let larder = before(&origin, "").start().await;
    for path in ["/", "/nowhere", "/things", "/things/42/more", "/thingsx/42"] {
        let answer = larder.get(path).await;
        answer.expect_problem(404, "not-found");
        answer.expect(404, "larder; detail=not-found");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(origin.total(), 0);
}

#[tokio::test]
async fn reserved_paths_answer_no_route() {
    let larder = Larder::with()
        .plugin("demo", "")
        .route("/{key}", "demo", "")
        .start()
        .await;
    for path in ["/openapi.json", "/docs", "/_batch"] {
        let answer = larder.get(path).await;
        assert!(
            !answer.text().contains("Data for key"),
            "{path}: {answer:?}"
        );
    }
    assert_eq!(larder.get("/other").await.status, 200);
}

#[tokio::test]
async fn a_method_that_is_not_for_reading_is_a_405_with_allow() {
    let origin = Origin::start();
    let larder = before(&origin, "").start().await;
    for method in [Method::PUT, Method::DELETE, Method::POST, Method::PATCH] {
        let answer = larder
            .public
            .request(method.clone(), "/things/42", &[], "body".into())
            .await;
        answer.expect_problem(405, "method-not-allowed");
        answer.expect(405, "larder; detail=method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method}");
        let answer = larder
            .public
            .request(method, "/nowhere", &[], "body".into())
            .await;
        answer.expect_problem(404, "not-found");
    }
    assert_eq!(origin.total(), 0);
}

#[tokio::test]
async fn head_is_get_without_the_body_and_shares_its_entry() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let head = larder.public.head("/things/42").await;
    head.expect(200, "larder; fwd=uri-miss; stored");
    assert!(head.body.is_empty());
    let get = larder.get("/things/42").await;
    get.expect(200, "larder; hit; ttl=N; detail=memory");
    let head = larder.public.head("/things/42").await;
    head.expect(200, "larder; hit; ttl=N; detail=memory");
    for name in ["etag", "content-type", "cache-control", "content-length"] {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    // On one connection, byte for byte: no body follows, and the next answer is read at the right place.
    let mut connection = larder.public.connect().await;
    connection.send("HEAD /things/42 HTTP/1.1\r\nhost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let both = connection.rest().await;
    assert_eq!(both.matches("HTTP/1.1 ").count(), 2, "{both}");
    assert!(!both.contains("\"call\""), "{both}");
    let missing = larder.public.head("/nowhere").await;
    assert_eq!((missing.status.as_u16(), missing.body.len()), (404, 0));
}

#[tokio::test]
async fn parameters_that_do_not_fit_are_a_422_with_one_item_per_fault() {
    let larder = Larder::with()
        .guest("echo", "")
        .route(
            "/echo/{key}",
            "echo",
            "key = { path = [\"key\"], query = [\"lang\", \"page\"] }",
        )
        .start()
        .await;
    let fine = larder.get("/echo/x?page=2").await;
    assert_eq!(fine.json()["parts"], json!([["key", "x"], ["page", "2"]]));
    for (path, faults) in [
        ("/echo/x?page=two", 1),
        ("/echo/x?page=0", 1),
        ("/echo/x?page=1.5", 1),
        ("/echo/x?page=two&page=three", 2),
    ] {
        let answer = larder.get(path).await;
        let problem = answer.expect_problem(422, "invalid-request");
        answer.expect(422, "larder; detail=invalid-request");
        let errors = problem["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors in {problem}"));
        assert_eq!(errors.len(), faults, "{path}: {problem}");
        for error in errors {
            assert_eq!(
                (&error["where"], &error["name"]),
                (&json!("query"), &json!("page"))
            );
            assert!(error["pointer"].is_string(), "into the value: {problem}");
            for field in ["code", "message"] {
                assert!(
                    error[field].as_str().is_some_and(|text| !text.is_empty()),
                    "{problem}"
                );
            }
        }
    }
}

#[tokio::test]
async fn left_out_the_key_is_the_path_and_the_declared_query() {
    let larder = Larder::with()
        .guest("echo", "")
        .route("/echo/{key}", "echo", "ttl = \"60s\"")
        .start()
        .await;
    let answer = larder.get("/echo/x?utm=1&page=3&lang=de&other=2").await;
    let parts = answer.json()["parts"].clone();
    let mut names: Vec<_> = parts
        .as_array()
        .expect("a list")
        .iter()
        .map(|part| part[0].clone())
        .collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["key", "lang", "page"], "{parts}");
    larder
        .get("/echo/x?page=3&lang=de&utm=2")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn what_is_not_utf_8_is_a_400() {
    let origin = Origin::start();
    let larder = before(&origin, "key = { path = [\"id\"], query = [\"lang\"] }")
        .start()
        .await;
    for path in ["/things/%FF", "/things/42?lang=%C3%28"] {
        let answer = larder.get(path).await;
        answer.problem();
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    assert_eq!(origin.total(), 0);
}

#[tokio::test]
async fn encoded_paths_are_decoded_once() {
    let larder = Larder::with()
        .guest("echo", "")
        .route("/echo/{key}", "echo", "")
        .start()
        .await;
    for (path, key) in [
        ("a%20b", "a b"),
        ("a%2Fb", "a/b"),
        ("%252F", "%2F"),
        ("%C3%A9", "é"),
        ("a+b", "a+b"),
        ("a%3Fb%23c", "a?b#c"),
    ] {
        let answer = larder.get(&format!("/echo/{path}")).await;
        assert_eq!(answer.json()["parts"], json!([["key", key]]), "{path}");
    }
}

#[tokio::test]
async fn law_12_a_client_that_drips_its_head_is_closed() {
    let origin = Origin::start();
    let larder = before(&origin, "")
        .server("header_timeout = \"500ms\"")
        .start()
        .await;
    let mut connection = larder.public.connect().await;
    connection.send("GET /things/42 HTTP/1.1\r\n").await;
    // A byte at a time, for as long as they are taken.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let closed = async {
        loop {
            tick.tick().await;
            if connection.try_send("x").await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed)
        .await
        .expect("the connection is closed");
    assert_eq!(origin.total(), 0);
    assert_eq!(larder.get("/things/42").await.status, 200);
}

#[tokio::test]
async fn law_12_an_idle_connection_is_closed() {
    let origin = Origin::start();
    let larder = before(&origin, "")
        .server("header_timeout = \"500ms\"")
        .start()
        .await;
    let mut connection = larder.public.connect().await;
    connection
        .send("GET /things/42 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert!(connection.response().await.starts_with("HTTP/1.1 200"));
    // `rest` waits for the close; nothing else may come.
    assert_eq!(connection.rest().await, "");
}

#[tokio::test]
async fn law_12_a_head_that_is_too_large_is_refused() {
    let origin = Origin::start();
    let larder = before(&origin, "")
        .server("header_bytes = \"16KiB\"\nmax_headers = 20")
        .start()
        .await;
    let long = format!(
        "GET /things/42 HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let many = format!(
        "GET /things/42 HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x-a: 1\r\n".repeat(30)
    );
    for head in [long, many] {
        let answer = larder.public.raw(&head).await;
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 431")
                || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    assert_eq!(origin.total(), 0);
    assert_eq!(larder.get("/things/42").await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_no_http_hurt_nobody() {
    let origin = Origin::start();
    let larder = before(&origin, "").start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /things/42 HTTP/1.1\r\nhost x\r\n\r\n",
    ] {
        let mut connection = larder.public.connect().await;
        connection.send(bytes).await;
        connection.send("\r\n\r\n").await;
        let answer = connection.rest().await;
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 4")
                || answer.starts_with("HTTP/1.1 5"),
            "{answer}"
        );
    }
    assert_eq!(larder.get("/things/42").await.status, 200);
}

#[tokio::test]
async fn law_12_over_the_connection_cap_new_ones_wait_until_one_leaves() {
    let origin = Origin::start();
    let larder = before(&origin, "timeout = \"20s\"")
        .server("max_connections = 4")
        .start()
        .await;
    let gate = origin.gate("/held");
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut connection = larder.public.connect().await;
        connection
            .send("GET /things/held HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        held.push(connection);
    }
    larder.until_waiting(4).await;
    let mut fifth = larder.public.connect().await;
    fifth
        .send("GET /things/fifth HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    // Nothing of it is read while the four places are taken: the origin would have been asked.
    larder_tests::throughout(
        std::time::Instant::now() + Duration::from_millis(300),
        async || {
            assert_eq!(origin.calls("/fifth"), 0);
        },
    )
    .await;
    held.pop();
    assert!(fifth.rest().await.starts_with("HTTP/1.1 200"));
    gate.open();
}

#[tokio::test]
async fn law_12_over_the_bound_of_waiters_and_loads_the_answer_is_a_fast_503() {
    let origin = Origin::start();
    let larder = before(&origin, "timeout = \"20s\"\nfailure_ttl = \"0\"")
        .server("max_waiters = 3\nmax_loads = 2")
        .start()
        .await;
    let gate = origin.gate("/*");
    let (first, second, third, ()) = tokio::join!(
        larder.get("/things/a"),
        async {
            gate.arrived(1).await;
            larder.get("/things/b").await
        },
        async {
            gate.arrived(2).await;
            larder.get("/things/b").await
        },
        async {
            larder.until_waiting(3).await;
            let over = larder.get("/things/a").await;
            over.problem();
            assert_eq!(over.status, 503, "a fourth waiter: {over:?}");
            assert!(over.header("retry-after").is_some(), "{over:?}");
            gate.open();
        }
    );
    assert_eq!(
        [
            first.status.as_u16(),
            second.status.as_u16(),
            third.status.as_u16()
        ],
        [200; 3]
    );
    let gate = origin.gate("/*");
    let (_, _, ()) = tokio::join!(larder.get("/things/c"), larder.get("/things/d"), async {
        gate.arrived(2).await;
        let over = larder.get("/things/e").await;
        assert_eq!(over.status, 503, "a third load: {over:?}");
        assert!(over.header("retry-after").is_some(), "{over:?}");
        gate.open();
    });
    assert_eq!(larder.get("/things/e").await.status, 200);
}

#[tokio::test]
async fn on_sigterm_requests_in_flight_are_answered_and_new_connections_refused() {
    let origin = Origin::start();
    let mut larder = before(&origin, "timeout = \"20s\"").start().await;
    let gate = origin.gate("/42");
    let mut connection = larder.public.connect().await;
    connection
        .send("GET /things/42 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    gate.arrived(1).await;
    larder.terminate();
    // The admin listener stays, and says so.
    eventually("readyz says that it drains", async || {
        let ready = larder
            .admin
            .attempt(Method::GET, "/readyz", &[], bytes::Bytes::new())
            .await
            .ok()?;
        (ready.status == 503).then_some(())
    })
    .await;
    eventually("new connections are refused", async || {
        tokio::net::TcpStream::connect(larder.public.address())
            .await
            .is_err()
            .then_some(())
    })
    .await;
    gate.open();
    let answer = connection.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"call\":1"),
        "{answer}"
    );
    assert_eq!(larder.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut_off() {
    let origin = Origin::start();
    let mut larder = before(&origin, "timeout = \"20s\"")
        .server("drain = \"300ms\"")
        .start()
        .await;
    let gate = origin.gate("/42");
    let mut connection = larder.public.connect().await;
    connection
        .send("GET /things/42 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    gate.arrived(1).await;
    larder.terminate();
    assert_eq!(larder.exit().await.code(), Some(0));
    assert_eq!(connection.rest().await, "");
}

#[tokio::test]
async fn health_is_told_on_the_admin_listener() {
    let origin = Origin::start();
    let larder = before(&origin, "").start().await;
    assert_eq!(larder.admin.get("/livez").await.status, 200);
    assert_eq!(larder.admin.get("/readyz").await.status, 200);
    origin.refuse().await;
    larder.get("/things/42").await;
    assert_eq!(
        larder.admin.get("/readyz").await.status,
        200,
        "a source being down is no reason to take the node away"
    );
    let unknown = larder.admin.get("/nowhere").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(larder.admin.get("/purge").await.status, 405);
    assert_eq!(
        larder.get("/metrics").await.status,
        404,
        "the public listener knows nothing of it"
    );
}

#[tokio::test]
async fn routes_are_listed_with_what_they_are_bound_to() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let routes = larder.admin.get("/routes").await.json();
    assert_eq!(routes[0]["path"], "/things/{id}");
    assert!(routes.to_string().contains("gated"), "{routes}");
}

#[tokio::test]
async fn with_an_admin_token_only_health_is_open() {
    let origin = Origin::start();
    let larder = before(&origin, "")
        .admin("token = \"swordfish\"")
        .start()
        .await;
    for path in [
        "/metrics",
        "/plugins",
        "/routes",
        "/entries?path=/things/42",
        "/",
    ] {
        for headers in [
            &[][..],
            &[("authorization", "Bearer wrong")],
            &[("authorization", "swordfish")],
        ] {
            assert_eq!(
                larder.admin.get_with(path, headers).await.status,
                401,
                "{path} {headers:?}"
            );
        }
        assert_eq!(
            larder
                .admin
                .get_with(path, &[("authorization", "Bearer swordfish")])
                .await
                .status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        larder
            .admin
            .post("/purge", &json!({ "all": true }))
            .await
            .status,
        401
    );
    assert_eq!(larder.admin.get("/livez").await.status, 200);
    assert_eq!(larder.admin.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn every_request_is_counted_in_exactly_one_way() {
    let origin = Origin::start();
    let settings =
        "ttl = \"60s\"\nfailure_ttl = \"0\"\ntimeout = \"20s\"\nkey = { path = [\"id\"] }";
    let larder = before(&origin, settings)
        .guest("faulty-policy", "")
        .route("/policy/{key}", "gated", "key = \"faulty-policy\"")
        .start()
        .await;
    origin.on("/bad", Reply::status(503));
    origin.on("/absent", Reply::status(404));
    let gate = origin.gate("/joined");
    let joined = join_all((0..10).map(|_| larder.get("/things/joined")));
    tokio::join!(joined, async {
        larder.until_waiting(10).await;
        gate.open();
    });
    for path in [
        "/things/1",
        "/things/1",
        "/things/bad",
        "/things/absent",
        "/things/absent",
        "/policy/bypass",
        "/policy/reject-denied",
        "/things/%FF",
        "/nowhere",
    ] {
        larder.get(path).await;
    }
    larder
        .get_with("/things/cold", &[("cache-control", "only-if-cached")])
        .await;
    larder
        .public
        .request(Method::PUT, "/things/1", &[], "x".into())
        .await;
    let counts = larder.metrics().await;
    let of = |metrics: &Metrics, outcome: &str| {
        metrics.sum_where(metrics::ANSWERS, &[("outcome", outcome)])
    };
    let answers: f64 = metrics::OUTCOMES
        .iter()
        .map(|outcome| of(&counts, outcome))
        .sum();
    assert_eq!(
        counts.sum(metrics::REQUESTS),
        answers,
        "requests = hits + stale + misses + bypass + failures + refused"
    );
    assert_eq!(
        counts.sum(metrics::ANSWERS),
        answers,
        "there is no other outcome"
    );
    // 10 joined + 9 in the list without the one that has no route + only-if-cached + PUT.
    assert_eq!(answers, 20.0);
    let expected = [
        ("hit", 2.0),
        ("miss", 12.0),
        ("bypass", 1.0),
        ("failure", 2.0),
        ("refused", 3.0),
        ("stale", 0.0),
    ];
    for (outcome, count) in expected {
        assert_eq!(of(&counts, outcome), count, "{outcome}");
    }
    let things = [("route", "/things/{id}")];
    assert_eq!(
        counts.sum_where(metrics::ANSWERS, &[things[0], ("detail", "collapsed")]),
        9.0
    );
    // Loads are what was neither collapsed nor refused: joined, 1, bad and absent.
    assert_eq!(counts.sum_where(metrics::LOADS, &things), 4.0);
    assert!(
        counts
            .names()
            .iter()
            .all(|name| name.starts_with("larder_")),
        "{:?}",
        counts.names()
    );
}

#[tokio::test]
async fn hits_write_no_log() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    larder.get("/things/42").await;
    larder.until_logged("serving public_address").await;
    let said = larder.log();
    for _ in 0..100 {
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=memory");
    }
    assert_eq!(larder.log(), said);
}

#[tokio::test]
async fn an_answer_is_whole_or_an_error_and_never_half() {
    let origin = Origin::start();
    let larder = before(&origin, "timeout = \"2s\"").start().await;
    origin.script("/42", [Reply::cut_short(), Reply::counted()]);
    larder
        .get("/things/42")
        .await
        .expect_problem(502, "origin-unreachable");
    let answer = eventually("the failure is forgotten", async || {
        let answer = larder.get("/things/42").await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(call(&answer), 2);
}

#[tokio::test]
async fn many_requests_on_one_connection_are_answered_in_their_order() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"60s\"").start().await;
    let mut connection = larder.public.connect().await;
    let mut requests = String::new();
    for id in 0..50 {
        requests += &format!("GET /things/{} HTTP/1.1\r\nhost: x\r\n\r\n", id % 7);
    }
    requests += "GET /things/last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    connection.send(&requests).await;
    let all = connection.rest().await;
    let paths: Vec<_> = all
        .split("\"path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let expected: Vec<_> = (0..50)
        .map(|id| format!("/{}", id % 7))
        .chain(["/last".to_owned()])
        .collect();
    assert_eq!(paths, expected);
}

#[tokio::test]
async fn what_is_warmed_is_there_when_it_is_asked_for() {
    let origin = Origin::start();
    origin.on("/broken", Reply::status(503));
    let key = "ttl = \"1h\"\nkey = { path = [\"id\"], query = [\"lang\"], headers = [\"accept-language\"] }";
    let larder = before(&origin, key).start().await;
    larder.get("/things/1").await;
    let warm = json!({
        "paths": ["/things/2?lang=de", "/things/3", "/things/broken", "/nothing", "/things/3"],
        "headers": { "accept-language": "fr" },
        "rate": 1000,
    });
    let told = larder.admin.post("/warm", &warm).await;
    assert_eq!(told.status, 200, "{told:?}");
    let told = told.json();
    // One of the two that are the same may have joined the other's load, or found it.
    let (loaded, fresh) = (&told["loaded"], &told["fresh"]);
    let both = loaded.as_u64().zip(fresh.as_u64());
    assert!(matches!(both, Some((3, 0) | (2, 1))), "{told}");
    assert_eq!((&told["asked"], &told["failed"]), (&json!(5), &json!(2)));
    let mut failures: Vec<_> = told["failures"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|failure| (failure["path"].to_string(), failure["code"].to_string()))
        .collect();
    failures.sort();
    let expect = [
        ("/nothing", "unknown-path"),
        ("/things/broken", "origin-fails"),
    ];
    let expect = expect.map(|(path, code)| (format!("{path:?}"), format!("{code:?}")));
    assert_eq!(failures, expect, "{told}");
    for path in ["/things/2?lang=de", "/things/3"] {
        let answer = larder.get_with(path, &[("accept-language", "fr")]).await;
        answer.expect(200, "larder; hit; ttl=N; detail=memory");
    }
    assert!(!larder.get("/things/3").await.is_hit(), "another variant");
    let again = json!({ "paths": ["/things/1"] });
    let again = larder.admin.post("/warm", &again).await;
    assert_eq!(again.json()["fresh"], 1);
    for (body, words) in [
        (json!({ "paths": [] }), "1 to 10000 paths"),
        (json!({ "path": "/things/1" }), "unknown field `path`"),
        (json!({ "paths": ["/things/1"], "rate": 0 }), "from 1 to"),
    ] {
        let answer = larder.admin.post("/warm", &body).await;
        let problem = answer.expect_problem(400, "invalid-warm");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(words), "{detail}");
    }
}

#[tokio::test]
async fn law_12_warming_loads_a_few_at_once() {
    let origin = Origin::start();
    let gate = origin.gate("/*");
    let larder = before(&origin, "ttl = \"1h\"\ntimeout = \"20s\"")
        .start()
        .await;
    let paths: Vec<String> = (0..40).map(|id| format!("/things/{id}")).collect();
    let warm = json!({ "paths": paths, "rate": 10_000 });
    let warming = larder.admin.post("/warm", &warm);
    let watching = async {
        for done in 0..40_usize {
            let arrived = (done + 16).min(40);
            gate.arrived(arrived).await;
            assert_eq!(gate.count(), arrived, "16 at once");
            gate.release_one();
        }
    };
    let (told, ()) = tokio::join!(warming, watching);
    assert_eq!(told.json()["loaded"], 40);
}
