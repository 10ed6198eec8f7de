//! A duty between two nodes: one has it, the next goes on from what was saved last, and nobody saves for another.

use futures_util::future::BoxFuture;

use super::*;
use crate::cache::tier::{Duty, LIVENESS, Saved, Tenure};

const NAME: &str = "feed:pg:pg~{1}:é";

fn ours(duty: Duty) -> Box<dyn Tenure> {
    match duty {
        Duty::Ours(tenure) => tenure,
        Duty::Others(_) => panic!("another has it"),
        Duty::Unavailable => panic!("the tier is not to be had"),
    }
}

fn others(duty: Duty) -> BoxFuture<'static, ()> {
    match duty {
        Duty::Others(end) => end,
        _ => panic!("nobody has it"),
    }
}

async fn two() -> (Server, Node, Node) {
    let server = Server::start().await;
    let one = Node::connected(&server).await;
    let other = Node::connected(&server).await;
    (server, one, other)
}

/// The names of what a duty has in Redis.
async fn names(server: &Server, kind: char) -> Vec<String> {
    server.ask(&format!("KEYS larder:{kind}:*")).await
}

#[tokio::test]
async fn one_has_a_duty_and_its_successor_goes_on_where_it_came_to() {
    let (_server, one, other) = two().await;
    let first = ours(one.tier.duty(NAME).await);
    assert_eq!(first.progress(), None);
    let end = others(other.tier.duty(NAME).await);
    drop(others(one.tier.duty(NAME).await));
    ours(other.tier.duty("feed:another").await).end().await;
    assert_eq!(first.save(b"\0\xff7").await, Saved::Saved);
    assert_eq!(first.save(b"").await, Saved::Saved);
    assert_eq!(first.save(b"\0\xff8").await, Saved::Saved);
    first.end().await;
    // Told, and not waited for.
    end.await;
    let second = ours(other.tier.duty(NAME).await);
    assert_eq!(second.progress().as_deref(), Some(&b"\0\xff8"[..]));
    assert!(second.stands());
}

#[tokio::test]
async fn a_duty_outlasts_its_liveness_and_is_given_back_when_it_is_dropped() {
    let (_server, one, other) = two().await;
    let held = ours(one.tier.duty(NAME).await);
    // Every time it is refused, it has been renewed since.
    for _ in 0..3 {
        others(other.tier.duty(NAME).await).await;
        assert!(held.stands());
    }
    let end = others(other.tier.duty(NAME).await);
    drop(held);
    end.await;
    let _next = ours(other.tier.duty(NAME).await);
}

#[tokio::test]
async fn who_lost_a_duty_saves_nothing_and_finds_out() {
    let (server, one, other) = two().await;
    let old = ours(one.tier.duty(NAME).await);
    assert_eq!(old.save(b"7").await, Saved::Saved);
    // As if this node had been frozen for longer than its lease lives.
    for lease in names(&server, 'l').await {
        let _: i64 = server.ask(&format!("DEL {lease}")).await;
    }
    assert_eq!(old.save(b"8").await, Saved::Lost, "it is nobody's");
    let new = ours(other.tier.duty(NAME).await);
    assert_eq!(new.progress().as_deref(), Some(&b"7"[..]));
    assert_eq!(new.save(b"9").await, Saved::Saved);
    assert_eq!(old.save(b"8").await, Saved::Lost, "it is another's");
    old.lost().await;
    assert!(!old.stands());
    // What the old one gives back is not the new one's.
    old.end().await;
    assert_eq!(new.save(b"10").await, Saved::Saved);
    assert!(new.stands());
}

#[tokio::test]
async fn law_4_nobody_has_a_duty_for_longer_than_its_lease_can_stand_while_redis_hangs() {
    let (server, one, other) = two().await;
    let held = ours(one.tier.duty(NAME).await);
    assert_eq!(held.save(b"7").await, Saved::Saved);
    server.freeze();
    let paused = std::time::Instant::now();
    held.lost().await;
    assert!(!held.stands());
    assert!(paused.elapsed() >= LIVENESS / 2, "it had been renewed");
    assert_eq!(held.save(b"8").await, Saved::Unavailable);
    assert!(matches!(other.tier.duty(NAME).await, Duty::Unavailable));
    server.thaw();
    // Both ask, as readers do.
    let mut next = None;
    eventually("one has it again", HEALED_WITHIN, async || {
        for node in [&one, &other] {
            if let Duty::Ours(tenure) = node.tier.duty(NAME).await {
                next = Some(tenure);
                return true;
            }
        }
        false
    })
    .await;
    assert_eq!(
        next.expect("one has it").progress().as_deref(),
        Some(&b"7"[..])
    );
}

#[tokio::test]
async fn law_11_what_is_no_progress_is_none_and_is_replaced() {
    let (server, one, _other) = two().await;
    let held = ours(one.tier.duty(NAME).await);
    assert_eq!(held.save(b"7").await, Saved::Saved);
    held.end().await;
    let name = names(&server, 'd').await.remove(0);
    for write in [
        format!("SET {name} 7"),
        format!("DEL {name}"),
        format!("LPUSH {name} larder:1:7"),
    ] {
        let _: redis::Value = server.ask(&write).await;
        let held = ours(one.tier.duty(NAME).await);
        assert_eq!(held.progress(), None, "{write}");
        held.end().await;
    }
    let held = ours(one.tier.duty(NAME).await);
    assert_eq!(held.save(b"8").await, Saved::Saved);
    held.end().await;
    let again = ours(one.tier.duty(NAME).await);
    assert_eq!(again.progress().as_deref(), Some(&b"8"[..]));
    let left: i64 = server.ask(&format!("PTTL {name}")).await;
    assert!(
        left > 80_000_000,
        "it is kept for a while, and not for ever: {left}"
    );
}
