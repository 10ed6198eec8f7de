//! `larder plugin call`: asks a plugin once, and says what came of it and what it took.

use std::process::ExitCode;

use clap::Args;

use super::ask::Ask;
use super::journal::Journal;
use super::{end, show, with_workshop};
use crate::plugin::Called;

const EXAMPLES: &str = "\
Examples:
  larder plugin call dist/weather.wasm --part key=42
  larder plugin call dist/weather.wasm --part key=42 --part lang=de --timeout 500ms
  larder plugin call plugins/dist/http.wasm --part alpha_2=DE --settings examples/countries/http.toml
  larder plugin call tenants.wasm --request 'GET /orders/42?lang=de' --header 'x-tenant: acme'

Exit status: 0 with an outcome or a decision, 1 with a failure or a rejection, 2 if the command line is wrong.";

/// `larder plugin call`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Call {
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Call) -> ExitCode {
    let journal = Journal::start();
    end(with_workshop(async |workshop| {
        let asked = arguments.ask.asked()?;
        let called = workshop.call(&arguments.ask.subject(), asked).await?;
        tell(&called, &journal);
        Ok(status(&called))
    }))
}

/// Prints a call, with its warnings.
pub(super) fn tell(called: &Called, journal: &Journal) {
    crate::cli::complain(called.warnings.iter().cloned());
    crate::cli::print(&show::call(called, &journal.text()));
}

fn status(called: &Called) -> ExitCode {
    match &called.answer {
        Ok(answer) if !answer.is_rejection() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
