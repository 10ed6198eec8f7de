//! Every way to run Redis: a Unix socket, TLS with certificates on both sides, Sentinels and a cluster, while servers die
//! and slots move under load.

mod acl;
mod reach;
mod replicas;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::redis_group::{Cluster, Watched};
use larder_tests::wait::PATIENCE;
use larder_tests::{Client, Larder, Origin, before, call, eventually, eventually_within, json};

/// A node whose `[redis]` holds these lines, once it has its Redis.
async fn node(origin: &Origin, lines: &str) -> Larder {
    let larder = unready(origin, lines).await;
    until_available(&larder).await;
    larder
}

async fn unready(origin: &Origin, lines: &str) -> Larder {
    before(
        origin,
        "ttl = \"1h\"\ntimeout = \"5s\"\nstale_if_error = \"1h\"",
    )
    .section(&format!("[redis]\n{lines}"))
    .start()
    .await
}

async fn until_available(larder: &Larder) {
    until_available_within(PATIENCE, larder).await;
}

async fn until_available_within(bound: Duration, larder: &Larder) {
    eventually_within(
        bound,
        "Redis is in use, all of it, and nothing waits to be told",
        async || {
            let ready = larder.admin.get("/readyz").await.json();
            let redis = &ready["redis"];
            (redis["available"] == true && redis["error"].is_null() && redis["pending_purges"] == 0)
                .then_some(())
        },
    )
    .await;
}

/// What one has loaded the other finds in Redis, and what one purges the other lets go.
async fn are_one_cache(one: &Larder, other: &Larder, path: &str) {
    let loaded = call(&one.get(path).await);
    other
        .get(path)
        .await
        .expect(200, "larder; hit; ttl=N; detail=redis");
    for what in [json!({ "path": path }), json!({ "route": "/things/{id}" })] {
        let before = call(&other.get(path).await);
        let said = one.purge(what).await;
        assert_eq!(said["pending"], json!([]), "{said}");
        assert!(before >= loaded);
        eventually("the other has let it go", async || {
            (call(&other.get(path).await) > before).then_some(())
        })
        .await;
    }
}

/// How soon Redis is in use again after another server was promoted.
const RECOVERY: Duration = Duration::from_secs(2);

/// What a client of one node purged, and the number of calls that the origin had answered before.
type Purged = HashMap<String, u64>;

/// Clients that ask both nodes for keys old and new, and purge some, until they are told to stop. Every answer must be
/// one, and on the node that acknowledged a purge none may be older than it.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<Purged>>,
}

impl Load {
    fn on(origin: &Arc<Origin>, nodes: [&Larder; 2]) -> Self {
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let clients = nodes
            .iter()
            .enumerate()
            .map(|(place, larder)| {
                let public = Client::new(larder.public.address());
                let admin = Client::new(larder.admin.address());
                let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
                let origin = Arc::clone(origin);
                tokio::spawn(async move {
                    let mut purged = Purged::new();
                    while !stop.load(Ordering::Relaxed) {
                        let number = asked.fetch_add(1, Ordering::Relaxed);
                        // The same few again and again, and one that nobody had before.
                        for key in [
                            format!("old-{}", number % 50),
                            format!("new-{place}-{number}"),
                        ] {
                            let answer = public.get(&format!("/things/{key}")).await;
                            assert_eq!(answer.status, 200, "{answer:?}");
                            let least = purged.get(&key).copied().unwrap_or_default();
                            assert!(call(&answer) > least, "older than a purge: {answer:?}");
                        }
                        if number.is_multiple_of(7) {
                            let key = format!("old-{}", number % 50);
                            let given = origin.calls(&format!("/{key}")) as u64;
                            let what = json!({ "path": format!("/things/{key}") });
                            let said = admin.post("/purge", &what).await;
                            assert_eq!(said.status, 200, "{said:?}");
                            purged.insert(key, given);
                        }
                    }
                    purged
                })
            })
            .collect();
        Self {
            stop,
            asked,
            clients,
        }
    }

    /// Waits until it has asked this much more often.
    async fn goes_on(&self, times: usize) {
        let from = self.asked.load(Ordering::Relaxed);
        eventually("the load goes on", async || {
            (self.asked.load(Ordering::Relaxed) >= from + times).then_some(())
        })
        .await;
    }

    /// Ends it, once the nodes are whole again: by then each knows what the other has purged.
    async fn end(self, nodes: [&Larder; 2]) {
        self.stop.store(true, Ordering::Relaxed);
        let mut purged = Purged::new();
        for client in join_all(self.clients).await {
            for (key, given) in client.expect("no request failed") {
                let least = purged.entry(key).or_default();
                *least = given.max(*least);
            }
        }
        assert!(!purged.is_empty());
        for larder in nodes {
            until_available(larder).await;
        }
        for (key, given) in purged {
            for larder in nodes {
                eventually("what the other has purged is heard", async || {
                    let answer = larder.get(&format!("/things/{key}")).await;
                    (call(&answer) > given).then_some(())
                })
                .await;
            }
        }
    }
}

/// Both use all of Redis, soon enough after a promotion.
async fn are_back(one: &Larder, other: &Larder) {
    tokio::join!(
        until_available_within(RECOVERY, one),
        until_available_within(RECOVERY, other)
    );
}

#[tokio::test]
async fn law_6_a_failover_by_sentinels_fails_no_request_and_loses_no_purge() {
    let origin = Arc::new(Origin::start());
    let mut watched = Watched::start().await;
    let settings = watched.settings();
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    are_one_cache(&one, &other, "/things/42").await;
    let load = Load::on(&origin, [&one, &other]);
    load.goes_on(100).await;
    let old = call(&other.get("/things/42").await);
    let said = one.purge(json!({ "path": "/things/42" })).await;
    assert!(said["replicas"].as_u64() >= Some(1), "{said}");
    let port = watched.servers[0].port;
    watched.servers[0].kill().await;
    watched.until_promoted(port).await;
    are_back(&one, &other).await;
    load.goes_on(100).await;
    load.end([&one, &other]).await;
    for larder in [&one, &other] {
        assert!(call(&larder.get("/things/42").await) > old);
    }
    are_one_cache(&one, &other, "/things/after").await;
}

#[tokio::test]
async fn law_6_a_cluster_that_loses_servers_fails_no_request_and_loses_no_purge() {
    let origin = Arc::new(Origin::start());
    let mut cluster = Cluster::start().await;
    let settings = cluster.settings();
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    for path in ["/things/1", "/things/2", "/things/3", "/things/4"] {
        are_one_cache(&one, &other, path).await;
    }
    let load = Load::on(&origin, [&one, &other]);
    load.goes_on(100).await;
    // First the one that holds the group, and then another one.
    let group = cluster.holder_of("larder:{g}", 0).await;
    let another = (0..3)
        .find(|place| *place != group)
        .expect("there are three");
    let alive = (0..6)
        .find(|place| ![group, another].contains(place))
        .expect("there are six");
    for (round, dying) in [group, another].into_iter().enumerate() {
        let path = format!("/things/purged-{round}");
        one.get(&path).await;
        let old = call(&other.get(&path).await);
        one.purge(json!({ "path": path })).await;
        cluster.servers[dying].kill().await;
        cluster.until_replaced(dying, alive).await;
        are_back(&one, &other).await;
        load.goes_on(100).await;
        for larder in [&one, &other] {
            assert!(call(&larder.get(&path).await) > old);
        }
    }
    load.end([&one, &other]).await;
    for path in ["/things/5", "/things/6", "/things/7", "/things/8"] {
        are_one_cache(&one, &other, path).await;
    }
}

#[tokio::test]
async fn law_6_slots_that_move_fail_no_request() {
    let origin = Arc::new(Origin::start());
    let cluster = Cluster::start().await;
    let settings = cluster.settings();
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    let load = Load::on(&origin, [&one, &other]);
    load.goes_on(100).await;
    // All that the server of the group holds, the group with it.
    let group = cluster.holder_of("larder:{g}", 0).await;
    let another = (0..3)
        .find(|place| *place != group)
        .expect("there are three");
    let (from, to) = (cluster.name_of(group).await, cluster.name_of(another).await);
    let address = format!("127.0.0.1:{}", cluster.servers[another].port);
    cluster
        .cli(&[
            "reshard",
            &address,
            "--cluster-from",
            &from,
            "--cluster-to",
            &to,
            "--cluster-slots",
            "5461",
            "--cluster-yes",
            "--cluster-pipeline",
            "100",
        ])
        .await;
    load.goes_on(100).await;
    load.end([&one, &other]).await;
    assert_eq!(cluster.holder_of("larder:{g}", another).await, another);
    until_available(&one).await;
    until_available(&other).await;
    for path in ["/things/1", "/things/2", "/things/3", "/things/4"] {
        are_one_cache(&one, &other, path).await;
    }
}
