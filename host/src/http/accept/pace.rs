//! HTTP/2: whether the client of a connection still takes its responses, and still asks. Must not know what they are.
//!
//! Over HTTP/2 a client holds a response back without stalling the connection: it does not open the stream's window
//! (CVE-2019-9511, CVE-2019-9517), and its pings are answered all the while. So what is pending is counted here, in two
//! classes by the period in which it last moved on: this one, or the last. A period is `write_timeout`; who is still in the
//! class of the last at the end of one has taken nothing for all of it. Constant time and memory, and no lock: a
//! response moves from class to class by itself, when its bytes are taken.
//!
//! hyper keeps a chunk until it is sent and drops it then, so that the chunk itself can tell: [`Chunk`] is what a body
//! yields, and its life is the time for which it is pending.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// What must be taken of one response in a period, unless it is less that remains. A byte now and then is no reading.
const PACE_MIN: usize = 1024;

/// The responses of one connection.
#[derive(Debug, Default)]
pub(super) struct Pace {
    period: AtomicU64,
    /// Chunks by the period in which they last moved on, modulo 2.
    pending: [AtomicU64; 2],
    requests: AtomicU64,
    active: AtomicU64,
}

impl Pace {
    /// Ends a period: whether every chunk that was there at its begin has moved on in it. Called by one task alone.
    pub(super) fn is_kept(&self) -> bool {
        let now = self.period.load(Relaxed) + 1;
        // The next period counts in the class of the one before this, and has to find it empty: it is, or the connection
        // ends. A chunk that has read the old period when this ends, and is counted after it, is in the class of the last
        // from the start: it has all of the next period to move on, as any other has.
        let oldest = self.pending[class(now)].load(Relaxed);
        self.period.store(now, Relaxed);
        oldest == 0
    }

    /// How many requests there were so far, and whether one of them is under way.
    pub(super) fn requests(&self) -> (u64, bool) {
        (self.requests.load(Relaxed), self.active.load(Relaxed) > 0)
    }

    /// A request begins; it ends when what is given here is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.requests.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        Active(Arc::clone(self))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "it is below 2")]
fn class(period: u64) -> usize {
    (period % 2) as usize
}

/// A request that is under way: until its body has left.
pub(super) struct Active(Arc<Pace>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// Bytes that wait for the client to take them.
pub(super) struct Chunk {
    bytes: Bytes,
    pace: Arc<Active>,
    class: usize,
    taken: usize,
}

impl Chunk {
    fn new(bytes: Bytes, pace: Arc<Active>) -> Self {
        let class = class(pace.0.period.load(Relaxed));
        pace.0.pending[class].fetch_add(1, Relaxed);
        Self {
            bytes,
            pace,
            class,
            taken: 0,
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
        self.taken += n;
        if self.taken >= PACE_MIN {
            self.taken = 0;
            let pace = &self.pace.0;
            let now = class(pace.period.load(Relaxed));
            if now != self.class {
                pace.pending[now].fetch_add(1, Relaxed);
                pace.pending[self.class].fetch_sub(1, Relaxed);
                self.class = now;
            }
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pace.0.pending[self.class].fetch_sub(1, Relaxed);
    }
}

/// A body whose chunks are counted while they are pending.
pub(super) struct Paced<B> {
    body: Pin<Box<B>>,
    pace: Arc<Active>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, active: Active) -> Self {
        Self {
            body: Box::pin(body),
            pace: Arc::new(active),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for Paced<B> {
    type Data = Chunk;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, B::Error>>> {
        let pace = Arc::clone(&self.pace);
        let frame = self.body.as_mut().poll_frame(context);
        frame.map(|next| {
            next.map(|frame| frame.map(|frame| frame.map_data(|bytes| Chunk::new(bytes, pace))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(pace: &Arc<Pace>, bytes: usize) -> Chunk {
        Chunk::new(vec![0; bytes].into(), Arc::new(pace.begin()))
    }

    #[test]
    fn what_nobody_takes_for_a_whole_period_ends_the_connection() {
        let pace = Arc::new(Pace::default());
        let held = chunk(&pace, 100);
        assert!(pace.is_kept(), "it came in the period that ends");
        assert!(!pace.is_kept(), "it was there for a whole one");
        drop(held);
        for _ in 0..6 {
            assert!(pace.is_kept());
        }
    }

    #[test]
    fn what_is_taken_at_the_least_pace_is_kept_and_a_byte_now_and_then_is_not() {
        for (step, kept) in [(PACE_MIN, true), (1, false)] {
            let pace = Arc::new(Pace::default());
            let mut slow = chunk(&pace, PACE_MIN * 20);
            let all = (0..12).all(|_| {
                slow.advance(step);
                pace.is_kept()
            });
            assert_eq!(all, kept, "{step} bytes a period");
        }
    }

    #[test]
    fn a_request_is_active_until_its_last_chunk_is_gone() {
        let pace = Arc::new(Pace::default());
        let last = chunk(&pace, 1);
        assert_eq!(pace.requests(), (1, true));
        drop(last);
        assert_eq!(pace.requests(), (1, false));
    }
}
