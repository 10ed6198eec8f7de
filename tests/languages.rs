//! The examples in each language: the components that `examples/loader-rust/build`, `examples/loader-js/build` and
//! `examples/loader-python/build` make, called through the server. What their SDKs promise an author is seen here from outside; what needs no component is
//! tested beside them, in their own languages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join_all;
use larder_tests::{Builder, Larder, Origin, Reply, Wasm, eventually_within, json};
use tokio::sync::OnceCell;

/// How long a component of 20 MB may take to compile on a machine that has other things to do.
const COMPILING: Duration = Duration::from_secs(240);

/// Starts a server with the Python example in it. Compiling takes longer than a start may, so it is done once, aside, for
/// all tests; what was compiled is kept for the next run.
async fn start_stations(builder: Builder, sidecar: &str) -> Larder {
    static COMPILED: OnceCell<PathBuf> = OnceCell::const_new();
    let compiled = COMPILED.get_or_init(compile_stations).await;
    let example = Wasm::example("loader-python", "stations");
    let home = builder.component("stations", example, sidecar).write();
    let own = home.path("larder-data/compiled");
    fs::create_dir_all(&own).expect("a storage directory");
    for file in fs::read_dir(compiled).expect("what was compiled") {
        let file = file.expect("a file");
        fs::copy(file.path(), own.join(file.file_name())).expect("a copy of it");
    }
    let larder = Larder::start(home).await;
    let plugin = larder.plugin("stations").await;
    assert_eq!(plugin["state"], "ready", "{plugin}");
    larder
}

/// Puts the Python example into a running server and waits until it is in service. Gives where the compiled code is.
async fn compile_stations() -> PathBuf {
    let storage = Path::new(env!("CARGO_TARGET_TMPDIR")).join("languages");
    let section = format!("[storage]\ndir = {storage:?}");
    let mut larder = Larder::with().section(&section).start().await;
    larder.sidecar(
        "stations",
        "[config]\norigin = \"http://127.0.0.1:1\"\n[grants]\nhttp = [\"http://127.0.0.1:1\"]",
    );
    larder.install("stations", &Wasm::example("loader-python", "stations"));
    eventually_within(COMPILING, "the Python example is loaded", async || {
        let all = larder.admin.get("/plugins").await.json();
        let plugin = all.as_array()?.first()?.clone();
        assert!(plugin["error"].is_null(), "{plugin}");
        (plugin["state"] == "ready").then_some(())
    })
    .await;
    larder.terminate();
    larder.exit().await;
    storage.join("compiled")
}

fn sidecar(origin: &Origin, config: &str, rest: &str) -> String {
    format!(
        "[config]\norigin = \"{url}\"\n{config}\n[grants]\nhttp = [\"{url}\"]\n{rest}",
        url = origin.url()
    )
}

fn days(settings: &str) -> Builder {
    Larder::with()
        .component("days", Wasm::example("loader-js", "days"), settings)
        .route("/days/{key}", "days", "jitter = 0.0")
}

#[tokio::test]
async fn a_rust_loader_is_one_function() {
    let larder = Larder::with()
        .component("greet", Wasm::example("loader-rust", "greet"), "")
        .route("/greet/{key}", "greet", "")
        .start()
        .await;
    let answer = larder.get("/greet/Ada").await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(answer.json(), json!({ "greeting": "Hello Ada" }));
    larder
        .get("/greet/Ada")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn the_rust_sdks_other_forms_answer_for_each_question() {
    let larder = Larder::with()
        .component("forms", Wasm::guest("forms"), "[config]\nsource = \"here\"")
        .route("/numbers/{id}", "forms", "batch_window = \"50ms\"")
        .start()
        .await;
    let ids = ["1", "2", "7", "13", "x"];
    let paths = ids.map(|id| format!("/numbers/{id}"));
    let answers = join_all(paths.iter().map(|path| larder.get(path))).await;
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    // `x` is no number: the descriptor that the SDK derived says so before the plugin is asked.
    assert_eq!(statuses, [200, 200, 404, 502, 422]);
    let first = answers[0].json();
    assert_eq!(
        (&first["id"], &first["source"]),
        (&json!(1), &json!("here"))
    );
    assert_eq!(first["started"], true, "its life began with `start`");
    assert!(answers[3].text().contains("unlucky"));
    larder.purge(json!({ "tag": "id:1" })).await;
    let again = larder.get("/numbers/1").await;
    again.expect(200, "larder; fwd=uri-miss; stored");
}

#[tokio::test]
async fn a_javascript_loader_answers_by_what_it_declares() {
    let larder = days("[config]\nlabel = \"{days} nætter, 日\"")
        .start()
        .await;
    let path = "/days/2027-03-01?from=2027-02-01&weeks=true";
    let answer = larder.get(path).await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        answer.json(),
        json!({"days": 28, "weeks": 4, "label": "28 nætter, 日"})
    );
    larder
        .get(path)
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");

    // Its tags are purged by, and its own time to live is the entry's.
    larder.purge(json!({"tag": "year:2027"})).await;
    larder
        .get(path)
        .await
        .expect(200, "larder; fwd=uri-miss; stored");
    let counted_from_now = larder.get("/days/9999-12-31").await;
    assert!(counted_from_now.max_age() > Some(60), "not the route's ttl");

    // An absence, a failure of its own, and what the host refuses by its schema.
    let over = larder.get("/days/2027-01-01?from=2027-02-01").await;
    over.expect(404, "larder; fwd=uri-miss; stored");
    let no_date = larder.get("/days/2027-02-31?from=2027-02-01").await;
    let problem = no_date.expect_problem(422, "no-such-date");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("2027-02-31"))
    );
    larder
        .get("/days/soon")
        .await
        .expect_problem(422, "invalid-request");
}

#[tokio::test]
async fn settings_that_a_javascript_loader_does_not_declare_are_refused() {
    let larder = days("[config]\nlable = \"typo\"").start().await;
    larder.until_refused("days", &["lable", "label"]).await;
}

#[tokio::test]
async fn a_python_loader_asks_its_source_and_revalidates() {
    let origin = Origin::start();
    let oslo = r#"{"name": "Osló 日", "celsius": 21.54}"#;
    origin.on("/oslo", Reply::json(oslo).etag("\"1\""));
    let builder = Larder::with()
        .env("STATION_TOKEN", "t0k3n-of-the-station")
        .route("/stations/{key}", "stations", "stale_if_error = \"1h\"");
    let secrets = "[secrets]\ntoken = { env = \"STATION_TOKEN\" }";
    let given = sidecar(&origin, "authenticated = true", secrets);
    let larder = start_stations(builder, &given).await;

    let path = "/stations/oslo?unit=fahrenheit&digits=0";
    let first = larder.get(path).await;
    first.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(
        first.json(),
        json!({"station": "Osló 日", "temperature": 71.0, "unit": "fahrenheit"})
    );
    assert_eq!(first.header("etag"), Some("\"1\""));
    let seen = &origin.seen("/oslo")[0].headers;
    assert_eq!(seen["authorization"], "Bearer t0k3n-of-the-station");

    larder
        .purge(json!({"tag": "station:oslo", "mode": "expire"}))
        .await;
    let renewed = larder.get(path).await;
    renewed.expect(200, "larder; fwd=stale; fwd-status=304; stored");
    assert_eq!(origin.seen("/oslo")[1].headers["if-none-match"], "\"1\"");
    assert_eq!(renewed.json(), first.json());

    // What the source says, and how it ends, is a failure of its kind.
    origin.on("/gone", Reply::status(404));
    origin.on("/busy", Reply::status(429));
    origin.on("/down", Reply::status(503));
    origin.on("/broken", Reply::cut_short());
    origin.on("/nonsense", Reply::json("{"));
    origin.on("/reset", Reply::reset());
    larder
        .get("/stations/gone")
        .await
        .expect(404, "larder; fwd=uri-miss; stored");
    let busy = larder.get("/stations/busy").await;
    busy.expect_problem(429, "station-busy");
    assert_eq!(busy.header("retry-after"), Some("10"));
    for (station, code) in [
        ("down", "station-down"),
        ("broken", "source-unreachable"),
        ("reset", "source-unreachable"),
        ("nonsense", "plugin-error"),
    ] {
        let answer = larder.get(&format!("/stations/{station}")).await;
        answer.expect_problem(502, code);
        let text = answer.text();
        assert!(!text.contains("Expecting"), "an exception's text: {text}");
    }
    // It is for the operator.
    larder.until_logged("Expecting").await;
    assert!(!larder.log().contains("t0k3n"), "a secret is for nobody");
    larder
        .get("/stations/oslo?unit=kelvin")
        .await
        .expect_problem(422, "invalid-request");
}

#[tokio::test]
async fn law_9_a_python_loader_is_told_which_line_a_denial_wants() {
    let origin = Origin::start();
    let builder = Larder::with().route("/stations/{key}", "stations", "");
    let elsewhere = "[grants]\nhttp = [\"http://elsewhere.example\"]";
    let config = format!("[config]\norigin = \"{}\"\n{elsewhere}", origin.url());
    let larder = start_stations(builder, &config).await;
    let denied = larder.get("/stations/oslo").await;
    let problem = denied.expect_problem(502, "request-denied");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("http = [") && detail.contains(&origin.url()),
        "{detail}"
    );
    assert_eq!(origin.total(), 0);
}

#[tokio::test]
async fn a_python_loader_holds_500_loads_in_flight_in_one_instance() {
    const LOADS: usize = 500;
    let origin = Origin::start();
    origin.on("/*", Reply::json(r#"{"name": "x", "celsius": 1.0}"#));
    let builder = Larder::with().route("/stations/{key}", "stations", "timeout = \"60s\"");
    let limits = "[limits]\ninstances = 1\nconcurrency = 1000\nfetches = 1000\ntimeout = \"60s\"";
    let larder = start_stations(builder, &sidecar(&origin, "", limits)).await;

    // The origin answers nobody until all of them have asked: one after another they would never get there.
    let gate = origin.gate("/*");
    let asked = join_all((0..LOADS).map(|n| {
        let larder = &larder;
        async move { larder.get(&format!("/stations/{n}")).await }
    }));
    let held = async {
        gate.arrived(LOADS).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(asked, held);
    for answer in &answers {
        answer.expect(200, "larder; fwd=uri-miss; stored");
    }
    assert_eq!(origin.total(), LOADS);
}
