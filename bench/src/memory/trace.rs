//! Traces: which key is asked for next. Seeded, so that everyone is asked for the same. Must not know who is asked.

use clap::ValueEnum;
use rand::{SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Zipf};

/// The keys that are asked for by their popularity.
const POPULAR: u64 = 200_000;
/// In a trace with scans, of so many requests a tenth is one scan.
const BETWEEN_SCANS: usize = 100_000;

/// In a trace whose popularity moves, after so many requests the most popular key is a new one, and each other the next popular.
const BETWEEN_MOVES: usize = 20;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Trace {
    /// Popularity by Zipf's law, exponent 0.8: what many clients together ask for.
    Zipf,
    /// The same with exponent 1.0, steeper.
    Zipf1,
    /// Zipf with scans: now and then 10,000 keys that nobody asks for again.
    Scans,
    /// Zipf with exponent 1.0, and what is popular changes all the time: a key is asked for ever more, and then no more.
    Moving,
    /// Round and round over a quarter more than there is room for.
    Loop,
}

impl Trace {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zipf => "Zipf, 0.8",
            Self::Zipf1 => "Zipf, 1.0",
            Self::Scans => "Zipf, 0.8, with scans",
            Self::Moving => "Zipf, 1.0, that moves on",
            Self::Loop => "a loop over 1.25 of the room",
        }
    }

    /// The keys of `requests` requests to a cache with room for `room` entries.
    pub(crate) fn keys(self, requests: usize, room: usize, seed: u64) -> Vec<u64> {
        match self {
            Self::Zipf => zipf(0.8, requests, seed),
            Self::Zipf1 => zipf(1.0, requests, seed),
            Self::Scans => {
                let mut keys = zipf(0.8, requests, seed);
                let mut fresh = POPULAR;
                for chunk in keys.chunks_mut(BETWEEN_SCANS) {
                    let scan = chunk.len() / 10;
                    for key in &mut chunk[..scan] {
                        fresh += 1;
                        *key = fresh;
                    }
                }
                keys
            }
            Self::Moving => {
                let mut keys = zipf(1.0, requests, seed);
                for (number, key) in keys.iter_mut().enumerate() {
                    *key += (number / BETWEEN_MOVES) as u64;
                }
                keys
            }
            Self::Loop => (0..requests)
                .map(|request| (request % (room + room / 4)) as u64)
                .collect(),
        }
    }
}

fn zipf(exponent: f64, requests: usize, seed: u64) -> Vec<u64> {
    let law = Zipf::new(POPULAR as f64, exponent).expect("both are positive");
    let mut random = SmallRng::seed_from_u64(seed);
    (0..requests)
        .map(|_| law.sample(&mut random) as u64)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_trace_and_another_seed_another() {
        for trace in [Trace::Zipf, Trace::Scans] {
            assert_eq!(trace.keys(1000, 10, 1), trace.keys(1000, 10, 1));
            assert_ne!(trace.keys(1000, 10, 1), trace.keys(1000, 10, 2));
        }
    }

    #[test]
    fn a_tenth_of_a_trace_with_scans_is_never_asked_for_again() {
        let keys = Trace::Scans.keys(200_000, 10, 1);
        let scanned: Vec<u64> = keys.into_iter().filter(|key| *key > POPULAR).collect();
        assert_eq!(scanned.len(), 20_000);
        assert_eq!(scanned.iter().collect::<HashSet<_>>().len(), 20_000);
    }

    #[test]
    fn what_was_popular_is_not_asked_for_once_popularity_has_moved_on() {
        let keys = Trace::Moving.keys(100_000, 10, 1);
        // Of a hundred requests more than ten are for the few that are the most popular then.
        let popular = |from: u64, asked: &[u64]| {
            let those = from + 1..from + 20;
            asked.iter().filter(|key| those.contains(key)).count()
        };
        assert!(popular(0, &keys[..100]) > 10);
        assert!(popular(4_000, &keys[80_000..80_100]) > 10);
        assert!(keys[80_000..].iter().all(|key| *key > 4_000));
    }

    #[test]
    fn a_loop_is_a_quarter_longer_than_there_is_room() {
        let keys = Trace::Loop.keys(100, 8, 1);
        assert_eq!(keys.iter().max(), Some(&9));
        assert_eq!(keys[10], 0);
    }
}
