//! Files → a version that runs, or everything that is wrong with them. The one place that decides; the registry acts on
//! it and `larder check` prints it.
//!
//! Nothing here touches what is being served (law 8): a candidate is compiled, described, checked, started and probed
//! aside, and if it is refused nothing of it is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::compile::{Compiled, Described, Exports};
use super::descriptor::Descriptor;
use super::egress::{Egress, EgressClient};
use super::engine::Engine;
use super::files::{self, Files, ReadError};
use super::limits::Limits;
use super::runtime::{Launched, Refusal, Spec};
use super::secrets::Secrets;
use super::version::{Facts, PluginKind, identity};
use crate::config::{Grants, Problem, Severity, Sidecar, sidecar};

/// What judges need: the same for all of them.
#[derive(Clone)]
pub(super) struct Court {
    pub(super) engine: Arc<Engine>,
    pub(super) client: Arc<EgressClient>,
    pub(super) dir: PathBuf,
    /// Nothing outside is reached: secrets are what stands in for them, and sockets stay closed. For replaying a recorded
    /// call.
    pub(super) offline: bool,
}

/// What a new version must be able to do because the one it replaces does it for some route.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Roles {
    pub(super) loads: bool,
    pub(super) derives: bool,
    pub(super) writes: bool,
}

/// A version that runs and is not served yet.
pub(super) struct Candidate {
    pub(super) facts: Facts,
    pub(super) launched: Launched,
    /// Problems that do not stop it.
    pub(super) warnings: Vec<Problem>,
}

/// Why a candidate is not taken. Never empty of errors.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) problems: Vec<Problem>,
    /// Whether the same files may be fine a little later: they were, as files, and only starting them failed.
    pub(super) may_pass: bool,
    /// What it would have been, if that is known.
    pub(super) kinds: Vec<PluginKind>,
}

/// All that can be said of a candidate without running it.
pub(super) struct Brief {
    compiled: Arc<Compiled>,
    pub(super) facts: Facts,
    config: serde_json::Map<String, Value>,
    pub(super) secrets: Secrets,
    pub(super) grants: Grants,
    egress: Arc<Egress>,
    limits: Limits,
    pub(super) warnings: Vec<Problem>,
}

impl Court {
    /// Judges one pair of files, to the end: the result runs.
    pub(super) async fn judge(
        &self,
        name: &str,
        files: Files,
        roles: Roles,
    ) -> Result<Candidate, Rejection> {
        let brief = self.examine(name, files, roles).await?;
        self.launch(name, brief).await
    }

    /// Runs what was examined: the result is started and probed.
    pub(super) async fn launch(&self, name: &str, brief: Brief) -> Result<Candidate, Rejection> {
        let kinds = brief.facts.kinds.clone();
        let spec = Spec {
            name: name.to_owned(),
            compiled: brief.compiled,
            settings: Value::Object(brief.config).to_string(),
            secrets: brief.secrets,
            egress: brief.egress,
            limits: brief.limits,
        };
        match self.engine.launch(spec).await {
            Ok(launched) => Ok(Candidate {
                facts: brief.facts,
                launched,
                warnings: brief.warnings,
            }),
            Err(refusal) => Err(Rejection {
                problems: vec![self.refused(name, &refusal)],
                may_pass: true,
                kinds,
            }),
        }
    }

    /// Everything up to running it. All problems that can be found are told together: sidecar, component, and how they fit.
    pub(super) async fn examine(
        &self,
        name: &str,
        files: Files,
        roles: Roles,
    ) -> Result<Brief, Rejection> {
        let sidecar_file = files.sidecar_path;
        let base = sidecar_file.parent().unwrap_or(&self.dir);
        let text = files.sidecar.unwrap_or_default();
        let (mut sidecar, mut problems) = sidecar::parse(&text, &sidecar_file, base);

        // What is replayed is another build more often than not: that is what it is replayed for.
        if let Some(pin) = sidecar.digest.as_ref().filter(|_| !self.offline)
            && let Some(problem) = unpinned(name, pin, &files.component)
        {
            // Not even compiled: it is not what the operator has looked at.
            problems.push(problem.at(sidecar_file, line_of(&text, "digest", "")));
            return Err(Rejection::of(problems, Vec::new()));
        }
        let compiled = match self.engine.compile(name, files.component).await {
            Ok(compiled) => compiled,
            Err(refusal) => {
                problems.push(self.refused(name, &refusal));
                return Err(Rejection::of(problems, Vec::new()));
            }
        };
        let kinds = PluginKind::of(&compiled.exports);
        problems.extend(self.fit_for_use(name, &compiled.exports, &kinds));
        problems.extend(self.fit_for_roles(name, &kinds, roles));

        let described = match self.describe(name, &compiled).await {
            Ok(described) => described,
            Err(problem) => {
                problems.push(problem);
                return Err(Rejection::of(problems, kinds));
            }
        };
        let description = described.as_ref().map(|described| &described.description);
        let descriptor = match &described {
            Some(described) => Arc::clone(&described.descriptor),
            None => Arc::new(Descriptor::unknown()),
        };
        let secrets = if self.offline {
            Secrets::stand_ins(name, sidecar.secrets.clone())
        } else {
            Secrets::new(name, sidecar.secrets.clone())
        };
        // Of a sidecar that could not be read to its end, what seems absent or wrong may only be unread.
        if !sidecar.broken {
            problems.extend(self.fit_of_sidecar(
                name,
                (&sidecar_file, &text),
                &sidecar,
                &descriptor,
                &secrets,
            ));
        }
        if self.offline {
            sidecar.grants.tcp.clear();
        }
        let limits = Limits::resolve(&sidecar.limits, &compiled.exports);
        let egress = Egress::new(
            name,
            &sidecar.grants,
            &limits,
            &self.client,
            secrets.redactor(),
        );
        let egress = egress.map_err(|found| {
            let line = line_of(&text, "grants", "");
            let at = |problem: Problem| problem.at(sidecar_file.clone(), line);
            problems.extend(found.into_iter().map(at));
        });
        let egress = match egress {
            Ok(egress) if !problems.iter().any(is_error) => egress,
            _ => return Err(Rejection::of(problems, kinds)),
        };
        let identity = identity(name, description, &compiled.digest, &sidecar.config);
        Ok(Brief {
            facts: Facts {
                name: name.to_owned(),
                version: description.map(|it| it.version.clone()),
                digest: compiled.digest.clone(),
                identity: identity.into(),
                kinds,
                described: description.is_some(),
                descriptor,
            },
            compiled,
            config: sidecar.config,
            secrets,
            grants: sidecar.grants,
            egress,
            limits,
            warnings: problems,
        })
    }

    /// Whether the settings, grants and secrets of the sidecar are what the plugin asks for.
    fn fit_of_sidecar(
        &self,
        name: &str,
        (file, text): (&Path, &str),
        sidecar: &Sidecar,
        descriptor: &Descriptor,
        secrets: &Secrets,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for fault in descriptor
            .check_settings(&sidecar.config)
            .err()
            .into_iter()
            .flatten()
        {
            let path = fault.pointer.trim_start_matches('/').replace('/', ".");
            let path = path.replace("~1", "/").replace("~0", "~");
            let at = if path.is_empty() {
                path
            } else {
                format!(" {path}")
            };
            problems.push(
                Problem::error(format!("[config]{at}: {}", fault.message))
                    .at(file, line_of(text, "config", &fault.pointer))
                    .remedy(fault.remedy),
            );
        }
        for missing in descriptor.missing_grants(name, &sidecar.grants, secrets.names()) {
            let problem = if missing.refuses {
                Problem::error
            } else {
                Problem::warning
            };
            problems.push(
                problem(format!("{name} {}", missing.what))
                    .at(file, None)
                    .remedy(missing.remedy),
            );
        }
        for secret in secrets.names() {
            if let Err(no) = secrets.look(secret) {
                problems.push(
                    Problem::warning(no.sentence)
                        .at(file, line_of(text, "secrets", &format!("/{secret}")))
                        .remedy(
                            "it is read each time the plugin asks for it, so it may still come",
                        ),
                );
            }
        }
        problems
    }

    /// Reads a plugin's files.
    pub(super) async fn read(&self, name: &str) -> Result<Files, ReadError> {
        let dir = self.dir.clone();
        let plugin = name.to_owned();
        tokio::task::spawn_blocking(move || files::read(&dir, &plugin))
            .await
            .unwrap_or_else(|error| {
                Err(ReadError::Unreadable {
                    path: files::component_path(&self.dir, name),
                    why: error.to_string(),
                })
            })
    }

    async fn describe(
        &self,
        name: &str,
        compiled: &Compiled,
    ) -> Result<Option<Described>, Problem> {
        // Asked once for all plugins of these bytes. A failure is not kept: it may be the machine's.
        let described = compiled
            .described
            .get_or_try_init(|| self.ask(name, compiled));
        described.await.cloned()
    }

    async fn ask(&self, name: &str, compiled: &Compiled) -> Result<Option<Described>, Problem> {
        let Some(description) = self
            .engine
            .describe(compiled)
            .await
            .map_err(|refusal| self.refused(name, &refusal))?
        else {
            return Ok(None);
        };
        let descriptor = Descriptor::parse(&description.descriptor).map_err(|fault| {
            Problem::error(fault.to_string())
                .at(files::component_path(&self.dir, name), None)
                .remedy("mend what the component's metadata.describe returns and build it again")
        })?;
        Ok(Some(Described {
            description,
            descriptor: Arc::new(descriptor),
        }))
    }

    /// Whether there is anything in it that this version of Larder can use.
    fn fit_for_use(&self, name: &str, exports: &Exports, kinds: &[PluginKind]) -> Option<Problem> {
        if exports.is_useful() {
            return None;
        }
        let file = files::component_path(&self.dir, name);
        let problem = match kinds.first() {
            None => Problem::error(
                "the component exports none of the interfaces of larder:plugin, so there is nothing to use it for",
            )
            .remedy(
                "build it for one of the worlds that `larder wit` prints, e.g. loader-plugin, and export its interface",
            ),
            Some(kind) => Problem::error(format!(
                "the component exports larder:plugin/{} and no other interface; hosting that one is not built yet",
                kind.name()
            ))
            .remedy("export loader, batch-loader or blocking-loader as well"),
        };
        Some(problem.at(file, None))
    }

    /// Whether it can do all that the version it replaces does.
    fn fit_for_roles(&self, name: &str, kinds: &[PluginKind], roles: Roles) -> Vec<Problem> {
        let loads = kinds.iter().any(|kind| kind.loads());
        let derives = kinds.contains(&PluginKind::KeyPolicy);
        let writes = kinds.contains(&PluginKind::Writer);
        let mut problems = Vec::new();
        for (had, has, role, export) in [
            (
                roles.loads,
                loads,
                "a loader",
                "loader, batch-loader or blocking-loader",
            ),
            (roles.derives, derives, "a key policy", "key-policy"),
            (roles.writes, writes, "a writer", "writer"),
        ] {
            if had && !has {
                problems.push(
                    Problem::error(format!(
                        "{name} serves as {role}, and this version of it is none: the one before goes on serving"
                    ))
                    .at(files::component_path(&self.dir, name), None)
                    .remedy(format!(
                        "export {export}, or give it a file name of its own; to change what {name} is, remove {name}.wasm first"
                    )),
                );
            }
        }
        problems
    }

    /// A refusal as a problem of the component's file.
    pub(super) fn refused(&self, name: &str, refusal: &Refusal) -> Problem {
        let problem = Problem::error(refusal.message.clone())
            .at(files::component_path(&self.dir, name), None);
        match &refusal.remedy {
            Some(remedy) => problem.remedy(remedy.clone()),
            None => problem,
        }
    }
}

impl Rejection {
    pub(super) fn of(problems: Vec<Problem>, kinds: Vec<PluginKind>) -> Self {
        Self {
            problems,
            may_pass: false,
            kinds,
        }
    }

    /// Files that could not be read.
    pub(super) fn unread(path: &Path, why: &str) -> Self {
        Self::of(
            vec![Problem::error(format!("it cannot be read: {why}")).at(path, None)],
            Vec::new(),
        )
    }

    /// One line for the status and the log: file names without their directories, remedies in brackets.
    pub(super) fn text(&self) -> String {
        let sentences: Vec<_> = self
            .problems
            .iter()
            .filter(|problem| is_error(problem))
            .map(sentence)
            .collect();
        sentences.join("; ")
    }
}

/// `demo.toml:3: what is wrong (what to do)`
pub(super) fn sentence(problem: &Problem) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    if let Some(name) = problem.file.as_deref().and_then(Path::file_name) {
        text.push_str(&name.to_string_lossy());
        if let Some(line) = problem.line {
            let _ = write!(text, ":{line}");
        }
        text.push_str(": ");
    }
    text.push_str(&problem.message);
    if let Some(remedy) = &problem.remedy {
        let _ = write!(text, " ({remedy})");
    }
    text
}

pub(super) fn is_error(problem: &Problem) -> bool {
    problem.severity == Severity::Error
}

/// What is wrong if the component is not the pinned one.
fn unpinned(name: &str, pin: &str, component: &[u8]) -> Option<Problem> {
    let found = sha256(component);
    (found != *pin).then(|| {
        Problem::error(format!(
            "{name}.wasm is not the component that is pinned: it is {found}, and digest says {pin}"
        ))
        .remedy(format!(
            "put the pinned component back; or, if this one is meant to run, write digest = \"{found}\""
        ))
    })
}

/// `sha256:` and 64 hexadecimal digits: what `digest` of a sidecar pins a component to, and `sha256sum` prints.
pub fn sha256(component: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{:x}", sha2::Sha256::digest(component))
}

/// The line (from 1) of what a JSON pointer leads to inside a table of a TOML text, or of the nearest thing above it.
fn line_of(text: &str, table: &str, pointer: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let (key, mut value) = document.get_ref().get_key_value(table)?;
    let mut at = key.span().start;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        match value.get_ref() {
            toml::de::DeValue::Table(table) => {
                let Some((key, inner)) = table.get_key_value(step.as_str()) else {
                    break;
                };
                at = key.span().start;
                value = inner;
            }
            toml::de::DeValue::Array(items) => {
                let Some(item) = step.parse().ok().and_then(|index: usize| items.get(index)) else {
                    break;
                };
                at = item.span().start;
                value = item;
            }
            _ => break,
        }
    }
    Some(text[..at].matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_in_the_settings_has_the_line_it_stands_on() {
        let text = "[grants]\n\n[config]\ntext = 5\nlist = [\n  1,\n  2,\n]\ninner = { deep = 1 }\n\n[config.more]\nx = 1\n";
        for (pointer, line) in [
            ("", 3),
            ("/text", 4),
            ("/list/1", 7),
            ("/inner/deep", 9),
            ("/more/x", 12),
            ("/absent", 3),
            ("/text/absent", 4),
        ] {
            assert_eq!(line_of(text, "config", pointer), Some(line), "{pointer}");
        }
        assert_eq!(line_of(text, "grants", ""), Some(1));
        assert_eq!(line_of("", "config", "/x"), None);
    }
}
