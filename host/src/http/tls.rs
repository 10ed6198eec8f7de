//! What a listener proves itself with: a certificate and its key, and whom it asks the same of. Read from files, again when
//! they change. Must not know what is served, nor who configured it.
//!
//! # A certificate is renewed
//! t=0 the new `cert` is put in place; t≤[`EVERY`] the pair is read: the key is not the certificate's yet, so the old pair
//! stays, a warning says so and `tls_reload_failures` counts it; then the new `key` is put in place; t≤[`EVERY`] after that
//! the pair is read again and serves the next handshake. Connections that are open keep what they began with. The state of the
//! files is noted *before* they are read, so that a change while they are read is seen the next time.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// A certificate that ends sooner is warned of.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Device, inode, time of change with its nanoseconds, and size of a file that is there.
type State = Option<(u64, u64, i64, i64, u64)>;

/// Where the certificates of a listener are: PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The table they are named in, as messages say it.
    pub table: &'static str,
    /// The certificate, with those between it and a root after it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who must have signed the certificates of clients; none: clients need none.
    pub client_ca: Option<PathBuf>,
}

/// A pair that can be served.
#[derive(Debug)]
struct Identity {
    config: Arc<ServerConfig>,
    /// When the certificate ends, in seconds of Unix time.
    not_after: u64,
}

/// What a listener proves itself with now.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    now: ArcSwap<Identity>,
    failures: AtomicU64,
}

impl Files {
    /// When the certificate ends, if the files can be served.
    ///
    /// # Errors
    /// Which file is at fault, and why.
    pub fn judge(&self) -> Result<u64, String> {
        self.read().map(|identity| identity.not_after)
    }

    fn read(&self) -> Result<Identity, String> {
        let named = |setting: &str, path: &Path, why: &dyn std::fmt::Display| {
            format!("{setting} of {}: {}: {why}", self.table, path.display())
        };
        let bytes = |setting: &str, path: &Path| {
            std::fs::read(path)
                .map_err(|error| named(setting, path, &format!("it cannot be read: {error}")))
        };
        let certificates = |setting: &str, path: &Path| {
            let all = CertificateDer::pem_slice_iter(&bytes(setting, path)?)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| named(setting, path, &format!("it is not PEM: {error}")))?;
            if all.is_empty() {
                return Err(named(setting, path, &"it holds no certificate"));
            }
            Ok(all)
        };
        let chain = certificates("cert", &self.cert)?;
        let not_after = not_after(&chain[0])
            .ok_or_else(|| named("cert", &self.cert, &"its first certificate cannot be read"))?;
        let key = PrivateKeyDer::from_pem_slice(&bytes("key", &self.key)?).map_err(|error| {
            named(
                "key",
                &self.key,
                &format!("it holds no private key: {error}"),
            )
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let refused = |error: &dyn std::fmt::Display| named("client_ca", path, error);
                let mut roots = RootCertStore::empty();
                for root in certificates("client_ca", path)? {
                    roots.add(root).map_err(|error| refused(&error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| refused(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    named("key", &self.key, &"it is not the key of cert")
                }
                other => named("cert", &self.cert, &other),
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // The tickets of another configuration are not taken: who was let in by a CA that is no longer named is asked anew.
        config.ticketer =
            rustls::crypto::ring::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Identity {
            config: Arc::new(config),
            not_after,
        })
    }

    /// What tells a changed file from the same one, following links: a rename, a write, another mount.
    fn state(&self) -> Vec<State> {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let of = |at: Metadata| (at.dev(), at.ino(), at.mtime(), at.mtime_nsec(), at.size());
        paths
            .into_iter()
            .flatten()
            .map(|path| std::fs::metadata(path).ok().map(of))
            .collect()
    }
}

impl Files {
    fn warn(&self, not_after: u64) {
        if let Some(what) = ends_soon(not_after) {
            warn!("cert of {}: {}: {what}", self.table, self.cert.display());
        }
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<u64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    u64::try_from(parsed.validity().not_after.timestamp()).ok()
}

/// Whom a certificate is for: the common name of its subject, or an empty one where it has none.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next();
    Some(
        name.and_then(|it| it.as_str().ok())
            .unwrap_or_default()
            .into(),
    )
}

/// What is to be said of when a certificate ends, `at` in seconds of Unix time: nothing, if that is far off.
pub fn ends_soon(at: u64) -> Option<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let when = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at));
    if at <= now {
        return Some(format!(
            "the certificate has ended at {when}; clients refuse it"
        ));
    }
    (at - now < SOON.as_secs()).then(|| format!("the certificate ends soon, at {when}"))
}

impl Tls {
    /// Reads the files, and looks for changes of them as long as it is held. Needs a runtime.
    ///
    /// # Errors
    /// Which file is at fault, and why.
    pub fn open(files: Files) -> Result<Arc<Self>, String> {
        let state = files.state();
        let identity = files.read()?;
        files.warn(identity.not_after);
        let tls = Arc::new(Self {
            files,
            now: ArcSwap::from_pointee(identity),
            failures: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&tls);
        tokio::spawn(async move {
            let mut state = state;
            let mut every = tokio::time::interval(EVERY);
            loop {
                every.tick().await;
                let Some(tls) = weak.upgrade() else { return };
                let seen = state;
                let looked = tokio::task::spawn_blocking(move || tls.look(seen));
                let Ok(seen) = looked.await else { return };
                state = seen;
            }
        });
        Ok(tls)
    }

    /// Reads the files again if they are not as they were; gives how they are.
    fn look(&self, was: Vec<State>) -> Vec<State> {
        let is = self.files.state();
        if is != was {
            self.reload();
        }
        is
    }

    fn reload(&self) {
        match self.files.read() {
            Ok(identity) => {
                info!(table = self.files.table, "the certificate was read again");
                self.files.warn(identity.not_after);
                self.now.store(Arc::new(identity));
            }
            Err(why) => {
                self.failures.fetch_add(1, Relaxed);
                warn!("{why}; the certificate that was there before is served on");
            }
        }
    }

    /// Who makes the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.now.load().config))
    }

    /// When the certificate that is served ends, in seconds of Unix time.
    pub fn not_after(&self) -> u64 {
        self.now.load().not_after
    }

    /// How often changed files could not be served.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}
