//! Names: of plugins, components, parameters, headers and variables.

use tracing_subscriber::EnvFilter;

use super::{Fault, Kind, Scalar};

/// Text of any kind, but not none.
#[derive(Debug)]
pub struct Text;

impl Kind for Text {
    fn name() -> String {
        "string".to_owned()
    }
}

impl Scalar for Text {
    type Value = String;
    const EXAMPLE: &'static str = "a text in quotes";

    fn parse(text: &str) -> Result<String, Fault> {
        if text.is_empty() {
            return Err(Fault::new("it is empty", "write a text, or leave it out"));
        }
        Ok(text.to_owned())
    }
}

/// What is logged: a level, or directives of levels by place.
#[derive(Debug)]
pub struct LogFilter;

impl Kind for LogFilter {
    fn name() -> String {
        "level".to_owned()
    }
}

impl Scalar for LogFilter {
    type Value = String;
    const EXAMPLE: &'static str = r#""info", or "info,larder::plugin=debug""#;

    fn parse(text: &str) -> Result<String, Fault> {
        let directives = text.split(',').map(str::trim);
        // A word that is no level is a place at every level to the library, and nothing is then logged of the others.
        let is_level = |word: &str| word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        let is_known = directives
            .clone()
            .all(|it| it.contains('=') || is_level(it));
        if is_known && EnvFilter::try_new(text).is_ok() {
            return Ok(text.to_owned());
        }
        Err(Fault::new(
            format!("{text:?} says of no place what is logged"),
            format!(
                "write error, warn, info, debug or trace; {}, say",
                Self::EXAMPLE
            ),
        ))
    }
}

/// `sha256:` and 64 hexadecimal digits: exactly one component.
#[derive(Debug)]
pub struct Digest;

impl Kind for Digest {
    fn name() -> String {
        "digest".to_owned()
    }
}

impl Scalar for Digest {
    type Value = String;
    const EXAMPLE: &'static str =
        "\"sha256:\" and the 64 digits that `sha256sum NAME.wasm` prints, in one text";

    fn parse(text: &str) -> Result<String, Fault> {
        let is_hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let lower = text.to_ascii_lowercase();
        if is_hex(&lower) {
            return Err(Fault::new(
                "it does not say which kind of digest it is",
                format!("write \"sha256:{lower}\", if it is what `sha256sum NAME.wasm` prints"),
            ));
        }
        match lower.strip_prefix("sha256:") {
            Some(digits) if is_hex(digits) => Ok(lower),
            Some(_) => Err(Fault::new(
                "it is not 64 hexadecimal digits behind sha256:",
                format!("write {}", Self::EXAMPLE),
            )),
            None => Err(Fault::new(
                format!("{text:?} is not a digest of SHA-256"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// The file stem of a plugin.
#[derive(Debug)]
pub struct PluginName;

impl Kind for PluginName {
    fn name() -> String {
        "plugin name".to_owned()
    }
}

impl Scalar for PluginName {
    type Value = String;
    const EXAMPLE: &'static str =
        "the name of a file in the plugin directory without its .wasm, such as \"demo\"";

    fn parse(text: &str) -> Result<String, Fault> {
        let stem = text.rsplit(['/', '\\']).next().unwrap_or(text);
        let stem = stem.strip_suffix(".wasm").unwrap_or(stem);
        if stem == text && !text.is_empty() && !text.contains('\0') && text != "." && text != ".." {
            return Ok(text.to_owned());
        }
        let remedy = if stem.is_empty() {
            format!("write {}", Self::EXAMPLE)
        } else {
            format!(
                "write \"{stem}\": a plugin is named by its file in the plugin directory, without .wasm"
            )
        };
        Err(Fault::new(
            format!("{text:?} is not the name of a plugin"),
            remedy,
        ))
    }
}

/// A path or query parameter.
#[derive(Debug)]
pub struct ParameterName;

impl Kind for ParameterName {
    fn name() -> String {
        "parameter name".to_owned()
    }
}

impl Scalar for ParameterName {
    type Value = String;
    const EXAMPLE: &'static str = "the bare name of a parameter in quotes, such as \"lang\"";

    fn parse(text: &str) -> Result<String, Fault> {
        let bare = text
            .trim_start_matches(['{', '*', '?'])
            .trim_end_matches('}');
        if bare.is_empty() {
            return Err(Fault::new(
                format!("{text:?} is not the name of a parameter"),
                format!("write {}", Self::EXAMPLE),
            ));
        }
        // A query parameter may have braces in its name, but whoever writes `{key}` here means `key`.
        if text.starts_with('{') && text.ends_with('}') {
            return Err(Fault::new(
                format!("{text:?} is written as in a path"),
                format!("write \"{bare}\", without braces"),
            ));
        }
        Ok(text.to_owned())
    }
}

/// A header, in lower case.
#[derive(Debug)]
pub struct HeaderName;

impl Kind for HeaderName {
    fn name() -> String {
        "header name".to_owned()
    }
}

impl Scalar for HeaderName {
    type Value = String;
    const EXAMPLE: &'static str = "the name of a header in quotes, such as \"accept-language\"";

    fn parse(text: &str) -> Result<String, Fault> {
        match http::HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Ok(name.as_str().to_owned()),
            Err(_) => Err(Fault::new(
                format!("{text:?} cannot be the name of a header"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// An environment variable.
#[derive(Debug)]
pub struct VariableName;

impl Kind for VariableName {
    fn name() -> String {
        "variable name".to_owned()
    }
}

impl Scalar for VariableName {
    type Value = String;
    const EXAMPLE: &'static str = "the bare name of an environment variable, such as \"TZ\"";

    fn parse(text: &str) -> Result<String, Fault> {
        let bare = text.trim_start_matches(['$', '{']).trim_end_matches('}');
        let bare = bare.split('=').next().unwrap_or_default();
        if bare == text && !text.is_empty() && !text.contains('\0') {
            return Ok(text.to_owned());
        }
        let remedy = if bare.is_empty() {
            format!("write {}", Self::EXAMPLE)
        } else {
            format!("write \"{bare}\": the name alone, whose value the host's environment gives")
        };
        Err(Fault::new(
            format!("{text:?} is not the name of an environment variable"),
            remedy,
        ))
    }
}
