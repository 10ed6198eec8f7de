//! Redis down, frozen, full, read-only, closed to us: requests cost little, nothing purged comes back, and the tier works
//! again within two seconds of healing (laws 4 and 6).

use tokio::time::Instant;

use super::*;

/// No request may take longer than its timeout of half a second, give or take a busy machine.
const COSTS_AT_MOST: Duration = Duration::from_secs(4);

/// Reads until the breaker has opened, then once more: at no cost, because nothing is sent.
async fn assert_opens(node: &Node) {
    let started = Instant::now();
    eventually("the breaker opens", HEALED_WITHIN, async || {
        let asked = Instant::now();
        assert_eq!(node.reads(&key("42")).await, Seen::Unavailable);
        assert!(asked.elapsed() < COSTS_AT_MOST);
        !node.tier.health().available
    })
    .await;
    assert!(started.elapsed() < HEALED_WITHIN);
    let errors =
        || node.count(|counters| &counters.errors) + node.count(|counters| &counters.timeouts);
    let before = errors();
    for _ in 0..100 {
        assert_eq!(node.reads(&key("42")).await, Seen::Unavailable);
        assert_eq!(
            node.put(&key("42"), &node.load("x")).await,
            Put::Unavailable
        );
    }
    assert_eq!(errors(), before, "nothing was sent");
    assert!(node.tier.health().error.is_some());
}

#[tokio::test]
async fn law_6_a_redis_that_is_killed_costs_nothing_and_is_used_again_when_it_is_back() {
    let mut server = Server::start().await;
    let node = Node::connected(&server).await;
    node.fill(&key("42"), "body").await;
    server.kill();
    // Nobody has to ask: the lost connection itself opens the breaker.
    eventually("the breaker opens", HEALED_WITHIN, async || {
        !node.tier.health().available
    })
    .await;
    assert_opens(&node).await;
    assert_eq!(node.count(|counters| &counters.breaker_opens), 1);
    server.run().await;
    node.wait_working().await;
    assert_eq!(node.tier.health().error, None);
}

#[tokio::test]
async fn law_6_a_frozen_redis_costs_its_timeout_and_then_nothing() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    node.fill(&key("42"), "body").await;
    server.freeze();
    assert_opens(&node).await;
    assert!(node.count(|counters| &counters.timeouts) >= 3);
    let purged = node.purge(Scope::Tag("red".into()), Mode::Delete).await;
    assert!(!purged.shared);
    server.thaw();
    node.wait_working().await;
    assert_eq!(node.reads(&key("42")).await, Seen::Nothing);
}

#[tokio::test]
async fn law_12_a_frozen_redis_collects_no_crowd() {
    let server = Server::start().await;
    let node = Arc::new(Node::connected(&server).await);
    server.freeze();
    let started = Instant::now();
    let crowd: Vec<_> = (0..4_000)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.reads(&key("42")).await })
        })
        .collect();
    for one in crowd {
        assert_eq!(one.await.unwrap(), Seen::Unavailable);
    }
    assert!(started.elapsed() < COSTS_AT_MOST);
    server.thaw();
    node.wait_working().await;
}

#[tokio::test]
async fn law_6_a_redis_that_was_never_there_is_used_once_it_is() {
    let mut server = Server::absent();
    let node = Node::start(&server);
    assert_opens(&node).await;
    let purged = node.purge(Scope::Tag("red".into()), Mode::Delete).await;
    assert_eq!((purged.seq, purged.shared), (1, false));
    assert_eq!(node.tier.health().pending_purges, 1);
    server.run().await;
    node.wait_working().await;
    let field: String = server.ask("HGET larder:{g} t:red:d").await;
    let (seq, _at) = field.split_once(':').unwrap();
    assert!(
        seq.parse::<u64>().unwrap() > purged.seq,
        "numbered above ours: {field}"
    );
}

#[tokio::test]
async fn law_6_a_redis_that_wants_another_password_is_used_once_it_lets_us_in() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    let mut operator = redis::Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let mut set = async |password: &str| {
        let _: String = redis::cmd("CONFIG")
            .arg(&["SET", "requirepass", password])
            .query_async(&mut operator)
            .await
            .unwrap();
        let _: i64 = redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .query_async(&mut operator)
            .await
            .unwrap();
    };
    set("geheim").await;
    assert_opens(&node).await;
    eventually("the reason is told", HEALED_WITHIN, async || {
        node.tier
            .health()
            .error
            .is_some_and(|error| error.contains("NOAUTH"))
    })
    .await;
    set("").await;
    node.wait_working().await;
}

/// While writes are refused: reads go on, nothing is stored, purges count here and reach Redis after healing.
async fn check_refused_writes(ill: &[&str], well: &[&str]) {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    node.fill(&key("42"), "old").await;
    node.fill(&key("43"), "other").await;
    let _: redis::Value = server.ask_words(ill).await;
    assert_eq!(node.reads(&key("42")).await, alive("old"), "{ill:?}");
    assert_eq!(
        node.put(&key("42"), &node.load("x")).await,
        Put::Unavailable,
        "{ill:?}"
    );
    let purged = node
        .purge(Scope::Resource(resource("42")), Mode::Delete)
        .await;
    assert!(!purged.shared, "{ill:?}");
    assert_eq!(node.tier.health().pending_purges, 1);
    assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{ill:?}");
    assert_eq!(node.reads(&key("43")).await, alive("other"), "{ill:?}");
    assert!(node.tier.health().available);
    assert!(node.tier.health().error.is_some());
    let _: redis::Value = server.ask_words(well).await;
    node.wait_working().await;
    assert_eq!(node.tier.health().error, None, "{ill:?}");
    assert_eq!(node.count(|counters| &counters.breaker_opens), 0);
    // It reached Redis: a node that starts now sees it too.
    let next = Node::connected(&server).await;
    assert_eq!(next.reads(&key("42")).await, Seen::Nothing, "{ill:?}");
    assert_eq!(next.reads(&key("43")).await, alive("other"), "{ill:?}");
}

#[tokio::test]
async fn law_6_a_full_redis_is_still_read() {
    check_refused_writes(
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CONFIG", "SET", "maxmemory", "0"],
    )
    .await;
}

#[tokio::test]
async fn law_6_a_redis_short_of_replicas_is_still_read() {
    check_refused_writes(
        &["CONFIG", "SET", "min-replicas-to-write", "1"],
        &["CONFIG", "SET", "min-replicas-to-write", "0"],
    )
    .await;
}

#[tokio::test]
async fn law_6_a_read_only_replica_is_still_read() {
    check_refused_writes(
        &["REPLICAOF", "127.0.0.1", "1"],
        &["REPLICAOF", "NO", "ONE"],
    )
    .await;
}

#[tokio::test]
async fn law_4_purges_made_during_an_outage_are_told_before_anything_is_read_again() {
    for scope in scopes("42") {
        let mut server = Server::start().await;
        let node = Node::connected(&server).await;
        let loading = node.load("loaded before the outage");
        node.fill(&key("42"), "old").await;
        let _: String = server.ask("SAVE").await;
        server.kill();
        eventually("the breaker opens", HEALED_WITHIN, async || {
            !node.tier.health().available
        })
        .await;
        assert!(!node.purge(scope.clone(), Mode::Delete).await.shared);
        let stamped_alone = node.load("stamped with a number that only this node knows");
        server.run().await;
        // Whatever the first answered read is, it is not the purged entry; nor for a node that knows only Redis.
        eventually("reads resume", HEALED_WITHIN, async || {
            node.reads(&key("42")).await != Seen::Unavailable
        })
        .await;
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{scope:?}");
        assert_eq!(node.tier.health().pending_purges, 0);
        let next = Node::connected(&server).await;
        assert_eq!(next.reads(&key("42")).await, Seen::Nothing, "{scope:?}");
        for entry in [loading, stamped_alone] {
            assert_eq!(node.put(&key("42"), &entry).await, Put::Refused);
        }
        node.fill(&key("42"), "new").await;
        assert_eq!(next.reads(&key("42")).await, alive("new"));
    }
}

#[tokio::test]
async fn law_4_a_redis_that_forgot_purges_begins_a_new_epoch() {
    for scope in scopes("42") {
        let mut server = Server::start().await;
        let node = Node::connected(&server).await;
        node.fill(&key("42"), "old").await;
        let _: String = server.ask("SAVE").await;
        // What follows is not saved: Redis comes back as it was before the purge.
        assert!(node.purge(scope.clone(), Mode::Delete).await.shared);
        server.kill();
        let epoch = node.generations.epoch();
        server.run().await;
        node.wait_working().await;
        assert_ne!(node.generations.epoch(), epoch, "{scope:?}");
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{scope:?}");
        let next = Node::connected(&server).await;
        assert_eq!(next.reads(&key("42")).await, Seen::Nothing, "{scope:?}");
    }
}

#[tokio::test]
async fn a_redis_that_restarts_with_all_its_data_keeps_the_cache_warm() {
    let mut server = Server::start().await;
    let node = Node::connected(&server).await;
    node.purge(Scope::All, Mode::Delete).await;
    node.fill(&key("42"), "kept").await;
    let _: String = server.ask("SAVE").await;
    server.kill();
    server.run().await;
    node.wait_working().await;
    assert_eq!(node.reads(&key("42")).await, alive("kept"));
    assert_eq!(
        node.resyncs.load(Ordering::SeqCst),
        1,
        "nothing was missed, so memory is kept too"
    );
}
