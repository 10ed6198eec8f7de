//! What Redis answers of the queue, as Rust sees it. What is not as Larder writes it is none (law 11).

use bytes::Bytes;
use redis::Value;

use crate::cache::queue::{DeadLetter, Depth, Known, Pushed, Queued, State};
use crate::cache::redis::names::sequence_of;
use crate::key::Resource;

pub(super) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

pub(super) fn owned(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => text(value)?.parse().ok(),
    }
}

pub(super) fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(list) => Some(list),
        _ => None,
    }
}

pub(super) fn three(value: Value) -> Option<[Value; 3]> {
    match value {
        Value::Array(list) => list.try_into().ok(),
        _ => None,
    }
}

/// What `push.lua` answers.
pub(super) fn pushed_of(answer: &Value) -> Option<Pushed> {
    let (what, rest) = list(answer)?.split_first()?;
    match (text(what)?, rest) {
        ("accepted", [number]) => Some(Pushed::Accepted {
            sequence: sequence_of(bytes(number)?)?,
        }),
        ("known", known) => known_of(known).map(Pushed::Known),
        ("another", []) => Some(Pushed::Another),
        ("full", [depth]) => depth_of(list(depth)?).map(Pushed::Full),
        _ => None,
    }
}

/// `[state, number, since, reason]`.
pub(super) fn known_of(answer: &[Value]) -> Option<Known> {
    let [state, number_of, since, reason] = answer else {
        return None;
    };
    let at_ms = number(since)?;
    let state = match text(state)? {
        "p" => State::Pending,
        "a" => State::Applied { at_ms },
        "d" => State::Dead {
            at_ms,
            reason: String::from_utf8_lossy(bytes(reason)?).into_owned(),
        },
        _ => return None,
    };
    let sequence = sequence_of(bytes(number_of)?)?;
    Some(Known { state, sequence })
}

/// `[pending, dead, bytes, the first that is pending or nothing]`.
pub(super) fn depth_of(answer: &[Value]) -> Option<Depth> {
    let [pending, dead, bytes_of, oldest] = answer else {
        return None;
    };
    Some(Depth {
        pending: number(pending)?,
        dead: number(dead)?,
        bytes: number(bytes_of)?,
        oldest: sequence_of(bytes(oldest)?),
    })
}

/// An entry of the stream, `[number, [field, value, …]]`; of one that is no change, its number.
pub(super) fn queued_of(entry: Value) -> Result<Queued, Option<Vec<u8>>> {
    let Value::Array(entry) = entry else {
        return Err(None);
    };
    let Ok([Value::BulkString(at), fields]) = <[Value; 2]>::try_from(entry) else {
        return Err(None);
    };
    let read = |fields: Value| {
        let Value::Array(fields) = fields else {
            return None;
        };
        // As they were written: a script names them in this order.
        let [i, id, r, resource, p, _print, d, record] = <[Value; 8]>::try_from(fields).ok()?;
        let named = [(i, "i"), (r, "r"), (p, "p"), (d, "d")];
        if named.iter().any(|(field, name)| text(field) != Some(name)) {
            return None;
        }
        Some(Queued {
            sequence: sequence_of(&at)?,
            id: text(&id)?.parse().ok()?,
            resource: Resource::from_text(text(&resource)?),
            record: owned(record)?,
        })
    };
    read(fields).ok_or(Some(at))
}

/// `[id, PLACE:AT:PRINT:RESOURCE, reason, record, whether it is superseded]`.
pub(super) fn letter_of(answer: Value) -> Option<DeadLetter> {
    let Value::Array(answer) = answer else {
        return None;
    };
    let [id, meta, reason, record, superseded] = <[Value; 5]>::try_from(answer).ok()?;
    let mut meta = text(&meta)?.splitn(4, ':');
    let sequence = sequence_of(meta.next()?.as_bytes())?;
    let at_ms = meta.next()?.parse().ok()?;
    let resource = Resource::from_text(meta.nth(1)?);
    Some(DeadLetter {
        queued: Queued {
            sequence,
            id: text(&id)?.parse().ok()?,
            resource,
            record: owned(record)?,
        },
        reason: String::from_utf8_lossy(bytes(&reason)?).into_owned(),
        at_ms,
        superseded: superseded == Value::Int(1),
    })
}
