//! `Idempotency-Key`: a change that was answered is not made a second time; its answer is given again.
//!
//! # Why at most one is made at a time
//!
//! Whoever finds no note of a key writes one, in one step, that says the change is being made; whoever finds that waits for
//! nothing and is told so. The note is replaced by the answer, or removed where the change was not made or nobody knows: then
//! a second attempt is one again, and the source is told the same key, by which it can tell. A node that dies in between
//! leaves a note that ends by itself, after the longest that a change may take.

use std::time::Duration;

use super::notes::Notes;
use super::through::scoped;
use super::{Operation, Precondition};
use crate::cache::Ask;
use crate::cache::tier::{Noted, Noting};

/// How long an answer is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Added to the time that a change may take, before its note ends.
const MARGIN: Duration = Duration::from_secs(10);
/// The longest answer that is remembered whole.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

const RUNNING: u8 = 0;
const ANSWERED: u8 = 1;
const PRINT_LEN: usize = 32;

/// A change under a key.
pub struct Keyed<'a> {
    notes: &'a Notes,
    ask: &'a Ask,
    name: String,
    print: [u8; PRINT_LEN],
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: the change is to be made.
    First,
    /// The same change was answered with this.
    Answered(Vec<u8>),
    /// The same change is being made.
    Running,
    /// Another change was made with this key.
    Another,
    /// Nobody can say now: the change is to be made, and not remembered.
    Unknown,
}

impl<'a> Keyed<'a> {
    /// A change of what is asked for. A key is one for this resource and these parts, and no other.
    pub fn new(
        notes: &'a Notes,
        ask: &'a Ask,
        key: &str,
        (operation, expect): (&Operation, &Precondition),
    ) -> Self {
        Self {
            notes,
            ask,
            name: scoped(ask, key),
            print: print(operation, expect),
        }
    }

    /// Looks whether it was made, and says that it is being made if not.
    pub async fn begin(&self) -> Begun {
        let life = self.ask.binding.policy.timeout + MARGIN;
        let running = self.text(RUNNING, &[]);
        match self.note(None, Some(&running), life).await {
            Noted::Done => Begun::First,
            Noted::Unavailable => Begun::Unknown,
            Noted::Holds(found) => self.judge(found.as_deref().unwrap_or_default()),
        }
    }

    /// What a note says. One that nobody of us wrote says nothing (law 11).
    fn judge(&self, found: &[u8]) -> Begun {
        let Some((print, [state, answer @ ..])) = found.split_at_checked(PRINT_LEN) else {
            return Begun::Unknown;
        };
        match *state {
            _ if print != self.print => Begun::Another,
            RUNNING => Begun::Running,
            ANSWERED => Begun::Answered(answer.to_vec()),
            _ => Begun::Unknown,
        }
    }

    /// It was answered so.
    pub async fn answered(&self, answer: &[u8]) {
        let (running, answered) = (self.text(RUNNING, &[]), self.text(ANSWERED, answer));
        self.note(Some(&running), Some(&answered), REMEMBERED).await;
    }

    /// It was not made, or nobody knows: a second attempt is one again.
    pub async fn given_up(&self) {
        let running = self.text(RUNNING, &[]);
        self.note(Some(&running), None, MARGIN).await;
    }

    fn text(&self, state: u8, answer: &[u8]) -> Vec<u8> {
        [&self.print[..], &[state], answer].concat()
    }

    async fn note(&self, expect: Option<&[u8]>, value: Option<&[u8]>, life: Duration) -> Noted {
        let noting = Noting {
            expect,
            value,
            life,
        };
        let resource = self.ask.key.resource();
        self.notes.note(resource, &self.name, noting).await
    }
}

/// A digest of what a change does, by which a second attempt is told from another change.
pub(super) fn print(operation: &Operation, expect: &Precondition) -> [u8; PRINT_LEN] {
    let mut of_change = blake3::Hasher::new();
    match operation {
        Operation::Put(payload) => {
            let content_type = payload.content_type.as_deref().unwrap_or_default();
            field(&mut of_change, b"put");
            field(&mut of_change, content_type.as_bytes());
            field(&mut of_change, &payload.body);
        }
        Operation::Delete => field(&mut of_change, b"delete"),
    }
    field(&mut of_change, format!("{expect:?}").as_bytes());
    *of_change.finalize().as_bytes()
}

/// Every field goes in with its length before it: no two different lists of fields are one text.
fn field(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
