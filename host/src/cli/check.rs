//! `larder check`: every problem of the configuration and the plugins at once, sorted by place, and a closing line.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::args::Check;
use crate::config::{Config, KeySource, Problem, Route, Severity, defaults, nearest};
use crate::metrics::Metrics;
use crate::plugin::{CompileLimits, Limits, Worker};
use crate::route::Snapshot;

/// Prints the report, or the defaults. Succeeds unless a problem is an error, or with `--strict` any.
pub(super) fn run(arguments: &Check) -> ExitCode {
    if arguments.defaults {
        super::print(&defaults::text());
        super::print(&bounds());
        return ExitCode::SUCCESS;
    }
    let (config, mut problems) = arguments.settings.read();
    if let Some(config) = &config {
        problems.extend(absent_plugins(config));
        problems.extend(super::certificates::problems(config));
        problems.extend(
            super::tokens::read(&config.admin)
                .err()
                .into_iter()
                .flatten(),
        );
        problems.extend(plugin_problems(config));
        problems.extend(super::lints::problems(config));
    }
    let is_clean = problems.is_empty();
    let (text, good) = report(config.as_ref(), problems);
    super::print(&text);
    if good && (is_clean || !arguments.strict) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The bounds of a plugin that nobody sets, below the settings.
fn bounds() -> String {
    let mut text = "Bounds of every plugin that no file sets:\n".to_owned();
    for row in Limits::table() {
        let _ = writeln!(
            text,
            "  {:<24} {:<18} {}.",
            row.name, row.default, row.meaning
        );
    }
    text
}

/// Judges what is in the plugin directory, and what the routes make of it.
fn plugin_problems(config: &Config) -> Vec<Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let worker = Worker::Process(CompileLimits::of(&config.plugins));
            runtime.block_on(crate::plugin::check(config, worker, |plugins| {
                Snapshot::build(config, plugins, &Metrics::new(), None).1
            }))
        }
        Err(error) => vec![Problem::error(format!("plugins cannot be judged: {error}"))],
    }
}

/// Plugins that a route asks for an answer or a key.
pub(super) fn named(route: &Route) -> impl Iterator<Item = &String> {
    let policy = match &route.key {
        KeySource::Policy { plugin, .. } => Some(plugin),
        KeySource::Default | KeySource::Listed { .. } => None,
    };
    route.loaders.iter().chain(policy)
}

/// Plugins that a route names and the directory does not hold. The server starts all the same, and answers with 503 until
/// they are there; whoever checks wants to know before.
fn absent_plugins(config: &Config) -> Vec<Problem> {
    let of_all = |route: &_| named(route).cloned().collect();
    absent(config, of_all)
}

/// The same of those that `asked` says of a route.
pub(super) fn absent(config: &Config, asked: impl Fn(&Route) -> Vec<String>) -> Vec<Problem> {
    let dir = &config.plugins.dir;
    let present = components(dir);
    let mut problems = Vec::new();
    for route in &config.routes {
        for name in asked(route) {
            if present.contains(&name) {
                continue;
            }
            let message = format!(
                "route {:?} names the plugin {name:?}, which is not there",
                route.path
            );
            let file = dir.join(format!("{name}.wasm"));
            let remedy = match nearest(&name, present.iter().map(String::as_str)) {
                (near, true) => format!(
                    "did you mean {near:?}? Otherwise put it at {}",
                    file.display()
                ),
                (_, false) => format!("put it at {}", file.display()),
            };
            let problem = Problem::error(message).remedy(remedy);
            problems.push(match &config.file {
                Some(file) => problem.at(file, Some(route.line)),
                None => problem,
            });
        }
    }
    problems
}

/// The report, and whether no problem is an error.
fn report(config: Option<&Config>, mut problems: Vec<Problem>) -> (String, bool) {
    problems.sort();
    problems.dedup();
    let count = |severity| problems.iter().filter(|p| p.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut text = String::new();
    for problem in &problems {
        let _ = writeln!(text, "{problem}");
    }
    let _ = match config {
        Some(config) if problems.is_empty() => writeln!(text, "{}", all_well(config)),
        _ => writeln!(
            text,
            "{}, {}",
            number(errors, "error"),
            number(warnings, "warning")
        ),
    };
    (text, errors == 0)
}

fn all_well(config: &Config) -> String {
    let plugins = number(components(&config.plugins.dir).len(), "plugin");
    match &config.file {
        Some(file) => format!(
            "{}: no problems; {}, {plugins}",
            file.display(),
            number(config.routes.len(), "route")
        ),
        None => format!(
            "no larder.toml, and no problems; {plugins}, each loader served at /NAME/{{key}}"
        ),
    }
}

/// The names of the components of a directory; none if it cannot be read, which the judge of plugins reports.
fn components(dir: &Path) -> BTreeSet<String> {
    let name = |path: &Path| {
        let stem = path.file_stem()?.to_str()?;
        (path.extension()? == "wasm").then(|| stem.to_owned())
    };
    std::fs::read_dir(dir).map_or_else(
        |_| BTreeSet::new(),
        |entries| {
            entries
                .flatten()
                .filter_map(|entry| name(&entry.path()))
                .collect()
        },
    )
}

fn number(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, read};

    fn check(text: &str, plugins: &[&str], expect: &str, good: bool) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("larder.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        for name in plugins {
            std::fs::write(dir.path().join("plugins").join(name), "").unwrap();
        }
        let (config, mut problems) =
            read(Some(&file), &Overrides::default(), &Environment::default());
        problems.extend(config.iter().flat_map(absent_plugins));
        let (text, was_good) = report(config.as_ref(), problems);
        let place = format!("{}/", dir.path().display());
        assert_eq!(text.replace(&place, ""), expect);
        assert_eq!(was_good, good);
    }

    #[test]
    fn a_sound_configuration_is_counted() {
        check(
            "[[routes]]\npath = \"/a\"\nloader = \"demo\"\n",
            &["demo.wasm", "demo.toml", "files.wasm"],
            "larder.toml: no problems; 1 route, 2 plugins\n",
            true,
        );
    }

    #[test]
    fn warnings_do_not_fail() {
        check(
            "[[routes]]\npath = \"/a\"\nloader = \"demo\"\nsoft_timeout = \"3s\"\n",
            &["demo.wasm"],
            "warning: larder.toml:4: soft_timeout of [[routes]]: it is not shorter than timeout, so it does nothing\n  \
             remedy: make it shorter than timeout, or leave it out\n0 errors, 1 warning\n",
            true,
        );
    }

    #[test]
    fn errors_are_sorted_by_line_and_fail() {
        check(
            "[[routes]]\nloader = \"demo\"\ntll = \"1s\"\n[writes]\nqueue = \"redis\"\n",
            &[],
            "error: larder.toml:1: a route has no path\n  remedy: write path = \"/data/{key}\" below its [[routes]]\n\
             error: larder.toml:3: unknown key \"tll\" in [[routes]]\n  remedy: did you mean \"ttl\"?\n\
             error: larder.toml:5: queue of [writes]: there is no [redis] to keep it in\n  \
             remedy: write [redis] with url = \"redis://127.0.0.1:6379\", or queue = \"disk\"\n3 errors, 0 warnings\n",
            false,
        );
    }

    #[test]
    fn a_plugin_that_is_not_there_is_named() {
        check(
            "[[routes]]\npath = \"/a\"\nloaders = [\"demmo\", \"files\"]\nkey = \"tenant-key\"\n",
            &["demo.wasm", "files.wasm"],
            "error: larder.toml:1: route \"/a\" names the plugin \"demmo\", which is not there\n  \
             remedy: did you mean \"demo\"? Otherwise put it at plugins/demmo.wasm\n\
             error: larder.toml:1: route \"/a\" names the plugin \"tenant-key\", which is not there\n  \
             remedy: put it at plugins/tenant-key.wasm\n2 errors, 0 warnings\n",
            false,
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let (config, problems) = read(
            Some(Path::new("no/such.toml")),
            &Overrides::default(),
            &Environment::default(),
        );
        let (text, good) = report(config.as_ref(), problems);
        assert_eq!(
            text,
            "error: no/such.toml: cannot read the configuration: No such file or directory (os error 2)\n  remedy: name a \
             file that exists with --config, or leave --config and LARDER_CONFIG out to serve every loader of ./plugins\n\
             1 error, 0 warnings\n"
        );
        assert!(!good);
    }
}
