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

use larder_plugin_support::{
    Entry, Failure, Outcome, Question, Template, no_such_part, part, settings,
};
use serde::Deserialize;
use wasip3::clocks::monotonic_clock;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:demo;
        world demo {
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
        Self {
            text: "Data for key {key}".to_owned(),
            latency_ms: 150,
        }
    }
}

impl loader::Guest for Demo {
    async fn load(question: Question) -> Result<Outcome, Failure> {
        let settings: Settings = settings()?;
        // Awaiting lets the other loads of this instance go on: a thousand of them wait at the same time.
        monotonic_clock::wait_for(settings.latency_ms.saturating_mul(1_000_000)).await;
        let parts = &question.target.parts;
        let text = Template::parse(&settings.text).fill(|name| {
            part(parts, name)
                .map(Into::into)
                .ok_or_else(|| no_such_part(name))
        })?;
        let answer = serde_json::json!({ "data": text }).to_string();
        Ok(Outcome::Found(Entry::new(
            "application/json",
            answer.into_bytes(),
        )))
    }
}

impl metadata::Guest for Demo {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "demo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: include_str!("../descriptor.json").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn the_descriptor_tells_the_defaults() {
        let descriptor: serde_json::Value =
            serde_json::from_str(include_str!("../descriptor.json")).unwrap();
        let told = &descriptor["settings"]["properties"];
        let Settings { text, latency_ms } = Settings::default();
        assert_eq!(told["text"]["default"], text);
        assert_eq!(told["latency_ms"]["default"], latency_ms);
    }
}
