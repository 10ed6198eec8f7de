//! `tenant-key`: a key policy that keeps tenants apart. Each tenant has cached values of its own, and the loader is told
//! which tenant asks. To copy from when requests that look alike must not share a value.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `header` | `"x-tenant"` | the request header that names the tenant; the route must let it through |
//! | `query` | `[]` | the query parameters that matter |
//!
//! Grants: none, and a key policy could not use any. The route and the sidecar, `tenant-key.toml`:
//!
//! ```toml
//! [[routes]]
//! path = "/orders/{id}"
//! loader = "http"
//! key = "tenant-key"
//! key_headers = ["x-tenant"]
//! ```
//! ```toml
//! [config]
//! query = ["lang", "page"]
//! ```
//!
//! Parts: the tenant (named as the header), the path parameters as they are, then those query parameters, names and values
//! in lower case and sorted, so that `?page=2&Lang=DE` and `?lang=de&page=2` share a value. Visibility: private. Without a
//! tenant, or with two, the request is rejected as `invalid-request`.
//!
//! A tenant header is a name, not a proof: let something in front of Larder check it.

use larder_plugin::{Error, Key, Param, Request};
use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The request header that names the tenant; also list it in the route's key_headers.
    #[schemars(length(min = 1))]
    header: String,
    /// The query parameters that matter, whatever their case and order.
    #[schemars(inner(length(min = 1)))]
    query: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header: "x-tenant".to_owned(),
            query: Vec::new(),
        }
    }
}

/// Everything of `request` that may change the answer.
///
/// Called for every request that is not remembered: what can be moved is not copied.
fn derive(request: Request, config: &Config) -> Result<Key, Error> {
    let tenant = tenant(request.headers, &config.header)?;
    let mut query: Vec<Param> = request
        .query
        .into_iter()
        .filter(|param| config.query.iter().any(|known| same(known, &param.name)))
        .map(|param| Param {
            name: param.name.to_lowercase(),
            value: param.value.to_lowercase(),
        })
        .collect();
    query.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    Ok(Key::new()
        .parts([tenant])
        .parts(request.path)
        .parts(query)
        .private())
}

/// Whether two names differ in nothing but their case.
fn same(a: &str, b: &str) -> bool {
    a == b || a.to_lowercase() == b.to_lowercase()
}

fn tenant(headers: Vec<Param>, header: &str) -> Result<Param, Error> {
    // A header's name is ASCII, and comes in lower case.
    let named = |field: &Param| field.name.eq_ignore_ascii_case(header) && !field.value.is_empty();
    let mut tenants = headers.into_iter().filter(named);
    match (tenants.next(), tenants.next()) {
        (Some(tenant), None) => Ok(tenant),
        (None, _) => {
            let header = header.to_lowercase();
            let message = format!("the request names no tenant; send the header `{header}`");
            Err(Error::invalid_request(message).code("tenant-missing"))
        }
        // Taking the first would let a client say one thing here and another to whoever reads the last.
        (Some(_), Some(_)) => {
            let header = header.to_lowercase();
            let message =
                format!("the request names more than one tenant; send the header `{header}` once");
            Err(Error::invalid_request(message).code("tenant-ambiguous"))
        }
    }
}

larder_plugin::plugin! {
    name: "tenant-key",
    about: "Keeps tenants apart: a header, the path and chosen query parameters are the key.",
    key_policy: derive,
}

#[cfg(test)]
mod tests {
    use super::{Config, Request, derive};
    use larder_plugin::testing::params;

    /// What `/orders/{id}` with `id = 7A`, these headers and this query derives to: `name=value` of each part, or the code.
    fn check(headers: &[(&str, &str)], query: &[(&str, &str)], expect: &[&str]) {
        let config = Config {
            query: vec!["Lang".to_owned(), "page".to_owned()],
            ..Config::default()
        };
        let request = Request {
            method: "GET".to_owned(),
            route: "/orders/{id}".to_owned(),
            path: params(&[("id", "7A")]),
            query: params(query),
            headers: params(headers),
        };
        let derived: Vec<String> = match derive(request, &config) {
            Ok(key) => {
                let parts = key.get_parts().iter();
                parts
                    .map(|part| format!("{}={}", part.name, part.value))
                    .collect()
            }
            Err(error) => vec![error.get_code().to_owned()],
        };
        assert_eq!(derived, expect);
    }

    #[test]
    fn query_parameters_are_chosen_lower_cased_and_sorted() {
        let acme = [("x-tenant", "Acme")];
        check(&acme, &[], &["x-tenant=Acme", "id=7A"]);
        check(
            &acme,
            &[("page", "2"), ("LANG", "De"), ("x", "1")],
            &["x-tenant=Acme", "id=7A", "lang=de", "page=2"],
        );
        check(
            &acme,
            &[("page", "b"), ("page", "")],
            &["x-tenant=Acme", "id=7A", "page=", "page=b"],
        );
    }

    #[test]
    fn exactly_one_tenant_is_needed() {
        check(&[], &[], &["tenant-missing"]);
        check(&[("x-tenant", "")], &[], &["tenant-missing"]);
        check(
            &[("x-tenant", "a"), ("x-tenant", "b")],
            &[],
            &["tenant-ambiguous"],
        );
    }
}
