//! What things are called in Redis (DESIGN section 7), and nothing else.

use std::io::Write as _;

use percent_encoding::percent_decode_str;
use redis::{Cmd, RedisWrite as _};

use super::resp;
use crate::cache::generations::{Generation, Mode, Scope};
use crate::key::{Key, Resource, encode};

/// The names under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// `PREFIX:{g}`: the hash that every node mirrors.
    pub(super) group: String,
    /// `PREFIX:e:`, which a key's text follows.
    pub(super) entry: String,
    /// `PREFIX:l:`, which a key's text follows, or that of a duty.
    lease: String,
    /// `PREFIX:n:`, which a resource in braces and a name follow.
    note: String,
    /// `PREFIX:d:`, which the text of a duty follows: how far it has come.
    progress: String,
    /// `PREFIX:push`: the channel on which nodes tell each other what changed.
    pub(super) channel: String,
    /// `PREFIX:g:`, which a resource in braces follows.
    generation: String,
    /// `PREFIX:q:`, which the tag of a partition and the name of a piece follow; see [`Names::pieces`].
    queue: String,
}

/// The hash slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// What the name of the group is hashed by.
const GROUP_TAG: &str = "g";

/// The partitions of a queue.
pub(super) const PARTITIONS: u8 = 16;
/// The pieces of a partition, each a key: see `queue/queue.lua`.
pub(super) const PIECES: [char; 8] = ['s', 'i', 'n', 't', 'd', 'x', 'r', 'c'];
/// Bits of a sequence below the time.
const COUNT_BITS: u32 = 20;
/// Times from here on are of no clock: the sequence would not fit a signed number.
const TIME_BITS: u32 = 43;

/// The hash slot of a resource: of its text, which stands in braces in every name that concerns it.
pub(super) fn slot_of(resource: &Resource) -> usize {
    slot(resource.text())
}

/// The hash slot of the group.
pub(super) fn group_slot() -> usize {
    slot(GROUP_TAG)
}

/// The hash slot of a partition.
pub(super) fn partition_slot(partition: u8) -> usize {
    slot(&partition_tag(partition))
}

/// What the names of a partition are hashed by: no resource's text, for those begin with a `/`, encoded.
fn partition_tag(partition: u8) -> String {
    format!("w:{partition:02x}")
}

fn slot(tag: &str) -> usize {
    usize::from(crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes())) % SLOTS
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            group: format!("{prefix}:{{{GROUP_TAG}}}"),
            entry: format!("{prefix}:e:"),
            lease: format!("{prefix}:l:"),
            note: format!("{prefix}:n:"),
            progress: format!("{prefix}:d:"),
            channel: format!("{prefix}:push"),
            generation: format!("{prefix}:g:"),
            queue: format!("{prefix}:q:"),
        }
    }

    /// Glob patterns of all keys.
    pub(super) fn patterns(&self) -> [String; 6] {
        let all = |beginning: &str| format!("{beginning}*");
        [
            self.group.clone(),
            all(&self.entry),
            all(&self.generation),
            all(&self.lease),
            all(&self.note),
            all(&self.progress),
        ]
    }

    /// Glob pattern of the keys of a queue.
    pub(super) fn queue_pattern(&self) -> String {
        format!("{}*", self.queue)
    }

    /// The keys of a partition, `PREFIX:q:{w:NN}:PIECE`, in the order of [`PIECES`]. NN is hexadecimal, as in the ids of the
    /// changes in it.
    pub(super) fn pieces(&self, partition: u8) -> [String; 8] {
        let (queue, tag) = (&self.queue, partition_tag(partition));
        PIECES.map(|piece| format!("{queue}{{{tag}}}:{piece}"))
    }

    /// A duty as its lease and its progress are named after: in the slot of the group, which is no resource's text.
    pub(super) fn duty(name: &str) -> String {
        format!("{{{GROUP_TAG}}}:{}", encode(name))
    }

    /// Bytes that both keys of an entry take in a command.
    pub(super) fn len_of(&self, key: &Key) -> usize {
        self.entry.len()
            + key.text().len()
            + self.generation.len()
            + key.resource().text().len()
            + 2
    }

    /// Appends both keys of an entry to a command that is written by hand.
    pub(super) fn write_keys(&self, command: &mut Vec<u8>, key: &Key) {
        resp::push(command, &[&self.entry, key.text()]);
        let resource = key.resource().text();
        resp::push(command, &[&self.generation, "{", resource, "}"]);
    }

    /// Appends the key of an entry, by its text, to a command.
    pub(super) fn push_entry(&self, command: &mut Cmd, key: &str) {
        push(command, &[&self.entry, key]);
    }

    /// Appends the key of a lease, by the key's text, to a command.
    pub(super) fn push_lease(&self, command: &mut Cmd, key: &str) {
        push(command, &[&self.lease, key]);
    }

    /// Appends the key of a note to a command.
    pub(super) fn push_note(&self, command: &mut Cmd, resource: &Resource, name: &str) {
        push(command, &[&self.note, "{", resource.text(), "}:", name]);
    }

    /// The key of a duty's progress, by its text.
    pub(super) fn progress(&self, duty: &str) -> String {
        format!("{}{duty}", self.progress)
    }

    /// Appends the key of a resource's generation to a command.
    pub(super) fn push_generation(&self, command: &mut Cmd, resource: &Resource) {
        push(command, &[&self.generation, "{", resource.text(), "}"]);
    }

    /// The `MATCH` pattern of every variant of a resource.
    pub(super) fn variants(&self, resource: &Resource) -> String {
        let mut pattern = String::with_capacity(self.entry.len() + resource.text().len() + 8);
        // What is encoded holds no glob character; a prefix may.
        for c in self.entry.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('{');
        pattern.push_str(resource.text());
        pattern.push_str("}:*");
        pattern
    }
}

/// One argument from several texts, without joining them first.
fn push(command: &mut Cmd, texts: &[&str]) {
    let mut argument = command.writer_for_next_arg();
    for text in texts {
        // The argument is a buffer in memory: writing to it does not fail.
        let _ = argument.write_all(text.as_bytes());
    }
}

/// An epoch as it is written: 16 hexadecimal digits.
pub(super) fn epoch_text(epoch: u64) -> String {
    format!("{epoch:016x}")
}

/// The epoch in a text of 16 hexadecimal digits.
pub(super) fn epoch_of(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

/// A seq as it is written: exact in a double.
pub(super) fn seq_of(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() <= 15)?;
    text.parse().ok()
}

/// The generation of a resource as it is stored, `EPOCH:DELETE:EXPIRE`; none for what no Larder wrote.
pub(super) fn generation_of(text: &[u8]) -> Option<(u64, Generation)> {
    let mut fields = text.split(|byte| *byte == b':');
    let epoch = epoch_of(fields.next()?)?;
    let generation = Generation {
        delete: seq_of(fields.next()?)?,
        expire: seq_of(fields.next()?)?,
    };
    fields.next().is_none().then_some((epoch, generation))
}

/// A sequence as the stream numbers its entry: `MILLISECONDS-COUNT`.
pub(super) fn number_text(sequence: u64) -> String {
    let count = sequence & ((1 << COUNT_BITS) - 1);
    format!("{}-{count}", sequence >> COUNT_BITS)
}

/// The sequence of an entry of the stream; none for a number that no Larder gave.
pub(super) fn sequence_of(number: &[u8]) -> Option<u64> {
    let (ms, count) = std::str::from_utf8(number).ok()?.split_once('-')?;
    let (ms, count): (u64, u64) = (ms.parse().ok()?, count.parse().ok()?);
    (ms < 1 << TIME_BITS && count < 1 << COUNT_BITS).then_some(ms << COUNT_BITS | count)
}

/// `d` or `e`.
pub(super) fn mode_text(mode: Mode) -> &'static str {
    match mode {
        Mode::Delete => "d",
        Mode::Expire => "e",
    }
}

/// The field of the group that holds the last purge of a scope; empty for a resource, which has a key of its own.
pub(super) fn field(scope: &Scope, mode: Mode) -> String {
    let mode = mode_text(mode);
    match scope {
        Scope::All => format!("all:{mode}"),
        Scope::Route(pattern) => format!("r:{}:{mode}", encode(pattern)),
        Scope::Variant(resource, variant) => {
            format!("v:{{{}}}:{variant}:{mode}", resource.text())
        }
        Scope::Tag(tag) => format!("t:{}:{mode}", encode(tag)),
        Scope::Resource(_) => String::new(),
    }
}

/// What is purged, as the channel tells it: as the field of the group, and `o:` and its text for a resource.
pub(super) fn told(scope: &Scope, mode: Mode) -> String {
    match scope {
        Scope::Resource(resource) => format!("o:{}:{}", resource.text(), mode_text(mode)),
        _ => field(scope, mode),
    }
}

/// What a text that [`told`] gave says; none for what no Larder wrote.
pub(super) fn scope_of(told: &str) -> Option<(Scope, Mode)> {
    let (what, mode) = told.rsplit_once(':')?;
    let decode = |text: &str| -> Option<std::sync::Arc<str>> {
        let decoded = percent_decode_str(text).decode_utf8().ok()?;
        Some(decoded.as_ref().into())
    };
    let scope = match what.split_once(':') {
        None if what == "all" => Scope::All,
        Some(("r", pattern)) => Scope::Route(decode(pattern)?),
        Some(("t", tag)) => Scope::Tag(decode(tag)?),
        Some(("v", text)) => {
            let (resource, variant) = text.strip_prefix('{')?.split_once("}:")?;
            Scope::Variant(Resource::from_text(resource), variant.into())
        }
        Some(("o", text)) => Scope::Resource(Resource::from_text(text)),
        _ => return None,
    };
    match mode {
        "d" => Some((scope, Mode::Delete)),
        "e" => Some((scope, Mode::Expire)),
        _ => None,
    }
}

/// What a field of the group says was purged, how and when; none for its own fields and for what no Larder wrote.
pub(super) fn purge_of(field: &[u8], value: &[u8]) -> Option<(Scope, Generation)> {
    let (scope, mode) = scope_of(std::str::from_utf8(field).ok()?)?;
    let seq = seq_of(value.split(|byte| *byte == b':').next()?)?;
    let mut generation = Generation::default();
    generation.raise(mode, seq);
    Some((scope, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_group_read_back_as_they_were_written() {
        let scopes = [
            Scope::All,
            Scope::Route("/data/{key}:d".into()),
            Scope::Tag("a:b % é".into()),
            Scope::Variant(Resource::new("/data/{key}", ["4:2", ""]), "".into()),
            Scope::Variant(Resource::new("/", []), "key=4%3A2&lang=de".into()),
        ];
        for scope in scopes {
            for mode in [Mode::Delete, Mode::Expire] {
                let mut generation = Generation::default();
                generation.raise(mode, 7);
                assert_eq!(
                    purge_of(field(&scope, mode).as_bytes(), b"7:1700000000000"),
                    Some((scope.clone(), generation))
                );
            }
        }
        for (name, value) in [
            ("epoch", "0000000000000001"),
            ("seq", "7"),
            ("scan", "0"),
            ("x:y:d", "7:1"),
            ("all:d", "seven"),
            ("all:x", "7:1"),
        ] {
            assert_eq!(purge_of(name.as_bytes(), value.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn what_the_channel_tells_reads_back_as_it_was_told() {
        let scopes = [
            Scope::All,
            Scope::Route("/data/{key}".into()),
            Scope::Tag("a:b".into()),
            Scope::Resource(Resource::new("/data/{key}", ["4:2", ""])),
            Scope::Variant(Resource::new("/data/{key}", ["4:2", ""]), "key=4&a=".into()),
        ];
        for scope in scopes {
            for mode in [Mode::Delete, Mode::Expire] {
                assert_eq!(scope_of(&told(&scope, mode)), Some((scope.clone(), mode)));
            }
        }
    }

    #[test]
    fn sequences_are_numbers_of_a_stream_in_their_order() {
        for (number, sequence) in [
            ("0-1", 1),
            ("1700000000000-0", 1_700_000_000_000 << 20),
            ("1700000000000-1048575", (1_700_000_000_001 << 20) - 1),
            ("8796093022207-1048575", i64::MAX as u64),
        ] {
            assert_eq!(sequence_of(number.as_bytes()), Some(sequence), "{number}");
            assert_eq!(number_text(sequence), number);
        }
        for number in ["", "1", "1-", "-1", "1-1048576", "8796093022208-0", "1-1-1"] {
            assert_eq!(sequence_of(number.as_bytes()), None, "{number}");
        }
    }

    #[test]
    fn the_pieces_of_a_partition_share_a_slot() {
        let names = Names::new("larder");
        let pieces = names.pieces(10);
        assert_eq!(pieces[0], "larder:q:{w:0a}:s");
        assert!(pieces.iter().all(|piece| piece.contains("{w:0a}")));
        assert_eq!(partition_slot(10), slot("w:0a"));
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // As `CLUSTER KEYSLOT` answers.
        assert_eq!(slot("123456789"), 12_739);
        assert_eq!(slot("foo"), 12_182);
    }

    #[test]
    fn generations_that_no_larder_wrote_are_none() {
        let generation = Generation {
            delete: 3,
            expire: 9,
        };
        assert_eq!(
            generation_of(b"00000000000000ff:3:9"),
            Some((255, generation))
        );
        for text in [
            "",
            "ff:3:9",
            "00000000000000ff:3",
            "00000000000000ff:3:9:1",
            "00000000000000ff:-3:9",
            "00000000000000ff:3:9999999999999999",
        ] {
            assert_eq!(generation_of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_pattern_of_variants_escapes_the_prefix() {
        let resource = Resource::new("/data/{key}", ["4*2"]);
        assert_eq!(
            Names::new("a*b").variants(&resource),
            "a\\*b:e:{%2Fdata%2F%7Bkey%7D:4%2A2}:*"
        );
    }
}
