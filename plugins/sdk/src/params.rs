//! Parts → the fields of a struct. Values are text; a field says what it is to be read as.
//!
//! A repeated part is a list. What does not fit is `invalid-request` and names the part.

use std::fmt;

use serde::de::value::{SeqDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, MapAccess, Visitor};

use crate::contract::types::{Failure, FailureKind, Param};
use crate::error::Error;

/// Reads parts as a `P`.
pub(crate) fn read<P: DeserializeOwned>(parts: &[Param]) -> Result<P, Failure> {
    let mut grouped: Vec<(&str, Vec<&str>)> = Vec::with_capacity(parts.len());
    for part in parts {
        match grouped.iter_mut().find(|(name, _)| *name == part.name) {
            Some((_, values)) => values.push(&part.value),
            None => grouped.push((&part.name, vec![&part.value])),
        }
    }
    P::deserialize(Parts(grouped)).map_err(|misfit| {
        Error::new(FailureKind::InvalidRequest, misfit.0)
            .code("parameter-unfit")
            .0
    })
}

#[derive(Debug)]
struct Misfit(String);

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("the parameter `{field}` is missing"))
    }
}

struct Parts<'p>(Vec<(&'p str, Vec<&'p str>)>);

impl<'de> Deserializer<'de> for Parts<'_> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_map(Fields {
            rest: self.0.into_iter(),
            next: None,
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Fields<'p> {
    rest: std::vec::IntoIter<(&'p str, Vec<&'p str>)>,
    next: Option<(&'p str, Vec<&'p str>)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Misfit;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Misfit> {
        self.next = self.rest.next();
        let Some((name, _)) = &self.next else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Misfit> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Misfit> {
        let (name, values) = self.next.take().unwrap_or_default();
        seed.deserialize(Values(values))
            .map_err(|misfit| Misfit(format!("the parameter `{name}` {}", misfit.0)))
    }
}

/// The values of one name: at least one.
struct Values<'p>(Vec<&'p str>);

impl<'p> Values<'p> {
    fn one(&self) -> Result<&'p str, Misfit> {
        match *self.0 {
            [value] => Ok(value),
            _ => Err(Misfit(format!(
                "is given {} times; give it once",
                self.0.len()
            ))),
        }
    }

    fn number<T: std::str::FromStr>(&self, what: &str) -> Result<T, Misfit> {
        let value = self.one()?;
        value
            .trim()
            .parse()
            .map_err(|_| Misfit(format!("is {value:?}, and must be {what}")))
    }
}

macro_rules! numbers {
    ($($deserialize:ident $visit:ident $what:literal)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            visitor.$visit(self.number($what)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Values<'_> {
    type Error = Misfit;

    numbers! {
        deserialize_i8 visit_i8 "a whole number from -128 to 127"
        deserialize_i16 visit_i16 "a whole number from -32768 to 32767"
        deserialize_i32 visit_i32 "a whole number of 32 bits"
        deserialize_i64 visit_i64 "a whole number of 64 bits"
        deserialize_u8 visit_u8 "a whole number from 0 to 255"
        deserialize_u16 visit_u16 "a whole number from 0 to 65535"
        deserialize_u32 visit_u32 "a whole number of 32 bits, not negative"
        deserialize_u64 visit_u64 "a whole number of 64 bits, not negative"
        deserialize_f32 visit_f32 "a number"
        deserialize_f64 visit_f64 "a number"
        deserialize_char visit_char "one character"
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match *self.0 {
            [value] => visitor.visit_str(value),
            _ => self.deserialize_seq(visitor),
        }
    }

    /// The host takes these words where a schema asks for a boolean, as FastAPI does.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let value = self.one()?;
        match value.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" | "t" | "y" => visitor.visit_bool(true),
            "false" | "0" | "no" | "off" | "f" | "n" => visitor.visit_bool(false),
            _ => Err(Misfit(format!("is {value:?}, and must be true or false"))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_str(self.one()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let values = self.0.into_iter().map(|value| Values(vec![value]));
        visitor.visit_seq(SeqDeserializer::new(values))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let value = self.one()?;
        if !variants.contains(&value) {
            let choices = variants.join(", ");
            return Err(Misfit(format!(
                "is {value:?}, and must be one of: {choices}"
            )));
        }
        let value: StrDeserializer<'_, Misfit> = value.into_deserializer();
        value.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for Values<'_> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Unit {
        Metric,
        Imperial,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Params {
        city: String,
        days: Option<u8>,
        #[serde(default)]
        tag: Vec<u32>,
        #[serde(default)]
        exact: bool,
        unit: Option<Unit>,
    }

    fn params(parts: &[(&str, &str)]) -> Result<Params, String> {
        let parts: Vec<Param> = parts
            .iter()
            .map(|&(name, value)| Param {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect();
        read(&parts).map_err(|failure| failure.message)
    }

    #[test]
    fn parts_are_read_as_what_the_fields_are() {
        let parts = [
            ("city", "Köln"),
            ("days", "3"),
            ("tag", "1"),
            ("tag", "2"),
            ("exact", "yes"),
            ("unit", "metric"),
            ("other", "ignored"),
        ];
        let expect = Params {
            city: "Köln".to_owned(),
            days: Some(3),
            tag: vec![1, 2],
            exact: true,
            unit: Some(Unit::Metric),
        };
        assert_eq!(params(&parts), Ok(expect));
        let least = params(&[("city", "")]).unwrap();
        assert_eq!((least.days, least.tag.len()), (None, 0));
    }

    #[test]
    fn what_does_not_fit_names_the_parameter() {
        let check = |parts: &[(&str, &str)], expect: &str| {
            assert_eq!(params(parts).unwrap_err(), expect);
        };
        check(&[], "the parameter `city` is missing");
        check(
            &[("city", "a"), ("days", "x")],
            "the parameter `days` is \"x\", and must be a whole number from 0 to 255",
        );
        check(
            &[("city", "a"), ("city", "b")],
            "the parameter `city` is given 2 times; give it once",
        );
        check(
            &[("city", "a"), ("unit", "kelvin")],
            "the parameter `unit` is \"kelvin\", and must be one of: metric, imperial",
        );
    }

    #[test]
    fn all_parts_can_be_had_as_a_map() {
        let parts = [Param {
            name: "a".into(),
            value: "1".into(),
        }];
        let map: std::collections::BTreeMap<String, String> = read(&parts).unwrap();
        assert_eq!(map["a"], "1");
        // A plugin that looks at no part says so with `()`.
        read::<()>(&parts).unwrap();
    }
}
