//! A compiled component with its imports resolved and its exports looked up: what an instance is made of in microseconds.

use wasmtime::component::{Component, ComponentExportIndex, InstancePre};

use super::adapter;
use super::bindings::{
    batch_loader, blocking_loader, change_feed, key_policy, lifecycle, loader, metadata, writer,
};
use super::compile::Exports;
use super::engine::Engine;
use super::linkers;
use super::state::State;

/// Both sides of a component; a component may be a loader and a key policy at once.
#[derive(Clone, Default)]
pub(super) struct Prepared {
    /// As a loader, a writer or a change feed.
    pub(super) worldly: Option<Worldly>,
    /// As a key policy.
    pub(super) pure: Option<Pure>,
}

/// A component that can be instantiated with the world around it: as a loader, a writer or a change feed.
#[derive(Clone)]
pub(super) struct Worldly {
    pub(super) pre: InstancePre<State>,
    pub(super) loader: Option<loader::GuestIndices>,
    pub(super) blocking: Option<blocking_loader::GuestIndices>,
    pub(super) batch: Option<batch_loader::GuestIndices>,
    pub(super) feed: Option<change_feed::GuestIndices>,
    pub(super) writer: Option<writer::GuestIndices>,
    pub(super) lifecycle: Option<lifecycle::GuestIndices>,
    pub(super) metadata: Option<metadata::GuestIndices>,
}

/// A component that can be instantiated as a key policy.
#[derive(Clone)]
pub(super) struct Pure {
    pub(super) pre: InstancePre<State>,
    pub(super) derive: Derive,
    pub(super) metadata: Option<metadata::GuestIndices>,
}

/// How a key policy is asked.
#[derive(Clone, Copy)]
pub(super) enum Derive {
    /// Through the adapter, which takes a request in one piece, and lends the policy's memory.
    Whole {
        /// Asks.
        derive: ComponentExportIndex,
        /// The memory.
        memory: ComponentExportIndex,
    },
    /// By the function of the contract, which takes each text by itself.
    Each(ComponentExportIndex),
}

impl Prepared {
    /// # Errors
    /// An import that no linker has, or an export of another shape.
    pub(super) fn new(
        engine: &Engine,
        component: &Component,
        exports: &Exports,
    ) -> wasmtime::Result<Self> {
        let mut prepared = Self::default();
        if exports.is_worldly() {
            let pre = engine.loaders().instantiate_pre(component)?;
            prepared.worldly = Some(Worldly {
                loader: wanted(exports.loader, || loader::GuestIndices::new(&pre))?,
                blocking: wanted(exports.blocking_loader, || {
                    blocking_loader::GuestIndices::new(&pre)
                })?,
                batch: wanted(exports.batch_loader, || {
                    batch_loader::GuestIndices::new(&pre)
                })?,
                feed: wanted(exports.change_feed, || change_feed::GuestIndices::new(&pre))?,
                writer: wanted(exports.writer, || writer::GuestIndices::new(&pre))?,
                lifecycle: wanted(exports.lifecycle, || lifecycle::GuestIndices::new(&pre))?,
                metadata: wanted(exports.metadata, || metadata::GuestIndices::new(&pre))?,
                pre,
            });
        }
        if exports.key_policy {
            let linker = linkers::with_traps(engine.policies(component), component)?;
            let pre = linker.instantiate_pre(component)?;
            // Looks the interface up; derivations use a typed function of their own, which lowers without copying.
            key_policy::GuestIndices::new(&pre)?;
            let whole = || {
                Some(Derive::Whole {
                    derive: component.get_export_index(None, adapter::DERIVE_WHOLE)?,
                    memory: component.get_export_index(None, adapter::MEMORY)?,
                })
            };
            let each = || {
                let interface =
                    component.get_export_index(None, "larder:plugin/key-policy@0.1.0")?;
                component.get_export_index(Some(&interface), "derive")
            };
            let derive = whole()
                .or_else(|| each().map(Derive::Each))
                .ok_or_else(|| wasmtime::format_err!("`key-policy` exports no `derive`"))?;
            prepared.pure = Some(Pure {
                derive,
                metadata: wanted(exports.metadata, || metadata::GuestIndices::new(&pre))?,
                pre,
            });
        }
        Ok(prepared)
    }
}

fn wanted<T>(
    wanted: bool,
    make: impl FnOnce() -> wasmtime::Result<T>,
) -> wasmtime::Result<Option<T>> {
    wanted.then(make).transpose()
}
