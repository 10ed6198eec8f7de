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
//! - Nobody writes to them from before we look until after we have let go. These are the program's own, which the system
//!   mapped before `main`, and the images of compiled components that are held here: wasmtime has made them read-only, for
//!   good, before it gave them out.
//! - The kernel says that they are of a file, private and not writable, and hold no page that was ever written to, neither in
//!   memory (`Anonymous`) nor swapped out (`Swap`). Relocations are such pages.
//!
//! Where the kernel says none of this (`/proc` is not there, another system), nothing is done.
//!
//! Must not know when a start is over, or what a plugin is for.

use std::io::{self, BufRead};
use std::ops::Range;
use std::sync::Arc;

use super::compile::Compiled;

/// One line of `/proc/self/smaps` that begins with addresses, and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    addresses: Range<usize>,
    /// Of the program or a component it may be: readable, private, not writable.
    is_fixed: bool,
    /// Device and inode. None for what is of no file.
    file: Option<(String, u64)>,
    /// What was written to, in KiB: in memory, and swapped out. None if it is not told.
    anonymous: Option<u64>,
    swapped: Option<u64>,
}

impl Mapping {
    /// Whether every page of it is as it is in the file.
    fn is_clean(&self) -> bool {
        self.is_fixed && self.file.is_some() && self.anonymous == Some(0) && self.swapped == Some(0)
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
    let here = give_back as *const () as usize;
    let mut given = 0;
    for mapping in ours(mappings(smaps)?, here, &images) {
        if let_go(&mapping).is_ok() {
            given += mapping.addresses.len();
        }
    }
    Ok(given)
}

/// Of all mappings those of the program, in whose code `here` lies, and of these images, as far as they may be let go of.
fn ours(all: Vec<Mapping>, here: usize, images: &[Range<usize>]) -> impl Iterator<Item = Mapping> {
    let program = all
        .iter()
        .find(|mapping| mapping.addresses.contains(&here))
        .and_then(|mapping| mapping.file.clone());
    let is_of_an_image = |start: usize| {
        let before = images.partition_point(|image| image.start <= start);
        before > 0 && images[before - 1].contains(&start)
    };
    all.into_iter().filter(move |mapping| {
        // A mapping does not reach beyond an image that it begins in: what is mapped next to it is of another file.
        (mapping.file.is_some() && mapping.file == program
            || is_of_an_image(mapping.addresses.start))
            && mapping.is_clean()
    })
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code)]
fn let_go(Mapping { addresses, .. }: &Mapping) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(addresses.start);
    // SAFETY: `ours` chose it. It is a mapping of the program, which stays until the process ends, or of an image that the
    // caller of `give_back` holds, so it is the one that was looked at. No page of it was ever written to, and nobody writes
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

/// Reads what proc_pid_smaps(5) describes. What is not understood is left out.
fn mappings(smaps: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let line = line?;
        let mut fields = line.split_ascii_whitespace();
        let Some(first) = fields.next() else {
            continue;
        };
        let Some(name) = first.strip_suffix(':') else {
            all.extend(begun(first, fields));
            continue;
        };
        let told = match (name, all.last_mut()) {
            ("Anonymous", Some(last)) => &mut last.anonymous,
            ("Swap", Some(last)) => &mut last.swapped,
            _ => continue,
        };
        *told = fields.next().and_then(|kibibytes| kibibytes.parse().ok());
    }
    Ok(all)
}

/// `start-end perms offset device inode`, and a path.
fn begun<'a>(addresses: &str, mut fields: impl Iterator<Item = &'a str>) -> Option<Mapping> {
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let addresses = address(start)?..address(end)?;
    let permissions = fields.next()?.as_bytes();
    let (_offset, device, inode) = (fields.next()?, fields.next()?, fields.next()?);
    let inode: u64 = inode.parse().ok()?;
    Some(Mapping {
        addresses,
        is_fixed: matches!(permissions, [b'r', b'-', _, b'p']),
        file: (inode != 0).then(|| (device.to_owned(), inode)),
        anonymous: None,
        swapped: None,
    })
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
