//! HTTP as a consumer and as an operator speak it: requests, raw bytes, and what an answer says of itself.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// No request of any test may take longer: nobody is ever stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Speaks to one listener. Cheap to clone; clones share the pool of connections.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the listener at `address`.
    pub fn new(address: SocketAddr) -> Self {
        raise_descriptor_limit();
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Self { address, http }
    }

    /// Where it connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// GET with header fields.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, path, headers, Bytes::new()).await
    }

    /// HEAD.
    pub async fn head(&self, path: &str) -> Answer {
        self.request(Method::HEAD, path, &[], Bytes::new()).await
    }

    /// POST of a JSON value.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.request(Method::POST, path, &headers, body.to_string().into())
            .await
    }

    /// Any request.
    ///
    /// # Panics
    /// When there is no answer: the connection failed, or 30 seconds have passed. [`Client::attempt`] is for tests that
    /// expect that.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let what = format!("{method} {path}");
        match self.attempt(method, path, headers, body).await {
            Ok(answer) => answer,
            Err(error) => panic!("no answer to {what}: {error:#}"),
        }
    }

    /// Any request, whatever comes of it.
    ///
    /// # Errors
    /// The connection failed or broke, or 30 seconds have passed.
    pub async fn attempt(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let exchange = async {
            let response = self.http.request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(STUCK, exchange)
            .await
            .map_err(|_| anyhow::anyhow!("stuck for {STUCK:?}"))?
    }

    /// A connection of its own, to speak bytes.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.address));
        Connection(stream)
    }

    /// A connection of its own whose kernel takes little that is not read.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn connect_narrow(&self) -> Connection {
        let socket = TcpSocket::new_v4().expect("a socket is to be had");
        let narrowed = socket.set_recv_buffer_size(16 * 1024);
        narrowed.expect("a socket's buffer has a size");
        let stream = socket.connect(self.address).await;
        Connection(stream.expect("the server takes the connection"))
    }

    /// Sends bytes on a connection of their own and gives everything that comes back until the server closes it.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut connection = self.connect().await;
        connection.send(bytes).await;
        connection.rest().await
    }
}

/// A thousand clients need a thousand descriptors, and distributions hand out 1024 to a process with many tests.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it is not allowed, the tests that need them say so themselves.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// A connection that speaks bytes. Dropping it closes it.
#[derive(Debug)]
pub struct Connection(TcpStream);

impl Connection {
    /// Sends bytes.
    ///
    /// # Panics
    /// When the connection is broken; [`Connection::try_send`] is for tests that expect that.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes)
            .await
            .expect("the connection takes bytes");
    }

    /// Sends bytes, if the connection still takes them.
    ///
    /// # Errors
    /// The connection is closed or broken.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref()).await
    }

    /// Everything until the server closes the connection (or resets it).
    ///
    /// # Panics
    /// When it is not closed within 30 seconds.
    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let read = tokio::time::timeout(STUCK, self.0.read_to_end(&mut all)).await;
        let read = read.unwrap_or_else(|_| {
            panic!(
                "still open after {STUCK:?}, having said {:?}",
                String::from_utf8_lossy(&all)
            )
        });
        // A reset is the end as well: what came before it is kept.
        let _ = read;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// What comes, up to and with the piece in which this text is.
    ///
    /// # Panics
    /// When the connection closes before, or after 30 seconds.
    pub async fn until(&mut self, wanted: &str) -> String {
        let mut all = Vec::new();
        let read = async {
            let mut some = vec![0; 64 * 1024];
            // What was searched is not searched again, but for what the next piece may complete.
            let mut searched: usize = 0;
            loop {
                let tail = &all[searched.saturating_sub(wanted.len())..];
                if String::from_utf8_lossy(tail).contains(wanted) {
                    return String::from_utf8_lossy(&all).into_owned();
                }
                searched = all.len();
                let read = self.0.read(&mut some).await;
                let n = read.expect("the connection is read");
                let said = || String::from_utf8_lossy(&all).into_owned();
                assert!(n > 0, "closed without {wanted:?}, having said {:?}", said());
                all.extend_from_slice(&some[..n]);
            }
        };
        let waited = tokio::time::timeout(STUCK, read).await;
        waited.unwrap_or_else(|_| panic!("{wanted:?} did not come within {STUCK:?}"))
    }

    /// One response head and as much body as its `content-length` says.
    ///
    /// # Panics
    /// When the connection closes before, or after 30 seconds.
    pub async fn response(&mut self) -> String {
        let mut all = Vec::new();
        let read = async {
            loop {
                let text = String::from_utf8_lossy(&all).into_owned();
                if let Some((head, body)) = text.split_once("\r\n\r\n") {
                    let length = head.lines().find_map(|line| {
                        let (name, value) = line.split_once(':')?;
                        name.eq_ignore_ascii_case("content-length")
                            .then(|| value.trim().parse::<usize>().ok())?
                    });
                    if body.len() >= length.unwrap_or(0) {
                        return text;
                    }
                }
                let mut some = [0; 4096];
                let n = self
                    .0
                    .read(&mut some)
                    .await
                    .expect("the connection is read");
                assert!(n > 0, "closed in the middle of {text:?}");
                all.extend_from_slice(&some[..n]);
            }
        };
        tokio::time::timeout(STUCK, read)
            .await
            .expect("a whole response within 30 seconds")
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A header field, if it is there once and is text.
    ///
    /// # Panics
    /// When it is there more than once: every field the host writes is written once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next()?;
        assert!(all.next().is_none(), "{name} is there twice: {self:?}");
        first.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body that is text")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The `Cache-Status` field.
    ///
    /// # Panics
    /// When there is none: every response carries it.
    pub fn cache_status(&self) -> &str {
        self.header("cache-status")
            .unwrap_or_else(|| panic!("no Cache-Status: {self:?}"))
    }

    /// Whether `Cache-Status` is `pattern`, in which `ttl=N` stands for any ttl of 0 or more, and `ttl=-N` for any of 0
    /// or less. Everything else is literal, the order too.
    pub fn is(&self, pattern: &str) -> bool {
        fits(pattern, self.cache_status())
    }

    /// Asserts the status and, as [`Answer::is`] reads it, the `Cache-Status`.
    ///
    /// # Panics
    /// When they are not so.
    #[track_caller]
    pub fn expect(&self, status: u16, pattern: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert!(
            self.is(pattern),
            "expected Cache-Status {pattern:?}, found {:?} in {self:?}",
            self.cache_status()
        );
        self
    }

    /// The number after `ttl=` in `Cache-Status`.
    ///
    /// # Panics
    /// When there is none.
    pub fn ttl(&self) -> i64 {
        let ttl = self
            .cache_status()
            .split("; ")
            .find_map(|part| part.strip_prefix("ttl="));
        ttl.and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("no ttl: {self:?}"))
    }

    /// Whether the answer came from a stored value, fresh or stale.
    pub fn is_hit(&self) -> bool {
        self.cache_status().starts_with("larder; hit")
    }

    /// The whole seconds of `max-age` in `Cache-Control`.
    pub fn max_age(&self) -> Option<u64> {
        let fields = self.header("cache-control")?.split(", ");
        fields
            .filter_map(|field| field.strip_prefix("max-age="))
            .find_map(|n| n.parse().ok())
    }

    /// The problem document (RFC 9457) of a failure, after checking its shape: `type`, `title`, `status`, `detail` and a
    /// `code`; that `Cache-Control` forbids keeping it; and that `status` is the response's.
    ///
    /// # Panics
    /// When the answer is no such document.
    #[track_caller]
    pub fn problem(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        for field in ["type", "title", "detail", "code"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "no {field} in {self:?}"
            );
        }
        assert_eq!(problem["status"], self.status.as_u16(), "{self:?}");
        problem
    }

    /// Asserts a problem document with this status and code, and gives it.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.problem();
        assert_eq!(
            (self.status.as_u16(), &problem["code"]),
            (status, &Value::from(code)),
            "{self:?}"
        );
        problem
    }
}

fn fits(pattern: &str, actual: &str) -> bool {
    let (mut want, mut have) = (pattern.split("; "), actual.split("; "));
    loop {
        match (want.next(), have.next()) {
            (None, None) => return true,
            (Some(want), Some(have)) => {
                let ttl = || {
                    have.strip_prefix("ttl=")
                        .and_then(|n| n.parse::<i64>().ok())
                };
                let same = match want {
                    "ttl=N" => ttl().is_some_and(|n| n >= 0),
                    "ttl=-N" => ttl().is_some_and(|n| n <= 0),
                    literal => literal == have,
                };
                if !same {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn only_the_seconds_of_a_ttl_are_left_open() {
        assert!(fits(
            "larder; hit; ttl=N; detail=memory",
            "larder; hit; ttl=42; detail=memory"
        ));
        assert!(!fits(
            "larder; hit; ttl=N; detail=memory",
            "larder; hit; ttl=-1; detail=memory"
        ));
        assert!(fits("larder; hit; ttl=-N", "larder; hit; ttl=-3"));
        assert!(fits("larder; hit; ttl=-N", "larder; hit; ttl=0"));
        assert!(!fits("larder; hit", "larder; hit; ttl=1"));
        assert!(!fits("larder; hit; ttl=N", "larder; hit"));
        assert!(!fits(
            "larder; fwd=uri-miss; stored",
            "larder; fwd=uri-miss;stored"
        ));
    }
}
