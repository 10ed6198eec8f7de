//! Where the records of the files are, and what they say. Must not know the contract, nor who waits.

use crate::scan::{self, Format, Layout};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::SystemTime;

/// A file at a moment. Two that are equal are taken to hold the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn new(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            length: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

/// The file that `layout` names, or those of the directory whose extension is that of the format, in the order of names.
///
/// # Errors
/// A sentence for people.
pub(crate) fn stamps(layout: &Layout) -> Result<Vec<Stamp>, String> {
    let path = &layout.path;
    let look = || {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_dir() {
            return Ok(vec![Stamp::new(path.into(), &metadata)]);
        }
        let mut stamps = Vec::new();
        for file in std::fs::read_dir(path)? {
            let file = file?.path();
            if file
                .extension()
                .is_some_and(|extension| extension == layout.format.extension())
            {
                let metadata = std::fs::metadata(&file)?;
                stamps.push(Stamp::new(file, &metadata));
            }
        }
        stamps.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(stamps)
    };
    let stamps = look().map_err(|fault: io::Error| {
        format!("`{path}` cannot be read ({fault}); correct `path` in [config], or grant its directory by `dirs` in [grants]")
    })?;
    match stamps
        .iter()
        .find(|stamp| u32::try_from(stamp.length).is_err())
    {
        Some(stamp) => Err(format!(
            "`{}` is larger than 4 GiB; split it",
            stamp.path.display()
        )),
        None => Ok(stamps),
    }
}

/// A digest of 128 bits: that two of a file's keys share one will not happen.
pub(crate) fn digest(what: &(impl Hash + ?Sized)) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new(); // always the same, unlike what a HashMap is made with
        salt.hash(&mut hasher);
        what.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// Where a record is: the number of a file, and bytes in it.
struct Place {
    file: u32,
    from: u32,
    length: u32,
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

/// The places of all records by the digests of their keys. In a tree: a hash table would stop to grow now and then, for
/// longer than a slice may take.
pub(crate) struct Index {
    files: Vec<(Stamp, scan::Header)>,
    places: BTreeMap<u128, Place>,
    format: Format,
}

impl Index {
    /// Indexes `files`, waiting for `breathe` between slices.
    ///
    /// # Errors
    /// A sentence for people that names the file and the place in it.
    pub(crate) async fn build(
        files: Vec<Stamp>,
        layout: &Layout,
        breathe: &impl AsyncFn(),
    ) -> Result<Self, String> {
        let mut index = Self {
            files: Vec::new(),
            places: BTreeMap::new(),
            format: layout.format,
        };
        for stamp in files {
            let at_fault =
                |fault: String| format!("`{}` cannot be indexed: {fault}", stamp.path.display());
            let file = File::open(&stamp.path).map_err(|fault| at_fault(fault.to_string()))?;
            let number = index.files.len() as u32;
            let mut found = |key: &str, from: u64, to: u64| {
                // These fit: `stamps` has refused larger files. The first of several records with a key counts.
                let place = Place {
                    file: number,
                    from: from as u32,
                    length: (to - from) as u32,
                };
                index.places.entry(digest(key)).or_insert(place);
            };
            let header = scan::records(file, layout, &mut found, breathe)
                .await
                .map_err(at_fault)?;
            index.files.push((stamp, header));
        }
        Ok(index)
    }

    /// The record of `key`.
    ///
    /// # Errors
    /// A sentence for people that names the file.
    pub(crate) fn find(&self, key: &str) -> Result<Found, String> {
        let Some(place) = self.places.get(&digest(key)) else {
            return Ok(if self.is_current() {
                Found::Nothing
            } else {
                Found::FileChanged
            });
        };
        let (stamp, header) = &self.files[place.file as usize];
        let read = || -> io::Result<Option<Vec<u8>>> {
            let mut file = File::open(&stamp.path)?;
            let mut record = vec![0; place.length as usize];
            file.seek(SeekFrom::Start(place.from.into()))?;
            file.read_exact(&mut record)?;
            // After the reading: had it changed before, or meanwhile, it would show now.
            let unchanged = Stamp::new(stamp.path.clone(), &file.metadata()?) == *stamp;
            Ok(unchanged.then_some(record))
        };
        match read() {
            Ok(Some(record)) => scan::to_json(record, self.format, header).map(Found::Record),
            Ok(None) => Ok(Found::FileChanged),
            Err(fault)
                if matches!(
                    fault.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Ok(Found::FileChanged)
            }
            Err(fault) => Err(format!(
                "`{}` cannot be read: {fault}",
                stamp.path.display()
            )),
        }
    }

    /// Whether the files are still those that were indexed. What changed while it was indexed is seen by this too.
    fn is_current(&self) -> bool {
        self.files.iter().all(|(stamp, _)| {
            std::fs::metadata(&stamp.path)
                .is_ok_and(|metadata| Stamp::new(stamp.path.clone(), &metadata) == *stamp)
        })
    }
}

#[cfg(test)]
mod tests;
