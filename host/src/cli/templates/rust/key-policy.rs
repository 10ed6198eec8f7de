//! A key policy: which requests share one cached value. Larder calls `derive` with every request of a route that names it,
//! so it is pure: it may use its settings and the request, and the clock stands still.

use larder_plugin::prelude::*;

/// What the operator may write under [config] of the sidecar. The route also says key_headers = ["x-tenant"].
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// The header that names the tenant.
    header: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header: "x-tenant".to_owned(),
        }
    }
}

fn derive(request: Request, config: &Config) -> Result<Key, Error> {
    let Some(tenant) = request.header(&config.header) else {
        let message = format!("the header `{}` is needed", config.header);
        return Err(Error::denied(message).code("tenant-missing"));
    };
    let mut key = Key::new().part("tenant", tenant);
    for param in &request.path {
        key = key.part(&param.name, &param.value);
    }
    if let Some(lang) = request.query("lang") {
        key = key.part("lang", lang);
    }
    Ok(key.private())
}

larder_plugin::plugin! {
    about: "Keeps tenants apart by a header.",
    key_policy: derive,
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_plugin::testing::{Test, params};

    fn request(headers: &[(&str, &str)]) -> Request {
        Request {
            method: "GET".to_owned(),
            route: "/data/{key}".to_owned(),
            path: params(&[("key", "42")]),
            query: Vec::new(),
            headers: params(headers),
        }
    }

    fn parts(tenant: &str) -> Vec<(String, String)> {
        let key = Test::new().derive(derive, request(&[("x-tenant", tenant)]));
        let key = key.unwrap();
        let pair = |part: &larder_plugin::Param| (part.name.clone(), part.value.clone());
        key.get_parts().iter().map(pair).collect()
    }

    #[test]
    fn two_tenants_do_not_share_a_value() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(parts("a"), [pair("tenant", "a"), pair("key", "42")]);
        assert_ne!(parts("a"), parts("b"));
    }

    #[test]
    fn a_request_without_a_tenant_is_rejected() {
        let rejected = Test::new().derive(derive, request(&[])).unwrap_err();
        assert_eq!(rejected.get_code(), "tenant-missing");
    }
}
