//! Which files there are, and whether they are still the same. Must not know what is in them.

use crate::index::Fault;
use crate::scan::Layout;
use std::fs::Metadata;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// How many files are looked at in a slice.
const SLICE: usize = 128;
/// How often a directory is listed where a file vanishes from it at that very moment: WASI's list ends there.
const LISTINGS: usize = 10;

/// A file at a moment. Two that are equal are taken to hold the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) path: PathBuf,
    pub(crate) length: u64,
    pub(crate) modified: Option<SystemTime>,
}

impl Stamp {
    pub(crate) fn new(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            length: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// The file that `layout` names, or those of the directory whose extension is that of the format, in the order of names.
/// Waits for `breathe` between slices.
///
/// # Errors
/// What cannot be read, or is too large.
pub(crate) async fn stamps(layout: &Layout, breathe: &impl AsyncFn()) -> Result<Vec<Stamp>, Fault> {
    let path = &layout.path;
    let mut looked = look(layout, breathe).await;
    for _ in 1..LISTINGS {
        let is_there = || std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir());
        match &looked {
            Err(fault) if fault.kind() == io::ErrorKind::NotFound && is_there() => {}
            _ => break,
        }
        breathe().await;
        looked = look(layout, breathe).await;
    }
    let stamps = looked.map_err(|fault| {
        Fault::Unreadable(format!("`{path}` cannot be read ({fault}); correct `path` in [config], or grant its directory by `dirs` in [grants]"))
    })?;
    match stamps
        .iter()
        .find(|stamp| u32::try_from(stamp.length).is_err())
    {
        Some(stamp) => Err(Fault::Unreadable(format!(
            "`{}` is larger than 4 GiB; split it",
            stamp.path.display()
        ))),
        None => Ok(stamps),
    }
}

async fn look(layout: &Layout, breathe: &impl AsyncFn()) -> io::Result<Vec<Stamp>> {
    let path = &layout.path;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok(vec![Stamp::new(path.into(), &metadata)]);
    }
    let mut stamps = Vec::new();
    for (number, file) in std::fs::read_dir(path)?.enumerate() {
        if number % SLICE == SLICE - 1 {
            breathe().await;
        }
        let file = file?.path();
        if file
            .extension()
            .is_none_or(|extension| extension != layout.format.extension())
        {
            continue;
        }
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => stamps.push(Stamp::new(file, &metadata)),
            Ok(_) => {}
            // It was removed between the list and the look.
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => return Err(fault),
        }
    }
    stamps.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(stamps)
}
