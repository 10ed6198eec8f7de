//! What becomes of encoded bodies: whole, in pieces, broken, and far larger than they look. Runs natively.

use super::{Body, Encoding, SLICE};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_lite::future::block_on;
use std::cell::Cell;
use std::io::Write as _;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// `larder` a thousand times, encoded.
const BROTLI: &[u8] =
    b"\x1b\x6f\x17\xf8\x8d\x54\xb5\xbf\x94\x63\x0b\x2b\xb2\xb2\xb8\x2d\x0e\x40\xf2\x00\x70\x04";

fn decode(encoding: Encoding, sent: &[u8], piece: usize, max: usize) -> Result<Vec<u8>, String> {
    let mut body = Body::new(encoding, max);
    for piece in sent.chunks(piece) {
        block_on(body.take(piece, &async || {})).map_err(|failure| failure.code)?;
    }
    body.end().map_err(|failure| failure.code)
}

#[track_caller]
fn check(encoding: Encoding, sent: &[u8], max: usize, expect: Result<&[u8], &str>) {
    for piece in [1, 7, 64 << 10] {
        let decoded = decode(encoding, sent, piece, max);
        assert_eq!(
            decoded.as_deref().map_err(String::as_str),
            expect,
            "in pieces of {piece}"
        );
    }
}

#[test]
fn a_body_is_what_was_encoded() {
    let text = b"larder".repeat(1000);
    check(Encoding::Identity, &text, 6000, Ok(&text));
    check(Encoding::Gzip, &gzip(&text), 6000, Ok(&text));
    check(Encoding::Brotli, BROTLI, 6000, Ok(&text));
    let two = [gzip(b"one "), gzip(b"two")].concat();
    check(Encoding::Gzip, &two, 100, Ok(b"one two"));
    for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Brotli] {
        check(encoding, b"", 0, Ok(b""));
    }
}

#[test]
fn a_body_ends_at_its_bound_before_and_after_decoding() {
    let text = b"larder".repeat(1000);
    let too_long = Err("body-too-long");
    check(Encoding::Identity, &text, 5999, too_long);
    check(Encoding::Gzip, &gzip(&text), 5999, too_long);
    check(Encoding::Brotli, BROTLI, 5999, too_long);
    check(Encoding::Gzip, &gzip(b"a"), 20, too_long);
}

#[test]
fn a_broken_body_is_no_body() {
    let text = b"larder".repeat(1000);
    let broken = Err("origin-encoding-broken");
    let whole = gzip(&text);
    for cut in [1, 5, 9, whole.len() / 2] {
        check(Encoding::Gzip, &whole[..whole.len() - cut], 10_000, broken);
    }
    let mut wrong = whole.clone();
    *wrong.last_mut().unwrap() ^= 1;
    check(Encoding::Gzip, &wrong, 10_000, broken);
    check(Encoding::Gzip, b"plain text", 10_000, broken);
    check(Encoding::Gzip, &[&*whole, b"more"].concat(), 10_000, broken);
    let cut = &BROTLI[..BROTLI.len() - 1];
    check(Encoding::Brotli, cut, 10_000, broken);
    check(
        Encoding::Brotli,
        &[BROTLI, b"more"].concat(),
        10_000,
        broken,
    );
    check(Encoding::Brotli, b"plain text", 10_000, broken);
}

#[test]
fn what_grows_without_end_is_decoded_in_slices_and_never_held() {
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100 << 10);
    let mut body = Body::new(Encoding::Gzip, 16 << 20);
    let breaths = Cell::new(0);
    let breathe = async || breaths.set(breaths.get() + 1);
    let taken = block_on(body.take(&bomb, &breathe));
    assert_eq!(taken.unwrap_err().code, "body-too-long");
    assert!(body.bytes.len() < (16 << 20) + (128 << 10));
    assert!(breaths.get() >= (16 << 20) / SLICE - 1);
}

#[test]
fn an_encoding_that_was_not_asked_for_is_refused() {
    let check = |said, asked, expect: Result<Encoding, &str>| {
        let encoding = Encoding::of(said, asked).map_err(|failure| failure.code);
        assert_eq!(
            encoding.as_ref().map_err(String::as_str),
            expect.as_ref().map_err(|code| *code)
        );
    };
    let refused = Err("encoding-not-asked-for");
    check(None, "gzip, br", Ok(Encoding::Identity));
    check(Some("identity"), "gzip", Ok(Encoding::Identity));
    check(Some(""), "gzip", Ok(Encoding::Identity));
    check(Some("GZip"), "br, gzip;q=0.5", Ok(Encoding::Gzip));
    check(Some("x-gzip"), "gzip", Ok(Encoding::Gzip));
    check(Some("br"), "gzip, br", Ok(Encoding::Brotli));
    check(Some("br"), "gzip", refused);
    check(Some("gzip"), "identity", refused);
    check(Some("zstd"), "gzip, br", refused);
    check(Some("gzip, br"), "gzip, br", refused);
}
