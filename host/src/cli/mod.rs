//! The command line: parse, wire, run. Knows what each command needs, not how anything works.

mod args;
mod binding;
mod certificates;
mod check;
mod compile_component;
mod lints;
mod logging;
mod manual;
mod openapi;
mod operate;
mod plugin;
mod progress;
mod purging;
mod redis_acl;
mod reload;
mod samples;
mod serve;
mod supervisor;
mod tokens;
mod traces;
mod warming;
mod wit;
mod writing;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

pub use args::Settings;
use args::{Command, Larder};

use crate::config::Problem;

/// Runs the command that the process was started with. Exits with 1 on problems, with 2 on a command line that does not
/// parse.
pub fn main() -> ExitCode {
    match Larder::parse().command {
        Command::Serve(settings) => serve::run(&settings),
        Command::Check(arguments) => check::run(&arguments),
        Command::Plugin(command) => plugin::run(&command),
        Command::CompileComponent(arguments) => compile_component::run(&arguments),
        Command::Openapi(settings) => openapi::run(&settings),
        Command::RedisAcl(settings) => redis_acl::run(&settings),
        Command::Wit => {
            print(&wit::text());
            ExitCode::SUCCESS
        }
        Command::Entry(arguments) => operate::entry::run(&arguments),
        Command::Purge(arguments) => operate::purge::run(&arguments),
        Command::Plugins(arguments) => operate::plugins::run(&arguments),
        Command::Reload(arguments) => operate::reload::run(&arguments),
        Command::Top(arguments) => operate::top::run(&arguments),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { dir } => manual::pages(&dir),
    }
}

/// Writes to stdout. A reader that went away (`larder wit | head`) is no fault.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes problems to stderr, one after the other.
fn complain(problems: impl IntoIterator<Item = Problem>) {
    let mut stderr = std::io::stderr().lock();
    for problem in problems {
        let _ = writeln!(stderr, "{problem}");
    }
}
