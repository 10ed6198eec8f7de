//! One keep-alive connection that asks for a path at a time: fills a contestant and checks its answers.
//! Owns HTTP on this side; must not know who is asked.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST, HeaderMap},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// The tenant that the key policy asks for; everyone is sent it.
pub(crate) const TENANT: (&str, &str) = ("x-tenant", "acme");

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// `Cache-Status`, RFC 9211; empty if the contestant does not send it.
    pub(crate) fn cache_status(&self) -> &str {
        self.headers
            .get("cache-status")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// A connection to a contestant.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; what it could report, the sender reports as well.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: address.to_string(),
        })
    }

    /// GET, with the header that the load sends too.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        let request = Request::get(path)
            .header(TENANT.0, TENANT.1)
            .header(HOST, &self.host);
        self.send(request.body(Full::default())?).await
    }

    /// POST of a text.
    pub(crate) async fn post(&mut self, path: &str, body: String) -> Result<Answer> {
        let request = Request::post(path).header(HOST, &self.host);
        self.send(request.body(Full::from(body))?).await
    }

    /// POST of JSON, with the header that the load sends too.
    pub(crate) async fn post_json(&mut self, path: &str, body: String) -> Result<Answer> {
        let request = Request::post(path)
            .header(TENANT.0, TENANT.1)
            .header(CONTENT_TYPE, "application/json")
            .header(HOST, &self.host);
        self.send(request.body(Full::from(body))?).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let asked = format!("{} {}", request.method(), request.uri());
        timeout(PATIENCE, async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            Ok(Answer {
                status: head.status,
                headers: head.headers,
                body: body.collect().await?.to_bytes(),
            })
        })
        .await
        .with_context(|| format!("{asked}: no answer within {PATIENCE:?}"))?
    }
}
