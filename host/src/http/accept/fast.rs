//! Plain reads are answered between the socket and hyper: nothing is made of the head but what the answer needs, and head and
//! body leave in one write. What waits for an answer (a look-up, a load) waits here as well. Everything else goes to hyper as
//! it came. Must not know what is answered.
//!
//! # Whose turn it is
//!
//! hyper asks for bytes when it waits for a head, and also while it is busy with a request (the rest of a body; whether the
//! client has left). Only in the first case may bytes be answered here, and only if hyper has nothing of a head in its own
//! buffer. So it is given one whole request at a time, never a byte of the next, and it is known to be done with it when two
//! things have happened, in this order:
//! 1. the body of its response is dropped ([`Exchange`] is told): hyper has all of it in its buffer, or has sent it;
//! 2. `poll_flush` comes through: hyper calls that only when its buffer is empty.
//!
//! Between the two, hyper may ask for bytes already (it looks whether there is another request before it flushes). What is
//! read then is held back: answered at once, it would overtake the response that lies in hyper's buffer.
//!
//! What is held back is looked at when the flush has come through. hyper does not ask by itself then (it believes that the
//! socket has nothing), so whoever finds something held back at that moment wakes the task.
//!
//! A request of which nobody can say here where it ends (chunks, `Expect`, what does not parse) is hyper's with all that
//! follows it: the connection stays with hyper to its end.
//!
//! An answer that the socket does not take whole is sent by whichever of hyper's calls comes next. If that is a flush, whoever
//! waited for it to be sent wakes the task, too.
//!
//! While an answer is waited for, what the client sends is held back, too; if it leaves, hyper is told so and ends the
//! connection, and with it whoever waits.
//!
//! # Time, and the end
//!
//! hyper counts how long a head takes from the end of the response before, and knows nothing of what is answered here. So its
//! timer is [`HeadTimer`], which begins anew when it ends and something was answered meanwhile, or is about to be.
//!
//! hyper ends a connection at once on which it sees nothing under way when the server drains: so [`Fast::poll_shutdown`], by
//! which it does that, finishes an answer that is waited for first.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::ReusableBoxFuture;

use super::head::{Begins, FIELDS_MAX, Head, begins};

/// Who answers plain reads.
pub trait Reads {
    /// Whether it does at all.
    fn is_on(&self) -> bool;

    /// Answers, or says that hyper is to.
    fn read(&self, request: &Head<'_>, head: &mut Vec<u8>, waiting: &mut Waiting) -> Read;
}

/// What becomes of a plain read.
pub enum Read {
    /// The head of the response was written into `head`, a short body too, and this follows.
    Answered(Bytes),
    /// It was set in `waiting`.
    Later,
    /// hyper is to have it; nothing was written, set or counted.
    Hypers,
}

/// A response as it is sent.
#[derive(Default)]
pub struct Rendered {
    /// Status line and fields, with the empty line; then the body, if it is short.
    pub head: Vec<u8>,
    /// How long the body is that stands in `head`.
    pub inline: usize,
    /// What follows.
    pub body: Bytes,
}

/// An answer that is waited for; its room is used again.
#[derive(Default)]
pub struct Waiting(Option<ReusableBoxFuture<'static, Rendered>>);

impl Waiting {
    /// Sets what is waited for.
    pub fn set(&mut self, answer: impl Future<Output = Rendered> + Send + 'static) {
        match &mut self.0 {
            Some(room) => room.set(answer),
            none => *none = Some(ReusableBoxFuture::new(answer)),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Rendered> {
        match &mut self.0 {
            Some(answer) => answer.poll(context),
            None => Poll::Ready(Rendered::default()),
        }
    }

    /// Lets go of what nobody wants any more. What has ended holds nothing, and leaves its room to the next.
    fn clear(&mut self) {
        self.0 = None;
    }
}

/// Hyper has all of them.
#[derive(Clone, Copy)]
pub struct NoReads;

impl Reads for NoReads {
    fn is_on(&self) -> bool {
        false
    }

    fn read(&self, _: &Head<'_>, _: &mut Vec<u8>, _: &mut Waiting) -> Read {
        Read::Hypers
    }
}

/// Up to here a body goes into one buffer with its head: copying it costs less than a second part of a write.
const COPIED_MAX: usize = 4 * 1024;
/// What answers of a pipeline are put together before they are sent (law 12): a client that does not read is owed no more.
const DRAFT_MAX: usize = 64 * 1024;
/// A head that comes in more pieces is hyper's: looking at all of it again and again has an end.
const PIECES_MAX: u32 = 8;
/// Answers before others have their turn.
const TURN: u32 = 32;

thread_local! {
    /// Where answers are put together. Empty but while one is.
    static DRAFT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a connection and its requests share.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The body of the response was dropped.
    is_answered: AtomicBool,
    /// How many requests were answered here.
    answers: AtomicU64,
    /// One is waited for, or is not sent whole yet.
    is_busy: AtomicBool,
}

/// The bytes of a connection, for hyper.
pub(super) struct Fast<T, R> {
    io: T,
    reads: R,
    fields_max: usize,
    exchange: Arc<Exchange>,
    turn: Turn,
    /// Read, and not looked at yet.
    held: Vec<u8>,
    pieces: u32,
    /// Answered, and not sent yet.
    unsent: Bytes,
    unsent_body: Bytes,
    is_unflushed: bool,
    /// Where an answer is waited for, and whether one is.
    waiting: Waiting,
    is_waiting: bool,
    /// hyper was given no bytes because something was to be sent first.
    is_read_blocked: bool,
    is_gone: bool,
    is_ending: bool,
}

/// Who is to look at what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It may be answered here: hyper waits for a head.
    Here,
    /// hyper has a request, of whose body so many bytes are to come; and its response has been flushed, or not.
    Hyper { body: u64, is_flushed: bool },
    /// hyper, to the end.
    HyperForever,
}

/// What was done with what was read.
enum Done {
    /// All of it is answered, or held back until it can be.
    Answered,
    /// It ends with a part of a head.
    Partial,
    /// hyper is to have what is left of it.
    Handed,
}

impl<T, R: Reads> Fast<T, R> {
    pub(super) fn new(io: T, reads: R, fields_max: usize, exchange: Arc<Exchange>) -> Self {
        let turn = match reads.is_on() {
            true => Turn::Here,
            false => Turn::HyperForever,
        };
        Self {
            io,
            reads,
            fields_max,
            exchange,
            turn,
            held: Vec::new(),
            pieces: 0,
            unsent: Bytes::new(),
            unsent_body: Bytes::new(),
            is_unflushed: false,
            waiting: Waiting::default(),
            is_waiting: false,
            is_read_blocked: false,
            is_gone: false,
            is_ending: false,
        }
    }

    fn wait(&mut self, is_waiting: bool) {
        self.is_waiting = is_waiting;
        self.tell_busy();
    }

    /// Says whether an answer is on its way, however slowly: nobody takes long over a head meanwhile.
    fn tell_busy(&mut self) {
        let is_busy = self.is_waiting || self.is_unflushed;
        if self.exchange.is_busy.load(Ordering::Relaxed) && !is_busy {
            // From here on a head is waited for.
            self.answered(1);
        }
        self.exchange.is_busy.store(is_busy, Ordering::Relaxed);
    }

    /// Counts what was answered here. Nobody else does.
    fn answered(&mut self, count: u64) {
        let answers = self.exchange.answers.load(Ordering::Relaxed);
        let answers = answers.wrapping_add(count);
        self.exchange.answers.store(answers, Ordering::Relaxed);
        self.pieces = 0;
    }

    /// What was held back, as far as it fits, and how much that is.
    fn give_held(&mut self, into: &mut ReadBuf<'_>) -> usize {
        let known = self.held.len().min(into.remaining());
        into.put_slice(&self.held[..known]);
        self.held.drain(..known);
        known
    }

    /// Keeps what lies behind the first `length` bytes for later.
    fn hold_behind(&mut self, length: usize, read: &mut ReadBuf<'_>) {
        if length < read.filled().len() {
            // Something may be held back already that came later than this.
            let later = std::mem::take(&mut self.held);
            self.held.extend_from_slice(&read.filled()[length..]);
            self.held.extend_from_slice(&later);
            read.set_filled(length);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, R: Reads> Fast<T, R> {
    /// Sends what could not be sent at once.
    fn send_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() || !self.unsent_body.is_empty() {
            let slices = [IoSlice::new(&self.unsent), IoSlice::new(&self.unsent_body)];
            let at = usize::from(self.unsent.is_empty());
            let sent = Pin::new(&mut self.io).poll_write_vectored(context, &slices[at..]);
            let sent = ready!(sent)?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(self.unsent.len());
            self.unsent.advance(of_head);
            self.unsent_body.advance(sent - of_head);
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.is_unflushed = false;
            self.tell_busy();
        }
        if std::mem::take(&mut self.is_read_blocked) {
            // hyper flushes after it has asked for bytes: it does not ask again by itself.
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends an answer, or what the socket takes of it; the rest is kept.
    fn send(
        &mut self,
        context: &mut Context<'_>,
        draft: &[u8],
        body: Bytes,
    ) -> Poll<io::Result<()>> {
        let attempt = if body.is_empty() {
            Pin::new(&mut self.io).poll_write(context, draft)
        } else {
            let slices = [IoSlice::new(draft), IoSlice::new(&body)];
            Pin::new(&mut self.io).poll_write_vectored(context, &slices)
        };
        let sent = match attempt {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => 0,
        };
        self.is_unflushed = true;
        if sent < draft.len() + body.len() {
            let of_head = sent.min(draft.len());
            self.unsent = Bytes::copy_from_slice(&draft[of_head..]);
            self.unsent_body = body;
            self.unsent_body.advance(sent - of_head);
        }
        let rest = self.send_rest(context);
        if rest.is_pending() {
            self.tell_busy();
        }
        rest
    }

    /// Answers what was read, one request after the other, as far as it goes. What is left of it is moved to the front.
    fn look(&mut self, context: &mut Context<'_>, read: &mut ReadBuf<'_>) -> io::Result<Done> {
        DRAFT.with_borrow_mut(|draft| {
            draft.clear();
            let mut at = 0;
            let mut answered = 0;
            let (done, length, turn) = loop {
                let bytes = &read.filled()[at..];
                if bytes.is_empty() {
                    break (Done::Answered, 0, Turn::Here);
                }
                let mut room = [MaybeUninit::uninit(); FIELDS_MAX];
                let (length, body) = match begins(bytes, &mut room, self.fields_max) {
                    Begins::Partial => break (Done::Partial, bytes.len(), Turn::Here),
                    Begins::Unknown => break (Done::Handed, bytes.len(), Turn::HyperForever),
                    Begins::Other(length, body) => (length, body),
                    Begins::Plain(head, length) => {
                        match self.reads.read(&head, draft, &mut self.waiting) {
                            Read::Hypers => (length, 0),
                            Read::Later => {
                                at += length;
                                self.wait(true);
                                break (Done::Answered, 0, Turn::Here);
                            }
                            Read::Answered(body) => {
                                at += length;
                                answered += 1;
                                let rest = if body.len() <= COPIED_MAX {
                                    draft.extend_from_slice(&body);
                                    Bytes::new()
                                } else {
                                    body
                                };
                                if !rest.is_empty() || draft.len() >= DRAFT_MAX {
                                    let sent = self.send(context, draft, rest);
                                    draft.clear();
                                    if sent?.is_pending() {
                                        break (
                                            Done::Answered,
                                            read.filled().len() - at,
                                            Turn::Here,
                                        );
                                    }
                                }
                                continue;
                            }
                        }
                    }
                };
                let here = usize::try_from(body).unwrap_or(usize::MAX);
                let here = here.min(bytes.len() - length);
                let turn = Turn::Hyper {
                    body: body - here as u64,
                    is_flushed: false,
                };
                break (Done::Handed, length + here, turn);
            };
            if answered > 0 {
                self.answered(answered);
            }
            if !draft.is_empty() {
                let sent = self.send(context, draft, Bytes::new());
                draft.clear();
                draft.shrink_to(4 * DRAFT_MAX);
                let _ = sent?;
            }
            let end = read.filled().len();
            read.filled_mut().copy_within(at..end, 0);
            read.set_filled(end - at);
            match done {
                // What came behind an answer that is waited for, or could not be sent whole, waits until it is.
                Done::Answered => self.hold_behind(0, read),
                Done::Partial => {}
                Done::Handed => {
                    self.hold_behind(length, read);
                    self.exchange.is_answered.store(false, Ordering::Relaxed);
                    self.turn = turn;
                }
            }
            Ok(done)
        })
    }

    /// While hyper waits for a head: answers until there is nothing more, or something for hyper.
    fn read_here(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURN {
            // One answer after the other: who does not take its answers gets no further ones.
            self.is_read_blocked = false;
            if self.send_rest(context)?.is_pending() {
                self.is_read_blocked = true;
                return Poll::Pending;
            }
            if self.is_waiting {
                if self.poll_waiting(context)?.is_pending() && self.is_waiting {
                    return self.read_while_waiting(context, into);
                }
                continue;
            }
            let known = self.give_held(into);
            // A part of a head was looked at when it came, what was held back behind a response was not.
            let is_new = known > 0 && self.pieces == 0;
            if !is_new {
                match Pin::new(&mut self.io).poll_read(context, into) {
                    Poll::Ready(Ok(())) if into.filled().len() > known => {}
                    // The end; hyper is to say what becomes of half a head.
                    Poll::Ready(Ok(())) => {
                        self.turn = Turn::HyperForever;
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.hold_behind(0, into);
                        return Poll::Pending;
                    }
                }
            }
            match self.look(context, into)? {
                Done::Answered => into.clear(),
                Done::Partial if into.remaining() == 0 || self.pieces == PIECES_MAX => {
                    self.turn = Turn::HyperForever;
                    return Poll::Ready(Ok(()));
                }
                Done::Partial => {
                    self.pieces += 1;
                    self.hold_behind(0, into);
                }
                Done::Handed => {
                    self.pieces = 0;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Waits for an answer, and sends it.
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Rendered {
            mut head,
            inline,
            body,
        } = ready!(self.waiting.poll(context));
        self.wait(false);
        self.answered(1);
        if head.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.is_ending {
            let end = head.len() - inline - b"\r\n".len();
            head.splice(end..end, *b"connection: close\r\n");
        }
        self.send(context, &head, body)
    }

    /// While an answer is waited for: nothing but the end.
    fn read_while_waiting(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(context, into))?;
            if into.filled().is_empty() {
                self.is_gone = true;
                self.wait(false);
                self.waiting.clear();
                return Poll::Ready(Ok(()));
            }
            self.hold_behind(0, into);
        }
        Poll::Pending
    }

    /// While hyper has a request: the rest of its body, or else nothing but the end.
    fn read_for_hyper(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
        body: u64,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(context, into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        } else if body > 0 {
            self.give_held(into);
        }
        let taken = usize::try_from(body).unwrap_or(usize::MAX);
        let taken = taken.min(into.filled().len());
        self.hold_behind(taken, into);
        if taken == 0 {
            // What is held back is the next request: `poll_flush` wakes the task for it.
            return Poll::Pending;
        }
        if let Turn::Hyper { body, .. } = &mut self.turn {
            *body -= taken as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, R: Reads + Unpin> AsyncRead for Fast<T, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match this.turn {
            Turn::Hyper {
                body: 0,
                is_flushed: true,
            } => this.turn = Turn::Here,
            Turn::Hyper { body, .. } => return this.read_for_hyper(context, into, body),
            Turn::HyperForever if this.held.is_empty() => {
                return Pin::new(&mut this.io).poll_read(context, into);
            }
            Turn::HyperForever => {
                this.give_held(into);
                return Poll::Ready(Ok(()));
            }
            Turn::Here => {}
        }
        this.read_here(context, into)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, R: Reads + Unpin> AsyncWrite for Fast<T, R> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send_rest(context))?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.send_rest(context))?;
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.send_rest(context))?;
        ready!(Pin::new(&mut self.io).poll_flush(context))?;
        let this = &mut *self;
        if let Turn::Hyper { is_flushed, .. } = &mut this.turn
            && !*is_flushed
            && this.exchange.is_answered.load(Ordering::Relaxed)
        {
            *is_flushed = true;
            if !this.held.is_empty() {
                context.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_ending = true;
        if self.is_waiting && !self.is_gone {
            ready!(self.poll_waiting(context))?;
        }
        ready!(self.send_rest(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The body of a response that hyper sends: tells the connection when it is dropped.
pub(super) struct Told<B> {
    body: B,
    exchange: Arc<Exchange>,
}

impl<B> Told<B> {
    pub(super) fn new(body: B, exchange: Arc<Exchange>) -> Self {
        Self { body, exchange }
    }
}

impl<B> Drop for Told<B> {
    fn drop(&mut self) {
        self.exchange.is_answered.store(true, Ordering::Relaxed);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The clock by which hyper counts how long a head takes, of one connection.
pub(super) struct HeadTimer {
    pub(super) exchange: Arc<Exchange>,
    pub(super) limit: Duration,
}

struct HeadSleep {
    sleep: Pin<Box<tokio::time::Sleep>>,
    exchange: Arc<Exchange>,
    limit: Duration,
    answers: u64,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadSleep {
            sleep: Box::pin(tokio::time::sleep_until(deadline.into())),
            exchange: Arc::clone(&self.exchange),
            limit: self.limit,
            answers: self.exchange.answers.load(Ordering::Relaxed),
        })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        if let Some(mut sleep) = sleep.as_mut().downcast_mut_pin::<HeadSleep>() {
            sleep.answers = self.exchange.answers.load(Ordering::Relaxed);
            sleep.sleep.as_mut().reset(deadline.into());
        }
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(context));
            let answers = self.exchange.answers.load(Ordering::Relaxed);
            if answers == self.answers && !self.exchange.is_busy.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            // It was no head that took so long, there were several: counted from now on, twice as long at most.
            self.answers = answers;
            let deadline = tokio::time::Instant::now() + self.limit;
            self.sleep.as_mut().reset(deadline);
        }
    }
}

impl Sleep for HeadSleep {}

#[cfg(test)]
#[path = "fast_tests.rs"]
mod tests;
