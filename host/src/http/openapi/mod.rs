//! The API document: OpenAPI 3.1 of the routes as they are now, made of the configuration and of what the plugins say about
//! themselves. Pure: a [`Snapshot`] becomes JSON. Must not know how it is asked for.
//!
//! # Layout
//! - this file: the document, its paths, what is the same for all of them.
//! - [`operation`]: GET, PUT and DELETE of a route.
//! - [`problems`]: what can go wrong, by status.
//! - [`schemas`]: the plugins' JSON Schemas, put into the document.

mod operation;
mod problems;
mod schemas;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::config::OpenApi;
use crate::route::{Route, Snapshot, Writes};
use schemas::Schemas;

/// The document of these routes.
pub fn document(snapshot: &Snapshot, about: &OpenApi) -> Value {
    let mut schemas = Schemas::default();
    schemas.add("Problem", problems::schema());
    let mut paths = Map::new();
    let mut names = operation::Names::default();
    for route in snapshot.routes() {
        let item = operation::path_item(route, &mut names, &mut schemas);
        paths.insert(template(&route.pattern), item);
    }
    let is_behind = |route: &&std::sync::Arc<Route>| matches!(route.writes, Writes::Behind(_));
    if snapshot.routes().iter().any(|route| is_behind(&route)) {
        schemas.add("Write", write_schema());
        paths.insert("/writes/{id}".to_owned(), writes());
    }
    schemas.add("BatchItem", batch_item());
    paths.insert("/_batch".to_owned(), batch());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": about.title,
            "version": about.version,
            "description": "Served by Larder. Every answer says in `Cache-Status` (RFC 9211) where it came from, and every error is a \
                            problem (RFC 9457) with a stable `code`.",
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": { "schemas": schemas.into_value(), "headers": headers() },
    })
}

/// The same as bytes.
pub fn text(snapshot: &Snapshot, about: &OpenApi) -> Bytes {
    let mut text = serde_json::to_vec(&document(snapshot, about)).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

/// A pattern as OpenAPI writes paths: a parameter that takes all the rest is one like others, and says so; braces that are
/// meant are encoded.
fn template(pattern: &str) -> String {
    pattern
        .replace("{{", "%7B")
        .replace("}}", "%7D")
        .replace("{*", "{")
}

/// The headers that answers share.
fn headers() -> Value {
    let header =
        |description: &str, schema: Value| json!({ "description": description, "schema": schema });
    json!({
        "Cache-Status": header(
            "Where the answer came from (RFC 9211), e.g. `larder; hit; ttl=42; detail=memory`.",
            json!({ "type": "string", "pattern": "^larder" }),
        ),
        "Age": header("Seconds since it was loaded (RFC 9111 section 5.1).", json!({ "type": "integer", "minimum": 0 })),
        "Cache-Control": header("How long it may be kept downstream (RFC 9111 section 5.2).", json!({ "type": "string" })),
        "ETag": header("Its entity tag (RFC 9110 section 8.8.3), for `If-None-Match`.", json!({ "type": "string" })),
        "Retry-After": header("Seconds to wait before asking again.", json!({ "type": "integer", "minimum": 1 })),
        "Location": header("Where it is told what became of the change.", json!({ "type": "string" })),
        "Content-Location": header("What the body represents.", json!({ "type": "string" })),
    })
}

/// `POST /_batch`
fn batch() -> Value {
    let problem = |description: &str| {
        json!({
            "description": description,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        })
    };
    json!({
        "post": {
            "operationId": "batch",
            "tags": ["batch"],
            "summary": "Many reads in one request, each told as soon as it is there.",
            "requestBody": {
                "required": true,
                "content": { "application/json": { "schema": {
                    "type": "array",
                    "maxItems": 1000,
                    "items": { "type": "string", "description": "A path, with its query." },
                } } },
            },
            "responses": {
                "200": {
                    "description": "A line of JSON for each path, in the order in which they come about.",
                    "content": { "application/x-ndjson": {
                        "schema": { "type": "string", "description": "Lines, each a `BatchItem`." },
                    } },
                },
                "400": problem("- `body-cut-short`: the body did not come whole."),
                "408": problem("- `body-too-slow`: the body did not come in time."),
                "413": problem("- `body-too-long`: the body is longer than the server takes."),
                "415": problem("- `content-type-unsupported`: the body is not said to be JSON."),
                "422": problem("- `batch-invalid`: the body is no array of paths, or has too many."),
            },
        },
    })
}

/// A line of what `POST /_batch` answers.
fn batch_item() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "What a GET of the path would have answered.",
        "required": ["path", "status", "cache_status", "body"],
        "properties": {
            "path": text("As it was asked for."),
            "status": { "type": "integer", "minimum": 100, "maximum": 599 },
            "cache_status": text("`Cache-Status` (RFC 9211)."),
            "content_type": text("The media type of the body."),
            "cache_control": text("`Cache-Control`."),
            "etag": text("The entity tag."),
            "age": { "type": "integer", "minimum": 0 },
            "retry_after": text("`Retry-After`."),
            "encoding": { "const": "base64", "description": "Where the body is neither JSON nor text." },
            "body": { "description": "JSON as it is, other text as a string, anything else in Base64." },
        },
    })
}

/// `GET /writes/{id}`
fn writes() -> Value {
    json!({
        "get": {
            "operationId": "getWrite",
            "tags": ["writes"],
            "summary": "What became of a change that was accepted before it was made.",
            "parameters": [{
                "name": "id",
                "in": "path",
                "required": true,
                "description": "As `Location` of the 202 said.",
                "schema": { "type": "string" },
            }],
            "responses": {
                "200": {
                    "description": "How it is.",
                    "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Write" } } },
                },
                "404": {
                    "description": "- `unknown-write`: no such change, or it was settled more than a day ago.",
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
                "503": {
                    "description": "- `queue-unavailable`: the queue cannot be read.",
                    "headers": { "Retry-After": { "$ref": "#/components/headers/Retry-After" } },
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
                },
            },
        },
    })
}

/// What is told of a change; times in milliseconds since 1970.
fn write_schema() -> Value {
    let time = |description: &str| json!({ "type": "integer", "description": description });
    json!({
        "type": "object",
        "description": "A change that was accepted before it was made.",
        "required": ["id", "accepted_ms", "state"],
        "properties": {
            "id": { "type": "string" },
            "state": { "type": "string", "enum": ["pending", "applied", "dead"] },
            "accepted_ms": time("When it was accepted, in milliseconds since 1970."),
            "applied_ms": time("When it was made."),
            "dead_ms": time("When it was given up."),
            "reason": { "description": "Why it was given up." },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_templates() {
        assert_eq!(template("/a/{b}/{*c}"), "/a/{b}/{c}");
        assert_eq!(template("/{{x}}/{y}"), "/%7Bx%7D/{y}");
    }
}
