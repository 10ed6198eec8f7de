//! The paths of the public listener that are the host's own: the API document and its page. Asked only where no route has the
//! path, so that no route pays for them.

use http::header::{self, HeaderValue};
use http::{HeaderMap, Response};

use super::{Body, Service, batch, docs, openapi, problem};
use crate::route::Snapshot;

/// Where the API document is.
const DOCUMENT: &str = "/openapi.json";

impl Service {
    /// What GET or HEAD of one of the host's own paths is answered.
    pub(super) fn own(
        &self,
        snapshot: &Snapshot,
        path: &str,
        request: &HeaderMap,
    ) -> Option<Response<Body>> {
        if path == batch::PATH {
            return Some(batch::method());
        }
        let about = Some(&snapshot.surface.openapi).filter(|about| about.serve)?;
        if path != DOCUMENT {
            return docs::file(path, request);
        }
        if snapshot.is_starting() {
            return None;
        }
        // Made once for each snapshot: a plugin that is swapped has another.
        let text = snapshot.document(|| openapi::text(snapshot, about));
        let mut response = Response::new(Body::default());
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Some(docs::with_tag(response, text, request))
    }

    /// What any other method on one of these paths is answered.
    pub(super) fn own_method(snapshot: &Snapshot, path: &str) -> Option<Response<Body>> {
        if path == batch::PATH {
            return Some(batch::method());
        }
        Some(&snapshot.surface.openapi).filter(|about| about.serve)?;
        let is_own = path == DOCUMENT || docs::file(path, &HeaderMap::new()).is_some();
        is_own.then(|| problem::method_not_allowed(path, false))
    }
}
