//! The fields of a request's head, as a derivation looks them up: whoever has parsed them.

use http::{HeaderMap, HeaderName};

/// The fields of a request.
pub trait Fields {
    /// The values of every field of this name, in their order.
    fn all<'f>(&'f self, name: &'f HeaderName) -> impl Iterator<Item = &'f [u8]> + 'f;
}

impl Fields for HeaderMap {
    fn all<'f>(&'f self, name: &'f HeaderName) -> impl Iterator<Item = &'f [u8]> + 'f {
        self.get_all(name).iter().map(|value| value.as_bytes())
    }
}
