//! What takes part in a run: names, the command that starts each, and where each must have its answers from.
//! Must not know how they are measured.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tokio::process::Command;

use crate::{
    languages,
    larder::{self, Key, Setting},
    process::Server,
    proxies,
    redis_server::free_port,
    run::Options,
};

/// How long every contestant keeps an answer: longer than any run.
const TTL_SECONDS: &str = "3600";

/// One way of answering `GET /data/{key}` from a cache. In the order of the turns, in which those who are compared are
/// neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contestant {
    /// A bare epoll loop with a map: the kernel's limit.
    EpollMemory,
    /// hyper without a router, and a map.
    HyperMemory,
    /// A bare axum handler with moka.
    AxumMoka,
    /// Larder, hits in its memory tier, key policy in Wasm.
    LarderMemory,
    /// Larder, hits in its memory tier, key derived by the host (for information).
    LarderMemoryNative,
    /// nginx with `proxy_cache`, sendfile off.
    Nginx,
    /// nginx with `proxy_cache`, sendfile on.
    NginxSendfile,
    /// Varnish.
    Varnish,
    /// A bare epoll loop that asks Redis: the kernel's limit there.
    EpollRedis,
    /// hyper without a router, with its own connection to Redis.
    HyperRedis,
    /// The handler of `axum-redis` on a runtime of one thread.
    AxumRedisCurrent,
    /// A hand-written axum handler with redis-rs.
    AxumRedis,
    /// Larder, hits in its Redis tier, key policy in Wasm.
    LarderRedis,
    /// Node.js with ioredis.
    NodeIoredis,
    /// Node.js with BentoCache, in memory.
    NodeBentocache,
    /// FastAPI with cashews, in memory.
    FastapiCashews,
    /// The tutorial's FastAPI app with redis-py.
    Fastapi,
}

/// Where an answer has to come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    Memory,
    Redis,
}

impl Contestant {
    /// The name on the command line and of log files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::EpollMemory => "epoll-memory",
            Self::HyperMemory => "hyper-memory",
            Self::AxumMoka => "axum-moka",
            Self::LarderMemory => "larder-memory",
            Self::LarderMemoryNative => "larder-memory-native",
            Self::Nginx => "nginx",
            Self::NginxSendfile => "nginx-sendfile",
            Self::Varnish => "varnish",
            Self::EpollRedis => "epoll-redis",
            Self::HyperRedis => "hyper-redis",
            Self::AxumRedisCurrent => "axum-redis-current",
            Self::AxumRedis => "axum-redis",
            Self::LarderRedis => "larder-redis",
            Self::NodeIoredis => "node-ioredis",
            Self::NodeBentocache => "node-bentocache",
            Self::FastapiCashews => "fastapi-cashews",
            Self::Fastapi => "fastapi",
        }
    }

    /// The name in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::EpollMemory => "a bare epoll loop in memory",
            Self::HyperMemory => "bare hyper in memory, no router",
            Self::AxumMoka => "axum + moka, bare",
            Self::LarderMemory => "**Larder, memory hit**, key policy in Wasm",
            Self::LarderMemoryNative => "Larder, memory hit, native key",
            Self::Nginx => "nginx `proxy_cache` hit, sendfile off",
            Self::NginxSendfile => "nginx `proxy_cache` hit, sendfile on",
            Self::Varnish => "Varnish hit",
            Self::EpollRedis => "a bare epoll loop asking Redis",
            Self::HyperRedis => "hyper with its own Redis connection, no router",
            Self::AxumRedisCurrent => "axum + redis-rs, hand-written, one thread",
            Self::AxumRedis => "axum + redis-rs, hand-written",
            Self::LarderRedis => "**Larder, Redis hit**, key policy in Wasm",
            Self::NodeIoredis => "Node.js + ioredis",
            Self::NodeBentocache => "Node.js + BentoCache, memory",
            Self::FastapiCashews => "FastAPI + cashews, memory",
            Self::Fastapi => "FastAPI + redis-py, the tutorial's",
        }
    }

    pub(crate) fn tier(self) -> Tier {
        match self {
            Self::EpollRedis
            | Self::HyperRedis
            | Self::AxumRedisCurrent
            | Self::AxumRedis
            | Self::LarderRedis
            | Self::NodeIoredis
            | Self::Fastapi => Tier::Redis,
            _ => Tier::Memory,
        }
    }

    /// The `detail` of a hit in `Cache-Status`, from those who send it.
    pub(crate) fn hit_detail(self) -> Option<&'static str> {
        match self {
            Self::LarderMemory | Self::LarderMemoryNative => Some("detail=memory"),
            Self::LarderRedis => Some("detail=redis"),
            _ => None,
        }
    }

    /// Whether it is a proxy, and has another server behind it.
    pub(crate) fn asks_origin(self) -> bool {
        matches!(self, Self::Nginx | Self::NginxSendfile | Self::Varnish)
    }

    /// Starts it, pinned. It may not answer yet.
    pub(crate) fn start(
        self,
        options: &Options,
        core: usize,
        ground: &Ground<'_>,
    ) -> Result<(Server, SocketAddr)> {
        let directory = ground.directory.join(self.name());
        fs::create_dir_all(&directory)?;
        let listen = free_port()?;
        let larder = |key, redis| larder_command(options, &directory, ground, listen, key, redis);
        let scripted = languages::Setting {
            listen,
            redis_url: ground.redis_url,
            text: ground.text,
            ttl_seconds: TTL_SECONDS,
        };
        let origin = || ground.origin.context("a proxy has an origin");
        let command = match self {
            Self::LarderMemory => larder(Key::Policy, None)?,
            Self::LarderMemoryNative => larder(Key::Native, None)?,
            Self::LarderRedis => larder(Key::Policy, Some(ground.redis_url))?,
            Self::EpollMemory
            | Self::HyperMemory
            | Self::AxumMoka
            | Self::EpollRedis
            | Self::HyperRedis
            | Self::AxumRedisCurrent
            | Self::AxumRedis => peer_command(self.name(), listen, ground)?,
            Self::Nginx => proxies::nginx(&directory, listen, origin()?, false)?,
            Self::NginxSendfile => proxies::nginx(&directory, listen, origin()?, true)?,
            Self::Varnish => proxies::varnish(&directory, listen, origin()?)?,
            Self::NodeIoredis => options.scripts.node("ioredis.js", &scripted)?,
            Self::NodeBentocache => options.scripts.node("bentocache.js", &scripted)?,
            Self::FastapiCashews => options.scripts.cashews(&scripted)?,
            Self::Fastapi => options.scripts.fastapi(&scripted)?,
        };
        let server = Server::start(self.name(), core, &directory, command)?;
        Ok((server, listen))
    }
}

/// What all contestants of a run share.
pub(crate) struct Ground<'a> {
    pub(crate) directory: &'a Path,
    pub(crate) redis_url: &'a str,
    /// What proxies have behind them, if one takes part.
    pub(crate) origin: Option<SocketAddr>,
    pub(crate) text: &'a str,
}

/// Starts what proxies have behind them.
pub(crate) fn start_origin(core: usize, ground: &Ground<'_>) -> Result<(Server, SocketAddr)> {
    let listen = free_port()?;
    let command = peer_command("origin", listen, ground)?;
    let server = Server::start("origin", core, ground.directory, command)?;
    Ok((server, listen))
}

/// A hand-written peer, which this program is itself.
fn peer_command(name: &str, listen: SocketAddr, ground: &Ground<'_>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["peer", name, "--listen", &listen.to_string()])
        .args(["--latency-ms", "0", "--ttl-seconds", TTL_SECONDS])
        .args(["--redis", ground.redis_url, "--text", ground.text]);
    Ok(command)
}

fn larder_command(
    options: &Options,
    directory: &Path,
    ground: &Ground<'_>,
    listen: SocketAddr,
    key: Key,
    redis: Option<&str>,
) -> Result<Command> {
    let setting = Setting {
        listen,
        admin: free_port()?,
        key,
        redis,
        text: ground.text,
    };
    let config = larder::write(directory, &options.plugins_dist, &setting)?;
    larder::serve(&options.larder()?, &config)
}
