//! What the sidecar says of writing: a table for each route, its key, its columns. Owns what is refused; must not know what a
//! client sends.

use std::collections::{BTreeMap, HashSet};

use larder_plugin_support::Template;
use serde::Deserialize;

use crate::sql::Parameter;

/// `[config.writes."ROUTE"]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteSettings {
    table: String,
    key: BTreeMap<String, KeySettings>,
    #[serde(default)]
    columns: BTreeMap<String, ColumnSettings>,
    /// Members of the body that are for nobody.
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    delete: bool,
    #[serde(default)]
    tags: Vec<String>,
}

/// `{ alpha_2 = "text" }`, or what the part is called too.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum KeySettings {
    Type(String),
    More(KeyTable),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyTable {
    r#type: String,
    part: Option<String>,
}

/// `{ name = "text" }`, or what the member is called too.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum ColumnSettings {
    Type(String),
    More(ColumnTable),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnTable {
    r#type: String,
    member: Option<String>,
    #[serde(default = "yes")]
    required: bool,
}

const fn yes() -> bool {
    true
}

/// The changes of a route, judged.
#[derive(Debug)]
pub(crate) struct Write {
    /// The pattern of the route.
    pub(crate) route: String,
    /// The table, quoted.
    pub(crate) table: String,
    pub(crate) key: Vec<Key>,
    pub(crate) columns: Vec<Column>,
    pub(crate) ignore: HashSet<String>,
    /// Whether a DELETE is taken.
    pub(crate) delete: bool,
    pub(crate) tags: Vec<Template>,
}

/// A column that says which row.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) column: String,
    pub(crate) part: String,
    pub(crate) type_name: String,
}

/// A column that is written.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) column: String,
    pub(crate) member: String,
    pub(crate) type_name: String,
    pub(crate) required: bool,
}

/// Bytes are base64 in JSON, as they are when they are read.
pub(crate) fn is_bytes(type_name: &str) -> bool {
    type_name.trim().eq_ignore_ascii_case("bytea")
}

impl WriteSettings {
    /// # Errors
    /// One clause about what makes no sense.
    pub(crate) fn judge(&self, route: &str) -> Result<Write, String> {
        let key = self.key.iter().map(|(column, key)| {
            let (type_name, part) = match key {
                KeySettings::Type(type_name) => (type_name, None),
                KeySettings::More(more) => (&more.r#type, more.part.clone()),
            };
            Ok(Key {
                column: name(column)?,
                part: part.unwrap_or_else(|| column.clone()),
                type_name: typed(column, type_name)?,
            })
        });
        let key = key.collect::<Result<Vec<_>, String>>()?;
        if key.is_empty() {
            return Err("`key` is empty; name the columns of the primary key, as `key = { id = \"bigint\" }`".to_owned());
        }
        let columns = self.columns.iter().map(|(column, more)| {
            let (type_name, member, required) = match more {
                ColumnSettings::Type(type_name) => (type_name, None, true),
                ColumnSettings::More(more) => (&more.r#type, more.member.clone(), more.required),
            };
            Ok(Column {
                column: name(column)?,
                member: member.unwrap_or_else(|| column.clone()),
                type_name: typed(column, type_name)?,
                required,
            })
        });
        let columns = columns.collect::<Result<Vec<_>, String>>()?;
        if let Some(both) = columns
            .iter()
            .find(|column| self.key.contains_key(&column.column))
        {
            return Err(format!(
                "`{}` is in `key` and in `columns`; it is written because it is in `key`: take it out of `columns`",
                both.column
            ));
        }
        let mut members = HashSet::new();
        let all = columns
            .iter()
            .map(|column| &column.member)
            .chain(&self.ignore);
        if let Some(twice) = all.clone().find(|member| !members.insert(*member)) {
            return Err(format!(
                "the member `{twice}` is named twice in `columns` and `ignore`; name it once"
            ));
        }
        Ok(Write {
            route: route.to_owned(),
            table: table(&self.table)?,
            key,
            columns,
            ignore: self.ignore.iter().cloned().collect(),
            delete: self.delete,
            tags: self.tags.iter().map(|tag| Template::parse(tag)).collect(),
        })
    }
}

/// PostgreSQL cuts longer names off, and then they are others.
const NAME_BYTES_MAX: usize = 63;

fn name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err(format!(
            "`{name}` is no name of PostgreSQL, which has 1 to {NAME_BYTES_MAX} bytes; correct it"
        ));
    }
    Ok(name.to_owned())
}

/// `table` or `schema.table`, quoted.
fn table(text: &str) -> Result<String, String> {
    let names = text
        .split('.')
        .map(|part| name(part).map(|name| crate::sql::identifier(&name)))
        .collect::<Result<Vec<_>, _>>()?;
    if names.len() > 2 {
        return Err(format!(
            "`table` is `{text}`; write it as \"table\" or \"schema.table\""
        ));
    }
    Ok(names.join("."))
}

fn typed(column: &str, type_name: &str) -> Result<String, String> {
    Parameter::new(column, type_name)
        .map_err(|fault| fault.replace("`params` gives", "the sidecar gives"))?;
    Ok(type_name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::WriteSettings;

    fn judged(text: &str) -> Result<super::Write, String> {
        let settings: WriteSettings = serde_json::from_str(text).expect(text);
        settings.judge("/r")
    }

    #[test]
    fn a_write_says_its_row_and_its_columns_short_and_long() {
        let write = judged(
            r#"{"table": "shop.it\"ems", "key": {"id": {"type": "bigint", "part": "item"}},
                "columns": {"name": "text", "note": {"type": "text", "member": "remark", "required": false}}}"#,
        )
        .expect("it is right");
        assert_eq!(write.table, r#""shop"."it""ems""#);
        assert_eq!(
            (write.key[0].column.as_str(), write.key[0].part.as_str()),
            ("id", "item")
        );
        let columns: Vec<_> = write
            .columns
            .iter()
            .map(|column| {
                (
                    column.column.as_str(),
                    column.member.as_str(),
                    column.required,
                )
            })
            .collect();
        assert_eq!(columns, [("name", "name", true), ("note", "remark", false)]);
        assert!(!write.delete);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, word) in [
            (r#"{"table": "t", "key": {}}"#, "`key` is empty"),
            (r#"{"table": "", "key": {"a": "int"}}"#, "no name"),
            (r#"{"table": "a.b.c", "key": {"a": "int"}}"#, "schema.table"),
            (r#"{"table": "t", "key": {"a": "int; drop"}}"#, "int; drop"),
            (
                r#"{"table": "t", "key": {"a": "int"}, "columns": {"a": "int"}}"#,
                "take it out",
            ),
            (
                r#"{"table": "t", "key": {"a": "int"}, "columns": {"b": "int"}, "ignore": ["b"]}"#,
                "twice",
            ),
        ] {
            let fault = judged(text).expect_err(text);
            assert!(fault.contains(word), "{word}: {fault}");
        }
    }
}
