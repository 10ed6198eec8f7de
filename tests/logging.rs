//! What is written to stderr, in which form, and that nobody waits for who reads it.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use larder_tests::{Builder, Client, Larder, Value, eventually, ports};

fn demo(log: &str) -> Builder {
    Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .section(log)
}

/// The lines of the access log, when there are so many of them.
async fn lines(larder: &Larder, number: usize) -> Vec<String> {
    eventually(&format!("{number} requests are logged"), async || {
        let log = larder.log();
        let lines = log.lines().filter(|line| line.contains("larder::access"));
        let lines: Vec<_> = lines.map(str::to_owned).collect();
        (lines.len() >= number).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn each_request_is_a_line_of_json_that_says_what_the_answer_says() {
    let larder = demo("[log]\nformat = \"json\"\nrequests = true\n")
        .start()
        .await;
    let loaded = larder.get("/data/1?lang=%0A").await;
    loaded.expect(200, "larder; fwd=uri-miss; stored");
    larder
        .get_with("/data/1", &[("authorization", "Bearer secret-of-a-client")])
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    larder
        .get("/nowhere")
        .await
        .expect(404, "larder; detail=not-found");
    let long = "x".repeat(5000);
    larder.get(&format!("/data/2?{long}")).await;
    let lines = lines(&larder, 4).await;
    let lines: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).expect("a line is an object"))
        .collect();
    let [first, second, third, fourth] = &lines[..] else {
        panic!("as many lines as requests: {lines:?}");
    };
    assert_eq!(first["level"], "INFO");
    assert_eq!(first["method"], "GET");
    assert_eq!(first["route"], "/data/{key}");
    assert_eq!(first["status"], 200);
    assert_eq!(first["bytes"].as_u64().unwrap(), loaded.body.len() as u64);
    assert!(first["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{first}");
    assert!(first["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(first["cache"].as_str().unwrap().starts_with("fwd=uri-miss"));
    assert!(second["cache"].as_str().unwrap().starts_with("hit; ttl="));
    assert_eq!(
        (&third["status"], &third["route"]),
        (&404.into(), &Value::Null)
    );
    assert_eq!(fourth["path"].as_str().unwrap().len(), 1024);
    assert!(!larder.log().contains("secret-of-a-client"));
    // What is no request is an object too, but for the two lines that scripts read.
    let log = larder.log();
    let other = log.lines().filter(|line| !line.contains(" on http://"));
    for line in other {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[tokio::test]
async fn a_request_is_a_line_of_text_and_none_where_nobody_asked_for_it() {
    let larder = demo("[log]\nrequests = true\n").start().await;
    larder.get("/data/1").await;
    let line = &lines(&larder, 1).await[0];
    for part in [
        "INFO larder::access: request",
        "method=\"GET\"",
        "path=\"/data/1\"",
        "status=200",
    ] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    let quiet = demo("").start().await;
    quiet.get("/data/1").await;
    quiet.purge(larder_tests::json!({"all": true})).await;
    quiet.until_logged("purge").await;
    assert!(!quiet.log().contains("larder::access"), "{}", quiet.log());
}

#[tokio::test]
async fn the_level_is_the_files_and_the_environment_stands_over_it() {
    let warned = demo("[log]\nlevel = \"warn\"\n").start().await;
    warned.get("/data/1").await;
    assert!(!warned.log().contains("INFO"), "{}", warned.log());
    let over = demo("[log]\nlevel = \"warn\"\n")
        .env("LARDER_LOG", "info")
        .start()
        .await;
    over.until_logged("INFO").await;
    let home = demo("[log]\nlevel = \"loud\"\nformat = \"xml\"\n").write();
    let said = home.run(&["check"]).await.all();
    assert!(
        said.contains("level of [log]: \"loud\" says of no place what is logged"),
        "{said}"
    );
    assert!(
        said.contains("format of [log]: \"xml\" is not a way to write a log"),
        "{said}"
    );
}

/// Nobody reads stderr, and the pipe is full after some hundred lines, and the queue before it after 4,096: every request is answered all the same, what could not
/// be written is counted, and the server ends when it is told to.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nothing() {
    const REQUESTS: usize = 6000;
    let (public, admin) = (ports::free(), ports::free());
    let home = demo("[log]\nrequests = true\n")
        .env("LARDER_SERVER_LISTEN", &format!("127.0.0.1:{public}"))
        .env("LARDER_ADMIN_LISTEN", &format!("127.0.0.1:{admin}"))
        .write();
    let mut server = home
        .command(&["serve"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let clients = [public, admin].map(|port| Client::new(([127, 0, 0, 1], port).into()));
    let [public, admin] = &clients;
    eventually("it serves", async || {
        let answer = public
            .attempt(Method::GET, "/data/1", &[], Bytes::new())
            .await
            .ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    for _ in 0..REQUESTS {
        assert_eq!(public.get("/data/1").await.status, 200);
    }
    let metrics = larder_tests::Metrics::parse(admin.get("/metrics").await.text());
    let dropped = metrics.sum("larder_log_lines_dropped_total");
    // The pipe holds some hundred lines, and 4,096 wait before it.
    assert!(dropped > 0.0, "{dropped}");
    let id = server.id().expect("it runs");
    let told = std::process::Command::new("kill")
        .arg(id.to_string())
        .status();
    assert!(told.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(20), server.wait()).await;
    assert!(ended.expect("it ends").unwrap().success());
}
