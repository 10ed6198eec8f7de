//! The access log: a line a request, where the operator asks for it. What it says is what the answer says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Request, Response, header};
use http_body::Body as _;

use super::{Body, Service};

/// Bytes of a path with its query that are told; the rest is cut.
const PATH_MAX: usize = 1024;

impl Service {
    /// Answers a request, and tells of it when the head of its answer is there. Header values are never told, but for the
    /// `Cache-Status` that the host itself writes.
    pub(super) async fn logged<B>(
        self: Arc<Self>,
        request: Request<B>,
        peer: SocketAddr,
    ) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let method = request.method().clone();
        let uri = request.uri();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let path = target[..target.floor_char_boundary(PATH_MAX)].to_owned();
        let routes = self.routes.load_full();
        let route = routes
            .find(uri.path())
            .map(|(route, _)| Arc::clone(&route.pattern));
        let response = self.of_any_origin(request).await;
        let bytes = response.body().size_hint().exact();
        tracing::info!(
            target: "larder::access",
            method = method.as_str(),
            path,
            route = route.as_deref(),
            status = response.status().as_u16(),
            cache = cache_status(response.headers()),
            bytes,
            ms = begun.elapsed().as_secs_f64() * 1000.0,
            %peer,
            "request"
        );
        response
    }
}

/// `Cache-Status` without the name of the cache.
fn cache_status(headers: &HeaderMap) -> Option<&str> {
    let status = headers.get(header::HeaderName::from_static("cache-status"))?;
    let status = status.to_str().ok()?;
    Some(status.strip_prefix("larder; ").unwrap_or(status))
}
