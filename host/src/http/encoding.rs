//! In which content coding a body leaves (RFC 9110 section 12.5.3), and how it comes into one. A hit never waits for that: who
//! asks first has the body as it is, and finds begun what whoever comes later is sent.

use std::borrow::Cow;
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use http::header;
use tokio::sync::Semaphore;

use crate::cache::entry::{Entry, EntryKind, VARIANTS_BYTES};
use crate::cache::variants::{Budget, Coding, Made, Variants};
use crate::route::fields::Fields;

/// Shorter bodies fit one packet with their head: nothing is won by making them shorter.
const BODY_MIN: usize = 1024;
/// Longer ones would keep a thread for long.
const BODY_MAX: usize = 16 * 1024 * 1024;
/// Made at once.
const TURNS: usize = 1;

/// Makes variants of bodies behind those who ask for them.
pub struct Encoder {
    budget: Arc<Budget>,
    turns: Arc<Semaphore>,
}

impl Encoder {
    /// One whose variants take so many bytes at most; with none it makes none.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            budget: Budget::new(bytes_max),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// Bytes that variants take.
    pub fn bytes(&self) -> u64 {
        self.budget.used()
    }

    /// The best coding of the body that the request takes and that is there. What is not there is begun, if there is a turn.
    pub(super) fn choose(
        &self,
        entry: &Entry,
        allowed: &[Coding],
        request: &impl Fields,
    ) -> Option<(Coding, Bytes)> {
        let field = asked_for(request)?;
        let mut is_begun = false;
        for coding in accepted(std::str::from_utf8(&field).ok()?, allowed) {
            let made = entry.variants();
            match made.map_or(Made::Absent, |made| made.get(coding)) {
                Made::Ready(body) => return Some((coding, body)),
                // Those that the client likes less are made for who likes them best.
                Made::Absent if !is_begun => {
                    self.begin(entry, coding);
                    is_begun = true;
                }
                Made::Absent | Made::Useless => {}
            }
        }
        None
    }

    /// Where the variants of an entry are kept; none if there is no room left for that.
    fn variants<'e>(&self, entry: &'e Entry) -> Option<&'e Arc<Variants>> {
        entry.variants().or_else(|| {
            let share = self.budget.take(VARIANTS_BYTES as u64)?;
            Some(entry.variants_with(share))
        })
    }

    /// Makes one in the pool of threads that may block. With no turn left nothing is begun: a later request does.
    fn begin(&self, entry: &Entry, coding: Coding) {
        // The turn first: a place for variants that nobody has a turn to make would use the budget up.
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return;
        };
        let Some(variants) = self.variants(entry).filter(|it| it.begin(coding)) else {
            return;
        };
        let (variants, entry) = (Arc::clone(variants), entry.clone());
        let budget = Arc::clone(&self.budget);
        tokio::task::spawn_blocking(move || {
            // What cannot be made is told as what is no shorter.
            let body = entry.bytes();
            let made = encode(coding, body).unwrap_or_else(|_| body.to_vec());
            variants.keep(coding, body.len(), made, &budget);
            drop(turn);
        });
    }
}

/// Whether the body can leave in more than one coding.
pub(super) fn is_worth_it(entry: &Entry) -> bool {
    entry.kind() == EntryKind::Found
        && (BODY_MIN..=BODY_MAX).contains(&entry.len())
        && entry.content_type().is_some_and(shrinks)
        && entry
            .headers()
            .iter()
            .all(|header| !header.name.eq_ignore_ascii_case("content-encoding"))
}

/// Media types that are text. Pictures, sound and archives are compressed already.
fn shrinks(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let (main, sub) = essence.split_once('/').unwrap_or((essence, ""));
    let is = |text: &str, wanted: &str| text.eq_ignore_ascii_case(wanted);
    let ends = |wanted: &str| {
        sub.len() >= wanted.len()
            && sub.is_char_boundary(sub.len() - wanted.len())
            && is(&sub[sub.len() - wanted.len()..], wanted)
    };
    let texts = ["json", "javascript", "xml", "x-ndjson", "wasm", "graphql"];
    is(main, "text")
        || (is(main, "application") && texts.iter().any(|text| is(sub, text)))
        || ends("+json")
        || ends("+xml")
        || ends("+text")
}

/// What the request says of codings. Several lines are one list (RFC 9110 section 5.3); hardly anybody sends them.
fn asked_for(request: &impl Fields) -> Option<Cow<'_, [u8]>> {
    let mut lines = request.all(&header::ACCEPT_ENCODING);
    let mut whole = Cow::Borrowed(lines.next()?);
    for line in lines {
        let whole = whole.to_mut();
        whole.extend_from_slice(b", ");
        whole.extend_from_slice(line);
    }
    Some(whole)
}

/// The codings that a field takes, the one it likes best first, and of equals the one that is shortest.
fn accepted(field: &str, allowed: &[Coding]) -> impl Iterator<Item = Coding> {
    let mut every = None;
    let mut named: [Option<u16>; Coding::ALL.len()] = [None; 3];
    for part in field.split(',') {
        let (name, parameters) = part.split_once(';').unwrap_or((part, ""));
        let Some(weight) = weight(parameters) else {
            continue;
        };
        let name = name.trim();
        if name == "*" {
            every = Some(weight);
        }
        for coding in Coding::ALL {
            // RFC 9110 section 8.4.1.3.
            let is_old = coding == Coding::Gzip && name.eq_ignore_ascii_case("x-gzip");
            if is_old || name.eq_ignore_ascii_case(coding.name()) {
                named[coding as usize] = Some(weight);
            }
        }
    }
    let mut codings: Vec<(u16, Coding)> = Coding::ALL
        .into_iter()
        .filter(|coding| allowed.contains(coding))
        .filter_map(|coding| Some((named[coding as usize].or(every)?, coding)))
        .filter(|(weight, _)| *weight > 0)
        .collect();
    // Stable: of equals the earlier stays before the later.
    codings.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    codings.into_iter().map(|(_, coding)| coding)
}

/// `q=0.5` in thousandths (RFC 9110 section 12.4.2); none of what is none.
fn weight(parameters: &str) -> Option<u16> {
    let parameter = parameters.trim();
    if parameter.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f32 = value.trim().parse().ok()?;
    (0.0..=1.0)
        .contains(&value)
        .then(|| (value * 1000.0).round() as u16)
}

/// Made once and sent many times, so worth some effort; the highest levels take ten times as long for a few percent.
fn encode(coding: Coding, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut made = Vec::with_capacity(body.len() / 2);
    match coding {
        Coding::Brotli => {
            let mut encoder = brotli::CompressorWriter::new(&mut made, 4096, 6, 20);
            encoder.write_all(body)?;
            encoder.flush()?;
            drop(encoder);
        }
        Coding::Zstd => return zstd::bulk::compress(body, 9),
        Coding::Gzip => {
            let level = flate2::Compression::new(6);
            flate2::read::GzEncoder::new(body, level).read_to_end(&mut made)?;
        }
    }
    Ok(made)
}

/// The entity tag of a body in a coding: strong tags name bytes, so each coding has its own (RFC 9110 section 8.8.3.3).
pub(super) fn tag(etag: &str, coding: Coding) -> String {
    match etag.strip_suffix('"') {
        Some(open) if !etag.starts_with("W/") => format!("{open}~{}\"", coding.name()),
        _ => etag.to_owned(),
    }
}

/// The entity tag without the coding that [`tag`] gave it.
pub(super) fn plain_tag(tag: &str) -> Option<String> {
    let open = tag.strip_suffix('"')?;
    let mut codings = Coding::ALL.iter();
    let open = codings.find_map(|coding| open.strip_suffix(coding.name())?.strip_suffix('~'))?;
    Some(format!("{open}\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(field: &str, allowed: &[Coding]) -> Vec<&'static str> {
        accepted(field, allowed).map(Coding::name).collect()
    }

    #[test]
    fn the_liked_best_comes_first_and_what_is_refused_never() {
        for (field, wanted) in [
            ("", &[][..]),
            ("identity", &[]),
            ("gzip", &["gzip"]),
            ("x-gzip", &["gzip"]),
            ("gzip, deflate, br, zstd", &["br", "zstd", "gzip"]),
            ("gzip;q=1.0, br;q=0.5", &["gzip", "br"]),
            ("*", &["br", "zstd", "gzip"]),
            ("*;q=0.1, gzip", &["gzip", "br", "zstd"]),
            ("*, br;q=0", &["zstd", "gzip"]),
            ("BR ; Q=0.8", &["br"]),
            ("br;q=2, gzip;q=x, zstd;level=3", &[]),
            ("gzip;q=0", &[]),
        ] {
            assert_eq!(names(field, &Coding::ALL), wanted, "{field:?}");
        }
        assert_eq!(names("br, gzip", &[Coding::Gzip]), ["gzip"]);
        assert!(names("br, gzip", &[]).is_empty());
    }

    #[test]
    fn several_lines_are_one_list() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(asked_for(&headers), None);
        for (line, whole) in [("br", "br"), ("br;q=0, gzip", "br, br;q=0, gzip")] {
            headers.append(header::ACCEPT_ENCODING, line.parse().unwrap());
            assert_eq!(asked_for(&headers).unwrap(), whole.as_bytes());
        }
        assert_eq!(names("br, br;q=0, gzip", &Coding::ALL), ["gzip"]);
    }

    #[test]
    fn only_text_is_worth_it() {
        for text in [
            "application/json",
            "application/json; charset=utf-8",
            "text/html",
            "application/problem+json",
            "image/svg+xml",
        ] {
            assert!(shrinks(text), "{text}");
        }
        for other in [
            "image/png",
            "application/zip",
            "video/mp4",
            "",
            "json",
            "application/é",
        ] {
            assert!(!shrinks(other), "{other}");
        }
    }

    #[test]
    fn a_tag_names_its_coding_and_can_be_read_back() {
        for coding in Coding::ALL {
            let tagged = tag("\"v1\"", coding);
            assert_ne!(tagged, "\"v1\"");
            assert_eq!(plain_tag(&tagged).as_deref(), Some("\"v1\""));
            assert_eq!(tag("W/\"v1\"", coding), "W/\"v1\"");
        }
        assert_eq!(plain_tag("\"v1\""), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_can_be_decoded(body in proptest::collection::vec(any::<u8>(), 0..4096)) {
            for coding in Coding::ALL {
                let made = encode(coding, &body).unwrap();
                let mut back = Vec::new();
                match coding {
                    Coding::Brotli => {
                        brotli::Decompressor::new(&made[..], 4096).read_to_end(&mut back).unwrap();
                    }
                    Coding::Zstd => back = zstd::bulk::decompress(&made, body.len() + 1).unwrap(),
                    Coding::Gzip => {
                        flate2::read::GzDecoder::new(&made[..]).read_to_end(&mut back).unwrap();
                    }
                }
                prop_assert_eq!(&back, &body);
            }
        }

        /// Against the words of RFC 9110 section 12.5.3, one coding at a time.
        #[test]
        fn a_coding_is_taken_if_it_is_named_or_all_are(
            parts in proptest::collection::vec(("br|gzip|zstd|\\*|identity|x", 0u16..=1000), 0..5)
        ) {
            let field: Vec<String> = parts.iter().map(|(name, q)| format!("{name};q={:.3}", f64::from(*q) / 1000.0)).collect();
            let taken = names(&field.join(", "), &Coding::ALL);
            for coding in Coding::ALL {
                let of = |wanted: &str| parts.iter().rfind(|(name, _)| name == wanted).map(|(_, q)| *q);
                let wanted = of(coding.name()).or(of("*")).is_some_and(|q| q > 0);
                prop_assert_eq!(taken.contains(&coding.name()), wanted);
            }
        }
    }
}
