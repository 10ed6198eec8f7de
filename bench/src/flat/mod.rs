//! Whether a request costs the same however much there is: routes, keys in Redis, plugins. Two Larders run, one with few and
//! one with many, and are loaded in turn. Must not know how anything is looked up.

mod pair;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};

use crate::{
    body,
    compiled::Compiled,
    finding::Finding,
    fixture::{Asked, Fixture, Programs, fill, path},
    process::Cores,
    redis_server::RedisServer,
};
use pair::{Pair, Side};

/// The keys that are asked for, whatever there is beside them: more of them would measure the caches of the processor.
const ASKED: usize = 1_000;

/// The settings of a run.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// What grows; everything if left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Grows>,
    /// Routes of the big one; the small one has 10.
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Keys in the Redis of the big one; the small one has 1,000.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Loaders of the big one; the small one has 1.
    #[arg(long, default_value_t = 200)]
    plugins: usize,
    /// How often each has a turn.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long a turn is.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// One round of one second, and a tenth of everything: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
}

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grows {
    /// Routes, answered from memory.
    Routes,
    /// Keys in Redis, answered from there.
    Keys,
    /// Plugins, answered from memory.
    Plugins,
    /// Plugins, each request a load by one of them.
    Loads,
    /// The same, and all have the same bytes.
    Shared,
}

/// Measures.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    let options = match options.quick {
        false => options.clone(),
        true => Options {
            routes: options.routes.div_ceil(10).max(11),
            keys: options.keys.div_ceil(10).max(ASKED),
            plugins: options.plugins.div_ceil(10).max(2),
            rounds: 1,
            seconds: 1,
            ..options.clone()
        },
    };
    ensure!(
        options.rounds > 0 && options.seconds > 0 && options.keys >= ASKED,
        "a run has at least one round of a second, and {ASKED} keys"
    );
    let cores = Cores::allowed()?;
    let text = body::template(300)?;
    let plain = Fixture {
        loaders: 1,
        components: 1,
        routes: 1,
        memory: "256MiB",
        redis: None,
        ttl: "1h",
        text: &text,
    };
    let mut findings = Vec::new();
    for grows in Grows::value_variants() {
        if options.only.is_empty() || options.only.contains(grows) {
            findings.push(match grows {
                Grows::Routes => routes(&options, cores, plain).await?,
                Grows::Keys => keys(&options, cores, plain).await?,
                Grows::Plugins | Grows::Loads | Grows::Shared => {
                    plugins(&options, cores, plain, *grows).await?
                }
            });
        }
    }
    Ok(findings)
}

/// The asked keys, spread over so many routes.
fn over_routes(routes: usize) -> Vec<Asked> {
    let asked = (0..ASKED).map(|key| Asked {
        // Evenly from the first to the last, where there are more routes than keys.
        route: if routes > ASKED {
            key * (routes / ASKED)
        } else {
            key % routes
        },
        key,
    });
    asked.collect()
}

async fn routes(options: &Options, cores: Cores, plain: Fixture<'_>) -> Result<Finding> {
    let directory = tempfile::tempdir()?;
    let side = async |name, routes| {
        let fixture = Fixture { routes, ..plain };
        let larder = fixture
            .start(name, cores.server, directory.path(), &options.programs)
            .await?;
        let asked = over_routes(routes);
        larder.check(&asked, plain.text, "").await?;
        Side::new(format!("{routes} routes"), larder, asked, "detail=memory")
    };
    Pair {
        title: "Flat over routes, answered from memory".to_owned(),
        few: side("few", 10).await?,
        many: side("many", options.routes).await?,
    }
    .measure(options, cores, directory.path(), plain.text)
    .await
}

async fn keys(options: &Options, cores: Cores, plain: Fixture<'_>) -> Result<Finding> {
    let directory = tempfile::tempdir()?;
    let mut servers = Vec::new();
    let mut sides = Vec::new();
    for (name, keys) in [("few", ASKED), ("many", options.keys)] {
        let place = directory.path().join(name);
        std::fs::create_dir_all(&place)?;
        let redis = RedisServer::start(cores.load, &place).await?;
        let fixture = Fixture {
            memory: "0",
            redis: Some(&redis.url),
            ..plain
        };
        // Another process fills: what it then remembers of all keys would be measured, and not how many there are in Redis.
        let filler = fixture
            .start(name, cores.server, directory.path(), &options.programs)
            .await?;
        fill(filler.at.public, keys, |key| path(0, key), "").await?;
        filler.server.stop().await;
        let larder = fixture
            .start(name, cores.server, directory.path(), &options.programs)
            .await?;
        let spread = keys / ASKED;
        let asked = (0..ASKED).map(|key| Asked {
            route: 0,
            key: key * spread,
        });
        let what = format!("{keys} keys in Redis");
        sides.push(Side::new(what, larder, asked.collect(), "detail=redis")?);
        servers.push(redis);
    }
    let (Some(many), Some(few)) = (sides.pop(), sides.pop()) else {
        unreachable!("two were pushed")
    };
    let pair = Pair {
        title: "Flat over keys in Redis, answered from there".to_owned(),
        few,
        many,
    };
    let finding = pair
        .measure(options, cores, directory.path(), plain.text)
        .await?;
    for redis in servers {
        redis.stop().await;
    }
    Ok(finding)
}

/// Both have as many routes; in the big one each has a loader of its own, of its own bytes or not.
async fn plugins(
    options: &Options,
    cores: Cores,
    plain: Fixture<'_>,
    grows: Grows,
) -> Result<Finding> {
    let directory = tempfile::tempdir()?;
    let (ttl, from, what, title) = match grows {
        Grows::Loads => ("0", "fwd=", "", "Flat over plugins, each request a load"),
        Grows::Shared => (
            "0",
            "fwd=",
            " of the same bytes",
            "Flat over plugins of the same bytes, each request a load",
        ),
        _ => (
            "1h",
            "detail=memory",
            "",
            "Flat over plugins, answered from memory",
        ),
    };
    let programs = &options.programs;
    let compiled = Compiled::by_the_host(cores.server, directory.path(), &plain, programs).await?;
    let side = async |name, loaders, what| {
        let components = if grows == Grows::Shared { 1 } else { loaders };
        let fixture = Fixture {
            loaders,
            components,
            routes: options.plugins,
            ttl,
            ..plain
        };
        let place = directory.path().join(name);
        compiled.keep_for(&place, components, programs)?;
        let larder = fixture
            .start(name, cores.server, directory.path(), programs)
            .await?;
        Compiled::were_found(&place, components)?;
        let asked = over_routes(options.plugins);
        larder.check(&asked, plain.text, "").await?;
        Side::new(format!("{loaders} loaders{what}"), larder, asked, from)
    };
    Pair {
        title: title.to_owned(),
        few: side("few", 1, "").await?,
        many: side("many", options.plugins, what).await?,
    }
    .measure(options, cores, directory.path(), plain.text)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_keys_are_spread_over_all_routes() {
        let routes = |of: usize| -> Vec<usize> {
            let mut routes: Vec<usize> = over_routes(of).iter().map(|asked| asked.route).collect();
            routes.sort_unstable();
            routes.dedup();
            routes
        };
        assert_eq!(routes(10).len(), 10);
        let many = routes(10_000);
        assert_eq!((many.len(), many[999]), (1_000, 9_990));
    }
}
