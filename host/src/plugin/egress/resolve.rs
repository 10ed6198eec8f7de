//! Name → addresses a connection may be opened to. The one place where names are looked up, for requests and sockets.
//!
//! Looking up and checking are one step, and the connector below opens its connection to one of the very addresses that
//! passed. There is no second look-up in which a name could point elsewhere (DNS rebinding). Sockets are connected later,
//! by address: [`super::sockets`] remembers what passed.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tower_service::Service;

use super::grants::Reach;

/// Look-ups at once in the process: each occupies a thread, and cannot be called back (law 12).
const LOOKUPS_MAX: usize = 32;

/// The names of the world. A trait so that tests can turn a name around between two look-ups.
pub(crate) trait Lookup: Send + Sync {
    /// All addresses of a name.
    fn lookup(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The system's own resolver.
pub(crate) struct SystemLookup {
    slots: Arc<Semaphore>,
}

impl SystemLookup {
    pub(crate) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }
}

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let name = name.to_owned();
        let slots = Arc::clone(&self.slots);
        Box::pin(async move {
            let slot = slots.acquire_owned().await.map_err(io::Error::other)?;
            tokio::task::spawn_blocking(move || {
                // The slot is held by the thread, not by who waits for it: a caller that gives up does not free the thread.
                let _slot = slot;
                let addresses = (name.as_str(), 0).to_socket_addrs()?;
                Ok(addresses.map(|address| address.ip()).collect())
            })
            .await
            .map_err(io::Error::other)?
        })
    }
}

/// A granted name that resolves only into ranges that are not granted.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    pub(crate) kind: &'static str,
}

/// Why there is no address to connect to.
#[derive(Debug)]
pub(crate) enum ResolveError {
    /// The name is not granted. Requests and look-ups are checked before they get here, so this is the second lock on the
    /// door.
    NotGranted(String),
    /// Every address it has is refused.
    Refused(Refused),
    /// The look-up failed or found nothing.
    Lookup(io::Error),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGranted(name) => write!(f, "the name {name} is not granted"),
            Self::Refused(refused) => write!(
                f,
                "{} resolves to {}, which is {}",
                refused.name, refused.address, refused.kind
            ),
            Self::Lookup(error) => write!(f, "looking the name up: {error}"),
        }
    }
}

impl std::error::Error for ResolveError {}

/// A look-up that answers only what one [`Reach`] admits.
#[derive(Clone)]
pub(crate) struct Resolver {
    reach: Arc<Reach>,
    lookup: Arc<dyn Lookup>,
}

impl Resolver {
    pub(crate) fn new(reach: Arc<Reach>, lookup: Arc<dyn Lookup>) -> Self {
        Self { reach, lookup }
    }

    /// The addresses of `name` that a connection may be opened to: at least one.
    pub(crate) async fn resolve(self, name: String) -> Result<Vec<IpAddr>, ResolveError> {
        if !self.reach.resolves(&name) {
            return Err(ResolveError::NotGranted(name));
        }
        let found = self
            .lookup
            .lookup(&name)
            .await
            .map_err(ResolveError::Lookup)?;
        let mut refused = None;
        let mut admitted = Vec::with_capacity(found.len());
        for address in found {
            match self.reach.admits(address) {
                Ok(()) => admitted.push(address.to_canonical()),
                Err(kind) => {
                    refused.get_or_insert(Refused {
                        name: name.clone(),
                        address,
                        kind,
                    });
                }
            }
        }
        match refused {
            // A name may have several addresses; the ones outside the grant are left out, the others serve.
            _ if !admitted.is_empty() => Ok(admitted),
            Some(refused) => Err(ResolveError::Refused(refused)),
            None => Err(ResolveError::Lookup(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ))),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = ResolveError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolved = self.clone().resolve(name.as_str().to_owned());
        Box::pin(async move {
            // The connector fills in the port.
            let addresses = resolved.await?.into_iter();
            let with_port: Vec<_> = addresses.map(|it| SocketAddr::new(it, 0)).collect();
            Ok(with_port.into_iter())
        })
    }
}
