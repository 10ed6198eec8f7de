//! Schemas of plugins put into the document: each under a name of its own below `#/components/schemas`, with the references
//! inside it led there. Pure.
//!
//! A schema refers to itself by JSON Pointers from its own root (`#/$defs/country`) or by anchors (`#country`). In the
//! document that root is elsewhere, and OpenAPI 3.1 takes `#` for the document. References to other documents do not occur:
//! a descriptor with one is refused when its plugin is judged.

use serde_json::{Map, Value, json};

/// The schemas of the document so far, by their names there.
#[derive(Default)]
pub(super) struct Schemas(Map<String, Value>);

/// Keywords whose values are data and no schemas, however they look.
const DATA: [&str; 5] = ["const", "default", "enum", "example", "examples"];

impl Schemas {
    /// Puts a schema in and says how the document refers to it. One without references of its own is repeated where it is
    /// used if it is that of a scalar, so that a reader sees a parameter's type beside it.
    pub(super) fn refer(&mut self, name: &str, schema: &Value) -> Value {
        if is_scalar(schema) && !has_reference(schema) {
            return schema.clone();
        }
        let name = self.free_name(name, schema);
        let pointer = format!("#/components/schemas/{name}");
        let mut led = schema.clone();
        lead(&mut led, schema, &pointer);
        self.0.insert(name, led);
        json!({ "$ref": pointer })
    }

    /// Puts in one of the document's own.
    pub(super) fn add(&mut self, name: &str, schema: Value) {
        self.0.insert(name.to_owned(), schema);
    }

    pub(super) fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// The name, with a number behind it where another schema has it.
    fn free_name(&self, wanted: &str, schema: &Value) -> String {
        let wanted: String = wanted
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let mut name = wanted.clone();
        let mut count = 1;
        while let Some(other) = self.0.get(&name) {
            let mut led = schema.clone();
            lead(&mut led, schema, &format!("#/components/schemas/{name}"));
            if *other == led {
                break;
            }
            count += 1;
            name = format!("{wanted}.{count}");
        }
        name
    }
}

fn is_scalar(schema: &Value) -> bool {
    let is_compound = |name: &str| ["object", "array"].contains(&name);
    match schema.get("type") {
        Some(Value::String(name)) => !is_compound(name),
        Some(Value::Array(names)) => !names.iter().filter_map(Value::as_str).any(is_compound),
        _ => schema.get("properties").is_none() && schema.get("items").is_none(),
    }
}

fn has_reference(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => members.iter().any(|(key, value)| {
            (is_reference(key) && value.is_string())
                || (!DATA.contains(&key.as_str()) && has_reference(value))
        }),
        Value::Array(items) => items.iter().any(has_reference),
        _ => false,
    }
}

fn is_reference(key: &str) -> bool {
    key == "$ref" || key == "$dynamicRef"
}

/// Leads every reference in `part`, which is in `root`, to where the root is in the document.
fn lead(part: &mut Value, root: &Value, pointer: &str) {
    match part {
        Value::Object(members) => {
            for (key, value) in members.iter_mut() {
                match value {
                    Value::String(target) if is_reference(key) => {
                        if let Some(inner) = target.strip_prefix('#') {
                            let inner = if inner.is_empty() || inner.starts_with('/') {
                                Some(inner.to_owned())
                            } else {
                                anchor(root, inner, String::new())
                            };
                            if let Some(inner) = inner {
                                *target = format!("{pointer}{inner}");
                            }
                        }
                    }
                    value if !DATA.contains(&key.as_str()) => lead(value, root, pointer),
                    _ => {}
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| lead(item, root, pointer)),
        _ => {}
    }
}

/// Where an anchor is, as a JSON Pointer.
fn anchor(part: &Value, name: &str, at: String) -> Option<String> {
    let has = |key| part.get(key).and_then(Value::as_str) == Some(name);
    if has("$anchor") || has("$dynamicAnchor") {
        return Some(at);
    }
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match part {
        Value::Object(members) => members
            .iter()
            .filter(|(key, _)| !DATA.contains(&key.as_str()))
            .find_map(|(key, value)| anchor(value, name, format!("{at}/{}", escaped(key)))),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| anchor(item, name, format!("{at}/{index}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_lead_to_where_the_schema_is_in_the_document() {
        let mut schemas = Schemas::default();
        let schema = json!({
            "type": "object",
            "properties": {
                "one": { "$ref": "#/$defs/a~1b" },
                "all": { "type": "array", "items": { "$ref": "#" } },
                "named": { "$ref": "#here" },
                "$ref": { "type": "string" },
                "text": { "const": { "$ref": "#/$defs/a~1b" } },
            },
            "$defs": { "a/b": { "type": "string" }, "c": { "$anchor": "here", "type": "integer" } },
        });
        let refer = schemas.refer("demo.answer", &schema);
        assert_eq!(refer, json!({ "$ref": "#/components/schemas/demo.answer" }));
        let document = json!({ "components": { "schemas": schemas.into_value() } });
        let properties = &document["components"]["schemas"]["demo.answer"]["properties"];
        for (name, wanted) in [("one", "string"), ("named", "integer")] {
            let target = properties[name]["$ref"].as_str().unwrap();
            let found = document.pointer(target.strip_prefix('#').unwrap());
            assert_eq!(found.unwrap()["type"], wanted, "{target}");
        }
        assert_eq!(properties["all"]["items"], refer);
        assert_eq!(
            properties["text"]["const"]["$ref"], "#/$defs/a~1b",
            "what is data stays"
        );
        assert_eq!(
            properties["$ref"]["type"], "string",
            "a member of that name"
        );
    }

    #[test]
    fn a_name_stands_for_one_schema() {
        let mut schemas = Schemas::default();
        let (one, other) = (json!({"type": "object"}), json!({"type": "array"}));
        let first = schemas.refer("a b", &one);
        assert_eq!(first["$ref"], "#/components/schemas/a_b");
        assert_eq!(schemas.refer("a b", &one), first);
        assert_eq!(
            schemas.refer("a b", &other)["$ref"],
            "#/components/schemas/a_b.2"
        );
        let inline = json!({"type": "integer", "minimum": 1});
        assert_eq!(schemas.refer("n", &inline), inline);
    }
}
