//! `larder serve`: reads the configuration and refuses to start on an error.

use std::process::ExitCode;

use super::args::Settings;

/// Serves until it is told to stop.
pub(super) fn run(settings: &Settings) -> ExitCode {
    match settings.load() {
        Ok((_config, warnings)) => {
            super::complain(warnings);
            ExitCode::SUCCESS
        }
        Err(problems) => {
            super::complain(problems);
            ExitCode::FAILURE
        }
    }
}
