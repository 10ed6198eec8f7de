//! Which keys are asked for most: a bounded number of them, with counts that are nearly right. Knows what is asked for, and
//! not what became of it.
//!
//! A map of counts that forgets, as in the frequent-items sketch (Anderson, Bevin, Lang, Liberty, Rhodes and Thaler, "A
//! High-Performance Algorithm for Identifying Frequent Items in Data Streams", IMC 2017): when it is full, the median of its
//! counts is taken from all of them, and who has nothing left is forgotten. So a key that has more than 2 of every
//! [`PER_KEY`] × `keys` requests is never forgotten, whatever else is asked for, and a request costs the same however many
//! keys there are. Counts age, so that what was asked for yesterday gives way to what is today.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Ask;
use crate::key::{Key, Parts, Visibility};

/// Keys that are counted, for each that is wanted.
const PER_KEY: usize = 4;
/// One of so many hits is counted, and for so many: a hit has 8 µs in all.
const EVERY: u32 = 32;
/// What a count keeps from one stock-taking to the next: half of it after ten.
const KEPT: f64 = 0.933;
/// What is less than this is forgotten: a single request, after 66 stock-takings with others between them.
const LEAST: f64 = 0.01;
/// Bytes of a key and its parts. Longer ones are not remembered: their number alone would not bound them (law 12).
const KEY_BYTES_MAX: usize = 2048;

thread_local! {
    /// How many hits of this thread pass until the next is counted.
    static UNTIL_COUNTED: Cell<u32> = const { Cell::new(1) };
}

/// A key that is asked for much, with all that it takes to ask for it again after a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HotKey {
    /// The pattern of its route.
    pub route: Arc<str>,
    /// By which rule its parts were made of a request, as an identity.
    pub rule: Arc<str>,
    /// Its text, which names its resource and the identity of its loaders.
    pub key: Arc<str>,
    /// All that a loader is told.
    pub parts: Parts,
    /// Who may share the answer.
    pub visibility: Visibility,
    /// About how often it was asked for, lately.
    pub count: f64,
}

/// The counts: one per process.
pub struct HotKeys {
    keys: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    of: HashMap<Key, Counted>,
    /// Something was asked for since the last stock-taking.
    is_new: bool,
}

/// No binding: it would keep plugins that were replaced.
struct Counted {
    route: Arc<str>,
    rule: Arc<str>,
    parts: Parts,
    visibility: Visibility,
    count: f64,
}

impl HotKeys {
    /// Finds this many.
    pub fn new(keys: usize) -> Self {
        Self {
            keys,
            counts: Mutex::default(),
        }
    }

    /// It was asked for, and was there. A sample is counted, at random: clients that ask in turns would fool a fixed one.
    #[inline]
    pub fn hit(&self, ask: &Ask, rule: &Arc<str>) {
        let left = UNTIL_COUNTED.get();
        if left > 1 {
            UNTIL_COUNTED.set(left - 1);
            return;
        }
        UNTIL_COUNTED.set(rand::random_range(1..2 * EVERY));
        self.count(ask, rule, f64::from(EVERY));
    }

    /// It was asked for, and was not there. That cost so much that each is counted, and so a key need not be asked for
    /// often to be known.
    pub fn missed(&self, ask: &Ask, rule: &Arc<str>) {
        self.count(ask, rule, 1.0);
    }

    /// Who finds another counting does not wait: a request that is not counted costs nothing.
    fn count(&self, ask: &Ask, rule: &Arc<str>, count: f64) {
        if let Some(mut counts) = self.counts.try_lock() {
            counts.add(ask, rule, count, self.keys * PER_KEY);
            counts.is_new = true;
        }
    }

    /// It was asked for so often before the start.
    pub fn restore(&self, ask: &Ask, rule: &Arc<str>, count: f64) {
        let mut counts = self.counts.lock();
        counts.add(ask, rule, count, self.keys * PER_KEY);
    }

    /// The keys that are asked for most, hottest first; none if nothing was asked for since this was asked last. Lets the
    /// counts age.
    pub fn take_stock(&self) -> Option<Vec<HotKey>> {
        let mut hottest = self.counts.lock().age_and_list()?;
        hottest.sort_unstable_by(|a, b| b.count.total_cmp(&a.count));
        hottest.truncate(self.keys);
        Some(hottest)
    }
}

impl Counts {
    fn add(&mut self, ask: &Ask, rule: &Arc<str>, count: f64, most: usize) {
        if let Some(counted) = self.of.get_mut(&ask.key) {
            counted.count += count;
            if !Arc::ptr_eq(&counted.rule, rule) {
                counted.rule = Arc::clone(rule);
                counted.visibility = ask.visibility;
            }
            return;
        }
        let parts = ask.parts.iter();
        let parts: usize = parts.map(|part| part.name.len() + part.value.len()).sum();
        if ask.key.weight() + parts > KEY_BYTES_MAX {
            return;
        }
        if self.of.len() >= most {
            self.make_room();
        }
        let counted = Counted {
            route: Arc::clone(&ask.binding.route),
            rule: Arc::clone(rule),
            parts: Arc::clone(&ask.parts),
            visibility: ask.visibility,
            count,
        };
        self.of.insert(ask.key.clone(), counted);
    }

    /// Half of them go at least, so this is as rare as it is dear.
    fn make_room(&mut self) {
        let mut counts: Vec<f64> = self.of.values().map(|counted| counted.count).collect();
        let middle = counts.len() / 2;
        let median = *counts.select_nth_unstable_by(middle, f64::total_cmp).1;
        self.of.retain(|_, counted| {
            counted.count -= median;
            counted.count > 0.0
        });
    }

    fn age_and_list(&mut self) -> Option<Vec<HotKey>> {
        if !std::mem::take(&mut self.is_new) {
            return None;
        }
        self.of.retain(|_, counted| {
            counted.count *= KEPT;
            counted.count >= LEAST
        });
        let list = self.of.iter().map(|(key, counted)| HotKey {
            route: Arc::clone(&counted.route),
            rule: Arc::clone(&counted.rule),
            key: key.text().into(),
            parts: Arc::clone(&counted.parts),
            visibility: counted.visibility,
            count: counted.count,
        });
        Some(list.collect())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of whoever remembers keys share: questions, of which nothing but the key matters.

    use std::time::Duration;

    use super::*;
    use crate::cache::freshness::{Policy, RefreshAhead};
    use crate::cache::{Batching, Binding};
    use crate::key::{Param, Resource};

    /// A question for this key of `/data/{key}`.
    pub(crate) fn ask(key: &str) -> Ask {
        let policy = Policy {
            ttl: Duration::from_secs(60),
            ttl_max: Duration::from_secs(60),
            jitter: 0.0,
            refresh_ahead: RefreshAhead::Off,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            missing_ttl: Duration::ZERO,
            failure_ttl: Duration::ZERO,
            soft_timeout: None,
            timeout: Duration::from_secs(2),
        };
        let binding = Binding {
            route: "/data/{key}".into(),
            policy,
            batching: Batching {
                window: Duration::ZERO,
                max: 1,
            },
            chain: Vec::new(),
            counters: Arc::default(),
            places: Arc::default(),
            underway: None,
        };
        let parts = [Param::new("key", key)];
        let key = Key::new(&Resource::new("/data/{key}", [key]), "demo~1", &parts).unwrap();
        Ask::new(Arc::new(binding), key, parts.into(), Visibility::Private)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::testing::ask;
    use super::*;

    fn values(hot: &HotKeys) -> Vec<String> {
        let hottest = hot.take_stock().expect("something was asked for");
        hottest
            .iter()
            .map(|hot| hot.parts[0].value.clone())
            .collect()
    }

    #[test]
    fn the_hot_keys_of_a_skewed_stream_are_found_and_no_more_is_kept_than_the_bound() {
        let rule = "rule".into();
        let hot = HotKeys::new(50);
        let mut random = StdRng::seed_from_u64(7);
        // Half of all requests are for 20 keys, of which each is asked for more often than the next; the others are for
        // whatever comes, as a crawler asks.
        for _ in 0..100_000 {
            let key = if random.random_bool(0.5) {
                random.random_range(0..20).min(random.random_range(0..20))
            } else {
                random.random_range(100..1_000_000)
            };
            hot.missed(&ask(&key.to_string()), &rule);
            assert!(hot.counts.lock().of.len() <= 200);
        }
        let hottest = values(&hot);
        assert_eq!(hottest.len(), 50);
        // Those that have more than a hundredth of all, as 2 of every 200 is.
        for key in 0..16 {
            let place = hottest.iter().position(|value| *value == key.to_string());
            assert!(place.is_some_and(|place| place < 20), "{key}: {hottest:?}");
        }
        assert_eq!(hottest[0], "0");
    }

    #[test]
    fn hits_are_sampled_and_count_for_all() {
        let rule = "rule".into();
        let hot = HotKeys::new(10);
        let (one, other) = (ask("one"), ask("other"));
        // In turns: a fixed sample would see only one of them.
        for _ in 0..100_000 {
            hot.hit(&one, &rule);
            hot.hit(&other, &rule);
        }
        for counted in hot.take_stock().unwrap() {
            let hits = counted.count / KEPT;
            assert!((80_000.0..120_000.0).contains(&hits), "{counted:?}");
        }
    }

    #[test]
    fn who_finds_another_counting_goes_on() {
        let hot = Arc::new(HotKeys::new(10));
        let other = hot.counts.lock();
        let (done, is_done) = std::sync::mpsc::channel();
        let asking = Arc::clone(&hot);
        std::thread::spawn(move || {
            asking.missed(&ask("42"), &"rule".into());
            done.send(()).unwrap();
        });
        let went_on = is_done.recv_timeout(Duration::from_secs(20));
        drop(other);
        assert!(went_on.is_ok(), "it waits");
        assert_eq!(hot.take_stock(), None, "and is not counted");
    }

    #[test]
    fn what_is_asked_for_now_displaces_what_was_and_in_the_end_it_is_forgotten() {
        let rule = "rule".into();
        let hot = HotKeys::new(1);
        hot.restore(&ask("then"), &rule, 1000.0);
        assert_eq!(hot.take_stock(), None, "nobody has asked for anything");
        let now = ask("now");
        let stock = || {
            for _ in 0..50 {
                hot.missed(&now, &rule);
            }
            values(&hot)
        };
        assert_eq!(stock(), ["then"]);
        for _ in 0..20 {
            stock();
        }
        assert_eq!(stock(), ["now"]);
        for _ in 0..200 {
            stock();
        }
        assert_eq!(hot.counts.lock().of.len(), 1);
    }

    #[test]
    fn law_12_long_keys_are_not_remembered() {
        let rule = "rule".into();
        let hot = HotKeys::new(10);
        hot.missed(&ask(&"x".repeat(3000)), &rule);
        hot.missed(&ask("42"), &rule);
        assert_eq!(values(&hot), ["42"]);
    }

    #[test]
    fn a_key_is_known_with_all_that_it_takes_to_ask_again() {
        let older = "older".into();
        let hot = HotKeys::new(10);
        let asked = ask("42");
        hot.missed(&asked, &older);
        hot.missed(&asked, &"newer".into());
        let expected = HotKey {
            route: "/data/{key}".into(),
            rule: "newer".into(),
            key: asked.key.text().into(),
            parts: asked.parts,
            visibility: Visibility::Private,
            count: 2.0 * KEPT,
        };
        assert_eq!(hot.take_stock(), Some(vec![expected]));
    }
}
