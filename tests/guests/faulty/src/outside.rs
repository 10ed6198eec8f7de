//! What a guest may try to reach: files, sockets, origins. Must not know why it tries.

use serde_json::{Value, json};
use wasip3::http::types::{Fields, Request, Response, Scheme};
use wasip3::wit_future;

/// `{"ok": …}` or `{"error": text}`.
pub(crate) fn report<T: Into<Value>>(result: Result<T, String>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value.into() }),
        Err(error) => json!({ "error": error }),
    }
}

/// The text of a file, or the names in a directory.
pub(crate) fn read(path: &str) -> Result<Value, String> {
    let entries = || -> std::io::Result<Value> {
        if std::fs::metadata(path)?.is_dir() {
            let names = std::fs::read_dir(path)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            return names
                .collect::<std::io::Result<Vec<String>>>()
                .map(Value::from);
        }
        std::fs::read_to_string(path).map(Value::from)
    };
    entries().map_err(|fault| fault.to_string())
}

/// `HOST:PORT`, or a port of 127.0.0.1: the address that the connection went to.
pub(crate) fn connect(to: &str) -> Result<String, String> {
    let to = if to.contains(':') {
        to.to_owned()
    } else {
        format!("127.0.0.1:{to}")
    };
    let address = std::net::TcpStream::connect(to).and_then(|stream| stream.peer_addr());
    address
        .map(|address| address.to_string())
        .map_err(|fault| fault.to_string())
}

/// Scheme, authority, and path with query.
fn split(url: &str) -> Option<(bool, &str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    Some((scheme == "https", authority, format!("/{path}")))
}

/// GETs `url` by `wasi:http` 0.3: the status.
pub(crate) async fn fetch(url: &str) -> Result<u16, String> {
    let (tls, authority, path) = split(url).ok_or("no URL")?;
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, trailers, None);
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| "scheme refused")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "authority refused")?;
    request
        .set_path_with_query(Some(&path))
        .map_err(|()| "path refused")?;
    let response = wasip3::http::client::send(request)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let status = response.get_status_code();
    // To the end, so that the connection can serve another.
    let (_, taken) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, taken);
    body.collect().await;
    trailers.await.map_err(|error| format!("{error:?}"))?;
    Ok(status)
}

/// GETs `url` by `wasi:http` 0.2, which blocks the instance: the status.
pub(crate) fn fetch2(url: &str) -> Result<u16, String> {
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

    let (tls, authority, path) = split(url).ok_or("no URL")?;
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| "scheme refused")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "authority refused")?;
    request
        .set_path_with_query(Some(&path))
        .map_err(|()| "path refused")?;
    let response = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    response.subscribe().block();
    match response.get() {
        Some(Ok(Ok(response))) => Ok(response.status()),
        Some(Ok(Err(error))) => Err(format!("{error:?}")),
        Some(Err(())) | None => Err("no answer".to_owned()),
    }
}
