//! Paths and queries as text: percent-decoded, never guessed. Knows nothing of routes.

use percent_encoding::percent_decode_str;

use crate::key::Param;

/// What was not UTF-8 after decoding: a 400 (DESIGN section 4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} is not UTF-8 after percent-decoding")]
pub struct NotUtf8 {
    /// `the path parameter "key"`, `the query`, `the header "x-tenant"`.
    pub place: String,
}

/// The names in a pattern: `/a/{b}/{*c}` → `b`, `c`.
pub fn pattern_names(pattern: &str) -> Vec<String> {
    let mut names = Vec::new();
    // `{{` and `}}` are literal braces.
    let literal = pattern.replace("{{", "").replace("}}", "");
    for piece in literal.split('{').skip(1) {
        if let Some((name, _)) = piece.split_once('}') {
            names.push(name.trim_start_matches('*').to_owned());
        }
    }
    names
}

/// Decodes one value of the path.
///
/// # Errors
/// [`NotUtf8`].
pub fn decode_path_value(name: &str, raw: &str) -> Result<String, NotUtf8> {
    let decoded = percent_decode_str(raw).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| NotUtf8 {
            place: format!("the path parameter \"{name}\""),
        })
}

/// Decodes a query (`application/x-www-form-urlencoded`, URL Standard section 5.1, but strict about UTF-8): names and
/// values in request order, repeated names repeated, `a=` and `a` with an empty value, empty pieces left out.
///
/// # Errors
/// [`NotUtf8`].
pub fn decode_query(raw: &str) -> Result<Vec<Param>, NotUtf8> {
    let mut params = Vec::new();
    for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        params.push(Param {
            name: decode_form(name)?,
            value: decode_form(value)?,
        });
    }
    Ok(params)
}

fn decode_form(raw: &str) -> Result<String, NotUtf8> {
    let spaced = raw.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| NotUtf8 {
            place: "the query".into(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_their_parameters_in_order() {
        assert_eq!(pattern_names("/data/{key}"), ["key"]);
        assert_eq!(pattern_names("/{a}/x/{b}.json/{*rest}"), ["a", "b", "rest"]);
        assert_eq!(pattern_names("/plain/{{literal}}"), Vec::<String>::new());
    }

    #[test]
    fn queries_keep_repetition_order_and_emptiness() {
        let check = |raw: &str, expect: &[(&str, &str)]| {
            let params = decode_query(raw).unwrap();
            let got: Vec<_> = params
                .iter()
                .map(|p| (p.name.as_str(), p.value.as_str()))
                .collect();
            assert_eq!(got, expect, "{raw}");
        };
        check("a=1&b=2&a=3", &[("a", "1"), ("b", "2"), ("a", "3")]);
        check("a=&b", &[("a", ""), ("b", "")]);
        check("&&a=b=c&", &[("a", "b=c")]);
        check("q=d+e%2B%C3%A9", &[("q", "d e+é")]);
        check("", &[]);
    }

    #[test]
    fn what_is_not_utf8_is_refused_and_named() {
        assert_eq!(
            decode_query("a=%ff").unwrap_err().to_string(),
            "the query is not UTF-8 after percent-decoding"
        );
        let error = decode_path_value("key", "%ff").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the path parameter \"key\" is not UTF-8 after percent-decoding"
        );
    }
}
