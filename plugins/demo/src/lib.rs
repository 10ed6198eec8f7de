//! `demo`: the slow source of a caching tutorial. It waits a while, then says a sentence about the parts it was given.
//! The smallest whole loader with settings, to copy from.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `text` | `"Data for key {key}"` | the answer; each `{name}` is a part of that name |
//! | `latency_ms` | `150` | how long it pretends to work |
//! | `tags` | `[]` | tags to purge the answer by; each `{name}` is a part of that name |
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

use larder_plugin::prelude::*;
use larder_plugin::{Template, sleep};

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
struct Params {
    /// What to say something about.
    #[schemars(extend("in" = "path"), length(min = 1))]
    #[expect(
        dead_code,
        reason = "told of, and filled in by its name as every other part is"
    )]
    key: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The answer; each {name} is a part of that name.
    text: String,
    /// How long it pretends to work, in milliseconds.
    latency_ms: u64,
    /// Tags to purge the answer by; each {name} is a part of that name.
    tags: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            text: "Data for key {key}".to_owned(),
            latency_ms: 150,
            tags: Vec::new(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct Sentence {
    data: String,
}

async fn load(_: Params, context: Context<Config>) -> Result<Reply<Sentence>, Error> {
    // Awaiting lets the other loads of this instance go on: a thousand of them wait at the same time.
    sleep(Duration::from_millis(context.latency_ms)).await;
    let fill = |text: &str| Template::parse(text).fill(|name| context.part_of_template(name));
    let data = fill(&context.text)?;
    let mut reply = Reply::found(Sentence { data });
    for tag in &context.tags {
        reply = reply.tag(fill(tag)?);
    }
    Ok(reply)
}

larder_plugin::plugin! {
    about: "A slow source to try a cache with: waits, then answers a sentence about the key.",
    name: "demo",
    loader: load,
}

#[cfg(test)]
mod tests {
    use super::load;
    use larder_plugin::prelude::*;
    use larder_plugin::testing::Test;

    #[test]
    fn it_says_a_sentence_about_its_parts() {
        let answer = Test::new().load(load, &[("key", "42")]).unwrap();
        assert_eq!(answer.json(), json!({ "data": "Data for key 42" }));
        assert!(answer.tags().is_empty());
        let tagged = Test::new().config(json!({ "tags": ["all", "key:{key}"] }));
        let answer = tagged.load(load, &[("key", "42")]).unwrap();
        assert_eq!(answer.tags(), ["all", "key:42"]);
        let test = Test::new().config(json!({ "text": "{a}{b}" }));
        let answer = test.load(load, &[("a", "1"), ("b", "2")]).unwrap();
        assert_eq!(answer.json(), json!({ "data": "12" }));
        assert!(
            test.load(load, &[("a", "1")])
                .unwrap_err()
                .message()
                .contains("{b}")
        );
    }
}
