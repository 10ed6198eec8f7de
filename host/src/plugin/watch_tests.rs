//! Law 8, the beginning: a file that is still being written is not judged. Time is passed in, nothing sleeps.

use super::*;
use crate::plugin::files::Stamp;

/// A component of `size` bytes, changed at `at`, and its sidecar.
fn stamps(size: Option<u64>, sidecar: Option<u64>) -> Stamps {
    let stamp = |size: u64| Stamp::File {
        inode: 1,
        size,
        modified: (size.cast_signed(), 0),
        changed: (size.cast_signed(), 0),
    };
    Stamps {
        component: size.map(stamp),
        sidecar: sidecar.map(stamp),
    }
}

struct Scene {
    debounce: Debounce,
    begin: Instant,
}

impl Scene {
    fn new(settled: &[(&str, Stamps)]) -> Self {
        let settled = settled
            .iter()
            .map(|(name, stamps)| ((*name).to_owned(), *stamps))
            .collect();
        Self {
            debounce: Debounce::settled(settled),
            begin: Instant::now(),
        }
    }

    /// At `ms`, the directory shows `seen`: which plugins are due?
    fn at(&mut self, ms: u64, seen: &[(&str, Stamps)]) -> Vec<String> {
        let seen = seen
            .iter()
            .map(|(name, stamps)| ((*name).to_owned(), *stamps))
            .collect();
        let now = self.begin + Duration::from_millis(ms);
        self.debounce.observe(now, seen)
    }

    fn next(&self) -> Option<u128> {
        self.debounce
            .next_due()
            .map(|due| due.duration_since(self.begin).as_millis())
    }
}

#[test]
fn a_file_is_due_after_100_ms_without_change() {
    let mut scene = Scene::new(&[]);
    let file = [("demo", stamps(Some(10), None))];
    assert!(scene.at(0, &file).is_empty());
    assert_eq!(scene.next(), Some(100));
    assert!(scene.at(99, &file).is_empty());
    assert_eq!(scene.at(100, &file), ["demo"]);
    assert_eq!(scene.next(), None);
    assert!(scene.at(10_000, &file).is_empty(), "judged once");
}

#[test]
fn a_half_written_file_waits_until_its_writer_rests() {
    let mut scene = Scene::new(&[("demo", stamps(Some(10), None))]);
    for (ms, size) in [(0, 1), (50, 2), (120, 3), (190, 4)] {
        assert!(
            scene
                .at(ms, &[("demo", stamps(Some(size), None))])
                .is_empty()
        );
    }
    let whole = [("demo", stamps(Some(4), None))];
    assert!(scene.at(289, &whole).is_empty());
    assert_eq!(scene.at(290, &whole), ["demo"]);
}

#[test]
fn a_component_and_its_sidecar_that_change_together_are_judged_together() {
    let mut scene = Scene::new(&[("demo", stamps(Some(1), Some(1)))]);
    assert!(
        scene
            .at(0, &[("demo", stamps(Some(2), Some(1)))])
            .is_empty()
    );
    let both = [("demo", stamps(Some(2), Some(2)))];
    assert!(scene.at(90, &both).is_empty());
    assert!(
        scene.at(180, &both).is_empty(),
        "the sidecar began the wait anew"
    );
    assert_eq!(scene.at(190, &both), ["demo"]);
}

#[test]
fn a_file_that_is_replaced_by_remove_and_copy_is_not_retired() {
    let mut scene = Scene::new(&[("demo", stamps(Some(1), None))]);
    assert!(scene.at(0, &[("demo", stamps(None, None))]).is_empty());
    let new = [("demo", stamps(Some(2), None))];
    assert!(scene.at(60, &new).is_empty());
    assert_eq!(scene.at(160, &new), ["demo"]);
}

#[test]
fn a_change_that_is_taken_back_is_none() {
    let old = [("demo", stamps(Some(1), None))];
    let mut scene = Scene::new(&old);
    assert!(scene.at(0, &[("demo", stamps(Some(2), None))]).is_empty());
    assert!(scene.at(50, &old).is_empty());
    assert_eq!(scene.next(), None);
}

#[test]
fn plugins_wait_for_themselves_alone() {
    let mut scene = Scene::new(&[]);
    let a = ("a", stamps(Some(1), None));
    assert!(scene.at(0, &[a]).is_empty());
    assert!(scene.at(80, &[a, ("b", stamps(Some(1), None))]).is_empty());
    assert_eq!(scene.at(100, &[a, ("b", stamps(Some(2), None))]), ["a"]);
    assert_eq!(scene.at(200, &[a, ("b", stamps(Some(2), None))]), ["b"]);
}
