//! The tables of `larder.toml` that stand once: what is refused, and in which words.

use super::check;

#[test]
fn every_syntax_error_is_named_with_its_line_and_the_rest_is_still_read() {
    check(
        r##"
[server]
listen = "127.0.0.1:1
drain = "1s"
foo = 1
[admin
token = 3
[[routes]]
path = "/x"
loader = demo
"##,
        r##"
error: larder.toml:2: this is not TOML: invalid basic string, expected `"`
  remedy: mend the line; other problems near it show once it can be read
error: larder.toml:4: unknown key "foo" in [server]
  remedy: the nearest is "key"; all there are: body_bytes, body_timeout, cert, drain, drain_delay, handshake_timeout, header_bytes, header_timeout, key, listen, max_connections, max_headers, max_loads, max_streams, max_waiters, max_watchers, write_timeout
error: larder.toml:5: this is not TOML: unclosed table, expected `]`
  remedy: mend the line; other problems near it show once it can be read
error: larder.toml:9: this is not TOML: string values must be quoted, expected literal string
  remedy: mend the line; other problems near it show once it can be read
"##,
    );
    check(
        r##"
[memory]
capacity = "1MiB"
capacity = "2MiB"
"##,
        r##"
error: larder.toml:3: this is not TOML: duplicate key
  remedy: mend the line; other problems near it show once it can be read
"##,
    );
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_known_one() {
    check(
        r##"
[server]
lisen = "x"
max-headers = 3
ttl = "60s"
zebra = 1
[sever]
"##,
        r##"
error: larder.toml:2: unknown key "lisen" in [server]
  remedy: did you mean "listen"?
error: larder.toml:3: unknown key "max-headers" in [server]
  remedy: did you mean "max_headers"?
error: larder.toml:4: unknown key "ttl" in [server]
  remedy: ttl belongs in [[routes]]; the nearest key here is "key"
error: larder.toml:5: unknown key "zebra" in [server]
  remedy: the nearest is "cert"; all there are: body_bytes, body_timeout, cert, drain, drain_delay, handshake_timeout, header_bytes, header_timeout, key, listen, max_connections, max_headers, max_loads, max_streams, max_waiters, max_watchers, write_timeout
error: larder.toml:6: unknown table "sever"
  remedy: did you mean [server]?
"##,
    );
    check(
        r##"
listen = "127.0.0.1:80"
ttl = "60s"
[[route]]
path = "/x"
[[routes]]
path = "/x"
loader = "demo"
timout = "2s"
"##,
        r##"
error: larder.toml:1: unknown key "listen" before the first table
  remedy: listen belongs in [server]; the nearest key here is "routes"
error: larder.toml:2: unknown key "ttl" before the first table
  remedy: ttl belongs in [[routes]]; the nearest key here is "log"
error: larder.toml:3: unknown table "route"
  remedy: did you mean [[routes]]?
error: larder.toml:8: unknown key "timout" in [[routes]]
  remedy: did you mean "timeout"?
"##,
    );
}

#[test]
fn a_table_is_a_table_and_an_array_an_array() {
    check(
        r##"
server = 3
[[memory]]
capacity = "0"
[routes]
path = "/x"
"##,
        r##"
error: larder.toml:1: server is a table, not the integer 3
  remedy: write [server] on a line of its own, and its keys below
error: larder.toml:2: memory is a table, not an array of tables
  remedy: write [memory] on a line of its own, and its keys below
error: larder.toml:4: routes is an array of tables, not a table
  remedy: write [[routes]] before the keys of each
"##,
    );
    check(
        r##"
routes = [3]
"##,
        r##"
error: larder.toml:1: routes is an array of tables, not an array of integers
  remedy: write [[routes]] before the keys of each
"##,
    );
}

#[test]
fn durations() {
    check(
        r##"
[server]
header_timeout = 30
drain = "20"
[[routes]]
path = "/x"
loader = "demo"
ttl = "1 fortnight"
ttl_max = "200years"
timeout = "48h"
soft_timeout = true
missing_ttl = ""
failure_ttl = 1979-05-27
stale_if_error = ["1h"]
[redis]
url = "redis://127.0.0.1"
timeout = "0"
"##,
        r##"
error: larder.toml:2: header_timeout of [server]: expected a duration, found the integer 30
  remedy: write "30s" or "30ms"
error: larder.toml:3: drain of [server]: "20" is not a duration: time unit needed, for example 20sec or 20ms
  remedy: write "20s" or "20ms"
error: larder.toml:7: ttl of [[routes]]: "1 fortnight" is not a duration: unknown time unit "fortnight", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations)
  remedy: write a number and a unit in quotes, such as "200ms", "60s" or "1h"
error: larder.toml:8: ttl_max of [[routes]]: "200years" is longer than 100 years
  remedy: write at most "36500d"
error: larder.toml:9: timeout of [[routes]]: "48h" is longer than a day
  remedy: write at most "24h"
error: larder.toml:10: soft_timeout of [[routes]]: expected a duration, found the boolean true
  remedy: write a number and a unit in quotes, such as "200ms", "60s" or "1h"
error: larder.toml:11: missing_ttl of [[routes]]: "" is not a duration: value was empty
  remedy: write a number and a unit in quotes, such as "200ms", "60s" or "1h"
error: larder.toml:12: failure_ttl of [[routes]]: expected a duration, found the date 1979-05-27
  remedy: write a number and a unit in quotes, such as "200ms", "60s" or "1h"
error: larder.toml:13: stale_if_error of [[routes]]: expected a duration, found an array
  remedy: write a number and a unit in quotes, such as "200ms", "60s" or "1h"
error: larder.toml:16: timeout of [redis]: "0" leaves no time at all
  remedy: write at least "1ms"
"##,
    );
}

#[test]
fn sizes() {
    check(
        r##"
[memory]
capacity = "256 megs"
[server]
header_bytes = "1KiB"
body_bytes = 1048576
"##,
        r##"
error: larder.toml:2: capacity of [memory]: "256 megs" is not a size
  remedy: write a number and a unit in quotes, such as "64KiB", "256MiB" or "2GiB"
error: larder.toml:4: header_bytes of [server]: "1KiB" is too small: an ordinary head of a request may need 8KiB
  remedy: write at least "8KiB"
error: larder.toml:5: body_bytes of [server]: expected a size, found the integer 1048576
  remedy: write "1048576B"
"##,
    );
    check(
        r##"
[memory]
capacity = ".5"
"##,
        r##"
error: larder.toml:2: capacity of [memory]: ".5" is not a size
  remedy: write a number and a unit in quotes, such as "64KiB", "256MiB" or "2GiB"
"##,
    );
    check(
        r##"
[memory]
capacity = "9EiB"
"##,
        r##"
error: larder.toml:2: capacity of [memory]: "9EiB" is more than can be addressed
  remedy: write at most "7EiB"
"##,
    );
}

#[test]
fn counts_ratios_and_switches() {
    check(
        r##"
[server]
max_connections = "100"
max_waiters = 0
max_loads = -1
max_headers = 1.5
[plugins]
watch = "true"
[[routes]]
path = "/x"
loader = "demo"
jitter = 2
[[routes]]
path = "/y"
loader = "demo"
jitter = "0.1"
"##,
        r##"
error: larder.toml:2: max_connections of [server]: expected a whole number, found the string "100"
  remedy: write 100, without quotes
error: larder.toml:3: max_waiters of [server]: 0 is not a number from 1 to 10000000
  remedy: write a whole number above 0, without quotes
error: larder.toml:4: max_loads of [server]: -1 is not a number from 1 to 10000000
  remedy: write a whole number above 0, without quotes
error: larder.toml:5: max_headers of [server]: expected a whole number, found the float 1.5
  remedy: write a whole number above 0, without quotes
error: larder.toml:7: watch of [plugins]: expected a boolean, found the string "true"
  remedy: write true, without quotes
error: larder.toml:11: jitter of [[routes]]: 2 is not between 0 and 1
  remedy: write a number from 0 to 1, such as 0.1
error: larder.toml:15: jitter of [[routes]]: expected a ratio, found the string "0.1"
  remedy: write 0.1, without quotes
"##,
    );
}

#[test]
fn what_is_asked_for_again_after_a_start() {
    check(
        r##"
[warm]
keys = 10001
rate = 0
"##,
        r##"
error: larder.toml:2: keys of [warm]: 10001 is not a number from 0 to 10000
  remedy: write a whole number without quotes, such as 1000, or 0 to turn it off
error: larder.toml:3: rate of [warm]: 0 is not a number from 1 to 10000
  remedy: write a whole number above 0, without quotes
"##,
    );
    check(
        r##"
[warm]
keys = "off"
rate = 10001
"##,
        r##"
error: larder.toml:2: keys of [warm]: expected a whole number, found the string "off"
  remedy: write a whole number without quotes, such as 1000, or 0 to turn it off
error: larder.toml:3: rate of [warm]: 10001 is not a number from 1 to 10000
  remedy: write a whole number above 0, without quotes
"##,
    );
    for (text, warms) in [
        ("[warm]\nkeys = 0\n", false),
        ("[memory]\ncapacity = \"0\"\n", false),
        ("[warm]\nkeys = 1\n", true),
    ] {
        let (config, _) = super::read_text(&format!("{text}{}", super::ROUTE));
        assert_eq!(config.warms(), warms, "{text}");
    }
}

#[test]
fn addresses_and_directories() {
    check(
        r##"
[server]
listen = "localhost:8080"
[admin]
listen = ":8081"
[plugins]
dir = ""
[storage]
dir = 3
"##,
        r##"
error: larder.toml:2: listen of [server]: "localhost:8080" is not an address to listen on
  remedy: write "127.0.0.1:8080"
error: larder.toml:4: listen of [admin]: ":8081" is not an address to listen on
  remedy: write "127.0.0.1:8081", or "0.0.0.0:8081" for every interface
error: larder.toml:6: dir of [plugins]: "" is not a path
  remedy: write a path in quotes
error: larder.toml:8: dir of [storage]: expected a directory, found the integer 3
  remedy: write "3"
"##,
    );
    check(
        r##"
[server]
listen = 8080
"##,
        r##"
error: larder.toml:2: listen of [server]: expected an address, found the integer 8080
  remedy: write an IP address and a port, such as "127.0.0.1:8080"
"##,
    );
    check(
        r##"
[server]
listen = "127.0.0.1"
"##,
        r##"
error: larder.toml:2: listen of [server]: "127.0.0.1" is not an address to listen on
  remedy: write an IP address and a port, such as "127.0.0.1:8080"
"##,
    );
}

#[test]
fn the_admin_listener_is_alone_and_off_loopback_protected() {
    check(
        r##"
[server]
listen = "0.0.0.0:8080"
[admin]
listen = "0.0.0.0:8080"
"##,
        r##"
error: larder.toml:4: listen of [admin]: 0.0.0.0:8080 is not loopback, and no token protects it: anybody who can reach it could purge and reload
  remedy: set token or token_file in [admin] (or LARDER_ADMIN_TOKEN), or listen on "127.0.0.1:8080"
error: larder.toml:4: listen of [admin]: 0.0.0.0:8080 is taken by [server], which listens on 0.0.0.0:8080
  remedy: give the two listeners different ports
"##,
    );
    check(
        r##"
[admin]
listen = "[::1]:9000"
"##,
        r##"
"##,
    );
    check(
        r##"
[admin]
listen = "0.0.0.0:9000"
token = "s3cret"
"##,
        r##"
"##,
    );
    check(
        r##"
[admin]
listen = "0.0.0.0:9000"
token = ""
"##,
        r##"
error: larder.toml:3: token of [admin]: it is empty or holds characters that no header field can carry
  remedy: write visible ASCII characters without spaces
"##,
    );
}

#[test]
fn there_is_one_token_and_who_reads_needs_one_who_changes() {
    check(
        r##"
[admin]
token = "a"
token_file = "token"
"##,
        r##"
error: larder.toml:3: token_file of [admin]: it stands beside token, and there is one token
  remedy: leave out one of token and token_file
"##,
    );
    check(
        r##"
[admin]
read_token_file = "reader"
"##,
        r##"
error: larder.toml:2: read_token_file of [admin]: without token, who shows none may change everything
  remedy: write token or token_file too
"##,
    );
}

#[test]
fn redis_urls_are_judged_without_repeating_their_password() {
    check(
        r##"
[redis]
url = "http://u:secret@h"
"##,
        r##"
error: larder.toml:2: url of [redis]: its scheme is "http", not redis
  remedy: write "redis://[user:password@]host:6379[/database]", the same with rediss:// for TLS, or "redis+unix:///path/of/the/socket"
"##,
    );
    check(
        r##"
[redis]
url = "localhost"
"##,
        r##"
error: larder.toml:2: url of [redis]: it is not a URL: relative URL without a base
  remedy: write "redis://[user:password@]host:6379[/database]", the same with rediss:// for TLS, or "redis+unix:///path/of/the/socket"
"##,
    );
    check(
        r##"
[redis]
url = "redis:///0"
"##,
        r##"
error: larder.toml:2: url of [redis]: it names no host
  remedy: write "redis://[user:password@]host:6379[/database]", the same with rediss:// for TLS, or "redis+unix:///path/of/the/socket"
"##,
    );
    check(
        r##"
[redis]
url = "redis://u:secret@h/x"
"##,
        r##"
error: larder.toml:2: url of [redis]: its database is not a number
  remedy: write "redis://[user:password@]host:6379[/database]", the same with rediss:// for TLS, or "redis+unix:///path/of/the/socket"
"##,
    );
    check(
        r##"
[redis]
url = "redis://u:secret@h:99999"
"##,
        r##"
error: larder.toml:2: url of [redis]: it is not a URL: invalid port number
  remedy: write "redis://[user:password@]host:6379[/database]", the same with rediss:// for TLS, or "redis+unix:///path/of/the/socket"
"##,
    );
    check(
        r##"
[redis]
url = "redis://h?protocol=resp3"
"##,
        r##"
error: larder.toml:2: url of [redis]: it has a query or a fragment, which mean nothing here
  remedy: write "redis://[user:password@]host:6379[/database]", the same with rediss:// for TLS, or "redis+unix:///path/of/the/socket"
"##,
    );
    check(
        r##"
[redis]
prefix = "a{b}"
mode = "sentinal"
"##,
        r##"
error: larder.toml:1: [redis] does not say where Redis is
  remedy: write url = "redis://127.0.0.1:6379", or remove the table to cache in memory alone
error: larder.toml:2: prefix of [redis]: "a{b}" cannot begin a key
  remedy: write at most 128 letters, digits and .:_~-, such as "larder"
error: larder.toml:3: mode of [redis]: "sentinal" is not a way to run Redis
  remedy: write "single", "cluster" or "sentinel"
"##,
    );
}

#[test]
fn redis_servers_are_what_their_mode_needs() {
    check(
        r##"
[redis]
urls = ["redis://a", "redis://b"]
"##,
        r##"
error: larder.toml:2: urls of [redis]: several servers are a cluster, or Sentinels
  remedy: write mode = "cluster" or mode = "sentinel", or name one server in url
"##,
    );
    check(
        r##"
[redis]
mode = "cluster"
url = "redis://a"
urls = ["redis://b"]
"##,
        r##"
error: larder.toml:4: urls of [redis]: it stands beside url, and of a cluster either names servers
  remedy: put them all into urls
"##,
    );
    check(
        r##"
[redis]
mode = "sentinel"
url = "redis://mymaster"
"##,
        r##"
error: larder.toml:2: mode of [redis]: with Sentinels both url and urls are needed
  remedy: write url = "redis://[user:password@]NAME", where NAME is the master's name, and urls = ["redis://host:26379", …], the Sentinels
"##,
    );
    check(
        r##"
[redis]
url = "rediss://h"
cert = "mine.pem"
"##,
        r##"
error: larder.toml:3: cert of [redis]: it means nothing without key
  remedy: write key too: a certificate and its private key belong together
"##,
    );
    for (url, why) in [
        ("redis+unix://", "it names no socket"),
        (
            "redis+unix://tmp/s",
            "it names a host before the path: three slashes follow the colon",
        ),
        ("redis+unix:///s?db=x", "its database is not a number"),
        ("redis+unix:///s?pas=x", "its query knows db, user and pass"),
    ] {
        check(
            &format!("\n[redis]\nurl = \"{url}\"\n"),
            &format!(
                "\nerror: larder.toml:2: url of [redis]: {why}\n  remedy: write \"redis://[user:password@]host:6379[/database]\", the same with rediss:// for TLS, or \"redis+unix:///path/of/the/socket\"\n"
            ),
        );
    }
}

#[test]
fn how_changes_wait_is_judged() {
    check(
        r##"
[writes]
queue = "dusk"
[[routes]]
path = "/x"
loader = "demo"
write = "behind"
[[routes]]
path = "/y"
loader = "demo"
write = "of"
[[routes]]
path = "/z"
loader = "demo"
write = "off"
"##,
        r##"
error: larder.toml:2: queue of [writes]: "dusk" is not a way to keep what is pending
  remedy: write "disk", for one node, or "redis", for several
error: larder.toml:10: write of [[routes]]: "of" is not a way to write
  remedy: write "through", which answers when the source has the change, "behind", which answers when the queue has it, or "off"
"##,
    );
    check(
        r##"
[redis]
url = "redis://127.0.0.1"
[writes]
max_pending = 10
[[routes]]
path = "/x"
loader = "demo"
write = "behind"
[[routes]]
path = "/writes/{x}"
loader = "demo"
write = "through"
coalesce = true
pending = "payload"
"##,
        r##"
error: larder.toml:3: queue of [writes]: the queue is on this node's disk, and the nodes that share [redis] would not see what is pending in it
  remedy: write queue = "redis" into [writes], or single_writer = true if no other node takes changes of these routes
error: larder.toml:9: "/writes/{x}" is below /writes/, where Larder tells what became of changes that are written behind
  remedy: give the route another path
warning: larder.toml:13: coalesce of [[routes]]: it does nothing on a route that does not write behind
  remedy: write write = "behind", or leave it out
warning: larder.toml:14: pending of [[routes]]: it does nothing on a route that does not write behind
  remedy: write write = "behind", or leave it out
"##,
    );
    check(
        r##"
[writes]
queue = "redis"
"##,
        r##"
error: larder.toml:2: queue of [writes]: there is no [redis] to keep it in
  remedy: write [redis] with url = "redis://127.0.0.1:6379", or queue = "disk"
"##,
    );
}

#[test]
fn a_file_without_routes_is_warned_of() {
    check(
        r##"
# nothing
"##,
        r##"
warning: larder.toml: there is no [[routes]], so every request is answered with 404
  remedy: write [[routes]] with path = "/data/{key}" and loader = "NAME"; without any file every loader is served at /NAME/{key}
"##,
    );
}

#[test]
fn certificates_of_listeners_belong_together() {
    check(
        r##"
[server]
cert = "a.pem"
[admin]
key = "b.pem"
client_ca = "c.pem"
"##,
        r##"
error: larder.toml:2: cert of [server]: it means nothing without key
  remedy: write key too: a certificate and its private key belong together
error: larder.toml:4: key of [admin]: it means nothing without cert
  remedy: write cert too: a certificate and its private key belong together
"##,
    );
    check(
        r##"
[admin]
client_ca = "c.pem"
"##,
        r##"
error: larder.toml:2: client_ca of [admin]: it means nothing without cert: clients show certificates over TLS alone
  remedy: write cert and key too
"##,
    );
}
