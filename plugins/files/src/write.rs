//! Changes of records: what a body is in a file, whether its condition holds, which files are replaced for it. Must not know how
//! a file is replaced.
//!
//! Whoever writes looks at the files, decides, and replaces one only if it is still as it was looked at; if not, it begins anew.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use larder_plugin_support::{Entry, Failure, FailureKind, Param, Validator};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::edit::{self, Edit, Lost};
use crate::exports::larder::plugin::writer::{Mutation, Operation, Precondition, Receipt};
use crate::index::{Index, Spot};
use crate::scan::{self, Format, Header, Layout};
use crate::{breathe, etag, failure, in_time, index, wait, wanted};

/// A call lives so much longer than it is waited for, at most.
const GRACE: Duration = Duration::from_secs(2);
/// How long to wait for another that is replacing a file: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

thread_local! {
    /// Whether this instance has swept what crashes left.
    static IS_SWEPT: Cell<bool> = const { Cell::new(false) };
}

/// Makes changes, each of another record.
pub(crate) async fn write(
    layout: &Layout,
    mutations: &[Mutation],
) -> Vec<Result<Receipt, Failure>> {
    if !IS_SWEPT.replace(true) {
        // What cannot be swept now is the next instance's.
        edit::sweep(Path::new(&layout.path)).ok();
    }
    let mut results: Vec<Option<Result<Receipt, Failure>>> =
        mutations.iter().map(|_| None).collect();
    while results.iter().any(Option::is_none) {
        // Of two that mean one record the second comes after the first.
        let mut keys = HashSet::new();
        let mut round = Vec::new();
        for (at, mutation) in mutations.iter().enumerate() {
            if results[at].is_some() {
                continue;
            }
            match wanted(&mutation.target.parts, &layout.key) {
                Ok(key) if keys.insert(key) => round.push((at, key)),
                Ok(_) => {}
                Err(failure) => results[at] = Some(Err(failure)),
            }
        }
        for (at, result) in together(layout, mutations, &round).await {
            results[at] = Some(result);
        }
    }
    results.into_iter().flatten().collect()
}

type Results = Vec<(usize, Result<Receipt, Failure>)>;

/// Makes changes of distinct records: each file is replaced once.
async fn together(layout: &Layout, mutations: &[Mutation], round: &[(usize, &str)]) -> Results {
    let begun = Instant::now();
    let mut left = round.to_vec();
    let mut results = Results::new();
    let [mut pause, longest] = PAUSES;
    loop {
        let deadline = left
            .iter()
            .map(|(at, _)| mutations[*at].target.deadline_ms)
            .max();
        let Some(deadline) = deadline else {
            return results;
        };
        let deadline = Duration::from_millis(deadline.into());
        let patience = (deadline - deadline / 4).saturating_sub(begun.elapsed());
        if patience.is_zero() {
            let message = format!(
                "others keep writing the files at `{}`; ask again",
                layout.path
            );
            let busy = Failure::new(FailureKind::Unavailable, "files-busy", message);
            results.extend(left.iter().map(|(at, _)| (*at, Err(busy.clone()))));
            return results;
        }
        let until = SystemTime::now() + deadline.saturating_sub(begun.elapsed()) + GRACE;
        let indexed = async { Ok(index(layout).await.map_err(failure)?.0) };
        let index = match in_time(patience.as_millis() as u32, indexed).await {
            Ok(index) => index,
            Err(failure) => {
                results.extend(left.iter().map(|(at, _)| (*at, Err(failure.clone()))));
                return results;
            }
        };
        let mut edits = BTreeMap::new();
        let mut plans = Vec::new();
        let mut again = Vec::new();
        for (at, key) in left {
            match plan(layout, &index, &mutations[at], key).await {
                Ok(Some(plan)) => plans.push((at, key, plan)),
                Ok(None) => again.push((at, key)),
                Err(failure) => results.push((at, Err(failure))),
            }
        }
        let mut touched = Vec::new();
        for (at, key, plan) in plans {
            let files: Vec<usize> = plan.edits.iter().map(|(file, _)| *file).collect();
            for (file, edit) in plan.edits {
                edits.entry(file).or_insert_with(Vec::new).push(edit);
            }
            touched.push((at, key, files, plan.receipt));
        }
        let lost = replace(layout, &index, edits, until).await;
        for (at, key, files, receipt) in touched {
            let of_it: Vec<&Lost> = files.iter().filter_map(|file| lost.get(file)).collect();
            match of_it[..] {
                [] => results.push((at, Ok(receipt))),
                // A removal of which a part was made is made whole the next time.
                [Lost::Changed | Lost::Busy, ..] => again.push((at, key)),
                [lost, ..] => {
                    let mut failure = not_written(layout, lost);
                    if of_it.len() < files.len() {
                        "outcome-unknown".clone_into(&mut failure.code);
                    }
                    results.push((at, Err(failure)));
                }
            }
        }
        left = again;
        if !left.is_empty() {
            wait(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// Replaces files, the last first: while it goes on, the record that counts is still the first. Gives why those that were not
/// were not.
async fn replace(
    layout: &Layout,
    index: &Index,
    edits: BTreeMap<usize, Vec<Edit>>,
    until: SystemTime,
) -> BTreeMap<usize, Lost> {
    let mut lost = BTreeMap::new();
    for (file, edits) in edits.into_iter().rev() {
        let Some(about) = index.file(file) else {
            lost.insert(file, Lost::Changed);
            continue;
        };
        let done = edit::rewrite(
            about.stamp,
            layout.format,
            about.end,
            edits,
            until,
            &breathe,
        )
        .await;
        match done {
            Ok(()) => {}
            Err(Lost::Io(fault)) if fault.kind() == io::ErrorKind::NotFound => {
                lost.insert(file, Lost::Changed);
            }
            Err(why) => {
                lost.insert(file, why);
            }
        }
    }
    lost
}

/// What is to be done for one change, and what is to be said when it is.
struct Plan {
    /// With the numbers of the files.
    edits: Vec<(usize, Edit)>,
    receipt: Receipt,
}

/// Nothing where the index is out of date.
async fn plan(
    layout: &Layout,
    index: &Index,
    mutation: &Mutation,
    key: &str,
) -> Result<Option<Plan>, Failure> {
    let Some(spots) = index.all(key, &breathe).await.map_err(failure)? else {
        return Ok(None);
    };
    let header = |file: usize| index.file(file).map(|about| about.header);
    let read = |spot: &Spot| {
        let header = header(spot.file).cloned().unwrap_or_default();
        scan::to_json(spot.record.clone(), layout.format, &header).map_err(|fault| {
            let message = format!("the record of `{key}` cannot be read: {fault}");
            Failure::new(FailureKind::Unavailable, "files-unreadable", message)
        })
    };
    let first = spots.first();
    judge(&mutation.expect, first.map(read).transpose()?.as_deref())?;
    let payload = match &mutation.operation {
        Operation::Delete => {
            let edits = spots
                .iter()
                .map(|spot| (spot.file, Edit::Remove(spot.place)));
            return Ok(Some(Plan {
                edits: edits.collect(),
                receipt: receipt(false, None),
            }));
        }
        Operation::Put(payload) => payload,
    };
    let file = first
        .map(|spot| spot.file)
        .or_else(|| index.last())
        .ok_or_else(|| no_file(layout))?;
    let none = Header::new();
    let header = header(file).unwrap_or(&none);
    let text = text(layout, header, key, &payload.body).await?;
    let body = scan::to_json(text.clone(), layout.format, header)
        .map_err(|fault| invalid("body-invalid", fault))?;
    let edits = match first {
        Some(spot) if spot.record == text => Vec::new(),
        Some(spot) => vec![(file, Edit::Replace(spot.place, text))],
        None => vec![(file, Edit::Add(text))],
    };
    Ok(Some(Plan {
        edits,
        receipt: receipt(first.is_none(), Some(body)),
    }))
}

/// Whether what must hold holds of the record as a read gives it, if there is one.
fn judge(expect: &Precondition, record: Option<&[u8]>) -> Result<(), Failure> {
    let conflict = |code: &str, message: &str| {
        Err(Failure::new(
            FailureKind::Conflict,
            code,
            message.to_owned(),
        ))
    };
    match (expect, record) {
        (Precondition::None, _)
        | (Precondition::Absent, None)
        | (Precondition::Present, Some(_)) => Ok(()),
        (Precondition::Absent, Some(_)) => {
            conflict("record-present", "there is such a record already")
        }
        (Precondition::Present | Precondition::Matches(_), None) => {
            conflict("record-absent", "there is no such record")
        }
        (Precondition::Matches(known), Some(record))
            if known.etag.as_deref() == Some(&etag(record)) =>
        {
            Ok(())
        }
        (Precondition::Matches(_), Some(_)) => conflict(
            "record-changed",
            "the record is not the one of that entity tag",
        ),
    }
}

fn receipt(created: bool, body: Option<Vec<u8>>) -> Receipt {
    let validator = body.as_deref().map(|body| Validator {
        etag: Some(etag(body)),
        last_modified_ms: None,
    });
    Receipt {
        created,
        entry: body.map(|body| Entry {
            validator: validator.clone(),
            ..Entry::new("application/json", body)
        }),
        validator,
        tags: Vec::new(),
        hints: Vec::new(),
    }
}

type Members = BTreeMap<String, Box<RawValue>>;

/// A body as the record that it is in a file.
async fn text(
    layout: &Layout,
    header: &Header,
    key: &str,
    body: &[u8],
) -> Result<Vec<u8>, Failure> {
    let members: Members = serde_json::from_slice(body).map_err(|fault| {
        invalid(
            "body-invalid",
            format!("the body is no JSON object: {fault}"),
        )
    })?;
    let of_key = members
        .get(&layout.key)
        .ok_or_else(|| of_member("member-missing", &layout.key, "is missing; it is the key"))?;
    let is_key = match serde_json::from_str(of_key.get()) {
        Ok(Value::String(text)) => text == key,
        _ => of_key.get() == key,
    };
    if !is_key {
        let what = format!("is {}, and the request is for `{key}`", of_key.get());
        return Err(of_member("member-unfit", &layout.key, &what));
    }
    let mut text = match layout.format {
        Format::Csv => row(header, &members)?,
        Format::Json | Format::Ndjson => body.trim_ascii().to_vec(),
    };
    if layout.format == Format::Ndjson {
        // Within strings JSON has no line ends; elsewhere they are white space.
        text.iter_mut()
            .filter(|byte| b"\r\n".contains(byte))
            .for_each(|byte| *byte = b' ');
    }
    // By the same reading that will look for it.
    match scan::is_of(&text, key, layout, header, &breathe).await {
        Ok(true) => Ok(text),
        Ok(false) => Err(of_member(
            "member-unfit",
            &layout.key,
            "is not found as it is written",
        )),
        Err(fault) => Err(invalid("body-invalid", fault)),
    }
}

/// The row of a CSV file, without its end.
fn row(header: &Header, members: &Members) -> Result<Vec<u8>, Failure> {
    if let Some(unknown) = members
        .keys()
        .find(|name| header.iter().all(|column| column != *name))
    {
        return Err(of_member(
            "member-unknown",
            unknown,
            "is no column of the file; take it out",
        ));
    }
    let mut fields = csv::StringRecord::new();
    for column in header {
        let member = members.get(column).ok_or_else(|| {
            of_member(
                "member-missing",
                column,
                "is missing; every column has a value",
            )
        })?;
        match serde_json::from_str(member.get()) {
            Ok(Value::String(text)) => fields.push_field(&text),
            _ => {
                return Err(of_member(
                    "member-unfit",
                    column,
                    "must be a string, as it will be read",
                ));
            }
        }
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record(&fields)
        .map_err(|fault| invalid("body-invalid", fault.to_string()))?;
    let mut row = writer
        .into_inner()
        .map_err(|fault| invalid("body-invalid", fault.to_string()))?;
    row.pop_if(|end| *end == b'\n');
    Ok(row)
}

fn invalid(code: &str, message: String) -> Failure {
    Failure::new(FailureKind::InvalidRequest, code, message)
}

fn of_member(code: &str, name: &str, what: &str) -> Failure {
    Failure {
        details: vec![Param {
            name: name.to_owned(),
            value: what.to_owned(),
        }],
        ..invalid(code, format!("the member `{name}` {what}"))
    }
}

fn no_file(layout: &Layout) -> Failure {
    let extension = layout.format.extension();
    let one = match layout.format {
        Format::Json => "one there that holds an empty array (`[]`, at `pointer`)",
        Format::Ndjson | Format::Csv => "an empty one there",
    };
    let message = format!(
        "`{}` has no file that a new record could go to; put {one}, `*.{extension}`",
        layout.path
    );
    Failure::new(FailureKind::Denied, "file-missing", message)
}

fn not_written(layout: &Layout, lost: &Lost) -> Failure {
    let path = &layout.path;
    match lost {
        Lost::Io(fault)
            if matches!(
                fault.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            let message = format!(
                "`{path}` may not be written ({fault}); grant its directory with `mode = \"rw\"`: \
                 `dirs = {{ \"/data\" = {{ host = \"…\", mode = \"rw\" }} }}` in [grants] of the sidecar, and let the server's user write there"
            );
            Failure::new(FailureKind::Denied, "files-read-only", message)
        }
        Lost::Link => {
            let message = format!(
                "a file at `{path}` is a link, which would be replaced in place of what it leads to; name the file itself"
            );
            Failure::new(FailureKind::Denied, "file-is-link", message)
        }
        Lost::Io(fault) => Failure::new(
            FailureKind::Unavailable,
            "files-not-written",
            format!("`{path}` cannot be written: {fault}"),
        ),
        Lost::Changed | Lost::Busy => Failure::new(
            FailureKind::Unavailable,
            "files-busy",
            format!("`{path}` has changed"),
        ),
    }
}
