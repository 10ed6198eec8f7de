//! Greets whoever a request names: a whole loader in a dozen lines.

use larder_plugin::prelude::*;

#[derive(Deserialize, JsonSchema)]
struct Params {
    /// Whom to greet.
    key: String,
}

async fn load(params: Params, _: Context) -> Result<Value, Error> {
    Ok(json!({ "greeting": format!("Hello {}", params.key) }))
}

larder_plugin::plugin! { loader: load }

#[cfg(test)]
mod tests {
    use super::*;
    use larder_plugin::testing::Test;

    #[test]
    fn it_greets() {
        let answer = Test::new().load(load, &[("key", "Ada")]).unwrap();
        assert_eq!(answer.json(), json!({ "greeting": "Hello Ada" }));
    }
}
