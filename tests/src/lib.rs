//! The actors of the black-box tests: one for each real party. Owns how they are started, spoken to and ended; must not
//! know the insides of the host: only its HTTP surfaces, its files, its log and its Redis keys.
//!
//! # Layout
//! - [`larder`]: the server under test, a process with a directory of its own.
//! - `compiled`: servers that find a large component compiled.
//! - [`authority`]: who signs certificates.
//! - [`browser`]: a headless Chromium, and what it shows, complains of and asks for.
//! - [`client`]: HTTP as a consumer and as an operator speak it, and what an [`Answer`] says.
//! - [`metrics`]: what `/metrics` says, and the names that tests rely on.
//! - [`redis`]: a real `redis-server` that can be stopped, killed, filled and restarted.
//! - [`postgres`]: a real PostgreSQL with the ISO codes in it, that can be stopped and started again.
//! - [`origin`]: an HTTP source that does what a script says and counts who asked.
//! - [`echo`]: a TCP server that says what it is told.
//! - [`source`]: the usual pair: an origin with Larder in front of it.
//! - [`network`]: a TCP link, and the weather on it: late, narrow, cut, half-open…
//! - [`usage`]: what a process uses of the machine.
//! - [`ports`]: ports that are free, for who starts a program that binds them itself.
//! - [`wait`]: how a test waits: for a condition, with a bound; never for a time.
//!
//! The tests share nothing: every test starts its own actors on free loopback ports, and all of them end when they are
//! dropped.

pub mod authority;
pub mod browser;
pub mod client;
mod compiled;
pub mod echo;
pub mod larder;
pub mod metrics;
pub mod network;
pub mod origin;
pub mod ports;
pub mod postgres;
pub mod redis;
pub mod redis_group;
pub mod source;
pub mod terminal;
pub mod usage;
pub mod wait;

pub use authority::Authority;
pub use browser::Browser;
pub use client::{Answer, Client, Connection};
pub use echo::Echo;
pub use larder::{Builder, Larder, Wasm};
pub use metrics::Metrics;
pub use network::Link;
pub use origin::{Gate, Origin, Reply};
pub use postgres::Postgres;
pub use redis::Redis;
pub use source::{before, call, sidecar};
pub use usage::Usage;
pub use wait::{eventually, eventually_within, throughout};

/// The JSON of a literal: `serde_json::json!`, so that tests need no other import.
pub use serde_json::{Value, json};
