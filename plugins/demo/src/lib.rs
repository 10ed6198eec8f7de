//! `demo`: the slow source of a caching tutorial. It waits a while, then says a sentence about the parts it was given.
//! The smallest whole loader, to copy from: a descriptor, settings, parts, an outcome and a failure.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `text` | `"Data for key {key}"` | the answer; each `{name}` is a part of that name |
//! | `latency_ms` | `150` | how long it pretends to work |
//!
//! Grants: none. A sidecar, `demo.toml`:
//!
//! ```toml
//! [config]
//! text = "Hello {key}"
//! latency_ms = 50
//! ```
//!
//! It answers `{"data": TEXT}`. A `{name}` without such a part is a failure `internal` that names it.

use larder_plugin_support::{Template, settings};
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:demo;
        world demo {
            include larder:plugin/loader-plugin@0.1.0;
            export larder:plugin/metadata@0.1.0;
        }
    ",
    generate_all,
});

use exports::larder::plugin::{loader, metadata};
use larder::plugin::types::{Entry, Failure, FailureKind, Outcome, Param, Question};

struct Demo;
export!(Demo);

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    text: String,
    latency_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { text: "Data for key {key}".to_owned(), latency_ms: 150 }
    }
}

impl loader::Guest for Demo {
    async fn load(question: Question) -> Result<Outcome, Failure> {
        let settings: Settings =
            settings(&larder::plugin::settings::get()).map_err(|fault| internal("settings-unfit", fault))?;
        // Awaiting lets the other loads of this instance go on: a thousand of them wait at the same time.
        wasip3::clocks::monotonic_clock::wait_for(settings.latency_ms.saturating_mul(1_000_000)).await;
        let text = Template::parse(&settings.text).fill(|name| part(&question.target.parts, name))?;
        Ok(Outcome::Found(Entry {
            status: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
            body: json!({ "data": text }).to_string().into_bytes(),
            validator: None, // the host makes an ETag of the content
            ttl_ms: None,    // the route's
            tags: Vec::new(),
            hints: Vec::new(),
        }))
    }
}

/// The value of the first part called `name`.
fn part<'p>(parts: &'p [Param], name: &str) -> Result<Cow<'p, str>, Failure> {
    match parts.iter().find(|part| part.name == name) {
        Some(part) => Ok(Cow::Borrowed(&part.value)),
        None => Err(internal(
            "template-part-missing",
            format!("the setting `text` names {{{name}}}, and there is no such part; add `{name}` to the route's path or key"),
        )),
    }
}

fn internal(code: &str, message: String) -> Failure {
    Failure { kind: FailureKind::Internal, code: code.to_owned(), message, retry_after_ms: None, details: Vec::new() }
}

impl metadata::Guest for Demo {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "demo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "A slow source to try a cache with: waits, then answers a sentence about the key.",
                "parameters": [{
                    "name": "key", "in": "path", "required": false,
                    "description": "What to say something about.", "schema": { "type": "string", "minLength": 1 },
                }],
                // The text may name any part.
                "additional_parameters": true,
                "response": {
                    "content_type": "application/json",
                    "schema": {
                        "type": "object", "required": ["data"],
                        "properties": { "data": { "type": "string" } },
                    },
                },
                "settings": {
                    "type": "object", "additionalProperties": false,
                    "properties": {
                        "text": {
                            "type": "string", "default": Settings::default().text,
                            "description": "The answer; each {name} is a part of that name.",
                        },
                        "latency_ms": {
                            "type": "integer", "minimum": 0, "default": Settings::default().latency_ms,
                            "description": "How long it pretends to work, in milliseconds.",
                        },
                    },
                },
                "grants": {},
            })
            .to_string(),
        }
    }
}
