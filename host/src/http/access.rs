//! A request as an operator sees it: a span, and a line of the access log, where they are asked for. What they say is what the
//! answer says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Request, Response, header};
use http_body::Body as _;

use super::{Body, Service};
use crate::trace::Span;

/// Bytes of a path with its query that are told; the rest is cut.
const PATH_MAX: usize = 1024;

impl Service {
    /// Answers a request, and tells of it when the head of its answer is there. Header values are never told, but for the
    /// `Cache-Status` that the host itself writes.
    pub(super) async fn observed<B>(
        self: Arc<Self>,
        request: Request<B>,
        peer: SocketAddr,
    ) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let is_logged = self.access_log;
        let method = request.method().clone();
        let uri = request.uri();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let path = target[..target.floor_char_boundary(PATH_MAX)].to_owned();
        let route = self
            .routes
            .load()
            .find(uri.path())
            .map(|(route, _)| Arc::clone(&route.pattern));
        let span = self.span(&request, route.as_deref());
        let response = span.clone().scope(self.of_any_origin(request)).await;
        let (status, cache) = (response.status(), cache_status(response.headers()));
        let bytes = response.body().size_hint().exact();
        if span.is_some() {
            span.set(
                "url.path",
                path.split('?').next().unwrap_or_default().to_owned(),
            );
            span.set("client.address", peer.ip().to_string());
            span.set("http.response.status_code", i64::from(status.as_u16()));
            span.set("larder.cache_status", cache.unwrap_or_default().to_owned());
            if status.is_server_error() {
                span.fail(|| format!("answered with {status}"));
            }
        }
        if is_logged {
            tracing::info!(
                target: "larder::access",
                method = method.as_str(),
                path,
                route = route.as_deref(),
                status = status.as_u16(),
                cache,
                bytes,
                // To the microsecond.
                ms = begun.elapsed().as_micros() as f64 / 1000.0,
                %peer,
                trace = span.trace_id(),
                "request"
            );
        }
        response
    }

    /// What the client asks to be traced, and a share of the rest.
    fn span<B>(&self, request: &Request<B>, route: Option<&str>) -> Span {
        if !self.is_traced {
            return Span::NONE;
        }
        let method = request.method().as_str();
        let name = match route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        };
        let text = |name: &str| request.headers().get(name)?.to_str().ok();
        let span = Span::of_request(name, text("traceparent"), text("tracestate"));
        if span.is_some() {
            span.set("http.request.method", method.to_owned());
            if let Some(route) = route {
                span.set("http.route", route.to_owned());
            }
        }
        span
    }
}

/// `Cache-Status` without the name of the cache.
fn cache_status(headers: &HeaderMap) -> Option<&str> {
    let status = headers.get(header::HeaderName::from_static("cache-status"))?;
    let status = status.to_str().ok()?;
    Some(status.strip_prefix("larder; ").unwrap_or(status))
}
