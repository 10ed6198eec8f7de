//! What the sockets of a plugin may do: be connected to what `[grants] tcp` names, and nothing else. WASI 0.2 and 0.3 ask
//! the same questions.
//!
//! **From the grant to the connection**, in order. (1) The guest looks a name up; only the names of granted endpoints get
//! as far as a resolver, so nothing can be told to the world in the names that are asked for. (2) What the look-up finds is
//! checked, what passes is remembered as an address of that name, and given to the guest. (3) The guest connects to an
//! address: one that is granted as a literal with that port, or one that step 2 remembered for a name that is granted with
//! that port. No name is looked up in step 3, so none can have turned around since step 2.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

use super::Egress;
use super::grants::Host;
use super::resolve::ResolveError;

/// Why a guest gets no address for a name. What was denied is in [`Egress::denials`] by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAddress {
    /// The name, or every address it has, is not granted.
    Denied,
    /// It cannot be a name.
    Invalid,
    /// It has no address, or the resolver does not answer.
    Unknown,
}

impl Egress {
    /// The addresses of a name for the sockets of a guest. A literal address, however it is written, is its own.
    pub(crate) async fn look_up(self: Arc<Self>, name: String) -> Result<Vec<IpAddr>, NoAddress> {
        let host = Host::parse(&name).map_err(|_| NoAddress::Invalid)?;
        let name = match &host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) | Host::Below(name) => name.clone(),
        };
        let resolver = match &self.resolver {
            Some(resolver) if self.reach.connects_somewhere(&host) => resolver.clone(),
            _ => {
                self.deny(format!(
                    "sockets may not look up {name}: {}, with the port it connects to",
                    self.line("tcp", &self.grants.tcp, &format!("{name}:PORT"))
                ));
                return Err(NoAddress::Denied);
            }
        };
        match resolver.resolve(name.clone()).await {
            Ok(addresses) => {
                self.known.lock().learn(&name, &addresses, Instant::now());
                Ok(addresses)
            }
            Err(ResolveError::Refused(refused)) => {
                self.deny_address(&refused);
                Err(NoAddress::Denied)
            }
            Err(ResolveError::NotGranted(_)) => Err(NoAddress::Denied),
            Err(ResolveError::Lookup(error)) => {
                tracing::debug!(plugin = self.plugin, "looking up {name}: {error}");
                Err(NoAddress::Unknown)
            }
        }
    }

    /// The room for the sockets of one instance.
    pub(crate) fn socket_room(&self) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(self.sockets_max))
    }

    /// What WASI needs to make one socket that holds its `place` for as long as it is there.
    pub(crate) fn socket(self: &Arc<Self>, place: Arc<OwnedSemaphorePermit>) -> WasiCtx {
        let egress = Arc::clone(self);
        WasiCtxBuilder::new()
            .allow_tcp(true)
            .socket_addr_check(move |address, purpose| {
                let _place = &place;
                let may = egress.may(address, purpose);
                Box::pin(std::future::ready(may))
            })
            .build()
    }

    /// An instance wants more sockets than it may have.
    pub(crate) fn no_room_for_socket(&self) {
        let max = self.sockets_max;
        self.deny(format!(
            "one instance has at most {max} sockets open: in {}.toml under [limits] write `fetches = {}`",
            self.plugin,
            max.saturating_mul(2)
        ));
    }

    /// UDP is not there, whatever for.
    pub(crate) fn deny_udp(&self) {
        self.deny(
            "UDP is not granted and cannot be: reach the source by `http` or `tcp` of [grants]"
                .to_owned(),
        );
    }

    /// Whether a socket may be used so.
    fn may(&self, address: SocketAddr, purpose: SocketAddrUse) -> bool {
        match purpose {
            SocketAddrUse::TcpConnect => self.may_connect(address),
            // Connecting binds to whatever the system gives; nobody can be reached, or be reached by, for that alone.
            SocketAddrUse::TcpBind if address.ip().is_unspecified() && address.port() == 0 => true,
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => {
                self.deny(format!(
                    "listening on {address} is not granted and cannot be: a plugin is called by Larder alone; connect to the source instead, by `tcp` of [grants]"
                ));
                false
            }
            SocketAddrUse::UdpBind | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
                self.deny_udp();
                false
            }
        }
    }

    fn may_connect(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        if self.reach.connects(&Host::Address(ip), port) {
            return true;
        }
        let names = self.known.lock().names(ip, Instant::now());
        let connects = |name: &String| self.reach.connects(&Host::Name(name.clone()), port);
        if names.iter().any(connects) && self.reach.admits(ip).is_ok() {
            return true;
        }
        // An address that a look-up gave is known to the operator by its name.
        let host = match names.into_iter().next() {
            Some(name) => Host::Name(name),
            None => Host::Address(ip),
        };
        self.deny(format!(
            "a connection to {host}:{port} is not granted: {}",
            self.line("tcp", &self.grants.tcp, &format!("{host}:{port}"))
        ));
        false
    }
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
