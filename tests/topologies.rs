//! Every way to run Redis: a Unix socket, TLS with certificates on both sides, Sentinels and a cluster, while servers die
//! and slots move under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::join_all;
use larder_tests::postgres::certificates;
use larder_tests::redis_group::{self, Cluster, Watched};
use larder_tests::{Client, Larder, Origin, Redis, before, call, eventually, json};

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
    eventually(
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

/// Clients that ask both nodes for keys old and new until they are told to stop. Every answer must be one.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn on(nodes: [&Larder; 2]) -> Self {
        let (stop, asked) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let clients = nodes
            .iter()
            .enumerate()
            .map(|(place, larder)| {
                let client = Client::new(larder.public.address());
                let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let number = asked.fetch_add(1, Ordering::Relaxed);
                        // The same few again and again, and one that nobody had before.
                        for key in [
                            format!("old-{}", number % 50),
                            format!("new-{place}-{number}"),
                        ] {
                            let answer = client.get(&format!("/things/{key}")).await;
                            assert_eq!(answer.status, 200, "{answer:?}");
                        }
                    }
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

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in join_all(self.clients).await {
            client.expect("no request failed");
        }
    }
}

#[tokio::test]
async fn by_a_unix_socket() {
    let origin = Origin::start();
    let server = redis_group::on_a_socket().await;
    let url = format!(
        "url = \"redis+unix://{}\"",
        server.path("redis.sock").display()
    );
    let (one, other) = (node(&origin, &url).await, node(&origin, &url).await);
    are_one_cache(&one, &other, "/things/42").await;
}

#[tokio::test]
async fn by_tls_with_certificates_on_both_sides() {
    let (origin, directory) = (Origin::start(), tempfile::tempdir().expect("a directory"));
    certificates(
        directory.path(),
        &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    );
    let (_server, port) = redis_group::with_tls(directory.path()).await;
    let file = |name: &str| format!("{:?}", directory.path().join(name).display().to_string());
    let url = format!("url = \"rediss://127.0.0.1:{port}\"");
    let all = format!(
        "{url}\nca = {}\ncert = {}\nkey = {}",
        file("ca.crt"),
        file("server.crt"),
        file("server.key")
    );
    let (one, other) = (node(&origin, &all).await, node(&origin, &all).await);
    are_one_cache(&one, &other, "/things/42").await;
    // Without the authority, and without a certificate of its own: served without Redis, and said why.
    let anonymous = format!("{url}\nca = {}", file("ca.crt"));
    for (lines, word) in [
        (url.as_str(), "certificate"),
        (anonymous.as_str(), "certificate"),
    ] {
        let larder = unready(&origin, lines).await;
        assert_eq!(larder.get("/things/42").await.status, 200);
        eventually("it is said why", async || {
            let ready = larder.admin.get("/readyz").await.json();
            let error = ready["redis"]["error"].as_str()?.to_lowercase();
            error.contains(word).then_some(())
        })
        .await;
    }
}

/// All that Larder does with Redis, as a user that may do what `larder redis-acl` prints and nothing else.
#[tokio::test]
async fn by_a_user_that_may_do_what_is_printed_and_nothing_else() {
    let (origin, mut redis) = (Origin::start(), Redis::start().await);
    let home = Larder::with()
        .section(&format!(
            "[redis]\nurl = {:?}\nprefix = \"app:x\"",
            redis.url()
        ))
        .write();
    let printed = home.run(&["redis-acl", "--config", "larder.toml"]).await;
    assert!(printed.status.success(), "{printed:?}");
    let line = printed.stdout;
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let (set, words) = words.split_first().expect("SETUSER");
    let words: Vec<&str> = words
        .iter()
        .map(|word| {
            if *word == ">PASSWORD" {
                ">geheim"
            } else {
                word
            }
        })
        .collect();
    let _: String = redis.run("ACL", &[&[*set][..], &words].concat()).await;
    let _: String = redis.run("CONFIG", &["RESETSTAT"]).await;
    let url = redis.url().replace("redis://", "redis://app:x:geheim@");
    let url = url.replace("app:x:", "app%3Ax:");
    let lines = format!("url = {url:?}\nprefix = \"app:x\"\ntrust = \"400ms\"");
    let (one, other) = (node(&origin, &lines).await, node(&origin, &lines).await);
    are_one_cache(&one, &other, "/things/42").await;
    one.get("/things/42").await;
    let listed = one.entries("/things/42").await;
    let listed = listed.as_array().expect("a list");
    assert!(
        listed.iter().any(|entry| entry["tier"] == "redis"),
        "{listed:?}"
    );
    // A load that fails gives its lease back, and one that takes long renews it.
    origin.on("/failing", larder_tests::Reply::status(500));
    assert_eq!(one.get("/things/failing").await.status, 502);
    let gate = origin.gate("/slow");
    let slow = Client::new(one.public.address());
    let slow = tokio::spawn(async move { slow.get("/things/slow").await });
    gate.arrived(1).await;
    let waiting = Client::new(other.public.address());
    let waiting = tokio::spawn(async move { waiting.get("/things/slow").await });
    eventually("everything that is allowed was needed", async || {
        let used: String = redis.run("INFO", &["commandstats"]).await;
        let unused = words
            .iter()
            .filter_map(|word| word.strip_prefix('+'))
            .find(|command| {
                // Where there are replicas; to forget old purges.
                !["wait", "hdel"].contains(command)
                    && !used.contains(&format!("cmdstat_{command}:"))
            });
        if let Some(unused) = unused {
            eprintln!("{unused} is yet to be needed");
        }
        unused.is_none().then_some(())
    })
    .await;
    gate.open();
    assert_eq!(waiting.await.expect("it is answered").status, 200);
    assert_eq!(slow.await.expect("it is answered").status, 200);
    let denied: Vec<redis::Value> = redis.run("ACL", &["LOG"]).await;
    assert!(denied.is_empty(), "{denied:?}");
    redis.kill().await;
}

#[tokio::test]
async fn law_6_a_failover_by_sentinels_fails_no_request_and_loses_no_purge() {
    let origin = Origin::start();
    let mut watched = Watched::start().await;
    let settings = watched.settings();
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    are_one_cache(&one, &other, "/things/42").await;
    let load = Load::on([&one, &other]);
    load.goes_on(100).await;
    let old = call(&other.get("/things/42").await);
    let said = one.purge(json!({ "path": "/things/42" })).await;
    assert!(said["replicas"].as_u64() >= Some(1), "{said}");
    let port = watched.servers[0].port;
    watched.servers[0].kill().await;
    watched.until_promoted(port).await;
    until_available(&one).await;
    until_available(&other).await;
    load.goes_on(100).await;
    load.end().await;
    for larder in [&one, &other] {
        assert!(call(&larder.get("/things/42").await) > old);
    }
    are_one_cache(&one, &other, "/things/after").await;
}

#[tokio::test]
async fn law_6_a_cluster_that_loses_servers_fails_no_request_and_loses_no_purge() {
    let origin = Origin::start();
    let mut cluster = Cluster::start().await;
    let settings = cluster.settings();
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    for path in ["/things/1", "/things/2", "/things/3", "/things/4"] {
        are_one_cache(&one, &other, path).await;
    }
    let load = Load::on([&one, &other]);
    load.goes_on(100).await;
    // First the one that holds the group, and then another one.
    let group = cluster.holder_of("larder:{g}", 0).await;
    let another = (0..3)
        .find(|place| *place != group)
        .expect("there are three");
    let mut alive = (0..6)
        .find(|place| ![group, another].contains(place))
        .expect("there are six");
    for (round, dying) in [group, another].into_iter().enumerate() {
        let path = format!("/things/purged-{round}");
        one.get(&path).await;
        let old = call(&other.get(&path).await);
        one.purge(json!({ "path": path })).await;
        cluster.servers[dying].kill().await;
        if alive == dying {
            alive = 5;
        }
        eventually("every slot is held again", async || {
            let info: String = cluster.servers[alive].run("CLUSTER", &["INFO"]).await;
            info.contains("cluster_state:ok").then_some(())
        })
        .await;
        until_available(&one).await;
        until_available(&other).await;
        load.goes_on(100).await;
        for larder in [&one, &other] {
            assert!(call(&larder.get(&path).await) > old);
        }
    }
    load.end().await;
    for path in ["/things/5", "/things/6", "/things/7", "/things/8"] {
        are_one_cache(&one, &other, path).await;
    }
}

#[tokio::test]
async fn law_6_slots_that_move_fail_no_request() {
    let origin = Origin::start();
    let cluster = Cluster::start().await;
    let settings = cluster.settings();
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    let load = Load::on([&one, &other]);
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
    load.end().await;
    assert_eq!(cluster.holder_of("larder:{g}", another).await, another);
    until_available(&one).await;
    until_available(&other).await;
    for path in ["/things/1", "/things/2", "/things/3", "/things/4"] {
        are_one_cache(&one, &other, path).await;
    }
}
