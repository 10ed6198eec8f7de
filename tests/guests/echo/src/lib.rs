//! `echo`: answers what it was asked, so that a test sees what a loader sees. Async, described.
//!
//! The answer: `{"parts": [[name, value], …], "known": bool, "known_etag": text or null, "route": text,
//! "deadline_ms": number, "traceparent": text or null, "hints": [[name, value], …], "load": N}`, where N counts the loads of
//! this instance from 1. With the part `key` = `missing`: an absence.
//!
//! Settings, all optional; `{name}` in a text is the part of that name (nothing, if there is none):
//! - `ttl_ms`, `missing_ttl_ms`: of entries (and renewals) and of absences
//! - `tags`: list of texts; on entries and absences
//! - `status`, `content_type`, `headers` (table of texts), `hints` (table of texts), `etag` (text, with its quotes)
//! - `body`: text to answer instead
//! - `latency_ms`: waits so long
//! - `revalidate`: `true` answers `not-modified` when `known` has the etag that the answer would have

use larder_plugin_support::{
    Absence, Entry, Failure, Outcome, Param, Question, Renewal, Template, Validator, settings,
};
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:echo;
        world echo {
            include larder:plugin/loader-plugin@0.1.0;
            export larder:plugin/metadata@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

use exports::larder::plugin::{loader, metadata};

struct Echo;
export!(Echo);

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    ttl_ms: Option<u64>,
    missing_ttl_ms: Option<u64>,
    tags: Vec<String>,
    status: Option<u16>,
    content_type: Option<String>,
    headers: BTreeMap<String, String>,
    hints: BTreeMap<String, String>,
    etag: Option<String>,
    body: Option<String>,
    latency_ms: u64,
    revalidate: bool,
}

thread_local! {
    static LOADS: Cell<u64> = const { Cell::new(0) };
}

impl loader::Guest for Echo {
    async fn load(Question { target, known }: Question) -> Result<Outcome, Failure> {
        let settings: Settings = settings()?;
        let load = LOADS.get() + 1;
        LOADS.set(load);
        if settings.latency_ms > 0 {
            wasip3::clocks::monotonic_clock::wait_for(settings.latency_ms * 1_000_000).await;
        }
        let fill = |text: &str| fill(text, &target.parts);
        let tags = settings.tags.iter().map(|tag| fill(tag)).collect();
        let hints = params(&settings.hints, &target.parts);
        if target
            .parts
            .iter()
            .any(|part| part.name == "key" && part.value == "missing")
        {
            return Ok(Outcome::Missing(Absence {
                ttl_ms: settings.missing_ttl_ms,
                tags,
                hints,
            }));
        }
        let known_etag = known.as_ref().and_then(|known| known.etag.clone());
        let etag = settings.etag.as_deref().map(fill);
        if settings.revalidate && known_etag.is_some() && known_etag == etag {
            return Ok(Outcome::NotModified(Renewal {
                ttl_ms: settings.ttl_ms,
                hints,
            }));
        }
        let body = settings.body.as_deref().map_or_else(
            || {
                json!({
                    "parts": pairs(&target.parts),
                    "known": known.is_some(),
                    "known_etag": known_etag,
                    "route": target.route,
                    "deadline_ms": target.deadline_ms,
                    "traceparent": target.traceparent,
                    "hints": pairs(&target.hints),
                    "load": load,
                })
                .to_string()
            },
            fill,
        );
        Ok(Outcome::Found(Entry {
            status: settings.status,
            content_type: Some(
                settings
                    .content_type
                    .as_deref()
                    .unwrap_or("application/json")
                    .to_owned(),
            ),
            headers: params(&settings.headers, &target.parts),
            body: body.into_bytes(),
            validator: etag.map(|etag| Validator {
                etag: Some(etag),
                last_modified_ms: None,
            }),
            ttl_ms: settings.ttl_ms,
            tags,
            hints,
        }))
    }
}

fn pairs(params: &[Param]) -> Vec<[&str; 2]> {
    params
        .iter()
        .map(|param| [param.name.as_str(), param.value.as_str()])
        .collect()
}

fn params(table: &BTreeMap<String, String>, parts: &[Param]) -> Vec<Param> {
    table
        .iter()
        .map(|(name, value)| Param {
            name: name.clone(),
            value: fill(value, parts),
        })
        .collect()
}

fn fill(text: &str, parts: &[Param]) -> String {
    let value = |name: &str| {
        parts
            .iter()
            .find(|part| part.name == name)
            .map_or("", |part| &part.value)
    };
    Template::parse(text)
        .fill(|name| Ok::<_, ()>(Cow::Borrowed(value(name))))
        .unwrap_or_default()
}

impl metadata::Guest for Echo {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "echo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "Answers what it was asked.",
                "parameters": [
                    { "name": "key", "in": "path", "description": "Anything.", "schema": { "type": "string" } },
                    { "name": "lang", "in": "query", "description": "Anything.", "schema": { "type": "string" } },
                    { "name": "page", "in": "query", "description": "A number.", "schema": { "type": "integer", "minimum": 1 } },
                ],
                "additional_parameters": true,
                "response": { "content_type": "application/json", "schema": { "type": "object" } },
                "settings": {
                    "type": "object", "additionalProperties": false,
                    "properties": {
                        "ttl_ms": { "type": "integer", "minimum": 0 },
                        "missing_ttl_ms": { "type": "integer", "minimum": 0 },
                        "tags": { "type": "array", "items": { "type": "string" } },
                        "status": { "type": "integer", "minimum": 0, "maximum": 65535 },
                        "content_type": { "type": "string" },
                        "headers": { "type": "object", "additionalProperties": { "type": "string" } },
                        "hints": { "type": "object", "additionalProperties": { "type": "string" } },
                        "etag": { "type": "string" },
                        "body": { "type": "string" },
                        "latency_ms": { "type": "integer", "minimum": 0 },
                        "revalidate": { "type": "boolean" },
                    },
                },
            })
            .to_string(),
        }
    }
}
