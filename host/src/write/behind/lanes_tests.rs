//! The lanes, with the time and the fate of every change in hand.

use std::collections::HashMap as Map;

use proptest::prelude::*;

use super::super::writers::LONGEST_PAUSE;
use super::*;
use crate::cache::queue::WriteId;
use crate::error::{FailureKind, Origin};

const BATCHING: Batching = Batching {
    max: 4,
    at_once: 2,
    give_up: Duration::from_secs(3600),
};

fn resource(route: &str, name: &str) -> Resource {
    Resource::new(route, [name])
}

fn queued(sequence: u64, resource: &Resource) -> Queued {
    Queued {
        sequence,
        id: WriteId::new(0, sequence.into()),
        resource: resource.clone(),
        record: Bytes::from_static(b"record"),
    }
}

fn failure(kind: FailureKind) -> Failure {
    Failure {
        origin: Origin::Returned,
        ..Failure::host(kind, "code", "why")
    }
}

fn trap() -> Failure {
    Failure::fault(Origin::Trap, "trap", "it died")
}

/// Lanes with the time in hand. Every route has the writer of its first segment.
struct Play {
    lanes: Lanes,
    now: Instant,
    now_ms: u64,
    coalesce: bool,
}

impl Play {
    fn new() -> Self {
        let mut lanes = Lanes::new(BATCHING);
        lanes.own(0, Arc::new(|| true));
        Self {
            lanes,
            now: Instant::now(),
            now_ms: 0,
            coalesce: false,
        }
    }

    fn add(&mut self, sequence: u64, resource: &Resource) {
        self.lanes.add(0, queued(sequence, resource), 0);
    }

    fn next(&mut self) -> Option<Batch> {
        let coalesce = self.coalesce;
        self.lanes.next_batch(self.now, &|route| Way {
            writer: route.split('/').nth(1).unwrap_or_default().into(),
            coalesce,
        })
    }

    fn sequences(&mut self) -> Vec<u64> {
        let batch = self.next();
        batch.map_or_else(Vec::new, |batch| {
            batch.members.iter().map(|it| it.sequence).collect()
        })
    }

    fn end(&mut self, batch: &Batch, result: &Result<(), Failure>) -> Ended {
        self.end_each(batch, &vec![result.clone(); batch.members.len()])
    }

    fn end_each(&mut self, batch: &Batch, results: &[Result<(), Failure>]) -> Ended {
        let ended = self.lanes.ended(batch, results, (self.now, self.now_ms));
        self.release(&ended);
        ended
    }

    fn release(&mut self, ended: &Ended) {
        let settlements = ended.settlements.iter().map(|(_, it)| it.clone());
        self.lanes.released(0, &settlements.collect::<Vec<_>>());
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.now_ms += u64::try_from(time.as_millis()).unwrap();
    }
}

fn settled(ended: &Ended) -> Vec<(u64, bool)> {
    let one = |(_, it): &(u8, Settlement)| (it.sequence, it.end.is_ok());
    ended.settlements.iter().map(one).collect()
}

#[test]
fn the_second_of_a_resource_goes_out_when_it_is_written_down_what_became_of_the_first() {
    let mut play = Play::new();
    let a = resource("/w/{key}", "a");
    play.add(1, &a);
    play.add(2, &a);
    let first = play.next().unwrap();
    assert_eq!(first.members.len(), 1);
    assert!(play.next().is_none(), "the first is out");
    let ended = play.lanes.ended(&first, &[Ok(())], (play.now, 0));
    assert!(play.next().is_none(), "it is not written down yet");
    play.release(&ended);
    assert_eq!(play.sequences(), [2]);
}

#[test]
fn resources_go_out_together_by_writer_and_up_to_the_bound() {
    let mut play = Play::new();
    for (sequence, name) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")] {
        play.add(sequence, &resource("/w/{key}", name));
    }
    play.add(6, &resource("/other/{key}", "a"));
    play.add(7, &resource("/w/more/{key}", "a"));
    let batches = [play.sequences(), play.sequences(), play.sequences()];
    let mut sizes = batches.clone().map(|batch| batch.len());
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2, 4], "{batches:?}");
    assert!(batches.contains(&vec![6]), "of another writer: {batches:?}");
    assert!(play.next().is_none(), "two batches of a writer at once");
}

#[test]
fn the_last_stands_for_those_before_it_where_that_is_allowed() {
    let mut play = Play::new();
    play.coalesce = true;
    let a = resource("/w/{key}", "a");
    for sequence in 1..=3 {
        play.add(sequence, &a);
    }
    let batch = play.next().unwrap();
    play.add(4, &a);
    assert_eq!(batch.members[0].sequence, 3);
    let ended = play.end(&batch, &Ok(()));
    assert_eq!(settled(&ended), [(1, true), (2, true), (3, true)]);
    assert_eq!(ended.coalesced, 2);
    // One that is refused takes none of those before it along.
    play.add(5, &a);
    let batch = play.next().unwrap();
    let ended = play.end(&batch, &Err(failure(FailureKind::InvalidRequest)));
    assert_eq!(settled(&ended), [(5, false)]);
    assert_eq!(play.sequences(), [4]);
}

#[test]
fn what_fails_by_itself_waits_twice_as_long_each_time_and_the_others_go_on() {
    let mut play = Play::new();
    let (bad, good) = (resource("/w/{key}", "bad"), resource("/w/{key}", "good"));
    play.add(1, &bad);
    let mut longest = Duration::ZERO;
    for round in 0..12 {
        play.add(100 + round, &good);
        let batch = play.next().unwrap();
        assert_eq!(batch.members.len(), 2, "round {round}");
        let results: Vec<_> = batch
            .members
            .iter()
            .map(|member| match member.sequence {
                1 => Err(failure(FailureKind::Unavailable)),
                _ => Ok(()),
            })
            .collect();
        play.end_each(&batch, &results);
        assert!(play.next().is_none());
        let wait = play.lanes.wake_at(play.now).unwrap() - play.now;
        let most = doubled(FIRST_WAIT, u32::try_from(round).unwrap() + 1, LONGEST_WAIT);
        assert!(wait >= most / 2 && wait <= most, "{wait:?} of {most:?}");
        longest = longest.max(wait);
        play.pass(wait);
    }
    assert!(longest <= LONGEST_WAIT);
}

#[test]
fn a_source_that_is_down_is_asked_by_one_batch_a_second_and_all_goes_out_when_it_is_back() {
    let mut play = Play::new();
    for sequence in 1..=100 {
        play.add(sequence, &resource("/w/{key}", &sequence.to_string()));
    }
    let mut calls = 0;
    let until = play.now + Duration::from_secs(60);
    while play.now < until {
        while let Some(batch) = play.next() {
            let another = play.next();
            assert!(another.is_none() || calls == 0, "one at a time");
            for batch in [Some(batch), another].into_iter().flatten() {
                calls += 1;
                play.end(&batch, &Err(failure(FailureKind::Unavailable)));
            }
        }
        let wake = play.lanes.wake_at(play.now);
        play.pass(wake.unwrap() - play.now);
    }
    assert!((50..=200).contains(&calls), "{calls} calls in a minute");
    // It is back: within a second, and then at once.
    play.pass(LONGEST_PAUSE);
    let mut made = 0;
    while let Some(batch) = play.next() {
        made += play.end(&batch, &Ok(())).settlements.len();
    }
    assert_eq!(made, 100);
}

#[test]
fn the_one_that_a_plugin_dies_of_is_found_and_the_others_are_made() {
    let mut play = Play::new();
    for sequence in 1..=16 {
        play.add(sequence, &resource("/w/{key}", &sequence.to_string()));
    }
    let (mut made, mut dead, mut deaths) = (Vec::new(), Vec::new(), 0);
    for _ in 0..1000 {
        let Some(batch) = play.next() else {
            let Some(wake) = play.lanes.wake_at(play.now) else {
                break;
            };
            play.pass(wake - play.now);
            continue;
        };
        let is_poisoned = batch.members.iter().any(|it| it.sequence == 7);
        deaths += u64::from(is_poisoned);
        let result = if is_poisoned { Err(trap()) } else { Ok(()) };
        for (sequence, is_made) in settled(&play.end(&batch, &result)) {
            if is_made {
                made.push(sequence);
            } else {
                dead.push(sequence);
            }
        }
    }
    made.sort_unstable();
    let good: Vec<u64> = (1..=16).filter(|it| *it != 7).collect();
    assert_eq!((made, dead), (good, vec![7]));
    assert!(
        deaths <= u64::from(FAULTS_MAX) + 4,
        "it died {deaths} times"
    );
}

#[test]
fn what_was_tried_for_long_enough_is_given_up_with_its_last_failure() {
    let mut play = Play::new();
    let a = resource("/w/{key}", "a");
    play.add(0, &a);
    let batch = play.next().unwrap();
    let ended = play.end(&batch, &Err(failure(FailureKind::Timeout)));
    assert_eq!(settled(&ended), []);
    play.pass(BATCHING.give_up);
    let batch = play.next().unwrap();
    let ended = play.end(&batch, &Err(failure(FailureKind::Timeout)));
    let [(_, settlement)] = &ended.settlements[..] else {
        panic!("it is given up")
    };
    let reason = settlement.end.clone().unwrap_err();
    assert!(
        reason.contains("\"attempts\":2") && reason.contains("timeout"),
        "{reason}"
    );
}

#[test]
fn what_a_source_asks_to_wait_is_waited() {
    let mut play = Play::new();
    play.add(1, &resource("/w/{key}", "a"));
    let batch = play.next().unwrap();
    let asked = Duration::from_secs(17);
    let limited = Failure {
        retry_after: Some(asked),
        ..failure(FailureKind::RateLimited)
    };
    play.end(&batch, &Err(limited));
    play.pass(asked - Duration::from_millis(1));
    assert!(play.next().is_none());
    play.pass(Duration::from_millis(1));
    assert_eq!(play.sequences(), [1]);
}

#[test]
fn a_batch_that_takes_too_long_is_made_smaller() {
    let mut play = Play::new();
    for sequence in 1..=4 {
        play.add(sequence, &resource("/w/{key}", &sequence.to_string()));
    }
    let late = Err(failure(FailureKind::Timeout));
    let mut sizes = Vec::new();
    for _ in 0..3 {
        play.pass(LONGEST_WAIT);
        let batch = play.next().unwrap();
        sizes.push(batch.members.len());
        play.end(&batch, &late);
    }
    assert_eq!(sizes, [4, 2, 1]);
    play.pass(LONGEST_WAIT);
    let batch = play.next().unwrap();
    play.end(&batch, &Ok(()));
    assert_eq!(play.sequences().len(), 2, "and larger again");
}

#[test]
fn a_partition_that_comes_back_waits_for_what_is_still_out() {
    let mut play = Play::new();
    let a = resource("/w/{key}", "a");
    play.add(1, &a);
    play.add(2, &a);
    let batch = play.next().unwrap();
    play.lanes.disown(0);
    play.lanes.own(0, Arc::new(|| true));
    play.add(1, &a);
    play.add(2, &a);
    assert!(play.next().is_none(), "the first is still out");
    let ended = play.end(&batch, &Ok(()));
    assert_eq!(settled(&ended), [(1, true)]);
    assert_eq!(play.sequences(), [2]);
    // And one that does not come back leaves nothing behind.
    play.lanes.disown(0);
    assert!(play.lanes.lanes.len() <= 1);
}

#[test]
fn one_does_not_stand_for_another_variant() {
    let mut play = Play::new();
    play.coalesce = true;
    let a = resource("/w/{key}", "a");
    for (sequence, variant) in [(1, 7), (2, 7), (3, 8), (4, 7)] {
        play.lanes.add(0, queued(sequence, &a), variant);
    }
    let mut made = Vec::new();
    while let Some(batch) = play.next() {
        made.push(batch.members[0].sequence);
        play.end(&batch, &Ok(()));
    }
    assert_eq!(made, [2, 3, 4]);
}

#[test]
fn of_a_partition_that_is_lost_what_one_stood_for_is_not_left_to_be_made_after_it() {
    let mut play = Play::new();
    play.coalesce = true;
    let a = resource("/w/{key}", "a");
    for sequence in 1..=3 {
        play.add(sequence, &a);
    }
    let batch = play.next().unwrap();
    play.add(4, &a);
    play.lanes.disown(0);
    let ended = play.end(&batch, &Ok(()));
    assert_eq!(settled(&ended), [(1, true), (2, true), (3, true)]);
    assert!(play.lanes.lanes.is_empty());
}

#[test]
fn nothing_goes_out_of_a_partition_that_does_not_stand() {
    let mut play = Play::new();
    let stands = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&stands);
    let stands_now = move || seen.load(std::sync::atomic::Ordering::SeqCst);
    play.lanes.own(0, Arc::new(stands_now));
    play.add(1, &resource("/w/{key}", "a"));
    assert!(play.next().is_none());
    stands.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(play.sequences(), [1]);
}

#[test]
fn what_was_settled_while_its_partition_was_read_is_not_taken_for_pending() {
    let mut play = Play::new();
    let a = resource("/w/{key}", "a");
    play.add(1, &a);
    play.lanes.reading(0);
    let batch = play.next().unwrap();
    play.end(&batch, &Ok(()));
    // The reading had found it before it was settled.
    play.add(1, &a);
    assert!(play.next().is_none());
    play.lanes.reading(0);
    play.add(2, &a);
    assert_eq!(play.sequences(), [2]);
}

#[test]
fn what_cannot_be_written_down_is_made_again_where_the_partition_is() {
    let mut play = Play::new();
    let a = resource("/w/{key}", "a");
    play.add(1, &a);
    play.add(2, &a);
    let batch = play.next().unwrap();
    let ended = play.lanes.ended(&batch, &[Ok(())], (play.now, 0));
    let settlements: Vec<_> = ended.settlements.iter().map(|(_, it)| it.clone()).collect();
    play.lanes.abandoned(&settlements);
    assert_eq!(play.sequences(), [1]);
}

#[test]
fn before_another_attempt_by_who_had_lost_the_partition_the_queue_is_asked() {
    let mut play = Play::new();
    play.add(1, &resource("/w/{key}", "a"));
    let batch = play.next().unwrap();
    assert!(batch.members[0].record.is_some());
    play.lanes.disown(0);
    play.lanes.own(0, Arc::new(|| true));
    play.end(&batch, &Err(failure(FailureKind::Timeout)));
    play.pass(LONGEST_WAIT);
    assert!(play.next().unwrap().members[0].record.is_none());
}

#[test]
fn one_that_was_found_later_though_it_is_earlier_is_not_made_with_another() {
    let mut play = Play::new();
    play.coalesce = true;
    let a = resource("/w/{key}", "a");
    play.add(5, &a);
    let batch = play.next().unwrap();
    play.add(4, &a);
    assert_eq!(settled(&play.end(&batch, &Ok(()))), [(5, true)]);
    assert_eq!(play.sequences(), [4]);
}

/// What a writer does with a change, by its number.
#[derive(Clone, Copy, Debug)]
enum Nature {
    Good,
    Refused,
    Deadly,
    /// Fails so often first.
    Late(u8),
}

/// Everything that is pending is found once more.
fn find(play: &mut Play, unsettled: &Map<u64, (Resource, Nature)>) {
    play.lanes.reading(0);
    let mut again: Vec<_> = unsettled.iter().collect();
    again.sort_by_key(|(sequence, _)| **sequence);
    for (sequence, (resource, _)) in again {
        play.add(*sequence, resource);
    }
}

fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        5 => Just(Nature::Good),
        1 => Just(Nature::Refused),
        1 => Just(Nature::Deadly),
        2 => (1..4_u8).prop_map(Nature::Late),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Whatever happens: each is made or given up, once; of a resource in order; never two of one at once.
    #[test]
    fn law_7_nothing_is_lost_and_nothing_overtaken(
        changes in prop::collection::vec((0..5_usize, nature()), 1..40),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        coalesce: bool,
        swaps in prop::collection::vec(any::<bool>(), 64),
    ) {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let mut play = Play::new();
        play.coalesce = coalesce;
        let all: Vec<(u64, Resource, Nature)> = (1..)
            .zip(&changes)
            .map(|(sequence, (name, nature))| {
                (sequence, resource("/w/{key}", NAMES[*name]), *nature)
            })
            .collect();
        let mut unsettled: Map<u64, (Resource, Nature)> = Map::new();
        let mut coming = all.iter();
        let mut out: Vec<Batch> = Vec::new();
        let mut done: Map<u64, bool> = Map::new();
        let mut last_made: Map<String, u64> = Map::new();
        let mut failed: Map<u64, u8> = Map::new();
        for round in 0..20_000_usize {
            if let Some((sequence, resource, nature)) = coming.next() {
                play.add(*sequence, resource);
                unsettled.insert(*sequence, (resource.clone(), *nature));
            }
            // The partition goes to another node, and comes back: all that is pending is found again.
            if round < swaps.len() && swaps[round] {
                if round % 2 == 0 {
                    play.lanes.disown(0);
                } else {
                    play.lanes.own(0, Arc::new(|| true));
                    find(&mut play, &unsettled);
                }
            } else if round == swaps.len() {
                play.lanes.own(0, Arc::new(|| true));
                find(&mut play, &unsettled);
            }
            if let Some(batch) = play.next() {
                for member in &batch.members {
                    let twice = out
                        .iter()
                        .flat_map(|other| &other.members)
                        .any(|other| other.resource == member.resource);
                    prop_assert!(!twice, "two of a resource are out");
                    let before = unsettled
                        .iter()
                        .filter(|(_, (resource, _))| *resource == member.resource)
                        .map(|(sequence, _)| *sequence)
                        .min();
                    prop_assert!(coalesce || before == Some(member.sequence), "overtaken");
                }
                out.push(batch);
                if out.len() < 2 {
                    continue;
                }
            }
            if out.is_empty() {
                match play.lanes.wake_at(play.now) {
                    Some(wake) => play.pass(wake.duration_since(play.now)),
                    None if coming.len() == 0 && round > swaps.len() => break,
                    None => {}
                }
                continue;
            }
            let batch = out.remove(picks[round % picks.len()].index(out.len()));
            let dies = batch
                .members
                .iter()
                .any(|it| matches!(all[usize::try_from(it.sequence).unwrap() - 1].2, Nature::Deadly));
            let results: Vec<_> = batch
                .members
                .iter()
                .map(|member| match all[usize::try_from(member.sequence).unwrap() - 1].2 {
                    _ if dies => Err(trap()),
                    Nature::Refused => Err(failure(FailureKind::Conflict)),
                    Nature::Late(times) => {
                        let so_far = failed.entry(member.sequence).or_default();
                        *so_far += 1;
                        if *so_far <= times {
                            Err(failure(FailureKind::Unavailable))
                        } else {
                            Ok(())
                        }
                    }
                    Nature::Good | Nature::Deadly => Ok(()),
                })
                .collect();
            for (sequence, is_made) in settled(&play.end_each(&batch, &results)) {
                let (resource, _) = unsettled.remove(&sequence).expect("it is settled once");
                prop_assert!(done.insert(sequence, is_made).is_none());
                if is_made {
                    let last = last_made.entry(resource.text().to_owned()).or_default();
                    prop_assert!(*last < sequence, "{sequence} after {last}");
                    *last = sequence;
                }
            }
        }
        prop_assert_eq!(done.len(), all.len(), "some were lost");
        for (sequence, _, nature) in &all {
            let is_made = done[sequence];
            match nature {
                Nature::Good | Nature::Late(_) => prop_assert!(is_made),
                // Unless a later one stood for it.
                Nature::Refused | Nature::Deadly => prop_assert!(coalesce || !is_made),
            }
        }
        prop_assert!(play.lanes.lanes.is_empty() && play.lanes.asleep.is_empty());
        prop_assert_eq!(play.lanes.held_bytes, 0);
    }
}
