//! HTTP/2 without TLS, frame by frame (RFC 9113): what is meant well is answered, and each flood ends its connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::crowds::admin_metric;
use super::stage::Stage;
use super::{Case, ensure};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// No flood may go on for longer.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn cases(stage: &Stage) -> Vec<Case<'_>> {
    vec![
        (
            "HTTP/2: a request is answered".into(),
            Box::pin(answered(stage)),
        ),
        ("HTTP/2: rapid reset".into(), Box::pin(rapid_reset(stage))),
        (
            "HTTP/2: a head of CONTINUATION without end".into(),
            Box::pin(continuation(stage)),
        ),
        (
            "HTTP/2: too many fields".into(),
            Box::pin(many_fields(stage)),
        ),
        (
            "HTTP/2: more streams than are allowed".into(),
            Box::pin(streams(stage)),
        ),
        (
            "HTTP/2: pings whose answers are not read".into(),
            Box::pin(unread(stage, frame(PING, 0, 0, &[0; 8]))),
        ),
        (
            "HTTP/2: settings whose answers are not read".into(),
            Box::pin(unread(stage, frame(SETTINGS, 0, 0, &[]))),
        ),
        (
            "HTTP/2: a window that stays shut".into(),
            Box::pin(shut_window(stage)),
        ),
        (
            "HTTP/2: a client that asks for nothing".into(),
            Box::pin(idle(stage)),
        ),
        (
            "HTTP/2: a frame that is too long".into(),
            Box::pin(broken(stage, frame(DATA, 0, 1, &[0; 20_000]))),
        ),
        (
            "HTTP/2: data of a stream that is not open".into(),
            Box::pin(broken(stage, frame(DATA, 0, 1, b"GET /things/smuggled"))),
        ),
        (
            "HTTP/2: a connection field".into(),
            Box::pin(hop_by_hop(stage)),
        ),
    ]
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).expect("a short text"));
    bytes.extend(text.as_bytes());
}

/// The head of a GET (RFC 7541: static fields, and literals that are not indexed).
fn head(path: &str, fields: &[(String, String)]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x01];
    text(&mut block, "x");
    block.push(0x04);
    text(&mut block, path);
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

async fn connect(stage: &Stage, settings: &[u8]) -> Result<TcpStream, String> {
    let address = stage.larder.public.address();
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let mut hello = PREFACE.to_vec();
    hello.extend(frame(SETTINGS, 0, 0, settings));
    stream
        .write_all(&hello)
        .await
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

/// The next frame: its kind, flags, stream and payload; none at the end.
async fn next(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut head))
        .await
        .expect("a frame, or the end")
        .ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], head[4], id, payload))
}

/// Sends bytes again and again until the connection is closed.
async fn until_closed(stream: &mut TcpStream, bytes: &[u8]) -> Result<(), String> {
    let sent = async { while stream.write_all(bytes).await.is_ok() {} };
    let ended = tokio::time::timeout(PATIENCE, sent).await;
    ended.map_err(|_| format!("it is still taken after {PATIENCE:?}"))
}

/// Reads until the first response's head, and gives its first byte: the static index of its status, or how it is coded.
async fn status(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    while let Some((kind, _, _, payload)) = next(stream).await {
        if kind == HEADERS {
            return Ok(payload);
        }
        ensure(kind != GOAWAY && kind != RESET, || {
            format!("{kind}: {payload:?}")
        })?;
    }
    Err("closed without an answer".into())
}

async fn get(stage: &Stage, path: &str, fields: &[(String, String)]) -> Result<Vec<u8>, String> {
    let mut stream = connect(stage, &[]).await?;
    let asked = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head(path, fields));
    stream
        .write_all(&asked)
        .await
        .map_err(|error| error.to_string())?;
    status(&mut stream).await
}

async fn answered(stage: &Stage) -> Result<(), String> {
    let head = get(stage, "/things/good", &[]).await?;
    // `:status: 200` of the static table.
    ensure(head[0] == 0x88, || format!("{head:?}"))
}

async fn many_fields(stage: &Stage) -> Result<(), String> {
    let fields: Vec<_> = (0..60)
        .map(|n| (format!("x-{n}"), "1".to_owned()))
        .collect();
    let head = get(stage, "/things/good", &fields).await?;
    // `:status` as a literal: whatever the coding of its three digits, it is not 200.
    ensure(head[0] != 0x88, || format!("{head:?}"))
}

async fn rapid_reset(stage: &Stage) -> Result<(), String> {
    let mut stream = connect(stage, &[]).await?;
    let (block, mut sent) = (head("/things/good", &[]), 0_u32);
    let flood = async {
        loop {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                let id = sent * 2 + 1;
                bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, id, &block));
                bytes.extend(frame(RESET, 0, id, &8_u32.to_be_bytes()));
                sent += 1;
            }
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, flood)
        .await
        .map_err(|_| "it is still taken".to_owned())?;
    Ok(())
}

async fn continuation(stage: &Stage) -> Result<(), String> {
    let mut stream = connect(stage, &[]).await?;
    let begun = frame(HEADERS, END_STREAM, 1, &head("/things/smuggled", &[]));
    stream
        .write_all(&begun)
        .await
        .map_err(|error| error.to_string())?;
    let fields: Vec<_> = (0..20)
        .map(|_| ("x-a".to_owned(), "1".repeat(50)))
        .collect();
    let more = head("/", &fields)[6..].to_vec();
    until_closed(&mut stream, &frame(CONTINUATION, 0, 1, &more)).await
}

async fn streams(stage: &Stage) -> Result<(), String> {
    let mut stream = connect(stage, &[0, 4, 0, 0, 0, 0]).await?;
    let block = head("/things/large", &[]);
    let mut asked = Vec::new();
    for n in 0..200 {
        asked.extend(frame(HEADERS, END_STREAM | END_HEADERS, n * 2 + 1, &block));
    }
    stream
        .write_all(&asked)
        .await
        .map_err(|error| error.to_string())?;
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 200 {
        match next(&mut stream).await {
            Some((HEADERS, ..)) => answered += 1,
            Some((RESET, _, _, why)) if why == 7_u32.to_be_bytes() => refused += 1,
            Some((GOAWAY, _, _, why)) => return Err(format!("GOAWAY {why:?}")),
            Some(_) => {}
            None => break,
        }
    }
    ensure((answered, refused) == (128, 72), || {
        format!("{answered} answered, {refused} refused")
    })
}

async fn unread(stage: &Stage, ask: Vec<u8>) -> Result<(), String> {
    let mut stream = connect(stage, &[]).await?;
    until_closed(&mut stream, &ask.repeat(1000)).await
}

async fn shut_window(stage: &Stage) -> Result<(), String> {
    let before = admin_metric(stage, "larder_connections_stalled_total").await;
    let mut stream = connect(stage, &[0, 4, 0, 0, 0, 0]).await?;
    let asked = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        &head("/things/large", &[]),
    );
    stream
        .write_all(&asked)
        .await
        .map_err(|error| error.to_string())?;
    // It answers every ping, and reads whatever comes.
    while let Some((kind, flags, _, payload)) = next(&mut stream).await {
        if kind == PING && flags == 0 {
            let _ = stream.write_all(&frame(PING, 1, 0, &payload)).await;
        }
    }
    let after = admin_metric(stage, "larder_connections_stalled_total").await;
    ensure(after > before, || "it was closed, and not counted".into())
}

async fn idle(stage: &Stage) -> Result<(), String> {
    let mut stream = connect(stage, &[]).await?;
    while let Some((kind, flags, _, payload)) = next(&mut stream).await {
        if kind == PING && flags == 0 {
            let _ = stream.write_all(&frame(PING, 1, 0, &payload)).await;
        }
    }
    Ok(())
}

async fn broken(stage: &Stage, bytes: Vec<u8>) -> Result<(), String> {
    let mut stream = connect(stage, &[]).await?;
    stream
        .write_all(&bytes)
        .await
        .map_err(|error| error.to_string())?;
    let mut last = None;
    while let Some((kind, ..)) = next(&mut stream).await {
        last = Some(kind);
    }
    // A reset of the connection may overtake the GOAWAY.
    ensure(
        last.is_none_or(|kind| kind == GOAWAY || kind == SETTINGS),
        || format!("{last:?}"),
    )
}

async fn hop_by_hop(stage: &Stage) -> Result<(), String> {
    let fields = [("transfer-encoding".to_owned(), "chunked".to_owned())];
    let ended = get(stage, "/things/good", &fields).await;
    ensure(ended.is_err(), || format!("{ended:?}"))
}
