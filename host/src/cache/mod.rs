//! The cache path: memory tier → Redis tier → flight → loader → entry.

mod source;

pub use source::{Absence, Found, Loader, Outcome, Question, Renewal, Validator};
