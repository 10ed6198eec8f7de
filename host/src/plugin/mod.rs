//! The plugin host: compiles components, checks them, runs them within their limits, and swaps them while requests run.
//!
//! Alone in naming wasmtime. Knows neither axum nor Redis, and of the cache only the traits it implements:
//! [`crate::cache::Loader`] and [`crate::key::KeyPolicy`].

mod compile;
mod engine;
mod limits;
mod runtime;
mod standin;

pub use compile::{Compiled, Exports};
pub use engine::{Description, Engine};
pub use limits::{LimitRow, Limits};
pub use runtime::{Condition, Launched, Refusal, Runtime, Spec};
pub use standin::{Egress, SecretError, Secrets};
