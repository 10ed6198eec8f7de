//! The tutorial, kept: what a caching tutorial teaches in a page of Python, asked of the finished server; and the examples.

use std::process::Stdio;
use std::time::{Duration, Instant};

use larder_tests::larder::{Home, Log, program, repository};
use larder_tests::{Larder, Redis, eventually, json};

#[tokio::test]
async fn the_second_answer_comes_from_the_cache() {
    let larder = Larder::with()
        .plugin("demo", "")
        .route("/data/{key}", "demo", "")
        .start()
        .await;
    let asked = Instant::now();
    let first = larder.get("/data/42").await;
    let slow = asked.elapsed();
    first.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(first.text(), "{\"data\":\"Data for key 42\"}");
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert!(
        slow >= Duration::from_millis(150),
        "the demo's source takes its time: {slow:?}"
    );
    let second = larder.get("/data/42").await;
    second.expect(200, "larder; hit; ttl=N; detail=memory");
    assert_eq!(second.body, first.body);
}

#[tokio::test]
async fn with_redis_the_entry_is_visible_there_with_a_ttl_and_after_it_is_loaded_again() {
    let redis = Redis::start().await;
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", "ttl = \"1s\"")
        .redis(&redis.url())
        .no_memory()
        .start()
        .await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let keys = redis.entries().await;
    let [key] = keys.as_slice() else {
        panic!("one entry, not {keys:?}")
    };
    assert!(key.contains("42"), "{key}");
    // It may have ended since: then it is gone, not eternal.
    let left: i64 = redis.run("PTTL", &[key.as_str()]).await;
    assert!(left != -1 && left <= 1000, "{left} ms left");
    larder.get("/data/43").await;
    larder
        .get("/data/43")
        .await
        .expect(200, "larder; hit; ttl=N; detail=redis");
    eventually("after the ttl it is loaded again", async || {
        let answer = larder.get("/data/43").await;
        assert_eq!(answer.text(), "{\"data\":\"Data for key 43\"}");
        answer.is("larder; fwd=uri-miss; stored").then_some(())
    })
    .await;
}

#[tokio::test]
async fn with_redis_killed_the_answer_still_comes() {
    let mut redis = Redis::start().await;
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", "")
        .redis(&redis.url())
        .start()
        .await;
    larder.get("/data/42").await;
    redis.kill().await;
    for key in ["42", "43", "44"] {
        let answer = larder.get(&format!("/data/{key}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (200, json!({ "data": format!("Data for key {key}") }))
        );
    }
}

#[tokio::test]
async fn invalidation_makes_the_next_request_load_again() {
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", "")
        .start()
        .await;
    larder.get("/data/42").await;
    larder.purge(json!({ "path": "/data/42" })).await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
}

#[tokio::test]
async fn a_template_that_names_no_part_is_an_internal_failure_that_names_it() {
    let larder = Larder::with()
        .plugin("demo", "[config]\ntext = \"{nobody}\"\n")
        .route("/data/{key}", "demo", "")
        .start()
        .await;
    let answer = larder.get("/data/42").await;
    let problem = answer.expect_problem(502, "template-part-missing");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap_or_default()
            .contains("nobody"),
        "{problem}"
    );
}

#[tokio::test]
async fn the_files_plugin_answers_records_and_sees_changes() {
    let home = Larder::with()
        .plugin("files", "[config]\npath = \"/data/people.json\"\nformat = \"json\"\npointer = \"/people\"\nkey = \"name\"\n[grants]\ndirs = { \"/data\" = { host = \"people\", mode = \"ro\" } }\n")
        .route("/people/{name}", "files", "ttl = \"50ms\"\nmissing_ttl = \"50ms\"")
        .write();
    let write = |home: &Home, text: &str| {
        std::fs::write(home.path("aside/people.json"), text).expect("written aside");
        std::fs::rename(
            home.path("aside/people.json"),
            home.path("plugins/people/people.json"),
        )
        .expect("renamed");
    };
    std::fs::create_dir(home.path("plugins/people")).expect("a directory of records");
    write(
        &home,
        "{\"people\":[{\"name\":\"ada\",\"born\":1815},{\"name\":\"alan\",\"born\":1912}]}",
    );
    let larder = Larder::start(home).await;
    assert_eq!(larder.get("/people/ada").await.json()["born"], json!(1815));
    assert_eq!(larder.get("/people/grace").await.status, 404);
    write(&larder, "{\"people\":[{\"name\":\"grace\",\"born\":1906}]}");
    eventually("the change of the file is seen", async || {
        let grace = larder.get("/people/grace").await;
        (grace.status == 200 && grace.json()["born"] == json!(1906)).then_some(())
    })
    .await;
    eventually("the record that is gone is missed", async || {
        (larder.get("/people/ada").await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_file_every_loader_is_served_at_its_name() {
    let home = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .guest("needy", "")
        .write();
    std::fs::remove_file(home.path("larder.toml")).expect("no configuration");
    let mut child = home
        .command(&["serve"])
        .env("LARDER_SERVER_LISTEN", "127.0.0.1:0")
        .env("LARDER_ADMIN_LISTEN", "127.0.0.1:0")
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let log = Log::default();
    log.follow(child.stderr.take().expect("standard error is piped"));
    let address = eventually("it says where it listens", async || {
        log.address(0, "listening on http://")
    })
    .await;
    let client = larder_tests::Client::new(address);
    assert_eq!(
        client.get("/demo/42").await.json(),
        json!({ "data": "Data for key 42" })
    );
    client
        .get("/demo/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    // A loader that cannot start without settings is not served: its route says so, and a warning says what it needs.
    client
        .get("/needy/42")
        .await
        .expect_problem(503, "plugin-not-loaded");
    assert_eq!(client.get("/nobody/42").await.status, 404);
    assert!(
        log.text().contains("needy") && log.text().contains("base"),
        "{}",
        log.text()
    );
    child.kill().await.expect("it is ended");
}

/// `examples/countries`: a load over ISO 3166 while its source is swapped between a file and an nginx.
#[tokio::test]
async fn the_countries_change_their_source_under_load_without_a_failure() {
    let run = tokio::process::Command::new(repository().join("examples/countries/run"))
        .args(["--requests", "4000"])
        .env("LARDER_BIN", program())
        .env("PLUGINS_DIST", repository().join("plugins/dist"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), run)
        .await
        .expect("it ends")
        .expect("it starts");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(said.lines().any(|line| line == "failures 0"), "{said}");
}
