//! One plugin in its author's hands: looked at, asked once, recorded and replayed, with the engine, the limits, the egress
//! and the secrets that it would be served with. Nothing is watched, cached or routed here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compile::Worker;
use super::descriptor::Descriptor;
use super::egress::{EgressClient, Tape};
use super::engine::{Description, Engine, Outline};
use super::files::{self, Files, ReadError};
use super::judge::{Brief, Court, Rejection, Roles, is_error, sha256};
use super::needs::Missing;
use super::secrets::Secrets;
use super::version::PluginKind;
use crate::cache::{Outcome, Question};
use crate::config::{Grants, Problem};
use crate::error::Failure;
use crate::key::{Decision, Param, PolicyRequest};

/// How long stopping an instance may take; its own budget is shorter.
const STOP_MAX: Duration = Duration::from_secs(15);

/// An engine and an outbound client for the plugins of one command.
pub struct Workshop {
    engine: Arc<Engine>,
    client: Arc<EgressClient>,
    offline: bool,
}

/// A component file and where its sidecar comes from.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `…/NAME.wasm`
    pub component: PathBuf,
    /// Its sidecar.
    pub sidecar: SidecarOf,
}

/// Where a sidecar comes from.
#[derive(Clone, Debug)]
pub enum SidecarOf {
    /// `NAME.toml` beside the component, if it is there.
    Beside,
    /// This file.
    File(PathBuf),
    /// This text, as if it lay beside the component.
    Text(String),
}

/// What can be said of a component without asking it anything but its description.
#[derive(Debug)]
pub struct Inspection {
    /// The file stem.
    pub name: String,
    /// Bytes of the component.
    pub size: usize,
    /// BLAKE3 in hex, as `/plugins` shows it.
    pub digest: String,
    /// `sha256:…`, as a sidecar pins it.
    pub pin: String,
    /// Its exports and imports; empty if it is no component.
    pub outline: Outline,
    /// What it can be used as.
    pub kinds: Vec<PluginKind>,
    /// What it calls itself.
    pub description: Option<Description>,
    /// What it says it needs.
    pub descriptor: Option<Descriptor>,
    /// The grants and secrets that it asks for.
    pub needs: Vec<Missing>,
    /// The sidecar that was judged with it, if there is one.
    pub sidecar: Option<PathBuf>,
    /// Why this host would refuse it, and what it would warn of.
    pub problems: Vec<Problem>,
}

/// What is asked of a plugin.
#[derive(Clone, Debug)]
pub enum Asked {
    /// Of its loader.
    Load(Question),
    /// Of its key policy.
    Derive(PolicyRequest),
}

/// What it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Its loader.
    Outcome(Outcome),
    /// Its key policy.
    Decision(Decision),
}

/// A call and what it took.
#[derive(Debug)]
pub struct Called {
    /// What came of it.
    pub answer: Result<Answered, Failure>,
    /// What was judged of it before, e.g. a failing probe.
    pub warnings: Vec<Problem>,
    /// BLAKE3 of the component, in hex.
    pub digest: String,
    /// The text of the sidecar, if there is one.
    pub sidecar: Option<String>,
    /// What it could ask for.
    pub(super) secrets: Secrets,
    /// What it is granted that a recording of its HTTP does not hold.
    pub unrecorded: Vec<&'static str>,
    /// Compiling (or mapping what was compiled before) and describing.
    pub compile: Duration,
    /// Instantiating, `start` and `probe`.
    pub start: Duration,
    /// The call itself.
    pub call: Duration,
    /// The most linear memory an instance had, in bytes.
    pub memory_peak: usize,
}

/// A subject's files as they were read.
struct Opened {
    court: Court,
    name: String,
    files: Files,
}

impl Workshop {
    /// One whose components `worker` compiles, which keeps compiled code below `storage`.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn open(storage: &Path, worker: Worker) -> anyhow::Result<Self> {
        Ok(Self {
            engine: Engine::new(storage, worker)?,
            client: EgressClient::new(),
            offline: false,
        })
    }

    /// Everything that its plugins send by HTTP goes through `tape`.
    #[must_use]
    pub fn recording(mut self, tape: &Arc<Tape>) -> Self {
        self.client = EgressClient::with_tape(tape);
        self
    }

    /// Its plugins reach nothing but `tape`, and what stands in for their secrets.
    #[must_use]
    pub fn offline(mut self, tape: &Arc<Tape>) -> Self {
        self.offline = true;
        self.recording(tape)
    }

    /// Looks at a component, and judges it together with its sidecar if it has one. Without one, settings and grants are
    /// told as what it needs, and their absence is no problem of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn inspect(&self, subject: &Subject) -> Result<Inspection, Vec<Problem>> {
        let Opened { court, name, files } = self.read(subject).await?;
        let bytes = files.component.clone();
        let mut inspection = Inspection {
            size: bytes.len(),
            digest: blake3::hash(&bytes).to_hex().to_string(),
            pin: sha256(&bytes),
            outline: Outline::default(),
            kinds: Vec::new(),
            description: None,
            descriptor: None,
            needs: Vec::new(),
            sidecar: files.sidecar.is_some().then(|| files.sidecar_path.clone()),
            problems: Vec::new(),
            name,
        };
        let name = &inspection.name;
        match self.engine.outline(name, bytes.clone()).await {
            Ok(outline) => inspection.outline = outline,
            // Nothing more can be said of it, and asking again would compile it again, to the limit if need be.
            Err(refusal) => {
                inspection.problems = vec![court.refused(name, &refusal)];
                return Ok(inspection);
            }
        }
        if let Ok(compiled) = self.engine.compile(name, bytes).await {
            inspection.kinds = PluginKind::of(&compiled.exports);
            if let Ok(description) = self.engine.describe(&compiled).await {
                inspection.descriptor = description
                    .as_ref()
                    .and_then(|it| Descriptor::parse(&it.descriptor).ok());
                inspection.description = description;
                if let Some(descriptor) = &inspection.descriptor {
                    let none = std::iter::empty();
                    inspection.needs = descriptor.missing_grants(name, &Grants::default(), none);
                }
            }
        }
        // What the judge would say of the files as they lie there; without a sidecar only what no sidecar could mend.
        let needs_nothing = inspection.sidecar.is_some()
            || inspection.descriptor.as_ref().is_none_or(|descriptor| {
                inspection.needs.is_empty()
                    && descriptor.check_settings(&serde_json::Map::new()).is_ok()
            });
        if needs_nothing {
            inspection.problems = match court.examine(name, files, Roles::default()).await {
                Ok(brief) => brief.warnings,
                Err(rejection) => rejection.problems,
            };
        }
        Ok(inspection)
    }

    /// Asks once. The plugin is started for it, and stopped after it.
    ///
    /// # Errors
    /// Why it cannot be asked: everything that is wrong with it, or with the question.
    pub async fn call(&self, subject: &Subject, asked: Asked) -> Result<Called, Vec<Problem>> {
        let Opened { court, name, files } = self.read(subject).await?;
        let told = |rejection: Rejection| rejection.problems;
        let sidecar = files.sidecar.clone();

        let before = Instant::now();
        let examined = court.examine(&name, files, Roles::default()).await;
        let mut brief = examined.map_err(told)?;
        let compile = before.elapsed();
        let mut warnings = std::mem::take(&mut brief.warnings);
        warnings.extend(unfit(&brief, &asked)?);
        let digest = brief.facts.digest.clone();
        let secrets = brief.secrets.clone();
        let grants = &brief.grants;
        let unrecorded = [
            (!grants.dirs.is_empty(), "the directories that it reads"),
            (!grants.tcp.is_empty(), "the sockets that it uses"),
            (
                !grants.env.is_empty(),
                "the environment variables that it reads",
            ),
        ];
        let unrecorded = unrecorded
            .into_iter()
            .filter_map(|(granted, what)| granted.then_some(what))
            .collect();

        let before = Instant::now();
        let candidate = court.launch(&name, brief).await.map_err(told)?;
        let start = before.elapsed();
        warnings.extend(candidate.warnings);
        if let Err(failure) = &candidate.launched.probe {
            warnings.push(
                Problem::warning(format!("its probe fails: {failure}")).remedy(
                    "a server would serve it all the same, and probe it again until it passes",
                ),
            );
        }
        let runtime = candidate.launched.runtime;

        let before = Instant::now();
        let answer = match asked {
            Asked::Load(question) => match Arc::clone(&runtime).loader() {
                Some(loader) => loader.load(question).await.map(Answered::Outcome),
                None => return Err(vec![not_a(&name, "loader")]),
            },
            Asked::Derive(request) => match Arc::clone(&runtime).key_policy() {
                Some(policy) => policy.derive(&request).map(Answered::Decision),
                None => return Err(vec![not_a(&name, "key policy")]),
            },
        };
        let call = before.elapsed();
        let memory_peak = runtime.memory_peak();
        // A plugin's `stop` has a budget of its own; this is for one that passes it.
        let _ = tokio::time::timeout(STOP_MAX, runtime.stop()).await;
        Ok(Called {
            answer,
            warnings,
            digest,
            sidecar,
            secrets,
            unrecorded,
            compile,
            start,
            call,
            memory_peak,
        })
    }

    async fn read(&self, subject: &Subject) -> Result<Opened, Vec<Problem>> {
        let component = &subject.component;
        let stem = component.file_stem().and_then(|stem| stem.to_str());
        let is_wasm = component.extension().is_some_and(|it| it == "wasm");
        let name = match stem.filter(|_| is_wasm) {
            Some(name) if files::is_name(name) => name.to_owned(),
            _ => {
                return Err(vec![
                    Problem::error("the file name cannot be the name of a plugin")
                        .at(component, None)
                        .remedy(format!("call it NAME.wasm; for NAME {}", files::NAME_RULE)),
                ]);
            }
        };
        let dir = match component.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let court = Court {
            engine: Arc::clone(&self.engine),
            client: Arc::clone(&self.client),
            dir,
            offline: self.offline,
        };
        let mut files = court.read(&name).await.map_err(|error| {
            vec![match error {
                ReadError::Gone => Problem::error("there is no such file")
                    .at(component, None)
                    .remedy("name the component that your build leaves, e.g. dist/NAME.wasm"),
                ReadError::Changing => {
                    Problem::error("it changes while it is read").at(component, None)
                }
                ReadError::Unreadable { path, why } => {
                    Problem::error(format!("it cannot be read: {why}")).at(path, None)
                }
            }]
        })?;
        match &subject.sidecar {
            SidecarOf::Beside => {}
            SidecarOf::Text(text) => files.sidecar = Some(text.clone()),
            SidecarOf::File(path) => {
                let text = tokio::fs::read_to_string(path).await.map_err(|error| {
                    vec![
                        Problem::error(format!("the sidecar cannot be read: {error}"))
                            .at(path, None)
                            .remedy(
                                "name a TOML file with [config], [grants], [secrets] or [limits]",
                            ),
                    ]
                })?;
                files.sidecar = Some(text);
                files.sidecar_path.clone_from(path);
            }
        }
        Ok(Opened { court, name, files })
    }
}

impl Answered {
    /// Whether it is what a cache could go on with: an outcome, or a decision that is no rejection.
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Decision(Decision::Reject(_)))
    }
}

/// Whether a directory or a file could be a plugin's name.
pub fn is_plugin_name(name: &str) -> bool {
    files::is_name(name)
}

/// What a plugin's name is made of, as the end of a sentence.
pub const PLUGIN_NAME_RULE: &str = files::NAME_RULE;

fn not_a(name: &str, role: &str) -> Problem {
    let problem = Problem::error(format!("{name} is no {role}"));
    match role {
        "loader" => problem.remedy("it is a key policy: ask it with --request 'GET /data/42'"),
        _ => problem.remedy("it is a loader: ask it with --part key=42"),
    }
}

/// What a server would say of the question before it asks the plugin: errors as such, and what it would leave out.
fn unfit(brief: &Brief, asked: &Asked) -> Result<Vec<Problem>, Vec<Problem>> {
    let facts = &brief.facts;
    let (loads, derives) = (
        facts.kinds.iter().any(|kind| kind.loads()),
        facts.kinds.contains(&PluginKind::KeyPolicy),
    );
    let parts: &[Param] = match asked {
        Asked::Load(_) if !loads => return Err(vec![not_a(&facts.name, "loader")]),
        Asked::Derive(_) if !derives => return Err(vec![not_a(&facts.name, "key policy")]),
        Asked::Load(question) => &question.parts,
        Asked::Derive(_) => return Ok(Vec::new()),
    };
    let descriptor = &facts.descriptor;
    let mut problems = Vec::new();
    for parameter in &descriptor.parameters {
        let mut given = parts.iter().filter(|part| part.name == parameter.name);
        let name = &parameter.name;
        let mut seen = false;
        for part in given.by_ref() {
            seen = true;
            for fault in parameter.check(&part.value).err().into_iter().flatten() {
                problems.push(
                    Problem::error(format!("the parameter {name:?}: {}", fault.message)).remedy(
                        format!(
                            "write --part {name}=… with a value that fits {}",
                            parameter.schema
                        ),
                    ),
                );
            }
        }
        if !seen && parameter.required {
            problems.push(
                Problem::error(format!("the parameter {name:?} is required"))
                    .remedy(format!("write --part {name}=…")),
            );
        }
    }
    if !descriptor.additional_parameters {
        for part in parts {
            if descriptor.parameter(&part.name).is_none() {
                problems.push(
                    Problem::warning(format!("{:?} is no parameter of {}", part.name, facts.name))
                        .remedy(format!(
                            "its parameters are {}",
                            names(descriptor).unwrap_or_else(|| "none".to_owned())
                        )),
                );
            }
        }
    }
    if problems.iter().any(is_error) {
        return Err(problems);
    }
    Ok(problems)
}

fn names(descriptor: &Descriptor) -> Option<String> {
    let names: Vec<_> = descriptor
        .parameters
        .iter()
        .map(|parameter| parameter.name.as_str())
        .collect();
    (!names.is_empty()).then(|| names.join(", "))
}
