//! `Accept: text/event-stream`: what a client that watches a resource is told, and what it costs the others.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::{Client, Connection, Larder, Origin, Redis, Reply, before, eventually, json};

const WATCHED: &str = "ttl = \"1h\"\nwatch = true";

/// A client that watches, with further lines of the request's head.
async fn watch(client: &Client, path: &str, lines: &str) -> Connection {
    let mut connection = client.connect().await;
    ask(&mut connection, path, lines).await;
    connection
}

async fn ask(connection: &mut Connection, path: &str, lines: &str) {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n{lines}\r\n");
    connection.send(request.as_bytes()).await;
}

fn id(event: &str) -> &str {
    let (_, rest) = event.split_once("\nid: ").expect("an event has an id");
    rest.lines().next().unwrap_or_default()
}

async fn until_nobody_watches(larder: &Larder) {
    eventually("nobody watches any more", async || {
        (larder.metrics().await.sum("larder_watchers") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watcher_is_told_the_entry_and_then_each_change_once() {
    let origin = Origin::start();
    origin.on("/42", Reply::counted().header("x-tags", "red"));
    let larder = before(&origin, WATCHED)
        .route("/others/{id}", "gated", "")
        .server("max_watchers = 2")
        .start()
        .await;
    let mut watcher = watch(&larder.public, "/things/42", "").await;
    let first = watcher.until("\"call\":1").await;
    for part in [
        "HTTP/1.1 200",
        "content-type: text/event-stream",
        "cache-status: larder; detail=watch",
        "retry: 2000\n\n",
        "event: entry\n",
        "\"path\":\"/things/42\"",
        "\"status\":200",
    ] {
        assert!(first.contains(part), "no {part:?} in {first}");
    }
    let mut calls = 1;
    for way in [
        json!({ "path": "/things/42" }),
        json!({ "tag": "red" }),
        json!({ "route": "/things/{id}" }),
        json!({ "all": true }),
    ] {
        larder.purge(way.clone()).await;
        calls += 1;
        let event = watcher.until(&format!("\"call\":{calls}")).await;
        assert_eq!(event.matches("event:").count(), 1, "{way}: {event}");
    }
    // Who knows the state is told the next one.
    larder.purge(json!({ "path": "/things/42" })).await;
    let event = watcher.until("\"call\":6").await;
    let lines = format!("last-event-id: {}\r\n", id(&event));
    let mut again = watch(&larder.public, "/things/42", &lines).await;
    again.until("retry: 2000\n\n").await;
    let refused = larder
        .get_with("/things/42", &[("accept", "text/event-stream")])
        .await;
    refused.expect_problem(503, "too-many-watchers");
    assert_eq!(refused.header("retry-after"), Some("1"));
    larder.purge(json!({ "path": "/things/42" })).await;
    let next = again.until("\"call\":7").await;
    assert!(!next.contains("\"call\":6"), "{next}");
    // Its absence, and its failure, are states too.
    origin.on("/42", Reply::status(404));
    larder.purge(json!({ "path": "/things/42" })).await;
    again.until("event: missing\nid: missing\n").await;
    origin.on("/42", Reply::status(500));
    larder.purge(json!({ "path": "/things/42" })).await;
    let failure = again.until("event: failure\nid: failure-502\n").await;
    assert!(failure.contains("application/problem+json"), "{failure}");
    // What is asked for as ever is answered as ever.
    origin.on("/42", Reply::counted());
    for (path, accept) in [
        ("/things/42", "*/*"),
        ("/things/42", "text/event-stream;q=0.5, application/json"),
        ("/others/42", "text/event-stream"),
    ] {
        let answer = larder.get_with(path, &[("accept", accept)]).await;
        assert_ne!(
            answer.header("content-type"),
            Some("text/event-stream"),
            "{path} {accept}"
        );
    }
    drop((watcher, again));
    until_nobody_watches(&larder).await;
    let metrics = larder.metrics().await;
    assert_eq!(metrics.sum("larder_watchers_refused_total"), 1.0);
    assert!(metrics.sum("larder_watch_events_total") >= 10.0);
}

#[tokio::test]
async fn what_another_node_purges_and_loads_is_told_here() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let node = || before(&origin, WATCHED).redis(&redis.url()).start();
    origin.on("/42", Reply::counted());
    let (here, there) = (node().await, node().await);
    let mut watcher = watch(&here.public, "/things/42", "").await;
    watcher.until("\"call\":1").await;
    there.purge(json!({ "path": "/things/42" })).await;
    watcher.until("\"call\":2").await;
    let seen = there.get("/things/42").await;
    assert_eq!(seen.json()["call"], 2, "one load, for both nodes");
    // Both watch it, and a purge is one load more or, if the other's lease had ended, two; both end with the same.
    let mut other = watch(&there.public, "/things/42", "").await;
    other.until("\"call\":2").await;
    origin.on("/42", Reply::json("{\"last\":true}"));
    here.purge(json!({ "all": true })).await;
    watcher.until("\"last\":true").await;
    other.until("\"last\":true").await;
}

#[tokio::test]
async fn the_end_of_the_ttl_shows_what_changed_and_only_that() {
    let origin = Origin::start();
    origin.on("/42", Reply::json("{\"a\":1}"));
    let larder = before(&origin, "ttl = \"1s\"\nwatch = true").start().await;
    let mut watcher = watch(&larder.public, "/things/42", "").await;
    watcher.until("\"a\":1").await;
    eventually("it was loaded again", async || {
        (origin.calls("/42") >= 3).then_some(())
    })
    .await;
    origin.on("/42", Reply::json("{\"a\":2}"));
    let next = watcher.until("\"a\":2").await;
    assert!(!next.contains("\"a\":1"), "the same is no change: {next}");
}

#[tokio::test]
async fn a_thousand_watchers_are_one_load_and_a_storm_of_purges_is_none_of_loads() {
    let origin = Origin::start();
    origin.on("/42", Reply::counted());
    let larder = before(&origin, WATCHED).start().await;
    let all = (0..1000).map(|_| watch(&larder.public, "/things/42", ""));
    let mut watchers = join_all(all).await;
    join_all(watchers.iter_mut().map(|each| each.until("\"call\":1"))).await;
    larder.purge(json!({ "path": "/things/42" })).await;
    join_all(watchers.iter_mut().map(|each| each.until("\"call\":2"))).await;
    assert_eq!(origin.calls("/42"), 2, "one for all who watch");
    let begun = Instant::now();
    for _ in 0..300 {
        larder.purge(json!({ "path": "/things/42" })).await;
    }
    origin.on("/42", Reply::json("{\"last\":true}"));
    larder.purge(json!({ "path": "/things/42" })).await;
    join_all(watchers.iter_mut().map(|each| each.until("\"last\":true"))).await;
    let most = begun.elapsed().as_millis() / 250 + 4;
    let calls = origin.calls("/42") as u128;
    assert!(calls <= most, "{calls} loads, {most} at most");
    drop(watchers);
    until_nobody_watches(&larder).await;
    let calls = origin.calls("/42");
    larder.purge(json!({ "all": true })).await;
    larder.get("/things/43").await;
    assert_eq!(
        origin.calls("/42"),
        calls,
        "what nobody watches is not loaded"
    );
}

#[tokio::test]
async fn who_reads_slowly_gets_the_latest_and_holds_up_nobody() {
    const CHANGES: usize = 16;
    let origin = Origin::start();
    // Long enough that the kernel does not hold them all.
    let state = |n: usize| {
        let body = format!("{{\"pad\":\"{}\",\"state\":{n}}}", "x".repeat(1024 * 1024));
        Reply::json(&body)
    };
    origin.on("/42", state(0));
    let larder = before(&origin, WATCHED).start().await;
    let mut slow = larder.public.connect_narrow().await;
    ask(&mut slow, "/things/42", "").await;
    let mut quick = watch(&larder.public, "/things/42", "").await;
    quick.until("\"state\":0}").await;
    for n in 1..=CHANGES {
        origin.on("/42", state(n));
        larder.purge(json!({ "path": "/things/42" })).await;
        quick.until(&format!("\"state\":{n}}}")).await;
    }
    let told = slow.until(&format!("\"state\":{CHANGES}}}")).await;
    let events = told.matches("event: entry").count();
    assert!(events < CHANGES, "{events} events were kept for it");
}

#[tokio::test]
async fn the_end_of_the_server_ends_streams_at_once() {
    let origin = Origin::start();
    origin.on("/42", Reply::counted());
    let mut larder = before(&origin, WATCHED)
        .server("drain = \"25s\"")
        .start()
        .await;
    let mut watcher = watch(&larder.public, "/things/42", "").await;
    watcher.until("\"call\":1").await;
    let begun = Instant::now();
    larder.terminate();
    let rest = watcher.rest().await;
    assert!(rest.ends_with("0\r\n\r\n"), "ended and not cut: {rest:?}");
    assert!(larder.exit().await.success());
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing drained");
}
