//! `staged`: a loader with a life, for tests of starting, probing and swapping. Async, described, with all of `lifecycle`.
//!
//! The answer: `{"version": settings.version, "instance_loads": N, "started": bool}`.
//!
//! Settings, all optional:
//! - `version`: text, `"1"` unless set
//! - `start_ms`, `probe_ms`: how long `start` and `probe` wait
//! - `start_fails`, `probe_fails`: `true` makes them fail, with the code of that name
//! - `start_traps`, `probe_traps`: `true` makes them panic
//! - `start_busy_ms`: how long `start` computes without a wait
//! - `latency_ms`: how long a load waits

use larder_plugin_support::contract::log::{self, Level};
use larder_plugin_support::{Entry, Failure, FailureKind, Outcome, Question, settings};
use serde::Deserialize;
use serde_json::json;
use std::cell::Cell;
use std::time::{Duration, Instant};
use wasip3::clocks::monotonic_clock::wait_for;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:staged;
        world staged {
            include larder:plugin/loader-plugin@0.1.0;
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

use exports::larder::plugin::{lifecycle, loader, metadata};

struct Staged;
export!(Staged);

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    version: Option<String>,
    start_ms: u64,
    start_busy_ms: u64,
    start_fails: bool,
    start_traps: bool,
    probe_ms: u64,
    probe_fails: bool,
    probe_traps: bool,
    latency_ms: u64,
}

thread_local! {
    static STARTED: Cell<bool> = const { Cell::new(false) };
    static LOADS: Cell<u64> = const { Cell::new(0) };
}

async fn stage(name: &str, wait_ms: u64, fails: bool, traps: bool) -> Result<(), Failure> {
    log::log(Level::Info, name, &[]);
    if wait_ms > 0 {
        wait_for(wait_ms * 1_000_000).await;
    }
    assert!(!traps, "the guest's {name} panics on purpose");
    if fails {
        let message = format!("the guest's {name} fails on purpose");
        return Err(Failure::new(
            FailureKind::Unavailable,
            &format!("{name}-fails"),
            message,
        ));
    }
    Ok(())
}

impl lifecycle::Guest for Staged {
    async fn start() -> Result<(), Failure> {
        let config: Settings = settings()?;
        let end = Instant::now() + Duration::from_millis(config.start_busy_ms);
        while Instant::now() < end {}
        stage(
            "start",
            config.start_ms,
            config.start_fails,
            config.start_traps,
        )
        .await?;
        STARTED.set(true);
        Ok(())
    }

    async fn probe() -> Result<(), Failure> {
        let config: Settings = settings()?;
        stage(
            "probe",
            config.probe_ms,
            config.probe_fails,
            config.probe_traps,
        )
        .await
    }

    async fn stop() {
        log::log(Level::Info, "stop", &[]);
    }
}

impl loader::Guest for Staged {
    async fn load(_: Question) -> Result<Outcome, Failure> {
        let config: Settings = settings()?;
        LOADS.set(LOADS.get() + 1);
        let loads = LOADS.get();
        if config.latency_ms > 0 {
            wait_for(config.latency_ms * 1_000_000).await;
        }
        let version = config.version.as_deref().unwrap_or("1");
        let answer =
            json!({ "version": version, "instance_loads": loads, "started": STARTED.get() });
        Ok(Outcome::Found(Entry::new(
            "application/json",
            answer.to_string().into_bytes(),
        )))
    }
}

impl metadata::Guest for Staged {
    fn describe() -> metadata::Description {
        let flag = json!({ "type": "boolean" });
        let ms = json!({ "type": "integer", "minimum": 0 });
        metadata::Description {
            name: "staged".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "A loader with a life.",
                "additional_parameters": true,
                "settings": {
                    "type": "object", "additionalProperties": false,
                    "properties": {
                        "version": { "type": "string" },
                        "start_ms": ms, "start_busy_ms": ms, "probe_ms": ms, "latency_ms": ms,
                        "start_fails": flag, "start_traps": flag, "probe_fails": flag, "probe_traps": flag,
                    },
                },
            })
            .to_string(),
        }
    }
}
