//! An entry as bytes: what the shared tier holds (version 1). Pure; knows no Redis, only that whoever stores the bytes
//! writes its own time into them.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `LARDER`, then the version as a big-endian `u16` |
//! | 16 | the storing tier's time: milliseconds since 1970, decimal ASCII, zero-padded |
//! | 8 | XXH3-64 of all that follows this field, little-endian |
//! | 4 | length of the metadata, little-endian |
//! | … | metadata: [`Meta`] in postcard |
//! | … | the body, as it is, so that decoding slices it out of the reply without a copy |
//!
//! The time is outside the checksum because a script fills it in. It is decimal because that script counts in doubles,
//! which are exact up to 2^53 milliseconds.
//!
//! Bytes that do not decode are [`Foreign`] and a counted miss (law 11), whatever they are: every length is checked
//! before it is used. A change of [`Meta`] or of a type in it is a new version; the fixtures of the old ones stay.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use super::entry::{Content, Draft, Entry, EntryKind, Etag, TagRoom};
use super::freshness::Times;
use super::generations::Stamp;
use super::source::Validator;
use crate::key::{Param, Visibility};

/// `LARDER` and the version.
const MAGIC: [u8; 8] = *b"LARDER\x00\x01";
/// Where the storing tier writes its time.
pub const TIME_AT: usize = 8;
/// How many decimal digits it writes.
pub const TIME_LEN: usize = 16;
const SUM_AT: usize = TIME_AT + TIME_LEN;
const META_LEN_AT: usize = SUM_AT + 8;
const META_AT: usize = META_LEN_AT + 4;

/// How far in the future a stored time may lie on this node's clock. The offset to the tier's clock is known within
/// half a round trip and reread every second; more than this is damage, and would make an entry fresh for too long.
const AHEAD_MS_MAX: u64 = 1_000;

/// Bytes that are no entry of this version under this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("foreign bytes: {reason}")]
pub struct Foreign {
    /// What did not fit, in a few words.
    pub reason: &'static str,
}

const fn foreign(reason: &'static str) -> Foreign {
    Foreign { reason }
}

/// Everything but the body. The order of the fields is the wire format.
#[derive(Serialize, Deserialize)]
struct Meta<'a> {
    /// The key it was stored under: an entry that turns up under another one is foreign.
    #[serde(borrow)]
    key: Cow<'a, str>,
    epoch: u64,
    seq: u64,
    /// How old it was when it was stored: the storing tier's time alone would make it young again.
    age_ms: u64,
    ttl_ms: u64,
    ttl_from_loader: bool,
    swr_ms: u64,
    sie_ms: u64,
    kind: EntryKind,
    status: u16,
    visibility: Visibility,
    content_type: Option<Cow<'a, str>>,
    etag: Cow<'a, str>,
    maker: Cow<'a, str>,
    validator: Option<Cow<'a, Validator>>,
    headers: Cow<'a, [Param]>,
    tags: Cow<'a, [String]>,
}

/// The bytes of an entry stored under `key` at `now_ms` (this node's clock), with zeros where the time goes.
pub fn encode(entry: &Entry, key: &str, now_ms: u64) -> Vec<u8> {
    let (times, stamp, body) = (entry.times(), entry.stamp(), entry.bytes());
    let mut room = TagRoom::default();
    let meta = Meta {
        key: key.into(),
        epoch: stamp.epoch,
        seq: stamp.seq,
        age_ms: times.age_ms(now_ms),
        ttl_ms: times.ttl_ms,
        ttl_from_loader: times.ttl_from_loader,
        swr_ms: times.swr_ms,
        sie_ms: times.sie_ms,
        kind: entry.kind(),
        status: entry.status(),
        visibility: entry.visibility(),
        content_type: entry.content_type().map(Cow::Borrowed),
        etag: entry.etag(&mut room).into(),
        maker: entry.maker().into(),
        validator: entry.validator().map(Cow::Owned),
        headers: entry.headers().into(),
        tags: entry.tags().into(),
    };
    let mut bytes = Vec::with_capacity(META_AT + 256 + key.len() + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[b'0'; TIME_LEN]);
    bytes.extend_from_slice(&[0; META_AT - SUM_AT]);
    let mut bytes = postcard::to_extend(&meta, bytes)
        .expect("every sequence in `Meta` knows its length, and a `Vec` takes all it is given");
    // Truncation is impossible below 4 GiB of metadata, and would be a failed decode, not a wrong entry.
    let meta_len = (bytes.len() - META_AT) as u32;
    bytes[META_LEN_AT..META_AT].copy_from_slice(&meta_len.to_le_bytes());
    bytes.extend_from_slice(body);
    let sum = checksum(&bytes);
    bytes[SUM_AT..META_LEN_AT].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The entry in `bytes`, stored under `key`. `offset_ms` is the storing tier's clock minus this node's; `now_ms` is this
/// node's.
///
/// # Errors
/// [`Foreign`], for any bytes that [`encode`] did not make for this key.
pub fn decode(bytes: Bytes, key: &str, now_ms: u64, offset_ms: i64) -> Result<Draft, Foreign> {
    if bytes.len() < META_AT {
        return Err(foreign("shorter than an envelope"));
    }
    if bytes[..TIME_AT] != MAGIC {
        return Err(foreign("another format or version"));
    }
    if bytes[SUM_AT..META_LEN_AT] != checksum(&bytes).to_le_bytes() {
        return Err(foreign("checksum"));
    }
    let stored_ms = digits(&bytes[TIME_AT..SUM_AT])
        .ok_or(foreign("time is not a number"))?
        .saturating_add_signed(offset_ms.saturating_neg());
    if stored_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
        return Err(foreign("time in the future"));
    }
    let mut meta_len = [0; 4];
    meta_len.copy_from_slice(&bytes[META_LEN_AT..META_AT]);
    let body_at = (u32::from_le_bytes(meta_len) as usize)
        .checked_add(META_AT)
        .filter(|body_at| *body_at <= bytes.len())
        .ok_or(foreign("metadata longer than the envelope"))?;
    let (meta, rest) = postcard::take_from_bytes::<Meta<'_>>(&bytes[META_AT..body_at])
        .map_err(|_| foreign("metadata"))?;
    if !rest.is_empty() {
        return Err(foreign("metadata longer than its fields"));
    }
    if meta.key != key {
        return Err(foreign("stored under another key"));
    }
    if !(200..=599).contains(&meta.status) {
        return Err(foreign("status"));
    }
    let times = Times {
        loaded_ms: stored_ms.min(now_ms).saturating_sub(meta.age_ms),
        ttl_ms: meta.ttl_ms,
        ttl_from_loader: meta.ttl_from_loader,
        swr_ms: meta.swr_ms,
        sie_ms: meta.sie_ms,
    };
    let stamp = Stamp {
        epoch: meta.epoch,
        seq: meta.seq,
        // Says when a load began on this node; this entry's did not, and it is not stored again.
        sync: u32::MAX,
    };
    let content = Content {
        kind: meta.kind,
        status: meta.status,
        content_type: meta.content_type.map(Cow::into_owned),
        headers: meta.headers.into_owned(),
        validator: meta.validator.map(Cow::into_owned),
        etag: Etag::of(&meta.etag),
        tags: meta.tags.into_owned(),
        visibility: meta.visibility,
        maker: meta.maker.into_owned(),
        variants: None,
        body: bytes.slice(body_at..),
    };
    Ok(Draft {
        content,
        times,
        stamp,
        as_of_ms: now_ms,
    })
}

/// Of everything after it. The first 8 bytes are compared as they are, and the time is not known when this is made.
///
/// By a crate that looks what the processor can: over a long body that is twice as fast as what every one of them can.
fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(&bytes[META_LEN_AT..])
}

/// A decimal number of exactly these digits. Sixteen of them fit a `u64`.
fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u64::from(byte - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "{%2Fdata%2F%7Bkey%7D:42}:demo~1:key=42&lang=d%20e";
    const NOW: u64 = 1_700_000_000_000;

    fn found() -> Draft {
        Draft {
            content: Content {
                kind: EntryKind::Found,
                status: 203,
                content_type: Some("application/json".into()),
                headers: vec![
                    Param::new("x-source", "db"),
                    Param::new("vary", "accept-language"),
                ],
                body: Bytes::from_static(b"{\"data\":\"Data for key 42\"}"),
                validator: Some(Validator {
                    etag: Some("v1".into()),
                    last_modified_ms: Some(1_600_000_000_000),
                }),
                etag: Etag::of("\"v1\""),
                tags: vec!["red".into(), "data:42".into()],
                visibility: Visibility::Private,
                maker: "demo".into(),
                variants: None,
            },
            times: Times {
                loaded_ms: NOW - 250,
                ttl_ms: 60_000,
                ttl_from_loader: true,
                swr_ms: 30_000,
                sie_ms: 3_600_000,
            },
            stamp: Stamp {
                epoch: 0xfeed_beef_0123_4567,
                seq: 7,
                sync: 1,
            },
            as_of_ms: NOW,
        }
    }

    fn missing() -> Draft {
        Draft {
            content: Content::missing(vec!["data:42".into()], "demo", Visibility::Public),
            times: Times {
                loaded_ms: NOW,
                ttl_ms: 5_000,
                ttl_from_loader: false,
                swr_ms: 0,
                sie_ms: 0,
            },
            stamp: Stamp {
                epoch: 1,
                seq: 0,
                sync: 1,
            },
            as_of_ms: NOW,
        }
    }

    /// As the storing script leaves it.
    fn stored(draft: &Draft, stored_ms: u64) -> Vec<u8> {
        let mut bytes = encode(&draft.clone().keep(KEY), KEY, NOW);
        bytes[TIME_AT..SUM_AT].copy_from_slice(format!("{stored_ms:016}").as_bytes());
        bytes
    }

    fn decoded(bytes: impl Into<Bytes>) -> Result<Draft, Foreign> {
        decode(bytes.into(), KEY, NOW, 0)
    }

    fn assert_same(one: &Draft, other: &Draft) {
        assert_eq!(one.content, other.content);
        assert_eq!(one.times, other.times);
        assert_eq!(
            (one.stamp.epoch, one.stamp.seq),
            (other.stamp.epoch, other.stamp.seq)
        );
    }

    #[test]
    fn what_is_encoded_decodes_the_same_and_its_body_is_not_copied() {
        for entry in [found(), missing()] {
            let bytes = Bytes::from(stored(&entry, NOW));
            let again = decoded(bytes.clone()).unwrap();
            assert_same(&again, &entry);
            let body = again.content.body.as_ptr_range();
            assert!(
                body.start >= bytes.as_ptr_range().start && body.end <= bytes.as_ptr_range().end
            );
        }
    }

    /// The stored bytes of version 1, kept as they were first written: a release that cannot read them any more, or
    /// writes others under the same version number, fails here.
    #[test]
    fn the_fixtures_of_version_1_stay_what_they_are() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/envelope");
        for (name, entry) in [("v1-found.bin", found()), ("v1-missing.bin", missing())] {
            let kept = std::fs::read(format!("{directory}/{name}")).unwrap();
            assert_eq!(stored(&entry, NOW), kept, "{name} is written differently");
            assert_same(&decoded(kept).unwrap(), &entry);
        }
    }

    #[test]
    fn age_counts_from_the_load_on_the_readers_clock() {
        let check = |stored_ms: u64, offset_ms: i64, loaded_ms: u64| {
            let entry = decode(stored(&found(), stored_ms).into(), KEY, NOW, offset_ms).unwrap();
            assert_eq!(entry.times.loaded_ms, loaded_ms);
        };
        check(NOW, 0, NOW - 250);
        check(NOW - 10_000, 0, NOW - 10_250);
        // The tier's clock is an hour ahead, then an hour behind.
        check(NOW + 3_600_000 - 5, 3_600_000, NOW - 255);
        check(NOW - 3_600_000 - 5, -3_600_000, NOW - 255);
        // A little ahead is rounding, and never younger than now.
        check(NOW + AHEAD_MS_MAX, 0, NOW - 250);
    }

    #[test]
    fn law_11_what_is_not_ours_is_foreign_and_says_why() {
        let check = |bytes: Vec<u8>, reason: &str| {
            assert_eq!(decoded(bytes).unwrap_err().reason, reason);
        };
        let good = stored(&found(), NOW);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        check(Vec::new(), "shorter than an envelope");
        check(good[..META_AT - 1].to_vec(), "shorter than an envelope");
        check(with(0, b'l'), "another format or version");
        check(with(7, 2), "another format or version");
        check(with(TIME_AT + 3, b'x'), "time is not a number");
        check(with(SUM_AT, good[SUM_AT] ^ 1), "checksum");
        check(with(META_AT + 3, b'?'), "checksum");
        check(good[..good.len() - 1].to_vec(), "checksum");
        check(
            stored(&found(), NOW + AHEAD_MS_MAX + 1),
            "time in the future",
        );
        assert_eq!(
            decode(good.into(), "{other}:demo~1:key=42", NOW, 0)
                .unwrap_err()
                .reason,
            "stored under another key"
        );
    }

    /// Bytes with a checksum that fits: what remains is what decoding itself must stand.
    fn sealed(meta_len: u32, rest: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(format!("{NOW:016}").as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&meta_len.to_le_bytes());
        bytes.extend_from_slice(rest);
        let sum = checksum(&bytes).to_le_bytes();
        bytes[SUM_AT..META_LEN_AT].copy_from_slice(&sum);
        bytes
    }

    proptest! {
        /// Law 11: no bytes make it panic, and none but ours decode.
        #[test]
        fn law_11_arbitrary_bytes_are_foreign(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decoded(bytes).is_err());
        }

        /// Law 11: not even with a header and a checksum that fit.
        #[test]
        fn law_11_arbitrary_metadata_does_no_harm(
            meta_len in prop_oneof![0u32..200, any::<u32>()],
            rest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(decoded(sealed(meta_len, &rest)).is_err());
        }

        /// Law 11: a value cut short, at any place.
        #[test]
        fn law_11_truncated_values_are_foreign(cut in any::<prop::sample::Index>()) {
            let bytes = stored(&found(), NOW);
            prop_assert!(decoded(bytes[..cut.index(bytes.len())].to_vec()).is_err());
        }

        /// Law 11: any one flipped bit is noticed, except in the time, where it makes the entry older or foreign,
        /// never younger than it is by more than the tolerance.
        #[test]
        fn law_11_flipped_bits_are_foreign(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = stored(&found(), NOW);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            match decoded(bytes) {
                Err(_) => {}
                Ok(entry) => {
                    prop_assert!((TIME_AT..SUM_AT).contains(&at));
                    prop_assert!(entry.times.loaded_ms <= found().times.loaded_ms);
                }
            }
        }
    }
}
