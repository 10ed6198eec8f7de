//! The certificates of both listeners: which files the configuration names, opened to be served, or judged. Must not know how
//! they are served.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Problem};
use crate::http::tls::{Files, Tls, ends_soon};

/// What each listener proves itself with; none where it speaks no TLS.
pub(super) struct Certificates {
    pub public: Option<Arc<Tls>>,
    pub admin: Option<Arc<Tls>>,
}

impl Certificates {
    /// Opens what the configuration names. Fails on what cannot be served.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let open = |files: Option<Files>| files.map(Tls::open).transpose();
        let (public, admin) = files(config);
        Ok(Self {
            public: open(public).map_err(anyhow::Error::msg)?,
            admin: open(admin).map_err(anyhow::Error::msg)?,
        })
    }

    /// Those there are, with the listener's name.
    pub(super) fn listed(&self) -> Vec<(&'static str, Arc<Tls>)> {
        let named = [("public", &self.public), ("admin", &self.admin)];
        named
            .into_iter()
            .filter_map(|(name, tls)| Some((name, Arc::clone(tls.as_ref()?))))
            .collect()
    }
}

/// What is to be said of the files that the configuration names.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let (public, admin) = files(config);
    let judged = |files: Files| match files.judge() {
        Err(why) => Some(
            Problem::error(why)
                .remedy("name PEM files of a certificate and of its own private key"),
        ),
        Ok(not_after) => ends_soon(not_after).map(|what| {
            let message = format!("cert of {}: {}: {what}", files.table, files.cert.display());
            Problem::warning(message)
                .remedy("renew it: a changed file is read while the server runs")
        }),
    };
    [public, admin]
        .into_iter()
        .flatten()
        .filter_map(judged)
        .collect()
}

fn files(config: &Config) -> (Option<Files>, Option<Files>) {
    let files = |table, identity: &Option<(PathBuf, PathBuf)>, client_ca: Option<&PathBuf>| {
        identity.clone().map(|(cert, key)| Files {
            table,
            cert,
            key,
            client_ca: client_ca.cloned(),
        })
    };
    (
        files("[server]", &config.server.identity, None),
        files(
            "[admin]",
            &config.admin.identity,
            config.admin.client_ca.as_ref(),
        ),
    )
}
