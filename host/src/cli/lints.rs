//! What is no fault, and surely not meant: `larder check` warns of it. Whoever serves is not bothered.

use crate::config::{Config, DirGrant, DirMode, Problem, Write, sidecar};

/// Every such thing.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut problems = writers_without_a_place(config);
    problems.extend(idle_queue(config));
    problems
}

/// `[writes]` where no route writes behind: nothing is ever queued.
fn idle_queue(config: &Config) -> Option<Problem> {
    let file = config.file.as_ref().filter(|_| !config.writes_behind())?;
    let text = std::fs::read_to_string(file).ok()?;
    let is_header = |line: &str| line.split('#').next().unwrap_or_default().trim() == "[writes]";
    let line = text.lines().position(is_header)? + 1;
    let message = "[writes] is for changes that are accepted before they are made, and no route has write = \"behind\"";
    let remedy = "write write = \"behind\" into a route, or remove the table";
    Some(
        Problem::warning(message)
            .at(file, Some(line))
            .remedy(remedy),
    )
}

/// Plugins that routes write through and that are granted directories alone, to read from: every change would fail.
fn writers_without_a_place(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    for route in config.routes.iter().filter(|it| it.write != Write::Off) {
        let writer = match (&route.writer, route.loaders.as_slice()) {
            (Some(writer), _) => writer,
            (None, [only]) => only,
            // Which of them writes is theirs to say.
            (None, _) => continue,
        };
        let file = config.plugins.dir.join(format!("{writer}.toml"));
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let (sidecar, _) = sidecar::parse(&text, &file, &config.plugins.dir);
        let grants = sidecar.grants;
        let reads = |grant: &DirGrant| grant.mode == DirMode::ReadOnly;
        let is_bound = grants.http.is_empty() && grants.tcp.is_empty();
        if is_bound && !grants.dirs.is_empty() && grants.dirs.values().all(reads) {
            let is_named = |line: &str| {
                line.trim_start()
                    .trim_start_matches("[grants.")
                    .starts_with("dirs")
            };
            let line = text.lines().position(is_named).map(|at| at + 1);
            let message = format!(
                "route {:?} writes through {writer:?}, which may only read from what it is granted",
                route.path
            );
            let remedy = "write mode = \"rw\" for the directory that it writes to, or remove write from the route";
            problems.push(Problem::warning(message).at(file, line).remedy(remedy));
        }
    }
    problems
}
