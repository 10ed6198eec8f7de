//! `larder plugin record`: asks a plugin once, and keeps the call in a file that `replay` asks again.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::ask::Ask;
use super::call::tell;
use super::journal::Journal;
use super::{end, with_workshop};
use crate::config::Problem;
use crate::plugin::{Recording, Tape, is_said};

const EXAMPLES: &str = "\
Examples:
  larder plugin record dist/weather.wasm --part key=42 --out tests/42.json
  larder plugin replay tests/42.json

The file holds the sidecar, the question, the answer, and each request by HTTP with its reply. Values of secrets are
replaced by SECRET_NAME; headers such as Authorization and Cookie are replaced whole. What else a plugin reads (clocks,
directories, sockets) is not recorded.

Exit status: 0 if the plugin answered, with a failure too; 1 if it could not; 2 if the command line is wrong.";

/// `larder plugin record`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Record {
    #[command(flatten)]
    ask: Ask,
    /// Where to keep the call; an older one is replaced.
    #[arg(long, value_name = "CALL.json")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Record) -> ExitCode {
    let journal = Journal::start();
    let (ask, out) = (&arguments.ask, &arguments.out);
    end(with_workshop(async |workshop| {
        let asked = ask.asked()?;
        let tape = Tape::recorder();
        let workshop = workshop.recording(&tape);
        let called = workshop.call(&ask.subject(), asked.clone()).await?;
        tell(&called, &journal);
        if !is_said(&called.answer) {
            return Err(Problem::error(
                "nothing was recorded: the plugin gave no answer of its own",
            )
            .remedy("mend what failed, and record again")
            .into());
        }
        let exchanges = tape.exchanges().ok_or_else(|| {
            Problem::error(
                "nothing was recorded: the plugin sent or received more than a recording holds",
            )
            .remedy("ask for something smaller: at most 1000 requests and 64 MiB of replies")
        })?;
        for what in &called.unrecorded {
            crate::cli::complain([Problem::warning(format!("{what} are not recorded"))
                .remedy("the replay will see them as they are then; keep the plugin's answer independent of them")]);
        }
        let count = exchanges.len();
        let recording = Recording::of(ask.file.clone(), &asked, &called, exchanges)?;
        let directory = out.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = directory.and_then(|()| std::fs::write(out, recording.text()));
        written.map_err(|error| {
            Problem::error(format!("the recording cannot be written: {error}"))
                .at(out, None)
                .remedy("name a file that you may write with --out")
        })?;
        crate::cli::print(&format!(
            "\nrecorded in {}, with {count} request{} by HTTP\n",
            out.display(),
            if count == 1 { "" } else { "s" }
        ));
        Ok(ExitCode::SUCCESS)
    }))
}
