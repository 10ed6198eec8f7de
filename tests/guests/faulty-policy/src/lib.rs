//! `faulty-policy`: a key policy that does what the path parameter `key` says. Not described.
//!
//! The parts are the path parameters, and what the table says beside them.
//!
//! | `key` | what it does |
//! |---|---|
//! | anything else | `cache`, public |
//! | `private` | `cache`, private |
//! | `bypass` | `bypass` |
//! | `reject-KIND` | rejects, with the code `faulty-KIND` |
//! | `impure` | adds `count`: how often this instance has been asked |
//! | `clock`, `random`, `env` | adds what the clocks say; what a new random state hashes to; the environment |
//! | `file` | adds what it comes to when it reads a file |
//! | `tell`, `tell-bypass`, `tell-reject` | tells everything of the request in what it decides |
//! | `big-part`, `big-part-N` | adds `big`, of 100,000 (N) bytes |
//! | `hold-N` | has N bytes while it derives |
//! | `panic`, `loop`, `sleep` | panics; computes for ever; blocks for a minute |
//! | `print` | prints a line to standard error and logs one |

use std::cell::Cell;
use std::hash::BuildHasher as _;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:faulty-policy;
        world faulty-policy { include larder:plugin/key-policy-plugin@0.1.0; }
    ",
    generate_all,
});

use exports::larder::plugin::key_policy::{self, Decision, Request};
use larder::plugin::log::{self, Level};
use larder::plugin::types::{Derivation, Failure, FailureKind, Param, Visibility};

struct FaultyPolicy;
export!(FaultyPolicy);

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

impl key_policy::Guest for FaultyPolicy {
    fn derive(request: Request) -> Decision {
        ASKED.set(ASKED.get() + 1);
        let key = request
            .path
            .iter()
            .find(|param| param.name == "key")
            .map_or(String::new(), |param| param.value.clone());
        if let Some(how) = key.strip_prefix("tell") {
            return tell(request, how);
        }
        let mut parts = request.path;
        let mut add = |name: &str, value: String| {
            parts.push(Param {
                name: name.to_owned(),
                value,
            });
        };
        match key.as_str() {
            "panic" => panic!("the policy panics on purpose"),
            "loop" => loop {
                black_box(());
            },
            #[expect(
                clippy::disallowed_methods,
                reason = "to see what the host does with a policy that does this"
            )]
            "sleep" => std::thread::sleep(Duration::from_secs(60)),
            "impure" => add("count", ASKED.get().to_string()),
            "clock" => {
                let wall = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                add("wall", wall.as_nanos().to_string());
                add("monotonic", format!("{:?}", Instant::now()));
            }
            "random" => add(
                "random",
                std::hash::RandomState::new().hash_one(0).to_string(),
            ),
            "file" => add(
                "file",
                std::fs::read("/etc/hostname")
                    .map_or("an error", |_| "bytes")
                    .to_owned(),
            ),
            "env" => std::env::vars().for_each(|(name, value)| add(&name, value)),
            "print" => {
                eprintln!("the policy prints on purpose");
                log::log(Level::Info, "the policy logs on purpose", &[]);
            }
            _ => {}
        }
        if let Some(length) = key.strip_prefix("hold-") {
            black_box(vec![1_u8; length.parse().unwrap_or(0)]);
        }
        if let Some(length) = key.strip_prefix("big-part") {
            add(
                "big",
                "x".repeat(length.trim_start_matches('-').parse().unwrap_or(100_000)),
            );
        }
        if let Some(kind) = key.strip_prefix("reject-") {
            return Decision::Reject(reject(kind));
        }
        let visibility = if key == "private" {
            Visibility::Private
        } else {
            Visibility::Public
        };
        let derivation = Derivation {
            parts,
            visibility,
            hints: Vec::new(),
        };
        if key == "bypass" {
            Decision::Bypass(derivation)
        } else {
            Decision::Cache(derivation)
        }
    }
}

/// The request as parts, and its headers as hints; or all of it as details.
fn tell(request: Request, how: &str) -> Decision {
    let told = |name: &str, value: String| Param {
        name: name.to_owned(),
        value,
    };
    let mut parts = vec![told("method", request.method), told("route", request.route)];
    parts.extend(request.path);
    parts.push(told("query", String::new()));
    parts.extend(request.query);
    let derivation = Derivation {
        parts,
        visibility: Visibility::Private,
        hints: request.headers,
    };
    match how {
        "-bypass" => Decision::Bypass(derivation),
        "-reject" => Decision::Reject(Failure {
            retry_after_ms: Some(u64::MAX / 3),
            details: [derivation.parts, derivation.hints].concat(),
            ..reject("rate-limited")
        }),
        _ => Decision::Cache(derivation),
    }
}

fn reject(kind: &str) -> Failure {
    Failure {
        kind: match kind {
            "invalid-request" => FailureKind::InvalidRequest,
            "denied" => FailureKind::Denied,
            "conflict" => FailureKind::Conflict,
            "unavailable" => FailureKind::Unavailable,
            "timeout" => FailureKind::Timeout,
            "rate-limited" => FailureKind::RateLimited,
            _ => FailureKind::Internal,
        },
        code: format!("faulty-{kind}"),
        message: format!("the policy rejects on purpose: {kind}"),
        retry_after_ms: (kind == "rate-limited").then_some(1500),
        details: Vec::new(),
    }
}
