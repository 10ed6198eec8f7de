//! `larder compile-component`: what this program is when it compiles for itself. Nobody types it; it is hidden from the help.
//! Knows how a [`Task`] is written on a command line, not how it is done.

use std::process::ExitCode;

use clap::Args;

use crate::plugin::{Task, compile_component};

/// Written by [`Task::arguments`].
#[derive(Debug, Args)]
pub(super) struct CompileComponent {
    #[arg(long)]
    compatibility: u64,
    #[arg(long)]
    size: usize,
    #[arg(long)]
    cpu_seconds: u64,
    #[arg(long)]
    memory: u64,
    #[arg(long)]
    bounded: bool,
}

impl CompileComponent {
    fn task(&self) -> Task {
        Task {
            compatibility: self.compatibility,
            size: self.size,
            cpu_seconds: self.cpu_seconds,
            memory: self.memory,
            bounded: self.bounded,
        }
    }
}

/// Compiles.
pub(super) fn run(arguments: &CompileComponent) -> ExitCode {
    compile_component(arguments.task())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Command, Larder};
    use super::*;

    #[test]
    fn a_task_comes_through_the_command_line() {
        for bounded in [false, true] {
            let task = Task {
                compatibility: u64::MAX,
                size: 3,
                cpu_seconds: 2,
                memory: 1,
                bounded,
            };
            let line = std::iter::once("larder".into()).chain(task.arguments());
            let Command::CompileComponent(parsed) = Larder::try_parse_from(line).unwrap().command
            else {
                panic!("it is another command");
            };
            assert_eq!(parsed.task(), task);
        }
    }
}
