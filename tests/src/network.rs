//! A TCP link between two parties that can be cut, stalled and refused: the faulty network. Knows nothing of what is
//! spoken over it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;
use crate::wait::eventually;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Bytes pass.
    Fair,
    /// Connections stand, and are made, and no byte passes.
    Stalled,
    /// Connections break, and new ones are closed as soon as they are made.
    Cut,
    /// Connections break, and nobody listens.
    Refused,
}

/// A link to one address. Dropping it breaks what passes over it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    listening: watch::Receiver<bool>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Link {
    /// A fair link to `target`.
    pub fn to(target: SocketAddr) -> Self {
        let listener = ports::listener();
        let address = listener
            .local_addr()
            .expect("a bound listener has an address");
        let listener = TcpListener::from_std(listener).expect("inside a runtime");
        let (weather, changes) = watch::channel(Weather::Fair);
        let (told, listening) = watch::channel(true);
        let accepted = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(run(
            listener,
            address,
            target,
            changes,
            told,
            accepted.clone(),
        ));
        Self {
            address,
            weather,
            listening,
            accepted,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made over it.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Breaks every connection, and each new one as soon as it is made.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }

    /// Holds every byte back, in both directions; connections stand.
    pub fn stall(&self) {
        self.weather.send_replace(Weather::Stalled);
    }

    /// Breaks every connection and stops listening.
    pub async fn refuse(&self) {
        self.weather.send_replace(Weather::Refused);
        self.until_listening(false).await;
    }

    /// Lets bytes pass again; what was held back passes first.
    pub async fn heal(&self) {
        self.weather.send_replace(Weather::Fair);
        self.until_listening(true).await;
    }

    async fn until_listening(&self, expect: bool) {
        eventually("the link follows the weather", async || {
            (*self.listening.borrow() == expect).then_some(())
        })
        .await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Accepts while somebody listens. The connections live in this task's set, so they end with it.
async fn run(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut changes: watch::Receiver<Weather>,
    told: watch::Sender<bool>,
    accepted: Arc<AtomicUsize>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let now = *changes.borrow_and_update();
        if now == Weather::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = ports::listener_on(address)
                .and_then(TcpListener::from_std)
                .ok();
        }
        told.send_replace(listener.is_some());
        if matches!(now, Weather::Cut | Weather::Refused) {
            connections.abort_all();
        }
        let accept = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            client = accept => {
                let Ok((client, _)) = client else { continue };
                accepted.fetch_add(1, Ordering::SeqCst);
                // In the other kinds of weather it is dropped here: closed as soon as it was made.
                if matches!(now, Weather::Fair | Weather::Stalled) {
                    connections.spawn(pass(client, target, changes.clone()));
                }
            }
        }
    }
}

async fn pass(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (client_out, client_in) = client.into_split();
    let (server_out, server_in) = server.into_split();
    // Either direction's end ends both: a half-open connection is not what this link is for.
    tokio::select! {
        () = pump(client_out, server_in, weather.clone()) => {}
        () = pump(server_out, client_in, weather) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0
            || weather
                .wait_for(|now| *now != Weather::Stalled)
                .await
                .is_err()
        {
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
