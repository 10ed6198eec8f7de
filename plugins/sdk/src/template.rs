//! Texts with `{name}` in them, as the settings of `demo` and `http` hold. Must not know what a name stands for.

use std::borrow::Cow;

/// A text that names things to put in: `Data for key {key}`.
///
/// A name is made of letters, digits, `_`, `-`, `.` and `:`. Braces around anything else are text, so that a template can
/// hold JSON: in `{"id": "{id}"}` only `{id}` is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(String),
}

impl Template {
    /// Splits `text` into what is said and what is named. Every text is a template.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut said = 0; // `text[..said]` is in `pieces`
        let mut from = 0;
        while let Some(open) = text[from..].find('{').map(|at| from + at) {
            from = open + 1;
            let length = text[from..]
                .bytes()
                .take_while(|&byte| is_name_byte(byte))
                .count();
            let close = from + length;
            if length == 0 || !text[close..].starts_with('}') {
                continue; // a brace that is text
            }
            if said < open {
                pieces.push(Piece::Text(text[said..open].to_owned()));
            }
            pieces.push(Piece::Name(text[from..close].to_owned()));
            from = close + 1;
            said = from;
        }
        if said < text.len() {
            pieces.push(Piece::Text(text[said..].to_owned()));
        }
        Self(pieces)
    }

    /// The names in the text, in order; one that is there twice is given twice.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Name(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with `value_of(name)` in the place of every `{name}`.
    ///
    /// # Errors
    /// The first error of `value_of`.
    pub fn fill<'v, E>(
        &self,
        mut value_of: impl FnMut(&str) -> Result<Cow<'v, str>, E>,
    ) -> Result<String, E> {
        self.fill_after(|_, name| value_of(name))
    }

    /// The same for values that depend on their place: `value_of(before, name)` is also given what is filled so far.
    ///
    /// # Errors
    /// The first error of `value_of`.
    pub fn fill_after<'v, E>(
        &self,
        mut value_of: impl FnMut(&str, &str) -> Result<Cow<'v, str>, E>,
    ) -> Result<String, E> {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Name(name) => {
                    let value = value_of(&filled, name)?;
                    filled.push_str(&value);
                }
            }
        }
        Ok(filled)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::Template;
    use std::borrow::Cow;

    fn check(text: &str, names: &[&str], filled: &str) {
        let template = Template::parse(text);
        assert_eq!(template.names().collect::<Vec<_>>(), names, "{text}");
        let result = template.fill(|name| Ok::<_, ()>(Cow::Owned(name.to_uppercase())));
        assert_eq!(result.unwrap(), filled, "{text}");
    }

    #[test]
    fn names_are_found_and_other_braces_are_text() {
        check("", &[], "");
        check("Data for key {key}", &["key"], "Data for key KEY");
        check("{a}{b}/{a}", &["a", "b", "a"], "AB/A");
        check(
            "Bearer {secret:token}",
            &["secret:token"],
            "Bearer SECRET:TOKEN",
        );
        check(r#"{"id": "{id}"}"#, &["id"], r#"{"id": "ID"}"#);
        check("{} {a b} {{x} {", &["x"], "{} {a b} {X {");
        check("é{ü}{é", &[], "é{ü}{é");
    }

    #[test]
    fn a_value_is_not_read_as_a_template() {
        let filled = Template::parse("<{a}>").fill(|_| Ok::<_, ()>(Cow::Borrowed("{b}")));
        assert_eq!(filled.unwrap(), "<{b}>");
    }

    #[test]
    fn a_value_may_depend_on_what_is_before_it() {
        let filled = Template::parse("a{x}b{x}")
            .fill_after(|before, _| Ok::<_, ()>(Cow::Owned(before.to_uppercase())));
        assert_eq!(filled.unwrap(), "aAbAAB");
    }

    #[test]
    fn the_first_name_without_a_value_is_the_error() {
        let filled = Template::parse("{a} {b} {c}").fill(|name| {
            if name == "a" {
                Ok(Cow::Borrowed("1"))
            } else {
                Err(name.to_owned())
            }
        });
        assert_eq!(filled.unwrap_err(), "b");
    }
}
