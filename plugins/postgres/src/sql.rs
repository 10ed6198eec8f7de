//! The text of SQL: named parameters made numbers, and what is put around a query so that the server answers JSON. Pure;
//! must not know what a connection is.

use std::fmt::Write as _;

/// A value that a query is bound to: `params = { alpha_2 = "text" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// The name of the part that it is taken from.
    pub(crate) name: String,
    /// Its type as PostgreSQL calls it. Of the parameter that questions are gathered by: the type of one of them.
    pub(crate) type_name: String,
}

impl Parameter {
    /// # Errors
    /// One clause about the type, when it is none: it becomes part of the text of a statement.
    pub(crate) fn new(name: &str, type_name: &str) -> Result<Self, String> {
        let base = type_name.strip_suffix("[]").unwrap_or(type_name);
        let fits = base.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && base
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_ .(),".contains(&byte));
        if !fits {
            return Err(format!(
                "`params` gives `{name}` the type `{type_name}`, which is none; write one like \"text\", \"bigint\", \"numeric(10,2)\" or \"date[]\""
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
        })
    }

    /// Whether one question gives a whole array: every part of that name is an element.
    pub(crate) fn is_list(&self) -> bool {
        self.type_name.ends_with("[]")
    }
}

/// Replaces `$name` and `${name}` by `($1::type)` and so on, and gives the parameters in that order. The one that is called
/// `gathered` is an array of its type. In a query of one parameter, `$1` is that one too.
///
/// # Errors
/// One clause, when a name is not declared, or a declared one is not used.
pub(crate) fn number(
    sql: &str,
    declared: &[Parameter],
    gathered: Option<&str>,
) -> Result<(String, Vec<Parameter>), String> {
    let mut numbered = String::with_capacity(sql.len() + 16);
    let mut used: Vec<Parameter> = Vec::new();
    let sql = sql.trim_end().trim_end_matches(';').trim_end();
    let mut rest = sql;
    while let Some((before, name, after)) = next_parameter(rest) {
        let parameter = match name.parse::<usize>() {
            Ok(1) if declared.len() == 1 => &declared[0],
            Ok(number) => {
                return Err(format!(
                    "the SQL has `${number}`, and `params` has names; write `$name` for each"
                ));
            }
            Err(_) => declared
                .iter()
                .find(|parameter| parameter.name == name)
                .ok_or_else(|| {
                    format!("the SQL has `${name}`, and `params` has no such name; add `{name} = \"text\"` (or its type) there")
                })?,
        };
        let known = used.iter().position(|one| one == parameter);
        let at = known.unwrap_or_else(|| {
            used.push(parameter.clone());
            used.len() - 1
        });
        let list = if gathered == Some(&parameter.name) {
            "[]"
        } else {
            ""
        };
        numbered.push_str(before);
        let _ = write!(numbered, "(${}::{}{list})", at + 1, parameter.type_name);
        rest = after;
    }
    numbered.push_str(rest);
    match declared.iter().find(|parameter| !used.contains(parameter)) {
        Some(unused) => Err(format!(
            "`params` has `{0}`, and the SQL does not use it; write `${0}` where it belongs, or remove it",
            unused.name
        )),
        None => Ok((numbered, used)),
    }
}

/// The text before the first parameter, its name (or number), and the text after it. Strings, quoted names, comments and
/// dollar quotes are no place for parameters (PostgreSQL's documentation, 4.1).
fn next_parameter(sql: &str) -> Option<(&str, &str, &str)> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &sql[at..];
        at += match bytes[at] {
            b'\'' => {
                // E'…' knows backslashes; the E is a word of its own.
                let escapes = at > 0
                    && bytes[at - 1].eq_ignore_ascii_case(&b'e')
                    && !(at > 1 && is_word(bytes[at - 2]));
                quoted(rest, b'\'', escapes)
            }
            b'"' => quoted(rest, b'"', false),
            b'-' if rest.starts_with("--") => rest.find('\n').map_or(rest.len(), |end| end + 1),
            b'/' if rest.starts_with("/*") => comment(rest),
            // `a$b` is a name.
            b'$' if at == 0 || !is_word(bytes[at - 1]) => match dollar(rest) {
                Dollar::Text(length) => length,
                Dollar::Parameter(name, length) => {
                    return Some((&sql[..at], name, &rest[length..]));
                }
            },
            _ => rest.chars().next().map_or(1, char::len_utf8),
        };
    }
    None
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// How long a quoted text is, quotes and all. A doubled quote is seen as the end of one text and the start of another.
fn quoted(text: &str, quote: u8, escapes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if escapes && bytes[at] == b'\\' { 2 } else { 1 };
    }
    // An escape may be the last byte, or stand before half of a character.
    let mut end = (at + 1).min(bytes.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    end
}

/// How long a comment is that may hold others.
fn comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

enum Dollar<'t> {
    /// Not a parameter: so many bytes of text.
    Text(usize),
    /// A parameter, and so many bytes.
    Parameter(&'t str, usize),
}

/// What begins with this `$`.
fn dollar(text: &str) -> Dollar<'_> {
    if let Some(inner) = text.strip_prefix("${") {
        return match inner.find('}') {
            Some(end) if end > 0 => Dollar::Parameter(&inner[..end], end + 3),
            _ => Dollar::Text(2),
        };
    }
    let word = text[1..].bytes().take_while(|&byte| is_word(byte)).count();
    let name = &text[1..=word];
    let is_number = name.starts_with(|c: char| c.is_ascii_digit());
    if !is_number && text[1 + word..].starts_with('$') {
        let tag = &text[..word + 2];
        let end = text[tag.len()..].find(tag);
        return Dollar::Text(end.map_or(text.len(), |end| end + 2 * tag.len()));
    }
    if word == 0 {
        Dollar::Text(1)
    } else {
        Dollar::Parameter(name, word + 1)
    }
}

/// A column of an answer, as the server describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column<'c> {
    pub(crate) name: &'c str,
    pub(crate) is_bytes: bool,
}

/// What is run: it answers, for every row of `sql`, the places in the gathered array that the row is for (null where nothing
/// is gathered) and the row as JSON.
///
/// The server makes the JSON: it alone knows every type there is, it compares keys as the column does (collations, `citext`),
/// and it does so faster than a guest could. Of its answers only `bytea` is not what an API would say, so that is encoded.
pub(crate) fn as_json(
    sql: &str,
    columns: &[Column<'_>],
    key: Option<(usize, &Parameter)>,
) -> String {
    let places = key.map_or_else(
        || "null::int4[]".to_owned(),
        |(at, parameter)| {
            format!(
                "array_positions((${}::{type_name}[]), larder_row.{column}::{type_name})",
                at + 1,
                type_name = parameter.type_name,
                column = identifier(&parameter.name),
            )
        },
    );
    // The line break ends a comment that the SQL may end with.
    let rows = if columns.iter().any(|column| column.is_bytes) {
        let columns: Vec<String> = columns
            .iter()
            .map(|column| {
                let name = identifier(column.name);
                if column.is_bytes {
                    format!("translate(encode({name}, 'base64'), chr(10), '') as {name}")
                } else {
                    name
                }
            })
            .collect();
        format!("select {} from ({sql}\n) larder_bytes", columns.join(", "))
    } else {
        sql.to_owned()
    };
    format!("select {places}, row_to_json(larder_row)::text from ({rows}\n) larder_row")
}

/// A name as PostgreSQL takes any.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::{Column, Parameter, as_json, number};

    fn parameters(types: &[(&str, &str)]) -> Vec<Parameter> {
        types
            .iter()
            .map(|(name, type_name)| Parameter::new(name, type_name).expect("a type"))
            .collect()
    }

    #[track_caller]
    fn check(sql: &str, types: &[(&str, &str)], expect: &str, order: &[&str]) {
        let (numbered, used) = number(sql, &parameters(types), None).expect(sql);
        assert_eq!(numbered, expect);
        let used: Vec<&str> = used.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(used, order, "{sql}");
    }

    #[test]
    fn names_become_numbers_in_the_order_of_their_first_use() {
        let types = [("a", "int"), ("b", "text")];
        check(
            "select $b, $a, $b",
            &types,
            "select ($1::text), ($2::int), ($1::text)",
            &["b", "a"],
        );
        check(
            "select $1::int;\n",
            &[("a", "int")],
            "select ($1::int)::int",
            &["a"],
        );
        check(
            "select ${accept-language}",
            &[("accept-language", "text")],
            "select ($1::text)",
            &["accept-language"],
        );
    }

    #[test]
    fn a_parameter_is_never_put_into_a_text() {
        let a = [("a", "int")];
        for text in [
            "'$a'",
            "'it''s $a'",
            r"E'\'$a'",
            r#""$a""#,
            "$$ $a $$",
            "$t$ $a $$ $t$",
            "-- $a\n",
            "/* $a /* $a */ $a */",
            "x$a",
            "ü$a",
            "e'$a'",
            r"'\'",
        ] {
            check(
                &format!("{text} $a"),
                &a,
                &format!("{text} ($1::int)"),
                &["a"],
            );
        }
        // In what is not ended, nothing is a parameter, and nothing is read past its end.
        for text in [
            "'$a", r"E'\", "\"$a", "$$ $a", "/* $a", "-- $a", "$", "E'\\é",
        ] {
            check(
                &format!("$a {text}"),
                &a,
                &format!("($1::int) {text}"),
                &["a"],
            );
        }
    }

    #[test]
    fn the_gathered_parameter_is_an_array() {
        let (sql, _) = number(
            "k = any($k) and l = $l",
            &parameters(&[("k", "int"), ("l", "text")]),
            Some("k"),
        )
        .expect("it is right");
        assert_eq!(sql, "k = any(($1::int[])) and l = ($2::text)");
    }

    #[test]
    fn the_server_makes_the_json() {
        let plain = [Column {
            name: "a",
            is_bytes: false,
        }];
        assert_eq!(
            as_json("select 1 as a -- one", &plain, None),
            "select null::int4[], row_to_json(larder_row)::text from (select 1 as a -- one\n) larder_row"
        );
        let bytes = [
            plain[0],
            Column {
                name: "b\"",
                is_bytes: true,
            },
        ];
        let key = &parameters(&[("a", "int")])[0];
        assert_eq!(
            as_json("table t", &bytes, Some((0, key))),
            "select array_positions(($1::int[]), larder_row.\"a\"::int), row_to_json(larder_row)::text from (select \"a\", \
             translate(encode(\"b\"\"\", 'base64'), chr(10), '') as \"b\"\"\" from (table t\n) larder_bytes\n) larder_row"
        );
    }
}
