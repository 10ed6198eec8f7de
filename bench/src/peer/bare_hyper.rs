//! hyper's HTTP/1.1 on one thread, without a router: what a server made of tokio and hyper can do at most. Owns the
//! connections; must not know where answers come from.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::{Context, Result};
use axum::body::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::spawn_local};

/// Serves until the process is killed. Must be called from a `LocalSet`: what answers is not shared between threads.
pub(super) async fn serve<F>(
    listen: SocketAddr,
    answer: impl Fn(String) -> F + Clone + 'static,
) -> Result<()>
where
    F: Future<Output = Result<Bytes>> + 'static,
{
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answer = answer.clone();
        let service = service_fn(move |request| respond(request, answer.clone()));
        spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn respond<F: Future<Output = Result<Bytes>>>(
    request: Request<Incoming>,
    answer: impl Fn(String) -> F,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(key) = request.uri().path().strip_prefix("/data/") else {
        return Ok(status(StatusCode::NOT_FOUND, Bytes::new()));
    };
    Ok(match answer(key.to_owned()).await {
        Ok(body) => {
            let mut response = status(StatusCode::OK, body);
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            response
        }
        Err(error) => status(StatusCode::BAD_GATEWAY, format!("{error:#}").into()),
    })
}

fn status(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}
