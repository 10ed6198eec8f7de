//! The head of a request as it lies in the bytes that were read: where it ends, what its fields are, and whether it is so plain
//! that it may be answered without hyper. Must not know what is answered.
//!
//! The parser is the one that hyper uses, so both see the same head in the same bytes; what this calls plain is a small part
//! of what hyper takes, and everything about which implementations are known to differ (bodies, `Transfer-Encoding`,
//! `Connection`, old versions, odd targets) is hyper's.

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};

/// Fields of a head that is looked at here; one with more is hyper's.
pub(super) const FIELDS_MAX: usize = 64;

/// A longer target is hyper's to refuse.
const TARGET_BYTES_MAX: usize = 32 * 1024;

/// Room for the fields of a head.
pub(super) type Room<'b> = [MaybeUninit<Header<'b>>; FIELDS_MAX];

/// The head of a plain read.
pub struct Head<'b> {
    /// The path and query, as it was sent.
    pub target: &'b str,
    /// The fields, as they were sent.
    pub fields: &'b [Header<'b>],
}

/// What the bytes begin with.
pub(super) enum Begins<'b> {
    /// A head that may be answered here, and its length.
    Plain(Head<'b>, usize),
    /// A whole head that is hyper's, its length, and that of its body.
    Other(usize, u64),
    /// A part of a head.
    Partial,
    /// Something of which nobody knows here where it ends.
    Unknown,
}

/// Looks at what was read. A head with more than `fields_max` fields is hyper's to refuse.
pub(super) fn begins<'b>(bytes: &'b [u8], room: &'b mut Room<'b>, fields_max: usize) -> Begins<'b> {
    let mut request = Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(bytes, room) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Begins::Partial,
        Err(_) => return Begins::Unknown,
    };
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    let fields: &'b [Header<'b>] = request.headers;
    let mut plain = method == "GET"
        && request.version == Some(1)
        && fields.len() <= fields_max
        && is_plain_target(target);
    let mut body = None;
    for field in fields {
        match role(field) {
            Role::Any => {}
            Role::Hypers => plain = false,
            Role::Length => {
                plain = false;
                // Two lengths, or one that is none: where the request ends is in doubt.
                match (length_of(field.value), body) {
                    (Some(length), None) => body = Some(length),
                    _ => return Begins::Unknown,
                }
            }
            Role::Framing => return Begins::Unknown,
        }
    }
    if plain {
        Begins::Plain(Head { target, fields }, length)
    } else if method == "CONNECT" {
        Begins::Unknown
    } else {
        Begins::Other(length, body.unwrap_or(0))
    }
}

/// What a field says of the request it is in.
enum Role {
    /// Nothing of where it ends or what becomes of the connection.
    Any,
    /// Something that hyper acts upon.
    Hypers,
    /// How long the body is.
    Length,
    /// That what follows is framed in another way.
    Framing,
}

fn role(field: &Header<'_>) -> Role {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    match field.name.len() {
        6 if is("expect") => Role::Framing,
        7 if is("upgrade") => Role::Framing,
        10 if is("connection") && !field.value.eq_ignore_ascii_case(b"keep-alive") => Role::Hypers,
        14 if is("content-length") => Role::Length,
        17 if is("transfer-encoding") => Role::Framing,
        _ => Role::Any,
    }
}

fn length_of(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.len() < 19 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number)?;
    text.parse().ok()
}

/// A path and query of what RFC 3986 has in them, and nothing that anybody would have to make sense of.
fn is_plain_target(target: &str) -> bool {
    /// By byte: whether it is one of these.
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let bytes =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?%";
        let mut at = 0;
        while at < bytes.len() {
            plain[bytes[at] as usize] = true;
            at += 1;
        }
        plain
    };
    target.len() <= TARGET_BYTES_MAX
        && target.starts_with('/')
        && target.bytes().all(|byte| PLAIN[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &str) -> String {
        let mut room = [MaybeUninit::uninit(); FIELDS_MAX];
        match begins(bytes.as_bytes(), &mut room, 3) {
            Begins::Plain(head, length) => {
                format!("plain {} {} {length}", head.target, head.fields.len())
            }
            Begins::Other(length, body) => format!("other {length} {body}"),
            Begins::Partial => "partial".into(),
            Begins::Unknown => "unknown".into(),
        }
    }

    #[test]
    fn only_what_leaves_no_question_is_answered_without_hyper() {
        for (bytes, expect) in [
            (
                "GET /a?b=%20 HTTP/1.1\r\nhost: x\r\n\r\n",
                "plain /a?b=%20 1 34",
            ),
            ("GET / HTTP/1.1\r\n\r\nGET /b", "plain / 0 18"),
            (
                "GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n",
                "plain / 1 42",
            ),
            ("GET / HTTP/1.1\r\nhost: x\r\n", "partial"),
            ("GET / HTTP/1.0\r\n\r\n", "other 18 0"),
            ("HEAD / HTTP/1.1\r\n\r\n", "other 19 0"),
            ("GET http://x/ HTTP/1.1\r\n\r\n", "other 26 0"),
            ("GET /{a} HTTP/1.1\r\n\r\n", "other 21 0"),
            ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "other 37 0"),
            (
                "GET / HTTP/1.1\r\na: 1\r\nb: 1\r\nc: 1\r\nd: 1\r\n\r\n",
                "other 42 0",
            ),
            (
                "PUT /a HTTP/1.1\r\nContent-Length: 12\r\n\r\n",
                "other 39 12",
            ),
            ("GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", "other 37 0"),
        ] {
            assert_eq!(said(bytes), expect, "{bytes:?}");
        }
    }

    #[test]
    fn where_the_end_is_in_doubt_hyper_has_the_connection() {
        for bytes in [
            "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: \r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "GET / HTTP/1.1\r\nexpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nbad name: 1\r\n\r\n",
            "GET /\0 HTTP/1.1\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            assert_eq!(said(bytes), "unknown", "{bytes:?}");
        }
    }
}
