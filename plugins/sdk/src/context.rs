//! What a call is told besides its parameters. Knows no source.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::contract::types::{Failure, Param, Target, Validator};
use crate::error::Error;

/// The settings of a plugin that has none: `[config]` must be empty.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// What one call is told. `C` is the type of the sidecar's `[config]`; its fields are reached as fields of this.
#[derive(Debug)]
pub struct Context<C = NoConfig> {
    config: Rc<C>,
    /// The pattern of the route, such as `/data/{key}`.
    pub route: String,
    /// Everything that is known of the request, as text: what the parameters were read from.
    pub parts: Vec<Param>,
    /// How long the host waits for the answer, from the start of the call.
    pub deadline: Duration,
    /// The validator of the entry in hand, if this loader made it: ask the source whether it changed, and answer
    /// [`crate::Reply::unchanged`] if not.
    pub known: Option<Validator>,
    /// The host's span (W3C Trace Context), to hand on to the source.
    pub traceparent: Option<String>,
}

impl<C> Clone for Context<C> {
    fn clone(&self) -> Self {
        Self {
            config: Rc::clone(&self.config),
            route: self.route.clone(),
            parts: self.parts.clone(),
            deadline: self.deadline,
            known: self.known.clone(),
            traceparent: self.traceparent.clone(),
        }
    }
}

impl<C> Context<C> {
    /// The settings.
    #[must_use]
    pub fn config(&self) -> &C {
        &self.config
    }

    /// The first part of this name, as text.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&str> {
        let part = self.parts.iter().find(|part| part.name == name)?;
        Some(&part.value)
    }

    /// The first part of this name, for [`crate::Template::fill`].
    ///
    /// # Errors
    /// `internal`, if there is none: the settings name what the route does not give.
    pub fn part_of_template(&self, name: &str) -> Result<Cow<'_, str>, Error> {
        self.part(name).map(Cow::Borrowed).ok_or_else(|| {
            let message = format!(
                "the settings name {{{name}}}, and there is no such part; add `{name}` to the route's path or key"
            );
            Error::internal(message).code("template-part-missing")
        })
    }
}

impl<C> Deref for Context<C> {
    type Target = C;
    fn deref(&self) -> &C {
        &self.config
    }
}

impl<C: DeserializeOwned + 'static> Context<C> {
    pub(crate) fn of(target: &Target, known: Option<Validator>) -> Result<Self, Failure> {
        Ok(Self {
            config: config()?,
            route: target.route.clone(),
            parts: target.parts.clone(),
            deadline: Duration::from_millis(target.deadline_ms.into()),
            known,
            traceparent: target.traceparent.clone(),
        })
    }

    /// Of what is no load: a start, a probe, a poll.
    pub(crate) fn of_nothing() -> Result<Self, Failure> {
        Ok(Self {
            config: config()?,
            route: String::new(),
            parts: Vec::new(),
            deadline: Duration::from_secs(10),
            known: None,
            traceparent: None,
        })
    }
}

thread_local! {
    /// Settings do not change while an instance lives, so they are read once.
    static READ: RefCell<Option<Rc<dyn Any>>> = const { RefCell::new(None) };
}

/// Forgets the settings: a native test has its own.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn forget() {
    READ.take();
}

/// The sidecar's `[config]` as a `C`.
pub(crate) fn config<C: DeserializeOwned + 'static>() -> Result<Rc<C>, Failure> {
    let read = READ.with_borrow(|read| read.clone()?.downcast::<C>().ok());
    if let Some(config) = read {
        return Ok(config);
    }
    let config = serde_json::from_str::<C>(&settings()).map_err(|fault| {
        // The host checks them by the schema first, so this speaks where a type asks for more than its schema says.
        let message = format!("[config] does not fit: {fault}; correct the sidecar");
        Error::internal(message).code("settings-unfit").0
    })?;
    let config = Rc::new(config);
    READ.set(Some(Rc::clone(&config) as Rc<dyn Any>));
    Ok(config)
}

fn settings() -> String {
    #[cfg(target_arch = "wasm32")]
    return crate::contract::settings::get();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::settings()
}
