//! TOML as JSON, for what is handed on as JSON: settings of plugins, schemas. Knows not what it is for.

use serde_json::Value;
use toml::Spanned;
use toml::de::DeValue;

use super::kind::Fault;
use super::reader::Table;

/// The value of `key` in `table`. Dates become strings, for JSON has none; numbers that JSON cannot hold are reported.
pub(super) fn json(table: &Table<'_>, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
    let unfit = |text: &dyn std::fmt::Display| {
        let fault = Fault::new(
            format!("the plugin is given its settings as JSON, which cannot hold {text}"),
            "write a number within 64 bits, or a text",
        );
        table.fault_at(key, table.line_at(value), fault);
    };
    Some(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(switch) => Value::Bool(*switch),
        DeValue::Datetime(at) => Value::String(at.to_string()),
        DeValue::Integer(integer) => {
            let (digits, radix) = (integer.as_str(), integer.radix());
            match i64::from_str_radix(digits, radix).map(Value::from) {
                Ok(number) => number,
                Err(_) => match u64::from_str_radix(digits, radix) {
                    Ok(number) => Value::from(number),
                    Err(_) => {
                        unfit(integer);
                        return None;
                    }
                },
            }
        }
        DeValue::Float(float) => {
            let number = float
                .as_str()
                .parse()
                .ok()
                .and_then(serde_json::Number::from_f64);
            match number {
                Some(number) => Value::Number(number),
                None => {
                    unfit(float);
                    return None;
                }
            }
        }
        DeValue::Array(items) => items
            .iter()
            .filter_map(|item| json(table, key, item))
            .collect(),
        DeValue::Table(entries) => Value::Object(
            entries
                .iter()
                .filter_map(|(name, item)| {
                    Some((name.get_ref().to_string(), json(table, key, item)?))
                })
                .collect(),
        ),
    })
}
