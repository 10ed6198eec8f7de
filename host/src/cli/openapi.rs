//! `larder openapi`: the API document of a configuration and its plugins, without a server. Knows what is needed for it, not
//! what it says.

use std::process::ExitCode;

use super::args::Settings;
use crate::config::Severity;
use crate::http::openapi;
use crate::metrics::Metrics;
use crate::plugin::{CompileLimits, Worker};
use crate::route::Snapshot;

/// Prints the document. Fails where a route or a plugin has an error: then what is printed lacks it.
pub(super) fn run(settings: &Settings) -> ExitCode {
    let (config, warnings) = match settings.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            super::complain(problems);
            return ExitCode::FAILURE;
        }
    };
    super::complain(warnings);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut document = None;
    let worker = Worker::Process(CompileLimits::of(&config.plugins));
    let problems = runtime.block_on(crate::plugin::check(&config, worker, |plugins| {
        let (snapshot, problems) = Snapshot::build(&config, plugins, &Metrics::new(), None);
        document = Some(openapi::document(&snapshot, &config.openapi));
        problems
    }));
    if let Some(document) = document {
        super::print(&format!("{document:#}\n"));
    }
    let is_whole = problems
        .iter()
        .all(|problem| problem.severity != Severity::Error);
    super::complain(problems);
    if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
