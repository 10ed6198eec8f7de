//! What a client may send in good form, and means ill with: too much of it, paths that mean another's resource, and fields
//! that others would be shown.

use bytes::Bytes;
use http::Method;
use larder_tests::{Reply, json};

use super::stage::Stage;
use super::{Case, ensure};

pub(super) fn cases(stage: &Stage) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = vec![
        (
            "a path that is too long".into(),
            Box::pin(too_large(
                stage,
                format!(
                    "GET /things/{} HTTP/1.1\r\nhost: x\r\n\r\n",
                    "x".repeat(70_000)
                ),
            )),
        ),
        (
            "a field that is too long".into(),
            Box::pin(too_large(
                stage,
                format!(
                    "GET /things/good HTTP/1.1\r\nx: {}\r\n\r\n",
                    "x".repeat(40_000)
                ),
            )),
        ),
        (
            "too many fields".into(),
            Box::pin(too_large(
                stage,
                format!("GET /things/good HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(60)),
            )),
        ),
        (
            "a body that is too long, told before".into(),
            Box::pin(long_body(stage)),
        ),
        (
            "a body that comes too slowly".into(),
            Box::pin(slow_body(stage)),
        ),
        (
            "what a client is known by is seen by no loader and kept for nobody".into(),
            Box::pin(unkeyed(stage)),
        ),
        (
            "what a client is known by parts what it is keyed by".into(),
            Box::pin(keyed(stage)),
        ),
        (
            "a loader's set-cookie goes to nobody".into(),
            Box::pin(set_cookie(stage)),
        ),
    ];
    // What is asked for, and which part the loader is shown; none: no resource.
    for (path, key) in [
        ("/echo/a%2fb", Some("a/b")),
        ("/echo/a;b=c", Some("a;b=c")),
        ("/echo/a%00b", Some("a\0b")),
        ("/echo/..", Some("..")),
        ("/echo/%2e%2e", Some("..")),
        ("/echo/a%0d%0ax-evil:%201", Some("a\r\nx-evil: 1")),
        ("/echo/a%252fb", Some("a%2fb")),
        ("//echo/a", None),
        ("/echo//a", None),
        ("/echo/../echo/a", None),
        ("/echo/a/b", None),
        ("/ECHO/a", None),
    ] {
        cases.push((
            format!("the path {path}"),
            Box::pin(path_means(stage, path, key)),
        ));
    }
    for path in [
        "/echo/%c0%af",
        "/echo/%e0%80%af",
        "/echo/%ff",
        "/echo/%ed%a0%80",
    ] {
        let tried = async move {
            let answer = stage.larder.get(path).await;
            ensure(answer.status == 400, || format!("{answer:?}"))
        };
        cases.push((
            format!("the path {path}, which is no UTF-8"),
            Box::pin(tried),
        ));
    }
    cases
}

async fn too_large(stage: &Stage, head: String) -> Result<(), String> {
    let told = stage.larder.public.raw(head).await;
    // A reset may overtake what was said.
    let refused = ["HTTP/1.1 431", "HTTP/1.1 414", "HTTP/1.1 400"];
    let is_refused = told.is_empty() || refused.iter().any(|status| told.starts_with(status));
    ensure(is_refused, || told)
}

async fn long_body(stage: &Stage) -> Result<(), String> {
    let head = "PUT /written/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n";
    let mut connection = stage.larder.public.connect().await;
    connection.send(head).await;
    let told = connection.response().await;
    ensure(told.starts_with("HTTP/1.1 413"), || told)
}

async fn slow_body(stage: &Stage) -> Result<(), String> {
    let head = "PUT /written/1 HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc";
    let told = stage.larder.public.raw(head).await;
    ensure(told.starts_with("HTTP/1.1 408"), || told)
}

async fn path_means(stage: &Stage, path: &str, key: Option<&str>) -> Result<(), String> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let told = stage.larder.public.raw(head).await;
    let (head, body) = told.split_once("\r\n\r\n").unwrap_or((&told, ""));
    ensure(!head.to_ascii_lowercase().contains("\nx-evil"), || {
        told.clone()
    })?;
    let Some(key) = key else {
        return ensure(head.starts_with("HTTP/1.1 404"), || told.clone());
    };
    let body: larder_tests::Value = serde_json::from_str(body).map_err(|_| told.clone())?;
    ensure(body["parts"] == json!([["key", key]]), || told.clone())
}

async fn unkeyed(stage: &Stage) -> Result<(), String> {
    let client = |who: &'static str| async move {
        let fields = [
            ("authorization", who),
            ("cookie", who),
            ("x-forwarded-host", who),
        ];
        stage.larder.get_with("/things/shared", &fields).await
    };
    let (first, second) = (client("Bearer alice").await, client("Bearer bob").await);
    ensure(second.is_hit() && first.body == second.body, || {
        format!("{second:?}")
    })?;
    let seen = stage.origin.seen("/shared");
    let told = format!("{seen:?}");
    ensure(seen.len() == 1 && !told.contains("alice"), || told)
}

async fn keyed(stage: &Stage) -> Result<(), String> {
    let client = |who: &'static str| async move {
        stage
            .larder
            .get_with("/mine/7", &[("authorization", who)])
            .await
    };
    let first = client("Bearer alice").await;
    let (second, again) = (client("Bearer bob").await, client("Bearer alice").await);
    ensure(!second.is_hit() && first.body != second.body, || {
        format!("{second:?}")
    })?;
    ensure(again.is_hit() && again.body == first.body, || {
        format!("{again:?}")
    })
}

async fn set_cookie(stage: &Stage) -> Result<(), String> {
    stage.origin.on(
        "/cookies",
        Reply::counted().header("x-header", "set-cookie: session=1"),
    );
    for _ in 0..2 {
        let client = &stage.larder.public;
        let answer = client
            .request(Method::GET, "/things/cookies", &[], Bytes::new())
            .await;
        ensure(
            answer.status == 200 && answer.header("set-cookie").is_none(),
            || format!("{answer:?}"),
        )?;
    }
    Ok(())
}
