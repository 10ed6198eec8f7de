//! Where the servers are: one that is named, one that Sentinels name, or the masters of a cluster. Asks, and keeps
//! nothing; who is asked when is the keeper's business.
//!
//! # Whom to believe
//!
//! After a failover the old master may still think that it is one, and so may whoever has not heard of it. Of a cluster
//! several servers are asked, and for each slot the claim with the highest configuration epoch counts: epochs are given
//! out by votes of the majority, so the newer claim has the higher one. Of Sentinels all are asked, and whom most name is
//! believed. Either way the keeper turns away from who says itself that it is a replica.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo,
    IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates,
    Value,
};

use super::SetupError;
use super::link::{CONNECT_TIMEOUT, ask};
use super::names::SLOTS;
use super::trouble::Trouble;

/// Servers of a cluster that are asked for its map at most.
const ASKED_MAX: usize = 7;

/// Which servers there are, as the operator says.
#[derive(Clone)]
pub enum Servers {
    /// `redis://[user:password@]host:port[/db]`, `rediss://…` with TLS, or `redis+unix:///path[?db=…&pass=…]`.
    Single(String),
    /// Sentinels, each a URL with what it takes to log in to it, and the master they watch: a URL whose host is the
    /// master's name, with what it takes to log in to the master.
    Sentinel {
        /// The master's name in place of a host.
        master: String,
        /// Where the Sentinels are.
        sentinels: Vec<String>,
    },
    /// Some servers of a cluster, from which the others are learnt; all take the same login.
    Cluster(Vec<String>),
}

/// Certificates for TLS, as PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// Who must have signed the servers' certificates; none: whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// This node's own certificate and key, where servers ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// The servers, and how to reach any of them.
pub(super) struct Topology {
    kind: Kind,
    tls: Tls,
}

enum Kind {
    Single(Client),
    Sentinel {
        name: String,
        /// How to log in to a master; its address is what the Sentinels say.
        login: ConnectionInfo,
        sentinels: Vec<Client>,
    },
    Cluster {
        login: ConnectionInfo,
        seeds: Vec<Address>,
    },
}

/// A server's host and port.
pub(super) type Address = (Arc<str>, u16);

/// The masters of a cluster, and which of them holds each slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) masters: Vec<Address>,
    /// By slot, an index of `masters`; [`NOBODY`] where no master claims it.
    pub(super) slots: Box<[u16]>,
}

/// No master holds the slot.
pub(super) const NOBODY: u16 = u16::MAX;

impl Topology {
    pub(super) fn new(servers: &Servers, tls: Tls) -> Result<Self, SetupError> {
        let kind = match servers {
            Servers::Single(url) => Kind::Single(client(info(url)?, &tls)?),
            Servers::Sentinel { master, sentinels } => {
                let login = info(master)?;
                let (ConnectionAddr::Tcp(name, _) | ConnectionAddr::TcpTls { host: name, .. }) =
                    login.addr()
                else {
                    return Err(SetupError::Url {
                        reason: "a Unix socket names no master".into(),
                    });
                };
                let clients = sentinels
                    .iter()
                    .map(|url| client(info(url)?, &tls))
                    .collect::<Result<_, _>>()?;
                Kind::Sentinel {
                    name: name.clone(),
                    login,
                    sentinels: clients,
                }
            }
            Servers::Cluster(urls) => {
                let mut seeds = Vec::new();
                let mut login = None;
                for url in urls {
                    let seed = info(url)?;
                    seeds.push(address(seed.addr()).ok_or_else(|| SetupError::Url {
                        reason: "a cluster is reached over TCP, not over a Unix socket".into(),
                    })?);
                    login.get_or_insert(seed);
                }
                Kind::Cluster {
                    login: login.ok_or_else(no_servers)?,
                    seeds,
                }
            }
        };
        Ok(Self { kind, tls })
    }

    /// Whether keys are spread over several servers.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster { .. })
    }

    /// What TLS to any of them is made with.
    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Whether another server takes the place of a master that fails.
    pub(super) fn moves(&self) -> bool {
        !matches!(self.kind, Kind::Single(_))
    }

    /// How to reach the server that holds everything; `at` is for a cluster.
    pub(super) async fn client(&self, at: Option<&Address>) -> Result<Client, Trouble> {
        match &self.kind {
            Kind::Single(client) => Ok(client.clone()),
            Kind::Sentinel {
                name,
                login,
                sentinels,
            } => {
                let master = master_of(name, sentinels).await?;
                self.client_at(login, &master)
            }
            Kind::Cluster { login, .. } => {
                let at = at.ok_or_else(|| {
                    Trouble::Lost("no server of the cluster has told its map yet".into())
                })?;
                self.client_at(login, at)
            }
        }
    }

    /// Whether the Sentinels now name another master than `at`. Not to be reached, they name none.
    pub(super) async fn has_moved_from(&self, at: &ConnectionAddr) -> bool {
        let Kind::Sentinel {
            name, sentinels, ..
        } = &self.kind
        else {
            return false;
        };
        match master_of(name, sentinels).await {
            Ok(master) => address(at).is_some_and(|at| at != master),
            Err(_) => false,
        }
    }

    /// The map of the cluster, from whichever of its servers answer.
    pub(super) async fn layout(&self, known: &[Address]) -> Result<Layout, Trouble> {
        let Kind::Cluster { login, seeds } = &self.kind else {
            return Err(Trouble::Fault("there is one server, and no map".into()));
        };
        let mut asked: Vec<&Address> = known.iter().chain(seeds).collect();
        let mut seen = std::collections::HashSet::new();
        asked.retain(|address| seen.insert(*address));
        asked.truncate(ASKED_MAX.max(seeds.len()));
        let answers = join_all(asked.into_iter().map(async |at| {
            let client = self.client_at(login, at)?;
            let nodes = once(&client, redis::cmd("CLUSTER").arg("NODES")).await?;
            let text: String = redis::from_redis_value(nodes)
                .map_err(|error| Trouble::Strange(error.to_string()))?;
            Ok(claims_of(&text, &at.0))
        }))
        .await;
        let mut trouble = Trouble::Lost("no server of the cluster answers".into());
        let mut claims = Vec::new();
        for answer in answers {
            match answer {
                Ok(told) => claims.extend(told),
                Err(error) => trouble = error,
            }
        }
        layout_of(&claims).ok_or(trouble)
    }

    fn client_at(&self, login: &ConnectionInfo, (host, port): &Address) -> Result<Client, Trouble> {
        let (host, port) = (host.to_string(), *port);
        let addr = match login.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        client(login.clone().set_addr(addr), &self.tls)
            .map_err(|error| Trouble::Lost(error.to_string()))
    }
}

/// The master that most of the Sentinels name, as soon as most of them have; else whom most of those name that answer.
async fn master_of(name: &str, sentinels: &[Client]) -> Result<Address, Trouble> {
    let mut answers: FuturesUnordered<_> = sentinels
        .iter()
        .map(async |sentinel| {
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
            let answer = once(sentinel, &command).await?;
            let named: Option<(String, u16)> = redis::from_redis_value(answer)
                .map_err(|error| Trouble::Strange(error.to_string()))?;
            let unknown = || Trouble::Lost(format!("the Sentinels know no master `{name}`"));
            named
                .map(|(host, port)| (Arc::from(host), port))
                .ok_or_else(unknown)
        })
        .collect();
    let mut trouble = Trouble::Lost("no Sentinel answers".into());
    let mut votes: Vec<(Address, usize)> = Vec::new();
    while let Some(answer) = answers.next().await {
        let master = match answer {
            Ok(master) => master,
            Err(error) => {
                trouble = error;
                continue;
            }
        };
        let place = votes.iter().position(|(named, _)| *named == master);
        let place = place.unwrap_or_else(|| {
            votes.push((master, 0));
            votes.len() - 1
        });
        votes[place].1 += 1;
        // One that does not answer is waited for only where it could turn the vote.
        if votes[place].1 * 2 > sentinels.len() {
            break;
        }
    }
    votes
        .into_iter()
        .max_by_key(|(_, votes)| *votes)
        .map(|(master, _)| master)
        .ok_or(trouble)
}

/// One command on a connection of its own.
async fn once(client: &Client, command: &redis::Cmd) -> Result<Value, Trouble> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(None);
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| Trouble::of(&error).at_connecting())?;
    ask(&mut connection, command, CONNECT_TIMEOUT).await
}

/// Slots that a server says a master holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    master: Address,
    epoch: u64,
    slots: Vec<(usize, usize)>,
}

/// What `CLUSTER NODES` says of the masters; `asked` is the host of whom it was asked, who may not know its own.
fn claims_of(nodes: &str, asked: &str) -> Vec<Claim> {
    nodes
        .lines()
        .filter_map(|line| claim_of(line, asked))
        .collect()
}

/// `ID HOST:PORT@BUS[,NAME] FLAGS MASTER PING PONG EPOCH LINK SLOT…`
fn claim_of(line: &str, asked: &str) -> Option<Claim> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [_, address, flags, _, _, _, epoch, _, slots @ ..] = fields.as_slice() else {
        return None;
    };
    if !flags.split(',').any(|flag| flag == "master") || slots.is_empty() {
        return None;
    }
    let (address, _bus) = address.split_once('@')?;
    let (host, port) = address.rsplit_once(':')?;
    let host = if host.is_empty() { asked } else { host };
    let slots = slots
        .iter()
        // What is on its way from or to another server is written in brackets, and is still where it was.
        .filter(|range| !range.starts_with('['))
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .filter(|(first, last)| first <= last && *last < SLOTS)
        .collect();
    Some(Claim {
        master: (host.into(), port.parse().ok()?),
        epoch: epoch.parse().ok()?,
        slots,
    })
}

/// For each slot the claim with the highest epoch; nothing if nobody claims anything.
fn layout_of(claims: &[Claim]) -> Option<Layout> {
    let mut masters: Vec<Address> = Vec::new();
    let mut slots = vec![NOBODY; SLOTS].into_boxed_slice();
    let mut epochs = vec![0_u64; SLOTS];
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|claim| std::cmp::Reverse(claim.epoch));
    for claim in sorted {
        for (first, last) in &claim.slots {
            for slot in *first..=*last {
                if slots[slot] != NOBODY && epochs[slot] >= claim.epoch {
                    continue;
                }
                let known = masters.iter().position(|master| *master == claim.master);
                let index = known.unwrap_or_else(|| {
                    masters.push(claim.master.clone());
                    masters.len() - 1
                });
                slots[slot] = u16::try_from(index).unwrap_or(NOBODY);
                epochs[slot] = claim.epoch;
            }
        }
    }
    (!masters.is_empty()).then_some(Layout { masters, slots })
}

fn fault(error: &RedisError) -> SetupError {
    SetupError::Url {
        reason: error.to_string(),
    }
}

/// How to reach a server: with RESP3 (needed to be told of a lost connection), and without waiting to fill packets.
fn info(url: &str) -> Result<ConnectionInfo, SetupError> {
    let info = url.into_connection_info().map_err(|error| fault(&error))?;
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        // One command less that a user must be allowed.
        .set_skip_set_lib_name();
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

/// What it takes to log in to the servers that hold the data.
pub(super) fn login(servers: &Servers) -> Result<RedisConnectionInfo, SetupError> {
    let url = match servers {
        Servers::Single(url) | Servers::Sentinel { master: url, .. } => url,
        Servers::Cluster(urls) => urls.first().ok_or_else(no_servers)?,
    };
    Ok(info(url)?.redis_settings().clone())
}

fn no_servers() -> SetupError {
    SetupError::Url {
        reason: "a cluster needs one at least".into(),
    }
}

/// How to reach the server of a URL, without TLS.
#[cfg(test)]
pub(super) fn client_of(url: &str) -> Result<Client, SetupError> {
    client(info(url)?, &Tls::default())
}

fn client(info: ConnectionInfo, tls: &Tls) -> Result<Client, SetupError> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Client::open(info).map_err(|error| fault(&error));
    }
    let certificates = TlsCertificates {
        client_tls: tls
            .identity
            .clone()
            .map(|(client_cert, client_key)| ClientTlsConfig {
                client_cert,
                client_key,
            }),
        root_cert: tls.ca.clone(),
    };
    Client::build_with_tls(info, certificates).map_err(|error| fault(&error))
}

/// Host and port; none for a Unix socket.
pub(super) fn address(addr: &ConnectionAddr) -> Option<Address> {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.as_str().into(), *port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &str = "\
07c37d 127.0.0.1:30004@31004,host4 slave e7d1ee 0 1426238317239 4 connected
67ed2d 127.0.0.1:30002@31002,host2 master - 0 1426238316232 2 connected 5461-10922
e7d1ee :30001@31001 myself,master - 0 0 1 connected 0-5460 [5461-<-67ed2d]
292f8b 127.0.0.1:30003@31003 master,fail - 0 1426238318243 3 disconnected 10923-16383
aaaaaa 127.0.0.1:30009@31009 master - 0 1426238318243 0 connected
";

    fn at(port: u16) -> Address {
        ("127.0.0.1".into(), port)
    }

    #[test]
    fn a_map_is_read_from_what_one_server_says() {
        let layout = layout_of(&claims_of(NODES, "127.0.0.1")).unwrap();
        let holder = |slot: usize| layout.masters[usize::from(layout.slots[slot])].clone();
        assert_eq!(holder(0), at(30001), "who does not know its own host");
        assert_eq!(holder(5460), at(30001));
        assert_eq!(holder(5461), at(30002), "not moved yet");
        assert_eq!(holder(16_383), at(30003), "its slots are nobody else's yet");
        assert_eq!(
            layout.masters.len(),
            3,
            "a master without slots holds nothing"
        );
    }

    #[test]
    fn of_two_claims_to_a_slot_the_newer_counts() {
        let old = "a 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-100";
        let new = "b 127.0.0.1:3@4 myself,master - 0 0 7 connected 50-100";
        let claims = [claims_of(new, ""), claims_of(old, "")].concat();
        let layout = layout_of(&claims).unwrap();
        let holder = |slot: usize| layout.masters[usize::from(layout.slots[slot])].1;
        assert_eq!((holder(49), holder(50), holder(100)), (1, 3, 3));
        assert_eq!(layout.slots[101], NOBODY);
    }

    #[test]
    fn what_is_no_map_is_none() {
        assert_eq!(layout_of(&claims_of("", "")), None);
        assert_eq!(
            layout_of(&claims_of("a b c\nx 1:2@3 master - 0 0 x y 1", "")),
            None
        );
    }
}
