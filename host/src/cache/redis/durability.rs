//! What the servers promise of what is queued, in their own configuration. Asked for once, at start; knows nothing of the queue
//! but which servers hold it.

use std::fmt;
use std::sync::Arc;

use redis::Value;

use super::RedisTier;
use super::link::{CONNECT_TIMEOUT, Link, Road, field};
use super::names::PARTITIONS;
use super::trouble::Trouble;

/// What outlives a server that is killed, or its machine. Ordered: the later ones promise more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lasting {
    /// What was saved last, if anything is: minutes may be lost, or everything.
    Memory,
    /// It is not known.
    Unknown,
    /// All but about the last second.
    EverySecond,
    /// Everything that was answered.
    Always,
}

/// What is promised of what is queued, by the server that promises the least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// What outlives a server.
    pub lasting: Lasting,
    /// The policy by which a full server may drop what is queued, as `maxmemory-policy` names it; none: it drops none of it.
    pub evicts: Option<String>,
    /// Whether there are replicas that could take over: a push waits for one.
    pub copied: bool,
    /// Whether a server that is short of replicas refuses writes (`min-replicas-to-write`).
    pub insists: bool,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.lasting {
            Lasting::Always => {
                "Redis writes every change to its disk before it answers (appendfsync always)"
            }
            Lasting::EverySecond => {
                "a Redis that loses power loses about the last second (appendfsync everysec); set appendfsync always in it to lose nothing"
            }
            Lasting::Memory => {
                "a Redis that is killed loses what was queued since it was last saved, or everything; set appendonly yes and appendfsync always in it"
            }
            Lasting::Unknown => {
                "Redis does not tell whether it keeps what is queued on its disk; see to it that appendonly is yes and appendfsync always, or let the user of [redis] ask with +config|get"
            }
        })?;
        if let Some(policy) = &self.evicts {
            write!(
                f,
                "; a full Redis drops what is queued (maxmemory-policy {policy}): set it to noeviction or to a volatile one"
            )?;
        }
        f.write_str(match (self.copied, self.insists) {
            (true, true) => {
                "; a change waits for a replica, and is refused where none keeps up"
            }
            (true, false) => {
                "; a change waits for a replica, and is accepted without one that hangs: set min-replicas-to-write 1 to refuse it"
            }
            (false, _) => "",
        })
    }
}

impl RedisTier {
    /// What the servers promise of what is queued; [`Lasting::Unknown`] while one of them is not to be had.
    pub async fn durability(&self) -> Durability {
        let links: Vec<Option<Arc<Link>>> = {
            let map = self.shared.map.load();
            let link = |at| map.of_partition(at)?.breaker.link();
            (0..PARTITIONS).map(link).collect()
        };
        let mut all = Durability {
            lasting: Lasting::Always,
            evicts: None,
            copied: true,
            insists: true,
        };
        let mut asked = Vec::new();
        for link in links {
            let Some(link) = link else {
                all.lasting = all.lasting.min(Lasting::Unknown);
                continue;
            };
            if asked.contains(&link.id) {
                continue;
            }
            asked.push(link.id);
            match promised(&link).await {
                Ok(one) => {
                    all.lasting = all.lasting.min(one.lasting);
                    all.evicts = all.evicts.or(one.evicts);
                    all.copied &= one.copied;
                    all.insists &= one.insists;
                }
                Err(trouble) => {
                    self.shared.failed(&link, &trouble);
                    all.lasting = all.lasting.min(Lasting::Unknown);
                }
            }
        }
        if asked.is_empty() {
            (all.copied, all.insists) = (false, false);
        }
        all
    }
}

/// What one server promises. `INFO` tells all but how it writes to its disk: that takes `CONFIG GET`, which tells passwords too,
/// so the user of this tier need not be allowed it.
async fn promised(link: &Link) -> Result<Durability, Trouble> {
    let ask = async |command: &redis::Cmd| link.ask(Road::Control, command, CONNECT_TIMEOUT).await;
    let info = ask(&redis::cmd("INFO")).await?;
    let info: String =
        redis::from_redis_value(info).map_err(|error| Trouble::Strange(error.to_string()))?;
    let lasting = match field(&info, "aof_enabled") {
        Some("0") => Lasting::Memory,
        Some("1") => {
            let mut command = redis::cmd("CONFIG");
            command.arg("GET").arg("appendfsync");
            match ask(&command).await {
                Ok(answer) => fsync_of(answer),
                // It may not be asked, or is hidden by who runs it.
                Err(Trouble::Fault(_)) => Lasting::Unknown,
                Err(trouble) => return Err(trouble),
            }
        }
        _ => Lasting::Unknown,
    };
    let policy = field(&info, "maxmemory_policy").filter(|policy| policy.starts_with("allkeys"));
    // Without a bound it is never full.
    let bounded = field(&info, "maxmemory") != Some("0");
    Ok(Durability {
        lasting,
        evicts: policy.filter(|_| bounded).map(str::to_owned),
        copied: field(&info, "connected_slaves").is_some_and(|count| count != "0"),
        insists: field(&info, "min_slaves_good_slaves").is_some(),
    })
}

/// `appendfsync`, as it is configured.
fn fsync_of(answer: Value) -> Lasting {
    let Ok(pairs) = redis::from_redis_value::<Vec<(String, String)>>(answer) else {
        return Lasting::Unknown;
    };
    match pairs.first().map(|(_, value)| value.as_str()) {
        Some("always") => Lasting::Always,
        Some("everysec") => Lasting::EverySecond,
        // Whenever the system likes, which is some 30 s.
        Some("no") => Lasting::Memory,
        _ => Lasting::Unknown,
    }
}
