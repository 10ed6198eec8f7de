//! `batching`: a loader that takes batches, and says of each answer which batch it came in. It exports `loader` too, which
//! panics: a component that exports both is used through `batch-loader`.
//!
//! The answer: `{"key": K, "batch": N, "size": S, "deadline_ms": D, "keys": [...]}`: N counts the batches of this instance
//! from 1, S is the number of questions in it, `keys` are all their keys, in their order.
//!
//! | the part `key` is | its question |
//! |---|---|
//! | `missing…` | is answered with an absence |
//! | `fail…` | fails as unavailable, code `told-to` |
//! | `large…` | has a body of 2 MiB beside that |
//!
//! | among the keys of a batch is | the whole batch |
//! |---|---|
//! | `short…` | has one result too few |
//! | `long…` | has one result too many |
//! | `panic…` | panics |
//! | `hang…` | never ends |
//! | `slow-MS…` | is answered after so many milliseconds |

use larder_plugin_support::{Entry, Failure, FailureKind, Outcome, Question, part};
use serde_json::json;
use std::cell::Cell;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:batching;
        world batching {
            include larder:plugin/batch-loader-plugin@0.1.0;
            include larder:plugin/loader-plugin@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

use exports::larder::plugin::{batch_loader, loader};

struct Batching;
export!(Batching);

thread_local! {
    static BATCHES: Cell<u64> = const { Cell::new(0) };
}

impl loader::Guest for Batching {
    async fn load(_: Question) -> Result<Outcome, Failure> {
        panic!("it is to be used through batch-loader");
    }
}

impl batch_loader::Guest for Batching {
    async fn load_many(questions: Vec<Question>) -> Vec<Result<Outcome, Failure>> {
        let batch = BATCHES.get() + 1;
        BATCHES.set(batch);
        let keys: Vec<&str> = questions.iter().map(key).collect();
        let has = |start: &str| keys.iter().any(|key| key.starts_with(start));
        assert!(!has("panic"), "the guest panics on purpose");
        if has("hang") {
            wasip3::clocks::monotonic_clock::wait_for(u64::MAX).await;
        }
        let slow = keys.iter().find_map(|key| key.strip_prefix("slow-"));
        if let Some(slow) = slow {
            let ms = slow.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
            wasip3::clocks::monotonic_clock::wait_for(ms.unwrap_or(0) * 1_000_000).await;
        }
        let mut answers: Vec<_> = questions
            .iter()
            .map(|question| answer(question, batch, &keys))
            .collect();
        if has("short") {
            answers.pop();
        }
        if has("long") {
            answers.push(Ok(Outcome::nothing()));
        }
        answers
    }
}

fn key(question: &Question) -> &str {
    part(&question.target.parts, "key").unwrap_or_default()
}

fn answer(question: &Question, batch: u64, keys: &[&str]) -> Result<Outcome, Failure> {
    let key = key(question);
    if key.starts_with("missing") {
        return Ok(Outcome::nothing());
    }
    if key.starts_with("fail") {
        return Err(Failure::new(
            FailureKind::Unavailable,
            "told-to",
            "the key told the loader to fail".to_owned(),
        ));
    }
    let filling = if key.starts_with("large") { 2 << 20 } else { 0 };
    let body = json!({
        "key": key,
        "batch": batch,
        "size": keys.len(),
        "deadline_ms": question.target.deadline_ms,
        "keys": keys,
        "filling": "x".repeat(filling),
    });
    Ok(Outcome::Found(Entry::new(
        "application/json",
        body.to_string().into_bytes(),
    )))
}
