//! What an entry takes in memory beside what was to be kept: a Larder that keeps so many entries, next to one that answered
//! the same requests and keeps none. Must not know how entries are stored.

#[path = "../../../host/src/cache/bounded.rs"]
mod bounded;
pub(crate) mod hit_ratio;
mod trace;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    body,
    client::Client,
    finding::{Finding, Goal},
    fixture::{Fixture, Larder, Programs, fill, path},
    process::Cores,
};

/// Every n-th entry is asked for after the filling, to see that it is there.
const SAMPLES: usize = 1000;
/// How long memory is waited for to stay as it is.
const SETTLE: Duration = Duration::from_secs(20);
/// Bytes of each answer.
const BODY: usize = 100;

/// The settings of a run.
#[derive(Args, Clone)]
pub(crate) struct Options {
    /// How many entries are kept.
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// A fiftieth of the entries: shows that everything runs, not what an entry takes.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
}

/// What one entry was to keep, in bytes.
#[derive(Clone, Copy)]
struct Payload {
    key: usize,
    body: usize,
    content_type: usize,
    etag: usize,
}

impl Payload {
    fn sum(self) -> usize {
        self.key + self.body + self.content_type + self.etag
    }
}

/// Own memory of one server, in bytes.
#[derive(Clone, Copy)]
struct Grown {
    before: u64,
    after: u64,
}

impl Grown {
    fn by(self) -> f64 {
        self.after as f64 - self.before as f64
    }
}

/// Measures.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Finding>> {
    let entries = match options.quick {
        true => options.entries.div_ceil(50),
        false => options.entries,
    };
    ensure!(entries > 0, "at least one entry is kept");
    let cores = Cores::allowed()?;
    let directory = tempfile::tempdir()?;
    let text = body::template(BODY)?;
    let without = Fixture {
        loaders: 1,
        components: 1,
        routes: 1,
        memory: "0",
        redis: None,
        ttl: "1h",
        text: &text,
    };
    // Enough for all, and not so much that tables for several times as many are made.
    let room = format!("{}MiB", entries / 1000 + 64);
    let with = Fixture {
        memory: &room,
        ..without
    };
    let start = async |name, fixture: Fixture<'_>| {
        fixture
            .start(name, cores.server, directory.path(), &options.programs)
            .await
    };
    let larder = start("without", without).await?;
    let control = grow(&larder, entries, "fwd=").await?;
    larder.server.stop().await;
    let larder = start("with", with).await?;
    let tier = grow(&larder, entries, "fwd=uri-miss").await?;
    let payload = payload(&larder, entries).await?;
    let weight = weight(&larder, entries).await?;
    larder.server.stop().await;
    Ok(vec![finding(entries, (tier, control), payload, weight)])
}

/// Asks for every entry once.
async fn grow(larder: &Larder, entries: usize, from: &'static str) -> Result<Grown> {
    // Once before it counts: buffers and instances that are made once.
    fill(
        larder.at.public,
        1000,
        move |key| path(0, entries + key),
        "",
    )
    .await?;
    let before = settled(larder).await?;
    fill(larder.at.public, entries, |key| path(0, key), from).await?;
    let after = settled(larder).await?;
    Ok(Grown { before, after })
}

/// The process's own memory, once it stays as it is.
async fn settled(larder: &Larder) -> Result<u64> {
    let deadline = Instant::now() + SETTLE;
    let mut last = larder.server.memory()?.anonymous;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = larder.server.memory()?.anonymous;
        if now.abs_diff(last) <= now / 1000 || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

/// What an entry was to keep, from what a client is answered and from the key's text. All are of one length.
async fn payload(larder: &Larder, entries: usize) -> Result<Payload> {
    let mut client = Client::connect(larder.at.public).await?;
    let mut seen = None;
    for key in (0..entries).step_by(entries.div_ceil(SAMPLES)) {
        let answer = client.get(&path(0, key)).await?;
        ensure!(
            answer.cache_status().contains("detail=memory"),
            "GET {} was answered with `Cache-Status: {}`, not from memory",
            path(0, key),
            answer.cache_status()
        );
        let length = |name: &str| answer.headers.get(name).map_or(0, |value| value.len());
        let lengths = (answer.body.len(), length("content-type"), length("etag"));
        ensure!(
            *seen.get_or_insert(lengths) == lengths,
            "answers differ in their length"
        );
    }
    let (body, content_type, etag) = seen.context("no entry was looked at")?;
    let stored = larder
        .admin(&format!("/entries?path={}", path(0, 0)))
        .await?;
    let key = stored["entries"][0]["key"].as_str().map(str::len);
    Ok(Payload {
        key: key.context("GET /entries does not say under which key an entry is stored")?,
        body,
        content_type,
        etag,
    })
}

/// What Larder itself says an entry weighs, once it holds all of them.
async fn weight(larder: &Larder, entries: usize) -> Result<f64> {
    let memory = &larder.admin("/overview").await?["memory"];
    let field = |name: &str| {
        memory[name]
            .as_u64()
            .context("GET /overview lacks a figure")
    };
    let (held, bytes) = (field("entries")?, field("bytes")?);
    ensure!(
        held >= entries as u64,
        "{held} entries are held, and {entries} were to be"
    );
    Ok(bytes as f64 / held as f64)
}

fn finding(
    entries: usize,
    (tier, control): (Grown, Grown),
    payload: Payload,
    weight: f64,
) -> Finding {
    let each = |bytes: f64| bytes / entries as f64;
    let of_tier = each(tier.by() - control.by());
    let overhead = of_tier - payload.sum() as f64;
    let Payload {
        key,
        body,
        content_type,
        etag,
    } = payload;
    let table = format!(
        "| bytes an entry | |\n|---|---:|\n\
         | grown by, with the memory tier | {:.0} |\n\
         | grown by, without it: the memo of keys, buffers | {:.0} |\n\
         | the difference: what the tier takes | {of_tier:.0} |\n\
         | to be kept: the key's text | {key} |\n\
         | to be kept: the body | {body} |\n\
         | to be kept: the content type | {content_type} |\n\
         | to be kept: the entity tag | {etag} |\n\
         | **overhead** | **{overhead:.0}** |\n\
         | for information: what Larder counts it as | {weight:.0} |\n\n\
         {entries} entries.\n",
        each(tier.by()),
        each(control.by()),
    );
    let sample = |name: &str, grown: Grown| json!({"server": name, "entries": entries, "before": grown.before, "after": grown.after});
    Finding {
        title: "The memory tier".to_owned(),
        table,
        goals: vec![
            Goal::at_most("overhead of an entry in memory", overhead, 120.0).in_units(" bytes"),
        ],
        samples: vec![sample("with", tier), sample("without", control)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overhead_is_what_is_neither_kept_nor_grown_without_the_tier() {
        let grown = |before, after| Grown { before, after };
        let payload = Payload {
            key: 60,
            body: 100,
            content_type: 16,
            etag: 36,
        };
        let found = finding(10, (grown(1000, 5000), grown(500, 1000)), payload, 400.0);
        assert!(
            found.table.contains("| **overhead** | **138** |"),
            "{}",
            found.table
        );
        assert!(!found.goals[0].is_reached());
    }
}
