//! The body of an entry in other content codings (RFC 9110 section 8.4), kept with the entry and gone with it. Knows which
//! codings there are, not how they are made nor who is sent one.
//!
//! # Why they are bounded
//! A variant is made after its entry was weighed and put into the memory tier, so the tier cannot count it. Every variant holds
//! instead a [`Share`] of one [`Budget`], for as long as it is there, and so does the place where they are kept: with the budget
//! used up none is made, and the body leaves as it is.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them, the one that makes JSON shortest first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// As `Content-Encoding` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// How many bytes variants take, and may.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max: u64,
}

impl Budget {
    /// None is used.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            max,
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes that may be.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Takes some, if there are so many left. Two that ask at once never both get the last ones: the sum is added first, and
    /// taken back by whoever went over.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let share = Share {
            budget: Arc::clone(self),
            bytes,
        };
        let before = self.used.fetch_add(bytes, Relaxed);
        (before.saturating_add(bytes) <= self.max).then_some(share)
    }
}

/// Bytes of the budget; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[derive(Debug)]
struct Variant {
    body: Bytes,
    _share: Share,
}

/// The variants of one body. A body in a coding is made once: whoever [begins](Variants::begin) it is the only one.
#[derive(Default)]
pub struct Variants {
    /// Of what they take themselves.
    _share: Option<Share>,
    begun: AtomicU8,
    /// `None`: it was tried, and is no shorter, or there was no room.
    made: [OnceLock<Option<Variant>>; Coding::ALL.len()],
}

/// What there is in a coding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// The body.
    Ready(Bytes),
    /// Nothing, and nothing will be.
    Useless,
    /// Nothing yet.
    Absent,
}

impl Variants {
    /// None yet, and the share of what keeping them takes.
    pub fn with(share: Share) -> Self {
        Self {
            _share: Some(share),
            ..Self::default()
        }
    }

    /// What there is.
    pub fn get(&self, coding: Coding) -> Made {
        match self.made[coding as usize].get() {
            Some(Some(variant)) => Made::Ready(variant.body.clone()),
            Some(None) => Made::Useless,
            None => Made::Absent,
        }
    }

    /// Whether the caller is the one to make it.
    pub fn begin(&self, coding: Coding) -> bool {
        let bit = 1 << coding as u8;
        self.begun.fetch_or(bit, Relaxed) & bit == 0
    }

    /// Keeps what was made of a body of this length, if it is shorter and there is room.
    pub fn keep(&self, coding: Coding, length: usize, body: Vec<u8>, budget: &Arc<Budget>) {
        let variant = (body.len() < length)
            .then(|| budget.take(body.len() as u64))
            .flatten()
            .map(|share| Variant {
                // What the compressor had reserved and not used would not be counted.
                body: Bytes::from(body.into_boxed_slice()),
                _share: share,
            });
        let _ = self.made[coding as usize].set(variant);
    }
}

impl std::fmt::Debug for Variants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Variants")
    }
}

/// They say nothing that the body does not.
impl PartialEq for Variants {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Variants {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_12_variants_hold_shares_of_a_budget_and_give_them_back() {
        let budget = Budget::new(100);
        let (one, other) = (Variants::default(), Variants::default());
        one.keep(Coding::Brotli, 1000, vec![0; 60], &budget);
        assert_eq!(budget.used(), 60);
        other.keep(Coding::Gzip, 1000, vec![0; 60], &budget);
        assert_eq!(other.get(Coding::Gzip), Made::Useless, "no room");
        assert_eq!(budget.used(), 60);
        assert!(matches!(one.get(Coding::Brotli), Made::Ready(body) if body.len() == 60));
        drop(one);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_makes_it_and_what_is_no_shorter_is_not_kept() {
        let budget = Budget::new(100);
        let variants = Variants::default();
        assert_eq!(variants.get(Coding::Zstd), Made::Absent);
        assert!(variants.begin(Coding::Zstd) && !variants.begin(Coding::Zstd));
        assert!(variants.begin(Coding::Gzip), "each by itself");
        variants.keep(Coding::Zstd, 10, vec![0; 10], &budget);
        assert_eq!(variants.get(Coding::Zstd), Made::Useless);
    }
}
