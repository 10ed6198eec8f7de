//! The plugin host: compiles components, checks them, runs them within their limits, and swaps them while requests run.
//!
//! Alone in naming wasmtime. Knows neither axum nor Redis, and of the cache only the traits it implements:
//! [`crate::cache::Loader`] and [`crate::key::KeyPolicy`].
//!
//! [`Workshop`] runs one plugin once, for its author.
//!
//! Two halves meet at a [`Spec`]. The registry (`files` → `watch` → `judge` → `registry` → `version`, with `egress`,
//! `secrets` and `descriptor`) decides which version of which plugin runs, and with what rights; the engine (`engine` →
//! `compile` → `launch` → loaders, policies and feeds) runs it within its limits.
//!
//! Of what a plugin tells by itself (`feeds`), applying it is somebody else's: it is handed to [`Changes`].

mod account;
mod adapter;
mod asking;
mod async_loader;
mod backoff;
mod bindings;
mod blocking;
mod breaker;
mod check;
mod compile;
mod cursors;
mod descriptor;
mod driver;
mod egress;
mod engine;
mod examine;
mod fair;
mod fault;
mod feed;
mod feeds;
mod files;
mod gather;
mod generation;
mod instance;
mod judge;
mod last_good;
mod launch;
mod limits;
mod linkers;
mod meter;
mod needs;
mod output;
mod pages;
mod pen;
mod places;
mod policy;
mod prepared;
mod queue;
mod recording;
mod redact;
mod registry;
mod runtime;
mod secrets;
mod set;
mod settings;
mod shared;
mod sockets;
mod state;
mod status;
#[cfg(test)]
mod testing;
mod ticker;
mod turns;
mod version;
mod watch;
mod workshop;

pub use account::{Account, Line};
pub use check::check;
pub use compile::{CompileLimits, Compiled, Compiling, Exports, Task, Worker, compile_component};
pub use descriptor::{
    BodyFault, Descriptor, DescriptorFault, Parameter, ParameterFault, ParameterPlace, Request,
};
pub use egress::{Bytestring, Egress, EgressClient, EgressHooks, Exchange, Reply, Sent, Tape};
pub use engine::{Description, Engine, Outline};
pub use feeds::Changes;
pub use judge::sha256;
pub use last_good::LastKnown;
pub use limits::{LimitRow, Limits};
pub use needs::Missing;
pub use recording::{Recording, answer, is_said, method_of};
pub use redact::Redactor;
pub use registry::{OnChange, Registry};
pub use runtime::{Change, ChangeFeed, Condition, Launched, Page, Refusal, Runtime, Spec};
pub use secrets::{NoSecret, SecretError, Secrets, stand_in};
pub use set::PluginSet;
pub use settings::SettingFault;
pub use status::{Event, PluginState, PluginStatus, RegistryCounts, ReloadError};
pub use version::{Plugin, PluginKind};
pub use workshop::{
    Answered, Asked, Called, Inspection, PLUGIN_NAME_RULE, SidecarOf, Subject, Workshop,
    is_plugin_name,
};
