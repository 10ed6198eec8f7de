//! The record of purges alone: what covers what, in which order, and what is forgotten.

use super::*;

const NOW: u64 = 1_000;

fn resource(value: &str) -> Resource {
    Resource::new("/data/{key}", [value])
}

struct Case {
    generations: Generations,
    resource: Resource,
    tags: Vec<String>,
}

impl Case {
    fn new() -> Self {
        Self {
            generations: Generations::new(),
            resource: resource("42"),
            tags: vec!["red".into()],
        }
    }
    fn judge(&self, stamp: Stamp, checked: Option<&Checked>) -> Verdict {
        let covered = Covered {
            route: "/data/{key}",
            resource: &self.resource,
            variant: "key=42",
            tags: &self.tags,
        };
        self.generations.judge(stamp, checked, covered)
    }
    fn purge(&self, scope: Scope, mode: Mode) {
        self.generations.raise(&scope, mode, NOW);
    }
}

#[test]
fn law_4_every_scope_covers_what_was_stamped_before_it_and_nothing_after() {
    let scopes = [
        Scope::All,
        Scope::Route("/data/{key}".into()),
        Scope::Resource(resource("42")),
        Scope::Variant(resource("42"), "key=42".into()),
        Scope::Tag("red".into()),
    ];
    for scope in scopes {
        for (mode, expect) in [
            (Mode::Delete, Verdict::Dead),
            (Mode::Expire, Verdict::Expired),
        ] {
            let case = Case::new();
            let before = case.generations.stamp();
            case.purge(scope.clone(), mode);
            let after = case.generations.stamp();
            assert_eq!(case.judge(before, None), expect, "{scope:?} {mode:?}");
            assert_eq!(
                case.judge(after, None),
                Verdict::Alive,
                "{scope:?} {mode:?}"
            );
        }
    }
}

#[test]
fn a_purge_of_something_else_changes_nothing() {
    let case = Case::new();
    let before = case.generations.stamp();
    case.purge(Scope::Resource(resource("43")), Mode::Delete);
    let variant = |key, parts: &str| Scope::Variant(resource(key), parts.into());
    case.purge(variant("43", "key=42"), Mode::Delete);
    case.purge(variant("42", "key=42&lang=de"), Mode::Delete);
    case.purge(Scope::Tag("blue".into()), Mode::Delete);
    case.purge(Scope::Route("/other".into()), Mode::Delete);
    assert_eq!(case.judge(before, None), Verdict::Alive);
}

#[test]
fn law_4_a_remembered_check_does_not_hide_a_later_purge() {
    let case = Case::new();
    let (stamp, checked) = (case.generations.stamp(), Checked::default());
    case.purge(Scope::Tag("blue".into()), Mode::Delete);
    assert_eq!(case.judge(stamp, Some(&checked)), Verdict::Alive);
    assert_eq!(
        u64::from(checked.0.load(Ordering::Relaxed)),
        case.generations.version.load(Ordering::Relaxed),
        "judged once per purge"
    );
    case.purge(Scope::Tag("red".into()), Mode::Delete);
    assert_eq!(case.judge(stamp, Some(&checked)), Verdict::Dead);
}

#[test]
fn after_more_purges_than_an_entry_can_count_it_is_judged_each_time() {
    let checked = Checked::default();
    let most = u64::from(u32::MAX);
    checked.raise_to(most);
    checked.raise_to(most + 1);
    assert!(checked.is_at(most) && !checked.is_at(most + 1));
}

#[test]
fn another_epoch_is_dead_and_adopting_one_asks_for_an_empty_memory_tier() {
    let case = Case::new();
    let stamp = case.generations.stamp();
    assert!(case.generations.adopt(7, 3, &[], NOW));
    assert_eq!(case.judge(stamp, None), Verdict::Dead);
    assert!(!case.generations.is_current(stamp));
    let stamp = case.generations.stamp();
    assert_eq!((stamp.epoch, stamp.seq), (7, 3));
    assert!(
        !case.generations.adopt(7, 3, &[], NOW),
        "nothing was missed"
    );
    assert!(
        !case.generations.is_current(stamp),
        "but what was in flight is not stored in the shared tier"
    );
    assert!(case.generations.adopt(
        7,
        5,
        &[(
            Scope::Tag("red".into()),
            Generation {
                delete: 5,
                expire: 0
            }
        )],
        NOW
    ));
    assert_eq!(case.judge(stamp, None), Verdict::Dead);
}

#[test]
fn law_4_purges_taken_over_out_of_order_both_count() {
    let case = Case::new();
    let (stamp, checked) = (case.generations.stamp(), Checked::default());
    case.generations
        .raise_to(&Scope::Tag("blue".into()), Mode::Delete, 7, NOW);
    assert_eq!(case.judge(stamp, Some(&checked)), Verdict::Alive);
    case.generations
        .raise_to(&Scope::Tag("red".into()), Mode::Delete, 6, NOW);
    assert_eq!(case.judge(stamp, Some(&checked)), Verdict::Dead);
}

#[test]
fn law_4_a_purge_heard_under_a_number_this_node_gave_away_covers_what_was_stamped_with_it() {
    let case = Case::new();
    assert!(case.generations.adopt(7, 10, &[], NOW));
    // The tier is away: this node's own 11. The tier meanwhile gave 11 to another node's purge.
    case.purge(Scope::Tag("blue".into()), Mode::Delete);
    let stamp = case.generations.stamp();
    assert_eq!(stamp.seq, 11);
    let red = Scope::Tag("red".into());
    case.generations.raise_to(&red, Mode::Delete, 11, NOW);
    assert_eq!(case.judge(stamp, None), Verdict::Dead);
    // Once the tier has numbered ours above everything, numbers mean the same to both again.
    let blue = Scope::Tag("blue".into());
    case.generations.raise_to(&blue, Mode::Delete, 13, NOW);
    let stamp = case.generations.stamp();
    assert_eq!(stamp.seq, 13);
    case.generations.raise_to(&red, Mode::Delete, 12, NOW);
    assert_eq!(case.judge(stamp, None), Verdict::Alive);
}

#[test]
fn what_is_known_is_trusted_for_a_while_after_it_was_heard_to_be_complete() {
    let generations = Generations::new();
    assert!(
        !generations.is_overdue(0, u64::MAX),
        "alone, there is nobody to hear of"
    );
    generations.mirror(500);
    assert!(generations.is_overdue(1_000, 1_501));
    assert!(!generations.is_overdue(1_001, 1_501), "asked after that");
    generations.heard(1_200);
    assert!(!generations.is_overdue(1_000, 1_700));
    assert!(generations.is_overdue(1_000, 1_701));
}

#[test]
fn the_generations_of_an_old_epoch_do_not_cover_the_new_one() {
    let case = Case::new();
    for _ in 0..5 {
        case.purge(Scope::All, Mode::Delete);
        case.purge(Scope::Tag("red".into()), Mode::Delete);
    }
    let blue = Scope::Tag("blue".into());
    let generation = Generation {
        delete: 2,
        expire: 0,
    };
    assert!(case.generations.adopt(7, 2, &[(blue, generation)], NOW));
    let stamp = case.generations.stamp();
    case.purge(Scope::Tag("green".into()), Mode::Delete);
    assert_eq!(case.judge(stamp, None), Verdict::Alive);
    assert_eq!(case.generations.remembered(), 2);
}

#[test]
fn law_12_rereading_what_is_known_remembers_nothing_twice() {
    let case = Case::new();
    let red = Scope::Tag("red".into());
    for seq in [3, 3, 2] {
        case.generations.raise_to(&red, Mode::Delete, seq, NOW);
    }
    assert_eq!(case.generations.purging.lock().order.len(), 1);
}

#[test]
fn law_12_what_is_forgotten_for_room_becomes_a_purge_of_everything_as_old() {
    let mut case = Case::new();
    case.generations = Generations::with_bound(2);
    let before = case.generations.stamp();
    case.purge(Scope::Resource(resource("1")), Mode::Delete);
    let between = case.generations.stamp();
    for other in ["2", "3"] {
        case.purge(Scope::Resource(resource(other)), Mode::Delete);
    }
    assert_eq!(case.generations.remembered(), 2);
    assert_eq!(
        case.judge(before, None),
        Verdict::Dead,
        "errs towards reloading"
    );
    assert_eq!(case.judge(between, None), Verdict::Alive);
}

#[test]
fn pruning_by_age_forgets_without_purging() {
    let case = Case::new();
    let before = case.generations.stamp();
    case.purge(Scope::Tag("blue".into()), Mode::Delete);
    case.generations.prune(NOW + 1);
    assert_eq!(case.generations.remembered(), 0);
    assert_eq!(case.judge(before, None), Verdict::Alive);
}
