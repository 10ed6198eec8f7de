//! What only time shows: reloads and calls by the thousand leave neither memory nor descriptors behind (law 12).
//!
//! Every call has a key that never came before, so whatever remembers keys is tried, and everything that may remember them is
//! full before the first reading: the memory tier up to its capacity, and the memo of derivations up to its bound. A reload
//! begins a new memo, so both readings are taken after it has been filled once more.
//!
//! `make soak` runs the long form, 1,000 reloads and 1,000,000 calls, which takes minutes. `LARDER_SOAK=RELOADS,CALLS` says
//! other numbers.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::{Client, Larder, Usage, wait};

/// The short form, for every run of the tests.
const SHORT: (usize, usize) = (60, 40_000);
/// Clients at once, and so the connections to the server.
const CLIENTS: usize = 32;
/// The memory tier's capacity: a few thousand of the entries here.
const CAPACITY: &str = "16MiB";
/// The length of a key in bytes. Long, so that the 32 MiB of the memo are full after [`FILLING`] calls.
const KEY: usize = 1000;
/// Calls that fill the memo, each of which leaves at least its path, its part and its key there, and the memory tier.
const FILLING: usize = 16_000;
/// What comes before the first reading.
const WARM_RELOADS: usize = 150;
const WARM_CALLS: usize = 15_000;
/// Descriptors that come and go: a watched directory, a connection of the operator's client. A leak grows with the reloads
/// or the calls.
const DESCRIPTORS_FLOOR: usize = 8;
/// Of how many looks in a row the lowest counts as resting.
const LOOKS: usize = 40;

fn numbers() -> (usize, usize) {
    let given = std::env::var("LARDER_SOAK").ok();
    given.map_or(SHORT, |given| {
        let (reloads, calls) = given.split_once(',').expect("RELOADS,CALLS");
        let number = |text: &str| text.trim().parse().expect("a whole number");
        (number(reloads), number(calls))
    })
}

struct Soak {
    larder: Larder,
    /// A connection each.
    clients: Vec<Client>,
    /// Of all keys so far.
    asked: AtomicUsize,
}

impl Soak {
    async fn start() -> Self {
        let larder = Larder::with()
            .plugin("demo", "[config]\nlatency_ms = 0\n")
            .section(&format!("[memory]\ncapacity = \"{CAPACITY}\""))
            .route("/soak/{key}", "demo", "ttl = \"1h\"")
            .start()
            .await;
        let address = larder.public.address();
        Self {
            clients: (0..CLIENTS).map(|_| Client::new(address)).collect(),
            larder,
            asked: AtomicUsize::new(0),
        }
    }

    /// So many loads by [`CLIENTS`] clients, each of a new key, that are stored.
    async fn call(&self, calls: usize) {
        let clients = self.clients.iter().map(async |client| {
            for _ in 0..calls / CLIENTS {
                let key = self.asked.fetch_add(1, Ordering::Relaxed);
                let answer = client.get(&format!("/soak/{key:0>KEY$}")).await;
                answer.expect(200, "larder; fwd=uri-miss; stored");
            }
        });
        join_all(clients).await;
    }

    /// So many calls, and so many reloads evenly among them. Another sidecar is another version: compiled code is mapped,
    /// an instance started, the old one stopped.
    async fn call_and_reload(&self, calls: usize, reloads: usize) {
        tokio::join!(self.call(calls), self.reload(calls, reloads));
    }

    async fn reload(&self, calls: usize, reloads: usize) {
        let begin = self.asked.load(Ordering::Relaxed);
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        for reload in 0..reloads {
            while self.asked.load(Ordering::Relaxed)
                < begin + calls / CLIENTS * CLIENTS * reload / reloads
            {
                tick.tick().await;
            }
            let sidecar = format!("[config]\ntext = \"{reload}\"\nlatency_ms = 0\n");
            self.larder.sidecar("demo", &sidecar);
            let answer = self.larder.reload("demo").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }

    /// What the server uses with everything full that may be, when it has come to rest: the lowest of [`LOOKS`] readings,
    /// for what it gives back it gives back in its own time. Old versions have ended, and their descriptors are closed.
    async fn at_rest(&self) -> Usage {
        self.call(FILLING).await;
        let (mut lowest, mut looks) = (self.larder.usage(), 0);
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let until = Instant::now() + wait::PATIENCE;
        while looks < LOOKS && Instant::now() < until {
            tick.tick().await;
            let now = self.larder.usage();
            // A new lowest begins the count anew.
            looks += 1;
            if now.descriptors < lowest.descriptors || now.resident + (64 << 10) < lowest.resident {
                looks = 0;
            }
            lowest.resident = lowest.resident.min(now.resident);
            lowest.descriptors = lowest.descriptors.min(now.descriptors);
        }
        lowest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_12_reloads_and_calls_leave_nothing_behind() {
    let (reloads, calls) = numbers();
    let soak = Soak::start().await;
    // To begin with: everything that is made once is made, and the allocators have their caches. The one that gives
    // instances their memory keeps some of each place that was ever used, and gives out the places in turn.
    soak.call_and_reload(WARM_CALLS, WARM_RELOADS).await;
    let before = soak.at_rest().await;
    soak.call_and_reload(calls, reloads).await;
    let after = soak.at_rest().await;
    let told = format!(
        "soak: {reloads} reloads, {calls} calls: {:.1} → {:.1} MiB, {} → {} descriptors\n",
        before.mebibytes(),
        after.mebibytes(),
        before.descriptors,
        after.descriptors
    );
    let _ = std::io::stderr().write_all(told.as_bytes());
    let most = before.resident + before.resident / 20;
    assert!(after.resident <= most, "memory grows: {told}");
    assert!(
        after.descriptors <= before.descriptors + DESCRIPTORS_FLOOR,
        "descriptors leak: {told}"
    );
}
