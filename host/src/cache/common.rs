//! What many entries have in common: the texts that all keys of a route share, who made them, the media type. Held once for all
//! entries that are alike; must not know what an entry is besides.
//!
//! # Why this is bounded
//!
//! What was shared last is looked for in a table of fixed size, [`SETS`] times [`WAYS`], and what is not there is made anew. So
//! a loader that makes up a media type for each of its answers fills the table with what nobody asks for again, and its entries
//! share nothing; but each goes with its last entry, and nothing is kept beyond that but what is in the table. Whoever comes
//! back after it was pushed out is made once more: two that are alike and not the same cost memory, and no more than that.

use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
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

/// A [`View`] that is kept. Its texts lie together: every hit compares two of them, and each that lay elsewhere would have to
/// come from memory where there are many routes.
pub(super) struct Common {
    /// Before, between, media type, maker.
    texts: Box<str>,
    /// Where each of the first three ends.
    ends: [u32; 3],
    has_content_type: bool,
    pub(super) epoch: u64,
    pub(super) swr_ms: u64,
    pub(super) sie_ms: u64,
    pub(super) status: u16,
    pub(super) kind: EntryKind,
    pub(super) visibility: Visibility,
    pub(super) ttl_from_loader: bool,
    pub(super) is_digest: bool,
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
        Self {
            texts: texts.into(),
            ends,
            has_content_type: view.content_type.is_some(),
            epoch: view.epoch,
            swr_ms: view.swr_ms,
            sie_ms: view.sie_ms,
            status: view.status,
            kind: view.kind,
            visibility: view.visibility,
            ttl_from_loader: view.ttl_from_loader,
            is_digest: view.is_digest,
        }
    }

    #[inline]
    pub(super) fn before(&self) -> &str {
        &self.texts[..self.ends[0] as usize]
    }

    #[inline]
    pub(super) fn between(&self) -> &str {
        &self.texts[self.ends[0] as usize..self.ends[1] as usize]
    }

    #[inline]
    pub(super) fn content_type(&self) -> Option<&str> {
        let text = &self.texts[self.ends[1] as usize..self.ends[2] as usize];
        self.has_content_type.then_some(text)
    }

    pub(super) fn maker(&self) -> &str {
        &self.texts[self.ends[2] as usize..]
    }

    fn view(&self) -> View<'_> {
        View {
            before: self.before(),
            between: self.between(),
            content_type: self.content_type(),
            maker: self.maker(),
            epoch: self.epoch,
            swr_ms: self.swr_ms,
            sie_ms: self.sie_ms,
            status: self.status,
            kind: self.kind,
            visibility: self.visibility,
            ttl_from_loader: self.ttl_from_loader,
            is_digest: self.is_digest,
        }
    }

    /// Bytes it takes.
    pub(super) fn weight(&self) -> usize {
        // An `Arc` counts twice before what it holds.
        allocated(size_of::<[usize; 2]>() + size_of::<Self>()) + allocated(self.texts.len())
    }
}

/// Those that were shared last, the very last first.
type Set = Mutex<[Option<Arc<Common>>; WAYS]>;

/// One for the process: what is in it changes what is allocated, and nothing else.
static TABLE: LazyLock<[Set; SETS]> = LazyLock::new(|| std::array::from_fn(|_| Set::default()));

/// The one that is alike, and whether it is new.
pub(super) fn share(view: View<'_>) -> (Arc<Common>, bool) {
    share_in(&TABLE, view)
}

fn share_in(table: &[Set; SETS], view: View<'_>) -> (Arc<Common>, bool) {
    let content_type = view.content_type.unwrap_or_default();
    let hash = xxh3_64(view.between.as_bytes())
        ^ xxh3_64(view.before.as_bytes()).rotate_left(1)
        ^ xxh3_64(content_type.as_bytes()).rotate_left(2)
        ^ u64::from(view.status) << 2
        ^ u64::from(view.visibility == Visibility::Private) << 1
        ^ u64::from(view.is_digest);
    // The low bits: below `SETS` whatever a pointer's width is.
    let mut set = table[(hash % SETS as u64) as usize].lock();
    let alike = |common: &Option<Arc<Common>>| {
        let common = common.as_ref();
        common.is_some_and(|common| common.view() == view)
    };
    let found = set.iter().position(alike);
    let at = found.unwrap_or(WAYS - 1);
    // What this pushes out is dropped when the lock is free again.
    let _out = match found {
        Some(_) => None,
        None => set[at].replace(Arc::new(Common::of(view))),
    };
    if at > 0 {
        set[..=at].rotate_right(1);
    }
    let common = set[0].as_ref().map(Arc::clone);
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
        assert!(!is_new && Arc::ptr_eq(&first, &again));
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
            assert!(is_new && common.view() == other);
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
            made_up.push(Arc::downgrade(&common));
            // So often that no set can fill meanwhile.
            assert!(!share_in(&table, VIEW).1);
        }
        let alive = made_up.iter().filter(|it| it.strong_count() > 0).count();
        assert!(alive < SETS * WAYS, "{alive}");
        assert_eq!(Arc::strong_count(&used), 2);
    }
}
