//! The lists of header names that derivations may depend on, each kept once however many routes have it. Must not know what
//! is derived.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;

use super::fields::Fields;

/// The lists of all routes.
#[derive(Default)]
pub struct Lists {
    lists: Vec<Arc<[HeaderName]>>,
    places: HashMap<Arc<[HeaderName]>, At>,
}

/// Where a list is among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(u32);

impl Lists {
    /// The list of these names, which is put among the others if it is not there.
    pub(super) fn at(&mut self, names: &[HeaderName]) -> At {
        if let Some(at) = self.places.get(names) {
            return *at;
        }
        let names: Arc<[HeaderName]> = names.into();
        // There are no more than routes.
        let at = At(self.lists.len() as u32);
        self.lists.push(Arc::clone(&names));
        self.places.insert(names, at);
        at
    }

    /// Its names.
    pub(super) fn names(&self, at: At) -> &Arc<[HeaderName]> {
        &self.lists[at.0 as usize]
    }

    /// Writes the bytes that a derivation can depend on over `key`: path and query, which always begin with `/`, or more than
    /// that. Returns whether it is more. Injective: every header is preceded by its place in the list and by its
    /// length, and the first byte is none that a path has.
    #[inline]
    pub(super) fn write_memo_key(
        &self,
        at: At,
        key: &mut Vec<u8>,
        path_and_query: &str,
        headers: &impl Fields,
    ) -> bool {
        key.clear();
        let names = self.names(at);
        if !names.is_empty() {
            key.push(0);
            for (place, name) in names.iter().enumerate() {
                for value in headers.all(name) {
                    key.extend_from_slice(&(place as u16).to_le_bytes());
                    key.extend_from_slice(&(value.len() as u32).to_le_bytes());
                    key.extend_from_slice(value);
                }
            }
            key.extend_from_slice(&u16::MAX.to_le_bytes());
        }
        key.extend_from_slice(path_and_query.as_bytes());
        !names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&'static str]) -> Vec<HeaderName> {
        names
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect()
    }

    #[test]
    fn routes_of_the_same_names_have_one_list_and_others_their_own() {
        let mut lists = Lists::default();
        let of_tenant = lists.at(&names(&["x-tenant"]));
        let of_none = lists.at(&[]);
        let of_both = lists.at(&names(&["x-tenant", "accept-language"]));
        let of_both_turned = lists.at(&names(&["accept-language", "x-tenant"]));
        assert_eq!(lists.at(&names(&["x-tenant"])), of_tenant);
        assert_eq!(lists.at(&[]), of_none);
        assert_eq!(lists.lists.len(), 4);
        for (at, expected) in [
            (of_tenant, &["x-tenant"][..]),
            (of_none, &[]),
            (of_both, &["x-tenant", "accept-language"]),
            // Their order is part of what is remembered.
            (of_both_turned, &["accept-language", "x-tenant"]),
        ] {
            assert_eq!(**lists.names(at), *names(expected));
        }
    }
}
