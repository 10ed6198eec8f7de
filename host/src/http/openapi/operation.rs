//! The operations of a route: what it takes, what it gives, what can go wrong.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::problems::{self, On};
use super::schemas::Schemas;
use crate::route::{Check, Place, Route, Rule, Writes};

/// Operation ids so far: each is given once.
#[derive(Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// `get` and `/data/{key}` → `getDataByKey`, with a number behind it where another has that.
    fn give(&mut self, verb: &str, pattern: &str) -> String {
        let mut wanted = verb.to_owned();
        for segment in pattern.split('/') {
            let (by, words) = match segment.find('{') {
                Some(0) => ("By", segment),
                _ => ("", segment),
            };
            wanted.push_str(by);
            for word in words.split(|c: char| !c.is_ascii_alphanumeric()) {
                let mut letters = word.chars();
                wanted.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                wanted.push_str(letters.as_str());
            }
        }
        let mut name = wanted.clone();
        let mut count = 1;
        while !self.0.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}{count}");
        }
        name
    }
}

/// Everything that one path answers.
pub(super) fn path_item(route: &Route, names: &mut Names, schemas: &mut Schemas) -> Value {
    let mut item = Map::new();
    let parameters = parameters(route, schemas);
    item.insert("get".into(), read(route, names, schemas));
    if !matches!(route.writes, Writes::Off) {
        item.insert("put".into(), put(route, names, schemas));
        item.insert("delete".into(), delete(route, names, schemas));
    }
    // Of the route first, then of the operation, which is the order that readers are shown.
    for operation in item.values_mut() {
        let mut all = parameters.clone();
        if let Some(Value::Array(own)) = operation.get_mut("parameters").map(Value::take) {
            all.extend(own);
        }
        operation["parameters"] = all.into();
    }
    Value::Object(item)
}

/// The path parameters in the pattern's order, then the query's, then the headers of the key.
fn parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in &route.params {
        let declared = route
            .checks
            .iter()
            .find(|check| check.place == Place::Path && check.name == *name);
        let mut parameter = parameter(route, "path", name, declared, schemas);
        parameter["required"] = true.into();
        if route.pattern.contains(&format!("{{*{name}}}")) {
            let rest = "All the rest of the path, slashes included.";
            let text = parameter["description"].as_str();
            let text = text.map_or_else(|| rest.to_owned(), |text| format!("{text}\n\n{rest}"));
            parameter["description"] = text.into();
        }
        parameters.push(parameter);
    }
    let declared = route
        .checks
        .iter()
        .filter(|check| check.place == Place::Query);
    for check in declared {
        parameters.push(parameter(route, "query", &check.name, Some(check), schemas));
    }
    let is_declared = |name: &String| {
        let mut checks = route.checks.iter();
        checks.any(|check| check.place == Place::Query && check.name == *name)
    };
    if let Rule::Parts { query, .. } = &route.rule {
        for name in query.iter().filter(|name| !is_declared(name)) {
            parameters.push(parameter(route, "query", name, None, schemas));
        }
    }
    if let Rule::Parts { headers, .. } | Rule::Policy { headers, .. } = &route.rule {
        // OpenAPI tells of these otherwise, and has what stands here ignored.
        let otherwise = ["accept", "authorization", "content-type"];
        for name in headers
            .iter()
            .filter(|name| !otherwise.contains(&name.as_str()))
        {
            let mut header = parameter(route, "header", name.as_str(), None, schemas);
            header["description"] = "The answer depends on it.".into();
            parameters.push(header);
        }
    }
    parameters
}

fn parameter(
    route: &Route,
    place: &str,
    name: &str,
    declared: Option<&Check>,
    schemas: &mut Schemas,
) -> Value {
    let mut parameter = json!({ "name": name, "in": place });
    let Some(check) = declared else {
        parameter["schema"] = json!({ "type": "string" });
        return parameter;
    };
    let declared = check.parameter();
    if declared.required {
        parameter["required"] = true.into();
    }
    if let Some(description) = &declared.description {
        parameter["description"] = description.as_str().into();
    }
    let owner = check.by.as_deref().unwrap_or(&route.pattern);
    parameter["schema"] = schemas.refer(&format!("{owner}.{name}"), &declared.schema);
    parameter
}

fn read(route: &Route, names: &mut Names, schemas: &mut Schemas) -> Value {
    let is_policy = !matches!(route.rule, Rule::Parts { .. });
    let occurs = move |on| on == On::Every || on == On::Reads || (on == On::Policies && is_policy);
    let mut responses = failures(&occurs);
    let mut value = found(route, schemas);
    if route.config.watch {
        value["content"]["text/event-stream"] = json!({
            "schema": { "type": "string", "description": "Where `Accept` prefers it: the value, and then each later one, as events." },
        });
    }
    responses.insert("200".into(), value);
    responses.insert(
        "304".into(),
        json!({ "description": "`If-None-Match` names what is there.", "headers": entry_headers() }),
    );
    // A loader may answer with a status of its own.
    responses.insert(
        "default".into(),
        json!({ "description": "What the source answers beside these." }),
    );
    let mut operation = operation(route, names.give("get", &route.pattern), responses);
    operation["parameters"] = json!([{
        "name": "If-None-Match",
        "in": "header",
        "description": "Entity tags (RFC 9110 section 13.1.2).",
        "schema": { "type": "string" },
    }]);
    operation
}

fn found(route: &Route, schemas: &mut Schemas) -> Value {
    let (content_type, schema) = response(route, schemas);
    json!({
        "description": "The value.",
        "headers": entry_headers(),
        "content": { content_type: { "schema": schema } },
    })
}

fn entry_headers() -> Value {
    let names = ["Cache-Status", "Age", "Cache-Control", "ETag"];
    let headers = names.map(|name| {
        let target = format!("#/components/headers/{name}");
        (name.to_owned(), json!({ "$ref": target }))
    });
    Value::Object(headers.into_iter().collect())
}

/// The media type of what the route answers, and the schema: of the operator, or of any of the chain.
fn response(route: &Route, schemas: &mut Schemas) -> (String, Value) {
    let declared = route
        .described
        .iter()
        .filter_map(|it| Some((&*it.plugin, it.descriptor.response.as_ref()?)));
    let content_type = declared
        .clone()
        .find_map(|(_, response)| response.get("content_type")?.as_str())
        .map(str::to_owned);
    if let Some(schema) = &route.config.outline.response {
        let name = format!("{}.response", route.pattern.trim_matches('/'));
        let content_type = content_type.unwrap_or_else(|| "application/json".to_owned());
        return (content_type, schemas.refer(&name, schema));
    }
    let mut of_chain: Vec<Value> = Vec::new();
    for (plugin, response) in declared {
        if let Some(schema) = response.get("schema") {
            let refer = schemas.refer(&format!("{plugin}.response"), schema);
            if !of_chain.contains(&refer) {
                of_chain.push(refer);
            }
        }
    }
    let schema = match of_chain.len() {
        0 => json!({}),
        1 => of_chain.remove(0),
        _ => json!({ "anyOf": of_chain }),
    };
    (content_type.unwrap_or_else(|| "*/*".to_owned()), schema)
}

fn put(route: &Route, names: &mut Names, schemas: &mut Schemas) -> Value {
    let mut responses = changed(route, schemas);
    if matches!(route.writes, Writes::Through(_)) {
        let mut created = found(route, schemas);
        created["description"] = "Done; it was not there before.".into();
        created["headers"] = change_headers();
        responses.insert("201".into(), created);
    }
    let mut operation = operation(route, names.give("put", &route.pattern), responses);
    operation["summary"] = "Writes the resource.".into();
    operation["parameters"] = conditions(route).into();
    operation["requestBody"] = request_body(route, schemas);
    operation
}

fn delete(route: &Route, names: &mut Names, schemas: &mut Schemas) -> Value {
    let responses = changed(route, schemas);
    let mut operation = operation(route, names.give("delete", &route.pattern), responses);
    operation["summary"] = "Removes the resource.".into();
    operation["parameters"] = conditions(route).into();
    operation
}

/// What a change is answered, done or accepted.
fn changed(route: &Route, schemas: &mut Schemas) -> Map<String, Value> {
    let is_policy = !matches!(route.rule, Rule::Parts { .. });
    let is_behind = matches!(route.writes, Writes::Behind(_));
    let mut responses = failures(&move |on| match on {
        On::Every | On::Writes => true,
        On::Reads => false,
        On::Through => !is_behind,
        On::Behind => is_behind,
        On::Policies => is_policy,
    });
    if is_behind {
        responses.insert(
            "202".into(),
            json!({
                "description": "The change is safe in the queue, reads show it, and it is made in order.",
                "headers": {
                    "Cache-Status": { "$ref": "#/components/headers/Cache-Status" },
                    "Location": { "$ref": "#/components/headers/Location" },
                },
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Write" } } },
            }),
        );
        return responses;
    }
    let mut done = found(route, schemas);
    done["description"] = "Done; the body is what a read gives now.".into();
    done["headers"] = change_headers();
    responses.insert("200".into(), done);
    responses.insert(
        "204".into(),
        json!({ "description": "Done.", "headers": { "Cache-Status": { "$ref": "#/components/headers/Cache-Status" } } }),
    );
    responses
}

fn change_headers() -> Value {
    json!({
        "Cache-Status": { "$ref": "#/components/headers/Cache-Status" },
        "ETag": { "$ref": "#/components/headers/ETag" },
        "Content-Location": { "$ref": "#/components/headers/Content-Location" },
    })
}

fn conditions(route: &Route) -> Vec<Value> {
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "description": description, "schema": { "type": "string" } });
    let mut conditions = vec![header(
        "Idempotency-Key",
        "A second change with the same key is answered as the first was, and not made again.",
    )];
    if matches!(route.writes, Writes::Through(_)) {
        conditions.extend([
            header("If-Match", "An entity tag, or `*`: only if it is so now."),
            header("If-None-Match", "`*`: only if it is not there."),
        ]);
    }
    conditions
}

fn request_body(route: &Route, schemas: &mut Schemas) -> Value {
    let (content_type, schema) = match &route.body {
        Some(request) => {
            let of_writer = || route.writer.as_ref()?.raw.pointer("/request/schema");
            let schema = route.config.outline.request.as_ref().or_else(of_writer);
            let name = format!("{}.request", route.pattern.trim_matches('/'));
            let schema = schema.map_or_else(|| json!({}), |schema| schemas.refer(&name, schema));
            (request.content_type.clone(), schema)
        }
        None => ("*/*".to_owned(), json!({})),
    };
    json!({ "required": true, "content": { content_type: { "schema": schema } } })
}

fn failures(occurs: &impl Fn(On) -> bool) -> Map<String, Value> {
    problems::statuses(occurs)
        .into_iter()
        .filter_map(|status| Some((status.to_string(), problems::response(status, occurs)?)))
        .collect()
}

/// What every operation has.
fn operation(route: &Route, id: String, responses: Map<String, Value>) -> Value {
    let tag = route.pattern.split('/').find(|segment| !segment.is_empty());
    let mut operation = json!({
        "operationId": id,
        "tags": [tag.filter(|tag| !tag.starts_with('{')).unwrap_or("routes")],
        "responses": responses,
    });
    let description = route.described.first().map(|it| &it.descriptor.description);
    let loaders = route.config.loaders.join("`, then `");
    match (
        &route.config.outline.summary,
        description.into_iter().flatten().next(),
    ) {
        (Some(summary), _) => operation["summary"] = summary.as_str().into(),
        (None, Some(description)) => operation["summary"] = description.as_str().into(),
        (None, None) => {}
    }
    operation["description"] = format!("Loaded by `{loaders}`.").into();
    operation
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn operation_ids_are_words_and_each_is_given_once() {
        let mut names = Names::default();
        assert_eq!(names.give("get", "/data/{key}"), "getDataByKey");
        assert_eq!(names.give("put", "/data/{key}"), "putDataByKey");
        assert_eq!(names.give("get", "/data/{key}/"), "getDataByKey2");
        assert_eq!(
            names.give("get", "/a-b/{alpha_2}/x.json"),
            "getABByAlpha2XJson"
        );
        assert_eq!(names.give("get", "/"), "get");
    }
}
