//! `POST /_batch`: many reads in one request, as a consumer sees them.

use std::collections::HashMap;

use bytes::Bytes;
use http::Method;
use larder_tests::{Answer, Larder, Origin, Value, before, eventually, json};

async fn ask(larder: &Larder, paths: &[&str]) -> Answer {
    larder.public.post("/_batch", &json!(paths)).await
}

/// The items, in the order in which they came.
fn items(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

fn by_path(answer: &Answer) -> HashMap<String, Value> {
    let items = items(answer).into_iter();
    items
        .map(|item| (item["path"].as_str().expect("a path").to_owned(), item))
        .collect()
}

#[tokio::test]
async fn each_path_is_answered_once_as_a_get_of_its_own_is() {
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route(
            "/data/{key}",
            "demo",
            "ttl = \"1h\"\nparams.page = { type = \"integer\" }",
        )
        .start()
        .await;
    let seen = larder.get("/data/a").await;
    let paths = [
        "/data/a",
        "/data/b?page=2",
        "/data/c?page=x",
        "/nowhere",
        "data/d",
        "/data/a",
    ];
    let answer = ask(&larder, &paths).await;
    assert_eq!(
        items(&answer).len(),
        paths.len(),
        "one that is asked for twice is told twice"
    );
    let items = by_path(&answer);
    let hit = &items["/data/a"];
    assert_eq!(hit["status"], 200);
    assert!(
        hit["cache_status"]
            .as_str()
            .unwrap()
            .ends_with("detail=memory"),
        "{hit}"
    );
    assert_eq!(hit["body"], seen.json());
    assert_eq!(hit["etag"].as_str(), seen.header("etag"));
    assert!(hit["age"].is_u64(), "{hit}");
    assert_eq!(
        items["/data/b?page=2"]["cache_status"],
        "larder; fwd=uri-miss; stored"
    );
    let unfit = &items["/data/c?page=x"];
    assert_eq!(
        (&unfit["status"], &unfit["body"]["code"]),
        (&json!(422), &json!("invalid-request"))
    );
    assert_eq!(items["/nowhere"]["status"], 404);
    assert_eq!(items["data/d"]["body"]["code"], "invalid-path");
    let metrics = larder.metrics().await;
    assert_eq!(metrics.sum("larder_batch_requests_total"), 1.0);
    assert_eq!(metrics.sum("larder_batch_items_total"), 6.0);
    // One GET before, and four items that have the route.
    assert_eq!(metrics.sum("larder_requests_total"), 5.0);
}

#[tokio::test]
async fn misses_share_the_calls_of_a_loader_that_takes_batches() {
    let larder = Larder::with()
        .guest("batching", "[limits]\ntimeout = \"20s\"\n")
        .route(
            "/things/{key}",
            "batching",
            "batch_window = \"8s\"\ntimeout = \"20s\"\n",
        )
        .start()
        .await;
    let paths: Vec<String> = (0..100).map(|i| format!("/things/k{i}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let answer = ask(&larder, &paths).await;
    for item in items(&answer) {
        assert_eq!(item["body"]["size"], 100, "{item}");
    }
    let metrics = larder.metrics().await;
    assert_eq!(metrics.sum("larder_batches_total"), 1.0);
}

#[tokio::test]
async fn what_is_there_is_told_before_what_is_slow() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1h\"\ntimeout = \"20s\"")
        .start()
        .await;
    larder.get("/things/there").await;
    let gate = origin.gate("/slow");
    let paths = json!(["/things/slow", "/things/there"]);
    let mut connection = larder.public.connect().await;
    let body = paths.to_string();
    let request = format!(
        "POST /_batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.send(request.as_bytes()).await;
    let first = connection.until("/things/there").await;
    assert!(!first.contains("/things/slow"), "{first}");
    gate.open();
    let rest = connection.until("/things/slow").await;
    assert!(rest.contains("\"status\":200"), "{rest}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_no_load_and_leaves_nothing_behind() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1h\"\ntimeout = \"20s\"")
        .start()
        .await;
    let gate = origin.gate("/slow");
    let mut connection = larder.public.connect().await;
    let body = r#"["/things/slow"]"#;
    let head = format!(
        "POST /_batch HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.send(head.as_bytes()).await;
    connection.send(body.as_bytes()).await;
    eventually("the load has begun", async || {
        (origin.total() == 1).then_some(())
    })
    .await;
    drop(connection);
    gate.open();
    eventually("what was loaded is kept", async || {
        let answer = larder.get("/things/slow").await;
        answer
            .cache_status()
            .contains("detail=memory")
            .then_some(())
    })
    .await;
    assert_eq!(origin.total(), 1);
}

#[tokio::test]
async fn law_12_what_is_no_list_of_paths_is_refused_whole() {
    let larder = Larder::with()
        .plugin("demo", "")
        .route("/data/{key}", "demo", "")
        .server("body_bytes = \"16KiB\"")
        .start()
        .await;
    for body in ["", "{", "{\"paths\": []}", "[1]", "\"/data/1\""] {
        let fields = [("content-type", "application/json")];
        let body = Bytes::copy_from_slice(body.as_bytes());
        let answer = larder
            .public
            .request(Method::POST, "/_batch", &fields, body)
            .await;
        answer.expect_problem(422, "batch-invalid");
        assert!(answer.text().contains("send for example"), "{answer:?}");
    }
    let many = vec!["/data/1"; 1001];
    let answer = ask(&larder, &many).await;
    answer.expect_problem(422, "batch-invalid");
    assert!(
        answer.text().contains("1001 paths, and 1000 at most"),
        "{answer:?}"
    );
    let fields = [("content-type", "text/plain")];
    let answer = larder
        .public
        .request(Method::POST, "/_batch", &fields, "[]".into())
        .await;
    answer.expect_problem(415, "content-type-unsupported");
    // Not so long that the client is still sending when it is answered.
    let long = json!(["/data/".to_owned() + &"x".repeat(17 << 10)]);
    larder
        .public
        .post("/_batch", &long)
        .await
        .expect_problem(413, "body-too-long");
    assert!(items(&ask(&larder, &[]).await).is_empty());
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = larder
            .public
            .request(method, "/_batch", &[], Bytes::new())
            .await;
        answer.expect_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("POST"));
    }
}
