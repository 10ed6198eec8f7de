//! What a Redis user needs to be allowed for this tier, and nothing more.

use super::names::Names;
use super::topology::{Servers, login};
use super::{SetupError, check_prefix};

/// Commands that this node sends.
const SENT: &[&str] = &[
    "hello",
    "info",
    "time",
    "mget",
    "hmget",
    "scan",
    "evalsha",
    "script|load",
    "subscribe",
    "wait",
];
/// Commands that the scripts run. A node sends `HSET` too.
const IN_SCRIPTS: &[&str] = &[
    "get", "set", "getrange", "setrange", "del", "pexpire", "pttl", "hget", "hset", "hdel",
    "hgetall", "hlen", "hscan", "publish",
];
/// Commands that the queue sends, or its scripts run, besides. How a server writes to its disk is asked for with `CONFIG GET`,
/// which would tell passwords too: whoever wants to be warned allows `config|get` by hand.
const IN_A_QUEUE: &[&str] = &[
    "xadd",
    "xdel",
    "xlen",
    "xrange",
    "zadd",
    "zcard",
    "zrange",
    "zrangebylex",
    "zrangebyscore",
    "zrem",
    "zrevrangebylex",
    "zscore",
    "hexists",
    "type",
];
/// What a cluster takes besides.
const IN_A_CLUSTER: &str = "cluster|nodes";
/// What a database of another number than 0 takes besides.
const IN_A_DATABASE: &str = "select";

/// `ACL SETUSER` for the user that the servers are logged in to as, else for one that is called as the prefix is, with
/// `PASSWORD` to be filled in. It takes away whatever that user could do before. `queue`: changes are queued there too.
///
/// # Errors
/// [`SetupError`], when no Redis could ever be reached with these settings.
pub fn acl(servers: &Servers, prefix: &str, queue: bool) -> Result<String, SetupError> {
    check_prefix(prefix)?;
    let (names, login) = (Names::new(prefix), login(servers)?);
    let user = login.username().unwrap_or(prefix);
    let mut line = format!("ACL SETUSER {user} reset resetchannels on >PASSWORD");
    let of_the_queue = queue.then(|| names.queue_pattern());
    for pattern in names.patterns().into_iter().chain(of_the_queue) {
        line.push_str(" ~");
        line.push_str(&pattern);
    }
    line.push_str(" &");
    line.push_str(&names.channel);
    let cluster = matches!(servers, Servers::Cluster(_)).then_some(IN_A_CLUSTER);
    let database = (login.db() != 0).then_some(IN_A_DATABASE);
    let besides = cluster.iter().chain(&database);
    let of_the_queue = if queue { IN_A_QUEUE } else { &[] };
    let all = SENT.iter().chain(IN_SCRIPTS).chain(of_the_queue);
    for command in all.chain(besides) {
        line.push_str(" +");
        line.push_str(command);
    }
    Ok(line)
}
