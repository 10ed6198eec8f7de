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

use larder_plugin_support::{Derivation, Failure, FailureKind, Param, Visibility, settings};
use serde::Deserialize;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:tenant-key;
        world tenant-key {
            include larder:plugin/key-policy-plugin@0.1.0;
            export larder:plugin/metadata@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

use exports::larder::plugin::key_policy::{self, Decision, Request};
use exports::larder::plugin::metadata;

struct TenantKey;
export!(TenantKey);

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    header: String,
    query: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            header: "x-tenant".to_owned(),
            query: Vec::new(),
        }
    }
}

impl key_policy::Guest for TenantKey {
    fn derive(request: Request) -> Decision {
        let parts = settings().and_then(|settings| parts(request, &settings));
        match parts {
            Ok(parts) => Decision::Cache(Derivation {
                parts,
                visibility: Visibility::Private,
                hints: Vec::new(),
            }),
            Err(failure) => Decision::Reject(failure),
        }
    }
}

/// Everything of `request` that may change the answer.
fn parts(request: Request, settings: &Settings) -> Result<Vec<Param>, Failure> {
    let header = settings.header.to_lowercase();
    let mut tenants = request
        .headers
        .into_iter()
        .filter(|field| field.name == header && !field.value.is_empty());
    let tenant = match (tenants.next(), tenants.next()) {
        (Some(tenant), None) => tenant,
        (None, _) => {
            let message = format!("the request names no tenant; send the header `{header}`");
            return Err(Failure::new(
                FailureKind::InvalidRequest,
                "tenant-missing",
                message,
            ));
        }
        // Taking the first would let a client say one thing here and another to whoever reads the last.
        (Some(_), Some(_)) => {
            let message =
                format!("the request names more than one tenant; send the header `{header}` once");
            return Err(Failure::new(
                FailureKind::InvalidRequest,
                "tenant-ambiguous",
                message,
            ));
        }
    };
    let mut query: Vec<Param> = request
        .query
        .into_iter()
        .map(|param| Param {
            name: param.name.to_lowercase(),
            value: param.value.to_lowercase(),
        })
        .filter(|param| {
            settings
                .query
                .iter()
                .any(|name| name.to_lowercase() == param.name)
        })
        .collect();
    query.sort_by(|a, b| (&a.name, &a.value).cmp(&(&b.name, &b.value)));
    Ok([vec![tenant], request.path, query].concat())
}

impl metadata::Guest for TenantKey {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "tenant-key".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: include_str!("../descriptor.json").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Param, Request, Settings, parts};

    fn params(pairs: &[(&str, &str)]) -> Vec<Param> {
        pairs
            .iter()
            .map(|&(name, value)| Param {
                name: name.to_owned(),
                value: value.to_owned(),
            })
            .collect()
    }

    /// What `/orders/{id}` with `id = 7A`, these headers and this query derives to: `name=value` of each part, or the code.
    fn check(headers: &[(&str, &str)], query: &[(&str, &str)], expect: &[&str]) {
        let settings = Settings {
            query: vec!["Lang".to_owned(), "page".to_owned()],
            ..Settings::default()
        };
        let request = Request {
            method: "GET".to_owned(),
            route: "/orders/{id}".to_owned(),
            path: params(&[("id", "7A")]),
            query: params(query),
            headers: params(headers),
        };
        let derived = match parts(request, &settings) {
            Ok(parts) => parts
                .iter()
                .map(|part| format!("{}={}", part.name, part.value))
                .collect(),
            Err(failure) => vec![failure.code],
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
