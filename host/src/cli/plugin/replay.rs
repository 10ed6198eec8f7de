//! `larder plugin replay`: asks a recorded question again without a network, and compares the answers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use similar::TextDiff;

use super::call::tell;
use super::journal::Journal;
use super::{end, show, with_workshop};
use crate::config::Problem;
use crate::plugin::{Called, Recording, SidecarOf, Subject, Tape, answer};

const EXAMPLES: &str = "\
Examples:
  larder plugin replay tests/42.json
  larder plugin replay tests/42.json dist/weather.wasm

The requests that the plugin makes by HTTP are answered from the recording, each as often as it was recorded; method,
address and body have to be the same. Secrets are SECRET_NAME. Sockets stay closed; directories that the recorded
sidecar grants are looked for beside the component.

Exit status: 0 if the answer is the recorded one; 1 if it is not, or if the plugin asked for what was not recorded; 2 if the
command line is wrong.";

/// `larder plugin replay`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Replay {
    /// What `larder plugin record` wrote.
    #[arg(value_name = "CALL.json")]
    call: PathBuf,
    /// The component [default: the one that was recorded].
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) fn run(arguments: &Replay) -> ExitCode {
    let journal = Journal::start();
    let path = &arguments.call;
    end(with_workshop(async |workshop| {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problem::error(format!("the recording cannot be read: {error}"))
                .at(path, None)
                .remedy("make one with `larder plugin record FILE --part key=42 --out CALL.json`")
        })?;
        let recording = Recording::parse(&text).map_err(|problem| problem.at(path, None))?;
        let subject = Subject {
            component: arguments
                .file
                .clone()
                .unwrap_or_else(|| recording.file.clone()),
            sidecar: SidecarOf::Text(recording.sidecar.clone().unwrap_or_default()),
        };
        let tape = Tape::player(recording.exchanges.clone());
        let workshop = workshop.offline(&tape);
        let called = workshop.call(&subject, recording.asked()).await?;
        if let Some(difference) = compare(&recording.answered, &called, &tape) {
            tell(&called, &journal);
            crate::cli::print(&format!("\n{difference}"));
            return Ok(ExitCode::FAILURE);
        }
        crate::cli::print(&format!(
            "the same: {} answers as recorded in {}\n",
            subject.component.display(),
            path.display()
        ));
        for line in tape.unasked() {
            crate::cli::print(&format!(
                "  not asked for any more: {}\n",
                show::printable(&line)
            ));
        }
        Ok(ExitCode::SUCCESS)
    }))
}

/// What differs, for a reader.
fn compare(recorded: &Value, called: &Called, tape: &Tape) -> Option<String> {
    let now = answer(&called.answer);
    let unknown = tape.unknown();
    if now == *recorded && unknown.is_empty() {
        return None;
    }
    let mut text = String::new();
    for line in unknown {
        text.push_str(&format!(
            "not in the recording, or not as often: {}\n",
            show::printable(&line)
        ));
    }
    if now != *recorded {
        text.push_str("the answer differs from the recorded one:\n");
        text.push_str(&difference(recorded, &now));
    }
    Some(text)
}

fn difference(recorded: &Value, now: &Value) -> String {
    let lines = |value: &Value| {
        let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
        text.push('\n');
        show::printable(&text)
    };
    TextDiff::from_lines(&lines(recorded), &lines(now))
        .unified_diff()
        .context_radius(3)
        .header("recorded", "now")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_shows_the_lines_around_it() {
        let recorded = json!({ "found": { "status": 200, "tags": ["a"] } });
        let now = json!({ "found": { "status": 404, "tags": ["a"] } });
        let text = difference(&recorded, &now);
        assert!(text.contains("-    \"status\": 200"), "{text}");
        assert!(text.contains("+    \"status\": 404"), "{text}");
        assert!(text.contains("     \"tags\": ["), "{text}");
    }
}
