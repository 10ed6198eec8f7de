//! What a plugin says about itself, read once: parameters, request, response, settings, needed grants. Schemas are compiled here
//! and nowhere else. Knows neither how the text was obtained nor who asks.
//!
//! The text comes from a guest, so nothing in it is trusted: patterns run on a regex engine without backtracking (a
//! client's parameter must not cost more than its length), references to other documents are refused, and whatever is not
//! understood refuses the component with the place that is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What a descriptor may hold; a larger one is a mistake.
const PARAMETERS_MAX: usize = 256;
/// Faults told of one value: enough to mend it, too few to flood an answer (law 12).
const FAULTS_MAX: usize = 16;
/// The longest text of what was expected, in bytes.
const EXPECTED_MAX: usize = 512;
/// What `metadata.describe` says in its `descriptor`, parsed. A component without metadata has [`Descriptor::unknown`].
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// What the plugin does.
    pub description: Option<String>,
    /// The parts that a loader understands.
    pub parameters: Vec<Parameter>,
    /// Whether it takes parts of any other name too. True for a component without metadata.
    pub additional_parameters: bool,
    /// `{"content_type": string, "schema": JSON Schema}`.
    pub response: Option<Value>,
    /// What the body of a PUT must be, for a writer.
    pub request: Option<Request>,
    /// Whether the body of a PUT is what a read gives once it is applied (`"pending": "payload"`).
    pub pending_payload: bool,
    /// JSON Schema of the sidecar's `[config]`.
    pub settings: Option<Value>,
    /// Needed grants: name → sentences for people. `true` in the text is a kind with no sentence.
    pub needs: BTreeMap<String, Vec<String>>,
    /// The text as it came, parsed.
    pub raw: Value,
    settings_schema: Option<Schema>,
}

/// What the body of a PUT must be.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its media type, in lower case and without parameters.
    pub content_type: String,
    schema: Option<Schema>,
}

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// It is not said to be of the media type.
    MediaType,
    /// It is not JSON: why, and where.
    NotJson(String),
    /// It does not fit the schema.
    Unfit(Vec<ParameterFault>),
}

/// Where a parameter may come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParameterPlace {
    /// The path alone.
    Path,
    /// The query alone.
    Query,
    /// Either.
    #[default]
    Any,
}

/// A declared parameter.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The part's name.
    pub name: String,
    /// Where it may come from.
    pub place: ParameterPlace,
    /// Whether a request without it is refused.
    pub required: bool,
    /// For the API documentation.
    pub description: Option<String>,
    /// JSON Schema of its value; `{}` if none is given.
    pub schema: Value,
    compiled: Schema,
    types: Types,
}

/// One thing that is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterFault {
    /// The JSON Schema keyword that is not met, e.g. `pattern`, `type`, `maximum`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// JSON pointer into the value; empty for the value itself.
    pub pointer: String,
    /// What the schema says there, under that keyword; none where that is long.
    pub expected: Option<Value>,
}

/// Why a descriptor is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorFault {
    /// Where: a JSON pointer into the descriptor, or a line and column if it is not JSON.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for DescriptorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the descriptor at {}: {}", self.place, self.message)
    }
}

impl std::error::Error for DescriptorFault {}

/// The text's own shape. Members that are not known are ignored, so that newer guests load on older hosts.
#[derive(Deserialize)]
struct Text {
    description: Option<String>,
    #[serde(default)]
    parameters: Vec<ParameterText>,
    #[serde(default)]
    additional_parameters: bool,
    response: Option<Value>,
    request: Option<RequestText>,
    pending: Option<Value>,
    settings: Option<Value>,
    #[serde(default)]
    grants: BTreeMap<String, Need>,
}

#[derive(Deserialize)]
struct ParameterText {
    name: String,
    #[serde(default, rename = "in")]
    place: ParameterPlace,
    #[serde(default)]
    required: bool,
    description: Option<String>,
    schema: Option<Value>,
}

#[derive(Deserialize)]
struct RequestText {
    #[serde(default = "json")]
    content_type: String,
    schema: Option<Value>,
}

fn json() -> String {
    "application/json".to_owned()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Need {
    Whether(bool),
    Sentences(Vec<String>),
}

impl Descriptor {
    /// Of a component that says nothing: everything goes unchecked.
    pub fn unknown() -> Self {
        Self {
            description: None,
            parameters: Vec::new(),
            additional_parameters: true,
            response: None,
            request: None,
            pending_payload: false,
            settings: None,
            needs: BTreeMap::new(),
            raw: Value::Object(Map::new()),
            settings_schema: None,
        }
    }

    /// Reads the text of `description.descriptor`: a JSON object, or nothing.
    ///
    /// # Errors
    /// The first thing that is not understood, with its place.
    pub fn parse(text: &str) -> Result<Self, DescriptorFault> {
        if text.trim().is_empty() {
            return Self::build(Value::Object(Map::new()));
        }
        let raw: Value = serde_json::from_str(text).map_err(|error| DescriptorFault {
            place: format!("line {}, column {}", error.line(), error.column()),
            message: format!("not JSON: {error}"),
        })?;
        Self::build(raw)
    }

    /// Of a text that was parsed before, e.g. by [`Descriptor::parse`] in an earlier run of the host.
    pub(crate) fn build(raw: Value) -> Result<Self, DescriptorFault> {
        if !raw.is_object() {
            return Err(fault("/", "it must be a JSON object"));
        }
        let text: Text = deserialize(&raw)?;
        if text.parameters.len() > PARAMETERS_MAX {
            return Err(fault(
                "/parameters",
                format!("more than {PARAMETERS_MAX} parameters"),
            ));
        }
        let parameters = text
            .parameters
            .into_iter()
            .enumerate()
            .map(|(index, parameter)| Parameter::build(index, parameter))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, parameter) in parameters.iter().enumerate() {
            if parameters[..index]
                .iter()
                .any(|earlier| earlier.name == parameter.name)
            {
                return Err(fault(
                    format!("/parameters/{index}/name"),
                    format!("{:?} is declared twice", parameter.name),
                ));
            }
        }
        if let Some(schema) = text.response.as_ref().and_then(|it| it.get("schema")) {
            Schema::compile(schema, "/response/schema")?;
        }
        let request = text.request.map(Request::build).transpose()?;
        let pending_payload = match text.pending {
            None => false,
            Some(Value::String(what)) if what == "payload" => true,
            Some(other) => {
                let message = format!("it is \"payload\" or left out, and not {other}");
                return Err(fault("/pending", message));
            }
        };
        let settings_schema = text
            .settings
            .as_ref()
            .map(|schema| Schema::compile(schema, "/settings"))
            .transpose()?;
        Ok(Self {
            description: text.description,
            parameters,
            additional_parameters: text.additional_parameters,
            response: text.response,
            request,
            pending_payload,
            settings: text.settings,
            needs: needs(text.grants),
            raw,
            settings_schema,
        })
    }

    /// The declared parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|it| it.name == name)
    }

    /// What the settings schema says against these settings, up to a bound.
    pub(super) fn settings_errors<'v>(&'v self, config: &'v Value) -> Vec<ValidationError<'v>> {
        let schema = self.settings_schema.as_ref();
        schema.map_or_else(Vec::new, |schema| schema.errors(config))
    }
}

impl Request {
    /// JSON that the operator declares of a route.
    ///
    /// # Errors
    /// The schema is none, with the place in it.
    pub fn declared(schema: &Value) -> Result<Self, DescriptorFault> {
        Ok(Self {
            content_type: json(),
            schema: Some(Schema::compile(schema, "")?),
        })
    }

    fn build(text: RequestText) -> Result<Self, DescriptorFault> {
        let content_type = essence(&text.content_type);
        let is_type = content_type.split_once('/').is_some_and(|(main, sub)| {
            let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
            is_token(main) && is_token(sub)
        });
        if !is_type {
            return Err(fault(
                "/request/content_type",
                format!("{:?} is no media type", text.content_type),
            ));
        }
        if text.schema.is_some() && !is_json(&content_type) {
            return Err(fault(
                "/request/schema",
                format!("a schema says what JSON must be, and the body is {content_type}"),
            ));
        }
        let schema = text.schema.as_ref();
        let schema = schema.map(|schema| Schema::compile(schema, "/request/schema"));
        Ok(Self {
            content_type,
            schema: schema.transpose()?,
        })
    }

    /// Checks the body of a PUT. Without a schema only its media type counts.
    ///
    /// # Errors
    /// The first kind of thing that is wrong.
    pub fn check(&self, content_type: Option<&str>, body: &[u8]) -> Result<(), BodyFault> {
        if content_type.map(essence).as_deref() != Some(&self.content_type) {
            return Err(BodyFault::MediaType);
        }
        let Some(schema) = &self.schema else {
            return Ok(());
        };
        let value: Value =
            serde_json::from_slice(body).map_err(|error| BodyFault::NotJson(error.to_string()))?;
        schema.check(&value).map_err(BodyFault::Unfit)
    }
}

/// A media type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    let (essence, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    essence.trim().to_ascii_lowercase()
}

/// RFC 6839: JSON, or one that is built on it.
fn is_json(essence: &str) -> bool {
    essence == "application/json" || essence.ends_with("+json")
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl Parameter {
    /// One that the operator declares of a route.
    ///
    /// # Errors
    /// The schema is none, with the place in it.
    pub fn declared(name: &str, required: bool, schema: Value) -> Result<Self, DescriptorFault> {
        let compiled = Schema::compile(&schema, "")?;
        let description = schema.get("description").and_then(Value::as_str);
        Ok(Self {
            name: name.to_owned(),
            place: ParameterPlace::Any,
            required,
            description: description.map(str::to_owned),
            types: Types::of(&schema),
            schema,
            compiled,
        })
    }

    fn build(index: usize, text: ParameterText) -> Result<Self, DescriptorFault> {
        if text.name.is_empty() {
            return Err(fault(
                format!("/parameters/{index}/name"),
                "a parameter needs a name",
            ));
        }
        let schema = text.schema.unwrap_or_else(|| Value::Object(Map::new()));
        let compiled = Schema::compile(&schema, &format!("/parameters/{index}/schema"))?;
        Ok(Self {
            name: text.name,
            place: text.place,
            required: text.required,
            description: text.description,
            types: Types::of(&schema),
            schema,
            compiled,
        })
    }

    /// Checks a value as it stands in a path or a query. As in FastAPI, a text that reads as what the schema's `type` asks
    /// for is taken as that: `"42"` is an integer, `"yes"` a boolean. A schema without a `type` may take it as any of them.
    ///
    /// # Errors
    /// What is wrong with the reading that comes closest to the declared type.
    pub fn check(&self, value: &str) -> Result<(), Vec<ParameterFault>> {
        let mut faults = None;
        for reading in self.types.readings(value) {
            match self.compiled.check(&reading) {
                Ok(()) => return Ok(()),
                Err(found) => {
                    faults.get_or_insert(found);
                }
            }
        }
        Err(faults.unwrap_or_default())
    }
}

/// The scalar types a schema's own `type` names.
#[derive(Clone, Copy, Debug)]
struct Types {
    string: bool,
    integer: bool,
    number: bool,
    boolean: bool,
}

impl Types {
    fn of(schema: &Value) -> Self {
        let names: Vec<&str> = match schema.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => vec!["string", "integer", "number", "boolean"],
        };
        let has = |name| names.contains(&name);
        Self {
            string: has("string"),
            integer: has("integer"),
            number: has("number"),
            boolean: has("boolean"),
        }
    }

    /// What the text may be read as, the likeliest first. The text itself is the last resort, so that there is always
    /// something to say what is wrong with.
    fn readings(self, text: &str) -> Vec<Value> {
        let mut readings = Vec::with_capacity(4);
        if self.string {
            readings.push(Value::from(text));
        }
        if self.integer || self.number {
            readings.extend(integer(text));
        }
        if self.number {
            readings.extend(number(text));
        }
        if self.boolean {
            readings.extend(boolean(text));
        }
        if readings.is_empty() {
            readings.push(Value::from(text));
        }
        readings
    }
}

fn integer(text: &str) -> Option<Value> {
    text.parse::<i64>()
        .map(Value::from)
        .or_else(|_| text.parse::<u64>().map(Value::from))
        .ok()
}

/// Only finite numbers: JSON has no others, and "nan" is a fine name for a key.
fn number(text: &str) -> Option<Value> {
    let number = text.parse::<f64>().ok()?;
    serde_json::Number::from_f64(number).map(Value::Number)
}

/// The words pydantic takes for booleans.
fn boolean(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" | "t" | "y" => Some(Value::Bool(true)),
        "false" | "0" | "off" | "no" | "f" | "n" => Some(Value::Bool(false)),
        _ => None,
    }
}

/// A compiled JSON Schema (2020-12 unless it says otherwise). Cheap to clone.
#[derive(Clone)]
struct Schema(Arc<(Validator, Value)>);

impl Schema {
    fn compile(schema: &Value, place: &str) -> Result<Self, DescriptorFault> {
        if !schema.is_object() && !schema.is_boolean() {
            return Err(fault(place, "a JSON Schema is an object, true or false"));
        }
        jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .offline()
            .build(schema)
            .map(|validator| Self(Arc::new((validator, schema.clone()))))
            .map_err(|error| {
                fault(
                    format!("{place}{}", error.instance_path()),
                    error.to_string(),
                )
            })
    }

    fn errors<'v>(&'v self, value: &'v Value) -> Vec<ValidationError<'v>> {
        self.0.0.iter_errors(value).take(FAULTS_MAX).collect()
    }

    fn check(&self, value: &Value) -> Result<(), Vec<ParameterFault>> {
        let told = |error: &ValidationError<'_>| self.told(error);
        let faults: Vec<_> = self.errors(value).iter().map(told).collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn told(&self, error: &ValidationError<'_>) -> ParameterFault {
        let expected = self.0.1.pointer(error.schema_path().as_str());
        ParameterFault {
            code: error.kind().keyword().to_owned(),
            message: error.to_string(),
            pointer: error.instance_path().to_string(),
            expected: expected
                .filter(|expected| expected.to_string().len() <= EXPECTED_MAX)
                .cloned(),
        }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

fn needs(grants: BTreeMap<String, Need>) -> BTreeMap<String, Vec<String>> {
    grants
        .into_iter()
        .filter_map(|(name, need)| match need {
            Need::Whether(false) => None,
            Need::Whether(true) => Some((name, Vec::new())),
            Need::Sentences(sentences) if sentences.is_empty() => None,
            Need::Sentences(sentences) => Some((name, sentences)),
        })
        .collect()
}

/// serde's own message lacks the place inside a value; the members are few, so each is tried alone to find it.
fn deserialize(raw: &Value) -> Result<Text, DescriptorFault> {
    Text::deserialize(raw).map_err(|error| {
        let members = raw.as_object().into_iter().flatten();
        for (name, value) in members {
            if name == "parameters"
                && let Some(list) = value.as_array()
                && let Some((index, error)) = list.iter().enumerate().find_map(|(index, it)| {
                    ParameterText::deserialize(it).err().map(|it| (index, it))
                })
            {
                return fault(format!("/parameters/{index}"), error.to_string());
            }
            let alone = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
            if let Err(error) = Text::deserialize(&alone) {
                return fault(format!("/{name}"), error.to_string());
            }
        }
        fault("/", error.to_string())
    })
}

fn fault(place: impl Into<String>, message: impl Into<String>) -> DescriptorFault {
    DescriptorFault {
        place: place.into(),
        message: message.into(),
    }
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
