//! `feeding`: a batching loader with a change feed, both of which do what an HTTP origin tells them. So a test decides what
//! changes, when it is told, and how it goes wrong. Described, so that a redeploy of it is the same source.
//!
//! A load GETs `/VALUE` of its first part, and is found with the body; 404 is an absence, 500 or more a failure, `x-tags: a,b`
//! gives tags.
//!
//! A poll GETs `/feed?cursor=CURSOR&max=N&wait=MS` (no `cursor` without one), and gives what the answer holds:
//! `{"changes": [...], "cursor": text, "poll_after_ms": number}`, all optional; a change is `{"route": text or null,
//! "params": {name: value}}`, `{"tag": text}` or `{"everything": true}`. Without a cursor in the answer it gives the one that
//! it got, or `head`. 500 or more, or no answer: it fails as unavailable, code `feed-down`. `x-do: panic` panics.
//!
//! Settings: `url`, the origin's base URL (`[grants] http` must hold it), or `hang`: then a poll waits for ever; `label`, any text, to make it another source.

use std::collections::BTreeMap;

use larder_guest_origin::{encoded, get};
use larder_plugin_support::{
    Absence, Entry, Failure, FailureKind, Outcome, Param, Question, settings,
};
use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({
    path: "../../../wit",
    inline: "
        package guests:feeding;
        world feeding {
            include larder:plugin/batch-loader-plugin@0.1.0;
            include larder:plugin/change-feed-plugin@0.1.0;
            export larder:plugin/metadata@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

use exports::larder::plugin::{batch_loader, change_feed, metadata};

struct Feeding;
export!(Feeding);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: String,
    #[serde(default, rename = "label")]
    _label: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    changes: Vec<Change>,
    cursor: Option<String>,
    poll_after_ms: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Change {
    route: Option<String>,
    params: BTreeMap<String, String>,
    tag: Option<String>,
    everything: bool,
}

fn authority() -> Result<String, Failure> {
    let Settings { url, .. } = settings()?;
    Ok(url.trim_start_matches("http://").to_owned())
}

fn down(code: &str, message: String) -> Failure {
    Failure::new(FailureKind::Unavailable, code, message)
}

impl batch_loader::Guest for Feeding {
    async fn load_many(questions: Vec<Question>) -> Vec<Result<Outcome, Failure>> {
        let mut answers = Vec::new();
        for question in &questions {
            answers.push(load(question).await);
        }
        answers
    }
}

async fn load(question: &Question) -> Result<Outcome, Failure> {
    let part = question.target.parts.first();
    let path = part.map_or_else(String::new, |part| encoded(&part.value));
    let answer = get(&authority()?, &format!("/{path}"), &[])
        .await
        .map_err(|why| down("origin-unreachable", why))?;
    let tags = answer.list("x-tags");
    match answer.status {
        404 => Ok(Outcome::Missing(Absence {
            ttl_ms: None,
            tags,
            hints: Vec::new(),
        })),
        500.. => Err(down("origin-fails", format!("status {}", answer.status))),
        _ => Ok(Outcome::Found(Entry {
            tags,
            ..Entry::new("application/json", answer.body)
        })),
    }
}

impl change_feed::Guest for Feeding {
    async fn poll(
        cursor: Option<Vec<u8>>,
        max: u32,
        wait_ms: u32,
    ) -> Result<change_feed::Page, Failure> {
        let cursor = cursor.map(|cursor| String::from_utf8_lossy(&cursor).into_owned());
        let given = cursor
            .as_deref()
            .map_or_else(String::new, |cursor| format!("cursor={}&", encoded(cursor)));
        let authority = authority()?;
        if authority == "hang" {
            wasip3::clocks::monotonic_clock::wait_for(u64::MAX).await;
        }
        let path = format!("/feed?{given}max={max}&wait={wait_ms}");
        let answer = get(&authority, &path, &[])
            .await
            .map_err(|why| down("feed-down", why))?;
        let told = answer.header("x-do");
        assert!(told.as_deref() != Some("panic"), "told to panic");
        if answer.status >= 500 {
            return Err(down("feed-down", format!("status {}", answer.status)));
        }
        let page: Page = serde_json::from_slice(&answer.body)
            .map_err(|why| down("feed-unreadable", why.to_string()))?;
        Ok(change_feed::Page {
            changes: page.changes.into_iter().map(change).collect(),
            cursor: page
                .cursor
                .or(cursor)
                .unwrap_or_else(|| "head".to_owned())
                .into_bytes(),
            poll_after_ms: page.poll_after_ms,
            hints: Vec::new(),
        })
    }
}

fn change(change: Change) -> change_feed::Change {
    match change {
        Change {
            everything: true, ..
        } => change_feed::Change::Everything,
        Change { tag: Some(tag), .. } => change_feed::Change::Tag(tag),
        Change { route, params, .. } => change_feed::Change::Item(change_feed::Item {
            route,
            params: params
                .into_iter()
                .map(|(name, value)| Param { name, value })
                .collect(),
        }),
    }
}

impl metadata::Guest for Feeding {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "feeding".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: json!({
                "description": "Loads, and tells what changed, as an origin says.",
                "additional_parameters": true,
                "grants": { "http": ["the origin"] },
                "settings": {
                    "type": "object", "additionalProperties": false, "required": ["url"],
                    "properties": { "url": { "type": "string" }, "label": { "type": "string" } },
                },
            })
            .to_string(),
        }
    }
}
