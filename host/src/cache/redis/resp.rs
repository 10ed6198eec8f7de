//! What Redis answers (RESP2), read out of its bytes as they arrive. Knows no commands. Total: no bytes make it panic, what it
//! takes on is bounded by what has arrived, and what is no answer is said to be none (law 11).
//!
//! An answer is read as a row of tokens: a list is the number of the answers in it, and then these. So nothing has to be
//! there whole but one token, and nothing recurses.
//!
//! # Copies
//!
//! A long string is a slice of the buffer that it was read into, and is not copied. It keeps that buffer, with what was read beside
//! it: so whoever keeps it for longer than it takes to send it copies it. A short one would keep far more than it is worth, and
//! is copied here; so a buffer of short ones is its owner's alone, and used again.

use bytes::{Buf as _, Bytes, BytesMut};
use redis::Value;

use super::trouble::Trouble;

/// How much is read at once.
pub(super) const READ: usize = 64 * 1024;
/// A string of so many bytes is not copied.
const SLICED_MIN: usize = 4 * 1024;
/// Room that is worth reading into.
const ROOM_MIN: usize = 4 * 1024;
/// A buffer that a long string has made larger is not used again.
const KEPT_MAX: usize = 4 * READ;
/// Redis's own bound of a string (`proto-max-bulk-len`, as it is unless somebody raises it).
const BULK_MAX: usize = 512 * 1024 * 1024;
/// Of an error, or what else is one line.
const LINE_MAX: usize = 64 * 1024;
/// Lists in lists. What Larder asks for has three.
const DEPTH_MAX: usize = 16;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Bulk(Bytes),
    Nil,
    Int(i64),
    Simple(String),
    Error(String),
    /// So many answers follow that are one.
    List(usize),
}

/// Bytes that are no answer: what follows them cannot be understood either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was answered is no RESP: {0}")]
pub(super) struct Garbage(&'static str);

/// The tokens of a connection.
#[derive(Default)]
pub(super) struct Tokens {
    bytes: BytesMut,
    /// How long the string is whose head was read already.
    bulk: Option<usize>,
    /// Bytes in which no end of a line was found.
    looked: usize,
}

impl Tokens {
    /// Where to read into; never full.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        let (length, spare) = (self.bytes.len(), self.bytes.capacity() - self.bytes.len());
        let missing = self
            .bulk
            .map_or(0, |bulk| (bulk + 2).saturating_sub(length));
        if spare < ROOM_MIN && (missing == 0 || spare < missing) {
            // Never more than has arrived, whatever length was announced.
            let more = missing.clamp(READ / 2, length.max(READ));
            let fits = self.bytes.try_reclaim(more) && self.bytes.capacity() <= KEPT_MAX;
            if !fits {
                let mut fresh = BytesMut::with_capacity((length + more).max(READ));
                fresh.extend_from_slice(&self.bytes);
                self.bytes = fresh;
            }
        }
        &mut self.bytes
    }

    /// The next token; none as long as it has not arrived whole.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Garbage> {
        let length = match self.bulk {
            Some(length) => length,
            None => {
                let Some(end) = self.line()? else {
                    return Ok(None);
                };
                let head = head_of(&self.bytes[..end]);
                self.bytes.advance(end + 2);
                match head? {
                    Head::Bulk(length) => length,
                    Head::Whole(token) => return Ok(Some(token)),
                }
            }
        };
        if self.bytes.len() < length + 2 {
            self.bulk = Some(length);
            return Ok(None);
        }
        self.bulk = None;
        if self.bytes[length..length + 2] != *b"\r\n" {
            return Err(Garbage("a string is longer than it says"));
        }
        let bytes = if length < SLICED_MIN {
            let copy = Bytes::copy_from_slice(&self.bytes[..length]);
            self.bytes.advance(length);
            copy
        } else {
            self.bytes.split_to(length).freeze()
        };
        self.bytes.advance(2);
        Ok(Some(Token::Bulk(bytes)))
    }

    /// Where the line ends that comes next.
    fn line(&mut self) -> Result<Option<usize>, Garbage> {
        let unknown = &self.bytes[self.looked..];
        let Some(end) = unknown.iter().position(|byte| *byte == b'\n') else {
            self.looked = self.bytes.len();
            return if self.looked > LINE_MAX {
                Err(Garbage("a line has no end"))
            } else {
                Ok(None)
            };
        };
        let end = self.looked + end;
        self.looked = 0;
        match end.checked_sub(1) {
            Some(end) if self.bytes[end] == b'\r' => Ok(Some(end)),
            _ => Err(Garbage("a line ends as none does")),
        }
    }
}

enum Head {
    Bulk(usize),
    Whole(Token),
}

fn head_of(line: &[u8]) -> Result<Head, Garbage> {
    let (kind, rest) = line.split_first().ok_or(Garbage("an empty line"))?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    let token = match kind {
        b'$' | b'*' if rest == b"-1" => Token::Nil,
        b'$' => {
            let length = number(rest).filter(|length| *length <= BULK_MAX);
            return length
                .map(Head::Bulk)
                .ok_or(Garbage("a string of no length"));
        }
        b'*' => Token::List(number(rest).ok_or(Garbage("a list of no length"))?),
        b':' => {
            let text = std::str::from_utf8(rest).ok();
            let number = text.and_then(|text| text.parse().ok());
            Token::Int(number.ok_or(Garbage("a number that is none"))?)
        }
        b'+' => Token::Simple(text()),
        b'-' => Token::Error(text()),
        _ => return Err(Garbage("an answer of no kind")),
    };
    Ok(Head::Whole(token))
}

/// A length as it is written: of no more digits than a 32-bit one has.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u64::from(digit - b'0'))
    })?;
    u32::try_from(number).ok()?.try_into().ok()
}

/// An answer of any shape, put together from its tokens.
#[derive(Default)]
pub(super) struct Whole {
    /// The lists that are not complete, and how many answers each still lacks.
    lists: Vec<(usize, Vec<Value>)>,
    trouble: Option<Trouble>,
}

impl Whole {
    /// Adds a token; the answer, if it is the last one. An error in an answer is what became of all of it.
    pub(super) fn add(&mut self, token: Token) -> Result<Option<Result<Value, Trouble>>, Garbage> {
        let mut value = match token {
            Token::Bulk(bytes) => Value::BulkString(bytes.into()),
            Token::Nil => Value::Nil,
            Token::Int(number) => Value::Int(number),
            Token::Simple(text) if text == "OK" => Value::Okay,
            Token::Simple(text) => Value::SimpleString(text),
            Token::Error(line) => {
                self.trouble.get_or_insert(Trouble::of_line(&line));
                Value::Nil
            }
            Token::List(0) => Value::Array(Vec::new()),
            Token::List(length) => {
                if self.lists.len() == DEPTH_MAX {
                    return Err(Garbage("lists in lists in lists"));
                }
                // Not room for all of them: nobody has sent them yet.
                self.lists.push((length, Vec::new()));
                return Ok(None);
            }
        };
        loop {
            let Some((missing, values)) = self.lists.last_mut() else {
                return Ok(Some(self.trouble.take().map_or(Ok(value), Err)));
            };
            values.push(value);
            *missing -= 1;
            if *missing > 0 {
                return Ok(None);
            }
            value = Value::Array(std::mem::take(values));
            self.lists.pop();
        }
    }
}

/// Appends a string of a command, put together from several.
pub(super) fn push(command: &mut Vec<u8>, texts: &[&str]) {
    head(command, b'$', texts.iter().map(|text| text.len()).sum());
    for text in texts {
        command.extend_from_slice(text.as_bytes());
    }
    command.extend_from_slice(b"\r\n");
}

/// Appends the head of a command, a list of so many strings.
pub(super) fn begin(command: &mut Vec<u8>, strings: usize) {
    head(command, b'*', strings);
}

fn head(command: &mut Vec<u8>, kind: u8, number: usize) {
    let mut digits = itoa::Buffer::new();
    command.push(kind);
    command.extend_from_slice(digits.format(number).as_bytes());
    command.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tokens of bytes that arrive in these pieces.
    fn tokens<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Token>, Garbage> {
        let (mut tokens, mut all) = (Tokens::default(), Vec::new());
        for mut piece in pieces {
            while !piece.is_empty() {
                let room = tokens.room();
                let spare = room.capacity() - room.len();
                assert!(spare > 0, "never full");
                let (now, later) = piece.split_at(spare.min(piece.len()));
                room.extend_from_slice(now);
                piece = later;
                while let Some(token) = tokens.next()? {
                    all.push(token);
                }
            }
        }
        Ok(all)
    }

    fn bulk(text: impl Into<Vec<u8>>) -> Token {
        Token::Bulk(text.into().into())
    }

    /// Two answers, of every kind of token, with a long string and a short one.
    fn answers() -> (Vec<u8>, Vec<Token>) {
        let long = "l\r\n$".repeat(SLICED_MIN / 4);
        let bytes = format!(
            "*5\r\n$0\r\n\r\n${}\r\n{long}\r\n$-1\r\n*2\r\n:-7\r\n*-1\r\n+OK\r\n-MOVED 7 here:1\r\n",
            long.len()
        );
        let tokens = vec![
            Token::List(5),
            bulk(""),
            bulk(long),
            Token::Nil,
            Token::List(2),
            Token::Int(-7),
            Token::Nil,
            Token::Simple("OK".into()),
            Token::Error("MOVED 7 here:1".into()),
        ];
        (bytes.into_bytes(), tokens)
    }

    #[test]
    fn answers_are_the_same_wherever_they_are_cut() {
        let (bytes, expected) = answers();
        assert_eq!(tokens([bytes.as_slice()]).unwrap(), expected);
        for cut in 0..=bytes.len() {
            let (one, other) = bytes.split_at(cut);
            assert_eq!(tokens([one, other]).unwrap(), expected, "cut at {cut}");
        }
        assert_eq!(tokens(bytes.chunks(1)).unwrap(), expected);
    }

    #[test]
    fn a_long_string_is_a_slice_of_the_buffer_and_a_short_one_is_not() {
        for (length, is_slice) in [(SLICED_MIN, true), (SLICED_MIN - 1, false)] {
            let mut tokens = Tokens::default();
            let text = format!("${length}\r\n{}\r\n", "x".repeat(length));
            tokens.room().extend_from_slice(text.as_bytes());
            let buffer = tokens.bytes.as_ptr_range();
            let Ok(Some(Token::Bulk(bytes))) = tokens.next() else {
                panic!("a string");
            };
            assert_eq!(buffer.contains(&bytes.as_ptr()), is_slice, "{length}");
        }
    }

    #[test]
    fn a_buffer_is_used_again_when_nobody_has_a_slice_of_it_and_one_that_grew_is_not() {
        let mut tokens = Tokens::default();
        let short = format!("$1000\r\n{}\r\n", "x".repeat(1000));
        let mut buffers = std::collections::HashSet::new();
        for _ in 0..1000 {
            let room = tokens.room();
            buffers.insert(room.as_ptr() as usize / (2 * READ));
            room.extend_from_slice(short.as_bytes());
            assert!(tokens.next().unwrap().is_some());
        }
        assert!(buffers.len() <= 2, "one buffer, on two pages at most");
        let length = 8 * KEPT_MAX;
        let long = format!("${length}\r\n{}\r\n", "x".repeat(length));
        for piece in long.as_bytes().chunks(ROOM_MIN) {
            tokens.room().extend_from_slice(piece);
            // At most doubled: what is announced is not believed.
            assert!(tokens.bytes.capacity() <= 2 * tokens.bytes.len() + 2 * READ);
            drop(tokens.next().unwrap());
        }
        for _ in 0..1000 {
            tokens.room().extend_from_slice(short.as_bytes());
            assert!(tokens.next().unwrap().is_some());
        }
        assert!(tokens.bytes.capacity() <= KEPT_MAX);
    }

    #[test]
    fn law_11_what_is_no_answer_is_said_to_be_none() {
        let endless = vec![b'-'; LINE_MAX + 1];
        let cases: [&[u8]; 14] = [
            b"hello\r\n",
            b"\r\n",
            b"\n",
            b"+OK\n",
            b"$\r\n",
            b"$x\r\n",
            b"$-2\r\n",
            b"$536870913\r\n",
            b"*-2\r\n",
            b"*4294967296\r\n",
            b":\r\n",
            b"$2\r\nlong+OK\r\n",
            b"%1\r\n+a\r\n+b\r\n",
            &endless,
        ];
        for bytes in cases {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).into_owned();
            assert!(tokens([bytes]).is_err(), "{shown:?}");
        }
    }

    #[test]
    fn whole_answers_are_put_together_and_an_error_in_one_is_all_of_it() {
        let check = |bytes: &str, expected: Result<Value, Trouble>| {
            let mut whole = Whole::default();
            let mut answers = Vec::new();
            for token in tokens([bytes.as_bytes()]).unwrap() {
                answers.extend(whole.add(token).unwrap());
            }
            assert_eq!(answers, [expected], "{bytes}");
        };
        let text = |text: &str| Value::BulkString(text.into());
        check("+OK\r\n", Ok(Value::Okay));
        check("*0\r\n", Ok(Value::Array(vec![])));
        check(
            "*3\r\n*2\r\n$1\r\na\r\n*0\r\n:1\r\n*1\r\n*1\r\n$-1\r\n",
            Ok(Value::Array(vec![
                Value::Array(vec![text("a"), Value::Array(vec![])]),
                Value::Int(1),
                Value::Array(vec![Value::Array(vec![Value::Nil])]),
            ])),
        );
        let fault = || Err(Trouble::Fault("LOADING soon".into()));
        check("-LOADING soon\r\n", fault());
        check("*2\r\n*1\r\n-LOADING soon\r\n$1\r\na\r\n", fault());
    }

    #[test]
    fn law_12_lists_in_lists_have_an_end() {
        let mut whole = Whole::default();
        for _ in 0..DEPTH_MAX {
            assert_eq!(whole.add(Token::List(usize::MAX)), Ok(None));
        }
        assert!(whole.add(Token::List(1)).is_err());
    }

    proptest! {
        /// Law 11: no bytes make it panic, and what it holds is bounded by what has arrived.
        #[test]
        fn law_11_arbitrary_bytes_do_no_harm(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    "[$*:+-][0-9]{0,11}\r\n".prop_map(String::into_bytes),
                    "[a-z]{0,9}\r\n".prop_map(String::into_bytes),
                ],
                0..40,
            ),
        ) {
            let (mut tokens, mut whole) = (Tokens::default(), Whole::default());
            'all: for piece in pieces {
                tokens.room().extend_from_slice(&piece);
                prop_assert!(tokens.bytes.capacity() <= 4 * READ);
                loop {
                    match tokens.next() {
                        Ok(Some(token)) => if whole.add(token).is_err() {
                            break 'all;
                        },
                        Ok(None) => break,
                        Err(_) => break 'all,
                    }
                }
            }
        }

        /// Whatever is answered, in whichever pieces, is read as it was written.
        #[test]
        fn what_is_written_is_read(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6000), 0..6),
            piece in 1_usize..70_000,
        ) {
            let mut bytes = Vec::new();
            begin(&mut bytes, texts.len());
            for text in &texts {
                head(&mut bytes, b'$', text.len());
                bytes.extend_from_slice(text);
                bytes.extend_from_slice(b"\r\n");
            }
            let mut expected = vec![Token::List(texts.len())];
            expected.extend(texts.into_iter().map(bulk));
            prop_assert_eq!(tokens(bytes.chunks(piece)).unwrap(), expected);
        }
    }
}
