//! `larder plugin new`: a project that builds, with a test and a README, written from this program alone.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::project::{self, Kind, Language};
use super::{Ended, end};
use crate::config::Problem;

const EXAMPLES: &str = "\
Examples:
  larder plugin new weather --lang python
  larder plugin new weather --lang rust --kind key-policy
  larder plugin new weather --lang js

Then:
  cd weather
  larder plugin build
  larder plugin call dist/weather.wasm --part key=42

Exit status: 0 if the project was made, 1 if it could not be, 2 if the command line is wrong.";

/// `larder plugin new`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct New {
    /// The name of the plugin, and of the directory that is made.
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is written in.
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    lang: Language,
    /// What it is [default: loader; with --lang js blocking-loader].
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Option<Kind>,
}

pub(super) fn run(arguments: &New) -> ExitCode {
    end(make(arguments).map(|()| ExitCode::SUCCESS))
}

fn make(arguments: &New) -> Result<(), Ended> {
    let (name, language) = (&*arguments.name, arguments.lang);
    let kind = arguments.kind.unwrap_or(language.default_kind());
    if let Some((why, remedy)) = project::refusal(language, kind) {
        return Err(Ended::Usage(Problem::error(why).remedy(remedy)));
    }
    named(name, language).map_err(Ended::Usage)?;
    let directory = Path::new(name);
    vacant(directory)?;
    for (path, text) in project::files(name, language, kind) {
        let file = directory.join(path);
        let written = file
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&file, text));
        written.map_err(|error| {
            Problem::error(format!("it cannot be written: {error}"))
                .at(&file, None)
                .remedy("make room for it, or go to a directory that you may write to")
        })?;
    }
    let ask = match kind {
        Kind::KeyPolicy => "--request 'GET /data/42' --header 'x-tenant: acme'",
        Kind::Loader | Kind::BlockingLoader | Kind::Writer => "--part key=42",
    };
    crate::cli::print(&format!(
        "made {name}: a {} in {}; next\n\n  cd {name}\n  larder plugin build\n  larder plugin call dist/{name}.wasm {ask}\n\n\
         README.md there says how to test and to serve it.\n",
        kind.name(),
        language.name()
    ));
    Ok(())
}

/// The name becomes that of a package, too, so it is held to what a plugin's name and a package's have in common.
fn named(name: &str, language: Language) -> Result<(), Problem> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let fits = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(plain);
    if !fits {
        return Err(
            Problem::error(format!("{name:?} cannot be the name of a plugin"))
                .remedy("use letters, digits, '-' and '_', 64 at most, and begin with a letter"),
        );
    }
    if project::is_taken(language, name) {
        return Err(Problem::error(format!(
            "{name:?} is the name of a package that the SDK uses"
        ))
        .remedy("choose another"));
    }
    Ok(())
}

/// Nothing is there, or an empty directory.
fn vacant(directory: &Path) -> Result<(), Problem> {
    let occupied = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if occupied {
        return Err(
            Problem::error("it is there already, and not an empty directory")
                .at(directory, None)
                .remedy("choose another name, or remove it first"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_a_plugin_and_of_a_package() {
        for (name, fits) in [
            ("weather", true),
            ("my-plugin_2", true),
            ("", false),
            ("2fast", false),
            ("-x", false),
            ("a.b", false),
            ("../up", false),
            ("wetter-für-alle", false),
            ("serde", false),
        ] {
            assert_eq!(named(name, Language::Rust).is_ok(), fits, "{name:?}");
        }
        assert!(named(&"x".repeat(65), Language::Js).is_err());
    }
}
