//! `http`: a GET of a templated URL, revalidated when the cache has something to revalidate. To copy from when the source
//! speaks a protocol: secrets, validators, deadlines, and one failure kind for each thing that can go wrong.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `url` | | where to ask; each `{name}` is a part, percent-encoded |
//! | `headers` | `{}` | what to send; a value may hold `{name}` and `{secret:NAME}` |
//! | `timeout_ms` | the deadline | how long to wait for the whole answer |
//! | `body_max` | 8 MiB | the longest body taken, in bytes; raise it together with `[limits] body` |
//!
//! Grants: `http` to the origin; a line in `[secrets]` for each `{secret:NAME}`. A sidecar, `http.toml`:
//!
//! ```toml
//! [config]
//! url = "https://api.example.com/countries/{alpha_2}"
//! headers = { authorization = "Bearer {secret:token}" }
//! [secrets]
//! token = { env = "COUNTRIES_TOKEN" }
//! [grants]
//! http = ["https://api.example.com"]
//! ```
//!
//! | the origin | the outcome |
//! |---|---|
//! | 2xx | found, with its `ETag` and `Last-Modified` as the validator |
//! | 304 | not-modified |
//! | 404, 410 | missing |
//! | 400, 422 | `invalid-request` |
//! | 401, 403 | `denied` |
//! | 429 | `rate-limited`, with its `Retry-After` |
//! | 5xx, refused, reset, cut short | `unavailable` |
//! | no answer in time | `timeout` |
//! | anything else, a redirect too | `internal` |
//!
//! A part `.` or `..` would climb the path of the URL, percent-encoded or not, so it is `invalid-request`. A `{name}`
//! without such a part is a failure `internal` that names it.

mod fetch;

use exports::larder::plugin::{lifecycle, loader, metadata};
use larder::plugin::secrets::{self, SecretError};
use larder::plugin::types::{Absence, Entry, Failure, FailureKind, Outcome, Param, Question, Renewal, Target, Validator};
use larder_plugin_support::Template;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:http;
        world http {
            include larder:plugin/loader-plugin@0.1.0;
            include larder:plugin/described@0.1.0;
        }
    ",
    generate_all,
});

struct Http;
export!(Http);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    timeout_ms: Option<u64>,
    #[serde(default = "body_max")]
    body_max: usize,
}

/// What the host takes unless `[limits] body` says otherwise.
const fn body_max() -> usize {
    8 << 20
}

fn settings() -> Result<Settings, Failure> {
    larder_plugin_support::settings(&larder::plugin::settings::get()).map_err(|fault| internal("settings-unfit", fault))
}

impl loader::Guest for Http {
    async fn load(Question { target, known }: Question) -> Result<Outcome, Failure> {
        let settings = settings()?;
        let url = url(&settings, |name| part(&target.parts, name))?;
        let headers = headers(&settings, &target, known.as_ref())?;
        let timeout_ms = settings.timeout_ms.unwrap_or(u64::MAX).min(target.deadline_ms.into());
        let response = fetch::get(&url, &headers, Duration::from_millis(timeout_ms), settings.body_max).await?;
        outcome(response, known.is_some())
    }
}

/// All that RFC 3986 2.3 calls unreserved stays; whatever else a part holds cannot be mistaken for the URL's own.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn url<'p>(settings: &Settings, part: impl Fn(&str) -> Result<Cow<'p, str>, Failure>) -> Result<http::Uri, Failure> {
    let filled = Template::parse(&settings.url).fill(|name| {
        let value = secret(name).unwrap_or_else(|| part(name))?;
        if matches!(&*value, "." | "..") {
            let message = format!("the part `{name}` is `{value}`, which would climb the path of the source; send another");
            return Err(failure(FailureKind::InvalidRequest, "part-is-dots", message));
        }
        Ok(Cow::<str>::Owned(utf8_percent_encode(&value, RESERVED).to_string()))
    })?;
    let uri = filled.parse::<http::Uri>().ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    uri.ok_or_else(|| internal("url-invalid", format!("the setting `url`, `{}`, makes no http or https URL", settings.url)))
}

fn headers(settings: &Settings, target: &Target, known: Option<&Validator>) -> Result<Vec<(String, String)>, Failure> {
    let mut headers = Vec::new();
    for (name, value) in &settings.headers {
        let value = Template::parse(value).fill(|name| secret(name).unwrap_or_else(|| part(&target.parts, name)))?;
        headers.push((name.clone(), value));
    }
    let validator = known.into_iter().flat_map(|known| {
        let since = known.last_modified_ms.map(|ms| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms)));
        [("if-none-match", known.etag.clone()), ("if-modified-since", since)]
    });
    let span = [("traceparent", target.traceparent.clone())];
    headers.extend(validator.chain(span).filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Ok(headers)
}

/// The value of the first part called `name`.
fn part<'p>(parts: &'p [Param], name: &str) -> Result<Cow<'p, str>, Failure> {
    match parts.iter().find(|part| part.name == name) {
        Some(part) => Ok(Cow::Borrowed(&part.value)),
        None => {
            let message = format!("the settings name {{{name}}}, and there is no such part; add `{name}` to the route's path or key");
            Err(internal("template-part-missing", message))
        }
    }
}

/// The secret that `name` asks for, if it is of the form `secret:NAME`.
fn secret<'p>(name: &str) -> Option<Result<Cow<'p, str>, Failure>> {
    let name = name.strip_prefix("secret:")?;
    Some(secrets::get(name).map(Cow::Owned).map_err(|error| match error {
        SecretError::NotGranted => internal(
            "secret-not-granted",
            format!("the settings name the secret `{name}`; add `{name} = {{ env = \"…\" }}` to [secrets] of the sidecar"),
        ),
        SecretError::Unavailable => internal(
            "secret-unavailable",
            format!("the secret `{name}` cannot be had; set the variable, or write the file, that [secrets] of the sidecar names"),
        ),
    }))
}

fn outcome(response: fetch::Response, asked_to_revalidate: bool) -> Result<Outcome, Failure> {
    let status = response.status;
    let kind = match status {
        200..=299 => return Ok(Outcome::Found(entry(response))),
        304 if asked_to_revalidate => return Ok(Outcome::NotModified(Renewal { ttl_ms: None, hints: Vec::new() })),
        404 | 410 => return Ok(Outcome::Missing(Absence { ttl_ms: None, tags: Vec::new(), hints: Vec::new() })),
        400 | 422 => FailureKind::InvalidRequest,
        401 | 403 => FailureKind::Denied,
        429 => FailureKind::RateLimited,
        500..=599 => FailureKind::Unavailable,
        _ => FailureKind::Internal,
    };
    Err(Failure {
        retry_after_ms: response.header("retry-after").and_then(retry_after_ms),
        details: vec![Param { name: "status".to_owned(), value: status.to_string() }],
        ..failure(kind, &format!("origin-status-{status}"), format!("the source answered with status {status}"))
    })
}

fn entry(response: fetch::Response) -> Entry {
    let header = |name| response.header(name).map(str::to_owned);
    let validator = Validator {
        etag: header("etag"),
        last_modified_ms: header("last-modified").and_then(|date| {
            let date = httpdate::parse_http_date(&date).ok()?;
            date.duration_since(UNIX_EPOCH).ok()?.as_millis().try_into().ok()
        }),
    };
    Entry {
        status: Some(response.status),
        content_type: header("content-type"),
        // What the body cannot be understood without; the rest is between the source and this plugin.
        headers: ["content-encoding", "content-language", "content-disposition", "link"]
            .into_iter()
            .filter_map(|name| Some(Param { name: name.to_owned(), value: header(name)? }))
            .collect(),
        validator: (validator.etag.is_some() || validator.last_modified_ms.is_some()).then_some(validator),
        body: response.body,
        ttl_ms: None,
        tags: Vec::new(),
        hints: Vec::new(),
    }
}

/// `Retry-After` (RFC 9110 10.2.3): seconds, or a date.
fn retry_after_ms(value: &str) -> Option<u64> {
    if let Ok(seconds) = value.parse::<u64>() {
        return seconds.checked_mul(1000);
    }
    let wait = httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).unwrap_or_default();
    wait.as_millis().try_into().ok()
}

fn failure(kind: FailureKind, code: &str, message: String) -> Failure {
    Failure { kind, code: code.to_owned(), message, retry_after_ms: None, details: Vec::new() }
}

fn internal(code: &str, message: String) -> Failure {
    failure(FailureKind::Internal, code, message)
}

impl lifecycle::Guest for Http {
    /// Refuses settings that no request could be made with.
    async fn start() -> Result<(), Failure> {
        let mut settings = settings()?;
        // Any value will do to see what URL it makes; the secrets are looked at by the probe.
        settings.url = Template::parse(&settings.url).fill(|_| Ok::<_, Failure>(Cow::Borrowed("x")))?;
        url(&settings, |_| Ok(Cow::Borrowed("x")))?;
        match settings.headers.keys().find(|name| name.parse::<http::HeaderName>().is_err()) {
            Some(name) => Err(internal("header-invalid", format!("the setting `headers` has `{name}`, which no header is called"))),
            None => Ok(()),
        }
    }

    /// Asks for every secret, and the origin for nothing: it may be down while its entries are still good.
    async fn probe() -> Result<(), Failure> {
        let settings = settings()?;
        for template in settings.headers.values().chain([&settings.url]).map(|text| Template::parse(text)) {
            template.names().filter_map(secret).try_for_each(|secret| secret.map(drop))?;
        }
        Ok(())
    }

    async fn stop() {}
}

impl metadata::Guest for Http {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "http".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "GETs a templated URL and passes the answer on.",
                // The URL may name any part.
                "additional_parameters": true,
                "settings": {
                    "type": "object", "additionalProperties": false, "required": ["url"],
                    "properties": {
                        "url": {
                            "type": "string", "pattern": "^https?://.+",
                            "description": "Where to ask; each {name} is a part, percent-encoded.",
                        },
                        "headers": {
                            "type": "object", "additionalProperties": { "type": "string" }, "default": {},
                            "description": "What to send; a value may hold {name} and {secret:NAME}.",
                        },
                        "timeout_ms": {
                            "type": "integer", "minimum": 1,
                            "description": "How long to wait for the whole answer, in milliseconds; the deadline unless set.",
                        },
                        "body_max": {
                            "type": "integer", "minimum": 0, "default": body_max(),
                            "description": "The longest body taken, in bytes; raise it together with [limits] body.",
                        },
                    },
                },
                "grants": { "http": ["the origin that the setting `url` names"] },
            })
            .to_string(),
        }
    }
}
