//! Descriptors are a guest's words: read leniently where they may grow, refused with a place where they cannot be meant.

use serde_json::json;

use super::*;

fn parameter(schema: Value) -> Parameter {
    let mut descriptor =
        Descriptor::build(json!({"parameters": [{"name": "it", "schema": schema}]})).unwrap();
    descriptor.parameters.remove(0)
}

#[test]
fn a_text_is_read_as_the_type_the_schema_asks_for() {
    fn check(schema: Value, text: &str, expect: Option<&str>) {
        let code = parameter(schema.clone())
            .check(text)
            .err()
            .map(|faults| faults[0].code.clone());
        assert_eq!(code.as_deref(), expect, "{text:?} against {schema}");
    }
    check(json!({"type": "integer"}), "42", None);
    check(json!({"type": "integer"}), "-7", None);
    check(json!({"type": "integer"}), "18446744073709551615", None);
    check(json!({"type": "integer"}), "x", Some("type"));
    check(json!({"type": "integer"}), "4.5", Some("type"));
    check(json!({"type": "integer"}), "", Some("type"));
    check(
        json!({"type": "integer", "maximum": 9}),
        "10",
        Some("maximum"),
    );
    check(json!({"type": "number"}), "4.5", None);
    check(json!({"type": "number"}), "4", None);
    check(json!({"type": "number"}), "1e3", None);
    check(json!({"type": "number"}), "nan", Some("type"));
    check(json!({"type": "number"}), "inf", Some("type"));
    check(json!({"type": "boolean"}), "true", None);
    check(json!({"type": "boolean"}), "Yes", None);
    check(json!({"type": "boolean"}), "0", None);
    check(json!({"type": "boolean"}), "2", Some("type"));
    check(json!({"type": "string"}), "42", None);
    check(
        json!({"type": "string", "pattern": "^[A-Z]{2}$"}),
        "DE",
        None,
    );
    check(
        json!({"type": "string", "pattern": "^[A-Z]{2}$"}),
        "DEU",
        Some("pattern"),
    );
    check(json!({"type": "string", "maxLength": 2}), "äö", None);
    check(json!({"type": ["integer", "null"]}), "5", None);
    check(json!({"type": ["integer", "string"]}), "x", None);
    check(json!({"enum": ["a", "b"]}), "c", Some("enum"));
    check(json!({"enum": [1, 2]}), "2", None);
    check(json!({"const": true}), "yes", None);
    check(
        json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        "5",
        None,
    );
    check(
        json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        "x",
        Some("anyOf"),
    );
    check(json!({}), "anything", None);
    check(json!(true), "anything", None);
    check(json!({"type": "object"}), "{}", Some("type"));
}

#[test]
fn a_pattern_costs_no_more_than_the_text_is_long() {
    // The classic bomb for a backtracking engine: it would not end in the life of this test.
    let parameter = parameter(json!({"type": "string", "pattern": "^(a+)+$"}));
    let text = format!("{}b", "a".repeat(10_000));
    assert_eq!(parameter.check(&text).unwrap_err()[0].code, "pattern");
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    fn check(text: &str, place: &str, message: &str) {
        let found = Descriptor::parse(text).expect_err(text);
        assert!(found.place.starts_with(place), "{text}: {found}");
        assert!(found.message.contains(message), "{text}: {found}");
    }
    check("{", "line 1", "not JSON");
    check("[]", "/", "must be a JSON object");
    check(r#"{"description": 5}"#, "/description", "string");
    check(r#"{"parameters": {}}"#, "/parameters", "sequence");
    check(
        r#"{"parameters": [{"name": "a"}, {}]}"#,
        "/parameters/1",
        "name",
    );
    check(
        r#"{"parameters": [{"name": ""}]}"#,
        "/parameters/0/name",
        "needs a name",
    );
    check(
        r#"{"parameters": [{"name": "a"}, {"name": "a"}]}"#,
        "/parameters/1/name",
        "declared twice",
    );
    check(
        r#"{"parameters": [{"name": "a", "in": "header"}]}"#,
        "/parameters/0",
        "header",
    );
    check(
        r#"{"parameters": [{"name": "a", "schema": {"type": "text"}}]}"#,
        "/parameters/0/schema/type",
        "text",
    );
    check(
        r#"{"parameters": [{"name": "a", "schema": {"pattern": "("}}]}"#,
        "/parameters/0/schema",
        "",
    );
    check(
        r#"{"parameters": [{"name": "a", "schema": {"pattern": "(?=a)"}}]}"#,
        "/parameters/0/schema",
        "",
    );
    check(
        r#"{"settings": {"$ref": "https://example.com/schema.json"}}"#,
        "/settings",
        "",
    );
    check(
        r#"{"settings": {"$ref": "file:///etc/passwd"}}"#,
        "/settings",
        "",
    );
    check(r#"{"settings": 5}"#, "/settings", "a JSON Schema is");
    check(
        r#"{"response": {"schema": {"type": 1}}}"#,
        "/response/schema",
        "",
    );
    check(r#"{"grants": {"dirs": 5}}"#, "/grants", "");
}

#[test]
fn members_of_a_later_version_are_ignored() {
    let descriptor = Descriptor::parse(r#"{"tomorrow": [1], "description": "x"}"#).unwrap();
    assert_eq!(descriptor.description.as_deref(), Some("x"));
    assert!(
        !descriptor.additional_parameters,
        "the default with metadata"
    );
    assert!(Descriptor::unknown().additional_parameters);
    assert!(Descriptor::parse("").unwrap().parameters.is_empty());
}
