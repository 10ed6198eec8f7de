//! What the plugin needs of the world: a socket, tasks, time and a log, of WASI 0.3 and the host. Must not know what is sent.
//! `net_native.rs` is the same for the tests.

mod stream;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use larder_plugin_support::Param;
use larder_plugin_support::contract::log::{self, Level};
use wasip3::clocks::monotonic_clock;
use wasip3::sockets::ip_name_lookup::{self, ErrorCode as NameError};
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
    TcpSocket,
};

pub(crate) use stream::Stream;

/// Opens a connection to the first address of `host` that takes one.
///
/// # Errors
/// The error of the last address; `PermissionDenied` where a grant is missing.
pub(crate) async fn connect(host: &str, port: u16) -> io::Result<Stream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
    for address in addresses(host).await? {
        match connect_to(address, port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn addresses(host: &str) -> io::Result<Vec<IpAddress>> {
    if let Ok(literal) = host.parse::<IpAddr>() {
        return Ok(vec![match literal {
            IpAddr::V4(address) => IpAddress::Ipv4(octets(address)),
            IpAddr::V6(address) => IpAddress::Ipv6(segments(address)),
        }]);
    }
    ip_name_lookup::resolve_addresses(host.to_owned())
        .await
        .map_err(|code| {
            let kind = match code {
                NameError::AccessDenied => io::ErrorKind::PermissionDenied,
                _ => io::ErrorKind::NotFound,
            };
            io::Error::new(
                kind,
                format!("the name `{host}` gives no address ({code:?})"),
            )
        })
}

async fn connect_to(address: IpAddress, port: u16) -> io::Result<Stream> {
    let (family, remote) = match address {
        IpAddress::Ipv4(address) => (
            IpAddressFamily::Ipv4,
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address }),
        ),
        IpAddress::Ipv6(address) => (
            IpAddressFamily::Ipv6,
            IpSocketAddress::Ipv6(Ipv6SocketAddress {
                port,
                flow_info: 0,
                address,
                scope_id: 0,
            }),
        ),
    };
    let socket = TcpSocket::create(family).map_err(|code| error(&code))?;
    // A peer that is gone without a word is noticed in the end; where it cannot be set, the deadlines still notice.
    socket.set_keep_alive_enabled(true).ok();
    socket.connect(remote).await.map_err(|code| error(&code))?;
    Ok(Stream::new(socket))
}

const fn octets(address: Ipv4Addr) -> (u8, u8, u8, u8) {
    let [a, b, c, d] = address.octets();
    (a, b, c, d)
}

const fn segments(address: Ipv6Addr) -> (u16, u16, u16, u16, u16, u16, u16, u16) {
    let [a, b, c, d, e, f, g, h] = address.segments();
    (a, b, c, d, e, f, g, h)
}

/// The standard library's words for those of WASI.
fn error(code: &ErrorCode) -> io::Error {
    let kind = match code {
        ErrorCode::AccessDenied => io::ErrorKind::PermissionDenied,
        ErrorCode::Timeout => io::ErrorKind::TimedOut,
        ErrorCode::RemoteUnreachable => io::ErrorKind::HostUnreachable,
        ErrorCode::ConnectionRefused => io::ErrorKind::ConnectionRefused,
        ErrorCode::ConnectionBroken => io::ErrorKind::BrokenPipe,
        ErrorCode::ConnectionReset => io::ErrorKind::ConnectionReset,
        ErrorCode::ConnectionAborted => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::Other,
    };
    match kind {
        io::ErrorKind::Other => io::Error::other(format!("{code:?}")),
        kind => kind.into(),
    }
}

/// Runs a task on, after the call that began it has been answered.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) {
    wit_bindgen::spawn_local(task);
}

/// Waits.
pub(crate) async fn sleep(duration: Duration) {
    monotonic_clock::wait_for(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)).await;
}

/// Tells operators of something to look into.
pub(crate) fn log(message: &str, fields: &[(&str, &str)]) {
    let fields: Vec<Param> = fields
        .iter()
        .map(|&(name, value)| Param {
            name: name.to_owned(),
            value: value.to_owned(),
        })
        .collect();
    log::log(Level::Warn, message, &fields);
}
