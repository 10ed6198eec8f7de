//! A TCP server that says what it is told, and counts who is connected. Knows nothing of Larder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::ports;

/// A running echo; it ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl Echo {
    /// Listens on a port of 127.0.0.1.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start() -> Self {
        let listener = ports::listener();
        let address = listener.local_addr().expect("it is bound");
        let listener = TcpListener::from_std(listener).expect("it is non-blocking");
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(run(listener, Arc::clone(&counts)));
        Self {
            address,
            counts,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now, as far as their ends have been noticed.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections live in this task's set, so they end with it.
async fn run(listener: TcpListener, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            client = listener.accept() => {
                let Ok((client, _)) = client else { continue };
                counts.accepted.fetch_add(1, Ordering::SeqCst);
                counts.open.fetch_add(1, Ordering::SeqCst);
                connections.spawn(say_again(client, Arc::clone(&counts)));
            }
        }
    }
}

async fn say_again(mut client: TcpStream, counts: Arc<Counts>) {
    let (mut from, mut to) = client.split();
    // An error is an end like any other.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    counts.open.fetch_sub(1, Ordering::SeqCst);
}
