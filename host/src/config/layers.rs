//! What stands over the file: flags over environment variables. Every setting of a table that stands once can be set as
//! `LARDER_TABLE_KEY`; that rule is the only list of variables there is.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::defaults::{SECTIONS, Setting};
use super::problem::Problem;
use super::reader::nearest;

/// Settings from flags.
#[derive(Clone, Debug, Default)]
pub struct Overrides(BTreeMap<(&'static str, &'static str), (&'static str, OsString)>);

impl Overrides {
    /// Notes a flag's value, if the flag was given.
    pub fn set<K>(&mut self, flag: &'static str, setting: &Setting<K>, value: Option<OsString>) {
        if let Some(value) = value {
            self.0.insert((setting.table, setting.key), (flag, value));
        }
    }
}

/// The environment variables that begin with `LARDER_`.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

/// Variables that are not settings: where the file is, what is logged, and where a server is that commands ask,
/// and how they prove themselves to it.
const OTHER_VARIABLES: &[&str] = &[
    "LARDER_ADMIN_CA",
    "LARDER_ADMIN_CLIENT_CERT",
    "LARDER_ADMIN_CLIENT_KEY",
    "LARDER_ADMIN_URL",
    "LARDER_CONFIG",
    "LARDER_LOG",
];

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self::new(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))),
        )
    }

    /// Keeps what begins with `LARDER_` and is not empty: an empty variable is how a shell or a compose file says "not set".
    pub fn new<V: Into<OsString>>(variables: impl IntoIterator<Item = (String, V)>) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .filter(|(name, value)| name.starts_with("LARDER_") && !value.is_empty())
                .collect(),
        )
    }

    /// One warning for each variable that sets nothing.
    pub(super) fn unknown(&self) -> Vec<Problem> {
        let known: Vec<String> = SECTIONS
            .iter()
            .flat_map(|section| {
                section
                    .rows
                    .iter()
                    .filter_map(|row| section.variable(row.key))
            })
            .chain(OTHER_VARIABLES.iter().map(|&name| name.to_owned()))
            .collect();
        self.0
            .keys()
            .filter(|name| !known.contains(name))
            .map(|name| {
                let (near, _) = nearest(name, known.iter().map(String::as_str));
                Problem::warning(format!("the environment variable {name} sets nothing"))
                    .remedy(format!("did you mean {near}? Otherwise unset it"))
            })
            .collect()
    }
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A flag.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
    /// The file, at this line.
    File(usize),
    /// Nowhere: the default.
    Default,
}

impl Origin {
    /// What is above what.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File(_) => 1,
            Self::Variable(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

/// Flags and environment together.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    overrides: Overrides,
    environment: Environment,
}

impl Layers {
    pub(super) fn new(overrides: &Overrides, environment: &Environment) -> Self {
        Self {
            overrides: overrides.clone(),
            environment: environment.clone(),
        }
    }

    /// The uppermost value of a setting that is not the file's.
    pub(super) fn find(&self, table: &str, key: &str) -> Option<(Origin, &OsStr)> {
        let by_flag = self.overrides.0.iter().find(|(at, _)| **at == (table, key));
        if let Some((_, (flag, value))) = by_flag {
            return Some((Origin::Flag(flag), value));
        }
        let section = SECTIONS.iter().find(|section| section.name == table)?;
        let variable = section.variable(key)?;
        let value = self.environment.0.get(&variable)?;
        Some((Origin::Variable(variable), value))
    }

    /// Whether anything but the file sets a key of a table.
    pub(super) fn touch(&self, table: &str) -> Option<Origin> {
        let section = SECTIONS.iter().find(|section| section.name == table)?;
        section
            .rows
            .iter()
            .find_map(|row| self.find(table, row.key).map(|(origin, _)| origin))
    }
}
