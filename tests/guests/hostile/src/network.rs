//! What a hostile guest tries with the network, by WASI 0.2. Every failure is a text. Must not know what for.

use std::io::Read as _;
use std::net::ToSocketAddrs as _;

use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, FutureIncomingResponse, OutgoingRequest, Scheme};
use wasip2::io::streams::StreamError;

type Told<T> = Result<T, String>;

fn begin(url: &str) -> Told<FutureIncomingResponse> {
    let (scheme, rest) = url.split_once("://").ok_or("no URL")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" {
        Scheme::Https
    } else {
        Scheme::Http
    };
    request
        .set_scheme(Some(&scheme))
        .map_err(|()| "scheme refused")?;
    request
        .set_authority(Some(authority))
        .map_err(|()| "authority refused")?;
    request
        .set_path_with_query(Some(&format!("/{path}")))
        .map_err(|()| "path refused")?;
    outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))
}

/// GETs `url`, and goes wherever it is sent: the status and the whole body.
pub(crate) fn fetch(url: &str) -> Told<(u16, Vec<u8>)> {
    let mut url = url.to_owned();
    for _ in 0..5 {
        let response = begin(&url)?;
        response.subscribe().block();
        let response = match response.get() {
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(error))) => return Err(format!("{error:?}")),
            Some(Err(())) | None => return Err("no answer".to_owned()),
        };
        let to = response.headers().get("location");
        if let Some(to) = to.first() {
            url = String::from_utf8_lossy(to).into_owned();
            continue;
        }
        let body = response.consume().map_err(|()| "no body")?;
        let stream = body.stream().map_err(|()| "no stream")?;
        let mut bytes = Vec::new();
        loop {
            match stream.blocking_read(64 * 1024) {
                Ok(piece) => bytes.extend(piece),
                Err(StreamError::Closed) => break,
                Err(error) => return Err(format!("{error:?}")),
            }
        }
        return Ok((response.status(), bytes));
    }
    Err("sent around in circles".to_owned())
}

/// GETs `url` so often at once, and waits for all.
pub(crate) fn at_once(url: &str, times: usize) -> Told<String> {
    let responses: Vec<_> = (0..times).map(|_| begin(url)).collect::<Told<_>>()?;
    for response in &responses {
        response.subscribe().block();
    }
    Ok(format!("{times} answers"))
}

/// How many bytes come out of gzip, all of them held.
pub(crate) fn inflate(packed: &[u8]) -> Told<usize> {
    let mut unpacked = flate2::read::MultiGzDecoder::new(packed);
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match unpacked
            .read(&mut piece)
            .map_err(|fault| fault.to_string())?
        {
            0 => return Ok(bytes.len()),
            // Not `read_to_end`, which notices that there is no memory.
            length => bytes.extend_from_slice(&piece[..length]),
        }
    }
}

/// The addresses of a name.
pub(crate) fn look_up(name: &str) -> Told<String> {
    let found = (name, 0)
        .to_socket_addrs()
        .map_err(|fault| fault.to_string())?;
    Ok(format!("{:?}", found.collect::<Vec<_>>()))
}

/// Looks a name up when told `NAME:PORT>ADDRESS`, and connects to the address, which is none of the name's; else connects
/// to what it is told.
pub(crate) fn connect(to: &str) -> Told<String> {
    let to = match to.split_once('>') {
        Some((name, address)) => {
            name.to_socket_addrs().map_err(|fault| fault.to_string())?;
            address
        }
        None => to,
    };
    let stream = std::net::TcpStream::connect(to).map_err(|fault| fault.to_string())?;
    Ok(format!("{:?}", stream.peer_addr()))
}
