//! What a change feed tells → what is purged. The resource of a change is made exactly as that of a request is: from the
//! pattern of its route, and the values of its path parameters in the order of the pattern.
//!
//! Where a change does not say enough, more is purged than it meant, never less.

use std::collections::HashSet;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::{Route, Snapshot};
use crate::cache::generations::Scope;
use crate::key::{Param, Resource};
use crate::plugin::Change;

/// What a page of changes comes to.
#[derive(Debug, Default)]
pub struct Scopes {
    /// What is to be purged, each once.
    pub purge: Vec<Scope>,
    /// What is wrong with the first change that did not name what it could, for the log.
    pub fault: Option<String>,
}

impl Snapshot {
    /// What the changes of the feed of `plugin` cover.
    pub fn scopes(&self, plugin: &str, changes: &[Change]) -> Scopes {
        let mut seen = HashSet::new();
        let mut scopes = Scopes::default();
        for change in changes {
            let covered = match change {
                Change::Everything => self.routes_of(plugin).map(whole).collect(),
                Change::Tag(tag) => vec![Scope::Tag(tag.as_str().into())],
                Change::Item { route, params } => {
                    let found = match route {
                        Some(pattern) => self.named(pattern, params),
                        None => self.every(plugin, params),
                    };
                    found.unwrap_or_else(|(covered, fault)| {
                        scopes.fault.get_or_insert(fault);
                        covered
                    })
                }
            };
            let new = covered
                .into_iter()
                .filter(|scope| seen.insert(scope.clone()));
            scopes.purge.extend(new);
        }
        scopes
    }

    /// The routes that load through a plugin, at whatever place of their chain.
    fn routes_of<'s>(&'s self, plugin: &'s str) -> impl Iterator<Item = &'s Arc<Route>> {
        let loads = move |route: &&Arc<Route>| route.config.loaders.iter().any(|it| it == plugin);
        self.routes().iter().filter(loads)
    }

    /// A digest of which routes load through a plugin: equal where the same change is the same purges.
    pub fn digest_of(&self, plugin: &str) -> u64 {
        let mut hasher = Xxh3Default::new();
        for route in self.routes_of(plugin) {
            hasher.update(&(route.pattern.len() as u64).to_le_bytes());
            hasher.update(route.pattern.as_bytes());
        }
        hasher.digest()
    }

    /// A resource of the route with this pattern.
    fn named(&self, pattern: &str, params: &[Param]) -> Result<Vec<Scope>, (Vec<Scope>, String)> {
        let route = self
            .routes()
            .iter()
            .find(|route| &*route.pattern == pattern)
            .ok_or_else(|| {
                let fault = format!(
                    "it names the route {pattern}, and there is none; GET /routes lists them"
                );
                // It may be back one day, while a tier still holds what was loaded through it.
                (vec![Scope::Route(pattern.into())], fault)
            })?;
        resource(route, params)
            .map(|resource| vec![Scope::Resource(resource)])
            .ok_or_else(|| {
                let fault = format!(
                    "it names the route {pattern} without the parameters {}: the whole route is purged",
                    route.params.join(", ")
                );
                (vec![whole(route)], fault)
            })
    }

    /// What a change covers in all routes of a plugin. A parameter that a route does not have is nothing to it: a change
    /// gives what it knows, and each route takes its own. Of a route that is named in part the whole is covered, for the
    /// change may be of any of it; and what has no parameters may be made of whatever changed.
    fn every(&self, plugin: &str, params: &[Param]) -> Result<Vec<Scope>, (Vec<Scope>, String)> {
        let is_given = |name: &String| params.iter().any(|param| param.name == *name);
        let mut found = Vec::new();
        let mut is_named = false;
        for route in self.routes_of(plugin) {
            let named = route.params.iter().any(is_given);
            is_named |= named;
            match resource(route, params) {
                Some(resource) => found.push(Scope::Resource(resource)),
                None if named => found.push(whole(route)),
                None => {}
            }
        }
        if is_named {
            return Ok(found);
        }
        let names: Vec<_> = params.iter().map(|param| &*param.name).collect();
        let fault = format!(
            "no route of the plugin is made of the parameters {}: all of them are purged",
            names.join(", ")
        );
        Err((self.routes_of(plugin).map(whole).collect(), fault))
    }
}

fn whole(route: &Arc<Route>) -> Scope {
    Scope::Route(Arc::clone(&route.pattern))
}

/// The resource of a route, if every parameter of its pattern is given.
fn resource(route: &Route, params: &[Param]) -> Option<Resource> {
    let value = |name: &String| params.iter().find(|param| param.name == *name);
    let values: Option<Vec<&Param>> = route.params.iter().map(value).collect();
    let values = values?.into_iter().map(|param| param.value.as_str());
    Some(Resource::new(&route.pattern, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides};
    use crate::metrics::Metrics;

    const ROUTES: &str = r#"
        [[routes]]
        path = "/users/{id}"
        loader = "db"
        [[routes]]
        path = "/summary"
        loader = "db"
        [[routes]]
        path = "/tenants/{tenant}/users/{id}"
        loaders = ["other", "db"]
        [[routes]]
        path = "/files/{*path}"
        loader = "other"
    "#;

    fn snapshot() -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("larder.toml");
        std::fs::write(&file, ROUTES).unwrap();
        let config =
            crate::config::load(Some(&file), &Overrides::default(), &Environment::default());
        let (config, _) = config.expect("a good file");
        Snapshot::build(&config, Arc::default(), &Metrics::new(), None).0
    }

    fn item(route: Option<&str>, params: &[(&str, &str)]) -> Change {
        Change::Item {
            route: route.map(str::to_owned),
            params: params.iter().map(|(n, v)| Param::new(*n, *v)).collect(),
        }
    }

    fn check(change: Change, paths: &[&str], routes: &[&str], is_sound: bool) {
        let snapshot = snapshot();
        let of_path = |path: &&str| Scope::Resource(snapshot.resource(path).expect(path).1);
        let of_route = |route: &&str| Scope::Route((*route).into());
        let wanted: Vec<_> = paths
            .iter()
            .map(of_path)
            .chain(routes.iter().map(of_route))
            .collect();
        let found = snapshot.scopes("db", &[change.clone(), change.clone()]);
        assert_eq!(found.purge, wanted, "{change:?}");
        assert_eq!(
            found.fault.is_none(),
            is_sound,
            "{change:?}: {:?}",
            found.fault
        );
    }

    #[test]
    fn a_change_of_a_resource_covers_what_its_path_names() {
        check(
            item(Some("/users/{id}"), &[("id", "a b/ü")]),
            &["/users/a%20b%2F%C3%BC"],
            &[],
            true,
        );
        // In the order of the pattern, whatever order the feed has.
        check(
            item(
                Some("/tenants/{tenant}/users/{id}"),
                &[("id", "7"), ("tenant", "x")],
            ),
            &["/tenants/x/users/7"],
            &[],
            true,
        );
        check(
            item(Some("/files/{*path}"), &[("path", "a/b")]),
            &["/files/a/b"],
            &[],
            true,
        );
    }

    #[test]
    fn law_4_a_change_without_a_route_covers_all_that_it_may_be_of() {
        // In part named: any of its resources may be the one.
        check(
            item(None, &[("id", "7")]),
            &["/users/7", "/summary"],
            &["/tenants/{tenant}/users/{id}"],
            true,
        );
        check(
            item(None, &[("tenant", "x"), ("id", "7")]),
            &["/users/7", "/summary", "/tenants/x/users/7"],
            &[],
            true,
        );
    }

    #[test]
    fn everything_is_every_route_of_the_loader_and_no_other() {
        check(
            Change::Everything,
            &[],
            &["/users/{id}", "/summary", "/tenants/{tenant}/users/{id}"],
            true,
        );
    }

    #[test]
    fn a_change_that_does_not_say_enough_purges_more_and_says_so() {
        check(
            item(Some("/users/{id}"), &[("name", "7")]),
            &[],
            &["/users/{id}"],
            false,
        );
        check(
            item(None, &[("name", "7")]),
            &[],
            &["/users/{id}", "/summary", "/tenants/{tenant}/users/{id}"],
            false,
        );
        check(item(Some("/nowhere"), &[]), &[], &["/nowhere"], false);
    }
}
