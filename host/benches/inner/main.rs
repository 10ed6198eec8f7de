//! The inner pieces of an answer, each alone: what a look-up, a key, an envelope, a call of a plugin or a response takes.
//! Owns what each is tried with; must not know what they have to reach, which is of a whole request (`bench/`).
//!
//! `make bench-inner` runs it. The plugins are the first-party ones of `plugins/dist`, or of `PLUGINS_DIST`.

mod stage;

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use http::HeaderMap;
use larder::cache::{Answer, Batching, Question, TierName, envelope};
use larder::http::respond::{Asked, respond};
use larder::key::{Key, Param, PolicyRequest, Resource};

use stage::{BODIES, Stage};

/// The program's own, for most of the pieces allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // Left to itself, the measure would be made after the first call, which is the slowest, and each sample be one call.
    divan::Divan::default()
        .sample_size(100)
        .sample_count(300)
        .config_with_args()
        .main();
}

/// The route of a path, among a hundred.
#[divan::bench]
fn route_match(bencher: Bencher) {
    let stage = Stage::of(300);
    bencher.bench_local(|| stage.snapshot.find(black_box("/policy/k0042")).is_some());
}

/// The resource of a request and the key of its parts.
#[divan::bench]
fn key_encode(bencher: Bencher) {
    let parts = [Param::new("x-tenant", "acme"), Param::new("key", "k0042")];
    bencher.bench_local(|| {
        let resource = Resource::new(black_box("/policy/{key}"), [black_box("k0042")]);
        Key::new(&resource, "demo~1", black_box(&parts))
    });
}

/// A request that came before.
#[divan::bench]
fn memo(bencher: Bencher) {
    let stage = Stage::of(300);
    bencher.bench_local(|| stage.derive(black_box("/policy/k0042")));
}

/// A request that did not come before, by the path alone.
#[divan::bench]
fn derive_native(bencher: Bencher) {
    let stage = Stage::of(300);
    bencher
        .with_inputs(stage::another("/native/k0042?new="))
        .bench_local_values(|target| stage.derive(&target));
}

/// The same through the key policy: route match, decoding, the call, the key.
#[divan::bench]
fn derive_policy(bencher: Bencher) {
    let stage = Stage::of(300);
    bencher
        .with_inputs(stage::another("/policy/k0042?new="))
        .bench_local_values(|target| stage.derive(&target));
}

/// The call of the key policy alone, in Wasm.
#[divan::bench]
fn derive_call(bencher: Bencher) {
    let stage = Stage::of(300);
    let policy = stage.policy();
    let request = PolicyRequest {
        method: "GET",
        route: "/policy/{key}".into(),
        path: vec![Param::new("key", "k0042")],
        query: Vec::new(),
        headers: vec![Param::new("x-tenant", "acme")],
    };
    bencher.bench_local(|| policy.derive(black_box(&request)).is_ok());
}

/// The call of the loader alone, in Wasm, through its driver and back.
#[divan::bench]
fn load_call(bencher: Bencher) {
    let stage = Stage::of(300);
    let loader = stage.loader();
    let question = Question {
        route: "/native/{key}".into(),
        parts: vec![Param::new("key", "k0042")].into(),
        timeout: std::time::Duration::from_secs(10),
        traceparent: None,
        known: None,
        batching: Batching::ALONE,
    };
    bencher.bench_local(|| {
        stage
            .runtime
            .block_on(loader.load(black_box(&question).clone()))
            .is_ok()
    });
}

/// The copy of an entry in this process, and that it may be served.
#[divan::bench]
fn memory_tier(bencher: Bencher) {
    let stage = Stage::of(300);
    let ask = &stage.hit.ask;
    bencher.bench_local(|| stage.cache.peek(black_box(ask)));
}

/// An entry as the bytes that Redis holds.
#[divan::bench(args = BODIES)]
fn envelope_encode(bencher: Bencher, body: usize) {
    let stage = Stage::of(body);
    let (entry, key, now_ms) = (stage.entry(), stage.hit.ask.key.text(), stage.now_ms());
    bencher
        .counter(BytesCount::new(body))
        .bench_local(|| envelope::encode(black_box(&entry), key, now_ms));
}

/// And back.
#[divan::bench(args = BODIES)]
fn envelope_decode(bencher: Bencher, body: usize) {
    let stage = Stage::of(body);
    let (key, now_ms) = (stage.hit.ask.key.text(), stage.now_ms());
    let mut bytes = envelope::encode(&stage.entry(), key, now_ms);
    // The tier writes its time there.
    let time = format!("{now_ms:0width$}", width = envelope::TIME_LEN);
    bytes[envelope::TIME_AT..][..envelope::TIME_LEN].copy_from_slice(time.as_bytes());
    let bytes = Bytes::from(bytes);
    assert!(envelope::decode(bytes.clone(), key, now_ms, 0).is_ok());
    bencher
        .counter(BytesCount::new(body))
        .bench_local(|| envelope::decode(black_box(&bytes).clone(), key, now_ms, 0));
}

/// A hit becomes a response.
#[divan::bench(args = BODIES)]
fn respond_to_hit(bencher: Bencher, body: usize) {
    let stage = Stage::of(body);
    let entry = stage.entry();
    let headers = HeaderMap::new();
    let asked = Asked {
        headers: &headers,
        now_ms: stage.now_ms(),
        encoder: &stage.encoder,
    };
    bencher.bench_local(|| {
        let answer = Answer::Hit {
            entry: entry.clone(),
            tier: TierName::Memory,
            left_ms: 3_599_000,
        };
        respond(black_box(&stage.hit), answer, &asked)
    });
}
