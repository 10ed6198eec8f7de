//! What the sidecar says: where the database is, and one query for each route. Owns the defaults and what is refused; must
//! not know how a connection is made or a query is run.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use larder_plugin_support::{Failure, FailureKind, Template};
use serde::{Deserialize, Deserializer};

use crate::sql::{self, Parameter};
use crate::writes::settings::{Write, WriteSettings};
use crate::writes::sql::Sides;

/// The `[config]` of the sidecar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) host: String,
    #[serde(default = "port")]
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) tls: Tls,
    /// The authorities to believe: PEM text, or the path of a PEM file as the plugin sees it.
    pub(crate) ca: Option<String>,
    /// What the certificate must be made out to, where that is not `host`.
    pub(crate) server_name: Option<String>,
    #[serde(default = "connections")]
    pub(crate) connections: usize,
    #[serde(default = "connect_timeout", deserialize_with = "duration")]
    pub(crate) connect_timeout: Duration,
    /// The most rows and bytes of one answer.
    #[serde(default = "rows_max")]
    pub(crate) rows_max: usize,
    #[serde(default = "body_max")]
    pub(crate) body_max: usize,
    #[serde(default)]
    queries: BTreeMap<String, QuerySettings>,
    #[serde(default)]
    writes: BTreeMap<String, WriteSettings>,
    /// The last change of every row is kept, so that an older one that comes late changes nothing.
    pub(crate) order: Option<OrderSettings>,
    /// Changes are kept by their idempotency keys, so that one that comes twice is made once.
    pub(crate) once: Option<OnceSettings>,
    /// Where changes are read from; nowhere without it.
    pub(crate) feed: Option<FeedSettings>,
}

/// Whether the connection is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tls {
    /// Encrypted or not at all, and with whom the certificate says.
    Require,
    /// Encrypted where the server offers it; its certificate is looked at where there is a `ca` to judge it by.
    #[default]
    Prefer,
    /// In the clear.
    Disable,
}

/// Where changes are read from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FeedSettings {
    /// How often the outbox is looked at when nobody wakes the feed.
    #[serde(deserialize_with = "duration")]
    pub(crate) every: Duration,
    /// How long changes are kept; zero: until somebody else removes them.
    #[serde(deserialize_with = "duration")]
    pub(crate) keep: Duration,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

/// How long the last change of a row is kept; zero: until somebody else removes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OrderSettings {
    #[serde(deserialize_with = "duration")]
    pub(crate) keep: Duration,
}

impl Default for OrderSettings {
    /// Longer than any queue tries.
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// How long the key of a change is kept; zero: until somebody else removes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct OnceSettings {
    #[serde(deserialize_with = "duration")]
    pub(crate) keep: Duration,
}

impl Default for OnceSettings {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuerySettings {
    sql: String,
    #[serde(default)]
    params: BTreeMap<String, String>,
    key: Option<String>,
    result: Shape,
    #[serde(default, deserialize_with = "optional_duration")]
    ttl: Option<Duration>,
    #[serde(default)]
    tags: Vec<String>,
}

/// What a query answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// One row, as an object; no row is an absence.
    One,
    /// Any number of rows, as an array.
    Many,
}

/// The query of a route, judged.
#[derive(Debug)]
pub(crate) struct Query {
    /// The pattern of the route.
    pub(crate) route: String,
    /// What is bound, in the order of `$1`, `$2`, …
    pub(crate) parameters: Vec<Parameter>,
    /// Which of the parameters many questions are gathered by, if they are.
    pub(crate) key: Option<usize>,
    /// The operator's SQL with numbered, typed parameters and no semicolon at its end.
    pub(crate) sql: String,
    pub(crate) shape: Shape,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) tags: Vec<Template>,
}

impl Query {
    /// The parameter that questions are gathered by, if they are.
    pub(crate) fn key(&self) -> Option<&Parameter> {
        self.key.map(|at| &self.parameters[at])
    }
}

impl Settings {
    /// The queries, judged.
    ///
    /// # Errors
    /// A failure `internal` that names the first setting that makes no sense.
    pub(crate) fn queries(&self) -> Result<Vec<Query>, Failure> {
        self.queries
            .iter()
            .map(|(route, query)| {
                query
                    .judge(route)
                    .map_err(|fault| unfit(format!("[config.queries.\"{route}\"]: {fault}")))
            })
            .collect()
    }

    /// What is written, judged.
    ///
    /// # Errors
    /// A failure `internal` that names the first setting that makes no sense.
    pub(crate) fn writes(&self) -> Result<Vec<Write>, Failure> {
        self.writes
            .iter()
            .map(|(route, write)| {
                write
                    .judge(route)
                    .map_err(|fault| unfit(format!("[config.writes.\"{route}\"]: {fault}")))
            })
            .collect()
    }

    /// Which side tables writes use.
    pub(crate) fn sides(&self) -> Sides {
        Sides {
            order: self.order.is_some(),
            once: self.once.is_some(),
        }
    }

    /// Refuses what the schema of the descriptor cannot tell.
    ///
    /// # Errors
    /// A failure `internal` that names the setting.
    pub(crate) fn judge(&self) -> Result<(), Failure> {
        self.queries()?;
        self.writes()?;
        if self.tls == Tls::Require && self.ca.is_none() {
            return Err(unfit(
                "[config]: `tls = \"require\"` has nothing to judge the server's certificate by; add `ca = \"/tls/ca.pem\"` \
                 (a file under a granted directory) or the PEM text itself"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl QuerySettings {
    fn judge(&self, route: &str) -> Result<Query, String> {
        let declared = self
            .params
            .iter()
            .map(|(name, type_name)| Parameter::new(name, type_name))
            .collect::<Result<Vec<_>, _>>()?;
        let (sql, parameters) = sql::number(&self.sql, &declared, self.key.as_deref())?;
        let key = match &self.key {
            None => None,
            Some(key) => {
                let at = parameters
                    .iter()
                    .position(|parameter| parameter.name == *key);
                let at = at.ok_or_else(|| {
                    format!("`key` is `{key}`, and `params` has no such name; add it there")
                })?;
                if parameters[at].is_list() {
                    return Err(format!(
                        "`key` is `{key}` of the type `{}`; give the type of one value, without `[]`: the query is handed an array of it",
                        parameters[at].type_name
                    ));
                }
                Some(at)
            }
        };
        let mut seen = HashSet::new();
        if let Some(twice) = self.tags.iter().find(|tag| !seen.insert(*tag)) {
            return Err(format!("`tags` has `{twice}` twice; remove one"));
        }
        Ok(Query {
            route: route.to_owned(),
            parameters,
            key,
            sql,
            shape: self.result,
            ttl_ms: self
                .ttl
                .map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            tags: self.tags.iter().map(|tag| Template::parse(tag)).collect(),
        })
    }
}

fn unfit(message: String) -> Failure {
    Failure::new(FailureKind::Internal, "settings-unfit", message)
}

const fn port() -> u16 {
    5432
}

const fn connections() -> usize {
    4
}

const fn connect_timeout() -> Duration {
    Duration::from_secs(2)
}

const fn rows_max() -> usize {
    10_000
}

/// What the host takes unless `[limits] body` says otherwise.
const fn body_max() -> usize {
    8 << 20
}

/// As the host writes durations: `"200ms"`, `"1h 30m"`, `"0"`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|fault| {
        serde::de::Error::custom(format!(
            "`{text}` is no duration ({fault}); write it like \"60s\""
        ))
    })
}

fn optional_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::{Query, Settings, Shape};
    use std::time::Duration;

    fn settings(query: &str) -> Settings {
        let text = format!(
            r#"{{"host": "h", "database": "d", "user": "u", "queries": {{"/countries/{{alpha_2}}": {query}}}}}"#
        );
        serde_json::from_str(&text).expect("it fits")
    }

    fn check_refused(query: &str, words: &[&str]) {
        let failure = settings(query).judge().expect_err(query);
        for word in words.iter().chain([&"/countries/{alpha_2}"]) {
            assert!(
                failure.message.contains(word),
                "{word}: {}",
                failure.message
            );
        }
    }

    fn the_query(query: &str) -> Query {
        settings(query).queries().expect("it is right").remove(0)
    }

    #[test]
    fn a_query_says_what_it_binds_and_what_it_answers() {
        let query = the_query(
            r#"{"sql": "select * from countries where alpha_2 = any($alpha_2);", "params": {"alpha_2": "text"},
                "key": "alpha_2", "result": "one", "ttl": "1h", "tags": ["country:{alpha_2}"]}"#,
        );
        assert_eq!(
            query.sql,
            "select * from countries where alpha_2 = any(($1::text[]))"
        );
        assert_eq!(query.key, Some(0));
        assert_eq!(query.shape, Shape::One);
        assert_eq!(query.ttl_ms, Some(3_600_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_line_to_mend() {
        check_refused(
            r#"{"sql": "select $a", "result": "one"}"#,
            &["$a", "params"],
        );
        check_refused(
            r#"{"sql": "select 1", "params": {"a": "int"}, "result": "one"}"#,
            &["`a`", "$a"],
        );
        check_refused(
            r#"{"sql": "select $a", "params": {"a": "int; drop"}, "result": "one"}"#,
            &["int; drop"],
        );
        check_refused(
            r#"{"sql": "select $a", "params": {"a": "int"}, "key": "b", "result": "one"}"#,
            &["`key` is `b`"],
        );
        check_refused(
            r#"{"sql": "select $a", "params": {"a": "int[]"}, "key": "a", "result": "one"}"#,
            &["int[]", "without `[]`"],
        );
    }

    #[test]
    fn tls_that_is_required_is_verified() {
        let mut settings = settings(r#"{"sql": "select 1", "result": "many"}"#);
        settings.tls = super::Tls::Require;
        assert!(settings.judge().unwrap_err().message.contains("ca = "));
        settings.ca = Some("/tls/ca.pem".to_owned());
        settings.judge().expect("there is an authority now");
    }

    #[test]
    fn durations_are_written_as_everywhere() {
        let text = r#"{"host": "h", "database": "d", "user": "u", "connect_timeout": "1s 500ms", "feed": {"keep": "0"}}"#;
        let settings: Settings = serde_json::from_str(text).expect("it fits");
        assert_eq!(settings.connect_timeout, Duration::from_millis(1500));
        let feed = settings.feed.expect("there is one");
        assert_eq!(feed.keep, Duration::ZERO);
        assert_eq!(feed.every, Duration::from_secs(1));
    }
}
