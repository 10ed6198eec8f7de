//! The change feed of a real component that is told nothing by its origin: what it may not do costs its own instance.

use std::time::Duration;

use super::super::testing::{Launch, compiled, engine};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_denied_its_source_fails_with_the_line_to_add_and_may_be_asked_again() {
    let launched = Launch::new("feeding")
        .settings(r#"{"url": "http://127.0.0.1:9"}"#)
        .launch()
        .await;
    let feed = Arc::clone(&launched.runtime).change_feed().unwrap();
    for _ in 0..2 {
        let failed = feed.poll(None).await.unwrap_err();
        assert_eq!(
            (&*failed.code, failed.origin),
            ("feed-down", Origin::Returned)
        );
        assert!(failed.message.contains("under [grants] write"), "{failed}");
    }
    launched.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_9_a_poll_that_does_not_end_is_ended_and_so_is_one_that_is_dropped() {
    let launched = Launch::new("feeding")
        .settings(r#"{"url": "hang"}"#)
        .tune(|limits| {
            // Both count, and to make an instance is part of neither's test: it has time for that on a busy machine.
            limits.feed_wait = Duration::from_secs(1);
            limits.timeout = Duration::from_secs(2);
        })
        .launch()
        .await;
    let feed = Arc::clone(&launched.runtime).change_feed().unwrap();
    for _ in 0..2 {
        // The second has an instance of its own: the first one's went with its poll.
        let failed = feed.poll(None).await.unwrap_err();
        assert_eq!((&*failed.code, failed.origin), ("timeout", Origin::Limit));
        assert!(failed.message.contains("3s"), "{failed}");
    }
    let mut dropped = feed.poll(None);
    assert!(futures_util::poll!(&mut dropped).is_pending());
    drop(dropped);
    let stopped = launched.runtime.stop();
    tokio::time::timeout(Duration::from_secs(20), stopped)
        .await
        .expect("nothing of it is left to wait for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_without_a_loader_has_the_first_instance_and_keeps_it() {
    let launched = Launch::new("feed-alone").launch().await;
    assert!(launched.probe.is_ok());
    assert!(Arc::clone(&launched.runtime).loader().is_none());
    let feed = Arc::clone(&launched.runtime).change_feed().unwrap();
    for poll in ["1", "2", "3"] {
        // The guest counts the polls of its instance.
        assert_eq!(feed.poll(None).await.unwrap().cursor, poll.as_bytes());
    }
    launched.runtime.stop().await;
}

#[tokio::test]
async fn what_a_component_is_used_as_comes_first() {
    use super::super::{PluginKind, compile::Exports};
    let kinds = |exports: &Exports| PluginKind::of(exports);
    let feeding = compiled("feeding").await;
    assert_eq!(
        kinds(&feeding.exports),
        [PluginKind::BatchLoader, PluginKind::ChangeFeed]
    );
    let batching = compiled("batching").await;
    assert_eq!(
        kinds(&batching.exports),
        [PluginKind::BatchLoader, PluginKind::Loader]
    );
    assert!(engine().describe(&feeding).await.unwrap().is_some());
}

#[test]
fn a_page_is_judged_on_its_way_out() {
    let said = |cursor: usize| change_feed::Page {
        changes: vec![
            change_feed::Change::Tag("t".to_owned()),
            change_feed::Change::Item(change_feed::Item {
                route: None,
                params: vec![types::Param {
                    name: "id".to_owned(),
                    value: "7".to_owned(),
                }],
            }),
            change_feed::Change::Everything,
        ],
        cursor: vec![7; cursor],
        poll_after_ms: 1500,
        hints: Vec::new(),
    };
    let taken = page(said(4), 4).unwrap();
    assert_eq!(
        taken.changes,
        [
            Change::Tag("t".to_owned()),
            Change::Item {
                route: None,
                params: vec![crate::key::Param::new("id", "7")]
            },
            Change::Everything
        ]
    );
    assert_eq!(
        (taken.cursor, taken.poll_after),
        (vec![7; 4], Duration::from_millis(1500))
    );
    let refused = page(said(5), 4).unwrap_err();
    assert_eq!(refused.code, "cursor-too-long");
}
