//! `[[routes]]`: what is refused, and in which words.

use super::check;

#[test]
fn a_route_has_a_path_and_either_a_loader_or_a_chain() {
    check(
        r##"
[[routes]]
loader = "demo"
[[routes]]
path = "/a"
[[routes]]
path = "/b"
loader = "demo.wasm"
[[routes]]
path = "/c"
loader = "plugins/demo.wasm"
loaders = ["demo"]
[[routes]]
path = "/d"
loaders = []
[[routes]]
path = "/e"
loaders = ["a", "b", "a"]
[[routes]]
path = "/f"
loaders = "a"
[[routes]]
path = "/g"
loaders = ["a", 3]
"##,
        r##"
error: larder.toml:1: a route has no path
  remedy: write path = "/data/{key}" below its [[routes]]
error: larder.toml:3: a route has no loader
  remedy: write loader = "NAME" (the file NAME.wasm of the plugin directory) below its [[routes]]
error: larder.toml:7: loader of [[routes]]: "demo.wasm" is not the name of a plugin
  remedy: write "demo": a plugin is named by its file in the plugin directory, without .wasm
error: larder.toml:10: loader of [[routes]]: "plugins/demo.wasm" is not the name of a plugin
  remedy: write "demo": a plugin is named by its file in the plugin directory, without .wasm
error: larder.toml:11: loaders of [[routes]]: loader is given too
  remedy: keep one of the two: loader for one, loaders for a chain
error: larder.toml:14: loaders of [[routes]]: the chain is empty
  remedy: name at least one loader: loaders = ["NAME"]
error: larder.toml:17: loaders of [[routes]]: "a" stands twice
  remedy: name it once
error: larder.toml:20: loaders of [[routes]]: expected a list of plugin names, found the string "a"
  remedy: write ["a"]
error: larder.toml:23: loaders of [[routes]]: expected a plugin name, found the integer 3
  remedy: write "3"
"##,
    );
}

#[test]
fn a_pattern_is_judged_by_itself() {
    check(
        r##"
[[routes]]
path = "data"
loader = "a"
[[routes]]
path = "/docs"
loader = "a"
[[routes]]
path = "/a?lang"
loader = "a"
[[routes]]
path = "/a/:key"
loader = "a"
[[routes]]
path = "/{a}/{a}"
loader = "a"
[[routes]]
path = "/{a}.json"
loader = "a"
[[routes]]
path = "/{a"
loader = "a"
[[routes]]
path = "/{}"
loader = "a"
[[routes]]
path = "/{*a}/b"
loader = "a"
"##,
        r##"
error: larder.toml:2: path of [[routes]]: "data" does not begin with a slash
  remedy: write "/data"
error: larder.toml:5: path of [[routes]]: "/docs" is reserved for Larder itself
  remedy: give the route another path
error: larder.toml:8: path of [[routes]]: "/a?lang" holds '?', which the path of a request cannot
  remedy: write the path alone; query parameters are listed in key = { query = [ … ] }
error: larder.toml:11: path of [[routes]]: "/a/:key" has the segment ":key"
  remedy: write "{key}" for a parameter
error: larder.toml:14: path of [[routes]]: "/{a}/{a}" has two parameters "a"
  remedy: give them different names
error: larder.toml:17: path of [[routes]]: "/{a}.json" has a segment with two parameters, or with text behind one
  remedy: give each parameter the end of a segment: "/data/{key}", "/v{version}/{key}"
error: larder.toml:20: path of [[routes]]: "/{a" has a brace that is not closed, or a parameter without a name
  remedy: write parameters as {name}; a brace that is meant is doubled: {{ or }}
error: larder.toml:23: path of [[routes]]: "/{}" has a brace that is not closed, or a parameter without a name
  remedy: write parameters as {name}; a brace that is meant is doubled: {{ or }}
error: larder.toml:26: path of [[routes]]: "/{*a}/b" goes on behind a parameter that takes all the rest
  remedy: put {*rest} at the end of the path, as a segment of its own
"##,
    );
}

#[test]
fn no_two_patterns_match_the_same_request() {
    check(
        r##"
[[routes]]
path = "/ok/{a}"
loader = "a"
[[routes]]
path = "/ok/{b}"
loader = "a"
[[routes]]
path = "/ok/{a}"
loader = "a"
[[routes]]
path = "/ok/fixed"
loader = "a"
[[routes]]
path = "/{{a}}"
loader = "a"
[[routes]]
path = "/{key}"
loader = "a"
[[routes]]
path = "/ok/{*rest}"
loader = "a"
"##,
        r##"
error: larder.toml:5: path of [[routes]]: "/ok/{b}" and "/ok/{a}" at line 2 match the same requests
  remedy: make them differ in a fixed segment, or remove one
error: larder.toml:8: path of [[routes]]: "/ok/{a}" is the path of the route at line 2 too
  remedy: remove one of the two, or give it another path
error: larder.toml:20: path of [[routes]]: "/ok/{*rest}" and "/ok/{a}" at line 2 match the same requests
  remedy: make them differ in a fixed segment, or remove one
"##,
    );
}

#[test]
fn a_key_names_parameters_of_its_pattern() {
    check(
        r##"
[[routes]]
path = "/a/{id}/{sub}"
loader = "a"
key = { path = [
  "key",
  "{id}",
], query = ["lang", "lang"], headers = ["accept language"], heders = [] }
[[routes]]
path = "/f/{x}"
loader = "a"
key.path = ["y"]
[[routes]]
path = "/d"
loader = "a"
key = ["a"]
"##,
        r##"
error: larder.toml:5: path of key of [[routes]]: the pattern has no parameter "key"
  remedy: the pattern has id, sub; what stands behind the question mark belongs in query
error: larder.toml:6: path of key of [[routes]]: "{id}" is written as in a path
  remedy: write "id", without braces
error: larder.toml:7: headers of key of [[routes]]: "accept language" cannot be the name of a header
  remedy: write the name of a header in quotes, such as "accept-language"
error: larder.toml:7: query of key of [[routes]]: "lang" stands twice
  remedy: name it once
error: larder.toml:7: unknown key "heders" in key of [[routes]]
  remedy: did you mean "headers"?
error: larder.toml:11: path of key of [[routes]]: the pattern has no parameter "y"
  remedy: the pattern has "x" alone; what stands behind the question mark belongs in query
error: larder.toml:15: key of [[routes]]: expected a plugin name or a table, found an array
  remedy: write key = { path = ["key"], query = ["lang"] }, or key = "POLICY"
"##,
    );
}

#[test]
fn key_headers_go_with_a_policy() {
    check(
        r##"
[[routes]]
path = "/b"
loader = "a"
key = "tenant-key"
key_headers = ["X-Tenant", "a b"]
[[routes]]
path = "/c"
loader = "a"
key_headers = ["x"]
[[routes]]
path = "/e"
loader = "a"
key = { path = ["x"] }
key_headers = ["x"]
"##,
        r##"
error: larder.toml:5: key_headers of [[routes]]: "a b" cannot be the name of a header
  remedy: write the name of a header in quotes, such as "accept-language"
error: larder.toml:9: key_headers of [[routes]]: no key policy is named, and only a policy is shown headers
  remedy: write key = "POLICY", or list the headers in key = { headers = [ … ] }
error: larder.toml:13: path of key of [[routes]]: the pattern has no parameter "x"
  remedy: the pattern has no parameters: write {name} into the path, or list it in query
error: larder.toml:14: key_headers of [[routes]]: no key policy is named, and only a policy is shown headers
  remedy: write key = "POLICY", or list the headers in key = { headers = [ … ] }
"##,
    );
}

#[test]
fn times_that_contradict_each_other_are_warned_of() {
    check(
        r##"
[[routes]]
path = "/a"
loader = "a"
soft_timeout = "2s"
ttl = "60d"
missing_ttl = "31d"
batch_window = "2s"
"##,
        r##"
warning: larder.toml:4: soft_timeout of [[routes]]: it is not shorter than timeout, so it does nothing
  remedy: make it shorter than timeout, or leave it out
warning: larder.toml:5: ttl of [[routes]]: it is longer than ttl_max, and cut to that
  remedy: raise ttl_max, or shorten it
warning: larder.toml:6: missing_ttl of [[routes]]: it is longer than ttl_max, and cut to that
  remedy: raise ttl_max, or shorten it
warning: larder.toml:7: batch_window of [[routes]]: it is not shorter than timeout: a miss waits for half of the timeout at most
  remedy: make it a few milliseconds, or leave it out
"##,
    );
}

#[test]
fn a_reload_ahead_is_off_auto_or_a_share_of_the_ttl() {
    check(
        r##"
[[routes]]
path = "/a"
loader = "a"
refresh_ahead = "100%"
[[routes]]
path = "/b"
loader = "a"
refresh_ahead = "soon"
[[routes]]
path = "/c"
loader = "a"
refresh_ahead = "auto"
"##,
        r##"
error: larder.toml:4: refresh_ahead of [[routes]]: "100%" is not between 0% and 100%
  remedy: write "off", "auto", or a share of the ttl such as "80%"
error: larder.toml:8: refresh_ahead of [[routes]]: "soon" is no moment of the ttl
  remedy: write "off", "auto", or a share of the ttl such as "80%"
"##,
    );
}

#[test]
fn a_batch_has_a_size_and_its_window_is_of_whole_milliseconds() {
    check(
        r##"
[[routes]]
path = "/a"
loader = "a"
batch_window = "1500us"
batch_max = 0
[[routes]]
path = "/b"
loader = "a"
batch_window = 5
[[routes]]
path = "/c"
loader = "a"
batch_window = "0"
batch_max = 1
"##,
        r##"
error: larder.toml:4: batch_window of [[routes]]: "1500us" is not a whole number of milliseconds
  remedy: write whole milliseconds, such as "1ms", or "0" for none
error: larder.toml:5: batch_max of [[routes]]: 0 is not a number from 1 to 10000000
  remedy: write a whole number above 0, without quotes
error: larder.toml:9: batch_window of [[routes]]: expected a duration, found the integer 5
  remedy: write "5s" or "5ms"
"##,
    );
}

#[test]
fn what_a_route_says_of_itself_has_the_shape_of_schemas() {
    check(
        r##"
[[routes]]
path = "/a/{id}"
loader = "demo"
params = "id"
response = 7
request = "no-such.json"
unknown_query = "drop"
[[routes]]
path = "/b/{id}"
loader = "demo"
params.id = "integer"
params.page = { type = "integer", required = ["page"] }
"##,
        r##"
error: larder.toml:4: params of [[routes]]: expected a table, found the string "id"
  remedy: write params.key = { type = "string", pattern = "^[a-z]+$", description = "…" }, a JSON Schema
error: larder.toml:5: response of [[routes]]: expected a table or the name of a file, found the integer 7
  remedy: write response = "schemas/country.json", or the JSON Schema as a table
error: larder.toml:6: request of [[routes]]: no JSON Schema can be read from "no-such.json": No such file or directory (os error 2)
  remedy: name a file of JSON, relative to this one, or write the schema as a table
error: larder.toml:7: unknown_query of [[routes]]: "drop" is not a way to treat unknown query parameters
  remedy: write "ignore", or "refuse" to answer 422
error: larder.toml:11: params of [[routes]]: "id" is no table
  remedy: write params.key = { type = "string", pattern = "^[a-z]+$", description = "…" }, a JSON Schema
error: larder.toml:12: params of [[routes]]: "page" says `required`, and not whether it is
  remedy: write required = true
"##,
    );
}

#[test]
fn cors_names_origins_and_credentials_none_but_named_ones() {
    check(
        r##"
[[routes]]
path = "/a"
loader = "demo"
cors = "*"
[[routes]]
path = "/b"
loader = "demo"
cors = { origin = ["https://a.example"] }
[[routes]]
path = "/c"
loader = "demo"
cors = { origins = ["*"], credentials = true }
[[routes]]
path = "/d"
loader = "demo"
cors = { origins = ["a.example"] }
"##,
        r##"
error: larder.toml:4: cors of [[routes]]: expected a table, found the string "*"
  remedy: write cors = { origins = ["https://app.example.com"] }, or origins = ["*"]
error: larder.toml:8: cors of [[routes]]: it names no origins, so nobody may
  remedy: write cors = { origins = ["https://app.example.com"] }, or origins = ["*"]
error: larder.toml:8: unknown key "origin" in cors of [[routes]]
  remedy: did you mean "origins"?
error: larder.toml:12: cors of [[routes]]: credentials go to origins that are named, and "*" names none: any page could read what its visitor may
  remedy: list the origins, or leave credentials out
error: larder.toml:16: origins of cors of [[routes]]: "a.example" is not an origin
  remedy: write "https://a.example" or "http://a.example"
"##,
    );
}
