//! The source that the peers of the benchmark call in their own process, as a loader: a text about the key, made by the same
//! steps. Owns that text; must not know who asks, nor that it is measured.
//!
//! The first-party `demo` would not do: it waits, if for no time at all, which is a call to the host that the peers do not make.

use larder_plugin::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Params {
    /// What to say something about.
    key: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The answer; {key} stands for the key.
    text: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            text: "Data for key {key}".to_owned(),
        }
    }
}

async fn load(params: Params, context: Context<Config>) -> Result<Value, Error> {
    let data = context.text.replace("{key}", &params.key);
    Ok(json!({ "data": data }))
}

larder_plugin::plugin! { name: "data-rust", loader: load }
