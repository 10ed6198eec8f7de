//! Blocking loaders against a guest that misbehaves on purpose.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::super::testing::{Launch, ask, ask_within, json};
use crate::config::PluginLimits;
use crate::error::Origin;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_instances_runs_calls_side_by_side() {
    let loader = Launch::new("faulty-blocking")
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    let began = Instant::now();
    let answers =
        join_all((0..16).map(|_| ask_within(&loader, "slow-300", Duration::from_secs(20)))).await;
    for answer in answers {
        assert_eq!(json(answer)["data"], "slow-300");
    }
    // Of eight instances all but one are made now.
    assert!(
        began.elapsed() < Duration::from_millis(2400),
        "one after the other they take 4.8 s, two at a time half of that; took {:?}",
        began.elapsed()
    );
}

/// Law 9: each limit holds, names itself, and the next call works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_9_panics_loops_bombs_and_hangs_are_contained() {
    let loader = Launch::new("faulty-blocking")
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    for (key, code, origin, timeout) in [
        ("panic", "trap", Origin::Trap, 20_000),
        ("loop", "cpu-limit", Origin::Limit, 20_000),
        ("bomb", "memory-limit", Origin::Limit, 20_000),
        ("hang", "timeout", Origin::Limit, 100),
    ] {
        let failed = ask_within(&loader, key, Duration::from_millis(timeout))
            .await
            .unwrap_err();
        assert_eq!((&*failed.code, failed.origin), (code, origin), "{failed}");
        assert_eq!(json(ask(&loader, "ok").await)["data"], "ok", "after {key}");
    }
}

/// What the source did to the calls before is no reason to refuse the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hung_is_asked_again_as_soon_as_it_answers() {
    let loader = Launch::new("faulty-blocking").loader().await;
    for _ in 0..10 {
        let hung = ask_within(&loader, "hang", Duration::from_millis(100)).await;
        assert_eq!(hung.unwrap_err().code, "timeout");
    }
    assert_eq!(json(ask(&loader, "ok").await)["data"], "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_trap_an_instance_rests_and_who_cannot_wait_for_it_is_not_to_blame() {
    let loader = Launch::new("faulty-blocking")
        .limits(PluginLimits {
            instances: Some(1),
            ..PluginLimits::default()
        })
        .loader()
        .await;
    // The rests are of 0, 100, 200 and 400 ms, and each is over when it is over.
    for _ in 0..4 {
        assert_eq!(ask(&loader, "panic").await.unwrap_err().code, "trap");
    }
    let early = ask_within(&loader, "ok", Duration::from_millis(20)).await;
    let early = early.unwrap_err();
    assert_eq!(
        (&*early.code, early.origin),
        ("plugin-starting", Origin::Host)
    );
    assert_eq!(json(ask(&loader, "ok").await)["data"], "ok");
}

/// Who rests after another's trap takes what becomes idle meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_instance_takes_the_first_that_is_idle() {
    let loader = Launch::new("faulty-blocking")
        .limits(PluginLimits {
            instances: Some(2),
            ..PluginLimits::default()
        })
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    // It has one of two instances; the other's rests are of 0, 100 … 3200 ms, and the last, of 5 s, ends two seconds after it.
    let mut slow = Box::pin(ask_within(&loader, "slow-9000", Duration::from_secs(20)));
    assert!(futures_util::poll!(&mut slow).is_pending());
    let others = async {
        for _ in 0..8 {
            assert_eq!(ask(&loader, "panic").await.unwrap_err().code, "trap");
        }
        json(ask(&loader, "ok").await)["load"].as_u64()
    };
    let (slow, load) = tokio::join!(slow, others);
    assert_eq!(json(slow)["load"], 1);
    assert_eq!(
        load,
        Some(2),
        "it was answered by the instance that came back"
    );
}

/// Waiting is no computing: a call may wait for longer than its `cpu`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_not_counted_as_computing() {
    let loader = Launch::new("faulty-blocking")
        .limits(PluginLimits {
            instances: Some(1),
            ..PluginLimits::default()
        })
        .loader()
        .await;
    assert_eq!(json(ask(&loader, "slow-300").await)["load"], 1);
    assert_eq!(
        json(ask(&loader, "ok").await)["load"],
        2,
        "the instance is used again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_place_in_time_is_told_so_and_the_plugin_is_not_blamed() {
    let loader = Launch::new("faulty-blocking")
        .limits(PluginLimits {
            instances: Some(1),
            ..PluginLimits::default()
        })
        .loader()
        .await;
    // The first has the place until nobody waits for it any more, which is after the second has given up.
    let mut first = Box::pin(ask(&loader, "hang"));
    assert!(futures_util::poll!(&mut first).is_pending());
    let waited = ask_within(&loader, "ok", Duration::from_millis(50)).await;
    drop(first);
    let waited = waited.unwrap_err();
    assert_eq!((&*waited.code, waited.origin), ("timeout", Origin::Host));
}

#[tokio::test]
async fn law_12_more_than_may_wait_for_a_place_are_refused_at_once() {
    let loader = Launch::new("faulty-blocking")
        .limits(PluginLimits {
            instances: Some(2),
            ..PluginLimits::default()
        })
        .tune(|limits| {
            limits.queue = 4;
            limits.timeout = Duration::from_secs(20);
        })
        .loader()
        .await;
    // One after the other is polled, on one thread: two have a place, four wait, and the others are over the bound.
    let answers = join_all((0..12).map(|_| ask(&loader, "slow-50"))).await;
    let (answered, refused) = answers.split_at(6);
    assert!(answered.iter().all(Result::is_ok), "{answered:?}");
    for refused in refused {
        let refused = refused.as_ref().unwrap_err();
        assert_eq!(refused.code, "plugin-overloaded");
        assert!(refused.retry_after.is_some());
    }
}
