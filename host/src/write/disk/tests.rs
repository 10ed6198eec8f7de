//! The queue on a real disk: what it holds, over restarts, against the simplest thing that could hold it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::cache::queue::State;

pub(super) const ROOMY: Bounds = Bounds {
    items_max: 1000,
    bytes_max: 1 << 20,
};

pub(super) fn resource(name: &str) -> Resource {
    Resource::new("/data/{key}", [name])
}

pub(super) fn item(number: u128, name: &str) -> Item {
    Item {
        id: WriteId::new(0, number),
        resource: resource(name),
        print: [number.to_le_bytes()[0]; 32],
        record: Bytes::from(format!("{name} is {number}")),
    }
}

pub(super) fn settlement(queued: &Queued, end: Result<(), &str>) -> Settlement {
    Settlement {
        sequence: queued.sequence,
        id: queued.id.clone(),
        resource: queued.resource.clone(),
        end: end.map_err(str::to_owned),
    }
}

async fn accepted(queue: &DiskQueue, number: u128, name: &str) -> u64 {
    match queue.push(item(number, name)).await {
        Pushed::Accepted { sequence } => sequence,
        other => panic!("{other:?}"),
    }
}

async fn revived(queue: &DiskQueue, id: &WriteId, unless: (bool, u64)) -> u64 {
    match queue.revive(id, unless).await {
        Ok(Revived::Done { sequence }) => sequence,
        other => panic!("{other:?}"),
    }
}

async fn pending(queue: &DiskQueue) -> Vec<Queued> {
    queue.scan(0, 0, 1000).await.unwrap()
}

async fn texts(queue: &DiskQueue) -> Vec<String> {
    let pending = pending(queue).await;
    let text = |queued: &Queued| String::from_utf8(queued.record.to_vec()).unwrap();
    pending.iter().map(text).collect()
}

#[tokio::test]
async fn what_is_accepted_outlives_the_process_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    let (first, second) = (
        accepted(&queue, 1, "a").await,
        accepted(&queue, 2, "b").await,
    );
    assert!(first < second && i64::try_from(second).is_ok());
    accepted(&queue, 3, "a").await;
    assert_eq!(texts(&queue).await, ["a is 1", "b is 2", "a is 3"]);
    drop(queue);
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    assert_eq!(texts(&queue).await, ["a is 1", "b is 2", "a is 3"]);
    let newest = queue.newest(&resource("a")).await.unwrap().unwrap();
    assert_eq!(&newest.record[..], b"a is 3");
    assert!(accepted(&queue, 4, "a").await > newest.sequence);
}

#[tokio::test]
async fn a_number_given_once_is_never_given_again_whatever_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let database = table::builder(CACHE_BYTES).create(&path).unwrap();
    let push = |now_ms: u64, number: u128| {
        let transaction = database.begin_write().unwrap();
        let pushed = {
            let depth = (Depth::default(), ROOMY);
            let mut work = table::Work::begin(&transaction, depth, &|_| None, now_ms);
            let work = work.as_mut().unwrap();
            work.push(&item(number, "a")).unwrap()
        };
        // The last number is written down with the change.
        transaction.abort().unwrap();
        pushed
    };
    let Pushed::Accepted { sequence } = push(1000, 1) else {
        panic!("it has room")
    };
    assert_eq!(sequence >> 20, 1000);
    drop(database);
    // Accepted in what a wrong clock takes for the future; the next comes after it all the same.
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    let first = accepted(&queue, 1, "a").await;
    let second = accepted(&queue, 2, "a").await;
    assert!(second > first);
}

#[tokio::test]
async fn the_same_change_under_an_id_is_accepted_once_and_another_never() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    let sequence = accepted(&queue, 1, "a").await;
    let known = |state| Pushed::Known(Known { state, sequence });
    assert_eq!(queue.push(item(1, "a")).await, known(State::Pending));
    let other = Item {
        print: [9; 32],
        ..item(1, "a")
    };
    assert_eq!(queue.push(other).await, Pushed::Another);
    let [only] = &pending(&queue).await[..] else {
        panic!("one is pending")
    };
    queue
        .settle(0, vec![settlement(only, Ok(()))])
        .await
        .unwrap();
    match queue.push(item(1, "a")).await {
        Pushed::Known(Known {
            state: State::Applied { at_ms },
            ..
        }) => assert!(at_ms > 0),
        other => panic!("{other:?}"),
    }
    assert_eq!(pending(&queue).await.len(), 0);
}

#[tokio::test]
async fn of_what_is_settled_the_newest_that_is_left_counts() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    for number in 1..=3 {
        accepted(&queue, number, "a").await;
    }
    let all = pending(&queue).await;
    // The last dies, and what was before it is pending still.
    queue
        .settle(0, vec![settlement(&all[2], Err("no"))])
        .await
        .unwrap();
    let newest = queue.newest(&resource("a")).await.unwrap().unwrap();
    assert_eq!(newest.sequence, all[1].sequence);
    let both = all[..2].iter().map(|it| settlement(it, Ok(()))).collect();
    queue.settle(0, both).await.unwrap();
    assert!(queue.newest(&resource("a")).await.unwrap().is_none());
    assert!(queue.fetch(0, all[0].sequence).await.unwrap().is_none());
    // Said twice, it is said once.
    queue
        .settle(0, vec![settlement(&all[0], Err("late"))])
        .await
        .unwrap();
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.pending, depth.dead), (0, 1));
}

#[tokio::test]
async fn dead_letters_are_listed_tried_again_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        accepted(&queue, number, name).await;
    }
    let all = pending(&queue).await;
    let buried = all
        .iter()
        .map(|it| settlement(it, Err("because")))
        .collect();
    queue.settle(0, buried).await.unwrap();
    // A later change of `b` is made: its dead letter would revert it.
    accepted(&queue, 4, "b").await;
    let later = pending(&queue).await;
    queue
        .settle(0, vec![settlement(&later[0], Ok(()))])
        .await
        .unwrap();
    drop(queue);
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    let first = queue.dead(None, 2).await.unwrap();
    let rest = queue.dead(Some(&first[1].queued.id), 2).await.unwrap();
    let told: Vec<_> = first
        .iter()
        .chain(&rest)
        .map(|letter| (letter.queued.record.clone(), letter.superseded))
        .collect();
    let wanted = [("a is 1", false), ("b is 2", true), ("c is 3", false)];
    assert_eq!(told, wanted.map(|(text, it)| (Bytes::from(text), it)));
    assert_eq!(first[0].reason, "because");

    let (a, b, c) = (&all[0].id, &all[1].id, &all[2].id);
    assert_eq!(queue.revive(b, (false, 0)).await, Ok(Revived::Superseded));
    assert!(revived(&queue, b, (true, 0)).await > 0);
    assert!(revived(&queue, a, (false, 0)).await > 0);
    assert_eq!(queue.revive(a, (false, 0)).await, Ok(Revived::Unknown));
    assert_eq!(
        texts(&queue).await,
        ["b is 2", "a is 1"],
        "they are the last"
    );
    assert_eq!(queue.discard(c).await, Ok(true));
    assert_eq!(queue.discard(c).await, Ok(false));
    assert_eq!(queue.find(c).await, Ok(None), "it is forgotten");
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.pending, depth.dead, depth.bytes), (2, 0, 12));
}

#[tokio::test]
async fn a_dead_letter_is_not_tried_again_after_a_later_change_that_is_pending() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    for number in 1..=2 {
        accepted(&queue, number, "a").await;
    }
    let all = pending(&queue).await;
    let buried = all.iter().map(|it| settlement(it, Err("no"))).collect();
    queue.settle(0, buried).await.unwrap();
    // Both of an outage, in their order.
    let first = revived(&queue, &all[0].id, (false, 0)).await;
    let behind = queue.revive(&all[1].id, (false, 0)).await;
    assert_eq!(
        behind,
        Ok(Revived::Superseded),
        "it would go behind the other"
    );
    // And whether the other is made meanwhile or not.
    let made = pending(&queue).await;
    queue
        .settle(0, vec![settlement(&made[0], Ok(()))])
        .await
        .unwrap();
    let superseded = queue.revive(&all[1].id, (false, 0)).await;
    assert_eq!(superseded, Ok(Revived::Superseded));
    revived(&queue, &all[1].id, (false, first)).await;
    assert_eq!(texts(&queue).await, ["a is 2"]);
}

#[tokio::test]
async fn who_waits_for_news_is_not_woken_by_what_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    accepted(&queue, 1, "a").await;
    let all = pending(&queue).await;
    queue
        .settle(0, vec![settlement(&all[0], Ok(()))])
        .await
        .unwrap();
    let mut news = queue.news(0, 0);
    assert!(futures_util::poll!(&mut news).is_pending());
}

#[test]
fn an_id_is_known_for_a_day_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let database = table::builder(CACHE_BYTES).create(&path).unwrap();
    let at = |now_ms: u64, made: Option<&Settlement>| {
        let transaction = database.begin_write().unwrap();
        let pushed = {
            let depth = (Depth::default(), ROOMY);
            let mut work = table::Work::begin(&transaction, depth, &|_| None, now_ms).unwrap();
            let pushed = match made {
                Some(made) => work.settle(made).map(|()| None),
                None => work.push(&item(1, "a")).map(Some),
            };
            work.finish().unwrap();
            pushed.unwrap()
        };
        transaction.commit().unwrap();
        pushed
    };
    let Some(Pushed::Accepted { sequence }) = at(1, None) else {
        panic!("it has room")
    };
    let made = Settlement {
        sequence,
        id: WriteId::new(0, 1),
        resource: resource("a"),
        end: Ok(()),
    };
    at(2, Some(&made));
    assert!(matches!(at(3, None), Some(Pushed::Known(_))));
    let day = crate::cache::queue::TOLD_MS;
    let again = at(2 + day, None);
    assert!(matches!(again, Some(Pushed::Accepted { .. })), "{again:?}");
    assert!(matches!(at(3 + day, None), Some(Pushed::Known(_))));
}

#[tokio::test]
async fn law_12_there_is_no_room_for_more_than_the_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        items_max: 2,
        bytes_max: 15,
    };
    let queue = DiskQueue::open(dir.path(), bounds).unwrap();
    accepted(&queue, 1, "a").await;
    accepted(&queue, 2, "a").await;
    let full = Pushed::Full(queue.depth().await.unwrap());
    assert_eq!(queue.push(item(3, "a")).await, full);
    // A dead letter takes its room still, and what is made does not.
    let all = pending(&queue).await;
    queue
        .settle(0, vec![settlement(&all[0], Err("no"))])
        .await
        .unwrap();
    assert!(matches!(queue.push(item(3, "a")).await, Pushed::Full(_)));
    queue
        .settle(0, vec![settlement(&all[1], Ok(()))])
        .await
        .unwrap();
    let long = Item {
        record: Bytes::from_static(b"0123456789"),
        ..item(4, "a")
    };
    assert!(matches!(queue.push(long).await, Pushed::Full(_)), "bytes");
    accepted(&queue, 3, "a").await;
}

#[tokio::test]
async fn who_waits_for_news_is_told_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let queue = Arc::new(DiskQueue::open(dir.path(), ROOMY).unwrap());
    let first = accepted(&queue, 1, "a").await;
    queue.news(0, 0).await;
    let waiting = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { queue.news(0, first).await })
    };
    accepted(&queue, 2, "a").await;
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_second_server_is_refused_and_a_damaged_file_never_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    let second = DiskQueue::open(dir.path(), ROOMY);
    assert!(matches!(second, Err(OpenError::InUse(_))));
    drop((queue, second));
    std::fs::write(dir.path().join(FILE), vec![7; 8192]).unwrap();
    let Err(refused) = DiskQueue::open(dir.path(), ROOMY) else {
        panic!("it is damaged")
    };
    let told = refused.to_string();
    assert!(told.contains("restore it"), "{told}");
}

/// What a queue must hold, kept in the simplest way.
#[derive(Default)]
struct Model {
    pending: BTreeMap<u64, (u128, String)>,
    dead: BTreeMap<u128, String>,
}

#[derive(Clone, Debug)]
enum Step {
    Push(u128, usize),
    Apply(prop::sample::Index),
    Bury(prop::sample::Index),
    Revive(prop::sample::Index),
    Discard(prop::sample::Index),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u128, 0..4_usize).prop_map(|(number, name)| Step::Push(number, name)),
        3 => any::<prop::sample::Index>().prop_map(Step::Apply),
        2 => any::<prop::sample::Index>().prop_map(Step::Bury),
        1 => any::<prop::sample::Index>().prop_map(Step::Revive),
        1 => any::<prop::sample::Index>().prop_map(Step::Discard),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_queue_is_what_was_done_to_it(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps));
    }
}

async fn play(steps: Vec<Step>) {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let dir = tempfile::tempdir().unwrap();
    let mut queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Push(number, name) => {
                if let Pushed::Accepted { sequence } = queue.push(item(number, NAMES[name])).await {
                    let last = model.pending.last_key_value();
                    assert!(last.is_none_or(|(last, _)| *last < sequence));
                    model
                        .pending
                        .insert(sequence, (number, NAMES[name].to_owned()));
                }
            }
            Step::Apply(at) | Step::Bury(at) if !model.pending.is_empty() => {
                let at = at.index(model.pending.len());
                let sequence = *model.pending.keys().nth(at).unwrap();
                let (number, name) = model.pending.remove(&sequence).unwrap();
                let is_made = matches!(step, Step::Apply(_));
                let settlement = Settlement {
                    sequence,
                    id: WriteId::new(0, number),
                    resource: resource(&name),
                    end: if is_made {
                        Ok(())
                    } else {
                        Err("no".to_owned())
                    },
                };
                queue.settle(0, vec![settlement]).await.unwrap();
                if !is_made {
                    model.dead.insert(number, name);
                }
            }
            Step::Revive(at) | Step::Discard(at) if !model.dead.is_empty() => {
                let at = at.index(model.dead.len());
                let number = *model.dead.keys().nth(at).unwrap();
                let name = model.dead.remove(&number).unwrap();
                let id = WriteId::new(0, number);
                if matches!(step, Step::Discard(_)) {
                    assert_eq!(queue.discard(&id).await, Ok(true));
                } else {
                    let sequence = revived(&queue, &id, (true, 0)).await;
                    model.pending.insert(sequence, (number, name));
                }
            }
            Step::Reopen => {
                drop(queue);
                queue = DiskQueue::open(dir.path(), ROOMY).unwrap();
            }
            _ => {}
        }
        let wanted: Vec<_> = model
            .pending
            .values()
            .map(|(number, name)| format!("{name} is {number}"))
            .collect();
        assert_eq!(texts(&queue).await, wanted);
        for name in NAMES {
            let newest = queue.newest(&resource(name)).await.unwrap();
            let wanted = model.pending.iter().rev().find(|(_, (_, of))| of == name);
            assert_eq!(
                newest.map(|it| it.sequence),
                wanted.map(|(sequence, _)| *sequence)
            );
        }
        let dead = queue.dead(None, 1000).await.unwrap();
        assert_eq!(dead.len(), model.dead.len());
        let bytes: usize = wanted.iter().map(String::len).sum::<usize>()
            + dead.iter().map(|it| it.queued.record.len()).sum::<usize>();
        let depth = queue.depth().await.unwrap();
        assert_eq!(depth.bytes, bytes as u64);
        assert_eq!(
            (depth.pending, depth.dead),
            (model.pending.len() as u64, model.dead.len() as u64)
        );
    }
}
