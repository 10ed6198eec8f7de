//! The body of an answer: put together, decoded, and bounded while it comes. Must not know where the pieces come from.
//!
//! The bound is on what has come out, not on a ratio: a small body that would become a large one ends at the bound like
//! any other, and is never held whole.

use crate::settings::tokens;
use crate::{internal, unavailable};
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::write::MultiGzDecoder;
use larder_plugin_support::Failure;
use std::io::Write as _;

/// How much is decoded in a slice: some milliseconds of computing.
const SLICE: usize = 512 << 10;
/// How much is decoded in a step.
const STEP: usize = 32 << 10;

/// A coding of a body (RFC 9110 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Brotli,
}

impl Encoding {
    /// What `Content-Encoding` says, of the encodings that were `asked` for.
    ///
    /// # Errors
    /// `internal` for one that was not asked for, and for several on top of each other.
    pub(crate) fn of(content_encoding: Option<&str>, asked: &str) -> Result<Self, Failure> {
        let said = content_encoding.unwrap_or_default();
        let mut encodings = tokens(said).filter(|token| token != "identity");
        let (first, second) = (encodings.next(), encodings.next());
        let Some(name) = first else {
            return Ok(Self::Identity);
        };
        let known = match &*name {
            "gzip" | "x-gzip" => Some((Self::Gzip, "gzip")),
            "br" => Some((Self::Brotli, "br")),
            _ => None,
        };
        match known {
            Some((encoding, token))
                if second.is_none() && tokens(asked).any(|one| one == token) =>
            {
                Ok(encoding)
            }
            _ => Err(internal(
                "encoding-not-asked-for",
                format!(
                    "the source encoded its answer as `{}`, and was asked for `{asked}`; make it heed `accept-encoding`",
                    said.escape_debug()
                ),
            )),
        }
    }
}

enum Decoder {
    Identity,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Brotli(Box<Brotli>),
}

struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: bool,
    written: usize,
}

/// The body so far.
pub(crate) struct Body {
    decoder: Decoder,
    bytes: Vec<u8>,
    /// How many bytes came, and how many may, before and after decoding.
    received: usize,
    max: usize,
    /// How many bytes were decoded since the last breath.
    since_breath: usize,
}

impl Body {
    /// An empty one, that will take at most `max` bytes.
    pub(crate) fn new(encoding: Encoding, max: usize) -> Self {
        let decoder = match encoding {
            Encoding::Identity => Decoder::Identity,
            Encoding::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Encoding::Brotli => Decoder::Brotli(Box::new(Brotli {
                // Strict: windows of at most 16 MiB, as RFC 7932 has them.
                state: BrotliState::new_strict(
                    StandardAlloc::default(),
                    StandardAlloc::default(),
                    StandardAlloc::default(),
                ),
                ended: false,
                written: 0,
            })),
        };
        Self {
            decoder,
            bytes: Vec::new(),
            received: 0,
            max,
            since_breath: 0,
        }
    }

    /// Takes the next piece, waiting for `breathe` between slices of decoding.
    ///
    /// # Errors
    /// `internal` over the bound, `unavailable` for what cannot be decoded.
    pub(crate) async fn take(
        &mut self,
        mut piece: &[u8],
        breathe: &impl AsyncFn(),
    ) -> Result<(), Failure> {
        self.received += piece.len();
        if self.received > self.max {
            return Err(too_long(self.max));
        }
        loop {
            let before = self.bytes.len();
            let (used, more) = self.step(piece).map_err(|fault| broken(&fault))?;
            piece = &piece[used..];
            if self.bytes.len() > self.max {
                return Err(too_long(self.max));
            }
            self.since_breath += self.bytes.len() - before;
            if self.since_breath >= SLICE {
                breathe().await;
                self.since_breath = 0;
            }
            if piece.is_empty() && !more {
                return Ok(());
            }
        }
    }

    /// Decodes some of `piece`. How much of it was used, and whether there is more to come without any.
    fn step(&mut self, piece: &[u8]) -> Result<(usize, bool), String> {
        match &mut self.decoder {
            Decoder::Identity => {
                self.bytes.extend_from_slice(piece);
                Ok((piece.len(), false))
            }
            Decoder::Gzip(_) if piece.is_empty() => Ok((0, false)),
            Decoder::Gzip(decoder) => {
                // It never decodes more than its own small buffer at a time.
                let used = decoder.write(piece).map_err(|fault| fault.to_string())?;
                self.bytes.append(decoder.get_mut());
                Ok((used, false))
            }
            Decoder::Brotli(brotli) => brotli.step(piece, &mut self.bytes),
        }
    }

    /// The whole body, after the last piece.
    ///
    /// # Errors
    /// `unavailable` if the encoded body ended too early, `internal` over the bound.
    pub(crate) fn end(mut self) -> Result<Vec<u8>, Failure> {
        match self.decoder {
            // No body at all: an answer without content may still name the encoding that it would have had.
            _ if self.received == 0 => {}
            Decoder::Identity => {}
            Decoder::Gzip(mut decoder) => {
                decoder
                    .try_finish()
                    .map_err(|fault| broken(&fault.to_string()))?;
                self.bytes.append(decoder.get_mut());
            }
            Decoder::Brotli(brotli) if brotli.ended => {}
            Decoder::Brotli(_) => return Err(broken("it ends too early")),
        }
        if self.bytes.len() > self.max {
            return Err(too_long(self.max));
        }
        Ok(self.bytes)
    }
}

impl Brotli {
    fn step(&mut self, piece: &[u8], bytes: &mut Vec<u8>) -> Result<(usize, bool), String> {
        if self.ended {
            return match piece {
                [] => Ok((0, false)),
                _ => Err("something follows its end".to_owned()),
            };
        }
        let from = bytes.len();
        bytes.resize(from + STEP, 0);
        let (mut left_in, mut used) = (piece.len(), 0);
        let (mut left_out, mut at) = (STEP, 0);
        let result = BrotliDecompressStream(
            &mut left_in,
            &mut used,
            piece,
            &mut left_out,
            &mut at,
            &mut bytes[from..],
            &mut self.written,
            &mut self.state,
        );
        bytes.truncate(from + at);
        match result {
            BrotliResult::NeedsMoreInput => Ok((used, false)),
            BrotliResult::NeedsMoreOutput => Ok((used, true)),
            BrotliResult::ResultSuccess => {
                self.ended = true;
                Ok((used, false))
            }
            BrotliResult::ResultFailure => Err("it is damaged".to_owned()),
        }
    }
}

/// The answer is over the bound.
pub(crate) fn too_long(max: usize) -> Failure {
    internal(
        "body-too-long",
        format!("the answer is longer than {max} bytes; raise `body_max` and [limits] body"),
    )
}

fn broken(fault: &str) -> Failure {
    unavailable(
        "origin-encoding-broken",
        format!("the encoded answer of the source cannot be decoded: {fault}"),
    )
}

#[cfg(test)]
mod tests;
