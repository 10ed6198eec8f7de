//! `larder entry PATH`: every stored variant of a resource, and why it is fresh or stale.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Asking, member, plain};

/// `larder entry`
#[derive(Debug, Args)]
pub(in crate::cli) struct Entry {
    /// The path of a request, e.g. /data/42.
    path: String,
    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(arguments: &Entry) -> ExitCode {
    let path = utf8_percent_encode(&arguments.path, NON_ALPHANUMERIC);
    let target = format!("/entries?path={path}");
    arguments
        .asking
        .ask(async |client| client.get(&target).await, said)
}

fn said(answer: &Value) -> String {
    let entries = answer["entries"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = format!("{} of {}", member(answer, "path"), member(answer, "route"));
    let _ = match entries.len() {
        0 => writeln!(text, ": nothing is stored"),
        1 => writeln!(text),
        count => writeln!(text, ": {count} variants"),
    };
    for entry in entries {
        let _ = writeln!(
            text,
            "\n{} in {}: {}",
            member(entry, "kind"),
            member(entry, "tier"),
            freshness(entry)
        );
        let tags: Vec<String> = entry["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tag| tag.as_str().map(plain))
            .collect();
        let mut rows = vec![
            vec!["  key".to_owned(), member(entry, "key")],
            vec!["  etag".to_owned(), member(entry, "etag")],
            vec!["  loader".to_owned(), loader(entry)],
            vec![
                "  body".to_owned(),
                format!(
                    "{} bytes of {}, status {}, {}",
                    member(entry, "bytes"),
                    member(entry, "content_type"),
                    member(entry, "status"),
                    member(entry, "visibility")
                ),
            ],
        ];
        if !tags.is_empty() {
            rows.push(vec!["  tags".to_owned(), tags.join(", ")]);
        }
        text.push_str(&super::table(&rows));
    }
    text
}

fn loader(entry: &Value) -> String {
    let maker = member(entry, "loader");
    if entry["current"] == false {
        return format!("{maker}, as it was before: what is served now has a key of its own");
    }
    maker
}

/// Why it is what it is, in a sentence.
fn freshness(entry: &Value) -> String {
    let seconds = |name: &str| entry[name].as_u64().unwrap_or(0) / 1000;
    let of = &entry["freshness"];
    let within = |name: &str| of[name].as_u64().unwrap_or(0) / 1000;
    let age = format!(
        "loaded {} s ago for {} s",
        seconds("age_ms"),
        seconds("ttl_ms")
    );
    let purged = entry["purged"].as_str().unwrap_or("no");
    match (of["state"].as_str(), purged) {
        (Some("fresh"), _) => format!("fresh for {} s more ({age})", within("left_ms")),
        (Some("stale"), purged) => {
            let mut uses = Vec::new();
            if of["while_revalidate"] == true {
                uses.push("while it is reloaded");
            }
            if of["if_error"] == true {
                uses.push("if a load fails");
            }
            let why = if purged == "expired" {
                "a purge ended its ttl".to_owned()
            } else {
                format!("past its ttl by {} s", within("over_ms"))
            };
            format!(
                "stale, {why}; still answered {} ({age})",
                uses.join(" and ")
            )
        }
        (_, "deleted") => format!("dead, purged after it was loaded ({age})"),
        (_, "expired") => format!("dead, a purge ended its ttl and no window is left ({age})"),
        _ => format!("dead, past every window ({age})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn why_it_is_fresh_or_stale_is_a_sentence() {
        let entry = |freshness: Value, purged: &str| {
            let entry = json!({"age_ms": 70_000, "ttl_ms": 60_000, "purged": purged, "freshness": freshness});
            super::freshness(&entry)
        };
        let stale = |while_revalidate, if_error| json!({"state": "stale", "over_ms": 10_000, "while_revalidate": while_revalidate, "if_error": if_error});
        assert_eq!(
            entry(json!({"state": "fresh", "left_ms": 5_000}), "no"),
            "fresh for 5 s more (loaded 70 s ago for 60 s)"
        );
        assert_eq!(
            entry(stale(true, true), "no"),
            "stale, past its ttl by 10 s; still answered while it is reloaded and if a load fails (loaded 70 s ago for 60 s)"
        );
        assert_eq!(
            entry(stale(false, true), "expired"),
            "stale, a purge ended its ttl; still answered if a load fails (loaded 70 s ago for 60 s)"
        );
        assert_eq!(
            entry(json!({"state": "dead"}), "deleted"),
            "dead, purged after it was loaded (loaded 70 s ago for 60 s)"
        );
        assert_eq!(
            entry(json!({"state": "dead"}), "no"),
            "dead, past every window (loaded 70 s ago for 60 s)"
        );
    }
}
