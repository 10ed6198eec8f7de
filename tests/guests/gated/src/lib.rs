//! `gated`: a loader that does what an HTTP origin tells it to. So a test decides, while the load runs, when it ends, what
//! it reveals, and how it goes wrong. Not an example to copy: see the first-party `http` for one.
//!
//! `[config] url` is the origin's base URL; `[grants] http` must hold it. A load GETs `/FIRST?NAME=VALUE&…`: the value of the
//! first part is the path, the other parts are the query.
//!
//! | the answer has | the load |
//! |---|---|
//! | `x-do: panic` | panics |
//! | `x-do: loop` | computes for ever |
//! | `x-do: hang` | waits for ever |
//! | `x-do: invalid`, `denied`, `internal` | fails with that kind, code `told-to` |
//! | `x-tags: a,b` | gives these tags |
//! | `x-ttl-ms: 500` | gives this ttl |
//! | `x-header: NAME: VALUE` (repeated) | gives this header |
//! | `etag: …` | gives this validator, and sends it as `if-none-match` the next time |
//! | 304 | answers not-modified |
//! | 404 | answers missing |
//! | 429 | fails as rate-limited, after 2 s |
//! | 500 or more, or no answer | fails as unavailable |
//! | any other status | answers found, with this status and the body |

use larder_guest_origin::{Answer, encoded, get};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package larder:gated;
        world gated { include larder:plugin/loader-plugin@0.1.0; }
    ",
    generate_all,
});

use exports::larder::plugin::loader;
use larder::plugin::types::{
    Absence, Entry, Failure, FailureKind, Outcome, Param, Question, Renewal, Validator,
};

struct Gated;
export!(Gated);

impl loader::Guest for Gated {
    async fn load(question: Question) -> Result<Outcome, Failure> {
        let known = question.known.and_then(|known| known.etag);
        let answer = ask(&question.target.parts, known.as_deref()).await?;
        match answer.header("x-do").as_deref() {
            Some("panic") => panic!("told to panic"),
            Some("loop") => loop {
                std::hint::spin_loop();
            },
            Some("hang") => std::future::pending().await,
            Some("invalid") => return Err(failure(FailureKind::InvalidRequest, "told-to", None)),
            Some("denied") => return Err(failure(FailureKind::Denied, "told-to", None)),
            Some("internal") => return Err(failure(FailureKind::Internal, "told-to", None)),
            Some(other) => {
                panic!("the origin says x-do: {other}, and there is no such thing to do")
            }
            None => {}
        }
        let ttl_ms = answer.header("x-ttl-ms").and_then(|ms| ms.parse().ok());
        let tags = answer.list("x-tags");
        let hints = Vec::new();
        match answer.status {
            304 => Ok(Outcome::NotModified(Renewal { ttl_ms, hints })),
            404 => Ok(Outcome::Missing(Absence {
                ttl_ms,
                tags,
                hints,
            })),
            429 => Err(failure(
                FailureKind::RateLimited,
                "origin-limits",
                Some(2000),
            )),
            500.. => Err(failure(FailureKind::Unavailable, "origin-fails", None)),
            status => Ok(Outcome::Found(Entry {
                status: Some(status),
                content_type: answer.header("content-type"),
                headers: given_headers(&answer),
                validator: answer.header("etag").map(|etag| Validator {
                    etag: Some(etag),
                    last_modified_ms: None,
                }),
                body: answer.body,
                ttl_ms,
                tags,
                hints,
            })),
        }
    }
}

fn given_headers(answer: &Answer) -> Vec<Param> {
    let pairs = answer.all("x-header").filter_map(|text| {
        let (name, value) = text.split_once(": ")?;
        Some(Param {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    });
    pairs.collect()
}

async fn ask(parts: &[Param], known: Option<&str>) -> Result<Answer, Failure> {
    let settings = larder::plugin::settings::get();
    // The one setting, from JSON such as {"url":"http://127.0.0.1:9000"}: a URL of an origin needs no escapes.
    let authority = settings
        .split_once("http://")
        .and_then(|(_, rest)| rest.split('"').next())
        .expect("[config] url = \"http://HOST:PORT\"");
    let known: Vec<_> = known
        .map(|etag| ("if-none-match", etag))
        .into_iter()
        .collect();
    get(authority, &path(parts), &known)
        .await
        .map_err(|message| Failure {
            message,
            ..failure(FailureKind::Unavailable, "origin-unreachable", None)
        })
}

/// `/FIRST?NAME=VALUE&…`
fn path(parts: &[Param]) -> String {
    let mut path = String::from("/");
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            path.push(if i == 1 { '?' } else { '&' });
            path.push_str(&encoded(&part.name));
            path.push('=');
        }
        path.push_str(&encoded(&part.value));
    }
    path
}

fn failure(kind: FailureKind, code: &str, retry_after_ms: Option<u64>) -> Failure {
    Failure {
        kind,
        code: code.to_owned(),
        message: "the origin told the loader to fail".to_owned(),
        retry_after_ms,
        details: Vec::new(),
    }
}
