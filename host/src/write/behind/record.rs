//! A change as it is written down. Bytes that were not written here, or not whole, are told from those that were (law 11): a
//! digest stands before them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::super::{Operation, Payload};
use crate::key::Param;

/// What a record begins with: what it is, and the version of its form.
const MARK: &[u8] = b"LW1\n";
const DIGEST_LEN: usize = 8;
const LEN_LEN: usize = 4;

/// A change that waits to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pattern of its route.
    pub route: String,
    /// What the writer is told of who is meant.
    pub parts: Vec<Param>,
    /// What to do.
    pub operation: Operation,
    /// The same for every attempt.
    pub idempotency_key: String,
}

/// It is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of this change cannot be read")]
pub struct Unreadable;

#[derive(Serialize, Deserialize)]
struct Head {
    route: String,
    parts: Vec<Param>,
    idempotency_key: String,
    is_delete: bool,
    content_type: Option<String>,
}

impl Record {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let (is_delete, content_type, body) = match &self.operation {
            Operation::Put(payload) => (false, payload.content_type.clone(), &payload.body[..]),
            Operation::Delete => (true, None, &[][..]),
        };
        let head = Head {
            route: self.route.clone(),
            parts: self.parts.clone(),
            idempotency_key: self.idempotency_key.clone(),
            is_delete,
            content_type,
        };
        // Of texts in memory: nothing in it can fail to be written.
        let head = postcard::to_stdvec(&head).unwrap_or_default();
        let len = u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes =
            Vec::with_capacity(MARK.len() + DIGEST_LEN + LEN_LEN + head.len() + body.len());
        bytes.extend_from_slice(MARK);
        bytes.extend_from_slice(&[0; DIGEST_LEN]);
        bytes.extend_from_slice(&len);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(body);
        let start = MARK.len();
        let digest = xxh3_64(&bytes[start + DIGEST_LEN..]);
        bytes[start..start + DIGEST_LEN].copy_from_slice(&digest.to_le_bytes());
        bytes.into()
    }

    /// From bytes; the body is not copied.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn decode(bytes: &Bytes) -> Result<Self, Unreadable> {
        let rest = bytes.strip_prefix(MARK).ok_or(Unreadable)?;
        let (digest, rest) = rest.split_at_checked(DIGEST_LEN).ok_or(Unreadable)?;
        if xxh3_64(rest).to_le_bytes() != digest {
            return Err(Unreadable);
        }
        let (len, rest) = rest.split_at_checked(LEN_LEN).ok_or(Unreadable)?;
        let len = u32::from_le_bytes(len.try_into().map_err(|_| Unreadable)?);
        let len = usize::try_from(len).map_err(|_| Unreadable)?;
        let (head, body) = rest.split_at_checked(len).ok_or(Unreadable)?;
        let head: Head = postcard::from_bytes(head).map_err(|_| Unreadable)?;
        let operation = if head.is_delete {
            Operation::Delete
        } else {
            Operation::Put(Payload {
                content_type: head.content_type,
                body: bytes.slice_ref(body),
            })
        };
        Ok(Self {
            route: head.route,
            parts: head.parts,
            operation,
            idempotency_key: head.idempotency_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body: Vec<u8>, is_delete: bool) -> Record {
        let payload = Payload {
            content_type: Some("text/plain".to_owned()),
            body: body.into(),
        };
        Record {
            route: "/data/{key}".to_owned(),
            parts: vec![Param::new("key", "1"), Param::new("key", "ü")],
            operation: if is_delete {
                Operation::Delete
            } else {
                Operation::Put(payload)
            },
            idempotency_key: "k".to_owned(),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(body: Vec<u8>, is_delete: bool) {
            let record = record(body, is_delete);
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn law_11_one_bit_or_a_missing_end_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..64),
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let bytes = record(body, false).encode();
            let at = at.index(bytes.len());
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            prop_assert_eq!(Record::decode(&changed.into()), Err(Unreadable));
            prop_assert_eq!(Record::decode(&bytes.slice(..at)), Err(Unreadable));
        }
    }
}
