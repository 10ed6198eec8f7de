//! Purges the tier could not be told, kept until it can. Bounded (law 12); knows no Redis.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::cache::generations::{Mode, Scope};

/// More different purges than this become one of everything.
pub(super) const PENDING_MAX: usize = 1024;

/// A purge that is kept. The ticket tells it from the same purge made again later.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) scope: Scope,
    pub(super) mode: Mode,
    ticket: u64,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Pending {
    list: Mutex<List>,
    /// As many as the list has: asked before every store, without the lock.
    len: AtomicUsize,
}

#[derive(Debug, Default)]
struct List {
    kept: Vec<Kept>,
    tickets: u64,
}

impl Pending {
    /// Keeps a purge. Returns what was kept: the purge itself, or one of everything if there was no room.
    pub(super) fn keep(&self, scope: &Scope, mode: Mode) -> (Scope, Mode) {
        let mut list = self.list.lock();
        list.tickets += 1;
        let ticket = list.tickets;
        let same = list
            .kept
            .iter_mut()
            .find(|kept| kept.mode == mode && kept.scope == *scope);
        let kept = if let Some(kept) = same {
            kept.ticket = ticket;
            (scope.clone(), mode)
        } else {
            let (scope, mode) = if list.kept.len() < PENDING_MAX {
                (scope.clone(), mode)
            } else {
                // The harder of the modes stands for all of them.
                let hard =
                    mode == Mode::Delete || list.kept.iter().any(|kept| kept.mode == Mode::Delete);
                list.kept.clear();
                let mode = if hard { Mode::Delete } else { Mode::Expire };
                (Scope::All, mode)
            };
            list.kept.push(Kept {
                scope: scope.clone(),
                mode,
                ticket,
            });
            (scope, mode)
        };
        self.len.store(list.kept.len(), Ordering::Release);
        kept
    }

    /// All that is kept, in the order it came.
    pub(super) fn snapshot(&self) -> Vec<Kept> {
        self.list.lock().kept.clone()
    }

    /// Forgets what the tier was told, but not what was purged again meanwhile.
    pub(super) fn forget(&self, told: &[Kept]) {
        let tickets: std::collections::HashSet<u64> = told.iter().map(|kept| kept.ticket).collect();
        let mut list = self.list.lock();
        list.kept.retain(|kept| !tickets.contains(&kept.ticket));
        self.len.store(list.kept.len(), Ordering::Release);
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(number: usize) -> Scope {
        Scope::Tag(number.to_string().into())
    }

    #[test]
    fn the_same_purge_is_kept_once_and_not_forgotten_with_its_older_self() {
        let pending = Pending::default();
        pending.keep(&tag(1), Mode::Delete);
        let told = pending.snapshot();
        pending.keep(&tag(1), Mode::Delete);
        assert_eq!(pending.len(), 1);
        pending.forget(&told);
        assert_eq!(pending.len(), 1, "purged again while it was being told");
        pending.forget(&pending.snapshot());
        assert!(pending.is_empty());
    }

    #[test]
    fn law_12_too_many_become_one_of_everything_as_hard_as_the_hardest() {
        for (last, expect) in [(Mode::Delete, Mode::Delete), (Mode::Expire, Mode::Expire)] {
            let pending = Pending::default();
            for number in 0..PENDING_MAX {
                let kept = pending.keep(&tag(number), Mode::Expire);
                assert_eq!(kept, (tag(number), Mode::Expire));
            }
            assert_eq!(pending.keep(&tag(PENDING_MAX), last), (Scope::All, expect));
            assert_eq!(pending.len(), 1);
        }
    }
}
