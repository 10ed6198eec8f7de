//! A loader: where the data of a route comes from. Larder calls `load` for what it does not hold, and caches the answer.

use larder_plugin::prelude::*;

/// The parts that it understands. Larder checks requests by it, and answers 422 to what does not fit.
#[derive(Deserialize, JsonSchema)]
struct Params {
    /// Who is greeted.
    key: String,
}

/// What the operator may write under [config] of the sidecar.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The word before the name.
    greeting: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            greeting: "Hello".to_owned(),
        }
    }
}

/// The answer, as JSON.
#[derive(Debug, Serialize, JsonSchema)]
struct Greeting {
    message: String,
}

async fn load(params: Params, context: Context<Config>) -> Result<Greeting, Error> {
    Ok(Greeting {
        message: format!("{}, {}", context.greeting, params.key),
    })
}

larder_plugin::plugin! {
    about: "Greets whoever is named by the key.",
    loader: load,
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_plugin::testing::Test;

    #[test]
    fn greets_the_key() {
        let answer = Test::new().load(load, &[("key", "42")]).unwrap();
        assert_eq!(answer.json(), json!({ "message": "Hello, 42" }));
    }

    #[test]
    fn greets_as_the_settings_say() {
        let test = Test::new().config(json!({ "greeting": "Ahoy" }));
        let answer = test.load(load, &[("key", "42")]).unwrap();
        assert_eq!(answer.json(), json!({ "message": "Ahoy, 42" }));
    }
}
