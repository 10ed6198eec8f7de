//! The one table of settings: every key of `larder.toml` and of a sidecar, with its kind, its default and its meaning.
//!
//! The parser reads through these rows ([`Setting`]), `larder check --defaults` prints them, and `docs/configuration.md`
//! is made of them, so none of the three can know a key, or a default, that the others do not.

use std::fmt::Write as _;
use std::marker::PhantomData;

use super::kind::{self, Form, Scalar};

/// A setting, as the parser asks for it.
#[derive(Debug)]
pub struct Setting<K> {
    /// The table it is in, without brackets.
    pub table: &'static str,
    /// Its key there.
    pub key: &'static str,
    /// The text of its default; `None`: there is none, and its meaning says what that means.
    pub default: Option<&'static str>,
    kind: PhantomData<fn() -> K>,
}

/// Which file a table is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `larder.toml`, set by the environment too.
    Main,
    /// `larder.toml`, one of many: the file alone sets it.
    Repeated,
    /// `NAME.toml` beside `NAME.wasm`.
    Sidecar,
}

/// One table of one file.
#[derive(Debug)]
pub struct Section {
    /// The file.
    pub place: Place,
    /// Its name without brackets.
    pub name: &'static str,
    /// Its name as the file writes it, e.g. `[[routes]]`.
    pub header: &'static str,
    /// What it is for, in one sentence or two.
    pub about: &'static str,
    /// Its keys, in the order of the documentation.
    pub rows: &'static [Row],
}

/// One setting, as people read it.
#[derive(Debug)]
pub struct Row {
    /// Its key.
    pub key: &'static str,
    /// The text of its default.
    pub default: Option<&'static str>,
    /// How TOML writes it.
    pub form: Form,
    /// What kind of value it is.
    pub kind: fn() -> String,
    /// What it means.
    pub about: &'static str,
}

impl Row {
    /// The default as the file would write it.
    pub fn default_toml(&self) -> Option<String> {
        self.default.map(|text| match self.form {
            Form::Text => format!("{text:?}"),
            _ => text.to_owned(),
        })
    }
}

impl<K: Scalar> Setting<K> {
    /// The default value.
    ///
    /// # Panics
    /// There is none, or it is not of its kind; a test reads every default, so neither ships.
    pub fn default_value(&self) -> K::Value {
        let text = self
            .default
            .unwrap_or_else(|| panic!("{} has no default", self.name()));
        K::parse(text).unwrap_or_else(|fault| panic!("{}: {}", self.name(), fault.message))
    }
}

impl<K> Setting<K> {
    /// `table.key`
    pub fn name(&self) -> String {
        format!("{}.{}", self.table, self.key)
    }
}

impl Section {
    /// The environment variable of one of its keys, if it has one.
    pub fn variable(&self, key: &str) -> Option<String> {
        (self.place == Place::Main)
            .then(|| format!("LARDER_{}_{}", self.name, key).to_ascii_uppercase())
    }
}

macro_rules! settings {
    ($($place:ident $table:ident $header:literal $section:literal {
        $($key:ident: $kind:ty $(= $default:literal)?, $about:literal;)*
    })*) => {
        $(
            #[doc = concat!("`", $header, "`: ", $section)]
            #[allow(non_upper_case_globals, reason = "a setting is named as the operator writes it")]
            pub mod $table {
                #![allow(unused_imports, reason = "two tables have free keys")]
                use super::kind::*;
                use super::{PhantomData, Setting};
                $(
                    #[doc = $about]
                    pub const $key: Setting<$kind> = Setting {
                        table: stringify!($table),
                        key: stringify!($key),
                        default: settings!(@default $($default)?),
                        kind: PhantomData,
                    };
                )*
            }
        )*

        /// Every table, in the order of the documentation.
        pub static SECTIONS: &[Section] = &[$(
            Section {
                place: Place::$place,
                name: stringify!($table),
                header: $header,
                about: $section,
                rows: {
                    #[allow(unused_imports, reason = "two tables have free keys")]
                    use kind::*;
                    &[$(Row {
                        key: stringify!($key),
                        default: settings!(@default $($default)?),
                        form: <$kind as Kind>::FORM,
                        kind: <$kind as Kind>::name,
                        about: $about,
                    }),*]
                },
            },
        )*];
    };
    (@default $default:literal) => { Some($default) };
    (@default) => { None };
}

settings! {
    Main server "[server]" "The public listener and its bounds." {
        listen: Address = "127.0.0.1:8080", "Where consumers connect.";
        max_connections: Count = "16384", "Connections at once; further ones wait in the kernel's backlog.";
        max_waiters: Count = "16384", "Requests waiting for a load at once; one more is answered with something stale, or with 503. Half of the places belong to the routes in equal shares, half to whoever comes first.";
        max_loads: Count = "16384", "Loads at once; one more is answered with something stale, or with 503. Shared as `max_waiters` is.";
        max_watchers: Count = "1000", "Clients that watch at once, on routes with `watch`; one more is answered with 503. Each has one of `max_connections`, or a stream of one.";
        cert: File, "This server's certificate, as PEM, with those between it and a root after it. With it nothing but TLS is spoken. Read again when it changes. `key` is needed with it.";
        key: File, "The private key of `cert`, as PEM.";
        handshake_timeout: Timeout = "10s", "How long a TLS handshake may take.";
        header_timeout: Timeout = "30s", "How long a client may take to send the head of a request, and how long an idle connection is kept.";
        header_bytes: HeadSize = "64KiB", "The longest head of a request.";
        max_headers: Count = "100", "The most fields of a request head.";
        body_bytes: Size = "1MiB", "The longest body of a request. Reads carry none.";
        body_timeout: Timeout = "30s", "How long a client may take to send the whole body of a request.";
        write_timeout: Timeout = "30s", "How long a client may take nothing of what is sent to it. It is disconnected then; over HTTP/2 after twice as long at most, and 1 KiB of each response is the least that counts.";
        max_streams: Count = "128", "Requests at once on one connection of HTTP/2.";
        drain_delay: Period = "0s", "How long connections are still accepted after SIGTERM, while `/readyz` says 503 already: as long as a balancer takes to look away.";
        drain: Period = "20s", "How long requests in flight may take after SIGTERM and `drain_delay`. The usual supervisor kills after 30 s.";
    }
    Main admin "[admin]" "The second listener: health, metrics, purges, what is loaded." {
        listen: Address = "127.0.0.1:8081", "Where operators connect. Off loopback, Larder refuses to start without a token.";
        cert: File, "As in `[server]`, for this listener.";
        key: File, "The private key of `cert`, as PEM.";
        client_ca: File, "Who must have signed the certificates of clients, as PEM: without such a certificate nobody is answered. `cert` is needed with it.";
        token: Token, "What `Authorization: Bearer` must carry. None: nothing is asked for, on loopback.";
        token_file: File, "The same, on the first line of a file that not everybody may read. SIGHUP reads it again.";
        read_token: Token, "A second token, which may ask for everything and change nothing. `token` or `token_file` is needed with it.";
        read_token_file: File, "The same, on the first line of a file that not everybody may read. SIGHUP reads it again.";
    }
    Main openapi "[openapi]" "The API document that is made of the routes and of what the plugins declare." {
        title: Text = "Larder", "What the API is called.";
        version: Text = "1.0.0", "Its version, as its consumers count it.";
        serve: Switch = "true", "Whether the public listener answers `/openapi.json` and `/docs`. `larder openapi` prints the document all the same.";
    }
    Main log "[log]" "What is written to stderr. A line that nobody reads in time is dropped and counted." {
        format: LogForm = "text", "`\"text\"`, or `\"json\"`: an object a line.";
        level: LogFilter = "info", "`error`, `warn`, `info`, `debug` or `trace`; or by place, as `RUST_LOG` has it elsewhere: `\"info,larder::plugin=debug\"`. The variable `LARDER_LOG` stands over it.";
        requests: Switch = "false", "Whether each request of the public listener is a line at `info`, of the place `larder::access`. A path is told with its query.";
    }
    Main traces "[traces]" "Spans of OpenTelemetry, sent to a collector by OTLP over HTTP." {
        endpoint: CollectorUrl, "The collector, e.g. `http://127.0.0.1:4318`; `/v1/traces` is added. Left out: nothing is traced.";
        sample: Ratio = "1", "The share of requests that are traced where the client's `traceparent` does not say. What a client asks to be traced is traced.";
        service: Text = "larder", "What the server is called there.";
    }
    Main memory "[memory]" "The memory tier." {
        capacity: Size = "256MiB", "Room for all entries with their keys. `\"0\"` turns the tier off.";
    }
    Main redis "[redis]" "The tier that all nodes share. Without this table (and `LARDER_REDIS_URL` and `--redis`) there is the memory tier alone." {
        url: RedisUrl, "`redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or `redis+unix:///path[?db=…&user=…&pass=…]`. With `mode = \"sentinel\"` the host is the name of the master that the Sentinels watch. Needed, unless `urls` names the servers of a cluster.";
        urls: List<RedisUrl>, "Several servers: some of a cluster, from which the others are learnt, or the Sentinels.";
        mode: RedisMode = "single", "How Redis is run: one server, a Redis Cluster, or a master that Sentinels name.";
        prefix: RedisPrefix = "larder", "What every key begins with.";
        timeout: Timeout = "100ms", "How long one command may take before the request goes on without Redis.";
        trust: Timeout = "5s", "The bound on what a purge made on another node may be missed: a node that has not heard for this long what the others purge answers nothing that it had before. While Redis is away that is every entry of the memory tier after this time.";
        ca: File, "For `rediss://`: whom the servers' certificates must be signed by, as PEM. Left out: whom the system trusts.";
        cert: File, "For `rediss://`: this node's own certificate, as PEM, where the servers ask for one. `key` is needed with it.";
        key: File, "For `rediss://`: the private key of `cert`, as PEM.";
    }
    Main plugins "[plugins]" "Where plugins are." {
        dir: Directory = "plugins", "The directory of `NAME.wasm` and `NAME.toml`; directories in it are not searched.";
        watch: Switch = "true", "Whether changes there take effect at once.";
        compile_cpu: Timeout = "120s", "CPU time of compiling one component, in whole seconds. It takes five times as long by the clock at most.";
        compile_memory: Room = "2GiB", "Address space of the process that compiles one component.";
    }
    Main storage "[storage]" "What outlives a restart." {
        dir: Directory = "larder-data", "Compiled components, what is known of removed plugins, changes that are accepted and not made, how far change feeds were read, and which keys are asked for most.";
    }
    Main warm "[warm]" "What is asked for again after a start, before clients do: from Redis, if it is there, else from the loaders. Off where there is neither a memory tier nor Redis." {
        keys: HotKeys = "1000", "How many of the keys that are asked for most are remembered over a restart. They are written to `[storage] dir` every minute and at SIGTERM. `0` turns it off.";
        rate: Rate = "100", "How many of them are asked for in a second; at most 16 at once.";
    }
    Main writes "[writes]" "How changes wait that are accepted before they are made (`write = \"behind\"`)." {
        queue: QueueMode = "disk", "Where they wait: `\"disk\"`, in `[storage] dir`, for one node; `\"redis\"`, in streams, for several.";
        single_writer: Switch = "false", "With `[redis]` and the queue on disk: no other node takes changes of these routes. Others would not see what is pending here.";
        durability: DurabilityMode = "always", "What Redis is meant to promise of the queue, as its `appendfsync` has it; `\"memory\"`: nothing. Where it promises less, that is told at the start.";
        max_pending: Count = "100000", "Changes in the queue at most, those that were given up and are kept among them. More are answered with 503.";
        max_bytes: Room = "256MiB", "Bytes of these at most.";
        give_up: Period = "24h", "How long a change is tried whose source is not to be had, from when it was accepted. Then it is kept as a dead letter.";
        batch_max: Count = "100", "Changes in one call of a writer at most.";
        concurrency: Count = "4", "Calls of one writer at once.";
        drain: Period = "5s", "How long changes are still made after SIGTERM. The others stay in the queue.";
    }
    Repeated routes "[[routes]]" "A URL pattern bound to a loader, a key and a freshness policy. Once for each." {
        path: Text, "The pattern, e.g. `/data/{key}`; `{*rest}` at its end takes all that follows. Needed.";
        loader: PluginName, "The plugin that loads. This or `loaders` is needed.";
        loaders: List<PluginName>, "A chain: the next is tried when one fails.";
        key: KeyChoice, "How requests share a value. A table lists `path`, `query` and `headers`; its `path` left out is every path parameter, the others left out are none. A name is a key policy. Left out altogether: every path parameter, and the query parameters that the loaders' descriptors declare.";
        key_headers: List<HeaderName>, "The headers that the key policy is shown. None, if left out.";
        ttl: Period = "60s", "How long a value is fresh. The loader's own time to live wins.";
        ttl_max: Period = "30d", "The longest time to live: longer ones, a loader's own too, are cut to this and counted.";
        jitter: Ratio = "0.1", "The share of the time to live that is taken off at random, so that values stored together do not end together.";
        refresh_ahead: Ahead = "off", "A hit reloads behind what is still fresh, so that nobody waits for it later: `\"80%\"` when that share of the ttl is over, `\"auto\"` at random shortly before its end, the earlier the longer loads of the route take.";
        stale_while_revalidate: Period = "0", "After the ttl: answer the stale value and reload behind. Counted from the end of the ttl.";
        stale_if_error: Period = "0", "After the ttl: answer the stale value if the load fails. Counted from the end of the ttl.";
        missing_ttl: Period = "5s", "How long an absence is remembered when the loader does not say.";
        failure_ttl: Period = "1s", "After a failure: how long stale (or the failure) is answered without asking the source again.";
        soft_timeout: Period = "0", "With something stale in hand: answer it after this long and go on loading. `\"0\"` turns it off.";
        timeout: Timeout = "2s", "How long one load may take. The smallest of this, `[limits] timeout` and the loader's own setting wins.";
        batch_window: Window = "1ms", "A loader that takes batches: how long a miss waits for others, to be asked in one call. `\"0\"`: each is asked alone.";
        max_loads: Count, "Loads of this route at once; one more is answered with something stale, or with 503. Left out, its share of `[server] max_loads` alone bounds them.";
        batch_max: Count = "100", "A loader that takes batches: the most misses in one call. So many go at once, whatever is left of the window.";
        write: WriteMode = "off", "PUT and DELETE: `\"through\"` changes the source and answers when it is changed; `\"behind\"` answers when the change is durable in the queue of `[writes]`, and makes it then.";
        writer: PluginName, "The plugin that writes. Left out: the first of the loaders that is a writer too.";
        pending: PendingMode, "Behind: what reads of a resource see while a change of it is pending. `\"payload\"`: what was sent; `\"wait\"`: they wait for it, for `timeout` at most. Left out, as the writer's descriptor says.";
        compress: List<ContentCoding>, "In which codings bodies of 1 KiB and more leave where the client takes one: `\"br\"`, `\"zstd\"`, `\"gzip\"`. Made once an entry, behind the first who asks, and kept in a tenth of `[memory] capacity` beside it. Left out: all three; `[]`: none.";
        cdn_cache_control: Text, "`CDN-Cache-Control` (RFC 9213) of what may be shared, e.g. `max-age=600`: for the caches of a CDN, over `Cache-Control`. Left out: none is sent.";
        tags_header: HeaderName, "In which header an entry's tags are sent, e.g. `surrogate-key`, or `cache-tag`, for a CDN to purge by. Left out: in none.";
        watch: Switch = "false", "Whether GET with `Accept: text/event-stream` is a stream of what becomes of the resource. What is watched is loaded again when it is purged or its ttl ends.";
        cors: CorsTable, "Which pages of other origins may use the route: `cors = { origins = [\"https://app.example.com\"], headers = [\"x-tenant\"], credentials = false, max_age = \"2h\" }`; `[\"*\"]` is all of them. Left out: none.";
        summary: Text, "What the route answers, in a sentence: for the API document.";
        params: ParameterSchemas, "What parameters of the path and the query must be: `params.alpha_2 = { pattern = \"^[A-Z]{2}$\", description = \"ISO 3166\" }`, a JSON Schema each, and `required = true` where one may not be left out. What does not fit is answered with 422. Over what the loader declares of the same name.";
        response: SchemaChoice, "JSON Schema of what the route answers, or the name of a file that holds it: for the API document. Over what the loader declares.";
        request: SchemaChoice, "JSON Schema of the body of a PUT, or the name of a file that holds it. What does not fit is answered with 422 before anything is changed or queued. Over what the writer declares.";
        unknown_query: UnknownQueryMode = "ignore", "What becomes of query parameters that are neither declared nor in the key: `\"ignore\"`, or `\"refuse\"` with 422.";
        coalesce: Switch = "false", "Behind: of several changes of a resource that are pending, the writer is told the last alone.";
    }
    Sidecar file "the top of the file" "What stands before the first table." {
        digest: Digest, "`\"sha256:…\"`: exactly this component, as `sha256sum NAME.wasm` prints it. Any other is refused, at the start and at a swap. Left out, any is taken.";
    }
    Sidecar config "[config]" "The plugin's own settings: free keys, checked against the schema in its descriptor, and given to it as one JSON object. TOML dates become strings, for JSON has none." {}
    Sidecar secrets "[secrets]" "What must not stand in a file of settings: `name = { env = \"VARIABLE\" }` or `name = { file = \"path\" }` (relative to the plugin directory; one newline at its end is removed)." {}
    Sidecar grants "[grants]" "What the plugin may reach. Everything not named is denied, and the denial names the line to add." {
        http: List<Origin>, "Servers to send HTTP requests to. An origin with a literal address allows that address, loopback too.";
        tcp: List<Endpoint>, "Servers to open TCP connections to: `\"db.internal:5432\"`, `\"127.0.0.1:5432\"`, `\"[::1]:5432\"`. One with a literal address allows that address, loopback too.";
        networks: List<Network>, "Private, loopback or link-local ranges that granted names may resolve into.";
        dirs: Dirs, "Directories: `\"/data\" = { host = \"data\", mode = \"ro\" }`. `host` is relative to the plugin directory; `mode` is `\"ro\"` (the default) or `\"rw\"`.";
        env: List<VariableName>, "Environment variables of the host that the plugin sees.";
    }
    Sidecar limits "[limits]" "How much of the machine the plugin may use." {
        memory: Room = "64MiB", "Linear memory of one instance.";
        cpu: Timeout = "50ms", "The longest uninterrupted slice of computing of an async loader; the whole call of a key policy or a blocking loader.";
        timeout: Timeout = "2s", "Wall clock of one call.";
        instances: Count = "1", "Instances. A blocking loader has 8 by default, for each runs one load at a time.";
        concurrency: Count = "256", "Calls at once in one async instance.";
        body: Room = "8MiB", "The longest body, to or from the plugin.";
        fetches: Count = "32", "Outbound requests at once of one instance; and, beside them, as many sockets.";
    }
}

/// The section of a name in one of the two files.
pub fn section(sidecar: bool, name: &str) -> Option<&'static Section> {
    SECTIONS
        .iter()
        .find(|s| (s.place == Place::Sidecar) == sidecar && s.name == name)
}

/// What `larder check --defaults` prints: one setting a line, with its default, its kind and its meaning.
pub fn text() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let file = match section.place {
            Place::Main | Place::Repeated => "larder.toml",
            Place::Sidecar => "plugins/NAME.toml",
        };
        let _ = writeln!(
            out,
            "{} of {file}: {}",
            section.header,
            section.about.replace('`', "")
        );
        for row in section.rows {
            let default = row.default_toml().unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(
                out,
                "  {:<24} {default:<18} {}. {}",
                row.key,
                (row.kind)(),
                row.about.replace('`', "")
            );
        }
        out.push('\n');
    }
    out
}

/// The tables of `docs/configuration.md`: one heading and one table for each section of the files.
pub fn markdown(sidecar: bool) -> String {
    let mut out = String::new();
    for section in SECTIONS
        .iter()
        .filter(|s| (s.place == Place::Sidecar) == sidecar)
    {
        let _ = writeln!(out, "### `{}`\n\n{}\n", section.header, section.about);
        if section.rows.is_empty() {
            continue;
        }
        out.push_str("| key | kind | default | meaning |\n|---|---|---|---|\n");
        for row in section.rows {
            let default = row
                .default_toml()
                .map_or_else(|| "–".to_owned(), |text| format!("`{text}`"));
            let _ = writeln!(
                out,
                "| `{}` | {} | {default} | {} |",
                row.key,
                (row.kind)(),
                row.about.replace('|', "\\|")
            );
        }
        out.push('\n');
    }
    out
}
