//! More is asked than can be done: who is turned away and how, who is not, and that what is in the cache is answered all
//! the while. Which order gives whom which chance is `host/src/plugin/fair.rs`'s; how long the admitted wait is measured by
//! `make bench-overload`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, select_all};
use larder_tests::{Answer, Builder, Larder, Origin, eventually, json, throughout};
use tokio::task::JoinHandle;

/// `gated` in front of an origin, under these limits.
fn gated(origin: &Origin, limits: &str) -> Builder {
    let url = origin.url();
    let sidecar = format!(
        "[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\n{limits}\n"
    );
    Larder::with().guest("gated", &sidecar)
}

/// The value of the first part is the path at the origin: `KEY` here and there.
const ROUTE: &str = "timeout = \"20s\"\n";

/// Asks in a task of its own, and goes on.
fn ask(larder: &Arc<Larder>, path: &str) -> JoinHandle<Answer> {
    let (larder, path) = (Arc::clone(larder), path.to_owned());
    tokio::spawn(async move { larder.get(&path).await })
}

/// Asks, and goes on when the call waits before the plugin as the `nth`.
async fn ask_and_wait(larder: &Arc<Larder>, path: &str, nth: usize) -> JoinHandle<Answer> {
    let asked = ask(larder, path);
    eventually(&format!("{nth} calls wait"), async || {
        (larder.metrics().await.sum("larder_plugin_waiting") >= nth as f64).then_some(())
    })
    .await;
    asked
}

fn assert_turned_away(answer: &Answer, code: &str) {
    let problem = answer.expect_problem(503, code);
    let after = answer.header("retry-after").unwrap_or_default();
    assert!(
        after.parse::<u64>().is_ok_and(|after| after >= 1),
        "{answer:?}"
    );
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
}

/// Law 12, and who it is that meets it: the one that asks for too much.
#[tokio::test]
async fn a_route_whose_source_hangs_leaves_the_others_their_places() {
    let origin = Origin::start();
    let slow = origin.gate("/slow*");
    // Each of the two has two for itself, and four are anybody's.
    let larder = gated(&origin, "")
        .server("max_loads = 8")
        .route("/a/{id}", "gated", ROUTE)
        .route("/b/{id}", "gated", ROUTE)
        .start()
        .await;
    let larder = Arc::new(larder);
    let held: Vec<_> = (0..6)
        .map(|i| ask(&larder, &format!("/a/slow{i}")))
        .collect();
    slow.arrived(6).await;
    let refused = larder.get("/a/slow6").await;
    assert_turned_away(&refused, "too-many-loads");
    assert!(
        refused.problem()["detail"]
            .as_str()
            .unwrap()
            .contains("[server] max_loads")
    );
    // One after the other, and two at once.
    let both = join_all([ask(&larder, "/b/quick1"), ask(&larder, "/b/quick2")]).await;
    for answer in both {
        answer.unwrap().expect(200, "larder; fwd=uri-miss; stored");
    }
    slow.open();
    for answer in join_all(held).await {
        answer.unwrap().expect(200, "larder; fwd=uri-miss; stored");
    }
    larder
        .get("/a/slow6")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(larder.metrics().await.sum("larder_loads_in_flight"), 0.0);
}

#[tokio::test]
async fn waiting_places_are_shared_as_places_to_load_are() {
    let origin = Origin::start();
    let slow = origin.gate("/slow*");
    let larder = gated(&origin, "")
        .server("max_waiters = 4")
        .route("/a/{id}", "gated", ROUTE)
        .route("/b/{id}", "gated", ROUTE)
        .start()
        .await;
    let larder = Arc::new(larder);
    // Three wait for one load: the route's own place, and the two that are anybody's.
    let held: Vec<_> = (0..3).map(|_| ask(&larder, "/a/slow")).collect();
    larder.until_waiting(3).await;
    assert_turned_away(&larder.get("/a/slow").await, "too-many-waiters");
    larder
        .get("/b/quick")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    slow.open();
    for answer in join_all(held).await {
        assert_eq!(answer.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_route_loads_no_more_at_once_than_it_may_and_answers_what_is_stale() {
    let origin = Origin::start();
    let larder = gated(&origin, "")
        .route(
            "/a/{id}",
            "gated",
            "timeout = \"20s\"\nmax_loads = 1\nstale_if_error = \"1h\"",
        )
        .start()
        .await;
    let larder = Arc::new(larder);
    larder
        .get("/a/known")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    larder
        .purge(json!({"path": "/a/known", "mode": "expire"}))
        .await;
    let slow = origin.gate("/slow*");
    let held = ask(&larder, "/a/slow1");
    slow.arrived(1).await;
    assert_turned_away(&larder.get("/a/slow2").await, "too-many-route-loads");
    larder.get("/a/known").await.expect(
        200,
        "larder; fwd=stale; fwd-status=503; ttl=N; detail=stale-if-error",
    );
    slow.open();
    assert_eq!(held.await.unwrap().status, 200);
    // Nothing of it is remembered: the next may load.
    larder
        .get("/a/slow2")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
}

#[tokio::test]
async fn routes_take_turns_before_a_plugin() {
    let origin = Origin::start();
    let larder = gated(&origin, "concurrency = 1")
        .route("/a/{id}", "gated", ROUTE)
        .route("/b/{id}", "gated", ROUTE)
        .start()
        .await;
    let larder = Arc::new(larder);
    let gate = origin.gate("/*");
    let mut asked = vec![ask(&larder, "/a/first")];
    gate.arrived(1).await;
    for (nth, path) in ["/a/a1", "/a/a2", "/a/a3", "/b/b1"].iter().enumerate() {
        asked.push(ask_and_wait(&larder, path, nth + 1).await);
    }
    gate.open();
    for answer in join_all(asked).await {
        assert_eq!(answer.unwrap().status, 200);
    }
    let order = origin.arrivals();
    assert_eq!((&*order[0], &*order[2]), ("/first", "/b1"), "{order:?}");
}

/// The order is forced: the gate is opened when the lane has stood for much longer than a call takes.
#[tokio::test]
async fn a_queue_that_stands_is_served_from_its_end_and_who_has_waited_too_long_is_told() {
    const TIME: Duration = Duration::from_secs(4);
    let origin = Origin::start();
    let larder = gated(&origin, "concurrency = 1")
        .route("/a/{id}", "gated", "timeout = \"4s\"")
        .start()
        .await;
    let larder = Arc::new(larder);
    // So it is known how long a call takes.
    for i in 0..40 {
        assert_eq!(larder.get(&format!("/a/quick{i}")).await.status, 200);
    }
    let gate = origin.gate("/*");
    let first = ask(&larder, "/a/first");
    gate.arrived(1).await;
    let late = ask_and_wait(&larder, "/a/late", 1).await;
    let since = Instant::now();
    throughout(since + TIME / 2, async || assert_eq!(gate.count(), 1)).await;
    let older = ask_and_wait(&larder, "/a/older", 2).await;
    let newer = ask_and_wait(&larder, "/a/newer", 3).await;
    assert!(
        since.elapsed() < TIME,
        "the machine is too slow to see this"
    );
    gate.open();
    let late = late.await.unwrap();
    assert_turned_away(&late, "plugin-overloaded");
    assert!(
        late.problem()["detail"]
            .as_str()
            .unwrap()
            .contains("`gated`")
    );
    for asked in [first, older, newer] {
        asked
            .await
            .unwrap()
            .expect(200, "larder; fwd=uri-miss; stored");
    }
    let order = origin.arrivals();
    assert!(
        order.ends_with(&["/first".into(), "/newer".into(), "/older".into()]),
        "{order:?}"
    );
    let metrics = larder.metrics().await;
    assert_eq!(metrics.sum("larder_plugin_shed_total"), 1.0);
    assert_eq!(metrics.sum("larder_plugin_waiting"), 0.0);
    // It is no fault of the plugin, and nothing of it is remembered.
    assert_eq!(larder.plugin("gated").await["state"], "ready");
    larder
        .get("/a/late")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
}

/// A closed gate and a queue without end: nobody is lost, and a plugin of a pool sheds as one of a driver does.
#[tokio::test]
async fn a_pool_of_blocking_instances_takes_turns_too() {
    let origin = Origin::start();
    let port = origin.address().port();
    let gate = origin.gate("/*");
    let sidecar = format!(
        "[grants]\ntcp = [\"{}\"]\n[limits]\ninstances = 1\ntimeout = \"20s\"\n",
        origin.address()
    );
    let larder = Larder::with()
        .guest("faulty-blocking", &sidecar)
        .route("/a/{key}", "faulty-blocking", ROUTE)
        .route("/b/{key}", "faulty-blocking", ROUTE)
        .start()
        .await;
    let larder = Arc::new(larder);
    let mut asked = vec![ask(&larder, &format!("/a/get-{port}-first"))];
    gate.arrived(1).await;
    let waiting = [
        "/a/get-PORT-a1",
        "/a/get-PORT-a2",
        "/a/get-PORT-a3",
        "/b/get-PORT-b1",
    ];
    for (nth, path) in waiting.iter().enumerate() {
        let path = path.replace("PORT", &port.to_string());
        asked.push(ask_and_wait(&larder, &path, nth + 1).await);
    }
    gate.open();
    for answer in join_all(asked).await {
        assert_eq!(answer.unwrap().status, 200);
    }
    let order = origin.arrivals();
    assert_eq!((&*order[0], &*order[2]), ("/first", "/b1"), "{order:?}");
}

/// As many clients as ask for ten times what the plugin does, for a while: every request is answered, by what it asked for
/// or by 503 with `Retry-After`; hits are answered all the while; and memory does not grow with what is turned away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_ten_times_the_load_all_are_answered_hits_are_hits_and_memory_is_flat() {
    const CLIENTS: usize = 400;
    const EACH: usize = 6;
    let larder = Larder::with()
        .guest("faulty", "[limits]\nconcurrency = 4\ntimeout = \"20s\"\n")
        .route(
            "/faulty/{key}",
            "faulty",
            "timeout = \"1s\"\nkey = { path = [\"key\"], query = [\"n\"] }",
        )
        .route("/hot/{key}", "faulty", "ttl = \"1h\"")
        .start()
        .await;
    let larder = Arc::new(larder);
    larder
        .get("/hot/ok")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let over = Arc::new(AtomicBool::new(false));
    let hits = {
        let (larder, over) = (Arc::clone(&larder), Arc::clone(&over));
        tokio::spawn(async move {
            let mut hits = 0;
            while !over.load(Ordering::Relaxed) {
                larder
                    .get("/hot/ok")
                    .await
                    .expect(200, "larder; hit; ttl=N; detail=memory");
                hits += 1;
            }
            hits
        })
    };
    let half = crowd(&larder, 0, CLIENTS, EACH).await;
    let before = larder.usage();
    let other = crowd(&larder, 1, CLIENTS, EACH).await;
    let after = larder.usage();
    over.store(true, Ordering::Relaxed);
    let hits = hits.await.unwrap();
    let asked = CLIENTS * EACH;
    for (answered, shed) in [half, other] {
        assert_eq!(answered + shed, asked);
        assert!(
            answered > 0 && shed > answered,
            "{answered} answered, {shed} shed"
        );
    }
    assert!(hits > 0);
    let grown = after.mebibytes() - before.mebibytes();
    eprintln!("{half:?} {other:?} (answered, shed); {hits} hits; {grown:.1} MiB grown");
    assert!(grown < 16.0, "{grown:.1} MiB more after the same once more");
    let metrics = larder.metrics().await;
    assert_eq!(metrics.sum("larder_plugin_waiting"), 0.0);
    assert_eq!(metrics.sum("larder_loads_in_flight"), 0.0);
    assert_eq!(
        metrics.sum("larder_plugin_shed_total"),
        (half.1 + other.1) as f64
    );
}

/// How many were answered with what they asked for, and how many turned away.
async fn crowd(larder: &Arc<Larder>, which: usize, clients: usize, each: usize) -> (usize, usize) {
    let (answered, shed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((answered, shed));
    let mut all: Vec<_> = (0..clients)
        .map(|client| {
            let (larder, counts) = (Arc::clone(larder), Arc::clone(&counts));
            tokio::spawn(async move {
                for i in 0..each {
                    let path = format!("/faulty/slow-20?n={which}-{client}-{i}");
                    let answer = larder.get(&path).await;
                    if answer.status == 200 {
                        counts.0.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_turned_away(&answer, "plugin-overloaded");
                        counts.1.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    while !all.is_empty() {
        let (ended, _, rest) = select_all(all).await;
        ended.unwrap();
        all = rest;
    }
    (
        counts.0.load(Ordering::Relaxed),
        counts.1.load(Ordering::Relaxed),
    )
}
