//! Where `wasi:sockets` 0.2 and 0.3 meet the egress: looking names up, and making sockets. What a socket does once it is
//! there is WASI's own; what it may be connected to is asked of the egress by the check that is made with it.
//!
//! wasmtime's own look-up goes straight to the system's resolver, for any name; so these functions stand over it. In WASI
//! 0.3 a stream outlives its socket, and the connection with it; so a place among the sockets of an instance is held by the
//! streams too. Decides nothing: the egress does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{
    Access, Accessor, FutureConsumer, FutureReader, Linker, Resource, ResourceType, Source,
    StreamReader,
};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode as Code2, IpAddress as Address2, IpAddressFamily as Family2, Network,
};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host as _;
use wasmtime_wasi::p2::{DynPollable, Pollable, TcpSocket as Tcp2, UdpSocket as Udp2, subscribe};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as LookUp3;
use wasmtime_wasi::p3::bindings::sockets::types::{
    ErrorCode as Code3, HostTcpSocket as _, HostTcpSocketWithStore, IpAddress as Address3,
    IpAddressFamily as Family3,
};
use wasmtime_wasi::sockets::{
    TcpSocket, UdpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView as _,
};

use super::Egress;
use super::egress::NoAddress;
use super::state::State;

/// Look-ups by WASI 0.2 that one instance may have begun at once (law 12). By 0.3, each is a call of the guest's own, which
/// costs it memory.
pub(super) const LOOKUPS_MAX: usize = 64;

/// The versions that wasmtime's own linker speaks.
const NAMES_2: &str = "wasi:sockets/ip-name-lookup@0.2.12";
const MAKE_TCP_2: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const MAKE_UDP_2: &str = "wasi:sockets/udp-create-socket@0.2.12";
const NAMES_3: &str = "wasi:sockets/ip-name-lookup@0.3.0";
const SOCKETS_3: &str = "wasi:sockets/types@0.3.0";

/// Puts the egress before the sockets of a linker that has WASI already.
pub(super) fn guard(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    names_2(linker)?;
    names_3(linker)?;
    streams_3(linker)?;
    linker.instance(MAKE_TCP_2)?.func_wrap(
        "create-tcp-socket",
        |mut store: StoreContextMut<'_, State>, (family,): (Family2,)| {
            Ok((make_tcp_2(store.data_mut(), family)?,))
        },
    )?;
    linker.instance(SOCKETS_3)?.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, State>, (family,): (Family3,)| {
            Ok((make_tcp_3(store.data_mut(), family)?,))
        },
    )?;
    linker.instance(MAKE_UDP_2)?.func_wrap(
        "create-udp-socket",
        |store: StoreContextMut<'_, State>, (_,): (Family2,)| {
            deny_udp(store.data());
            Ok((Err::<Resource<Udp2>, _>(Code2::AccessDenied),))
        },
    )?;
    linker.instance(SOCKETS_3)?.func_wrap(
        "[static]udp-socket.create",
        |store: StoreContextMut<'_, State>, (_,): (Family3,)| {
            deny_udp(store.data());
            Ok((Err::<Resource<UdpSocket>, _>(Code3::AccessDenied),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

fn deny_udp(state: &State) {
    if let Some(egress) = state.egress() {
        egress.deny_udp();
    }
}

/// Why no socket was made.
enum NoSocket {
    Denied,
    TooMany,
}

/// A place among the sockets of an instance, free again when nobody holds it.
type Place = Arc<OwnedSemaphorePermit>;

/// The places of an instance's sockets of WASI 0.3, by the number of the resource.
pub(super) type Places = HashMap<u32, Place>;

/// Makes a socket with `make`, if the instance has room for one more.
fn make<T>(
    state: &mut State,
    make: impl FnOnce(WasiSocketsCtxView<'_>) -> T,
) -> Result<(T, Place), NoSocket> {
    let egress = Arc::clone(state.egress().ok_or(NoSocket::Denied)?);
    let place = Arc::clone(&state.socket_places)
        .try_acquire_owned()
        .map_err(|_| {
            egress.no_room_for_socket();
            NoSocket::TooMany
        })?;
    // WASI keeps the check of its context with the socket: a context of its own gives each a check that holds its place.
    let place = Arc::new(place);
    let mut wasi = egress.socket(Arc::clone(&place));
    let made = make(WasiSocketsCtxView {
        ctx: wasi.sockets(),
        table: state.ctx().table,
    });
    Ok((made, place))
}

fn make_tcp_2(
    state: &mut State,
    family: Family2,
) -> wasmtime::Result<Result<Resource<Tcp2>, Code2>> {
    match make(state, |mut view| view.create_tcp_socket(family)) {
        Ok((Ok(socket), _)) => Ok(Ok(socket)),
        Ok((Err(error), _)) => error.downcast().map(Err),
        Err(NoSocket::Denied) => Ok(Err(Code2::AccessDenied)),
        Err(NoSocket::TooMany) => Ok(Err(Code2::NewSocketLimit)),
    }
}

fn make_tcp_3(
    state: &mut State,
    family: Family3,
) -> wasmtime::Result<Result<Resource<TcpSocket>, Code3>> {
    match make(state, |mut view| view.create(family)) {
        Ok((Ok(socket), place)) => {
            state.places.insert(socket.rep(), place);
            Ok(Ok(socket))
        }
        Ok((Err(error), _)) => error.downcast().map(Err),
        Err(NoSocket::Denied) => Ok(Err(Code3::AccessDenied)),
        Err(NoSocket::TooMany) => Ok(Err(Code3::Other(Some("too many sockets".to_owned())))),
    }
}

/// How one direction of a connection ended.
type End = Result<(), Code3>;

/// The sockets of WASI 0.3 and their streams, as they are, holding their places.
fn streams_3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut sockets = linker.instance(SOCKETS_3)?;
    sockets.resource(
        "tcp-socket",
        ResourceType::host::<TcpSocket>(),
        |mut store, rep| {
            let state = store.data_mut();
            state.places.remove(&rep);
            state
                .ctx()
                .table
                .delete(Resource::<TcpSocket>::new_own(rep))?;
            Ok(())
        },
    )?;
    sockets.func_wrap(
        "[method]tcp-socket.receive",
        |mut store: StoreContextMut<'_, State>, (socket,): (Resource<TcpSocket>,)| {
            let place = store.data().places.get(&socket.rep()).cloned();
            let access = Access::<State, WasiSockets>::new(store.as_context_mut(), State::sockets);
            let (stream, end): (StreamReader<u8>, _) =
                <WasiSockets as HostTcpSocketWithStore<State>>::receive(access, socket)?;
            let end = hold(&mut store, end, place)?;
            Ok(((stream, end),))
        },
    )?;
    sockets.func_wrap(
        "[method]tcp-socket.send",
        |mut store: StoreContextMut<'_, State>,
         (socket, data): (Resource<TcpSocket>, StreamReader<u8>)| {
            let place = store.data().places.get(&socket.rep()).cloned();
            let access = Access::<State, WasiSockets>::new(store.as_context_mut(), State::sockets);
            let end = <WasiSockets as HostTcpSocketWithStore<State>>::send(access, socket, data)?;
            Ok((hold(&mut store, end, place)?,))
        },
    )
}

/// The end of a stream, passed on; until then a place is held.
fn hold(
    store: &mut StoreContextMut<'_, State>,
    end: FutureReader<End>,
    place: Option<Place>,
) -> wasmtime::Result<FutureReader<End>> {
    let (tell, told) = oneshot::channel();
    end.pipe(&mut *store, Held(Some((tell, place))))?;
    FutureReader::new(&mut *store, told)
}

struct Held(Option<(oneshot::Sender<End>, Option<Place>)>);

impl FutureConsumer<State> for Held {
    type Item = End;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'_, State>,
        mut source: Source<'_, End>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut end = None;
        source.read(store, &mut end)?;
        if let (Some(end), Some((tell, _place))) = (end, self.0.take()) {
            // The guest may not care how it ended.
            let _ = tell.send(end);
        }
        Poll::Ready(Ok(()))
    }
}

/// A look-up that a guest of WASI 0.2 began: it polls, and takes one address after another.
struct Stream {
    found: Found,
    /// Held until the guest drops the stream.
    _place: OwnedSemaphorePermit,
}

enum Found {
    /// Dropping the stream ends the waiting.
    Pending(AbortOnDropHandle<Result<Vec<IpAddr>, NoAddress>>),
    Ready(Result<std::vec::IntoIter<IpAddr>, NoAddress>),
}

impl Found {
    async fn settle(&mut self) {
        if let Self::Pending(task) = self {
            let found = task.await.unwrap_or(Err(NoAddress::Unknown));
            *self = Self::Ready(found.map(Vec::into_iter));
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        self.found.settle().await;
    }
}

fn names_2(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut names = linker.instance(NAMES_2)?;
    names.resource(
        "resolve-address-stream",
        ResourceType::host::<Stream>(),
        |mut store, rep| {
            let stream = Resource::<Stream>::new_own(rep);
            store.data_mut().ctx().table.delete(stream)?;
            Ok(())
        },
    )?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, State>, (network, name): (Resource<Network>, String)| {
            Ok((begin(store.data_mut(), &network, name)?,))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, State>, (stream,): (Resource<Stream>,)| {
            let stream = store.data_mut().ctx().table.get_mut(&stream)?;
            // A poll that nobody is woken by: the guest waits on the pollable.
            let _ = futures_util::FutureExt::now_or_never(stream.found.settle());
            let next = match &mut stream.found {
                Found::Pending(_) => Err(Code2::WouldBlock),
                Found::Ready(Ok(addresses)) => Ok(addresses.next().map(Address2::from)),
                Found::Ready(Err(error)) => Err(code_2(*error)),
            };
            Ok((next,))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, State>, (stream,): (Resource<Stream>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().ctx().table, stream)?;
            Ok((pollable,))
        },
    )
}

fn begin(
    state: &mut State,
    network: &Resource<Network>,
    name: String,
) -> wasmtime::Result<Result<Resource<Stream>, Code2>> {
    state.ctx().table.get(network)?;
    let Some(egress) = state.egress().map(Arc::clone) else {
        return Ok(Err(Code2::AccessDenied));
    };
    let Ok(place) = Arc::clone(&state.lookups).try_acquire_owned() else {
        return Ok(Err(Code2::TemporaryResolverFailure));
    };
    let mut look_up = Box::pin(egress.look_up(name));
    // What is denied is denied now, not after a poll.
    let found = match futures_util::FutureExt::now_or_never(look_up.as_mut()) {
        Some(Err(error)) => return Ok(Err(code_2(error))),
        Some(Ok(addresses)) => Found::Ready(Ok(addresses.into_iter())),
        None => Found::Pending(AbortOnDropHandle::new(tokio::spawn(look_up))),
    };
    let stream = Stream {
        found,
        _place: place,
    };
    Ok(Ok(state.ctx().table.push(stream)?))
}

fn names_3(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(NAMES_3)?.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<State>, (name,): (String,)| {
            Box::pin(async move {
                let egress = accessor.with(|mut access| access.get().egress().map(Arc::clone));
                let found = match egress {
                    Some(egress) => egress.look_up(name).await,
                    None => Err(NoAddress::Denied),
                };
                let found = found.map_err(code_3).map(|addresses| {
                    addresses
                        .into_iter()
                        .map(Address3::from)
                        .collect::<Vec<_>>()
                });
                Ok((found,))
            })
        },
    )
}

fn code_2(why: NoAddress) -> Code2 {
    match why {
        NoAddress::Denied => Code2::AccessDenied,
        NoAddress::Invalid => Code2::InvalidArgument,
        NoAddress::Unknown => Code2::NameUnresolvable,
    }
}

fn code_3(why: NoAddress) -> LookUp3 {
    match why {
        NoAddress::Denied => LookUp3::AccessDenied,
        NoAddress::Invalid => LookUp3::InvalidArgument,
        NoAddress::Unknown => LookUp3::NameUnresolvable,
    }
}

/// The places for look-ups of one instance.
pub(super) fn lookup_room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOOKUPS_MAX))
}

/// The places for sockets of one instance.
pub(super) fn socket_room(egress: Option<&Arc<Egress>>) -> Arc<Semaphore> {
    egress.map_or_else(
        || Arc::new(Semaphore::new(0)),
        |egress| egress.socket_room(),
    )
}
