//! `faulty-blocking`: a blocking loader that does what the part `key` says. Not described.
//!
//! An answer is `{"data": key, "load": N}`, where N counts the loads that this instance has begun, from 1.
//!
//! | `key` | what it does |
//! |---|---|
//! | `ok-…` | answers |
//! | `slow-MS`, `hang` | answers after MS milliseconds; blocks for ever |
//! | `panic`, `loop`, `bomb` | panics; computes for ever; allocates for ever |
//! | `get-PORT-NAME` | answers when a server on that port of 127.0.0.1 has answered to a GET of `/NAME` |

use serde_json::json;
use std::cell::Cell;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:faulty-blocking;
        world faulty-blocking { include larder:plugin/blocking-loader-plugin@0.1.0; }
    ",
    generate_all,
});

use exports::larder::plugin::blocking_loader;
use larder::plugin::types::{Entry, Failure, FailureKind, Outcome, Question};

struct FaultyBlocking;
export!(FaultyBlocking);

thread_local! {
    static LOADS: Cell<u64> = const { Cell::new(0) };
}

impl blocking_loader::Guest for FaultyBlocking {
    fn load(question: Question) -> Result<Outcome, Failure> {
        LOADS.set(LOADS.get() + 1);
        let key = question
            .target
            .parts
            .iter()
            .find(|part| part.name == "key")
            .map_or("", |part| &part.value);
        match key.split_once('-').unwrap_or((key, "")) {
            ("slow", ms) => block(Duration::from_millis(ms.parse().unwrap_or_default())),
            ("hang", _) => block(Duration::from_secs(u64::from(u32::MAX))),
            ("panic", _) => panic!("the guest panics on purpose"),
            ("loop", _) => loop {
                black_box(());
            },
            ("bomb", _) => {
                let mut held = Vec::new();
                loop {
                    held.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            ("get", from) => get(from).map_err(|fault| Failure {
                kind: FailureKind::Unavailable,
                code: "origin-unreachable".to_owned(),
                message: fault.to_string(),
                retry_after_ms: None,
                details: Vec::new(),
            })?,
            _ => {}
        }
        Ok(Outcome::Found(Entry {
            status: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            body: json!({ "data": key, "load": LOADS.get() })
                .to_string()
                .into_bytes(),
            validator: None,
            ttl_ms: None,
            tags: Vec::new(),
            hints: Vec::new(),
        }))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a blocking loader has no other way to wait"
)]
fn block(time: Duration) {
    std::thread::sleep(time);
}

/// Waits for the whole answer.
fn get(from: &str) -> std::io::Result<()> {
    let (port, name) = from.split_once('-').unwrap_or((from, ""));
    let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap_or_default()))?;
    write!(
        stream,
        "GET /{name} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    )?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}
