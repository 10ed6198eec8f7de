//! Rows to outcomes: the body, the tags and the time to live of an answer. Must not know where rows come from.

use std::borrow::Cow;

use larder_plugin_support::{Absence, Entry, FailureKind, Outcome, Param, Template, part};
use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::settings::{Query, Shape};

/// The most tags of one answer. More than that would be a tag for the whole route, or a mistake.
const TAGS_MAX: usize = 256;

/// What `rows` (each a JSON object) are to one who asked with `parts`.
///
/// # Errors
/// When the settings promise something that the rows do not keep.
pub(crate) fn outcome(query: &Query, parts: &[Param], rows: &[String]) -> Result<Outcome, Fault> {
    let body = match (query.shape, rows) {
        (Shape::One, []) => {
            return Ok(Outcome::Missing(Absence {
                ttl_ms: None,
                tags: tags(query, parts, rows)?,
                hints: Vec::new(),
            }));
        }
        (Shape::One, [row]) => row.clone(),
        (Shape::One, _) => {
            let message = format!(
                "[config.queries.\"{}\"] says `result = \"one\"`, and the query gives {} rows; say \"many\", or make it give one",
                query.route,
                rows.len()
            );
            return Err(Fault::new(FailureKind::Internal, "rows-not-one", message));
        }
        (Shape::Many, rows) => format!("[{}]", rows.join(",")),
    };
    Ok(Outcome::Found(Entry {
        ttl_ms: query.ttl_ms,
        tags: tags(query, parts, rows)?,
        ..Entry::new("application/json", body.into_bytes())
    }))
}

/// Every tag that the templates make: of the parts alone, one; with a column of the rows in it, one of each row.
fn tags(query: &Query, parts: &[Param], rows: &[String]) -> Result<Vec<String>, Fault> {
    let mut tags: Vec<String> = Vec::new();
    let mut add = |tag: String| {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    };
    let of_parts = |template: &Template| template.names().all(|name| part(parts, name).is_some());
    let (of_parts, of_rows): (Vec<&Template>, Vec<&Template>) =
        query.tags.iter().partition(|template| of_parts(template));
    for template in of_parts {
        let tag = template.fill(|name| part(parts, name).map(Cow::Borrowed).ok_or(()));
        tag.into_iter().for_each(&mut add);
    }
    if !of_rows.is_empty() {
        for row in rows {
            let row: Map<String, Value> = serde_json::from_str(row).map_err(|error| {
                Fault::new(
                    FailureKind::Internal,
                    "protocol-error",
                    format!("a row is no JSON object: {error}"),
                )
            })?;
            for template in &of_rows {
                if let Some(tag) = tag_of_row(query, template, parts, &row)? {
                    add(tag);
                }
            }
        }
    }
    if tags.len() > TAGS_MAX {
        let message = format!(
            "[config.queries.\"{}\"]: `tags` makes {} tags of one answer, and {TAGS_MAX} is the most; use a coarser one",
            query.route,
            tags.len()
        );
        return Err(Fault::new(FailureKind::Internal, "too-many-tags", message));
    }
    Ok(tags)
}

/// The tag of one row; none where a column of it is null.
fn tag_of_row(
    query: &Query,
    template: &Template,
    parts: &[Param],
    row: &Map<String, Value>,
) -> Result<Option<String>, Fault> {
    let mut is_null = false;
    let tag = template.fill(|name| {
        if let Some(value) = part(parts, name) {
            return Ok(Cow::Borrowed(value));
        }
        match row.get(name) {
            Some(Value::String(text)) => Ok(Cow::Borrowed(text.as_str())),
            Some(Value::Null) => {
                is_null = true;
                Ok(Cow::Borrowed(""))
            }
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Cow::Owned(value.to_string())),
            Some(_) | None => Err(Fault::new(
                FailureKind::Internal,
                "template-part-missing",
                format!(
                    "[config.queries.\"{}\"]: `tags` names {{{name}}}, which is neither a part of the key nor a column with one value; correct it",
                    query.route
                ),
            )),
        }
    })?;
    Ok((!is_null).then_some(tag))
}

#[cfg(test)]
mod tests {
    use super::outcome;
    use crate::settings::{Query, Shape};
    use larder_plugin_support::{Outcome, Param, Template};

    fn query(shape: Shape, tags: &[&str]) -> Query {
        Query {
            route: "/r".to_owned(),
            parameters: Vec::new(),
            key: None,
            sql: String::new(),
            shape,
            ttl_ms: Some(7),
            tags: tags.iter().map(|tag| Template::parse(tag)).collect(),
        }
    }

    fn check(shape: Shape, tags: &[&str], rows: &[&str], expect: Result<(&str, &[&str]), &str>) {
        let parts = [Param {
            name: "id".to_owned(),
            value: "5".to_owned(),
        }];
        let rows: Vec<String> = rows.iter().map(|row| (*row).to_owned()).collect();
        let said = match outcome(&query(shape, tags), &parts, &rows) {
            Ok(Outcome::Found(entry)) => Ok((String::from_utf8(entry.body).unwrap(), entry.tags)),
            Ok(Outcome::Missing(absence)) => Ok(("missing".to_owned(), absence.tags)),
            Ok(Outcome::NotModified(_)) => unreachable!(),
            Err(fault) => Err(fault.failure.code),
        };
        let expect = expect
            .map(|(body, tags)| {
                (
                    body.to_owned(),
                    tags.iter().map(|tag| (*tag).to_owned()).collect(),
                )
            })
            .map_err(str::to_owned);
        assert_eq!(said, expect);
    }

    #[test]
    fn one_row_is_an_object_and_many_are_an_array() {
        check(Shape::One, &[], &[], Ok(("missing", &[])));
        check(Shape::One, &[], &["{}"], Ok(("{}", &[])));
        check(Shape::One, &[], &["{}", "{}"], Err("rows-not-one"));
        check(Shape::Many, &[], &[], Ok(("[]", &[])));
        check(
            Shape::Many,
            &[],
            &["{\"a\":1}", "{\"a\":2}"],
            Ok(("[{\"a\":1},{\"a\":2}]", &[])),
        );
    }

    #[test]
    fn tags_are_made_of_parts_and_of_columns() {
        let rows = [
            "{\"c\":\"x\",\"n\":1,\"id\":9}",
            "{\"c\":\"x\",\"n\":2,\"id\":9}",
            "{\"c\":null,\"n\":3,\"id\":9}",
        ];
        let body = format!("[{}]", rows.join(","));
        check(
            Shape::Many,
            &["all", "id:{id}", "c:{c}", "n:{n}"],
            &rows,
            Ok((&body, &["all", "id:5", "c:x", "n:1", "n:2", "n:3"])),
        );
        // An absence is purged by what is known of it.
        check(
            Shape::One,
            &["id:{id}", "c:{c}"],
            &[],
            Ok(("missing", &["id:5"])),
        );
        check(
            Shape::One,
            &["d:{d}"],
            &rows[..1],
            Err("template-part-missing"),
        );
    }
}
