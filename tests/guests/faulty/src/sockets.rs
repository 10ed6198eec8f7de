//! What a guest may try with sockets: by WASI 0.2 through the standard library, and by WASI 0.3. Must not know why it tries.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

use serde_json::Value;
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket,
    UdpSocket as UdpSocket3,
};

type Told<T> = Result<T, String>;

fn told(fault: impl std::fmt::Display) -> String {
    fault.to_string()
}

/// The addresses of a name.
pub(crate) fn look_up(name: &str) -> Told<Value> {
    let found = (name, 0).to_socket_addrs().map_err(told)?;
    Ok(found.map(|it| it.ip().to_string()).collect())
}

/// As [`look_up`], by WASI 0.3.
pub(crate) async fn look_up3(name: &str) -> Told<Value> {
    Ok(addresses(name)
        .await?
        .iter()
        .map(ToString::to_string)
        .collect())
}

async fn addresses(name: &str) -> Told<Vec<IpAddr>> {
    let found = ip_name_lookup::resolve_addresses(name.to_owned()).await;
    let plain = |address| match address {
        IpAddress::Ipv4((a, b, c, d)) => IpAddr::from([a, b, c, d]),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => IpAddr::from([a, b, c, d, e, f, g, h]),
    };
    let found = found.map_err(|code| format!("{code:?}"))?;
    Ok(found.into_iter().map(plain).collect())
}

/// What an echo at `HOST:PORT` says to `hello`.
pub(crate) fn echo(to: &str) -> Told<String> {
    let mut stream = TcpStream::connect(to).map_err(told)?;
    stream.write_all(b"hello").map_err(told)?;
    let mut said = [0; 5];
    stream.read_exact(&mut said).map_err(told)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// How many of `COUNT-HOST:PORT` connections were open at once when one more could not be had, or all were.
pub(crate) fn many(object: &str) -> Told<usize> {
    let (count, to) = object.split_once('-').ok_or("no count")?;
    let open: Vec<_> = (0..count.parse().map_err(told)?)
        .map_while(|_| TcpStream::connect(to).ok())
        .collect();
    Ok(open.len())
}

/// As [`echo`], by WASI 0.3.
pub(crate) async fn echo3(to: &str) -> Told<String> {
    let socket = connected3(to).await?;
    let (mut writer, reader) = wasip3::wit_stream::new();
    let sent = socket.send(reader);
    writer.write_all(b"hello".to_vec()).await;
    let (mut received, _) = socket.receive();
    let mut said = Vec::new();
    while said.len() < 5 {
        let (status, piece) = received.read(Vec::with_capacity(5)).await;
        if piece.is_empty() {
            return Err(format!("{status:?}"));
        }
        said.extend(piece);
    }
    drop(writer);
    sent.await.map_err(|code| format!("{code:?}"))?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// As [`many`], by WASI 0.3; of each connection only the stream that it receives is kept.
pub(crate) async fn many3(object: &str) -> Told<usize> {
    let (count, to) = object.split_once('-').ok_or("no count")?;
    let mut open = Vec::new();
    for _ in 0..count.parse::<usize>().map_err(told)? {
        let Ok(socket) = connected3(to).await else {
            break;
        };
        open.push(socket.receive());
    }
    Ok(open.len())
}

async fn connected3(to: &str) -> Told<TcpSocket> {
    let (host, port) = to.rsplit_once(':').ok_or("no port")?;
    let port = port.parse().map_err(told)?;
    let found = addresses(host.trim_matches(['[', ']'])).await?;
    let (family, address) = endpoint(*found.first().ok_or("no address")?, port);
    let socket = TcpSocket::create(family).map_err(|code| format!("{code:?}"))?;
    socket
        .connect(address)
        .await
        .map_err(|code| format!("{code:?}"))?;
    Ok(socket)
}

fn endpoint(address: IpAddr, port: u16) -> (IpAddressFamily, IpSocketAddress) {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            let address = Ipv4SocketAddress {
                port,
                address: (a, b, c, d),
            };
            (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(address))
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h] = address.segments();
            let address = Ipv6SocketAddress {
                port,
                flow_info: 0,
                address: (a, b, c, d, e, f, g, h),
                scope_id: 0,
            };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(address))
        }
    }
}

/// Listens on an address.
pub(crate) fn listen(on: &str) -> Told<String> {
    let listener = TcpListener::bind(on).map_err(told)?;
    Ok(listener.local_addr().map_err(told)?.to_string())
}

/// As [`listen`], by WASI 0.3, without a bind.
pub(crate) fn listen3() -> Told<bool> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(|code| format!("{code:?}"))?;
    let listening = socket.listen().map(|_| true);
    listening.map_err(|code| format!("{code:?}"))
}

/// Sends a datagram.
pub(crate) fn udp(to: &str) -> Told<usize> {
    let to: SocketAddr = to.parse().map_err(told)?;
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(told)?;
    socket.send_to(b"hello", to).map_err(told)
}

/// Makes a socket for datagrams by WASI 0.3.
pub(crate) fn udp3() -> Told<bool> {
    let made = UdpSocket3::create(IpAddressFamily::Ipv4).map(|_| true);
    made.map_err(|code| format!("{code:?}"))
}
