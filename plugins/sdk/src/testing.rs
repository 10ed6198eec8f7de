//! A plugin's functions as native unit tests: settings, secrets and answers of a source are what the test says.
//!
//! ```
//! use larder_plugin::prelude::*;
//! use larder_plugin::testing::Test;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Params {
//!     key: String,
//! }
//!
//! async fn load(params: Params, _: Context) -> Result<Value, Error> {
//!     Ok(json!({ "data": params.key }))
//! }
//!
//! let answer = Test::new().load(load, &[("key", "42")]).unwrap();
//! assert_eq!(answer.json(), json!({ "data": "42" }));
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll as TaskPoll, Wake, Waker};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::call;
use crate::context::Context;
use crate::contract::types::{Outcome, Param, Question, Target, Validator};
use crate::error::Error;
use crate::http::{Fault, Request as HttpRequest, Response};
use crate::key::{Key, Request};
use crate::reply::IntoReply;

type Source = Rc<dyn Fn(&HttpRequest) -> Result<Response, Fault>>;

/// What the host would offer, and the way to call a function.
#[derive(Clone, Default)]
pub struct Test {
    config: Option<Value>,
    secrets: BTreeMap<String, String>,
    source: Option<Source>,
    known: Option<Validator>,
}

/// What a load answered.
#[derive(Clone, Debug)]
pub struct Answer(Outcome);

impl Test {
    /// No settings, no secrets, no source.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The sidecar's `[config]`.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = Some(config);
        self
    }

    /// A secret.
    #[must_use]
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What answers the plugin's HTTP requests.
    #[must_use]
    pub fn source(
        mut self,
        source: impl Fn(&HttpRequest) -> Result<Response, Fault> + 'static,
    ) -> Self {
        self.source = Some(Rc::new(source));
        self
    }

    /// The entity tag of the entry in hand.
    #[must_use]
    pub fn known(mut self, etag: &str) -> Self {
        self.known = Some(Validator {
            etag: Some(etag.to_owned()),
            last_modified_ms: None,
        });
        self
    }

    /// One load, for these parts.
    ///
    /// # Errors
    /// What the function fails with, and parts or settings that do not fit.
    pub fn load<P, C, R, F>(
        &self,
        load: impl Fn(P, Context<C>) -> F,
        parts: &[(&str, &str)],
    ) -> Result<Answer, Error>
    where
        P: DeserializeOwned,
        C: DeserializeOwned + 'static,
        R: IntoReply,
        F: Future<Output = Result<R, Error>>,
    {
        let question = Question {
            target: Target {
                route: "/test".to_owned(),
                parts: params(parts),
                deadline_ms: 2000,
                traceparent: None,
                hints: Vec::new(),
            },
            known: self.known.clone(),
        };
        self.within(|| block_on(call::load(load, question)))
            .map(Answer)
            .map_err(Error)
    }

    /// One derivation.
    ///
    /// # Errors
    /// What the policy rejects the request with.
    pub fn derive<C: DeserializeOwned + 'static>(
        &self,
        derive: impl Fn(Request, &C) -> Result<Key, Error>,
        request: Request,
    ) -> Result<Key, Error> {
        self.within(|| {
            let config = crate::context::config::<C>().map_err(Error)?;
            derive(request, &config)
        })
    }

    /// Runs anything that asks for settings, secrets or a source.
    pub fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        crate::context::forget();
        let before = HOST.replace(self.clone());
        let result = run();
        HOST.set(before);
        crate::context::forget();
        result
    }
}

impl Answer {
    /// Whether it is an absence.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        matches!(self.0, Outcome::Missing(_))
    }

    /// Whether it is "unchanged".
    #[must_use]
    pub const fn is_unchanged(&self) -> bool {
        matches!(self.0, Outcome::NotModified(_))
    }

    /// The body as JSON; null if there is none.
    #[must_use]
    pub fn json(&self) -> Value {
        match &self.0 {
            Outcome::Found(entry) => serde_json::from_slice(&entry.body).unwrap_or_default(),
            _ => Value::Null,
        }
    }

    /// The tags that it is purged by; "unchanged" has none of its own.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        match &self.0 {
            Outcome::Found(entry) => &entry.tags,
            Outcome::Missing(absence) => &absence.tags,
            Outcome::NotModified(_) => &[],
        }
    }

    /// The contract's own record of it.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.0
    }
}

/// Pairs as parts.
#[must_use]
pub fn params(parts: &[(&str, &str)]) -> Vec<Param> {
    let param = |&(name, value): &(&str, &str)| Param {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    parts.iter().map(param).collect()
}

/// An answer of a source.
#[must_use]
pub fn response(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Response {
    let field = |&(name, value): &(&str, &str)| (name.to_owned(), value.as_bytes().to_vec());
    Response {
        status,
        headers: headers.iter().map(field).collect(),
        body: body.into(),
    }
}

thread_local! {
    static HOST: RefCell<Test> = RefCell::default();
}

pub(crate) fn settings() -> String {
    let config = HOST.with_borrow(|host| host.config.clone());
    config.unwrap_or_else(|| json!({})).to_string()
}

pub(crate) fn secret(name: &str) -> Option<String> {
    HOST.with_borrow(|host| host.secrets.get(name).cloned())
}

pub(crate) fn send(request: &HttpRequest) -> Result<Response, Fault> {
    // Taken out first: a source may ask for settings too.
    let source = HOST.with_borrow(|host| host.source.clone());
    match source {
        Some(source) => source(request),
        None => Err(Fault {
            kind: crate::FailureKind::Internal,
            code: "no-source",
            message: format!(
                "{} {} was sent, and the test has no `source`",
                request.method, request.url
            ),
        }),
    }
}

/// Runs a future that waits for nothing but what a test gives it.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = TaskContext::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            TaskPoll::Ready(value) => return value,
            TaskPoll::Pending => std::thread::park(),
        }
    }
}
