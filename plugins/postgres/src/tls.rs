//! The connection encrypted: rustls on pure-Rust cryptography. Owns whose certificates are believed; must not know what is
//! said over the connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use larder_plugin_support::FailureKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::fault::Fault;
use crate::settings::Settings;

/// Encrypts connections to one server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    /// One for the server and the authorities of the settings.
    ///
    /// # Errors
    /// A fault that names the setting.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Fault> {
        let provider = Arc::new(rustls_rustcrypto::provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(format!("TLS cannot be set up: {error}")))?;
        let config = match &settings.ca {
            Some(ca) => builder.with_root_certificates(authorities(ca)?),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        }
        .with_no_client_auth();
        let name = settings.server_name.as_ref().unwrap_or(&settings.host);
        let name = ServerName::try_from(name.clone()).map_err(|_| {
            unfit(format!(
                "`{name}` is no name that a certificate could have; correct `host`, or add `server_name`"
            ))
        })?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            name,
        })
    }
}

/// The certificates of `ca`: PEM text, or a file of it.
fn authorities(ca: &str) -> Result<RootCertStore, Fault> {
    let is_text = ca.trim_start().starts_with("-----BEGIN");
    let pem = if is_text {
        ca.as_bytes().to_vec()
    } else {
        std::fs::read(ca).map_err(|error| {
            unfit(format!(
                "`ca` is `{ca}`, which cannot be read ({error}); grant its directory in `dirs` of [grants], or write the PEM text into `ca`"
            ))
        })?
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| {
            unfit(format!(
                "`ca` has a certificate that cannot be used: {error}"
            ))
        })?;
    }
    if roots.is_empty() {
        return Err(unfit(
            "`ca` has no certificate; it takes PEM, which begins with `-----BEGIN CERTIFICATE-----`".to_owned(),
        ));
    }
    Ok(roots)
}

fn unfit(message: String) -> Fault {
    Fault::new(
        FailureKind::Internal,
        "settings-unfit",
        format!("[config]: {message}"),
    )
}

impl<S> TlsConnect<S> for Connector
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.tls.connect(self.name, stream).await.map(Encrypted) })
    }
}

/// A connection that is encrypted.
pub(crate) struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    /// None: SCRAM without it proves the password to the server and the server to us; with whom the connection is
    /// encrypted is what the certificate says.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Believes any certificate: for `prefer` without a `ca`, which keeps listeners out and impostors not.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
