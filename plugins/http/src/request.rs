//! The request: what the settings make of the parts of a question. Pure but for the secrets; must not know how it is sent.
//!
//! Whatever a part holds stays in its place: percent-encoded in a URL and in a form, escaped in JSON.

use crate::settings::{Method, Settings, is_json};
use crate::{internal, secret};
use http::Uri;
use larder_plugin_support::{
    Failure, FailureKind, Param, Target, Template, Validator, no_such_part,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

/// A request that is ready to be sent, as often as needed.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Uri,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
}

/// The request for `target`, which asks whether `known` still stands.
///
/// # Errors
/// `invalid-request` for a part that cannot stand where it is named; `internal` for settings that make no request.
pub(crate) fn ask(
    settings: &Settings,
    target: &Target,
    known: Option<&Validator>,
) -> Result<Ask, Failure> {
    let value_of = |name: &str| value_of(&target.parts, name);
    Ok(Ask {
        method: settings.method,
        url: url(settings, value_of)?,
        headers: headers(settings, target, known)?,
        body: body(settings, value_of)?.map(String::into_bytes),
    })
}

/// The secret, or the first part, that `{name}` stands for; nothing if there is no such part.
fn value_of<'p>(parts: &'p [Param], name: &str) -> Result<Option<Cow<'p, str>>, Failure> {
    match secret(name) {
        Some(secret) => secret.map(Some),
        None => Ok(larder_plugin_support::part(parts, name).map(Cow::Borrowed)),
    }
}

/// All that RFC 3986 2.3 calls unreserved stays; whatever else a part holds cannot be mistaken for the URL's own.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

fn encoded(value: &str) -> String {
    utf8_percent_encode(value, RESERVED).to_string()
}

/// `url` with its parts in place, and `query` behind it.
pub(crate) fn url<'p>(
    settings: &Settings,
    value_of: impl Fn(&str) -> Result<Option<Cow<'p, str>>, Failure>,
) -> Result<Uri, Failure> {
    let mut filled = Template::parse(&settings.url).fill(|name| {
        let value = value_of(name)?.ok_or_else(|| no_such_part(name))?;
        if matches!(&*value, "." | "..") {
            let message = format!("the part `{name}` is `{value}`, which would climb the path of the source; send another");
            return Err(Failure::new(FailureKind::InvalidRequest, "part-is-dots", message));
        }
        Ok(Cow::<str>::Owned(encoded(&value)))
    })?;
    // A fragment is not sent, and what is put behind it would not be either.
    filled.truncate(filled.find('#').unwrap_or(filled.len()));
    for (name, template) in &settings.query {
        if let Some(value) = query_value(template, &value_of)? {
            filled.push(if filled.contains('?') { '&' } else { '?' });
            filled.push_str(&encoded(name));
            filled.push('=');
            filled.push_str(&encoded(&value));
        }
    }
    let uri = filled
        .parse::<Uri>()
        .ok()
        .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    uri.ok_or_else(|| {
        internal(
            "url-invalid",
            format!(
                "the setting `url`, `{}`, makes no http or https URL",
                settings.url
            ),
        )
    })
}

/// A value of `query`, or nothing: an optional parameter that was not sent is no part, and is not asked for.
fn query_value<'p>(
    template: &str,
    value_of: impl Fn(&str) -> Result<Option<Cow<'p, str>>, Failure>,
) -> Result<Option<String>, Failure> {
    let filled = Template::parse(template).fill(|name| match value_of(name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(None),
        Err(failure) => Err(Some(failure)),
    });
    match filled {
        Ok(value) => Ok(Some(value)),
        Err(None) => Ok(None),
        Err(Some(failure)) => Err(failure),
    }
}

fn headers(
    settings: &Settings,
    target: &Target,
    known: Option<&Validator>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut headers = Vec::new();
    for (name, value) in &settings.headers {
        let value = Template::parse(value)
            .fill(|name| value_of(&target.parts, name)?.ok_or_else(|| no_such_part(name)))?;
        headers.push((name.clone(), value));
    }
    headers.extend(settings.accept_encoding());
    let validator = known.into_iter().flat_map(|known| {
        let since = known
            .last_modified_ms
            .map(|ms| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms)));
        [
            ("if-none-match", known.etag.clone()),
            ("if-modified-since", since),
        ]
    });
    let media = settings
        .body
        .is_some()
        .then(|| settings.content_type.clone());
    let own = [
        ("content-type", media),
        ("traceparent", target.traceparent.clone()),
    ];
    headers.extend(
        validator
            .chain(own)
            .filter_map(|(name, value)| Some((name.to_owned(), value?))),
    );
    Ok(headers)
}

/// `body` with its parts in place.
pub(crate) fn body<'p>(
    settings: &Settings,
    value_of: impl Fn(&str) -> Result<Option<Cow<'p, str>>, Failure>,
) -> Result<Option<String>, Failure> {
    let Some(body) = &settings.body else {
        return Ok(None);
    };
    let media_type = settings.media_type();
    let filled = Template::parse(body).fill_after(|before, name| {
        let value = value_of(name)?.ok_or_else(|| no_such_part(name))?;
        Ok::<_, Failure>(match &*media_type {
            json if is_json(json) => json_value(before, name, &value)?.into(),
            "application/x-www-form-urlencoded" => encoded(&value).into(),
            _ => value,
        })
    });
    filled.map(Some)
}

/// A value in JSON: escaped inside a string; elsewhere only a number, `true`, `false` or `null` is one.
fn json_value(before: &str, name: &str, value: &str) -> Result<String, Failure> {
    if in_string(before) {
        let quoted = serde_json::Value::from(value).to_string();
        return Ok(quoted[1..quoted.len() - 1].to_owned());
    }
    match serde_json::from_str(value) {
        Ok(
            plain @ (serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)),
        ) => Ok(plain.to_string()),
        // What it is instead stays unsaid: it may be a secret.
        _ => Err(Failure::new(
            FailureKind::InvalidRequest,
            "part-is-no-number",
            format!(
                "`{name}` stands for a JSON number in the question to the source, and is none; send a number"
            ),
        )),
    }
}

/// Whether the JSON text ends within a string.
fn in_string(json: &str) -> bool {
    let mut inside = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => inside = !inside,
            b'\\' if inside => drop(bytes.next()),
            _ => {}
        }
    }
    inside
}

#[cfg(test)]
mod tests;
