//! The API document and its page: what they say of the routes, what independent tools make of it, and what a browser shows.

use std::process::Stdio;
use std::time::Duration;

use http::Method;
use larder_tests::larder::repository;
use larder_tests::{Browser, Builder, Larder, Value, Wasm, eventually, json};
use tokio::process::Command;

/// A catalogue: typed parameters, a loader that declares its answer, and records that are written through and behind.
fn catalogue(records: &std::path::Path) -> Builder {
    let dir = records.display();
    let sidecar = |file: &str| {
        format!(
            "[config]\npath = \"/data/{file}.json\"\nformat = \"json\"\nkey = \"id\"\n\
             [grants]\ndirs = {{ \"/data\" = {{ host = {:?}, mode = \"rw\" }} }}\n",
            dir.to_string()
        )
    };
    for file in ["goods", "orders"] {
        let text = r#"[{"id": "tea", "price": 3}, {"id": "ink", "price": 7}]"#;
        std::fs::write(records.join(file).with_extension("json"), text).expect("records");
    }
    Larder::with()
        .section("[openapi]\ntitle = \"Catalogue\"\nversion = \"7\"")
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .component("goods", Wasm::plugin("files"), &sidecar("goods"))
        .component("orders", Wasm::plugin("files"), &sidecar("orders"))
        .route(
            "/data/{key}",
            "demo",
            "summary = \"A sentence about a key.\"\nunknown_query = \"refuse\"\n\
             params.key = { type = \"string\", minLength = 1, maxLength = 40, description = \"About what.\" }\n\
             params.page = { type = \"integer\", minimum = 1, maximum = 100 }",
        )
        .route(
            "/goods/{id}",
            "goods",
            "write = \"through\"\nparams.id = { type = \"string\", pattern = \"^[a-z]{3}$\" }\n\
             response = { type = \"object\", required = [\"id\"], properties = { id = { \"$ref\" = \"#/$defs/id\" } }, \"$defs\" = { id = { type = \"string\" } } }",
        )
        .route(
            "/orders/{id}",
            "orders",
            "write = \"behind\"\nparams.id = { type = \"string\", pattern = \"^[a-z]{3}$\" }\n\
             request = { type = \"object\", required = [\"price\"], properties = { price = { type = \"integer\" } } }",
        )
        .component("all", Wasm::plugin("demo"), "[config]\nlatency_ms = 1\ntext = \"All of {rest}\"\n")
        .route("/files/{*rest}", "all", "key = { headers = [\"accept-language\"] }")
}

/// A program of the tests' Python environment, which `.ci/setup test` makes.
fn python(program: &str) -> Command {
    let path = repository().join("tests/.venv/bin").join(program);
    assert!(
        path.exists(),
        "{}: `.ci/setup test` makes it",
        path.display()
    );
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn document(larder: &Larder) -> Value {
    let answer = larder.get("/openapi.json").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

#[tokio::test]
async fn the_document_says_what_routes_take_and_give() {
    let records = tempfile::tempdir().expect("a directory");
    let larder = catalogue(records.path()).start().await;
    let document = document(&larder).await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "Catalogue");
    assert_eq!(document["info"]["version"], "7");
    let paths = document["paths"].as_object().expect("paths");
    let known: Vec<_> = paths.keys().map(String::as_str).collect();
    let wanted = [
        "/_batch",
        "/data/{key}",
        "/files/{rest}",
        "/goods/{id}",
        "/orders/{id}",
        "/writes/{id}",
    ];
    assert_eq!(known, wanted);
    let data = &paths["/data/{key}"];
    assert_eq!(data["get"]["summary"], "A sentence about a key.");
    assert_eq!(data["get"]["operationId"], "getDataByKey");
    assert!(data.get("put").is_none(), "{data}");
    let parameters = data["get"]["parameters"].as_array().expect("parameters");
    let named = |name: &str| {
        parameters
            .iter()
            .find(|it| it["name"] == name)
            .expect("it is there")
    };
    assert_eq!(named("key")["required"], true);
    assert_eq!(
        named("key")["schema"]["maxLength"],
        40,
        "the operator's, over the loader's"
    );
    assert_eq!(named("key")["description"], "About what.");
    assert_eq!(named("page")["in"], "query");
    let answer = &data["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(
        *answer,
        json!({ "$ref": "#/components/schemas/demo.response" })
    );
    assert_eq!(
        document["components"]["schemas"]["demo.response"]["properties"]["data"]["type"],
        "string"
    );
    // A reference inside a schema leads to where it is now.
    let goods = &paths["/goods/{id}"];
    let answer =
        goods["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].as_str();
    let answer = document.pointer(answer.expect("a reference").trim_start_matches('#'));
    let inner = answer.expect("it resolves")["properties"]["id"]["$ref"].as_str();
    let inner = document.pointer(inner.expect("a reference").trim_start_matches('#'));
    assert_eq!(inner.expect("it resolves")["type"], "string");
    assert!(goods["put"]["responses"].get("201").is_some(), "{goods}");
    assert!(goods["put"]["responses"].get("202").is_none(), "{goods}");
    let orders = &paths["/orders/{id}"];
    assert!(orders["put"]["responses"].get("202").is_some(), "{orders}");
    let body = &orders["put"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    let body = document.pointer(body.as_str().expect("a reference").trim_start_matches('#'));
    assert_eq!(
        body.expect("it resolves")["required"][0],
        "price",
        "the operator's"
    );
    let files = paths["/files/{rest}"]["get"]["parameters"]
        .as_array()
        .expect("parameters");
    assert!(
        files
            .iter()
            .any(|it| it["in"] == "header" && it["name"] == "accept-language")
    );
}

#[tokio::test]
async fn the_document_is_a_representation_like_others() {
    let larder = Larder::with().plugin("demo", "").start().await;
    let first = larder.get("/openapi.json").await;
    let etag = first.header("etag").expect("a tag").to_owned();
    let again = larder
        .get_with("/openapi.json", &[("if-none-match", &etag)])
        .await;
    assert_eq!(again.status, 304);
    assert!(again.body.is_empty());
    let head = larder.public.head("/openapi.json").await;
    assert_eq!(head.status, 200);
    assert_eq!(
        head.header("content-length"),
        first.header("content-length")
    );
    for path in ["/openapi.json", "/docs", "/docs/start.js"] {
        let answer = larder
            .public
            .request(Method::POST, path, &[], "".into())
            .await;
        answer.expect_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{path}");
    }
    larder
        .get("/docs/nothing")
        .await
        .expect_problem(404, "not-found");
}

#[tokio::test]
async fn the_document_follows_a_swap() {
    let larder = Larder::with()
        .plugin("demo", "")
        .route("/data/{key}", "demo", "")
        .route("/other/{key}", "other", "")
        .start()
        .await;
    let pointer = "/paths/~1other~1{key}/get/responses/200/content/application~1json/schema";
    let before = document(&larder).await;
    assert_eq!(
        before.pointer(pointer),
        None,
        "nobody has said it: {before}"
    );
    larder.install("other", &Wasm::plugin("demo"));
    eventually("the new plugin is described", async || {
        document(&larder).await.pointer(pointer).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn an_operator_may_keep_it_to_himself() {
    let home = Larder::with()
        .section("[openapi]\nserve = false")
        .plugin("demo", "")
        .route("/data/{key}", "demo", "")
        .write();
    let ran = home.run(&["openapi"]).await;
    assert!(ran.status.success(), "{ran:?}");
    let printed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert!(printed["paths"].get("/data/{key}").is_some(), "{printed}");
    let larder = Larder::start(home).await;
    for path in ["/openapi.json", "/docs", "/docs/start.js"] {
        larder.get(path).await.expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn what_is_printed_is_what_is_served() {
    let records = tempfile::tempdir().expect("a directory");
    let home = catalogue(records.path()).write();
    let ran = home.run(&["openapi"]).await;
    assert!(ran.status.success(), "{ran:?}");
    let printed: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let larder = Larder::start(home).await;
    assert_eq!(printed, document(&larder).await);
}

#[tokio::test]
async fn parameters_that_do_not_fit_say_what_would() {
    let records = tempfile::tempdir().expect("a directory");
    let larder = catalogue(records.path()).start().await;
    let answer = larder.get("/goods/xx1").await;
    answer.expect_problem(422, "invalid-request");
    assert_eq!(
        answer.json()["errors"],
        json!([{
            "where": "path", "name": "id", "pointer": "/id", "code": "pattern",
            "message": "\"xx1\" does not match \"^[a-z]{3}$\"", "expected": "^[a-z]{3}$",
        }])
    );
    let answer = larder.get("/data/a?pge=1&page=x&pge=2").await;
    answer.expect_problem(422, "invalid-request");
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors[0]["code"], "type", "{errors}");
    assert_eq!(errors[0]["expected"], "integer", "{errors}");
    assert_eq!(
        errors[1],
        json!({
            "where": "query", "name": "pge", "pointer": "/pge", "code": "unknown-parameter",
            "message": "there is no query parameter `pge`; did you mean `page`?", "expected": ["page"],
        })
    );
    assert_eq!(errors.as_array().map(Vec::len), Some(2), "{errors}");
    // A body is judged before it is queued.
    let fields = [("content-type", "application/json")];
    let body = r#"{"id": "ink", "price": "much"}"#.into();
    let answer = larder
        .public
        .request(Method::PUT, "/orders/ink", &fields, body)
        .await;
    answer.expect_problem(422, "invalid-request");
    assert_eq!(answer.json()["errors"][0]["pointer"], "/price");
    assert_eq!(larder.admin.get("/queue").await.json()["pending"], 0);
    // A text that reads as the type is taken for it, as FastAPI does; and what is not declared is ignored elsewhere.
    assert_eq!(larder.get("/data/a?page=7").await.status, 200);
    assert_eq!(larder.get("/goods/tea?pge=1").await.status, 200);
}

#[tokio::test]
async fn a_schema_that_is_none_is_refused_where_it_stands() {
    let home = Larder::with()
        .plugin("demo", "")
        .route(
            "/data/{key}",
            "demo",
            "params.key = { type = \"strnig\" }\nresponse = { type = 7 }\nrequest = { type = 8 }",
        )
        .write();
    let ran = home.run(&["check"]).await;
    assert!(!ran.status.success(), "{ran:?}");
    for wanted in [
        "route `/data/{key}`: params.key is no JSON Schema: ",
        "route `/data/{key}`: response is no JSON Schema: ",
        "route `/data/{key}`: request is no JSON Schema: ",
        "remedy: write it as JSON Schema has it, e.g. { type = \"integer\", minimum = 1 }",
    ] {
        assert!(ran.stdout.contains(wanted), "{wanted}: {ran:?}");
    }
}

#[tokio::test]
async fn an_independent_validator_takes_the_document() {
    let records = tempfile::tempdir().expect("a directory");
    let larder = catalogue(records.path()).start().await;
    let file = records.path().join("openapi.json");
    std::fs::write(&file, document(&larder).await.to_string()).expect("a file");
    let mut validator = python("openapi-spec-validator");
    let ran = validator
        .arg("--schema")
        .arg("3.1")
        .arg(&file)
        .output()
        .await
        .expect("it runs");
    assert!(
        ran.status.success(),
        "{}{}",
        text(&ran.stdout),
        text(&ran.stderr)
    );
}

/// Requests that fit the document and requests that do not, made by a program that knows nothing of Larder. Each answer is held
/// against the document: its status, its headers, its media type, its schema.
#[tokio::test]
async fn answers_are_what_the_document_says() {
    let records = tempfile::tempdir().expect("a directory");
    let larder = catalogue(records.path()).start().await;
    let mut schemathesis = python("schemathesis");
    schemathesis
        .current_dir(records.path())
        .arg("run")
        .arg(format!("http://{}/openapi.json", larder.public.address()))
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "40",
        ])
        .args([
            "--seed",
            "7",
            "--workers",
            "1",
            "--generation-deterministic",
        ])
        // A GET of a resource that nobody wrote may be a 404, and a pattern is no promise that it is not.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(["--continue-on-failure", "--no-color"]);
    let limit = Duration::from_secs(120);
    let ran = tokio::time::timeout(limit, schemathesis.output()).await;
    let ran = ran.expect("it ends").expect("it runs");
    assert!(
        ran.status.success(),
        "{}{}",
        text(&ran.stdout),
        text(&ran.stderr)
    );
    let said = text(&ran.stdout);
    assert!(
        said.contains("getDataByKey") || said.contains("/data/{key}") || said.contains("passed"),
        "{said}"
    );
}

#[tokio::test]
async fn the_page_shows_the_routes_and_tries_them() {
    let records = tempfile::tempdir().expect("a directory");
    let larder = catalogue(records.path()).start().await;
    let browser = Browser::start().await;
    browser.look(1200, 1600, false).await;
    let origin = format!("http://{}", larder.public.address());
    browser.open(&format!("{origin}/docs")).await;
    browser.until_text("#ui .info .title", "Catalogue").await;
    browser.until_text("#ui", "A sentence about a key.").await;
    let routes = browser.text("#ui").await;
    for wanted in [
        "/data/{key}",
        "/goods/{id}",
        "/orders/{id}",
        "A sentence about a key.",
    ] {
        assert!(routes.contains(wanted), "{wanted}: {routes}");
    }
    let data = "#operations-data-getDataByKey";
    browser
        .click(&format!("{data} .opblock-summary-control"))
        .await;
    browser
        .until_text(&format!("{data} .parameters"), "About what.")
        .await;
    browser
        .until_text(&format!("{data} .parameters"), "integer")
        .await;
    browser
        .fill(&format!("{data} tr[data-param-name=key] input"), "browser")
        .await;
    browser.click(&format!("{data} .execute")).await;
    browser
        .until_text(
            &format!("{data} .live-responses-table"),
            "Data for key browser",
        )
        .await;
    browser
        .until_text(
            &format!("{data} .live-responses-table"),
            "cache-status: larder; fwd=uri-miss; stored",
        )
        .await;
    browser.keep("docs").await;
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    let asked = browser.asked().await;
    assert!(
        asked
            .iter()
            .any(|url| url.starts_with(&format!("{origin}/data/browser"))),
        "{asked:#?}"
    );
    let strange: Vec<_> = asked
        .iter()
        .filter(|url| !url.starts_with(&origin))
        .collect();
    assert!(
        strange.is_empty(),
        "only this server is asked: {strange:#?}"
    );
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
