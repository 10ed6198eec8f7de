//! What a plugin says about itself, derived from the types of its functions. What the text holds is said at `descriptor`
//! in `wit/metadata.wit`.

use std::future::Future;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::contract::metadata;
use crate::error::Error;
use crate::feed::{Page, Poll};
use crate::key::{Key, Request};
use crate::reply::IntoReply;
use crate::write::{Mutation, Receipt};

/// The grants that a plugin cannot do without. The host refuses to load it without them and shows these reasons with
/// the lines to add.
#[derive(Clone, Debug, Default)]
pub struct Needs(Map<String, Value>);

impl Needs {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// HTTP to an origin, such as `https://api.example.com`, or to one that the settings name.
    #[must_use]
    pub fn http(self, origin: &str, why: &str) -> Self {
        self.add("http", origin, why)
    }

    /// A connection to `host:port`.
    #[must_use]
    pub fn tcp(self, address: &str, why: &str) -> Self {
        self.add("tcp", address, why)
    }

    /// A directory, as the plugin sees it.
    #[must_use]
    pub fn dir(self, path: &str, why: &str) -> Self {
        self.add("dirs", path, why)
    }

    /// A secret of this name.
    #[must_use]
    pub fn secret(self, name: &str, why: &str) -> Self {
        self.add("secrets", name, why)
    }

    /// An environment variable.
    #[must_use]
    pub fn env(self, name: &str, why: &str) -> Self {
        self.add("env", name, why)
    }

    fn add(mut self, kind: &str, what: &str, why: &str) -> Self {
        let sentences = self.0.entry(kind).or_insert_with(|| json!([]));
        if let Value::Array(sentences) = sentences {
            sentences.push(json!(format!("{what}: {why}")));
        }
        self
    }
}

/// What the body of a PUT must be. The host refuses any other before the writer is asked: 415 for another media type, 422 with
/// one item for each fault.
#[derive(Clone, Debug)]
pub struct Body(Value);

impl Body {
    /// JSON that `T` is read from.
    #[must_use]
    pub fn json<T: JsonSchema>() -> Self {
        Self(json!({ "content_type": "application/json", "schema": schema::<T>() }))
    }

    /// Anything of this media type.
    #[must_use]
    pub fn of(content_type: &str) -> Self {
        Self(json!({ "content_type": content_type }))
    }
}

/// What reads are answered with while a change waits in a queue (`write = "behind"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// The body of the PUT, for a read gives the same once it is applied. Where this is not so, say nothing: then reads of
    /// that resource wait.
    Payload,
}

/// Collects what [`crate::plugin!`] was told.
#[derive(Debug)]
pub struct Description {
    name: String,
    version: String,
    cache_version: u32,
    descriptor: Map<String, Value>,
}

impl Description {
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            cache_version: 1,
            descriptor: Map::new(),
        }
    }

    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub fn about(self, about: &str) -> Self {
        self.with("description", json!(about))
    }

    pub const fn cache_version(mut self, version: u32) -> Self {
        self.cache_version = version;
        self
    }

    pub fn needs(self, needs: Needs) -> Self {
        self.with("grants", Value::Object(needs.0))
    }

    pub fn request(self, body: Body) -> Self {
        self.with("request", body.0)
    }

    pub fn pending(self, pending: Pending) -> Self {
        let Pending::Payload = pending;
        self.with("pending", json!("payload"))
    }

    pub fn loader<P, C, R, F>(self, _: &impl Fn(P, Context<C>) -> F) -> Self
    where
        P: JsonSchema,
        C: JsonSchema,
        R: IntoReply<Value: JsonSchema>,
        F: Future<Output = Result<R, Error>>,
    {
        self.settings::<C>()
            .parameters::<P>()
            .response::<R::Value>()
    }

    pub fn blocking_loader<P, C, R>(self, _: &impl Fn(P, Context<C>) -> Result<R, Error>) -> Self
    where
        P: JsonSchema,
        C: JsonSchema,
        R: IntoReply<Value: JsonSchema>,
    {
        self.settings::<C>()
            .parameters::<P>()
            .response::<R::Value>()
    }

    pub fn batch_loader<P, C, R, F>(self, _: &impl Fn(Vec<(P, Context<C>)>) -> F) -> Self
    where
        P: JsonSchema,
        C: JsonSchema,
        R: IntoReply<Value: JsonSchema>,
        F: Future<Output = Vec<Result<R, Error>>>,
    {
        self.settings::<C>()
            .parameters::<P>()
            .response::<R::Value>()
    }

    pub fn key_policy<C: JsonSchema>(self, _: &impl Fn(Request, &C) -> Result<Key, Error>) -> Self {
        self.settings::<C>()
    }

    pub fn writer<P, C, F>(self, _: &impl Fn(Mutation<P>, Context<C>) -> F) -> Self
    where
        C: JsonSchema,
        F: Future<Output = Result<Receipt, Error>>,
    {
        self.settings::<C>()
    }

    pub fn change_feed<C, F>(self, _: &impl Fn(Poll, Context<C>) -> F) -> Self
    where
        C: JsonSchema,
        F: Future<Output = Result<Page, Error>>,
    {
        self.settings::<C>()
    }

    pub fn lifecycle<T>(self, _: T) -> Self {
        self
    }

    pub fn finish(self) -> metadata::Description {
        metadata::Description {
            name: self.name,
            version: self.version,
            cache_version: self.cache_version,
            descriptor: Value::Object(self.descriptor).to_string(),
        }
    }

    fn with(mut self, member: &str, value: Value) -> Self {
        self.descriptor.insert(member.to_owned(), value);
        self
    }

    fn settings<C: JsonSchema>(self) -> Self {
        self.with("settings", schema::<C>())
    }

    fn response<T: JsonSchema>(self) -> Self {
        let response = json!({ "content_type": "application/json", "schema": schema::<T>() });
        self.with("response", response)
    }

    fn parameters<P: JsonSchema>(self) -> Self {
        let schema = schema::<P>();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema["properties"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        let parameters: Vec<Value> = properties
            .into_iter()
            .map(|(name, mut schema)| {
                // Said with `#[schemars(extend("in" = "query"))]`; no word of JSON Schema.
                let place = schema
                    .as_object_mut()
                    .and_then(|schema| schema.remove("in"));
                json!({
                    "in": place.unwrap_or_else(|| json!("any")),
                    "required": required.contains(&json!(name)),
                    "description": schema.get("description").cloned().unwrap_or_default(),
                    "schema": of_one_value(schema),
                    "name": name,
                })
            })
            .collect();
        // A map, or a struct with a flattened one, takes parts of any name.
        let additional = !matches!(
            schema.get("additionalProperties"),
            None | Some(Value::Bool(false))
        );
        self.with("parameters", Value::Array(parameters))
            .with("additional_parameters", json!(additional))
    }
}

/// The schema of a type, whole: a descriptor refers to nothing outside of itself.
fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// The schema of one value of a parameter: of a list, that of its items; and an absent parameter is left out, not null.
fn of_one_value(mut schema: Value) -> Value {
    if let Some(items) = schema.get("items") {
        return items.clone();
    }
    let Some(members) = schema.as_object_mut() else {
        return schema;
    };
    members.remove("description");
    if members.get("default") == Some(&Value::Null) {
        members.remove("default");
    }
    if let Some(Value::Array(types)) = members.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            members.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = members.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::{Body, Description, Pending};
    use serde_json::{Value, json};

    fn described(description: Description) -> Value {
        serde_json::from_str(&description.finish().descriptor).unwrap()
    }

    #[test]
    fn a_writer_says_what_its_bodies_are() {
        let plain = described(Description::new("p", "0.1.0"));
        assert_eq!(
            (&plain["request"], &plain["pending"]),
            (&Value::Null, &Value::Null)
        );
        let told = Description::new("p", "0.1.0")
            .request(Body::json::<Vec<u8>>())
            .pending(Pending::Payload);
        let told = described(told);
        assert_eq!(told["pending"], "payload");
        assert_eq!(told["request"]["content_type"], "application/json");
        assert_eq!(told["request"]["schema"]["type"], "array");
        let text = described(Description::new("p", "0.1.0").request(Body::of("text/plain")));
        assert_eq!(text["request"], json!({ "content_type": "text/plain" }));
    }
}
