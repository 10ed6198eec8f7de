//! How a request is written for the adapter, and how a decision lies in a policy's memory: the canonical ABI's layout of the
//! contract's records, in little endian. What a policy says is judged here: addresses, texts, and how much it is.
//!
//! Pure.

use std::cell::Cell;

use super::super::bindings::{self, types};
use crate::key::{Decision, Derivation, Param, PolicyRequest, Visibility};

/// An address and a length.
type Pair = [u8; 8];
/// Those of a name and of a value.
const PARAM_BYTES: usize = 2 * size_of::<Pair>();
/// What a decision says lies so far behind the number of its case: the alignment of a failure's `u64`.
const CASE_BYTES: usize = 8;
/// All of a decision, with the longest case.
const DECISION_BYTES: usize = CASE_BYTES + 48;

/// Writes the request as the adapter takes it: see `derive` in `adapter.wat`.
pub(in super::super) fn request(request: &PolicyRequest, piece: &mut Vec<u8>) {
    let lists = [&request.path, &request.query, &request.headers];
    let params = || lists.into_iter().flatten();
    piece.clear();
    let [path, query, headers] = lists.map(Vec::len);
    for number in [
        request.method.len(),
        request.route.len(),
        path,
        query,
        headers,
    ] {
        put(piece, number);
    }
    for Param { name, value } in params() {
        put(piece, name.len());
        put(piece, value.len());
    }
    piece.extend_from_slice(request.method.as_bytes());
    piece.extend_from_slice(request.route.as_bytes());
    for Param { name, value } in params() {
        piece.extend_from_slice(name.as_bytes());
        piece.extend_from_slice(value.as_bytes());
    }
}

/// What does not fit into 32 bits, wasmtime does not hand over: the piece is longer.
fn put(piece: &mut Vec<u8>, number: usize) {
    piece.extend_from_slice(&(number as u32).to_le_bytes());
}

/// Why what a policy has left is no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Unreadable {
    /// An address that is not in its memory, a text that is not UTF-8, a case that there is not.
    #[error("what `derive` returned is no decision of the contract")]
    Malformed,
    /// It says more than it may.
    #[error("`derive` returned too much")]
    TooMuch,
}

/// A policy's memory after it has decided.
pub(in super::super) struct Said<'a> {
    memory: &'a [u8],
    /// Bytes that may still be read: a policy may say the same megabyte a million times.
    left: Cell<usize>,
}

impl<'a> Said<'a> {
    /// At most so many bytes of it are read.
    pub(in super::super) fn new(memory: &'a [u8], most: usize) -> Self {
        Self {
            memory,
            left: Cell::new(most),
        }
    }

    /// The decision that lies at this address.
    ///
    /// # Errors
    /// It is none, or too long.
    pub(in super::super) fn decision(&self, at: u32) -> Result<Decision, Unreadable> {
        let at = at as usize;
        let said = at.saturating_add(CASE_BYTES);
        let _: [u8; DECISION_BYTES] = self.bytes(at)?;
        if !at.is_multiple_of(8) {
            return Err(Unreadable::Malformed);
        }
        Ok(match self.byte(at)? {
            0 => Decision::Cache(self.derivation(said)?),
            1 => Decision::Bypass(self.derivation(said)?),
            2 => Decision::Reject(bindings::failure(self.failure(said)?)),
            _ => return Err(Unreadable::Malformed),
        })
    }

    fn derivation(&self, at: usize) -> Result<Derivation, Unreadable> {
        let record: [u8; 20] = self.bytes(at)?;
        Ok(Derivation {
            parts: self.params(pair(&record, 0), Param::new)?,
            visibility: match record[8] {
                0 => Visibility::Public,
                1 => Visibility::Private,
                _ => return Err(Unreadable::Malformed),
            },
            hints: self.params(pair(&record, 12), Param::new)?,
        })
    }

    fn failure(&self, at: usize) -> Result<types::Failure, Unreadable> {
        use types::FailureKind::{
            Conflict, Denied, Internal, InvalidRequest, RateLimited, Timeout, Unavailable,
        };
        let kinds = [
            InvalidRequest,
            Denied,
            Conflict,
            Unavailable,
            Timeout,
            RateLimited,
            Internal,
        ];
        let record: [u8; 48] = self.bytes(at)?;
        let kind = kinds.get(usize::from(record[0]));
        Ok(types::Failure {
            kind: *kind.ok_or(Unreadable::Malformed)?,
            code: self.text(pair(&record, 4))?,
            message: self.text(pair(&record, 12))?,
            retry_after_ms: match record[24] {
                0 => None,
                1 => Some(u64::from_le_bytes(pair(&record, 32))),
                _ => return Err(Unreadable::Malformed),
            },
            details: self.params(pair(&record, 40), |name, value| types::Param {
                name,
                value,
            })?,
        })
    }

    fn params<T>(
        &self,
        list: Pair,
        param: impl Fn(String, String) -> T,
    ) -> Result<Vec<T>, Unreadable> {
        let list = self.slice(list, PARAM_BYTES, size_of::<Param>())?;
        let (list, _) = list.as_chunks::<PARAM_BYTES>();
        let mut params = Vec::with_capacity(list.len());
        for said in list {
            let [name, value] = [pair(said, 0), pair(said, 8)];
            params.push(param(self.text(name)?, self.text(value)?));
        }
        Ok(params)
    }

    fn text(&self, text: Pair) -> Result<String, Unreadable> {
        let text = std::str::from_utf8(self.slice(text, 1, 1)?);
        text.map(str::to_owned).map_err(|_| Unreadable::Malformed)
    }

    /// So many things, of so many bytes each there and here.
    fn slice(
        &self,
        [a, b, c, d, e, f, g, h]: Pair,
        each: usize,
        each_here: usize,
    ) -> Result<&'a [u8], Unreadable> {
        let [address, count] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        let (address, count) = (address as usize, count as usize);
        // A text may begin anywhere, a list where its addresses may.
        let is_aligned = each == 1 || address.is_multiple_of(4);
        let bytes = count.checked_mul(each).filter(|_| is_aligned);
        let slice = bytes.and_then(|bytes| self.memory.get(address..)?.get(..bytes));
        let slice = slice.ok_or(Unreadable::Malformed)?;
        let left = count
            .checked_mul(each_here)
            .and_then(|bytes| self.left.get().checked_sub(bytes));
        self.left.set(left.ok_or(Unreadable::TooMuch)?);
        Ok(slice)
    }

    fn byte(&self, at: usize) -> Result<u8, Unreadable> {
        self.memory.get(at).copied().ok_or(Unreadable::Malformed)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Unreadable> {
        let record = self.memory.get(at..).and_then(|rest| rest.first_chunk());
        record.copied().ok_or(Unreadable::Malformed)
    }
}

/// The pair that lies so far behind the start of a record.
fn pair(record: &[u8], at: usize) -> Pair {
    *record[at..].first_chunk().expect("records are longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory in which a decision lies at 16, a list of one pair at 100, and `text` at 200.
    fn memory() -> Vec<u8> {
        let mut memory = vec![0; 204];
        let mut put = |at: usize, numbers: &[u32]| {
            for (nth, number) in numbers.iter().enumerate() {
                memory[at + nth * 4..][..4].copy_from_slice(&number.to_le_bytes());
            }
        };
        // The parts, the visibility, the hints.
        put(24, &[100, 1, 0, 0, 0]);
        put(100, &[200, 2, 202, 2]);
        memory[200..].copy_from_slice(b"text");
        memory
    }

    fn read(memory: &[u8], most: usize) -> Result<Vec<Param>, Unreadable> {
        match Said::new(memory, most).decision(16)? {
            Decision::Cache(derivation) => Ok(derivation.parts),
            other => panic!("not to be cached: {other:?}"),
        }
    }

    #[test]
    fn a_decision_is_read_where_it_lies() {
        assert_eq!(read(&memory(), 1000), Ok(vec![Param::new("te", "xt")]));
    }

    #[test]
    fn what_lies_elsewhere_or_is_no_text_is_no_decision() {
        for (at, byte) in [
            (16, 3),    // A case that there is not.
            (24, 101),  // A list that is not where one may begin,
            (27, 1),    // one far away,
            (29, 1),    // one that is too long for the memory,
            (103, 255), // a name far away,
            (108, 203), // a value that ends behind the memory.
            (200, 255), // Not UTF-8.
            (32, 2),    // Neither public nor private.
        ] {
            let mut memory = memory();
            memory[at] = byte;
            let read = read(&memory, usize::MAX);
            assert_eq!(read, Err(Unreadable::Malformed), "{byte} at {at}");
        }
        // Behind the end, over the end, and where no decision may begin.
        for at in [204, u32::MAX, 152, 20] {
            let memory = memory();
            let read = Said::new(&memory, usize::MAX).decision(at);
            assert_eq!(read, Err(Unreadable::Malformed));
        }
        // All of it is needed, to the last byte.
        for bytes in 0..204 {
            let read = read(&memory()[..bytes], usize::MAX);
            assert_eq!(read, Err(Unreadable::Malformed), "{bytes}");
        }
    }

    /// Law 12: what is read is bounded, also where a policy says the same text again and again.
    #[test]
    fn law_12_no_more_is_read_than_may_be() {
        let one = size_of::<Param>() + 4;
        assert!(read(&memory(), one).is_ok());
        assert_eq!(read(&memory(), one - 1), Err(Unreadable::TooMuch));
        // A thousand times the same text, of which two bytes may be read five hundred times.
        let mut many = memory();
        many[24..32].copy_from_slice(&[204_u32, 1000].map(u32::to_le_bytes).concat());
        let same = [200_u32, 1, 201, 1].map(u32::to_le_bytes).concat();
        many.extend(same.repeat(1000));
        let each = size_of::<Param>() + 2;
        assert_eq!(read(&many, 1000 * each).map(|parts| parts.len()), Ok(1000));
        assert_eq!(read(&many, 1000 * each - 1), Err(Unreadable::TooMuch));
    }
}
