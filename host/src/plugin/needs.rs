//! The difference between what a plugin asks for and what its sidecar grants, as the lines to add. Pure.
//!
//! A descriptor asks in sentences. One that begins with what is asked for, as a grant would write it, is understood
//! (`https://api.example.com: the weather`, `db.internal:5432: the records`, `/data rw: the index`, `TZ: the time zone`,
//! `token: for the API`), and its line is the very one to add. The others are for people, and their line is an example.

use crate::config::{DirMode, Grants, endpoint, origin};

use super::descriptor::Descriptor;
use super::secrets::secret_line;

/// A kind of grant that a descriptor asks for, wholly or in part, in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is needed, and why, as the end of a sentence that begins with the plugin's name.
    pub what: String,
    /// What to write where.
    pub remedy: String,
    /// `grants` or `secrets`: the table of the sidecar that it is about.
    pub table: &'static str,
    /// The lines to write there.
    pub lines: Vec<String>,
    /// Whether nothing of this kind is granted: then the plugin is refused. What is granted may be meant to stand for
    /// what was asked for (another server with the same records), so the rest is only warned of.
    pub refuses: bool,
}

/// The kinds a descriptor can ask for, and an example of each.
const KINDS: [(&str, &str); 5] = [
    ("http", "https://api.example.com"),
    ("tcp", "db.internal:5432"),
    ("dirs", "/data"),
    ("secrets", "token"),
    ("env", "TZ"),
];

impl Descriptor {
    /// What is asked for and not granted. `secrets` are the names that the sidecar gives, `plugin` is the file stem.
    pub fn missing_grants<'s>(
        &self,
        plugin: &str,
        grants: &Grants,
        secrets: impl Iterator<Item = &'s str>,
    ) -> Vec<Missing> {
        let secrets: Vec<&str> = secrets.collect();
        KINDS
            .iter()
            .filter_map(|(kind, example)| {
                let sentences = self.needs.get(*kind)?;
                let granted = granted(kind, grants, &secrets);
                let asked: Vec<String> = sentences
                    .iter()
                    .filter_map(|sentence| concrete(kind, sentence))
                    .collect();
                let lacking: Vec<String> = asked
                    .iter()
                    .filter(|asked| !granted.contains(&key_of(kind, asked)))
                    .cloned()
                    .collect();
                let refuses = granted.is_empty();
                if !refuses && lacking.is_empty() {
                    return None;
                }
                let (lacking, is_example) = if lacking.is_empty() {
                    (vec![(*example).to_owned()], true)
                } else {
                    (lacking, false)
                };
                let lines = lines(kind, grants, &lacking);
                let table = if *kind == "secrets" {
                    "secrets"
                } else {
                    "grants"
                };
                Some(Missing {
                    what: what(kind, sentences, &lacking, refuses),
                    remedy: remedy(plugin, table, &lines, is_example),
                    table,
                    lines,
                    refuses,
                })
            })
            .collect()
    }
}

/// What is granted of a kind.
fn granted(kind: &str, grants: &Grants, secrets: &[&str]) -> Vec<String> {
    match kind {
        "http" => grants.http.clone(),
        "tcp" => grants.tcp.clone(),
        "dirs" => grants.dirs.keys().cloned().collect(),
        "env" => grants.env.clone(),
        _ => secrets.iter().map(|&it| it.to_owned()).collect(),
    }
}

/// What a sentence begins with, in the form of a grant; `None`: it is prose. Of a directory that is written to, the path and
/// ` rw`.
fn concrete(kind: &str, sentence: &str) -> Option<String> {
    let (first, rest) = sentence.split_once(' ').unwrap_or((sentence, ""));
    let word = first.trim_end_matches([':', ',']);
    match kind {
        "http" => origin(word),
        "tcp" => endpoint(word),
        "dirs" if word.starts_with('/') => {
            let writes = rest.trim_start().starts_with("rw");
            Some(format!("{word}{}", if writes { " rw" } else { "" }))
        }
        "dirs" => None,
        // Any word could be a name; only `name:`, or nothing but a name, is meant as one.
        _ if first.ends_with(':') || rest.is_empty() => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            (!word.is_empty() && word.chars().all(plain)).then(|| word.to_owned())
        }
        _ => None,
    }
}

/// What to look for among the granted.
fn key_of(kind: &str, asked: &str) -> String {
    match kind {
        "dirs" => asked.trim_end_matches(" rw").to_owned(),
        _ => asked.to_owned(),
    }
}

fn what(kind: &str, sentences: &[String], lacking: &[String], refuses: bool) -> String {
    let why = if sentences.is_empty() {
        String::new()
    } else {
        format!(" ({})", sentences.join("; "))
    };
    match (kind, refuses) {
        ("secrets", true) => format!("needs a secret{why}, and the sidecar names none"),
        ("secrets", false) => format!("asks for the secret {}{why}", lacking.join(", ")),
        (_, true) => format!("needs the grant `{kind}`{why}, and the sidecar gives none"),
        (_, false) => format!("asks for {} by the grant `{kind}`{why}", lacking.join(", ")),
    }
}

fn remedy(plugin: &str, table: &str, lines: &[String], is_example: bool) -> String {
    let own = if is_example {
        ", with your own values"
    } else {
        ""
    };
    let lines = lines.join("` and `");
    format!("in {plugin}.toml under [{table}] write `{lines}`{own}")
}

fn lines(kind: &str, grants: &Grants, lacking: &[String]) -> Vec<String> {
    match kind {
        "http" => vec![list_line(kind, &grants.http, lacking)],
        "tcp" => vec![list_line(kind, &grants.tcp, lacking)],
        "env" => vec![list_line(kind, &grants.env, lacking)],
        "dirs" => vec![dirs_line(grants, lacking)],
        _ => lacking.iter().map(|name| secret_line(name)).collect(),
    }
}

/// `http = ["what is granted", "what is missing"]`: the whole line as it should stand in the sidecar.
pub(super) fn list_line(grant: &str, granted: &[String], missing: &[String]) -> String {
    let list: Vec<_> = granted
        .iter()
        .chain(missing)
        .map(|item| format!("{item:?}"))
        .collect();
    format!("{grant} = [{}]", list.join(", "))
}

fn dirs_line(grants: &Grants, missing: &[String]) -> String {
    let entry = |guest: &str, host: &str, writes: bool| {
        let mode = if writes { "rw" } else { "ro" };
        format!("{guest:?} = {{ host = {host:?}, mode = {mode:?} }}")
    };
    let granted = grants.dirs.iter().map(|(guest, dir)| {
        let host = dir.host.to_string_lossy();
        entry(guest, &host, dir.mode == DirMode::ReadWrite)
    });
    let missing = missing.iter().map(|asked| {
        let guest = asked.trim_end_matches(" rw");
        let name = guest.rsplit('/').next().unwrap_or_default();
        let host = if name.is_empty() { "data" } else { name };
        entry(guest, host, asked.ends_with(" rw"))
    });
    let all: Vec<_> = granted.chain(missing).collect();
    format!("dirs = {{ {} }}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DirGrant;
    use serde_json::{Value, json};

    /// What is missing of `needs`, as `refuses|warns: what -> remedy`.
    fn check(needs: &Value, grants: &Grants, secrets: &[&str], expect: &[&str]) {
        let descriptor = Descriptor::build(json!({ "grants": needs })).unwrap();
        let missing = descriptor.missing_grants("demo", grants, secrets.iter().copied());
        let told: Vec<_> = missing
            .iter()
            .map(|it| {
                let verb = if it.refuses { "refuses" } else { "warns" };
                format!("{verb}: {} -> {}", it.what, it.remedy)
            })
            .collect();
        assert_eq!(told, expect);
    }

    #[test]
    fn law_9_what_is_asked_for_by_name_is_the_line_to_add() {
        let needs = json!({
            "http": ["https://API.example.com: the weather", "http://b.test:8080: more"],
            "tcp": ["db.internal:5432: the records"],
            "dirs": ["/data: the records", "/var/index rw: the index"],
            "secrets": ["api-token: for the API", "the password of the database"],
            "env": ["TZ"],
        });
        check(
            &needs,
            &Grants::default(),
            &[],
            &[
                "refuses: needs the grant `http` (https://API.example.com: the weather; http://b.test:8080: more), and the sidecar gives none -> in demo.toml under [grants] write `http = [\"https://api.example.com\", \"http://b.test:8080\"]`",
                "refuses: needs the grant `tcp` (db.internal:5432: the records), and the sidecar gives none -> in demo.toml under [grants] write `tcp = [\"db.internal:5432\"]`",
                "refuses: needs the grant `dirs` (/data: the records; /var/index rw: the index), and the sidecar gives none -> in demo.toml under [grants] write `dirs = { \"/data\" = { host = \"data\", mode = \"ro\" }, \"/var/index\" = { host = \"index\", mode = \"rw\" } }`",
                "refuses: needs a secret (api-token: for the API; the password of the database), and the sidecar names none -> in demo.toml under [secrets] write `api-token = { env = \"API_TOKEN\" }`",
                "refuses: needs the grant `env` (TZ), and the sidecar gives none -> in demo.toml under [grants] write `env = [\"TZ\"]`",
            ],
        );
    }

    #[test]
    fn what_is_asked_for_in_prose_is_an_example() {
        let needs = json!({"http": ["the origin that the setting `url` names"], "tcp": true, "env": false, "dirs": []});
        check(
            &needs,
            &Grants::default(),
            &[],
            &[
                "refuses: needs the grant `http` (the origin that the setting `url` names), and the sidecar gives none -> in demo.toml under [grants] write `http = [\"https://api.example.com\"]`, with your own values",
                "refuses: needs the grant `tcp`, and the sidecar gives none -> in demo.toml under [grants] write `tcp = [\"db.internal:5432\"]`, with your own values",
            ],
        );
        let given = Grants {
            http: vec!["https://a.test".into()],
            tcp: vec!["db:1".into()],
            ..Grants::default()
        };
        check(&needs, &given, &[], &[]);
    }

    #[test]
    fn what_is_granted_in_part_is_completed_and_only_warned_of() {
        let needs = json!({
            "http": ["https://a.test: one", "https://b.test: two"],
            "dirs": ["/data: the records", "/more: more"],
            "secrets": ["one: x", "two: y"],
        });
        let dir = DirGrant {
            host: "/srv/data".into(),
            mode: DirMode::ReadOnly,
        };
        let given = Grants {
            http: vec!["https://a.test".into()],
            dirs: [("/data".to_owned(), dir)].into(),
            ..Grants::default()
        };
        check(
            &needs,
            &given,
            &["one"],
            &[
                "warns: asks for https://b.test by the grant `http` (https://a.test: one; https://b.test: two) -> in demo.toml under [grants] write `http = [\"https://a.test\", \"https://b.test\"]`",
                "warns: asks for /more by the grant `dirs` (/data: the records; /more: more) -> in demo.toml under [grants] write `dirs = { \"/data\" = { host = \"/srv/data\", mode = \"ro\" }, \"/more\" = { host = \"more\", mode = \"ro\" } }`",
                "warns: asks for the secret two (one: x; two: y) -> in demo.toml under [secrets] write `two = { env = \"TWO\" }`",
            ],
        );
    }
}
