//! An answer to a change, as bytes that are remembered by its `Idempotency-Key`, and given again.

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};

use super::Body;
use super::respond::{CACHE_STATUS, value};
use crate::write::idempotency::ANSWER_BYTES_MAX;

#[derive(Serialize, Deserialize)]
struct Told {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// The same answer, and its bytes if it is one to remember: what a second attempt could change is not.
pub(super) async fn remembered(response: Response<Body>) -> (Response<Body>, Option<Vec<u8>>) {
    let (head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(never) => match never {},
    };
    let stands = head.status.is_success()
        || matches!(
            head.status,
            StatusCode::FORBIDDEN
                | StatusCode::CONFLICT
                | StatusCode::PRECONDITION_FAILED
                | StatusCode::UNPROCESSABLE_ENTITY
        );
    let answer = stands.then(|| {
        // A long body can be read again; what was done is what counts.
        let fits = body.len() <= ANSWER_BYTES_MAX;
        let headers = head
            .headers
            .iter()
            .filter(|(name, _)| *name != CACHE_STATUS && (fits || *name != header::CONTENT_TYPE));
        let told = Told {
            status: head.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                .collect(),
            body: if fits { body.to_vec() } else { Vec::new() },
        };
        postcard::to_stdvec(&told).ok()
    });
    (
        Response::from_parts(head, Body::whole(body)),
        answer.flatten(),
    )
}

/// The answer that was remembered; none of bytes that are none (law 11).
pub(super) fn again(answer: &[u8]) -> Option<Response<Body>> {
    let told: Told = postcard::from_bytes(answer).ok()?;
    let mut response = Response::new(Body::whole(told.body));
    *response.status_mut() = StatusCode::from_u16(told.status).ok()?;
    let headers = response.headers_mut();
    for (name, text) in told.headers {
        let name = HeaderName::try_from(name).ok()?;
        headers.append(name, HeaderValue::from_bytes(&text).ok()?);
    }
    headers.insert(
        CACHE_STATUS,
        value("larder; detail=idempotency-key".to_owned()),
    );
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Response<Body> {
        let mut response = Response::new(Body::whole(body.to_owned()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let etag = HeaderValue::from_static("\"v2\"");
        response.headers_mut().insert(header::ETAG, etag);
        response
    }

    #[tokio::test]
    async fn what_stands_is_remembered_and_given_again_as_it_was() {
        for (status, stands) in [
            (201, true),
            (204, true),
            (412, true),
            (502, false),
            (429, false),
        ] {
            let (response, bytes) = remembered(answer(status, "body")).await;
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(bytes.is_some(), stands, "{status}");
            let Some(bytes) = bytes else { continue };
            let again = again(&bytes).expect("it was written here");
            assert_eq!(
                (again.status(), &again.headers()[header::ETAG]),
                (response.status(), &response.headers()[header::ETAG])
            );
            let body = again.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&body[..], b"body");
        }
        let (_, long) = remembered(answer(200, &"x".repeat(ANSWER_BYTES_MAX + 1))).await;
        assert!(long.unwrap().len() < 200);
        assert!(again(b"garbage").is_none());
    }
}
