//! The cache path: memory tier → Redis tier → flight → loader → entry.

pub mod clock;
pub mod entry;
pub mod freshness;
pub mod generations;
mod source;
pub mod tier;

pub use source::{Absence, Found, Loader, Outcome, Question, Renewal, Validator};
