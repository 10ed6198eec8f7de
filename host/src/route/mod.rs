//! A URL pattern bound to its loaders, its key policy and its freshness policy.
//!
//! # Layout
//! - this file: the [`Snapshot`], one immutable table per change of configuration or plugins; a request pins one.
//! - [`derive`]: request → parts → key, by the listed names or by a key policy.
//! - [`body`]: what the body of a PUT must be.
//! - [`again`]: a key that was asked for before a restart → what it is now.
//! - [`changes`]: what a change feed tells → what is purged.
//! - [`fields`]: the fields of a head, whoever has parsed it.
//! - [`headers`]: the lists of header names that derivations may depend on.
//! - [`memo`]: derivations remembered, and sampled against a fresh instance.
//! - [`text`]: paths and queries decoded.
//! - [`writing`]: where changes go that were accepted before.
//!
//! Knows neither axum nor wasmtime nor Redis: of a plugin only that it is a loader or a key policy and what it declares.

pub mod again;
pub mod body;
pub mod changes;
pub mod derive;
pub mod fields;
pub mod headers;
pub mod memo;
pub mod text;
pub mod writing;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use xxhash_rust::xxh3::xxh3_64;

use crate::cache::freshness::{Policy, RefreshAhead};
use crate::cache::underway::Underway;
use crate::cache::variants::Coding;
use crate::cache::{Batching, Binding, Link};
use crate::config::{self, Config, KeySource, Problem};
use crate::key::KeyPolicy;
use crate::metrics::{Metrics, RouteMetrics};
use crate::plugin::{Descriptor, DescriptorFault, Parameter, ParameterPlace, PluginSet, Request};
use crate::write::Writer;
use crate::write::behind::Behind;
use crate::write::behind::reads::Reads;
use derive::Refusal;
use headers::{At, Lists};
use memo::Memo;

/// Every route as it stands between two changes.
pub struct Snapshot {
    router: matchit::Router<usize>,
    routes: Vec<Arc<Route>>,
    by_pattern: HashMap<Arc<str>, usize>,
    memo: Memo,
    /// Which headers the derivations of its routes may depend on.
    header_lists: Lists,
    is_starting: bool,
    /// Whether pages of other origins may use any of them.
    has_cors: bool,
    /// Whether any of them can be watched.
    has_watch: bool,
    /// Uses of remembered policy calls, for sampling.
    policy_hits: Apart<AtomicU64>,
    /// The API document of these routes, once it was asked for.
    document: OnceLock<Bytes>,
    /// What the configuration says of all of them together.
    pub surface: Surface,
    /// The plugins it was made of: held, so that requests in flight finish on them.
    pub plugins: Arc<PluginSet>,
}

/// In a cache line of its own: what is written for each request, among what is only read.
#[repr(align(64))]
struct Apart<T>(T);

/// What the configuration says of all routes together, and what changes with them.
#[derive(Clone, Debug)]
pub struct Surface {
    /// How the API document is entitled, and whether it is served.
    pub openapi: config::OpenApi,
    /// The longest body of a request, in bytes.
    pub body_bytes: usize,
    /// How long it may take to come.
    pub body_time: Duration,
}

impl Surface {
    fn of(config: &Config) -> Self {
        Self {
            openapi: config.openapi.clone(),
            body_bytes: usize::try_from(config.server.body_bytes).unwrap_or(usize::MAX),
            body_time: config.server.body_timeout,
        }
    }
}

/// What a hit asks of its route. Held with each derivation, too: see [`Bounds`](crate::cache::freshness::Bounds).
#[derive(Clone)]
pub struct Brief {
    /// Its counters.
    pub metrics: Arc<RouteMetrics>,
    /// Whether bodies may leave in other codings.
    pub has_codings: bool,
    /// Whether its answers have fields by its own configuration: `cdn_cache_control`, `tags_header`, or `cors`.
    pub has_own_fields: bool,
    /// Whether its keys may be remembered on disk: not where credentials are among its parts.
    pub is_remembered: bool,
    /// Whether a key policy derives them.
    has_policy: bool,
}

/// One route, ready to answer.
pub struct Route {
    /// What a hit asks of it.
    pub brief: Brief,
    /// In which codings bodies may leave.
    pub codings: Vec<Coding>,
    /// The pattern.
    pub pattern: Arc<str>,
    /// The names in the pattern, in its order.
    pub params: Vec<String>,
    /// How a request becomes parts.
    pub rule: Rule,
    /// The list of the headers that the rule looks at.
    header_list: At,
    /// That rule, as an identity: while it is the same, the same requests become the same parts.
    pub rule_identity: Arc<str>,
    /// The parameters that are declared, to be checked before anything else.
    pub checks: Vec<Check>,
    /// Which loaders answer, as keys name them.
    pub identity: Arc<str>,
    /// What it is to the cache.
    pub binding: Arc<Binding>,
    /// What PUT and DELETE do.
    pub writes: Writes,
    /// What the plugin that writes says about itself, while it is there.
    pub writer: Option<Arc<Descriptor>>,
    /// What the body of a PUT must be, where anybody says so.
    pub body: Option<Request>,
    /// What the loaders of the chain say about themselves, as far as they are there, or are remembered.
    pub described: Vec<Described>,
    /// As it was configured.
    pub config: config::Route,
    /// Policy calls so far, for sampling.
    policy_calls: AtomicU64,
}

/// What a plugin says about itself.
pub struct Described {
    /// Its file stem.
    pub plugin: Arc<str>,
    /// What it says.
    pub descriptor: Arc<Descriptor>,
}

/// What PUT and DELETE do on a route.
pub enum Writes {
    /// They are not answered.
    Off,
    /// The source is changed, and then answered.
    Through(WriteLink),
    /// The change is made durable in a queue, then answered, then made.
    Behind(WriteLink),
}

/// Who writes.
pub enum WriteLink {
    /// A writer that can be asked.
    Ready(Arc<dyn Writer>),
    /// A plugin that is broken, removed or none: writes are answered with 503.
    NotLoaded {
        /// The file stem.
        name: String,
        /// Why, as the operator is told.
        why: String,
    },
}

/// Paths that the host answers itself: no route has them, however general its pattern.
const RESERVED: [&str; 3] = ["/openapi.json", "/docs", "/_batch"];

/// How a request becomes parts.
pub enum Rule {
    /// By listed names: path parameters, then query parameters, then headers, in the listed order.
    Parts {
        /// Path parameters.
        path: Vec<String>,
        /// Query parameters.
        query: Vec<String>,
        /// Headers.
        headers: Arc<[HeaderName]>,
    },
    /// By a key policy, which sees the path, the query and only these headers.
    Policy {
        /// The plugin.
        policy: Arc<dyn KeyPolicy>,
        /// The headers let through.
        headers: Arc<[HeaderName]>,
    },
    /// By a key policy that is broken or removed: nothing can be looked up.
    NotLoaded {
        /// The file stem.
        name: String,
        /// Why.
        why: String,
    },
}

impl Rule {
    /// The headers that it looks at.
    fn headers(&mut self) -> Option<&mut Arc<[HeaderName]>> {
        match self {
            Self::Parts { headers, .. } | Self::Policy { headers, .. } => Some(headers),
            Self::NotLoaded { .. } => None,
        }
    }
}

/// A declared parameter and where it is found in a request of this route.
pub struct Check {
    /// In the path or in the query.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// Which plugin declares it; none: the operator.
    pub by: Option<Arc<str>>,
    parameter: Parameter,
}

/// Where a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Matched by the pattern.
    Path,
    /// After the `?`.
    Query,
}

impl Place {
    /// As problems say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
        }
    }
}

impl Check {
    /// What is declared.
    pub fn parameter(&self) -> &Parameter {
        &self.parameter
    }
}

impl Snapshot {
    /// Binds every route to the plugins as they are now; with `behind`, which keeps the changes that are accepted before they
    /// are made, if anything does. A route whose plugin is missing is bound all the same: it
    /// serves its hits and answers its misses with 503. The problems are for `larder check` and the log.
    pub fn build(
        config: &Config,
        plugins: Arc<PluginSet>,
        metrics: &Metrics,
        behind: Option<&Arc<Behind>>,
    ) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut router = matchit::Router::new();
        let mut routes: Vec<Arc<Route>> = Vec::new();
        let mut header_lists = Lists::default();
        for route in configured(config, &plugins) {
            let place = |problem: Problem| match &config.file {
                Some(file) => problem.at(file, Some(route.line).filter(|line| *line > 0)),
                None => problem,
            };
            if let Err(error) = router.insert(route.path.clone(), routes.len()) {
                problems.push(place(Problem::error(format!(
                    "route `{}`: {error}",
                    route.path
                ))));
                continue;
            }
            let mut of_route = Vec::new();
            routes.push(Arc::new(Route::bind(
                route.clone(),
                &plugins,
                (metrics, behind),
                &mut header_lists,
                &mut of_route,
            )));
            problems.extend(of_route.into_iter().map(place));
        }
        for route in &routes {
            let all = crate::cache::Bounds {
                loads_max: config.server.max_loads,
                waiters_max: config.server.max_waiters,
            };
            let bound = route.config.max_loads;
            route
                .brief
                .metrics
                .places
                .share_out(routes.len(), all, bound);
        }
        let patterns = routes.iter().map(|route| Arc::clone(&route.pattern));
        (
            Self {
                router,
                by_pattern: patterns.zip(0..).collect(),
                has_cors: routes.iter().any(|route| route.config.cors.is_some()),
                has_watch: routes.iter().any(|route| route.config.watch),
                policy_hits: Apart(0.into()),
                routes,
                memo: Memo::new(),
                header_lists,
                is_starting: false,
                document: OnceLock::new(),
                surface: Surface::of(config),
                plugins,
            },
            problems,
        )
    }

    /// What there is before the plugins are judged: no routes, and it says why.
    pub fn starting(config: &Config) -> Self {
        Self {
            router: matchit::Router::new(),
            routes: Vec::new(),
            by_pattern: HashMap::new(),
            memo: Memo::new(),
            header_lists: Lists::default(),
            is_starting: true,
            has_cors: false,
            has_watch: false,
            policy_hits: Apart(0.into()),
            document: OnceLock::new(),
            surface: Surface::of(config),
            plugins: Arc::default(),
        }
    }

    /// Whether the plugins are still being judged.
    pub fn is_starting(&self) -> bool {
        self.is_starting
    }

    /// Whether pages of other origins may use any of them.
    pub fn has_cors(&self) -> bool {
        self.has_cors
    }

    /// Whether any of them can be watched.
    pub fn has_watch(&self) -> bool {
        self.has_watch
    }

    /// The API document of these routes: `made` when it is first asked for.
    pub fn document(&self, made: impl FnOnce() -> Bytes) -> Bytes {
        self.document.get_or_init(made).clone()
    }

    /// Why it has no route for a path.
    pub fn unrouted(&self) -> Refusal {
        if self.is_starting {
            Refusal::Starting
        } else {
            Refusal::NoRoute
        }
    }

    /// The route of a raw (still encoded) path, and the raw values of its parameters.
    pub fn find<'p>(&self, path: &'p str) -> Option<(&Arc<Route>, matchit::Params<'_, 'p>)> {
        if RESERVED.contains(&path) || path.starts_with("/docs/") {
            return None;
        }
        let found = self.router.at(path).ok()?;
        Some((&self.routes[*found.value], found.params))
    }

    /// The route of this pattern.
    fn of_pattern(&self, pattern: &str) -> Option<&Arc<Route>> {
        self.by_pattern
            .get(pattern)
            .map(|&index| &self.routes[index])
    }

    /// All routes, in the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// Derivations remembered under this snapshot.
    pub fn memo(&self) -> &Memo {
        &self.memo
    }

    /// The longest that any entry of these routes can live, in milliseconds.
    pub fn longest_life_ms(config: &Config) -> u64 {
        let life = |route: &config::Route| {
            route.ttl_max + route.stale_if_error.max(route.stale_while_revalidate)
        };
        let longest = config.routes.iter().map(life).max();
        let longest = longest.unwrap_or_else(|| life(&config::Route::implicit("")));
        crate::cache::freshness::millis(longest)
    }
}

/// The configured routes, or one per loader at `/NAME/{key}` where there is no file: of a refused one, too, so that its
/// misses say so.
fn configured(config: &Config, plugins: &PluginSet) -> Vec<config::Route> {
    if !config.implicit_routes {
        return config.routes.clone();
    }
    let loaders = plugins.iter().filter(|plugin| plugin.loader().is_some());
    loaders
        .map(|plugin| plugin.name())
        .chain(plugins.refused_loaders())
        .map(config::Route::implicit)
        .collect()
}

impl Route {
    /// The query parameters that are declared or keyed.
    fn query_names(&self) -> Vec<&str> {
        let declared = self
            .checks
            .iter()
            .filter(|check| check.place == Place::Query);
        let mut names: Vec<&str> = declared.map(|check| check.name.as_str()).collect();
        if let Rule::Parts { query, .. } = &self.rule {
            let keyed = query.iter().map(String::as_str);
            names.extend(keyed.filter(|name| self.checks.iter().all(|check| check.name != *name)));
        }
        names
    }

    fn bind(
        config: config::Route,
        plugins: &PluginSet,
        (metrics, behind): (&Metrics, Option<&Arc<Behind>>),
        header_lists: &mut Lists,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let pattern: Arc<str> = config.path.as_str().into();
        let params = text::pattern_names(&config.path);
        let mut chain = Vec::new();
        let mut identities = Vec::new();
        let mut described: Vec<Described> = Vec::new();
        for name in &config.loaders {
            let (link, identity, descriptor) = link(name, plugins, problems);
            chain.push(link);
            identities.push(identity);
            described.extend(descriptor.map(|descriptor| Described {
                plugin: name.as_str().into(),
                descriptor,
            }));
        }
        let mut checks = operators(&config, &params, problems);
        add_declared(&mut checks, &params, &described);
        let mut rule = rule(&config, &params, &checks, plugins, problems);
        let header_list = match rule.headers() {
            Some(headers) => {
                let list = header_lists.at(headers);
                *headers = Arc::clone(header_lists.names(list));
                list
            }
            None => header_lists.at(&[]),
        };
        for check in &checks {
            warn_if_unseen(&config.path, check, &rule, problems);
        }
        let metrics = metrics.route(&pattern);
        let writes = match config.write {
            config::Write::Off => Writes::Off,
            config::Write::Through => Writes::Through(write_link(&config, plugins, problems)),
            config::Write::Behind => Writes::Behind(write_link(&config, plugins, problems)),
        };
        let writer = writer(&config, plugins);
        let underway = behind.filter(|_| matches!(writes, Writes::Behind(_)));
        let underway = underway.map(|behind| {
            let is_said = || writer.as_ref().is_some_and(|writer| writer.pending_payload);
            let is_value = config
                .pending
                .map_or_else(is_said, |pending| pending == config::PendingReads::Payload);
            Arc::new(Reads::new(Arc::clone(behind), is_value)) as Arc<dyn Underway>
        });
        let binding = Arc::new(Binding {
            route: Arc::clone(&pattern),
            policy: policy(&config),
            batching: Batching {
                window: config.batch_window,
                max: config.batch_max,
            },
            chain,
            counters: Arc::clone(&metrics.loads),
            places: Arc::clone(&metrics.places),
            underway,
        });
        let is_secret =
            |name: &HeaderName| [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(name);
        let is_remembered = match &rule {
            Rule::Parts { headers, .. } => !headers.iter().any(is_secret),
            Rule::Policy { .. } | Rule::NotLoaded { .. } => true,
        };
        let identity = identities.join("~").into();
        let coding = |coding: &config::Coding| match coding {
            config::Coding::Brotli => Coding::Brotli,
            config::Coding::Zstd => Coding::Zstd,
            config::Coding::Gzip => Coding::Gzip,
        };
        Self {
            brief: Brief {
                metrics,
                has_codings: !config.compress.is_empty(),
                has_own_fields: config.cdn_cache_control.is_some()
                    || config.tags_header.is_some()
                    || config.cors.is_some(),
                is_remembered,
                has_policy: matches!(rule, Rule::Policy { .. }),
            },
            codings: config.compress.iter().map(coding).collect(),
            pattern,
            params,
            rule_identity: rule_identity(&rule, plugins),
            rule,
            header_list,
            checks,
            identity,
            binding,
            writes,
            body: body(&config, writer.as_ref(), problems),
            writer,
            described,
            config,
            policy_calls: 0.into(),
        }
    }
}

/// The remedy is the operator's; a consumer who reads it knows whom to tell.
const ABSENT: &str = "no good version of it is in the plugin directory; GET /plugins on the admin listener says more";

/// One place of the chain. A plugin that is not there keeps the identity of its last good version, so that what is
/// stored under it can still be found.
fn link(
    name: &str,
    plugins: &PluginSet,
    problems: &mut Vec<Problem>,
) -> (Link, String, Option<Arc<Descriptor>>) {
    if let Some(plugin) = plugins.get(name) {
        if let Some(loader) = plugin.loader() {
            return (
                Link::Ready(loader),
                plugin.identity().to_owned(),
                Some(Arc::clone(plugin.descriptor())),
            );
        }
        problems.push(
            Problem::error(format!("plugin `{name}` is not a loader")).remedy(
                "name a plugin that exports larder:plugin/loader, larder:plugin/batch-loader or larder:plugin/blocking-loader",
            ),
        );
    }
    let why = ABSENT.to_owned();
    let link = Link::NotLoaded {
        name: name.to_owned(),
        why,
    };
    match plugins.last_known(name) {
        Some(known) => (link, known.identity.to_string(), Some(known.descriptor)),
        None => (link, name.to_owned(), None),
    }
}

/// Who may write for a route, in order: the plugin that is named, or else its loaders.
fn writers(config: &config::Route) -> impl Iterator<Item = &String> + Clone {
    let loaders = config.loaders.iter().filter(|_| config.writer.is_none());
    config.writer.iter().chain(loaders)
}

/// What the writer that [`write_link`] finds says about itself.
fn writer(config: &config::Route, plugins: &PluginSet) -> Option<Arc<Descriptor>> {
    if matches!(config.write, config::Write::Off) {
        return None;
    }
    let mut plugins = writers(config).filter_map(|name| plugins.get(name));
    let plugin = plugins.find(|plugin| plugin.writer().is_some())?;
    Some(Arc::clone(plugin.descriptor()))
}

/// The plugin that is named to write, or the first of the loaders that writes too.
fn write_link(
    config: &config::Route,
    plugins: &PluginSet,
    problems: &mut Vec<Problem>,
) -> WriteLink {
    let mut candidates = writers(config);
    let found = candidates
        .clone()
        .find_map(|name| plugins.get(name)?.writer());
    if let Some(writer) = found {
        return WriteLink::Ready(writer);
    }
    // One that is not there may turn out to be a writer when it is.
    let absent = candidates.clone().find(|name| plugins.get(name).is_none());
    let Some(name) = absent.or_else(|| candidates.next()) else {
        return WriteLink::NotLoaded {
            name: String::new(),
            why: ABSENT.to_owned(),
        };
    };
    if absent.is_none() {
        let fault = match &config.writer {
            Some(name) => format!("plugin `{name}` is not a writer"),
            None => "the route writes, and none of its loaders is a writer".to_owned(),
        };
        problems.push(Problem::error(fault).remedy(
            "name a plugin that exports larder:plugin/writer in writer = \"NAME\", or write write = \"off\"",
        ));
    }
    WriteLink::NotLoaded {
        name: name.clone(),
        why: ABSENT.to_owned(),
    }
}

/// The parameters that the operator declares. A schema that is none is a problem, and the parameter goes unchecked.
fn operators(config: &config::Route, params: &[String], problems: &mut Vec<Problem>) -> Vec<Check> {
    let mut checks = Vec::new();
    for declared in &config.outline.params {
        let schema = declared.schema.clone();
        match Parameter::declared(&declared.name, declared.required, schema) {
            Ok(parameter) => checks.push(Check {
                place: if params.contains(&declared.name) {
                    Place::Path
                } else {
                    Place::Query
                },
                name: declared.name.clone(),
                by: None,
                parameter,
            }),
            Err(fault) => problems.push(
                Problem::error(format!(
                    "route `{}`: params.{} is no JSON Schema: {}",
                    config.path, declared.name, fault.message
                ))
                .remedy("write it as JSON Schema has it, e.g. { type = \"integer\", minimum = 1 }"),
            ),
        }
    }
    checks
}

/// What the body of a PUT must be: as the operator says, or else the writer. What is said to be no schema is a problem.
fn body(
    config: &config::Route,
    writer: Option<&Arc<Descriptor>>,
    problems: &mut Vec<Problem>,
) -> Option<Request> {
    let mut judged = |name: &str, schema: &Option<serde_json::Value>| {
        let request = schema.as_ref().map(Request::declared)?;
        let report = |fault: DescriptorFault| {
            let (path, why) = (&config.path, fault.message);
            let problem =
                Problem::error(format!("route `{path}`: {name} is no JSON Schema: {why}"));
            let remedy = "write it as JSON Schema has it, e.g. { type = \"object\" }";
            problems.push(problem.remedy(remedy));
        };
        request.map_err(report).ok()
    };
    // What is answered is described and not checked: the source is believed.
    judged("response", &config.outline.response);
    judged("request", &config.outline.request)
        .or_else(|| writer.and_then(|writer| writer.request.clone()))
}

/// Every declared parameter that a request of this route can carry; the operator's count first, and of two loaders that
/// declare one, the first.
fn add_declared(checks: &mut Vec<Check>, params: &[String], described: &[Described]) {
    for Described { plugin, descriptor } in described {
        for parameter in &descriptor.parameters {
            let in_path = params.contains(&parameter.name);
            let place = match parameter.place {
                ParameterPlace::Path if in_path => Place::Path,
                ParameterPlace::Any if in_path => Place::Path,
                // The pattern's parameter of that name is what the loader will see; a second one would be ambiguous.
                ParameterPlace::Query if in_path => continue,
                ParameterPlace::Query | ParameterPlace::Any => Place::Query,
                ParameterPlace::Path => continue,
            };
            if checks.iter().all(|check| check.name != parameter.name) {
                checks.push(Check {
                    place,
                    name: parameter.name.clone(),
                    by: Some(Arc::clone(plugin)),
                    parameter: parameter.clone(),
                });
            }
        }
    }
}

fn rule(
    config: &config::Route,
    params: &[String],
    checks: &[Check],
    plugins: &PluginSet,
    problems: &mut Vec<Problem>,
) -> Rule {
    match &config.key {
        KeySource::Default => {
            let declared = checks.iter().filter(|check| check.place == Place::Query);
            let query = declared.map(|check| check.name.clone()).collect();
            Rule::Parts {
                path: params.to_vec(),
                query,
                headers: Arc::default(),
            }
        }
        KeySource::Listed {
            path,
            query,
            headers,
        } => Rule::Parts {
            path: path.clone(),
            query: query.clone(),
            headers: header_names(headers),
        },
        KeySource::Policy { plugin, headers } => {
            let found = plugins.get(plugin);
            match found.and_then(|found| found.key_policy()) {
                Some(policy) => Rule::Policy {
                    policy,
                    headers: header_names(headers),
                },
                None => {
                    if found.is_some() {
                        problems.push(
                            Problem::error(format!("plugin `{plugin}` is not a key policy"))
                                .remedy("name a plugin that exports larder:plugin/key-policy, or list the parts: key = { path = […] }"),
                        );
                    }
                    let why = ABSENT.to_owned();
                    Rule::NotLoaded {
                        name: plugin.clone(),
                        why,
                    }
                }
            }
        }
    }
}

/// A digest, because it is written down with each key. A key policy counts by its own identity, as a loader does.
fn rule_identity(rule: &Rule, plugins: &PluginSet) -> Arc<str> {
    let text = match rule {
        Rule::Parts {
            path,
            query,
            headers,
        } => format!("parts {path:?} {query:?} {headers:?}"),
        Rule::Policy { policy, headers } => {
            let plugin = plugins.get(policy.name());
            let identity = plugin.map_or(policy.name(), |plugin| plugin.identity());
            format!("policy {identity:?} {headers:?}")
        }
        // Makes no parts.
        Rule::NotLoaded { name, .. } => format!("none {name:?}"),
    };
    format!("{:016x}", xxh3_64(text.as_bytes())).into()
}

/// A parameter that the loader requires and the key leaves out never reaches the loader (law 1).
fn warn_if_unseen(path: &str, check: &Check, rule: &Rule, problems: &mut Vec<Problem>) {
    let Rule::Parts {
        path: in_path,
        query,
        ..
    } = rule
    else {
        return;
    };
    let listed = match check.place {
        Place::Path => in_path,
        Place::Query => query,
    };
    if check.parameter().required && !listed.contains(&check.name) {
        let place = check.place.name();
        problems.push(
            Problem::warning(format!(
                "route `{path}`: the loader requires the parameter `{}`, but the key leaves it out, so the loader never sees it",
                check.name
            ))
            .remedy(format!("add \"{}\" to key.{place}", check.name)),
        );
    }
}

fn header_names(names: &[String]) -> Arc<[HeaderName]> {
    // The configuration has judged them already.
    names
        .iter()
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
}

fn policy(config: &config::Route) -> Policy {
    Policy {
        ttl: config.ttl,
        ttl_max: config.ttl_max,
        jitter: config.jitter,
        refresh_ahead: match config.refresh_ahead {
            config::RefreshAhead::Off => RefreshAhead::Off,
            config::RefreshAhead::Auto => RefreshAhead::Auto,
            config::RefreshAhead::After(share) => RefreshAhead::After(share),
        },
        stale_while_revalidate: config.stale_while_revalidate,
        stale_if_error: config.stale_if_error,
        missing_ttl: config.missing_ttl,
        failure_ttl: config.failure_ttl,
        soft_timeout: config.soft_timeout,
        timeout: config.timeout,
    }
}
