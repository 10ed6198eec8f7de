//! The public listener. Knows neither wasmtime nor Redis.
//!
//! # The layers, top-down
//! 1. [`accept`]: connections, capped; secured by [`tls`]; a head must arrive in time, and an answer be taken; SIGTERM drains.
//!    `plain`: most reads are answered here, before hyper.
//! 2. [`Service::call`]: method and route; what the memory tier has is answered before anything is spawned or awaited. `cors`: what pages of other origins may.
//! 3. [`Service::answer`]: the cache is asked.
//! 4. [`write`]: PUT and DELETE, where a route writes; `conditions`: on what condition; `behind`: what became of a change that was accepted before it was made.
//! 5. `batch`: many reads in one request.
//! 6. [`watch`]: a stream of what becomes of a resource, where a route has it.
//! 7. `own`: what no route has and the host answers itself: [`openapi`] the API document, `docs` its page.
//! 8. `access`: a span and a line of the log for each request, where they are asked for.
//! 9. [`respond`]: an answer becomes a response (`fields`, `date`), in the coding ([`encoding`]) that the client takes; [`problem`]: a fault becomes one.

pub mod accept;
mod access;
mod batch;
mod behind;
mod body;
mod conditions;
mod cors;
mod date;
mod docs;
pub mod encoding;
mod fields;
pub mod openapi;
mod own;
mod plain;
pub mod problem;
pub mod respond;
pub mod tls;
mod told;
pub mod watch;
pub mod write;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::cache::hot::HotKeys;
use crate::cache::{Answer, AtHand, Cache, StaleReason};
use crate::error::Failure;
use crate::metrics::{Metrics, Outcome, RouteMetrics};
use crate::route::derive::{Derived, Refusal};
use crate::route::{Route, Snapshot, Writes};
use crate::trace::Span;
use crate::write::behind::Behind;
use crate::write::notes::Notes;

pub use body::Body;
use encoding::Encoder;
use respond::Asked;

/// What every connection shares.
pub struct Service {
    /// The routes as they are now; a request pins the snapshot it started with.
    pub routes: Arc<ArcSwap<Snapshot>>,
    /// The tiers and flights.
    pub cache: Arc<Cache>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Which keys are asked for most, if that is of use.
    pub hot: Option<Arc<HotKeys>>,
    /// Who has bodies in other codings.
    pub encoder: Arc<Encoder>,
    /// Where answers are remembered by their `Idempotency-Key`; none where nothing has written yet.
    pub notes: Arc<ArcSwapOption<Notes>>,
    /// Changes that are accepted before they are made; none where no route takes such.
    pub behind: Option<Arc<Behind>>,
    /// Places of changes that are made at once.
    pub writes: Arc<Semaphore>,
    /// Whether each request is a line of the log.
    pub access_log: bool,
    /// Whether any request is traced.
    pub is_traced: bool,
    /// Who watches what.
    pub watchers: watch::Watchers,
    /// Changes that are being made: who stops the server waits for them.
    pub tasks: TaskTracker,
}

/// What is known of a read without waiting.
#[allow(
    clippy::large_enum_variant,
    reason = "it is taken apart at once: a box would be an allocation on each hit"
)]
enum Looked {
    /// The answer.
    Answered(Response<Body>),
    /// What the cache is to be asked.
    Ask(Arc<Derived>),
    /// What is to be watched; not counted as a request, because what is asked for it is.
    Watch(Arc<Derived>),
}

impl Service {
    /// Answers one request of a client at `peer`.
    ///
    /// # Errors
    /// Never: every fault is a response.
    pub async fn call<B>(
        self: Arc<Self>,
        request: Request<B>,
        peer: SocketAddr,
    ) -> Result<Response<Body>, Infallible>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if self.access_log || self.is_traced {
            return Ok(Box::pin(self.observed(request, peer)).await);
        }
        Ok(self.of_any_origin(request).await)
    }

    async fn of_any_origin<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if self.routes.load().has_cors() && request.headers().contains_key(header::ORIGIN) {
            // Boxed: others need not carry the room for it.
            return Box::pin(self.cross_origin(request)).await;
        }
        self.of_own_origin(request).await
    }

    /// Answers one request, whoever made it.
    async fn of_own_origin<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let method = request.method();
        let target = request
            .uri()
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        if let Some(behind) = &self.behind
            && request.uri().path().starts_with(behind::PATH)
        {
            return Box::pin(self.told(behind, &request)).await;
        }
        // A read's body is never read: what comes of it must not be taken for a request.
        let ends = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
        if method != Method::GET && method != Method::HEAD {
            // Boxed: reads need not carry the room for it.
            let ends = ends && request.headers().contains_key(header::TRANSFER_ENCODING)
                || method == Method::CONNECT;
            let response = if request.uri().path() == batch::PATH {
                Box::pin(self.batch(request)).await
            } else if method == Method::PUT || method == Method::DELETE {
                Box::pin(self.write(request)).await
            } else if method == Method::OPTIONS {
                self.options(request.uri().path())
            } else {
                self.other_method(request.uri().path())
            };
            return last_if(ends, response);
        }
        let response = match self.look(target, request.headers()) {
            Looked::Answered(response) => response,
            Looked::Ask(derived) => self.answer(derived, request.headers()).await,
            Looked::Watch(derived) if method == Method::GET => {
                self.watch(target, request.headers(), derived)
            }
            Looked::Watch(derived) => self.not_watched(derived, request.headers()).await,
        };
        last_if(ends, response)
    }

    /// What a read of this path and query is answered without waiting: a hit of the memory tier, or a refusal.
    fn look(&self, target: &str, headers: &HeaderMap) -> Looked {
        let snapshot = self.routes.load();
        self.metrics.derivations.inc();
        let span = Span::current().child("key");
        let derived = match snapshot.derive(target, headers, &self.metrics) {
            Ok(derived) => derived,
            Err((route, refusal)) => {
                let path = target.split('?').next().unwrap_or(target);
                let own = match &route {
                    None => self.own(&snapshot, path, headers),
                    Some(_) => {
                        self.metrics.derivations_called.inc();
                        None
                    }
                };
                let refused = || self.refused(route.as_deref(), &refusal, path);
                return Looked::Answered(own.unwrap_or_else(refused));
            }
        };
        drop((snapshot, span));
        if derived.route.config.watch && derived.bypass.is_none() && watch::is_wanted(headers) {
            return Looked::Watch(derived);
        }
        derived.brief.metrics.request();
        // Nothing is awaited or locked from here to the response, nor spawned but for a route that refreshes ahead.
        let Some(held) = self.at_hand(&derived) else {
            return Looked::Ask(derived);
        };
        self.hit(&derived, &held);
        let asked = self.asked(headers, held.now_ms);
        let answer = Answer::Hit {
            entry: held.entry,
            tier: crate::cache::TierName::Memory,
            left_ms: held.left_ms,
        };
        Looked::Answered(respond::respond(&derived, answer, &asked))
    }

    /// What the memory tier has, if it is fresh.
    #[inline]
    fn at_hand(&self, derived: &Derived) -> Option<AtHand> {
        if derived.bypass.is_some() {
            return None;
        }
        self.cache.peek(&derived.ask)
    }

    /// It is going to be answered.
    #[inline]
    fn hit(&self, derived: &Derived, held: &AtHand) {
        if let Some(hot) = self.hot.as_ref().filter(|_| derived.brief.is_remembered) {
            hot.hit(&derived.ask, &derived.route.rule_identity);
        }
        self.cache
            .refresh_ahead(&derived.ask, &held.entry, held.left_ms);
    }

    /// Something that could be watched, asked for by what takes no stream.
    async fn not_watched(&self, derived: Arc<Derived>, headers: &HeaderMap) -> Response<Body> {
        derived.brief.metrics.request();
        self.answer(derived, headers).await
    }

    async fn answer(&self, derived: Arc<Derived>, headers: &HeaderMap) -> Response<Body> {
        let (answer, now_ms) = self.ask(&derived, headers).await;
        let asked = self.asked(headers, now_ms);
        respond::respond(&derived, answer, &asked)
    }

    /// Asks the cache, and counts what it answers. Also says what time it is then.
    async fn ask(&self, derived: &Derived, headers: &HeaderMap) -> (Answer, u64) {
        let metrics = &derived.brief.metrics;
        let waiting = Waits::begin(metrics);
        let answer = if derived.bypass.is_some() && only_if_cached(headers) {
            Answer::NotCached
        } else if derived.bypass.is_some() {
            self.cache.bypass(&derived.ask).await
        } else {
            self.cache
                .answer(&derived.ask, only_if_cached(headers))
                .await
        };
        waiting.end();
        self.count(derived, &answer);
        let now_ms = self.cache.clock().now_ms();
        if let Some(failure) = failure(&answer) {
            metrics.failed(failure, now_ms);
        }
        (answer, now_ms)
    }

    fn asked<'r, F>(&'r self, headers: &'r F, now_ms: u64) -> Asked<'r, F> {
        Asked {
            headers,
            now_ms,
            encoder: &self.encoder,
        }
    }

    /// What is asked for, whatever became of it, but for what a key policy keeps out of the cache.
    fn count(&self, derived: &Derived, answer: &Answer) {
        if let Some(hot) = &self.hot
            && derived.brief.is_remembered
            && derived.bypass.is_none()
        {
            match answer {
                Answer::Hit { .. } | Answer::Stale { .. } => {
                    hot.hit(&derived.ask, &derived.route.rule_identity);
                }
                _ => hot.missed(&derived.ask, &derived.route.rule_identity),
            }
        }
    }

    /// A request that became nothing.
    fn refused(&self, route: Option<&Route>, refusal: &Refusal, path: &str) -> Response<Body> {
        match route {
            Some(route) => {
                route.brief.metrics.request();
                route.brief.metrics.answer(Outcome::Refused);
            }
            None => {
                self.metrics.unrouted.inc();
            }
        }
        problem::refused(refusal, path)
    }

    fn other_method(&self, path: &str) -> Response<Body> {
        let snapshot = self.routes.load();
        match snapshot.find(path) {
            Some((route, _)) => {
                route.brief.metrics.request();
                route.brief.metrics.answer(Outcome::Refused);
                problem::method_not_allowed(path, !matches!(route.writes, Writes::Off))
            }
            None => Self::own_method(&snapshot, path).unwrap_or_else(|| {
                self.metrics.unrouted.inc();
                problem::refused(&snapshot.unrouted(), path)
            }),
        }
    }
}

/// A request that waits for the cache. Dropped, it has left: its future is dropped when its client goes.
struct Waits<'a> {
    metrics: &'a RouteMetrics,
    begun: Instant,
    has_left: bool,
}

impl<'a> Waits<'a> {
    fn begin(metrics: &'a RouteMetrics) -> Self {
        Self {
            metrics,
            begun: Instant::now(),
            has_left: true,
        }
    }

    /// It is going to be answered.
    fn end(mut self) {
        self.has_left = false;
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.metrics.durations.add(self.begun.elapsed());
        if self.has_left {
            self.metrics.answer(Outcome::Left);
        }
    }
}

/// Why a load failed, whether that was answered or something stale.
fn failure(answer: &Answer) -> Option<&Failure> {
    match answer {
        Answer::Failed { failure, .. }
        | Answer::Stale {
            reason: StaleReason::IfError(failure),
            ..
        }
        | Answer::Bypass {
            result: Err(failure),
        } => Some(failure),
        _ => None,
    }
}

/// The last response of a connection of HTTP/1, if it is that: where the request has a body that is not read, or one in chunks,
/// whose end another may see elsewhere; or where what follows is no request to whoever believes in a tunnel (RFC 9112 section 6.1: after `Transfer-Encoding` beside `Content-Length`, of which
/// the parser leaves one, the connection must end).
fn last_if(ends: bool, mut response: Response<Body>) -> Response<Body> {
    if ends {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// `Cache-Control: only-if-cached` (RFC 9111 section 5.2.1.7). `no-cache` and `no-store` of a client are ignored: who
/// may empty the cache is the operator's to say.
fn only_if_cached(headers: &HeaderMap) -> bool {
    headers.get_all(header::CACHE_CONTROL).iter().any(|value| {
        let directives = value.to_str().unwrap_or_default().split(',');
        directives
            .into_iter()
            .any(|directive| directive.trim().eq_ignore_ascii_case("only-if-cached"))
    })
}
