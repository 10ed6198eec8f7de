//! What an operator asks of a server that runs: `larder entry`, `purge`, `plugins`, `reload`, `top`. Knows the admin
//! listener as any client does, and nothing of what is behind it.
//!
//! # Layout
//! - this file: what the commands have in common.
//! - [`client`]: one request to the admin listener; `trust`: how each of the two proves itself.
//! - [`entry`], [`purge`], [`plugins`], [`reload`]: the commands; [`top`]: the one that goes on asking.

mod client;
pub(super) mod entry;
pub(super) mod plugins;
pub(super) mod purge;
pub(super) mod reload;
pub(super) mod top;
mod trust;

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::config::Problem;
use client::Client;

/// Whom to ask, and how to say what it answers.
#[derive(Debug, Args)]
pub(super) struct Asking {
    #[command(flatten)]
    place: client::Place,
    /// Print the answer as it came, in JSON.
    #[arg(long)]
    json: bool,
}

impl Asking {
    /// Asks, and says what was answered: as it came, or in words.
    fn ask(
        &self,
        ask: impl AsyncFnOnce(&Client) -> Result<Value, Problem>,
        say: impl FnOnce(&Value) -> String,
    ) -> ExitCode {
        let asked = self.place.client().and_then(|client| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|error| {
                Problem::error(format!("the runtime cannot be started: {error}"))
            })?;
            runtime.block_on(ask(&client))
        });
        match asked {
            Ok(answer) if self.json => super::print(&format!("{answer:#}\n")),
            Ok(answer) => super::print(&say(&answer)),
            Err(problem) => {
                super::complain([problem]);
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }
}

/// `name: value`, as a request has headers.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("write it as 'name: value', e.g. 'accept-language: fr'")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// Headers as the admin listener takes them; none where there are none.
fn headers(given: &[(String, String)]) -> Option<Value> {
    let members = given
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    (!given.is_empty()).then(|| Value::Object(members.collect()))
}

/// A text that came over the network, so that it can only be read: what would move the cursor or colour it is left out.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A member as text; `-` where there is none.
fn member(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// Rows in columns that are as wide as what is in them; the last is not filled up.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let fill = width.saturating_sub(cell.chars().count()) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', fill));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let rows = vec![row(&["name", "state", ""]), row(&["é", "ready", "no: why"])];
        assert_eq!(table(&rows), "name  state\né     ready  no: why\n");
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_speak_to_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a [31mb c");
        assert_eq!(
            header("A : b:c").unwrap(),
            ("a".to_owned(), "b:c".to_owned())
        );
        assert!(header("none").is_err());
    }
}
