//! TLS: what is spoken after it, what happens when certificates change, and who is let in to the admin listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use larder_tests::larder::{Home, Log};
use larder_tests::{Authority, Larder, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Case, ensure};

const SERVER: &str = "cert = \"cert.pem\"\nkey = \"key.pem\"\nhandshake_timeout = \"500ms\"";

pub(super) fn cases() -> Vec<Case<'static>> {
    vec![
        (
            "TLS: both protocols, and nothing without it".into(),
            Box::pin(protocols()),
        ),
        (
            "TLS: a changed certificate is served, and a bad pair is not".into(),
            Box::pin(reload()),
        ),
        (
            "TLS: the admin listener asks for a certificate".into(),
            Box::pin(client_certificates()),
        ),
        (
            "TLS: files at fault are named, at the start and by check".into(),
            Box::pin(judged()),
        ),
    ]
}

fn write(home: &Home, (cert, key): &(String, String)) {
    std::fs::write(home.path("cert.pem"), cert).expect("a file");
    std::fs::write(home.path("key.pem"), key).expect("a file");
}

/// A client that trusts this authority, speaks these protocols, and shows this certificate.
async fn connect(
    address: SocketAddr,
    authority: &Authority,
    protocol: &str,
    shown: Option<&(String, String)>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes())?)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}

/// The answer to a GET of this path, over TLS and HTTP/1.1.
async fn get(stream: &mut TlsStream<TcpStream>, path: &str) -> anyhow::Result<String> {
    let ask = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut told = String::new();
    stream.read_to_string(&mut told).await?;
    Ok(told)
}

async fn serve(authority: &Authority) -> (Larder, (String, String)) {
    let home = Larder::with()
        .guest("echo", "")
        .route("/echo/{key}", "echo", "")
        .server(SERVER)
        .write();
    let pair = authority.sign(0);
    write(&home, &pair);
    (Larder::start(home).await, pair)
}

async fn protocols() -> Result<(), String> {
    let authority = Authority::new();
    let (larder, _) = serve(&authority).await;
    let address = larder.public.address();
    let shown = |error: anyhow::Error| format!("{error:#}");
    let mut one = connect(address, &authority, "http/1.1", None)
        .await
        .map_err(shown)?;
    let told = get(&mut one, "/echo/a").await.map_err(shown)?;
    ensure(told.starts_with("HTTP/1.1 200"), || told)?;
    let two = connect(address, &authority, "h2", None)
        .await
        .map_err(shown)?;
    ensure(two.get_ref().1.alpn_protocol() == Some(b"h2"), || {
        "no h2".into()
    })?;
    let io = hyper_util::rt::TokioIo::new(two);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let asked = http::Request::get("https://localhost/echo/a")
        .body(String::new())
        .expect("a request");
    let answer = client
        .send_request(asked)
        .await
        .map_err(|error| error.to_string())?;
    ensure(
        answer.status() == 200 && answer.version() == http::Version::HTTP_2,
        || format!("{answer:?}"),
    )?;
    // Without TLS nothing is answered, and who says nothing is cut off.
    let plain = larder
        .public
        .raw("GET /echo/a HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    ensure(!plain.contains("HTTP/"), || plain)?;
    let mut silent = larder.public.connect().await;
    let silence = tokio::time::timeout(Duration::from_secs(10), silent.rest()).await;
    ensure(silence.is_ok_and(|said| said.is_empty()), || {
        "it is still open".into()
    })?;
    let failed = larder
        .metrics()
        .await
        .sum("larder_tls_handshakes_failed_total");
    ensure(failed >= 2.0, || format!("{failed} handshakes failed"))
}

/// The certificate that the server shows.
async fn served(larder: &Larder, authority: &Authority) -> Option<Vec<u8>> {
    let stream = connect(larder.public.address(), authority, "http/1.1", None)
        .await
        .ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

async fn reload() -> Result<(), String> {
    let authority = Authority::new();
    let (larder, _) = serve(&authority).await;
    let first = served(&larder, &authority).await.ok_or("no handshake")?;
    let ends = larder
        .metrics()
        .await
        .sum("larder_tls_certificate_not_after_seconds");
    ensure(ends > 4e9, || format!("it ends at {ends}"))?;
    let second = authority.sign(1);
    // The new certificate without its key: the old pair is served on, and that is counted.
    std::fs::write(larder.path("cert.pem"), &second.0).expect("a file");
    eventually("a bad pair is counted", async || {
        let failures = larder
            .metrics()
            .await
            .sum("larder_tls_reload_failures_total");
        (failures >= 1.0).then_some(())
    })
    .await;
    ensure(
        served(&larder, &authority).await.as_ref() == Some(&first),
        || "it is not the first".into(),
    )?;
    larder.until_logged("it is not the key of cert").await;
    std::fs::write(larder.path("key.pem"), &second.1).expect("a file");
    eventually("the new pair is served", async || {
        (served(&larder, &authority).await? != first).then_some(())
    })
    .await;
    let later = larder
        .metrics()
        .await
        .sum("larder_tls_certificate_not_after_seconds");
    ensure(later > ends, || {
        format!("it ended at {ends} and ends at {later}")
    })
}

async fn client_certificates() -> Result<(), String> {
    let (authority, other) = (Authority::new(), Authority::new());
    let home = Larder::with()
        .admin("cert = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"clients.pem\"")
        .write();
    write(&home, &authority.sign(0));
    std::fs::write(home.path("clients.pem"), &authority.pem).expect("a file");
    let log = Log::default();
    let mut child = home
        .command(&["serve", "--config", "larder.toml"])
        .spawn()
        .expect("it starts");
    log.follow(child.stderr.take().expect("it is piped"));
    let address = eventually("the server says where it listens", async || {
        log.address(0, "listening on http://")?;
        log.address(0, "admin on https://")
    })
    .await;
    let ask = async |shown: Option<(String, String)>| {
        let mut stream = connect(address, &authority, "http/1.1", shown.as_ref()).await?;
        get(&mut stream, "/plugins").await
    };
    let told = ask(Some(authority.sign(0)))
        .await
        .map_err(|error| format!("{error:#}"))?;
    ensure(told.starts_with("HTTP/1.1 200"), || told)?;
    // Of a change it is written down who has made it.
    let shown = authority.sign(0);
    let mut stream = connect(address, &authority, "http/1.1", Some(&shown))
        .await
        .map_err(|error| format!("{error:#}"))?;
    let purge = "POST /purge HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 13\r\n\r\n{\"all\": true}";
    let sent = stream.write_all(purge.as_bytes()).await;
    sent.map_err(|error| error.to_string())?;
    let mut told = String::new();
    let read = stream.read_to_string(&mut told).await;
    ensure(read.is_ok() && told.starts_with("HTTP/1.1 200"), || told)?;
    eventually("the change is written down", async || {
        let who = "who=\"client certificate rcgen self signed cert\"";
        log.text().contains(who).then_some(())
    })
    .await;
    for refused in [None, Some(other.sign(0))] {
        let told = ask(refused).await;
        ensure(told.is_err(), || format!("{told:?}"))?;
    }
    Ok(())
}

async fn judged() -> Result<(), String> {
    let authority = Authority::new();
    let home = Larder::with()
        .guest("echo", "")
        .route("/echo/{key}", "echo", "")
        .server(SERVER)
        .write();
    let (pair, other) = (authority.sign(0), authority.sign(0));
    write(&home, &authority.sign(-90));
    let ran = home.run(&["check", "--config", "larder.toml"]).await;
    let is_warned = ran.status.success()
        && ran
            .all()
            .contains("the certificate has ended at 2010-01-01");
    ensure(is_warned, || ran.all())?;
    for (files, words) in [
        (pair.clone(), "no problems"),
        ((pair.0.clone(), other.1), "it is not the key of cert"),
        ((String::new(), pair.1.clone()), "it holds no certificate"),
        ((pair.0.clone(), pair.0.clone()), "it holds no private key"),
    ] {
        write(&home, &files);
        let ran = home.run(&["check", "--config", "larder.toml"]).await;
        ensure(ran.all().contains(words), || {
            format!("no {words:?} in {}", ran.all())
        })?;
        if words != "no problems" {
            let ran = home.run(&["serve", "--config", "larder.toml"]).await;
            ensure(!ran.status.success() && ran.all().contains(words), || {
                ran.all()
            })?;
        }
    }
    Ok(())
}
