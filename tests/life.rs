//! The life of a server: how it is started, told to read its configuration again, and stopped, and what a service manager and
//! a balancer hear of it.

use std::time::{Duration, Instant};

use larder_tests::larder::{program, repository};
use larder_tests::{
    Client, Larder, Origin, Reply, Value, Wasm, before, eventually, json, throughout,
};
use tokio::net::UnixDatagram;

const HOUR: &str = "ttl = \"1h\"\njitter = 0.0";

async fn demo() -> Larder {
    Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", HOUR)
        .route("/old/{key}", "demo", HOUR)
        .start()
        .await
}

async fn parts(larder: &Larder) -> Value {
    larder.admin.get("/readyz").await.json()["parts"].clone()
}

#[tokio::test]
async fn a_signal_takes_over_what_has_changed_and_keeps_what_has_not() {
    let larder = demo().await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let requests = "larder_requests_total{route=\"/data/{key}\"}";
    let before = larder.admin.get("/metrics").await;
    assert!(
        before.text().contains(&format!("{requests} 1\n")),
        "{before:?}"
    );
    larder.reconfigure("/old/{key}", "/new/{key}");
    larder.reconfigure(
        "path = \"/data/{key}\"\n",
        "path = \"/data/{key}\"\nmissing_ttl = \"9s\"\n",
    );
    larder.hang_up();
    larder
        .until_logged("the configuration was read again; settings that differ: 3")
        .await;
    for line in [
        "routes[/data/{key}].missing_ttl: 5s → 9s\n",
        "routes[/new/{key}]: new\n",
        "routes[/old/{key}]: no longer there\n",
    ] {
        larder.until_logged(line).await;
    }
    assert_eq!(larder.get("/old/1").await.status, 404);
    assert_eq!(larder.get("/new/1").await.status, 200);
    // What was stored is there, what was counted is counted on.
    assert!(larder.get("/data/42").await.is_hit());
    let after = larder.admin.get("/metrics").await;
    assert!(
        after.text().contains(&format!("{requests} 2\n")),
        "{after:?}"
    );
    let routes = larder.admin.get("/routes").await.json();
    assert_eq!(routes[0]["missing_ttl"], "9s");
    // A plugin that is swapped later is bound to these routes, and not to those of the start.
    let swaps = larder.metrics().await.sum("larder_plugin_swaps_total");
    larder.sidecar("demo", "[config]\nlatency_ms = 2\n");
    eventually("the plugin is swapped", async || {
        (larder.metrics().await.sum("larder_plugin_swaps_total") > swaps).then_some(())
    })
    .await;
    assert_eq!(larder.get("/old/2").await.status, 404);
    assert_eq!(larder.get("/new/2").await.status, 200);
}

#[tokio::test]
async fn a_route_is_not_given_to_a_plugin_that_is_not_there() {
    let larder = demo().await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    larder.reconfigure("loader = \"demo\"", "loader = \"demoo\"");
    let refused = larder.admin.post("/reload", &json!(null)).await;
    let problem = refused.expect_problem(422, "configuration-refused");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains(
            "names the plugin \"demoo\", which is not there; remedy: did you mean \"demo\"?"
        ),
        "{detail}"
    );
    larder
        .get("/data/43")
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    // One that was there is another matter: its file may be on its way.
    larder.reconfigure("loader = \"demoo\"", "loader = \"demo\"");
    larder.remove("demo");
    larder.reconfigure("[admin]\n", "[openapi]\ntitle = \"Shop\"\n[admin]\n");
    assert_eq!(larder.admin.post("/reload", &json!(null)).await.status, 200);
}

#[tokio::test]
async fn what_has_a_fault_is_refused_whole_and_every_fault_named() {
    let larder = demo().await;
    larder.reconfigure("/old/{key}", "/new/{key}");
    larder.reconfigure("[admin]\n", "[admin]\ntokn = \"x\"\n[openapi]\nserve = 7\n");
    larder.hang_up();
    larder
        .until_logged("the configuration is not taken over")
        .await;
    for words in [
        "unknown key \"tokn\" in [admin]",
        "did you mean \"token\"?",
        "serve of [openapi]",
    ] {
        larder.until_logged(words).await;
    }
    assert_eq!(larder.get("/old/1").await.status, 200);
    assert_eq!(larder.get("/new/1").await.status, 404);
    assert_eq!(parts(&larder).await["configuration"]["state"], "refused");
    let answer = larder.admin.post("/reload", &Value::Null).await;
    let problem = answer.expect_problem(422, "configuration-refused");
    assert!(problem["detail"].as_str().expect("a text").contains("tokn"));
    // Mended, it is taken over.
    larder.reconfigure("tokn = \"x\"\n[openapi]\nserve = 7\n", "");
    let answer = larder.admin.post("/reload", &Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(larder.get("/new/1").await.status, 200);
    assert_eq!(
        parts(&larder).await["configuration"],
        json!({"state": "ready", "why": null})
    );
    // What only shows when the routes are bound to plugins is refused as well.
    larder.install("tenant-key", &Wasm::plugin("tenant-key"));
    larder
        .until_plugin("tenant-key", "is there", |plugin| {
            plugin["state"] == "ready"
        })
        .await;
    larder.reconfigure(
        "path = \"/data/{key}\"\nloader = \"demo\"",
        "path = \"/data/{key}\"\nloader = \"tenant-key\"",
    );
    let answer = larder.admin.post("/reload", &Value::Null).await;
    let problem = answer.expect_problem(422, "configuration-refused");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("tenant-key"), "{detail}");
    assert_eq!(larder.get("/data/1").await.status, 200);
}

#[tokio::test]
async fn what_needs_a_restart_is_named_until_there_is_one_and_the_rest_is_taken_over() {
    let mut larder = demo().await;
    larder.reconfigure(
        "[server]\n",
        "[server]\nmax_watchers = 7\nbody_bytes = \"1KiB\"\n",
    );
    for _ in 0..2 {
        let changes = larder.admin.post("/reload", &Value::Null).await.json()["changes"].clone();
        let waiting: Vec<&Value> = changes
            .as_array()
            .expect("a list")
            .iter()
            .filter(|change| change["needs_restart"] == true)
            .collect();
        assert_eq!(
            waiting,
            [
                &json!({"setting": "server.max_watchers", "from": "1000", "to": "7", "needs_restart": true})
            ],
        );
    }
    larder
        .until_logged("server.max_watchers: 1000 → 7; it needs a restart")
        .await;
    // The other one is in force.
    let long = json!(["/data/".to_owned() + &"x".repeat(2000)]);
    let answer = larder.public.post("/_batch", &long).await;
    answer.expect_problem(413, "body-too-long");
    larder.restart().await;
    let changes = larder.admin.post("/reload", &Value::Null).await.json();
    assert_eq!(changes, json!({"changes": []}));
}

#[tokio::test]
async fn law_8_a_request_ends_on_the_routes_it_began_with() {
    let origin = Origin::start();
    let gate = origin.gate("/42");
    let larder = before(&origin, HOUR).start().await;
    let (answer, ()) = tokio::join!(larder.get("/things/42"), async {
        gate.arrived(1).await;
        larder.reconfigure("/things/{id}", "/others/{id}");
        let answer = larder.admin.post("/reload", &Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(larder.get("/things/43").await.status, 404);
        gate.open();
    });
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_route_that_begins_to_write_writes() {
    let origin = Origin::start();
    origin.on("/a", Reply::counted());
    let url = origin.url();
    let sidecar = format!("[config]\nurl = {url:?}\n[grants]\nhttp = [{url:?}]\n");
    let larder = Larder::with()
        .guest("writing", &sidecar)
        .route("/orders/{id}", "writing", HOUR)
        .start()
        .await;
    let put = async || {
        let body = bytes::Bytes::from_static(b"1");
        let fields = [("idempotency-key", "\"one\"")];
        larder
            .public
            .request(http::Method::PUT, "/orders/a", &fields, body)
            .await
    };
    assert_eq!(put().await.status, 405);
    larder.reconfigure(
        "loader = \"writing\"\n",
        "loader = \"writing\"\nwrite = \"behind\"\n",
    );
    let answer = larder.admin.post("/reload", &Value::Null).await.json();
    assert_eq!(
        answer["changes"],
        json!([{"setting": "routes[/orders/{id}].write", "from": "off", "to": "behind", "needs_restart": true}])
    );
    assert_eq!(put().await.status, 405);
    larder.reconfigure("\"behind\"", "\"through\"");
    let answer = larder.admin.post("/reload", &Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let first = put().await;
    assert!(first.status.is_success(), "{first:?}");
    // Its answers are remembered, though no route wrote at the start.
    let calls = origin.total();
    assert_eq!(put().await.status, first.status);
    assert_eq!(
        origin.total(),
        calls,
        "the second is answered with the first's"
    );
}

#[tokio::test]
async fn a_balancer_is_told_before_connections_are_refused() {
    let mut larder = demo_with("drain_delay = \"1h\"").await;
    larder.terminate();
    eventually("it says that it drains", async || {
        let answer = larder.admin.get("/readyz").await;
        let is_told = answer.status == 503 && answer.json()["draining"] == true;
        is_told.then_some(())
    })
    .await;
    assert_eq!(parts(&larder).await["draining"]["state"], "yes");
    // Who has not looked yet is answered, on connections that are new too.
    throughout(Instant::now() + Duration::from_millis(300), async || {
        let answer = Client::new(larder.public.address()).get("/data/1").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    })
    .await;
    assert!(larder.runs());
    // A second signal does not wait.
    larder.terminate();
    assert!(larder.exit().await.success());
}

async fn demo_with(server: &str) -> Larder {
    Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", HOUR)
        .server(server)
        .start()
        .await
}

/// Reads what is told until a datagram has all of these words, and gives all that came before it, and it.
async fn until_told(manager: &UnixDatagram, words: &[&str]) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let reading = async {
        loop {
            let mut buffer = vec![0; 4096];
            let read = manager.recv(&mut buffer).await.expect("a datagram");
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            let is_wanted = words.iter().all(|word| text.contains(word));
            told.push(text);
            if is_wanted {
                return;
            }
        }
    };
    let read = tokio::time::timeout(larder_tests::wait::PATIENCE, reading).await;
    assert!(read.is_ok(), "{words:?} was not told: {told:?}");
    told
}

#[tokio::test]
async fn a_service_manager_hears_of_the_start_the_reload_and_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let mut larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", HOUR)
        .env("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        // So often that the socket is full before anybody reads it: nobody waits for that.
        .env("WATCHDOG_USEC", "2000")
        .start()
        .await;
    until_told(&manager, &["READY=1\n", "STATUS=serving\n"]).await;
    until_told(&manager, &["WATCHDOG=1\n"]).await;
    larder.hang_up();
    let reloading = until_told(&manager, &["RELOADING=1\n", "MONOTONIC_USEC="]).await;
    assert!(!reloading.concat().contains("READY=1"), "{reloading:?}");
    until_told(&manager, &["READY=1\n", "STATUS=serving\n"]).await;
    larder.configure("nonsense");
    larder.hang_up();
    until_told(&manager, &["READY=1\n", "was refused"]).await;
    larder.terminate();
    until_told(&manager, &["STOPPING=1\n"]).await;
    assert!(larder.exit().await.success());
}

fn deployed(name: &str) -> String {
    let path = repository().join("examples/deploy").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn systemd_analyze(arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new("systemd-analyze")
        .args(arguments)
        .output()
        .await
        .expect("systemd-analyze is installed (.ci/setup test)");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn the_unit_is_one_that_systemd_takes_and_shuts_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("larder.service");
    let unit = deployed("larder.service");
    let own = program();
    let here = unit.replace("/usr/bin/larder", own.to_str().expect("UTF-8"));
    assert_ne!(unit, here);
    std::fs::write(&path, here).expect("the unit");
    let path = path.to_str().expect("UTF-8");
    let (good, said) = systemd_analyze(&["verify", "--man=no", path]).await;
    assert!(good && said.is_empty(), "{said}");
    // Exposure in tenths, of 100 at most.
    let (good, said) =
        systemd_analyze(&["security", "--offline=true", "--threshold=20", path]).await;
    assert!(good, "{said}");
    // It is not killed while it drains.
    for setting in [
        "TimeoutStopSec=60s",
        "WatchdogSec=30s",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ] {
        assert!(unit.contains(setting), "{setting}");
    }
}

#[tokio::test]
async fn what_packages_and_images_are_made_of_is_there() {
    let home = Larder::with().write();
    home.configure(&deployed("larder.toml"));
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    assert!(ran.status.success(), "{}", ran.all());
    let image = deployed("Dockerfile");
    let copied = image
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|line| !line.starts_with("--from"))
        .flat_map(|line| {
            line.rsplit_once(' ')
                .map_or("", |(from, _)| from)
                .split(' ')
        });
    let manifest =
        std::fs::read_to_string(repository().join("host/Cargo.toml")).expect("it is there");
    let packaged = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[\"../")?.split('"').next())
        .filter(|path| !path.contains("/made/"));
    let named: Vec<&str> = copied.chain(packaged).collect();
    assert!(named.len() >= 9, "{named:?}");
    for path in named {
        assert!(repository().join(path).exists(), "{path}");
    }
}
