//! Whom a command believes that it is the server, and with what it proves itself: PEM files. Must not know what is asked.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use hyper_rustls::ConfigBuilderExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Problem;

/// What a listener with TLS is spoken to with.
#[derive(Debug, Default, Args)]
pub(super) struct Trust {
    /// Who must have signed the server's certificate, as PEM [default: whom the system trusts].
    #[arg(
        long,
        value_name = "FILE",
        env = "LARDER_ADMIN_CA",
        hide_env_values = true
    )]
    ca: Option<OsString>,
    /// The certificate to show, as PEM, where the listener asks for one.
    #[arg(
        long,
        value_name = "FILE",
        env = "LARDER_ADMIN_CLIENT_CERT",
        hide_env_values = true
    )]
    cert: Option<OsString>,
    /// The private key of --cert, as PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "LARDER_ADMIN_CLIENT_KEY",
        hide_env_values = true
    )]
    key: Option<OsString>,
}

impl Trust {
    /// What a connection is made with.
    ///
    /// # Errors
    /// Which file is at fault, and why.
    pub(super) fn client(&self) -> Result<ClientConfig, Problem> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::error(error.to_string()))?;
        let builder = match file(self.ca.as_ref()) {
            Some(ca) => builder.with_root_certificates(roots(ca)?),
            None => builder.with_native_roots().map_err(|error| {
                Problem::error(format!("this machine trusts nobody: {error}"))
                    .remedy("name who has signed the server's certificate with --ca FILE")
            })?,
        };
        let (cert, key) = match (file(self.cert.as_ref()), file(self.key.as_ref())) {
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => (cert, key),
            _ => {
                let problem = Problem::error("--cert and --key mean nothing without each other");
                return Err(problem.remedy("name both, or neither"));
            }
        };
        let chain = certificates("--cert", cert)?;
        let bytes = read("--key", key)?;
        let private = PrivateKeyDer::from_pem_slice(&bytes)
            .map_err(|error| fault("--key", key, &format!("it holds no private key: {error}")))?;
        builder
            .with_client_auth_cert(chain, private)
            .map_err(|error| fault("--cert", cert, &error.to_string()))
    }
}

/// An empty name is an empty variable: not set.
fn file(name: Option<&OsString>) -> Option<&Path> {
    name.filter(|name| !name.is_empty()).map(Path::new)
}

fn fault(flag: &str, path: &Path, why: &str) -> Problem {
    Problem::error(format!("{flag}: {why}"))
        .at(path, None)
        .remedy("name a PEM file")
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|error| fault(flag, path, &format!("it cannot be read: {error}")))
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let all = CertificateDer::pem_slice_iter(&read(flag, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fault(flag, path, &format!("it is not PEM: {error}")))?;
    if all.is_empty() {
        return Err(fault(flag, path, "it holds no certificate"));
    }
    Ok(all)
}

fn roots(path: &Path) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for root in certificates("--ca", path)? {
        roots
            .add(root)
            .map_err(|error| fault("--ca", path, &error.to_string()))?;
    }
    Ok(roots)
}
