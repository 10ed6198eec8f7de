//! The plugin host: compiles components, checks them, runs them within their limits, and swaps them while requests run.
//!
//! Alone in naming wasmtime. Knows neither axum nor Redis, and of the cache only the traits it implements:
//! [`crate::cache::Loader`] and [`crate::key::KeyPolicy`].

mod async_loader;
mod backoff;
mod bindings;
mod blocking;
mod breaker;
mod compile;
mod driver;
mod engine;
mod examine;
mod fault;
mod instance;
mod launch;
mod limits;
mod linkers;
mod meter;
mod output;
mod policy;
mod prepared;
mod queue;
mod runtime;
mod standin;
mod state;
mod ticker;

pub use compile::{Compiled, Exports};
pub use engine::{Description, Engine};
pub use limits::{LimitRow, Limits};
pub use runtime::{Condition, Launched, Refusal, Runtime, Spec};
pub use standin::{Egress, SecretError, Secrets};
