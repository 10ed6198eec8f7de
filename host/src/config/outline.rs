//! What the operator says of a route beside its loader: a sentence, what its parameters must be, what it answers. A loader
//! that serves any table or any origin cannot know. Owns the shape; whether a schema is one is judged where it is compiled.

use serde_json::Value;
use toml::de::DeValue;

use super::defaults::{Setting, routes as setting};
use super::json::json;
use super::kind::{self, Fault, SchemaChoice};
use super::reader::Table;

/// What stands in a route's `summary`, `params`, `response` and `request`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outline {
    /// What it answers, in one sentence.
    pub summary: Option<String>,
    /// Parameters, over what the loaders declare of the same names.
    pub params: Vec<Declared>,
    /// JSON Schema of what it answers, over what the loaders declare.
    pub response: Option<Value>,
    /// JSON Schema of the body of a PUT, over what the writer declares.
    pub request: Option<Value>,
}

/// A parameter that the operator declares.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name in the pattern or in the query.
    pub name: String,
    /// Whether a request without it is refused.
    pub required: bool,
    /// JSON Schema of its value, without `required`.
    pub schema: Value,
    /// The line in the file.
    pub line: usize,
}

/// Reads the four keys.
pub(super) fn read(table: &Table<'_>) -> Outline {
    Outline {
        summary: table.optional(&setting::summary),
        params: params(table),
        response: schema(table, &setting::response),
        request: schema(table, &setting::request),
    }
}

const PARAM_EXAMPLE: &str = "write params.key = { type = \"string\", pattern = \"^[a-z]+$\", description = \"…\" }, a JSON Schema";

/// `params = { name = { …a JSON Schema… } }`
fn params(table: &Table<'_>) -> Vec<Declared> {
    let key = setting::params.key;
    let Some(value) = table.raw(key) else {
        return Vec::new();
    };
    let DeValue::Table(entries) = value.get_ref() else {
        let message = format!("expected a table, found {}", kind::found(value.get_ref()));
        table.fault(&setting::params, Fault::new(message, PARAM_EXAMPLE));
        return Vec::new();
    };
    let mut declared = Vec::new();
    for (name, value) in entries {
        let line = table.line_at(value);
        let name = name.get_ref().to_string();
        let Some(Value::Object(mut schema)) = json(table, key, value) else {
            let message = format!("{name:?} is no table");
            table.fault_at(key, line, Fault::new(message, PARAM_EXAMPLE));
            continue;
        };
        // Of an object's own members it would be an array: of a parameter it says whether it may be left out.
        let required = match schema.remove("required") {
            None => false,
            Some(Value::Bool(required)) => required,
            Some(_) => {
                let message = format!("{name:?} says `required`, and not whether it is");
                table.fault_at(key, line, Fault::new(message, "write required = true"));
                continue;
            }
        };
        declared.push(Declared {
            name,
            required,
            schema: Value::Object(schema),
            line,
        });
    }
    declared
}

/// `response = { …a JSON Schema… }`, or the name of a file that holds one.
fn schema(table: &Table<'_>, setting: &Setting<SchemaChoice>) -> Option<Value> {
    let key = setting.key;
    let value = table.raw(key)?;
    match value.get_ref() {
        DeValue::Table(_) => json(table, key, value),
        DeValue::String(name) => {
            let path = table.beside(name);
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            let schema = text
                .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
            schema
                .map_err(|why| {
                    let message = format!("no JSON Schema can be read from {name:?}: {why}");
                    let remedy =
                        "name a file of JSON, relative to this one, or write the schema as a table";
                    table.fault(setting, Fault::new(message, remedy));
                })
                .ok()
        }
        other => {
            let message = format!(
                "expected a table or the name of a file, found {}",
                kind::found(other)
            );
            let remedy =
                format!("write {key} = \"schemas/country.json\", or the JSON Schema as a table");
            table.fault(setting, Fault::new(message, remedy));
            None
        }
    }
}
