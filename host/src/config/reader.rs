//! A typed reader over a TOML document that collects problems instead of stopping at the first. Owns places (line
//! numbers) and the wording around a fault; knows no particular table.
//!
//! A [`Table`] remembers every key it was asked for, and [`Table::finish`] reports the others, so "known" is "read":
//! there is no second list to forget.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::defaults::{self, Setting};
use super::kind::{self, Directory, Fault, List, Scalar};
use super::layers::{Layers, Origin};
use super::problem::Problem;

/// One file while it is read.
pub(super) struct Document<'d> {
    text: &'d str,
    file: Option<&'d Path>,
    /// What relative paths of the file are relative to; absolute.
    base: PathBuf,
    sidecar: bool,
    layers: Layers,
    /// The lines of syntax errors. What was recovered there is not what was written, and what seems absent may be there.
    broken: Vec<usize>,
    problems: RefCell<Vec<Problem>>,
}

/// Reads a document with `read`, which is given the file and its outermost table.
pub(super) fn document<T>(
    text: &str,
    file: Option<&Path>,
    base: PathBuf,
    layers: Option<Layers>,
    read: impl FnOnce(&Document<'_>, Table<'_>) -> T,
) -> (T, Vec<Problem>) {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut document = Document {
        text,
        file,
        base,
        sidecar: layers.is_none(),
        layers: layers.unwrap_or_default(),
        broken: Vec::new(),
        problems: RefCell::default(),
    };
    for error in errors {
        let line = document.line(&error.span().unwrap_or(0..0));
        if document.broken.contains(&line) {
            continue; // One slip of the pen often gives several errors; the first names it.
        }
        document.broken.push(line);
        let problem = Problem::error(format!("this is not TOML: {}", error.message()))
            .remedy("mend the line; other problems near it show once it can be read");
        document.problems.borrow_mut().push(match file {
            Some(file) => problem.at(file, Some(line)),
            None => problem,
        });
    }
    let root = Table {
        document: &document,
        section: "",
        label: "the file".to_owned(),
        is_root: true,
        entries: Some(tree.get_ref()),
        line: None,
        asked: RefCell::default(),
    };
    let value = read(&document, root);
    (value, document.problems.into_inner())
}

impl Document<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// Whether it could not be read to its end.
    pub(super) fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// What stands over the file's value of a setting.
    pub(super) fn over(&self, table: &str, key: &str) -> Option<Origin> {
        self.layers.find(table, key).map(|(origin, _)| origin)
    }

    /// Adds a problem at a line of this file (`None`: the file as a whole).
    pub(super) fn report(&self, line: Option<usize>, problem: Problem) {
        if line.is_some_and(|line| self.broken.contains(&line)) {
            return;
        }
        let problem = match self.file {
            Some(file) => problem.at(file, line),
            None => problem,
        };
        self.problems.borrow_mut().push(problem);
    }

    /// Adds a problem that is not the file's.
    pub(super) fn report_elsewhere(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Adds a problem of something that is not there. Silent in a file that could not be read to the end: it may be there.
    pub(super) fn report_absence(&self, problem: Problem) {
        if self.broken.is_empty() {
            self.report(None, problem);
        }
    }
}

/// One table of a document, present or not.
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    /// Its name among [`defaults::SECTIONS`]; empty for a table inside another.
    section: &'static str,
    label: String,
    /// Whether it is the outermost one, whose keys are tables.
    is_root: bool,
    entries: Option<&'d DeTable<'d>>,
    line: Option<usize>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'d> Table<'d> {
    /// Its name as problems give it.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The line where it begins; `None` when the file does not have it.
    pub(super) fn line(&self) -> Option<usize> {
        self.line
    }

    /// Whether the file has it.
    pub(super) fn is_present(&self) -> bool {
        self.line.is_some()
    }

    /// The value of a key as it stands in the file. From now on the key is known.
    pub(super) fn raw(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().insert(key);
        self.entries?.get(key)
    }

    /// The line of a key's value.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let (key, _) = self.entries?.get_key_value(key)?;
        Some(self.document.line(&key.span()))
    }

    /// The line of a value.
    pub(super) fn line_at(&self, value: &Spanned<DeValue<'_>>) -> usize {
        self.document.line(&value.span())
    }

    /// Every key with its value, all of them known from now on: for tables whose keys are free.
    pub(super) fn take_all(
        &mut self,
    ) -> impl Iterator<Item = (&'d str, &'d Spanned<DeValue<'d>>)> + use<'d> {
        self.entries.take().into_iter().flat_map(|entries| {
            entries
                .iter()
                .map(|(key, value)| (key.get_ref().as_ref(), value))
        })
    }

    /// Where the value in force was set.
    pub(super) fn origin<K>(&self, setting: &Setting<K>) -> Origin {
        if let Some((origin, _)) = self.document.layers.find(self.section, setting.key) {
            return origin;
        }
        self.line_of(setting.key)
            .map_or(Origin::Default, Origin::File)
    }

    /// The value in force, if one is set and good; what is bad is reported.
    pub(super) fn optional<K: Scalar>(&self, setting: &Setting<K>) -> Option<K::Value> {
        // The file's value is judged even when another stands over it: it will matter on another day.
        let in_file = self.read::<K>(setting.key);
        let Some((_, over)) = self.document.layers.find(self.section, setting.key) else {
            return in_file;
        };
        let parsed = over
            .to_str()
            .ok_or_else(|| Fault::new("it is not UTF-8", "write it in UTF-8"))
            .and_then(K::parse);
        parsed.map_err(|fault| self.fault(setting, fault)).ok()
    }

    /// The value in force: set, or the default.
    pub(super) fn value<K: Scalar>(&self, setting: &Setting<K>) -> K::Value {
        self.optional(setting)
            .unwrap_or_else(|| setting.default_value())
    }

    /// A directory, absolute: the file's are relative to the file, flags and variables to where Larder was started.
    pub(super) fn directory(&self, setting: &Setting<Directory>) -> PathBuf {
        let path = self.value(setting);
        match self.origin(setting) {
            Origin::File(_) | Origin::Default => self.document.base.join(path),
            Origin::Flag(_) | Origin::Variable(_) => std::path::absolute(&path).unwrap_or(path),
        }
    }

    /// A file, absolute, if one is named; relative as directories are.
    pub(super) fn file(&self, setting: &Setting<kind::File>) -> Option<PathBuf> {
        let path = self.optional(setting)?;
        Some(match self.origin(setting) {
            Origin::File(_) | Origin::Default => self.document.base.join(path),
            Origin::Flag(_) | Origin::Variable(_) => std::path::absolute(&path).unwrap_or(path),
        })
    }

    /// A file that this one names, relative to it.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.document.base.join(name)
    }

    /// The file's value of a key.
    pub(super) fn read<K: Scalar>(&self, key: &'static str) -> Option<K::Value> {
        let value = self.raw(key)?;
        match K::read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault_at(key, self.line_at(value), fault);
                None
            }
        }
    }

    /// The file's list of a key, each item with its line. Bad items, and items that stand twice, are reported and left out.
    pub(super) fn list<K>(&self, setting: &Setting<List<K>>) -> Option<Vec<(K::Value, usize)>>
    where
        K: Scalar<Value: PartialEq + std::fmt::Debug>,
    {
        self.list_at::<K>(setting.key)
    }

    /// As [`Table::list`], for a table inside another.
    pub(super) fn list_at<K>(&self, key: &'static str) -> Option<Vec<(K::Value, usize)>>
    where
        K: Scalar<Value: PartialEq + std::fmt::Debug>,
    {
        let value = self.raw(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let remedy = match value.get_ref() {
                DeValue::String(text) => format!("write [{text:?}]"),
                _ => format!("write [ … ], each item {}", K::EXAMPLE),
            };
            let message = format!(
                "expected a list of {}s, found {}",
                K::name(),
                kind::found(value.get_ref())
            );
            self.fault_at(key, self.line_at(value), Fault::new(message, remedy));
            return None;
        };
        let mut list: Vec<(K::Value, usize)> = Vec::with_capacity(items.len());
        for item in items.iter() {
            let line = self.line_at(item);
            match K::read(item.get_ref()) {
                Ok(value) if list.iter().any(|(other, _)| *other == value) => {
                    let fault = Fault::new(format!("{value:?} stands twice"), "name it once");
                    self.fault_at(key, line, fault);
                }
                Ok(value) => list.push((value, line)),
                Err(fault) => self.fault_at(key, line, fault),
            }
        }
        Some(list)
    }

    /// The table of a name among [`defaults::SECTIONS`], present or not.
    pub(super) fn section(&self, name: &'static str) -> Table<'d> {
        let header = defaults::section(self.document.sidecar, name).map_or(name, |s| s.header);
        let value = self.raw(name);
        let entries = match value.map(Spanned::get_ref) {
            None => None,
            Some(DeValue::Table(entries)) => Some(entries),
            Some(other) => {
                let found = match other {
                    DeValue::Array(_) => "an array of tables".to_owned(),
                    other => kind::found(other),
                };
                self.document.report(
                    self.line_of(name),
                    Problem::error(format!("{name} is a table, not {found}")).remedy(format!(
                        "write {header} on a line of its own, and its keys below"
                    )),
                );
                None
            }
        };
        Table {
            document: self.document,
            section: name,
            label: header.to_owned(),
            is_root: false,
            entries,
            line: self.line_of(name),
            asked: RefCell::default(),
        }
    }

    /// The tables of an array of tables, `[[name]]`.
    pub(super) fn sections(&self, name: &'static str) -> Vec<Table<'d>> {
        let header = defaults::section(self.document.sidecar, name).map_or(name, |s| s.header);
        let misplaced = |line, found: String| {
            self.document.report(
                Some(line),
                Problem::error(format!("{name} is an array of tables, not {found}"))
                    .remedy(format!("write {header} before the keys of each")),
            );
        };
        let Some(value) = self.raw(name) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            misplaced(self.line_at(value), kind::found(value.get_ref()));
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items.iter() {
            let line = self.line_at(item);
            let DeValue::Table(entries) = item.get_ref() else {
                misplaced(line, format!("an array of {}s", item.get_ref().type_str()));
                continue;
            };
            tables.push(Table {
                document: self.document,
                section: name,
                label: header.to_owned(),
                is_root: false,
                entries: Some(entries),
                line: Some(line),
                asked: RefCell::default(),
            });
        }
        tables
    }

    /// A table that is the value of one of this one's keys. `label` names it in problems.
    pub(super) fn inner(&self, label: String, line: usize, entries: &'d DeTable<'d>) -> Table<'d> {
        Table {
            document: self.document,
            section: "",
            label,
            is_root: false,
            entries: Some(entries),
            line: Some(line),
            asked: RefCell::default(),
        }
    }

    /// Whether a flag, a variable or the file sets anything in it, and where.
    pub(super) fn touch(&self) -> Option<Origin> {
        self.document
            .layers
            .touch(self.section)
            .or(self.line.map(Origin::File))
    }

    /// Reports a fault of the value in force of a setting.
    pub(super) fn fault<K>(&self, setting: &Setting<K>, fault: Fault) {
        self.at_origin(setting, Problem::error, fault);
    }

    /// Warns of the value in force of a setting.
    pub(super) fn warn<K>(&self, setting: &Setting<K>, fault: Fault) {
        self.at_origin(setting, Problem::warning, fault);
    }

    fn at_origin<K>(&self, setting: &Setting<K>, problem: fn(String) -> Problem, fault: Fault) {
        let (name, line) = match self.origin(setting) {
            Origin::Flag(flag) => (flag.to_owned(), None),
            Origin::Variable(variable) => (variable, None),
            Origin::File(line) => (format!("{} of {}", setting.key, self.label), Some(line)),
            Origin::Default => (format!("{} of {}", setting.key, self.label), self.line),
        };
        let problem = problem(format!("{name}: {}", fault.message)).remedy(fault.remedy);
        if matches!(self.origin(setting), Origin::Flag(_) | Origin::Variable(_)) {
            self.document.report_elsewhere(problem);
        } else {
            self.document.report(line, problem);
        }
    }

    /// Reports a fault at a line of this file.
    pub(super) fn fault_at(&self, key: &str, line: usize, fault: Fault) {
        self.document.report(
            Some(line),
            Problem::error(format!("{key} of {}: {}", self.label, fault.message))
                .remedy(fault.remedy),
        );
    }

    /// Reports that something needed is not there; silent as [`Document::report_absence`] is.
    pub(super) fn missing(&self, message: impl Into<String>, remedy: impl Into<String>) {
        if self.document.broken.is_empty() {
            self.document
                .report(self.line, Problem::error(message).remedy(remedy));
        }
    }

    /// Reports every key that nobody asked for, with the nearest one that somebody did.
    pub(super) fn finish(self) {
        // Below a broken header the keys of its table seem to stand outside.
        if self.is_root && !self.document.broken.is_empty() {
            return;
        }
        let asked = self.asked.borrow();
        for (key, value) in self.entries.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if asked.contains(name) {
                continue;
            }
            let line = self.document.line(&key.span());
            let problem = match value.get_ref() {
                written if self.is_root && holds_table(written) => {
                    let (near, _) = nearest(name, asked.iter().copied());
                    let header = defaults::section(self.document.sidecar, near)
                        .map_or(near, |section| section.header);
                    Problem::error(format!("unknown table {name:?}"))
                        .remedy(format!("did you mean {header}?"))
                }
                _ => {
                    let place = if self.is_root {
                        "before the first table".to_owned()
                    } else {
                        format!("in {}", self.label)
                    };
                    Problem::error(format!("unknown key {name:?} {place}"))
                        .remedy(self.instead_of(name, &asked))
                }
            };
            self.document.report(Some(line), problem);
        }
    }

    fn instead_of(&self, name: &str, asked: &BTreeSet<&'static str>) -> String {
        let (near, is_near) = nearest(name, asked.iter().copied());
        if is_near {
            return format!("did you mean {near:?}?");
        }
        let elsewhere = defaults::SECTIONS.iter().find(|section| {
            (section.place == defaults::Place::Sidecar) == self.document.sidecar
                && section.name != self.section
                && section.rows.iter().any(|row| row.key == name)
        });
        if let Some(section) = elsewhere {
            return format!(
                "{name} belongs in {}; the nearest key here is {near:?}",
                section.header
            );
        }
        let all: Vec<&str> = asked.iter().copied().collect();
        format!("the nearest is {near:?}; all there are: {}", all.join(", "))
    }
}

/// Whether a value is a table or several: written as `[name]` or `[[name]]`.
fn holds_table(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
        _ => false,
    }
}

/// The nearest of some names, and whether it is near enough to be a slip of the pen.
pub(crate) fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> (&'n str, bool) {
    let lower = name.to_ascii_lowercase().replace('-', "_");
    known
        .map(|candidate| {
            let comparable = candidate.to_ascii_lowercase();
            (candidate, strsim::damerau_levenshtein(&lower, &comparable))
        })
        .min_by_key(|&(_, distance)| distance)
        .map_or(("", false), |(candidate, distance)| {
            (
                candidate,
                distance <= 1 + candidate.len().min(name.len()) / 4,
            )
        })
}
