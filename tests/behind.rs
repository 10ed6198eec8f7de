//! Changes that are accepted before they are made: durable, in order, seen by reads, and none lost.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use larder_tests::{
    Answer, Builder, Client, Larder, Origin, Redis, Reply, Value, Wasm, call, eventually, json,
};

const BEHIND: &str = "ttl = \"1h\"\ntimeout = \"20s\"\nwrite = \"behind\"";
const PAYLOAD: &str = "ttl = \"1h\"\ntimeout = \"20s\"\nwrite = \"behind\"\npending = \"payload\"";

fn writing(origin: &Origin, lines: &str) -> Builder {
    let url = origin.url();
    let sidecar = format!(
        "[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\n"
    );
    Larder::with()
        .guest("writing", &sidecar)
        .route("/things/{id}", "writing", lines)
}

async fn send(
    larder: &Larder,
    (method, name): (Method, &str),
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let client = Client::new(larder.public.address());
    let body = Bytes::copy_from_slice(body.as_bytes());
    let path = format!("/things/{name}");
    client.request(method, &path, fields, body).await
}

/// A PUT that is accepted: where to ask what became of it.
async fn put(larder: &Larder, name: &str, body: &str) -> String {
    let fields = [("content-type", "application/json")];
    let answer = send(larder, (Method::PUT, name), &fields, body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.header("location").expect("it says where").to_owned()
}

async fn state(larder: &Larder, location: &str) -> String {
    let answer = larder.get(location).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["state"].as_str().unwrap().to_owned()
}

async fn until(larder: &Larder, location: &str, wanted: &str) {
    eventually(&format!("{location} to be {wanted}"), async || {
        (state(larder, location).await == wanted).then_some(())
    })
    .await;
}

async fn queue(larder: &Larder) -> Value {
    larder.admin.get("/queue").await.json()
}

/// What the source was told of one thing, in its order.
fn told(origin: &Origin, name: &str) -> Vec<String> {
    let seen = origin.seen(&format!("/write/{name}"));
    let text = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
    seen.iter().map(|seen| text(&seen.body)).collect()
}

#[tokio::test]
async fn a_change_is_accepted_then_made_and_the_client_can_ask() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    let old = call(&larder.get("/things/42").await);
    let gate = origin.gate("/write/42");
    let answer = send(&larder, (Method::PUT, "42"), &[], "new").await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.cache_status(), "larder; fwd=method; fwd-status=202");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let location = answer.header("location").unwrap();
    let body = answer.json();
    assert_eq!(body["state"], "pending");
    assert_eq!(
        location,
        format!("/writes/{}", body["id"].as_str().unwrap())
    );
    gate.arrived(1).await;
    let asked = larder.get(location).await;
    assert_eq!(asked.cache_status(), "larder; detail=write");
    assert_eq!(asked.json(), body);
    gate.open();
    until(&larder, location, "applied").await;
    assert_eq!(told(&origin, "42"), ["new"]);
    let new = larder.get("/things/42").await;
    new.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(call(&new), old + 1);
    let depth = queue(&larder).await;
    assert_eq!((&depth["pending"], &depth["bytes"]), (&json!(0), &json!(0)));
    let metrics = larder.metrics().await;
    let accepted = [("outcome", "write"), ("detail", "behind")];
    assert_eq!(metrics.sum_where("larder_answers_total", &accepted), 1.0);
    for (name, value) in [
        ("larder_writes_accepted_total", 1.0),
        ("larder_writes_applied_total", 1.0),
        ("larder_writes_died_total", 0.0),
        ("larder_writes_pending", 0.0),
    ] {
        assert!((metrics.sum(name) - value).abs() < 0.5, "{name}");
    }
    for unknown in ["/writes/x", "/writes/00000000000000000000000000000000"] {
        larder
            .get(unknown)
            .await
            .expect_problem(404, "unknown-write");
    }
}

#[tokio::test]
async fn what_is_pending_is_read_where_what_is_sent_is_what_a_read_gives() {
    let origin = Origin::start();
    let larder = writing(&origin, PAYLOAD).start().await;
    larder.get("/things/42").await;
    larder.get("/things/42").await;
    let gate = origin.gate("/write/42");
    let location = put(&larder, "42", "{\"n\": 1}").await;
    for _ in 0..2 {
        let read = larder.get("/things/42").await;
        read.expect(200, "larder; fwd=uri-miss; detail=pending");
        assert_eq!(read.text(), "{\"n\": 1}");
        assert_eq!(read.header("content-type"), Some("application/json"));
    }
    put(&larder, "42", "{\"n\": 2}").await;
    assert_eq!(larder.get("/things/42").await.text(), "{\"n\": 2}");
    let deleted = send(&larder, (Method::DELETE, "42"), &[], "").await;
    assert_eq!(deleted.status, 202);
    assert_eq!(larder.get("/things/42").await.status, 404);
    assert_eq!(origin.calls("/42"), 1, "the source was not asked for it");
    assert_eq!(state(&larder, &location).await, "pending");
    gate.open();
    until(&larder, deleted.header("location").unwrap(), "applied").await;
    let read = larder.get("/things/42").await;
    read.expect(200, "larder; fwd=uri-miss; stored");
}

#[tokio::test]
async fn where_only_the_source_knows_a_read_waits_for_the_change() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    let old = call(&larder.get("/things/42").await);
    let gate = origin.gate("/write/42");
    let location = put(&larder, "42", "new").await;
    let meanwhile = async {
        larder.until_waiting(1).await;
        gate.arrived(1).await;
        assert_eq!(origin.calls("/42"), 1, "its source was asked too early");
        gate.open();
    };
    let (read, ()) = tokio::join!(larder.get("/things/42"), meanwhile);
    assert_eq!(call(&read), old + 1);
    until(&larder, &location, "applied").await;
}

#[tokio::test]
async fn a_read_that_waits_too_long_is_told_to_come_back() {
    let origin = Origin::start();
    let lines = BEHIND.replace("20s", "50ms");
    let larder = writing(&origin, &lines).start().await;
    origin.on("/write/42", Reply::status(503));
    put(&larder, "42", "new").await;
    let answer = larder.get("/things/42").await;
    answer.expect_problem(503, "write-pending");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // It is no failure of the source: nothing of it is remembered.
    origin.on("/write/42", Reply::status(204));
    eventually("the change to be made", async || {
        (larder.get("/things/42").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_4_a_load_in_flight_does_not_bring_the_old_value_back() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    let load = origin.gate("/42");
    let early = larder.get("/things/42");
    tokio::pin!(early);
    tokio::select! {
        _ = &mut early => panic!("its source does not answer yet"),
        () = load.arrived(1) => {}
    }
    let location = put(&larder, "42", "new").await;
    until(&larder, &location, "applied").await;
    load.open();
    let old = call(&early.await);
    let new = larder.get("/things/42").await;
    new.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(call(&new), old + 1);
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_change_over_a_restart_too() {
    let origin = Origin::start();
    let mut larder = writing(&origin, BEHIND).start().await;
    origin.on("/write/42", Reply::status(503));
    let key = [("idempotency-key", "k-1")];
    let first = send(&larder, (Method::PUT, "42"), &key, "a").await;
    assert_eq!(first.status, 202);
    larder.crash().await;
    let second = send(&larder, (Method::PUT, "42"), &key, "a").await;
    second.expect(
        202,
        "larder; fwd=method; fwd-status=202; detail=idempotency-key",
    );
    assert_eq!(first.header("location"), second.header("location"));
    let other = send(&larder, (Method::PUT, "42"), &key, "b").await;
    other.expect_problem(422, "idempotency-key-reused");
    assert_eq!(queue(&larder).await["pending"], 1);
    origin.on("/write/42", Reply::status(204));
    let location = first.header("location").unwrap();
    until(&larder, location, "applied").await;
    let third = send(&larder, (Method::PUT, "42"), &key, "a").await;
    assert_eq!(
        (third.status.as_u16(), &third.json()["state"]),
        (202, &json!("applied"))
    );
    let keys = origin.seen("/write/42");
    let keys: Vec<_> = keys.iter().map(|seen| &seen.headers["x-key"]).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
}

#[tokio::test]
async fn a_condition_needs_write_through() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    for name in ["if-match", "if-none-match", "if-unmodified-since"] {
        let answer = send(&larder, (Method::PUT, "42"), &[(name, "*")], "x").await;
        answer.expect_problem(422, "needs-write-through");
    }
    assert_eq!(origin.calls("/write/42"), 0);
}

#[tokio::test]
async fn of_a_resource_all_are_made_in_order_and_of_others_meanwhile() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    let gate = origin.gate("/write/a");
    let mut last = String::new();
    for body in ["1", "2", "3"] {
        last = put(&larder, "a", body).await;
    }
    gate.arrived(1).await;
    // One that is held does not hold up the others.
    let other = put(&larder, "b", "x").await;
    until(&larder, &other, "applied").await;
    assert_eq!(told(&origin, "a"), ["1"], "the second waits for the first");
    gate.open();
    until(&larder, &last, "applied").await;
    assert_eq!(told(&origin, "a"), ["1", "2", "3"]);
    let sequences: Vec<u64> = origin
        .seen("/write/a")
        .iter()
        .map(|seen| {
            seen.headers["x-sequence"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
}

#[tokio::test]
async fn where_it_is_allowed_the_last_stands_for_those_before_it() {
    let origin = Origin::start();
    let larder = writing(&origin, &format!("{BEHIND}\ncoalesce = true"))
        .start()
        .await;
    let gate = origin.gate("/write/a");
    let mut all = Vec::new();
    for body in ["1", "2", "3", "4"] {
        all.push(put(&larder, "a", body).await);
        gate.arrived(1).await;
    }
    gate.open();
    for location in &all {
        until(&larder, location, "applied").await;
    }
    assert_eq!(told(&origin, "a"), ["1", "4"]);
    let metrics = larder.metrics().await;
    assert!((metrics.sum("larder_writes_coalesced_total") - 2.0).abs() < 0.5);
}

#[tokio::test]
async fn poison_is_kept_as_a_dead_letter_and_the_others_are_made() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    origin.on("/write/poison", Reply::status(200).header("x-do", "panic"));
    origin.on("/write/refused", Reply::status(422));
    let gate = origin.gate("/write/first");
    put(&larder, "first", "x").await;
    gate.arrived(1).await;
    let poison = put(&larder, "poison", "{}").await;
    let refused = put(&larder, "refused", "{}").await;
    let good = join_all((0..30).map(async |number| put(&larder, &number.to_string(), "x").await));
    let good = good.await;
    gate.open();
    for location in &good {
        until(&larder, location, "applied").await;
    }
    until(&larder, &poison, "dead").await;
    until(&larder, &refused, "dead").await;
    let told = larder.get(&poison).await.json();
    assert_eq!(told["reason"]["attempts"], 5, "{told}");
    assert_eq!(told["reason"]["kind"], "internal");

    let dead = larder.admin.get("/queue/dead").await.json();
    let mut letters = dead["dead"].as_array().unwrap().clone();
    letters.sort_by_key(|letter| letter["parts"].to_string());
    assert_eq!(letters.len(), 2);
    let [first, second] = &letters[..] else {
        panic!("{dead}")
    };
    assert_eq!(first["parts"], json!([{"name": "id", "value": "poison"}]));
    assert_eq!(first["route"], "/things/{id}");
    assert_eq!(
        (&first["method"], &first["body_bytes"]),
        (&json!("PUT"), &json!(2))
    );
    assert_eq!(second["reason"]["code"], "invalid-request");
    // It was given up: reads go to the source again.
    larder
        .get("/things/poison")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");

    // Mended, it is tried again, and made.
    origin.on("/write/poison", Reply::status(204));
    let retried = larder
        .admin
        .post("/queue/dead/retry", &json!({"id": first["id"]}))
        .await;
    assert_eq!(retried.json(), json!({"retried": 1, "superseded": 0}));
    until(&larder, &poison, "applied").await;
    let dropped = larder
        .admin
        .post("/queue/dead/drop", &json!({"all": true}))
        .await;
    assert_eq!(dropped.json(), json!({"dropped": 1}));
    assert_eq!(queue(&larder).await["dead"], 0);
    let unknown = json!({"id": second["id"]});
    let answer = larder.admin.post("/queue/dead/retry", &unknown).await;
    answer.expect_problem(404, "unknown-write");
    for (body, code) in [
        (json!({}), "invalid-choice"),
        (json!({"id": "x", "all": true}), "invalid-choice"),
        (json!({"all": true, "force": true}), "invalid-choice"),
    ] {
        let answer = larder.admin.post("/queue/dead/retry", &body).await;
        answer.expect_problem(400, code);
    }
}

#[tokio::test]
async fn a_dead_letter_does_not_revert_what_was_made_since() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    origin.on("/write/42", Reply::status(409));
    let dead = put(&larder, "42", "old").await;
    until(&larder, &dead, "dead").await;
    origin.on("/write/42", Reply::status(204));
    let made = put(&larder, "42", "new").await;
    until(&larder, &made, "applied").await;
    let id = dead.strip_prefix("/writes/").unwrap();
    let retry = async |body: Value| larder.admin.post("/queue/dead/retry", &body).await;
    let all = retry(json!({"all": true})).await.json();
    assert_eq!(all, json!({"retried": 0, "superseded": 1}));
    retry(json!({"id": id}))
        .await
        .expect_problem(409, "superseded");
    let forced = retry(json!({"id": id, "force": true})).await.json();
    assert_eq!(forced["retried"], 1);
    until(&larder, &dead, "applied").await;
    assert_eq!(told(&origin, "42"), ["old", "new", "old"]);
}

#[tokio::test]
async fn a_source_that_is_down_is_tried_until_it_is_back() {
    let origin = Origin::start();
    let larder = writing(&origin, PAYLOAD).start().await;
    origin.refuse().await;
    let all = join_all((0..200).map(async |number| put(&larder, &number.to_string(), "x").await));
    let all = all.await;
    assert_eq!(larder.get("/things/7").await.text(), "x");
    let pending = queue(&larder).await;
    assert_eq!(
        (&pending["pending"], &pending["dead"]),
        (&json!(200), &json!(0))
    );
    origin.return_();
    for location in &all {
        until(&larder, location, "applied").await;
    }
    assert_eq!(
        (0..200)
            .filter(|n| !told(&origin, &n.to_string()).is_empty())
            .count(),
        200
    );
}

#[tokio::test]
async fn law_12_a_full_queue_says_so_and_takes_more_when_there_is_room() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND)
        .section("[writes]\nmax_pending = 2")
        .start()
        .await;
    let gate = origin.gate("/write/a");
    let first = put(&larder, "a", "1").await;
    put(&larder, "a", "2").await;
    let answer = send(&larder, (Method::PUT, "a"), &[], "3").await;
    answer.expect_problem(503, "queue-full");
    assert_eq!(answer.header("retry-after"), Some("1"));
    gate.arrived(1).await;
    gate.open();
    until(&larder, &first, "applied").await;
    put(&larder, "a", "3").await;
    let metrics = larder.metrics().await;
    assert!((metrics.sum("larder_writes_refused_full_total") - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn law_7_what_was_accepted_outlives_a_kill() {
    let origin = Origin::start();
    let mut larder = writing(&origin, BEHIND).start().await;
    origin.on("/write/a", Reply::status(503));
    let mut all = Vec::new();
    for body in ["1", "2", "3"] {
        all.push(put(&larder, "a", body).await);
    }
    larder.crash().await;
    origin.on("/write/a", Reply::status(204));
    for location in &all {
        until(&larder, location, "applied").await;
    }
    let mut told = told(&origin, "a");
    told.dedup();
    assert_eq!(told, ["1", "2", "3"]);
}

#[tokio::test]
async fn sigterm_lets_be_made_what_can_be_made_and_keeps_the_rest() {
    let origin = Origin::start();
    let mut larder = writing(&origin, BEHIND).start().await;
    let gate = origin.gate("/write/a");
    put(&larder, "a", "1").await;
    put(&larder, "a", "2").await;
    gate.arrived(1).await;
    origin.on("/write/b", Reply::status(503));
    let kept = put(&larder, "b", "1").await;
    larder.terminate();
    gate.open();
    assert!(larder.exit().await.success());
    assert_eq!(told(&origin, "a"), ["1", "2"]);
    origin.on("/write/b", Reply::status(204));
    larder.start_again().await;
    until(&larder, &kept, "applied").await;
    assert_eq!(told(&origin, "a"), ["1", "2"], "and not again");
}

#[tokio::test]
async fn changes_wait_for_a_writer_that_is_not_there() {
    let origin = Origin::start();
    let larder = writing(&origin, BEHIND).start().await;
    let wasm = Wasm::guest("writing");
    larder.remove("writing");
    larder
        .until_plugin("writing", "removed", |it| it["state"] != "ready")
        .await;
    let location = put(&larder, "42", "new").await;
    assert_eq!(state(&larder, &location).await, "pending");
    larder.install("writing", &wasm);
    until(&larder, &location, "applied").await;
}

#[tokio::test]
async fn law_11_a_damaged_queue_is_refused_with_what_to_do() {
    let origin = Origin::start();
    let mut larder = writing(&origin, BEHIND).start().await;
    put(&larder, "42", "x").await;
    larder.terminate();
    larder.exit().await;
    let home = larder.into_home().await;
    std::fs::write(home.path("larder-data/writes.redb"), vec![7; 10_000]).unwrap();
    let ran = home.run_within(Duration::from_secs(20), &["serve"]).await;
    let said = ran.all();
    assert!(said.contains("restore it, or move it away"), "{said}");
}

const IN_REDIS: &str = "[writes]\nqueue = \"redis\"";

async fn nodes(origin: &Origin, redis: &Redis, lines: &str) -> [Larder; 2] {
    let node = || writing(origin, lines).redis(&redis.url()).section(IN_REDIS);
    [node().start().await, node().start().await]
}

#[tokio::test]
async fn every_node_reads_what_is_pending_and_none_brings_the_old_value_back() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let [first, second] = nodes(&origin, &redis, PAYLOAD).await;
    first.get("/things/42").await;
    second
        .get("/things/42")
        .await
        .is("larder; hit; ttl=N; detail=redis");
    second
        .get("/things/42")
        .await
        .is("larder; hit; ttl=N; detail=memory");
    let gate = origin.gate("/write/42");
    let location = put(&first, "42", "new").await;
    for node in [&first, &second] {
        eventually("it is heard of", async || {
            let read = node.get("/things/42").await;
            (read.text() == "new").then_some(())
        })
        .await;
        assert_eq!(state(node, &location).await, "pending");
    }
    gate.arrived(1).await;
    gate.open();
    until(&second, &location, "applied").await;
    for node in [&first, &second] {
        let read = node.get("/things/42").await;
        assert_eq!(call(&read), 2, "the source is asked once: {read:?}");
    }
    assert_eq!(told(&origin, "42"), ["new"]);
}

#[tokio::test]
async fn law_7_another_node_makes_what_a_dead_one_had_accepted() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let [mut first, second] = nodes(&origin, &redis, BEHIND).await;
    // Who makes changes of which resource is not known: some are the first node's for sure, if there are enough.
    for number in 0..40 {
        origin.on(&format!("/write/{number}"), Reply::status(503));
    }
    let mut all = Vec::new();
    for number in 0..40 {
        all.push(put(&first, &number.to_string(), "x").await);
    }
    first.kill().await;
    for number in 0..40 {
        origin.on(&format!("/write/{number}"), Reply::status(204));
    }
    for location in &all {
        until(&second, location, "applied").await;
    }
    eventually("it has all partitions", async || {
        let queue = queue(&second).await;
        (queue["delivering"].as_array().unwrap().len() == 16).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_queue_that_is_away_refuses_and_takes_up_where_it_was() {
    let (origin, mut redis) = (Origin::start(), Redis::start_durable().await);
    let [larder, _other] = nodes(&origin, &redis, BEHIND).await;
    origin.on("/write/42", Reply::status(503));
    let location = put(&larder, "42", "x").await;
    redis.kill().await;
    let answer = send(&larder, (Method::PUT, "42"), &[], "y").await;
    answer.expect_problem(503, "queue-unavailable");
    larder
        .get(&location)
        .await
        .expect_problem(503, "queue-unavailable");
    // Law 6: a read goes to the source, and what it gives is not kept.
    let read = larder.get("/things/42").await;
    assert_eq!(read.status, 200, "{read:?}");
    assert!(!read.cache_status().contains("stored"), "{read:?}");
    redis.restart().await;
    origin.on("/write/42", Reply::status(204));
    eventually("it is made", async || {
        let answer = larder.get(&location).await;
        (answer.status == 200 && answer.json()["state"] == "applied").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_promises_less_than_is_asked_for_is_told_of() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let larder = writing(&origin, BEHIND)
        .redis(&redis.url())
        .section(IN_REDIS)
        .start()
        .await;
    eventually("it is told", async || {
        larder.log().contains("set appendonly yes").then_some(())
    })
    .await;
}
