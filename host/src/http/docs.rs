//! `/docs`: the page that shows the API document and tries requests. Its interface is Swagger UI, out of the archive that is
//! part of the program: nothing is fetched. Must not know what the document says.

use std::io::{Cursor, Read as _};
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response};
use xxhash_rust::xxh3::xxh3_64;

use super::Body;
use super::fields::is_known;
use super::respond::value;

/// Where the page and its files are.
pub(super) const PATH: &str = "/docs";

/// A file of the page.
struct File {
    name: &'static str,
    content_type: &'static str,
    body: Bytes,
    /// The same in gzip, where that is shorter.
    packed: Option<Bytes>,
}

/// Unpacked when one is first asked for: most servers never show the page.
static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let own = |name, content_type, text: &'static str| File::new(name, content_type, text.into());
    let mut files = vec![
        own(
            "",
            "text/html; charset=utf-8",
            include_str!("docs/index.html"),
        ),
        own(
            "start.js",
            "text/javascript; charset=utf-8",
            include_str!("docs/start.js"),
        ),
    ];
    let archive = Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED);
    let Ok(mut archive) = zip::ZipArchive::new(archive) else {
        return files;
    };
    for (name, content_type) in [
        ("swagger-ui.css", "text/css; charset=utf-8"),
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("favicon-32x32.png", "image/png"),
    ] {
        let wanted = format!("/dist/{name}");
        let path = archive
            .file_names()
            .flatten()
            .find(|path| path.ends_with(&wanted))
            .map(std::borrow::Cow::into_owned);
        let mut body = Vec::new();
        let is_read = path
            .and_then(|path| archive.by_name(&path).ok())
            .is_some_and(|mut file| file.read_to_end(&mut body).is_ok());
        if is_read {
            files.push(File::new(name, content_type, body.into()));
        }
    }
    files
});

impl File {
    fn new(name: &'static str, content_type: &'static str, body: Bytes) -> Self {
        Self {
            name,
            content_type,
            packed: packed(&body),
            body,
        }
    }
}

fn packed(body: &[u8]) -> Option<Bytes> {
    let mut packer = flate2::read::GzEncoder::new(body, flate2::Compression::best());
    let mut packed = Vec::new();
    packer.read_to_end(&mut packed).ok()?;
    (packed.len() < body.len()).then(|| packed.into())
}

/// The file at this path below [`PATH`].
pub(super) fn file(path: &str, request: &HeaderMap) -> Option<Response<Body>> {
    let name = path.strip_prefix(PATH)?;
    let name = name.strip_prefix('/').unwrap_or(name);
    let file = FILES.iter().find(|file| file.name == name)?;
    let takes_gzip = request.get(header::ACCEPT_ENCODING).is_some_and(|codings| {
        let codings = codings.to_str().unwrap_or_default();
        codings
            .split(',')
            .any(|coding| coding.trim().eq_ignore_ascii_case("gzip"))
    });
    let packed = file.packed.as_ref().filter(|_| takes_gzip);
    let body = packed.unwrap_or(&file.body);
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    if packed.is_some() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(file.content_type),
    );
    for (name, text) in GUARDS {
        headers.insert(name, HeaderValue::from_static(text));
    }
    // A new version of the program has new ones.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(with_tag(response, body.clone(), request))
}

/// The interface writes styles into elements and shows images that it carries as `data:`; scripts are files of this server
/// alone, and so is whom it speaks to.
const GUARDS: [(HeaderName, &str); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
         font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// An answer of these bytes: 304 where the request names them already.
pub(super) fn with_tag(
    mut response: Response<Body>,
    body: Bytes,
    request: &HeaderMap,
) -> Response<Body> {
    let etag = format!("\"{:016x}\"", xxh3_64(&body));
    if is_known(request, &etag) {
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_ENCODING);
    } else {
        *response.body_mut() = Body::whole(body);
    }
    response.headers_mut().insert(header::ETAG, value(etag));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_the_page_names_is_there() {
        let page = include_str!("docs/index.html");
        let named = page.split('"').filter(|text| text.starts_with("/docs/"));
        let mut count = 0;
        for path in named {
            let response = file(path, &HeaderMap::new());
            let response = response.unwrap_or_else(|| panic!("{path} is not there"));
            assert!(response.headers().contains_key(header::ETAG));
            count += 1;
        }
        assert!(count >= 4, "{count}");
        assert!(file("/docs", &HeaderMap::new()).is_some());
        assert!(file("/docs/", &HeaderMap::new()).is_some());
        assert!(file("/docs/other", &HeaderMap::new()).is_none());
    }
}
