//! What only time shows: reloads and calls by the thousand leave neither memory nor descriptors behind (law 12).
//!
//! `make soak` runs the long form, 1,000 reloads and 1,000,000 calls, which takes minutes. `LARDER_SOAK=RELOADS,CALLS` says
//! other numbers.

use std::io::Write as _;

use futures_util::future::join_all;
use larder_tests::{Larder, Usage, eventually};

/// The short form, for every run of the tests.
const SHORT: (usize, usize) = (60, 50_000);
/// Clients at once.
const CLIENTS: usize = 32;
/// Keys of each of them.
const KEYS: usize = 250;
/// What the short form may grow by in any case: allocators settle over minutes, and 5 % of a small process is little.
const MEMORY_FLOOR: u64 = 12 << 20;
/// Descriptors that come and go: a connection of each client, which is kept or not, and the watch of a directory. A leak
/// grows with the reloads or the calls, and is more than this in the long form.
const DESCRIPTORS_FLOOR: usize = CLIENTS + 16;

fn numbers() -> (usize, usize) {
    let given = std::env::var("LARDER_SOAK").ok();
    given.map_or(SHORT, |given| {
        let (reloads, calls) = given.split_once(',').expect("RELOADS,CALLS");
        let number = |text: &str| text.trim().parse().expect("a whole number");
        (number(reloads), number(calls))
    })
}

/// `calls` loads by [`CLIENTS`] clients, while the plugin is reloaded `reloads` times.
async fn round(larder: &Larder, reloads: usize, calls: usize) {
    let clients = (0..CLIENTS).map(|client| async move {
        for call in 0..calls / CLIENTS {
            // Each is a load, for nothing is stored. The keys come again, so that bounded caches are full when it begins.
            let key = (call % KEYS) * CLIENTS + client;
            let answer = larder.get(&format!("/soak/{key}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
    let swaps = async {
        for reload in 0..reloads {
            // Another sidecar is another version: compiled code is mapped, an instance started, the old one stopped.
            larder.sidecar(
                "demo",
                &format!("[config]\ntext = \"{reload}\"\nlatency_ms = 0\n"),
            );
            let answer = larder.reload("demo").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    };
    tokio::join!(join_all(clients), swaps);
}

/// What the server uses when it has come to rest.
async fn at_rest(larder: &Larder) -> Usage {
    let mut last = larder.usage();
    eventually("the server comes to rest", async || {
        let now = larder.usage();
        let rests =
            now.resident.abs_diff(last.resident) < 64 << 10 && now.descriptors == last.descriptors;
        last = now;
        rests.then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_12_reloads_and_calls_leave_nothing_behind() {
    let (reloads, calls) = numbers();
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route("/soak/{key}", "demo", "ttl = \"0\"")
        .start()
        .await;
    // To begin with: everything that is made once is made, and the allocator has its caches.
    let warm = calls.min(50_000) / 5;
    round(&larder, reloads.min(100) / 4, warm).await;
    let before = at_rest(&larder).await;
    round(&larder, reloads, calls).await;
    let after = at_rest(&larder).await;
    let told = format!(
        "soak: {reloads} reloads, {calls} calls: {:.1} → {:.1} MiB, {} → {} descriptors\n",
        before.mebibytes(),
        after.mebibytes(),
        before.descriptors,
        after.descriptors
    );
    let _ = std::io::stderr().write_all(told.as_bytes());
    let floor = if reloads < 1000 { MEMORY_FLOOR } else { 0 };
    let most = before.resident + (before.resident / 20).max(floor);
    assert!(after.resident <= most, "memory grows: {told}");
    assert!(
        after.descriptors <= before.descriptors + DESCRIPTORS_FLOOR,
        "descriptors leak: {told}"
    );
}
