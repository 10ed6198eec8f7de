//! `larder plugins`: what is loaded, and what is wrong with what is not; `larder plugins --reload NAME`: judge its files now.

use std::process::ExitCode;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Asking, member, table};

/// `larder plugins`
#[derive(Debug, Args)]
pub(in crate::cli) struct Plugins {
    /// Judge the files of this plugin now, and take them into service if they are good.
    #[arg(long, value_name = "NAME")]
    reload: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

pub(in crate::cli) fn run(arguments: &Plugins) -> ExitCode {
    match &arguments.reload {
        None => arguments
            .asking
            .ask(async |client| client.get("/plugins").await, said),
        Some(name) => {
            let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
            let target = format!("/plugins/{name}/reload");
            let body = Value::Null;
            arguments.asking.ask(
                async |client| client.post(&target, &body).await,
                |plugin| said(&Value::Array(vec![plugin.clone()])),
            )
        }
    }
}

fn said(answer: &Value) -> String {
    let plugins = answer.as_array().map_or(&[][..], Vec::as_slice);
    if plugins.is_empty() {
        return "there are no plugins: put NAME.wasm into the plugin directory\n".to_owned();
    }
    let head = ["NAME", "KIND", "STATE", "VERSION", "DIGEST", "ERROR"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for plugin in plugins {
        let digest = member(plugin, "digest");
        let error = match &plugin["error"] {
            Value::Null => String::new(),
            _ => member(plugin, "error"),
        };
        rows.push(vec![
            member(plugin, "name"),
            member(plugin, "kind"),
            member(plugin, "state"),
            member(plugin, "version"),
            digest.chars().take(12).collect(),
            error,
        ]);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plugins_are_a_table() {
        let answer = json!([
            {"name": "demo", "kind": "loader", "state": "ready", "version": "0.1.0", "digest": "0123456789abcdef", "error": null},
            {"name": "x", "kind": null, "state": "broken", "version": null, "digest": null, "error": "no\nworld"},
        ]);
        assert_eq!(
            said(&answer),
            "NAME  KIND    STATE   VERSION  DIGEST        ERROR\n\
             demo  loader  ready   0.1.0    0123456789ab\n\
             x     -       broken  -        -             no world\n"
        );
    }
}
