//! The origin: an HTTP source that does what a script says, holds answers until the test lets them go, and counts who
//! asked. Knows nothing of Larder.
//!
//! What is answered is decided when a call *arrives*, and sent when its gate opens: so a held answer is the source as it
//! was before whatever the test does meanwhile.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Interval;

use crate::ports;
use crate::wait::eventually;

/// What the origin does with one call.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    /// `None`: the path and the number of the call, as JSON.
    body: Option<Bytes>,
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Whole,
    /// Declares the whole body and breaks the connection after half of it.
    CutShort,
    /// A byte at a time.
    Drip(Duration),
    /// Resets the connection instead of answering.
    Reset,
    /// Never answers.
    Hang,
}

impl Reply {
    /// 200 and `{"path":…,"call":N}`: N is 1 for the first call of the path, so that every load can be told from another.
    pub fn counted() -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".into(), "application/json".into())],
            body: None,
            manner: Manner::Whole,
        }
    }

    /// 200 and this JSON.
    pub fn json(body: &str) -> Self {
        Self::counted().body(body.to_owned())
    }

    /// A status with a short text.
    pub fn status(status: u16) -> Self {
        let body = if matches!(status, 204 | 304) {
            String::new()
        } else {
            format!("status {status}")
        };
        Self {
            status,
            headers: vec![("content-type".into(), "text/plain".into())],
            ..Self::counted().body(body)
        }
    }

    /// No answer, ever.
    pub fn hang() -> Self {
        Self::counted().manner(Manner::Hang)
    }

    /// The connection is reset.
    pub fn reset() -> Self {
        Self::counted().manner(Manner::Reset)
    }

    /// The body ends before its declared length, and the connection with it.
    pub fn cut_short() -> Self {
        Self::counted()
            .body("a body that is longer than what arrives")
            .manner(Manner::CutShort)
    }

    /// The body comes a byte at a time, with this long between them.
    pub fn drip(every: Duration) -> Self {
        Self::counted()
            .body("a body that takes its time")
            .manner(Manner::Drip(every))
    }

    /// Sends this header too. The guest `gated` reads some: see its documentation.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends this entity tag (with its quotes), and 304 to who already has it.
    #[must_use]
    pub fn etag(self, etag: &str) -> Self {
        self.header("etag", etag)
    }

    /// Sends this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

/// One call, as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: http::Method,
    /// Its path with its query.
    pub target: String,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// The origin. Dropping it ends it and breaks its connections.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    script: Arc<Script>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Script {
    /// By path, or by a beginning of paths that ends in `*`. The last reply of a list repeats.
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    gates: Mutex<HashMap<String, Arc<Held>>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

impl Origin {
    /// Starts one that answers every path with [`Reply::counted`].
    pub fn start() -> Self {
        let listener = ports::listener();
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let script = Arc::new(Script::default());
        let task = tokio::spawn(listen(listener, script.clone()));
        Self {
            address,
            script,
            listening: Mutex::new(Some(task)),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`: the line of a grant, and the beginning of a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on a path is answered so. A path that ends in `*` stands for all that begin so and have no reply of their own.
    pub fn on(&self, path: &str, reply: Reply) {
        self.script(path, [reply]);
    }

    /// The next calls of a path are answered so, one after the other; the last reply repeats.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let replies = replies.into_iter().collect();
        self.script.replies.lock().insert(path.to_owned(), replies);
    }

    /// From now on the calls of a path (or of paths that begin so, with `*`) are held until the gate lets them go.
    pub fn gate(&self, path: &str) -> Gate {
        let held = Arc::new(Held::default());
        self.script
            .gates
            .lock()
            .insert(path.to_owned(), held.clone());
        Gate {
            path: path.to_owned(),
            held,
            script: self.script.clone(),
        }
    }

    /// How many calls of a path have arrived. The query is not part of it.
    pub fn calls(&self, path: &str) -> usize {
        self.script.calls(path)
    }

    /// How many calls have arrived in all.
    pub fn total(&self) -> usize {
        self.script.seen.lock().len()
    }

    /// The calls of a path, in the order of their arrival.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let seen = self.script.seen.lock();
        seen.iter()
            .filter(|seen| path_of(&seen.target) == path)
            .cloned()
            .collect()
    }

    /// The paths of all calls, in the order of their arrival.
    pub fn arrivals(&self) -> Vec<String> {
        let seen = self.script.seen.lock();
        seen.iter()
            .map(|seen| path_of(&seen.target).to_owned())
            .collect()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.script.connections.load(Ordering::SeqCst)
    }

    /// Waits until a path has been called this often.
    pub async fn called(&self, path: &str, times: usize) {
        eventually(&format!("{path} is called {times} times"), async || {
            (self.calls(path) >= times).then_some(())
        })
        .await;
    }

    /// Breaks every connection and refuses new ones.
    pub async fn refuse(&self) {
        let task = self.listening.lock().take();
        if let Some(task) = task {
            task.abort();
            // The port is closed when the task has let go of its listener.
            let _ = task.await;
        }
    }

    /// Listens again, on the same port.
    pub fn return_(&self) {
        let listener = ports::listener_on(self.address).expect("the port is still free");
        let task = tokio::spawn(listen(listener, self.script.clone()));
        *self.listening.lock() = Some(task);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(task) = self.listening.get_mut().take() {
            task.abort();
        }
    }
}

/// Holds the calls of a path. Dropping it lets them all go.
#[derive(Debug)]
pub struct Gate {
    path: String,
    held: Arc<Held>,
    script: Arc<Script>,
}

#[derive(Debug)]
struct Held {
    arrived: watch::Sender<usize>,
    /// One permit lets one call go, in the order of their arrival.
    permits: Semaphore,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            arrived: watch::Sender::new(0),
            permits: Semaphore::new(0),
        }
    }
}

impl Gate {
    /// Waits until this many calls have arrived here.
    pub async fn arrived(&self, calls: usize) {
        eventually(
            &format!("{calls} calls are held at {}", self.path),
            async || (self.count() >= calls).then_some(()),
        )
        .await;
    }

    /// How many calls have arrived here.
    pub fn count(&self) -> usize {
        *self.held.arrived.borrow()
    }

    /// Lets one call go: the one that has waited longest, or the next that comes.
    pub fn release_one(&self) {
        self.held.permits.add_permits(1);
    }

    /// Lets all go, and those that come later.
    pub fn open(&self) {
        let mut gates = self.script.gates.lock();
        if gates
            .get(&self.path)
            .is_some_and(|held| Arc::ptr_eq(held, &self.held))
        {
            gates.remove(&self.path);
        }
        self.held.permits.close();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Script {
    fn calls(&self, path: &str) -> usize {
        let seen = self.seen.lock();
        seen.iter()
            .filter(|seen| path_of(&seen.target) == path)
            .count()
    }

    /// Notes a call; says what it will be answered, which of its path's calls it is, and what holds it.
    fn arrive(&self, request: &Request<Bytes>) -> (Reply, usize, Option<Arc<Held>>) {
        let path = request.uri().path();
        self.seen.lock().push(Seen {
            method: request.method().clone(),
            target: request.uri().to_string(),
            headers: request.headers().clone(),
            body: request.body().clone(),
        });
        let call = self.calls(path);
        let held = find(&mut self.gates.lock(), path).cloned();
        if let Some(held) = &held {
            held.arrived.send_modify(|count| *count += 1);
        }
        let mut replies = self.replies.lock();
        let reply = find(&mut replies, path).and_then(|list| match list.len() {
            0 | 1 => list.front().cloned(),
            _ => list.pop_front(),
        });
        (reply.unwrap_or_else(Reply::counted), call, held)
    }
}

/// The value of a path: its own, else that of the longest beginning of it that is there with a `*`.
fn find<'m, T>(map: &'m mut HashMap<String, T>, path: &str) -> Option<&'m mut T> {
    let fits = |pattern: &&String| {
        *pattern == path
            || pattern
                .strip_suffix('*')
                .is_some_and(|start| path.starts_with(start))
    };
    let longest = map
        .keys()
        .filter(fits)
        .max_by_key(|key| (*key == path, key.len()));
    let key = longest.cloned()?;
    map.get_mut(&key)
}

fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Accepts for ever. The connections live in this task's set, so they end with it.
async fn listen(listener: std::net::TcpListener, script: Arc<Script>) {
    let listener = TcpListener::from_std(listener).expect("inside a runtime");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                script.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(serve(stream, script.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>) {
    // A second handle of the socket: hyper owns the first, and a reset is asked for on the socket itself.
    let twins = stream
        .into_std()
        .and_then(|one| Ok((one.try_clone()?, one)));
    let Ok((twin, stream)) = twins else { return };
    let Ok(stream) = TcpStream::from_std(stream) else {
        return;
    };
    let twin = Arc::new(twin);
    let service =
        hyper::service::service_fn(move |request| answer(request, script.clone(), twin.clone()));
    // What breaks here was asked to break.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Script>,
    twin: Arc<std::net::TcpStream>,
) -> Result<Response<Scripted>, &'static str> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "no whole request")?;
    let request = Request::from_parts(parts, body.to_bytes());
    let (reply, call, held) = script.arrive(&request);
    if let Some(held) = held {
        // Forgotten, so that it lets only one go; an error means that the gate is open.
        if let Ok(permit) = held.permits.acquire().await {
            permit.forget();
        }
    }
    match reply.manner {
        Manner::Hang => std::future::pending::<()>().await,
        Manner::Reset => {
            let twin = twin.try_clone().and_then(TcpStream::from_std);
            twin.and_then(|socket| socket.set_zero_linger())
                .expect("a socket that can be reset");
            return Err("reset");
        }
        Manner::Whole | Manner::CutShort | Manner::Drip(_) => {}
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &reply.headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("the name of a header");
        headers.append(name, value.parse().expect("the value of a header"));
    }
    let known = request.headers().get(http::header::IF_NONE_MATCH);
    let unchanged = known.is_some() && known == headers.get(http::header::ETAG);
    let body = reply.body.clone().unwrap_or_else(|| {
        serde_json::json!({ "path": request.uri().path(), "call": call })
            .to_string()
            .into()
    });
    let mut response = Response::new(if unchanged {
        Scripted::new(Bytes::new(), Manner::Whole)
    } else {
        Scripted::new(body, reply.manner)
    });
    let status = if unchanged { 304 } else { reply.status };
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    *response.headers_mut() = headers;
    Ok(response)
}

/// A body that is sent in its manner.
struct Scripted {
    body: Bytes,
    whole: u64,
    manner: Manner,
    clock: Option<Interval>,
}

impl Scripted {
    fn new(body: Bytes, manner: Manner) -> Self {
        Self {
            whole: body.len() as u64,
            body,
            manner,
            clock: match manner {
                Manner::Drip(every) => Some(tokio::time::interval(every)),
                _ => None,
            },
        }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        if self.body.is_empty() {
            return Poll::Ready(None);
        }
        let piece = match self.manner {
            Manner::Drip(_) => {
                let ready = self
                    .clock
                    .as_mut()
                    .map(|clock| clock.poll_tick(cx).is_ready());
                if ready == Some(false) {
                    return Poll::Pending;
                }
                self.body.split_to(1)
            }
            Manner::CutShort if (self.body.len() as u64) < self.whole => {
                return Poll::Ready(Some(Err("cut short")));
            }
            Manner::CutShort => {
                let half = self.body.len() / 2;
                self.body.split_to(half)
            }
            _ => std::mem::take(&mut self.body),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.body.len() as u64)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_empty()
    }
}
