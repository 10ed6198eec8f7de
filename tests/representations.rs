//! In what form an answer leaves: its coding, its entity tags, and what caches downstream are told.

use std::io::Read as _;

use bytes::Bytes;
use http::Method;
use larder_tests::{Answer, Builder, Larder, eventually};

/// A demo whose answers are long enough to be worth compressing.
fn long(settings: &str) -> Builder {
    let text = "A sentence that says it again and again. ".repeat(100);
    let sidecar = format!(
        "[config]\nlatency_ms = 1\ntags = [\"all\", \"of-{{key}}\"]\ntext = \"{{key}}: {text}\"\n"
    );
    Larder::with()
        .plugin("demo", &sidecar)
        .route("/data/{key}", "demo", settings)
}

fn decoded(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    match answer.header("content-encoding") {
        None => plain.extend_from_slice(&answer.body),
        Some("br") => {
            let mut reader = brotli::Decompressor::new(&answer.body[..], 4096);
            reader.read_to_end(&mut plain).expect("it is brotli");
        }
        Some("zstd") => plain = zstd::decode_all(&answer.body[..]).expect("it is zstd"),
        Some("gzip") => {
            let mut reader = flate2::read::GzDecoder::new(&answer.body[..]);
            reader.read_to_end(&mut plain).expect("it is gzip");
        }
        Some(other) => panic!("nobody asked for {other}"),
    }
    plain
}

/// Asks until the answer is in this coding.
async fn until(larder: &Larder, path: &str, accept: &str, coding: &str) -> Answer {
    eventually(&format!("{path} leaves in {coding}"), async || {
        let answer = larder.get_with(path, &[("accept-encoding", accept)]).await;
        (answer.header("content-encoding") == Some(coding)).then_some(answer)
    })
    .await
}

#[tokio::test]
async fn a_body_leaves_in_the_coding_that_its_client_likes_best() {
    let larder = long("ttl = \"1h\"").start().await;
    let plain = larder.get("/data/a").await;
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(
        plain.header("vary"),
        Some("accept-encoding"),
        "so that nobody keeps it for all"
    );
    let mut tags = vec![plain.header("etag").expect("a tag").to_owned()];
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip;q=0.5, zstd", "zstd"),
        ("gzip", "gzip"),
    ] {
        let answer = until(&larder, "/data/a", accept, coding).await;
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(
            answer.body.len() * 4 < plain.body.len(),
            "{coding}: {}",
            answer.body.len()
        );
        assert_eq!(decoded(&answer), plain.body, "{coding}");
        assert!(
            answer.cache_status().starts_with("larder; hit"),
            "{answer:?}"
        );
        let head = larder
            .public
            .request(
                Method::HEAD,
                "/data/a",
                &[("accept-encoding", accept)],
                Bytes::new(),
            )
            .await;
        assert_eq!(head.header("content-encoding"), Some(coding));
        assert_eq!(
            head.header("content-length"),
            answer.header("content-length")
        );
        tags.push(answer.header("etag").expect("a tag").to_owned());
    }
    let mut different = tags.clone();
    different.sort();
    different.dedup();
    assert_eq!(
        different.len(),
        4,
        "each coding has a tag of its own: {tags:?}"
    );
    // Whichever of them a client has: it is what is there, and the answer says which one it would be.
    for tag in &tags {
        let fields = [("accept-encoding", "br"), ("if-none-match", tag.as_str())];
        let answer = larder.get_with("/data/a", &fields).await;
        assert_eq!(answer.status, 304, "{tag}");
        assert_eq!(answer.header("etag"), Some(tags[1].as_str()));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert_eq!(answer.header("content-encoding"), None);
        assert!(answer.body.is_empty());
    }
    for accept in ["identity", "br;q=0, gzip;q=0, zstd;q=0", ""] {
        let answer = larder
            .get_with("/data/a", &[("accept-encoding", accept)])
            .await;
        assert_eq!(answer.header("content-encoding"), None, "{accept:?}");
        assert_eq!(answer.body, plain.body);
    }
}

#[tokio::test]
async fn law_12_what_is_kept_beside_an_entry_is_counted_and_goes_with_it() {
    let larder = long("ttl = \"1h\"").start().await;
    for key in ["a", "b"] {
        until(&larder, &format!("/data/{key}"), "br", "br").await;
    }
    assert!(larder.metrics().await.sum("larder_encoded_bytes") > 0.0);
    larder
        .admin
        .post("/purge", &larder_tests::json!({"path": "/data/a"}))
        .await;
    until(&larder, "/data/b", "br", "br").await;
    // What was purged is made anew, and nothing of before is sent.
    let again = larder
        .get_with("/data/a", &[("accept-encoding", "br")])
        .await;
    again.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(again.header("content-encoding"), None);
    larder
        .admin
        .post("/purge", &larder_tests::json!({"all": true}))
        .await;
    for key in ["a", "b"] {
        larder
            .get(&format!("/data/{key}"))
            .await
            .expect(200, "larder; fwd=uri-miss; stored");
    }
    eventually("their bytes are given back", async || {
        (larder.metrics().await.sum("larder_encoded_bytes") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_route_says_in_which_codings() {
    let larder = long("compress = [\"gzip\"]").start().await;
    let answer = until(&larder, "/data/a", "br, gzip", "gzip").await;
    assert!(decoded(&answer).starts_with(b"{\"data\":\"a: "));
    let larder = long("compress = []").start().await;
    larder.get("/data/a").await;
    let answer = larder
        .get_with("/data/a", &[("accept-encoding", "br, gzip")])
        .await;
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.header("vary"), None);
}

#[tokio::test]
async fn downstream_is_told_the_windows_and_what_a_cdn_wants() {
    let settings = "ttl = \"60s\"\njitter = 0\nstale_while_revalidate = \"30s\"\nstale_if_error = \"1h\"\n\
                    cdn_cache_control = \"max-age=600\"\ntags_header = \"surrogate-key\"";
    let larder = long(settings).start().await;
    let answer = larder.get("/data/a").await;
    assert_eq!(
        answer.header("cache-control"),
        Some("public, max-age=60, stale-while-revalidate=30, stale-if-error=3600")
    );
    assert_eq!(answer.header("cdn-cache-control"), Some("max-age=600"));
    assert_eq!(answer.header("surrogate-key"), Some("all of-a"));
    // What is no longer fresh promises nothing more.
    larder
        .admin
        .post(
            "/purge",
            &larder_tests::json!({"path": "/data/a", "mode": "expire"}),
        )
        .await;
    let answer = larder.get("/data/a").await;
    assert_eq!(
        answer.cache_status(),
        "larder; hit; ttl=0; detail=stale-while-revalidate"
    );
    let control = answer.header("cache-control").expect("it is there");
    assert!(!control.contains("stale-"), "{control}");
}

#[tokio::test]
async fn pages_of_other_origins_may_what_their_route_lets_them() {
    let app = "https://app.example.com";
    let settings = format!(
        "cors = {{ origins = [\"{app}\"], headers = [\"x-tenant\"], credentials = true, max_age = \"10m\" }}"
    );
    let larder = Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", &settings)
        .route("/open/{key}", "demo", "cors = { origins = [\"*\"] }")
        .route("/closed/{key}", "demo", "")
        .start()
        .await;
    let options = async |path: &str, origin: &str| {
        let fields = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "x-tenant"),
        ];
        larder
            .public
            .request(Method::OPTIONS, path, &fields, Bytes::new())
            .await
    };
    let answer = options("/data/a", app).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some(app));
    assert_eq!(
        answer.header("access-control-allow-methods"),
        Some("GET, HEAD, OPTIONS")
    );
    let headers = answer
        .header("access-control-allow-headers")
        .expect("they are listed");
    assert!(
        headers.contains("if-none-match") && headers.ends_with(", x-tenant"),
        "{headers}"
    );
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert_eq!(
        answer.header("access-control-allow-credentials"),
        Some("true")
    );
    assert_eq!(answer.header("vary"), Some("origin"));
    // A value and a problem can be read, and a hit as well as a miss.
    for path in ["/data/a", "/data/a", "/data/%ff"] {
        let answer = larder.get_with(path, &[("origin", app)]).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some(app),
            "{path}"
        );
        assert!(
            answer
                .header("access-control-expose-headers")
                .is_some_and(|names| names.contains("cache-status"))
        );
        assert_eq!(answer.header("vary"), Some("origin"));
    }
    let answer = larder.get("/data/a").await;
    assert_eq!(
        answer.header("vary"),
        Some("origin"),
        "and so it is for whoever has none"
    );
    // Of another origin it is answered, and nobody's page may read it.
    let stranger = "https://evil.example";
    options("/data/a", stranger)
        .await
        .expect_problem(403, "origin-not-allowed");
    let answer = larder.get_with("/data/a", &[("origin", stranger)]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), Some("origin"));
    let answer = larder.get_with("/open/a", &[("origin", stranger)]).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("vary"), None, "it is the same for all");
    let answer = larder.get_with("/closed/a", &[("origin", app)]).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    let answer = larder
        .public
        .request(Method::OPTIONS, "/closed/a", &[], Bytes::new())
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
    larder
        .public
        .request(Method::OPTIONS, "/nowhere", &[], Bytes::new())
        .await
        .expect_problem(404, "not-found");
}

/// The first response of a connection: its head in an order of its own, without what a clock says, and its body.
fn first(text: &str) -> (Vec<String>, String) {
    let (head, rest) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<String> = head
        .lines()
        .filter(|line| !line.starts_with("date: ") && !line.starts_with("age: "))
        .map(|line| match line.split_once("; ttl=") {
            Some((before, after)) => {
                let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}; ttl=?{after}")
            }
            None => line.to_owned(),
        })
        .collect();
    lines[1..].sort();
    let body = rest.split("HTTP/1.1 ").next().unwrap_or_default();
    (lines, body.to_owned())
}

/// Most reads are answered before hyper; those whose target has a host in it (RFC 9112 section 3.2.2) are not.
#[tokio::test]
async fn a_read_is_answered_the_same_on_either_way() {
    let larder = long(
        "ttl = \"1h\"\nstale_while_revalidate = \"1m\"\ntags_header = \"Cache-Tag\"\ncdn_cache_control = \"max-age=9\"\n\
         unknown_query = \"refuse\"\nkey = { path = [\"key\"], query = [\"page\"], headers = [\"x-of\"] }",
    )
    .start()
    .await;
    let answer = until(&larder, "/data/a", "br", "br").await;
    let tag = answer.header("etag").expect("a tag").to_owned();
    let known = format!("if-none-match: W/\"x\", {tag}\r\n");
    for (path, fields, status) in [
        ("/data/a", "", 200),
        ("/data/a", "X-Of: one\r\nx-of: two\r\n", 200),
        ("/data/a?page=2", "", 200),
        ("/data/%61", "accept: */*\r\nuser-agent: x\r\n", 200),
        ("/data/a", "accept-encoding: gzip;q=0, br\r\n", 200),
        ("/data/a", "accept-encoding: identity\r\n", 200),
        ("/data/a", &known, 304),
        ("/data/a", "if-none-match: \"other\"\r\n", 200),
        ("/data/a", "cache-control: only-if-cached\r\n", 200),
        ("/data/never", "cache-control: only-if-cached\r\n", 504),
        ("/data/a?pages=2", "", 422),
        ("/data/%ff", "", 400),
        ("/nowhere", "", 404),
        ("/livez", "", 404),
    ] {
        let end = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let request =
            |target: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n{fields}\r\n{end}");
        // What may still be a miss becomes a hit.
        larder.public.raw(request(path)).await;
        let plain = larder.public.raw(request(path)).await;
        let other = larder.public.raw(request(&format!("http://x{path}"))).await;
        let (plain, other) = (first(&plain), first(&other));
        assert_eq!(plain, other, "{path} {fields}");
        let line = &plain.0[0];
        assert!(
            line.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path} {fields}: {line}"
        );
    }
}
