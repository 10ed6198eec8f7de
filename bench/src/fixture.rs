//! A Larder with so many plugins and so many routes: its files, its start, and how it is filled and checked.
//! Owns what several measurements start; must not know what they measure.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyper::StatusCode;
use tokio::task::JoinSet;

use crate::{
    body,
    client::{Client, TENANT},
    larder,
    process::Server,
    redis_server::free_port,
};

/// How long a Larder may take to its first answer. It compiles its components in this time.
const START: Duration = Duration::from_secs(120);
/// A key that no measurement asks for.
const NOBODYS: usize = 99_999_999;
/// Requests that fill at once, and how many reads each of them is of.
const FILLERS: usize = 4;
const BATCH: usize = 500;

/// Which programs take part.
#[derive(Args, Clone)]
pub(crate) struct Programs {
    /// The host to measure; `larder` beside this program if left out.
    #[arg(long, env = "LARDER_BIN")]
    larder: Option<PathBuf>,
    /// Where `demo.wasm` and `tenant-key.wasm` are.
    #[arg(long, env = "PLUGINS_DIST", default_value = "plugins/dist")]
    plugins_dist: PathBuf,
}

impl Programs {
    fn component(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.plugins_dist.join(name).with_extension("wasm");
        fs::read(&file)
            .with_context(|| format!("cannot read {}: `make build` makes it", file.display()))
    }
}

/// What a Larder is made of.
#[derive(Clone, Copy)]
pub(crate) struct Fixture<'a> {
    /// Loaders, all of them `demo`.
    pub(crate) loaders: usize,
    /// So many different components, which the loaders have in turn. Each has bytes, and so compiled code, of its own.
    pub(crate) components: usize,
    /// Routes; each has one of the loaders in turn.
    pub(crate) routes: usize,
    /// `[memory] capacity`.
    pub(crate) memory: &'a str,
    pub(crate) redis: Option<&'a str>,
    pub(crate) ttl: &'a str,
    /// The text of the answers; `{key}` stands for the key.
    pub(crate) text: &'a str,
}

impl Fixture<'_> {
    /// Writes `larder.toml` and what it names into `directory`; returns the addresses that it listens on.
    pub(crate) fn write(&self, directory: &Path, programs: &Programs) -> Result<Addresses> {
        let plugins = directory.join("plugins");
        fs::create_dir_all(&plugins)?;
        let components = components(programs, self.components)?;
        for number in 0..self.loaders {
            let file = plugins.join(loader(number));
            let component = &components[number % components.len()];
            fs::write(file.with_extension("wasm"), component)?;
            let sidecar = format!("[config]\ntext = \"{}\"\nlatency_ms = 0\n", self.text);
            fs::write(file.with_extension("toml"), sidecar)?;
        }
        fs::write(
            plugins.join("tenant-key.wasm"),
            programs.component("tenant-key")?,
        )?;
        fs::write(
            plugins.join("tenant-key.toml"),
            format!("[config]\nheader = \"{}\"\n", TENANT.0),
        )?;
        let addresses = Addresses {
            public: free_port()?,
            admin: free_port()?,
        };
        fs::write(directory.join("larder.toml"), self.toml(addresses))?;
        Ok(addresses)
    }

    fn toml(&self, Addresses { public, admin }: Addresses) -> String {
        let redis = match self.redis {
            Some(url) => format!("[redis]\nurl = \"{url}\"\n"),
            None => String::new(),
        };
        let mut toml = format!(
            "[server]\nlisten = \"{public}\"\n[admin]\nlisten = \"{admin}\"\n\
             [memory]\ncapacity = \"{}\"\n{redis}[plugins]\ndir = \"plugins\"\n[storage]\ndir = \"larder-data\"\n",
            self.memory
        );
        for route in 0..self.routes {
            let (loader, ttl) = (loader(route % self.loaders), self.ttl);
            toml.push_str(&format!(
                "[[routes]]\npath = \"/r{route:05}/{{key}}\"\nloader = \"{loader}\"\nttl = \"{ttl}\"\n\
                 key = \"tenant-key\"\nkey_headers = [\"{}\"]\n",
                TENANT.0
            ));
        }
        toml
    }

    /// Writes it, starts it on a core, and waits until it answers.
    pub(crate) async fn start(
        &self,
        name: &str,
        core: usize,
        directory: &Path,
        programs: &Programs,
    ) -> Result<Larder> {
        let directory = directory.join(name);
        let addresses = self.write(&directory, programs)?;
        let mut larder = Larder::spawn(name, core, &directory, addresses, programs)?;
        larder.answers().await?;
        Ok(larder)
    }
}

/// The path of a key on a route. All have the same length.
pub(crate) fn path(route: usize, key: usize) -> String {
    format!("/r{route:05}/{}", key_of(key))
}

/// The name of a key.
pub(crate) fn key_of(number: usize) -> String {
    format!("k{number:08}")
}

fn loader(number: usize) -> String {
    format!("demo-{number:04}")
}

/// The loader `demo` so many times, each time with other bytes.
pub(crate) fn components(programs: &Programs, count: usize) -> Result<Vec<Vec<u8>>> {
    let demo = programs.component("demo")?;
    Ok((0..count).map(|number| told_apart(&demo, number)).collect())
}

/// The same component with other bytes: a custom section at its end, which runs nothing.
fn told_apart(component: &[u8], number: usize) -> Vec<u8> {
    // Section 0, its length, the length of its name, the name, what is in it: binary format of WebAssembly, custom sections.
    let name = b"bench";
    let text = format!("{number:04}");
    let length = 1 + name.len() + text.len();
    let mut bytes = component.to_vec();
    bytes.extend([0, length as u8, name.len() as u8]);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Where a Larder listens.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A Larder that runs. Dropped, it is killed.
pub(crate) struct Larder {
    pub(crate) server: Server,
    pub(crate) at: Addresses,
}

impl Larder {
    /// Starts what was written into a directory. It may not answer yet.
    pub(crate) fn spawn(
        name: &str,
        core: usize,
        directory: &Path,
        at: Addresses,
        programs: &Programs,
    ) -> Result<Self> {
        // Absolute, for it is started in its own directory.
        let program = std::path::absolute(larder::program(programs.larder.as_deref())?)?;
        let mut command = larder::serve(&program, Path::new("larder.toml"))?;
        command.current_dir(directory);
        let server = Server::start(name, core, directory, command)?;
        Ok(Self { server, at })
    }

    /// Waits until the first route answers.
    pub(crate) async fn answers(&mut self) -> Result<()> {
        let public = self.at.public;
        self.server
            .until(START, async || {
                let answer = Client::connect(public)
                    .await?
                    .get(&path(0, NOBODYS))
                    .await?;
                ensure!(answer.status == StatusCode::OK, "{}", answer.status);
                Ok(())
            })
            .await
    }

    /// Everything at one moment, as the admin listener tells it.
    pub(crate) async fn admin(&self, path: &str) -> Result<serde_json::Value> {
        let answer = Client::connect(self.at.admin).await?.get(path).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "GET {path} of the admin listener was answered with {}",
            answer.status
        );
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Asks for every path once and compares the answers byte for byte; `from` is what `Cache-Status` has to hold.
    pub(crate) async fn check(&self, paths: &[Asked], text: &str, from: &str) -> Result<()> {
        let mut client = Client::connect(self.at.public).await?;
        for Asked { route, key } in paths {
            let path = path(*route, *key);
            let answer = client.get(&path).await?;
            ensure!(
                answer.status == StatusCode::OK
                    && answer.body == body::render(text, &key_of(*key))
                    && answer.cache_status().contains(from),
                "GET {path} was answered with {}, `Cache-Status: {}` and {} bytes; expected was `{from}` and the text of its key",
                answer.status,
                answer.cache_status(),
                answer.body.len()
            );
        }
        Ok(())
    }
}

/// A key that is asked for, and on which route.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) route: usize,
    pub(crate) key: usize,
}

/// Asks for all of `paths`, many in one request. Every one must be found, and `from` is what its `Cache-Status` has to hold.
pub(crate) async fn fill(
    address: SocketAddr,
    count: usize,
    path: impl Fn(usize) -> String + Clone + Send + 'static,
    from: &'static str,
) -> Result<()> {
    let mut fillers = JoinSet::new();
    for filler in 0..FILLERS {
        let path = path.clone();
        fillers.spawn(async move {
            let mut client = Client::connect(address).await?;
            for first in (filler * BATCH..count).step_by(FILLERS * BATCH) {
                let batch: Vec<String> = (first..count.min(first + BATCH))
                    .map(path.clone())
                    .collect();
                let answer = client
                    .post_json("/_batch", serde_json::to_string(&batch)?)
                    .await?;
                let text = String::from_utf8_lossy(&answer.body);
                let right = |line: &&str| line.contains("\"status\":200") && line.contains(from);
                let wrong = text.lines().find(|line| !right(line));
                ensure!(
                    wrong.is_none() && text.lines().count() == batch.len(),
                    "{} reads in one were answered with {} and {} lines, one of which is {}",
                    batch.len(),
                    answer.status,
                    text.lines().count(),
                    wrong.unwrap_or("none that is wrong")
                );
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = fillers.join_next().await {
        filled??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_that_is_told_apart_ends_with_one_whole_section() {
        let bytes = told_apart(b"\0asm", 42);
        assert_eq!(bytes, b"\0asm\x00\x0a\x05bench0042");
        assert_eq!(usize::from(bytes[5]), bytes.len() - 6);
        assert_ne!(bytes, told_apart(b"\0asm", 43));
    }

    #[test]
    fn routes_share_the_loaders_in_turn() {
        let at = Addresses {
            public: SocketAddr::from(([127, 0, 0, 1], 1)),
            admin: SocketAddr::from(([127, 0, 0, 1], 2)),
        };
        let fixture = Fixture {
            loaders: 2,
            components: 1,
            routes: 3,
            memory: "1MiB",
            redis: None,
            ttl: "1h",
            text: "x",
        };
        let toml = fixture.toml(at);
        assert_eq!(toml.matches("loader = \"demo-0000\"").count(), 2);
        assert_eq!(toml.matches("loader = \"demo-0001\"").count(), 1);
        assert!(toml.contains("path = \"/r00002/{key}\""), "{toml}");
    }
}
