//! The contract as wasmtime sees it, and the conversions between its records and the host's own types.
//!
//! Owns nothing but names: `wit/` is the contract. What a guest says is converted (and judged) here, once, on its way out.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::output;
use crate::cache::{Absence, Found, Outcome, Question, Renewal, Validator};
use crate::error::{Failure, FailureKind, Origin};
use crate::key::{Decision, Derivation, Param, Visibility};
use crate::write::{Mutation, Operation, Precondition, Receipt};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, where every item is documented"
)]
mod generated {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package larder:host;

            /// Everything at once: the host looks for each exported interface separately.
            world everything {
                include larder:plugin/imports@0.1.0;
                export larder:plugin/loader@0.1.0;
                export larder:plugin/blocking-loader@0.1.0;
                export larder:plugin/batch-loader@0.1.0;
                export larder:plugin/change-feed@0.1.0;
                export larder:plugin/writer@0.1.0;
                export larder:plugin/key-policy@0.1.0;
                export larder:plugin/metadata@0.1.0;
                export larder:plugin/lifecycle@0.1.0;
            }
        ",
        world: "larder:host/everything",
        imports: { default: trappable },
        exports: { default: async },
    });
}

pub(super) use generated::exports::larder::plugin::{
    batch_loader, blocking_loader, change_feed, key_policy, lifecycle, loader, metadata, writer,
};
pub(super) use generated::larder::plugin::{log, secrets, settings, types};

/// What a guest answered to a question, not yet judged.
pub(super) type Answer = Result<types::Outcome, types::Failure>;

/// A question on its way in; `remaining` is what the guest is told as `deadline-ms`.
pub(super) fn question(question: &Question, remaining: Duration) -> types::Question {
    types::Question {
        target: types::Target {
            traceparent: question.traceparent.clone(),
            ..target(&question.route, &question.parts, remaining)
        },
        known: question.known.as_ref().map(validator),
    }
}

fn target(route: &str, parts: &[Param], remaining: Duration) -> types::Target {
    let parts = parts.iter().map(|part| types::Param {
        name: part.name.clone(),
        value: part.value.clone(),
    });
    types::Target {
        route: route.to_owned(),
        parts: parts.collect(),
        deadline_ms: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX),
        traceparent: None,
        hints: Vec::new(),
    }
}

fn validator(validator: &Validator) -> types::Validator {
    types::Validator {
        etag: validator.etag.clone(),
        last_modified_ms: validator.last_modified_ms,
    }
}

/// A change on its way in.
pub(super) fn mutation(mutation: &Mutation) -> writer::Mutation {
    writer::Mutation {
        target: types::Target {
            traceparent: mutation.traceparent.clone(),
            ..target(&mutation.route, &mutation.parts, mutation.timeout)
        },
        operation: match &mutation.operation {
            Operation::Put(payload) => writer::Operation::Put(writer::Payload {
                content_type: payload.content_type.clone(),
                body: payload.body.to_vec(),
            }),
            Operation::Delete => writer::Operation::Delete,
        },
        expect: match &mutation.expect {
            Precondition::None => writer::Precondition::None,
            Precondition::Absent => writer::Precondition::Absent,
            Precondition::Present => writer::Precondition::Present,
            Precondition::Matches(known) => writer::Precondition::Matches(validator(known)),
        },
        idempotency_key: mutation.idempotency_key.clone(),
        sequence: mutation.sequence,
        hints: Vec::new(),
    }
}

/// What a change came to, on its way out. An entry that the contract does not allow is left out: the change was made.
pub(super) fn receipt(
    said: Result<writer::Receipt, types::Failure>,
    body_max: usize,
) -> Result<Receipt, Failure> {
    // Each is a purge that all nodes are told of.
    const TAGS_MAX: usize = 256;
    const TAG_BYTES_MAX: usize = 32 * 1024;
    let said = said.map_err(failure)?;
    let tag_bytes: usize = said.tags.iter().map(String::len).sum();
    if said.tags.len() > TAGS_MAX || tag_bytes > TAG_BYTES_MAX {
        return Err(Failure::fault(
            Origin::Limit,
            "too-many-tags",
            format!(
                "the writer named {} tags of {tag_bytes} bytes; {TAGS_MAX} of {TAG_BYTES_MAX} bytes in all are allowed; the change may have been made",
                said.tags.len()
            ),
        ));
    }
    let entry = said.entry.map(|entry| found(entry, body_max)).transpose();
    Ok(Receipt {
        created: said.created,
        validator: said.validator.map(known),
        entry: entry.unwrap_or_else(|failure| {
            tracing::warn!("what a writer says that a read would give is not taken: {failure}");
            None
        }),
        tags: said.tags,
    })
}

fn known(said: types::Validator) -> Validator {
    Validator {
        etag: said.etag,
        last_modified_ms: said.last_modified_ms,
    }
}

/// An answer on its way out: what the contract does not allow becomes a clear failure.
pub(super) fn answer(answer: Answer, body_max: usize) -> Result<Outcome, Failure> {
    match answer {
        Ok(types::Outcome::Found(entry)) => found(entry, body_max).map(Outcome::Found),
        Ok(types::Outcome::Missing(absence)) => Ok(Outcome::Missing(Absence {
            ttl: millis(absence.ttl_ms),
            tags: absence.tags,
            hints: params(absence.hints),
        })),
        Ok(types::Outcome::NotModified(renewal)) => Ok(Outcome::NotModified(Renewal {
            ttl: millis(renewal.ttl_ms),
            hints: params(renewal.hints),
        })),
        Err(returned) => Err(failure(returned)),
    }
}

fn found(entry: types::Entry, body_max: usize) -> Result<Found, Failure> {
    if entry.body.len() > body_max {
        return Err(Failure::fault(
            Origin::Limit,
            "body-limit",
            format!(
                "the loader answered a body of {} bytes; [limits] body allows {body_max}",
                entry.body.len()
            ),
        ));
    }
    if let Some(status) = entry.status.filter(|status| !(200..=599).contains(status)) {
        return Err(Failure {
            origin: Origin::Returned,
            ..Failure::host(
                FailureKind::Internal,
                "invalid-status",
                format!("the loader answered the status {status}; an entry has one of 200 to 599"),
            )
        });
    }
    Ok(Found {
        status: entry.status,
        content_type: entry.content_type,
        headers: params(entry.headers),
        body: Bytes::from(entry.body),
        validator: entry.validator.map(known),
        ttl: millis(entry.ttl_ms),
        tags: entry.tags,
        hints: params(entry.hints),
    })
}

/// A failure that the guest returned.
pub(super) fn failure(returned: types::Failure) -> Failure {
    // Failures are shown to consumers and remembered for a while: what a guest says in one is bounded (law 12).
    const CODE_BYTES_MAX: usize = 128;
    const MESSAGE_BYTES_MAX: usize = 4096;
    const DETAILS_MAX: usize = 16;
    let kind = match returned.kind {
        types::FailureKind::InvalidRequest => FailureKind::InvalidRequest,
        types::FailureKind::Denied => FailureKind::Denied,
        types::FailureKind::Conflict => FailureKind::Conflict,
        types::FailureKind::Unavailable => FailureKind::Unavailable,
        types::FailureKind::Timeout => FailureKind::Timeout,
        types::FailureKind::RateLimited => FailureKind::RateLimited,
        types::FailureKind::Internal => FailureKind::Internal,
    };
    Failure {
        kind,
        origin: Origin::Returned,
        code: if returned.code.is_empty() {
            Cow::Borrowed(kind.name())
        } else {
            Cow::Owned(cut(returned.code, CODE_BYTES_MAX))
        },
        message: cut(returned.message, MESSAGE_BYTES_MAX),
        retry_after: millis(returned.retry_after_ms),
        details: params(returned.details)
            .into_iter()
            .take(DETAILS_MAX)
            .map(|detail| Param {
                name: cut(detail.name, CODE_BYTES_MAX),
                value: cut(detail.value, MESSAGE_BYTES_MAX),
            })
            .collect(),
    }
}

/// The text, cut at a character if it is longer.
fn cut(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    // It is told to consumers and logged.
    match output::harmless(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(shown) => shown,
    }
}

/// A policy's decision on its way out.
pub(super) fn decision(decision: key_policy::Decision) -> Decision {
    match decision {
        key_policy::Decision::Cache(derivation) => Decision::Cache(derived(derivation)),
        key_policy::Decision::Bypass(derivation) => Decision::Bypass(derived(derivation)),
        key_policy::Decision::Reject(returned) => Decision::Reject(failure(returned)),
    }
}

fn derived(derivation: types::Derivation) -> Derivation {
    Derivation {
        parts: params(derivation.parts),
        visibility: match derivation.visibility {
            types::Visibility::Public => Visibility::Public,
            types::Visibility::Private => Visibility::Private,
        },
        hints: params(derivation.hints),
    }
}

/// The two records have one layout, so the vector is converted in place.
pub(super) fn params(list: Vec<types::Param>) -> Vec<Param> {
    list.into_iter()
        .map(|param| Param {
            name: param.name,
            value: param.value,
        })
        .collect()
}

fn millis(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: Option<u16>, body: usize) -> types::Entry {
        types::Entry {
            status,
            content_type: None,
            headers: Vec::new(),
            body: vec![b'x'; body],
            validator: None,
            ttl_ms: Some(0),
            tags: Vec::new(),
            hints: Vec::new(),
        }
    }

    #[test]
    fn an_answer_outside_the_contract_is_a_clear_failure() {
        for status in [0, 199, 600] {
            let failed = answer(Ok(types::Outcome::Found(entry(Some(status), 1))), 10).unwrap_err();
            assert_eq!(failed.code, "invalid-status");
            assert!(failed.message.contains(&status.to_string()), "{failed}");
        }
        let failed = answer(Ok(types::Outcome::Found(entry(None, 11))), 10).unwrap_err();
        assert_eq!(
            (&*failed.code, failed.origin),
            ("body-limit", Origin::Limit)
        );
    }

    #[test]
    fn a_returned_failure_without_a_code_takes_its_kinds_name() {
        let returned = types::Failure {
            kind: types::FailureKind::RateLimited,
            code: String::new(),
            message: "slow down".to_owned(),
            retry_after_ms: Some(1500),
            details: Vec::new(),
        };
        let failed = failure(returned);
        assert_eq!(failed.code, "rate-limited");
        assert_eq!(failed.retry_after, Some(Duration::from_millis(1500)));
        assert!(!failed.is_fault());
    }
}
