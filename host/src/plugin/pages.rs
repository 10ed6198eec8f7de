//! Pages that only a start needs, given back to the kernel when it is over.
//!
//! Most of the program's text runs once (the command line, the configuration, schemas, what deserializes compiled code), and
//! most of a compiled plugin is read once and called never. Mapped, all of it is resident memory of this process until the
//! kernel is short of memory. Let go of, it stays in the kernel's cache of files as long as there is room; what is needed
//! after all comes back sixteen pages at a time, without being read from the disk.
//!
//! # What may be let go of
//! A page of a file that is mapped privately and was not written to has nothing that is not in the file: unmapped, it comes
//! back the same. A page that *was* written to would come back as it is in the file, and the change would be lost. So only
//! mappings are touched of which two things hold:
//! - Nobody unmaps them or writes to them from before we look until after we have let go. These are the two of the program
//!   that hold its code and its constants, which the system mapped before `main`; and the images of compiled components that
//!   are held here: wasmtime has made them read-only, for good, before it gave them out. Other mappings of the same files are
//!   not meant: a backtrace maps the program, too, and where it was something else may be the next moment.
//! - The kernel says that they are of a file, private and not writable, and hold no page that was ever written to, neither in
//!   memory (`Anonymous`) nor swapped out (`Swap`). Relocations are such pages, and so are a debugger's breakpoints.
//!
//! Where the kernel says none of this (`/proc` is not there, another system), nothing is done.
//!
//! Must not know when a start is over, or what a plugin is for.

use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

use super::compile::Compiled;

/// Lies among the constants of the program, for nothing of it is known only when the program is mapped.
static CONSTANT: [u8; 4] = *b"here";

/// A mapping of a file that is private, and not writable now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    /// What was written to all the same, in KiB: in memory, and swapped out. None if it is not told.
    anonymous: Option<u64>,
    swapped: Option<u64>,
}

impl Mapping {
    /// Whether every page of it is as it is in the file.
    fn is_clean(&self) -> bool {
        self.anonymous == Some(0) && self.swapped == Some(0)
    }
}

/// Lets go of the pages of the program and of these components. Returns how many bytes of address space those were; nothing
/// is lost by an error. It reads all mappings of the process: some 5 ms with ten plugins, 90 with a thousand. Whatever is
/// mapped or unmapped meanwhile waits no longer than for a part of that; who runs code that was let go of waits for it to be
/// mapped again.
///
/// # Errors
/// The kernel does not say what is mapped.
pub(super) fn give_back(held: &[Arc<Compiled>]) -> io::Result<usize> {
    let smaps = io::BufReader::with_capacity(1 << 16, std::fs::File::open("/proc/self/smaps")?);
    let mut images: Vec<_> = held.iter().map(|compiled| compiled.image()).collect();
    images.sort_unstable_by_key(|image| image.start);
    // Something of the program's code, and something of its constants.
    let program = [give_back as *const () as usize, CONSTANT.as_ptr().addr()];
    let mut given = 0;
    for mapping in ours(mappings(smaps)?, &program, &images) {
        if let_go(&mapping).is_ok() {
            given += mapping.addresses.len();
        }
    }
    Ok(given)
}

/// Of these mappings those that hold something of the program, and those of these images, as far as they may be let go of.
fn ours(
    all: Vec<Mapping>,
    program: &[usize],
    images: &[Range<usize>],
) -> impl Iterator<Item = Mapping> {
    let is_of_the_program = |Mapping { addresses, .. }: &Mapping| {
        program
            .iter()
            .any(|something| addresses.contains(something))
    };
    let is_of_an_image = |start: usize| {
        let before = images.partition_point(|image| image.start <= start);
        before > 0 && images[before - 1].contains(&start)
    };
    all.into_iter().filter(move |mapping| {
        // A mapping does not reach beyond an image that it begins in: what is mapped next to it is of another file.
        (is_of_the_program(mapping) || is_of_an_image(mapping.addresses.start))
            && mapping.is_clean()
    })
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code)]
fn let_go(Mapping { addresses, .. }: &Mapping) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(addresses.start);
    // SAFETY: `ours` chose it. It holds something of the program, and so stays until the process ends, or it is of an image
    // that the caller of `give_back` holds: it is still what was looked at. No page of it was ever written to, and nobody writes
    // to it now (see above): each comes back with the same bytes, so nobody who reads it or runs it can tell.
    unsafe {
        rustix::mm::madvise(start, addresses.len(), rustix::mm::Advice::LinuxDontNeed)?;
    }
    Ok(())
}

/// Elsewhere the same advice has another meaning, or none.
#[cfg(not(target_os = "linux"))]
fn let_go(_: &Mapping) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Reads what proc_pid_smaps(5) describes, and keeps what may be one of ours: there are some thousand other mappings.
fn mappings(mut smaps: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut all = Vec::new();
    // What the lines that come next are about. None where that is nothing of ours, or not understood: lines are never taken
    // for those of the mapping before.
    let mut told: Option<Mapping> = None;
    let mut line = Vec::new();
    while smaps.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let mut fields = text.split_ascii_whitespace();
        let first = fields.next().unwrap_or_default();
        match (first.strip_suffix(':'), &mut told) {
            (None, told) => all.extend(std::mem::replace(told, begun(first, fields))),
            (Some("Anonymous"), Some(told)) => told.anonymous = kibibytes(fields),
            (Some("Swap"), Some(told)) => told.swapped = kibibytes(fields),
            _ => {}
        }
        line.clear();
    }
    all.extend(told);
    Ok(all)
}

/// `start-end perms offset device inode`, and a path. None for what is of no file, shared, writable, or not readable.
fn begun<'a>(addresses: &str, mut fields: impl Iterator<Item = &'a str>) -> Option<Mapping> {
    let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = addresses.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let (_offset, _device) = (fields.next()?, fields.next()?);
    let inode: u64 = fields.next()?.parse().ok()?;
    let may_be = matches!(permissions, [b'r', b'-', _, b'p']) && inode != 0;
    may_be.then_some(Mapping {
        addresses: hexadecimal(start)?..hexadecimal(end)?,
        anonymous: None,
        swapped: None,
    })
}

fn kibibytes<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<u64> {
    fields.next()?.parse().ok()
}

#[cfg(test)]
#[path = "pages_tests.rs"]
pub(super) mod tests;
