//! One change as the statement takes it: a JSON object made of the parts and of the members of the body, and what is wrong
//! with these. Must not know the text of the statement, beyond the names in that object.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use larder_plugin_support::{FailureKind, Param, no_such_part, part};
use serde_json::Value;
use serde_json::value::RawValue;

use super::settings::{Column, Write};
use crate::exports::larder::plugin::writer::{Mutation, Operation, Payload, Precondition};
use crate::fault::Fault;

/// The members of a body, as they were written: numbers keep their digits.
type Members = BTreeMap<String, Box<RawValue>>;

/// A change, ready to be bound.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its members, but the number that it has in a statement.
    json: String,
    /// What each value is read as: for who looks for the one that does not fit.
    pub(crate) values: Vec<Bound>,
}

/// A value of a row.
#[derive(Debug)]
pub(crate) struct Bound {
    /// The part or the member that it comes from.
    pub(crate) name: String,
    pub(crate) type_name: String,
    pub(crate) json: String,
}

impl Row {
    /// # Errors
    /// What is wrong with the change.
    pub(crate) fn new(write: &Write, mutation: &Mutation) -> Result<Self, Fault> {
        let expect = match &mutation.expect {
            Precondition::None => "null",
            Precondition::Absent => "\"absent\"",
            Precondition::Present => "\"present\"",
            Precondition::Matches(_) => return Err(no_validator()),
        };
        let mut row = Self {
            json: format!(
                "\"s\":{},\"p\":{},\"e\":{expect},\"o\":{}",
                mutation.sequence,
                matches!(mutation.operation, Operation::Put(_)),
                Value::from(mutation.idempotency_key.as_str()),
            ),
            values: Vec::new(),
        };
        let parts = &mutation.target.parts;
        for (at, key) in write.key.iter().enumerate() {
            let value = part(parts, &key.part).ok_or_else(|| {
                let failure = no_such_part(&key.part);
                Fault::new(failure.kind, &failure.code, failure.message)
            })?;
            row.add(
                &format!("k{at}"),
                &key.part,
                &key.type_name,
                Value::from(value).to_string(),
            );
        }
        match &mutation.operation {
            Operation::Delete if !write.delete => return Err(no_delete(&write.route)),
            Operation::Delete => {}
            Operation::Put(payload) => {
                let members = members(payload)?;
                check(write, parts, &members)?;
                for (at, column) in write.columns.iter().enumerate() {
                    let value = value(column, &members)?;
                    row.add(
                        &format!("c{at}"),
                        &column.member,
                        &column.type_name,
                        value.to_owned(),
                    );
                }
            }
        }
        Ok(row)
    }

    fn add(&mut self, as_name: &str, name: &str, type_name: &str, json: String) {
        let _ = write!(self.json, ",\"{as_name}\":{json}");
        self.values.push(Bound {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            json,
        });
    }

    /// It as the change of this number.
    pub(crate) fn numbered(&self, number: usize) -> String {
        format!("{{\"n\":{number},{}}}", self.json)
    }
}

/// The tags that a change purges: of the parts and of the members that are text, numbers or booleans. One that names what this
/// change does not have is left out.
pub(crate) fn tags(write: &Write, mutation: &Mutation) -> Vec<String> {
    let members = match &mutation.operation {
        Operation::Put(payload) => members(payload).unwrap_or_default(),
        Operation::Delete => Members::new(),
    };
    let text = |name: &str| {
        if let Some(value) = part(&mutation.target.parts, name) {
            return Ok(value.to_owned().into());
        }
        match serde_json::from_str(members.get(name).ok_or(())?.get()) {
            Ok(Value::String(text)) => Ok(text.into()),
            Ok(Value::Bool(_) | Value::Number(_)) => Ok(members[name].get().to_owned().into()),
            _ => Err(()),
        }
    };
    let tags = write.tags.iter().filter_map(|tag| tag.fill(text).ok());
    tags.collect()
}

fn members(payload: &Payload) -> Result<Members, Fault> {
    serde_json::from_slice(&payload.body).map_err(|fault| {
        let message = format!("the body is no JSON object: {fault}");
        Fault::new(FailureKind::InvalidRequest, "body-invalid", message)
    })
}

/// Looks for what would be lost, or would be another row.
fn check(write: &Write, parts: &[Param], members: &Members) -> Result<(), Fault> {
    for (name, value) in members {
        let key = write.key.iter().find(|key| key.column == *name);
        if write.columns.iter().any(|column| column.member == *name) {
            continue;
        }
        match key {
            Some(key) => {
                let of_path = part(parts, &key.part).unwrap_or_default();
                let same = match serde_json::from_str(value.get()) {
                    Ok(Value::String(text)) => text == of_path,
                    _ => value.get() == of_path,
                };
                if !same {
                    let what = format!(
                        "is {}, and the request is for `{of_path}`; write that, or leave it out",
                        value.get()
                    );
                    return Err(of_member("member-unfit", name, &what));
                }
            }
            None if write.ignore.contains(name) => {}
            None => {
                return Err(of_member(
                    "member-unknown",
                    name,
                    "is written nowhere; take it out, or name it in `columns` or `ignore` of the sidecar",
                ));
            }
        }
    }
    Ok(())
}

/// The JSON of a column's member; null where it is not there and need not be.
fn value<'m>(column: &Column, members: &'m Members) -> Result<&'m str, Fault> {
    let Some(value) = members.get(&column.member) else {
        if column.required {
            return Err(of_member(
                "member-missing",
                &column.member,
                "is missing; send it, null if it has no value",
            ));
        }
        return Ok("null");
    };
    let value = value.get();
    let first = value.bytes().next().unwrap_or_default();
    let wanted = match kind(&column.type_name) {
        _ if value == "null" => None,
        Kind::Text if first != b'"' => Some("a string"),
        Kind::Boolean if !matches!(first, b't' | b'f') => Some("true or false"),
        Kind::List if first != b'[' => Some("an array"),
        _ => None,
    };
    match wanted {
        Some(wanted) => {
            let what = format!(
                "must be {wanted}, for its column has the type {}",
                column.type_name
            );
            Err(of_member("member-unfit", &column.member, &what))
        }
        None => Ok(value),
    }
}

/// What PostgreSQL would take more kinds of JSON for than would come back.
enum Kind {
    Text,
    Boolean,
    List,
    /// It says itself what does not fit.
    Other,
}

fn kind(type_name: &str) -> Kind {
    if type_name.ends_with("[]") {
        return Kind::List;
    }
    let base = type_name.split('(').next().unwrap_or_default();
    match base.trim().to_ascii_lowercase().as_str() {
        "text" | "varchar" | "character varying" | "char" | "character" | "bpchar" | "citext"
        | "bytea" => Kind::Text,
        "bool" | "boolean" => Kind::Boolean,
        _ => Kind::Other,
    }
}

/// A fault of the body, with its member for programs.
pub(crate) fn of_member(code: &str, name: &str, what: &str) -> Fault {
    let message = format!("the member `{name}` {what}");
    let mut fault = Fault::new(FailureKind::InvalidRequest, code, message);
    fault.failure.details.push(Param {
        name: name.to_owned(),
        value: what.to_owned(),
    });
    fault
}

fn no_validator() -> Fault {
    Fault::new(
        FailureKind::Conflict,
        "no-validator",
        "a row has no validator, so no entity tag can be compared with it; send `If-Match: *` or none".to_owned(),
    )
}

fn no_delete(route: &str) -> Fault {
    let message = format!(
        "rows of {route} are not deleted; where they should be, add `delete = true` to [config.writes.\"{route}\"] of the sidecar"
    );
    Fault::new(FailureKind::Denied, "delete-denied", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writes::settings::WriteSettings;
    use larder_plugin_support::{Target, Validator};

    fn write() -> Write {
        let text = r#"{"table": "t", "key": {"id": {"type": "bigint", "part": "item"}}, "ignore": ["at"],
            "columns": {"name": "varchar(3)", "n": "numeric", "b": "boolean", "l": "int[]", "o": {"type": "jsonb", "required": false}},
            "tags": ["all", "item:{item}", "name:{name}"]}"#;
        let settings: WriteSettings = serde_json::from_str(text).unwrap();
        settings.judge("/items/{item}").unwrap()
    }

    fn mutation(operation: Operation, expect: Precondition) -> Mutation {
        Mutation {
            target: Target {
                route: "/items/{item}".to_owned(),
                parts: vec![Param {
                    name: "item".to_owned(),
                    value: "7".to_owned(),
                }],
                deadline_ms: 1000,
                traceparent: None,
                hints: Vec::new(),
            },
            operation,
            expect,
            idempotency_key: "k\"".to_owned(),
            sequence: 3,
            hints: Vec::new(),
        }
    }

    fn put(body: &str) -> Mutation {
        let payload = Payload {
            content_type: None,
            body: body.as_bytes().to_vec(),
        };
        mutation(Operation::Put(payload), Precondition::None)
    }

    const WHOLE: &str =
        r#"{"id": 7, "name": "a", "n": 12345678901234567890.10, "b": true, "l": [1], "at": 1}"#;

    #[test]
    fn a_row_holds_what_the_body_says_digit_by_digit() {
        let row = Row::new(&write(), &put(WHOLE)).unwrap().numbered(4);
        assert_eq!(
            row,
            r#"{"n":4,"s":3,"p":true,"e":null,"o":"k\"","k0":"7","c0":true,"c1":[1],"c2":12345678901234567890.10,"c3":"a","c4":null}"#
        );
        assert_eq!(tags(&write(), &put(WHOLE)), ["all", "item:7", "name:a"]);
        let delete = mutation(Operation::Delete, Precondition::None);
        assert_eq!(tags(&write(), &delete), ["all", "item:7"]);
    }

    #[test]
    fn what_does_not_fit_names_its_member() {
        let with = |from: &str, to: &str| WHOLE.replace(from, to);
        for (body, code, word) in [
            ("[]".to_owned(), "body-invalid", "no JSON object"),
            ("{".to_owned(), "body-invalid", "no JSON object"),
            (with("\"n\":", "\"N\":"), "member-unknown", "`N`"),
            (with("\"b\": true, ", ""), "member-missing", "`b`"),
            (
                with("true", "\"yes\""),
                "member-unfit",
                "`b` must be true or false",
            ),
            (
                with("\"a\"", "5"),
                "member-unfit",
                "`name` must be a string",
            ),
            (
                with("[1]", "\"{1}\""),
                "member-unfit",
                "`l` must be an array",
            ),
            (with("\"id\": 7", "\"id\": 8"), "member-unfit", "`7`"),
        ] {
            let fault = Row::new(&write(), &put(&body)).expect_err(&body);
            assert_eq!(
                (fault.failure.kind, fault.failure.code.as_str()),
                (FailureKind::InvalidRequest, code),
                "{body}"
            );
            assert!(
                fault.failure.message.contains(word),
                "{word}: {}",
                fault.failure.message
            );
        }
    }

    #[test]
    fn what_cannot_be_asked_or_is_not_allowed_is_refused() {
        let fault =
            Row::new(&write(), &mutation(Operation::Delete, Precondition::None)).unwrap_err();
        assert_eq!(
            (fault.failure.kind, fault.failure.code.as_str()),
            (FailureKind::Denied, "delete-denied")
        );
        let known = Validator {
            etag: Some("\"a\"".to_owned()),
            last_modified_ms: None,
        };
        let fault = Row::new(
            &write(),
            &mutation(Operation::Delete, Precondition::Matches(known)),
        )
        .unwrap_err();
        assert_eq!(
            (fault.failure.kind, fault.failure.code.as_str()),
            (FailureKind::Conflict, "no-validator")
        );
    }
}
