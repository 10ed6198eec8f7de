//! The bytes of a connection, as hyper reads and writes them: what was read to tell the protocols apart comes first, and a
//! write that makes no headway for too long fails. Must not know what the bytes are.
//!
//! A client that does not read fills its window, then the kernel's buffer here; from then on a write is pending. The time
//! is counted from there to the next byte that is taken, so that a large answer over a slow line is no stall. While writes go
//! through, the watch costs one comparison: there is no timer until the first stall.
//!
//! A connection that the server ends is closed for writing first, and what the client still sends is read and dropped for a
//! while (RFC 9112 section 9.6): closed at once, the kernel would answer that with a reset, and the reset would overtake the
//! response that says why.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long, and how much, what a client still sends is dropped before the connection is closed.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A connection that is watched.
pub(super) struct Watched<T> {
    io: T,
    first: Bytes,
    limit: Duration,
    stalled: bool,
    is_cut: bool,
    deadline: Option<Pin<Box<Sleep>>>,
    cut: Counter,
    /// Since it was closed for writing: until when what comes is dropped, and how much has been.
    lingers: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<T> Watched<T> {
    /// `first` is read before anything of `io`; `cut` counts the stall that ends it.
    pub(super) fn new(io: T, first: Bytes, limit: Duration, cut: Counter) -> Self {
        Self {
            io,
            first,
            limit,
            stalled: false,
            is_cut: false,
            deadline: None,
            cut,
            lingers: None,
        }
    }

    /// What becomes of an attempt to write.
    fn watch<R>(
        &mut self,
        attempt: Poll<io::Result<R>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if attempt.is_ready() {
            self.stalled = false;
            return attempt;
        }
        let limit = self.limit;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.stalled {
            self.stalled = true;
            deadline.as_mut().reset(Instant::now() + limit);
        }
        ready!(deadline.as_mut().poll(context));
        // Whoever owns it may try once more before it goes.
        if !self.is_cut {
            self.is_cut = true;
            self.cut.inc();
        }
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of what is written to it",
        )))
    }
}

impl<T: AsyncRead + Unpin> Watched<T> {
    /// Until the client has closed its side too, or has had its time.
    fn linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (until, dropped) = self
            .lingers
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), 0));
        let mut room = [0; 4096];
        while *dropped < LINGER_BYTES {
            let mut into = ReadBuf::new(&mut room);
            match Pin::new(&mut self.io).poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => *dropped += into.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return until.as_mut().poll(context),
            }
        }
        Poll::Ready(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, into);
        }
        let n = self.first.len().min(into.remaining());
        into.put_slice(&self.first[..n]);
        self.first.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.io).poll_write(context, bytes);
        self.watch(attempt, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.watch(attempt, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.io).poll_flush(context);
        self.watch(attempt, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            let attempt = Pin::new(&mut self.io).poll_shutdown(context);
            ready!(self.watch(attempt, context))?;
        }
        self.linger(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn pair(
        room: usize,
        first: &'static str,
    ) -> (
        Watched<tokio::io::DuplexStream>,
        tokio::io::DuplexStream,
        Counter,
    ) {
        let (here, there) = tokio::io::duplex(room);
        let cut = Counter::default();
        let watched = Watched::new(here, first.into(), LIMIT, cut.clone());
        (watched, there, cut)
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first_in_any_portions() {
        let (mut here, mut there, _) = pair(64, "GET /");
        there.write_all(b"data").await.unwrap();
        drop(there);
        let mut two = [0; 2];
        here.read_exact(&mut two).await.unwrap();
        let mut rest = String::new();
        here.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&two, &*rest), (b"GE", "T /data"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_end_is_dropped_until_the_client_ends_or_its_time_has_passed() {
        for ends in [true, false] {
            let (mut here, mut there, _) = pair(1024, "");
            let began = Instant::now();
            let closed =
                tokio::spawn(async move { here.shutdown().await.map(|()| began.elapsed()) });
            // Closed for writing at once; and what is sent all the same is taken.
            assert_eq!(there.read(&mut [0; 8]).await.unwrap(), 0);
            there.write_all(&[0; 8192]).await.unwrap();
            let kept = (!ends).then_some(there);
            let took = closed.await.unwrap().unwrap();
            assert_eq!(took >= LINGER, !ends, "{took:?}");
            drop(kept);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_and_one_that_takes_a_little_is_not() {
        let (mut here, mut there, cut) = pair(4, "");
        let began = Instant::now();
        let writes = tokio::spawn(async move {
            let ended = here.write_all(b"12345678abcdefgh").await;
            (ended.map_err(|error| error.kind()), began.elapsed())
        });
        let mut some = [0; 4];
        for _ in 0..2 {
            tokio::time::advance(LIMIT - Duration::from_secs(1)).await;
            there.read_exact(&mut some).await.unwrap();
        }
        let (ended, after) = writes.await.unwrap();
        assert_eq!(ended, Err(io::ErrorKind::TimedOut));
        // Each portion that was taken began the time anew.
        assert!(after >= LIMIT * 3 - Duration::from_secs(3), "{after:?}");
        assert_eq!(cut.get(), 1);
    }
}
