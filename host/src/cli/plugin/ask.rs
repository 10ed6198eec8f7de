//! The question of `call` and `record`: from the command line to what a plugin is asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Ended;
use crate::cache::{Batching, Question};
use crate::config::Problem;
use crate::key::{Param, PolicyRequest};
use crate::plugin::{Asked, SidecarOf, Subject, method_of};
use crate::route::text::{NotUtf8, decode_path_value, decode_query};

/// How long a route waits if nothing says otherwise.
const TIMEOUT: &str = "2s";

/// Whom and what to ask.
#[derive(Debug, Args)]
pub(super) struct Ask {
    /// The component, NAME.wasm.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// A part, for a loader. Repeat it for more; the order is kept.
    #[arg(long = "part", value_name = "NAME=VALUE", value_parser = pair)]
    parts: Vec<Param>,
    /// A request, for a key policy, e.g. 'GET /data/42?lang=de'.
    #[arg(long, value_name = "METHOD PATH", conflicts_with = "parts")]
    request: Option<String>,
    /// A header that the route lets through (key_headers), for a key policy. Repeat it for more.
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header, requires = "request")]
    headers: Vec<Param>,
    /// The route's pattern [default: /NAME/{key}; with --request its path, the last segment as {key}].
    #[arg(long, value_name = "PATTERN")]
    route: Option<String>,
    /// The sidecar [default: NAME.toml beside FILE if it is there].
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How long to wait; a shorter timeout under [limits] of the sidecar wins.
    #[arg(long, value_name = "TIME", default_value = TIMEOUT, value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Ask {
    pub(super) fn subject(&self) -> Subject {
        Subject {
            component: self.file.clone(),
            sidecar: match &self.settings {
                Some(file) => SidecarOf::File(file.clone()),
                None => SidecarOf::Beside,
            },
        }
    }

    pub(super) fn asked(&self) -> Result<Asked, Ended> {
        if let Some(request) = &self.request {
            return self
                .request(request)
                .map(Asked::Derive)
                .map_err(Ended::Usage);
        }
        let stem = self.file.file_stem().unwrap_or_default();
        let route = match &self.route {
            Some(route) => route.clone(),
            None => format!("/{}/{{key}}", stem.display()),
        };
        Ok(Asked::Load(Question {
            route: route.into(),
            parts: self.parts.clone().into(),
            timeout: self.timeout,
            traceparent: None,
            known: None,
            batching: Batching::ALONE,
        }))
    }

    fn request(&self, text: &str) -> Result<PolicyRequest, Problem> {
        let example = "write --request 'GET /data/42?lang=de'";
        let (method, target) = match text.split_once(' ') {
            Some((method, target)) if target.starts_with('/') => (method, target.trim_end()),
            _ => {
                let problem = Problem::error(format!("--request: {text:?} is no method and path"));
                return Err(problem.remedy(example));
            }
        };
        if !["GET", "HEAD", "PUT", "DELETE"].contains(&method) {
            return Err(
                Problem::error(format!("--request: no route takes {method}"))
                    .remedy("ask with GET, HEAD, PUT or DELETE"),
            );
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let route = match &self.route {
            Some(route) => route.clone(),
            None => path
                .rsplit_once('/')
                .map_or_else(|| path.to_owned(), |(above, _)| format!("{above}/{{key}}")),
        };
        let mut router = matchit::Router::new();
        router.insert(&route, ()).map_err(|error| {
            Problem::error(format!("--route: {error}"))
                .remedy("write a pattern such as /data/{key}")
        })?;
        let matched = router.at(path).map_err(|_| {
            Problem::error(format!("the route {route} has no such path as {path}"))
                .remedy("name the pattern that it matches with --route, e.g. --route /data/{key}")
        })?;
        let bad = |error: NotUtf8| Problem::error(format!("--request: {error}")).remedy(example);
        let path = matched.params.iter().map(|(name, raw)| {
            let value = decode_path_value(name, raw)?;
            Ok(Param::new(name, value))
        });
        Ok(PolicyRequest {
            method: method_of(method),
            path: path.collect::<Result<_, _>>().map_err(bad)?,
            query: decode_query(query).map_err(bad)?,
            route: route.into(),
            headers: self.headers.clone(),
        })
    }
}

fn pair(text: &str) -> Result<Param, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Param::new(name, value)),
        _ => Err("write NAME=VALUE, e.g. key=42".to_owned()),
    }
}

fn header(text: &str) -> Result<Param, String> {
    let example = "write 'NAME: VALUE', e.g. 'x-tenant: acme'";
    let (name, value) = text.split_once(':').ok_or(example)?;
    let name = http::HeaderName::try_from(name.trim()).map_err(|_| example)?;
    Ok(Param::new(name.as_str(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str, route: Option<&str>) -> Result<PolicyRequest, String> {
        let ask = Ask {
            file: "x.wasm".into(),
            parts: Vec::new(),
            request: None,
            headers: vec![header("X-Tenant: a").unwrap()],
            route: route.map(str::to_owned),
            settings: None,
            timeout: Duration::ZERO,
        };
        ask.request(request).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_request_is_decoded_as_the_server_decodes_it() {
        let request = ask("HEAD /data/a%20b?x=1&x=d+e", None).unwrap();
        assert_eq!((request.method, &*request.route), ("GET", "/data/{key}"));
        assert_eq!(request.path, [Param::new("key", "a b")]);
        assert_eq!(
            request.query,
            [Param::new("x", "1"), Param::new("x", "d e")]
        );
        assert_eq!(request.headers, [Param::new("x-tenant", "a")]);
        let request = ask("GET /a/b/c", Some("/a/{first}/{*rest}")).unwrap();
        assert_eq!(
            request.path,
            [Param::new("first", "b"), Param::new("rest", "c")]
        );
    }

    #[test]
    fn a_request_that_is_none_is_refused_with_what_to_write() {
        for (request, route, words) in [
            ("/data/42", None, "is no method and path"),
            ("PATCH /data/42", None, "ask with GET"),
            ("GET /data/%ff", None, "not UTF-8"),
            ("GET /data/42", Some("/other/{key}"), "--route /data/{key}"),
            ("GET /data/42", Some("/{a}{b}"), "write a pattern"),
        ] {
            let refused = ask(request, route).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
