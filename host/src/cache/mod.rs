//! The cache path: memory tier → Redis tier → flight → loader → entry.

pub mod clock;
pub mod entry;
pub mod envelope;
pub mod freshness;
pub mod generations;
pub mod redis;
mod source;
pub mod tier;

pub use source::{Absence, Found, Loader, Outcome, Question, Renewal, Validator};
