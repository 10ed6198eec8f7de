//! What can go wrong, as the document tells it: a response for each status, with every `code` of the host's own that it can
//! carry. Codes of plugins are their own, and come beside these. Pure.

use serde_json::{Value, json};

/// One code: its status, the code, what it means, and where it can occur.
pub(super) struct Known {
    pub(super) status: u16,
    pub(super) code: &'static str,
    meaning: &'static str,
    pub(super) on: On,
}

/// On which operations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Every,
    Reads,
    Writes,
    /// Writes that are answered when they are made.
    Through,
    /// Writes that are answered when they are accepted.
    Behind,
    /// Where a key policy is asked.
    Policies,
}

const fn known(status: u16, code: &'static str, on: On, meaning: &'static str) -> Known {
    Known {
        status,
        code,
        meaning,
        on,
    }
}

/// Every code of the host's own. `tests/openapi.rs` holds what it is answered against this.
pub(super) static KNOWN: &[Known] = &[
    known(
        400,
        "not-utf-8",
        On::Every,
        "The path or the query is not UTF-8 after percent-decoding.",
    ),
    known(
        400,
        "body-cut-short",
        On::Writes,
        "The body did not come whole.",
    ),
    known(
        400,
        "partial-put",
        On::Writes,
        "A part of a resource cannot be written.",
    ),
    known(
        403,
        "denied",
        On::Policies,
        "The key policy refuses the request.",
    ),
    known(403, "denied", On::Writes, "The source refuses the change."),
    known(
        404,
        "missing",
        On::Reads,
        "The source has no such resource. Remembered for a while.",
    ),
    known(
        408,
        "body-too-slow",
        On::Writes,
        "The body did not come in time.",
    ),
    known(
        409,
        "conflict",
        On::Through,
        "The change met another state of the resource.",
    ),
    known(
        409,
        "idempotency-key-in-use",
        On::Through,
        "The change of this `Idempotency-Key` is being made.",
    ),
    known(
        412,
        "conflict",
        On::Through,
        "The condition of the request does not hold.",
    ),
    known(
        412,
        "no-validator",
        On::Through,
        "The entity tag is a digest of the cache, which the source does not know.",
    ),
    known(
        412,
        "weak-validator",
        On::Through,
        "`If-Match` compares strongly.",
    ),
    known(
        413,
        "body-too-long",
        On::Writes,
        "The body is longer than the server takes.",
    ),
    known(
        415,
        "content-type-unsupported",
        On::Writes,
        "`Accept` of this answer says what the body is to be.",
    ),
    known(
        415,
        "content-encoding-unsupported",
        On::Writes,
        "A body is sent without `Content-Encoding`.",
    ),
    known(
        422,
        "invalid-request",
        On::Every,
        "Parameters or members of the body do not fit; `errors` has an item for each fault.",
    ),
    known(
        422,
        "key-too-large",
        On::Every,
        "The parameters are too long.",
    ),
    known(422, "body-invalid", On::Writes, "The body is not JSON."),
    known(
        422,
        "idempotency-key-invalid",
        On::Writes,
        "The `Idempotency-Key` is not one visible text of at most 255 bytes.",
    ),
    known(
        422,
        "idempotency-key-reused",
        On::Writes,
        "Another change was sent with this `Idempotency-Key`.",
    ),
    known(
        422,
        "precondition-unsupported",
        On::Through,
        "The source cannot be asked for this condition.",
    ),
    known(
        422,
        "needs-write-through",
        On::Behind,
        "Nobody can be asked for a condition before the change is made.",
    ),
    known(
        429,
        "rate-limited",
        On::Every,
        "The source, or the key policy, asks for patience; `Retry-After` says how much.",
    ),
    known(
        500,
        "policy-impure",
        On::Policies,
        "The key policy is out of service.",
    ),
    known(500, "internal", On::Policies, "The key policy failed."),
    known(
        500,
        "key-too-large",
        On::Policies,
        "The key policy made a key that is too long.",
    ),
    known(
        502,
        "unavailable",
        On::Every,
        "The source cannot be reached, or answers nonsense.",
    ),
    known(502, "internal", On::Every, "The plugin failed."),
    known(503, "starting", On::Every, "The server has just started."),
    known(
        503,
        "plugin-not-loaded",
        On::Every,
        "The plugin behind the route is not there.",
    ),
    known(
        503,
        "plugin-overloaded",
        On::Every,
        "The plugin has as much to do as it may.",
    ),
    known(
        503,
        "plugin-breaker-open",
        On::Every,
        "The plugin failed too often, and is left alone for a while.",
    ),
    known(
        503,
        "too-many-loads",
        On::Every,
        "The server loads as much as it may.",
    ),
    known(
        503,
        "too-many-route-loads",
        On::Every,
        "The route loads as much as it may.",
    ),
    known(
        503,
        "too-many-waiters",
        On::Reads,
        "As many requests wait for loads as may.",
    ),
    known(
        503,
        "write-pending",
        On::Reads,
        "A change of the resource is on its way, and took too long.",
    ),
    known(
        503,
        "too-many-writes",
        On::Writes,
        "As many changes are being made as may.",
    ),
    known(
        503,
        "queue-full",
        On::Behind,
        "The queue of changes has no room.",
    ),
    known(
        503,
        "queue-unavailable",
        On::Behind,
        "The queue of changes cannot be written to.",
    ),
    known(
        504,
        "timeout",
        On::Every,
        "The source does not answer in time.",
    ),
    known(
        504,
        "only-if-cached",
        On::Reads,
        "`Cache-Control: only-if-cached`, and nothing is there.",
    ),
    known(
        504,
        "write-aborted",
        On::Through,
        "The server stops; the change may have been made.",
    ),
];

/// Statuses that say when to come back.
fn has_retry_after(status: u16) -> bool {
    matches!(status, 409 | 429 | 503)
}

/// The response of one status on an operation where `occurs` says which codes can come.
pub(super) fn response(status: u16, occurs: impl Fn(On) -> bool) -> Option<Value> {
    let codes: Vec<&Known> = KNOWN
        .iter()
        .filter(|known| known.status == status && occurs(known.on))
        .collect();
    if codes.is_empty() {
        return None;
    }
    let lines: Vec<String> = codes
        .iter()
        .map(|known| format!("- `{}`: {}", known.code, known.meaning))
        .collect();
    let examples: serde_json::Map<String, Value> = codes
        .iter()
        .map(|known| (known.code.to_owned(), json!({ "value": example(known) })))
        .collect();
    let mut headers = json!({ "Cache-Status": { "$ref": "#/components/headers/Cache-Status" } });
    if has_retry_after(status) {
        headers["Retry-After"] = json!({ "$ref": "#/components/headers/Retry-After" });
    }
    Some(json!({
        "description": lines.join("\n"),
        "headers": headers,
        "content": {
            "application/problem+json": {
                "schema": { "$ref": "#/components/schemas/Problem" },
                "examples": examples,
            },
        },
    }))
}

/// The statuses that can come, in order.
pub(super) fn statuses(occurs: impl Fn(On) -> bool) -> Vec<u16> {
    let mut statuses: Vec<u16> = KNOWN
        .iter()
        .filter(|known| occurs(known.on))
        .map(|known| known.status)
        .collect();
    statuses.dedup();
    statuses
}

fn example(known: &Known) -> Value {
    let status = http::StatusCode::from_u16(known.status).unwrap_or_default();
    json!({
        "type": format!("urn:larder:problem:{}", known.code),
        "title": status.canonical_reason(),
        "status": known.status,
        "code": known.code,
        "detail": known.meaning,
    })
}

/// RFC 9457, with what Larder adds.
pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "description": "A problem (RFC 9457). `code` is stable: programs look at it, people read `detail`.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": { "type": "string", "format": "uri", "description": "`urn:larder:problem:` and the code." },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "code": { "type": "string" },
            "detail": { "type": "string" },
            "errors": {
                "type": "array",
                "description": "One item for each thing that is wrong.",
                "items": {
                    "type": "object",
                    "required": ["name", "message"],
                    "properties": {
                        "where": { "type": "string", "enum": ["path", "query", "body"] },
                        "name": { "type": "string", "description": "The parameter, or the member of the body." },
                        "pointer": { "type": "string", "description": "JSON Pointer (RFC 6901) into the parameters of that place, or into the body." },
                        "code": { "type": "string", "description": "The JSON Schema keyword that is not met, or a word of the source." },
                        "message": { "type": "string" },
                        "expected": { "description": "What the schema says under that keyword." },
                    },
                },
            },
        },
    })
}
