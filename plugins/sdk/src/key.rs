//! Key policies: which requests share a value. Pure: the host gives a policy no clock, no randomness and no network.

use crate::contract::key_policy::Decision;
use crate::contract::types::{Derivation, Param, Visibility};

/// What a policy is shown of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` for reads.
    pub method: String,
    /// The pattern of the route.
    pub route: String,
    /// The path parameters, in the order of the pattern.
    pub path: Vec<Param>,
    /// The query, in its order; a repeated name is repeated.
    pub query: Vec<Param>,
    /// The headers that the route lets through (`key_headers`), names in lower case.
    pub headers: Vec<Param>,
}

impl Request {
    /// The first header of this name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        value(&self.headers, name)
    }

    /// The first query parameter of this name.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        value(&self.query, name)
    }

    /// The path parameter of this name.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<&str> {
        value(&self.path, name)
    }
}

fn value<'p>(params: &'p [Param], name: &str) -> Option<&'p str> {
    let param = params.iter().find(|param| param.name == name)?;
    Some(&param.value)
}

/// The parts that requests are told apart by. They are also all that the loader is told.
#[derive(Clone, Debug)]
pub struct Key {
    parts: Vec<Param>,
    visibility: Visibility,
    bypass: bool,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            visibility: Visibility::Public,
            bypass: false,
        }
    }
}

impl Key {
    /// Without parts: every request of the resource shares one value.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part.
    #[must_use]
    pub fn part(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.parts.push(Param {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Adds parts as they are.
    #[must_use]
    pub fn parts(mut self, parts: impl IntoIterator<Item = Param>) -> Self {
        self.parts.extend(parts);
        self
    }

    /// Caches downstream must not share the answer.
    #[must_use]
    pub const fn private(mut self) -> Self {
        self.visibility = Visibility::Private;
        self
    }

    /// Neither look this up nor store it.
    #[must_use]
    pub const fn bypass(mut self) -> Self {
        self.bypass = true;
        self
    }

    /// The parts so far, in their order.
    #[must_use]
    pub fn get_parts(&self) -> &[Param] {
        &self.parts
    }

    pub(crate) fn into_decision(self) -> Decision {
        let derivation = Derivation {
            parts: self.parts,
            visibility: self.visibility,
            hints: Vec::new(),
        };
        if self.bypass {
            Decision::Bypass(derivation)
        } else {
            Decision::Cache(derivation)
        }
    }
}
