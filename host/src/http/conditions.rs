//! On what condition a client wants a change, and under which key: what its headers say of that. Pure.

use http::header;
use http::{HeaderMap, StatusCode};

use super::encoding::plain_tag;
use super::write::Refused;
use crate::cache::Validator;
use crate::cache::entry::quoted;
use crate::write::Precondition;

/// The most bytes of an `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 255;

/// `If-Match` and `If-None-Match` (RFC 9110 sections 13.1.1 and 13.1.2), as far as a source can be asked for them.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Refused> {
    let unsupported = |detail: &str| {
        Err(Refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "precondition-unsupported",
            detail.to_owned(),
        ))
    };
    let one = |name| {
        let mut fields = headers.get_all(name).iter();
        let first = fields
            .next()
            .map(|field| field.to_str().unwrap_or_default().trim());
        (first, fields.next().is_some())
    };
    // RFC 9110 section 13.1.4: it counts where If-Match is not given.
    if headers.contains_key(header::IF_UNMODIFIED_SINCE) && !headers.contains_key(header::IF_MATCH)
    {
        return unsupported("a source is not asked for a date: send If-Match with the entity tag");
    }
    let failed = |code, detail: String| Err(Refused(StatusCode::PRECONDITION_FAILED, code, detail));
    match (one(header::IF_MATCH), one(header::IF_NONE_MATCH)) {
        ((None, _), (None, _)) => Ok(Precondition::None),
        ((Some(_), _), (Some(_), _)) => {
            unsupported("If-Match and If-None-Match do not go together")
        }
        ((None, _), (Some("*"), false)) => Ok(Precondition::Absent),
        ((None, _), (Some(_), _)) => {
            unsupported("of If-None-Match only * can be asked of a source")
        }
        ((Some("*"), false), _) => Ok(Precondition::Present),
        ((Some(tag), false), _) if tag.starts_with("W/") => {
            // Strong comparison: it matches nothing.
            failed(
                "weak-validator",
                format!("If-Match compares strongly, and {tag} is a weak entity tag"),
            )
        }
        ((Some(tag), false), _) if tag.starts_with("\"~") => failed(
            "no-validator",
            format!(
                "{tag} is a digest that the cache made of the value: its source knows no validator of it, so it cannot be asked"
            ),
        ),
        ((Some(tag), false), _) if quoted(tag).as_deref() == Some(tag) => {
            Ok(Precondition::Matches(Validator {
                // The source gave it without the coding in which its body was sent.
                etag: Some(plain_tag(tag).unwrap_or_else(|| tag.to_owned())),
                last_modified_ms: None,
            }))
        }
        ((Some(_), _), _) => unsupported("If-Match has one entity tag in quotes, or *"),
    }
}

/// `Idempotency-Key`, bare or as a string in quotes.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    let text = key.to_str().unwrap_or_default().trim();
    let inner = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let key = inner.unwrap_or(text);
    let is_one = keys.next().is_none();
    if !is_one || key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains(['"', '\\']) {
        return Err(Refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-invalid",
            format!(
                "there is one Idempotency-Key, and it has 1 to {KEY_BYTES_MAX} visible characters without quotes"
            ),
        ));
    }
    Ok(Some(key.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        fields.collect()
    }

    #[test]
    fn conditions_become_what_a_source_can_be_asked() {
        let etag = |etag: &str| {
            Ok(Precondition::Matches(Validator {
                etag: Some(etag.to_owned()),
                last_modified_ms: None,
            }))
        };
        for (fields, wanted) in [
            (&[][..], Ok(Precondition::None)),
            (&[("if-none-match", "*")], Ok(Precondition::Absent)),
            (&[("if-match", "*")], Ok(Precondition::Present)),
            (&[("if-match", "\"a,b\"")], etag("\"a,b\"")),
            (&[("if-match", "\"a~gzip\"")], etag("\"a\"")),
            (&[("if-match", "\"~00ff\"")], Err("no-validator")),
            (&[("if-match", "W/\"a\"")], Err("weak-validator")),
            (&[("if-match", "a")], Err("precondition-unsupported")),
            (
                &[("if-match", "\"a\", \"b\"")],
                Err("precondition-unsupported"),
            ),
            (
                &[("if-match", "\"a\""), ("if-match", "\"b\"")],
                Err("precondition-unsupported"),
            ),
            (
                &[("if-none-match", "\"a\"")],
                Err("precondition-unsupported"),
            ),
            (
                &[("if-match", "*"), ("if-none-match", "*")],
                Err("precondition-unsupported"),
            ),
        ] {
            let found = precondition(&headers(fields)).map_err(|Refused(_, code, _)| code);
            assert_eq!(found, wanted, "{fields:?}");
        }
    }

    #[test]
    fn idempotency_keys_are_texts_of_a_bounded_length() {
        for (key, wanted) in [
            ("8e03978e-40d5", Some("8e03978e-40d5")),
            ("\"8e03978e-40d5\"", Some("8e03978e-40d5")),
            ("\"\"", None),
            ("a\"b", None),
        ] {
            let found = idempotency_key(&headers(&[("idempotency-key", key)]));
            assert_eq!(found.ok().flatten().as_deref(), wanted, "{key}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).ok(), Some(None));
    }
}
