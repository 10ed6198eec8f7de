//! `[[routes]]`: each by itself, and all against each other.

use matchit::{InsertError, Router};
use toml::de::DeValue;

use super::cors;
use super::defaults::{Setting, routes as setting};
use super::kind::{self, Fault, HeaderName, ParameterName, Period, PluginName, Scalar};
use super::layers::Origin;
use super::outline::{self, Outline};
use super::problem::Problem;
use super::reader::{Document, Table};
use super::{Coding, KeySource, Route, Write};

/// Paths of the public listener that are Larder's own.
const RESERVED: &[&str] = &["/openapi.json", "/docs", "/_batch"];

/// Below it, where a route writes behind.
const WRITES: &str = "/writes/";

/// Reads every route. One without a good path, loader or pattern is reported and left out.
pub(super) fn read(root: &Table<'_>, document: &Document<'_>, from_file: bool) -> Vec<Route> {
    let tables = root.sections("routes");
    if tables.is_empty() && from_file && root.raw("routes").is_none() {
        document.report_absence(
            Problem::warning("there is no [[routes]], so every request is answered with 404").remedy(
                "write [[routes]] with path = \"/data/{key}\" and loader = \"NAME\"; without any file every loader is served at /NAME/{key}",
            ),
        );
    }
    let mut patterns = Patterns::default();
    let routes: Vec<Route> = tables
        .into_iter()
        .filter_map(|table| read_route(table, &mut patterns))
        .collect();
    if routes.iter().any(|route| route.write == Write::Behind) {
        let taken = routes.iter().filter(|route| route.path.starts_with(WRITES));
        for route in taken {
            document.report(
                Some(route.line),
                Problem::error(format!(
                    "{:?} is below {WRITES}, where Larder tells what became of changes that are written behind",
                    route.path
                ))
                .remedy("give the route another path"),
            );
        }
    }
    routes
}

impl Route {
    /// The route of a loader that no file names: `/NAME/{key}`, everything else by default.
    pub fn implicit(loader: &str) -> Self {
        let soft_timeout = setting::soft_timeout.default_value();
        Self {
            path: format!("/{loader}/{{key}}"),
            loaders: vec![loader.to_owned()],
            key: KeySource::Default,
            ttl: setting::ttl.default_value(),
            ttl_max: setting::ttl_max.default_value(),
            jitter: setting::jitter.default_value(),
            refresh_ahead: setting::refresh_ahead.default_value(),
            stale_while_revalidate: setting::stale_while_revalidate.default_value(),
            stale_if_error: setting::stale_if_error.default_value(),
            missing_ttl: setting::missing_ttl.default_value(),
            failure_ttl: setting::failure_ttl.default_value(),
            soft_timeout: (!soft_timeout.is_zero()).then_some(soft_timeout),
            timeout: setting::timeout.default_value(),
            batch_window: setting::batch_window.default_value(),
            max_loads: None,
            batch_max: setting::batch_max.default_value(),
            write: setting::write.default_value(),
            writer: None,
            pending: None,
            coalesce: setting::coalesce.default_value(),
            compress: Coding::ALL.to_vec(),
            cdn_cache_control: None,
            tags_header: None,
            watch: setting::watch.default_value(),
            cors: None,
            unknown_query: setting::unknown_query.default_value(),
            outline: Outline::default(),
            line: 0,
        }
    }
}

fn read_route(table: Table<'_>, patterns: &mut Patterns) -> Option<Route> {
    let path = table.optional(&setting::path);
    if table.raw(setting::path.key).is_none() {
        table.missing(
            "a route has no path",
            "write path = \"/data/{key}\" below its [[routes]]",
        );
    }
    let parameters = path.as_deref().and_then(|path| {
        patterns
            .admit(path, table.line_of(setting::path.key).unwrap_or(0))
            .map_err(|fault| table.fault(&setting::path, fault))
            .ok()
    });
    let loaders = read_loaders(&table);
    let key = read_key(&table, parameters.as_deref());
    let ttl_max = table.value(&setting::ttl_max);
    let timeout = table.value(&setting::timeout);
    let soft_timeout = table.value(&setting::soft_timeout);
    if soft_timeout >= timeout {
        table.warn(
            &setting::soft_timeout,
            Fault::new(
                "it is not shorter than timeout, so it does nothing",
                "make it shorter than timeout, or leave it out",
            ),
        );
    }
    let batch_window = table.value(&setting::batch_window);
    if batch_window >= timeout && matches!(table.origin(&setting::batch_window), Origin::File(_)) {
        table.warn(
            &setting::batch_window,
            Fault::new(
                "it is not shorter than timeout: a miss waits for half of the timeout at most",
                "make it a few milliseconds, or leave it out",
            ),
        );
    }
    let capped = |setting: &Setting<Period>| {
        let life = table.value(setting);
        if life > ttl_max && matches!(table.origin(setting), Origin::File(_)) {
            table.warn(
                setting,
                Fault::new(
                    "it is longer than ttl_max, and cut to that",
                    "raise ttl_max, or shorten it",
                ),
            );
        }
        life.min(ttl_max)
    };
    let route = Route {
        path: path.unwrap_or_default(),
        loaders: loaders.unwrap_or_default(),
        key,
        ttl: capped(&setting::ttl),
        ttl_max,
        jitter: table.value(&setting::jitter),
        refresh_ahead: table.value(&setting::refresh_ahead),
        stale_while_revalidate: table.value(&setting::stale_while_revalidate),
        stale_if_error: table.value(&setting::stale_if_error),
        missing_ttl: capped(&setting::missing_ttl),
        failure_ttl: table.value(&setting::failure_ttl),
        soft_timeout: (!soft_timeout.is_zero()).then_some(soft_timeout),
        timeout,
        batch_window,
        max_loads: table.optional(&setting::max_loads),
        batch_max: table.value(&setting::batch_max),
        write: table.value(&setting::write),
        writer: table.optional(&setting::writer),
        pending: table.optional(&setting::pending),
        coalesce: table.value(&setting::coalesce),
        compress: table.list(&setting::compress).map_or_else(
            || Coding::ALL.to_vec(),
            |list| list.into_iter().map(|(coding, _)| coding).collect(),
        ),
        cdn_cache_control: cdn_cache_control(&table),
        tags_header: table.optional(&setting::tags_header),
        watch: table.value(&setting::watch),
        cors: cors::read(&table),
        unknown_query: table.value(&setting::unknown_query),
        outline: outline::read(&table),
        line: table.line().unwrap_or(0),
    };
    warn_unless_behind(&table, &route);
    table.finish();
    (parameters.is_some() && !route.loaders.is_empty()).then_some(route)
}

/// Any text that a header can hold: its directives are for others to read.
fn cdn_cache_control(table: &Table<'_>) -> Option<String> {
    let text = table.optional(&setting::cdn_cache_control)?;
    if text
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Some(text);
    }
    table.fault(
        &setting::cdn_cache_control,
        Fault::new(
            "it holds what a header cannot",
            "write directives as Cache-Control has them, e.g. \"max-age=600\"",
        ),
    );
    None
}

/// What means something only where changes wait.
fn warn_unless_behind(table: &Table<'_>, route: &Route) {
    if route.write == Write::Behind {
        return;
    }
    let fault = || {
        Fault::new(
            "it does nothing on a route that does not write behind",
            "write write = \"behind\", or leave it out",
        )
    };
    if route.pending.is_some() {
        table.warn(&setting::pending, fault());
    }
    if route.coalesce {
        table.warn(&setting::coalesce, fault());
    }
}

/// `loader` or `loaders`, one of them.
fn read_loaders(table: &Table<'_>) -> Option<Vec<String>> {
    let one = table.optional(&setting::loader);
    let chain = table.list(&setting::loaders);
    let has = |key| table.raw(key).is_some();
    match (has(setting::loader.key), has(setting::loaders.key)) {
        (true, true) => {
            table.fault(
                &setting::loaders,
                Fault::new(
                    "loader is given too",
                    "keep one of the two: loader for one, loaders for a chain",
                ),
            );
            None
        }
        (true, false) => Some(vec![one?]),
        (false, true) => {
            let empty = table.raw(setting::loaders.key).is_some_and(
                |value| matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()),
            );
            if empty {
                table.fault(
                    &setting::loaders,
                    Fault::new(
                        "the chain is empty",
                        "name at least one loader: loaders = [\"NAME\"]",
                    ),
                );
            }
            Some(chain?.into_iter().map(|(name, _)| name).collect())
        }
        (false, false) => {
            table.missing(
                "a route has no loader",
                "write loader = \"NAME\" (the file NAME.wasm of the plugin directory) below its [[routes]]",
            );
            None
        }
    }
}

/// `key` and `key_headers`. `parameters` are the pattern's; `None` when the pattern is bad and cannot be compared with.
fn read_key(table: &Table<'_>, parameters: Option<&[String]>) -> KeySource {
    let headers: Option<Vec<String>> = table
        .list(&setting::key_headers)
        .map(|list| list.into_iter().map(|(name, _)| name).collect());
    let value = table.raw(setting::key.key);
    let is_policy = value.is_some_and(|value| value.get_ref().is_str());
    if table.raw(setting::key_headers.key).is_some() && !is_policy {
        table.fault(
            &setting::key_headers,
            Fault::new(
                "no key policy is named, and only a policy is shown headers",
                "write key = \"POLICY\", or list the headers in key = { headers = [ … ] }",
            ),
        );
    }
    match value.map(|value| (value, value.get_ref())) {
        None => KeySource::Default,
        Some((_, DeValue::String(name))) => match PluginName::parse(name) {
            Ok(plugin) => KeySource::Policy {
                plugin,
                headers: headers.unwrap_or_default(),
            },
            Err(fault) => {
                table.fault(&setting::key, fault);
                KeySource::Default
            }
        },
        Some((at, DeValue::Table(entries))) => {
            let label = format!("key of {}", table.label());
            let inner = table.inner(label, table.line_at(at), entries);
            let key = read_listed(&inner, parameters);
            inner.finish();
            key
        }
        Some((_, other)) => {
            table.fault(
                &setting::key,
                Fault::new(
                    format!(
                        "expected a plugin name or a table, found {}",
                        kind::found(other)
                    ),
                    "write key = { path = [\"key\"], query = [\"lang\"] }, or key = \"POLICY\"",
                ),
            );
            KeySource::Default
        }
    }
}

/// `key = { path, query, headers }`. A `path` left out is every parameter of the pattern: a key without them would load the
/// same thing for every path.
fn read_listed(table: &Table<'_>, parameters: Option<&[String]>) -> KeySource {
    let names = |list: Option<Vec<(String, usize)>>| -> Vec<String> {
        list.into_iter().flatten().map(|(name, _)| name).collect()
    };
    let path = table.list_at::<ParameterName>("path");
    if let Some(known) = parameters {
        for (name, line) in path.iter().flatten() {
            if !known.contains(name) {
                table.fault_at("path", *line, foreign_parameter(name, known));
            }
        }
    }
    KeySource::Listed {
        path: path.map_or_else(
            || parameters.unwrap_or_default().to_vec(),
            |path| names(Some(path)),
        ),
        query: names(table.list_at::<ParameterName>("query")),
        headers: names(table.list_at::<HeaderName>("headers")),
    }
}

fn foreign_parameter(name: &str, known: &[String]) -> Fault {
    let remedy = match known {
        [] => "the pattern has no parameters: write {name} into the path, or list it in query"
            .to_owned(),
        [one] => format!(
            "the pattern has {one:?} alone; what stands behind the question mark belongs in query"
        ),
        many => format!(
            "the pattern has {}; what stands behind the question mark belongs in query",
            many.join(", ")
        ),
    };
    Fault::new(format!("the pattern has no parameter {name:?}"), remedy)
}

/// The patterns so far, with their lines.
#[derive(Default)]
struct Patterns {
    router: Router<()>,
    seen: Vec<(String, usize)>,
}

impl Patterns {
    /// Takes a pattern in and gives its parameters, unless it is bad or could not be told from one before it.
    fn admit(&mut self, path: &str, line: usize) -> Result<Vec<String>, Fault> {
        let parameters = judge_pattern(path)?;
        if let Some((_, at)) = self.seen.iter().find(|(seen, _)| seen == path) {
            return Err(Fault::new(
                format!("{path:?} is the path of the route at line {at} too"),
                "remove one of the two, or give it another path",
            ));
        }
        self.router
            .insert(path, ())
            .map_err(|error| self.explain(path, error))?;
        self.seen.push((path.to_owned(), line));
        Ok(parameters)
    }

    fn explain(&self, path: &str, error: InsertError) -> Fault {
        match error {
            InsertError::Conflict { with } => {
                let place = self
                    .seen
                    .iter()
                    .find(|(seen, _)| *seen == with)
                    .map_or_else(String::new, |(_, line)| format!(" at line {line}"));
                Fault::new(
                    format!("{path:?} and {with:?}{place} match the same requests"),
                    "make them differ in a fixed segment, or remove one",
                )
            }
            InsertError::InvalidParamSegment => Fault::new(
                format!("{path:?} has a segment with two parameters, or with text behind one"),
                "give each parameter the end of a segment: \"/data/{key}\", \"/v{version}/{key}\"",
            ),
            InsertError::InvalidCatchAll => Fault::new(
                format!("{path:?} goes on behind a parameter that takes all the rest"),
                "put {*rest} at the end of the path, as a segment of its own",
            ),
            // The library may learn to refuse more.
            _ => Fault::new(
                format!("{path:?} has a brace that is not closed, or a parameter without a name"),
                "write parameters as {name}; a brace that is meant is doubled: {{ or }}",
            ),
        }
    }
}

/// What can be said of a pattern by itself.
fn judge_pattern(path: &str) -> Result<Vec<String>, Fault> {
    if !path.starts_with('/') {
        return Err(Fault::new(
            format!("{path:?} does not begin with a slash"),
            format!("write \"/{path}\""),
        ));
    }
    if RESERVED.contains(&path) || path.starts_with("/docs/") {
        return Err(Fault::new(
            format!("{path:?} is reserved for Larder itself"),
            "give the route another path",
        ));
    }
    if let Some(bad) = path
        .chars()
        .find(|c| "?#".contains(*c) || c.is_whitespace() || c.is_control())
    {
        return Err(Fault::new(
            format!("{path:?} holds {bad:?}, which the path of a request cannot"),
            "write the path alone; query parameters are listed in key = { query = [ … ] }",
        ));
    }
    if let Some(segment) = path
        .split('/')
        .find(|segment| segment.len() > 1 && segment.starts_with(':'))
    {
        return Err(Fault::new(
            format!("{path:?} has the segment {segment:?}"),
            format!("write \"{{{}}}\" for a parameter", &segment[1..]),
        ));
    }
    let parameters = parameters(path);
    for (i, name) in parameters.iter().enumerate() {
        if parameters[..i].contains(name) {
            return Err(Fault::new(
                format!("{path:?} has two parameters {name:?}"),
                "give them different names",
            ));
        }
    }
    Ok(parameters)
}

/// The names between braces, in order; doubled braces are text. What is malformed is left to the router to refuse.
fn parameters(path: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = path;
    while let Some(open) = rest.find('{') {
        rest = &rest[open + 1..];
        if let Some(escaped) = rest.strip_prefix('{') {
            rest = escaped;
            continue;
        }
        let Some(close) = rest.find('}') else { break };
        names.push(rest[..close].trim_start_matches('*').to_owned());
        rest = &rest[close + 1..];
    }
    names
}
