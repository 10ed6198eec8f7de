//! What a plugin may reach: origins, endpoints, names and addresses. Pure: no I/O, no clock.
//!
//! The rule, in two halves that are both asked for every request and every socket:
//! 1. **Where.** `[grants] http` names the origin (scheme, host and port agree), or `[grants] tcp` the endpoint (host and
//!    port agree).
//! 2. **Address.** A host that is a literal address is reached exactly because it was granted as one, loopback too. A host
//!    that is a name (`localhost` is one) may resolve only into the public internet, or into a range of
//!    `[grants] networks`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;
use ipnet::IpNet;

use crate::config::Problem;

/// The host part of an origin or an endpoint, normalised: lower case, no trailing dot, no brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Host {
    /// A literal address; an IPv4-mapped IPv6 address is the IPv4 address it stands for.
    Address(IpAddr),
    /// A name.
    Name(String),
    /// `*.suffix`: every name below `suffix`, at any depth, but not `suffix` itself.
    Below(String),
}

/// `scheme://host[:port]`, resolved to a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin {
    https: bool,
    host: Host,
    port: u16,
}

impl Origin {
    /// The origin that a request goes to. A user name in the authority is refused: it would be sent nowhere, and it is how
    /// `http://granted@elsewhere` deceives readers.
    pub(crate) fn of(uri: &Uri) -> Result<Self, &'static str> {
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("the scheme must be http or https"),
        };
        let authority = uri.authority().ok_or("there is no host")?;
        if authority.as_str().contains('@') {
            return Err("a user name in the authority is not sent");
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().ends_with(':') => return Err("the port is empty"),
            None if https => 443,
            None => 80,
        };
        if port == 0 {
            return Err("port 0 names nothing");
        }
        Ok(Self {
            https,
            host: Host::parse(authority.host())?,
            port,
        })
    }

    /// Reads a line of `[grants] http`.
    fn parse(text: &str) -> Result<Self, &'static str> {
        // `*` is a valid character of a registered name, so a wildcard passes through the URI parser unharmed.
        let uri: Uri = text.parse().map_err(|_| "it is not an origin")?;
        if uri.path_and_query().is_some_and(|path| path != "/") || text.contains('#') {
            return Err("a grant is a whole origin: leave the path out");
        }
        let mut origin = Self::of(&uri)?;
        if let Host::Name(name) = &origin.host
            && name.contains('*')
        {
            let suffix = name
                .strip_prefix("*.")
                .filter(|suffix| !suffix.is_empty() && !suffix.contains('*'))
                .ok_or("a wildcard stands only at the beginning, as in `https://*.example.com`")?;
            origin.host = Host::Below(suffix.to_owned());
        }
        Ok(origin)
    }

    fn covers(&self, other: &Self) -> bool {
        self.https == other.https
            && self.port == other.port
            && match (&self.host, &other.host) {
                (Host::Below(suffix), Host::Name(name)) => name
                    .strip_suffix(suffix.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                (granted, asked) => granted == asked,
            }
    }

    fn port_is_default(&self) -> bool {
        self.port == if self.https { 443 } else { 80 }
    }

    /// `host[:port]`: what the `host` header says (RFC 9110, section 7.2).
    pub(crate) fn authority(&self) -> String {
        if self.port_is_default() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The scheme's name.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

/// As it is written in a grant.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

impl Host {
    /// Reads a host however it is written, as browsers do (WHATWG URL): `2130706433`, `0x7f.1` and `0177.0.0.01` are
    /// addresses in disguise, and a resolver would take them for the same. An IPv6 address may lack its brackets.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = match url::Host::parse(text) {
            Ok(url::Host::Ipv4(address)) => return Ok(Self::Address(address.into())),
            Ok(url::Host::Ipv6(address)) => {
                return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
            }
            Ok(url::Host::Domain(name)) => name,
            Err(_) if text.starts_with('[') => {
                return Err("the address in brackets is not an IPv6 address");
            }
            Err(_) => return Err("the host is not a name"),
        };
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.is_empty() || name.len() > 253 || name.split('.').any(str::is_empty) {
            return Err("the host is not a name");
        }
        Ok(Self::Name(name.to_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// `host:port`: what a socket may be connected to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    host: Host,
    port: u16,
}

impl Endpoint {
    /// Reads a line of `[grants] tcp`.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
        let port = port.parse().ok().filter(|&port: &u16| port != 0);
        let port = port.ok_or("the port is not a number from 1 to 65535")?;
        if host.contains(':') && !host.starts_with('[') {
            return Err("an IPv6 address stands in brackets");
        }
        let host = Host::parse(host)?;
        if host.to_string().contains('*') {
            return Err("a grant names one host");
        }
        Ok(Self { host, port })
    }
}

/// As it is written in a grant.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The `http`, `tcp` and `networks` grants of a plugin: sorted and without repeats, so that equal rights compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reach {
    origins: Vec<Origin>,
    endpoints: Vec<Endpoint>,
    networks: Vec<IpNet>,
}

impl Reach {
    /// Reads the three lists; every line that is not understood is a problem of its own.
    pub(crate) fn parse(
        http: &[String],
        tcp: &[String],
        networks: &[String],
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut reach = Self::default();
        for text in http {
            match Origin::parse(text) {
                Ok(origin) => reach.origins.push(origin),
                Err(why) => problems.push(
                    Problem::error(format!("[grants] http: {text:?}: {why}"))
                        .remedy("write an origin, e.g. `http = [\"https://api.example.com\"]`"),
                ),
            }
        }
        for text in tcp {
            match Endpoint::parse(text) {
                Ok(endpoint) => reach.endpoints.push(endpoint),
                Err(why) => problems.push(
                    Problem::error(format!("[grants] tcp: {text:?}: {why}"))
                        .remedy("write a host and a port, e.g. `tcp = [\"db.internal:5432\"]`"),
                ),
            }
        }
        for text in networks {
            // A single address is the range of itself.
            let network = text
                .parse()
                .or_else(|error| text.parse::<IpAddr>().map(IpNet::from).map_err(|_| error));
            match network {
                Ok(network) => reach.networks.push(network.trunc()),
                Err(_) => problems.push(
                    Problem::error(format!(
                        "[grants] networks: {text:?} is not a range of addresses"
                    ))
                    .remedy("write it with its prefix length, e.g. `networks = [\"10.0.0.0/8\"]`"),
                ),
            }
        }
        reach.origins.sort();
        reach.origins.dedup();
        reach.endpoints.sort();
        reach.endpoints.dedup();
        reach.networks.sort();
        reach.networks.dedup();
        if problems.is_empty() {
            Ok(reach)
        } else {
            Err(problems)
        }
    }

    /// Whether a request may go to this origin.
    pub(crate) fn allows(&self, origin: &Origin) -> bool {
        self.origins.iter().any(|granted| granted.covers(origin))
    }

    /// Whether a socket may be connected to this port of this host.
    pub(crate) fn connects(&self, host: &Host, port: u16) -> bool {
        self.endpoints
            .iter()
            .any(|granted| granted.port == port && granted.host == *host)
    }

    /// Whether a socket may be connected to any port of this host.
    pub(crate) fn connects_somewhere(&self, host: &Host) -> bool {
        self.endpoints.iter().any(|granted| granted.host == *host)
    }

    /// Whether this name may be looked up: only granted names resolve.
    pub(crate) fn resolves(&self, name: &str) -> bool {
        let Ok(host @ Host::Name(_)) = Host::parse(name) else {
            return false;
        };
        if self.connects_somewhere(&host) {
            return true;
        }
        let Host::Name(name) = host else { return false };
        self.origins.iter().any(|granted| match &granted.host {
            Host::Address(_) => false,
            Host::Name(granted) => *granted == name,
            Host::Below(suffix) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        })
    }

    /// Whether a connection to an address that a granted name resolved to may be opened.
    ///
    /// # Errors
    /// What kind of address it is, for the sentence that refuses it.
    pub(crate) fn admits(&self, address: IpAddr) -> Result<(), &'static str> {
        let Some(kind) = special(address) else {
            return Ok(());
        };
        let plain = address.to_canonical();
        if self.networks.iter().any(|range| range.contains(&plain)) {
            Ok(())
        } else {
            Err(kind)
        }
    }
}

/// What makes an address not part of the public internet, or `None` if it is.
///
/// Source: the IANA special-purpose address registries (RFC 6890 and its updates). Addresses that carry an IPv4 address
/// inside (mapped, compatible, NAT64, 6to4, Teredo) are refused as a family: where they lead is decided by a router.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "unspecified",
        [127, ..] => "loopback",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "shared (carrier-grade NAT)",
        [169, 254, ..] => "link-local (cloud metadata lives there)",
        [192, 0, 0, _] => "reserved for protocols",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "documentation",
        [192, 88, 99, _] => "6to4 relay",
        [198, 18..=19, ..] => "benchmarking",
        [224..=239, ..] => "multicast",
        [240..=255, ..] => "reserved",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        [0, 0, 0, 0, 0, 0, ..] => "IPv4-compatible",
        [0x64, 0xff9b, ..] => "NAT64",
        [0x100, ..] => "discard-only",
        [0x2001, 0..=0x1ff, ..] => "reserved for protocols",
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => "documentation",
        [0x2002, ..] => "6to4",
        [0x5f00, ..] => "segment routing",
        [0xfc00..=0xfdff, ..] => "private (unique local)",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        // Only 2000::/3 is handed out as global unicast.
        [0x2000..=0x3fff, ..] => return None,
        _ => "reserved",
    })
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
