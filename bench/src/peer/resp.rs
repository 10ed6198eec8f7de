//! The little of Redis's protocol that a cache needs: GET and SET as bytes, and a reply that is a value, nothing, or
//! `OK`. Pure; must not know how bytes come and go.

use std::{io::Write, ops::Range};

use anyhow::{Result, bail, ensure};

/// What Redis answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Where the value is, in the bytes that were looked at.
    Value(Range<usize>),
    Nothing,
    Done,
}

/// Adds `GET prefix+key`.
pub(super) fn get(out: &mut Vec<u8>, prefix: &str, key: &str) {
    let length = prefix.len() + key.len();
    // Cannot fail: a vector takes everything.
    let _ = write!(out, "*2\r\n$3\r\nGET\r\n${length}\r\n{prefix}{key}\r\n");
}

/// Adds `SET prefix+key value EX seconds`.
pub(super) fn set(out: &mut Vec<u8>, prefix: &str, key: &str, value: &[u8], seconds: u64) {
    let length = prefix.len() + key.len();
    let seconds = seconds.to_string();
    let _ = write!(
        out,
        "*5\r\n$3\r\nSET\r\n${length}\r\n{prefix}{key}\r\n${}\r\n",
        value.len()
    );
    out.extend_from_slice(value);
    let _ = write!(out, "\r\n$2\r\nEX\r\n${}\r\n{seconds}\r\n", seconds.len());
}

/// The first reply in these bytes and how long it is; `None` if it is not whole yet.
pub(super) fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let (line, begin) = (std::str::from_utf8(&bytes[..end])?, end + 2);
    match line.split_at_checked(1) {
        Some(("+", _)) => Ok(Some((Reply::Done, begin))),
        Some(("$", "-1")) => Ok(Some((Reply::Nothing, begin))),
        Some(("$", length)) => {
            let value = begin..begin + length.parse::<usize>()?;
            if bytes.len() < value.end + 2 {
                return Ok(None);
            }
            ensure!(
                &bytes[value.end..value.end + 2] == b"\r\n",
                "a value without an end"
            );
            let whole = value.end + 2;
            Ok(Some((Reply::Value(value), whole)))
        }
        _ => bail!("Redis answered `{line}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_what_redis_reads() {
        let mut out = Vec::new();
        get(&mut out, "p:", "k1");
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$4\r\np:k1\r\n");
        out.clear();
        set(&mut out, "p:", "k1", b"value", 60);
        assert_eq!(
            out,
            b"*5\r\n$3\r\nSET\r\n$4\r\np:k1\r\n$5\r\nvalue\r\n$2\r\nEX\r\n$2\r\n60\r\n"
        );
    }

    #[test]
    fn replies_are_found_whole_or_not_at_all() {
        let bytes = b"$5\r\nva\r\ne\r\n+OK\r\n";
        assert_eq!(reply(bytes).unwrap(), Some((Reply::Value(4..9), 11)));
        assert_eq!(reply(&bytes[11..]).unwrap(), Some((Reply::Done, 5)));
        assert_eq!(reply(b"$-1\r\n").unwrap(), Some((Reply::Nothing, 5)));
        for cut in 0..11 {
            assert_eq!(reply(&bytes[..cut]).unwrap(), None);
        }
    }

    #[test]
    fn an_error_of_redis_is_an_error() {
        assert!(reply(b"-NOAUTH Authentication required.\r\n").is_err());
    }
}
