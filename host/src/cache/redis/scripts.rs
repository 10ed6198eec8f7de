//! The scripts that run in Redis, and their arguments and answers as Rust sees them. The texts are in the `.lua` files
//! beside this one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Cmd, Script, Value};

use super::link::{Link, Road};
use super::names::{Names, epoch_of, epoch_text, field, mode_text, purge_of, seq_of, told};
use super::pending::Kept;
use super::queue::Steps;
use super::trouble::Trouble;
use crate::cache::envelope::{TIME_AT, TIME_LEN};
use crate::cache::freshness::millis;
use crate::cache::generations::{Generation, Mode, Scope, Stamp, new_epoch};
use crate::cache::tier::{Claim, LIVENESS, Noted, Noting};
use crate::key::{Key, Resource};

/// Fields of the group at most (law 12); more become a purge of everything.
const FIELDS_MAX: usize = 65_536;
/// Added to the longest entry life before a purge is forgotten: longer than any load may run, so that a load that began
/// before the purge cannot outlast it.
const MARGIN_MS: u64 = 600_000;
/// No life is longer: ten years, which every Redis takes as an expiry.
const LIFE_MS_MAX: u64 = 315_360_000_000;

/// How far a duty has come is kept at least this long after it was last saved. Whoever finds nothing begins anew, as for the
/// first time; after the longest life of an entry there is nothing left for which that would be dear.
const PROGRESS_MS_MIN: u64 = 86_400_000;

/// The scripts, their names hashed once.
pub(super) struct Scripts {
    names: Names,
    sync: Script,
    purge: Script,
    raise: Script,
    store: Script,
    acquire: Script,
    renew: Script,
    release: Script,
    save: Script,
    note: Script,
    /// Those of the queue.
    pub(super) queue: Steps,
    /// How long a purge matters.
    matters_ms: AtomicU64,
    fields_max: usize,
}

/// What the group holds.
#[derive(Debug)]
pub(super) struct Group {
    /// Redis's time.
    pub(super) now_ms: u64,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) generations: Vec<(Scope, Generation)>,
}

/// The place a purge took in the sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbered {
    pub(super) epoch: u64,
    pub(super) seq: u64,
    /// There were too many purges to remember: everything up to this one counts as purged.
    pub(super) collapsed: bool,
    /// Nodes that were listening.
    pub(super) nodes: u64,
}

/// What a node knows of the group, for a reading that may have to begin a new epoch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) epoch: u64,
    /// The lowest seq that Redis can have in that epoch.
    pub(super) least: u64,
    /// The node's own seq.
    pub(super) own: u64,
}

/// An entry for the storing script.
pub(super) struct Storing<'a> {
    pub(super) key: &'a Key,
    pub(super) stamp: Stamp,
    /// The group's seq, read just before.
    pub(super) group_seq: u64,
    pub(super) life_ms: u64,
    pub(super) envelope: &'a [u8],
    /// The token of the lease.
    pub(super) token: u64,
    /// This node, as it signs the word for it.
    pub(super) node: &'a str,
}

/// What became of an attempt to take a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquired {
    /// It is ours.
    Granted {
        /// How long ago the entry that is there was stored, by Redis's clock; none if there is none.
        stored_ago: Option<Duration>,
    },
    /// Another flight has it.
    Held {
        /// It ends after this, unless it is renewed.
        left: Duration,
    },
}

impl Group {
    /// Whether it remembers a purge that was told, or one that came later and covers as much. A resource's is not here.
    pub(super) fn holds(&self, told: &Kept) -> bool {
        let mut all = self.generations.iter();
        all.any(|(scope, generation)| {
            let seq = match told.mode {
                Mode::Delete => generation.delete,
                Mode::Expire => generation.expire.max(generation.delete),
            };
            (*scope == told.scope || *scope == Scope::All) && seq >= told.seq
        })
    }
}

/// How long a purge of entries that may live so long matters.
fn matters(longest_life_ms: u64) -> u64 {
    longest_life_ms.saturating_add(MARGIN_MS).min(LIFE_MS_MAX)
}

impl Scripts {
    pub(super) fn new(names: Names, longest_life_ms: u64) -> Self {
        let with_group = |body: &str| Script::new(&[include_str!("group.lua"), body].concat());
        Self {
            names,
            sync: with_group(include_str!("sync.lua")),
            purge: with_group(include_str!("purge.lua")),
            raise: Script::new(include_str!("raise.lua")),
            store: Script::new(include_str!("store.lua")),
            acquire: Script::new(include_str!("acquire.lua")),
            renew: Script::new(include_str!("renew.lua")),
            release: Script::new(include_str!("release.lua")),
            save: Script::new(include_str!("save.lua")),
            note: Script::new(include_str!("note.lua")),
            queue: Steps::new(),
            matters_ms: AtomicU64::new(matters(longest_life_ms)),
            fields_max: FIELDS_MAX,
        }
    }

    #[cfg(test)]
    pub(super) fn bound_fields(&mut self, fields_max: usize) {
        self.fields_max = fields_max;
    }

    /// How long a purge matters: after that, every entry it could cover is past its life.
    pub(super) fn matters_ms(&self) -> u64 {
        self.matters_ms.load(Ordering::Relaxed)
    }

    /// Entries may live so long from now on. It is never less than it was: what was stored before lives on.
    pub(super) fn outlive(&self, longest_life_ms: u64) {
        self.matters_ms
            .fetch_max(matters(longest_life_ms), Ordering::Relaxed);
    }

    /// Loads all of them, before anybody waits for one. Where that fails, each is loaded when it is first run.
    pub(super) async fn load(&self, link: &Link, limit: Duration) {
        let all = [
            &self.sync,
            &self.purge,
            &self.raise,
            &self.store,
            &self.acquire,
            &self.renew,
            &self.release,
            &self.save,
            &self.note,
        ];
        let loads = all.into_iter().chain(self.queue.all()).map(|script| async {
            // Not in the way of what requests and the keeper ask.
            let mut connection = link.waits.clone();
            script.load_async(&mut connection).await
        });
        let _ = tokio::time::timeout(limit, join_all(loads)).await;
    }

    /// Reads the group.
    pub(super) async fn sync(
        &self,
        link: &Link,
        known: Known,
        limit: Duration,
    ) -> Result<Group, Trouble> {
        let mut command = call(&self.sync, 1, 4, 128);
        command
            .arg(&self.names.group)
            .arg(epoch_text(new_epoch()))
            .arg(epoch_text(known.epoch))
            .arg(known.least)
            .arg(known.own);
        let answer = run(link, Road::Control, &self.sync, &command, limit).await?;
        group_of(answer).ok_or_else(|| strange(&self.names.group))
    }

    /// Takes the next number of the sequence for a purge, and writes it down unless the scope is a resource.
    pub(super) async fn purge(
        &self,
        link: &Link,
        (scope, mode): (&Scope, Mode),
        own_seq: u64,
        limit: Duration,
    ) -> Result<Numbered, Trouble> {
        let mut command = call(&self.purge, 1, 7, 320);
        command
            .arg(&self.names.group)
            .arg(epoch_text(new_epoch()))
            .arg(own_seq)
            .arg(field(scope, mode))
            .arg(self.matters_ms())
            .arg(self.fields_max)
            .arg(&self.names.channel)
            .arg(told(scope, mode));
        let answer = run(link, Road::Control, &self.purge, &command, limit).await?;
        numbered_of(&answer).ok_or_else(|| strange(&self.names.group))
    }

    /// Raises the generation of a resource.
    pub(super) async fn raise(
        &self,
        link: &Link,
        resource: &Resource,
        mode: Mode,
        numbered: Numbered,
        limit: Duration,
    ) -> Result<(), Trouble> {
        let command = self.raising(resource, mode, numbered);
        run(link, Road::Control, &self.raise, &command, limit).await?;
        Ok(())
    }

    /// What [`Scripts::raise`] sends. Sent again, it writes the same.
    pub(super) fn raising(&self, resource: &Resource, mode: Mode, numbered: Numbered) -> Cmd {
        let mut command = call(&self.raise, 1, 4, 128 + resource.text().len());
        self.names.push_generation(&mut command, resource);
        command
            .arg(epoch_text(numbered.epoch))
            .arg(numbered.seq)
            .arg(mode_text(mode))
            .arg(self.matters_ms());
        command
    }

    /// A write to the group that changes nothing anybody reads.
    pub(super) fn marking(&self, numbered: Numbered) -> Cmd {
        let mut command = Cmd::with_capacity(4, 64 + self.names.group.len());
        command
            .arg("HSET")
            .arg(&self.names.group)
            .arg("waited")
            .arg(numbered.seq);
        command
    }

    /// Stores an entry; says whether it was, or refused.
    pub(super) async fn store(
        &self,
        link: &Link,
        storing: &Storing<'_>,
        limit: Duration,
    ) -> Result<bool, Trouble> {
        let room = 256 + 3 * self.names.len_of(storing.key) + storing.envelope.len();
        let mut command = call(&self.store, 3, 10, room);
        self.names.push_entry(&mut command, storing.key.text());
        self.names
            .push_generation(&mut command, storing.key.resource());
        self.names.push_lease(&mut command, storing.key.text());
        command
            .arg(epoch_text(storing.stamp.epoch))
            .arg(storing.stamp.seq)
            .arg(storing.group_seq)
            .arg(storing.life_ms.min(LIFE_MS_MAX))
            // A reader of another configuration may keep longer than we do.
            .arg(self.matters_ms().max(storing.life_ms).min(LIFE_MS_MAX))
            .arg(TIME_AT)
            .arg(storing.envelope)
            .arg(token_text(storing.token))
            .arg(&self.names.channel)
            .arg(word("s", storing.node, storing.key.text()));
        let answer = run(link, Road::Requests, &self.store, &command, limit).await?;
        Ok(answer == Value::Int(1))
    }

    /// Takes the lease of a key or of a duty, by its text.
    pub(super) async fn acquire(
        &self,
        link: &Link,
        text: &str,
        (token, claim): (u64, Claim),
        limit: Duration,
    ) -> Result<Acquired, Trouble> {
        let mut command = call(&self.acquire, 2, 7, 192 + 2 * text.len());
        self.names.push_lease(&mut command, text);
        self.names.push_entry(&mut command, text);
        command
            .arg(token_text(token))
            .arg(epoch_text(claim.stamp.epoch))
            .arg(claim.stamp.seq)
            .arg(claim.least_seq)
            .arg(millis(LIVENESS))
            .arg(TIME_AT)
            .arg(TIME_LEN);
        let answer = run(link, Road::Requests, &self.acquire, &command, limit).await?;
        let (granted, number): (u8, i64) =
            redis::from_redis_value(answer).map_err(|error| Trouble::Strange(error.to_string()))?;
        let number = u64::try_from(number).ok().map(Duration::from_millis);
        Ok(if granted == 1 {
            Acquired::Granted { stored_ago: number }
        } else {
            Acquired::Held {
                left: number.unwrap_or_default(),
            }
        })
    }

    /// Keeps a lease for another while; `false` if it is another's by now, or nobody's.
    pub(super) async fn renew(
        &self,
        link: &Link,
        text: &str,
        token: u64,
        limit: Duration,
    ) -> Result<bool, Trouble> {
        let mut command = call(&self.renew, 1, 2, 96 + text.len());
        self.names.push_lease(&mut command, text);
        command.arg(token_text(token)).arg(millis(LIVENESS));
        let answer = run(link, Road::Requests, &self.renew, &command, limit).await?;
        Ok(answer == Value::Int(1))
    }

    /// Gives a lease back with nothing stored.
    pub(super) async fn release(
        &self,
        link: &Link,
        text: &str,
        (token, node): (u64, &str),
        limit: Duration,
    ) -> Result<(), Trouble> {
        let mut command = call(&self.release, 1, 3, 160 + 2 * text.len());
        self.names.push_lease(&mut command, text);
        command
            .arg(token_text(token))
            .arg(&self.names.channel)
            .arg(word("f", node, text));
        run(link, Road::Requests, &self.release, &command, limit).await?;
        Ok(())
    }

    /// Replaces a note if it is what is expected.
    pub(super) async fn note(
        &self,
        link: &Link,
        (resource, name): (&Resource, &str),
        noting: Noting<'_>,
        limit: Duration,
    ) -> Result<Noted, Trouble> {
        let (expect, value) = (noting.expect, noting.value);
        let bytes = |text: Option<&[u8]>| text.unwrap_or_default().len();
        let room = 192 + resource.text().len() + name.len() + bytes(expect) + bytes(value);
        let mut command = call(&self.note, 1, 5, room);
        self.names.push_note(&mut command, resource, name);
        command
            .arg(u8::from(expect.is_some()))
            .arg(expect.unwrap_or_default())
            .arg(u8::from(value.is_some()))
            .arg(value.unwrap_or_default())
            .arg(millis(noting.life).clamp(1, LIFE_MS_MAX));
        let answer = run(link, Road::Requests, &self.note, &command, limit).await?;
        match answer {
            Value::Array(answer) => match answer.as_slice() {
                [Value::Int(1)] => Ok(Noted::Done),
                [Value::Int(0), Value::BulkString(found)] => Ok(Noted::Holds(Some(found.clone()))),
                [Value::Int(0)] | [Value::Int(0), Value::Nil] => Ok(Noted::Holds(None)),
                _ => Err(strange(name)),
            },
            _ => Err(strange(name)),
        }
    }

    /// Writes down how far a duty has come; `false` if its lease is another's by now, or nobody's.
    pub(super) async fn save(
        &self,
        link: &Link,
        (duty, token): (&str, u64),
        progress: &[u8],
        limit: Duration,
    ) -> Result<bool, Trouble> {
        let mut command = call(&self.save, 2, 3, 192 + 2 * duty.len() + progress.len());
        self.names.push_lease(&mut command, duty);
        command
            .arg(self.names.progress(duty))
            .arg(token_text(token))
            .arg(progress)
            .arg(self.matters_ms().max(PROGRESS_MS_MIN));
        let answer = run(link, Road::Requests, &self.save, &command, limit).await?;
        Ok(answer == Value::Int(1))
    }
}

/// A token as it is written.
fn token_text(token: u64) -> String {
    format!("{token:016x}")
}

/// What the channel tells of a key or a duty; see `channel`.
fn word(kind: &str, node: &str, text: &str) -> String {
    format!("{kind}:{node}:{text}")
}

/// `EVALSHA`, with room for what follows, so that an entry is copied into the command once.
pub(super) fn call(script: &Script, keys: usize, arguments: usize, room: usize) -> Cmd {
    let mut command = Cmd::with_capacity(3 + keys + arguments, 64 + room);
    command.arg("EVALSHA").arg(script.get_hash()).arg(keys);
    command
}

/// Runs a script, loading it first where Redis does not have it (a restart, `SCRIPT FLUSH`, another shard). `limit` is for
/// all of that.
pub(super) async fn run(
    link: &Link,
    road: Road,
    script: &Script,
    command: &Cmd,
    limit: Duration,
) -> Result<Value, Trouble> {
    let started = Instant::now();
    match link.ask(road, command, limit).await {
        Err(Trouble::NoScript) => {
            let left = || limit.saturating_sub(started.elapsed());
            // Either will do: a server has it for all connections.
            let mut loading = link.control.clone();
            tokio::time::timeout(left(), script.load_async(&mut loading))
                .await
                .map_err(|_| Trouble::Slow(limit))?
                .map_err(|error| Trouble::of(&error))?;
            link.ask(road, command, left()).await
        }
        answer => answer,
    }
}

fn strange(group: &str) -> Trouble {
    Trouble::Strange(format!("`{group}` does not hold what Larder writes"))
}

/// `[now, [field, value, …]]`.
fn group_of(answer: Value) -> Option<Group> {
    let Value::Array(answer) = answer else {
        return None;
    };
    let [Value::Int(now_ms), Value::Array(fields)] = answer.as_slice() else {
        return None;
    };
    let (mut epoch, mut seq, mut generations) = (None, None, Vec::new());
    for pair in fields.chunks_exact(2) {
        let [Value::BulkString(field), Value::BulkString(value)] = pair else {
            return None;
        };
        match field.as_slice() {
            b"epoch" => epoch = epoch_of(value),
            b"seq" => seq = seq_of(value),
            field => generations.extend(purge_of(field, value)),
        }
    }
    Some(Group {
        now_ms: u64::try_from(*now_ms).ok()?,
        epoch: epoch?,
        seq: seq?,
        generations,
    })
}

/// `[epoch, seq, collapsed, nodes]`.
fn numbered_of(answer: &Value) -> Option<Numbered> {
    let Value::Array(answer) = answer else {
        return None;
    };
    let [
        Value::BulkString(epoch),
        Value::BulkString(seq),
        Value::Int(collapsed),
        Value::Int(nodes),
    ] = answer.as_slice()
    else {
        return None;
    };
    Some(Numbered {
        epoch: epoch_of(epoch)?,
        seq: seq_of(seq)?,
        collapsed: *collapsed == 1,
        nodes: u64::try_from(*nodes).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_are_remembered_for_the_longest_life_that_any_entry_was_given() {
        let scripts = Scripts::new(Names::new("larder"), 1_000);
        assert_eq!(scripts.matters_ms(), 1_000 + MARGIN_MS);
        scripts.outlive(5_000);
        scripts.outlive(2_000);
        assert_eq!(scripts.matters_ms(), 5_000 + MARGIN_MS);
    }
}
