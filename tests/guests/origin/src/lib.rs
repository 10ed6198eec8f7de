//! What the guests share that do what an HTTP origin tells them: one GET, whole. A library, no plugin.

use wasip3::http::client;
use wasip3::http::types::{self, Fields, Request, Scheme};
use wasip3::wit_future;

/// What the origin answered.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Every value of a header.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let named = self
            .headers
            .iter()
            .filter(move |(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        self.all(name).next()
    }

    /// A header of names with commas between them.
    pub fn list(&self, name: &str) -> Vec<String> {
        let list = self.header(name).unwrap_or_default();
        list.split(',')
            .filter(|item| !item.is_empty())
            .map(|item| item.trim().to_owned())
            .collect()
    }
}

/// GETs `path` (with its query) of `http://AUTHORITY`. The error says why there is no answer.
pub async fn get(authority: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields
            .append(name, value.as_bytes())
            .expect("a header that can be sent");
    }
    // Dropping the writing end says: no trailers.
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(fields, None, trailers, None);
    request
        .set_scheme(Some(&Scheme::Http))
        .expect("http is a scheme");
    request
        .set_authority(Some(authority))
        .expect("the authority of a URL");
    request
        .set_path_with_query(Some(path))
        .expect("an encoded path");
    let unreachable = |code| format!("no answer from the origin: {code:?}");
    let response = client::send(request).await.map_err(unreachable)?;
    let status = response.get_status_code();
    let headers = response.get_headers().copy_all();
    let (_, result) = wit_future::new(|| Ok(()));
    let (stream, trailers) = types::Response::consume_body(response, result);
    let body = stream.collect().await;
    // A body that breaks off ends its stream as a whole one does: what comes after it tells.
    trailers.await.map_err(unreachable)?;
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// Percent-encoded for a path or a query.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
