//! HTTP/1.1 that two servers on one path may read differently (request smuggling): each is refused and the connection is
//! closed, or it has exactly one reading, which the request after it proves.

use super::stage::Stage;
use super::{Case, ensure};

/// What must not be taken for a request.
const HIDDEN: &str = "GET /things/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
/// What ends a connection in good order.
const LAST: &str = "GET /things/good HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// The statuses of all responses, until the server closes.
struct Shape(&'static str, String, &'static [u16]);

/// A GET that hits, with these fields and this body, and a request behind it.
fn get(fields: &str, body: &str) -> String {
    format!("GET /things/good HTTP/1.1\r\nhost: x\r\n{fields}\r\n{body}{LAST}")
}

/// A PUT of the same, whose body is read.
fn put(fields: &str, body: &str) -> String {
    format!("PUT /written/1 HTTP/1.1\r\nhost: x\r\n{fields}\r\n{body}{LAST}")
}

fn hidden(fields: &str) -> String {
    get(&fields.replace("{n}", &HIDDEN.len().to_string()), HIDDEN)
}

fn chunk(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

const REFUSED: &[u16] = &[400];

fn lengths() -> Vec<Shape> {
    let n = HIDDEN.len();
    vec![
        Shape(
            "a body on a GET that hits is no request",
            hidden("content-length: {n}\r\n"),
            &[200],
        ),
        Shape(
            "the same in chunks",
            get("transfer-encoding: chunked\r\n", &chunk(HIDDEN)),
            &[200],
        ),
        Shape(
            "a body of a length that never comes",
            get("content-length: 100000\r\n", HIDDEN),
            &[200],
        ),
        Shape(
            "content-length twice, the same",
            hidden("content-length: {n}\r\ncontent-length: {n}\r\n"),
            &[200],
        ),
        Shape(
            "content-length twice, not the same",
            hidden("content-length: {n}\r\ncontent-length: 0\r\n"),
            REFUSED,
        ),
        Shape(
            "the same the other way round",
            hidden("content-length: 0\r\ncontent-length: {n}\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length: +N",
            hidden("content-length: +{n}\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length: -N",
            hidden("content-length: -{n}\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length: 0xN",
            get(&format!("content-length: {n:#x}\r\n"), HIDDEN),
            REFUSED,
        ),
        Shape(
            "content-length: N, N",
            hidden("content-length: {n}, {n}\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length with a space in it",
            get("content-length: 4 2\r\n", HIDDEN),
            REFUSED,
        ),
        Shape(
            "content-length that is empty",
            hidden("content-length:\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length past 64 bits",
            hidden("content-length: 18446744073709551616\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length of 64 bits",
            hidden("content-length: 18446744073709551615\r\n"),
            &[431],
        ),
        Shape(
            "content-length with a letter",
            hidden("content-length: {n}a\r\n"),
            REFUSED,
        ),
        Shape(
            "content-length of 0 with a body is a next request, of no method",
            get("content-length: 0\r\n", "x=1\r\n\r\n"),
            &[200, 400],
        ),
    ]
}

fn codings() -> Vec<Shape> {
    let both = "content-length: 4\r\ntransfer-encoding: chunked\r\n";
    let chunked = chunk(HIDDEN);
    let coded = |coding: &str| get(&format!("transfer-encoding: {coding}\r\n"), &chunked);
    vec![
        Shape(
            "content-length and then chunked",
            get(both, &chunked),
            &[200],
        ),
        Shape(
            "chunked and then content-length",
            get(
                "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
                &chunked,
            ),
            &[200],
        ),
        Shape(
            "both, on a change: the chunks count and the connection ends",
            put(both, &chunk("new")),
            &[204],
        ),
        Shape("transfer-encoding: xchunked", coded("xchunked"), REFUSED),
        Shape(
            "transfer-encoding: chunked, identity",
            coded("chunked, identity"),
            REFUSED,
        ),
        Shape("transfer-encoding: identity", coded("identity"), REFUSED),
        Shape("transfer-encoding that is empty", coded(""), REFUSED),
        Shape(
            "transfer-encoding twice, the last not chunked",
            get(
                "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n",
                &chunked,
            ),
            REFUSED,
        ),
        Shape(
            "transfer-encoding with a vertical tab",
            coded("\u{b}chunked"),
            REFUSED,
        ),
        Shape("transfer-encoding in quotes", coded("\"chunked\""), REFUSED),
        Shape(
            "transfer-encoding of HTTP/1.0",
            format!("GET /things/good HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"),
            REFUSED,
        ),
        Shape(
            "a space before the colon",
            get("transfer-encoding : chunked\r\n", &chunked),
            REFUSED,
        ),
        Shape(
            "a tab before the colon",
            get("content-length\t: 5\r\n", HIDDEN),
            REFUSED,
        ),
        Shape(
            "a field that is folded",
            get("transfer-encoding:\r\n chunked\r\n", &chunked),
            REFUSED,
        ),
        Shape(
            "a first field that begins with a space",
            format!("GET /things/good HTTP/1.1\r\n host: x\r\n\r\n{HIDDEN}"),
            REFUSED,
        ),
        Shape(
            "a NUL in a name",
            get("content\0-length: 5\r\n", HIDDEN),
            REFUSED,
        ),
        Shape("a NUL in a value", get("x-a: \0\r\n", HIDDEN), REFUSED),
        Shape(
            "a bare CR in a value",
            get("x-a: b\rcontent-length: 5\r\n", HIDDEN),
            REFUSED,
        ),
        Shape(
            "a field without a colon",
            get("content-length 5\r\n", HIDDEN),
            REFUSED,
        ),
    ]
}

fn chunks() -> Vec<Shape> {
    let sent = |body: &str| put("transfer-encoding: chunked\r\n", body);
    vec![
        Shape(
            "a chunk with an extension is its bytes",
            sent("3;a=b\r\nnew\r\n0\r\n\r\n"),
            &[204],
        ),
        Shape(
            "a chunk size that is no number",
            sent("zz\r\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a chunk size with a sign",
            sent("+3\r\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a chunk size of 0x3",
            sent("0x3\r\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a chunk size past 64 bits",
            sent("10000000000000003\r\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a chunk longer than its size",
            sent("2\r\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a chunk line that ends in a bare LF",
            sent("3\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a bare LF in a chunk extension",
            sent("3;\nnew\r\n0\r\n\r\n"),
            REFUSED,
        ),
        Shape(
            "a chunk extension without an end",
            sent(&format!("3;{}\r\nnew\r\n0\r\n\r\n", "x".repeat(40_000))),
            REFUSED,
        ),
        Shape(
            "chunks past the longest body",
            sent(&chunk(&"x".repeat(70_000))),
            &[413],
        ),
    ]
}

fn lines() -> Vec<Shape> {
    let line = |line: &str| format!("{line}\r\nhost: x\r\n\r\n");
    vec![
        Shape(
            "lines that end in LF alone are lines",
            format!("GET /things/good HTTP/1.1\nhost: x\n\n{LAST}"),
            &[200, 200],
        ),
        Shape(
            "HTTP/1.0 is answered and closed",
            format!("GET /things/good HTTP/1.0\r\n\r\n{HIDDEN}"),
            &[200],
        ),
        Shape(
            "HTTP/1.0 that asks to be kept is kept",
            format!("GET /things/good HTTP/1.0\r\nconnection: keep-alive\r\n\r\n{LAST}"),
            &[200, 200],
        ),
        Shape(
            "close and keep-alive is close",
            format!(
                "GET /things/good HTTP/1.1\r\nhost: x\r\nconnection: close\r\nconnection: keep-alive\r\n\r\n{HIDDEN}"
            ),
            &[200],
        ),
        Shape("HTTP/0.9", line("GET /things/good"), REFUSED),
        Shape("HTTP/1.2", line("GET /things/good HTTP/1.2"), REFUSED),
        Shape(
            "a space in the path",
            line("GET /things/go od HTTP/1.1"),
            REFUSED,
        ),
        Shape(
            "a NUL in the path",
            line("GET /things/go\0od HTTP/1.1"),
            REFUSED,
        ),
        Shape(
            "a method of no token",
            line("G{T /things/good HTTP/1.1"),
            REFUSED,
        ),
        Shape(
            "an absolute form is its path, whatever Host says",
            format!("GET http://other/things/good HTTP/1.1\r\nhost: x\r\n\r\n{LAST}"),
            &[200, 200],
        ),
        Shape(
            "an authority is no resource",
            format!("CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n{HIDDEN}"),
            &[404],
        ),
        Shape(
            "an asterisk is no resource",
            format!("OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n{LAST}"),
            &[404, 200],
        ),
        Shape(
            "an upgrade to h2c is not taken",
            format!(
                "GET /things/good HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n{LAST}"
            ),
            &[200, 200],
        ),
        Shape(
            "an upgrade to a websocket is not taken",
            format!(
                "GET /things/good HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{LAST}"
            ),
            &[200, 200],
        ),
        Shape(
            "half a preface of HTTP/2 is no request",
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_owned(),
            REFUSED,
        ),
    ]
}

pub(super) fn cases(stage: &Stage) -> Vec<Case<'_>> {
    let shapes = [lengths(), codings(), chunks(), lines()]
        .into_iter()
        .flatten();
    shapes
        .map(|Shape(name, bytes, expected)| -> Case<'_> {
            let tried = async move {
                let text = stage.larder.public.raw(bytes).await;
                let found: Vec<u16> = text
                    .split("HTTP/1.")
                    .skip(1)
                    .filter_map(|response| response.get(2..5)?.parse().ok())
                    .collect();
                ensure(found == expected, || {
                    format!("expected {expected:?}, found {found:?} in {text:?}")
                })
            };
            (name.to_owned(), Box::pin(tried))
        })
        .collect()
}
