//! `NAME.toml` beside `NAME.wasm`: what is refused, and in which words.

use super::check_sidecar;

#[test]
fn free_settings_must_fit_json() {
    check_sidecar(
        r##"
[confg]
x = 1
[config]
big = 99999999999999999999999
inf = inf
[config.sub]
n = [1, nan]
"##,
        r##"
error: demo.toml:1: unknown table "confg"
  remedy: did you mean [config]?
error: demo.toml:4: big of [config]: the plugin is given its settings as JSON, which cannot hold 99999999999999999999999
  remedy: write a number within 64 bits, or a text
error: demo.toml:5: inf of [config]: the plugin is given its settings as JSON, which cannot hold inf
  remedy: write a number within 64 bits, or a text
error: demo.toml:7: sub of [config]: the plugin is given its settings as JSON, which cannot hold nan
  remedy: write a number within 64 bits, or a text
"##,
    );
}

#[test]
fn a_secret_says_where_it_is_and_is_not_repeated() {
    check_sidecar(
        r##"
[secrets]
a = "hunter2"
b = { env = "X", file = "y" }
c = {}
d = { env = "$TOKEN" }
e = { var = "X" }
f = { env = true }
"##,
        r##"
error: demo.toml:2: a of [secrets]: a secret does not stand in this file: it is read from the environment or from a file
  remedy: write a = { env = "VARIABLE" } or a = { file = "path" }
error: demo.toml:3: b of [secrets]: both env and file are given
  remedy: write b = { env = "VARIABLE" } or b = { file = "path" }
error: demo.toml:4: c of [secrets]: it does not say where the secret is
  remedy: write c = { env = "VARIABLE" } or c = { file = "path" }
error: demo.toml:5: env of d of [secrets]: "$TOKEN" is not the name of an environment variable
  remedy: write "TOKEN": the name alone, whose value the host's environment gives
error: demo.toml:6: e of [secrets]: it does not say where the secret is
  remedy: write e = { env = "VARIABLE" } or e = { file = "path" }
error: demo.toml:6: unknown key "var" in e of [secrets]
  remedy: the nearest is "env"; all there are: env, file
error: demo.toml:7: env of f of [secrets]: expected a variable name, found the boolean true
  remedy: write "true"
"##,
    );
}

#[test]
fn grants_name_origins() {
    check_sidecar(
        r##"
[grants]
http = [
  "https://api.example.com/v1",
  "https://api.example.com/",
  "api.example.com",
  "localhost:9000",
  "ftp://x",
  "https://*.x.org",
  "http://u@h",
  "HTTP://Api.Example.com:80",
  "http://api.example.com",
  3,
]
"##,
        r##"
error: demo.toml:3: http of [grants]: "https://api.example.com/v1" is more than an origin; a grant covers every path of a host
  remedy: write "https://api.example.com"
error: demo.toml:4: http of [grants]: "https://api.example.com/" is more than an origin; a grant covers every path of a host
  remedy: write "https://api.example.com"
error: demo.toml:5: http of [grants]: "api.example.com" is not an origin
  remedy: write "https://api.example.com" or "http://api.example.com"
error: demo.toml:6: http of [grants]: "localhost:9000" is not an origin
  remedy: write "https://localhost:9000" or "http://localhost:9000"
error: demo.toml:7: http of [grants]: "ftp://x" is not an http or https origin
  remedy: write a scheme, a host and, where it is not the usual one, a port: "https://api.example.com"
error: demo.toml:8: http of [grants]: "https://*.x.org" holds a wildcard; a grant names one host
  remedy: write each host as an origin of its own
error: demo.toml:9: http of [grants]: "http://u@h" is more than an origin; a grant covers every path of a host
  remedy: write "http://h"
error: demo.toml:11: http of [grants]: "http://api.example.com" stands twice
  remedy: name it once
error: demo.toml:12: http of [grants]: expected an origin, found the integer 3
  remedy: write a scheme, a host and, where it is not the usual one, a port: "https://api.example.com"
"##,
    );
}

#[test]
fn grants_name_endpoints() {
    check_sidecar(
        r##"
[grants]
tcp = [
  "DB.internal.:5432",
  "db.internal:5432",
  "127.0.0.1:5432",
  "[::1]:5432",
  "db",
  "db:0",
  "db:http",
  "::1",
  "[::ffff:127.0.0.1]:80",
  "2130706433:80",
  "0x7f.1:80",
  "[0:0::1]:80",
  "postgres://db:5432/app",
  "*.internal:80",
  "a b:80",
  ":80",
  5432,
]
"##,
        r##"
error: demo.toml:4: tcp of [grants]: "db.internal:5432" stands twice
  remedy: name it once
error: demo.toml:7: tcp of [grants]: "db" is not an endpoint: it has no port
  remedy: write "db:5432", with the port of the server
error: demo.toml:8: tcp of [grants]: "db:0" is not an endpoint: its port is not a number from 1 to 65535
  remedy: write a host and a port, such as "db.internal:5432", "127.0.0.1:5432" or "[::1]:5432"
error: demo.toml:9: tcp of [grants]: "db:http" is not an endpoint: its port is not a number from 1 to 65535
  remedy: write a host and a port, such as "db.internal:5432", "127.0.0.1:5432" or "[::1]:5432"
error: demo.toml:10: tcp of [grants]: "::1" is not an endpoint: an IPv6 address stands in brackets, and a port follows it
  remedy: write "[::1]:5432", with the port of the server
error: demo.toml:11: tcp of [grants]: "[::ffff:127.0.0.1]:80" writes an address in an unusual form
  remedy: write "127.0.0.1:80"
error: demo.toml:12: tcp of [grants]: "2130706433:80" writes an address in an unusual form
  remedy: write "127.0.0.1:80"
error: demo.toml:13: tcp of [grants]: "0x7f.1:80" writes an address in an unusual form
  remedy: write "127.0.0.1:80"
error: demo.toml:14: tcp of [grants]: "[0:0::1]:80" writes an address in an unusual form
  remedy: write "[::1]:80"
error: demo.toml:15: tcp of [grants]: "postgres://db:5432/app" is not an endpoint: it is a URL
  remedy: write "db:5432"
error: demo.toml:16: tcp of [grants]: "*.internal:80" holds a wildcard; a grant names one host
  remedy: write each host as an endpoint of its own
error: demo.toml:17: tcp of [grants]: "a b:80" is not an endpoint: its host is neither a name nor an address
  remedy: write a host and a port, such as "db.internal:5432", "127.0.0.1:5432" or "[::1]:5432"
error: demo.toml:18: tcp of [grants]: ":80" is not an endpoint: its host is neither a name nor an address
  remedy: write a host and a port, such as "db.internal:5432", "127.0.0.1:5432" or "[::1]:5432"
error: demo.toml:19: tcp of [grants]: expected an endpoint, found the integer 5432
  remedy: write a host and a port, such as "db.internal:5432", "127.0.0.1:5432" or "[::1]:5432"
"##,
    );
}

#[test]
fn grants_name_networks_variables_and_nothing_unknown() {
    check_sidecar(
        r##"
[grants]

networks = [
  "10.0.0.1/8",
  "10.0.0.1",
  "ten",
  "127.0.0.0/8",
]
env = [
  "TZ",
  "A=b",
  "$HOME",
  "",
]
htp = []
"##,
        r##"
error: demo.toml:4: networks of [grants]: "10.0.0.1/8" has bits set behind its prefix
  remedy: write "10.0.0.0/8"
error: demo.toml:5: networks of [grants]: "10.0.0.1" is not a network
  remedy: write "10.0.0.1/32"
error: demo.toml:6: networks of [grants]: "ten" is not a network
  remedy: write an address and the length of its prefix, such as "10.0.0.0/8"
error: demo.toml:11: env of [grants]: "A=b" is not the name of an environment variable
  remedy: write "A": the name alone, whose value the host's environment gives
error: demo.toml:12: env of [grants]: "$HOME" is not the name of an environment variable
  remedy: write "HOME": the name alone, whose value the host's environment gives
error: demo.toml:13: env of [grants]: "" is not the name of an environment variable
  remedy: write the bare name of an environment variable, such as "TZ"
error: demo.toml:15: unknown key "htp" in [grants]
  remedy: did you mean "http"?
"##,
    );
}

#[test]
fn granted_directories_have_one_spelling() {
    check_sidecar(
        r##"
[grants.dirs]
"/data" = { host = "data", mode = "r" }
"data" = { host = "data" }
"/a/" = { host = "x" }
"/a/../b" = { host = "x" }
"/b" = "data"
"/c" = { mode = "rw" }
"/d" = { host = "d", made = "rw" }
"##,
        r##"
error: demo.toml:2: mode of "/data" of dirs in [grants]: "r" is not a way to use a directory
  remedy: write "ro" to read, or "rw" to write too
error: demo.toml:3: dirs of [grants]: "data" is not a path that a plugin can be given
  remedy: write "/data"
error: demo.toml:4: dirs of [grants]: "/a/" is not a path that a plugin can be given
  remedy: write "/a"
error: demo.toml:5: dirs of [grants]: "/a/../b" is not a path that a plugin can be given
  remedy: write an absolute path without . and .., such as "/data"
error: demo.toml:6: dirs of [grants]: "/b" is given the string "data", not a table
  remedy: write "/b" = { host = "data", mode = "ro" }
error: demo.toml:7: "/c" of dirs in [grants] does not say which directory of the host it is
  remedy: write "/c" = { host = "path", mode = "ro" }
error: demo.toml:8: unknown key "made" in "/d" of dirs in [grants]
  remedy: did you mean "mode"?
"##,
    );
    check_sidecar(
        r##"
[grants]
dirs = ["/data"]
"##,
        r##"
error: demo.toml:2: dirs of [grants]: expected a table, found an array
  remedy: write dirs = { "/data" = { host = "data", mode = "ro" } }
"##,
    );
}

#[test]
fn limits() {
    check_sidecar(
        r##"
[limits]
memory = "0"
cpu = 50
timeout = "0"
instances = 0
concurrency = "256"
body = "lots"
fetchs = 3
"##,
        r##"
error: demo.toml:2: memory of [limits]: "0" is too small: nothing fits
  remedy: write at least "1B"
error: demo.toml:3: cpu of [limits]: expected a duration, found the integer 50
  remedy: write "50s" or "50ms"
error: demo.toml:4: timeout of [limits]: "0" leaves no time at all
  remedy: write at least "1ms"
error: demo.toml:5: instances of [limits]: 0 is not a number from 1 to 10000000
  remedy: write a whole number above 0, without quotes
error: demo.toml:6: concurrency of [limits]: expected a whole number, found the string "256"
  remedy: write 256, without quotes
error: demo.toml:7: body of [limits]: "lots" is not a size
  remedy: write a number and a unit in quotes, such as "64KiB", "256MiB" or "2GiB"
error: demo.toml:8: unknown key "fetchs" in [limits]
  remedy: did you mean "fetches"?
"##,
    );
    check_sidecar(
        r##"
http = ["https://a"]
limits = 3
"##,
        r##"
error: demo.toml:1: unknown key "http" before the first table
  remedy: http belongs in [grants]; the nearest key here is "grants"
error: demo.toml:2: limits is a table, not the integer 3
  remedy: write [limits] on a line of its own, and its keys below
"##,
    );
}
