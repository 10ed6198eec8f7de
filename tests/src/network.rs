//! A TCP link between two parties, and the weather on it: the faulty network. Knows nothing of what is spoken over it.
//! [`flow`] is how bytes pass in each kind of weather.

mod flow;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;
use crate::wait::eventually;

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Bytes pass.
    Fair,
    /// Connections stand, and are made, and no byte passes.
    Stalled,
    /// Connections break, and new ones are closed as soon as they are made.
    Cut,
    /// Connections break, and nobody listens.
    Refused,
    /// Every byte takes this long, in each direction.
    Late(Duration),
    /// Every third segment is lost and sent again after this long, as TCP does; what is behind it waits.
    Lossy(Duration),
    /// The other end is gone without a word: what is sent vanishes, nothing comes, and that is so for ever for each
    /// connection that stands or is made.
    HalfOpen,
    /// What is sent arrives; what is answered vanishes. That is so for ever for each connection that stands or is made.
    Unanswered,
    /// Connections are reset after this many bytes in one direction.
    Resetting(usize),
    /// This many bytes at a time.
    Sliced(usize),
    /// This many bytes a second, in each direction.
    Narrow(u32),
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
        self.turn(Weather::Refused).await;
    }

    /// Lets bytes pass again; what was held back passes first.
    pub async fn heal(&self) {
        self.turn(Weather::Fair).await;
    }

    /// From now on the weather is this.
    pub async fn turn(&self, weather: Weather) {
        self.weather.send_replace(weather);
        let listens = weather != Weather::Refused;
        eventually("the link follows the weather", async || {
            (*self.listening.borrow() == listens).then_some(())
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
        let broken = matches!(now, Weather::Cut | Weather::Refused);
        if broken {
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
                // Where it is broken, it is dropped here: closed as soon as it was made.
                if !broken {
                    connections.spawn(flow::pass(client, target, changes.clone()));
                }
            }
        }
    }
}
