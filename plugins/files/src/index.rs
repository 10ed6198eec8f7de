//! The index of the files: where each record is, and what it says. Must not know the contract, nor who waits.

use crate::places::{self, Full, Place, Places};
use crate::room;
use crate::scan::{self, Layout};
use crate::stamp::Stamp;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::rc::Rc;

/// Opening a file takes as long as scanning so many bytes.
const OPENING: usize = 8 << 10;
/// How many records are noted before it is asked again whether there is room for more.
const LOOK: usize = 16 << 10;

/// Why there is no index, or no record: a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The files are not as they should be.
    Unreadable(String),
    /// The memory of the plugin does not suffice.
    TooLarge(String),
}

/// A digest of 128 bits, for an entity tag.
pub(crate) fn digest(what: &(impl Hash + ?Sized)) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new(); // always the same, unlike what a HashMap is made with
        salt.hash(&mut hasher);
        what.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// What there is for a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This JSON.
    Record(Vec<u8>),
    Nothing,
    /// The index is out of date.
    FileChanged,
}

/// A record that is there, and where.
#[derive(Debug)]
pub(crate) struct Spot {
    /// The number of its file, in the order of names.
    pub(crate) file: usize,
    pub(crate) place: Place,
    /// Its bytes, as the file has them.
    pub(crate) record: Vec<u8>,
}

/// What is known of a file to write into.
pub(crate) struct About<'i> {
    pub(crate) stamp: &'i Stamp,
    pub(crate) header: &'i scan::Header,
    pub(crate) end: Option<scan::ArrayEnd>,
}

/// One file, indexed.
struct Indexed {
    stamp: Stamp,
    header: scan::Header,
    end: Option<scan::ArrayEnd>,
    places: Places,
    records: usize,
}

/// The places of all records. What did not change from one index to the next is shared by both.
pub(crate) struct Index {
    files: Vec<Rc<Indexed>>,
    layout: Layout,
}

impl Index {
    /// Indexes `files`, but those that `last` has as they are, waiting for `breathe` between slices.
    ///
    /// # Errors
    /// The file and the place in it that cannot be read, or how much memory the index would need.
    pub(crate) async fn build(
        files: Vec<Stamp>,
        last: Option<Rc<Self>>,
        layout: &Layout,
        breathe: &impl AsyncFn(),
    ) -> Result<Self, Fault> {
        let mut kept: Vec<Rc<Indexed>> = last.map_or_else(Vec::new, |last| last.files.clone());
        // The rest is let go of first: there may not be room for both.
        kept.retain(|file| {
            let at = files.binary_search_by(|stamp| stamp.path.cmp(&file.stamp.path));
            at.is_ok_and(|at| files[at] == file.stamp)
        });
        let mut kept = kept.into_iter().peekable();
        let mut indexed = Vec::new();
        let mut tally = Tally::default();
        let mut since_breath = 0;
        for stamp in files {
            if let Some(file) = kept.next_if(|file| file.stamp == stamp) {
                tally.records += file.records;
                indexed.push(file);
                continue;
            }
            since_breath += OPENING + stamp.length as usize;
            let file = scan(stamp, layout, &mut tally, breathe).await?;
            indexed.push(Rc::new(file));
            if tally.full {
                // From here on it is only counted, to say how much would be needed.
                indexed.clear();
            }
            if since_breath >= scan::SLICE {
                breathe().await;
                since_breath = 0;
            }
        }
        if tally.full {
            drop((indexed, kept));
            return Err(too_large(tally.records));
        }
        Ok(Self {
            files: indexed,
            layout: layout.clone(),
        })
    }

    /// The record of `key`, waiting for `breathe` between slices.
    ///
    /// # Errors
    /// The file that cannot be read, or the record that there is no room for.
    pub(crate) async fn find(&self, key: &str, breathe: &impl AsyncFn()) -> Result<Found, Fault> {
        for file in &self.files {
            for place in file.places.of(key) {
                let Some(record) = file.read(place)? else {
                    return Ok(Found::FileChanged);
                };
                let is_of = scan::is_of(&record, key, &self.layout, &file.header, breathe).await;
                if is_of.map_err(|fault| file.at_fault(&fault))? {
                    let json = scan::to_json(record, self.layout.format, &file.header);
                    return json
                        .map(Found::Record)
                        .map_err(|fault| file.at_fault(&fault));
                }
            }
        }
        Ok(Found::Nothing)
    }

    /// Every record of `key`, the one that counts first; nothing where the index is out of date.
    ///
    /// # Errors
    /// As of [`Index::find`].
    pub(crate) async fn all(
        &self,
        key: &str,
        breathe: &impl AsyncFn(),
    ) -> Result<Option<Vec<Spot>>, Fault> {
        let mut spots = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            for place in file.places.of(key) {
                let Some(record) = file.read(place)? else {
                    return Ok(None);
                };
                let is_of = scan::is_of(&record, key, &self.layout, &file.header, breathe).await;
                if is_of.map_err(|fault| file.at_fault(&fault))? {
                    spots.push(Spot {
                        file: number,
                        place,
                        record,
                    });
                }
            }
        }
        Ok(Some(spots))
    }

    /// The file of this number.
    pub(crate) fn file(&self, number: usize) -> Option<About<'_>> {
        let file = self.files.get(number)?;
        Some(About {
            stamp: &file.stamp,
            header: &file.header,
            end: file.end,
        })
    }

    /// The number of the last file, which new records go to.
    pub(crate) fn last(&self) -> Option<usize> {
        self.files.len().checked_sub(1)
    }
}

/// How many records there are, and whether there is still room for them.
#[derive(Default)]
struct Tally {
    records: usize,
    full: bool,
}

impl Tally {
    fn note(&mut self, places: &mut Places, key: &str, place: Place) {
        self.records += 1;
        self.full |= self.records % LOOK == 1 && room::is_short();
        if self.full || matches!(places.note(key, place), Err(Full)) {
            self.full = true;
            *places = Places::default();
        }
    }
}

async fn scan(
    stamp: Stamp,
    layout: &Layout,
    tally: &mut Tally,
    breathe: &impl AsyncFn(),
) -> Result<Indexed, Fault> {
    let at_fault = |fault: String| {
        let path = stamp.path.display();
        Fault::Unreadable(format!("`{path}` cannot be indexed: {fault}"))
    };
    let file = File::open(&stamp.path).map_err(|fault| at_fault(fault.to_string()))?;
    let mut places = Places::default();
    let before = tally.records;
    let mut found = |key: &str, from: u64, to: u64| {
        // These fit: larger files have been refused.
        let place = Place {
            from: from as u32,
            length: (to - from) as u32,
        };
        tally.note(&mut places, key, place);
    };
    let scan::Scanned { header, end } =
        scan::records(file, stamp.length, layout, &mut found, breathe)
            .await
            .map_err(at_fault)?;
    places.end();
    Ok(Indexed {
        stamp,
        header,
        end,
        places,
        records: tally.records - before,
    })
}

impl Indexed {
    /// The bytes at a place, or nothing if the file has changed.
    fn read(&self, place: Place) -> Result<Option<Vec<u8>>, Fault> {
        let mut record = Vec::new();
        if record.try_reserve_exact(place.length as usize).is_err() {
            return Err(Fault::TooLarge(format!(
                "a record of `{}` has {} bytes, and there is no memory for it; raise `memory` in [limits] of the sidecar",
                self.stamp.path.display(),
                place.length
            )));
        }
        record.resize(place.length as usize, 0);
        let mut read = || -> io::Result<bool> {
            let mut file = File::open(&self.stamp.path)?;
            file.seek(SeekFrom::Start(place.from.into()))?;
            file.read_exact(&mut record)?;
            // After the reading: had it changed before, or meanwhile, it would show now.
            Ok(Stamp::new(self.stamp.path.clone(), &file.metadata()?) == self.stamp)
        };
        match read() {
            Ok(unchanged) => Ok(unchanged.then_some(record)),
            Err(fault)
                if matches!(
                    fault.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Ok(None)
            }
            Err(fault) => Err(self.at_fault(&fault.to_string())),
        }
    }

    fn at_fault(&self, fault: &str) -> Fault {
        let path = self.stamp.path.display();
        Fault::Unreadable(format!("`{path}` cannot be read: {fault}"))
    }
}

/// What an index of so many records would need.
fn too_large(records: usize) -> Fault {
    let limit = room::limit();
    let enough = room::mebibytes_for(places::bytes(records), limit);
    let limit = limit.map_or_else(String::new, |limit| match (limit >> 10, limit >> 20) {
        (kib, mib) if kib == mib << 10 => format!(" = \"{mib}MiB\""),
        (kib, _) => format!(" = \"{kib}KiB\""),
    });
    Fault::TooLarge(format!(
        "the files hold {records} records, and [limits] memory{limit} does not hold their index; write `memory = \"{enough}MiB\"` into [limits] of the sidecar"
    ))
}

#[cfg(test)]
pub(crate) mod tests;
