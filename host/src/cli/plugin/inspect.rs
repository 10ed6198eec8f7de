//! `larder plugin inspect`: what a component is, what it needs, and what this host would refuse it for.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Args;
use serde_json::{Map, Value, json};

use super::show::printable;
use super::{end, is_error, with_workshop};
use crate::config::Problem;
use crate::plugin::{Descriptor, Inspection, Missing, ParameterPlace, SidecarOf, Subject};

const EXAMPLES: &str = "\
Examples:
  larder plugin inspect dist/weather.wasm
  larder plugin inspect plugins/weather.wasm --settings weather.toml
  larder plugin inspect dist/weather.wasm --json | jq .parameters

With a sidecar (--settings, or NAME.toml beside FILE) both are judged together; without one, what has to be in it is listed.
Nothing of the plugin runs but its description: `larder check` also starts and probes what is in the plugin directory.

Exit status: 0 if this host takes it, 1 if it would be refused, 2 if the command line is wrong.";

/// `larder plugin inspect`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Inspect {
    /// The component, NAME.wasm.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The sidecar [default: NAME.toml beside FILE if it is there].
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Print it as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Inspect) -> ExitCode {
    let subject = Subject {
        component: arguments.file.clone(),
        sidecar: match &arguments.settings {
            Some(file) => SidecarOf::File(file.clone()),
            None => SidecarOf::Beside,
        },
    };
    end(with_workshop(async |workshop| {
        let inspection = workshop.inspect(&subject).await?;
        if arguments.json {
            let json = serde_json::to_string_pretty(&json(&inspection)).unwrap_or_default();
            crate::cli::print(&format!("{json}\n"));
        } else {
            crate::cli::print(&text(&inspection));
            crate::cli::complain(inspection.problems.iter().cloned());
        }
        Ok(match inspection.problems.iter().any(is_error) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }))
}

/// The whole report but the problems.
pub(super) fn text(inspection: &Inspection) -> String {
    let mut text = String::new();
    let kinds: Vec<_> = inspection.kinds.iter().map(|kind| kind.name()).collect();
    let _ = writeln!(
        text,
        "plugin   {}\nkinds    {}",
        inspection.name,
        if kinds.is_empty() {
            "none that this host runs".to_owned()
        } else {
            kinds.join(", ")
        }
    );
    if let Some(description) = &inspection.description {
        let _ = writeln!(
            text,
            "calls itself {} {}, cache version {}",
            printable(&description.name),
            printable(&description.version),
            description.cache_version
        );
    }
    if let Some(what) = inspection
        .descriptor
        .as_ref()
        .and_then(|it| it.description.as_ref())
    {
        let _ = writeln!(text, "does     {}", printable(what));
    }
    let _ = writeln!(
        text,
        "size     {} ({} bytes)\ndigest   {}\npin      digest = \"{}\"",
        ByteSize(inspection.size as u64),
        inspection.size,
        inspection.digest,
        inspection.pin
    );
    list(&mut text, "exports", &inspection.outline.exports);
    list(&mut text, "imports", &inspection.outline.imports);
    if let Some(descriptor) = &inspection.descriptor {
        parameters(&mut text, descriptor);
        settings(&mut text, &inspection.name, descriptor);
        needs(&mut text, inspection);
    } else if !inspection.kinds.is_empty() {
        text.push_str(
            "\nIt does not describe itself: parameters, settings and grants are not checked.\n",
        );
    }
    if inspection.problems.iter().any(is_error) {
        text.push_str("\nThis host would refuse it:\n");
    }
    text
}

fn list(text: &mut String, what: &str, names: &[String]) {
    let _ = writeln!(text, "\n{what}");
    if names.is_empty() {
        text.push_str("  none\n");
    }
    for name in names {
        let _ = writeln!(text, "  {}", printable(name));
    }
}

fn parameters(text: &mut String, descriptor: &Descriptor) {
    text.push_str("\nparameters\n");
    let rows = descriptor.parameters.iter().map(|parameter| {
        let place = match parameter.place {
            ParameterPlace::Path => "path",
            ParameterPlace::Query => "query",
            ParameterPlace::Any => "path or query",
        };
        let required = if parameter.required {
            "required"
        } else {
            "optional"
        };
        [
            parameter.name.clone(),
            kind(&parameter.schema),
            format!("{place}, {required}"),
            parameter.description.clone().unwrap_or_default(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    match (rows.is_empty(), descriptor.additional_parameters) {
        (true, true) => text.push_str("  any\n"),
        (true, false) => text.push_str("  none\n"),
        (false, more) => {
            table(text, &rows);
            if more {
                text.push_str("  and any others\n");
            }
        }
    }
}

fn settings(text: &mut String, name: &str, descriptor: &Descriptor) {
    let schema = descriptor.settings.as_ref();
    let properties = schema
        .and_then(|schema| schema.get("properties"))
        .and_then(Value::as_object);
    let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
        return;
    };
    let _ = writeln!(text, "\nsettings ([config] of {name}.toml)");
    let required = |name: &String| {
        let list = schema.and_then(|schema| schema.get("required"));
        let list = list.and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|it| it == name.as_str()))
    };
    let rows: Vec<_> = properties
        .iter()
        .map(|(name, schema)| {
            let default = match schema.get("default") {
                Some(default) => format!("default {default}"),
                None if required(name) => "required".to_owned(),
                None => "optional".to_owned(),
            };
            let what = schema.get("description").and_then(Value::as_str);
            [
                name.clone(),
                kind(schema),
                default,
                what.unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    table(text, &rows);
}

/// A JSON Schema in a few words: its type and what bounds it.
fn kind(schema: &Value) -> String {
    let mut words = match schema.get("type") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
            names.join(" or ")
        }
        _ => match (schema.get("enum"), schema.get("const")) {
            (Some(_), _) | (_, Some(_)) => String::new(),
            _ => "anything".to_owned(),
        },
    };
    if let Some(Value::Array(values)) = schema.get("enum") {
        let values: Vec<_> = values.iter().map(Value::to_string).collect();
        words = format!("{words} {}", values.join(" | ")).trim().to_owned();
    }
    for keyword in [
        "const",
        "format",
        "pattern",
        "minimum",
        "exclusiveMinimum",
        "maximum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    ] {
        if let Some(value) = schema.get(keyword) {
            let _ = write!(words, " {keyword} {value}");
        }
    }
    words.trim().to_owned()
}

/// Columns as wide as their widest cell, the last one excepted.
fn table(text: &mut String, rows: &[[String; 4]]) {
    let rows: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            row.clone()
                .map(|cell| printable(&cell.replace(['\n', '\t'], " ")))
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2].map(|column| width(column).unwrap_or(0));
    for [name, kind, how, what] in &rows {
        let [a, b, c] = widths;
        let line = format!("  {name:<a$}  {kind:<b$}  {how:<c$}  {what}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// The sidecar that it needs, to be copied and filled in.
pub(super) fn needs(text: &mut String, inspection: &Inspection) {
    let Some(descriptor) = &inspection.descriptor else {
        return;
    };
    let missing = missing_settings(descriptor);
    if inspection.needs.is_empty() && missing.is_empty() {
        return;
    }
    let _ = match &inspection.sidecar {
        Some(path) => writeln!(text, "\nneeds (judged with {})", path.display()),
        None => writeln!(
            text,
            "\nneeds {}.toml beside it, with your own values",
            inspection.name
        ),
    };
    if !missing.is_empty() {
        text.push_str("  [config]\n");
        for (name, example) in missing {
            let _ = writeln!(text, "  {} = {example}", printable(&name));
        }
    }
    for table in ["secrets", "grants"] {
        let mut needs = inspection
            .needs
            .iter()
            .filter(|need| need.table == table)
            .peekable();
        if needs.peek().is_some() {
            let _ = writeln!(text, "  [{table}]");
        }
        for need in needs {
            let _ = writeln!(text, "  # it {}", printable(&need.what.replace('\n', " ")));
            for line in &need.lines {
                let _ = writeln!(text, "  {}", printable(line));
            }
        }
    }
}

/// The settings without which it is refused, each with something to write.
fn missing_settings(descriptor: &Descriptor) -> Vec<(String, &'static str)> {
    let Some(schema) = &descriptor.settings else {
        return Vec::new();
    };
    let required = schema.get("required").and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    names
        .map(|name| {
            let kind = schema["properties"][name]["type"].as_str();
            let example = match kind {
                Some("integer" | "number") => "0",
                Some("boolean") => "false",
                Some("array") => "[]",
                Some("object") => "{}",
                _ => "\"…\"",
            };
            (name.to_owned(), example)
        })
        .collect()
}

fn json(inspection: &Inspection) -> Value {
    let descriptor = inspection.descriptor.as_ref();
    let need =
        |need: &Missing| json!({ "table": need.table, "lines": need.lines, "what": need.what });
    let needs: Vec<_> = inspection.needs.iter().map(need).collect();
    let problem = |problem: &Problem| {
        json!({
            "severity": if is_error(problem) { "error" } else { "warning" },
            "file": problem.file,
            "line": problem.line,
            "message": problem.message,
            "remedy": problem.remedy,
        })
    };
    json!({
        "name": inspection.name,
        "kinds": inspection.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "description": inspection.description.as_ref().map(|description| json!({
            "name": description.name,
            "version": description.version,
            "cache_version": description.cache_version,
        })),
        "size": inspection.size,
        "digest": inspection.digest,
        "pin": inspection.pin,
        "exports": inspection.outline.exports,
        "imports": inspection.outline.imports,
        "descriptor": descriptor.map_or_else(|| Value::Object(Map::new()), |it| it.raw.clone()),
        "needs": needs,
        "sidecar": inspection.sidecar,
        "refused": inspection.problems.iter().any(is_error),
        "problems": inspection.problems.iter().map(problem).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Grants;

    #[test]
    fn a_schema_is_told_in_a_few_words() {
        for (schema, words) in [
            (json!({ "type": "string" }), "string"),
            (
                json!({ "type": "integer", "minimum": 1 }),
                "integer minimum 1",
            ),
            (json!({ "type": ["string", "null"] }), "string or null"),
            (json!({ "enum": ["a", 1] }), "\"a\" | 1"),
            (json!({}), "anything"),
        ] {
            assert_eq!(kind(&schema), words);
        }
    }

    #[test]
    fn a_table_has_straight_columns() {
        let row = |cells: [&str; 4]| cells.map(str::to_owned);
        let mut text = String::new();
        table(
            &mut text,
            &[
                row(["a", "string", "x", "one\ntwo"]),
                row(["long", "any", "", ""]),
            ],
        );
        assert_eq!(text, "  a     string  x  one two\n  long  any\n");
    }

    #[test]
    fn what_has_to_be_written_is_shown_as_it_has_to_be_written() {
        let descriptor = Descriptor::parse(
            r#"{"settings": {"type": "object", "required": ["url", "n"],
                "properties": {"url": {"type": "string"}, "n": {"type": "integer"}}},
                "grants": {"http": ["https://a.example: all of it"], "secrets": true}}"#,
        )
        .unwrap();
        let asked = descriptor.missing_grants("x", &Grants::default(), std::iter::empty());
        let inspection = Inspection {
            name: "x".to_owned(),
            size: 1,
            digest: String::new(),
            pin: String::new(),
            needs: asked,
            outline: Default::default(),
            kinds: Vec::new(),
            description: None,
            descriptor: Some(descriptor),
            sidecar: None,
            problems: Vec::new(),
        };
        let mut text = String::new();
        needs(&mut text, &inspection);
        assert_eq!(
            text,
            "\nneeds x.toml beside it, with your own values\n  [config]\n  url = \"…\"\n  n = 0\n  [secrets]\n  \
             # it needs a secret, and the sidecar names none\n  token = { env = \"TOKEN\" }\n  [grants]\n  \
             # it needs the grant `http` (https://a.example: all of it), and the sidecar gives none\n  \
             http = [\"https://a.example\"]\n"
        );
    }
}
