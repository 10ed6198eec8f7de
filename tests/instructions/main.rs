//! How many instructions the server executes for a request, as callgrind counts them, beside what it was when somebody last
//! looked: so a slow-down is seen on the day it lands, on any machine, however busy. Knows the ways of a request and what
//! is stored of them; nothing of what takes how long by the clock, which is `bench/`'s.
//!
//! `UPDATE_INSTRUCTIONS=1` stores what is counted: for a change that is worth it, or that made it better.

mod callgrind;
mod client;
mod stored;

use larder_tests::{Builder, Larder, Redis};

use callgrind::Callgrind;
use client::Client;
use stored::Counts;

/// Keys that are there.
const KEYS: usize = 100;
/// Turns that each way is counted in; the median is taken, for the server has other things to do now and then.
const TURNS: usize = 3;
/// Requests of a turn. Of the calls of a key policy every 256th is made twice, so each turn has its share of these.
const REQUESTS: usize = 512;
/// Of the way before it is counted: whatever is made on first use is made, and every table has grown.
const WARMING: usize = 300;

/// One way of a request.
struct Way {
    name: &'static str,
    /// The path of the n-th request.
    path: fn(usize) -> String,
    /// Further lines of its head.
    head: &'static str,
    /// What its answer must hold.
    expected: &'static [&'static str],
}

const TENANT: &str = "x-tenant: acme\r\n";
const MEMORY_HIT: &[&str] = &["HTTP/1.1 200 ", "larder; hit; ttl=", "detail=memory"];
const REDIS_HIT: &[&str] = &["HTTP/1.1 200 ", "larder; hit; ttl=", "detail=redis"];

/// What is asked of a server with a memory tier.
const IN_MEMORY: &[Way] = &[
    Way {
        name: "memory hit, native key",
        path: |n| format!("/native/{}", n % KEYS),
        head: "",
        expected: MEMORY_HIT,
    },
    Way {
        name: "memory hit, policy remembered",
        path: |n| format!("/policy/{}", n % KEYS),
        head: TENANT,
        expected: MEMORY_HIT,
    },
    // The policy does not look at the query, so it is another request of the same key.
    Way {
        name: "memory hit, policy called",
        path: |n| format!("/policy/{}?new={n}", n % KEYS),
        head: TENANT,
        expected: MEMORY_HIT,
    },
    Way {
        name: "memory hit, 304",
        path: |n| format!("/native/{}", n % KEYS),
        head: "if-none-match: *\r\n",
        expected: &["HTTP/1.1 304 ", "larder; hit; ttl=", "detail=memory"],
    },
    Way {
        name: "miss, Rust loader",
        path: |n| format!("/native/new-{n}"),
        head: "",
        expected: &["HTTP/1.1 200 ", "larder; fwd=uri-miss; stored"],
    },
];

/// What is asked of one without.
const IN_REDIS: &[Way] = &[
    Way {
        name: "Redis hit, native key",
        path: |n| format!("/native/{}", n % KEYS),
        head: "",
        expected: REDIS_HIT,
    },
    Way {
        name: "Redis hit, policy remembered",
        path: |n| format!("/policy/{}", n % KEYS),
        head: TENANT,
        expected: REDIS_HIT,
    },
];

/// Two routes to an instant loader, whose answers are as long as the benchmark's.
fn server() -> Builder {
    let text = format!("Data for key {{key}}{}", "x".repeat(260));
    Larder::with()
        .plugin(
            "demo",
            &format!("[config]\ntext = {text:?}\nlatency_ms = 0\n"),
        )
        .plugin("tenant-key", "[config]\nheader = \"x-tenant\"\n")
        .route("/native/{key}", "demo", "ttl = \"1h\"")
        .route(
            "/policy/{key}",
            "demo",
            "ttl = \"1h\"\nkey = \"tenant-key\"\nkey_headers = [\"x-tenant\"]",
        )
}

/// Counts each of these ways on one server, one after another.
async fn count(server: Builder, ways: &[Way]) -> Counts {
    let mut callgrind = Callgrind::start(server).await;
    let mut client = Client::connect(callgrind.larder().public.address()).await;
    for n in 0..KEYS {
        client.ask(&format!("/native/{n}"), "").await;
        client.ask(&format!("/policy/{n}"), TENANT).await;
    }
    let mut counts = Counts::default();
    for way in ways {
        let mut asked = 0;
        let mut ask = async |requests: usize| {
            for _ in 0..requests {
                let answer = client.ask(&(way.path)(asked), way.head).await;
                let all = way.expected.iter().all(|part| answer.contains(part));
                assert!(all, "{}: request {asked}: {answer}", way.name);
                asked += 1;
            }
        };
        ask(WARMING).await;
        callgrind.begin().await;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            ask(REQUESTS).await;
            turns.push(callgrind.instructions().await / REQUESTS as u64);
        }
        turns.sort_unstable();
        let each = turns[TURNS / 2];
        println!("{}: {each} of {turns:?}", way.name);
        counts.insert(way.name.to_owned(), each);
    }
    counts
}

#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "what is stored is of x86-64")]
async fn no_way_of_a_request_takes_more_instructions_than_it_did() {
    let redis = Redis::start().await;
    // In valgrind an answer of Redis is late by its usual measure, and would be done without.
    let in_redis = server()
        .redis(&redis.url())
        .env("LARDER_REDIS_TIMEOUT", "10s")
        .no_memory();
    let (mut counted, of_redis) =
        tokio::join!(count(server(), IN_MEMORY), count(in_redis, IN_REDIS));
    counted.extend(of_redis);
    stored::compare(&counted);
}
