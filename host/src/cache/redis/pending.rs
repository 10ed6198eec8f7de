//! Purges the tier could not be told, kept until it can, in memory and on disk (see `journal`); and those it was told
//! lately, to be told again after a failover. Bounded (law 12); knows no Redis.

use std::collections::VecDeque;
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
    /// The tier has given it a number; only the server of its resource is yet to be told.
    pub(super) numbered: bool,
    /// The number it had when it was told, if it was; else 0.
    pub(super) seq: u64,
    ticket: u64,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Pending {
    list: Mutex<List>,
    /// As many as the list has.
    len: AtomicUsize,
    /// As many of them as have no number: asked before every store, without the lock.
    unnumbered: AtomicUsize,
}

#[derive(Debug, Default)]
struct List {
    kept: Vec<Kept>,
    tickets: u64,
}

impl Pending {
    /// Keeps a purge, which the tier has numbered or not. Returns what was kept: the purge itself, or one of everything,
    /// without a number, if there was no room.
    pub(super) fn keep(&self, scope: &Scope, mode: Mode, numbered: bool) -> Kept {
        let mut list = self.list.lock();
        list.tickets += 1;
        let ticket = list.tickets;
        let same = list
            .kept
            .iter_mut()
            .find(|kept| kept.mode == mode && kept.scope == *scope);
        let kept = if let Some(kept) = same {
            kept.ticket = ticket;
            kept.numbered &= numbered;
            kept.clone()
        } else {
            let full = list.kept.len() >= PENDING_MAX;
            let mut kept = Kept {
                scope: scope.clone(),
                mode,
                numbered,
                seq: 0,
                ticket,
            };
            if full {
                // The harder of the modes stands for all of them.
                let hard =
                    mode == Mode::Delete || list.kept.iter().any(|kept| kept.mode == Mode::Delete);
                list.kept.clear();
                kept.mode = if hard { Mode::Delete } else { Mode::Expire };
                kept.scope = Scope::All;
                kept.numbered = false;
            }
            list.kept.push(kept.clone());
            kept
        };
        self.count(&list);
        kept
    }

    /// Notes that the tier has numbered a purge, unless it was kept again since.
    pub(super) fn mark_numbered(&self, told: &Kept) {
        let mut list = self.list.lock();
        for kept in &mut list.kept {
            if kept.ticket == told.ticket {
                kept.numbered = true;
            }
        }
        self.count(&list);
    }

    fn count(&self, list: &List) {
        let unnumbered = list.kept.iter().filter(|kept| !kept.numbered).count();
        self.unnumbered.store(unnumbered, Ordering::Release);
        self.len.store(list.kept.len(), Ordering::Release);
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
        self.count(&list);
    }

    /// Whether loads may be stamped with numbers that the tier does not know.
    pub(super) fn is_ahead(&self) -> bool {
        self.unnumbered.load(Ordering::Acquire) > 0
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How long a purge that was told is remembered: longer than a failover takes.
const RECENT_MS: u64 = 60_000;

/// What the tier was told lately.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<(Kept, u64)>>);

impl Recent {
    /// Remembers a purge that was told at `now_ms` and given the number `seq`. Too many become one of everything.
    pub(super) fn remember(&self, scope: &Scope, mode: Mode, (seq, now_ms): (u64, u64)) {
        let mut recent = self.0.lock();
        while recent
            .front()
            .is_some_and(|(_, at_ms)| at_ms + RECENT_MS < now_ms)
        {
            recent.pop_front();
        }
        let same = |(kept, _): &(Kept, u64)| kept.mode == mode && kept.scope == *scope;
        if let Some(place) = recent.iter().position(same) {
            recent.remove(place);
        }
        let mut kept = Kept {
            scope: scope.clone(),
            mode,
            numbered: false,
            seq,
            // No ticket of the list has it: nothing that is pending is forgotten with it.
            ticket: 0,
        };
        if recent.len() >= PENDING_MAX {
            let hard =
                mode == Mode::Delete || recent.iter().any(|(kept, _)| kept.mode == Mode::Delete);
            recent.clear();
            kept.scope = Scope::All;
            kept.mode = if hard { Mode::Delete } else { Mode::Expire };
        }
        recent.push_back((kept, now_ms));
    }

    /// What was told in the last minute.
    pub(super) fn snapshot(&self, now_ms: u64) -> Vec<Kept> {
        let recent = self.0.lock();
        recent
            .iter()
            .filter(|(_, at_ms)| at_ms + RECENT_MS >= now_ms)
            .map(|(kept, _)| kept.clone())
            .collect()
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
        pending.keep(&tag(1), Mode::Delete, false);
        let told = pending.snapshot();
        pending.keep(&tag(1), Mode::Delete, false);
        assert_eq!(pending.len(), 1);
        pending.forget(&told);
        assert_eq!(pending.len(), 1, "purged again while it was being told");
        pending.forget(&pending.snapshot());
        assert!(pending.is_empty());
    }

    #[test]
    fn only_what_has_no_number_puts_this_node_ahead_of_the_tier() {
        let pending = Pending::default();
        pending.keep(&tag(1), Mode::Delete, true);
        assert!(!pending.is_ahead() && !pending.is_empty());
        pending.keep(&tag(1), Mode::Delete, false);
        assert!(pending.is_ahead(), "purged again, and not numbered");
        let told = pending.snapshot();
        pending.mark_numbered(&told[0]);
        assert!(!pending.is_ahead());
        pending.keep(&tag(1), Mode::Delete, false);
        pending.mark_numbered(&told[0]);
        assert!(pending.is_ahead(), "the number is of its older self");
    }

    #[test]
    fn law_12_too_many_become_one_of_everything_as_hard_as_the_hardest() {
        for (last, expect) in [(Mode::Delete, Mode::Delete), (Mode::Expire, Mode::Expire)] {
            let (pending, recent) = (Pending::default(), Recent::default());
            for number in 0..PENDING_MAX {
                let kept = pending.keep(&tag(number), Mode::Expire, true);
                assert_eq!((kept.scope, kept.mode), (tag(number), Mode::Expire));
                recent.remember(&tag(number), Mode::Expire, (1, 0));
            }
            let kept = pending.keep(&tag(PENDING_MAX), last, true);
            assert_eq!(
                (kept.scope, kept.mode, kept.numbered),
                (Scope::All, expect, false)
            );
            assert_eq!(pending.len(), 1);
            recent.remember(&tag(PENDING_MAX), last, (1, 0));
            let again = recent.snapshot(0);
            assert_eq!(again.len(), 1);
            assert_eq!((&again[0].scope, again[0].mode), (&Scope::All, expect));
        }
    }

    #[test]
    fn what_was_told_is_told_again_for_a_minute() {
        let recent = Recent::default();
        recent.remember(&tag(1), Mode::Delete, (1, 1_000));
        recent.remember(&tag(2), Mode::Delete, (2, 2_000));
        recent.remember(&tag(1), Mode::Delete, (3, 3_000));
        assert_eq!(recent.snapshot(3_000).len(), 2);
        assert_eq!(recent.snapshot(2_000 + RECENT_MS).len(), 2);
        assert_eq!(recent.snapshot(3_000 + RECENT_MS).len(), 1);
        assert!(recent.snapshot(3_001 + RECENT_MS).is_empty());
    }
}
