//! Request → parts → key, by the listed names or by a key policy. What is not in the parts never reaches a loader
//! (law 1), and this file is where a request is last seen whole.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderName;
use serde_json::Value;

use super::fields::Fields;
use super::memo::Remembered;
use super::text::{NotUtf8, decode_path_value, decode_query};
use super::{Brief, Place, Route, Rule, Snapshot};
use crate::cache::Ask;
use crate::config::{UnknownQuery, nearest};
use crate::error::{Failure, FailureKind};
use crate::key::{
    Decision, Derivation, Key, KeyPolicy, KeyTooLarge, Param, PolicyRequest, Resource, Visibility,
};
use crate::metrics::Metrics;

/// What a request became: everything that answering it needs.
pub struct Derived {
    /// The route, for its counters and its policy.
    pub route: Arc<Route>,
    /// The question to the cache.
    pub ask: Ask,
    /// The policy said to load past the cache, and why.
    pub bypass: Option<String>,
    /// What a hit asks of the route.
    pub brief: Brief,
}

impl Derived {
    fn says_the_same(&self, other: &Self) -> bool {
        self.ask.key == other.ask.key
            && self.ask.visibility == other.ask.visibility
            && self.bypass == other.bypass
    }

    pub(super) fn weight(&self) -> u64 {
        let parts: usize = self
            .ask
            .parts
            .iter()
            .map(|part| part.name.len() + part.value.len() + 48)
            .sum();
        (size_of::<Self>() + self.ask.key.text().len() * 2 + parts) as u64
    }
}

/// Why a request became nothing. Each has its own status (DESIGN section 6).
#[derive(Clone, Debug)]
pub enum Refusal {
    /// No route has this path: 404.
    NoRoute,
    /// The plugins are still being judged, and with them the routes: 503.
    Starting,
    /// 400.
    NotUtf8(NotUtf8),
    /// Parameters that do not fit: 422, one item per fault.
    Invalid(Vec<Fault>),
    /// 422: the client's own parts are too large.
    KeyTooLarge(KeyTooLarge),
    /// 500: the policy's parts are too large.
    PolicyKeyTooLarge(KeyTooLarge),
    /// The key policy refuses the request.
    Rejected(Failure),
    /// The key policy itself failed: 500, or 503 when it is overloaded or not loaded.
    PolicyFailed(Failure),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route has the path"),
            Self::Starting => f.write_str("the plugins are still being judged"),
            Self::NotUtf8(error) => error.fmt(f),
            Self::Invalid(faults) => {
                let messages: Vec<&str> = faults.iter().map(|it| it.message.as_str()).collect();
                f.write_str(&messages.join("; "))
            }
            Self::KeyTooLarge(error) | Self::PolicyKeyTooLarge(error) => error.fmt(f),
            Self::Rejected(failure) | Self::PolicyFailed(failure) => f.write_str(&failure.message),
        }
    }
}

/// One parameter that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In the path or in the query.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// The JSON Schema keyword it fails, or `required`.
    pub code: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// Where among the parameters of that place, as a JSON Pointer (RFC 6901), e.g. `/page`.
    pub pointer: String,
    /// What the schema says under `code`.
    pub expected: Option<Value>,
}

/// Unknown query parameters that are told one by one (law 12).
const UNKNOWN_TOLD_MAX: usize = 16;

/// Derivations that are compared with a fresh instance's: each of the first ones, then every n-th, then, of a policy that has
/// long been seen to be pure, every so many. A fresh instance is much dearer than a call.
const SAMPLED_FIRST: u64 = 32;
const SAMPLED_OFTEN: (u64, u64) = (16 * 1024, 256);
const SAMPLED_EVERY: u64 = 2048;
/// Every n-th use of a remembered derivation derives it anew, whatever its route. A prime: requests that come in turns of some
/// length all have their turn to be it.
const REMEMBERED_SAMPLED_EVERY: u64 = 4093;

thread_local! {
    /// Where the bytes are put together that a request is remembered by. Empty but while they are looked for.
    static MEMO_KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Snapshot {
    /// What a request becomes. Remembered by the bytes it can depend on.
    ///
    /// # Errors
    /// [`Refusal`], with the route whose counters it belongs to, if one matched.
    pub fn derive(
        &self,
        path_and_query: &str,
        headers: &impl Fields,
        metrics: &Metrics,
    ) -> Result<Arc<Derived>, (Option<Arc<Route>>, Refusal)> {
        let mut remembered = None;
        let mut is_by_headers = false;
        match self.memo.get(path_and_query.as_bytes()) {
            Some(Remembered::Derived(derived)) => remembered = Some(derived),
            Some(Remembered::ByHeaders(list)) => {
                is_by_headers = true;
                remembered = MEMO_KEY.with_borrow_mut(|key| {
                    let lists = &self.header_lists;
                    lists.write_memo_key(list, key, path_and_query, headers);
                    self.derived_from(key)
                });
            }
            None => {}
        }
        if let Some(derived) = remembered.take_if(|derived| !self.is_sample_due(derived)) {
            return Ok(derived);
        }
        let (path, query) = path_and_query
            .split_once('?')
            .unwrap_or((path_and_query, ""));
        let (route, params) = self.find(path).ok_or_else(|| (None, self.unrouted()))?;
        let of_route = |refusal| (Some(Arc::clone(route)), refusal);
        let mut key = Vec::new();
        let lists = &self.header_lists;
        let has_headers =
            lists.write_memo_key(route.header_list, &mut key, path_and_query, headers);
        if has_headers && !is_by_headers {
            remembered = self.derived_from(&key);
            if let Some(derived) = remembered.take_if(|derived| !self.is_sample_due(derived)) {
                // It is asked for again: a second thing to remember pays only now.
                let list = Remembered::ByHeaders(route.header_list);
                self.memo.insert(path_and_query.as_bytes(), list);
                return Ok(derived);
            }
        }
        let request =
            Request::decode(route, &params, query).map_err(|e| of_route(Refusal::NotUtf8(e)))?;
        let faults = request.faults(route);
        if !faults.is_empty() {
            return Err(of_route(Refusal::Invalid(faults)));
        }
        let derived = route.derive(request, headers, self);
        if let (Rule::Policy { policy, .. }, Some(remembered)) = (&route.rule, &remembered) {
            let same = match &derived {
                Ok(derived) => derived.says_the_same(remembered),
                Err(Refusal::PolicyFailed(_)) => true,
                Err(_) => false,
            };
            if !same {
                let failure = self.quarantine(policy.as_ref(), &route.pattern);
                return Err(of_route(Refusal::PolicyFailed(failure)));
            }
        }
        let derived = derived.map_err(of_route)?;
        metrics.derivations_called.inc();
        let derived = Arc::new(derived);
        self.memo
            .insert(&key, Remembered::Derived(Arc::clone(&derived)));
        Ok(derived)
    }

    /// Whether a remembered derivation is to be derived anew, to see whether the policy still says the same.
    #[inline]
    fn is_sample_due(&self, derived: &Derived) -> bool {
        derived.brief.has_policy
            && self.policy_hits.0.fetch_add(1, Ordering::Relaxed) % REMEMBERED_SAMPLED_EVERY
                == REMEMBERED_SAMPLED_EVERY - 1
    }

    /// What a request became that these bytes stand for.
    fn derived_from(&self, key: &[u8]) -> Option<Arc<Derived>> {
        match self.memo.get(key)? {
            Remembered::Derived(derived) => Some(derived),
            Remembered::ByHeaders(_) => None,
        }
    }

    /// What a request that is to change something becomes: as a read of the same resource, but that the key policy is told the
    /// method. Not remembered.
    ///
    /// # Errors
    /// As [`Snapshot::derive`].
    pub fn derive_write(
        &self,
        method: &'static str,
        path_and_query: &str,
        headers: &impl Fields,
    ) -> Result<Derived, (Option<Arc<Route>>, Refusal)> {
        let (path, query) = path_and_query
            .split_once('?')
            .unwrap_or((path_and_query, ""));
        let (route, params) = self.find(path).ok_or_else(|| (None, self.unrouted()))?;
        let of_route = |refusal| (Some(Arc::clone(route)), refusal);
        let mut request =
            Request::decode(route, &params, query).map_err(|e| of_route(Refusal::NotUtf8(e)))?;
        request.method = method;
        let faults = request.faults(route);
        if !faults.is_empty() {
            return Err(of_route(Refusal::Invalid(faults)));
        }
        route.derive(request, headers, self).map_err(of_route)
    }

    fn quarantine(&self, policy: &dyn KeyPolicy, route: &str) -> Failure {
        let why = format!(
            "it answered the same request to {route} in two ways: key policies must be pure"
        );
        policy.quarantine(&why);
        self.memo.turn_off();
        let message = format!(
            "the key policy `{}` is out of service: {why}",
            policy.name()
        );
        Failure::host(FailureKind::Internal, "policy-impure", message)
    }

    /// The resource a path names, for purges and look-ups; `None` if no route has it.
    pub fn resource(&self, path: &str) -> Option<(Arc<Route>, Resource)> {
        let (route, params) = self.find(path)?;
        let values: Option<Vec<String>> = params
            .iter()
            .map(|(name, raw)| decode_path_value(name, raw).ok())
            .collect();
        let resource = Resource::new(&route.pattern, values?.iter().map(String::as_str));
        Some((Arc::clone(route), resource))
    }
}

/// A request's path parameters and query, decoded.
struct Request {
    /// `GET` for reads.
    method: &'static str,
    path: Vec<Param>,
    query: Vec<Param>,
}

impl Request {
    fn decode(
        route: &Route,
        params: &matchit::Params<'_, '_>,
        query: &str,
    ) -> Result<Self, NotUtf8> {
        debug_assert_eq!(route.params.len(), params.len());
        let path = params
            .iter()
            .map(|(name, raw)| {
                Ok(Param {
                    name: name.to_owned(),
                    value: decode_path_value(name, raw)?,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            method: "GET",
            path,
            query: decode_query(query)?,
        })
    }

    fn faults(&self, route: &Route) -> Vec<Fault> {
        let mut faults = Vec::new();
        for check in &route.checks {
            let params = match check.place {
                Place::Path => &self.path,
                Place::Query => &self.query,
            };
            let mut seen = false;
            for param in params.iter().filter(|param| param.name == check.name) {
                seen = true;
                let failed = check
                    .parameter()
                    .check(&param.value)
                    .err()
                    .into_iter()
                    .flatten();
                faults.extend(failed.map(|fault| Fault {
                    place: check.place,
                    name: check.name.clone(),
                    code: fault.code,
                    message: fault.message,
                    pointer: format!("{}{}", pointer(&check.name), fault.pointer),
                    expected: fault.expected,
                }));
            }
            if !seen && check.parameter().required {
                faults.push(Fault {
                    place: check.place,
                    name: check.name.clone(),
                    code: "required".into(),
                    message: format!(
                        "the {} parameter `{}` is required",
                        check.place.name(),
                        check.name
                    ),
                    pointer: pointer(&check.name),
                    expected: Some(Value::Bool(true)),
                });
            }
        }
        if route.config.unknown_query == UnknownQuery::Refuse {
            faults.extend(self.unknown(route));
        }
        faults
    }

    /// Query parameters that nothing declares or keys.
    fn unknown(&self, route: &Route) -> impl Iterator<Item = Fault> {
        let known = route.query_names();
        let strangers = self
            .query
            .iter()
            .filter(|param| !known.contains(&param.name.as_str()));
        let mut seen = Vec::new();
        for param in strangers {
            if !seen.contains(&&param.name) && seen.len() < UNKNOWN_TOLD_MAX {
                seen.push(&param.name);
            }
        }
        let told = seen.into_iter().map(|name| Fault {
            place: Place::Query,
            name: name.clone(),
            code: "unknown-parameter".into(),
            message: match nearest(name, known.iter().copied()) {
                _ if known.is_empty() => {
                    format!("there is no query parameter `{name}`: the route has none")
                }
                (near, true) => {
                    format!("there is no query parameter `{name}`; did you mean `{near}`?")
                }
                (_, false) => format!(
                    "there is no query parameter `{name}`; there are {}",
                    known.join(", ")
                ),
            },
            pointer: pointer(name),
            expected: Some(known.iter().copied().collect()),
        });
        told.collect::<Vec<_>>().into_iter()
    }
}

impl Route {
    fn derive(
        self: &Arc<Self>,
        request: Request,
        headers: &impl Fields,
        snapshot: &Snapshot,
    ) -> Result<Derived, Refusal> {
        let resource = Resource::new(
            &self.pattern,
            request.path.iter().map(|param| param.value.as_str()),
        );
        let (derivation, bypass, too_large): (_, _, fn(KeyTooLarge) -> Refusal) = match &self.rule {
            Rule::Parts {
                path,
                query,
                headers: names,
            } => {
                let parts = listed(path, &request.path)
                    .chain(listed(query, &request.query))
                    .cloned()
                    .chain(header_params(names, headers).map_err(Refusal::NotUtf8)?)
                    .collect();
                let derivation = Derivation {
                    parts,
                    visibility: Visibility::Public,
                    hints: Vec::new(),
                };
                (derivation, None, Refusal::KeyTooLarge)
            }
            Rule::Policy {
                policy,
                headers: names,
            } => {
                let request = PolicyRequest {
                    method: request.method,
                    route: Arc::clone(&self.pattern),
                    path: request.path,
                    query: request.query,
                    headers: header_params(names, headers).map_err(Refusal::NotUtf8)?,
                };
                match self.ask_policy(policy.as_ref(), &request, snapshot)? {
                    Decision::Cache(derivation) => (derivation, None, Refusal::PolicyKeyTooLarge),
                    Decision::Bypass(derivation) => {
                        let reason = bypass_reason(&derivation);
                        (derivation, Some(reason), Refusal::PolicyKeyTooLarge)
                    }
                    Decision::Reject(failure) => return Err(Refusal::Rejected(failure)),
                }
            }
            Rule::NotLoaded { name, why } => {
                let message = format!("the key policy `{name}` of this route is not loaded: {why}");
                let failure = Failure::host(FailureKind::NotLoaded, "plugin-not-loaded", message);
                return Err(Refusal::PolicyFailed(failure));
            }
        };
        let key = Key::new(&resource, &self.identity, &derivation.parts).map_err(too_large)?;
        let (binding, parts) = (Arc::clone(&self.binding), derivation.parts.into());
        Ok(Derived {
            route: Arc::clone(self),
            ask: Ask::new(binding, key, parts, derivation.visibility),
            bypass,
            brief: self.brief.clone(),
        })
    }

    /// Asks a reused instance and, for a sample, a fresh one: guest state could break the purity that remembering
    /// relies on, and then one client's key could be another's.
    fn ask_policy(
        &self,
        policy: &dyn KeyPolicy,
        request: &PolicyRequest,
        snapshot: &Snapshot,
    ) -> Result<Decision, Refusal> {
        let decision = policy.derive(request).map_err(Refusal::PolicyFailed)?;
        let calls = self.policy_calls.fetch_add(1, Ordering::Relaxed);
        if is_sampled(calls) {
            let fresh = policy
                .derive_fresh(request)
                .map_err(Refusal::PolicyFailed)?;
            if fresh != decision {
                return Err(Refusal::PolicyFailed(
                    snapshot.quarantine(policy, &self.pattern),
                ));
            }
        }
        Ok(decision)
    }
}

/// Whether the derivation after so many is compared with a fresh instance's.
fn is_sampled(calls: u64) -> bool {
    let (long, often) = SAMPLED_OFTEN;
    calls < SAMPLED_FIRST || calls.is_multiple_of(if calls < long { often } else { SAMPLED_EVERY })
}

/// The JSON Pointer of a parameter.
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The parameters of these names: by name in the listed order, and for each in request order.
fn listed<'a>(names: &'a [String], params: &'a [Param]) -> impl Iterator<Item = &'a Param> {
    names
        .iter()
        .flat_map(move |name| params.iter().filter(move |param| param.name == *name))
}

fn header_params(names: &[HeaderName], headers: &impl Fields) -> Result<Vec<Param>, NotUtf8> {
    let mut params = Vec::new();
    for name in names {
        for value in headers.all(name) {
            let value = std::str::from_utf8(value).map_err(|_| NotUtf8 {
                place: format!("the header \"{name}\""),
            })?;
            params.push(Param::new(name.as_str(), value));
        }
    }
    Ok(params)
}

/// Why the policy bypasses, for `Cache-Status`: its hint `reason`, made a token, or that it was the policy.
fn bypass_reason(derivation: &Derivation) -> String {
    let reason = derivation
        .hints
        .iter()
        .find(|hint| hint.name == "reason")
        .map_or("", |hint| hint.value.as_str());
    let token: String = reason
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(64)
        .collect();
    if token.starts_with(|c: char| c.is_ascii_alphabetic()) {
        token
    } else {
        "key-policy".into()
    }
}
