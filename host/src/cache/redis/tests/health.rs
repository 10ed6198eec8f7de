//! Storing, reading, purging and mirroring while Redis is well.

use redis::Client;

use super::super::names::Names;
use super::super::scripts::{Known, Scripts};
use super::*;
use crate::cache::generations::Generation;

#[tokio::test]
async fn what_is_stored_is_read_and_redis_forgets_it_at_the_end_of_its_life() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    assert_eq!(node.reads(&key("42")).await, Seen::Nothing);
    node.fill(&key("42"), "body").await;
    let Lookup::Found(found, Verdict::Alive) = node.tier.get(&key("42")).await else {
        panic!("stored and not found");
    };
    let loaded = node.load("body");
    assert_eq!(found.draft().content, loaded.draft().content);
    // The offset to Redis's clock is known within half a round trip.
    assert!(
        loaded
            .times()
            .loaded_ms
            .abs_diff(found.times().loaded_ms)
            .lt(&1_000)
    );
    let life: i64 = server.ask(&format!("PTTL {}", entry_name("42"))).await;
    assert!((1..=60_000).contains(&life), "{life}");
    let remembered: i64 = server.ask(&format!("PTTL {}", generation_name("42"))).await;
    assert!(
        remembered > 3_600_000,
        "a generation outlives every entry: {remembered}"
    );

    let mut short = node.draft("short", node.generations.stamp());
    short.times.ttl_ms = 50;
    assert_eq!(node.put(&key("43"), &keep(short)).await, Put::Stored);
    eventually("its life is over", HEALED_WITHIN, async || {
        node.reads(&key("43")).await == Seen::Nothing
    })
    .await;
    assert_eq!(node.count(|counters| &counters.stores), 2);
    assert_eq!(node.count(|counters| &counters.foreign), 0);
}

#[tokio::test]
async fn an_entry_that_waited_before_it_was_stored_is_not_young_again() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    let mut old = node.draft("old", node.generations.stamp());
    old.times.loaded_ms -= 50_000;
    assert_eq!(node.put(&key("42"), &keep(old)).await, Put::Stored);
    let life: i64 = server.ask(&format!("PTTL {}", entry_name("42"))).await;
    assert!((1..=10_000).contains(&life), "{life}");
    let Lookup::Found(found, _) = node.tier.get(&key("42")).await else {
        panic!("stored and not found");
    };
    assert!(found.times().age_ms(node.clock.now_ms()) >= 49_000);

    let mut over = node.draft("over", node.generations.stamp());
    over.times.loaded_ms -= 60_000;
    assert_eq!(node.put(&key("43"), &keep(over)).await, Put::Refused);
}

#[tokio::test]
async fn law_4_a_resource_purged_during_a_load_refuses_what_was_loaded() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    for (value, mode) in [("1", Mode::Delete), ("2", Mode::Expire)] {
        let loading = node.load("before the purge");
        let purged = node.purge(Scope::Resource(resource(value)), mode).await;
        assert!(purged.shared);
        assert_eq!(node.put(&key(value), &loading).await, Put::Refused);
        assert_eq!(node.reads(&key(value)).await, Seen::Nothing);
        node.fill(&key(value), "after it").await;
        assert_eq!(node.reads(&key(value)).await, alive("after it"));
    }
}

#[tokio::test]
async fn law_4_every_scope_kills_or_expires_what_is_stored_for_this_node_and_the_next() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    for scope in scopes("42") {
        for (mode, expect) in [
            (Mode::Expire, Seen::Expired("old".into())),
            (Mode::Delete, Seen::Nothing),
        ] {
            node.fill(&key("42"), "old").await;
            let purged = node.purge(scope.clone(), mode).await;
            assert!(purged.shared);
            assert_eq!(purged.seq, node.generations.seq());
            assert_eq!(node.reads(&key("42")).await, expect, "{scope:?} {mode:?}");
            // A node that starts now knows nothing but what Redis holds.
            let next = Node::connected(&server).await;
            assert_eq!(next.generations.epoch(), node.generations.epoch());
            assert_eq!(next.reads(&key("42")).await, expect, "{scope:?} {mode:?}");
        }
    }
    node.fill(&key("42"), "new").await;
    let next = Node::connected(&server).await;
    assert_eq!(next.reads(&key("42")).await, alive("new"));
}

#[tokio::test]
async fn law_4_an_evicted_generation_revives_nothing() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    // Purged, and the generation that said so is gone before the late load is stored.
    let loading = node.load("before the purge");
    node.purge(Scope::Resource(resource("1")), Mode::Delete)
        .await;
    let _: i64 = server.ask(&format!("DEL {}", generation_name("1"))).await;
    assert_eq!(node.put(&key("1"), &loading).await, Put::Refused);

    // Stored, and its generation is gone: dead, even after a purge or another variant's entry made a new one.
    node.fill(&key("2"), "old").await;
    let _: i64 = server.ask(&format!("DEL {}", generation_name("2"))).await;
    assert_eq!(node.reads(&key("2")).await, Seen::Nothing);
    node.purge(Scope::Resource(resource("2")), Mode::Expire)
        .await;
    assert_eq!(node.reads(&key("2")).await, Seen::Nothing);
    node.fill(&key("2"), "new").await;
    assert_eq!(node.reads(&key("2")).await, alive("new"));
}

#[tokio::test]
async fn law_4_a_group_that_is_lost_begins_a_new_epoch_and_nothing_stored_before_lives() {
    for loss in ["FLUSHALL", "DEL larder:{g}", "SET larder:{g} something"] {
        let server = Server::start().await;
        let node = Node::connected(&server).await;
        let epoch = node.generations.epoch();
        node.purge(Scope::All, Mode::Delete).await;
        node.fill(&key("42"), "old").await;
        let loading = node.load("old too");
        let _: redis::Value = server.ask(loss).await;
        eventually("a new epoch", HEALED_WITHIN, async || {
            node.generations.epoch() != epoch
        })
        .await;
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{loss}");
        assert_eq!(node.put(&key("42"), &loading).await, Put::Refused, "{loss}");
        assert_eq!(node.resyncs.load(Ordering::SeqCst), 2, "{loss}");
        node.fill(&key("42"), "new").await;
        assert_eq!(node.reads(&key("42")).await, alive("new"), "{loss}");
    }
}

#[tokio::test]
async fn law_4_a_purge_that_finds_the_group_lost_still_covers_everything_before_it() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    for scope in scopes("42") {
        node.fill(&key("42"), "old").await;
        let _: i64 = server.ask("DEL larder:{g}").await;
        assert!(node.purge(scope.clone(), Mode::Delete).await.shared);
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{scope:?}");
        node.wait_working().await;
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{scope:?}");
    }
}

#[tokio::test]
async fn law_4_a_purge_of_another_node_is_heard_and_one_that_was_missed_drops_what_is_in_memory() {
    let server = Server::start().await;
    let (one, other) = (
        Node::connected(&server).await,
        Node::connected(&server).await,
    );
    one.fill(&key("42"), "old").await;
    assert_eq!(other.reads(&key("42")).await, alive("old"));
    one.purge(Scope::Tag("red".into()), Mode::Delete).await;
    eventually("the other node hears of it", HEALED_WITHIN, async || {
        other.generations.seq() == 1
    })
    .await;
    assert_eq!(other.reads(&key("42")).await, Seen::Nothing);
    // A purge whose word was lost.
    let _: i64 = server.ask("HINCRBY larder:{g} seq 1").await;
    eventually("both catch up", HEALED_WITHIN, async || {
        one.generations.seq() == 2 && other.generations.seq() == 2
    })
    .await;
    assert_eq!(
        other.resyncs.load(Ordering::SeqCst),
        2,
        "what is heard is nothing that was missed; what is not, is"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn law_4_purges_at_the_same_time_are_all_numbered_and_none_is_missed() {
    let server = Server::start().await;
    let node = Arc::new(Node::connected(&server).await);
    let purges: Vec<_> = (0..200)
        .map(|number: u32| {
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                let value = number.to_string();
                let scope = if number.is_multiple_of(2) {
                    Scope::Tag(value.into())
                } else {
                    Scope::Resource(resource(&value))
                };
                node.purge(scope, Mode::Delete).await
            })
        })
        .collect();
    let mut seqs = Vec::new();
    for purge in purges {
        let purged = purge.await.unwrap();
        assert!(purged.shared);
        seqs.push(purged.seq);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=200).collect::<Vec<u64>>());
    assert_eq!(node.generations.seq(), 200);
    // The words of the channel are a row without a gap.
    eventually("it has heard its own words", HEALED_WITHIN, async || {
        node.tier.shared.heard_seq.load(Ordering::Relaxed) == 200
    })
    .await;
    assert_eq!(node.resyncs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn law_11_bytes_that_are_no_entry_are_counted_misses_and_are_replaced() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    node.fill(&key("42"), "body").await;
    let name = entry_name("42");
    let stored: Vec<u8> = server.ask(&format!("GET {name}")).await;
    let mut connection = Client::open(server.url())
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    let mut flipped = stored.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let damaged: [&[u8]; 4] = [b"", b"garbage", &stored[..stored.len() / 2], &flipped];
    for (count, bytes) in (1..).zip(damaged) {
        let _: () = redis::cmd("SET")
            .arg(&name)
            .arg(bytes)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing);
        assert_eq!(node.count(|counters| &counters.foreign), count);
    }
    // Another key's entry, moved here.
    node.fill(&key("43"), "other").await;
    let _: String = server
        .ask(&format!("RENAME {} {name}", entry_name("43")))
        .await;
    assert_eq!(node.reads(&key("42")).await, Seen::Nothing);
    node.fill(&key("42"), "again").await;
    assert_eq!(node.reads(&key("42")).await, alive("again"));
    assert_eq!(node.count(|counters| &counters.breaker_opens), 0);
}

#[tokio::test]
async fn law_6_keys_of_the_wrong_type_are_misses_and_are_replaced() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    for name in [entry_name("42"), generation_name("42")] {
        node.fill(&key("42"), "old").await;
        let _: i64 = server.ask(&format!("DEL {name}")).await;
        let _: i64 = server.ask(&format!("HSET {name} field value")).await;
        assert_eq!(node.reads(&key("42")).await, Seen::Nothing, "{name}");
        node.fill(&key("42"), "new").await;
        assert_eq!(node.reads(&key("42")).await, alive("new"), "{name}");
    }
    let generation = generation_name("42");
    let _: i64 = server.ask(&format!("DEL {generation}")).await;
    let _: i64 = server.ask(&format!("RPUSH {generation} x")).await;
    let purged = node
        .purge(Scope::Resource(resource("42")), Mode::Delete)
        .await;
    assert!(purged.shared);
    assert_eq!(node.reads(&key("42")).await, Seen::Nothing);
    assert_eq!(node.count(|counters| &counters.breaker_opens), 0);
}

#[tokio::test]
async fn law_12_what_is_kept_holds_nothing_but_itself_and_what_is_only_given_is_not_copied() {
    let server = Server::start().await;
    for kept in [false, true] {
        let node = Node::start_keeping(Servers::Single(server.url()), kept);
        node.wait_available().await;
        let body = "a long body ".repeat(2_000);
        node.fill(&key("42"), &body).await;
        let Lookup::Found(entry, _) = node.tier.get(&key("42")).await else {
            panic!("it was stored");
        };
        let held = entry.body();
        drop(entry);
        assert_eq!(held, body);
        // Else the connection has another slice of the same buffer.
        assert_eq!(held.is_unique(), kept);
    }
}

#[tokio::test]
async fn the_user_and_the_database_are_those_of_every_connection() {
    let server = Server::start().await;
    let user = "ACL SETUSER node on >secret ~larder:* &larder:* +@all";
    let _: String = server.ask(user).await;
    let url = format!("redis://node:secret@127.0.0.1:{}/3", server.port());
    let node = Node::start_at(Servers::Single(url));
    node.wait_available().await;
    node.fill(&key("42"), "body").await;
    assert_eq!(node.reads(&key("42")).await, alive("body"));
    let elsewhere: u64 = server.ask("DBSIZE").await;
    assert_eq!(elsewhere, 0);
    let list: String = server.ask("CLIENT LIST").await;
    let (ours, others): (Vec<_>, Vec<_>) = list
        .lines()
        .partition(|line| line.contains(" db=3 ") && line.contains(" user=node "));
    // Requests, control, waits and the channel; and who asks.
    assert_eq!((ours.len(), others.len()), (4, 1), "{list}");
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_loaded_again() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    node.fill(&key("42"), "body").await;
    let _: String = server.ask("SCRIPT FLUSH").await;
    node.fill(&key("42"), "body").await;
    assert!(node.purge(Scope::All, Mode::Delete).await.shared);
    assert_eq!(node.count(|counters| &counters.errors), 0);
}

#[tokio::test]
async fn every_living_variant_of_a_resource_is_listed() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    for lang in ["de", "en", "fr"] {
        let parts = [Param::new("key", "42"), Param::new("lang", lang)];
        let key = Key::new(&resource("42"), "demo~1", &parts).unwrap();
        node.fill(&key, lang).await;
    }
    node.fill(&key("420"), "of another resource").await;
    let mut listed: Vec<_> = node
        .tier
        .variants(&resource("42"))
        .await
        .into_iter()
        .map(|(key, entry)| (key, entry.body()))
        .collect();
    listed.sort();
    let expect: Vec<_> = ["de", "en", "fr"]
        .into_iter()
        .map(|lang| {
            let text = format!("{{%2Fdata%2F%7Bkey%7D:42}}:demo~1:key=42&lang={lang}");
            (text, Bytes::from(lang))
        })
        .collect();
    assert_eq!(listed, expect);
}

#[tokio::test]
async fn law_12_the_group_forgets_old_purges_and_cannot_outgrow_its_bound() {
    let server = Server::start().await;
    let mut scripts = Scripts::new(Names::new("larder"), 3_600_000);
    scripts.bound_fields(8);
    let client = super::super::topology::client_of(&server.url()).unwrap();
    let link = Link::connect(
        &client,
        1,
        &Tls::default(),
        (&Names::new("t"), Duration::from_millis(100), false),
        || {},
    )
    .await
    .unwrap();
    let limit = Duration::from_secs(5);
    let known = Known {
        epoch: 0,
        least: 0,
        own: 0,
    };
    scripts.sync(&link, known, limit).await.unwrap();
    let _: i64 = server
        .ask("HSET larder:{g} t:ancient:d 1:1000 scan garbage")
        .await;
    let mut collapsed = Vec::new();
    for number in 1..=7_u64 {
        let scope = Scope::Tag(number.to_string().into());
        let numbered = scripts
            .purge(&link, (&scope, Mode::Delete), 0, limit)
            .await
            .unwrap();
        assert_eq!(numbered.seq, number);
        collapsed.push(numbered.collapsed);
    }
    assert_eq!(collapsed, [false, false, false, false, false, true, false]);
    let group = scripts.sync(&link, known, limit).await.unwrap();
    let generation = |delete| Generation { delete, expire: 0 };
    let mut generations = group.generations;
    generations.sort_by_key(|(_, generation)| generation.delete);
    assert_eq!(
        generations,
        [
            (Scope::All, generation(6)),
            (Scope::Tag("7".into()), generation(7)),
        ]
    );
}

#[tokio::test]
async fn a_tier_that_is_dropped_leaves_nothing_running() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    let clients = async || {
        let list: String = server.ask("CLIENT LIST").await;
        list.lines().count()
    };
    assert!(clients().await > 1);
    drop(node);
    eventually("its connections are closed", HEALED_WITHIN, async || {
        clients().await == 1
    })
    .await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_with_a_remedy_and_without_the_password() {
    let start = |url: &str, prefix: &str| {
        let settings = RedisSettings {
            servers: Servers::Single(url.into()),
            tls: Tls::default(),
            prefix: prefix.into(),
            timeout: Duration::from_millis(100),
            trust: TRUST,
            journal: None,
            longest_life_ms: 1,
            kept: false,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let hooks = Hooks {
            resync: Box::new(|| ()),
            stored: Box::new(|_| ()),
        };
        RedisTier::start(settings, Arc::default(), clock, hooks)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let error = start("http://:geheim@localhost", "larder");
    assert!(error.starts_with("[redis] url: "), "{error}");
    assert!(!error.contains("geheim"), "{error}");
    let error = start("redis://localhost", "a{b}");
    assert!(error.starts_with("[redis] prefix \"a{b}\""), "{error}");
}

// One worker: its scheduler runs a task that was woken last first, so without the lane's patience each look-up would be
// sent before the next one is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn look_ups_of_one_turn_are_one_command_and_each_has_its_own_answer() {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    for value in ["1", "2", "4"] {
        node.fill(&key(value), value).await;
    }
    let node = Arc::new(node);
    let mut commands = Vec::new();
    // The scheduler looks at its sockets every so many tasks, and that may fall into the middle of a round. Not of each.
    for _ in 0..8 {
        let before = mgets(&server).await;
        let asking = Arc::clone(&node);
        let seen = tokio::spawn(async move {
            let asks = ["1", "2", "3", "4"].map(|value| {
                let node = Arc::clone(&asking);
                tokio::spawn(async move { node.reads(&key(value)).await })
            });
            futures_util::future::try_join_all(asks).await
        });
        let seen = seen.await.unwrap().unwrap();
        assert_eq!(seen, [alive("1"), alive("2"), Seen::Nothing, alive("4")]);
        commands.push(mgets(&server).await - before);
    }
    assert!(commands.contains(&1), "{commands:?}");
}

/// How many `MGET`s a server has run.
async fn mgets(server: &Server) -> u64 {
    let statistics: String = server.ask("INFO commandstats").await;
    let line = statistics
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
    let calls = line.and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}
