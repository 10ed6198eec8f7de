//! A file with some records replaced, removed or added, written beside it and put in its place in one step. Owns what stands
//! between records; must not know why they change.
//!
//! Whoever reads sees the file before or after, and never half of it: also after a crash, for what is renamed was written to the
//! disk first. What a crash leaves beside the file is called so that no loader takes it for one, and is swept later.
//!
//! # Why nothing is overwritten
//!
//! The writers of a server are several instances, which know nothing of each other. Whoever is to replace a file first makes
//! another, its claim, whose name tells the file's length and time, and which only one can make. No two states of a file have the
//! same length and time, so the claim is one to replace this very state, and its holder looks whether the file is still in it:
//!
//! - two read one state: one of them makes the claim; the other finds it, and begins anew later;
//! - one read a state that has been replaced, and makes the claim for it, as nobody has it any more: it sees another state.
//!
//! So from that look until it renames, the state can change by nobody but the holder, and by those that write into the files
//! without asking, which a second look just before the renaming is for. A claim says until when its holder may live: the host ends
//! a call that takes longer. After that it is void. What is left is the moment between second look and renaming, for a holder that
//! lives longer than it said.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::places::Place;
use crate::scan::{ArrayEnd, Format, SLICE};
use crate::stamp::Stamp;

/// What the name of an unfinished file ends with: the extension of no format.
const UNFINISHED: &str = ".larder-new";
/// An unfinished file that nobody has written to for so long is nobody's.
const ABANDONED: Duration = Duration::from_secs(3600);
/// A claim that does not say until when is void after so long: its holder ended before it could say.
const UNSAID: Duration = Duration::from_secs(60);
/// Two states of a file must not look alike: its time grows by at least this.
const TICK: Duration = Duration::from_millis(1);
/// How much is looked at at once for what stands between records.
const WINDOW: usize = 512;

/// What becomes of records of one file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The record there becomes this text.
    Replace(Place, Vec<u8>),
    /// There is no such record any more.
    Remove(Place),
    /// There is one more, after all others.
    Add(Vec<u8>),
}

/// Why a file was not replaced.
#[derive(Debug)]
pub(crate) enum Lost {
    /// It is not as it was: nothing was done.
    Changed,
    /// Another is replacing it: nothing was done.
    Busy,
    /// It is a link, and not the file itself: nothing was done.
    Link,
    /// This; nothing was done.
    Io(io::Error),
}

impl From<io::Error> for Lost {
    fn from(fault: io::Error) -> Self {
        Self::Io(fault)
    }
}

/// Bytes `from` to `to` of the file become `text`.
#[derive(Debug)]
struct Splice {
    from: u64,
    to: u64,
    text: Vec<u8>,
}

/// Puts the file of `stamp` with these edits in its place, for a caller that lives no longer than `until`. Waits for `breathe`
/// between slices.
///
/// # Errors
/// Why it is as it was.
pub(crate) async fn rewrite(
    stamp: &Stamp,
    format: Format,
    end: Option<ArrayEnd>,
    edits: Vec<Edit>,
    until: SystemTime,
    breathe: &impl AsyncFn(),
) -> Result<(), Lost> {
    let path = &stamp.path;
    if fs::symlink_metadata(path)?.is_symlink() {
        return Err(Lost::Link);
    }
    let is_as_it_was =
        || Ok::<_, io::Error>(Stamp::new(path.clone(), &fs::metadata(path)?) == *stamp);
    let _claim = Claim::make(stamp, until)?;
    if !is_as_it_was()? {
        return Err(Lost::Changed);
    }
    let mut source = Source(File::open(path)?);
    let splices = splices(&mut source, stamp.length, format, end, edits)?;
    let (aside, file) = beside(path)?;
    let written = async {
        write(&mut source.0, file, stamp, splices, breathe).await?;
        // As late as can be: who writes into the file by other ways is overwritten only if that happens right now.
        if !is_as_it_was()? {
            return Err(Lost::Changed);
        }
        Ok(fs::rename(&aside, path)?)
    };
    let written = written.await;
    match &written {
        Ok(()) => sync_directory(path),
        Err(_) => drop(fs::remove_file(&aside)), // an error: swept later
    }
    written
}

/// Removes what crashes have left beside a file, or in a directory.
pub(crate) fn sweep(path: &Path) -> io::Result<()> {
    let directory = if fs::metadata(path)?.is_dir() {
        path
    } else {
        directory_of(path)
    };
    for file in fs::read_dir(directory)? {
        let file = file?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if !(name.starts_with('.') && name.ends_with(UNFINISHED)) {
            continue;
        }
        let modified = fs::metadata(&file).and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age >= ABANDONED) {
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// The right to replace a file in one state.
struct Claim(PathBuf);

impl Claim {
    fn make(stamp: &Stamp, until: SystemTime) -> Result<Self, Lost> {
        let name = stamp.path.file_name().unwrap_or_default().to_string_lossy();
        let (time, length) = (stamp.modified.map(nanos).unwrap_or_default(), stamp.length);
        let path = stamp
            .path
            .with_file_name(format!(".{name}.{time:x}-{length:x}{UNFINISHED}"));
        let mut file = match File::create_new(&path) {
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {
                if !Self::is_void(&path) {
                    return Err(Lost::Busy);
                }
                fs::remove_file(&path)?;
                File::create_new(&path)?
            }
            file => file?,
        };
        let claim = Self(path);
        file.write_all(nanos(until).to_string().as_bytes())?;
        Ok(claim)
    }

    /// Whether its holder lives no more.
    fn is_void(path: &Path) -> bool {
        let now = SystemTime::now();
        let said = fs::read_to_string(path).ok();
        if let Some(until) = said.and_then(|said| said.parse::<u128>().ok()) {
            return nanos(now) > until;
        }
        let made = fs::metadata(path).and_then(|metadata| metadata.modified());
        let age = made.ok().and_then(|made| now.duration_since(made).ok());
        age.is_some_and(|age| age >= UNSAID)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok(); // an error: void before long, and swept later
    }
}

fn nanos(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos()
}

/// A file that nobody else has, beside `path`.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let number = nanos(SystemTime::now());
        let aside = path.with_file_name(format!(".{name}.{number:x}{UNFINISHED}"));
        match File::create_new(&aside) {
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {}
            file => return Ok((aside, file?)),
        }
    }
}

/// Writes the whole of the new file, to the disk.
async fn write(
    source: &mut File,
    mut file: File,
    stamp: &Stamp,
    splices: Vec<Splice>,
    breathe: &impl AsyncFn(),
) -> Result<(), Lost> {
    let mut at = 0;
    for splice in splices {
        copy(source, &mut file, at, splice.from, breathe).await?;
        file.write_all(&splice.text)?;
        at = splice.to;
    }
    copy(source, &mut file, at, stamp.length, breathe).await?;
    if let (Some(before), Ok(now)) = (stamp.modified, file.metadata()?.modified())
        && now <= before
    {
        // Or it could look as it did before: one length, one moment.
        file.set_modified(before + TICK)?;
    }
    Ok(file.sync_all()?)
}

async fn copy(
    source: &mut File,
    into: &mut File,
    from: u64,
    to: u64,
    breathe: &impl AsyncFn(),
) -> Result<(), Lost> {
    source.seek(SeekFrom::Start(from))?;
    let mut left = to.saturating_sub(from);
    while left > 0 {
        let slice = left.min(SLICE as u64);
        if io::copy(&mut Read::by_ref(source).take(slice), into)? != slice {
            return Err(Lost::Changed);
        }
        left -= slice;
        breathe().await;
    }
    Ok(())
}

/// The rename, too, shall outlast a crash. Where directories cannot be synced the file system says when it is.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(directory_of(path)) {
        directory.sync_all().ok();
    }
}

/// A file, to look between its records.
struct Source(File);

impl Source {
    /// The first byte from `at` on that is none of `skipped`, and where.
    fn after(&mut self, mut at: u64, skipped: &[u8]) -> io::Result<Option<(u64, u8)>> {
        loop {
            let bytes = self.read(at, WINDOW)?;
            if let Some(found) = bytes.iter().position(|byte| !skipped.contains(byte)) {
                return Ok(Some((at + found as u64, bytes[found])));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            at += bytes.len() as u64;
        }
    }

    /// The last byte before `at` that is no white space of JSON, and where.
    fn before(&mut self, mut at: u64) -> io::Result<Option<(u64, u8)>> {
        while at > 0 {
            let from = at.saturating_sub(WINDOW as u64);
            let bytes = self.read(from, (at - from) as usize)?;
            if let Some(found) = bytes.iter().rposition(|byte| !SPACE.contains(byte)) {
                return Ok(Some((from + found as u64, bytes[found])));
            }
            at = from;
        }
        Ok(None)
    }

    fn read(&mut self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.seek(SeekFrom::Start(at))?;
        Read::by_ref(&mut self.0)
            .take(length as u64)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

const SPACE: &[u8] = b" \t\r\n";

/// What is to be put where, in the order of the file.
fn splices(
    source: &mut Source,
    length: u64,
    format: Format,
    end: Option<ArrayEnd>,
    mut edits: Vec<Edit>,
) -> io::Result<Vec<Splice>> {
    // What is added comes last, in the order in which it was asked for.
    edits.sort_by_key(|edit| {
        match edit {
            Edit::Replace(place, _) | Edit::Remove(place) => Some(place.from),
            Edit::Add(_) => None,
        }
        .map_or(u64::MAX, u64::from)
    });
    let mut splices: Vec<Splice> = Vec::new();
    let mut elements = end.map_or(0, |end| end.elements);
    for edit in edits {
        let splice = match edit {
            Edit::Replace(place, text) => {
                let (from, to) = within(source, place)?;
                Splice { from, to, text }
            }
            Edit::Remove(place) if format == Format::Json => {
                elements = elements.saturating_sub(1);
                without_comma(source, place, &mut splices)?
            }
            Edit::Remove(place) => without_line(source, place)?,
            Edit::Add(text) => {
                let splice = match end {
                    Some(end) => in_array(source, end, elements > 0, text)?,
                    None => in_line(source, length, splices.last(), text)?,
                };
                elements += 1;
                splice
            }
        };
        splices.push(splice);
    }
    Ok(splices)
}

/// The record itself: what was noted of one of a CSV file may have line ends about it.
fn within(source: &mut Source, place: Place) -> io::Result<(u64, u64)> {
    let from = u64::from(place.from);
    let bytes = source.read(from, place.length as usize)?;
    let is_end = |byte: &u8| b"\r\n".contains(byte);
    let before = bytes.iter().take_while(|byte| is_end(byte)).count();
    let after = bytes[before..]
        .iter()
        .rev()
        .take_while(|byte| is_end(byte))
        .count();
    Ok((from + before as u64, from + (bytes.len() - after) as u64))
}

/// An element and the comma behind it; of the last one the comma before it.
fn without_comma(
    source: &mut Source,
    place: Place,
    before: &mut Vec<Splice>,
) -> io::Result<Splice> {
    let (mut from, mut to) = (u64::from(place.from), u64::from(place.from + place.length));
    if let Some((comma, b',')) = source.after(to, SPACE)? {
        to = source
            .after(comma + 1, SPACE)?
            .map_or(comma + 1, |(next, _)| next);
    } else {
        // Those right before it go too, and their commas with them: the one that is left over is before the first of them.
        while let Some(last) = before.pop_if(|last| last.to == from && last.text.is_empty()) {
            from = last.from;
        }
        if let Some((comma, b',')) = source.before(from)? {
            from = comma;
        }
    }
    let text = Vec::new();
    Ok(Splice { from, to, text })
}

/// A line, with its end.
fn without_line(source: &mut Source, place: Place) -> io::Result<Splice> {
    let (from, mut to) = within(source, place)?;
    if let Some((end, b'\n')) = source.after(to, b" \t\r")? {
        to = end + 1;
    }
    let text = Vec::new();
    Ok(Splice { from, to, text })
}

fn in_array(
    source: &mut Source,
    end: ArrayEnd,
    is_after_another: bool,
    record: Vec<u8>,
) -> io::Result<Splice> {
    let at = source.before(end.at)?.map_or(end.at, |(last, _)| last + 1);
    let mut text = if is_after_another {
        b",\n".to_vec()
    } else {
        Vec::new()
    };
    text.extend(record);
    Ok(Splice {
        from: at,
        to: at,
        text,
    })
}

/// A new last line. It is on a line of its own, whatever is before it, if that stays.
fn in_line(
    source: &mut Source,
    length: u64,
    last: Option<&Splice>,
    record: Vec<u8>,
) -> io::Result<Splice> {
    let ends = match last {
        // What was added before has ended its line.
        Some(added) if added.from == length => true,
        _ => length == 0 || source.read(length - 1, 1)? == b"\n",
    };
    let mut text = if ends { Vec::new() } else { b"\n".to_vec() };
    text.extend(record);
    text.push(b'\n');
    Ok(Splice {
        from: length,
        to: length,
        text,
    })
}

#[cfg(test)]
mod tests;
