//! What the first-party plugins share: the contract's types with short ways to make them, settings, and `{name}`
//! templates.
//!
//! Must not know what a plugin does. A plugin generates the bindings of its own exports and takes those of the types and
//! the host from here, with the `with` of `wit_bindgen::generate!`.

#![warn(missing_docs)]

pub use larder_plugin::Template;

pub use contract::types::{
    Absence, Derivation, Entry, Failure, FailureKind, Outcome, Param, Question, Renewal, Target,
    Validator, Visibility,
};

/// The bindings of the contract's types and of what the host offers. Documented in `wit/`.
#[allow(missing_docs, reason = "generated: the documentation is in wit/")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package larder:support;
            world support { include larder:plugin/imports@0.1.0; }
        ",
        generate_all,
    });
}
pub use bindings::larder::plugin as contract;

/// The sidecar's `[config]`.
///
/// # Errors
/// A failure `internal` that names the setting, when the text does not fit `T`. The host checks settings against the
/// descriptor's schema before, so this speaks only when the two disagree.
pub fn settings<T: serde::de::DeserializeOwned>() -> Result<T, Failure> {
    serde_json::from_str(&contract::settings::get()).map_err(|fault| {
        let message = format!("[config] does not fit: {fault}; correct the sidecar");
        Failure::new(FailureKind::Internal, "settings-unfit", message)
    })
}

/// The value of the first of `parts` called `name`.
#[must_use]
pub fn part<'p>(parts: &'p [Param], name: &str) -> Option<&'p str> {
    let part = parts.iter().find(|part| part.name == name)?;
    Some(&part.value)
}

/// The failure `internal` of a plugin whose settings name a part that there is not.
#[must_use]
pub fn no_such_part(name: &str) -> Failure {
    let message = format!(
        "the settings name {{{name}}}, and there is no such part; add `{name}` to the route's path or key"
    );
    Failure::new(FailureKind::Internal, "template-part-missing", message)
}

impl Entry {
    /// An entry with a body and its media type, and nothing said about the rest: the host fills that in.
    #[must_use]
    pub fn new(content_type: &str, body: Vec<u8>) -> Self {
        Self {
            status: None,
            content_type: Some(content_type.to_owned()),
            headers: Vec::new(),
            body,
            validator: None,
            ttl_ms: None,
            tags: Vec::new(),
            hints: Vec::new(),
        }
    }
}

impl Outcome {
    /// There is no such thing, for as long as the route says.
    #[must_use]
    pub const fn nothing() -> Self {
        Self::Missing(Absence {
            ttl_ms: None,
            tags: Vec::new(),
            hints: Vec::new(),
        })
    }

    /// What the host holds still stands, for as long as the route says.
    #[must_use]
    pub const fn unchanged() -> Self {
        Self::NotModified(Renewal {
            ttl_ms: None,
            hints: Vec::new(),
        })
    }
}

impl Failure {
    /// A failure with a code for programs and a sentence for people.
    #[must_use]
    pub fn new(kind: FailureKind, code: &str, message: String) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message,
            retry_after_ms: None,
            details: Vec::new(),
        }
    }
}
