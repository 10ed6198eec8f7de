//! Write a plugin of Larder as one function.
//!
//! ```no_run
//! # fn main() {}
//! # mod plugin {
//! use larder_plugin::prelude::*;
//!
//! #[derive(Deserialize, JsonSchema)]
//! struct Params {
//!     /// Whom to greet.
//!     key: String,
//! }
//!
//! async fn load(params: Params, _: Context) -> Result<Value, Error> {
//!     Ok(json!({ "greeting": format!("Hello {}", params.key) }))
//! }
//!
//! larder_plugin::plugin! { loader: load }
//! # }
//! ```
//!
//! This is a whole loader: built for `wasm32-wasip2` as a `cdylib` it is a component. Its descriptor (parameters, the
//! shape of the answer, settings, needed grants) is derived from the types.
//!
//! # Layout
//!
//! - [`plugin!`]: what a component exports, and what it says about itself.
//! - [`Context`]: what a call is told besides its parameters: settings, the route, the deadline, the validator in hand.
//! - [`Reply`]: an answer with its time to live, tags and validator; or an absence; or "unchanged".
//! - [`Error`]: a failure of a kind; made from any error with `?`.
//! - [`Key`] and [`Request`]: for key policies. [`Mutation`] and [`Receipt`]: for writers. [`Page`]: for change feeds.
//! - [`http`]: a client. `tcp`, with the feature of that name: connections. [`secret`], [`log`]: what else the host offers. [`Template`]: `{name}` in a setting.
//! - [`testing`]: the same function as a native unit test, without WebAssembly.
//! - [`contract`]: the bindings beneath, for what is not covered here.
//!
//! A component has an allocator that suits short calls. A plugin with a `#[global_allocator]` of its own takes this crate
//! with `default-features = false`: the feature `heap` is what brings it.
//!
//! Must not know any particular plugin.

#![warn(missing_docs)]

#[doc(hidden)]
pub mod call;
mod context;
pub mod contract;
#[doc(hidden)]
pub mod describe;
mod error;
mod feed;
#[cfg(any(
    test,
    all(
        feature = "heap",
        target_arch = "wasm32",
        not(target_feature = "atomics")
    )
))]
mod heap;
pub mod http;
mod key;
mod lifecycle;
mod log;
mod params;
mod plugin;
mod reply;
mod secret;
#[cfg(feature = "tcp")]
pub mod tcp;
mod template;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod time;
mod write;

pub use context::{Context, NoConfig};
pub use contract::types::{FailureKind, Param, Validator};
pub use describe::{Body, Needs, Pending};
pub use error::Error;
pub use feed::{Change, Page, Poll};
pub use key::{Key, Request};
pub use lifecycle::Lifecycle;
pub use log::{Level, log};
pub use reply::{IntoReply, Reply};
pub use secret::secret;
pub use template::Template;
pub use time::sleep;
pub use write::{Expect, Mutation, Operation, Receipt};

/// What nearly every plugin uses, for `use larder_plugin::prelude::*`.
pub mod prelude {
    pub use crate::{Context, Error, Key, Lifecycle, Needs, Reply, Request, secret};
    pub use schemars::{self, JsonSchema};
    pub use serde::{self, Deserialize, Serialize};
    pub use serde_json::{Value, json};
    pub use std::time::Duration;
}

#[cfg(all(
    feature = "heap",
    target_arch = "wasm32",
    not(target_feature = "atomics")
))]
#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();
