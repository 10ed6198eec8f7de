//! The host's one outbound HTTP client: pooled connections, timeouts, body bounds, and errors in WASI's words.
//!
//! **Pools and rights.** A pooled connection was opened to an address that passed the check of somebody's grants; handing
//! it to somebody with other grants would be a way round the check. So pools are kept per [`Reach`], the exact set of
//! origins and networks: whoever finds an idle connection has the very rights it was opened under. Plugins (and the old
//! and the new version of one, during a swap) with equal grants do share. Only HTTP/1.1 is spoken, so a connection carries
//! one request at a time and nothing of one request's sender is left on it for the next.
//!
//! **Redirects** are answers like any other: the guest sees them, and a request it makes in consequence is checked anew.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Either, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector};
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::grants::{Origin, Reach};
use super::resolve::{Lookup, ResolveError, Resolver, SystemLookup};
use super::{Egress, Tape};
use crate::trace::Span;

/// Looking up, connecting and shaking hands, when the guest does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the connection to the response head, and between two pieces of a body, when the guest does not say. A call's own
/// deadline is usually shorter.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// What a guest may say at most: a connection is not held for ever because a guest asked for it.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// How long an unused connection is kept. Shorter than the 60 to 75 s that common servers keep theirs, so that it is
/// mostly this side that closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Unused connections kept per origin.
const IDLE_CONNECTIONS_MAX: usize = 32;

type Connector = Dial<HttpsConnector<HttpConnector<Resolver>>>;
type Outgoing = Either<Limited<WasiBody>, Empty<Bytes>>;

/// The outbound client of the process: TLS roots, the resolver, and a pool per set of rights.
pub struct EgressClient {
    lookup: Arc<dyn Lookup>,
    tls: OnceLock<Arc<rustls::ClientConfig>>,
    /// Weak: a pool lives as long as a plugin that uses it.
    pools: Mutex<HashMap<Reach, Weak<Pool>>>,
    tape: Option<Arc<Tape>>,
}

impl EgressClient {
    /// A client that trusts the machine's own certificate authorities (read when first needed) and asks the machine's own
    /// resolver.
    pub fn new() -> Arc<Self> {
        Self::with_lookup(Arc::new(SystemLookup::new()))
    }

    pub(crate) fn with_lookup(lookup: Arc<dyn Lookup>) -> Arc<Self> {
        Arc::new(Self {
            lookup,
            tls: OnceLock::new(),
            pools: Mutex::default(),
            tape: None,
        })
    }

    /// The look-up of whoever has these rights.
    pub(super) fn resolver(&self, reach: &Arc<Reach>) -> Resolver {
        Resolver::new(Arc::clone(reach), Arc::clone(&self.lookup))
    }

    /// A client whose plugins send everything through this tape.
    pub fn with_tape(tape: &Arc<Tape>) -> Arc<Self> {
        Arc::new(Self {
            lookup: Arc::new(SystemLookup::new()),
            tls: OnceLock::new(),
            pools: Mutex::default(),
            tape: Some(Arc::clone(tape)),
        })
    }

    pub(super) fn tape(&self) -> Option<Arc<Tape>> {
        self.tape.clone()
    }

    /// The pool of everybody who has exactly these rights.
    pub(super) fn pool(&self, reach: &Reach) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(reach).and_then(Weak::upgrade) {
            return pool;
        }
        // Rights change only when a sidecar does, so sweeping here keeps the map as small as the set of plugins.
        pools.retain(|_, pool| pool.strong_count() > 0);
        let pool = Arc::new(Pool::new(reach, &self.lookup, self.tls.get_or_init(tls)));
        pools.insert(reach.clone(), Arc::downgrade(&pool));
        pool
    }
}

/// The machine's certificate authorities. A machine without any can still speak plain HTTP.
fn tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = || {
        rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3")
    };
    let config = match versions().with_native_roots() {
        Ok(config) => config,
        Err(error) => {
            tracing::warn!(
                "no certificate authorities found ({error}): https sources will be refused; install ca-certificates or set SSL_CERT_FILE"
            );
            versions().with_root_certificates(rustls::RootCertStore::empty())
        }
    };
    Arc::new(config.with_no_client_auth())
}

/// The connections of one set of rights.
pub(super) struct Pool {
    client: Client<Connector, Outgoing>,
}

impl Pool {
    fn new(reach: &Reach, lookup: &Arc<dyn Lookup>, tls: &Arc<rustls::ClientConfig>) -> Self {
        let resolver = Resolver::new(Arc::new(reach.clone()), Arc::clone(lookup));
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(30)));
        let connector = Dial(HttpsConnector::from((http, Arc::clone(tls))));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .set_host(false)
            .build(connector);
        Self { client }
    }
}

tokio::task_local! {
    /// Whether the request being polled has opened a connection of its own.
    static DIALLED: std::cell::Cell<bool>;
}

/// Notes that a connection is being opened. The pool calls its connector from within the request's own future, so a
/// request that ends without the note went out on a connection that had been used before.
#[derive(Clone)]
struct Dial<C>(C);

impl<C: tower_service::Service<http::Uri>> tower_service::Service<http::Uri> for Dial<C> {
    type Response = C::Response;
    type Error = C::Error;
    type Future = C::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let _ = DIALLED.try_with(|dialled| dialled.set(true));
        self.0.call(uri)
    }
}

/// The three waits of one request.
struct Patience {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl From<RequestOptions> for Patience {
    fn from(options: RequestOptions) -> Self {
        let or = |asked: Option<Duration>, default| asked.unwrap_or(default).min(TIMEOUT_MAX);
        Self {
            connect: or(options.connect_timeout, CONNECT_TIMEOUT),
            first_byte: or(options.first_byte_timeout, READ_TIMEOUT),
            between_bytes: or(options.between_bytes_timeout, READ_TIMEOUT),
        }
    }
}

/// What is sent out as part of a traced call, as a span of that call's trace, under whose id it goes on.
fn traced(request: &mut Request<WasiBody>, origin: &Origin) -> Span {
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    let method = request.method();
    let parent = request.headers().get(&TRACEPARENT);
    let parent = parent.and_then(|parent| parent.to_str().ok());
    let span = Span::outbound(|| method.to_string(), parent);
    if let Some(own) = span.traceparent().and_then(|own| own.parse().ok()) {
        span.set("http.request.method", request.method().to_string());
        span.set("server.address", origin.authority());
        request.headers_mut().insert(TRACEPARENT, own);
    }
    span
}

impl Egress {
    /// Sends one request of the guest, if it is granted.
    pub(super) async fn send(
        self: Arc<Self>,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let origin = Origin::of(request.uri()).map_err(|_| Error::HttpRequestUriInvalid)?;
        // CONNECT would turn a granted proxy into a way to everywhere.
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let pool = match &self.pool {
            Some(pool) if self.reach.allows(&origin) => Arc::clone(pool),
            _ => {
                self.deny_origin(&origin);
                return Err(Error::HttpRequestDenied);
            }
        };
        let permit = Arc::clone(&self.fetches)
            .acquire_owned()
            .await
            .map_err(|_| Error::ConnectionTerminated)?;
        let patience = Patience::from(options);
        let span = traced(&mut request, &origin);
        let response = self
            .exchange(&pool, &origin, request, &patience)
            .await
            .inspect_err(|error| span.fail(|| error.to_string()))?;
        span.set(
            "http.response.status_code",
            i64::from(response.status().as_u16()),
        );
        drop(span);
        let limit = self.body_bytes_max as u64;
        if response.body().size_hint().lower() > limit {
            return Err(Error::HttpResponseBodySize(Some(limit)));
        }
        Ok(response
            .map(|body| Metered::new(body, limit, patience.between_bytes, permit).boxed_unsync()))
    }

    /// One request, tried a second time if the connection it was given turns out to have been closed by the other side.
    ///
    /// Servers close idle connections whenever they like, and a request may already be on its way: nobody is at fault and
    /// the server never saw it, but it looks like a reset. A first connection that fails so is a real answer about the
    /// source, so only reused ones are tried again, and only what is idempotent and has no body (RFC 9110, section 9.2.2).
    async fn exchange(
        &self,
        pool: &Pool,
        origin: &Origin,
        request: Request<WasiBody>,
        patience: &Patience,
    ) -> Result<Response<Incoming>, Error> {
        let (mut parts, body) = request.into_parts();
        // One form of the address, so that one origin has one pool whatever the guest writes (`A.test`, `a.test.`, `a.test:80`).
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.authority = Some(
            origin
                .authority()
                .parse()
                .map_err(|_| Error::HttpRequestUriInvalid)?,
        );
        uri.path_and_query
            .get_or_insert_with(|| http::uri::PathAndQuery::from_static("/"));
        parts.uri = uri.try_into().map_err(|_| Error::HttpRequestUriInvalid)?;
        let host =
            HeaderValue::from_str(&origin.authority()).map_err(|_| Error::HttpRequestUriInvalid)?;
        parts.headers.insert(HOST, host);

        let bodiless = matches!(parts.method, Method::GET | Method::HEAD)
            && !parts.headers.contains_key(CONTENT_LENGTH);
        if !bodiless {
            let body = Either::Left(Limited::new(body, self.body_bytes_max));
            let attempt = self.attempt(pool, Request::from_parts(parts, body), patience);
            return attempt.await.map_err(|(error, _)| error);
        }
        // HTTP/1.1 sends no body of unknown length with these methods. The guest's is kept until the answer comes, so
        // that a guest which writes one sees the same as ever.
        let _unsent = body;
        let empty = || Either::Right(Empty::new());
        let again = Request::from_parts(parts.clone(), empty());
        match self
            .attempt(pool, Request::from_parts(parts, empty()), patience)
            .await
        {
            Err((_, Lost::Reused)) => self
                .attempt(pool, again, patience)
                .await
                .map_err(|(error, _)| error),
            other => other.map_err(|(error, _)| error),
        }
    }

    async fn attempt(
        &self,
        pool: &Pool,
        mut request: Request<Outgoing>,
        patience: &Patience,
    ) -> Result<Response<Incoming>, (Error, Lost)> {
        let mut connected = capture_connection(&mut request);
        let response = DIALLED.scope(false.into(), async {
            pool.client.request(request).await.map_err(|error| {
                let reused = !DIALLED.with(std::cell::Cell::get);
                (error, reused)
            })
        });
        tokio::pin!(response);
        let translate = |outcome: Result<_, (ClientError, bool)>| {
            outcome.map_err(|(error, reused)| {
                let lost = if reused && was_lost(&error) {
                    Lost::Reused
                } else {
                    Lost::No
                };
                (self.translate(&error), lost)
            })
        };
        tokio::select! {
            biased;
            outcome = &mut response => return translate(outcome),
            in_time = timeout(patience.connect, async {
                drop(connected.wait_for_connection_metadata().await);
            }) => in_time.map_err(|_| (Error::ConnectionTimeout, Lost::No))?,
        }
        match timeout(patience.first_byte, response).await {
            Ok(outcome) => translate(outcome),
            Err(_) => Err((Error::ConnectionReadTimeout, Lost::No)),
        }
    }

    /// hyper's, rustls's and the resolver's errors in WASI's words; a refused address becomes a denial on the way.
    fn translate(&self, error: &ClientError) -> Error {
        if let Some(error) = find::<ResolveError>(error) {
            return match error {
                ResolveError::Refused(refused) => {
                    self.deny_address(refused);
                    Error::HttpRequestDenied
                }
                ResolveError::NotGranted(_) => Error::HttpRequestDenied,
                ResolveError::Lookup(error) => Error::DnsError {
                    rcode: Some(error.to_string()),
                    info_code: None,
                },
            };
        }
        if find::<LengthLimitError>(error).is_some() {
            return Error::HttpRequestBodySize(Some(self.body_bytes_max as u64));
        }
        if let Some(Error::HttpRequestBodySize(size)) = find::<Error>(error) {
            return Error::HttpRequestBodySize(*size);
        }
        match find::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(_)) => return Error::TlsCertificateError,
            Some(_) => return Error::TlsProtocolError,
            None => {}
        }
        if let Some(error) = find::<hyper::Error>(error) {
            if error.is_parse_too_large() {
                return Error::HttpResponseHeaderSectionSize(None);
            }
            if error.is_parse() {
                return Error::HttpProtocolError;
            }
        }
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => Error::ConnectionRefused,
            Some(io::ErrorKind::TimedOut) => Error::ConnectionTimeout,
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                Error::DestinationUnavailable
            }
            _ => Error::ConnectionTerminated,
        }
    }
}

/// Whether a request may simply have met a connection that the other side had already closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    Reused,
    No,
}

/// Whether the connection ended before a single byte of an answer.
fn was_lost(error: &ClientError) -> bool {
    find::<hyper::Error>(error).is_some_and(|error| {
        error.is_incomplete_message()
            || error.is_canceled()
            || find::<io::Error>(error).is_some_and(|error| {
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                )
            })
    })
}

/// The first error of type `T` in a chain. `io::Error` hides what it carries from `source`, so it is opened by hand.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(carried) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(found) = find::<T>(carried)
        {
            return Some(found);
        }
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A response body on its way to the guest: counted, timed, and holding its place among the plugin's fetches until it ends.
///
/// Read to its end, the connection goes back to the pool. Dropped, failed or too long, it is closed: what is left of the
/// body must not meet the next request.
struct Metered {
    /// `None` once it has ended.
    body: Option<(Incoming, OwnedSemaphorePermit)>,
    left: u64,
    limit: u64,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer runs. It runs only while the guest waits: a guest that takes its time is not a slow source.
    waiting: bool,
}

impl Metered {
    fn new(body: Incoming, limit: u64, patience: Duration, permit: OwnedSemaphorePermit) -> Self {
        Self {
            body: Some((body, permit)),
            left: limit,
            limit,
            patience,
            timer: Box::pin(tokio::time::sleep(patience)),
            waiting: false,
        }
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some((body, _)) = &mut this.body else {
            return Poll::Ready(None);
        };
        let error = match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                if length <= this.left {
                    this.left -= length;
                    return Poll::Ready(Some(Ok(frame)));
                }
                Error::HttpResponseBodySize(Some(this.limit))
            }
            Poll::Ready(Some(Err(error))) => interrupted(&error),
            Poll::Ready(None) => {
                this.body = None;
                return Poll::Ready(None);
            }
            Poll::Pending => {
                if !this.waiting {
                    this.timer.as_mut().reset(Instant::now() + this.patience);
                    this.waiting = true;
                }
                ready!(this.timer.as_mut().poll(context));
                Error::ConnectionReadTimeout
            }
        };
        this.body = None;
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

/// Why a body ended before its end: a body that is cut short is an error, never a short value (law 10).
fn interrupted(error: &hyper::Error) -> Error {
    if error.is_parse() {
        Error::HttpProtocolError
    } else if error.is_incomplete_message() || error.is_body_write_aborted() {
        Error::HttpResponseIncomplete
    } else {
        match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::UnexpectedEof) | None => Error::HttpResponseIncomplete,
            Some(_) => Error::ConnectionTerminated,
        }
    }
}
