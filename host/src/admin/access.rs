//! Who asks the admin listener, and what they may. Owns tokens and the people behind them; must not know where tokens stand,
//! nor what is asked for.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Admin, Problem, dashboard};

/// The tokens in force, as digests: comparing those takes a time that tells nothing of the tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    full: Option<blake3::Hash>,
    read: Option<blake3::Hash>,
}

impl Tokens {
    /// `full` may do everything, `read` may ask for everything and change nothing. Without `full`, nobody is asked for one.
    pub fn new(full: Option<&str>, read: Option<&str>) -> Self {
        let digest = |token: &str| blake3::hash(token.as_bytes());
        Self {
            full: full.map(digest),
            read: read.map(digest),
        }
    }

    fn judge(&self, headers: &HeaderMap) -> Access {
        if self.full.is_none() {
            return Access::Open;
        }
        let given = headers.get(header::AUTHORIZATION);
        let given = given.map(HeaderValue::as_bytes).unwrap_or_default();
        let given = blake3::hash(given.strip_prefix(b"Bearer ").unwrap_or_default());
        if self.full == Some(given) {
            Access::Token
        } else if self.read == Some(given) {
            Access::ReadToken
        } else {
            Access::Unknown
        }
    }
}

/// As whom somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// No token is asked for.
    Open,
    Token,
    ReadToken,
    /// The token is none of those, or there is none.
    Unknown,
}

/// At the other end of a connection to this listener.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: SocketAddr,
    /// The common name of the certificate that it has shown, where one is asked for.
    pub certificate: Option<Arc<str>>,
}

/// Who asks, as the audit log says it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    access: Access,
    pub(super) peer: Option<Peer>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificate = self.peer.as_ref().and_then(|it| it.certificate.as_ref());
        let token = match self.access {
            Access::Open => "",
            Access::Token => "token",
            Access::ReadToken => "read-token",
            Access::Unknown => "no token that is known",
        };
        match (token, certificate) {
            ("", None) => f.write_str("anybody"),
            (token, None) => f.write_str(token),
            ("", Some(name)) => write!(f, "client certificate {name}"),
            (token, Some(name)) => write!(f, "{token}, client certificate {name}"),
        }
    }
}

/// Whether a request can change nothing.
pub(super) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Notes who asks, for who comes after.
pub(super) async fn know_caller(
    State(admin): State<Admin>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = Caller {
        access: admin.tokens.load().judge(request.headers()),
        peer: request.extensions().get::<Peer>().cloned(),
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Lets through who may.
pub(super) async fn require_token(request: Request, next: Next) -> Response {
    if !is_read(request.method()) && is_cross_site(&request) {
        let detail = "requests from pages of other sites are refused; send it from a command line or from this listener's own pages";
        return Problem::new(StatusCode::FORBIDDEN, "cross-site", detail).into_response();
    }
    let access = request.extensions().get().map(|it: &Caller| it.access);
    match access.unwrap_or(Access::Unknown) {
        Access::Open | Access::Token => next.run(request).await,
        Access::ReadToken if is_read(request.method()) => next.run(request).await,
        Access::ReadToken => {
            let detail = "this is the read token of [admin]: it may ask for everything and change nothing; send the token";
            Problem::new(StatusCode::FORBIDDEN, "read-only-token", detail).into_response()
        }
        // The page holds nothing that is secret, and asks for the token itself.
        Access::Unknown if is_read(request.method()) && dashboard::is_page(&request) => {
            next.run(request).await
        }
        Access::Unknown => unauthorized(),
    }
}

fn unauthorized() -> Response {
    let detail = "send the [admin] token as `Authorization: Bearer TOKEN`";
    let mut response =
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response();
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"larder\""),
    );
    response
}

/// A browser says where a request comes from; another site's page must not purge through the operator's.
fn is_cross_site(request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site");
    site.is_some_and(|site| site != "same-origin" && site != "none")
}
