//! What a node knows after a restart of what it was asked for before: the keys that are asked for most are there again before
//! anybody asks. How they are counted is shown where that is written.

use std::fs;

use larder_tests::{
    Builder, Larder, Metrics, Origin, Redis, Reply, Wasm, before, call, eventually, sidecar,
};

const SETTINGS: &str = "ttl = \"1h\"\ntimeout = \"20s\"";
/// Enough that some are counted: a hit is, one time in 32.
const HITS: usize = 200;

/// `/things/{id}` in front of this origin; so many keys are remembered.
fn remembering(origin: &Origin, keys: usize) -> Builder {
    before(origin, SETTINGS).section(&format!("[warm]\nkeys = {keys}"))
}

/// As it comes.
const WARM: &str = "[warm]\nkeys = 1000";

/// And `/others/{id}`, in front of another origin.
fn and_others(builder: Builder, other: &Origin) -> Builder {
    builder
        .component("other", Wasm::guest("gated"), &sidecar(other, &other.url()))
        .route("/others/{id}", "other", SETTINGS)
}

async fn load(larder: &Larder, path: &str) {
    let answer = larder.get(path).await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
}

async fn ask_often(larder: &Larder, path: &str) {
    for _ in 0..HITS {
        assert_eq!(larder.get(path).await.status, 200);
    }
}

/// Waits until all that was remembered is asked for: replayed, skipped and failed.
async fn replayed(larder: &Larder) -> (f64, f64, f64) {
    eventually("the replay has ended", async || {
        let said = larder.log();
        let last = said.rsplit("admin on http://").next().unwrap_or_default();
        last.contains("what was asked for most before the start is there again")
            .then_some(())
    })
    .await;
    counted(&larder.metrics().await)
}

fn counted(metrics: &Metrics) -> (f64, f64, f64) {
    let of = |what| metrics.sum(&format!("larder_hot_keys_{what}_total"));
    (of("replayed"), of("skipped"), of("failed"))
}

#[tokio::test]
async fn what_was_asked_for_most_is_there_before_anybody_asks() {
    let origin = Origin::start();
    let mut larder = remembering(&origin, 1).start().await;
    ask_often(&larder, "/things/hot").await;
    for id in 0..20 {
        load(&larder, &format!("/things/{id}")).await;
    }
    larder.restart().await;
    origin.called("/hot", 2).await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 0.0));
    let answer = larder.get("/things/hot").await;
    answer.expect(200, "larder; hit; ttl=N; detail=memory");
    assert_eq!((call(&answer), origin.total()), (2, 22), "and nothing else");
}

#[tokio::test]
async fn a_node_that_is_killed_forgets_only_what_was_new() {
    let origin = Origin::start();
    let mut larder = remembering(&origin, 10).start().await;
    load(&larder, "/things/1").await;
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 0.0));
    load(&larder, "/things/new").await;
    let larder = Larder::start(larder.into_home().await).await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 0.0));
    assert_eq!((origin.calls("/1"), origin.calls("/new")), (3, 1));
    larder
        .get("/things/1")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn what_was_hot_before_a_quiet_time_is_still_known_after_it() {
    let origin = Origin::start();
    let mut larder = remembering(&origin, 10).start().await;
    load(&larder, "/things/1").await;
    load(&larder, "/things/2").await;
    for restart in 1..=3 {
        larder.restart().await;
        let expected = (f64::from(restart) + 1.0, 0.0, 0.0);
        assert_eq!(replayed(&larder).await, expected);
        load(&larder, &format!("/things/new-{restart}")).await;
    }
}

#[tokio::test]
async fn law_1_a_key_is_asked_for_with_the_parts_that_its_policy_made() {
    let origin = Origin::start();
    let mut larder = Larder::with()
        .guest("gated", &sidecar(&origin, &origin.url()))
        .plugin("tenant-key", "")
        .route(
            "/orders/{id}",
            "gated",
            "ttl = \"1h\"\nkey = \"tenant-key\"\nkey_headers = [\"x-tenant\"]",
        )
        .section(WARM)
        .start()
        .await;
    let acme = [("x-tenant", "acme")];
    larder.get_with("/orders/7", &acme).await;
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 0.0));
    let answer = larder.get_with("/orders/7", &acme).await;
    answer.expect(200, "larder; hit; ttl=N; detail=memory");
    let control = answer.header("cache-control").unwrap_or_default();
    assert!(control.starts_with("private"), "{answer:?}");
    let other = larder.get_with("/orders/7", &[("x-tenant", "other")]).await;
    other.expect(200, "larder; fwd=uri-miss; stored");
    // The policy as it is now would make other parts of the same request, so nobody could ask for these.
    larder.sidecar("tenant-key", "[config]\nheader = \"x-team\"\n");
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (0.0, 2.0, 0.0));
    assert_eq!(origin.total(), 3);
}

#[tokio::test]
async fn what_is_kept_out_of_the_cache_is_not_asked_for_again() {
    let origin = Origin::start();
    let mut larder = Larder::with()
        .guest("gated", &sidecar(&origin, &origin.url()))
        .guest("faulty-policy", "")
        .route("/policy/{key}", "gated", "key = \"faulty-policy\"")
        .section(WARM)
        .start()
        .await;
    ask_often(&larder, "/policy/bypass").await;
    load(&larder, "/policy/1").await;
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 0.0));
    assert_eq!((origin.calls("/bypass"), origin.calls("/1")), (HITS, 2));
}

#[tokio::test]
async fn what_is_gone_or_no_longer_the_same_is_skipped() {
    let (origin, other, newer) = (Origin::start(), Origin::start(), Origin::start());
    let mut larder = and_others(remembering(&origin, 10), &other).start().await;
    load(&larder, "/things/1").await;
    load(&larder, "/others/1").await;
    load(&larder, "/others/2").await;
    // Another source: what a key was before, it is no more.
    larder.sidecar("other", &sidecar(&newer, &newer.url()));
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 2.0, 0.0));
    assert_eq!(newer.total(), 0);
    load(&larder, "/others/3").await;
    let file = fs::read_to_string(larder.path("larder.toml")).expect("the configuration");
    larder.configure(&file.replace("/things/{id}", "/renamed/{id}"));
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 1.0, 0.0));
    assert_eq!((origin.total(), other.total(), newer.total()), (2, 2, 2));
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told_and_keeps_nothing_up() {
    let origin = Origin::start();
    let mut larder = remembering(&origin, 10).start().await;
    ask_often(&larder, "/things/broken").await;
    load(&larder, "/things/1").await;
    origin.on("/broken", Reply::status(503));
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 1.0));
    let answer = larder.get("/things/1").await;
    answer.expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn what_redis_has_is_taken_from_there_though_it_comes_late() {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    let redis_too = format!("[redis]\nurl = {:?}", redis.url());
    let mut larder = remembering(&origin, 10).section(&redis_too).start().await;
    eventually("Redis is in use", async || {
        let ready = larder.admin.get("/readyz").await;
        (ready.json()["redis"]["available"] == true).then_some(())
    })
    .await;
    load(&larder, "/things/1").await;
    load(&larder, "/things/2").await;
    redis.freeze();
    larder.restart().await;
    // It is ready without Redis, and by now it would have asked the source.
    load(&larder, "/things/3").await;
    redis.thaw();
    assert_eq!(replayed(&larder).await, (2.0, 0.0, 0.0));
    for path in ["/things/1", "/things/2"] {
        let answer = larder.get(path).await;
        answer.expect(200, "larder; hit; ttl=N; detail=memory");
    }
    assert_eq!(origin.total(), 3, "nothing was loaded again");
}

#[tokio::test]
async fn law_12_a_replay_loads_a_few_at_once_delays_nobody_and_ends_with_the_server() {
    let origin = Origin::start();
    let other = Origin::start();
    let remembering = remembering(&origin, 100).section("rate = 10000");
    let mut larder = and_others(remembering, &other).start().await;
    for id in 0..40 {
        load(&larder, &format!("/things/{id}")).await;
    }
    let gate = origin.gate("/*");
    // Ready, though not one of them is loaded.
    larder.restart().await;
    for done in 0..10 {
        gate.arrived(16 + done).await;
        assert_eq!(gate.count(), 16 + done, "16 at once");
        gate.release_one();
    }
    gate.arrived(26).await;
    load(&larder, "/others/1").await;
    let file = larder.path("larder-data").join("hot-keys");
    fs::remove_file(&file).expect("it was written");
    larder.terminate();
    eventually("the replay has ended", async || file.exists().then_some(())).await;
    gate.open();
    assert!(larder.exit().await.success());
    assert_eq!(origin.total(), 40 + 26, "no more were begun");
}

#[tokio::test]
async fn law_11_a_damaged_file_is_none_and_is_told() {
    let origin = Origin::start();
    let mut larder = remembering(&origin, 10).start().await;
    load(&larder, "/things/1").await;
    larder.terminate();
    larder.exit().await;
    let file = larder.path("larder-data").join("hot-keys");
    let whole = fs::read(&file).expect("it is written when the server stops");
    fs::write(&file, &whole[..whole.len() - 1]).expect("it is torn");
    let mut larder = Larder::start(larder.into_home().await).await;
    eventually("it is told", async || {
        let said = larder.log();
        let told = said.lines().filter(|line| {
            line.contains("hot-keys") && line.contains("what was asked for most before the start")
        });
        (told.count() == 1).then_some(())
    })
    .await;
    load(&larder, "/things/2").await;
    larder.restart().await;
    assert_eq!(replayed(&larder).await, (1.0, 0.0, 0.0));
    assert_eq!((origin.calls("/1"), origin.calls("/2")), (1, 2));
}

#[tokio::test]
async fn without_keys_nothing_is_written_or_asked_for() {
    let origin = Origin::start();
    let mut larder = remembering(&origin, 0).start().await;
    ask_often(&larder, "/things/1").await;
    larder.restart().await;
    let file = larder.path("larder-data").join("hot-keys");
    assert!(!file.exists());
    // What an earlier configuration wrote stays as it is.
    let off = fs::read_to_string(larder.path("larder.toml")).expect("the configuration");
    larder.configure(&off.replace("keys = 0", "keys = 10"));
    larder.restart().await;
    load(&larder, "/things/1").await;
    larder.configure(&off);
    larder.restart().await;
    let written = fs::read(&file).expect("it was written");
    ask_often(&larder, "/things/2").await;
    assert_eq!(counted(&larder.metrics().await), (0.0, 0.0, 0.0));
    larder.terminate();
    larder.exit().await;
    assert_eq!(fs::read(&file).expect("it is there"), written);
    assert_eq!((origin.calls("/1"), origin.calls("/2")), (2, 1));
}

#[tokio::test]
async fn law_9_credentials_among_the_parts_are_not_written_down() {
    let origin = Origin::start();
    let mut larder = Larder::with()
        .guest("gated", &sidecar(&origin, &origin.url()))
        .route(
            "/mine/{id}",
            "gated",
            "key = { headers = [\"authorization\"] }",
        )
        .route("/ours/{id}", "gated", "")
        .section(WARM)
        .start()
        .await;
    let secret = [("authorization", "Bearer geheim")];
    larder.get_with("/mine/1", &secret).await;
    larder.get("/ours/2").await;
    larder.terminate();
    larder.exit().await;
    let home = larder.into_home().await;
    let written = std::fs::read(home.path("larder-data/hot-keys")).expect("it is there");
    let written = String::from_utf8_lossy(&written).into_owned();
    assert!(
        written.contains("ours") && !written.contains("mine"),
        "{written}"
    );
}
