//! Larder: a read-through cache server that people extend without recompiling it.
//!
//! # Layout
//!
//! The journey of a request, in the order it is read (see `host/ARCHITECTURE.md` for the map):
//!
//! - [`http`]: the public listener: accept, match, answer. Knows neither wasmtime nor Redis.
//! - [`route`]: a URL pattern bound to its loaders, its key policy and its freshness policy; one immutable snapshot per change.
//! - [`key`]: request → parts → key. Pure.
//! - [`cache`]: memory tier → Redis tier → flight → loader → entry. Knows neither axum nor wasmtime.
//! - [`write`]: changes on their way to a source. Knows neither axum nor wasmtime.
//! - [`plugin`]: the plugin host; alone in naming wasmtime. Knows neither axum nor Redis.
//! - [`admin`]: the second listener: purge, metrics, what is loaded.
//! - [`config`]: one typed tree, one table of defaults.
//! - [`cli`]: parse, wire, run.
//! - [`error`]: what a load can fail with; everything may name it, it names nothing.
//! - `sync`: locks, atomics and tasks, where the concurrency checker can put its own.
//! - [`metrics`]: the counters, defined against each other.

pub mod admin;
pub mod cache;
pub mod cli;
pub mod config;
pub mod error;
pub mod http;
pub mod key;
pub mod metrics;
pub mod plugin;
pub mod route;
mod sync;
pub mod trace;
pub mod write;
