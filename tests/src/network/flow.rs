//! How the bytes of one connection pass, in each kind of [`Weather`]. Must not know who listens.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::Weather;

/// What was read and is on its way: more waits where it is sent from.
const ON_ITS_WAY_MAX: usize = 64;
/// In a narrow network bytes pass in pieces of this size.
const PIECE: usize = 64;
/// In a lossy network one segment of so many is lost.
const LOST_OF: usize = 3;

/// When it arrives, and what.
type Segment = (Instant, Vec<u8>);

type Changes = watch::Receiver<Weather>;

/// Passes what is said on a connection to another one to `target`, and back, until one of both ends.
pub(super) async fn pass(client: TcpStream, target: SocketAddr, weather: Changes) {
    let now = *weather.borrow();
    if now == Weather::HalfOpen {
        return swallow(&mut client.into_split().0).await;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    for stream in [&client, &server] {
        // The weather alone says what is late.
        let _ = stream.set_nodelay(true);
    }
    let (mut client_out, mut client_in) = client.into_split();
    let (mut server_out, mut server_in) = server.into_split();
    let (gone, deaf) = (weather.clone(), weather.clone());
    let (asked, answered) = (weather.clone(), weather.clone());
    tokio::select! {
        biased;
        () = until(gone, |now| now == Weather::HalfOpen) => {
            drop((server_out, server_in));
            swallow(&mut client_out).await;
        }
        () = until(deaf, |now| now == Weather::Unanswered) => {
            let asked = pump(&mut client_out, &mut server_in, weather.clone());
            tokio::join!(asked, swallow(&mut server_out));
        }
        () = async {
            // Either direction's end ends both.
            tokio::select! {
                () = pump(&mut client_out, &mut server_in, asked) => {}
                () = pump(&mut server_out, &mut client_in, answered) => {}
            }
        } => {
            if matches!(*weather.borrow(), Weather::Resetting(_)) {
                for end in [client_in.as_ref(), server_in.as_ref()] {
                    let _ = end.set_zero_linger();
                }
            }
        }
    }
}

/// Returns when the weather is so. For ever the same where nobody changes it any more.
async fn until(mut weather: Changes, so: impl Fn(Weather) -> bool) {
    if weather.wait_for(|now| so(*now)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Takes everything and does nothing with it, until there is no more.
async fn swallow(from: &mut OwnedReadHalf) {
    let mut buffer = vec![0; 16 * 1024];
    while from.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
}

/// One direction of a connection, until its end.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, weather: Changes) {
    let (queue, queued) = mpsc::channel(ON_ITS_WAY_MAX);
    let mut giving = pin!(give(queued, to, weather.clone()));
    tokio::select! {
        () = &mut giving => return,
        () = take(from, queue, weather) => {}
    }
    // What was read before the end arrives.
    giving.await;
}

async fn take(from: &mut OwnedReadHalf, queue: mpsc::Sender<Segment>, weather: Changes) {
    let mut buffer = vec![0; 16 * 1024];
    for number in 1_usize.. {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        let takes = match *weather.borrow() {
            Weather::Late(by) => by,
            Weather::Lossy(by) if number.is_multiple_of(LOST_OF) => by,
            _ => Duration::ZERO,
        };
        let segment = (Instant::now() + takes, buffer[..n].to_vec());
        if n == 0 || queue.send(segment).await.is_err() {
            return;
        }
    }
}

async fn give(mut queued: mpsc::Receiver<Segment>, to: &mut OwnedWriteHalf, weather: Changes) {
    // Of this connection, in this direction, in weather that resets it.
    let mut passed = 0;
    while let Some((arrives, bytes)) = queued.recv().await {
        until(weather.clone(), |now| now != Weather::Stalled).await;
        let now = *weather.borrow();
        let piece = match now {
            Weather::Sliced(size) => size,
            Weather::Narrow(_) => PIECE,
            _ => bytes.len(),
        };
        for piece in bytes.chunks(piece) {
            let pause = match now {
                Weather::Late(_) | Weather::Lossy(_) => arrives - Instant::now(),
                Weather::Narrow(rate) => Duration::from_secs(1) * piece.len() as u32 / rate,
                _ => Duration::ZERO,
            };
            if !pause.is_zero() {
                // What is under way when it heals arrives at once.
                let turned = until(weather.clone(), |weather| weather != now);
                let _ = timeout(pause, turned).await;
            }
            if to.write_all(piece).await.is_err() {
                return;
            }
            if matches!(now, Weather::Sliced(_)) {
                // The next piece is another write, and most likely another read at the other end.
                yield_now().await;
            }
        }
        passed = match now {
            Weather::Resetting(after) if passed + bytes.len() > after => return,
            Weather::Resetting(_) => passed + bytes.len(),
            _ => 0,
        };
    }
}
