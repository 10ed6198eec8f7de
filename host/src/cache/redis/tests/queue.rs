//! The durable queue against a real Redis: what is accepted is kept, in order, once for each id, and what is no piece of a queue
//! is in nobody's way.

use std::collections::{HashMap, HashSet};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::cache::queue::{
    Bounds, DeadLetter, Depth, Item, Known, Pushed, Queue, Queued, Revived, Settlement, State,
    TOLD_MAX, TOLD_MS, WriteId, accepted_ms,
};
use crate::cache::tier::Duty;

const BOUNDS: Bounds = Bounds {
    items_max: 16_000,
    bytes_max: 16_000_000,
};
/// As many as there are partitions.
const PARTITIONS: u8 = 16;

/// A change of a resource, the same for the same words.
fn item(queue: &dyn Queue, value: &str, change: &str) -> Item {
    let resource = resource(value);
    let digest = blake3::hash(format!("{value}={change}").as_bytes());
    let bytes = u128::from_be_bytes(digest.as_bytes()[..16].try_into().unwrap());
    Item {
        id: WriteId::new(queue.partition_of(&resource), bytes),
        resource,
        print: *digest.as_bytes(),
        record: Bytes::from(change.to_owned()),
    }
}

/// Resources of one partition.
fn of_partition(queue: &dyn Queue, partition: u8, count: usize) -> Vec<String> {
    (0..)
        .map(|number: u32| number.to_string())
        .filter(|value| queue.partition_of(&resource(value)) == partition)
        .take(count)
        .collect()
}

async fn accept(queue: &dyn Queue, item: &Item) -> u64 {
    match queue.push(item.clone()).await {
        Pushed::Accepted { sequence } => sequence,
        other => panic!("{other:?}"),
    }
}

/// What must not take long.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(HEALED_WITHIN, what).await;
    ended.expect("it does not take long")
}

fn settlement(item: &Item, sequence: u64, end: Result<(), &str>) -> Settlement {
    Settlement {
        sequence,
        id: item.id.clone(),
        resource: item.resource.clone(),
        end: end.map_err(str::to_owned),
    }
}

async fn settle(queue: &dyn Queue, item: &Item, sequence: u64, end: Result<(), &str>) {
    let settlements = vec![settlement(item, sequence, end)];
    queue
        .settle(item.id.partition(), settlements)
        .await
        .unwrap();
}

async fn state(queue: &dyn Queue, item: &Item) -> Option<State> {
    queue.find(&item.id).await.unwrap().map(|known| known.state)
}

async fn newest(queue: &dyn Queue, item: &Item) -> Option<u64> {
    let newest = queue.newest(&item.resource).await.unwrap();
    newest.map(|queued| queued.sequence)
}

async fn pending(queue: &dyn Queue, partition: u8) -> Vec<Queued> {
    queue.scan(partition, 0, usize::MAX).await.unwrap()
}

async fn letters(queue: &dyn Queue) -> Vec<DeadLetter> {
    queue.dead(None, usize::MAX).await.unwrap()
}

async fn superseded(queue: &dyn Queue, item: &Item) -> bool {
    let all = letters(queue).await;
    let it = all.iter().find(|letter| letter.queued.id == item.id);
    it.expect("it is a dead letter").superseded
}

fn piece(item: &Item, piece: char) -> String {
    format!("larder:q:{{w:{:02x}}}:{piece}", item.id.partition())
}

async fn one() -> (Server, Node, Arc<dyn Queue>) {
    let server = Server::start().await;
    let node = Node::connected(&server).await;
    let queue = node.tier.queue(BOUNDS);
    (server, node, queue)
}

#[tokio::test]
async fn what_is_accepted_is_pending_in_its_order_until_it_is_settled() {
    let (_server, node, queue) = one().await;
    let (queue, now_ms) = (&*queue, node.clock.now_ms());
    assert_eq!((queue.kind(), queue.partitions()), ("redis", 16));
    let (first, second) = (item(queue, "42", "one"), item(queue, "42", "two"));
    let at = first.id.partition();
    assert_eq!(state(queue, &first).await, None);
    assert_eq!(newest(queue, &first).await, None);
    assert!(pending(queue, at).await.is_empty());
    assert_eq!(queue.depth().await, Ok(Depth::default()));

    let one = accept(queue, &first).await;
    let two = accept(queue, &second).await;
    assert!(one < two);
    assert!(accepted_ms(one).abs_diff(now_ms) < 60_000);
    assert_eq!(state(queue, &first).await, Some(State::Pending));
    let last = queue.newest(&second.resource).await.unwrap().unwrap();
    assert_eq!(
        (last.sequence, last.id, last.record),
        (two, second.id.clone(), second.record.clone())
    );
    let all = pending(queue, at).await;
    let expect = [(one, &first), (two, &second)];
    assert_eq!(all.len(), 2);
    for (found, (sequence, item)) in all.iter().zip(expect) {
        assert_eq!(found.sequence, sequence);
        assert_eq!(found.id, item.id);
        assert_eq!(found.resource.text(), item.resource.text());
        assert_eq!(found.record, item.record);
    }
    assert_eq!(queue.scan(at, one, 9).await.unwrap()[0].sequence, two);
    assert_eq!(queue.scan(at, 0, 1).await.unwrap().len(), 1);
    assert!(queue.scan(at, two, 9).await.unwrap().is_empty());
    assert_eq!(
        queue.fetch(at, one).await.unwrap(),
        Some(first.record.clone())
    );
    assert_eq!(queue.fetch(at, two + 1).await.unwrap(), None);
    let depth = Depth {
        pending: 2,
        dead: 0,
        bytes: 6,
        oldest: Some(one),
    };
    assert_eq!(queue.depth().await, Ok(depth));

    settle(queue, &first, one, Ok(())).await;
    assert!(matches!(
        state(queue, &first).await,
        Some(State::Applied { at_ms }) if at_ms.abs_diff(now_ms) < 60_000
    ));
    assert_eq!(queue.fetch(at, one).await.unwrap(), None);
    assert_eq!(newest(queue, &first).await, Some(two));
    // What it became stays, whatever is said of it later.
    settle(queue, &first, one, Err("no")).await;
    assert!(matches!(
        state(queue, &first).await,
        Some(State::Applied { .. })
    ));
    settle(queue, &second, two, Ok(())).await;
    assert_eq!(newest(queue, &first).await, None);
    assert_eq!(queue.depth().await, Ok(Depth::default()));
    assert!(letters(queue).await.is_empty());
    let next = accept(queue, &item(queue, "42", "three")).await;
    assert!(next > two, "an empty stream remembers its last number");
}

#[tokio::test]
async fn an_id_is_accepted_once_whatever_became_of_it() {
    let (_server, _node, queue) = one().await;
    let queue = &*queue;
    for (value, end) in [("1", Ok(())), ("2", Err("it is poison"))] {
        let first = item(queue, value, "one");
        let mut other = item(queue, value, "two");
        other.id = first.id.clone();
        let sequence = accept(queue, &first).await;
        let state = State::Pending;
        let known = Pushed::Known(Known { state, sequence });
        assert_eq!(queue.push(first.clone()).await, known);
        assert_eq!(queue.push(other.clone()).await, Pushed::Another);
        settle(queue, &first, sequence, end).await;
        let Pushed::Known(known) = queue.push(first.clone()).await else {
            panic!("it is known");
        };
        assert_eq!(known.sequence, sequence);
        match (end, &known.state) {
            (Ok(()), State::Applied { .. }) => {}
            (Err(why), State::Dead { reason, .. }) => assert_eq!(reason, why),
            (_, state) => panic!("{state:?}"),
        }
        assert_eq!(queue.find(&first.id).await, Ok(Some(known)));
        assert_eq!(queue.push(other).await, Pushed::Another);
        assert!(pending(queue, first.id.partition()).await.is_empty());
    }
    // An id that is not in the partition of its resource would not be found by it.
    let mut astray = item(queue, "1", "three");
    astray.id = WriteId::new((astray.id.partition() + 1) % PARTITIONS, 7);
    assert!(matches!(
        queue.push(astray).await,
        Pushed::Unavailable {
            uncertain: false,
            ..
        }
    ));
    // Nor is there one in a partition that is none.
    let none = WriteId::new(200, 7);
    assert_eq!(queue.find(&none).await, Ok(None));
    assert_eq!(queue.revive(&none, (true, 0)).await, Ok(Revived::Unknown));
    assert_eq!(queue.discard(&none).await, Ok(false));
    assert!(queue.scan(200, 0, 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_push_at_the_same_time_have_one_order_and_no_id_twice() {
    let (server, node, queue) = one().await;
    let other = Node::connected(&server).await.tier.queue(BOUNDS);
    let value = of_partition(&*queue, 3, 1).remove(0);
    let pushes: Vec<_> = (0..400_u32)
        .map(|number| {
            let queue = if number.is_multiple_of(2) {
                Arc::clone(&queue)
            } else {
                Arc::clone(&other)
            };
            // Each twice, by another node.
            let item = item(&*queue, &value, &(number / 2).to_string());
            tokio::spawn(async move { (item.id.clone(), queue.push(item).await) })
        })
        .collect();
    let (mut accepted, mut ids) = (HashSet::new(), HashSet::new());
    for push in pushes {
        match push.await.unwrap() {
            (id, Pushed::Accepted { sequence }) => {
                assert!(ids.insert(id) && accepted.insert(sequence));
            }
            (_, Pushed::Known(known)) => assert_eq!(known.state, State::Pending),
            (_, other) => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted.len(), 200);
    let found = pending(&*queue, 3).await;
    assert!(found.is_sorted_by(|one, next| one.sequence < next.sequence));
    let found: HashSet<u64> = found.iter().map(|queued| queued.sequence).collect();
    assert_eq!(found, accepted);
    drop(node);
}

#[tokio::test]
async fn law_12_a_partition_that_is_full_takes_no_more_and_says_how_full_it_is() {
    let (_server, node, _) = one().await;
    let bounds = |items_max, bytes_max| Bounds {
        items_max,
        bytes_max,
    };
    let queue = &*node.tier.queue(bounds(32, 16_000));
    let values = of_partition(queue, 5, 4);
    let [one, two, three] = [0, 1, 2].map(|index| item(queue, &values[index], "x"));
    let first = accept(queue, &one).await;
    let second = accept(queue, &two).await;
    settle(queue, &two, second, Err("a dead letter takes room too")).await;
    let full = Depth {
        pending: 1,
        dead: 1,
        bytes: 2,
        oldest: Some(first),
    };
    assert_eq!(queue.push(three.clone()).await, Pushed::Full(full));
    assert_eq!(state(queue, &three).await, None);
    // What is known is told all the same.
    assert!(matches!(queue.push(one.clone()).await, Pushed::Known(_)));
    let other = of_partition(queue, 6, 1).remove(0);
    accept(queue, &item(queue, &other, "x")).await;
    settle(queue, &one, first, Ok(())).await;
    accept(queue, &three).await;

    let queue = &*node.tier.queue(bounds(32_000, 160));
    let value = of_partition(queue, 7, 1).remove(0);
    let long = item(queue, &value, "0123456789+");
    assert!(matches!(queue.push(long).await, Pushed::Full(_)));
    let fits = item(queue, &value, "0123456789");
    let sequence = accept(queue, &fits).await;
    assert!(matches!(
        queue.push(item(queue, &value, "x")).await,
        Pushed::Full(_)
    ));
    settle(queue, &fits, sequence, Err("it is kept")).await;
    assert!(matches!(
        queue.push(item(queue, &value, "x")).await,
        Pushed::Full(_)
    ));
    assert_eq!(queue.discard(&fits.id).await, Ok(true));
    accept(queue, &item(queue, &value, "x")).await;
}

#[tokio::test]
async fn what_is_settled_together_leaves_what_is_still_pending_the_newest() {
    let (_server, _node, queue) = one().await;
    let queue = &*queue;
    let items: Vec<Item> = ["1", "2", "3", "4"]
        .map(|change| item(queue, "42", change))
        .into();
    let mut at = Vec::new();
    for item in &items {
        at.push(accept(queue, item).await);
    }
    // Of another resource in the same partition.
    let partition = items[0].id.partition();
    let neighbour = of_partition(queue, partition, 3)
        .into_iter()
        .find(|value| value != "42")
        .unwrap();
    let beside = accept(queue, &item(queue, &neighbour, "x")).await;
    // The newest dies while older ones wait.
    settle(queue, &items[3], at[3], Err("no")).await;
    assert_eq!(newest(queue, &items[0]).await, Some(at[2]));
    assert!(!superseded(queue, &items[3]).await);
    // Two are coalesced, of which the older is given up and the newer made, in whichever order they are said.
    let together = vec![
        settlement(&items[1], at[1], Ok(())),
        settlement(&items[0], at[0], Err("no")),
    ];
    queue.settle(partition, together).await.unwrap();
    assert_eq!(newest(queue, &items[0]).await, Some(at[2]));
    assert!(superseded(queue, &items[0]).await);
    assert!(!superseded(queue, &items[3]).await, "it is later");
    settle(queue, &items[2], at[2], Ok(())).await;
    assert!(!superseded(queue, &items[3]).await, "it is later");
    assert_eq!(newest(queue, &items[0]).await, None);
    let left: Vec<u64> = pending(queue, partition)
        .await
        .iter()
        .map(|queued| queued.sequence)
        .collect();
    assert_eq!(left, [beside]);
}

#[tokio::test]
async fn a_dead_letter_is_superseded_by_what_is_made_after_it_and_revived_by_force_alone() {
    let (_server, _node, queue) = one().await;
    let queue = &*queue;
    let [one, two, three] = ["1", "2", "3"].map(|change| item(queue, "42", change));
    let first = accept(queue, &one).await;
    settle(queue, &one, first, Err("it is \0 poison")).await;
    let letter = letters(queue).await.remove(0);
    assert_eq!(letter.queued.id, one.id);
    assert_eq!(letter.queued.sequence, first);
    assert_eq!(letter.queued.resource.text(), one.resource.text());
    assert_eq!(letter.queued.record, one.record);
    assert_eq!(letter.reason, "it is \0 poison");
    assert!(!letter.superseded && letter.at_ms > 1_600_000_000_000);

    let second = accept(queue, &two).await;
    // Revived, it is the last of its resource: behind a later one that is pending only if that is known of.
    let unheard_of = queue.revive(&one.id, (false, second - 1)).await;
    assert_eq!(unheard_of, Ok(Revived::Superseded));
    let revived = queue.revive(&one.id, (false, second)).await;
    assert_eq!(queue.revive(&one.id, (true, 0)).await, Ok(Revived::Unknown));
    let again = newest(queue, &one).await.unwrap();
    assert!(again > second);
    assert_eq!(revived, Ok(Revived::Done { sequence: again }));
    let known = queue.find(&one.id).await.unwrap().unwrap();
    assert_eq!((known.state, known.sequence), (State::Pending, again));
    settle(queue, &two, second, Ok(())).await;
    // Settled at its old place, it is left alone.
    settle(queue, &one, first, Ok(())).await;
    assert_eq!(state(queue, &one).await, Some(State::Pending));
    settle(queue, &one, again, Err("no")).await;
    assert!(!superseded(queue, &one).await);

    let third = accept(queue, &three).await;
    assert!(!superseded(queue, &one).await, "it is not made yet");
    settle(queue, &three, third, Ok(())).await;
    assert!(superseded(queue, &one).await);
    assert_eq!(
        queue.revive(&one.id, (false, 0)).await,
        Ok(Revived::Superseded)
    );
    let before = queue.revive(&one.id, (false, third - 1)).await;
    assert_eq!(before, Ok(Revived::Superseded));
    assert!(matches!(
        queue.revive(&one.id, (true, 0)).await,
        Ok(Revived::Done { .. })
    ));
    assert!(letters(queue).await.is_empty());
    let last = newest(queue, &one).await.unwrap();
    settle(queue, &one, last, Err("again")).await;
    assert!(!superseded(queue, &one).await);

    assert_eq!(queue.discard(&one.id).await, Ok(true));
    assert_eq!(queue.discard(&one.id).await, Ok(false));
    assert_eq!(state(queue, &one).await, None);
    assert_eq!(queue.revive(&one.id, (true, 0)).await, Ok(Revived::Unknown));
    assert_eq!(queue.depth().await, Ok(Depth::default()));
    // Forgotten, it may be asked for again.
    accept(queue, &one).await;
}

#[tokio::test]
async fn dead_letters_are_told_page_by_page_in_the_order_of_their_ids() {
    let (_server, _node, queue) = one().await;
    let queue = &*queue;
    let mut ids = Vec::new();
    for number in 0..200_u32 {
        let item = item(queue, &(number / 4).to_string(), &number.to_string());
        let sequence = accept(queue, &item).await;
        settle(queue, &item, sequence, Err("no")).await;
        ids.push(item.id);
    }
    ids.sort();
    let of = |letters: Vec<DeadLetter>| -> Vec<WriteId> {
        letters.into_iter().map(|letter| letter.queued.id).collect()
    };
    assert_eq!(of(letters(queue).await), ids);
    let mut paged = Vec::new();
    loop {
        let page = of(queue.dead(paged.last(), 7).await.unwrap());
        assert!(page.len() == 7 || paged.len() + page.len() == 200);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, ids);
    assert_eq!(queue.depth().await.unwrap().dead, 200);
}

#[tokio::test]
async fn law_12_what_became_of_a_change_is_told_for_a_while_and_of_so_many() {
    let (server, _node, queue) = one().await;
    let queue = &*queue;
    let (old, new) = (item(queue, "42", "old"), item(queue, "42", "new"));
    let sequence = accept(queue, &old).await;
    settle(queue, &old, sequence, Ok(())).await;
    // As if it had been made a day and a second ago.
    let (ids, told) = (piece(&old, 'i'), piece(&old, 't'));
    let at: f64 = server.ask_words(&["ZSCORE", &told, old.id.as_str()]).await;
    let aged = (at as u64 - TOLD_MS - 1_000).to_string();
    let text: String = server.ask_words(&["HGET", &ids, old.id.as_str()]).await;
    let text = text.replacen(&(at as u64).to_string(), &aged, 3);
    let age = async || {
        let _: i64 = server
            .ask_words(&["HSET", &ids, old.id.as_str(), &text])
            .await;
        let _: i64 = server
            .ask_words(&["ZADD", &told, &aged, old.id.as_str()])
            .await;
    };
    age().await;
    assert_eq!(state(queue, &old).await, None);
    // Accepted anew, and not forgotten with what is forgotten.
    let again = accept(queue, &old).await;
    let sequence = accept(queue, &new).await;
    settle(queue, &new, sequence, Ok(())).await;
    assert_eq!(state(queue, &old).await, Some(State::Pending));
    settle(queue, &old, again, Ok(())).await;
    age().await;
    let last = item(queue, "42", "last");
    let sequence = accept(queue, &last).await;
    settle(queue, &last, sequence, Ok(())).await;
    let left: Vec<String> = server.ask_words(&["ZRANGE", &told, "0", "-1"]).await;
    assert!(!left.contains(&old.id.to_string()), "forgotten: {left:?}");
    let left: bool = server.ask_words(&["HEXISTS", &ids, old.id.as_str()]).await;
    assert!(!left);

    // As many as are told, and some more.
    let most = TOLD_MAX / u64::from(PARTITIONS);
    let fill = "for i = 1, ARGV[1] do local id = string.format('%032x', i) \
                redis.call('HSET', KEYS[1], id, 'a:1-1:' .. ARGV[2] .. ':00') \
                redis.call('ZADD', KEYS[2], ARGV[2] + i / 10000, id) end return 1";
    let (many, at) = ((most + 10).to_string(), (at as u64 - 1_000).to_string());
    let _: i64 = server
        .ask_words(&["EVAL", fill, "2", &ids, &told, &many, &at])
        .await;
    let one_more = item(queue, "42", "one more");
    let sequence = accept(queue, &one_more).await;
    settle(queue, &one_more, sequence, Ok(())).await;
    let count: u64 = server.ask_words(&["ZCARD", &told]).await;
    assert_eq!(count, most);
    let count: u64 = server.ask_words(&["HLEN", &ids]).await;
    assert_eq!(count, most);
    assert!(matches!(
        state(queue, &one_more).await,
        Some(State::Applied { .. })
    ));
    let oldest = format!("{:032x}", 1).parse().unwrap();
    assert_eq!(queue.find(&oldest).await, Ok(None));
}

#[tokio::test]
async fn a_consumer_that_was_cut_off_changes_nothing_that_its_successor_has_settled() {
    let (server, node, queue) = one().await;
    let other = Node::connected(&server).await;
    let next = other.tier.queue(BOUNDS);
    let [one, two] = ["1", "2"].map(|change| item(&*queue, "42", change));
    let at = one.id.partition();
    let Duty::Ours(old) = queue.own(at).await else {
        panic!("nobody has it");
    };
    assert!(matches!(next.own(at).await, Duty::Others(_)));
    let first = accept(&*queue, &one).await;
    let second = accept(&*queue, &two).await;
    // As if the node had been frozen for longer than its lease lives.
    let leases: Vec<String> = server.ask("KEYS larder:l:*").await;
    for lease in leases {
        let _: i64 = server.ask_words(&["DEL", &lease]).await;
    }
    let Duty::Ours(new) = next.own(at).await else {
        panic!("nobody has it");
    };
    let found = pending(&*next, at).await;
    assert_eq!(found.len(), 2);
    settle(&*next, &one, first, Ok(())).await;
    settle(&*next, &two, second, Err("no")).await;
    settle(&*queue, &one, first, Err("it timed out")).await;
    settle(&*queue, &two, second, Ok(())).await;
    assert!(matches!(
        state(&*queue, &one).await,
        Some(State::Applied { .. })
    ));
    assert!(matches!(
        state(&*queue, &two).await,
        Some(State::Dead { .. })
    ));
    old.lost().await;
    assert!(new.stands());
    // Another partition is another duty.
    let another = (at + 1) % PARTITIONS;
    assert!(matches!(queue.own(another).await, Duty::Ours(_)));
    drop(node);
}

#[tokio::test]
async fn a_consumer_hears_of_what_any_node_pushes_and_finds_it_when_the_word_is_lost() {
    let (server, node, queue) = one().await;
    let other = Node::connected(&server).await;
    let one = item(&*queue, "42", "1");
    let at = one.id.partition();
    let mut heard = node.tier.shared.pushed.of(at).unwrap();
    let sequence = accept(&*other.tier.queue(BOUNDS), &one).await;
    // Told, not looked for.
    soon(heard.changed()).await.unwrap();
    assert_eq!(*heard.borrow(), sequence);
    soon(queue.news(at, 0)).await;
    soon(queue.news(at, sequence - 1)).await;

    // Nothing is there after it: what ends this is a word.
    let waiting = queue.news(at, sequence);
    let word = async {
        loop {
            node.tier.shared.pushed.heard(at, sequence + 1);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = waiting => {}
        () = word => {}
    }
    // The word of what was found already is none; and of this one there is none at all.
    let stream = piece(&one, 's');
    let unheard = async {
        node.tier.shared.pushed.heard(at, sequence);
        let words = ["XADD", &stream, "*", "i", "x"];
        let _: String = server.ask_words(&words).await;
    };
    soon(async { tokio::join!(queue.news(at, sequence), unheard) }).await;

    // A dead letter that is pending again is news, too.
    settle(&*queue, &one, sequence, Err("no")).await;
    assert!(matches!(
        queue.revive(&one.id, (false, 0)).await,
        Ok(Revived::Done { .. })
    ));
    soon(queue.news(at, sequence)).await;
}

#[tokio::test]
async fn law_11_what_is_no_piece_of_a_queue_is_replaced_and_no_entry_of_it_is_a_change() {
    let (server, node, queue) = one().await;
    let queue = &*queue;
    for name in ['s', 'i', 'n', 't', 'd', 'x', 'r', 'c'] {
        let change = item(queue, "42", &name.to_string());
        let at = change.id.partition();
        let _: String = server
            .ask_words(&["SET", &piece(&change, name), "foreign"])
            .await;
        // Reading it is no trouble; then everything works.
        assert!(pending(queue, at).await.is_empty(), "{name}");
        assert_eq!(queue.fetch(at, 7).await, Ok(None));
        assert_eq!(state(queue, &change).await, None, "{name}");
        let sequence = accept(queue, &change).await;
        assert_eq!(newest(queue, &change).await, Some(sequence), "{name}");
        settle(queue, &change, sequence, Err("no")).await;
        assert_eq!(letters(queue).await.len(), 1, "{name}");
        assert_eq!(queue.discard(&change.id).await, Ok(true), "{name}");
        assert_eq!(queue.depth().await, Ok(Depth::default()), "{name}");
    }
    let change = item(queue, "42", "own");
    let (at, stream) = (change.id.partition(), piece(&change, 's'));
    let before = node.count(|counters| &counters.foreign);
    let id = change.id.as_str();
    for foreign in [
        &["a", "b"][..],
        &["i", "no id", "r", "x", "p", "00", "d", "x"],
        &["i", id, "r", "x", "d", "x", "p", "00"],
        &["i", id, "r", "x", "p", "00", "d", "x", "e", "more"],
    ] {
        let words = [&["XADD", &stream, "*"], foreign].concat();
        let _: String = server.ask_words(&words).await;
    }
    let sequence = accept(queue, &change).await;
    soon(queue.news(at, 0)).await;
    // The last of them has all that a script looks for: it is not counted as a change, nor found as one.
    let found = pending(queue, at).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].sequence, sequence);
    assert_eq!(node.count(|counters| &counters.foreign), before + 4);
    settle(queue, &change, sequence, Ok(())).await;
    let left: u64 = server.ask_words(&["XLEN", &stream]).await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn law_11_numbers_that_are_of_no_clock_are_in_the_way_until_they_are_gone() {
    let (server, _node, queue) = one().await;
    let queue = &*queue;
    for last in [
        "18446744073709551615-18446744073709551615",
        "8796093022208-0",
    ] {
        let [one, two] = ["1", "2"].map(|change| item(queue, "42", change));
        let (at, stream) = (one.id.partition(), piece(&one, 's'));
        let first = accept(queue, &one).await;
        let words = ["XADD", &stream, last, "i", "x"];
        let _: String = server.ask_words(&words).await;
        let Pushed::Unavailable { why, .. } = queue.push(two.clone()).await else {
            panic!("it has no place");
        };
        assert!(why.contains(&stream), "{why}");
        assert_eq!(pending(queue, at).await.len(), 1);
        settle(queue, &one, first, Ok(())).await;
        let second = accept(queue, &two).await;
        assert!(second > first);
        settle(queue, &two, second, Ok(())).await;
        let _: i64 = server.ask_words(&["DEL", &piece(&one, 'i')]).await;
    }
}

#[tokio::test]
async fn places_grow_when_the_clock_goes_back_and_when_the_last_ones_were_lost() {
    let (server, _node, queue) = one().await;
    let queue = &*queue;
    let [one, two, three] = ["1", "2", "3"].map(|change| item(queue, "42", change));
    let (at, stream) = (one.id.partition(), piece(&one, 's'));
    let first = accept(queue, &one).await;
    // An hour ahead, and with no count left in its millisecond.
    let ahead = accepted_ms(first) + 3_600_000;
    let number = format!("{ahead}-1048575");
    let id = "0b".repeat(16);
    let words = [
        "XADD", &stream, &number, "i", &id, "r", "x", "p", "00", "d", "x",
    ];
    let _: String = server.ask_words(&words).await;
    let second = accept(queue, &two).await;
    assert_eq!(second, (ahead + 1) << 20);
    assert_eq!(pending(queue, at).await.len(), 3);
    // As a replica that is promoted without the last of them, and whose clock is behind.
    let _: String = server.ask("FLUSHALL").await;
    let third = accept(queue, &three).await;
    assert_eq!(third, second + 1);
}

#[tokio::test]
async fn law_4_no_piece_that_was_evicted_stops_a_partition_or_makes_up_a_change() {
    let (server, _node, queue) = one().await;
    let queue = &*queue;
    for name in ['s', 'i', 'n', 't', 'd', 'x', 'r', 'c'] {
        let [waits, dies, made, after] = ["waits", "dies", "made", "after"]
            .map(|change| item(queue, "42", &format!("{change} {name}")));
        let at = waits.id.partition();
        let sequence = accept(queue, &made).await;
        settle(queue, &made, sequence, Ok(())).await;
        let sequence = accept(queue, &dies).await;
        settle(queue, &dies, sequence, Err("no")).await;
        let first = accept(queue, &waits).await;
        let _: i64 = server.ask_words(&["DEL", &piece(&waits, name)]).await;

        let second = accept(queue, &after).await;
        assert_eq!(newest(queue, &after).await, Some(second), "{name}");
        let found = pending(queue, at).await;
        let expect = if name == 's' { 1 } else { 2 };
        assert_eq!(found.len(), expect, "{name}");
        assert_eq!(found.last().unwrap().record, after.record);
        let known = state(queue, &waits).await;
        let lost = name == 's' || name == 'i';
        assert_eq!(known, (!lost).then_some(State::Pending), "{name}");
        settle(queue, &waits, first, Ok(())).await;
        settle(queue, &after, second, Ok(())).await;
        let told = letters(queue).await;
        assert_eq!(
            told.len(),
            usize::from(name != 'd' && name != 'x'),
            "{name}"
        );
        queue.revive(&dies.id, (true, 0)).await.unwrap();
        for queued in pending(queue, at).await {
            settle(queue, &dies, queued.sequence, Err("no")).await;
        }
        queue.discard(&dies.id).await.unwrap();
        assert_eq!(newest(queue, &after).await, None, "{name}");
        assert_eq!(queue.depth().await, Ok(Depth::default()), "{name}");
    }
    // What is left of them is swept out as changes go by.
    let ids = piece(&item(queue, "42", ""), 'i');
    let told = piece(&item(queue, "42", ""), 't');
    let mut number = 0;
    eventually(
        "no id is left of what was lost",
        HEALED_WITHIN,
        async || {
            number += 1;
            let item = item(queue, "42", &format!("{number}th"));
            let sequence = accept(queue, &item).await;
            settle(queue, &item, sequence, Ok(())).await;
            let ids: u64 = server.ask_words(&["HLEN", &ids]).await;
            let told: u64 = server.ask_words(&["ZCARD", &told]).await;
            ids == told
        },
    )
    .await;
}

#[tokio::test]
async fn law_7_a_push_whose_answer_was_lost_is_sent_again_and_accepted_once() {
    let (server, node, queue) = one().await;
    let queue = &*queue;
    let change = item(queue, "42", "1");
    server.freeze();
    let Pushed::Unavailable { uncertain, .. } = queue.push(change.clone()).await else {
        panic!("nothing answers");
    };
    assert!(uncertain);
    server.thaw();
    node.wait_available().await;
    let mut pushed = None;
    eventually("it is answered", HEALED_WITHIN, async || {
        pushed = Some(queue.push(change.clone()).await);
        !matches!(pushed, Some(Pushed::Unavailable { .. }))
    })
    .await;
    let Some(Pushed::Known(_) | Pushed::Accepted { .. }) = pushed else {
        panic!("{pushed:?}");
    };
    // The first was sent, and has come by now: everything is asked after it.
    assert_eq!(pending(queue, change.id.partition()).await.len(), 1);
    assert!(matches!(queue.push(change).await, Pushed::Known(_)));
}

#[tokio::test]
async fn law_7_an_answer_that_is_lost_on_its_way_back_leaves_the_change_accepted() {
    let (server, _direct, direct) = one().await;
    let deaf = Arc::new(AtomicBool::new(false));
    let port = relay(server.port(), Arc::clone(&deaf)).await;
    let node = Node::start_at(Servers::Single(format!("redis://127.0.0.1:{port}/")));
    node.wait_available().await;
    let queue = &*node.tier.queue(BOUNDS);
    let change = item(queue, "42", "1");
    deaf.store(true, Ordering::SeqCst);
    let Pushed::Unavailable { uncertain, .. } = queue.push(change.clone()).await else {
        panic!("nothing is answered");
    };
    assert!(uncertain);
    let sequence = newest(&*direct, &change).await.expect("it was accepted");
    deaf.store(false, Ordering::SeqCst);
    node.wait_available().await;
    let mut pushed = None;
    eventually("it is answered", HEALED_WITHIN, async || {
        pushed = Some(queue.push(change.clone()).await);
        !matches!(pushed, Some(Pushed::Unavailable { .. }))
    })
    .await;
    let state = State::Pending;
    let known = Pushed::Known(Known { state, sequence });
    assert_eq!(pushed, Some(known));
    assert_eq!(pending(queue, change.id.partition()).await.len(), 1);
}

/// A way to a server on another port, on which answers are lost as long as it is deaf.
async fn relay(to: u16, deaf: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, deaf) = (
                TcpStream::connect(("127.0.0.1", to)).await,
                Arc::clone(&deaf),
            );
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.unwrap().into_split();
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            });
            tokio::spawn(async move {
                let mut answers = [0; 4096];
                while let Ok(read @ 1..) = from_server.read(&mut answers).await {
                    // Decided when the answer is there: what was lost stays lost.
                    let lost = deaf.load(Ordering::SeqCst);
                    if !lost && to_client.write_all(&answers[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn law_7_a_full_or_read_only_redis_accepts_nothing_and_lets_what_is_there_be_settled() {
    let (server, node, queue) = one().await;
    let queue = &*queue;
    let [one, two, three] = ["1", "2", "3"].map(|change| item(queue, "42", change));
    let first = accept(queue, &one).await;
    let second = accept(queue, &two).await;
    let refused = async || {
        assert!(matches!(
            queue.push(three.clone()).await,
            Pushed::Unavailable {
                uncertain: false,
                ..
            }
        ));
        assert_eq!(state(queue, &three).await, None);
    };
    let _: String = server.ask("CONFIG SET maxmemory 1").await;
    refused().await;
    settle(queue, &one, first, Ok(())).await;
    settle(queue, &two, second, Err("no")).await;
    assert_eq!(queue.depth().await.unwrap().dead, 1);
    assert!(queue.revive(&two.id, (false, 0)).await.is_err());
    let _: String = server.ask("CONFIG SET maxmemory 0").await;
    let _: String = server.ask("CONFIG SET min-replicas-to-write 1").await;
    refused().await;
    assert!(queue.revive(&two.id, (false, 0)).await.is_err());
    assert!(queue.discard(&two.id).await.is_err());
    assert_eq!(letters(queue).await.len(), 1);
    let _: String = server.ask("CONFIG SET min-replicas-to-write 0").await;
    accept(queue, &three).await;
    assert_eq!(node.tier.health().error, None);
}

#[tokio::test]
async fn law_6_without_redis_nothing_is_accepted_and_nobody_hangs() {
    let (mut server, node, queue) = one().await;
    let queue = &*queue;
    let change = item(queue, "42", "1");
    let sequence = accept(queue, &change).await;
    server.kill();
    eventually("the breaker opens", HEALED_WITHIN, async || {
        !node.tier.health().available
    })
    .await;
    let at = change.id.partition();
    assert!(matches!(
        queue.push(change.clone()).await,
        Pushed::Unavailable {
            uncertain: false,
            ..
        }
    ));
    assert!(queue.find(&change.id).await.is_err());
    assert!(queue.newest(&change.resource).await.is_err());
    assert!(queue.scan(at, 0, 1).await.is_err());
    assert!(queue.fetch(at, sequence).await.is_err());
    assert!(
        queue
            .settle(at, vec![settlement(&change, sequence, Ok(()))])
            .await
            .is_err()
    );
    assert!(queue.dead(None, 1).await.is_err());
    assert!(queue.depth().await.is_err());
    assert!(matches!(queue.own(at).await, Duty::Unavailable));
    let durability = node.tier.durability().await;
    assert_eq!(durability.lasting, Lasting::Unknown);
}

#[tokio::test]
async fn law_7_what_was_accepted_outlives_a_redis_that_is_killed() {
    let mut server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let node = Node::connected(&server).await;
    let queue = node.tier.queue(BOUNDS);
    assert_eq!(node.tier.durability().await.lasting, Lasting::Always);
    let mut accepted = HashMap::new();
    for round in 0..3 {
        // Killed while it is busy: whoever has no answer has none.
        let pushing: Vec<_> = (0..8)
            .map(|writer| {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut accepted = Vec::new();
                    for number in 0_u32.. {
                        let change = format!("{round} {writer} {number}");
                        let item = item(&*queue, &number.to_string(), &change);
                        match queue.push(item.clone()).await {
                            Pushed::Accepted { sequence } => accepted.push((item.id, sequence)),
                            _ => break,
                        }
                    }
                    accepted
                })
            })
            .collect();
        let before = accepted.len() as u64;
        eventually("they are busy", HEALED_WITHIN, async || {
            let depth = queue.depth().await;
            depth.is_ok_and(|depth| depth.pending > before + 100)
        })
        .await;
        server.kill();
        for writer in pushing {
            accepted.extend(writer.await.unwrap());
        }
        server.run().await;
        node.wait_available().await;
    }
    let mut found = HashSet::new();
    for partition in 0..PARTITIONS {
        let pending = pending(&*queue, partition).await;
        assert!(pending.is_sorted_by(|one, next| one.sequence < next.sequence));
        for queued in pending {
            // Those without an answer may be there, and are whole.
            let item = item(
                &*queue,
                queued.resource.text().rsplit(':').next().unwrap(),
                std::str::from_utf8(&queued.record).unwrap(),
            );
            assert_eq!(queued.id, item.id);
            found.insert((queued.id, queued.sequence));
        }
    }
    assert!(accepted.len() > 300, "{}", accepted.len());
    for accepted in accepted {
        assert!(found.contains(&accepted), "{accepted:?} is lost");
    }
}

#[tokio::test]
async fn what_the_servers_promise_is_told() {
    let (server, node, queue) = one().await;
    let set = async |setting: &str, value: &str| {
        let _: String = server.ask_words(&["CONFIG", "SET", setting, value]).await;
    };
    let promised = async || node.tier.durability().await;
    let none = promised().await;
    assert_eq!(
        (none.lasting, none.evicts.as_deref()),
        (Lasting::Memory, None)
    );
    assert!(!none.copied && !none.insists);
    set("appendonly", "yes").await;
    for (fsync, lasting) in [
        ("always", Lasting::Always),
        ("everysec", Lasting::EverySecond),
        ("no", Lasting::Memory),
    ] {
        set("appendfsync", fsync).await;
        assert_eq!(promised().await.lasting, lasting);
    }
    assert!(Lasting::Memory < Lasting::Unknown && Lasting::EverySecond < Lasting::Always);
    set("maxmemory-policy", "allkeys-lru").await;
    assert_eq!(promised().await.evicts, None, "it is never full");
    set("maxmemory", "1gb").await;
    assert_eq!(promised().await.evicts.as_deref(), Some("allkeys-lru"));
    assert!(promised().await.to_string().contains("allkeys-lru"));
    set("maxmemory-policy", "volatile-lru").await;
    assert_eq!(promised().await.evicts, None);

    // With a replica a push waits for it. Without a disk between them it would be sent nothing for up to a second after it
    // has all of what was there before.
    set("repl-diskless-sync", "no").await;
    let replica = Server::with(&["--replicaof", &format!("127.0.0.1 {}", server.port())]).await;
    eventually("it copies, as purges tell", 4 * HEALED_WITHIN, async || {
        let purged = node.purge(Scope::All, Mode::Delete).await;
        purged.replicas == Some(1)
    })
    .await;
    set("min-replicas-to-write", "1").await;
    eventually("it counts", HEALED_WITHIN, async || {
        let info: String = server.ask("INFO replication").await;
        info.contains("min_slaves_good_slaves:1")
    })
    .await;
    let promised = promised().await;
    assert!(promised.copied && promised.insists);
    let change = item(&*queue, "42", "1");
    accept(&*queue, &change).await;
    let copied: u64 = replica.ask_words(&["XLEN", &piece(&change, 's')]).await;
    assert_eq!(copied, 1);
    replica.freeze();
    // One that hangs refuses nothing, as long as Redis takes it for there.
    let late = queue.push(item(&*queue, "42", "2")).await;
    assert!(matches!(late, Pushed::Accepted { .. }), "{late:?}");
}

/// Everything that is done with a queue, by a node and the one after it.
async fn use_in_every_way(node: &Node) {
    let queue = &*node.tier.queue(BOUNDS);
    let [one, two, three] = ["1", "2", "3"].map(|change| item(queue, "42", change));
    let at = one.id.partition();
    let first = accept(queue, &one).await;
    let second = accept(queue, &two).await;
    soon(queue.news(at, 0)).await;
    assert_eq!(pending(queue, at).await.len(), 2);
    assert_eq!(newest(queue, &one).await, Some(second));
    settle(queue, &one, first, Err("no")).await;
    settle(queue, &two, second, Ok(())).await;
    assert!(superseded(queue, &one).await);
    assert!(matches!(
        queue.revive(&one.id, (true, 0)).await,
        Ok(Revived::Done { .. })
    ));
    let last = newest(queue, &one).await.unwrap();
    settle(queue, &one, last, Err("no")).await;
    assert_eq!(queue.discard(&one.id).await, Ok(true));
    accept(queue, &three).await;
    let Duty::Ours(tenure) = queue.own(at).await else {
        panic!("nobody has it");
    };
    tenure.end().await;
    assert_eq!(queue.depth().await.unwrap().pending, 1);
}

#[tokio::test]
async fn a_user_that_may_do_what_is_printed_can_do_all_of_it_and_needs_all_that_it_adds() {
    let server = Server::start().await;
    let url = format!("redis://queue:geheim@127.0.0.1:{}/", server.port());
    let servers = Servers::Single(url);
    let words = |queue| -> Vec<String> {
        let line = acl(&servers, "larder", queue).unwrap();
        let line = line.replace(">PASSWORD", ">geheim");
        line.split(' ').map(str::to_owned).collect()
    };
    let with = words(true);
    let line: Vec<&str> = with.iter().map(String::as_str).collect();
    let _: String = server.ask_words(&line).await;
    let _: String = server.ask("CONFIG RESETSTAT").await;
    let node = Node::start_at(servers.clone());
    node.wait_available().await;
    let stream = format!("larder:q:{{w:{:02x}}}:s", 1);
    use_in_every_way(&node).await;
    // What is foreign takes more: entries, wrong types, more than is told, ids of what was lost.
    let queue = &*node.tier.queue(BOUNDS);
    let value = of_partition(queue, 1, 1).remove(0);
    let change = item(queue, &value, "1");
    let _: String = server.ask_words(&["XADD", &stream, "*", "a", "b"]).await;
    let _: i64 = server
        .ask_words(&["HSET", &piece(&change, 'i'), "x", "y"])
        .await;
    let fill = "for i = 1, 6251 do redis.call('ZADD', KEYS[1], ARGV[1], i) end return 1";
    let told = piece(&change, 't');
    let now_ms = node.clock.now_ms().to_string();
    let _: i64 = server.ask_words(&["EVAL", fill, "1", &told, &now_ms]).await;
    assert!(pending(queue, 1).await.is_empty());
    let sequence = accept(queue, &change).await;
    settle(queue, &change, sequence, Ok(())).await;
    let _: i64 = server.ask_words(&["DEL", &told]).await;
    for number in 0..3 {
        accept(queue, &item(queue, &value, &number.to_string())).await;
    }
    let denied: Vec<redis::Value> = server.ask("ACL LOG").await;
    assert_eq!(denied, []);

    let stats: String = server.ask("INFO commandstats").await;
    let without = words(false);
    let added: Vec<&String> = with.iter().filter(|word| !without.contains(word)).collect();
    assert!(added.len() > 10);
    for command in added.iter().filter_map(|word| word.strip_prefix('+')) {
        let used = stats.contains(&format!("cmdstat_{command}:"));
        assert!(used, "{command} is not needed");
    }
    // How it writes to its disk is not its business unless it is told so.
    let _: String = server.ask("CONFIG SET appendonly yes").await;
    assert_eq!(node.tier.durability().await.lasting, Lasting::Unknown);
    let _: String = server.ask("ACL SETUSER queue +config|get").await;
    assert_eq!(node.tier.durability().await.lasting, Lasting::EverySecond);
    assert!(node.tier.health().available);
}

/// A cluster of two servers that hold half of the slots each.
struct Cluster([Server; 2]);

impl Cluster {
    async fn start() -> Self {
        let mut servers = Vec::new();
        for (number, slots) in [(1, ["0", "8191"]), (2, ["8192", "16383"])] {
            let bus = Server::absent().port().to_string();
            let server = Server::with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
            let _: String = server
                .ask(&format!("CLUSTER SET-CONFIG-EPOCH {number}"))
                .await;
            let _: String = server
                .ask_words(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]])
                .await;
            servers.push((server, bus));
        }
        let (port, bus) = (servers[1].0.port(), servers[1].1.clone());
        let _: String = servers[0]
            .0
            .ask(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"))
            .await;
        let servers: Vec<Server> = servers.into_iter().map(|(server, _)| server).collect();
        eventually("it is whole", 6 * HEALED_WITHIN, async || {
            let mut whole = true;
            for server in &servers {
                let info: String = server.ask("CLUSTER INFO").await;
                whole &= info.contains("cluster_state:ok") && info.contains("cluster_size:2");
            }
            whole
        })
        .await;
        Self(servers.try_into().unwrap_or_else(|_| panic!("two")))
    }

    fn servers(&self) -> Servers {
        Servers::Cluster(self.0.iter().map(Server::url).collect())
    }

    /// Moves a slot with all that is in it to the other server.
    async fn move_slot(&self, slot: usize) {
        let from = usize::from(slot > 8191);
        let (from, to) = (&self.0[from], &self.0[1 - from]);
        let from_id: String = from.ask("CLUSTER MYID").await;
        let to_id: String = to.ask("CLUSTER MYID").await;
        let set = async |server: &Server, what: String| {
            let _: String = server.ask(&format!("CLUSTER SETSLOT {slot} {what}")).await;
        };
        set(to, format!("IMPORTING {from_id}")).await;
        set(from, format!("MIGRATING {to_id}")).await;
        let keys: Vec<String> = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100")).await;
        let port = to.port().to_string();
        let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        words.extend(keys.iter().map(String::as_str));
        let _: String = from.ask_words(&words).await;
        set(to, format!("NODE {to_id}")).await;
        set(from, format!("NODE {to_id}")).await;
    }
}

#[tokio::test]
async fn the_partitions_of_a_cluster_are_where_their_slots_are_and_move_with_them() {
    let cluster = Cluster::start().await;
    let node = Node::start_at(cluster.servers());
    let other = Node::start_at(cluster.servers());
    for node in [&node, &other] {
        eventually("all servers are spoken to", HEALED_WITHIN, async || {
            node.tier.shared.is_whole()
        })
        .await;
    }
    let (queue, next) = (&*node.tier.queue(BOUNDS), &*other.tier.queue(BOUNDS));
    let mut items = Vec::new();
    for partition in 0..PARTITIONS {
        let value = of_partition(queue, partition, 1).remove(0);
        let item = item(queue, &value, "1");
        let mut heard = other.tier.shared.pushed.of(partition).unwrap();
        let sequence = accept(queue, &item).await;
        // Whichever server it was told by.
        soon(heard.changed()).await.unwrap();
        soon(next.news(partition, 0)).await;
        items.push((item, sequence));
    }
    for server in &cluster.0 {
        let keys: Vec<String> = server.ask("KEYS larder:q:*").await;
        assert!(!keys.is_empty(), "both hold some");
    }
    assert_eq!(next.depth().await.unwrap().pending, 16);
    assert_eq!(node.tier.durability().await.lasting, Lasting::Memory);

    let (moving, sequence) = &items[3];
    cluster
        .move_slot(super::super::names::partition_slot(3))
        .await;
    let after = item(
        queue,
        moving.resource.text().rsplit(':').next().unwrap(),
        "2",
    );
    let mut pushed = None;
    eventually("the partition is found again", HEALED_WITHIN, async || {
        pushed = Some(queue.push(after.clone()).await);
        match &pushed {
            Some(Pushed::Unavailable { uncertain, .. }) => {
                assert!(!uncertain, "who does not hold it has not accepted it");
                false
            }
            _ => true,
        }
    })
    .await;
    let Some(Pushed::Accepted { sequence: second }) = pushed else {
        panic!("{pushed:?}");
    };
    assert!(second > *sequence);
    assert_eq!(pending(queue, 3).await.len(), 2);
    items.push((after, second));
    for (item, sequence) in &items {
        settle(queue, item, *sequence, Err("no")).await;
    }
    assert_eq!(letters(queue).await.len(), 17);
}
