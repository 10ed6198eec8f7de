//! What a Redis user needs to be allowed for this tier, and nothing more.

use super::names::Names;

/// Commands that this node sends.
const SENT: &[&str] = &[
    "hello",
    "ping",
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
/// Commands that the scripts run.
const IN_SCRIPTS: &[&str] = &[
    "get", "set", "getrange", "setrange", "del", "pexpire", "pttl", "hget", "hset", "hdel",
    "hgetall", "hlen", "hscan", "publish",
];
/// Commands that a cluster takes besides.
const IN_A_CLUSTER: &[&str] = &["cluster|nodes"];

/// `ACL SETUSER` with a user's name and `PASSWORD` to be filled in.
pub fn acl(prefix: &str, clustered: bool) -> String {
    let names = Names::new(prefix);
    let mut line = format!("ACL SETUSER {prefix} on >PASSWORD resetkeys resetchannels -@all");
    for pattern in names.patterns() {
        line.push_str(" ~");
        line.push_str(&pattern);
    }
    line.push_str(" &");
    line.push_str(&names.channel);
    let besides = if clustered { IN_A_CLUSTER } else { &[] };
    for command in SENT.iter().chain(IN_SCRIPTS).chain(besides) {
        line.push_str(" +");
        line.push_str(command);
    }
    line
}
