//! A connection of our own to a server, reached and logged in to as the redis crate does it for its own: for [`lane`], which
//! speaks on it without that crate. Knows no commands but those of logging in.
//!
//! [`lane`]: super::lane

use std::io;
use std::sync::Arc;

use futures_util::future::select_ok;
use redis::{ConnectionAddr, ConnectionInfo, RedisConnectionInfo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::resp::{Garbage, Tokens, Whole, begin, push};
use super::topology::Tls;
use super::trouble::Trouble;

/// The bytes of a connection, to and fro.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects and logs in. For as long as it takes: who calls it has a limit.
pub(super) async fn dial(info: &ConnectionInfo, tls: &Tls) -> Result<Box<dyn Stream>, Trouble> {
    let lost = |error: io::Error| Trouble::Lost(error.to_string());
    let mut stream: Box<dyn Stream> = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Box::new(reach(host, *port).await.map_err(lost)?),
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            ..
        } => {
            let config = client_config(tls).map_err(lost)?;
            let name = ServerName::try_from(host.as_str()).map_err(io::Error::other);
            let name = name.map_err(lost)?.to_owned();
            let stream = reach(host, *port).await.map_err(lost)?;
            let secured = TlsConnector::from(Arc::new(config)).connect(name, stream);
            Box::new(secured.await.map_err(lost)?)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(lost)?),
        ConnectionAddr::TcpTls { .. } => {
            let why = "TLS without a look at the certificate (`#insecure`) is not spoken; name the authority in [redis] ca";
            return Err(Trouble::Lost(why.into()));
        }
        _ => return Err(Trouble::Lost("there is no way to such an address".into())),
    };
    log_in(&mut stream, info.redis_settings()).await?;
    Ok(stream)
}

/// Whichever address of the host answers first.
async fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = tokio::net::lookup_host((host, port)).await?;
    let attempts: Vec<_> = addresses
        .map(|address| Box::pin(TcpStream::connect(address)))
        .collect();
    if attempts.is_empty() {
        return Err(io::Error::other(format!("no address is known of {host}")));
    }
    let (stream, _) = select_ok(attempts).await?;
    // What is sent is whole, and waited for.
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn client_config(tls: &Tls) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(ca) => {
            for root in certificates(ca)? {
                roots.add(root).map_err(io::Error::other)?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if let (0, Some(error)) = (added, found.errors.into_iter().next()) {
                return Err(io::Error::other(error));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    match &tls.identity {
        None => Ok(config.with_no_client_auth()),
        Some((chain, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(io::Error::other)?;
            config
                .with_client_auth_cert(certificates(chain)?, key)
                .map_err(io::Error::other)
        }
    }
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)
}

/// Says who we are and which database is meant, where the server's own defaults will not do, and hears an answer: a server
/// may take a connection only to say that it has too many.
async fn log_in(stream: &mut Box<dyn Stream>, login: &RedisConnectionInfo) -> Result<(), Trouble> {
    let (mut commands, mut count) = (Vec::new(), 0);
    let mut command = |words: &[&str]| {
        begin(&mut commands, words.len());
        for word in words {
            push(&mut commands, &[word]);
        }
        count += 1;
    };
    if let Some(password) = login.password() {
        let user = login.username().unwrap_or("default");
        command(&["HELLO", "2", "AUTH", user, password]);
    }
    if login.db() != 0 {
        command(&["SELECT", &login.db().to_string()]);
    }
    // Not `PING`: a server whose disk fails refuses that, and answers look-ups.
    command(&["TIME"]);
    let lost = |error: io::Error| Trouble::Lost(error.to_string());
    stream.write_all(&commands).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let garbage = |garbage: Garbage| Trouble::Lost(garbage.to_string());
    let (mut tokens, mut whole) = (Tokens::default(), Whole::default());
    while count > 0 {
        if stream.read_buf(tokens.room()).await.map_err(lost)? == 0 {
            return Err(Trouble::Lost("the connection was closed".into()));
        }
        while let Some(token) = tokens.next().map_err(garbage)? {
            if let Some(answer) = whole.add(token).map_err(garbage)? {
                answer?;
                count -= 1;
            }
        }
    }
    Ok(())
}
