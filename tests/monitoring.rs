//! What an operator's own tools make of the metrics: promtool, and a real Prometheus that scrapes a server and is asked every
//! query of the dashboard in `examples/monitoring`.

use std::path::Path;
use std::process::Stdio;

use http::Method;
use larder_tests::larder::repository;
use larder_tests::{
    Client, Larder, Metrics, Origin, Redis, Reply, Value, before, call, eventually, json,
};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn example(name: &str) -> std::path::PathBuf {
    repository().join("examples/monitoring").join(name)
}

async fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (.ci/setup test)");
    let mut stdin = command.stdin.take().expect("it is piped");
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ran = command.wait_with_output().await.expect("it ends");
    let said = [ran.stdout, ran.stderr].concat();
    (
        ran.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Every kind of route: read, failing, stale, and written behind, on a Redis.
async fn busy(origin: &Origin, redis: &Redis) -> Larder {
    let url = origin.url();
    let writing = format!("[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n");
    before(
        origin,
        "ttl = \"1h\"\nstale_if_error = \"1h\"\nfailure_ttl = \"0\"",
    )
    .redis(&redis.url())
    .guest("writing", &writing)
    .route(
        "/orders/{id}",
        "writing",
        "write = \"behind\"\nttl = \"1h\"",
    )
    .section("[writes]\nsingle_writer = true")
    .start()
    .await
}

/// Asks for a bit of everything once.
async fn use_it(larder: &Larder, round: usize) {
    for path in [
        format!("/things/{round}"),
        "/things/1".to_owned(),
        "/things/broken".to_owned(),
        "/nowhere".to_owned(),
    ] {
        larder.get(&path).await;
    }
    larder
        .admin
        .post(
            "/purge",
            &json!({"path": "/things/stale", "mode": "expire"}),
        )
        .await;
    larder.get("/things/stale").await;
    larder
        .public
        .request(Method::PUT, &format!("/orders/{round}"), &[], "x".into())
        .await;
}

async fn stage() -> (Origin, Redis, Larder) {
    let (origin, redis) = (Origin::start(), Redis::start().await);
    origin.on("/broken", Reply::status(500));
    let larder = busy(&origin, &redis).await;
    call(&larder.get("/things/stale").await);
    origin.on("/stale", Reply::status(500));
    (origin, redis, larder)
}

#[tokio::test]
async fn promtool_finds_nothing_to_say() {
    let (_origin, _redis, larder) = stage().await;
    use_it(&larder, 2).await;
    let metrics = larder.admin.get("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let (good, said) = promtool(&["check", "metrics"], metrics.text()).await;
    assert!(good && said.is_empty(), "{said}");
    let fields = [(
        "accept",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2",
    )];
    let open = larder.admin.get_with("/metrics", &fields).await;
    assert_eq!(
        open.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(open.text().ends_with("# EOF\n"));
    for (what, file) in [("config", "prometheus.yml"), ("rules", "alerts.yml")] {
        let path = example(file);
        let (good, said) = promtool(&["check", what, path.to_str().expect("a path")], "").await;
        assert!(good, "{said}");
    }
    let path = example("alerts_test.yml");
    let (good, said) = promtool(&["test", "rules", path.to_str().expect("a path")], "").await;
    assert!(good, "{said}");
}

/// By either way that a request is answered.
#[tokio::test]
async fn a_client_that_leaves_is_counted_as_one() {
    let origin = Origin::start();
    let larder = before(&origin, "ttl = \"1h\"\ntimeout = \"20s\"")
        .start()
        .await;
    let gate = origin.gate("/42");
    for (left, method) in [(1, "GET"), (2, "HEAD")] {
        let stream = tokio::net::TcpStream::connect(larder.public.address()).await;
        let mut stream = stream.expect("it listens");
        let request = format!("{method} /things/42 HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        larder.until_waiting(1).await;
        drop(stream);
        let metrics = eventually(&format!("{method}: it is seen to leave"), async || {
            let metrics = larder.metrics().await;
            let seen = metrics.sum_where("larder_answers_total", &[("outcome", "left")]);
            (seen == f64::from(left)).then_some(metrics)
        })
        .await;
        for name in ["larder_requests_total", "larder_answers_total"] {
            assert_eq!(metrics.sum(name), f64::from(left), "{name}");
        }
        let measured = metrics.sum("larder_request_duration_seconds_count");
        assert_eq!(measured, f64::from(left));
    }
    gate.open();
}

/// What the metrics say of themselves: `requests` is the sum of `answers` for every route, whatever happened meanwhile.
#[tokio::test]
async fn the_sums_hold_whatever_happens() {
    let (origin, mut redis, larder) = stage().await;
    let load = async {
        for round in 0..40 {
            tokio::join!(
                use_it(&larder, round),
                use_it(&larder, 0),
                use_it(&larder, round % 7)
            );
        }
    };
    let trouble = async {
        redis.kill().await;
        let swapped = format!(
            "{}# another
",
            larder_tests::sidecar(&origin, &origin.url())
        );
        larder.sidecar("gated", &swapped);
        larder.admin.post("/purge", &json!({"all": true})).await;
        larder
            .public
            .post(
                "/_batch",
                &json!(["/things/1", "/things/broken", "/things/77"]),
            )
            .await;
    };
    tokio::join!(load, trouble);
    let metrics = eventually("nothing is under way", async || {
        let metrics = larder.metrics().await;
        (metrics.sum("larder_loads_in_flight") == 0.0).then_some(metrics)
    })
    .await;
    let sum =
        |metrics: &Metrics, name: &str, route: &str| metrics.sum_where(name, &[("route", route)]);
    for route in ["/things/{id}", "/orders/{id}"] {
        let requests = sum(&metrics, "larder_requests_total", route);
        assert!(requests > 100.0, "{route}: {requests}");
        assert_eq!(
            requests,
            sum(&metrics, "larder_answers_total", route),
            "{route}"
        );
        let of = |outcome: &str, detail: &str| {
            metrics.sum_where(
                "larder_answers_total",
                &[("route", route), ("outcome", outcome), ("detail", detail)],
            )
        };
        // What memory answers is not measured, nor what is no read.
        let not = of("hit", "memory")
            + of("write", "behind")
            + of("failure", "write")
            + of("refused", "request");
        let hits_of_absence = of("hit", "missing");
        let measured = sum(&metrics, "larder_request_duration_seconds_count", route);
        assert!(
            (requests - not - hits_of_absence..=requests - not).contains(&measured),
            "{route}: {measured} of {requests} without {not}"
        );
        let failed = of("failure", "load") + of("stale", "stale-if-error");
        assert_eq!(
            failed,
            sum(&metrics, "larder_load_failures_total", route),
            "{route}"
        );
    }
    for (plugin, calls) in [("gated", true), ("writing", true)] {
        let of = |name: &str| metrics.sum_where(name, &[("plugin", plugin)]);
        assert_eq!(of("larder_plugin_calls_total") > 0.0, calls, "{plugin}");
        assert!(
            of("larder_plugin_calls_total")
                >= of("larder_plugin_failures_total") + of("larder_plugin_faults_total")
        );
    }
}

/// A Prometheus of the test's own. Ends when it is dropped.
async fn prometheus(larder: &Larder, dir: &Path) -> (tokio::process::Child, Client) {
    let target = larder.admin.address();
    let config = format!(
        "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\nscrape_configs:\n  - job_name: larder\n    static_configs:\n      - targets: [\"{target}\"]\n"
    );
    let file = dir.join("prometheus.yml");
    std::fs::write(&file, config).expect("a file");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus is installed (.ci/setup test)");
    let client = Client::new(address);
    eventually("Prometheus is ready", async || {
        let asked = client
            .attempt(Method::GET, "/-/ready", &[], bytes::Bytes::new())
            .await;
        asked.ok().filter(|answer| answer.status == 200).map(|_| ())
    })
    .await;
    (child, client)
}

#[tokio::test]
async fn every_query_of_the_dashboard_gives_data() {
    let (_origin, _redis, larder) = stage().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (_prometheus, prometheus) = prometheus(&larder, dir.path()).await;
    let text = std::fs::read_to_string(example("grafana.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().expect("a query"))
        .collect();
    assert!(queries.len() >= 20, "{queries:?}");
    let mut round = 10;
    eventually("every query gives data", async || {
        round += 1;
        use_it(&larder, round).await;
        let mut left = Vec::new();
        for query in &queries {
            let asked = query
                .replace("$__rate_interval", "10s")
                .replace("$instance", ".*");
            let encoded: String = asked.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let answer = prometheus
                .get(&format!("/api/v1/query?query={encoded}"))
                .await
                .json();
            assert_eq!(answer["status"], "success", "{query}: {answer}");
            let has_data = answer["data"]["result"]
                .as_array()
                .is_some_and(|series| series.iter().any(|one| one["value"][1] != "NaN"));
            if !has_data {
                left.push(*query);
            }
        }
        queries = left;
        queries.is_empty().then_some(())
    })
    .await;
}
