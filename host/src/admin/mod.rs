//! The second listener, for operators: health, metrics, what is loaded, what is stored, and purges.
//!
//! Knows nothing of the public listener: both stand beside each other on the same rooms.

mod access;
pub mod audit;
mod dashboard;
mod described;
mod entries;
mod overview;
mod purge;
mod queue;
mod ready;
mod reload;
mod warm;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::cache::freshness::RefreshAhead;
use crate::cache::{Cache, Link};
use crate::metrics::{Labelled, Metrics, Sample, text};
use crate::plugin::{Account, PluginState, PluginStatus, Registry, ReloadError};
use crate::route::{Route, Rule, Snapshot};
use crate::write::behind::Behind;

pub use access::{Peer, Tokens};
use audit::Deed;
pub use reload::Configuration;

/// What the operator's listener stands on.
#[derive(Clone)]
pub struct Admin {
    /// The routes as they are now.
    pub routes: Arc<ArcSwap<Snapshot>>,
    /// The tiers and flights.
    pub cache: Arc<Cache>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The plugins.
    pub plugins: Arc<Registry>,
    /// Changes that are accepted before they are made; none where no route takes such.
    pub behind: Option<Arc<Behind>>,
    /// Values measured when `/metrics` is asked.
    pub samples: Arc<dyn Fn() -> Vec<Sample> + Send + Sync>,
    /// The tokens of `[admin]` as they are now.
    pub tokens: Arc<ArcSwap<Tokens>>,
    /// The configuration, to be read again.
    pub configuration: Arc<dyn Configuration>,
    /// When the server was started.
    pub started: std::time::Instant,
    /// Whether the server is draining.
    pub draining: watch::Receiver<bool>,
}

impl Admin {
    /// The paths, top-down.
    pub fn router(self) -> Router {
        let open = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/dashboard/{*name}", get(dashboard::asset))
            .route("/readyz", get(ready::readyz));
        let of_routes = Router::new()
            .route("/plugins/{name}/reload", post(reload_plugin))
            .route("/routes", get(routes))
            .route("/entries", get(entries::entries))
            .route("/purge", post(purge::purge))
            .route("/warm", post(warm::warm))
            .route("/reload", post(reload::reload))
            .route("/queue", get(queue::queue))
            .route("/queue/dead", get(queue::dead))
            .route("/queue/dead/retry", post(queue::retry))
            .route("/queue/dead/drop", post(queue::drop))
            .layer(middleware::from_fn_with_state(self.clone(), once_judged));
        let guarded = Router::new()
            .route("/", get(index))
            .route("/metrics", get(metrics))
            .route("/overview", get(overview::overview))
            .route("/plugins", get(plugins))
            .merge(of_routes)
            .layer(middleware::from_fn(access::require_token))
            .layer(middleware::from_fn(audit::audit))
            .layer(middleware::from_fn_with_state(
                self.clone(),
                access::know_caller,
            ));
        open.merge(guarded)
            .fallback(not_found)
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(self)
    }
}

/// An answer that is a problem (RFC 9457), for machines and readers alike.
pub(crate) struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": format!("urn:larder:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Problem"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let content_type = (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        let response = (self.status, [content_type], body.to_string()).into_response();
        let deed = Deed {
            on: String::new(),
            outcome: format!("{}: {}", self.code, self.detail),
        };
        deed.with(response)
    }
}

const INDEX: &str = "Larder, admin listener

GET  /livez                      the process runs
GET  /readyz                     configuration and plugins are judged; not draining
GET  /                           the dashboard, in a browser
GET  /metrics                    Prometheus
GET  /overview                   what the dashboard shows
GET  /plugins                    what is loaded, and what is wrong with what is not
POST /plugins/{name}/reload      judge a plugin's files now
POST /reload                     read the configuration again, as SIGHUP does
GET  /routes                     how requests are answered
GET  /entries?path=/data/42      every stored variant of a resource
POST /purge                      {\"path\": …} | {\"path\": …, \"headers\": {…}, \"exact\": true} | {\"tag\": …} | {\"tags\": […]} | {\"route\": …} | {\"all\": true}, \"mode\": \"delete\" | \"expire\"
GET  /queue                      changes that are accepted and not made yet
GET  /queue/dead                 those that were given up; ?after=ID&limit=100
POST /queue/dead/retry           {\"id\": …, \"force\": true} | {\"all\": true}
POST /queue/dead/drop            {\"id\": …} | {\"all\": true}
POST /warm                       {\"paths\": [\"/data/42\", …], \"headers\": {…}, \"rate\": 100}
";

/// The dashboard for a browser, and the addresses for anybody else.
async fn index(request: Request) -> Response {
    if dashboard::is_page(&request) {
        return dashboard::page(request.headers());
    }
    INDEX.into_response()
}

async fn not_found(request: Request) -> Problem {
    let detail = format!(
        "{} is not an address of the admin listener; GET / lists them",
        request.uri().path()
    );
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!(
        "{} does not answer {}; GET / lists what does",
        request.uri().path(),
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

/// What stands on the routes waits for them: before that a purge, say, would not find what it is to purge.
async fn once_judged(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if !admin.routes.load().is_starting() {
        return next.run(request).await;
    }
    let detail = "the plugins are still being judged; GET /readyz says when they are";
    let mut response =
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail).into_response();
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

async fn metrics(State(admin): State<Admin>, request: HeaderMap) -> Response {
    let mut samples = (admin.samples)();
    if let Some(behind) = &admin.behind {
        samples.extend(queue::samples(behind, admin.cache.clock().now_ms()).await);
    }
    let (entries, bytes) = admin.cache.memory().size();
    let (loads, waiters) = admin.cache.in_flight();
    let gauge = |name, help, value| Sample {
        name,
        help,
        value,
        counter: false,
    };
    samples.extend([
        gauge(
            "memory_entries",
            "Entries in the memory tier",
            entries as u64,
        ),
        gauge(
            "redis_up",
            "Whether the tier that nodes share is asked: 1; 0: it is away, or there is none",
            u64::from(
                admin
                    .cache
                    .shared()
                    .is_some_and(|shared| shared.health().available),
            ),
        ),
        gauge(
            "memory_bytes",
            "Bytes of the entries in the memory tier",
            bytes,
        ),
        gauge("loads_in_flight", "Loads running", loads as u64),
        gauge(
            "requests_waiting",
            "Requests waiting for a load",
            waiters as u64,
        ),
        gauge(
            "purge_seq",
            "The seq of the last purge this node knows of",
            admin.cache.generations().seq(),
        ),
        gauge(
            "purges_remembered",
            "Purges whose generation is remembered",
            admin.cache.generations().remembered() as u64,
        ),
    ]);
    let text = admin.metrics.render(&samples, of_plugins(&admin));
    let accept = request.get(header::ACCEPT);
    let accept = accept.and_then(|accept| accept.to_str().ok());
    // What Prometheus itself asks for first; tools that name neither read the older one.
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        return ([(header::CONTENT_TYPE, text::OPEN)], text).into_response();
    }
    (
        [(header::CONTENT_TYPE, text::CLASSIC)],
        text::classic(&text),
    )
        .into_response()
}

/// What is counted of each plugin. There are as many as the directory holds, which is bounded.
fn of_plugins(admin: &Admin) -> Vec<Labelled> {
    let accounts = admin.plugins.accounts();
    let status = admin.plugins.status();
    let up = status.iter().map(|plugin| {
        let is_up = plugin.state == PluginState::Ready;
        (plugin.name.clone(), u64::from(is_up))
    });
    let each = |name, help, counter, count: fn(&Account) -> u64| Labelled {
        name,
        help,
        label: "plugin",
        values: accounts
            .iter()
            .map(|(plugin, account)| (plugin.clone(), count(account)))
            .collect(),
        counter,
    };
    vec![
        Labelled {
            name: "plugin_up",
            help: "Whether the plugin is ready: 1, or 0 in any other state of GET /plugins",
            label: "plugin",
            values: up.collect(),
            counter: false,
        },
        each(
            "plugin_calls",
            "Calls of the served version that ended; calls = answers + failures + faults",
            true,
            |account| account.calls,
        ),
        each(
            "plugin_failures",
            "Of these, failures that the plugin returned",
            true,
            |account| account.failures,
        ),
        each(
            "plugin_faults",
            "Of these, traps and passed limits",
            true,
            |account| account.faults,
        ),
        each(
            "plugin_waiting",
            "Calls that wait for a place in the plugin",
            false,
            |account| account.waiting,
        ),
        each(
            "plugin_shed",
            "Calls that were turned away: no room to wait, or no time to be answered in",
            true,
            |account| account.shed,
        ),
        each(
            "plugin_memory_peak_bytes",
            "The most linear memory that one instance had",
            false,
            |account| account.memory_peak,
        ),
    ]
}

async fn plugins(State(admin): State<Admin>) -> Json<Value> {
    Json(admin.plugins.status().iter().map(plugin_json).collect())
}

fn plugin_json(status: &PluginStatus) -> Value {
    let kinds: Vec<_> = status.kinds.iter().map(|kind| kind.name()).collect();
    json!({
        "name": status.name,
        "kind": kinds.first(),
        "kinds": kinds,
        "state": status.state.name(),
        "version": status.version,
        "digest": status.digest,
        "error": status.error,
    })
}

async fn reload_plugin(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    match admin.plugins.reload(&name).await {
        Ok(status) => {
            let digest = status.digest.as_deref().unwrap_or("none");
            let deed = Deed {
                on: format!("plugin {name}"),
                outcome: format!("{}, digest {digest}", status.state.name()),
            };
            deed.with(Json(plugin_json(&status)).into_response())
        }
        Err(ReloadError::Unknown) => {
            let detail = format!("there is no {name}.wasm in the plugin directory");
            Problem::new(StatusCode::NOT_FOUND, "unknown-plugin", detail).into_response()
        }
        Err(ReloadError::Refused(why)) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "plugin-refused", why).into_response()
        }
    }
}

async fn routes(State(admin): State<Admin>) -> Json<Value> {
    Json(
        admin
            .routes
            .load()
            .routes()
            .iter()
            .map(|route| route_json(route))
            .collect(),
    )
}

fn route_json(route: &Route) -> Value {
    let policy = &route.binding.policy;
    let text = |duration| humantime::format_duration(duration).to_string();
    let loaders: Vec<Value> = route
        .binding
        .chain
        .iter()
        .map(|link| match link {
            Link::Ready(loader) => json!({"name": loader.name(), "loaded": true}),
            Link::NotLoaded { name, why } => json!({"name": name, "loaded": false, "error": why}),
        })
        .collect();
    let names = |headers: &[http::HeaderName]| {
        headers
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    let key = match &route.rule {
        Rule::Parts {
            path,
            query,
            headers,
        } => json!({"path": path, "query": query, "headers": names(headers)}),
        Rule::Policy { policy, headers } => {
            json!({"policy": policy.name(), "headers": names(headers)})
        }
        Rule::NotLoaded { name, why } => json!({"policy": name, "error": why}),
    };
    json!({
        "path": &*route.pattern,
        "loaders": loaders,
        "identity": &*route.identity,
        "key": key,
        "ttl": text(policy.ttl),
        "ttl_max": text(policy.ttl_max),
        "jitter": policy.jitter,
        "refresh_ahead": match policy.refresh_ahead {
            RefreshAhead::Off => "off".to_owned(),
            RefreshAhead::Auto => "auto".to_owned(),
            RefreshAhead::After(share) => format!("{}%", share * 100.0),
        },
        "stale_while_revalidate": text(policy.stale_while_revalidate),
        "stale_if_error": text(policy.stale_if_error),
        "missing_ttl": text(policy.missing_ttl),
        "failure_ttl": text(policy.failure_ttl),
        "soft_timeout": policy.soft_timeout.map(text),
        "timeout": text(policy.timeout),
        "batch_window": text(route.binding.batching.window),
        "batch_max": route.binding.batching.max,
    })
}
