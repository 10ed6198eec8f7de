//! What a writer says that a read would now give, kept as a load's entry is.

use std::time::Duration;

use super::Cache;
use super::ask::Ask;
use super::entry::Entry;
use super::generations::Stamp;
use super::lease::Right;
use super::load::put;
use super::patience::Patience;
use super::source::{Found, Outcome};
use super::tier::{Claim, Leasing};
use crate::error::Failure;

impl Cache {
    /// Makes an entry of it, which was true no earlier than `as_of_ms`, and keeps it if `seq` is still the last number that was
    /// given: that of the purge after the change (see `write::through` for why). None: it is made and not kept.
    ///
    /// # Errors
    /// It cannot be sent as HTTP, or breaks a bound.
    pub async fn keep_written(
        &self,
        ask: &Ask,
        (found, as_of_ms): (Found, u64),
        maker: &str,
        seq: Option<u64>,
    ) -> Result<Entry, Failure> {
        let stamp = self.generations.stamp();
        let (draft, _) =
            self.make_entry(ask, (stamp, as_of_ms), None, maker, Outcome::Found(found))?;
        let entry = draft.keep(ask.key.text());
        if seq == Some(stamp.seq) && self.may_store(ask, &entry) {
            self.keep_in_tiers(ask, &entry, stamp).await;
        }
        Ok(entry)
    }

    async fn keep_in_tiers(&self, ask: &Ask, entry: &Entry, stamp: Stamp) {
        let mark = self.memory.mark();
        let mut stored = None;
        if let Some(shared) = &self.shared {
            // A load that began before the change has its lease taken over; one that began after it stores the same.
            let claim = Claim {
                stamp,
                least_seq: stamp.seq,
            };
            let patience = Patience::of(shared.patience(), Duration::ZERO);
            let Leasing::Granted { lease, .. } = shared.lease(&ask.key, claim).await else {
                return;
            };
            stored = put(shared, (&ask.key, entry), Right::Given(lease), patience).await;
        }
        self.keep(ask, entry, stored, mark);
    }
}
