//! `larder reload`: a server that runs reads its configuration again, as at SIGHUP, and says what is another now.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Asking, member};

/// `larder reload`
#[derive(Debug, Args)]
pub(in crate::cli) struct Reload {
    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(arguments: &Reload) -> ExitCode {
    let body = Value::Null;
    arguments
        .asking
        .ask(async |client| client.post("/reload", &body).await, said)
}

fn said(answer: &Value) -> String {
    let changes = answer["changes"].as_array().map_or(&[][..], Vec::as_slice);
    if changes.is_empty() {
        return "nothing has changed\n".to_owned();
    }
    let line = |change: &Value| {
        let setting = member(change, "setting");
        let (from, to) = (&change["from"], &change["to"]);
        let what = match (from.is_null(), to.is_null()) {
            (false, false) => format!(": {} → {}", member(change, "from"), member(change, "to")),
            (true, false) => format!(": {}", member(change, "to")),
            (false, true) => format!(": no longer {}", member(change, "from")),
            (true, true) => ": changed".to_owned(),
        };
        let waits = if change["needs_restart"] == true {
            ", after a restart"
        } else {
            ""
        };
        format!("{setting}{what}{waits}\n")
    };
    changes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_change_is_a_line() {
        let change = |from, to, waits: bool| json!({"setting": "a.b", "from": from, "to": to, "needs_restart": waits});
        let answer = json!({"changes": [
            change(json!("1s"), json!("2s"), true), change(json!(null), json!("new"), false),
            change(json!("there"), json!(null), false), change(json!(null), json!(null), false),
        ]});
        assert_eq!(
            said(&answer),
            "a.b: 1s → 2s, after a restart\na.b: new\na.b: no longer there\na.b: changed\n"
        );
        assert_eq!(said(&json!({"changes": []})), "nothing has changed\n");
    }
}
