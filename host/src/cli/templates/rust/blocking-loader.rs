//! A blocking loader: where the data of a route comes from. Larder calls `load` for what it does not hold, and caches the
//! answer. It runs one load at a time in each of its instances; use `--kind loader` where loads wait for something.

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
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
struct Greeting {
    message: String,
}

fn load(params: Params, context: Context<Config>) -> Result<Greeting, Error> {
    Ok(greet(&context.greeting, &params.key))
}

fn greet(greeting: &str, key: &str) -> Greeting {
    Greeting {
        message: format!("{greeting}, {key}"),
    }
}

larder_plugin::plugin! {
    about: "Greets whoever is named by the key.",
    blocking_loader: load,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_the_key() {
        let greeting = greet("Hello", "42");
        assert_eq!(json!(greeting), json!({ "message": "Hello, 42" }));
    }
}
