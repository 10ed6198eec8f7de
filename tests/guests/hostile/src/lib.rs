//! `hostile`: a loader and key policy that does the one harmful thing that its `[config]` says, whoever asks.
//!
//! | `do` | as a loader |
//! |---|---|
//! | `loop`, `recurse`, `trap`, `panic` | computes for ever; recurses for ever; traps; panics |
//! | `sleep` | waits in the host for an hour |
//! | `memory`, `handles`, `random` | allocates for ever; holds a million timers; asks for 1 GiB of random bytes |
//! | `output`, `host-data` | answers as much of 1 GiB as there is memory for; logs a message of 32 MiB |
//! | `log`, `escapes` | logs 100,000 lines; panics with what a terminal obeys, after logging it |
//! | `headers`, `content-type` | answers header fields (a content type) with line breaks |
//! | `ttl` | answers with the longest time to live there is |
//! | `fetch`, `inflate`, `connections` | GETs `target`; unpacks what it says; GETs it 1,000 times at once |
//! | `look-up`, `connect` | looks `target` up; connects to it |
//!
//! | `do` | as a key policy, beside the parts that it should give |
//! |---|---|
//! | `loop`, `panic` | computes for ever; panics |
//! | `count` | adds how often this instance has been asked |
//! | `empty`, `large`, `binary` | gives an empty part alone; adds 10 MiB; adds every control character |
//! | `not-text` | adds bytes that are not UTF-8 |
//! | `impersonate` | gives the parts of `target`, as if another route had been asked |
//!
//! A loader that gets through it answers `{"did": text}`. It uses WASI 0.2 alone: a key policy may import no async function.

mod network;

use std::cell::Cell;
use std::hint::black_box;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:hostile;
        world hostile {
            include larder:plugin/loader-plugin@0.1.0;
            include larder:plugin/key-policy-plugin@0.1.0;
            export larder:plugin/metadata@0.1.0;
        }
    ",
    generate_all,
});

use exports::larder::plugin::key_policy::{self, Decision, Request};
use exports::larder::plugin::{loader, metadata};
use larder::plugin::log::{self, Level};
use larder::plugin::settings;
use larder::plugin::types::{
    Derivation, Entry, Failure, FailureKind, Outcome, Param, Question, Visibility,
};

/// What a terminal obeys: a new title, a cleared screen, a line that looks like the host's, text turned around.
const ESCAPES: &str = "\x1b]0;owned\x07\x1b[2J\x1b[31m\r\n2026-01-01T00:00:00Z ERROR larder: forged \u{9b}1m \u{202e}";

struct Hostile;
export!(Hostile);

#[derive(Deserialize, Default)]
#[serde(default)]
struct Settings {
    r#do: String,
    target: String,
}

fn configured() -> Settings {
    serde_json::from_str(&settings::get()).unwrap_or_default()
}

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

impl loader::Guest for Hostile {
    async fn load(_: Question) -> Result<Outcome, Failure> {
        let Settings { r#do: what, target } = configured();
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
        let did = match &*what {
            "output" => {
                entry.body = as_large_as_can_be();
                return Ok(Outcome::Found(entry));
            }
            "headers" => {
                for (name, value) in [
                    ("x-split", "a\r\nx-smuggled: b"),
                    ("x-also\r\nx-smuggled", "a"),
                    ("set-cookie", "a=b"),
                    ("x-good", "kept"),
                ] {
                    entry.headers.push(param(name, value.to_owned()));
                }
                "headers".to_owned()
            }
            "content-type" => {
                entry.content_type = Some("text/html\r\nx-smuggled: b".to_owned());
                String::new()
            }
            "ttl" => {
                entry.ttl_ms = Some(u64::MAX);
                "ttl".to_owned()
            }
            "fetch" => format!("status {}", network::fetch(&target).map_err(unreachable)?.0),
            "inflate" => {
                let packed = network::fetch(&target).map_err(unreachable)?.1;
                format!("{} bytes", network::inflate(&packed).map_err(unreachable)?)
            }
            "connections" => network::at_once(&target, 1000).map_err(unreachable)?,
            "look-up" => network::look_up(&target).map_err(unreachable)?,
            "connect" => network::connect(&target).map_err(unreachable)?,
            _ => {
                misbehave(&what);
                what
            }
        };
        entry.body = json!({ "did": did }).to_string().into_bytes();
        Ok(Outcome::Found(entry))
    }
}

impl key_policy::Guest for Hostile {
    fn derive(request: Request) -> Decision {
        let Settings { r#do: what, target } = configured();
        ASKED.set(ASKED.get() + 1);
        let mut parts = request.path;
        match &*what {
            "count" => parts.push(param("count", ASKED.get().to_string())),
            "empty" => parts = vec![param("", String::new())],
            "large" => parts.push(param("large", "x".repeat(10 << 20))),
            "binary" => parts.push(param("binary", ('\0'..'\u{a0}').collect())),
            "not-text" => {
                // SAFETY: there is none: what is not UTF-8 is no `String`. It is never looked at here, only handed over.
                let bytes = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, 0xc0]) };
                parts.push(param("binary", bytes));
            }
            "impersonate" => {
                let key = parts.pop().map_or(String::new(), |part| part.value);
                parts = vec![param("key", key), param("route", target)];
            }
            _ => misbehave(&what),
        }
        Decision::Cache(Derivation {
            parts,
            visibility: Visibility::Public,
            hints: Vec::new(),
        })
    }
}

impl metadata::Guest for Hostile {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "hostile".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "Does one harmful thing.",
                "additional_parameters": true,
                "settings": {
                    "type": "object", "additionalProperties": false, "required": ["do"],
                    "properties": { "do": { "type": "string" }, "target": { "type": "string" } },
                },
            })
            .to_string(),
        }
    }
}

fn param(name: &str, value: String) -> Param {
    Param {
        name: name.to_owned(),
        value,
    }
}

fn unreachable(why: String) -> Failure {
    Failure {
        kind: FailureKind::Unavailable,
        code: "source-unreachable".to_owned(),
        message: why,
        retry_after_ms: None,
        details: Vec::new(),
    }
}

/// What needs nothing of the question. Comes back only from what ends.
fn misbehave(what: &str) {
    match what {
        "loop" => loop {
            black_box(());
        },
        "recurse" => {
            black_box(recurse(black_box(1)));
        }
        "trap" => trap(),
        "panic" => panic!("the guest panics on purpose"),
        "sleep" => wasip2::clocks::monotonic_clock::subscribe_duration(3_600_000_000_000).block(),
        "memory" => {
            let mut held = Vec::new();
            loop {
                held.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "handles" => {
            let timer = || wasip2::clocks::monotonic_clock::subscribe_duration(u64::MAX / 2);
            std::mem::forget((0..1_000_000).map(|_| timer()).collect::<Vec<_>>());
        }
        "random" => {
            black_box(wasip2::random::random::get_random_bytes(1 << 30));
        }
        "host-data" => log::log(Level::Info, &"x".repeat(32 << 20), &[]),
        "log" => (0..100_000).for_each(|_| log::log(Level::Info, &"x".repeat(100), &[])),
        "escapes" => {
            log::log(Level::Warn, ESCAPES, &[param(ESCAPES, ESCAPES.to_owned())]);
            eprintln!("{ESCAPES}");
            panic!("{ESCAPES}");
        }
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

/// 1 GiB, or a half of it, or a quarter, until there is memory for it.
fn as_large_as_can_be() -> Vec<u8> {
    let sizes = (0..30).map(|halved| (1_usize << 30) >> halved);
    let mut body = Vec::new();
    for size in sizes {
        if body.try_reserve_exact(size).is_ok() {
            body.resize(size, b'x');
            break;
        }
    }
    body
}
