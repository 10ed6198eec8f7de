//! What many entries have in common: the texts that all keys of a route share, who made them, the media type. Held once for all
//! entries that are alike; must not know what an entry is besides.
//!
//! # Why this is bounded
//!
//! What was shared last is looked for in a table of fixed size, [`SETS`] times [`WAYS`], and what is not there is made anew. So
//! a loader that makes up a media type for each of its answers fills the table with what nobody asks for again, and its entries
//! share nothing; but each goes with its last entry, and nothing is kept beyond that but what is in the table. Whoever comes
//! back after it was pushed out is made once more: two that are alike and not the same cost memory, and no more than that.

use std::ops::Deref;
use std::sync::LazyLock;

use parking_lot::Mutex;
use triomphe::ThinArc;
use xxhash_rust::xxh3::xxh3_64;

use super::entry::{EntryKind, allocated};
use crate::key::Visibility;

/// The longest media type that is held in common, in bytes: one that is longer is made up, or counted where it is used.
pub(super) const CONTENT_TYPE_MAX: usize = 128;

/// A power of two.
const SETS: usize = 128;
const WAYS: usize = 4;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct View<'a> {
    /// What the text of the key begins with.
    pub(super) before: &'a str,
    /// What it has between the values of its resource and its parts.
    pub(super) between: &'a str,
    pub(super) content_type: Option<&'a str>,
    pub(super) maker: &'a str,
    pub(super) epoch: u64,
    pub(super) swr_ms: u64,
    pub(super) sie_ms: u64,
    pub(super) status: u16,
    pub(super) kind: EntryKind,
    pub(super) visibility: Visibility,
    pub(super) ttl_from_loader: bool,
    /// Whether the entity tag is a digest.
    pub(super) is_digest: bool,
}

/// A [`View`] that is kept. Its texts follow it in one piece: every hit compares two of them, and each piece that lay elsewhere
/// would have to come from memory where there are many routes.
#[derive(Clone)]
pub(super) struct Common(ThinArc<Fixed, u8>);

/// What has a fixed size. With the count and the length that an allocation begins with it fills a cache line.
pub(super) struct Fixed {
    pub(super) epoch: u64,
    pub(super) swr_ms: u64,
    pub(super) sie_ms: u64,
    /// Where each of the first three texts ends: before, between, media type, maker.
    ends: [u32; 3],
    pub(super) status: u16,
    has_content_type: bool,
    pub(super) kind: EntryKind,
    pub(super) visibility: Visibility,
    pub(super) ttl_from_loader: bool,
    pub(super) is_digest: bool,
}

const _: () = assert!(size_of::<Fixed>() + 2 * size_of::<usize>() <= 64);

impl Deref for Common {
    type Target = Fixed;

    #[inline]
    fn deref(&self) -> &Fixed {
        &self.0.header.header
    }
}

impl Common {
    fn of(view: View<'_>) -> Self {
        let content_type = view.content_type.unwrap_or_default();
        let mut texts = String::new();
        let ends = [view.before, view.between, content_type].map(|text| {
            texts.push_str(text);
            texts.len() as u32
        });
        texts.push_str(view.maker);
        let fixed = Fixed {
            epoch: view.epoch,
            swr_ms: view.swr_ms,
            sie_ms: view.sie_ms,
            ends,
            status: view.status,
            has_content_type: view.content_type.is_some(),
            kind: view.kind,
            visibility: view.visibility,
            ttl_from_loader: view.ttl_from_loader,
            is_digest: view.is_digest,
        };
        Self(ThinArc::from_header_and_slice(fixed, texts.as_bytes()))
    }

    #[inline]
    fn text(&self, from: u32, to: usize) -> &[u8] {
        &self.0.slice[from as usize..to]
    }

    #[inline]
    pub(super) fn before(&self) -> &[u8] {
        self.text(0, self.ends[0] as usize)
    }

    #[inline]
    pub(super) fn between(&self) -> &[u8] {
        self.text(self.ends[0], self.ends[1] as usize)
    }

    #[inline]
    pub(super) fn content_type(&self) -> Option<&str> {
        let text = self.text(self.ends[1], self.ends[2] as usize);
        self.has_content_type.then(|| str_of(text))
    }

    pub(super) fn maker(&self) -> &str {
        str_of(self.text(self.ends[2], self.0.slice.len()))
    }

    fn is(&self, view: &View<'_>) -> bool {
        let fixed = View {
            before: view.before,
            between: view.between,
            content_type: view.content_type,
            maker: view.maker,
            epoch: self.epoch,
            swr_ms: self.swr_ms,
            sie_ms: self.sie_ms,
            status: self.status,
            kind: self.kind,
            visibility: self.visibility,
            ttl_from_loader: self.ttl_from_loader,
            is_digest: self.is_digest,
        };
        fixed == *view
            && self.before() == view.before.as_bytes()
            && self.between() == view.between.as_bytes()
            && self.content_type() == view.content_type
            && self.maker() == view.maker
    }

    /// Bytes it takes.
    pub(super) fn weight(&self) -> usize {
        allocated(2 * size_of::<usize>() + size_of::<Fixed>() + self.0.slice.len())
    }
}

/// A text that was put there as one.
#[inline]
fn str_of(text: &[u8]) -> &str {
    str::from_utf8(text).unwrap_or_default()
}

/// Those that were shared last, the very last first.
type Set = Mutex<[Option<Common>; WAYS]>;

/// One for the process: what is in it changes what is allocated, and nothing else.
static TABLE: LazyLock<[Set; SETS]> = LazyLock::new(|| std::array::from_fn(|_| Set::default()));

/// The one that is alike, and whether it is new.
pub(super) fn share(view: View<'_>) -> (Common, bool) {
    share_in(&TABLE, view)
}

fn share_in(table: &[Set; SETS], view: View<'_>) -> (Common, bool) {
    let content_type = view.content_type.unwrap_or_default();
    let hash = xxh3_64(view.between.as_bytes())
        ^ xxh3_64(view.before.as_bytes()).rotate_left(1)
        ^ xxh3_64(content_type.as_bytes()).rotate_left(2)
        ^ u64::from(view.status) << 2
        ^ u64::from(view.visibility == Visibility::Private) << 1
        ^ u64::from(view.is_digest);
    // The low bits: below `SETS` whatever a pointer's width is.
    let mut set = table[(hash % SETS as u64) as usize].lock();
    let alike = |common: &Option<Common>| {
        let common = common.as_ref();
        common.is_some_and(|common| common.is(&view))
    };
    let found = set.iter().position(alike);
    let at = found.unwrap_or(WAYS - 1);
    // What this pushes out is dropped when the lock is free again.
    let _out = match found {
        Some(_) => None,
        None => set[at].replace(Common::of(view)),
    };
    if at > 0 {
        set[..=at].rotate_right(1);
    }
    let common = set[0].clone();
    drop(set);
    (common.expect("it was just put there"), found.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View<'_> = View {
        before: "{%2Fdata%2F%7Bkey%7D",
        between: "}:demo~1:",
        content_type: Some("application/json"),
        maker: "demo",
        epoch: 1,
        swr_ms: 2,
        sie_ms: 3,
        status: 200,
        kind: EntryKind::Found,
        visibility: Visibility::Public,
        ttl_from_loader: false,
        is_digest: true,
    };

    fn table() -> [Set; SETS] {
        std::array::from_fn(|_| Set::default())
    }

    #[test]
    fn what_is_alike_is_shared_and_what_differs_in_anything_is_not() {
        let table = table();
        let (first, is_new) = share_in(&table, VIEW);
        assert!(is_new);
        let (again, is_new) = share_in(&table, VIEW);
        assert!(!is_new && ThinArc::ptr(&first.0) == ThinArc::ptr(&again.0));
        for other in [
            View {
                before: "{",
                ..VIEW
            },
            View {
                between: "}:",
                ..VIEW
            },
            View {
                content_type: None,
                ..VIEW
            },
            View {
                maker: "other",
                ..VIEW
            },
            View { epoch: 9, ..VIEW },
            View { swr_ms: 9, ..VIEW },
            View { sie_ms: 9, ..VIEW },
            View {
                status: 203,
                ..VIEW
            },
            View {
                kind: EntryKind::Missing,
                ..VIEW
            },
            View {
                visibility: Visibility::Private,
                ..VIEW
            },
            View {
                ttl_from_loader: true,
                ..VIEW
            },
            View {
                is_digest: false,
                ..VIEW
            },
        ] {
            let (common, is_new) = share_in(&table, other);
            assert!(is_new && common.is(&other) && !common.is(&VIEW));
        }
    }

    #[test]
    fn law_12_what_nobody_asks_for_again_is_let_go_and_what_is_used_stays() {
        let table = table();
        let (used, _) = share_in(&table, VIEW);
        let mut made_up = Vec::new();
        for number in 0..4 * SETS * WAYS {
            let content_type = format!("text/x-{number}");
            let content_type = Some(&*content_type);
            let (common, _) = share_in(
                &table,
                View {
                    content_type,
                    ..VIEW
                },
            );
            made_up.push(common);
            // So often that no set can fill meanwhile.
            assert!(!share_in(&table, VIEW).1);
        }
        // By the table and by this test.
        let is_kept = |common: &&Common| ThinArc::strong_count(&common.0) > 1;
        let kept = made_up.iter().filter(is_kept).count();
        assert!(kept < SETS * WAYS, "{kept}");
        assert_eq!(ThinArc::strong_count(&used.0), 2);
    }
}
