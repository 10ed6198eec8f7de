//! What leaves as the body of a response: bytes that are at hand, or pieces that come one after the other. Must not know
//! what is in them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full};

/// The body of a response.
pub struct Body(Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>);

impl Body {
    /// One that is at hand: an entry's leaves as it is stored, never copied.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Either::Left(Full::new(bytes.into())))
    }

    /// The bytes of one that is at hand, and none of another: what is asked for whole is never made of pieces.
    pub(super) fn into_whole(self) -> Bytes {
        match self.0 {
            Either::Left(whole) => whole.into_inner().unwrap_or_default(),
            Either::Right(_) => Bytes::new(),
        }
    }

    /// One of pieces that come as they are made; asked for the next only when the client has taken the last.
    pub fn stream<B>(pieces: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        Self(Either::Right(pieces.boxed_unsync()))
    }
}

/// None.
impl Default for Body {
    fn default() -> Self {
        Self::whole(Bytes::new())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Either::Left(whole) => Pin::new(whole).poll_frame(context),
            Either::Right(pieces) => Pin::new(pieces).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Either::Left(whole) => whole.is_end_stream(),
            Either::Right(pieces) => pieces.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Either::Left(whole) => whole.size_hint(),
            Either::Right(pieces) => pieces.size_hint(),
        }
    }
}
