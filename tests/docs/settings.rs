//! The settings that pages show, judged by `larder check`: each block as the file it is, beside the components that it
//! names. Owns what is put around a block so that it can be judged (certificates, variables, schemas); must not know
//! what the settings mean.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use larder_tests::larder::{Wasm, program, repository};
use tokio::process::Command;

use crate::Setting;
use crate::page::{Block, Note, Page};
use crate::shell::file_of;

/// A component under the name that a page gives it, with a sidecar for when the page shows none.
#[derive(Clone, Copy)]
pub(crate) struct Component {
    pub(crate) name: &'static str,
    /// Which of the first-party plugins it is.
    pub(crate) is: &'static str,
    pub(crate) sidecar: &'static str,
}

impl Component {
    /// Puts it into the plugin directory of a page.
    pub(crate) fn install(&self, directory: &Path) {
        let file = |end: &str| directory.join(format!("plugins/{}.{end}", self.name));
        fs::write(file("wasm"), Wasm::plugin(self.is).bytes()).expect("the component");
        if !self.sidecar.is_empty() {
            fs::write(file("toml"), self.sidecar).expect("the sidecar");
        }
    }
}

/// Judges every block of settings of a page.
///
/// # Panics
/// When one is refused.
pub(crate) async fn judge(page: &Page, setting: &Setting) {
    let tables: Vec<&Block> = page
        .blocks
        .iter()
        .filter(|b| b.language == "toml" && !matches!(b.note, Some(Note::RunBy(_))))
        .collect();
    for (at, block) in tables.iter().enumerate() {
        let place = format!("{}:{}", page.path, block.line);
        if let Some(Note::Fragments(table)) = &block.note {
            for paragraph in block.text.split("\n\n") {
                check(&place, &format!("{table}\n{paragraph}"), &[], setting).await;
            }
            continue;
        }
        let Some(sidecar) = sidecar_of(block) else {
            // The sidecars that the page shows next count, and then those that it showed before.
            let near = tables[at..].iter().chain(tables[..at].iter().rev());
            let shown: Vec<(String, &str)> = near
                .filter_map(|other| Some((sidecar_of(other)?, other.text.as_str())))
                .collect();
            check(&place, &block.text, &shown, setting).await;
            continue;
        };
        let shown = [(sidecar.clone(), block.text.as_str())];
        check(&place, "", &shown, setting).await;
    }
}

/// The plugin whose sidecar a block is.
fn sidecar_of(block: &Block) -> Option<String> {
    let file = file_of(block);
    let name = file.strip_suffix(".toml")?.rsplit('/').next()?;
    if name != "larder" {
        return Some(name.to_owned());
    }
    let is = ["[config]", "[grants]"]
        .iter()
        .any(|table| block.text.lines().any(|line| line == *table));
    is.then(|| "countries".to_owned())
}

/// Runs `larder check` on `larder.toml` and the sidecars (the first of a name counts), with every component that they name.
async fn check(place: &str, larder_toml: &str, sidecars: &[(String, &str)], setting: &Setting) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| home.path().join(name);
    for directory in ["plugins/data", "people", "schemas"] {
        fs::create_dir_all(at(directory)).expect("a directory");
    }
    fs::write(at("schemas/country.json"), "{\"type\": \"object\"}").expect("a schema");
    if larder_toml.contains("ca.pem") {
        certificate(home.path()).await;
    }
    let mut loaders: BTreeSet<&str> = loaders_of(larder_toml).collect();
    if larder_toml.is_empty() {
        loaders.extend(sidecars.iter().map(|(name, _)| name.as_str()));
    }
    let mut command = Command::new(program());
    for loader in loaders {
        let component = setting.component(loader);
        component.install(home.path());
        let bytes = fs::read(at(&format!("plugins/{loader}.wasm"))).expect("it is there");
        if let Some((_, text)) = sidecars.iter().find(|(name, _)| name == loader) {
            for name in text
                .split("env = \"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
            {
                command.env(name, "a value of this test");
            }
            fs::write(
                at(&format!("plugins/{loader}.toml")),
                pinned(home.path(), text, &bytes).await,
            )
            .expect("the sidecar");
        }
    }
    let text = if larder_toml.is_empty() {
        "[memory]\ncapacity = \"1MiB\"\n"
    } else {
        larder_toml
    };
    fs::write(at("larder.toml"), text).expect("larder.toml");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LARDER_") {
            command.env_remove(name);
        }
    }
    let output = command
        .arg("check")
        .current_dir(home.path())
        .output()
        .await
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{place}:\n{said}\nof\n{text}\n{sidecars:?}"
    );
}

/// The loaders of the routes.
fn loaders_of(larder_toml: &str) -> impl Iterator<Item = &str> {
    larder_toml
        .lines()
        .filter(|line| line.starts_with("loader = ") || line.starts_with("loaders = "))
        .flat_map(|line| {
            line.split(" #")
                .next()
                .unwrap_or_default()
                .split('"')
                .skip(1)
                .step_by(2)
        })
}

/// The sidecar with the component's own digest in place of the page's: a page cannot know which component its reader has.
async fn pinned(home: &Path, text: &str, bytes: &[u8]) -> String {
    let Some((before, after)) = text.split_once("\"sha256:") else {
        return text.to_owned();
    };
    let file = home.join("component");
    fs::write(&file, bytes).expect("a file");
    let output = Command::new("sha256sum")
        .arg(&file)
        .output()
        .await
        .expect("it runs");
    let digest = String::from_utf8_lossy(&output.stdout)[..64].to_owned();
    let (_, rest) = after.split_once('"').expect("a string ends");
    format!("{before}\"sha256:{digest}\"{rest}")
}

/// `ca.pem`, `node.pem` and `node.key`: one certificate that signs itself.
async fn certificate(home: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=node",
        ])
        .args(["-keyout", "node.key", "-out", "node.pem"])
        .current_dir(home)
        .output()
        .await
        .expect("openssl runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    fs::copy(home.join("node.pem"), home.join("ca.pem")).expect("a copy");
}

/// The first-party component of this name is itself.
pub(crate) fn first_party(name: &str) -> Option<Component> {
    const ALL: &[Component] = &[
        Component {
            name: "demo",
            is: "demo",
            sidecar: "",
        },
        Component {
            name: "files",
            is: "files",
            sidecar: "[config]\npath = \"/data\"\nformat = \"json\"\nkey = \"name\"\n[grants]\ndirs = { \"/data\" = { host = \"data\", mode = \"rw\" } }\n",
        },
        Component {
            name: "postgres",
            is: "postgres",
            sidecar: "[config]\nhost = \"db.internal\"\ndatabase = \"shop\"\nuser = \"larder\"\n[config.queries.\"/countries/{alpha_2}\"]\nsql = \"select alpha_2, name from countries where alpha_2 = any($alpha_2)\"\nparams = { alpha_2 = \"text\" }\nkey = \"alpha_2\"\nresult = \"one\"\n[config.writes.\"/countries/{alpha_2}\"]\ntable = \"countries\"\nkey = { alpha_2 = \"text\" }\ncolumns = { name = \"text\" }\n[grants]\ntcp = [\"db.internal:5432\"]\n",
        },
    ];
    debug_assert!(repository().join("plugins").exists());
    ALL.iter().find(|component| component.name == name).copied()
}
