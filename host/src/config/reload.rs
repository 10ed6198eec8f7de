//! A configuration beside the one that is in force: which settings differ, and which of them a running server can take over.
//! Must not know what is made of them.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::DeValue;

use super::defaults::{self, Place, Row, SECTIONS};
use super::layers::Origin;
use super::reader::{Document, Table};
use super::{Admin, Config, Server, Write, Writes};

/// What takes effect while the server runs, beside everything of `[[routes]]`. All else waits for a restart.
const APPLIED: &[(&str, &[&str])] = &[
    (
        "admin",
        &["token", "token_file", "read_token", "read_token_file"],
    ),
    ("openapi", &["title", "version", "serve"]),
    ("server", &["body_bytes", "body_timeout", "drain_delay"]),
    ("writes", &["drain"]),
];

/// What is never printed.
const SECRET: &[(&str, &str)] = &[
    ("admin", "token"),
    ("admin", "read_token"),
    ("redis", "url"),
    ("redis", "urls"),
];

/// The text of every setting, defaults too: by its table, or its route as `routes[/data/{key}]`, and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(BTreeMap<String, BTreeMap<&'static str, String>>);

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `server.listen`, `routes[/data/{key}].ttl`; a route as a whole where it is new or gone.
    pub setting: String,
    /// What it was; none where there was nothing, or where it is a secret.
    pub from: Option<String>,
    /// What it is to be.
    pub to: Option<String>,
    /// Whether it is so only after a restart.
    pub waits: bool,
}

/// `routes[/data/{key}].ttl: 60s → 30s`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, .. } = self;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{setting}: {from} → {to}"),
            (None, Some(to)) => write!(f, "{setting}: {to}"),
            (Some(from), None) => write!(f, "{setting}: no longer {from}"),
            (None, None) => write!(f, "{setting}: changed"),
        }
    }
}

impl Written {
    /// What a file and what stands over it come to.
    pub(super) fn of(root: &Table<'_>, document: &Document<'_>) -> Self {
        let mut all = BTreeMap::new();
        for section in SECTIONS.iter().filter(|it| it.place == Place::Main) {
            let table = root.section(section.name);
            let rows = section.rows.iter();
            let texts = rows.map(|row| (row.key, of_row(section.name, row, &table, document)));
            all.insert(section.name.to_owned(), texts.collect());
        }
        let rows = defaults::section(false, "routes").map_or(&[][..], |section| section.rows);
        for table in root.sections("routes") {
            let texts: BTreeMap<_, _> = rows
                .iter()
                .map(|row| (row.key, of_row("routes", row, &table, document)))
                .collect();
            all.insert(format!("routes[{}]", texts["path"]), texts);
        }
        Self(all)
    }

    /// What differs in another.
    fn differs(&self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let is_new = |group: &&String| !self.0.contains_key(*group);
        changes.extend(other.0.keys().filter(is_new).map(|group| Change {
            setting: group.clone(),
            from: None,
            to: Some("new".to_owned()),
            waits: false,
        }));
        for (group, texts) in &self.0 {
            let Some(others) = other.0.get(group) else {
                changes.push(Change {
                    setting: group.clone(),
                    from: Some("there".to_owned()),
                    to: None,
                    waits: false,
                });
                continue;
            };
            for (key, from) in texts {
                let Some(to) = others.get(key).filter(|to| *to != from) else {
                    continue;
                };
                let shown = |text: &String| (!is_secret(group, key)).then(|| text.clone());
                changes.push(Change {
                    setting: format!("{group}.{key}"),
                    from: shown(from),
                    to: shown(to),
                    waits: !is_applied(group, key),
                });
            }
        }
        changes
    }

    /// What is in force after a reload: of the other what it takes over.
    fn taking(&self, other: &Self) -> Self {
        let mut all = other.0.clone();
        for (group, texts) in &mut all {
            let Some(before) = self.0.get(group) else {
                continue;
            };
            for (key, text) in texts {
                if let Some(was) = before.get(key).filter(|_| !is_applied(group, key)) {
                    text.clone_from(was);
                }
            }
        }
        Self(all)
    }
}

fn is_applied(group: &str, key: &str) -> bool {
    let of = APPLIED.iter().find(|(table, _)| *table == group);
    group.starts_with("routes[") || of.is_some_and(|(_, keys)| keys.contains(&key))
}

fn is_secret(group: &str, key: &str) -> bool {
    SECRET.contains(&(group, key))
}

fn of_row(section: &str, row: &Row, table: &Table<'_>, document: &Document<'_>) -> String {
    let text = match document.over(section, row.key) {
        // Neither flags nor the environment of a process change.
        Some(Origin::Flag(name)) => return format!("as {name} says"),
        Some(Origin::Variable(name)) => return format!("as {name} says"),
        _ => table.raw(row.key).map(plain),
    };
    match text {
        // Kept as a digest: it can be told from another, and from nothing else.
        Some(text) if is_secret(section, row.key) => blake3::hash(text.as_bytes()).to_string(),
        Some(text) => text,
        None => row.default.unwrap_or("none").to_owned(),
    }
}

/// A value as people read it: without quotes around the whole.
fn plain(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        _ => inner(value),
    }
}

fn inner(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(items) => {
            let items: Vec<_> = items.iter().map(inner).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(entries) => {
            let members = entries.iter();
            let members = members.map(|(key, it)| format!("{} = {}", key.get_ref(), inner(it)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
    }
}

/// What is in force when `new` was read while `old` was: every route and what else a running server takes over is of `new`,
/// the rest of `old`. Routes that would write behind do not where `queue_is_open` says that no queue is: it is opened at
/// the start alone.
pub fn in_force(old: &Config, mut new: Config, queue_is_open: bool) -> (Config, Vec<Change>) {
    let mut changes = old.written.differs(&new.written);
    let mut written = old.written.taking(&new.written);
    if !queue_is_open {
        for route in new.routes.iter_mut().filter(|it| it.write == Write::Behind) {
            let before = old.routes.iter().find(|it| it.path == route.path);
            route.write = before.map_or(Write::Off, |before| before.write);
            let group = format!("routes[{}]", route.path);
            let setting = format!("{group}.write");
            if let Some(texts) = written.0.get_mut(&group) {
                // So that the next reload names it again.
                texts.insert("write", "not behind yet".to_owned());
            }
            changes.retain(|change| change.setting != setting);
            changes.push(Change {
                setting,
                from: Some(match route.write {
                    Write::Through => "through".to_owned(),
                    Write::Off | Write::Behind => "off".to_owned(),
                }),
                to: Some("behind".to_owned()),
                waits: true,
            });
        }
    }
    let config = Config {
        file: new.file,
        routes: new.routes,
        implicit_routes: new.implicit_routes,
        openapi: new.openapi,
        admin: Admin {
            token: new.admin.token,
            read_token: new.admin.read_token,
            ..old.admin.clone()
        },
        server: Server {
            body_bytes: new.server.body_bytes,
            body_timeout: new.server.body_timeout,
            drain_delay: new.server.drain_delay,
            ..old.server.clone()
        },
        writes: Writes {
            drain: new.writes.drain,
            ..old.writes
        },
        written,
        ..old.clone()
    };
    (config, changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Overrides, parse::parse};

    const ROUTE: &str = "[[routes]]\npath = \"/a/{key}\"\nloader = \"demo\"\n";

    fn config(text: &str) -> Config {
        let variables = [("LARDER_MEMORY_CAPACITY".to_owned(), "1MiB")];
        let environment = Environment::new(variables);
        let (config, problems) = parse(
            text,
            Some("larder.toml".as_ref()),
            &Overrides::default(),
            &environment,
        );
        assert_eq!(problems, []);
        config
    }

    fn said(changes: &[Change]) -> Vec<String> {
        let text = |it: &Change| format!("{it}{}", if it.waits { ", waits" } else { "" });
        changes.iter().map(text).collect()
    }

    #[test]
    fn what_differs_is_named_and_what_a_variable_says_does_not() {
        let old = config(&format!(
            "[admin]\ntoken = \"a\"\n[memory]\ncapacity = \"2MiB\"\n{ROUTE}{}",
            ROUTE.replace("/a", "/b")
        ));
        let text = format!(
            "[admin]\ntoken = \"b\"\n[memory]\ncapacity = \"3MiB\"\n[server]\nmax_loads = 7\n{ROUTE}ttl = \"30s\"\nkey = {{ query = [\"q\"] }}\n{}",
            ROUTE.replace("/a", "/c")
        );
        let new = config(&text);
        let (config, changes) = in_force(&old, new.clone(), false);
        assert_eq!(
            said(&changes),
            [
                "routes[/c/{key}]: new",
                "admin.token: changed",
                "routes[/a/{key}].key: none → { query = [\"q\"] }",
                "routes[/a/{key}].ttl: 60s → 30s",
                "routes[/b/{key}]: no longer there",
                "server.max_loads: 16384 → 7, waits",
            ]
        );
        assert_eq!(config.server.max_loads, 16_384);
        assert_eq!(config.admin.token, new.admin.token);
        assert_eq!(config.routes.len(), 2);
        // What waits is named each time; what was taken over is not.
        let (_, again) = in_force(&config, new, false);
        assert_eq!(said(&again), ["server.max_loads: 16384 → 7, waits"]);
    }

    #[test]
    fn a_queue_is_opened_at_the_start_alone() {
        let (old, new) = (
            config(ROUTE),
            config(&format!("{ROUTE}write = \"behind\"\n")),
        );
        for _ in 0..2 {
            let (config, changes) = in_force(&old, new.clone(), false);
            assert_eq!(
                said(&changes),
                ["routes[/a/{key}].write: off → behind, waits"]
            );
            assert_eq!(config.routes[0].write, Write::Off);
        }
        let (config, changes) = in_force(&old, new, true);
        assert_eq!(said(&changes), ["routes[/a/{key}].write: off → behind"]);
        assert_eq!(config.routes[0].write, Write::Behind);
    }

    #[test]
    fn what_is_taken_over_is_a_setting() {
        let named = APPLIED
            .iter()
            .flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)));
        for (table, key) in named.chain(SECRET.iter().copied()) {
            let section = defaults::section(false, table).expect(table);
            assert!(
                section.rows.iter().any(|row| row.key == key),
                "{table}.{key}"
            );
        }
    }
}
