//! Several nodes on one Redis: one load for all of them, a dead node's load taken over, purges and stores heard by the
//! others at once, and what a node that is cut off purges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use larder_tests::network::Weather;
use larder_tests::{
    Answer, Builder, Client, Larder, Link, Origin, Redis, Reply, Value, before, call, eventually,
    json,
};

/// How long a lease stands after it was last renewed.
const LIVENESS: Duration = Duration::from_secs(1);

/// A node in front of `origin`. Nothing ends by itself while a test runs.
fn node(origin: &Origin, redis: &str, trust: &str) -> Builder {
    before(origin, "ttl = \"1h\"\ntimeout = \"20s\"")
        .redis(redis)
        .section(&format!("trust = {trust:?}"))
}

async fn nodes<const N: usize>(origin: &Origin, redis: &Redis) -> [Larder; N] {
    let all = join_all((0..N).map(|_| node(origin, &redis.url(), "1h").start())).await;
    all.try_into().expect("as many as were started")
}

/// A request in a task of its own.
fn asking(larder: &Larder, path: &str) -> tokio::task::JoinHandle<Answer> {
    let (client, path) = (Client::new(larder.public.address()), path.to_owned());
    tokio::spawn(async move { client.get(&path).await })
}

fn tagged() -> Reply {
    Reply::counted().header("x-tags", "blue,red")
}

/// The ways to say "purge what `/things/42` holds".
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

#[tokio::test]
async fn law_3_a_thousand_clients_of_three_nodes_are_one_load() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let gate = origin.gate("/42");
    let nodes: [Larder; 3] = nodes(&origin, &redis).await;
    let mut clients = Vec::new();
    for (number, larder) in nodes.iter().enumerate() {
        let count = if number == 0 { 334 } else { 333 };
        clients.extend((0..count).map(|_| asking(larder, "/things/42")));
    }
    for (number, larder) in nodes.iter().enumerate() {
        larder
            .until_waiting(if number == 0 { 334 } else { 333 })
            .await;
    }
    gate.arrived(1).await;
    gate.open();
    for answer in join_all(clients).await {
        assert_eq!(call(&answer.expect("it is answered")), 1);
    }
    assert_eq!(origin.calls("/42"), 1);
    for larder in &nodes {
        assert!(larder.get("/things/42").await.is_hit());
    }
}

#[tokio::test]
async fn law_3_a_dead_nodes_load_has_one_successor() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let gate = origin.gate("/42");
    let [mut dying, one, other]: [Larder; 3] = nodes(&origin, &redis).await;
    let _lost = asking(&dying, "/things/42");
    gate.arrived(1).await;
    let waiting = [asking(&one, "/things/42"), asking(&other, "/things/42")];
    one.until_waiting(1).await;
    other.until_waiting(1).await;
    dying.kill().await;
    gate.arrived(2).await;
    gate.open();
    for answer in join_all(waiting).await {
        assert_eq!(call(&answer.expect("it is answered")), 2);
    }
    assert_eq!(origin.calls("/42"), 2);
}

#[tokio::test]
async fn law_3_a_load_may_outlast_the_liveness_of_its_lease() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let gate = origin.gate("/42");
    let [one, other]: [Larder; 2] = nodes(&origin, &redis).await;
    let leading = asking(&one, "/things/42");
    gate.arrived(1).await;
    let waiting = asking(&other, "/things/42");
    other.until_waiting(1).await;
    let started = Instant::now();
    eventually("the lease would have ended twice", async || {
        assert_eq!(gate.count(), 1, "nobody else loads");
        (started.elapsed() > LIVENESS * 2).then_some(())
    })
    .await;
    gate.open();
    leading
        .await
        .expect("it is answered")
        .expect(200, "larder; fwd=uri-miss; stored");
    waiting
        .await
        .expect("it is answered")
        .expect(200, "larder; fwd=uri-miss; collapsed");
    assert_eq!(origin.calls("/42"), 1);
    eventually("no lease is left", async || {
        redis.keys("larder:l:*").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_load_that_fails_gives_its_lease_to_who_waits() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    origin.script("/42", [Reply::status(500), Reply::counted()]);
    let gate = origin.gate("/42");
    let [one, other]: [Larder; 2] = nodes(&origin, &redis).await;
    let failing = asking(&one, "/things/42");
    gate.arrived(1).await;
    let waiting = asking(&other, "/things/42");
    other.until_waiting(1).await;
    gate.release_one();
    assert_eq!(failing.await.expect("it is answered").status, 502);
    gate.arrived(2).await;
    gate.open();
    waiting
        .await
        .expect("it is answered")
        .expect(200, "larder; fwd=uri-miss; stored");
}

/// A 304 to a validator from before the purge would bring back what was purged.
#[tokio::test]
async fn law_4_who_waited_for_a_lease_shows_no_validator_from_before_a_purge() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    origin.on("/42", Reply::json("{\"call\":1}").etag("\"1\""));
    let [one, other]: [Larder; 2] = nodes(&origin, &redis).await;
    for node in [&one, &other] {
        node.get("/things/42").await;
    }
    one.purge(json!({ "path": "/things/42", "mode": "expire" }))
        .await;
    let gate = origin.gate("/42");
    let leading = asking(&one, "/things/42");
    gate.arrived(1).await;
    let waiting = asking(&other, "/things/42");
    other.until_waiting(1).await;
    origin.on("/42", Reply::json("{\"call\":2}").etag("\"2\""));
    other.purge(json!({ "path": "/things/42" })).await;
    // What the first has loaded is refused, and its lease goes to who waits.
    gate.release_one();
    gate.arrived(2).await;
    gate.open();
    assert_eq!(call(&waiting.await.expect("it is answered")), 2);
    leading.await.expect("it is answered");
    let [first, .., last] = &origin.seen("/42")[..] else {
        panic!("it was asked at least twice");
    };
    assert!(!first.headers.contains_key("if-none-match"));
    assert!(
        !last.headers.contains_key("if-none-match"),
        "what is older than a purge has no validator to show"
    );
}

#[tokio::test]
async fn law_4_a_load_from_before_a_purge_is_not_waited_for_and_not_stored() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let gate = origin.gate("/42");
    let [one, other]: [Larder; 2] = nodes(&origin, &redis).await;
    let old = asking(&one, "/things/42");
    gate.arrived(1).await;
    other.purge(json!({ "path": "/things/42" })).await;
    let new = asking(&other, "/things/42");
    // While the first is still held.
    gate.arrived(2).await;
    gate.open();
    old.await.expect("it is answered");
    let new = new.await.expect("it is answered");
    new.expect(200, "larder; fwd=uri-miss; stored");
    for larder in [&one, &other] {
        assert_eq!(call(&larder.get("/things/42").await), call(&new));
    }
}

#[tokio::test]
async fn law_4_a_purge_on_one_node_is_heard_by_the_other() {
    for mode in ["delete", "expire"] {
        for way in ways() {
            let (origin, redis) = (Origin::start(), Redis::start().await);
            origin.on("/42", tagged());
            let [one, other]: [Larder; 2] = nodes(&origin, &redis).await;
            one.get("/things/42").await;
            other
                .get("/things/42")
                .await
                .expect(200, "larder; hit; ttl=N; detail=redis");
            // The word for the store may arrive after the look-up that found it, and costs the copy once.
            eventually("the other node has a copy", async || {
                let answer = other.get("/things/42").await;
                answer.is("larder; hit; ttl=N; detail=memory").then_some(())
            })
            .await;
            let mut asked = way.clone();
            asked["mode"] = json!(mode);
            let said = one.purge(asked).await;
            assert_eq!(said["pending"], json!([]), "{said}");
            assert_eq!(said["nodes"], 2, "{said}");
            eventually("the other node has let its copy go", async || {
                (call(&other.get("/things/42").await) == 2).then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn what_one_node_stores_replaces_the_older_copy_of_another() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let [other]: [Larder; 1] = nodes(&origin, &redis).await;
    // The same source on a node whose route keeps it for a moment only: it loads again while the other's copy is fresh.
    let one = before(&origin, "ttl = \"50ms\"\ntimeout = \"20s\"")
        .redis(&redis.url())
        .section("trust = \"1h\"")
        .start()
        .await;
    let old = call(&other.get("/things/42").await);
    eventually("the one has loaded again", async || {
        (call(&one.get("/things/42").await) > old).then_some(())
    })
    .await;
    eventually("the other has let its copy go", async || {
        (call(&other.get("/things/42").await) > old).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_6_what_a_slow_redis_is_too_late_for_is_stored_behind() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let link = Link::to(redis.address());
    let far = node(&origin, &format!("redis://{}", link.address()), "1h")
        .start()
        .await;
    let [near]: [Larder; 1] = nodes(&origin, &redis).await;
    // A command is answered before `timeout` is over, and a second one is not.
    link.turn(Weather::Late(Duration::from_millis(30))).await;
    assert_eq!(call(&far.get("/things/42").await), 1);
    eventually("it is stored, and its lease has ended", async || {
        let stored = redis.entries().await.len() == 1;
        (stored && redis.keys("larder:l:*").await.is_empty()).then_some(())
    })
    .await;
    let answer = near.get("/things/42").await;
    answer.expect(200, "larder; hit; ttl=N; detail=redis");
}

#[tokio::test]
async fn law_4_what_a_node_purges_while_it_is_cut_off_outlives_it_and_is_told() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    origin.on("/42", tagged());
    for way in ways() {
        let link = Link::to(redis.address());
        let cut_off = node(&origin, &format!("redis://{}", link.address()), "1h")
            .start()
            .await;
        let [other]: [Larder; 1] = nodes(&origin, &redis).await;
        cut_off.get("/things/42").await;
        let old = call(&other.get("/things/42").await);
        link.refuse().await;
        let said = cut_off.purge(way.clone()).await;
        assert_eq!(said["pending"], json!(["redis"]), "{said}");
        assert_eq!(said["durable"], true, "{said}");
        // The other one cannot know.
        assert_eq!(call(&other.get("/things/42").await), old);
        let home = cut_off.into_home().await;
        link.heal().await;
        let cut_off = Larder::start(home).await;
        eventually("the other node is told", async || {
            (call(&other.get("/things/42").await) > old).then_some(())
        })
        .await;
        assert!(call(&cut_off.get("/things/42").await) > old, "{way}");
    }
}

#[tokio::test]
async fn law_12_more_purges_than_are_kept_while_redis_is_away_become_one_of_everything() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    origin.on("/42", tagged());
    let [purging, other]: [Larder; 2] = nodes(&origin, &redis).await;
    purging.get("/things/42").await;
    let old = call(&other.get("/things/42").await);
    redis.freeze();
    purging.get("/things/unknown").await;
    // None of them concerns what is there, until there are too many.
    for number in 0..1024 {
        purging.purge(json!({ "tag": format!("t{number}") })).await;
    }
    let kept = purging.admin.get("/readyz").await.json();
    assert_eq!(kept["redis"]["pending_purges"], 1024, "{kept}");
    assert_eq!(call(&purging.get("/things/42").await), old);
    let said = purging.purge(json!({ "tag": "one more" })).await;
    assert_eq!(said["durable"], true, "{said}");
    let kept = purging.admin.get("/readyz").await.json();
    assert_eq!(kept["redis"]["pending_purges"], 1, "{kept}");
    assert!(call(&purging.get("/things/42").await) > old);
    redis.thaw();
    eventually("the other is told of everything", async || {
        (call(&other.get("/things/42").await) > old).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_6_a_node_that_dies_under_load_fails_no_request_of_the_others() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let [mut dying, one, other]: [Larder; 3] = nodes(&origin, &redis).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = |larder: &Larder, dies: bool| {
        let (client, stop) = (Client::new(larder.public.address()), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut asked = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                // Hits, and loads under leases that die with their node.
                let path = format!("/things/{}", asked % 40 + asked / 40);
                match client.attempt(Method::GET, &path, &[], Bytes::new()).await {
                    Ok(answer) => assert_eq!(answer.status, 200, "{answer:?}"),
                    Err(_) if dies => break,
                    Err(error) => panic!("{path}: {error}"),
                }
                asked += 1;
            }
            asked
        })
    };
    let loads = [load(&dying, true), load(&one, false), load(&other, false)];
    origin.called("/100", 1).await;
    dying.kill().await;
    origin.called("/200", 1).await;
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert!(load.await.expect("every answer is one") > 0);
    }
}

#[tokio::test]
async fn law_4_a_node_that_hears_nothing_trusts_what_it_has_no_longer_than_it_says() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let link = Link::to(redis.address());
    let deaf = node(&origin, &format!("redis://{}", link.address()), "300ms")
        .start()
        .await;
    let [other]: [Larder; 1] = nodes(&origin, &redis).await;
    let old = call(&deaf.get("/things/42").await);
    link.stall();
    other.purge(json!({ "path": "/things/42" })).await;
    eventually("what it had is not answered any more", async || {
        (call(&deaf.get("/things/42").await) > old).then_some(())
    })
    .await;
    link.heal().await;
    eventually("it is told again", async || {
        let ready = deaf.admin.get("/readyz").await;
        ready.json()["redis"]["available"]
            .as_bool()
            .filter(|on| *on)
            .map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn while_versions_run_side_by_side_entries_never_mix_and_purges_cross() {
    let (old, new, redis) = (Origin::start(), Origin::start(), Redis::start().await);
    for origin in [&old, &new] {
        origin.on("/42", tagged());
    }
    // Another setting of the plugin is another identity, as another version is.
    let [one, other]: [Larder; 2] = nodes(&old, &redis).await;
    let newer = node(&new, &redis.url(), "1h").start().await;
    let mut loads = 0;
    for way in ways() {
        loads += 1;
        assert_eq!(call(&one.get("/things/42").await), loads);
        assert_eq!(call(&other.get("/things/42").await), loads);
        let answer = newer.get("/things/42").await;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(
            (old.calls("/42"), new.calls("/42")),
            (loads as usize, loads as usize)
        );
        // From the newer to the older, and back.
        let purging = if loads % 2 == 0 { &one } else { &newer };
        let told = purging.purge(way.clone()).await;
        assert_eq!(told["nodes"], 3, "{told}");
        for larder in [&one, &other, &newer] {
            larder.until_heard(&told).await;
            let asked = [("cache-control", "only-if-cached")];
            assert_eq!(
                larder.get_with("/things/42", &asked).await.status,
                504,
                "{way}"
            );
        }
    }
}

#[tokio::test]
async fn law_3_batches_of_two_nodes_ask_for_each_key_once() {
    let redis = Redis::start().await;
    let node = async || {
        Larder::with()
            .guest("batching", "[limits]\ntimeout = \"20s\"\n")
            .route(
                "/things/{key}",
                "batching",
                "ttl = \"1h\"\ntimeout = \"20s\"",
            )
            .redis(&redis.url())
            .start()
            .await
    };
    let nodes = [node().await, node().await];
    let asked = (0..200).map(async |i| {
        // Each key on both nodes, first on the one and then on the other.
        let (key, larder) = (i / 2, &nodes[(i / 2 + i) % 2]);
        let answer = larder.get(&format!("/things/k{key}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["key"], format!("k{key}"));
    });
    join_all(asked).await;
    let mut questions = 0.0;
    for larder in &nodes {
        questions += larder.metrics().await.sum("larder_batch_questions_total");
    }
    assert_eq!(questions, 100.0);
}
