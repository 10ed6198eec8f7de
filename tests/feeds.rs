//! A change feed tells the cache what changed, and the next response shows it: by resource, by tag, everything; across
//! restarts, failures and swaps.

use futures_util::future::join_all;
use larder_tests::{Builder, Larder, Origin, Redis, Reply, Value, Wasm, call, eventually, json};

/// The sidecar of `feeding` in front of an origin. Another label is another source.
fn sidecar(origin: &Origin, label: &str) -> String {
    let url = origin.url();
    format!(
        "[config]\nurl = {url:?}\nlabel = {label:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\n"
    )
}

/// `feeding` on two routes, beside a `demo` that is none of its business.
fn before(origin: &Origin) -> Builder {
    Larder::with()
        .guest("feeding", &sidecar(origin, "one"))
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route("/things/{id}", "feeding", "ttl = \"1h\"")
        .route("/lists/{id}/{page}", "feeding", "ttl = \"1h\"")
        .route("/demo/{key}", "demo", "ttl = \"1h\"")
}

/// A page of the feed.
fn page(changes: Value, cursor: &str) -> Reply {
    let page = json!({ "changes": changes, "cursor": cursor, "poll_after_ms": 10 });
    Reply::json(&page.to_string())
}

/// The cursors of all polls so far; none of one without.
fn cursors(origin: &Origin) -> Vec<Option<String>> {
    let cursor = |target: &str| {
        let query = target.split_once('?')?.1;
        let cursor = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("cursor="));
        cursor.map(str::to_owned)
    };
    let seen = origin.seen("/feed");
    seen.iter().map(|seen| cursor(&seen.target)).collect()
}

/// Waits until the feed is polled with this cursor: what came before it is applied and saved by then.
async fn until_read_to(origin: &Origin, cursor: &str) {
    eventually(&format!("the feed is polled after {cursor}"), async || {
        let found = cursors(origin);
        let found = found.last()?.as_deref() == Some(cursor);
        found.then_some(())
    })
    .await;
}

/// Feed pages that a test lets go one after another, with the head before them. What is told is decided in advance; when,
/// by the gate. After the last the feed has nothing to tell.
async fn told(origin: &Origin, pages: &[(Value, &str)]) -> (Larder, larder_tests::Gate) {
    let first = page(json!([]), "c0");
    let pages = pages
        .iter()
        .map(|(changes, cursor)| page(changes.clone(), cursor));
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", std::iter::once(first).chain(pages).chain([idle]));
    let gate = origin.gate("/feed");
    let larder = before(origin).start().await;
    gate.arrived(1).await;
    gate.release_one();
    gate.arrived(2).await;
    (larder, gate)
}

const HIT: &str = "larder; hit; ttl=N; detail=memory";
const MISS: &str = "larder; fwd=uri-miss; stored";

#[tokio::test]
async fn a_changed_resource_is_loaded_again_and_its_neighbours_are_not() {
    let origin = Origin::start();
    let item = json!([{ "route": "/things/{id}", "params": { "id": "a b" } }]);
    let (larder, gate) = told(&origin, &[(item, "c1")]).await;
    for path in ["/things/a%20b", "/things/other", "/lists/a%20b/1"] {
        larder.get(path).await.expect(200, MISS);
        larder.get(path).await.expect(200, HIT);
    }
    let loads = origin.calls("/a%20b") as u64;
    gate.release_one();
    gate.arrived(3).await;
    // The cursor is polled after the page was applied: so the very next response shows it.
    let again = larder.get("/things/a%20b").await;
    again.expect(200, MISS);
    assert_eq!(call(&again), loads + 1);
    larder.get("/things/other").await.expect(200, HIT);
    larder.get("/lists/a%20b/1").await.expect(200, HIT);
}

#[tokio::test]
async fn a_change_without_a_route_is_one_of_every_route_that_has_its_parameters() {
    let origin = Origin::start();
    let item = json!([{ "params": { "id": "7", "page": "2" } }]);
    let (larder, gate) = told(&origin, &[(item, "c1")]).await;
    for path in ["/things/7", "/lists/7/2", "/lists/7/3"] {
        larder.get(path).await.expect(200, MISS);
    }
    gate.release_one();
    gate.arrived(3).await;
    larder.get("/things/7").await.expect(200, MISS);
    larder.get("/lists/7/2").await.expect(200, MISS);
    larder.get("/lists/7/3").await.expect(200, HIT);
}

#[tokio::test]
async fn a_tag_and_everything_purge_what_they_cover() {
    let origin = Origin::start();
    origin.on("/1", Reply::counted().header("x-tags", "red"));
    let pages = [
        (json!([{ "tag": "red" }]), "c1"),
        (json!([{ "everything": true }]), "c2"),
    ];
    let (larder, gate) = told(&origin, &pages).await;
    for path in ["/things/1", "/things/2", "/demo/x"] {
        larder.get(path).await.expect(200, MISS);
    }
    gate.release_one();
    gate.arrived(3).await;
    larder.get("/things/1").await.expect(200, MISS);
    larder.get("/things/2").await.expect(200, HIT);
    gate.release_one();
    gate.arrived(4).await;
    larder.get("/things/1").await.expect(200, MISS);
    larder.get("/things/2").await.expect(200, MISS);
    // Everything of this loader, and of no other.
    larder.get("/demo/x").await.expect(200, HIT);
    let metrics = larder.metrics().await;
    // The head counts as a change of everything.
    assert_eq!(metrics.sum("larder_feed_changes_total"), 3.0);
}

#[tokio::test]
async fn law_4_a_load_that_a_change_overtakes_is_not_stored() {
    let origin = Origin::start();
    let item = json!([{ "params": { "id": "7" } }]);
    let (larder, feed) = told(&origin, &[(item, "c1")]).await;
    let load = origin.gate("/7");
    let (first, ()) = tokio::join!(larder.get("/things/7"), async {
        load.arrived(1).await;
        feed.release_one();
        feed.arrived(3).await;
        load.open();
    });
    first.expect(200, "larder; fwd=uri-miss");
    let second = larder.get("/things/7").await;
    second.expect(200, MISS);
    assert_eq!(call(&second), 2);
}

#[tokio::test]
async fn a_change_reaches_what_redis_holds() {
    let redis = Redis::start().await;
    let origin = Origin::start();
    let item = json!([{ "params": { "id": "7" } }]);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", [page(json!([]), "c0"), page(item, "c1"), idle]);
    let gate = origin.gate("/feed");
    let larder = before(&origin)
        .no_memory()
        .redis(&redis.url())
        .start()
        .await;
    gate.release_one();
    gate.arrived(2).await;
    larder.get("/things/7").await.expect(200, MISS);
    larder
        .get("/things/7")
        .await
        .expect(200, "larder; hit; ttl=N; detail=redis");
    gate.release_one();
    gate.arrived(3).await;
    larder.get("/things/7").await.expect(200, MISS);
}

#[tokio::test]
async fn a_feed_starts_at_its_head_once_and_after_a_restart_at_its_cursor() {
    let origin = Origin::start();
    let (mut larder, gate) = told(&origin, &[(json!([{ "tag": "x" }]), "c1")]).await;
    gate.open();
    until_read_to(&origin, "c1").await;
    // Killed: what is saved was saved before the next poll.
    larder.kill().await;
    let before = origin.calls("/feed");
    let larder = Larder::start(larder.into_home().await).await;
    origin.called("/feed", before + 1).await;
    let cursors = cursors(&origin);
    assert_eq!(cursors[before].as_deref(), Some("c1"), "{cursors:?}");
    let without = cursors.iter().filter(|cursor| cursor.is_none()).count();
    assert_eq!(without, 1, "{cursors:?}");
    assert_eq!(larder.metrics().await.sum("larder_feed_changes_total"), 0.0);
}

#[tokio::test]
async fn a_failing_feed_is_shown_and_recovers_and_loads_go_on_all_the_while() {
    let origin = Origin::start();
    let (larder, gate) = told(&origin, &[]).await;
    origin.on("/feed", Reply::status(503));
    gate.open();
    larder
        .until_refused("feeding", &["change feed", "feed-down"])
        .await;
    assert_eq!(larder.plugin("feeding").await["state"], "degraded");
    larder.get("/things/1").await.expect(200, MISS);
    // It traps, then its source is gone: a new instance each time it must be, and the same recovery.
    origin.on("/feed", Reply::counted().header("x-do", "panic"));
    larder
        .until_refused("feeding", &["change feed", "told to panic"])
        .await;
    let item = json!([{ "params": { "id": "1" } }]);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", [page(item, "c1"), idle]);
    larder
        .until_plugin("feeding", "is ready again", |plugin| {
            plugin["state"] == "ready" && plugin["error"].is_null()
        })
        .await;
    larder.get("/things/1").await.expect(200, MISS);
    let metrics = larder.metrics().await;
    assert!(metrics.sum("larder_feed_failures_total") >= 2.0);
    assert!(metrics.sum("larder_feed_polls_total") > metrics.sum("larder_feed_failures_total"));
    // It goes on where it was: a failure is no reason to begin anew.
    let without = cursors(&origin).iter().filter(|it| it.is_none()).count();
    assert_eq!(without, 1);
}

#[tokio::test]
async fn a_redeployed_source_keeps_its_cursor_and_another_one_starts_anew() {
    let origin = Origin::start();
    let (larder, gate) = told(&origin, &[(json!([{ "tag": "x" }]), "c1")]).await;
    gate.open();
    until_read_to(&origin, "c1").await;
    larder.get("/things/1").await.expect(200, MISS);
    let digest = larder.plugin("feeding").await["digest"].clone();
    // A custom section: other bytes, the same component.
    let mut redeployed = Wasm::guest("feeding").bytes();
    redeployed.extend_from_slice(&[0, 3, 1, b'v', 1]);
    larder.install_bytes("feeding", &redeployed);
    assert_eq!(larder.reload("feeding").await.status, 200);
    assert_ne!(larder.plugin("feeding").await["digest"], digest);
    let polls = origin.calls("/feed");
    origin.called("/feed", polls + 2).await;
    let all = cursors(&origin);
    assert!(
        all[2..].iter().all(|it| it.as_deref() == Some("c1")),
        "{all:?}"
    );
    larder.get("/things/1").await.expect(200, HIT);
    // Another source: it says where its head is, and nothing of before is left.
    larder.sidecar("feeding", &sidecar(&origin, "two"));
    assert_eq!(larder.reload("feeding").await.status, 200);
    until_read_to(&origin, "head").await;
    let without = cursors(&origin).iter().filter(|it| it.is_none()).count();
    assert_eq!(without, 2);
    // Back again: what the first one had is not trusted, for nobody read its changes meanwhile.
    larder.sidecar("feeding", &sidecar(&origin, "one"));
    assert_eq!(larder.reload("feeding").await.status, 200);
    eventually("the head is asked for again", async || {
        let without = cursors(&origin).iter().filter(|it| it.is_none()).count();
        (without == 3).then_some(())
    })
    .await;
    eventually("everything of it is purged", async || {
        let metrics = larder.metrics().await;
        (metrics.sum("larder_feed_changes_total") >= 4.0).then_some(())
    })
    .await;
    larder.get("/things/1").await.expect(200, MISS);
}

#[tokio::test]
async fn the_feed_of_a_removed_plugin_is_read_no_more() {
    let origin = Origin::start();
    let (larder, gate) = told(&origin, &[]).await;
    // A poll is held; removing the plugin does not wait for it.
    larder.remove("feeding");
    assert_eq!(larder.reload("feeding").await.status, 200);
    larder
        .until_plugin("feeding", "is retired", |plugin| {
            plugin["state"] == "retired"
        })
        .await;
    let polls = origin.calls("/feed");
    gate.open();
    // Put back, it is read again, from where it was.
    larder.install("feeding", &Wasm::guest("feeding"));
    assert_eq!(larder.reload("feeding").await.status, 200);
    origin.called("/feed", polls + 1).await;
    let cursors = cursors(&origin);
    assert_eq!(cursors[polls].as_deref(), Some("c0"), "{cursors:?}");
}

#[tokio::test]
async fn a_component_that_is_a_feed_alone_is_read_too() {
    let larder = Larder::with()
        .guest("feed-alone", "")
        .guest("echo", "[config]\ntags = [\"tick\"]\n")
        .route("/echo/{key}", "echo", "ttl = \"1h\"")
        .start()
        .await;
    let plugin = larder.plugin("feed-alone").await;
    assert_eq!(
        (&plugin["kind"], &plugin["state"]),
        (&json!("change-feed"), &json!("ready"))
    );
    // It tells the tag over and over: so it is loaded again, although its ttl is an hour.
    eventually("the value was loaded three times", async || {
        let answer = larder.get("/echo/x").await;
        (answer.json()["load"].as_u64()? >= 3).then_some(())
    })
    .await;
}

/// Nodes that share Redis, of which the first reads the feed: its poll from the head is held by the gate.
async fn share<const N: usize>(origin: &Origin, redis: &Redis) -> [Larder; N] {
    let node = || before(origin).redis(&redis.url()).section("trust = \"1h\"");
    let mut nodes = vec![node().start().await];
    origin.called("/feed", 1).await;
    let others = join_all((1..N).map(|_| node().start())).await;
    nodes.extend(others);
    nodes.try_into().expect("as many as were started")
}

/// Polls without a cursor.
fn heads(origin: &Origin) -> usize {
    cursors(origin).iter().filter(|it| it.is_none()).count()
}

async fn reads(larder: &Larder) -> bool {
    larder.metrics().await.sum("larder_feeds_read") == 1.0
}

/// Waits until the answer of this node shows that a purge has arrived there.
async fn until_gone(larder: &Larder, path: &str) {
    eventually(&format!("{path} is gone"), async || {
        let fresh = larder.get(path).await.is(HIT);
        (!fresh).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_three_nodes_one_reads_the_feed_and_all_hear_what_it_tells() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let item = json!([{ "params": { "id": "7" } }]);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", [page(json!([]), "c0"), page(item, "c1"), idle]);
    let gate = origin.gate("/feed");
    let nodes: [Larder; 3] = share(&origin, &redis).await;
    gate.release_one();
    gate.arrived(2).await;
    for larder in &nodes {
        larder.get("/things/7").await;
        larder.get("/things/7").await.expect(200, HIT);
    }
    assert_eq!(origin.calls("/7"), 1);
    gate.open();
    for larder in &nodes {
        until_gone(larder, "/things/7").await;
    }
    assert_eq!(origin.calls("/7"), 2);
    until_read_to(&origin, "c1").await;
    let polls = origin.calls("/feed");
    origin.called("/feed", polls + 20).await;
    assert!(reads(&nodes[0]).await);
    for larder in &nodes[1..] {
        let metrics = larder.metrics().await;
        assert_eq!(metrics.sum("larder_feeds_read"), 0.0);
        assert_eq!(metrics.sum("larder_feed_polls_total"), 0.0);
    }
    assert_eq!(heads(&origin), 1);
}

#[tokio::test]
async fn a_dead_reader_has_one_successor_that_goes_on_from_the_saved_cursor() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let told = |tag: &str, cursor| page(json!([{ "tag": tag }]), cursor);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    let lost = told("lost with its reader", "c1");
    let again = told("x", "c1");
    origin.script("/feed", [page(json!([]), "c0"), lost, again, idle]);
    let gate = origin.gate("/feed");
    let [mut dying, one, other]: [Larder; 3] = share(&origin, &redis).await;
    gate.release_one();
    gate.arrived(2).await;
    // It dies before its page has come.
    dying.kill().await;
    gate.arrived(3).await;
    gate.open();
    until_read_to(&origin, "c1").await;
    let found = cursors(&origin);
    assert_eq!(found[1..3], [Some("c0".into()), Some("c0".into())]);
    assert_eq!(heads(&origin), 1, "{found:?}");
    assert!(reads(&one).await ^ reads(&other).await, "one of them");
}

#[tokio::test]
async fn a_reader_that_stops_hands_over_and_a_rollout_of_another_source_is_another_feed() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", [page(json!([]), "c0"), idle]);
    let [mut first, second]: [Larder; 2] = share(&origin, &redis).await;
    until_read_to(&origin, "c0").await;
    first.terminate();
    first.exit().await;
    eventually("the other reads", async || {
        reads(&second).await.then_some(())
    })
    .await;
    assert_eq!(heads(&origin), 1);
    // A third with other settings beside it: its feed is not that of the second, and both are read.
    let third = before(&origin)
        .component("feeding", Wasm::guest("feeding"), &sidecar(&origin, "two"))
        .redis(&redis.url())
        .start()
        .await;
    eventually("the third reads its own", async || {
        (heads(&origin) == 2 && reads(&third).await).then_some(())
    })
    .await;
    assert!(reads(&second).await);
}

#[tokio::test]
async fn law_4_a_reader_that_was_frozen_saves_nothing_over_its_successor() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let told = |tag: &str, cursor| page(json!([{ "tag": tag }]), cursor);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    let pages = [told("x", "c1"), told("x", "c1"), told("y", "c2")];
    origin.script(
        "/feed",
        std::iter::once(page(json!([]), "c0"))
            .chain(pages)
            .chain([idle]),
    );
    let gate = origin.gate("/feed");
    let [frozen, mut second]: [Larder; 2] = share(&origin, &redis).await;
    gate.release_one();
    gate.arrived(2).await;
    frozen.freeze();
    // The successor's poll, from where the frozen one was.
    gate.arrived(3).await;
    gate.open();
    until_read_to(&origin, "c2").await;
    frozen.thaw();
    // What it had in its hands is applied, and that is all.
    eventually("it has stopped to read", async || {
        let metrics = frozen.metrics().await;
        (metrics.sum("larder_feeds_read") == 0.0).then_some(())
    })
    .await;
    assert!(reads(&second).await);
    second.kill().await;
    let polls = origin.calls("/feed");
    origin.called("/feed", polls + 1).await;
    let found = cursors(&origin);
    assert_eq!(found[polls].as_deref(), Some("c2"), "{found:?}");
    assert_eq!(heads(&origin), 1, "{found:?}");
}

#[tokio::test]
async fn law_4_nobody_reads_the_feed_while_redis_is_away_and_that_is_told() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", [page(json!([]), "c0"), idle.clone()]);
    let nodes: [Larder; 2] = share(&origin, &redis).await;
    until_read_to(&origin, "c0").await;
    redis.freeze();
    for larder in &nodes {
        larder
            .until_refused("feeding", &["change feed is not read", "Redis is away"])
            .await;
        assert!(!reads(larder).await);
    }
    let polls = origin.calls("/feed");
    let item = json!([{ "params": { "id": "7" } }]);
    origin.script("/feed", [page(item, "c1"), idle]);
    nodes[0].get("/things/7").await.expect(200, MISS);
    redis.thaw();
    until_read_to(&origin, "c1").await;
    until_gone(&nodes[0], "/things/7").await;
    let found = cursors(&origin);
    assert_eq!(found[polls].as_deref(), Some("c0"), "{found:?}");
    for larder in &nodes {
        larder
            .until_plugin("feeding", "is well", |plugin| plugin["state"] == "ready")
            .await;
    }
}

#[tokio::test]
async fn law_4_nodes_with_other_routes_for_a_loader_read_its_feed_for_themselves() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let idle = Reply::json(r#"{"poll_after_ms": 10}"#);
    origin.script("/feed", [page(json!([]), "c0"), idle]);
    let [old]: [Larder; 1] = share(&origin, &redis).await;
    // As while a new configuration is rolled out: what a change purges there, the other does not know of.
    let new = before(&origin)
        .route("/v2/things/{id}", "feeding", "ttl = \"1h\"")
        .redis(&redis.url())
        .start()
        .await;
    eventually("both read, from heads of their own", async || {
        (heads(&origin) == 2 && reads(&old).await && reads(&new).await).then_some(())
    })
    .await;
}
