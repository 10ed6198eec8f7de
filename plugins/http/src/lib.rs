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
use larder_plugin_support::contract::secrets::{self, SecretError};
use larder_plugin_support::{
    Entry, Failure, FailureKind, Outcome, Param, Question, Target, Template, Validator,
    no_such_part, settings,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
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
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
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

impl loader::Guest for Http {
    async fn load(Question { target, known }: Question) -> Result<Outcome, Failure> {
        let settings: Settings = settings()?;
        let url = url(&settings, |name| part(&target.parts, name))?;
        let headers = headers(&settings, &target, known.as_ref())?;
        let timeout_ms = settings
            .timeout_ms
            .unwrap_or(u64::MAX)
            .min(target.deadline_ms.into());
        let response = fetch::get(
            &url,
            &headers,
            Duration::from_millis(timeout_ms),
            settings.body_max,
        )
        .await?;
        outcome(response, known.is_some())
    }
}

/// All that RFC 3986 2.3 calls unreserved stays; whatever else a part holds cannot be mistaken for the URL's own.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

fn url<'p>(
    settings: &Settings,
    part: impl Fn(&str) -> Result<Cow<'p, str>, Failure>,
) -> Result<http::Uri, Failure> {
    let filled = Template::parse(&settings.url).fill(|name| {
        let value = secret(name).unwrap_or_else(|| part(name))?;
        if matches!(&*value, "." | "..") {
            let message = format!("the part `{name}` is `{value}`, which would climb the path of the source; send another");
            return Err(Failure::new(FailureKind::InvalidRequest, "part-is-dots", message));
        }
        Ok(Cow::<str>::Owned(utf8_percent_encode(&value, RESERVED).to_string()))
    })?;
    let uri = filled
        .parse::<http::Uri>()
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

fn headers(
    settings: &Settings,
    target: &Target,
    known: Option<&Validator>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut headers = Vec::new();
    for (name, value) in &settings.headers {
        let value = Template::parse(value)
            .fill(|name| secret(name).unwrap_or_else(|| part(&target.parts, name)))?;
        headers.push((name.clone(), value));
    }
    let validator = known.into_iter().flat_map(|known| {
        let since = known
            .last_modified_ms
            .map(|ms| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(ms)));
        [
            ("if-none-match", known.etag.clone()),
            ("if-modified-since", since),
        ]
    });
    let span = [("traceparent", target.traceparent.clone())];
    headers.extend(
        validator
            .chain(span)
            .filter_map(|(name, value)| Some((name.to_owned(), value?))),
    );
    Ok(headers)
}

/// The value of the first part called `name`.
fn part<'p>(parts: &'p [Param], name: &str) -> Result<Cow<'p, str>, Failure> {
    larder_plugin_support::part(parts, name)
        .map(Cow::Borrowed)
        .ok_or_else(|| no_such_part(name))
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
        304 if asked_to_revalidate => return Ok(Outcome::unchanged()),
        404 | 410 => return Ok(Outcome::nothing()),
        400 | 422 => FailureKind::InvalidRequest,
        401 | 403 => FailureKind::Denied,
        429 => FailureKind::RateLimited,
        500..=599 => FailureKind::Unavailable,
        _ => FailureKind::Internal,
    };
    Err(Failure {
        retry_after_ms: response.header("retry-after").and_then(retry_after_ms),
        details: vec![Param {
            name: "status".to_owned(),
            value: status.to_string(),
        }],
        ..Failure::new(
            kind,
            &format!("origin-status-{status}"),
            format!("the source answered with status {status}"),
        )
    })
}

fn entry(response: fetch::Response) -> Entry {
    let header = |name| response.header(name).map(str::to_owned);
    let validator = Validator {
        etag: header("etag"),
        last_modified_ms: header("last-modified").and_then(|date| {
            let date = httpdate::parse_http_date(&date).ok()?;
            date.duration_since(UNIX_EPOCH)
                .ok()?
                .as_millis()
                .try_into()
                .ok()
        }),
    };
    Entry {
        status: Some(response.status),
        content_type: header("content-type"),
        // What the body cannot be understood without; the rest is between the source and this plugin.
        headers: [
            "content-encoding",
            "content-language",
            "content-disposition",
            "link",
        ]
        .into_iter()
        .filter_map(|name| {
            Some(Param {
                name: name.to_owned(),
                value: header(name)?,
            })
        })
        .collect(),
        validator: (validator.etag.is_some() || validator.last_modified_ms.is_some())
            .then_some(validator),
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
    let wait = httpdate::parse_http_date(value)
        .ok()?
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    wait.as_millis().try_into().ok()
}

fn internal(code: &str, message: String) -> Failure {
    Failure::new(FailureKind::Internal, code, message)
}

impl lifecycle::Guest for Http {
    /// Refuses settings that no request could be made with.
    async fn start() -> Result<(), Failure> {
        let mut settings: Settings = settings()?;
        // Any value will do to see what URL it makes; the secrets are looked at by the probe.
        settings.url =
            Template::parse(&settings.url).fill(|_| Ok::<_, Failure>(Cow::Borrowed("x")))?;
        url(&settings, |_| Ok(Cow::Borrowed("x")))?;
        match settings
            .headers
            .keys()
            .find(|name| name.parse::<http::HeaderName>().is_err())
        {
            Some(name) => Err(internal(
                "header-invalid",
                format!("the setting `headers` has `{name}`, which no header is called"),
            )),
            None => Ok(()),
        }
    }

    /// Asks for every secret, and the origin for nothing: it may be down while its entries are still good.
    async fn probe() -> Result<(), Failure> {
        let settings: Settings = settings()?;
        for template in settings
            .headers
            .values()
            .chain([&settings.url])
            .map(|text| Template::parse(text))
        {
            template
                .names()
                .filter_map(secret)
                .try_for_each(|secret| secret.map(drop))?;
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
            descriptor: include_str!("../descriptor.json").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Param, Settings, fetch, outcome, part, retry_after_ms, url};
    use std::collections::BTreeMap;

    fn check_url(template: &str, parts: &[(&str, &str)], expect: Result<&str, &str>) {
        let settings = Settings {
            url: template.to_owned(),
            headers: BTreeMap::new(),
            timeout_ms: None,
            body_max: 0,
        };
        let parts: Vec<Param> = parts
            .iter()
            .map(|&(name, value)| Param {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect();
        let made = url(&settings, |name| part(&parts, name)).map(|url| url.to_string());
        assert_eq!(
            made.as_deref().map_err(|failure| failure.code.as_str()),
            expect
        );
    }

    #[test]
    fn a_part_stays_within_its_place_in_the_url() {
        let check = |value, expect| {
            check_url("http://h:9/c/{id}?x={id}", &[("id", value)], expect);
        };
        check("DE", Ok("http://h:9/c/DE?x=DE"));
        check(
            "a/b?c#d&e=%",
            Ok("http://h:9/c/a%2Fb%3Fc%23d%26e%3D%25?x=a%2Fb%3Fc%23d%26e%3D%25"),
        );
        check("é ", Ok("http://h:9/c/%C3%A9%20?x=%C3%A9%20"));
        check("...", Ok("http://h:9/c/...?x=..."));
        check("%2e%2e", Ok("http://h:9/c/%252e%252e?x=%252e%252e"));
        check(".", Err("part-is-dots"));
        check("..", Err("part-is-dots"));
    }

    #[test]
    fn what_the_settings_get_wrong_is_told() {
        check_url(
            "http://h/{id}/{lang}",
            &[("id", "1")],
            Err("template-part-missing"),
        );
        check_url("ftp://h/{id}", &[("id", "1")], Err("url-invalid"));
        check_url("/relative", &[], Err("url-invalid"));
    }

    #[test]
    fn every_status_has_its_outcome() {
        let check = |status, known, expect: &str| {
            let response = fetch::Response {
                status,
                headers: Vec::new(),
                body: Vec::new(),
            };
            let said = match outcome(response, known) {
                Ok(Outcome::Found(_)) => "found".to_owned(),
                Ok(Outcome::Missing(_)) => "missing".to_owned(),
                Ok(Outcome::NotModified(_)) => "not-modified".to_owned(),
                Err(failure) => format!("{:?}", failure.kind),
            };
            assert!(said.ends_with(expect), "{status} is {said}, not {expect}");
        };
        for (status, expect) in [
            (200, "found"),
            (203, "found"),
            (404, "missing"),
            (410, "missing"),
            (400, "InvalidRequest"),
            (401, "Denied"),
            (403, "Denied"),
            (429, "RateLimited"),
            (500, "Unavailable"),
            (503, "Unavailable"),
            (302, "Internal"),
            (418, "Internal"),
        ] {
            check(status, false, expect);
            check(status, true, expect);
        }
        check(304, true, "not-modified");
        check(304, false, "Internal");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after_ms("120"), Some(120_000));
        assert_eq!(retry_after_ms("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        assert_eq!(retry_after_ms("soon"), None);
        assert_eq!(retry_after_ms("18446744073709551615"), None);
    }
}
