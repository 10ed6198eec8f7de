//! Whether the `[config]` of a sidecar fits the schema that the plugin brings, told in the operator's words: the path, what
//! is expected there, and the nearest key. Pure. Knows neither files nor lines.
//!
//! Values are not repeated: what somebody wrote into the wrong place may be a password.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value};

use super::descriptor::Descriptor;
use crate::config::nearest;

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingFault {
    /// JSON pointer into `[config]`; empty for all of it. Leads to the key at fault, or to the table that lacks one.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

/// Names that a remedy lists at most.
const NAMES_MAX: usize = 20;

impl Descriptor {
    /// Checks the sidecar's `[config]` against the settings schema.
    ///
    /// # Errors
    /// Every fault (up to a bound).
    pub fn check_settings(&self, config: &Map<String, Value>) -> Result<(), Vec<SettingFault>> {
        let config = Value::Object(config.clone());
        let mut faults = Vec::new();
        for error in self.settings_errors(&config) {
            self.tell(&error, &mut faults);
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn tell(&self, error: &ValidationError<'_>, faults: &mut Vec<SettingFault>) {
        let pointer = error.instance_path().to_string();
        let schema = self.schema_around(error.schema_path().as_str());
        let mut fault = |pointer: String, message: String, remedy: String| {
            faults.push(SettingFault {
                pointer,
                message,
                remedy,
            });
        };
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                let names = names(schema);
                for name in unexpected {
                    fault(
                        format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1")),
                        "unknown key".to_owned(),
                        instead_of(name, &names),
                    );
                }
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                let wanted = schema.and_then(|it| it.get("properties")?.get(name));
                let about = wanted.and_then(|it| it.get("description")?.as_str());
                fault(
                    pointer,
                    format!("{name:?} is missing"),
                    format!(
                        "write {name} = {}{}",
                        example(wanted),
                        about.map(|it| format!("  # {it}")).unwrap_or_default()
                    ),
                );
            }
            ValidationErrorKind::Type { .. } => {
                let expected = expected(schema).unwrap_or_else(|| "another type".to_owned());
                let found = kind_of(error.instance());
                fault(
                    pointer,
                    format!("expected {expected}, found {found}"),
                    format!("write a value such as {}", example(schema)),
                );
            }
            ValidationErrorKind::Enum { options } => {
                let options: Vec<_> = options.as_array().into_iter().flatten().collect();
                let texts: Vec<&str> = options.iter().filter_map(|it| it.as_str()).collect();
                let all: Vec<_> = options.iter().map(ToString::to_string).collect();
                let near = match error.instance().as_str() {
                    Some(text) if !texts.is_empty() => nearest(text, texts.iter().copied()),
                    _ => ("", false),
                };
                fault(
                    pointer,
                    format!("expected one of {}", all.join(", ")),
                    match near {
                        (near, true) => format!("did you mean {near:?}?"),
                        _ => "write one of them".to_owned(),
                    },
                );
            }
            _ => fault(
                pointer,
                error.masked_with("the value").to_string(),
                match schema.and_then(|it| it.get("description")?.as_str()) {
                    Some(about) => format!("it is: {about}"),
                    None => "see the plugin's settings schema".to_owned(),
                },
            ),
        }
    }

    /// The part of the settings schema that a keyword stands in.
    fn schema_around(&self, keyword: &str) -> Option<&Value> {
        let (around, _) = keyword.rsplit_once('/')?;
        self.settings.as_ref()?.pointer(around)
    }
}

/// The keys that a schema of an object names.
fn names(schema: Option<&Value>) -> Vec<&str> {
    let properties = schema.and_then(|it| it.get("properties")?.as_object());
    properties
        .into_iter()
        .flat_map(|it| it.keys().map(String::as_str))
        .collect()
}

fn instead_of(name: &str, names: &[&str]) -> String {
    if names.is_empty() {
        return "remove it: the plugin has no settings here".to_owned();
    }
    let (near, is_near) = nearest(name, names.iter().copied());
    if is_near {
        return format!("did you mean {near:?}?");
    }
    let more = if names.len() > NAMES_MAX { ", …" } else { "" };
    let some: Vec<_> = names.iter().take(NAMES_MAX).copied().collect();
    format!(
        "the nearest is {near:?}; all there are: {}{more}",
        some.join(", ")
    )
}

/// `a string`, `an integer or a boolean`.
fn expected(schema: Option<&Value>) -> Option<String> {
    let with_article = |name: &str| match name {
        "object" => "a table".to_owned(),
        "null" => "nothing".to_owned(),
        "integer" => "a whole number".to_owned(),
        "array" => "an array".to_owned(),
        name => format!("a {name}"),
    };
    let names: Vec<_> = match schema?.get("type")? {
        Value::String(name) => vec![with_article(name)],
        Value::Array(names) => names
            .iter()
            .filter_map(Value::as_str)
            // TOML has no null: a setting that may be null may be left out.
            .filter(|name| *name != "null")
            .map(with_article)
            .collect(),
        _ => return None,
    };
    Some(names.join(" or "))
}

/// A value's kind as TOML calls it.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "a whole number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "a table",
    }
}

/// What such a value looks like in TOML: the schema's own default or example, else one of its type.
fn example(schema: Option<&Value>) -> String {
    let given = schema.and_then(|it| {
        let first = it.get("examples").and_then(|it| it.get(0));
        it.get("default")
            .or(first)
            .or_else(|| it.get("enum")?.get(0))
    });
    // These are written alike in JSON and TOML.
    if let Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) = given {
        return value.to_string();
    }
    let name = match schema.and_then(|it| it.get("type")) {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str),
        Some(name) => name.as_str(),
        None => None,
    };
    match name {
        Some("integer") => "1",
        Some("number") => "1.5",
        Some("boolean") => "true",
        Some("array") => "[ … ]",
        Some("object") => "{ … }",
        _ => "\"…\"",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Checks a configuration, and compares the faults one after the other.
    fn check(config: &Value, expect: &[&str]) {
        let descriptor = Descriptor::build(json!({"settings": {
            "type": "object",
            "properties": {
                "base": {"type": "string", "description": "Where to ask."},
                "latency_ms": {"type": "integer", "maximum": 10, "default": 5},
                "format": {"enum": ["json", "ndjson", "csv"]},
                "retry": {"$ref": "#/$defs/retry"},
                "either": {"type": ["string", "null"]},
            },
            "$defs": {"retry": {
                "type": "object",
                "properties": {"attempts": {"type": "integer"}, "pause": {"type": "string"}},
                "additionalProperties": false,
            }},
            "required": ["base"],
            "additionalProperties": false,
        }}))
        .unwrap();
        let faults = descriptor.check_settings(config.as_object().unwrap());
        let mut told: Vec<_> = faults
            .err()
            .into_iter()
            .flatten()
            .map(|it| format!("{}: {} ({})", it.pointer, it.message, it.remedy))
            .collect();
        told.sort();
        assert_eq!(told, expect, "{config}");
    }

    #[test]
    fn settings_that_fit_are_no_fault() {
        check(&json!({"base": "x", "retry": {"attempts": 1}}), &[]);
        let anything = json!({"any": 1});
        let config = anything.as_object().unwrap();
        assert_eq!(Descriptor::unknown().check_settings(config), Ok(()));
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one_however_deep() {
        check(
            &json!({"base": "x", "bse": "y", "retry": {"atempts": 1, "zzzzzzzz": 2}}),
            &[
                "/bse: unknown key (did you mean \"base\"?)",
                "/retry/atempts: unknown key (did you mean \"attempts\"?)",
                "/retry/zzzzzzzz: unknown key (the nearest is \"attempts\"; all there are: attempts, pause)",
            ],
        );
    }

    #[test]
    fn a_value_of_another_type_names_the_expected_one_and_is_not_repeated() {
        check(
            &json!({"base": 5, "latency_ms": "hunter2", "either": true, "retry": []}),
            &[
                "/base: expected a string, found a whole number (write a value such as \"…\")",
                "/either: expected a string, found a boolean (write a value such as \"…\")",
                "/latency_ms: expected a whole number, found a string (write a value such as 5)",
                "/retry: expected a table, found an array (write a value such as { … })",
            ],
        );
    }

    #[test]
    fn every_fault_is_told_at_once() {
        check(
            &json!({"latency_ms": 11, "format": "jsn"}),
            &[
                "/format: expected one of \"json\", \"ndjson\", \"csv\" (did you mean \"json\"?)",
                "/latency_ms: the value is greater than the maximum of 10 (see the plugin's settings schema)",
                ": \"base\" is missing (write base = \"…\"  # Where to ask.)",
            ],
        );
    }
}
