//! A key that was asked for before a restart → the question that it is now, if it still is one. Must not know where keys are
//! written down.

use std::sync::Arc;

use super::{Route, Snapshot};
use crate::cache::Ask;
use crate::cache::hot::HotKey;
use crate::key::{Key, resource_of};

impl Snapshot {
    /// What it is to the cache now, and its route. None if its route is gone, if its parts are made by another rule, so that
    /// no request may become them any more, or if other loaders would answer it, for whom they may mean something else.
    pub fn again(&self, hot: &HotKey) -> Option<(&Arc<Route>, Ask)> {
        let route = self.of_pattern(&hot.route)?;
        if route.rule_identity != hot.rule {
            return None;
        }
        let key = Key::new(&resource_of(&hot.key)?, &route.identity, &hot.parts).ok()?;
        if key.text() != &*hot.key {
            return None;
        }
        let ask = Ask::new(
            Arc::clone(&route.binding),
            key,
            Arc::clone(&hot.parts),
            hot.visibility,
        );
        Some((route, ask))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::cache::hot::HotKeys;
    use crate::config::{Environment, Overrides};
    use crate::metrics::Metrics;

    const ROUTE: &str = "[[routes]]\npath = \"/data/{id}\"\nloader = \"db\"\nkey = { query = [\"lang\"], headers = [\"x-tenant\"] }\n";

    fn snapshot(text: &str) -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("larder.toml");
        std::fs::write(&file, text).unwrap();
        let config =
            crate::config::load(Some(&file), &Overrides::default(), &Environment::default());
        let (config, _) = config.expect("a good file");
        Snapshot::build(&config, Arc::default(), &Metrics::new(), None).0
    }

    /// A request of `ROUTE`: what the cache is asked, and what is remembered of it.
    fn asked() -> (Ask, HotKey) {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", "acme".parse().unwrap());
        let derived = snapshot(ROUTE).derive("/data/a%7D:b?lang=d%20e", &headers, &Metrics::new());
        let Ok(derived) = derived else {
            panic!("a good request");
        };
        let hot = HotKeys::new(1);
        hot.missed(&derived.ask, &derived.route.rule_identity);
        let remembered = hot.take_stock().unwrap().remove(0);
        (derived.ask.clone(), remembered)
    }

    #[test]
    fn a_key_is_asked_for_again_as_it_was() {
        let (ask, remembered) = asked();
        let now = snapshot(ROUTE);
        let (route, again) = now.again(&remembered).expect("it still is a question");
        assert!(Arc::ptr_eq(&again.binding, &route.binding));
        assert_eq!(
            (&again.key, &again.parts, again.visibility),
            (&ask.key, &ask.parts, ask.visibility)
        );
        assert_eq!(again.key.resource(), ask.key.resource());
    }

    #[test]
    fn a_key_that_no_longer_means_the_same_is_not_asked_for() {
        let (_, remembered) = asked();
        for (from, to) in [
            ("/data/{id}", "/things/{id}"),
            ("\"db\"", "\"other\""),
            ("\"lang\"", "\"language\""),
            ("\"x-tenant\"", "\"x-team\""),
            ("key = { query", "key = { path = [], query"),
        ] {
            let changed = ROUTE.replace(from, to);
            assert_ne!(changed, ROUTE);
            assert!(snapshot(&changed).again(&remembered).is_none(), "{changed}");
        }
        let damaged = HotKey {
            key: "no key".into(),
            ..remembered
        };
        assert!(snapshot(ROUTE).again(&damaged).is_none());
    }
}
