//! How each case is tried: the stage with everything that the cases need, and who asks what. Must not know the neighbour.

use std::io::Write as _;
use std::time::Duration;

use flate2::{Compression, write::GzEncoder};
use larder_tests::metrics::{HEADERS_DROPPED, TTL_CLAMPED};
use larder_tests::{Answer, Builder, Gate, Larder, Origin, Reply, Wasm, eventually, json};

use crate::cases::{CASES, Case, Harm, Special};
use crate::files;
use crate::turning::{self, Turning};

/// What came of a case, or why it is not passed.
type Told = Result<String, String>;

/// Ways to write a forbidden address.
const LITERALS: usize = 6;

/// One server with the hostile component under a name for each case, and the origins they may and may not reach.
pub(crate) struct Stage {
    pub(crate) larder: Larder,
    /// Granted where a case grants anything.
    origin: Origin,
    /// Never granted.
    other: Origin,
    /// Granted and not granted, by turns.
    turning: Turning,
    /// Holds the calls of the case that makes a thousand.
    _held: Gate,
}

/// The name of the plugin of a case.
fn plugin(r#do: &str, derives: bool) -> String {
    format!("{}-{do}", if derives { "derive" } else { "load" })
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let (origin, other) = (Origin::start(), Origin::start());
        origin.on("/drip", Reply::drip(Duration::from_secs(1)));
        origin.on("/bomb", Reply::status(200).body(bomb()));
        origin.on(
            "/redirect",
            Reply::status(302).header("location", &format!("{}/stolen", other.url())),
        );
        // Closed after each answer, so that each request looks the name up.
        origin.on("/turn", Reply::counted().header("connection", "close"));
        let held = origin.gate("/held");
        let turning = Turning::at(origin.address().port());
        let mut builder = Larder::with()
            .env("LD_PRELOAD", &turning.library().to_string_lossy())
            .plugin("demo", "[config]\nlatency_ms = 0\n")
            .guest("echo", "")
            // What attacks leave behind is bounded, so that memory can be compared.
            .section("[memory]\ncapacity = \"4MiB\"")
            .route("/neighbour/{key}", "demo", "ttl = \"0\"")
            .route("/echo/{key}", "echo", "");
        for case in CASES {
            builder = match case.harm {
                Harm::Load(r#do, lines, _) => loads(builder, r#do, r#do, &fill(lines, &origin)),
                Harm::Derive(r#do, _) => derives(builder, r#do, ""),
                Harm::Special(special) => special.plugins(builder, &origin, &other),
            };
        }
        Self {
            larder: builder.start().await,
            origin,
            other,
            turning,
            _held: held,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.larder.get(path).await
    }

    /// Nothing was even connected to that is not granted.
    pub(crate) fn unreached(&self) -> Result<(), String> {
        let reached = self.other.connections() > 0 || self.turning.reached();
        holds("nothing is reached that is not granted", !reached)
    }
}

fn fill(lines: &str, origin: &Origin) -> String {
    lines.replace("ORIGIN", &origin.url())
}

/// 1 GiB of zeros in a megabyte: a thousand pieces of gzip one after the other, each of a mebibyte.
fn bomb() -> Vec<u8> {
    let mut piece = GzEncoder::new(Vec::new(), Compression::best());
    piece.write_all(&vec![0; 1 << 20]).expect("it is packed");
    piece.finish().expect("it is packed").repeat(1024)
}

/// The hostile component as a loader, as `load-NAME`, with `do` and these lines in its sidecar.
fn loads(builder: Builder, name: &str, r#do: &str, lines: &str) -> Builder {
    let name = plugin(name, false);
    let sidecar = format!("[config]\ndo = {do:?}\n{lines}");
    let path = format!("/{name}/{{key}}");
    builder
        .component(&name, Wasm::guest("hostile"), &sidecar)
        .route(
            &path,
            &name,
            "failure_ttl = \"0\"\njitter = 0.0\ntimeout = \"20s\"",
        )
}

/// The hostile component as the key policy of `echo`.
fn derives(builder: Builder, r#do: &str, lines: &str) -> Builder {
    let name = plugin(r#do, true);
    let sidecar = format!("[config]\ndo = {do:?}\n{lines}");
    let path = format!("/{name}/{{key}}");
    builder
        .component(&name, Wasm::guest("hostile"), &sidecar)
        .route(&path, "echo", &format!("key = {name:?}"))
}

impl Special {
    /// What it needs on the stage.
    fn plugins(self, builder: Builder, origin: &Origin, other: &Origin) -> Builder {
        let granted = format!("[grants]\nhttp = [\"{}\"]\n", origin.url());
        match self {
            Self::LogFlood => loads(
                builder,
                "log",
                "log",
                "[limits]\ncpu = \"5s\"\ntimeout = \"10s\"\n",
            ),
            Self::Escapes => loads(builder, "escapes", "escapes", ""),
            Self::Connections => loads(
                builder,
                "connections",
                "connections",
                &format!(
                    "target = \"{}/held\"\n{granted}[limits]\nfetches = 20\ncpu = \"5s\"\ntimeout = \"2s\"\n",
                    origin.url()
                ),
            ),
            Self::Literals => {
                let port = other.address().port();
                [
                    "127.0.0.1",
                    "2130706433",
                    "0x7f.1",
                    "0177.0.0.1",
                    "[::ffff:127.0.0.1]",
                    "169.254.169.254",
                ]
                .iter()
                .enumerate()
                .fold(builder, |builder, (number, host)| {
                    let lines = format!("target = \"http://{host}:{port}/x\"\n{granted}");
                    loads(builder, &format!("literal-{number}"), "fetch", &lines)
                })
            }
            Self::Redirect => {
                let lines = format!("target = \"{}/redirect\"\n{granted}", origin.url());
                loads(builder, "redirect", "fetch", &lines)
            }
            Self::Rebinding => {
                let (from, to) = (origin.address().port(), other.address().port());
                // A granted name that turns out to be this machine, and what no look-up gave.
                let name = format!("http://localhost:{to}");
                let builder = loads(
                    builder,
                    "turned",
                    "fetch",
                    &format!("target = \"{name}/x\"\n[grants]\nhttp = [{name:?}]\n"),
                );
                let builder = loads(
                    builder,
                    "rebound",
                    "connect",
                    &format!(
                        "target = \"localhost:{from}>127.0.0.1:{to}\"\n[grants]\ntcp = [\"localhost:{from}\"]\nnetworks = [\"127.0.0.0/8\", \"::1/128\"]\n"
                    ),
                );
                let (turning, granted) = (turning::NAME, turning::GRANTED);
                let builder = loads(
                    builder,
                    "turning",
                    "fetch",
                    &format!(
                        "target = \"http://{turning}:{from}/turn\"\n[grants]\nhttp = [\"http://{turning}:{from}\"]\nnetworks = [\"{granted}/32\"]\n"
                    ),
                );
                loads(
                    builder,
                    "turning-socket",
                    "connect",
                    &format!(
                        "target = \"{turning}:{from}>{}:{from}\"\n[grants]\ntcp = [\"{turning}:{from}\"]\nnetworks = [\"{granted}/32\"]\n",
                        turning::FORBIDDEN
                    ),
                )
            }
            Self::Impure => derives(builder, "count", ""),
            Self::Parts => ["empty", "large", "binary", "not-text"]
                .iter()
                .fold(builder, |builder, r#do| {
                    derives(builder, r#do, "[limits]\ncpu = \"2s\"\n")
                }),
            Self::Impersonation => derives(builder, "impersonate", "target = \"/echo/{key}\"\n"),
            Self::LineBreaks => {
                let builder = loads(builder, "headers", "headers", "");
                loads(builder, "content-type", "content-type", "")
            }
            Self::Lifetime => loads(builder, "ttl", "ttl", ""),
            Self::Names => loads(
                builder,
                "look-up",
                "look-up",
                "target = \"s3cret.evil.test\"\n[grants]\ntcp = [\"localhost:1\"]\n",
            ),
            Self::TableBomb => builder.route("/table-bomb/{key}", "echo", "key = \"table-bomb\""),
            Self::CompileBomb => {
                // Memory enough: what ends it is to be the clock, on a fast machine, too.
                builder.section("[plugins]\ncompile_cpu = \"3s\"\ncompile_memory = \"6GiB\"")
            }
            Self::Import => builder,
        }
    }
}

/// The plugins that do the harm of a case, whoever asks `/NAME/…`. None: the harm is in a file.
pub(crate) fn harmful(case: &Case) -> Vec<String> {
    let loads = |names: &[&str]| names.iter().map(|name| plugin(name, false)).collect();
    let derives = |names: &[&str]| names.iter().map(|name| plugin(name, true)).collect();
    match case.harm {
        Harm::Load(r#do, ..) => loads(&[r#do]),
        Harm::Derive(r#do, _) => derives(&[r#do]),
        Harm::Special(special) => match special {
            Special::TableBomb => vec!["table-bomb".to_owned()],
            Special::LogFlood => loads(&["log"]),
            Special::Escapes => loads(&["escapes"]),
            Special::Connections => loads(&["connections"]),
            Special::Literals => (0..LITERALS)
                .map(|number| plugin(&format!("literal-{number}"), false))
                .collect(),
            Special::Redirect => loads(&["redirect"]),
            Special::Rebinding => loads(&["turned", "rebound", "turning", "turning-socket"]),
            Special::Impure => derives(&["count"]),
            Special::Parts => derives(&["empty", "large", "binary", "not-text"]),
            Special::Impersonation => derives(&["impersonate"]),
            Special::LineBreaks => loads(&["headers", "content-type"]),
            Special::Lifetime => loads(&["ttl"]),
            Special::Names => loads(&["look-up"]),
            Special::Import | Special::CompileBomb => Vec::new(),
        },
    }
}

/// Tries a case and says what came of it; `again` is how often it was tried before.
pub(crate) async fn attack(stage: &Stage, case: &Case, again: usize) -> Told {
    let told = match case.harm {
        Harm::Load(r#do, _, comes) => ask(stage, &plugin(r#do, false), again, comes).await,
        Harm::Derive(r#do, comes) => ask(stage, &plugin(r#do, true), again, comes).await,
        Harm::Special(special) => special_attack(stage, special, again).await,
    };
    stage.unreached()?;
    told
}

async fn ask(stage: &Stage, plugin: &str, again: usize, comes: &[(u16, &str)]) -> Told {
    let answer = stage.get(&format!("/{plugin}/x{again}")).await;
    typed(&answer, comes)
}

/// Whether a problem has one of these statuses and codes.
fn typed(answer: &Answer, comes: &[(u16, &str)]) -> Told {
    let status = answer.status.as_u16();
    if status < 400 {
        return Err(format!("answered {status}: {}", answer.text()));
    }
    let problem = answer.problem();
    let code = problem["code"].as_str().unwrap_or_default();
    match comes.contains(&(status, code)) {
        true => Ok(format!("{status} {code}")),
        false => Err(format!("{status} and not {comes:?}: {problem}")),
    }
}

/// Whether the problem's detail has these words.
fn says(answer: &Answer, words: &str) -> Result<(), String> {
    let problem = answer.problem();
    let detail = problem["detail"].as_str().unwrap_or_default();
    let holds = detail.contains(words);
    holds
        .then_some(())
        .ok_or_else(|| format!("{words:?} is not in {detail:?}"))
}

fn holds(what: &str, holds: bool) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| format!("not so: {what}"))
}

const UNREACHED: &[(u16, &str)] = &[(502, "source-unreachable")];

async fn special_attack(stage: &Stage, special: Special, again: usize) -> Told {
    match special {
        Special::TableBomb => table_bomb(stage, again).await,
        Special::LogFlood => log_flood(stage, again).await,
        Special::Escapes => escapes(stage, again).await,
        Special::Connections => connections(stage, again).await,
        Special::Literals => literals(stage, again).await,
        Special::Redirect => {
            let answer = stage.get(&format!("/load-redirect/x{again}")).await;
            says(&answer, "http = [")?;
            typed(&answer, UNREACHED)
        }
        Special::Rebinding => rebinding(stage, again).await,
        Special::Impure => impure(stage).await,
        Special::Parts => parts(stage, again).await,
        Special::Impersonation => impersonation(stage, again).await,
        Special::LineBreaks => line_breaks(stage, again).await,
        Special::Lifetime => {
            let answer = stage.get(&format!("/load-ttl/x{again}")).await;
            holds("30 days", answer.max_age() == Some(30 * 24 * 3600))?;
            holds(
                "counted",
                stage.larder.metrics().await.sum(TTL_CLAMPED) > 0.0,
            )?;
            Ok("clamped to 30 days".to_owned())
        }
        Special::Import => {
            let name = format!("import-{again}");
            stage.larder.install(&name, &Wasm::guest("wrong-import"));
            let refused = stage.larder.until_refused(&name, &["acme:missing/thing"]);
            let error = refused.await;
            Ok(error.chars().take(38).collect())
        }
        Special::CompileBomb => compile_bomb(stage, again).await,
        Special::Names => {
            let answer = stage.get(&format!("/load-look-up/x{again}")).await;
            says(&answer, "may not look up s3cret.evil.test")?;
            typed(&answer, UNREACHED)
        }
    }
}

async fn table_bomb(stage: &Stage, again: usize) -> Told {
    if again == 0 {
        stage.larder.sidecar("table-bomb", crate::cases::SLOW);
        stage
            .larder
            .install_bytes("table-bomb", &files::table_bomb());
        let ready = |plugin: &larder_tests::Value| plugin["state"] == "ready";
        stage
            .larder
            .until_plugin("table-bomb", "is ready", ready)
            .await;
    }
    ask(stage, "table-bomb", again, &[(500, "table-limit")]).await
}

/// 100,000 lines of 100 bytes: a hundred of them are told in a second.
async fn log_flood(stage: &Stage, again: usize) -> Told {
    let before = stage.larder.log().len();
    let answer = stage.get(&format!("/load-log/x{again}")).await;
    let grown = stage.larder.log().len() - before;
    holds("answered", answer.status == 200)?;
    holds("the log is bounded", grown < 1 << 20)?;
    Ok(format!("{} KiB of 10 MiB logged", grown / 1024))
}

async fn escapes(stage: &Stage, again: usize) -> Told {
    let answer = stage.get(&format!("/load-escapes/x{again}")).await;
    let told = typed(&answer, &[(502, "trap")])?;
    says(&answer, "␛]0;owned")?;
    let log = eventually("the log shows it", async || {
        Some(stage.larder.log()).filter(|log| log.contains("␛]0;owned"))
    })
    .await;
    let problem = answer.problem();
    let detail = problem["detail"].as_str().unwrap_or_default();
    for (what, text) in [("the log", &*log), ("the detail", detail)] {
        let harmful = |c: char| {
            (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}')
        };
        holds(what, !text.contains(harmful))?;
        holds(
            what,
            !text.lines().any(|line| line.starts_with("2026-01-01T")),
        )?;
    }
    Ok(told)
}

/// A thousand requests at an origin that answers none: no more connections than `fetches` are opened.
async fn connections(stage: &Stage, again: usize) -> Told {
    let before = stage.origin.connections();
    let told = ask(stage, "load-connections", again, &[(504, "timeout")]).await?;
    let opened = stage.origin.connections() - before;
    // It is asked once more, alone, when its instance is replaced.
    holds("at most `fetches` at once", (1..=40).contains(&opened))?;
    Ok(format!("{told}, {opened} connections"))
}

async fn literals(stage: &Stage, again: usize) -> Told {
    let mut told = String::new();
    for number in 0..LITERALS {
        let answer = stage.get(&format!("/load-literal-{number}/x{again}")).await;
        says(&answer, "http = [")?;
        told = typed(&answer, UNREACHED)?;
    }
    Ok(told)
}

/// Names that lead inside, and one that turns around: what was checked is what is connected to.
async fn rebinding(stage: &Stage, again: usize) -> Told {
    let turned = stage.get(&format!("/load-turned/x{again}")).await;
    typed(&turned, UNREACHED)?;
    says(&turned, "networks = [")?;
    let rebound = stage.get(&format!("/load-rebound/x{again}")).await;
    typed(&rebound, UNREACHED)?;
    says(&rebound, "tcp = [")?;
    // Whichever address the look-up gives, the other one is connected to.
    let other = stage.get(&format!("/load-turning-socket/x{again}")).await;
    typed(&other, UNREACHED)?;
    says(&other, turning::FORBIDDEN)?;
    let (mut answered, mut refused) = (0, 0);
    for turn in 0..6 {
        let answer = stage.get(&format!("/load-turning/x{again}-{turn}")).await;
        if answer.status == 200 {
            answered += 1;
        } else {
            typed(&answer, UNREACHED)?;
            says(&answer, turning::FORBIDDEN)?;
            refused += 1;
        }
    }
    holds("the name turns", answered > 0 && refused > 0)?;
    Ok(format!("turned 6 times: {answered} granted, {refused} not"))
}

/// Results of a policy are remembered and sampled, so it takes some questions until it is found out.
async fn impure(stage: &Stage) -> Told {
    let mut query = 0;
    let answer = eventually("the policy is quarantined", async || {
        query += 1;
        let answer = stage.get(&format!("/derive-count/x?{query}")).await;
        (answer.status == 500).then_some(answer)
    })
    .await;
    let state = stage.larder.plugin("derive-count").await["state"].clone();
    holds("it is shown", state == "quarantined")?;
    typed(&answer, &[(500, "policy-impure")])
}

async fn parts(stage: &Stage, again: usize) -> Told {
    // An empty part is a part; what shares it is told apart by the resource.
    for key in ["a", "b"] {
        let answer = stage.get(&format!("/derive-empty/{key}{again}")).await;
        holds(
            "a key of its own",
            answer.cache_status().contains("uri-miss"),
        )?;
        holds(
            "one empty part",
            answer.json()["parts"] == json!([["", ""]]),
        )?;
    }
    let binary = stage.get(&format!("/derive-binary/x{again}")).await;
    holds("control characters are a key", binary.status == 200)?;
    let not_text = stage.get(&format!("/derive-not-text/x{again}")).await;
    typed(&not_text, &[(500, "trap")])?;
    let large = stage.get(&format!("/derive-large/x{again}")).await;
    typed(&large, &[(500, "key-too-large")])
}

/// The entry of `/echo/{key}` can be neither poisoned nor read from another route.
async fn impersonation(stage: &Stage, again: usize) -> Told {
    let thief = stage
        .get(&format!("/derive-impersonate/secret{again}"))
        .await;
    holds("the thief is answered", thief.status == 200)?;
    let owner = stage.get(&format!("/echo/secret{again}")).await;
    holds(
        "the owner's is loaded",
        owner.cache_status().contains("uri-miss"),
    )?;
    holds("as the owner's", owner.json()["route"] == "/echo/{key}")?;
    holds(
        "not as the thief's",
        thief.json()["route"] == "/derive-impersonate/{key}",
    )?;
    Ok("each route has its own".to_owned())
}

async fn line_breaks(stage: &Stage, again: usize) -> Told {
    let head =
        format!("GET /load-headers/x{again} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let said = stage.larder.public.raw(head).await.to_lowercase();
    holds(
        "the good one is kept",
        said.contains("\r\nx-good: kept\r\n"),
    )?;
    for bad in ["x-smuggled", "x-split", "set-cookie"] {
        holds(bad, !said.contains(bad))?;
    }
    holds(
        "counted",
        stage.larder.metrics().await.sum(HEADERS_DROPPED) >= 3.0,
    )?;
    let answer = stage.get(&format!("/load-content-type/x{again}")).await;
    typed(&answer, &[(502, "invalid-content-type")])
}

/// One file that is too large to be looked at, and a small one that takes the compiler longer than it may: both are refused.
async fn compile_bomb(stage: &Stage, again: usize) -> Told {
    let mut large = b"\0asm\x0d\0\x01\0".to_vec();
    large.resize((64 << 20) + 1, 0);
    stage
        .larder
        .install_bytes(&format!("large-{again}"), &large);
    let name = format!("large-{again}");
    stage.larder.until_refused(&name, &["67108864"]).await;
    let name = format!("bomb-{again}");
    stage.larder.install_bytes(&name, &files::compile_bomb());
    let error = larder_tests::eventually_within(
        Duration::from_secs(60),
        "the compiler is done with it",
        async || {
            let all = stage.larder.admin.get("/plugins").await.json();
            let all = all.as_array().cloned().unwrap_or_default();
            all.into_iter()
                .find(|plugin| plugin["name"] == *name && plugin["state"] != "loading")
        },
    )
    .await["error"]
        .to_string();
    holds(&error, error.contains("more than 3 s of CPU time"))?;
    Ok("too large: refused; dense: ended at 3 s of CPU".to_owned())
}
