//! The plugin host: compiles components, checks them, runs them within their limits, and swaps them while requests run.
//!
//! Alone in naming wasmtime. Knows neither axum nor Redis, and of the cache only the traits it implements:
//! [`crate::cache::Loader`] and [`crate::key::KeyPolicy`].
