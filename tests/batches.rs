//! Misses that come together reach a batching loader in one call, each with its own answer: what a consumer and an operator
//! see of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::{Answer, Larder, Value, json};

/// So long that only a full batch goes before it.
const LONG: &str = "batch_window = \"8s\"\ntimeout = \"20s\"\n";

/// `batching` behind `/things/{key}`, with these lines of the route.
async fn larder(settings: &str) -> Larder {
    Larder::with()
        .guest("batching", "[limits]\ntimeout = \"20s\"\n")
        .route("/things/{key}", "batching", settings)
        .start()
        .await
}

/// Asks for all keys at once.
async fn together(larder: &Larder, keys: &[&str]) -> Vec<Answer> {
    let paths: Vec<_> = keys.iter().map(|key| format!("/things/{key}")).collect();
    join_all(paths.iter().map(|path| larder.get(path))).await
}

/// Calls of the loader, and questions in them.
async fn batches(larder: &Larder) -> (f64, f64) {
    let metrics = larder.metrics().await;
    (
        metrics.sum("larder_batches_total"),
        metrics.sum("larder_batch_questions_total"),
    )
}

#[tokio::test]
async fn a_hundred_cold_keys_asked_together_are_one_call_of_the_loader() {
    let larder = larder(LONG).await;
    let keys: Vec<_> = (0..100).map(|i| format!("k{i}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    for (key, answer) in keys.iter().zip(together(&larder, &keys).await) {
        answer.expect(200, "larder; fwd=uri-miss; stored");
        let answer = answer.json();
        assert_eq!(answer["key"], *key, "each has its own answer");
        assert_eq!(
            (&answer["batch"], &answer["size"]),
            (&json!(1), &json!(100))
        );
    }
    assert_eq!(batches(&larder).await, (1.0, 100.0));
    larder
        .get("/things/k7")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn a_hundred_cold_keys_are_few_calls_with_the_settings_as_they_come() {
    let larder = larder("").await;
    let keys: Vec<_> = (0..100).map(|i| format!("k{i}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    for answer in together(&larder, &keys).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let (batches, questions) = batches(&larder).await;
    assert_eq!(questions, 100.0);
    // The window is a millisecond: how many come in it is the scheduler's to say, but never one each.
    assert!(batches < 100.0, "{batches} calls for 100 keys");
}

#[tokio::test]
async fn law_3_requests_for_one_key_are_one_question_of_a_batch() {
    let larder = larder(&format!("{LONG}batch_max = 2\n")).await;
    let answers = together(&larder, &["a", "a", "a", "b", "b"]).await;
    for answer in &answers {
        assert_eq!(answer.json()["size"], json!(2), "{answer:?}");
    }
    assert_eq!(batches(&larder).await, (1.0, 2.0));
}

#[tokio::test]
async fn absences_and_failures_in_a_batch_are_those_of_their_own_keys() {
    let larder = larder(&format!("{LONG}batch_max = 4\n")).await;
    let answers = together(&larder, &["a", "missing-1", "fail-1", "b"]).await;
    answers[0].expect(200, "larder; fwd=uri-miss; stored");
    answers[1].expect(404, "larder; fwd=uri-miss; stored");
    answers[2].expect_problem(502, "told-to");
    answers[3].expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(batches(&larder).await, (1.0, 4.0));
}

#[tokio::test]
async fn a_batch_with_another_number_of_results_fails_whole_and_says_so() {
    let larder = larder(&format!("{LONG}batch_max = 3\n")).await;
    for answer in together(&larder, &["a", "short", "b"]).await {
        let problem = answer.expect_problem(502, "batch-length");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("3 questions"), "{detail}");
    }
}

#[tokio::test]
async fn law_9_a_trap_in_a_batch_costs_only_the_key_that_traps() {
    let larder = larder(&format!("{LONG}batch_max = 10\n")).await;
    let keys = ["a", "b", "c", "d", "panic", "e", "f", "g", "h", "i"];
    for (key, answer) in keys.iter().zip(together(&larder, &keys).await) {
        if *key == "panic" {
            answer.expect_problem(502, "trap");
        } else {
            answer.expect(200, "larder; fwd=uri-miss; stored");
            assert_eq!(answer.json()["size"], json!(1), "it was asked again alone");
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_late_is_a_timeout_for_each_of_its_keys() {
    let larder = larder("batch_window = \"2s\"\ntimeout = \"5s\"\nbatch_max = 3\n").await;
    for answer in together(&larder, &["a", "hang", "b"]).await {
        answer.expect_problem(504, "timeout");
    }
}

#[tokio::test]
async fn a_full_batch_does_not_wait_and_a_lone_miss_waits_no_longer_than_its_window() {
    let window = Duration::from_secs(4);
    let larder = larder("batch_window = \"4s\"\ntimeout = \"20s\"\nbatch_max = 2\n").await;
    let asked = Instant::now();
    together(&larder, &["a", "b"]).await;
    assert!(asked.elapsed() < window, "they did not wait for more");
    let asked = Instant::now();
    let answer = larder.get("/things/alone").await;
    assert_eq!(answer.json()["size"], json!(1), "{answer:?}");
    let took = asked.elapsed();
    assert!(
        took >= window - Duration::from_millis(10) && took < 2 * window,
        "{took:?}"
    );
}

#[tokio::test]
async fn a_component_with_batch_loader_alone_is_a_loader() {
    let larder = Larder::with()
        .guest("batching", "")
        .guest(
            "feeding",
            "[config]\nurl = \"http://127.0.0.1:9\"\n[grants]\nhttp = [\"http://127.0.0.1:9\"]\n",
        )
        .route("/things/{key}", "batching", "")
        .start()
        .await;
    let plugin = larder.plugin("feeding").await;
    assert_eq!(plugin["kind"], "batch-loader");
    assert_eq!(plugin["kinds"], json!(["batch-loader", "change-feed"]));
    // One that exports `loader` too is used through `batch-loader`, and says that first.
    let plugin = larder.plugin("batching").await;
    assert_eq!(plugin["kinds"], json!(["batch-loader", "loader"]));
    let routes = larder.admin.get("/routes").await.json();
    let route: &Value = &routes[0];
    assert_eq!(
        (&route["batch_window"], &route["batch_max"]),
        (&json!("1ms"), &json!(100))
    );
}
