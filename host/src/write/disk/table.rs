//! What is in the file of the queue on disk, and what one transaction does to it.

use bytes::Bytes;
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable, ReadableTableMetadata as _, Table,
    TableDefinition, TableError, WriteTransaction,
};

use super::index::{Head, Index};
use crate::cache::queue::{
    Bounds, DeadLetter, Depth, Item, Known, Pushed, Queued, Revived, Settlement, State, TOLD_MAX,
    TOLD_MS, WriteId,
};
use crate::key::Resource;

/// By sequence: id, resource and the length of the record.
type HeadRow<'a> = (&'a str, &'a str, u64);
const HEADS: TableDefinition<'_, u64, HeadRow<'static>> = TableDefinition::new("pending");
/// By sequence: the record, of what is pending and of dead letters.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// By id: state, sequence, when it was settled, the digest of what it does, and why it died.
type IdRow<'a> = (u8, u64, u64, [u8; 32], &'a str);
const IDS: TableDefinition<'_, &str, IdRow<'static>> = TableDefinition::new("ids");
/// When what became of an id may be forgotten, and which.
const TOLD: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("told");
/// By id: sequence, resource, length of the record, and the sequence of the last change of its resource that was made since,
/// or 0.
type DeadRow<'a> = (u64, &'a str, u64, u64);
const DEAD: TableDefinition<'_, &str, DeadRow<'static>> = TableDefinition::new("dead");
/// Dead letters by resource.
const DEAD_OF: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("dead of resource");
/// The last sequence.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const LAST: &str = "last sequence";

const PENDING: u8 = 0;
const APPLIED: u8 = 1;
const BURIED: u8 = 2;

/// What a transaction did to what is pending.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// It is pending.
    Added(Head),
    /// It is made.
    Applied { sequence: u64 },
    /// It is a dead letter.
    Buried { sequence: u64 },
    /// A dead letter is none any more.
    Discarded { len: u64 },
}

/// How the store is set up. A file that was altered behind its back is refused and not trusted (law 11).
pub(super) fn builder(cache: usize) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(cache);
    builder.set_check_integrity_on_open(true);
    builder
}

/// One transaction.
pub(super) struct Work<'t> {
    heads: Table<'t, u64, HeadRow<'static>>,
    records: Table<'t, u64, &'static [u8]>,
    ids: Table<'t, &'static str, IdRow<'static>>,
    told: Table<'t, (u64, &'static str), ()>,
    dead: Table<'t, &'static str, DeadRow<'static>>,
    dead_of: Table<'t, (&'static str, &'static str), ()>,
    meta: Table<'t, &'static str, u64>,
    depth: Depth,
    bounds: Bounds,
    /// The last sequence of a resource that was pending before this.
    newest: &'t dyn Fn(&Resource) -> Option<u64>,
    last: u64,
    now_ms: u64,
    settled: usize,
    effects: Vec<Effect>,
}

impl<'t> Work<'t> {
    pub(super) fn begin(
        transaction: &'t WriteTransaction,
        (depth, bounds): (Depth, Bounds),
        newest: &'t dyn Fn(&Resource) -> Option<u64>,
        now_ms: u64,
    ) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let last = meta.get(LAST)?.map_or(0, |last| last.value());
        Ok(Self {
            heads: transaction.open_table(HEADS)?,
            records: transaction.open_table(RECORDS)?,
            ids: transaction.open_table(IDS)?,
            told: transaction.open_table(TOLD)?,
            dead: transaction.open_table(DEAD)?,
            dead_of: transaction.open_table(DEAD_OF)?,
            meta,
            depth,
            bounds,
            newest,
            last,
            now_ms,
            settled: 0,
            effects: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, item: &Item) -> Result<Pushed, redb::Error> {
        self.forget_if_old(item.id.as_str())?;
        if let Some(row) = self.ids.get(item.id.as_str())? {
            let row = row.value();
            return Ok(if row.3 == item.print {
                Pushed::Known(known(row))
            } else {
                Pushed::Another
            });
        }
        let len = item.record.len() as u64;
        if !self.depth.has_room(self.bounds, len) {
            return Ok(Pushed::Full(self.depth));
        }
        let (id, resource) = (item.id.clone(), item.resource.clone());
        self.records.insert(self.last_given() + 1, &*item.record)?;
        let sequence = self.add(id, resource, len, item.print)?;
        Ok(Pushed::Accepted { sequence })
    }

    /// What was made so long ago that it is not told any more is not known either, though nobody has come by to forget it.
    fn forget_if_old(&mut self, id: &str) -> Result<(), redb::Error> {
        let made = self.ids.get(id)?.map(|row| (row.value().0, row.value().2));
        if let Some((APPLIED, at_ms)) = made
            && at_ms.saturating_add(TOLD_MS) <= self.now_ms
        {
            self.told.remove((at_ms, id))?;
            self.ids.remove(id)?;
        }
        Ok(())
    }

    /// What the last number counts as: no lower than the time.
    fn last_given(&self) -> u64 {
        self.last.max(self.now_ms << 20)
    }

    /// Makes pending what has its record at the next number.
    fn add(
        &mut self,
        id: WriteId,
        resource: Resource,
        len: u64,
        print: [u8; 32],
    ) -> Result<u64, redb::Error> {
        let sequence = self.last_given() + 1;
        self.last = sequence;
        self.heads
            .insert(sequence, (id.as_str(), resource.text(), len))?;
        self.ids
            .insert(id.as_str(), (PENDING, sequence, 0, print, ""))?;
        self.depth.pending += 1;
        self.depth.bytes += len;
        self.effects.push(Effect::Added(Head {
            sequence,
            id,
            resource,
            len,
        }));
        Ok(sequence)
    }

    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<(), redb::Error> {
        let sequence = settlement.sequence;
        let removed = self.heads.remove(sequence)?;
        let Some(len) = removed.map(|row| row.value().2) else {
            return Ok(());
        };
        self.depth.pending -= 1;
        self.settled += 1;
        let id = settlement.id.as_str();
        let print = self.ids.get(id)?.map_or([0; 32], |row| row.value().3);
        let resource = settlement.resource.text();
        match &settlement.end {
            Ok(()) => {
                self.records.remove(sequence)?;
                self.depth.bytes -= len;
                let row = (APPLIED, sequence, self.now_ms, print, "");
                self.ids.insert(id, row)?;
                self.told.insert((self.now_ms, id), ())?;
                self.supersede(resource, sequence)?;
                self.effects.push(Effect::Applied { sequence });
            }
            Err(reason) => {
                let row = (BURIED, sequence, self.now_ms, print, reason.as_str());
                self.ids.insert(id, row)?;
                self.dead.insert(id, (sequence, resource, len, 0))?;
                self.dead_of.insert((resource, id), ())?;
                self.depth.dead += 1;
                self.effects.push(Effect::Buried { sequence });
            }
        }
        Ok(())
    }

    /// A change of this resource was made: what died before it would revert it.
    fn supersede(&mut self, resource: &str, made: u64) -> Result<(), redb::Error> {
        let mut older = Vec::new();
        for row in self.dead_of.range((resource, "")..)? {
            let (key, ()) = {
                let row = row?;
                (row.0, row.1.value())
            };
            let (of, id) = key.value();
            if of != resource {
                break;
            }
            older.push(id.to_owned());
        }
        for id in older {
            let row = self.dead.get(id.as_str())?.map(|row| {
                let (sequence, _, len, by) = row.value();
                (sequence, len, by)
            });
            if let Some((sequence, len, by)) = row.filter(|(sequence, ..)| *sequence < made) {
                let row = (sequence, resource, len, by.max(made));
                self.dead.insert(id.as_str(), row)?;
            }
        }
        Ok(())
    }

    pub(super) fn revive(
        &mut self,
        id: &WriteId,
        (force, but): (bool, u64),
    ) -> Result<Revived, redb::Error> {
        let Some((sequence, resource, len, superseded_by)) = self.buried(id)? else {
            return Ok(Revived::Unknown);
        };
        let resource = Resource::from_text(&resource);
        let added = self.effects.iter().filter_map(|effect| match effect {
            Effect::Added(head) if head.resource == resource => Some(head.sequence),
            _ => None,
        });
        let newest = added.chain((self.newest)(&resource)).max();
        let is_later = newest.is_some_and(|newest| newest > sequence.max(but));
        if (superseded_by > but || is_later) && !force {
            return Ok(Revived::Superseded);
        }
        let print = self.forget_dead(id, resource.text(), len)?;
        let record = self.records.remove(sequence)?;
        let record = record.map(|record| record.value().to_vec());
        let next = self.last_given() + 1;
        self.records
            .insert(next, record.unwrap_or_default().as_slice())?;
        let sequence = self.add(id.clone(), resource, len, print)?;
        Ok(Revived::Done { sequence })
    }

    pub(super) fn discard(&mut self, id: &WriteId) -> Result<bool, redb::Error> {
        let Some((sequence, resource, len, _)) = self.buried(id)? else {
            return Ok(false);
        };
        self.records.remove(sequence)?;
        self.forget_dead(id, &resource, len)?;
        // It is unknown from now on: sent again, it is another change.
        self.ids.remove(id.as_str())?;
        Ok(true)
    }

    fn buried(&self, id: &WriteId) -> Result<Option<(u64, String, u64, u64)>, redb::Error> {
        let row = self.dead.get(id.as_str())?;
        Ok(row.map(|row| {
            let (sequence, resource, len, by) = row.value();
            (sequence, resource.to_owned(), len, by)
        }))
    }

    /// Gives the digest of what it does.
    fn forget_dead(
        &mut self,
        id: &WriteId,
        resource: &str,
        len: u64,
    ) -> Result<[u8; 32], redb::Error> {
        let id = id.as_str();
        self.dead.remove(id)?;
        self.dead_of.remove((resource, id))?;
        self.depth.dead -= 1;
        self.depth.bytes -= len;
        self.effects.push(Effect::Discarded { len });
        Ok(self.ids.get(id)?.map_or([0; 32], |row| row.value().3))
    }

    /// Writes down the last number, and forgets what need not be told any more.
    pub(super) fn finish(mut self) -> Result<Vec<Effect>, redb::Error> {
        self.meta.insert(LAST, self.last)?;
        // More than come, so that the bound is kept.
        for _ in 0..self.settled * 2 + 4 {
            let over = self.told.len()? > TOLD_MAX;
            let first = self.told.first()?.and_then(|(key, _)| {
                let (at_ms, id) = key.value();
                let is_over = over || at_ms.saturating_add(TOLD_MS) <= self.now_ms;
                is_over.then(|| (at_ms, id.to_owned()))
            });
            let Some((at_ms, id)) = first else { break };
            self.told.remove((at_ms, id.as_str()))?;
            self.ids.remove(id.as_str())?;
        }
        Ok(self.effects)
    }
}

fn known((state, sequence, at_ms, _, reason): IdRow<'_>) -> Known {
    let state = match state {
        PENDING => State::Pending,
        APPLIED => State::Applied { at_ms },
        _ => State::Dead {
            at_ms,
            reason: reason.to_owned(),
        },
    };
    Known { state, sequence }
}

/// A table to read from, or none where nothing was ever written to it.
macro_rules! table {
    ($transaction:expr, $definition:expr, $or:expr) => {
        match $transaction.open_table($definition) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok($or),
            Err(error) => return Err(error.into()),
        }
    };
}

/// What is pending in a file.
pub(super) fn read_index(database: &Database) -> Result<Index, redb::Error> {
    let transaction = database.begin_read()?;
    let table = table!(transaction, HEADS, Index::default());
    let mut heads = Vec::new();
    for row in table.iter()? {
        let (sequence, row) = row?;
        heads.extend(head(sequence.value(), row.value()));
    }
    let table = table!(transaction, DEAD, Index::default());
    let mut dead = (0, 0);
    for row in table.iter()? {
        let (_, row) = row?;
        dead = (dead.0 + 1, dead.1 + row.value().2);
    }
    let table = table!(transaction, META, Index::default());
    let last = table.get(LAST)?.map_or(0, |last| last.value());
    Ok(Index::new(heads, dead, last))
}

fn head(sequence: u64, (id, resource, len): HeadRow<'_>) -> Option<Head> {
    Some(Head {
        sequence,
        id: id.parse().ok()?,
        resource: Resource::from_text(resource),
        len,
    })
}

pub(super) fn find(database: &Database, id: &WriteId) -> Result<Option<Known>, redb::Error> {
    let transaction = database.begin_read()?;
    let ids = table!(transaction, IDS, None);
    let row = ids.get(id.as_str())?;
    Ok(row.map(|row| known(row.value())))
}

pub(super) fn record(database: &Database, sequence: u64) -> Result<Option<Bytes>, redb::Error> {
    let transaction = database.begin_read()?;
    let heads = table!(transaction, HEADS, None);
    if heads.get(sequence)?.is_none() {
        return Ok(None);
    }
    let records = table!(transaction, RECORDS, None);
    let record = records.get(sequence)?;
    Ok(record.map(|record| Bytes::copy_from_slice(record.value())))
}

/// The change of a head, if it is still pending.
pub(super) fn queued(database: &Database, head: Head) -> Result<Option<Queued>, redb::Error> {
    Ok(all_queued(database, vec![head])?.pop())
}

/// Those of them that are still pending.
pub(super) fn all_queued(
    database: &Database,
    heads: Vec<Head>,
) -> Result<Vec<Queued>, redb::Error> {
    let transaction = database.begin_read()?;
    let pending = table!(transaction, HEADS, Vec::new());
    let records = table!(transaction, RECORDS, Vec::new());
    let mut found = Vec::with_capacity(heads.len());
    for head in heads {
        if pending.get(head.sequence)?.is_none() {
            continue;
        }
        // One without a record is given to whoever consumes it, who knows what to do with what cannot be read.
        let record = records.get(head.sequence)?;
        let record =
            record.map_or_else(Bytes::new, |record| Bytes::copy_from_slice(record.value()));
        found.push(Queued {
            sequence: head.sequence,
            id: head.id,
            resource: head.resource,
            record,
        });
    }
    Ok(found)
}

pub(super) fn dead(
    database: &Database,
    after: Option<&WriteId>,
    max: usize,
) -> Result<Vec<DeadLetter>, redb::Error> {
    use std::ops::Bound::{Excluded, Unbounded};
    let transaction = database.begin_read()?;
    let dead = table!(transaction, DEAD, Vec::new());
    let ids = table!(transaction, IDS, Vec::new());
    let records = table!(transaction, RECORDS, Vec::new());
    let from = after.map_or(Unbounded, |after| Excluded(after.as_str()));
    let mut letters = Vec::new();
    for row in dead.range::<&str>((from, Unbounded))?.take(max) {
        let (id, row) = row?;
        let (sequence, resource, _, superseded_by) = row.value();
        let Ok(id) = id.value().parse::<WriteId>() else {
            continue;
        };
        let (at_ms, reason) = match ids.get(id.as_str())? {
            Some(row) => (row.value().2, row.value().4.to_owned()),
            None => (0, String::new()),
        };
        let record = records.get(sequence)?;
        let record =
            record.map_or_else(Bytes::new, |record| Bytes::copy_from_slice(record.value()));
        letters.push(DeadLetter {
            queued: Queued {
                sequence,
                id,
                resource: Resource::from_text(resource),
                record,
            },
            reason,
            at_ms,
            superseded: superseded_by > 0,
        });
    }
    Ok(letters)
}
