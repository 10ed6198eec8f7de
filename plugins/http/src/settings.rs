//! What `[config]` says: the settings of the plugin, and what is wrong with them. Must not know a request.

use crate::{internal, secret};
use larder_plugin_support::{Failure, Template};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) query: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) method: Method,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Option<String>,
    #[serde(default = "content_type")]
    pub(crate) content_type: String,
    pub(crate) timeout_ms: Option<u64>,
    #[serde(default = "retries")]
    pub(crate) retries: u32,
    #[serde(default = "body_max")]
    pub(crate) body_max: usize,
}

/// How the source is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    #[default]
    Get,
    /// For a source that takes its question as a body. It is asked once: only its author knows what a second time does.
    Post,
    /// Of a change, and not of a question.
    #[serde(skip)]
    Put,
    #[serde(skip)]
    Delete,
}

/// The encodings of a body that are asked for unless `headers` say otherwise.
pub(crate) const ENCODINGS: &str = "gzip, br";

const ACCEPT_ENCODING: &str = "accept-encoding";

fn content_type() -> String {
    "application/json".to_owned()
}

const fn retries() -> u32 {
    2
}

/// What the host takes unless `[limits] body` says otherwise.
const fn body_max() -> usize {
    8 << 20
}

impl Settings {
    /// How long to wait for a whole answer, where the host waits for `deadline_ms`.
    pub(crate) fn timeout(&self, deadline_ms: u32) -> Duration {
        let own = self.timeout_ms.unwrap_or(u64::MAX);
        Duration::from_millis(own.min(deadline_ms.into()))
    }

    /// The media type of the body, without its parameters.
    pub(crate) fn media_type(&self) -> String {
        let (media, _) = self
            .content_type
            .split_once(';')
            .unwrap_or((&self.content_type, ""));
        media.trim().to_ascii_lowercase()
    }

    /// What the source is told it may encode a body with, as a list of tokens.
    pub(crate) fn encodings(&self) -> &str {
        let own = self
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(ACCEPT_ENCODING));
        own.map_or(ENCODINGS, |(_, value)| value)
    }

    /// `accept-encoding`, where `headers` do not hold it already.
    pub(crate) fn accept_encoding(&self) -> Option<(String, String)> {
        let own = self
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case(ACCEPT_ENCODING));
        (!own).then(|| (ACCEPT_ENCODING.to_owned(), ENCODINGS.to_owned()))
    }

    /// Every text that is a template.
    pub(crate) fn templates(&self) -> impl Iterator<Item = Template> {
        [&self.url]
            .into_iter()
            .chain(self.query.values())
            .chain(self.headers.values())
            .chain(&self.body)
            .map(|text| Template::parse(text))
    }

    /// Asks the host for every secret that is named.
    ///
    /// # Errors
    /// The first that cannot be had, with the line to add.
    pub(crate) fn check_secrets(&self) -> Result<(), Failure> {
        self.templates().try_for_each(|template| {
            template
                .names()
                .filter_map(secret)
                .try_for_each(|secret| secret.map(drop))
        })
    }

    /// Looks for what no request could be made with, beyond what the schema of the descriptor sees.
    ///
    /// # Errors
    /// A failure `internal` that names the setting.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.headers
            .iter()
            .try_for_each(|(name, value)| check_header(&name.to_ascii_lowercase(), name, value))?;
        match (&self.body, self.method) {
            (Some(_), Method::Get) => Err(internal(
                "body-without-post",
                "the setting `body` is there, and a GET has none; add `method = \"POST\"` to [config]".to_owned(),
            )),
            (Some(body), Method::Post) if is_json(&self.media_type()) => check_json(body),
            _ => Ok(()),
        }
    }
}

/// Whether a media type is JSON (RFC 6839: or one built on it).
pub(crate) fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

fn check_header(lower: &str, name: &str, value: &str) -> Result<(), Failure> {
    let invalid = |why: &str| {
        Err(internal(
            "header-invalid",
            format!("the setting `headers` has `{name}`, {why}"),
        ))
    };
    if name.parse::<http::HeaderName>().is_err() {
        return invalid("which no header is called");
    }
    match lower {
        "content-type" => {
            invalid("which belongs to the body; write `content_type = \"…\"` in [config]")
        }
        "content-length" => invalid("which follows from the body; take it out"),
        ACCEPT_ENCODING => {
            let known = |token: &str| matches!(token, "gzip" | "br" | "identity");
            match tokens(value).find(|token| !known(token)) {
                Some(token) => invalid(&format!(
                    "and `{token}` in it cannot be decoded; name only `gzip`, `br` and `identity`"
                )),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// The tokens of a list such as `gzip, br;q=0.5`, in lower case.
pub(crate) fn tokens(list: &str) -> impl Iterator<Item = String> {
    list.split(',')
        .filter_map(|item| item.split(';').next())
        .map(|token| token.trim().to_ascii_lowercase())
        .filter(|token| !token.is_empty())
}

/// A digit is JSON in a string and out of one, so it shows what the template makes of any value.
fn check_json(body: &str) -> Result<(), Failure> {
    let sample = Template::parse(body).fill(|_| Ok::<_, Failure>(Cow::Borrowed("0")))?;
    serde_json::from_str::<IgnoredAny>(&sample)
        .map(drop)
        .map_err(|fault| {
            internal(
                "body-invalid",
                format!(
                    "the setting `body` makes no JSON ({fault}); correct it, or say what it is in `content_type`"
                ),
            )
        })
}
