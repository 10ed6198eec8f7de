//! The one wasmtime engine of the process: its settings, its linkers, its epoch ticker.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::compile::Compiled;
use super::runtime::{Launched, Refusal, Spec};

/// The one wasmtime engine of the process.
pub struct Engine;

/// What `metadata.describe` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The plugin's own name.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// The author's word for "stored entries changed shape".
    pub cache_version: u32,
    /// A JSON document: parameters, response, settings, needs.
    pub descriptor: String,
}

impl Engine {
    /// An engine whose compiled code is cached under `storage`/compiled.
    ///
    /// # Errors
    /// When wasmtime cannot be set up here or the directory cannot be made.
    pub fn new(_storage: &Path) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self))
    }

    /// Compiles (or maps from the cache) on a bounded worker, and judges exports and imports.
    ///
    /// # Errors
    /// What is wrong with the component and how to mend it.
    pub async fn compile(self: &Arc<Self>, _name: &str, _bytes: Bytes) -> Result<Arc<Compiled>, Refusal> {
        Err(Refusal::bare("the engine is not built yet"))
    }

    /// Calls `metadata.describe` in a throw-away, fully denied, limited instance. `None`: no metadata.
    ///
    /// # Errors
    /// It trapped or passed a limit.
    pub async fn describe(self: &Arc<Self>, _compiled: &Compiled) -> Result<Option<Description>, Refusal> {
        Err(Refusal::bare("the engine is not built yet"))
    }

    /// Instantiates, starts and probes. On an error nothing is left running.
    ///
    /// # Errors
    /// Why the plugin cannot run.
    pub async fn launch(self: &Arc<Self>, _spec: Spec) -> Result<Launched, Refusal> {
        Err(Refusal::bare("the engine is not built yet"))
    }
}
