//! `http`: asks a templated URL, and revalidates when the cache has something to revalidate. To copy from when the source
//! speaks a protocol: secrets, validators, deadlines, retries, and one failure kind for each thing that can go wrong.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `url` | | where to ask; each `{name}` is a part, percent-encoded |
//! | `query` | `{}` | parameters to put behind it; each `{name}` is a part; one whose part was not sent is left out |
//! | `method` | `GET` | or `POST`, for a source that takes its question as a body |
//! | `body` | | of a `POST`: what to send; each `{name}` is a part, escaped as `content_type` wants it |
//! | `content_type` | `application/json` | what `body` is: JSON, a form (`application/x-www-form-urlencoded`), or taken as it is |
//! | `headers` | `{}` | what to send; a value may hold `{name}` |
//! | `timeout_ms` | the deadline | how long to wait for the whole answer, retries included |
//! | `retries` | 2 | how often a `GET` is made again |
//! | `body_max` | 8 MiB | the longest body taken, in bytes, as sent and as decoded; raise it together with `[limits] body` |
//!
//! Wherever `{name}` can stand, `{secret:NAME}` can too. Grants: `http` to the origin; a line in `[secrets]` for each
//! secret. A sidecar, `http.toml`:
//!
//! ```toml
//! [config]
//! url = "https://api.example.com/countries/{alpha_2}"
//! query = { lang = "{lang}" }
//! headers = { authorization = "Bearer {secret:token}" }
//! [secrets]
//! token = { env = "COUNTRIES_TOKEN" }
//! [grants]
//! http = ["https://api.example.com"]
//! ```
//!
//! and the `[config]` of a source that is asked by POST:
//!
//! ```toml
//! url = "https://api.example.com/search"
//! method = "POST"
//! body = '{"text": "{q}", "page": {page}}'
//! ```
//!
//! In JSON, a `{name}` within quotes is text, and one without stands for a number (or `true`, `false`, `null`): anything
//! else in its place is `invalid-request`.
//!
//! | the origin | the outcome |
//! |---|---|
//! | 2xx | found, with its `ETag` and `Last-Modified` as the validator |
//! | 304 | not-modified |
//! | 404, 410 | missing |
//! | 400, 422 | `invalid-request` |
//! | 401, 403 | `denied` |
//! | 429 | `rate-limited`, with its `Retry-After` |
//! | 5xx | `unavailable`, with its `Retry-After` |
//! | refused, reset, cut short, or a body that cannot be decoded | `unavailable` |
//! | no answer in time | `timeout` |
//! | anything else: a redirect, a body over `body_max`, an encoding that was not asked for | `internal` |
//!
//! **Retries.** A `GET` is made again after a connection that was refused, reset or cut short, and after a 503 whose
//! `Retry-After` is a second or less: after 50 ms, doubling, up to half of it by chance, and never past the deadline. A
//! `POST` is never made again. All loads of an instance share one budget, a retry for ten requests and five to start with:
//! a source that is down is not asked much more often for being down.
//!
//! **Encodings.** The source is asked for gzip or Brotli (`headers = { accept-encoding = "identity" }` for neither), and
//! the entry holds the body decoded. What comes out of the decoder is counted against `body_max` as it comes.
//!
//! **Writes.** A PUT goes to the same `url` with the body and the content type of the client, a DELETE without; `headers` are
//! sent too, and `Idempotency-Key`, `If-Match` and `If-None-Match`. Any 2xx is done (but 202 and 207, which promise nothing), with its `ETag` and `Last-Modified`; 404 and 410
//! answer a DELETE well; 409, 412 and 428 are `conflict`; what may have been done although it failed (a connection that broke
//! off, 202, 500, 502, 504) has the code `outcome-unknown`. A write is never made a second time by itself.
//!
//! A part `.` or `..` would climb the path of the URL, percent-encoded or not, so it is `invalid-request`. A `{name}`
//! without such a part, but in `query`, is a failure `internal` that names it.

mod answer;
mod decode;
mod fetch;
mod request;
mod retry;
mod settings;
mod write;

use answer::{outcome, retry_after};
use exports::larder::plugin::{lifecycle, loader, metadata, writer};
use fetch::{Lost, Response};
use larder_plugin_support::contract::secrets::{self, SecretError};
use larder_plugin_support::{Failure, FailureKind, Outcome, Question, Template, settings};
use request::Ask;
use retry::Budget;
use settings::{Method, Settings};
use std::borrow::Cow;
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use wasip3::clocks::monotonic_clock::{now, wait_for};
use wasip3::random::insecure::get_insecure_random_u64;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:http;
        world http {
            include larder:plugin/loader-plugin@0.1.0;
            export larder:plugin/writer@0.1.0;
            include larder:plugin/described@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

struct Http;
export!(Http);

impl loader::Guest for Http {
    async fn load(Question { target, known }: Question) -> Result<Outcome, Failure> {
        let settings: Settings = settings()?;
        let ask = request::ask(&settings, &target, known.as_ref())?;
        let timeout = settings.timeout(target.deadline_ms);
        let answer = within(timeout, answer(&ask, &settings, timeout)).await?;
        outcome(answer, known.is_some())
    }
}

impl writer::Guest for Http {
    async fn write(mutations: Vec<writer::Mutation>) -> Vec<Result<writer::Receipt, Failure>> {
        let all = mutations
            .into_iter()
            .map(|mutation| Box::pin(change(mutation)));
        futures_lite::future::poll_fn(joined(all.collect())).await
    }
}

/// Makes one change. Never a second time: what becomes of one that failed is for the host to decide, which has a key for it.
async fn change(mutation: writer::Mutation) -> Result<writer::Receipt, Failure> {
    let settings: Settings = settings()?;
    let timeout = settings.timeout(mutation.target.deadline_ms);
    let ask = write::ask(&settings, mutation)?;
    let exchange = async {
        let answer = fetch::exchange(&ask, settings.encodings(), settings.body_max).await;
        answer.map_err(write::lost)
    };
    write::receipt(&within(timeout, exchange).await?, ask.method)
}

/// Polls all of them until each has its result.
fn joined<F: Future + Unpin>(
    mut all: Vec<F>,
) -> impl FnMut(&mut Context<'_>) -> Poll<Vec<F::Output>> {
    let mut results: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    move |context| {
        for (future, result) in all.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(done) = Pin::new(future).poll(context)
            {
                *result = Some(done);
            }
        }
        if results.iter().any(Option::is_none) {
            return Poll::Pending;
        }
        Poll::Ready(results.drain(..).flatten().collect())
    }
}

/// What `work` comes to, unless that takes too long: then it is dropped, and with it the request is given up.
async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let too_late = async {
        wait_for(nanoseconds(timeout)).await;
        Err(Failure::new(
            FailureKind::Timeout,
            "origin-timeout",
            format!(
                "the source did not answer within {} ms",
                timeout.as_millis()
            ),
        ))
    };
    futures_lite::future::or(work, too_late).await
}

thread_local! {
    /// What the loads of this instance may spend on retries.
    static BUDGET: RefCell<Budget> = const { RefCell::new(Budget::new()) };
}

/// The answer to `ask`, made again where that is safe and may help, within `timeout`.
async fn answer(ask: &Ask, settings: &Settings, timeout: Duration) -> Result<Response, Failure> {
    let begun = now();
    let retries = match settings.method {
        Method::Get => settings.retries,
        Method::Post | Method::Put | Method::Delete => 0,
    };
    BUDGET.with_borrow_mut(Budget::earn);
    let mut retry = 0;
    loop {
        let answer = fetch::exchange(ask, settings.encodings(), settings.body_max).await;
        let asked_to_wait = match &answer {
            Ok(answer) if answer.status == 503 => retry_after(answer, SystemTime::now()),
            _ => None,
        };
        let worth_it = asked_to_wait.is_some() || matches!(&answer, Err(lost) if lost.in_passing);
        let left = timeout.saturating_sub(Duration::from_nanos(now() - begun));
        let wait = (worth_it && retry < retries)
            .then(|| retry::wait(retry, asked_to_wait, left, get_insecure_random_u64()))
            .flatten()
            .filter(|_| BUDGET.with_borrow_mut(Budget::spend));
        let Some(wait) = wait else {
            return answer.map_err(|Lost { failure, .. }| failure);
        };
        wait_for(nanoseconds(wait)).await;
        retry += 1;
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The secret that `name` asks for, if it is of the form `secret:NAME`.
fn secret<'p>(name: &str) -> Option<Result<Cow<'p, str>, Failure>> {
    let name = name.strip_prefix("secret:")?;
    Some(secrets::get(name).map(Cow::Owned).map_err(|error| match error {
        SecretError::NotGranted => internal(
            "secret-not-granted",
            format!("the settings name the secret `{name}`; add `{name} = {{ env = \"…\" }}` to [secrets] of the sidecar"),
        ),
        SecretError::Unavailable => internal(
            "secret-unavailable",
            format!("the secret `{name}` cannot be had; set the variable, or write the file, that [secrets] of the sidecar names"),
        ),
    }))
}

fn internal(code: &str, message: String) -> Failure {
    Failure::new(FailureKind::Internal, code, message)
}

fn unavailable(code: &str, message: String) -> Failure {
    Failure::new(FailureKind::Unavailable, code, message)
}

impl lifecycle::Guest for Http {
    /// Refuses settings that no request could be made with.
    async fn start() -> Result<(), Failure> {
        let mut settings: Settings = settings()?;
        settings.check()?;
        // Any value will do to see what URL it makes; the secrets are looked at by the probe.
        settings.url =
            Template::parse(&settings.url).fill(|_| Ok::<_, Failure>(Cow::Borrowed("x")))?;
        request::url(&settings, |_| Ok(None)).map(drop)
    }

    /// Asks for every secret, and the origin for nothing: it may be down while its entries are still good.
    async fn probe() -> Result<(), Failure> {
        settings::<Settings>()?.check_secrets()
    }

    async fn stop() {}
}

impl metadata::Guest for Http {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "http".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: include_str!("../descriptor.json").to_owned(),
        }
    }
}
