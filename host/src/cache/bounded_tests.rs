//! Who is let in again, and that it is learned how soon: against requests whose best is known.

use std::hash::{BuildHasherDefault, Hasher};

use super::*;

/// Spreads a number over all bits, and the same way each time.
#[derive(Clone, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        let half = (self.0 ^ self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let half = (half ^ half >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        half ^ half >> 32
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key + 1;
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed here");
    }
}

#[derive(Clone)]
struct Weight(u64);

impl Weighter<u64, ()> for Weight {
    fn weight(&self, _: &u64, (): &()) -> u64 {
        self.0
    }
}

type Tested = Bounded<u64, (), Weight, BuildHasherDefault<Spread>>;

fn room_for(entries: u64, weight: u64) -> Tested {
    Bounded::new(
        entries * weight,
        Weight(weight),
        BuildHasherDefault::default(),
    )
}

/// Asks for these, and keeps what is not there; of the second half, how many of a hundred were.
fn found(cache: &Tested, keys: impl ExactSizeIterator<Item = u64>) -> usize {
    let half = keys.len() / 2;
    let mut hits = 0;
    for (number, key) in keys.enumerate() {
        let is_there = cache.held().get(&key).is_some();
        hits += usize::from(is_there && number >= half);
        if !is_there {
            cache.insert(key, ());
        }
    }
    hits * 100 / half
}

/// Round and round over a quarter more than there is room for.
fn round_and_round(keys: u64) -> impl ExactSizeIterator<Item = u64> {
    (0..400_000_u32).map(move |request| u64::from(request) % keys)
}

/// Each key is asked for six times within a while, and then no more.
fn ever_new() -> impl ExactSizeIterator<Item = u64> {
    (0..400_000_u32).map(|request| {
        let newest = u64::from(request / 6);
        1_000_000 + newest + u64::from(request % 6) * 50
    })
}

#[test]
fn of_keys_that_come_round_nearly_all_stay_that_there_is_room_for_whatever_they_weigh() {
    // At best 80 of a hundred are found; the library alone finds some 65.
    for weight in [256, 1024, 8192] {
        let hits = found(&room_for(4_000, weight), round_and_round(5_000));
        assert!(hits >= 77, "{weight} bytes: {hits}");
    }
}

#[test]
fn it_learns_from_one_kind_of_requests_and_forgets_it_with_the_next() {
    let cache = room_for(4_000, 1024);
    assert!(found(&cache, round_and_round(5_000)) >= 77);
    let halvings = || cache.ghosts.halvings.load(Relaxed);
    assert!(halvings() > HALVINGS_FIRST, "{}", halvings());
    let hits = found(&cache, ever_new());
    assert_eq!(halvings(), 0);
    assert!(hits >= 60, "{hits}");
    let hits = found(&cache, round_and_round(5_000));
    assert!(hits >= 70, "{hits}");
    assert!(halvings() > HALVINGS_FIRST, "{}", halvings());
}

#[test]
fn few_regrets_shorten_the_reach_and_it_takes_many_let_in_to_lengthen_it() {
    let entries = 128_000;
    assert_eq!(judged(3, entries, 999, 999), None);
    assert_eq!(judged(3, entries, 1_999, 1_000), Some(4));
    assert_eq!(judged(3, entries, 2_000, 1_000), None);
    assert_eq!(judged(3, entries, 7_999, 3_000), None);
    assert_eq!(judged(3, entries, 8_000, 3_000), Some(2));
    // Next to none is regretted.
    assert_eq!(judged(3, entries, 999, 0), None);
    assert_eq!(judged(3, entries, 1_000, 62), Some(2));
    assert_eq!(judged(3, entries, 1_000, 63), None);
    // In a small cache there must be some, too.
    assert_eq!(judged(3, 100, 7, 7), None);
    assert_eq!(judged(3, 100, 8, 8), Some(4));
    assert_eq!(judged(3, 100, 31, 0), None);
    // At the ends it stays.
    assert_eq!(judged(0, 100, 32, 0), Some(0));
    assert_eq!(judged(HALVINGS_MOST, 100, 8, 8), Some(HALVINGS_MOST));
}

#[test]
fn one_that_is_stored_again_came_back_once() {
    let ghosts = Ghosts::new(1024);
    let hash = 0x1234_5678_9abc_def0;
    assert!(!ghosts.is_let_in(hash, || 100), "nobody was evicted");
    ghosts.note(hash, Part::Queue);
    assert!(!ghosts.is_let_in(!hash, || 100), "another was");
    assert!(ghosts.is_let_in(hash, || 100));
    assert!(!ghosts.is_let_in(hash, || 100));
}

#[test]
fn one_that_was_evicted_long_ago_is_let_in_on_trial_alone() {
    let ghosts = Ghosts::new(1 << 20);
    let hash = |number: u64| Spread(number).finish();
    // The first that comes back is on trial; whom it concerns here is the second.
    ghosts.note(hash(1), Part::Queue);
    ghosts.note(hash(2), Part::Queue);
    for other in 0..60 {
        ghosts.note(hash(1000 + other), Part::Queue);
    }
    assert!(ghosts.is_let_in(hash(1), || 100));
    assert_eq!((100 * REACH) >> HALVINGS_FIRST, 50);
    assert!(!ghosts.is_let_in(hash(2), || 100), "60 evictions ago");
    assert!(ghosts.is_let_in(hash(1050), || 100), "10 evictions ago");
}

#[test]
fn a_ghost_knows_where_it_was_evicted_from_and_how_long_ago() {
    let hash = 0xabcd_ef01_0000_0007;
    let ghost = Ghost::new(hash, Part::Rest, Ghost::NUMBER);
    assert!(ghost.is_of(hash) && ghost.is_from_rest());
    assert!(!ghost.is_of(hash ^ 1 << 40));
    assert_eq!(ghost.age(Ghost::NUMBER + 5), 5);
    assert!(!Ghost::new(hash, Part::Queue, 1).is_from_rest());
    assert!(!Ghost(0).is_of(7), "an empty place is nobody's");
}
