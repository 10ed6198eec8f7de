//! The Redis tier: what it keeps, what a restart finds, and what its troubles cost and tell; `redis_faults` plays each of
//! them. The memory tier is turned off where a test is about Redis, so that every hit is a hit there.

use std::time::{Duration, Instant};

use larder_tests::{
    Larder, Origin, Redis, Reply, before, call, eventually, eventually_within, json, metrics,
};

/// "The cache works again within 2 s of healing."
const HEALED_WITHIN: Duration = Duration::from_secs(2);

const ROUTE: &str = "ttl = \"1h\"\nstale_if_error = \"1h\"";

/// Larder before an origin, with a Redis and without the memory tier.
async fn larder(origin: &Origin, redis: &str) -> Larder {
    before(origin, ROUTE).redis(redis).no_memory().start().await
}

/// Waits until a value is read back from Redis, within two seconds.
async fn until_works(larder: &Larder, path: &str) {
    eventually_within(HEALED_WITHIN, "Redis serves hits again", async || {
        let answer = larder.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.is("larder; hit; ttl=N; detail=redis").then_some(())
    })
    .await;
}

/// Asks for twenty things while Redis is in trouble: every answer comes, none of them late.
async fn answers_keep_coming(larder: &Larder, trouble: &str) {
    let began = Instant::now();
    for id in 0..20 {
        let asked = Instant::now();
        let answer = larder.get(&format!("/things/{trouble}-{}", id % 4)).await;
        assert_eq!(answer.status, 200, "{trouble}: {answer:?}");
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{trouble}: an answer took {:?}",
            asked.elapsed()
        );
    }
    // Each request may wait for Redis until the breaker opens; none after.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{trouble}: twenty answers took {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_entry_is_visible_in_redis_lives_as_long_as_it_may_be_served_and_is_shared_across_a_restart()
 {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let mut larder = before(&origin, "ttl = \"60s\"\nstale_if_error = \"1h\"")
        .redis(&redis.url())
        .start()
        .await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let key = eventually("the entry is in Redis", async || {
        redis.entries().await.pop()
    })
    .await;
    assert!(
        key.starts_with("larder:e:{%2Fthings%2F%7Bid%7D:42}:gated~"),
        "{key}"
    );
    assert!(key.ends_with(":id=42"), "{key}");
    let ttl = redis.ttl(&key).await.expect("an entry has a time to live");
    let longest = Duration::from_secs(60 + 3600);
    assert!(
        ttl <= longest && ttl > longest - Duration::from_secs(60),
        "{ttl:?}"
    );
    larder.restart().await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=redis");
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    assert_eq!(origin.calls("/42"), 1);
}

#[tokio::test]
async fn an_absence_is_kept_in_redis_too() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    origin.on("/42", Reply::status(404));
    let larder = before(&origin, "missing_ttl = \"1h\"")
        .redis(&redis.url())
        .no_memory()
        .start()
        .await;
    larder
        .get("/things/42")
        .await
        .expect(404, "larder; fwd=uri-miss; stored");
    larder
        .get("/things/42")
        .await
        .expect(404, "larder; hit; ttl=N; detail=missing");
    assert_eq!(origin.calls("/42"), 1);
}

#[tokio::test]
async fn what_redis_gives_back_is_what_was_stored() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let body: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let reply = Reply::counted()
        .body(body.clone())
        .etag("\"v1\"")
        .header("x-tags", "red")
        .header("x-header", "x-kept: yes");
    origin.on("/42", reply);
    let larder = larder(&origin, &redis.url()).await;
    let stored = larder.get("/things/42").await;
    let read = larder.get("/things/42").await;
    read.expect(200, "larder; hit; ttl=N; detail=redis");
    assert!(
        read.body == body,
        "another body of {} bytes",
        read.body.len()
    );
    for name in ["etag", "x-kept", "content-type", "cache-control"] {
        assert_eq!(read.header(name), stored.header(name), "{name}");
    }
}

#[tokio::test]
async fn law_6_a_server_started_beside_a_dead_redis_serves_and_finds_it_later() {
    let (origin, mut redis) = (Origin::start(), Redis::start().await);
    redis.kill().await;
    // A section of the test's own: the start does not wait for what is dead.
    let section = format!("[redis]\nurl = {:?}", redis.url());
    let larder = before(&origin, ROUTE)
        .section(&section)
        .no_memory()
        .start()
        .await;
    answers_keep_coming(&larder, "dead").await;
    let ready = larder.admin.get("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(ready.json()["redis"]["available"], json!(false));
    redis.restart().await;
    until_works(&larder, "/things/dead-0").await;
    assert_eq!(
        larder.admin.get("/readyz").await.json()["redis"]["available"],
        json!(true)
    );
}

#[tokio::test]
async fn law_6_once_the_breaker_is_open_redis_costs_nothing() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let redis_section = format!("[redis]\nurl = {:?}\ntimeout = \"500ms\"", redis.url());
    let larder = before(&origin, ROUTE)
        .section(&redis_section)
        .no_memory()
        .start()
        .await;
    larder.get("/things/before").await;
    redis.freeze();
    // The requests that open it may each wait for the timeout.
    eventually("the breaker opens", async || {
        let ready = larder.admin.get("/readyz").await.json();
        larder.get("/things/opening").await;
        (ready["redis"]["available"] == json!(false)).then_some(())
    })
    .await;
    let began = Instant::now();
    for id in 0..50 {
        assert_eq!(larder.get(&format!("/things/open-{id}")).await.status, 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "fifty requests took {:?}, 500 ms of timeout each would be 25 s",
        began.elapsed()
    );
    redis.thaw();
}

#[tokio::test]
async fn law_6_memory_and_stale_answers_go_on_without_redis() {
    let (origin, mut redis) = (Origin::start(), Redis::start().await);
    let larder = before(
        &origin,
        "ttl = \"1h\"\nstale_if_error = \"1h\"\nfailure_ttl = \"50ms\"",
    )
    .redis(&redis.url())
    .start()
    .await;
    origin.on("/short", Reply::counted().header("x-ttl-ms", "300"));
    larder.get("/things/42").await;
    larder.get("/things/short").await;
    redis.kill().await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    origin.refuse().await;
    eventually("the short one is answered stale", async || {
        let answer = larder.get("/things/short").await;
        answer
            .is("larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error")
            .then_some(())
    })
    .await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn the_log_tells_transitions_of_redis_and_not_every_request() {
    let (origin, mut redis) = (Origin::start(), Redis::start().await);
    let larder = larder(&origin, &redis.url()).await;
    larder.get("/things/before").await;
    let before = larder.log().lines().count();
    redis.kill().await;
    for id in 0..200 {
        larder.get(&format!("/things/{id}")).await;
    }
    redis.restart().await;
    until_works(&larder, "/things/1").await;
    let log = larder.log();
    let lines: Vec<_> = log
        .lines()
        .skip(before)
        .filter(|line| line.to_lowercase().contains("redis"))
        .collect();
    assert!(
        (1..=8).contains(&lines.len()),
        "{} lines for one outage:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

#[tokio::test]
async fn law_11_foreign_bytes_are_counted_misses() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let larder = larder(&origin, &redis.url()).await;
    larder.get("/things/other").await;
    let other = redis.entries().await.pop().expect("the other entry");
    let others_bytes = redis.bytes(&other).await;
    larder.get("/things/42").await;
    let key = redis
        .entries()
        .await
        .into_iter()
        .find(|key| *key != other)
        .expect("the entry");
    let sound = redis.bytes(&key).await;
    let mut flipped = sound.clone();
    let last = flipped.len() - 8;
    flipped[last] ^= 0x20;
    let mut calls = 1;
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("the first byte", sound[..1].to_vec()),
        ("half", sound[..sound.len() / 2].to_vec()),
        ("all but the last byte", sound[..sound.len() - 1].to_vec()),
        ("one byte more", [&sound[..], b"x"].concat()),
        ("a flipped bit", flipped),
        ("text", b"{\"json\": true}".to_vec()),
        ("zeros", vec![0; sound.len()]),
        ("the entry of another key", others_bytes),
    ] {
        let counted = larder.metrics().await.sum(metrics::FOREIGN);
        redis.overwrite(&key, &bytes).await;
        let answer = larder.get("/things/42").await;
        calls += 1;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(
            (call(&answer), &answer.json()["path"]),
            (calls, &json!("/42")),
            "{what}"
        );
        let now = larder.metrics().await.sum(metrics::FOREIGN);
        assert!(now > counted, "{what} is counted");
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=redis");
    }
}

#[tokio::test]
async fn law_11_truncation_at_every_length_is_a_miss_and_never_a_crash() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let mut larder = larder(&origin, &redis.url()).await;
    larder.get("/things/42").await;
    let key = redis.entries().await.pop().expect("the entry");
    let sound = redis.bytes(&key).await;
    for length in 0..sound.len() {
        redis.overwrite(&key, &sound[..length]).await;
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; fwd=uri-miss; stored");
    }
    assert!(larder.runs());
}

#[tokio::test]
async fn law_4_a_restart_resurrects_nothing_purged() {
    for way in [
        json!({ "path": "/things/42" }),
        json!({ "tag": "red" }),
        json!({ "route": "/things/{id}" }),
        json!({ "all": true }),
    ] {
        let (origin, redis) = (Origin::start(), Redis::start().await);
        origin.on("/42", Reply::counted().header("x-tags", "red"));
        let mut larder = before(&origin, ROUTE).redis(&redis.url()).start().await;
        larder.get("/things/42").await;
        larder.purge(way.clone()).await;
        larder.restart().await;
        let answer = larder.get("/things/42").await;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(call(&answer), 2, "{way}");
        larder.restart().await;
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=redis");
    }
}

#[tokio::test]
async fn law_4_a_restart_keeps_an_expired_entry_expired() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let mut larder = before(&origin, ROUTE).redis(&redis.url()).start().await;
    larder.get("/things/42").await;
    larder
        .purge(json!({ "path": "/things/42", "mode": "expire" }))
        .await;
    larder.restart().await;
    // Expired, and still the fallback of a failing source: its windows count from the original end of its ttl.
    origin.on("/42", Reply::status(503));
    let answer = larder.get("/things/42").await;
    answer.expect(
        200,
        "larder; fwd=stale; fwd-status=502; ttl=-N; detail=stale-if-error",
    );
    origin.on("/42", Reply::counted());
    larder
        .purge(json!({ "path": "/things/42", "mode": "expire" }))
        .await;
    larder.restart().await;
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; fwd=stale; fwd-status=200; stored");
}

#[tokio::test]
async fn law_4_a_purge_made_while_redis_is_away_holds_after_it_is_back() {
    for way in [
        json!({ "path": "/things/42" }),
        json!({ "tag": "red" }),
        json!({ "route": "/things/{id}" }),
        json!({ "all": true }),
    ] {
        let (origin, redis) = (Origin::start(), Redis::start().await);
        origin.on("/*", Reply::counted().header("x-tags", "red"));
        let mut larder = before(&origin, ROUTE)
            .redis(&redis.url())
            .no_memory()
            .start()
            .await;
        larder.get("/things/42").await;
        larder
            .get("/things/42")
            .await
            .expect(200, "larder; hit; ttl=N; detail=redis");
        redis.freeze();
        let answer = larder.purge(way.clone()).await;
        assert_eq!(
            answer["pending"],
            json!(["redis"]),
            "the answer says what is still pending: {answer}"
        );
        assert!(!larder.get("/things/42").await.is_hit(), "{way}");
        redis.thaw();
        eventually_within(HEALED_WITHIN, "the purge has reached Redis", async || {
            let ready = larder.admin.get("/readyz").await.json();
            let redis = &ready["redis"];
            (redis["available"] == json!(true) && redis["pending_purges"] == json!(0)).then_some(())
        })
        .await;
        // Redis knows it now: another process finds nothing from before the purge.
        larder.restart().await;
        let answer = larder.get("/things/42").await;
        assert!(call(&answer) >= 2, "{way}: {answer:?}");
    }
}

#[tokio::test]
async fn law_4_what_redis_evicts_resurrects_nothing() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let mut larder = larder(&origin, &redis.url()).await;
    larder.get("/things/42").await;
    let key = redis.entries().await.pop().expect("the entry");
    let old = redis.bytes(&key).await;
    larder.purge(json!({ "path": "/things/42" })).await;
    // The resource's generation is evicted, and the old bytes are there (they were never deleted, only outdated).
    redis.overwrite(&key, &old).await;
    for generation in redis.keys("larder:g:*").await {
        redis.run::<()>("DEL", &[generation]).await;
    }
    assert_eq!(
        call(&larder.get("/things/42").await),
        2,
        "an entry without its resource's generation is dead"
    );
    // What all nodes mirror is evicted: a new epoch, in which the entries of the old one are dead.
    redis.run::<()>("DEL", &["larder:{g}"]).await;
    larder.restart().await;
    assert_eq!(
        call(&larder.get("/things/42").await),
        3,
        "an entry of another epoch is dead"
    );
}

#[tokio::test]
async fn two_routes_and_two_prefixes_do_not_meet_in_one_redis() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let one = before(&origin, ROUTE)
        .route("/others/{id}", "gated", "")
        .redis(&redis.url())
        .start()
        .await;
    let other_prefix = format!("[redis]\nurl = {:?}\nprefix = \"other\"", redis.url());
    let two = before(&origin, ROUTE).section(&other_prefix).start().await;
    one.get("/things/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    one.get("/others/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    two.get("/things/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    eventually("both have stored theirs", async || {
        let (others, ours) = (redis.keys("other:e:*").await, redis.entries().await);
        ((others.len(), ours.len()) == (1, 2)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_configured_differently_uses_the_smaller_duration() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let larder = before(&origin, "ttl = \"1h\"")
        .redis(&redis.url())
        .start()
        .await;
    larder.get("/things/42").await;
    let home = larder.into_home().await;
    let text = std::fs::read_to_string(home.path("larder.toml")).expect("the configuration");
    home.configure(&text.replace("ttl = \"1h\"", "ttl = \"10s\""));
    let larder = Larder::start(home).await;
    let answer = larder.get("/things/42").await;
    answer.expect(200, "larder; hit; ttl=N; detail=redis");
    assert!(answer.ttl() <= 10, "{answer:?}");
    assert_eq!(answer.max_age(), Some(10));
}
