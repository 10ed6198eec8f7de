//! The push channel: how a node hears at once what others purge and store, and knows that it has heard all of it.
//!
//! One connection, subscribed, on the server that holds the group. It also carries the question that proves it whole: the
//! group's epoch and seq, asked on the same connection. Redis answers a connection in order, so whatever was told before
//! the answer was given has arrived before the answer; if the seq in it is the seq of the last purge that was heard,
//! nothing is missing, and this node's record is complete as of the moment the question was sent.
//!
//! Every purge tells the seq before it and its own, in the script that numbers it. So a gap shows with the next purge or
//! the next question, whichever comes first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use super::link::{CONNECT_TIMEOUT, ask};
use super::names::{Names, epoch_of, scope_of, seq_of, sequence_of};
use super::trouble::Trouble;
use crate::cache::generations::{Mode, Scope};

/// Words that wait to be taken in. More are dropped, which counts as a gap (law 12).
const UNHEARD_MAX: usize = 65_536;

/// What a node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Something was purged.
    Purge(Told),
    /// The node of this name has stored an entry under this key.
    Stored { node: String, key: String },
    /// The node of this name has given its lease of this key back and stored nothing.
    Released { node: String, key: String },
    /// A change was accepted into this partition of the queue, at this place.
    Pushed { partition: u8, sequence: u64 },
    /// Something that a later version tells.
    Other,
    /// The connection is gone.
    Gone,
}

/// A purge, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) epoch: u64,
    /// The group's seq before it.
    pub(super) before: u64,
    pub(super) seq: u64,
    /// Everything up to it counts as purged.
    pub(super) collapsed: bool,
    pub(super) scope: Scope,
    pub(super) mode: Mode,
}

/// The subscribed connection.
pub(super) struct Channel {
    connection: MultiplexedConnection,
    words: mpsc::Receiver<Word>,
    /// A word was dropped or not understood.
    gap: Arc<AtomicBool>,
}

impl Channel {
    /// Connects and subscribes. What is told from here on is heard.
    pub(super) async fn open(
        client: &Client,
        names: &Names,
        limit: Duration,
    ) -> Result<Self, Trouble> {
        let (heard, words) = mpsc::channel(UNHEARD_MAX);
        let gap = Arc::new(AtomicBool::new(false));
        let missed = Arc::clone(&gap);
        let hear = move |push: PushInfo| {
            let word = match push.kind {
                PushKind::Disconnection => Some(Word::Gone),
                PushKind::Message => word_of(&push.data),
                _ => return Ok::<(), ()>(()),
            };
            if word.is_none_or(|word| heard.try_send(word).is_err()) {
                missed.store(true, Ordering::Release);
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_push_sender(hear);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| Trouble::of(&error).at_connecting())?;
        tokio::time::timeout(limit, connection.subscribe(&names.channel))
            .await
            .map_err(|_| Trouble::Slow(limit))?
            .map_err(|error| Trouble::of(&error).at_connecting())?;
        Ok(Self {
            connection,
            words,
            gap,
        })
    }

    /// The next word. Cancel-safe.
    pub(super) async fn next(&mut self) -> Word {
        self.words.recv().await.unwrap_or(Word::Gone)
    }

    /// A word that has arrived already.
    pub(super) fn try_next(&mut self) -> Option<Word> {
        self.words.try_recv().ok()
    }

    /// Whether a word was lost since this was last asked.
    pub(super) fn take_gap(&self) -> bool {
        self.gap.swap(false, Ordering::AcqRel)
    }

    /// A handle to ask the question that proves it whole.
    pub(super) fn asker(&self, names: &Names) -> Asker {
        Asker {
            connection: self.connection.clone(),
            group: names.group.clone(),
        }
    }
}

/// Asks on the channel's connection.
#[derive(Clone)]
pub(super) struct Asker {
    connection: MultiplexedConnection,
    group: String,
}

/// What the question was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pong {
    /// The group's epoch and seq; none if it is not there, or is something else.
    pub(super) head: Option<(u64, u64)>,
    /// Redis's time, in milliseconds since 1970.
    pub(super) now_ms: u64,
}

impl Asker {
    /// The group's epoch and seq, and Redis's time.
    pub(super) async fn ask(&self, limit: Duration) -> Result<Pong, Trouble> {
        let mut head = Cmd::with_capacity(4, 32 + self.group.len());
        head.arg("HMGET").arg(&self.group).arg("epoch").arg("seq");
        let time = redis::cmd("TIME");
        let (mut one, mut other) = (self.connection.clone(), self.connection.clone());
        let (head, time) = tokio::join!(ask(&mut one, &head, limit), ask(&mut other, &time, limit));
        let head = match head {
            Err(Trouble::Strange(_)) => None,
            answer => head_of(&answer?),
        };
        let (seconds, micros) = redis::from_redis_value::<(u64, u64)>(time?)
            .map_err(|error| Trouble::Strange(error.to_string()))?;
        Ok(Pong {
            head,
            now_ms: seconds.saturating_mul(1000).saturating_add(micros / 1000),
        })
    }
}

/// `[epoch, seq]`.
pub(super) fn head_of(answer: &Value) -> Option<(u64, u64)> {
    let Value::Array(fields) = answer else {
        return None;
    };
    let [Value::BulkString(epoch), Value::BulkString(seq)] = fields.as_slice() else {
        return None;
    };
    epoch_of(epoch).zip(seq_of(seq))
}

/// `[channel, text]` of a message.
fn word_of(data: &[Value]) -> Option<Word> {
    let [_, Value::BulkString(text)] = data else {
        return None;
    };
    let (kind, text) = std::str::from_utf8(text).ok()?.split_once(':')?;
    match kind {
        "p" => told_of(text).map(Word::Purge),
        "s" | "f" => {
            let (node, key) = text.split_once(':')?;
            let (node, key) = (node.to_owned(), key.to_owned());
            Some(if kind == "s" {
                Word::Stored { node, key }
            } else {
                Word::Released { node, key }
            })
        }
        "w" => {
            let (partition, number) = text.split_once(':')?;
            Some(Word::Pushed {
                partition: u8::from_str_radix(partition, 16).ok()?,
                sequence: sequence_of(number.as_bytes())?,
            })
        }
        _ => Some(Word::Other),
    }
}

/// `EPOCH:BEFORE:SEQ:COLLAPSED:SCOPE`.
fn told_of(text: &str) -> Option<Told> {
    let mut fields = text.splitn(5, ':');
    let epoch = epoch_of(fields.next()?.as_bytes())?;
    let before = seq_of(fields.next()?.as_bytes())?;
    let seq = seq_of(fields.next()?.as_bytes())?;
    let collapsed = fields.next()? == "1";
    let (scope, mode) = scope_of(fields.next()?)?;
    Some(Told {
        epoch,
        before,
        seq,
        collapsed,
        scope,
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Option<Word> {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        word_of(&[bulk("larder:push"), bulk(text)])
    }

    #[test]
    fn words_are_read_as_they_were_told() {
        let purge = heard("p:00000000000000ff:3:9:0:t:a%3Ab:e");
        assert_eq!(
            purge,
            Some(Word::Purge(Told {
                epoch: 255,
                before: 3,
                seq: 9,
                collapsed: false,
                scope: Scope::Tag("a:b".into()),
                mode: Mode::Expire,
            }))
        );
        let key = "{%2Fdata:4}:demo~1:key=4".to_owned();
        let node = "00ff".to_owned();
        assert_eq!(
            heard("s:00ff:{%2Fdata:4}:demo~1:key=4"),
            Some(Word::Stored {
                node: node.clone(),
                key: key.clone()
            })
        );
        assert_eq!(
            heard("f:00ff:{%2Fdata:4}:demo~1:key=4"),
            Some(Word::Released { node, key })
        );
        let (partition, sequence) = (10, 7 << 20 | 3);
        assert_eq!(
            heard("w:0a:7-3"),
            Some(Word::Pushed {
                partition,
                sequence
            })
        );
    }

    #[test]
    fn what_no_larder_told_is_no_word_and_what_a_later_one_tells_is_let_pass() {
        for text in [
            "",
            "p",
            "p:ff:1:2:0:all:d",
            "s:alone",
            "w:0a",
            "w:0a:7",
            "p:00000000000000ff:1:2:0:all:x",
        ] {
            assert_eq!(heard(text), None, "{text}");
        }
        assert_eq!(heard("x:1:2"), Some(Word::Other));
    }
}
