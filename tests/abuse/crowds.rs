//! A thousand clients at once that send too slowly, and as many that do not read, while others are answered.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::client::Connection;
use larder_tests::{Client, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::stage::{LARGE, Stage};
use super::{Case, ensure};

const CROWD: usize = 1000;

pub(super) fn cases(stage: &Stage) -> Vec<Case<'_>> {
    vec![
        (
            "a thousand clients that send a head too slowly".into(),
            Box::pin(slow_heads(stage)),
        ),
        (
            "a thousand clients that do not read".into(),
            Box::pin(slow_readers(stage)),
        ),
    ]
}

/// Others are answered, at a usual pace.
async fn others(stage: &Stage) -> Result<(), String> {
    let began = Instant::now();
    for _ in 0..50 {
        stage.is_well().await?;
    }
    let took = began.elapsed();
    ensure(took < Duration::from_secs(5), || {
        format!("50 answers took {took:?}")
    })
}

async fn slow_heads(stage: &Stage) -> Result<(), String> {
    let connect = async || -> Connection {
        let mut connection = stage.larder.public.connect().await;
        connection
            .send("GET /things/smuggled HTTP/1.1\r\nx-slow: ")
            .await;
        connection
    };
    let mut crowd = join_all((0..CROWD).map(|_| connect())).await;
    others(stage).await?;
    // Each is closed by itself: `rest` panics of one that is not.
    let ends = join_all(crowd.iter_mut().map(Connection::rest)).await;
    let answered = ends
        .iter()
        .filter(|said| said.starts_with("HTTP/1.1 2"))
        .count();
    ensure(answered == 0, || format!("{answered} were answered"))
}

/// A client with a small window that asks for much, and reads nothing.
async fn deaf(stage: &Stage) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(stage.larder.public.address()).await?;
    let ask = "GET /things/large HTTP/1.1\r\nhost: x\r\n\r\n".repeat(8);
    stream.write_all(ask.as_bytes()).await?;
    Ok(stream)
}

async fn slow_readers(stage: &Stage) -> Result<(), String> {
    let stalled = async || admin_metric(stage, "larder_connections_stalled_total").await;
    let (before, memory) = (stalled().await, stage.larder.usage().mebibytes());
    let mut crowd = Vec::new();
    for client in join_all((0..CROWD).map(|_| deaf(stage))).await {
        crowd.push(client.map_err(|error| error.to_string())?);
    }
    others(stage).await?;
    let grown = stage.larder.usage().mebibytes() - memory;
    #[allow(clippy::cast_precision_loss, reason = "it is small")]
    let copies = (CROWD * LARGE / (1024 * 1024)) as f64;
    ensure(grown < copies / 4.0, || {
        format!("the server has grown by {grown} MiB")
    })?;
    eventually("they are cut off", async || {
        (stalled().await - before >= 1000.0).then_some(())
    })
    .await;
    Ok(())
}

/// One metric, asked for with the token.
pub(super) async fn admin_metric(stage: &Stage, name: &str) -> f64 {
    let token = format!("Bearer {}", super::stage::TOKEN);
    let fields = [("authorization", token.as_str())];
    let client = Client::new(stage.larder.admin.address());
    let answer = client.get_with("/metrics", &fields).await;
    larder_tests::Metrics::parse(answer.text()).sum(name)
}
