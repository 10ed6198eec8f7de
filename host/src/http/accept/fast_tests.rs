//! Who answers what, and in which order, with hyper's own connection over a stream in memory. The order of steps is forced: a
//! response of hyper's is made when the test says so, and every task that can go on has gone on before anything is looked at.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, yield_now};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Answers by the begin of a path: `/now` at once, `/now/long` with a thousand letters more, `/later` when it is told to, `/never` not at all, others are hyper's.
#[derive(Clone, Default)]
struct Here {
    later: Arc<Notify>,
    /// How many wait for what never comes.
    waiting: Arc<AtomicUsize>,
}

fn response(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes()
}

impl Reads for Here {
    fn is_on(&self) -> bool {
        true
    }

    fn read(&self, request: &Head<'_>, head: &mut Vec<u8>, waiting: &mut Waiting) -> Read {
        let long = request.target.contains("long");
        let more = "x".repeat(if long { 1000 } else { 0 });
        let body = format!("here {}{more}", request.target);
        if request.target.starts_with("/now") {
            head.extend_from_slice(&response(&body));
            return Read::Answered(body.into());
        }
        if request.target.starts_with("/later") {
            let later = Arc::clone(&self.later);
            waiting.set(async move {
                later.notified().await;
                let mut head = response(&body);
                if body.contains("inline") {
                    head.extend_from_slice(body.as_bytes());
                    return Rendered {
                        head,
                        inline: body.len(),
                        body: Bytes::new(),
                    };
                }
                Rendered {
                    head,
                    inline: 0,
                    body: body.into(),
                }
            });
            return Read::Later;
        }
        if request.target.starts_with("/never") {
            struct Gone(Arc<AtomicUsize>);
            impl Drop for Gone {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::Relaxed);
                }
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let gone = Gone(Arc::clone(&self.waiting));
            waiting.set(async move {
                let _gone = gone;
                pending().await
            });
            return Read::Later;
        }
        Read::Hypers
    }
}

/// Until every task has done what it can.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// A connection, and its client.
struct Stage {
    client: DuplexStream,
    here: Here,
    /// hyper's responses go out, one for each.
    hypers: Arc<Notify>,
    shutdown: Option<oneshot::Sender<()>>,
    connection: JoinHandle<Result<(), hyper::Error>>,
}

impl Stage {
    /// With so much room in the stream in each direction.
    fn with_room(room: usize) -> Self {
        let (client, server) = duplex(room);
        let here = Here::default();
        let hypers = Arc::new(Notify::new());
        let exchange = Arc::new(Exchange::default());
        let (told, held) = (Arc::clone(&exchange), Arc::clone(&hypers));
        let service = service_fn(move |request: Request<Incoming>| {
            let (told, held) = (Arc::clone(&told), Arc::clone(&held));
            async move {
                let path = request.uri().path().to_owned();
                let sent = request.into_body().collect().await.unwrap().to_bytes();
                held.notified().await;
                let sent = String::from_utf8_lossy(&sent).into_owned();
                let body = Full::new(Bytes::from(format!("hyper {path} {sent}")));
                Ok::<_, Infallible>(Response::new(Told::new(body, told)))
            }
        });
        let timer = HeadTimer {
            exchange: Arc::clone(&exchange),
            limit: LIMIT,
        };
        let io = TokioIo::new(Fast::new(server, here.clone(), 50, exchange));
        let mut connection = Box::pin(
            http1::Builder::new()
                .header_read_timeout(LIMIT)
                .timer(timer)
                .serve_connection(io, service),
        );
        let (shutdown, is_told) = oneshot::channel();
        let connection = tokio::spawn(async move {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                Ok(()) = is_told => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        });
        Self {
            client,
            here,
            hypers,
            shutdown: Some(shutdown),
            connection,
        }
    }

    fn new() -> Self {
        Self::with_room(64 * 1024)
    }

    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
        settle().await;
    }

    /// The bodies of everything that has come.
    async fn bodies(&mut self) -> Vec<String> {
        settle().await;
        let mut bytes = Vec::new();
        let mut room = [0; 64 * 1024];
        loop {
            tokio::select! {
                biased;
                read = self.client.read(&mut room) => match read.unwrap() {
                    0 => break,
                    n => bytes.extend_from_slice(&room[..n]),
                },
                () = settle() => break,
            }
        }
        let mut bodies = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut response = httparse::Response::new(&mut fields);
            let head = match response.parse(rest).unwrap() {
                httparse::Status::Complete(head) => head,
                httparse::Status::Partial => panic!("half a response: {rest:?}"),
            };
            let length = response
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case("content-length"));
            let length: usize = std::str::from_utf8(length.unwrap().value)
                .unwrap()
                .parse()
                .unwrap();
            bodies.push(String::from_utf8_lossy(&rest[head..head + length]).into_owned());
            rest = &rest[head + length..];
        }
        bodies
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}

#[tokio::test]
async fn reads_are_answered_here_and_what_is_not_is_hypers_and_then_here_again() {
    let mut stage = Stage::new();
    for _ in 0..3 {
        stage.send(&get("/now/1")).await;
        assert_eq!(stage.bodies().await, ["here /now/1"]);
        stage.hypers.notify_one();
        stage.send(&get("/other")).await;
        assert_eq!(stage.bodies().await, ["hyper /other "]);
        stage.here.later.notify_one();
        stage.send(&get("/later")).await;
        assert_eq!(stage.bodies().await, ["here /later"]);
        stage.hypers.notify_one();
        let put = "PUT /now/2 HTTP/1.1\r\ncontent-length: 5\r\n\r\n";
        stage.send(put).await;
        // In two parts, of which the second brings the next request with it.
        stage.send("ab").await;
        stage.send(&format!("cde{}", get("/now/3"))).await;
        assert_eq!(stage.bodies().await, ["hyper /now/2 abcde", "here /now/3"]);
    }
}

#[tokio::test]
async fn a_pipeline_is_answered_in_its_order_whoever_answers() {
    let mut stage = Stage::new();
    let all = [
        "/now/1", "/other/2", "/now/3", "/later/4", "/other/5", "/now/6",
    ];
    stage.send(&all.map(get).concat()).await;
    assert_eq!(stage.bodies().await, ["here /now/1"], "hyper has the next");
    stage.here.later.notify_one();
    assert!(
        stage.bodies().await.is_empty(),
        "the fourth waits for the second"
    );
    stage.hypers.notify_one();
    let expected = ["hyper /other/2 ", "here /now/3", "here /later/4"];
    assert_eq!(stage.bodies().await, expected);
    stage.hypers.notify_one();
    assert_eq!(stage.bodies().await, ["hyper /other/5 ", "here /now/6"]);
}

/// Between the end of hyper's body and the flush of its buffer, hyper asks for bytes already: what is there must not be
/// answered before that buffer is sent.
#[tokio::test]
async fn what_is_answered_here_does_not_overtake_what_hyper_cannot_send_yet() {
    let mut stage = Stage::with_room(64);
    stage
        .client
        .write_all(get("/other").as_bytes())
        .await
        .unwrap();
    settle().await;
    stage.hypers.notify_one();
    settle().await;
    // hyper's response does not fit the stream whole, and here comes the next request.
    stage
        .client
        .write_all(get("/now/1").as_bytes())
        .await
        .unwrap();
    assert_eq!(stage.bodies().await, ["hyper /other ", "here /now/1"]);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_sent_bit_by_bit_and_those_behind_it_wait() {
    let mut stage = Stage::with_room(70);
    let long = format!("/now/{}", "x".repeat(100));
    let paths = [&*long, "/now/2", &long, "/later"];
    stage.here.later.notify_one();
    let (mut client, sent) = (Vec::new(), paths.map(get).concat());
    let mut sent = sent.as_bytes();
    while !sent.is_empty() {
        let some = sent.len().min(30);
        stage.client.write_all(&sent[..some]).await.unwrap();
        sent = &sent[some..];
        client.extend(stage.bodies_of_pieces().await);
    }
    client.extend(stage.bodies_of_pieces().await);
    let text = String::from_utf8(client).unwrap();
    let mut from = 0;
    for path in paths {
        let body = format!("here {path}");
        let at = text[from..]
            .find(&body)
            .expect("every one is answered, in order");
        from += at + body.len();
    }
    assert_eq!(text.matches("HTTP/1.1 200").count(), paths.len());
}

impl Stage {
    /// Everything that has come, whole responses or not.
    async fn bodies_of_pieces(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut room = [0; 1024];
        loop {
            tokio::select! {
                biased;
                read = self.client.read(&mut room) => bytes.extend_from_slice(&room[..read.unwrap()]),
                () = settle() => return bytes,
            }
        }
    }
}

#[tokio::test]
async fn a_head_in_pieces_is_answered_here_and_one_in_many_by_hyper() {
    let mut stage = Stage::new();
    let head = get("/now");
    let (one, other) = head.split_at(9);
    stage.send(one).await;
    assert!(stage.bodies().await.is_empty());
    stage.send(other).await;
    assert_eq!(stage.bodies().await, ["here /now"]);
    stage.hypers.notify_one();
    for byte in head.chars() {
        stage.send(&byte.to_string()).await;
    }
    assert_eq!(stage.bodies().await, ["hyper /now "]);
}

#[tokio::test]
async fn where_a_request_has_no_clear_end_hyper_keeps_the_connection() {
    let mut stage = Stage::new();
    stage.hypers.notify_one();
    let chunked = "POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    stage.send(chunked).await;
    assert_eq!(stage.bodies().await, ["hyper /a ab"]);
    stage.hypers.notify_one();
    stage.send(&get("/now")).await;
    assert_eq!(stage.bodies().await, ["hyper /now "]);
}

#[tokio::test]
async fn nobody_waits_for_a_client_that_has_left() {
    let mut stage = Stage::new();
    stage.send(&get("/never")).await;
    assert_eq!(stage.here.waiting.load(Ordering::Relaxed), 1);
    stage.client.shutdown().await.unwrap();
    let _ = (&mut stage.connection).await.unwrap();
    assert_eq!(stage.here.waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_shutdown_lets_what_is_waited_for_be_answered_and_what_is_idle_go() {
    let mut stage = Stage::new();
    stage.send(&get("/later")).await;
    stage.shutdown.take().unwrap().send(()).unwrap();
    settle().await;
    assert!(!stage.connection.is_finished(), "an answer is waited for");
    stage.here.later.notify_one();
    assert_eq!(stage.bodies().await, ["here /later"]);
    (&mut stage.connection).await.unwrap().unwrap();

    // The body in one piece with its head stays what it is, behind the field that tells of the end.
    let mut short = Stage::new();
    short.send(&get("/later/inline")).await;
    short.shutdown.take().unwrap().send(()).unwrap();
    settle().await;
    short.here.later.notify_one();
    let mut said = String::new();
    short.client.read_to_string(&mut said).await.unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with("\r\nconnection: close"), "{head}");
    assert_eq!(body, "here /later/inline");

    let mut idle = Stage::new();
    idle.send(&get("/now")).await;
    idle.shutdown.take().unwrap().send(()).unwrap();
    assert_eq!(idle.bodies().await, ["here /now"]);
    (&mut idle.connection).await.unwrap().unwrap();
}

/// hyper's clock runs from its own last response; those given here, and one that is waited for, keep the connection.
#[tokio::test(start_paused = true)]
async fn who_is_answered_here_is_no_idle_client_and_who_sends_half_a_head_is() {
    let mut stage = Stage::new();
    for _ in 0..10 {
        tokio::time::advance(LIMIT * 3 / 4).await;
        stage.send(&get("/now")).await;
        assert_eq!(stage.bodies().await, ["here /now"]);
    }
    stage.send(&get("/later")).await;
    for _ in 0..5 {
        tokio::time::advance(LIMIT).await;
        settle().await;
    }
    stage.here.later.notify_one();
    assert_eq!(stage.bodies().await, ["here /later"]);
    stage.send("GET /now HT").await;
    tokio::time::advance(LIMIT * 2).await;
    settle().await;
    tokio::time::advance(LIMIT).await;
    let ended = (&mut stage.connection).await.unwrap();
    assert!(ended.is_err(), "three times the limit is long enough");
}

/// Who takes an answer slowly takes it: only who takes nothing is cut off, by who watches writes.
#[tokio::test(start_paused = true)]
async fn an_answer_may_take_as_long_as_its_client_goes_on_taking_it() {
    let mut stage = Stage::with_room(64);
    let request = get("/now/long");
    let end = "x".repeat(1000);
    let mut answer = Vec::new();
    let (mut reader, mut writer) = tokio::io::split(&mut stage.client);
    let sending = async { writer.write_all(request.as_bytes()).await.unwrap() };
    let taking = async {
        let mut room = [0; 64];
        while !answer.ends_with(end.as_bytes()) {
            let n = reader.read(&mut room).await.unwrap();
            assert!(n > 0, "ended after {} bytes", answer.len());
            answer.extend_from_slice(&room[..n]);
            tokio::time::advance(LIMIT * 3 / 4).await;
            settle().await;
        }
    };
    tokio::join!(sending, taking);
    stage.send(&get("/now/2")).await;
    assert_eq!(stage.bodies().await, ["here /now/2"]);
}

/// What lies behind answers that are not taken waits in the stream, and not here; and all are answered once they are.
#[tokio::test]
async fn law_12_a_pipeline_that_is_not_read_is_not_answered_without_bound() {
    const MANY: usize = 1000;
    let stage = Stage::with_room(8 * 1024);
    let sent = get("/now/long").repeat(MANY);
    let (mut reader, mut writer) = tokio::io::split(stage.client);
    let writing = tokio::spawn(async move { writer.write_all(sent.as_bytes()).await });
    settle().await;
    assert!(!writing.is_finished(), "a megabyte of answers is kept");
    // A head may come in so many pieces that it is hyper's.
    let hypers = tokio::spawn(async move {
        loop {
            stage.hypers.notify_one();
            yield_now().await;
        }
    });
    let mut taken = Vec::new();
    let mut room = [0; 8 * 1024];
    let answers = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .matches("HTTP/1.1 200")
            .count()
    };
    while taken.len() < MANY * 1000 && answers(&taken) < MANY {
        let n = reader.read(&mut room).await.unwrap();
        taken.extend_from_slice(&room[..n]);
    }
    hypers.abort();
    writing.await.unwrap().unwrap();
}
