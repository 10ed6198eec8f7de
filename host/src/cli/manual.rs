//! Completions of shells and man pages, made of the one definition of commands and flags that the parser reads, so that none
//! of the three can know one that the others do not.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};

use super::args::Larder;
use crate::config::Problem;

/// Prints what a shell is to source.
pub(super) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Larder::command(), "larder", &mut text);
    super::print(&String::from_utf8_lossy(&text));
    ExitCode::SUCCESS
}

/// Writes `larder.1`, `larder-serve.1`, … into the directory.
pub(super) fn pages(dir: &Path) -> ExitCode {
    let mut command = Larder::command().disable_help_subcommand(true);
    // What a command inherits is told in its own page.
    command.build();
    let written = std::fs::create_dir_all(dir).and_then(|()| page(&command, "larder", dir));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let problem = Problem::error(format!("the man pages cannot be written: {error}"));
            super::complain([problem
                .at(dir, None)
                .remedy("name a directory that can be written")]);
            ExitCode::FAILURE
        }
    }
}

fn page(command: &Command, name: &str, dir: &Path) -> std::io::Result<()> {
    let shown = command
        .clone()
        .name(name.to_owned())
        .display_name(name.to_owned());
    let mut text = Vec::new();
    clap_mangen::Man::new(shown).render(&mut text)?;
    std::fs::write(dir.join(format!("{name}.1")), text)?;
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        page(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(())
}
