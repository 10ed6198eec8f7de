//! `larder plugin …`: what a plugin author does. One file for each command; what they have in common is here. Knows how
//! things are said, not how a plugin runs.

mod ask;
mod build;
mod call;
mod embedded;
mod inspect;
mod journal;
mod new;
mod project;
mod record;
mod replay;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::{Problem, Severity};
use crate::plugin::{CompileLimits, Worker, Workshop};

/// Exit with 2, as on a command line that does not parse.
const USAGE: u8 = 2;

/// The commands below `larder plugin`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Plugin {
    /// Make a project that builds, with a test and a README.
    New(new::New),
    /// Build a project into dist/NAME.wasm, installing its language's tool into it.
    Build(build::Build),
    /// Say what a component is, what it needs, and what this host would refuse it for.
    Inspect(inspect::Inspect),
    /// Ask a plugin once, with the limits, grants and secrets it would be served with.
    Call(call::Call),
    /// Ask a plugin once, and keep the call and what it sent by HTTP in a file.
    Record(record::Record),
    /// Ask a recorded question again without a network, and compare the answers.
    Replay(replay::Replay),
}

/// Runs one of them.
pub(in crate::cli) fn run(command: &Plugin) -> ExitCode {
    match command {
        Plugin::New(arguments) => new::run(arguments),
        Plugin::Build(arguments) => build::run(arguments),
        Plugin::Inspect(arguments) => inspect::run(arguments),
        Plugin::Call(arguments) => call::run(arguments),
        Plugin::Record(arguments) => record::run(arguments),
        Plugin::Replay(arguments) => replay::run(arguments),
    }
}

/// How a command ended, when it did not end well.
enum Ended {
    /// There is something wrong with what it was about: 1.
    Badly(Vec<Problem>),
    /// It was asked in a way that it cannot be asked: 2.
    Usage(Problem),
}

impl From<Vec<Problem>> for Ended {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Badly(problems)
    }
}

impl From<Problem> for Ended {
    fn from(problem: Problem) -> Self {
        Self::Badly(vec![problem])
    }
}

/// Says what is wrong, and ends with the status that says so too.
fn end(result: Result<ExitCode, Ended>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(Ended::Badly(problems)) => {
            super::complain(problems);
            ExitCode::FAILURE
        }
        Err(Ended::Usage(problem)) => {
            super::complain([problem]);
            ExitCode::from(USAGE)
        }
    }
}

/// Runs a command that runs a plugin.
fn with_workshop<F>(work: impl FnOnce(Workshop) -> F) -> Result<ExitCode, Ended>
where
    F: Future<Output = Result<ExitCode, Ended>>,
{
    let set_up = |error: String| Problem::error(format!("plugins cannot be run: {error}"));
    let storage = storage();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| set_up(error.to_string()))?;
    let workshop = {
        let _inside = runtime.enter();
        let worker = Worker::Process(CompileLimits::default());
        Workshop::open(&storage, worker).map_err(|error| {
            set_up(format!("{error:#}"))
                .at(&storage, None)
                .remedy("name a directory that can be written in LARDER_STORAGE_DIR")
        })?
    };
    runtime.block_on(work(workshop))
}

/// Where compiled code is kept between two commands, so that only the first one waits for the compiler: no directory of the
/// project's, for a plugin may be looked at wherever it lies.
fn storage() -> PathBuf {
    let named = |variable| std::env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(storage) = named("LARDER_STORAGE_DIR") {
        return storage.into();
    }
    let cache = named("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| named("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("larder")
}

fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}
