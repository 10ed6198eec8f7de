//! What a plugin answered, for a reader at a terminal. What comes from a plugin is never written as it is: a control
//! character could do anything there.

use std::fmt::Write as _;
use std::time::Duration;

use bytesize::ByteSize;

use crate::cache::{Found, Outcome, Validator};
use crate::error::{Failure, FailureKind};
use crate::key::{Decision, Derivation, Param, Visibility};
use crate::plugin::{Answered, Called};

/// Bytes of a body that are printed.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The text with every control character but line breaks and tabs spelled out.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The answer, then what it took.
pub(super) fn call(called: &Called, log: &str) -> String {
    let mut text = match &called.answer {
        Ok(Answered::Outcome(outcome)) => self::outcome(outcome),
        Ok(Answered::Decision(decision)) => self::decision(decision),
        Err(failure) => format!(
            "failed, which a client sees as {}\n{}",
            status(failure),
            self::failure(failure)
        ),
    };
    let _ = writeln!(
        text,
        "\ntime     compile {:.1?}, start {:.1?}, call {:.1?}\nmemory   {} at most",
        called.compile,
        called.start,
        called.call,
        ByteSize(called.memory_peak as u64)
    );
    if log.is_empty() {
        text.push_str("log      nothing\n");
    } else {
        let _ = write!(text, "log\n{log}");
    }
    text
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Found(found) => self::found(found),
        Outcome::Missing(absence) => {
            let mut text = "missing, which a client sees as 404\n".to_owned();
            ttl(&mut text, absence.ttl, "missing_ttl");
            tags(&mut text, &absence.tags);
            text
        }
        Outcome::NotModified(renewal) => {
            let mut text = "not modified: the entry in hand is still true\n".to_owned();
            ttl(&mut text, renewal.ttl, "ttl");
            text
        }
    }
}

fn found(found: &Found) -> String {
    let mut text = format!(
        "found    {} {}, {}\n",
        found.status.unwrap_or(200),
        printable(
            found
                .content_type
                .as_deref()
                .unwrap_or("application/octet-stream")
        ),
        ByteSize(found.body.len() as u64)
    );
    ttl(&mut text, found.ttl, "ttl");
    tags(&mut text, &found.tags);
    if let Some(validator) = &found.validator {
        let _ = writeln!(text, "validator {}", self::validator(validator));
    }
    for header in &found.headers {
        let _ = writeln!(
            text,
            "header   {}: {}",
            printable(&header.name),
            printable(&header.value)
        );
    }
    let _ = write!(text, "\n{}", body(&found.body));
    text
}

fn validator(validator: &Validator) -> String {
    let mut said = Vec::new();
    if let Some(etag) = &validator.etag {
        said.push(format!("etag {}", printable(etag)));
    }
    if let Some(ms) = validator.last_modified_ms {
        let at = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(ms));
        let at = at.map_or_else(|| format!("{ms} ms"), httpdate_of);
        said.push(format!("last modified {at}"));
    }
    said.join(", ")
}

/// A time after the year 9999 has no such form, and a plugin may say any.
fn httpdate_of(at: std::time::SystemTime) -> String {
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
    match at.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) if since < YEAR_10000 => httpdate::fmt_http_date(at),
        _ => "after the year 9999".to_owned(),
    }
}

fn ttl(text: &mut String, ttl: Option<Duration>, setting: &str) {
    let _ = match ttl {
        Some(Duration::ZERO) => writeln!(text, "ttl      0: not to be stored"),
        Some(ttl) => writeln!(text, "ttl      {}", humantime::format_duration(ttl)),
        None => writeln!(text, "ttl      the route's {setting}"),
    };
}

fn tags(text: &mut String, tags: &[String]) {
    if !tags.is_empty() {
        let _ = writeln!(text, "tags     {}", printable(&tags.join(", ")));
    }
}

/// JSON is laid out, other text is printed, and bytes are counted.
fn body(bytes: &[u8]) -> String {
    let pretty = serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|json| serde_json::to_string_pretty(&json).ok());
    let text = match (&pretty, std::str::from_utf8(bytes)) {
        (Some(pretty), _) => pretty.as_str(),
        (None, Ok(text)) => text,
        (None, Err(_)) => {
            let head = &bytes[..bytes.len().min(64)];
            let dots = if head.len() < bytes.len() { "…" } else { "" };
            return format!("not text: {}{dots}\n", head.escape_ascii());
        }
    };
    let shown = &text[..text.floor_char_boundary(BODY_BYTES_MAX)];
    let mut out = printable(shown);
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    if shown.len() < text.len() {
        let _ = writeln!(
            out,
            "… and {} more",
            ByteSize((text.len() - shown.len()) as u64)
        );
    }
    out
}

fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Cache(derivation) => format!("cache under these parts\n{}", parts(derivation)),
        Decision::Bypass(derivation) => {
            format!(
                "bypass: load with these parts, neither read nor store\n{}",
                parts(derivation)
            )
        }
        Decision::Reject(rejection) => format!(
            "rejected, which a client sees as {}\n{}",
            rejection_status(rejection),
            failure(rejection)
        ),
    }
}

fn parts(derivation: &Derivation) -> String {
    let visibility = match derivation.visibility {
        Visibility::Public => "public",
        Visibility::Private => "private",
    };
    let mut text = format!("visible  {visibility}\n");
    params(&mut text, "part", &derivation.parts);
    text
}

fn params(text: &mut String, what: &str, params: &[Param]) {
    for param in params {
        let _ = writeln!(
            text,
            "{what:<8} {} = {:?}",
            printable(&param.name),
            param.value
        );
    }
}

fn failure(failure: &Failure) -> String {
    let mut text = format!(
        "kind     {}\ncode     {}\nmessage  {}\n",
        failure.kind.name(),
        printable(&failure.code),
        printable(&failure.message)
    );
    if let Some(after) = failure.retry_after {
        let _ = writeln!(text, "retry    after {}", humantime::format_duration(after));
    }
    params(&mut text, "detail", &failure.details);
    text
}

/// DESIGN section 6, of a loader.
fn status(failure: &Failure) -> u16 {
    match failure.kind {
        FailureKind::InvalidRequest => 422,
        FailureKind::Timeout => 504,
        FailureKind::RateLimited => 429,
        FailureKind::Overloaded | FailureKind::NotLoaded => 503,
        FailureKind::Denied
        | FailureKind::Conflict
        | FailureKind::Unavailable
        | FailureKind::Internal => 502,
    }
}

/// DESIGN section 6, of a key policy.
fn rejection_status(failure: &Failure) -> u16 {
    match failure.kind {
        FailureKind::InvalidRequest => 422,
        FailureKind::Denied => 403,
        FailureKind::RateLimited => 429,
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_says_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\r\n\tc"), "a\\u{1b}[2Jb\\r\n\tc");
    }

    #[test]
    fn a_body_is_laid_out_printed_or_counted() {
        assert_eq!(body(b"{\"a\":1}"), "{\n  \"a\": 1\n}\n");
        assert_eq!(body(b"plain"), "plain\n");
        assert_eq!(body(b"\xff\0"), "not text: \\xff\\x00\n");
        assert_eq!(body(b""), "");
        let long = "x".repeat(BODY_BYTES_MAX + 10);
        assert!(body(long.as_bytes()).ends_with("x\n… and 10 B more\n"));
    }
}
