//! Where things listen, and what they may reach: addresses, origins, networks, and how Redis is named.

use std::net::SocketAddr;

use url::{Host, Url};

use super::{Fault, Kind, Scalar};

/// Where spans are collected.
#[derive(Debug)]
pub struct CollectorUrl;

impl Kind for CollectorUrl {
    fn name() -> String {
        "URL".to_owned()
    }
}

impl Scalar for CollectorUrl {
    type Value = url::Url;
    const EXAMPLE: &'static str = "\"http://127.0.0.1:4318\"";

    fn parse(text: &str) -> Result<url::Url, Fault> {
        let url = url::Url::parse(text).ok();
        let fits = |url: &url::Url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        url.filter(fits).ok_or_else(|| {
            Fault::new(
                "it is not the http or https URL of a collector, without credentials or a query",
                format!("write {}", Self::EXAMPLE),
            )
        })
    }
}

/// An IP address and a port.
#[derive(Debug)]
pub struct Address;

impl Kind for Address {
    fn name() -> String {
        "address".to_owned()
    }
}

impl Scalar for Address {
    type Value = SocketAddr;
    const EXAMPLE: &'static str = "an IP address and a port, such as \"127.0.0.1:8080\"";

    fn parse(text: &str) -> Result<SocketAddr, Fault> {
        text.parse().map_err(|_| {
            let port = text.rsplit(':').next().unwrap_or_default();
            let host = text
                .strip_suffix(port)
                .unwrap_or_default()
                .trim_end_matches(':');
            let remedy = match (host, port.parse::<u16>()) {
                ("localhost", Ok(port)) => format!("write \"127.0.0.1:{port}\""),
                ("" | "*", Ok(port)) => {
                    format!("write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for every interface")
                }
                _ => format!("write {}", Self::EXAMPLE),
            };
            Fault::new(format!("{text:?} is not an address to listen on"), remedy)
        })
    }
}

/// The text of an `Authorization: Bearer` field.
#[derive(Debug)]
pub struct Token;

impl Kind for Token {
    fn name() -> String {
        "string".to_owned()
    }
}

impl Scalar for Token {
    type Value = String;
    const EXAMPLE: &'static str = "a secret text in quotes";

    /// The value is a secret, so it is never quoted back.
    fn parse(text: &str) -> Result<String, Fault> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(text.to_owned());
        }
        Err(Fault::new(
            "it is empty or holds characters that no header field can carry",
            "write visible ASCII characters without spaces",
        ))
    }
}

/// `redis://[user:password@]host[:port][/db]`, `rediss://…` for TLS, or `redis+unix:///path[?db=…]`.
#[derive(Debug)]
pub struct RedisUrl;

impl Kind for RedisUrl {
    fn name() -> String {
        "URL".to_owned()
    }
}

impl Scalar for RedisUrl {
    type Value = String;
    const EXAMPLE: &'static str = "\"redis://[user:password@]host:6379[/database]\", the same with rediss:// for TLS, or \"redis+unix:///path/of/the/socket\"";

    /// The value may hold a password, so it is never quoted back.
    fn parse(text: &str) -> Result<String, Fault> {
        let bad = |why: &str| Fault::new(why, format!("write {}", Self::EXAMPLE));
        let url = Url::parse(text).map_err(|error| bad(&format!("it is not a URL: {error}")))?;
        match url.scheme() {
            "redis" | "rediss" => {}
            "unix" | "redis+unix" => return socket(&url, bad).map(|()| text.to_owned()),
            scheme => return Err(bad(&format!("its scheme is {scheme:?}, not redis"))),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("it names no host"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it has a query or a fragment, which mean nothing here"));
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u32>().is_err() {
            return Err(bad("its database is not a number"));
        }
        Ok(text.to_owned())
    }
}

/// Judges the URL of a Unix socket: its path, and a query of what stands elsewhere in the others.
fn socket(url: &Url, bad: impl Fn(&str) -> Fault) -> Result<(), Fault> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return Err(bad(
            "it names a host before the path: three slashes follow the colon",
        ));
    }
    if url.path().trim_start_matches('/').is_empty() {
        return Err(bad("it names no socket"));
    }
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "user" | "pass" => {}
            "db" if value.parse::<u32>().is_ok() => {}
            "db" => return Err(bad("its database is not a number")),
            _ => return Err(bad("its query knows db, user and pass")),
        }
    }
    Ok(())
}

/// What every key in Redis begins with.
#[derive(Debug)]
pub struct RedisPrefix;

impl Kind for RedisPrefix {
    fn name() -> String {
        "string".to_owned()
    }
}

impl Scalar for RedisPrefix {
    type Value = String;
    const EXAMPLE: &'static str = "letters, digits and .:_~-, such as \"larder\"";

    fn parse(text: &str) -> Result<String, Fault> {
        // Braces would move the hash tag by which a cluster finds the slot of a key.
        let fits = |c: char| c.is_ascii_alphanumeric() || ".:_~-".contains(c);
        if !text.is_empty() && text.len() <= 128 && text.chars().all(fits) {
            return Ok(text.to_owned());
        }
        Err(Fault::new(
            format!("{text:?} cannot begin a key"),
            format!("write at most 128 {}", Self::EXAMPLE),
        ))
    }
}

/// How Redis is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One server.
    Single,
    /// Keys spread over the masters of a Redis Cluster.
    Cluster,
    /// One master, which Sentinels name.
    Sentinel,
}

/// `"single"`, `"cluster"` or `"sentinel"`.
#[derive(Debug)]
pub struct RedisMode;

impl Kind for RedisMode {
    fn name() -> String {
        Self::EXAMPLE.to_owned()
    }
}

impl Scalar for RedisMode {
    type Value = Mode;
    const EXAMPLE: &'static str = "\"single\", \"cluster\" or \"sentinel\"";

    fn parse(text: &str) -> Result<Mode, Fault> {
        match text {
            "single" => Ok(Mode::Single),
            "cluster" => Ok(Mode::Cluster),
            "sentinel" => Ok(Mode::Sentinel),
            _ => Err(Fault::new(
                format!("{text:?} is not a way to run Redis"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// `scheme://host[:port]`, normalised: lower case, the scheme's own port left out.
#[derive(Debug)]
pub struct Origin;

impl Kind for Origin {
    fn name() -> String {
        "origin".to_owned()
    }
}

impl Scalar for Origin {
    type Value = String;
    const EXAMPLE: &'static str =
        "a scheme, a host and, where it is not the usual one, a port: \"https://api.example.com\"";

    fn parse(text: &str) -> Result<String, Fault> {
        let Some(url) = text
            .contains("://")
            .then(|| Url::parse(text).ok())
            .flatten()
        else {
            let remedy = match Url::parse(&format!("https://{text}")) {
                Ok(url) if url.host().is_some() => {
                    let secure = url.origin().ascii_serialization();
                    format!(
                        "write {secure:?} or {:?}",
                        secure.replacen("https", "http", 1)
                    )
                }
                _ => format!("write {}", Self::EXAMPLE),
            };
            return Err(Fault::new(format!("{text:?} is not an origin"), remedy));
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Fault::new(
                format!("{text:?} is not an http or https origin"),
                format!("write {}", Self::EXAMPLE),
            ));
        }
        let origin = url.origin().ascii_serialization();
        if origin.contains('*') {
            return Err(Fault::new(
                format!("{text:?} holds a wildcard; a grant names one host"),
                "write each host as an origin of its own",
            ));
        }
        // What follows the authority (a lone slash too) and what precedes the host would be promises that nobody keeps.
        let authority = text.split_once("://").map_or("", |(_, rest)| rest);
        if authority.contains(['/', '?', '#', '@', '\\']) {
            return Err(Fault::new(
                format!("{text:?} is more than an origin; a grant covers every path of a host"),
                format!("write \"{origin}\""),
            ));
        }
        Ok(origin)
    }
}

/// `host:port`, normalised: lower case, addresses in their one usual form.
#[derive(Debug)]
pub struct Endpoint;

impl Kind for Endpoint {
    fn name() -> String {
        "endpoint".to_owned()
    }
}

impl Scalar for Endpoint {
    type Value = String;
    const EXAMPLE: &'static str =
        "a host and a port, such as \"db.internal:5432\", \"127.0.0.1:5432\" or \"[::1]:5432\"";

    fn parse(text: &str) -> Result<String, Fault> {
        let bad = |why: &str| {
            Fault::new(
                format!("{text:?} is not an endpoint: {why}"),
                format!("write {}", Self::EXAMPLE),
            )
        };
        if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
            return Err(Fault::new(
                format!(
                    "{text:?} is not an endpoint: an IPv6 address stands in brackets, and a port follows it"
                ),
                format!("write \"[{address}]:5432\", with the port of the server"),
            ));
        }
        if let Some((_, rest)) = text.split_once("://") {
            let rest = rest.split('/').next().unwrap_or_default();
            let fault = bad("it is a URL");
            return Err(match Self::parse(rest) {
                Ok(endpoint) => Fault::new(fault.message, format!("write {endpoint:?}")),
                Err(_) => fault,
            });
        }
        let port = |port: &str| port.parse::<u16>().ok().filter(|&port| port != 0);
        let (host, port) = match text.rsplit_once(':') {
            Some((host, digits)) => match port(digits) {
                Some(port) => (host, port),
                None => return Err(bad("its port is not a number from 1 to 65535")),
            },
            None => {
                return Err(Fault::new(
                    bad("it has no port").message,
                    format!("write \"{text}:5432\", with the port of the server"),
                ));
            }
        };
        if host.contains('*') {
            return Err(Fault::new(
                format!("{text:?} holds a wildcard; a grant names one host"),
                "write each host as an endpoint of its own",
            ));
        }
        let plain = match Host::parse(host)
            .map_err(|_| bad("its host is neither a name nor an address"))?
        {
            Host::Domain(name) => name.strip_suffix('.').unwrap_or(&name).to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => match address.to_ipv4_mapped() {
                Some(address) => address.to_string(),
                None => format!("[{address}]"),
            },
        };
        if plain.split('.').any(str::is_empty) {
            return Err(bad("its host is neither a name nor an address"));
        }
        // An address in another form is the same address, and easily taken for something else by who reads the file.
        let is_address = plain.starts_with('[') || plain.parse::<std::net::Ipv4Addr>().is_ok();
        if is_address && plain != host {
            return Err(Fault::new(
                format!("{text:?} writes an address in an unusual form"),
                format!("write \"{plain}:{port}\""),
            ));
        }
        Ok(format!("{plain}:{port}"))
    }
}

/// A range of addresses, `10.0.0.0/8`.
#[derive(Debug)]
pub struct Network;

impl Kind for Network {
    fn name() -> String {
        "network".to_owned()
    }
}

impl Scalar for Network {
    type Value = String;
    const EXAMPLE: &'static str = "an address and the length of its prefix, such as \"10.0.0.0/8\"";

    fn parse(text: &str) -> Result<String, Fault> {
        let Ok(network) = text.parse::<ipnet::IpNet>() else {
            let remedy = match text.parse::<std::net::IpAddr>() {
                Ok(address) => format!("write \"{}\"", ipnet::IpNet::from(address)),
                Err(_) => format!("write {}", Self::EXAMPLE),
            };
            return Err(Fault::new(format!("{text:?} is not a network"), remedy));
        };
        if network != network.trunc() {
            return Err(Fault::new(
                format!("{text:?} has bits set behind its prefix"),
                format!("write \"{}\"", network.trunc()),
            ));
        }
        Ok(network.to_string())
    }
}
