//! Servers that copy another: what purges say of them, and that one which fails, comes late or is named in a master's
//! place harms nobody.

use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::redis_group::Process;
use larder_tests::{
    Client, Larder, Link, Origin, before, call, eventually, eventually_within, json,
};

use super::{node, unready, until_available};

/// "At once", for a machine that has other things to do.
const AT_ONCE: Duration = Duration::from_millis(300);

/// Purges of different paths, all at once; what each was answered.
async fn purge_many(larder: &Larder, count: usize) -> Vec<larder_tests::Value> {
    join_all((0..count).map(|number| larder.purge(json!({ "path": format!("/things/{number}") }))))
        .await
}

#[tokio::test]
async fn a_purge_waits_for_a_replica_that_came_after_the_node_did() {
    let (origin, master) = (Origin::start(), Process::alone().await);
    let larder = node(&origin, &format!("url = {:?}", master.url())).await;
    let said = larder.purge(json!({ "path": "/things/42" })).await;
    assert_eq!(said["replicas"], json!(null), "{said}");
    let _replica = Process::copying(&master).await;
    master.until_copied_by(1).await;
    eventually("a purge waits for it, and it has the purge", async || {
        let said = larder.purge(json!({ "path": "/things/42" })).await;
        (said["replicas"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn law_6_a_replica_that_hangs_costs_purges_a_wait_and_nobody_the_tier() {
    let (origin, master) = (Origin::start(), Process::alone().await);
    let replica = Process::copying(&master).await;
    master.until_copied_by(1).await;
    let larder = node(&origin, &format!("url = {:?}", master.url())).await;
    let opened = larder
        .metrics()
        .await
        .sum("larder_redis_breaker_opens_total");
    replica.freeze();
    for _ in 0..3 {
        for said in purge_many(&larder, 100).await {
            assert_eq!(said["pending"], json!([]), "{said}");
            assert_eq!(said["replicas"], json!(0), "{said}");
        }
    }
    let now = larder
        .metrics()
        .await
        .sum("larder_redis_breaker_opens_total");
    assert_eq!(now, opened, "Redis was given up");
}

#[tokio::test]
async fn a_replica_that_is_named_as_the_master_is_not_read() {
    let (origin, master) = (Origin::start(), Process::alone().await);
    let named = Process::alone().await;
    // It goes on naming the one it was told of, for a minute.
    let sentinel = Process::sentinel_of(&named, 1, 60_000).await;
    let of = ["127.0.0.1", &master.port.to_string()];
    let _: String = named.run("REPLICAOF", &of).await;
    // What a node has written is there, so that nothing need be written at first.
    let writer = node(&origin, &format!("url = {:?}", master.url())).await;
    writer.purge(json!({ "all": true })).await;
    master.until_copied_by(1).await;
    let lines = format!(
        "mode = \"sentinel\"\nurl = \"redis://mymaster\"\nurls = [{:?}]",
        sentinel.url()
    );
    let larder = unready(&origin, &lines).await;
    eventually("it is said why", async || {
        let ready = larder.admin.get("/readyz").await.json();
        let error = ready["redis"]["error"].as_str()?.to_owned();
        error.contains("replica").then_some(())
    })
    .await;
    assert_eq!(larder.get("/things/42").await.status, 200);
    // And it is used as soon as it is a master.
    let _: String = named.run("REPLICAOF", &["NO", "ONE"]).await;
    until_available(&larder).await;
}

#[tokio::test]
async fn a_sentinel_that_does_not_answer_delays_no_word() {
    let (origin, master) = (Origin::start(), Process::alone().await);
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(Process::sentinel_of(&master, 2, 60_000).await);
    }
    let hanging = Link::to(([127, 0, 0, 1], sentinels[0].port).into());
    let lines = format!(
        "mode = \"sentinel\"\nurl = \"redis://mymaster\"\nurls = [{:?}, {:?}, {:?}]",
        format!("redis://{}", hanging.address()),
        sentinels[1].url(),
        sentinels[2].url()
    );
    let start = async || {
        let settings = "ttl = \"1h\"\nstale_if_error = \"1h\"";
        // It asks the Sentinels again and again.
        let lines = format!("[redis]\n{lines}\ntrust = \"400ms\"");
        let larder = before(&origin, settings).section(&lines).start().await;
        until_available(&larder).await;
        larder
    };
    let (one, other) = (start().await, start().await);
    hanging.stall();
    for number in 0..40 {
        let path = format!("/things/{number}");
        one.get(&path).await;
        let old = call(&other.get(&path).await);
        assert_eq!(
            one.purge(json!({ "path": path })).await["pending"],
            json!([])
        );
        let client = Client::new(other.public.address());
        eventually_within(AT_ONCE, "the other has let it go", async || {
            (call(&client.get(&path).await) > old).then_some(())
        })
        .await;
    }
}

/// The purge was made while Redis hung, and told when it answered again. The server that then takes its place had not got
/// it, and has counted on since.
#[tokio::test]
async fn law_4_a_purge_that_was_told_late_is_told_again_to_the_next_master() {
    let (origin, master) = (Origin::start(), Process::alone().await);
    let next = Process::copying(&master).await;
    master.until_copied_by(1).await;
    let sentinel = Process::sentinel_of(&master, 1, 60_000).await;
    let lines = format!(
        "mode = \"sentinel\"\nurl = \"redis://mymaster\"\nurls = [{:?}]",
        sentinel.url()
    );
    let larder = node(&origin, &lines).await;
    let old = call(&larder.get("/things/42").await);
    eventually("the entry is there", async || {
        let keys: Vec<String> = next.run("KEYS", &["larder:e:*"]).await;
        (keys.len() == 1).then_some(())
    })
    .await;
    // From here on it gets nothing any more. A Sentinel that watched would make it a replica again.
    let _: String = sentinel.run("SENTINEL", &["REMOVE", "mymaster"]).await;
    let _: String = next.run("REPLICAOF", &["NO", "ONE"]).await;
    master.freeze();
    let said = larder.purge(json!({ "path": "/things/42" })).await;
    assert_eq!(said["pending"], json!(["redis"]), "{said}");
    master.thaw();
    until_available(&larder).await;
    let _: u64 = next.run("HINCRBY", &["larder:{g}", "seq", "100"]).await;
    let port = next.port.to_string();
    let watch = ["MONITOR", "mymaster", "127.0.0.1", &port, "1"];
    let _: String = sentinel.run("SENTINEL", &watch).await;
    eventually("the node has gone to the next master", async || {
        let listening: (String, u64) = next.run("PUBSUB", &["NUMSUB", "larder:push"]).await;
        (listening.1 == 1).then_some(())
    })
    .await;
    until_available(&larder).await;
    // One that knows nothing but what the next master holds.
    let fresh = node(&origin, &format!("url = {:?}", next.url())).await;
    let answer = fresh.get("/things/42").await;
    assert!(call(&answer) > old, "{answer:?}");
}
