//! `larder purge`: a resource, one variant of it, tags, a route or everything.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use serde_json::{Value, json};

use super::{Asking, header, headers};

/// `larder purge`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["path", "tag", "route", "all"]))]
pub(in crate::cli) struct Purge {
    /// The path of a resource, e.g. /data/42: every variant of it.
    path: Option<String>,
    /// What has this tag. May be given several times.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Everything of this route, e.g. '/data/{key}'.
    #[arg(long, value_name = "PATTERN")]
    route: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    /// Only the variant that a GET of the path, its query and these headers would be answered with.
    #[arg(long, requires = "path", conflicts_with_all = ["tag", "route", "all"])]
    exact: bool,
    /// A header of that request, as 'name: value'. May be given several times.
    #[arg(long, value_name = "HEADER", value_parser = header, requires = "exact")]
    header: Vec<(String, String)>,
    /// End the ttl and keep the stale windows, instead of deleting.
    #[arg(long)]
    expire: bool,
    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(arguments: &Purge) -> ExitCode {
    let body = arguments.body();
    arguments
        .asking
        .ask(async |client| client.post("/purge", &body).await, said)
}

impl Purge {
    fn body(&self) -> Value {
        let mut body = match (&self.path, &self.route) {
            (Some(path), _) => json!({ "path": path }),
            (None, Some(route)) => json!({ "route": route }),
            (None, None) if self.all => json!({ "all": true }),
            (None, None) => json!({ "tags": self.tag }),
        };
        if self.exact {
            body["exact"] = true.into();
        }
        if let Some(headers) = headers(&self.header) {
            body["headers"] = headers;
        }
        if self.expire {
            body["mode"] = "expire".into();
        }
        body
    }
}

fn said(answer: &Value) -> String {
    let mut text = format!("{} at seq {}", super::member(answer, "done"), answer["seq"]);
    if let Some(nodes) = answer["nodes"].as_u64() {
        text.push_str(&format!("; {nodes} nodes were told"));
    }
    let pending = answer["pending"].as_array();
    if pending.is_some_and(|pending| !pending.is_empty()) {
        let kept = if answer["durable"] == true {
            "it is on this node's disk, and told as soon as Redis is back"
        } else {
            "it is told as soon as Redis is back"
        };
        text.push_str(&format!("; Redis does not know of it yet: {kept}"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        purge: Purge,
    }

    fn body(line: &[&str]) -> Option<Value> {
        let line = Line::try_parse_from([&["purge"], line].concat()).ok()?;
        Some(line.purge.body())
    }

    #[test]
    fn a_line_is_the_body_that_the_admin_listener_takes() {
        for (line, wanted) in [
            (&["/data/42"][..], json!({"path": "/data/42"})),
            (
                &["/data/42", "--expire"],
                json!({"path": "/data/42", "mode": "expire"}),
            ),
            (
                &["/data/42?a=1", "--exact", "--header", "X-A: b"],
                json!({"path": "/data/42?a=1", "exact": true, "headers": {"x-a": "b"}}),
            ),
            (&["--tag", "a", "--tag", "b"], json!({"tags": ["a", "b"]})),
            (&["--route", "/data/{key}"], json!({"route": "/data/{key}"})),
            (&["--all"], json!({"all": true})),
        ] {
            assert_eq!(body(line), Some(wanted), "{line:?}");
        }
        for bad in [
            &[][..],
            &["/a", "--all"],
            &["--exact", "--all"],
            &["/a", "--header", "x: y"],
        ] {
            assert_eq!(body(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_still_to_be_told_is_said() {
        let done = json!({"seq": 7, "done": "deleted", "pending": []});
        assert_eq!(said(&done), "deleted at seq 7\n");
        let pending = json!({"seq": 7, "done": "expired", "pending": ["redis"], "durable": true, "nodes": null});
        assert_eq!(
            said(&pending),
            "expired at seq 7; Redis does not know of it yet: it is on this node's disk, and told as soon as Redis is back\n"
        );
    }
}
