//! What `larder redis-acl` prints: enough, and nothing more.

use larder_tests::redis_group::{Cluster, Process};
use larder_tests::{Client, Larder, Origin, Reply, eventually, json};

use super::{are_one_cache, node, until_available};

/// What is printed for these lines of `[redis]`, as arguments of `ACL`, with the password filled in.
async fn printed(lines: &str) -> Vec<String> {
    let home = Larder::with().section(&format!("[redis]\n{lines}")).write();
    let printed = home.run(&["redis-acl", "--config", "larder.toml"]).await;
    assert!(printed.status.success(), "{printed:?}");
    let line = printed.stdout.replace(">PASSWORD", ">geheim");
    let mut words = line.split_whitespace().map(str::to_owned);
    assert_eq!(words.next().as_deref(), Some("ACL"));
    words.collect()
}

async fn allow(server: &Process, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _: String = server.run("ACL", &words).await;
}

/// The commands that are allowed.
fn commands(words: &[String]) -> impl Iterator<Item = &str> {
    words.iter().filter_map(|word| word.strip_prefix('+'))
}

/// Waits until each of these was run on one of the servers at least.
async fn all_are_needed(servers: &[&Process], words: &[String]) {
    eventually("everything that is allowed was needed", async || {
        let mut used = String::new();
        for server in servers {
            used += &server.run::<String>("INFO", &["commandstats"]).await;
        }
        let unused = commands(words).find(|it| !used.contains(&format!("cmdstat_{it}:")));
        if let Some(unused) = unused {
            eprintln!("{unused} is yet to be needed");
        }
        unused.is_none().then_some(())
    })
    .await;
}

/// What was denied since this was last asked.
async fn denied(server: &Process) -> Vec<redis::Value> {
    let denied = server.run("ACL", &["LOG"]).await;
    let _: String = server.run("ACL", &["LOG", "RESET"]).await;
    denied
}

/// Everything that a node does with Redis but purging and reading.
async fn load_in_every_way(origin: &Origin, one: &Larder, other: &Larder) {
    one.get("/things/42").await;
    let listed = one.entries("/things/42").await;
    let listed = listed.as_array().expect("a list");
    assert!(
        listed.iter().any(|entry| entry["tier"] == "redis"),
        "{listed:?}"
    );
    // A load that fails gives its lease back.
    origin.on("/failing", Reply::status(500));
    assert_eq!(one.get("/things/failing").await.status, 502);
    // One that takes long renews it, and another node waits for it.
    let gate = origin.gate("/slow");
    let ask = |larder: &Larder| {
        let client = Client::new(larder.public.address());
        tokio::spawn(async move { client.get("/things/slow").await })
    };
    let slow = ask(one);
    gate.arrived(1).await;
    let waiting = ask(other);
    eventually("the other waits for it", async || {
        let waits = other.metrics().await.sum("larder_lease_waits_total");
        (waits >= 2.0).then_some(())
    })
    .await;
    gate.open();
    for answered in [slow, waiting] {
        assert_eq!(answered.await.expect("it is answered").status, 200);
    }
}

/// A node that reads a change feed, until it has saved how far it came.
async fn read_a_feed(server: &Process, lines: &str) {
    let _reader = Larder::with()
        .guest("feed-alone", "")
        .guest("echo", "")
        .route("/echo/{key}", "echo", "ttl = \"1h\"")
        .section(&format!("[redis]\n{lines}"))
        .start()
        .await;
    eventually("how far it came is saved", async || {
        let saved: Vec<String> = server.run("KEYS", &["app:x:d:*"]).await;
        (!saved.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_that_may_do_what_is_printed_can_do_everything_and_needs_all_of_it() {
    let (origin, server) = (Origin::start(), Process::alone().await);
    let _replica = Process::copying(&server).await;
    server.until_copied_by(1).await;
    let at = format!("127.0.0.1:{}", server.port);
    let words = printed(&format!("url = \"redis://{at}\"\nprefix = \"app:x\"")).await;
    allow(&server, &words).await;
    let _: String = server.run("CONFIG", &["RESETSTAT"]).await;
    let lines =
        format!("url = \"redis://app%3Ax:geheim@{at}\"\nprefix = \"app:x\"\ntrust = \"400ms\"");
    let (one, other) = (node(&origin, &lines).await, node(&origin, &lines).await);
    // A purge that is older than any entry, and is forgotten with the next.
    let aged = ["app:x:{g}", "t:aged:d", "1:1"];
    let _: u64 = server.run("HSET", &aged).await;
    are_one_cache(&one, &other, "/things/42").await;
    load_in_every_way(&origin, &one, &other).await;
    read_a_feed(&server, &lines).await;
    all_are_needed(&[&server], &words).await;
    assert_eq!(denied(&server).await, []);
    // The test itself has asked for INFO: that nodes need it shows when they may not.
    allow(&server, &["SETUSER", "app:x", "-info"].map(str::to_owned)).await;
    let _: u64 = server.run("CLIENT", &["KILL", "USER", "app:x"]).await;
    eventually("it is missed", async || {
        let log = format!("{:?}", denied(&server).await);
        log.contains("info").then_some(())
    })
    .await;
    allow(&server, &words).await;
    until_available(&one).await;
}

#[tokio::test]
async fn a_user_that_may_do_what_is_printed_can_do_nothing_else() {
    let server = Process::alone().await;
    let at = format!("127.0.0.1:{}", server.port);
    // What it was allowed before counts no longer.
    let before = [
        "SETUSER",
        "cache",
        "on",
        "nopass",
        "allkeys",
        "allchannels",
        "+@all",
    ];
    allow(&server, &before.map(str::to_owned)).await;
    // Named in the URL, it is the user that is meant.
    let lines = format!("url = \"redis://cache:geheim@{at}\"");
    allow(&server, &printed(&lines).await).await;
    let client = redis::Client::open(format!("redis://cache:geheim@{at}")).expect("a URL");
    let mut connection = client
        .get_multiplexed_async_connection()
        .await
        .expect("it is let in");
    let mut ask = async |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async::<redis::Value>(&mut connection).await
    };
    assert!(ask(&["MGET", "larder:e:x", "larder:g:x"]).await.is_ok());
    for words in [
        &["MGET", "other:e:x"][..],
        &["MGET", "larder:other"],
        &["HSET", "larder:{other}", "a", "b"],
        &["PUBLISH", "other", "word"],
        &["FLUSHALL"],
        &["KEYS", "*"],
        &["CONFIG", "GET", "*"],
        &["ACL", "LIST"],
        &["SCRIPT", "FLUSH"],
        &["EVAL", "return 1", "0"],
        &["SELECT", "3"],
        &["CLUSTER", "NODES"],
    ] {
        let error = ask(words).await.expect_err("it is denied").to_string();
        assert!(
            error.to_lowercase().contains("permission"),
            "{words:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_database_of_another_number_takes_one_command_more() {
    let (origin, server) = (Origin::start(), Process::alone().await);
    let url = format!("url = \"redis://cache:geheim@127.0.0.1:{}/3\"", server.port);
    let words = printed(&url).await;
    allow(&server, &words).await;
    let _: String = server.run("CONFIG", &["RESETSTAT"]).await;
    let (one, other) = (node(&origin, &url).await, node(&origin, &url).await);
    are_one_cache(&one, &other, "/things/42").await;
    let select = ["+select".to_owned()];
    assert!(words.contains(&select[0]), "{words:?}");
    all_are_needed(&[&server], &select).await;
    assert_eq!(denied(&server).await, []);
}

#[tokio::test]
async fn a_cluster_takes_what_is_printed_for_one() {
    let (origin, cluster) = (Origin::start(), Cluster::start().await);
    let settings = format!("{}\ntrust = \"400ms\"", cluster.settings());
    let settings = settings.replace("redis://", "redis://cache:geheim@");
    let words = printed(&settings).await;
    for server in &cluster.servers {
        allow(server, &words).await;
        let _: String = server.run("CONFIG", &["RESETSTAT"]).await;
    }
    let (one, other) = (
        node(&origin, &settings).await,
        node(&origin, &settings).await,
    );
    let group = cluster.holder_of("larder:{g}", 0).await;
    let aged = ["larder:{g}", "t:aged:d", "1:1"];
    let _: u64 = cluster.servers[group].run("HSET", &aged).await;
    for path in ["/things/42", "/things/1", "/things/2", "/things/3"] {
        are_one_cache(&one, &other, path).await;
    }
    load_in_every_way(&origin, &one, &other).await;
    let servers: Vec<&Process> = cluster.servers.iter().collect();
    all_are_needed(&servers, &words).await;
    for server in servers {
        assert_eq!(denied(server).await, []);
    }
    // All of it is of the default prefix, so nothing lies elsewhere.
    for server in &cluster.servers[..3] {
        let keys: Vec<String> = server.run("KEYS", &["*"]).await;
        let elsewhere = keys.iter().find(|key| !key.starts_with("larder:"));
        assert_eq!(elsewhere, None, "{}", json!(keys));
    }
}
