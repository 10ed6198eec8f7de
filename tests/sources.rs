//! The first-party sources as an operator uses them: `http` in front of an origin that does what it is told, and `files`
//! over real files.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use larder_tests::larder::Home;
use larder_tests::{
    Answer, Builder, Client, Larder, Link, Origin, Reply, Value, Wasm, eventually, json, sidecar,
};

/// A server with `http` in front of `origin` on `/things/{id}`; `config` are further lines of `[config]`.
async fn http(origin: &Origin, config: &str) -> Larder {
    let url = format!("{}/{{id}}", origin.url());
    let text = sidecar(origin, &url).replace("[grants]", &format!("{config}\n[grants]"));
    Larder::with()
        .plugin("http", &text)
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route(
            "/things/{id}",
            "http",
            "key = { path = [\"id\"], query = [\"q\", \"page\"] }\nttl = \"60s\"\ntimeout = \"20s\"",
        )
        .route("/demo/{key}", "demo", "ttl = \"1s\"")
        .start()
        .await
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

#[tokio::test]
async fn a_query_is_made_of_the_parts_that_were_sent() {
    let origin = Origin::start();
    let larder = http(&origin, "query = { search = \"<{q}>\", page = \"{page}\" }").await;
    larder.get("/things/1?q=a%26b%3D%23&page=2").await;
    larder.get("/things/2?q=x").await;
    larder.get("/things/3").await;
    let target = |path: &str| origin.seen(path)[0].target.clone();
    assert_eq!(target("/1"), "/1?page=2&search=%3Ca%26b%3D%23%3E");
    assert_eq!(target("/2"), "/2?search=%3Cx%3E");
    assert_eq!(target("/3"), "/3");
}

#[tokio::test]
async fn a_source_that_is_read_by_post_is_sent_a_body_that_no_part_can_break() {
    let origin = Origin::start();
    let config =
        "method = \"POST\"\nbody = '{\"id\": \"{id}\", \"q\": [\"{q}\"], \"page\": {page}}'";
    let larder = http(&origin, config).await;
    let answer = larder.get("/things/1?q=%22%5D,%5C&page=3").await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    let seen = &origin.seen("/1")[0];
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
    let body: larder_tests::Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(body, json!({ "id": "1", "q": ["\"],\\"], "page": 3 }));
    larder
        .get("/things/2?q=x&page=3,%22admin%22:1")
        .await
        .expect_problem(422, "part-is-no-number");
    assert_eq!(origin.calls("/2"), 0);
}

#[tokio::test]
async fn a_get_is_made_again_after_trouble_that_passes_and_nothing_else_is() {
    let passing = || Reply::status(503).header("retry-after", "0");
    let origin = Origin::start();
    let larder = http(&origin, "").await;
    let check = async |id: &str, replies: Vec<Reply>, status: u16, calls: usize| {
        origin.script(&format!("/{id}"), replies);
        let answer = larder.get(&format!("/things/{id}")).await;
        assert_eq!(answer.status, status, "{id}: {answer:?}");
        assert_eq!(origin.calls(&format!("/{id}")), calls, "{id}");
        answer
    };
    check("reset", vec![Reply::reset(), Reply::counted()], 200, 2).await;
    let short = vec![Reply::cut_short(), Reply::counted()];
    check("short", short, 200, 2).await;
    check("busy", vec![passing(), passing(), Reply::counted()], 200, 3).await;
    let second = Reply::status(503).header("retry-after", "1");
    check("second", vec![second, Reply::counted()], 200, 2).await;
    let plain = vec![Reply::status(503), Reply::counted()];
    check("plain", plain, 502, 1).await;
    let long = Reply::status(503).header("retry-after", "30");
    let answer = check("long", vec![long, Reply::counted()], 502, 1).await;
    assert_eq!(answer.header("retry-after"), Some("30"));
    assert_eq!(answer.problem()["code"], "origin-status-503");
    let limited = Reply::status(429).header("retry-after", "1");
    let answer = check("limited", vec![limited, Reply::counted()], 429, 1).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    let failed = vec![Reply::status(500), Reply::counted()];
    check("failed", failed, 502, 1).await;
}

#[tokio::test]
async fn a_connection_that_breaks_is_tried_again_until_the_source_is_back() {
    let origin = Origin::start();
    // Somebody who listens and breaks each connection, so that it is seen when the first try has failed.
    let link = Link::to(origin.address());
    for (retries, status) in [(0, 502), (10, 200)] {
        let url = format!("http://{}", link.address());
        let larder = Larder::with()
            .plugin(
                "http",
                &format!(
                    "[config]\nurl = \"{url}/{{id}}\"\nretries = {retries}\n[grants]\nhttp = [{url:?}]\n[limits]\ntimeout = \"20s\"\n"
                ),
            )
            .route("/things/{id}", "http", "timeout = \"20s\"")
            .start()
            .await;
        link.cut();
        let tried = link.connections();
        let back = async {
            eventually("the source was tried in vain", async || {
                (link.connections() > tried).then_some(())
            })
            .await;
            link.heal().await;
        };
        let path = format!("/things/{retries}");
        let (answer, ()) = futures_util::future::join(larder.get(&path), back).await;
        assert_eq!(answer.status, status, "with {retries} retries: {answer:?}");
        assert_eq!(
            origin.calls(&format!("/{retries}")),
            usize::from(status == 200)
        );
    }
}

#[tokio::test]
async fn no_retry_is_made_of_a_post_nor_without_retries_nor_past_the_deadline() {
    for config in [
        "method = \"POST\"",
        "retries = 0",
        "timeout_ms = 900", // the source asks to wait for a second
    ] {
        let origin = Origin::start();
        let larder = http(&origin, config).await;
        let busy = Reply::status(503).header("retry-after", "1");
        origin.script("/42", [busy, Reply::counted()]);
        larder
            .get("/things/42")
            .await
            .expect_problem(502, "origin-status-503");
        assert_eq!(origin.calls("/42"), 1, "{config}");
    }
}

#[tokio::test]
async fn a_source_that_is_down_is_not_asked_much_more_often_for_being_down() {
    let origin = Origin::start();
    let larder = http(&origin, "").await;
    origin.on("/*", Reply::status(503).header("retry-after", "0"));
    join_all((0..100).map(async |id| {
        larder
            .get(&format!("/things/{id}"))
            .await
            .expect_problem(502, "origin-status-503");
    }))
    .await;
    // Five to start with, and one for ten requests.
    let asked = origin.total();
    assert!((101..=115).contains(&asked), "asked {asked} times");
}

#[tokio::test]
async fn an_encoded_body_is_stored_decoded() {
    /// `larder` a thousand times, in Brotli.
    const BROTLI: &[u8] =
        b"\x1b\x6f\x17\xf8\x8d\x54\xb5\xbf\x94\x63\x0b\x2b\xb2\xb2\xb8\x2d\x0e\x40\xf2\x00\x70\x04";
    let origin = Origin::start();
    let larder = http(&origin, "").await;
    let text = "larder".repeat(1000);
    for (encoding, body) in [("gzip", gzip(text.as_bytes())), ("br", BROTLI.to_vec())] {
        let path = format!("/{encoding}");
        let reply = Reply::counted().header("content-encoding", encoding);
        origin.on(&path, reply.body(body));
        let answer = larder.get(&format!("/things/{encoding}")).await;
        answer.expect(200, "larder; fwd=uri-miss; stored");
        assert_eq!(answer.text(), text, "{encoding}");
        assert_eq!(answer.header("content-encoding"), None, "{encoding}");
        assert_eq!(origin.seen(&path)[0].headers["accept-encoding"], "gzip, br");
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_decoded_is_a_failure_that_says_so() {
    let origin = Origin::start();
    let larder = http(&origin, "retries = 0").await;
    let whole = gzip(b"a text that is longer than its end");
    for (id, encoding, body, code) in [
        (
            "cut",
            "gzip",
            &whole[..whole.len() - 4],
            "origin-encoding-broken",
        ),
        (
            "plain",
            "br",
            b"plain text".as_slice(),
            "origin-encoding-broken",
        ),
        (
            "zstd",
            "zstd",
            b"whatever".as_slice(),
            "encoding-not-asked-for",
        ),
        ("twice", "gzip, gzip", &whole, "encoding-not-asked-for"),
    ] {
        let reply = Reply::counted().header("content-encoding", encoding);
        origin.on(&format!("/{id}"), reply.body(body.to_vec()));
        larder
            .get(&format!("/things/{id}"))
            .await
            .expect_problem(502, code);
    }
}

#[tokio::test]
async fn law_9_a_body_over_the_limit_is_refused_before_it_is_taken() {
    let origin = Origin::start();
    let larder = http(&origin, "body_max = 1000\nretries = 0").await;
    origin.on("/fits", Reply::counted().body(vec![b'x'; 1000]));
    assert_eq!(larder.get("/things/fits").await.body.len(), 1000);
    origin.on("/long", Reply::counted().body(vec![b'x'; 1001]));
    // It declares its length and takes an hour: only who looks at the length has an answer in time.
    let slow = Reply::drip(Duration::from_secs(60));
    origin.on("/declared", slow.body(vec![b'x'; 1001]));
    let small = Reply::counted().header("content-encoding", "gzip");
    origin.on("/decoded", small.body(gzip(&[b'x'; 1001])));
    for id in ["long", "declared", "decoded"] {
        let answer = larder.get(&format!("/things/{id}")).await;
        let problem = answer.expect_problem(502, "body-too-long");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(
            detail.contains("1000 bytes") && detail.contains("body_max"),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn law_9_a_decompression_bomb_costs_its_own_request_alone() {
    let origin = Origin::start();
    let larder = http(&origin, "").await;
    // A hundred members of ten mebibytes each.
    let bomb = gzip(&vec![0; 10 << 20]).repeat(100);
    assert!(bomb.len() < 8 << 20, "{} bytes", bomb.len());
    let reply = Reply::counted().header("content-encoding", "gzip");
    origin.on("/bomb*", reply.body(bomb));
    let bombs = join_all((0..8).map(async |id| larder.get(&format!("/things/bomb{id}")).await));
    let neighbours = join_all((0..50).map(async |id| {
        let (own, other) = (format!("/things/{id}"), format!("/demo/{id}"));
        [
            larder.get(&own).await.status,
            larder.get(&other).await.status,
        ]
    }));
    let (bombs, neighbours) = futures_util::future::join(bombs, neighbours).await;
    for answer in bombs {
        answer.expect_problem(502, "body-too-long");
    }
    for statuses in neighbours {
        assert_eq!(statuses, [200, 200]);
    }
}

/// The sidecar of `files` over what `/data` is, with NDJSON.
fn over(host: &Path, path: &str, limits: &str) -> String {
    format!(
        "[config]\npath = \"{path}\"\nformat = \"ndjson\"\nkey = \"id\"\n[grants]\ndirs = {{ \"/data\" = {{ host = {host:?}, mode = \"ro\" }} }}\n[limits]\ntimeout = \"60s\"\n{limits}"
    )
}

#[tokio::test]
async fn a_directory_of_a_thousand_files_is_read_as_it_is_now() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let file = |name: u32| data.path().join(format!("{name:04}.ndjson"));
    let record = |id: u32, text: &str| format!("{{\"id\":{id},\"text\":\"{text}\"}}\n");
    for name in 0..1000 {
        std::fs::write(file(name), record(name, "first")).expect("a file");
    }
    let larder = Larder::with()
        .plugin("files", &over(data.path(), "/data", ""))
        .route("/records/{id}", "files", "timeout = \"60s\"")
        .start()
        .await;
    // After a purge the next read loads, and sees what there is then.
    let check = async |id: u32, expect: Option<&str>| {
        let path = format!("/records/{id}");
        larder.purge(json!({ "path": path })).await;
        let answer = larder.get(&path).await;
        match expect {
            Some(text) => assert_eq!(answer.json()["text"], text, "{id}"),
            None => assert_eq!(answer.status, 404, "{id}: {answer:?}"),
        }
    };
    for id in [0, 1, 500, 999] {
        check(id, Some("first")).await;
    }
    check(1000, None).await;
    std::fs::write(file(1000), record(1000, "added")).expect("a file is added");
    check(1000, Some("added")).await;
    std::fs::remove_file(file(500)).expect("a file is removed");
    check(500, None).await;
    let aside = data.path().join("aside");
    std::fs::write(&aside, record(1, "replaced")).expect("a file is written aside");
    std::fs::rename(&aside, file(1)).expect("and renamed over another");
    check(1, Some("replaced")).await;
    std::fs::write(file(2), record(2, "written into")).expect("a file is written into");
    check(2, Some("written into")).await;
    let mut open = std::fs::OpenOptions::new()
        .append(true)
        .open(file(3))
        .expect("a file");
    write!(open, "{}", record(2000, "appended")).expect("a record is appended");
    check(2000, Some("appended")).await;
    check(999, Some("first")).await;
}

/// `records` records of one file.
fn write_records(path: &Path, records: u32) {
    let mut text = String::new();
    for id in 0..records {
        let _ = writeln!(text, "{{\"id\":\"{id}\",\"name\":\"record {id}\"}}");
    }
    std::fs::write(path, text).expect("the records are written");
}

#[tokio::test]
async fn law_9_a_million_records_fit_the_memory_limit_or_are_refused_with_the_line_to_write() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let file = data.path().join("million.ndjson");
    write_records(&file, 1_000_000);
    let sidecar = |limits: &str| over(data.path(), "/data/million.ndjson", limits);
    let larder = Larder::with()
        .plugin("files", &sidecar(""))
        .component(
            "small",
            Wasm::plugin("files"),
            &sidecar("memory = \"14MiB\""),
        )
        .route("/records/{id}", "files", "timeout = \"60s\"")
        .route(
            "/small/{id}",
            "small",
            "timeout = \"60s\"\nfailure_ttl = \"50ms\"",
        )
        .start()
        .await;
    for id in [0, 1, 500_000, 999_999] {
        let answer = larder.get(&format!("/records/{id}")).await;
        assert_eq!(answer.json()["name"], json!(format!("record {id}")));
    }
    assert_eq!(larder.get("/records/1000000").await.status, 404);

    let answer = larder.get("/small/1").await;
    let problem = answer.expect_problem(502, "index-too-large");
    let detail = problem["detail"].as_str().unwrap_or_default();
    for words in ["1000000 records", "memory = \"14MiB\"", "[limits]"] {
        assert!(detail.contains(words), "{detail:?} does not say {words}");
    }
    // What it says to write is enough.
    let line = detail
        .split('`')
        .nth(1)
        .unwrap_or_else(|| panic!("no line in {detail}"));
    larder.sidecar("small", &sidecar(line));
    eventually("the line that it said to write is enough", async || {
        let answer = larder.get("/small/1").await;
        (answer.status == 200).then_some(())
    })
    .await;

    let mut open = std::fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .expect("the file");
    writeln!(open, "{{\"id\":\"new\",\"name\":\"appended\"}}").expect("a record is appended");
    let answer = larder.get("/records/new").await;
    assert_eq!(
        answer.json()["name"],
        "appended",
        "the load waits for the new index"
    );
}

#[tokio::test]
async fn what_waits_for_an_index_beyond_its_deadline_is_told_so_and_the_index_goes_on() {
    let home = Larder::with()
        .plugin("files", &over(Path::new("data"), "/data/all.ndjson", ""))
        .route(
            "/records/{id}",
            "files",
            "ttl = \"1ms\"\nstale_if_error = \"1h\"\nfailure_ttl = \"1ms\"\ntimeout = \"150ms\"",
        )
        .write();
    let data = home.path("plugins/data");
    std::fs::create_dir(&data).expect("a directory");
    let put = |home: &Home, records: u32| {
        let aside = home.path("aside/all.ndjson");
        write_records(&aside, records);
        std::fs::rename(&aside, data.join("all.ndjson")).expect("renamed");
    };
    put(&home, 1);
    let larder = Larder::start(home).await;
    // The first index is small, and yet a busy machine may take longer than the route waits.
    eventually("the first index is ready", async || {
        (larder.get("/records/0").await.status == 200).then_some(())
    })
    .await;
    put(&larder, 1_000_000);
    // An index of a million takes much longer than that, on any machine.
    let waiting = larder.get("/records/999999").await;
    assert_eq!(waiting.status, 504, "{waiting:?}");
    waiting.problem();
    // What is in hand is answered meanwhile.
    assert_eq!(larder.get("/records/0").await.status, 200);
    eventually(
        "the index is ready without anybody waiting for it",
        async || {
            let answer = larder.get("/records/999999").await;
            (answer.status == 200).then_some(())
        },
    )
    .await;
}

/// Records of `format` that may be written or not.
fn records(host: &Path, format: &str, mode: &str) -> Builder {
    let sidecar = format!(
        "[config]\npath = \"/data\"\nformat = \"{format}\"\nkey = \"id\"\n[grants]\ndirs = {{ \"/data\" = {{ host = {host:?}, mode = \"{mode}\" }} }}\n[limits]\ntimeout = \"20s\"\n"
    );
    let lines = "ttl = \"1h\"\nmissing_ttl = \"1h\"\ntimeout = \"20s\"\nwrite = \"through\"";
    Larder::with()
        .plugin("files", &sidecar)
        .route("/records/{id}", "files", lines)
}

async fn change(
    larder: &Larder,
    method: Method,
    id: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let fields = [&[("content-type", "application/json")], fields].concat();
    let client = Client::new(larder.public.address());
    let body = Bytes::copy_from_slice(body.as_bytes());
    client
        .request(method, &format!("/records/{id}"), &fields, body)
        .await
}

#[tokio::test]
async fn files_writes_what_it_reads_and_the_entity_tags_are_the_same() {
    for (format, first, body) in [
        (
            "json",
            "[{\"id\":\"a\",\"n\":\"1\"}]",
            "{\"id\": \"b\",\n \"n\": \"2\"}",
        ),
        (
            "ndjson",
            "{\"id\":\"a\",\"n\":\"1\"}\n",
            "{\"id\": \"b\",\n \"n\": \"2\"}",
        ),
        ("csv", "id,n\na,1\n", "{\"n\": \"2\", \"id\": \"b\"}"),
    ] {
        let data = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(data.path().join(format!("all.{format}")), first).expect("a file");
        let larder = records(data.path(), format, "rw").start().await;
        assert_eq!(larder.get("/records/b").await.status, 404);
        let made = change(&larder, Method::PUT, "b", &[("if-none-match", "*")], body).await;
        assert_eq!(made.status, 201, "{format}: {made:?}");
        let kept = larder.get("/records/b").await;
        larder.purge(json!({ "all": true })).await;
        let read = larder.get("/records/b").await;
        assert!(read.cache_status().contains("stored"), "{read:?}");
        assert_eq!(
            (made.text(), made.header("etag")),
            (read.text(), read.header("etag"))
        );
        assert_eq!(
            (kept.text(), kept.header("etag")),
            (read.text(), read.header("etag"))
        );
        assert_eq!(read.json(), json!({ "id": "b", "n": "2" }));
        // The tag of a read is what a change may ask for.
        let etag = read.header("etag").expect("it has one").to_owned();
        let again = body.replace('2', "3");
        for (tag, status) in [("\"no\"", 412), (&*etag, 200), (&*etag, 412)] {
            let answer = change(&larder, Method::PUT, "b", &[("if-match", tag)], &again).await;
            assert_eq!(answer.status, status, "{format}, {tag}: {answer:?}");
        }
        assert_eq!(larder.get("/records/b").await.json()["n"], "3");
        let absent = change(&larder, Method::PUT, "b", &[("if-none-match", "*")], body).await;
        absent.expect_problem(412, "record-present");
        assert_eq!(
            change(&larder, Method::DELETE, "b", &[], "").await.status,
            204
        );
        assert_eq!(larder.get("/records/b").await.status, 404);
        assert_eq!(
            change(&larder, Method::DELETE, "b", &[], "").await.status,
            204
        );
        let answer = change(&larder, Method::PUT, "b", &[("if-match", "*")], body).await;
        answer.expect_problem(412, "record-absent");
        assert_eq!(
            larder.get("/records/a").await.json(),
            json!({ "id": "a", "n": "1" })
        );
        // The last one too.
        assert_eq!(
            change(&larder, Method::DELETE, "a", &[], "").await.status,
            204
        );
        assert_eq!(larder.get("/records/a").await.status, 404);
        let left: Vec<_> = std::fs::read_dir(data.path())
            .expect("a directory")
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[tokio::test]
async fn files_takes_no_record_that_it_would_not_find() {
    let data = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(data.path().join("all.ndjson"), "{\"id\":7}\n").expect("a file");
    let larder = records(data.path(), "ndjson", "rw").start().await;
    for (body, code) in [
        ("[]", "invalid-request"),
        ("{", "body-invalid"),
        ("{\"n\": 1}", "member-missing"),
        ("{\"id\": 8}", "member-unfit"),
        ("{\"id\": null}", "member-unfit"),
    ] {
        let answer = change(&larder, Method::PUT, "7", &[], body).await;
        answer.expect_problem(422, code);
    }
    let untyped = Client::new(larder.public.address());
    let body = Bytes::from_static(b"{\"id\": 7}");
    let fields = [("content-type", "text/plain")];
    let answer = untyped
        .request(Method::PUT, "/records/7", &fields, body)
        .await;
    answer.expect_problem(415, "content-type-unsupported");
    assert_eq!(answer.header("accept"), Some("application/json"));
    // A number is a key as a text is.
    let answer = change(&larder, Method::PUT, "7", &[], "{\"id\": 7, \"n\": 1}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = std::fs::read_to_string(data.path().join("all.ndjson")).expect("a file");
    assert_eq!(text, "{\"id\": 7, \"n\": 1}\n");
}

#[tokio::test]
async fn many_changes_at_once_are_all_in_the_file() {
    let data = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(data.path().join("all.json"), "[]").expect("a file");
    let larder = records(data.path(), "json", "rw").start().await;
    let puts = (0..40).map(|number| {
        let (id, body) = (
            (number % 20).to_string(),
            format!("{{\"id\": {}, \"n\": {number}}}", number % 20),
        );
        let larder = &larder;
        async move { change(larder, Method::PUT, &id, &[], &body).await }
    });
    for answer in join_all(puts).await {
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let text = std::fs::read_to_string(data.path().join("all.json")).expect("a file");
    let all: Vec<Value> = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(all.len(), 20, "{text}");
    larder.purge(json!({ "all": true })).await;
    for record in all {
        let read = larder.get(&format!("/records/{}", record["id"])).await;
        assert_eq!(read.json(), record);
    }
}

#[tokio::test]
async fn law_9_files_that_may_only_be_read_are_not_written_and_the_line_is_named() {
    let data = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(data.path().join("all.json"), "[]").expect("a file");
    let larder = records(data.path(), "json", "ro").start().await;
    let answer = change(&larder, Method::PUT, "a", &[], "{\"id\": \"a\"}").await;
    let problem = answer.expect_problem(403, "files-read-only");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("mode = \"rw\""), "{detail}");
    assert_eq!(
        std::fs::read_to_string(data.path().join("all.json")).expect("a file"),
        "[]"
    );
    assert_eq!(larder.get("/records/a").await.status, 404);
}
