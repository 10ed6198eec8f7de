//! A route's `cors`: which pages of other origins may use it, and how.

use std::time::Duration;

use toml::de::DeValue;

use super::defaults::routes as setting;
use super::kind::{self, Fault, HeaderName, Origin, Period, Scalar, Switch};
use super::reader::Table;

/// How long a browser may keep the answer to a preflight where nobody says: as long as browsers do at most.
const MAX_AGE: Duration = Duration::from_secs(2 * 60 * 60);

/// What stands in a route's `cors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whether every origin may.
    pub is_any: bool,
    /// Those that may, as browsers write them.
    pub origins: Vec<String>,
    /// Request headers that a page may send, beside the usual ones.
    pub headers: Vec<String>,
    /// Whether cookies and credentials may go along.
    pub credentials: bool,
    /// How long the answer to a preflight may be kept.
    pub max_age: Duration,
}

/// An origin, or `*` for all of them.
#[derive(Debug)]
struct OriginOrAny;

impl kind::Kind for OriginOrAny {
    fn name() -> String {
        "origin".to_owned()
    }
}

impl Scalar for OriginOrAny {
    type Value = String;
    const EXAMPLE: &'static str = "an origin, such as \"https://app.example.com\", or \"*\"";

    fn parse(text: &str) -> Result<String, Fault> {
        if text == "*" {
            return Ok(text.to_owned());
        }
        Origin::parse(text)
    }
}

pub(super) fn read(table: &Table<'_>) -> Option<Cors> {
    let value = table.raw(setting::cors.key)?;
    let example = "write cors = { origins = [\"https://app.example.com\"] }, or origins = [\"*\"]";
    let DeValue::Table(entries) = value.get_ref() else {
        let message = format!("expected a table, found {}", kind::found(value.get_ref()));
        table.fault(&setting::cors, Fault::new(message, example));
        return None;
    };
    let label = format!("cors of {}", table.label());
    let inner = table.inner(label, table.line_at(value), entries);
    let is_empty = inner
        .raw("origins")
        .is_none_or(|value| matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()));
    let origins: Vec<String> = inner
        .list_at::<OriginOrAny>("origins")
        .into_iter()
        .flatten()
        .map(|(origin, _)| origin)
        .collect();
    let headers = inner.list_at::<HeaderName>("headers").into_iter().flatten();
    let cors = Cors {
        is_any: origins.iter().any(|origin| origin == "*"),
        headers: headers.map(|(name, _)| name).collect(),
        credentials: inner.read::<Switch>("credentials").unwrap_or(false),
        max_age: inner.read::<Period>("max_age").unwrap_or(MAX_AGE),
        origins,
    };
    inner.finish();
    if is_empty {
        let fault = Fault::new("it names no origins, so nobody may", example);
        table.fault(&setting::cors, fault);
    }
    if cors.is_any && cors.credentials {
        let fault = Fault::new(
            "credentials go to origins that are named, and \"*\" names none: any page could read what its visitor may",
            "list the origins, or leave credentials out",
        );
        table.fault(&setting::cors, fault);
    }
    Some(cors)
}
