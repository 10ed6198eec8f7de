//! Law 9, egress: what is not granted is denied by name, and what is granted is pooled, timed and bounded.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::resolve::Lookup;
use super::*;
use crate::config::DirGrant;

/// A source that does what the path says, and counts.
struct Source {
    port: u16,
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
}

impl Source {
    /// Listens on every loopback address.
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let source = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
        });
        let accepting = Arc::clone(&source);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Arc::clone(&accepting).serve(stream));
            }
        });
        source
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.requests.lock().len()
    }

    /// One connection: `Err` ends it, without an answer if none was sent.
    async fn serve(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufStream::new(stream);
        for nth in 0.. {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await? == 0 {
                    return Ok(());
                }
            }
            self.requests.lock().push(head.clone());
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer: &[u8] = match path.as_str() {
                "/ok" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "/close" => b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
                "/long" => b"HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n",
                "/longer-than-told" => {
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n1\r\n4\r\n0\r\n\r\n"
                }
                "/short" | "/short-chunks" => {
                    stream
                        .write_all(if path == "/short" {
                            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"
                        } else {
                            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
                        })
                        .await?;
                    stream.flush().await?;
                    return Ok(());
                }
                "/drip" => b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
                "/redirect" => {
                    b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"
                }
                "/hang" => b"",
                "/nonsense" => b"SMTP ready\r\n\r\n",
                // A server that closed an idle connection just as the request came.
                "/lost-if-reused" if nth > 0 => return Ok(()),
                "/lost-if-reused" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                "/lost" => return Ok(()),
                _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            };
            stream.write_all(answer).await?;
            stream.flush().await?;
            if path == "/close" {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Names that resolve to what the test says next; the last word stays.
#[derive(Default)]
pub(super) struct Names {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    pub(super) asked: AtomicUsize,
    silent: bool,
}

impl Names {
    pub(super) fn say(answers: &[&[&str]]) -> Arc<Self> {
        let answers = answers.iter().map(|list| {
            list.iter()
                .map(|address| address.parse().unwrap())
                .collect()
        });
        Arc::new(Self {
            answers: Mutex::new(answers.collect()),
            ..Self::default()
        })
    }
}

impl Lookup for Names {
    fn lookup(&self, _name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.silent {
            return Box::pin(std::future::pending());
        }
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        };
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("no such name")) })
    }
}

/// 64-byte bodies, so that a test can pass the limit.
pub(super) fn limits(fetches: usize) -> Limits {
    Limits {
        body: 64,
        fetches,
        ..Limits::default()
    }
}

fn grants(http: &[String], networks: &[&str]) -> Grants {
    Grants {
        http: http.to_vec(),
        networks: networks.iter().map(|&it| it.to_owned()).collect(),
        ..Grants::default()
    }
}

fn egress(client: &Arc<EgressClient>, http: &[String], networks: &[&str]) -> Arc<Egress> {
    Egress::new(
        "demo",
        &grants(http, networks),
        &limits(8),
        client,
        &Arc::default(),
    )
    .expect("good grants")
}

pub(super) fn get(url: &str) -> Request<WasiBody> {
    request(Method::GET, url, "")
}

fn request(method: Method, url: &str, body: &'static str) -> Request<WasiBody> {
    let body: WasiBody = if body.is_empty() {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        Full::new(Bytes::from_static(body.as_bytes()))
            .map_err(|never| match never {})
            .boxed_unsync()
    };
    Request::builder()
        .method(method)
        .uri(url)
        .body(body)
        .unwrap()
}

pub(super) async fn fetch(
    egress: &Arc<Egress>,
    request: Request<WasiBody>,
) -> Result<Response<Bytes>, Error> {
    fetch_with(egress, request, RequestOptions::default()).await
}

async fn fetch_with(
    egress: &Arc<Egress>,
    request: Request<WasiBody>,
    options: RequestOptions,
) -> Result<Response<Bytes>, Error> {
    let (parts, body) = Arc::clone(egress)
        .send(request, options)
        .await?
        .into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

/// A source, and rights to it by its literal address.
async fn granted() -> (Arc<Source>, Arc<Egress>) {
    let source = Source::start().await;
    let client = EgressClient::with_lookup(Names::say(&[]));
    let egress = egress(&client, &[source.url("127.0.0.1", "")], &[]);
    (source, egress)
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let (source, egress) = granted().await;
    for _ in 0..5 {
        let response = fetch(&egress, get(&source.url("127.0.0.1", "/ok")))
            .await
            .unwrap();
        assert_eq!(response.body(), "ok");
    }
    assert_eq!((source.connections(), source.requests()), (1, 5));
}

#[tokio::test]
async fn equal_rights_share_connections_and_other_rights_do_not() {
    let source = Source::start().await;
    let client = EgressClient::with_lookup(Names::say(&[&["127.0.0.1"]]));
    let origin = source.url("db.test", "");
    let url = source.url("db.test", "/ok");
    let first = egress(&client, std::slice::from_ref(&origin), &["127.0.0.0/8"]);
    let equal = egress(&client, std::slice::from_ref(&origin), &["127.0.0.0/8"]);
    let other = egress(&client, std::slice::from_ref(&origin), &["127.0.0.0/16"]);
    let fewer = egress(&client, std::slice::from_ref(&origin), &[]);
    for egress in [&first, &equal] {
        fetch(egress, get(&url)).await.unwrap();
    }
    assert_eq!(source.connections(), 1);
    fetch(&other, get(&url)).await.unwrap();
    assert_eq!(source.connections(), 2);
    // An idle connection to the very place lies there, and is out of reach for who may not open one.
    assert!(matches!(
        fetch(&fewer, get(&url)).await,
        Err(Error::HttpRequestDenied)
    ));
    assert_eq!((source.connections(), source.requests()), (2, 3));
}

#[tokio::test]
async fn what_is_not_granted_is_denied_with_the_line_to_add() {
    let names = Names::say(&[&["127.0.0.1"]]);
    let client = EgressClient::with_lookup(Arc::clone(&names) as Arc<dyn Lookup>);
    let egress = egress(&client, &["https://api.example.com".to_owned()], &[]);
    for url in [
        "http://evil.test/a",
        "http://evil.test/b",
        "http://api.example.com:8080/",
    ] {
        assert!(matches!(
            fetch(&egress, get(url)).await,
            Err(Error::HttpRequestDenied)
        ));
    }
    assert_eq!(
        egress.denials(),
        [
            "http://evil.test is not granted: in demo.toml under [grants] write `http = [\"https://api.example.com\", \"http://evil.test\"]`",
            "http://api.example.com:8080 is not granted: in demo.toml under [grants] write `http = [\"https://api.example.com\", \"http://api.example.com:8080\"]`",
        ]
    );
    assert_eq!(egress.denied_count(), 3);
    assert_eq!(
        names.asked.load(Ordering::SeqCst),
        0,
        "no name was looked up"
    );
    let nothing = Egress::denied("demo");
    assert!(matches!(
        fetch(&nothing, get("http://evil.test/")).await,
        Err(Error::HttpRequestDenied)
    ));
}

#[tokio::test]
async fn the_line_to_add_for_an_address_in_disguise_is_the_address() {
    let egress = Egress::denied("demo");
    for host in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1."] {
        let outcome = fetch(&egress, get(&format!("http://{host}:9000/"))).await;
        assert!(matches!(outcome, Err(Error::HttpRequestDenied)), "{host}");
    }
    assert_eq!(
        egress.denials(),
        [
            "http://127.0.0.1:9000 is not granted: in demo.toml under [grants] write `http = [\"http://127.0.0.1:9000\"]`"
        ]
    );
}

#[tokio::test]
async fn a_name_that_leads_inside_needs_networks() {
    let source = Source::start().await;
    let client = EgressClient::with_lookup(Names::say(&[&["10.0.0.5", "127.0.0.1"]]));
    let origin = [source.url("localhost", "")];
    let url = source.url("localhost", "/ok");
    let without = egress(&client, &origin, &[]);
    assert!(matches!(
        fetch(&without, get(&url)).await,
        Err(Error::HttpRequestDenied)
    ));
    assert_eq!(
        without.denials(),
        [
            "localhost resolves to 10.0.0.5, which is private and not granted: in demo.toml under [grants] write `networks = [\"10.0.0.5/32\"]`"
        ]
    );
    assert_eq!(source.connections(), 0);
    // Of several addresses, the granted ones serve.
    let with = egress(&client, &origin, &["127.0.0.1/32"]);
    assert_eq!(fetch(&with, get(&url)).await.unwrap().body(), "ok");
}

#[tokio::test]
async fn a_name_that_turns_around_is_caught() {
    let source = Source::start().await;
    let names = Names::say(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let client = EgressClient::with_lookup(Arc::clone(&names) as Arc<dyn Lookup>);
    let egress = egress(&client, &[source.url("rebind.test", "")], &["127.0.0.1/32"]);
    // The source closes, so each request looks the name up once and connects to what that look-up said.
    let url = source.url("rebind.test", "/close");
    assert_eq!(fetch(&egress, get(&url)).await.unwrap().body(), "ok");
    assert!(matches!(
        fetch(&egress, get(&url)).await,
        Err(Error::HttpRequestDenied)
    ));
    assert_eq!(names.asked.load(Ordering::SeqCst), 2);
    assert_eq!(
        source.connections(),
        1,
        "127.0.0.2 listens too, and was never called"
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_an_error() {
    let (source, egress) = granted().await;
    for path in ["/long", "/longer-than-told"] {
        let outcome = fetch(&egress, get(&source.url("127.0.0.1", path))).await;
        assert!(
            matches!(outcome, Err(Error::HttpResponseBodySize(Some(64)))),
            "{path}: {outcome:?}"
        );
    }
    // What was left of those bodies does not meet the next request.
    assert_eq!(
        fetch(&egress, get(&source.url("127.0.0.1", "/ok")))
            .await
            .unwrap()
            .body(),
        "ok"
    );
    let big: &'static str = "0123456789012345678901234567890123456789012345678901234567890123!";
    let outcome = fetch(
        &egress,
        request(Method::POST, &source.url("127.0.0.1", "/ok"), big),
    )
    .await;
    assert!(
        matches!(outcome, Err(Error::HttpRequestBodySize(Some(64)))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn law_10_a_body_that_is_cut_short_is_an_error_not_an_end() {
    let (source, egress) = granted().await;
    for path in ["/short", "/short-chunks"] {
        let outcome = fetch(&egress, get(&source.url("127.0.0.1", path))).await;
        assert!(
            matches!(outcome, Err(Error::HttpResponseIncomplete)),
            "{path}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn every_wait_ends() {
    let (source, egress) = granted().await;
    let soon = Some(Duration::from_millis(30));
    let url = |path| source.url("127.0.0.1", path);
    let options = RequestOptions {
        first_byte_timeout: soon,
        ..RequestOptions::default()
    };
    let outcome = fetch_with(&egress, get(&url("/hang")), options).await;
    assert!(
        matches!(outcome, Err(Error::ConnectionReadTimeout)),
        "{outcome:?}"
    );
    let options = RequestOptions {
        between_bytes_timeout: soon,
        ..RequestOptions::default()
    };
    let outcome = fetch_with(&egress, get(&url("/drip")), options).await;
    assert!(
        matches!(outcome, Err(Error::ConnectionReadTimeout)),
        "{outcome:?}"
    );

    let silent = Arc::new(Names {
        silent: true,
        ..Names::default()
    });
    let client = EgressClient::with_lookup(silent);
    let egress = super::tests::egress(&client, &["http://silent.test".to_owned()], &[]);
    let options = RequestOptions {
        connect_timeout: soon,
        ..RequestOptions::default()
    };
    let outcome = fetch_with(&egress, get("http://silent.test/"), options).await;
    assert!(
        matches!(outcome, Err(Error::ConnectionTimeout)),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn fetches_over_the_limit_wait_for_a_body_to_end() {
    let source = Source::start().await;
    let client = EgressClient::with_lookup(Names::say(&[]));
    let grants = grants(&[source.url("127.0.0.1", "")], &[]);
    let egress = Egress::new("demo", &grants, &limits(1), &client, &Arc::default()).unwrap();
    let options = RequestOptions::default();
    let held = Arc::clone(&egress)
        .send(get(&source.url("127.0.0.1", "/drip")), options)
        .await
        .unwrap();
    let mut second = std::pin::pin!(fetch(&egress, get(&source.url("127.0.0.1", "/ok"))));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    assert_eq!(egress.fetches.available_permits(), 0);
    drop(held);
    assert_eq!(second.await.unwrap().body(), "ok");
    assert_eq!(egress.fetches.available_permits(), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_behind_our_back_is_no_failure() {
    let (source, egress) = granted().await;
    let url = |path| source.url("127.0.0.1", path);
    assert!(fetch(&egress, get(&url("/ok"))).await.is_ok());
    assert_eq!(
        fetch(&egress, get(&url("/lost-if-reused")))
            .await
            .unwrap()
            .body(),
        "ok"
    );
    assert_eq!((source.connections(), source.requests()), (2, 3));
    // What has a body is not sent twice.
    let outcome = fetch(&egress, request(Method::POST, &url("/lost-if-reused"), "x")).await;
    assert!(
        matches!(outcome, Err(Error::ConnectionTerminated)),
        "{outcome:?}"
    );
    assert_eq!(source.requests(), 4);
}

#[tokio::test]
async fn a_source_that_hangs_up_is_asked_once() {
    let (source, egress) = granted().await;
    let outcome = fetch(&egress, get(&source.url("127.0.0.1", "/lost"))).await;
    assert!(
        matches!(outcome, Err(Error::ConnectionTerminated)),
        "{outcome:?}"
    );
    assert_eq!(source.requests(), 1);
}

#[tokio::test]
async fn failures_of_the_source_keep_their_names() {
    let (source, egress) = granted().await;
    let outcome = fetch(&egress, get(&source.url("127.0.0.1", "/nonsense"))).await;
    assert!(
        matches!(outcome, Err(Error::HttpProtocolError)),
        "{outcome:?}"
    );

    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let client = EgressClient::with_lookup(Names::say(&[]));
    let refused = super::tests::egress(
        &client,
        &[format!("http://{free}"), "http://nowhere.test".to_owned()],
        &[],
    );
    let outcome = fetch(&refused, get(&format!("http://{free}/"))).await;
    assert!(
        matches!(outcome, Err(Error::ConnectionRefused)),
        "{outcome:?}"
    );
    let outcome = fetch(&refused, get("http://nowhere.test/")).await;
    assert!(
        matches!(outcome, Err(Error::DnsError { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let (source, egress) = granted().await;
    let response = fetch(&egress, get(&source.url("127.0.0.1", "/redirect")))
        .await
        .unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(source.requests(), 1);
    assert_eq!(egress.denied_count(), 0);
}

#[tokio::test]
async fn the_host_header_is_the_origin_and_nothing_else() {
    let (source, egress) = granted().await;
    let mut lying = get(&source.url("127.0.0.1", "/ok"));
    lying
        .headers_mut()
        .append("host", "evil.test".parse().unwrap());
    lying
        .headers_mut()
        .append("host", "worse.test".parse().unwrap());
    fetch(&egress, lying).await.unwrap();
    let head = source.requests.lock()[0].to_ascii_lowercase();
    let hosts: Vec<_> = head
        .lines()
        .filter(|line| line.starts_with("host:"))
        .collect();
    assert_eq!(hosts, [format!("host: 127.0.0.1:{}", source.port)]);
    assert!(head.starts_with("get /ok http/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn ways_round_an_origin_are_closed() {
    let (source, egress) = granted().await;
    let url = format!("http://127.0.0.1:{}@evil.test/", source.port);
    assert!(matches!(
        fetch(&egress, get(&url)).await,
        Err(Error::HttpRequestUriInvalid)
    ));
    let connect = request(Method::CONNECT, &source.url("127.0.0.1", "/"), "");
    assert!(matches!(
        fetch(&egress, connect).await,
        Err(Error::HttpRequestMethodInvalid)
    ));
    assert_eq!(source.connections(), 0);
}

#[test]
fn law_12_denials_are_bounded() {
    let egress = Egress::denied("demo");
    for n in 0..1000 {
        egress.deny(format!("sentence {n}"));
    }
    egress.deny("sentence 990".to_owned());
    let denials = egress.denials();
    assert_eq!(denials.len(), DENIALS_KEPT);
    assert_eq!(
        denials.last().map(String::as_str),
        Some("sentence 990"),
        "the newest is last"
    );
    assert_eq!(egress.denied_count(), 1001);
}

#[test]
fn grants_that_cannot_be_given_are_all_told() {
    let dirs = BTreeMap::from([(
        "/data".to_owned(),
        DirGrant {
            host: "/nonexistent/records".into(),
            mode: DirMode::ReadOnly,
        },
    )]);
    let grants = Grants {
        http: vec!["api.example.com".to_owned()],
        tcp: vec!["db.internal".to_owned()],
        networks: vec!["inside".to_owned()],
        dirs,
        ..Grants::default()
    };
    let client = EgressClient::with_lookup(Names::say(&[]));
    let problems = Egress::new("demo", &grants, &limits(1), &client, &Arc::default())
        .err()
        .expect("bad grants");
    let text: Vec<_> = problems.iter().map(|it| it.message.as_str()).collect();
    assert_eq!(text.len(), 4, "{text:?}");
    assert!(problems.iter().all(|it| it.remedy.is_some()));
}
