//! `faulty`: an async loader that does what the part `key` says. Not described, so the host knows nothing of it.
//!
//! An answer is `{"data": …, "load": N}`, where N counts the loads that this instance has begun, from 1.
//!
//! | `key` | what it does |
//! |---|---|
//! | `ok-…` | answers the key |
//! | `slow-MS` | answers after MS milliseconds |
//! | `panic`, `trap-now`, `exit` | panics; prints a line and traps; calls `exit(3)` |
//! | `loop`, `busy-MS` | computes for ever; for MS milliseconds without a wait, then answers |
//! | `hang`, `sleep-block` | waits for ever, letting others go on; blocks the thread for a minute |
//! | `recurse`, `bomb` | recurses for ever; allocates for ever |
//! | `huge`, `huge-N` | answers with as much of 1 GiB as there is memory for; with N bytes |
//! | `stderr-flood`, `log-flood` | prints (logs) 100,000 lines of 100 bytes, then answers |
//! | `fail-KIND` | fails with that kind, the code `faulty-KIND`, and 1,500 ms to retry after if `rate-limited` |
//! | `not-modified` | claims that nothing changed, whether or not there is a validator |
//! | `status-N` | answers with that status |
//! | `headers-bad` | answers with header fields that must not get through, and `x-good` that must |
//! | `env`, `fs`, `read-PATH` | what the environment holds; what comes of reading `/etc/passwd` (PATH) |
//! | `net-HOST:PORT`, `net-PORT` | what comes of connecting (to 127.0.0.1) by `std::net` |
//! | `fetch-URL`, `fetch2-URL` | what comes of a GET by `wasi:http` 0.3 (0.2) |
//! | `lookup-NAME`, `lookup3-NAME` | the addresses of a name by WASI 0.2 (0.3) |
//! | `echo-HOST:PORT`, `echo3-HOST:PORT` | what an echo there says to `hello`, by WASI 0.2 (0.3) |
//! | `reach-HOST:PORT`, `reach3-HOST:PORT` | as `echo`, and fails if it cannot |
//! | `many-N-HOST:PORT`, `many3-N-HOST:PORT` | how many of N connections can be open at once, by WASI 0.2 (0.3) |
//! | `listen-HOST:PORT`, `listen3` | what comes of listening by WASI 0.2 (0.3) |
//! | `udp-HOST:PORT`, `udp3` | what comes of a datagram by WASI 0.2 (of a socket for them by 0.3) |
//! | `leak-HOW-NAME` | says that secret: `log`, `stderr`, `panic`, or as the message of a `fail`ure |
//! | `secret-NAME` | what comes of asking for that secret |
//!
//! What comes of something is `{"ok": …}` or `{"error": text}` as the data.

mod outside;
mod sockets;

use serde_json::{Value, json};
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};
use wasip3::clocks::monotonic_clock::wait_for;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:faulty;
        world faulty { include larder:plugin/loader-plugin@0.1.0; }
    ",
    generate_all,
});

use exports::larder::plugin::loader;
use larder::plugin::log::{self, Level};
use larder::plugin::secrets;
use larder::plugin::types::{Entry, Failure, FailureKind, Outcome, Param, Question, Renewal};

struct Faulty;
export!(Faulty);

thread_local! {
    static LOADS: Cell<u64> = const { Cell::new(0) };
}

impl loader::Guest for Faulty {
    async fn load(question: Question) -> Result<Outcome, Failure> {
        LOADS.set(LOADS.get() + 1);
        let load = LOADS.get();
        let key = question
            .target
            .parts
            .iter()
            .find(|part| part.name == "key")
            .map_or("", |part| &part.value);
        let (verb, object) = match key {
            "stderr-flood" | "log-flood" | "headers-bad" | "not-modified" | "trap-now"
            | "sleep-block" => (key, ""),
            _ => key.split_once('-').unwrap_or((key, "")),
        };
        let number = || object.parse::<u64>().unwrap_or_default();
        let mut entry = Entry {
            status: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
            validator: None,
            ttl_ms: None,
            tags: Vec::new(),
            hints: Vec::new(),
        };
        let data = match verb {
            "slow" => {
                wait_for(number() * 1_000_000).await;
                Value::from(key)
            }
            "hang" => {
                wait_for(u64::MAX).await;
                Value::Null
            }
            "fail" => return Err(fail(object)),
            "not-modified" => {
                return Ok(Outcome::NotModified(Renewal {
                    ttl_ms: None,
                    hints: Vec::new(),
                }));
            }
            "huge" => {
                entry.content_type = Some("application/octet-stream".to_owned());
                entry.body = if object.is_empty() {
                    as_large_as_can_be()
                } else {
                    vec![b'x'; number() as usize]
                };
                return Ok(Outcome::Found(entry));
            }
            "status" => {
                entry.status = Some(number() as u16);
                Value::from(key)
            }
            "headers-bad" => {
                entry.headers = bad_headers();
                Value::from(key)
            }
            "env" => std::env::vars()
                .map(|(name, value)| json!([name, value]))
                .collect(),
            "fs" => outside::report(outside::read("/etc/passwd")),
            "read" => outside::report(outside::read(object)),
            "net" => outside::report(outside::connect(object)),
            "fetch" => outside::report(outside::fetch(object).await),
            "fetch2" => outside::report(outside::fetch2(object)),
            "lookup" => outside::report(sockets::look_up(object)),
            "lookup3" => outside::report(sockets::look_up3(object).await),
            "echo" => outside::report(sockets::echo(object)),
            "echo3" => outside::report(sockets::echo3(object).await),
            "reach" => sockets::echo(object)
                .map(Value::from)
                .map_err(unreachable)?,
            "reach3" => sockets::echo3(object)
                .await
                .map(Value::from)
                .map_err(unreachable)?,
            "many" => outside::report(sockets::many(object)),
            "many3" => outside::report(sockets::many3(object).await),
            "listen" => outside::report(sockets::listen(object)),
            "listen3" => outside::report(sockets::listen3()),
            "udp" => outside::report(sockets::udp(object)),
            "udp3" => outside::report(sockets::udp3()),
            "leak" => {
                leak(object)?;
                Value::from(key)
            }
            "secret" => outside::report(secrets::get(object).map_err(|error| format!("{error:?}"))),
            _ => {
                misbehave(verb, number());
                Value::from(key)
            }
        };
        entry.body = json!({ "data": data, "load": load })
            .to_string()
            .into_bytes();
        Ok(Outcome::Found(entry))
    }
}

/// What can be done without a wait. Comes back only from what ends, and from a verb that means nothing in particular.
fn misbehave(verb: &str, number: u64) {
    let line = "x".repeat(100);
    match verb {
        "panic" => panic!("the guest panics on purpose"),
        "trap-now" => {
            eprintln!("the guest traps on purpose");
            trap();
        }
        "exit" => std::process::exit(3),
        "loop" => loop {
            black_box(());
        },
        "busy" => {
            let end = Instant::now() + Duration::from_millis(number);
            while Instant::now() < end {}
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "to see what the host does with a guest that does this"
        )]
        "sleep-block" => std::thread::sleep(Duration::from_secs(60)),
        "recurse" => {
            black_box(recurse(black_box(1)));
        }
        "bomb" => {
            let mut held = Vec::new();
            loop {
                held.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "stderr-flood" => (0..100_000).for_each(|_| eprintln!("{line}")),
        "log-flood" => (0..100_000).for_each(|_| log::log(Level::Info, &line, &[])),
        _ => {}
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    unreachable!("guests run in WebAssembly")
}

#[expect(unconditional_recursion, reason = "that is the fault")]
fn recurse(depth: u64) -> u64 {
    // What is added after the call keeps it from becoming a loop, and the array fills the stack the sooner.
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[(depth % 64) as usize]
}

fn as_large_as_can_be() -> Vec<u8> {
    const PIECE: usize = 1 << 20;
    let mut body = Vec::new();
    while body.len() < 1 << 30 && body.try_reserve_exact(PIECE).is_ok() {
        body.resize(body.len() + PIECE, b'x');
    }
    body
}

fn fail(kind: &str) -> Failure {
    Failure {
        kind: match kind {
            "invalid-request" => FailureKind::InvalidRequest,
            "denied" => FailureKind::Denied,
            "conflict" => FailureKind::Conflict,
            "unavailable" => FailureKind::Unavailable,
            "timeout" => FailureKind::Timeout,
            "rate-limited" => FailureKind::RateLimited,
            _ => FailureKind::Internal,
        },
        code: format!("faulty-{kind}"),
        message: format!("the guest fails on purpose: {kind}"),
        retry_after_ms: (kind == "rate-limited").then_some(1500),
        details: vec![Param {
            name: "purpose".to_owned(),
            value: "test".to_owned(),
        }],
    }
}

fn unreachable(message: String) -> Failure {
    Failure {
        code: "source-unreachable".to_owned(),
        message,
        ..fail("unavailable")
    }
}

/// Says a secret where it should not be said.
fn leak(object: &str) -> Result<(), Failure> {
    let (how, name) = object.split_once('-').unwrap_or((object, "token"));
    let secret = secrets::get(name).unwrap_or_default();
    match how {
        "log" => {
            let field = Param {
                name: "authorization".to_owned(),
                value: format!("Bearer {secret}"),
            };
            log::log(Level::Warn, &format!("the token is {secret}"), &[field]);
        }
        "stderr" => {
            eprintln!("the token is {secret}");
            eprint!("and again {secret}");
            trap();
        }
        "panic" => panic!("the token is {secret}"),
        _ => {
            return Err(Failure {
                code: secret.clone(),
                message: format!("the token is {secret}"),
                details: vec![Param {
                    name: secret.clone(),
                    value: secret,
                }],
                ..fail("internal")
            });
        }
    }
    Ok(())
}

fn bad_headers() -> Vec<Param> {
    [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("trailer", "x-late"),
        ("proxy-connection", "close"),
        ("proxy-authenticate", "Basic"),
        ("content-length", "1"),
        ("set-cookie", "a=b"),
        ("Age", "7"),
        ("ETag", "\"mine\""),
        ("Cache-Control", "public, max-age=999999"),
        ("Cache-Status", "mine; hit"),
        ("x-split", "a\r\nx-smuggled: b"),
        ("x-nul", "a\0b"),
        ("bad name", "a"),
        ("", "a"),
        ("x-good", "kept"),
    ]
    .into_iter()
    .map(|(name, value)| Param {
        name: name.to_owned(),
        value: value.to_owned(),
    })
    .collect()
}
