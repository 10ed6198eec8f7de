//! The page at `/`: files that are part of the program. What they show they ask the other addresses of this listener for.

use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Problem;

struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($name:literal: $content_type:literal,)*) => {
        &[$(File {
            name: $name,
            content_type: $content_type,
            text: include_str!(concat!("dashboard/", $name)),
        }),*]
    };
}

const PAGE: &str = "index.html";

static FILES: &[File] = files! {
    "index.html": "text/html; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "elements.js": "text/javascript; charset=utf-8",
    "pages.js": "text/javascript; charset=utf-8",
    "entry.js": "text/javascript; charset=utf-8",
    "vendor/uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "vendor/uPlot.min.css": "text/css; charset=utf-8",
};

/// Whether a browser asks for a page, and not a program for text.
pub(super) fn is_page(request: &Request) -> bool {
    let accept = request.headers().get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    request.uri().path() == "/" && accept.is_some_and(|accept| accept.contains("text/html"))
}

/// The page itself. It holds nothing that is secret: what it shows it asks for with the token.
pub(super) fn page(request: &HeaderMap) -> Response {
    file(PAGE, request)
}

/// A file of the page.
pub(super) async fn asset(Path(name): Path<String>, request: HeaderMap) -> Response {
    file(&name, &request)
}

fn file(name: &str, request: &HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        let detail = format!("the dashboard has no file {name}");
        return Problem::new(StatusCode::NOT_FOUND, "not-found", detail).into_response();
    };
    let etag = format!("\"{}\"", &blake3::hash(file.text.as_bytes()).to_hex()[..16]);
    let is_known = request
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.text.into_response()
    };
    let headers = response.headers_mut();
    for (name, text) in [
        (header::CONTENT_TYPE, file.content_type),
        // A new version of the program has new ones.
        (header::CACHE_CONTROL, "no-cache"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(text));
    }
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}
