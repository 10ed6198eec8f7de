//! The kinds of value a setting can have: how each is written, read and refused. Owns the wording of a bad value.
//!
//! A kind reads text, whoever wrote it: the file, the environment, a flag or the table of defaults. That is why one
//! sentence serves them all. Pure: knows neither files nor tables.

mod choice;
mod name;
mod net;
mod scalar;

use toml::de::DeValue;

pub use choice::{
    Access, ContentCoding, DurabilityMode, LogForm, PendingMode, QueueMode, UnknownQueryMode,
    WriteMode,
};
pub use name::{Digest, HeaderName, LogFilter, ParameterName, PluginName, Text, VariableName};
pub use net::{
    Address, CollectorUrl, Endpoint, Mode, Network, Origin, RedisMode, RedisPrefix, RedisUrl, Token,
};
pub use scalar::{
    Ahead, Count, Directory, File, HeadSize, HotKeys, Period, Rate, Ratio, Room, Size, Switch,
    Timeout, Window,
};

/// What is wrong with a value, and how to mend it; the reader adds the setting and the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, as a clause that follows the name of the setting.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Fault {
    /// A fault and its remedy.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// How TOML writes a value of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In quotes.
    Text,
    /// As a whole number.
    Integer,
    /// As a number, whole or not.
    Number,
    /// As `true` or `false`.
    Boolean,
    /// As an array or a table: not a default, an environment variable or a flag.
    Compound,
}

/// A kind of value, as documents call it.
pub trait Kind {
    /// How TOML writes it.
    const FORM: Form = Form::Text;
    /// What people call it, in the singular, e.g. `duration`.
    fn name() -> String;
}

/// A kind whose values are one piece of text, so that the environment and flags can hold them too.
pub trait Scalar: Kind {
    /// What the tree holds.
    type Value;
    /// What may turn a bare number into a value of this kind (`s` makes `60` into `"60s"`).
    const UNITS: &'static [&'static str] = &[""];
    /// What to write, as the end of the sentence "write …".
    const EXAMPLE: &'static str;

    /// Reads the text of a value.
    ///
    /// # Errors
    /// The text is not of this kind.
    fn parse(text: &str) -> Result<Self::Value, Fault>;

    /// Reads a TOML value.
    ///
    /// # Errors
    /// The value is of another TOML type, or its text is not of this kind.
    fn read(value: &DeValue<'_>) -> Result<Self::Value, Fault> {
        match (Self::FORM, value) {
            (Form::Text, DeValue::String(text)) => Self::parse(text),
            (Form::Integer, DeValue::Integer(_))
            | (Form::Number, DeValue::Integer(_) | DeValue::Float(_))
            | (Form::Boolean, DeValue::Boolean(_)) => Self::parse(&shown(value)),
            _ => Err(Self::mistyped(value)),
        }
    }

    /// The fault of a value of another TOML type.
    fn mistyped(value: &DeValue<'_>) -> Fault {
        let shown = shown(value);
        let remedy = match value {
            DeValue::String(text) if Self::parse(text).is_ok() => {
                format!("write {text}, without quotes")
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)
                if Self::FORM == Form::Text && units::<Self>(&shown).is_some() =>
            {
                format!("write {}", units::<Self>(&shown).unwrap_or_default())
            }
            _ => format!("write {}", Self::EXAMPLE),
        };
        Fault::new(
            format!(
                "expected {}, found {}",
                with_article(&Self::name()),
                found(value)
            ),
            remedy,
        )
    }
}

/// A bare number with each unit it may have meant: `"60s" or "60ms"`; `None` where no unit makes it a value.
pub(super) fn units<K: Scalar + ?Sized>(number: &str) -> Option<String> {
    let texts: Vec<String> = K::UNITS
        .iter()
        .map(|unit| format!("{number}{unit}"))
        .filter(|text| K::parse(text).is_ok())
        .map(|text| format!("{text:?}"))
        .collect();
    (!texts.is_empty()).then(|| texts.join(" or "))
}

/// The grant of an origin, if the text is one.
pub(crate) fn origin(text: &str) -> Option<String> {
    Origin::parse(text).ok()
}

/// The grant of an endpoint, if the text is one.
pub(crate) fn endpoint(text: &str) -> Option<String> {
    Endpoint::parse(text).ok()
}

/// Several values of a kind, in an array.
#[derive(Debug)]
pub struct List<K>(std::marker::PhantomData<K>);

impl<K: Kind> Kind for List<K> {
    const FORM: Form = Form::Compound;
    fn name() -> String {
        format!("list of {}s", K::name())
    }
}

/// Declares kinds that are a shape of their own, read by code of their own.
macro_rules! compound {
    ($($(#[$doc:meta])* $kind:ident = $name:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $kind;
        impl Kind for $kind {
            const FORM: Form = Form::Compound;
            fn name() -> String {
                $name.to_owned()
            }
        }
    )*};
}

compound! {
    /// A route's `key`.
    KeyChoice = "plugin name, or table of `path`, `query`, `headers`";
    /// A route's `cors`.
    CorsTable = "table of `origins`, `headers`, `credentials`, `max_age`";
    /// A route's `params`.
    ParameterSchemas = "table of name = JSON Schema";
    /// A route's `response`.
    SchemaChoice = "JSON Schema, or name of a file that holds one";
    /// `[config]`
    Free = "any value";
    /// One of `[secrets]`.
    Secret = "table of `env` or `file`";
    /// `[grants] dirs`
    Dirs = "table of guest path = table of `host`, `mode`";
}

/// `a duration`, `an address`.
pub(super) fn with_article(name: &str) -> String {
    let article = if name.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {name}")
}

/// A value as a sentence names it: `the integer 60`, `a table`.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Datetime(at) => format!("the date {at}"),
        _ => format!("the {} {}", value.type_str(), shown(value)),
    }
}

/// A scalar's text, numbers in decimal.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
            .map_or_else(|_| integer.to_string(), |n| n.to_string()),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => String::new(),
    }
}
