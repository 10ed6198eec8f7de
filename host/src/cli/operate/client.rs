//! One request to the admin listener of a server that runs: where it is, what it is shown, what can go wrong.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

use super::trust::Trust;
use crate::cli::{args, tokens};
use crate::config::Problem;

/// A purge may wait for Redis, and a reload for a compiler.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest answer that is read.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Where the admin listener is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The admin listener, e.g. http://127.0.0.1:8081 [default: as the configuration has it].
    #[arg(
        long,
        value_name = "URL",
        env = "LARDER_ADMIN_URL",
        hide_env_values = true
    )]
    admin: Option<String>,
    /// A file with the admin token on its first line [default: LARDER_ADMIN_TOKEN, or the configuration's].
    #[arg(
        long,
        value_name = "FILE",
        env = "LARDER_ADMIN_TOKEN_FILE",
        hide_env_values = true
    )]
    token_file: Option<OsString>,
    #[command(flatten)]
    trust: Trust,
    /// The configuration [default: ./larder.toml if there is one].
    #[arg(
        long,
        value_name = "FILE",
        env = "LARDER_CONFIG",
        hide_env_values = true
    )]
    config: Option<OsString>,
}

/// Speaks to one admin listener.
pub(super) struct Client {
    base: String,
    token: Option<String>,
    tls: Option<ClientConfig>,
}

impl Place {
    /// The client of that listener. The configuration is read only where it is needed: an operator's own machine has none.
    pub(super) fn client(&self) -> Result<Client, Problem> {
        let named = self.admin.as_deref().filter(|url| !url.is_empty());
        let named_file = self.token_file.as_ref().filter(|file| !file.is_empty());
        let read = |file: &OsString| tokens::of_file(Path::new(file), "--token-file");
        let from_file = named_file.map(read).transpose()?;
        if let Some(url) = named {
            let variable = std::env::var("LARDER_ADMIN_TOKEN").ok();
            let base = base(url)?;
            return Ok(Client {
                tls: self.tls(&base)?,
                base,
                token: from_file.or(variable).filter(|token| !token.is_empty()),
            });
        }
        let (config, problems) = args::Settings::of_file(self.config.clone()).read();
        let Some(config) = config else {
            let first = problems.into_iter().next();
            return Err(first.unwrap_or_else(|| Problem::error("there is no configuration")));
        };
        if config.admin.listen.port() == 0 {
            let problem = Problem::error("[admin] listen is on any free port");
            return Err(problem.remedy("say which one it is: --admin http://127.0.0.1:PORT"));
        }
        let listen = reachable(config.admin.listen);
        let is_secured = config.admin.identity.is_some();
        let base = format!("http{}://{listen}", if is_secured { "s" } else { "" });
        let configured = || {
            let source = config.admin.token.as_ref();
            let read = |source| tokens::text(source, "token_file of [admin]");
            source.map(read).transpose()
        };
        Ok(Client {
            tls: self.tls(&base)?,
            base,
            token: match from_file {
                Some(token) => Some(token),
                None => configured()?,
            },
        })
    }
}

impl Place {
    /// What an address with https is spoken to with.
    fn tls(&self, base: &str) -> Result<Option<ClientConfig>, Problem> {
        let is_secured = base.starts_with("https:");
        is_secured.then(|| self.trust.client()).transpose()
    }
}

/// A listener on every address is on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn base(url: &str) -> Result<String, Problem> {
    let url = url.trim_end_matches('/');
    let is_good = url.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
    });
    if is_good {
        return Ok(url.to_owned());
    }
    Err(Problem::error(format!(
        "--admin: {url:?} is not where an admin listener is"
    ))
    .remedy("write http://host:port or https://host:port, e.g. http://127.0.0.1:8081"))
}

impl Client {
    /// Who is asked, as a URL.
    pub(super) fn place(&self) -> &str {
        &self.base
    }

    /// GET.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Problem> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// POST of a JSON value.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Problem> {
        self.ask(Method::POST, path, body.to_string().into()).await
    }

    fn connector(&self) -> HttpsConnector<HttpConnector> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // Of an address without TLS nothing of it is used.
        let tls = self.tls.clone().unwrap_or_else(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring speaks TLS 1.2 and 1.3")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth()
        });
        HttpsConnector::from((http, tls))
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Value, Problem> {
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Problem::error(format!("{path:?} cannot be asked for: {error}")))?;
        // Straight to it: a proxy of the environment is for other addresses.
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .build::<_, Full<Bytes>>(self.connector());
        let exchange = async {
            let response = client
                .request(request)
                .await
                .map_err(|error| self.unreachable(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await;
            let body = body.map_err(|error| self.nonsense(&error.to_string()))?;
            Ok((head.status, body.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| self.nonsense(&format!("no answer within {PATIENCE:?}")))??;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| self.nonsense(&format!("status {status}, and no JSON")))?;
        if status.is_success() {
            return Ok(answer);
        }
        Err(self.refused(status.as_u16(), &answer))
    }

    fn unreachable(&self, error: &hyper_util::client::legacy::Error) -> Problem {
        let mut why: &(dyn std::error::Error + 'static) = error;
        while let Some(source) = why.source() {
            why = source;
        }
        let problem = Problem::error(format!("{} does not answer: {why}", self.base));
        // Whatever is wrong with a handshake: rustls says it, and what answers is there.
        if is_of_tls(why) {
            return problem.remedy(
                "name who has signed its certificate with --ca FILE, ask by the name that is in the certificate (--admin https://NAME:PORT), and show one of your own with --cert and --key if it asks for that",
            );
        }
        problem.remedy(
            "start the server, or say where it is: --admin http://host:port, or --config FILE as it was started with",
        )
    }

    fn nonsense(&self, why: &str) -> Problem {
        Problem::error(format!("{}: {why}", self.base))
            .remedy("look whether the admin listener of Larder is what listens there")
    }

    fn refused(&self, status: u16, answer: &Value) -> Problem {
        let detail = answer["detail"].as_str().unwrap_or("it says no more");
        let problem = Problem::error(format!(
            "{}: {} ({status}): {}",
            self.base,
            super::member(answer, "code"),
            super::plain(detail)
        ));
        match (status, &self.token) {
            (401, None) => problem.remedy("put the token into LARDER_ADMIN_TOKEN, or name its file with --token-file"),
            (401, Some(_)) => problem.remedy("the token in force is another: that of [admin] token or token_file when the server was started or reloaded last; a file that was replaced since counts after SIGHUP"),
            _ => problem,
        }
    }
}

/// Whether a handshake has failed: whatever carries bytes wraps that, and what carries it wraps it again.
fn is_of_tls(mut why: &(dyn std::error::Error + 'static)) -> bool {
    while let Some(inner) = why
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
    {
        why = inner;
    }
    why.is::<rustls::Error>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        for (listen, wanted) in [
            ("0.0.0.0:81", "127.0.0.1:81"),
            ("[::]:81", "[::1]:81"),
            ("10.0.0.7:81", "10.0.0.7:81"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), wanted);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_one_that_is() {
        assert_eq!(base("http://a:1/").unwrap(), "http://a:1");
        assert_eq!(base("https://a").unwrap(), "https://a");
        for bad in ["127.0.0.1:8081", "ftp://a", "http://", "a b"] {
            let problem = base(bad).unwrap_err().to_string();
            assert!(problem.contains("write http://host:port"), "{problem}");
        }
    }
}
