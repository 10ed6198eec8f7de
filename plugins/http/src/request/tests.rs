//! What a request is made of, and that a part stays in its place.

use super::{body, url};
use crate::settings::Settings;
use larder_plugin_support::Failure;
use serde_json::{Value, json};
use std::borrow::Cow;

fn settings(config: Value) -> Settings {
    serde_json::from_value(config).unwrap()
}

fn value_of<'p>(
    parts: &'p [(&str, &str)],
) -> impl Fn(&str) -> Result<Option<Cow<'p, str>>, Failure> {
    move |name| {
        let part = parts.iter().find(|part| part.0 == name);
        Ok(part.map(|&(_, value)| Cow::Borrowed(value)))
    }
}

fn check_url(config: Value, parts: &[(&str, &str)], expect: Result<&str, &str>) {
    let made = url(&settings(config), value_of(parts)).map(|url| url.to_string());
    assert_eq!(
        made.as_deref().map_err(|failure| failure.code.as_str()),
        expect
    );
}

fn check_body(config: Value, parts: &[(&str, &str)], expect: Result<&str, &str>) {
    let mut config = config;
    config["url"] = json!("http://h/");
    config["method"] = json!("POST");
    let settings = settings(config);
    settings.check().unwrap();
    let made = body(&settings, value_of(parts)).map(Option::unwrap);
    assert_eq!(
        made.as_deref().map_err(|failure| failure.code.as_str()),
        expect
    );
}

#[test]
fn a_part_stays_within_its_place_in_the_url() {
    let check = |value, expect| {
        let config = json!({ "url": "http://h:9/c/{id}?x={id}" });
        check_url(config, &[("id", value)], expect);
    };
    check("DE", Ok("http://h:9/c/DE?x=DE"));
    check(
        "a/b?c#d&e=%",
        Ok("http://h:9/c/a%2Fb%3Fc%23d%26e%3D%25?x=a%2Fb%3Fc%23d%26e%3D%25"),
    );
    check("é ", Ok("http://h:9/c/%C3%A9%20?x=%C3%A9%20"));
    check("...", Ok("http://h:9/c/...?x=..."));
    check("%2e%2e", Ok("http://h:9/c/%252e%252e?x=%252e%252e"));
    check(".", Err("part-is-dots"));
    check("..", Err("part-is-dots"));
}

#[test]
fn the_query_goes_behind_the_url_without_what_was_not_sent() {
    let check = |url: &str, parts: &[_], expect| {
        let query = json!({ "q&": "{q} {q}", "lang": "{lang}", "v": "2" });
        check_url(json!({ "url": url, "query": query }), parts, Ok(expect));
    };
    check(
        "http://h/s",
        &[("q", "a&b=.."), ("lang", "de")],
        "http://h/s?lang=de&q%26=a%26b%3D..%20a%26b%3D..&v=2",
    );
    check(
        "http://h/s?k=1#part",
        &[("q", "..")],
        "http://h/s?k=1&q%26=..%20..&v=2",
    );
    check("http://h", &[], "http://h/?v=2");
}

#[test]
fn what_the_settings_get_wrong_is_told() {
    let check = |url: &str, expect| check_url(json!({ "url": url }), &[("id", "1")], Err(expect));
    check("http://h/{id}/{lang}", "template-part-missing");
    check("ftp://h/{id}", "url-invalid");
    check("/relative", "url-invalid");
}

#[test]
fn a_part_stays_within_its_place_in_json() {
    let check = |value, expect| {
        let body = r#"{"q": "a\"{q}", "n": [{n}]}"#;
        check_body(json!({ "body": body }), &[("q", value), ("n", "7")], expect);
    };
    check("x", Ok(r#"{"q": "a\"x", "n": [7]}"#));
    check(
        "\", \"admin\": \"\\\n",
        Ok(r#"{"q": "a\"\", \"admin\": \"\\\n", "n": [7]}"#),
    );
    let check = |value, expect| {
        let config = json!({ "body": r#"{"n": {n}}"#, "content_type": "application/x+json; v=1" });
        check_body(config, &[("n", value)], expect);
    };
    check("-1.5", Ok(r#"{"n": -1.5}"#));
    check("true", Ok(r#"{"n": true}"#));
    for value in ["", "abc", "1, \"admin\": 1", "\"x\"", "[1]", "{}"] {
        check(value, Err("part-is-no-number"));
    }
}

#[test]
fn a_part_stays_within_its_place_in_a_form() {
    let config =
        json!({ "body": "q={q}&k=1", "content_type": "application/x-www-form-urlencoded" });
    check_body(config, &[("q", "a&k=2 +")], Ok("q=a%26k%3D2%20%2B&k=1"));
    let config = json!({ "body": "find {q}", "content_type": "text/plain" });
    check_body(config, &[("q", "a&b")], Ok("find a&b"));
    let config = json!({ "body": "find {q}", "content_type": "text/plain" });
    check_body(config, &[], Err("template-part-missing"));
}

#[test]
fn settings_that_make_no_request_are_refused() {
    let check = |config: Value, code: &str, words: &str| {
        let mut config = config;
        config["url"] = json!("http://h/");
        let failure = settings(config).check().unwrap_err();
        assert_eq!(failure.code, code);
        assert!(failure.message.contains(words), "{}", failure.message);
    };
    check(
        json!({ "body": "{}" }),
        "body-without-post",
        "method = \"POST\"",
    );
    check(
        json!({ "body": "{\"q\": }", "method": "POST" }),
        "body-invalid",
        "content_type",
    );
    let header = |name: &str, value: &str| json!({ "headers": { name: value } });
    check(header("a b", ""), "header-invalid", "`a b`");
    check(
        header("Content-Type", "text/plain"),
        "header-invalid",
        "content_type =",
    );
    check(
        header("content-length", "0"),
        "header-invalid",
        "take it out",
    );
    check(
        header("Accept-Encoding", "gzip;q=1, zstd"),
        "header-invalid",
        "`zstd`",
    );
    let own = settings(
        json!({ "url": "http://h/", "headers": { "Accept-Encoding": "GZip;q=1, identity" } }),
    );
    own.check().unwrap();
    assert_eq!(own.accept_encoding(), None);
}
