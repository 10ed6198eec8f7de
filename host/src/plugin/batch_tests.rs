//! Batches, with a guest that says of each answer which batch it came in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::super::testing::{Launch, engine, found, json};
use crate::cache::{Batching, Loader, Outcome, Question};
use crate::config::PluginLimits;
use crate::error::{Failure, FailureKind, Origin};
use crate::key::Param;

/// So long that only a full batch goes before it.
const LONG: Duration = Duration::from_secs(10);

/// Asks for a key in the time that the plugin's own limit leaves.
async fn ask(
    loader: &Arc<dyn Loader>,
    key: impl Into<String>,
    (window, max): (Duration, usize),
) -> Result<Outcome, Failure> {
    let question = Question {
        route: "/data/{key}".into(),
        parts: vec![Param::new("key", key)].into(),
        timeout: Duration::from_secs(30),
        traceparent: None,
        known: None,
        batching: Batching { window, max },
    };
    loader.load(question).await
}

async fn batching(timeout: fn(&mut super::super::Limits)) -> Arc<dyn Loader> {
    Launch::new("batching").tune(timeout).loader().await
}

/// Asks for all keys at once, as one full batch.
async fn ask_together(loader: &Arc<dyn Loader>, keys: &[&str]) -> Vec<Result<Outcome, Failure>> {
    join_all(keys.iter().map(|key| ask(loader, *key, (LONG, keys.len())))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_misses_are_one_call_and_each_has_its_own_answer() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(20)).await;
    let (batches, questions) = engine().tally().read();
    let answers = join_all((0..100).map(|i| ask(&loader, format!("k{i}"), (LONG, 100)))).await;
    for (i, answer) in answers.into_iter().enumerate() {
        let answer = json(answer);
        assert_eq!(answer["key"], format!("k{i}"));
        assert_eq!(
            (&answer["batch"], &answer["size"]),
            (&1.into(), &100.into())
        );
    }
    // The engine is shared by all tests, which may run meanwhile.
    let (batches_now, questions_now) = engine().tally().read();
    assert!(batches_now > batches && questions_now >= questions + 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_and_absences_are_those_of_their_own_questions() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(20)).await;
    let answers = ask_together(&loader, &["a", "missing-1", "fail-1", "b"]).await;
    let [a, missing, fail, b] = answers.try_into().unwrap();
    assert_eq!(json(a)["size"], 4);
    assert!(matches!(missing, Ok(Outcome::Missing(_))));
    assert_eq!(fail.unwrap_err().code, "told-to");
    assert_eq!(json(b)["batch"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_another_length_fails_all_of_its_batch_and_no_other() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(20)).await;
    for (wrong, given) in [("short", "2 results"), ("long", "4 results")] {
        for answer in ask_together(&loader, &["a", wrong, "b"]).await {
            let failed = answer.unwrap_err();
            assert_eq!(
                (&*failed.code, failed.kind, failed.origin),
                ("batch-length", FailureKind::Internal, Origin::Returned)
            );
            assert!(
                failed.message.contains("3 questions") && failed.message.contains(given),
                "{failed}"
            );
        }
    }
    let answers = ask_together(&loader, &["a", "b"]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_9_of_a_batch_that_traps_each_question_is_asked_again_alone() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(20)).await;
    let answers = ask_together(&loader, &["a", "panic", "b"]).await;
    let [a, panicked, b] = answers.try_into().unwrap();
    for answer in [a, b] {
        let answer = json(answer);
        // Alone, and the first batch of its instance.
        assert_eq!((&answer["batch"], &answer["size"]), (&1.into(), &1.into()));
    }
    let panicked = panicked.unwrap_err();
    assert_eq!((&*panicked.code, panicked.origin), ("trap", Origin::Trap));
    assert!(
        panicked.message.contains("the guest panics on purpose"),
        "{panicked}"
    );
    // The replacement answers.
    let answers = ask_together(&loader, &["c", "d"]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_batch_fails_its_members_with_timeout_and_its_instance_is_replaced() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(1)).await;
    for answer in ask_together(&loader, &["a", "hang", "b"]).await {
        let failed = answer.unwrap_err();
        assert_eq!(
            (&*failed.code, failed.origin),
            ("timeout", Origin::Limit),
            "{failed}"
        );
    }
    // A grace later its place is taken by another, which counts its batches from 1.
    let mut last = 1;
    let replaced = async {
        loop {
            let answer = json(ask(&loader, "ok", (Duration::ZERO, 100)).await);
            let batch = answer["batch"].as_u64().unwrap();
            if batch <= last {
                return;
            }
            last = batch;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), replaced)
        .await
        .expect("the instance is replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_question_keeps_its_own_deadline() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(20)).await;
    let question = |key: &str, timeout| Question {
        route: "/data/{key}".into(),
        parts: vec![Param::new("key", key)].into(),
        timeout,
        traceparent: None,
        known: None,
        batching: Batching {
            window: LONG,
            max: 2,
        },
    };
    // The batch is full with the second, so it goes at once; it is answered long after the first one's deadline.
    let (soon, later) = tokio::join!(
        loader.load(question("soon", Duration::from_secs(2))),
        loader.load(question("slow-4000", Duration::from_secs(20))),
    );
    assert_eq!(soon.unwrap_err().code, "timeout");
    let later = json(later);
    assert_eq!(later["size"], 2, "the first was in it");
    assert!(later["deadline_ms"].as_u64().unwrap() > 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_miss_waits_for_the_window_and_no_longer_than_half_of_its_time() {
    let loader = batching(|limits| limits.timeout = Duration::from_secs(8)).await;
    let asked = Instant::now();
    json(ask(&loader, "a", (Duration::from_millis(200), 100)).await);
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(190), "{took:?}");
    // The window is longer than the plugin may take: it is asked after half of that, and has the other half to answer.
    let asked = Instant::now();
    assert_eq!(json(ask(&loader, "b", (LONG, 100)).await)["size"], 1);
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(3_990), "{took:?}");
    // Without a window each is asked at once, alone.
    let answers = join_all(["c", "d"].map(|key| ask(&loader, key, (Duration::ZERO, 100)))).await;
    assert!(answers.into_iter().all(|answer| json(answer)["size"] == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_loader_answers_what_was_gathering() {
    let launched = Launch::new("batching")
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .launch()
        .await;
    let loader = Arc::clone(&launched.runtime).loader().unwrap();
    let gathering = {
        let mut asked = Box::pin(ask(&loader, "a", (LONG, 100)));
        // Polled once: it is in the batch now.
        assert!(futures_util::poll!(&mut asked).is_pending());
        asked
    };
    let began = Instant::now();
    launched.runtime.stop().await;
    assert_eq!(json(gathering.await)["size"], 1);
    assert!(began.elapsed() < LONG / 2, "it did not wait for its window");
    let late = ask(&loader, "b", (Duration::ZERO, 100)).await.unwrap_err();
    assert_eq!(late.code, "plugin-not-loaded");
}

/// A batch hands over the bodies of all its questions in one call: more than one body may have is allowed, as far as the
/// memory of the instance goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bodies_of_a_batch_may_be_larger_together_than_one_may_be() {
    let loader = Launch::new("batching")
        .limits(PluginLimits {
            body: Some(3 << 20),
            ..PluginLimits::default()
        })
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    let keys = ["large-1", "large-2", "large-3", "large-4", "large-5"];
    for answer in ask_together(&loader, &keys).await {
        let body = found(answer).body;
        assert!(body.len() > 2 << 20);
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["size"], 5, "in one call, not again each alone");
    }
}
