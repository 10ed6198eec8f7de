//! Pages of other origins (Fetch, section 3.2 "CORS protocol"): what a browser may do for them on a route that lets them. Sees
//! requests and responses from outside; what is asked and answered is none of its business.

use std::sync::Arc;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::respond::{CACHE_STATUS, value};
use super::{Body, Service, problem};
use crate::config::Cors;
use crate::metrics::Outcome;
use crate::route::{Route, Writes};

/// What a page may read of an answer, beside what it always may.
const EXPOSED: &str = "age, cache-status, etag, location, retry-after";
/// What a page may send on every route that lets it.
const TAKEN: &str = "content-type, idempotency-key, if-match, if-none-match";

impl Service {
    /// Answers a request that a page of another origin may have made.
    pub(super) async fn cross_origin<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let snapshot = self.routes.load_full();
        let path = request.uri().path();
        let route = snapshot.find(path).map(|(route, _)| Arc::clone(route));
        let Some((route, cors)) = route
            .as_ref()
            .and_then(|route| Some((route, route.config.cors.as_ref()?)))
        else {
            return self.of_own_origin(request).await;
        };
        let origin = request.headers().get(header::ORIGIN).cloned();
        let allowed = origin.as_ref().and_then(|origin| allowed(cors, origin));
        let is_preflight = request.method() == Method::OPTIONS
            && request
                .headers()
                .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let mut response = if is_preflight {
            route.brief.metrics.request();
            route.brief.metrics.answer(Outcome::Refused);
            match &allowed {
                Some(_) => preflight(route, cors),
                None => refused(route),
            }
        } else {
            Arc::clone(&self).of_own_origin(request).await
        };
        let headers = response.headers_mut();
        let mut varies = headers.get_all(header::VARY).iter();
        if !cors.is_any && varies.all(|names| names != "origin") {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(allowed) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            if cors.credentials {
                let credentials = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
            }
            if !is_preflight {
                let exposed = HeaderValue::from_static(EXPOSED);
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            }
        }
        response
    }

    /// Answers OPTIONS of a path (RFC 9110 section 9.3.7).
    pub(super) fn options(&self, path: &str) -> Response<Body> {
        let snapshot = self.routes.load();
        let Some((route, _)) = snapshot.find(path) else {
            return self.other_method(path);
        };
        route.brief.metrics.request();
        route.brief.metrics.answer(Outcome::Refused);
        let mut response = empty(&[(header::ALLOW, methods(route))]);
        let status = HeaderValue::from_static("larder; detail=options");
        response.headers_mut().insert(CACHE_STATUS, status);
        response
    }
}

/// What `Access-Control-Allow-Origin` says to an origin, if it may.
fn allowed(cors: &Cors, origin: &HeaderValue) -> Option<HeaderValue> {
    if cors.is_any {
        return Some(HeaderValue::from_static("*"));
    }
    let mut origins = cors.origins.iter();
    origins
        .any(|it| it.as_bytes() == origin.as_bytes())
        .then(|| origin.clone())
}

fn methods(route: &Route) -> &'static str {
    if matches!(route.writes, Writes::Off) {
        "GET, HEAD, OPTIONS"
    } else {
        "GET, HEAD, PUT, DELETE, OPTIONS"
    }
}

fn preflight(route: &Route, cors: &Cors) -> Response<Body> {
    let mut taken = TAKEN.to_owned();
    for name in &cors.headers {
        taken.push_str(", ");
        taken.push_str(name);
    }
    let mut response = empty(&[(header::ACCESS_CONTROL_ALLOW_METHODS, methods(route))]);
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, value(taken));
    let max_age = cors.max_age.as_secs().to_string();
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, value(max_age));
    headers.insert(
        CACHE_STATUS,
        HeaderValue::from_static("larder; detail=preflight"),
    );
    response
}

fn refused(route: &Route) -> Response<Body> {
    let detail = format!(
        "pages of this origin may not use {}; the route's `cors` lists those that may",
        route.pattern
    );
    problem::of_write(StatusCode::FORBIDDEN, "origin-not-allowed", detail)
}

fn empty(headers: &[(HeaderName, &'static str)]) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, text) in headers {
        let text = HeaderValue::from_static(text);
        response.headers_mut().insert(name.clone(), text);
    }
    response
}
