//! `faulty-blocking`: a blocking loader that does what the part `key` says. Not described.
//!
//! An answer is `{"data": key, "load": N}`, where N counts the loads that this instance has begun, from 1.
//!
//! | `key` | what it does |
//! |---|---|
//! | `ok-…` | answers |
//! | `slow-MS`, `hang` | answers after MS milliseconds; blocks for ever |
//! | `panic`, `loop`, `bomb` | panics; computes for ever; allocates for ever |

use serde_json::json;
use std::cell::Cell;
use std::hint::black_box;
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
use larder::plugin::types::{Entry, Failure, Outcome, Question};

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
