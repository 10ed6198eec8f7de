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
    check(r#"{"request": 5}"#, "/request", "");
    check(
        r#"{"request": {"schema": {"type": 1}}}"#,
        "/request/schema",
        "",
    );
    check(
        r#"{"request": {"content_type": "json"}}"#,
        "/request/content_type",
        "no media type",
    );
    check(
        r#"{"request": {"content_type": "text/plain", "schema": {}}}"#,
        "/request/schema",
        "text/plain",
    );
    check(r#"{"pending": "body"}"#, "/pending", "\"payload\"");
    check(r#"{"pending": true}"#, "/pending", "true");
}

#[test]
fn a_body_is_of_its_media_type_and_fits_its_schema() {
    let request = |text: &str| Descriptor::parse(text).unwrap().request.unwrap();
    let item = request(
        r#"{"request": {"schema": {"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string"}, "tags": {"items": {"maxLength": 2}}
        }}}}"#,
    );
    let json = Some("application/json");
    for (content_type, body, expect) in [
        (json, r#"{"name": "a"}"#, Ok(())),
        (
            Some("Application/JSON ; charset=utf-8"),
            r#"{"name": "a"}"#,
            Ok(()),
        ),
        (None, r#"{"name": "a"}"#, Err(BodyFault::MediaType)),
        (
            Some("text/plain"),
            r#"{"name": "a"}"#,
            Err(BodyFault::MediaType),
        ),
    ] {
        assert_eq!(
            item.check(content_type, body.as_bytes()),
            expect,
            "{content_type:?}"
        );
    }
    for body in [&b"{"[..], b"", b"\xff", b"{} {}"] {
        let fault = item.check(json, body).unwrap_err();
        assert!(matches!(fault, BodyFault::NotJson(_)), "{fault:?}");
    }
    let faults = |body: &str| match item.check(json, body.as_bytes()) {
        Err(BodyFault::Unfit(faults)) => faults
            .into_iter()
            .map(|fault| (fault.pointer, fault.code))
            .collect(),
        other => panic!("{other:?}"),
    };
    let fault = |pointer: &str, code: &str| (pointer.to_owned(), code.to_owned());
    let found: Vec<_> = faults(r#"{"name": 5, "tags": ["a", "abc"]}"#);
    assert_eq!(
        found,
        [fault("/name", "type"), fault("/tags/1", "maxLength")]
    );
    assert_eq!(faults("{}"), [fault("", "required")]);
    assert_eq!(faults("[]"), [fault("", "type")]);
    // Without a schema the body is anybody's.
    let text = request(r#"{"request": {"content_type": "Text/Plain"}}"#);
    assert_eq!(
        text.check(Some("text/plain;charset=utf-8"), b"\xff"),
        Ok(())
    );
    assert_eq!(text.check(json, b""), Err(BodyFault::MediaType));
}

#[test]
fn what_is_pending_is_what_is_read_only_where_it_says_so() {
    assert!(
        Descriptor::parse(r#"{"pending": "payload"}"#)
            .unwrap()
            .pending_payload
    );
    assert!(!Descriptor::parse("{}").unwrap().pending_payload);
    assert!(!Descriptor::unknown().pending_payload);
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
