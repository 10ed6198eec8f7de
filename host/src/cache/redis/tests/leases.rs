//! Leases between two nodes: one has it, who waits is woken, and only the owner stores.

use super::*;
use crate::cache::tier::{Ended, LIVENESS};

fn granted(leasing: Leasing) -> (Lease, Option<Duration>) {
    match leasing {
        Leasing::Granted { lease, stored_ago } => (lease, stored_ago),
        Leasing::Held(_) => panic!("another has it"),
        Leasing::Unavailable => panic!("the tier is not to be had"),
    }
}

fn held(leasing: Leasing) -> futures_util::future::BoxFuture<'static, Ended> {
    match leasing {
        Leasing::Held(ended) => ended,
        _ => panic!("nobody has it"),
    }
}

async fn two() -> (Server, Node, Node) {
    let server = Server::start().await;
    let (one, other) = (
        Node::connected(&server).await,
        Node::connected(&server).await,
    );
    (server, one, other)
}

#[tokio::test]
async fn law_3_one_has_the_lease_and_its_store_wakes_the_other() {
    let (server, one, other) = two().await;
    let (lease, stored_ago) = granted(one.lease(&key("42"), 0).await);
    assert_eq!(stored_ago, None, "nothing is there");
    let ended = held(other.lease(&key("42"), 0).await);
    drop(held(one.lease(&key("42"), 0).await));
    granted(other.lease(&key("43"), 0).await);
    let entry = one.load("body");
    assert_eq!(one.tier.put(&key("42"), &entry, &lease).await, Put::Stored);
    assert_eq!(ended.await, Ended::Stored);
    assert_eq!(other.reads(&key("42")).await, alive("body"));
    drop(lease);
    let (_again, stored_ago) = granted(other.lease(&key("42"), 0).await);
    assert!(stored_ago.expect("it is there") < LIVENESS * 10);
    let leases: Vec<String> = server.ask("KEYS larder:l:*42*").await;
    assert_eq!(leases.len(), 1, "the second one's");
}

#[tokio::test]
async fn law_3_a_lease_that_was_lost_stores_nothing() {
    let (server, one, other) = two().await;
    let (lease, _) = granted(one.lease(&key("42"), 0).await);
    let entry = one.load("late");
    // As if this node had been away for longer than its lease lives.
    let name = format!("larder:l:{}", key("42").text());
    let _: i64 = server.ask(&format!("DEL {name}")).await;
    assert_eq!(one.tier.put(&key("42"), &entry, &lease).await, Put::Refused);
    let (new, _) = granted(other.lease(&key("42"), 0).await);
    assert_eq!(one.tier.put(&key("42"), &entry, &lease).await, Put::Refused);
    // What the old owner gives back is not the new one's.
    drop(lease);
    let entry = other.load("new");
    assert_eq!(other.tier.put(&key("42"), &entry, &new).await, Put::Stored);
    assert_eq!(one.reads(&key("42")).await, alive("new"));
}

#[tokio::test]
async fn a_lease_that_is_given_back_wakes_who_waits() {
    let (_server, one, other) = two().await;
    let (lease, _) = granted(one.lease(&key("42"), 0).await);
    let ended = held(other.lease(&key("42"), 0).await);
    drop(lease);
    assert_eq!(ended.await, Ended::GivenBack);
    granted(other.lease(&key("42"), 0).await);
}

#[tokio::test]
async fn law_4_a_lease_from_before_a_purge_is_taken_over() {
    let (_server, one, other) = two().await;
    let (lease, _) = granted(one.lease(&key("42"), 0).await);
    let entry = one.load("old");
    let purged = other
        .purge(Scope::Resource(resource("42")), Mode::Delete)
        .await;
    let (new, _) = granted(other.lease(&key("42"), purged.seq).await);
    assert_eq!(one.tier.put(&key("42"), &entry, &lease).await, Put::Refused);
    drop(held(one.lease(&key("42"), 0).await));
    let entry = other.load("new");
    assert_eq!(other.tier.put(&key("42"), &entry, &new).await, Put::Stored);
}

#[tokio::test]
async fn law_11_what_is_no_lease_keeps_nobody_waiting() {
    let (server, one, _other) = two().await;
    let name = format!("larder:l:{}", key("42").text());
    for foreign in [
        format!("SET {name} garbage"),
        format!("RPUSH {name} garbage"),
        format!("SET {name} 00000000000000ff:00000000000000ff:9 PX 999999"),
        format!(
            "SET {name} 00ff:{:016x}:9 PX 999999",
            one.generations.epoch()
        ),
    ] {
        let _: redis::Value = server.ask(&format!("DEL {name}")).await;
        let _: redis::Value = server.ask(&foreign).await;
        let (lease, _) = granted(one.lease(&key("42"), 0).await);
        let entry = one.load("body");
        assert_eq!(
            one.tier.put(&key("42"), &entry, &lease).await,
            Put::Stored,
            "{foreign}"
        );
    }
}

#[tokio::test]
async fn law_6_nobody_waits_for_the_word_of_a_redis_that_is_gone() {
    let (server, one, other) = two().await;
    let (_lease, _) = granted(one.lease(&key("42"), 0).await);
    let ended = held(other.lease(&key("42"), 0).await);
    server.freeze();
    let started = std::time::Instant::now();
    assert_eq!(ended.await, Ended::Unknown);
    // The timeout is half of the liveness here: without being told, it would wait for nearly all of that.
    assert!(matches!(
        other.lease(&key("42"), 0).await,
        Leasing::Unavailable
    ));
    assert!(
        started.elapsed() < LIVENESS + TIMEOUT,
        "{:?}",
        started.elapsed()
    );
    server.thaw();
}
