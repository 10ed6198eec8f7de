//! Where the records of a file are, by the hashes of their keys: 16 bytes a record, in sorted runs. Must not know what a
//! record is, nor where the memory ends.
//!
//! Runs, and not one table: what is full is sorted and never touched again, so that growing copies little and no step is
//! longer than a slice may take. A hash is not a key: who finds a place reads the record and looks.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// How many records a run has: a mebibyte of them.
const RUN: usize = 64 << 10;
/// How many a file with few records begins with.
const FIRST: usize = 16;

/// Bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) from: u32,
    pub(crate) length: u32,
}

/// Ordered by hash, and then as in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    hash: u64,
    place: Place,
}

/// How many bytes the places of so many records take.
pub(crate) const fn bytes(records: usize) -> usize {
    records.div_ceil(RUN) * RUN * size_of::<Slot>()
}

/// There is no memory for another place.
#[derive(Debug)]
pub(crate) struct Full;

/// The places of the records of one file.
#[derive(Default)]
pub(crate) struct Places {
    /// All but the last are full and sorted.
    runs: Vec<Vec<Slot>>,
}

impl Places {
    /// Notes where a record is. The records come in the order of the file.
    ///
    /// # Errors
    /// [`Full`], when the allocator has nothing left. What is noted stays.
    pub(crate) fn note(&mut self, key: &str, place: Place) -> Result<(), Full> {
        self.note_hash(hash(key), place)
    }

    fn note_hash(&mut self, hash: u64, place: Place) -> Result<(), Full> {
        if self.runs.last().is_none_or(|run| run.len() == RUN) {
            self.end();
            self.runs.try_reserve(1).map_err(|_| Full)?;
            self.runs.push(Vec::new());
        }
        if let Some(run) = self.runs.last_mut() {
            if run.len() == run.capacity() {
                let more = run.len().clamp(FIRST, RUN - run.len());
                run.try_reserve_exact(more).map_err(|_| Full)?;
            }
            run.push(Slot { hash, place });
        }
        Ok(())
    }

    /// No more records come.
    pub(crate) fn end(&mut self) {
        if let Some(run) = self.runs.last_mut() {
            run.sort_unstable();
            run.shrink_to_fit();
        }
    }

    /// Where records with the key may be, in the order of the file.
    pub(crate) fn of(&self, key: &str) -> impl Iterator<Item = Place> {
        self.of_hash(hash(key))
    }

    fn of_hash(&self, hash: u64) -> impl Iterator<Item = Place> {
        self.runs.iter().flat_map(move |run| {
            let first = run.partition_point(|slot| slot.hash < hash);
            run[first..]
                .iter()
                .take_while(move |slot| slot.hash == hash)
                .map(|slot| slot.place)
        })
    }
}

/// Always the same for a key, unlike what a `HashMap` is made with.
fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{Place, Places, RUN};

    fn place(from: usize) -> Place {
        Place {
            from: from as u32,
            length: 1,
        }
    }

    #[test]
    fn every_record_is_found_in_whatever_run_it_is() {
        let mut places = Places::default();
        for number in 0..RUN * 2 + 3 {
            places.note(&number.to_string(), place(number)).unwrap();
        }
        places.end();
        for number in [0, 1, RUN - 1, RUN, RUN * 2 - 1, RUN * 2 + 2] {
            let found: Vec<_> = places.of(&number.to_string()).collect();
            assert_eq!(found, [place(number)]);
        }
        assert_eq!(places.of("x").count(), 0);
        assert_eq!(places.of(&(RUN * 2 + 3).to_string()).count(), 0);
    }

    #[test]
    fn keys_that_share_a_hash_are_all_found_in_the_order_of_the_file() {
        let mut places = Places::default();
        for number in 0..RUN * 2 {
            places
                .note_hash(number as u64 % 1000, place(number))
                .unwrap();
        }
        places.end();
        let found: Vec<_> = places.of_hash(7).collect();
        let expect: Vec<_> = (7..RUN * 2).step_by(1000).map(place).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_million_records_take_sixteen_megabytes() {
        assert!(super::bytes(1_000_000) <= 17 << 20);
    }
}
