//! Ports that a test can give up and take again: outside the range from which the kernel picks ports for outgoing
//! connections, so that a restart on the same port does not find it taken by a passing connection.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A bound, non-blocking listener on a port of the range.
///
/// # Panics
/// When none of the ports can be bound.
pub(crate) fn listener() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run side by side start at different places.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port =
            FIRST + (u32::from(start) * 7 + u32::from(step)).rem_euclid(u32::from(COUNT)) as u16;
        if let Ok(listener) = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            listener
                .set_nonblocking(true)
                .expect("a listener can be made non-blocking");
            return listener;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The same port once more, for an actor that comes back.
///
/// # Errors
/// When something else has taken it meanwhile.
pub(crate) fn listener_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A port that was free a moment ago, for a process that binds it itself.
pub fn free() -> u16 {
    listener()
        .local_addr()
        .expect("a bound listener has an address")
        .port()
}
