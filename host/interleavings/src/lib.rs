//! The cache as it is in the host, compiled with the locks, atomics and tasks of a concurrency checker (shuttle): at each of
//! them the checker decides who goes on, and so plays the orders that a machine plays once in a million requests.
//!
//! # Layout
//!
//! - `error`, `key`, `cache`, `trace`, `waiters`, `write`: the host's own files, not copies.
//! - [`sync`]: what they are given for `crate::sync`.
//! - [`source`]: where data comes from. `tier`: what nodes share, each of its scripts one step, its answers and words late.
//! - [`world`]: nodes, and what they must answer.

// Most of it is for the host.
#[allow(dead_code, missing_docs, unreachable_pub)]
#[path = "../../src/cache/mod.rs"]
pub mod cache;
#[allow(dead_code)]
#[path = "../../src/error.rs"]
pub mod error;
#[allow(dead_code)]
#[path = "../../src/key.rs"]
pub mod key;
pub mod source;
pub mod sync;
mod tier;
#[allow(dead_code)]
#[path = "../../src/trace.rs"]
pub mod trace;
// Where it lives it is nobody else's: once more, for the model of the tier.
#[allow(clippy::duplicate_mod, dead_code)]
#[path = "../../src/cache/redis/waiters.rs"]
mod waiters;
pub mod world;
#[allow(dead_code)]
#[path = "../../src/write/mod.rs"]
pub mod write;
