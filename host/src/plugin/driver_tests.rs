//! Async loaders against a guest that misbehaves on purpose.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::super::testing::{Launch, ask, ask_within, found, json};
use crate::cache::Outcome;
use crate::config::PluginLimits;
use crate::error::{Failure, FailureKind, Origin};

fn code(failure: &Failure) -> (&str, Origin) {
    (&failure.code, failure.origin)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_loads_overlap_in_one_instance() {
    let loader = Launch::new("faulty")
        .limits(PluginLimits {
            concurrency: Some(1000),
            ..PluginLimits::default()
        })
        .tune(|limits| limits.timeout = Duration::from_secs(30))
        .loader()
        .await;
    let began = Instant::now();
    let answers =
        join_all((0..1000).map(|_| ask_within(&loader, "slow-100", Duration::from_secs(30)))).await;
    let took = began.elapsed();
    let mut loads: Vec<_> = answers
        .into_iter()
        .map(|answer| json(answer)["load"].as_u64().unwrap())
        .collect();
    loads.sort_unstable();
    assert_eq!(loads, (1..=1000).collect::<Vec<_>>(), "all in one instance");
    assert!(
        took < Duration::from_secs(20),
        "one after another would take 100 s; took {took:?}"
    );
    eprintln!("1,000 loads of 100 ms in one instance: {took:?}");
}

/// Law 9: a neighbour in the same instance is not hurt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_9_of_a_hundred_reads_in_flight_one_traps_and_the_others_are_answered() {
    for fatal in ["panic", "trap-now", "exit"] {
        let loader = Launch::new("faulty")
            .tune(|limits| limits.timeout = Duration::from_secs(20))
            .loader()
            .await;
        let slow = (0..99).map(|_| ask_within(&loader, "slow-200", Duration::from_secs(20)));
        let all = async {
            // The slow ones enter first: the queue is first in, first out.
            let mut slow = Box::pin(join_all(slow));
            tokio::select! {
                biased;
                _ = &mut slow => panic!("they take 200 ms"),
                failed = ask(&loader, fatal) => (slow.await, failed),
            }
        };
        let (slow, failed) = all.await;
        for answer in slow {
            assert_eq!(json(answer)["data"], "slow-200");
        }
        let failed = failed.unwrap_err();
        assert_eq!(code(&failed), ("trap", Origin::Trap), "{failed}");
        assert_eq!(failed.kind, FailureKind::Internal);
        let expected = match fatal {
            "panic" => "the guest panics on purpose",
            "trap-now" => "the guest traps on purpose",
            _ => "exit(",
        };
        assert!(failed.message.contains(expected), "{failed}");
        assert_eq!(json(ask(&loader, "ok-next").await)["data"], "ok-next");
    }
}

/// Law 9: each limit holds, names itself, and the next call works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_9_loops_recursion_bombs_and_floods_are_contained() {
    let loader = Launch::new("faulty")
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    for (key, expected, says) in [
        ("loop", ("cpu-limit", Origin::Limit), "[limits] cpu"),
        ("recurse", ("trap", Origin::Trap), "trapped"),
        ("bomb", ("memory-limit", Origin::Limit), "[limits] memory"),
    ] {
        let failed = ask_within(&loader, key, Duration::from_secs(20))
            .await
            .unwrap_err();
        assert_eq!(code(&failed), expected, "{key}: {failed}");
        assert!(failed.message.contains(says), "{failed}");
        assert_eq!(
            json(ask(&loader, "ok-next").await)["data"],
            "ok-next",
            "after {key}"
        );
    }
    // What a guest can gather of a gibibyte passes whichever limit it meets first.
    for (key, limits) in [
        ("huge-9000000", &["body-limit"][..]),
        ("huge-20000000", &["output-limit"]),
        ("huge", &["output-limit", "cpu-limit", "memory-limit"]),
    ] {
        let failed = ask(&loader, key).await.unwrap_err();
        assert_eq!(failed.origin, Origin::Limit, "{key}: {failed}");
        assert!(limits.contains(&&*failed.code), "{key}: {failed}");
        assert_eq!(
            json(ask(&loader, "ok-next").await)["data"],
            "ok-next",
            "after {key}"
        );
    }
    assert_eq!(
        found(ask(&loader, "huge-1000000").await).body.len(),
        1_000_000
    );
    for key in ["stderr-flood", "log-flood"] {
        let answered = ask(&loader, key).await;
        // A slow machine may call the flood a busy loop; either way it is contained.
        assert!(
            answered.is_ok() || code(answered.as_ref().unwrap_err()).0 == "cpu-limit",
            "{answered:?}"
        );
    }
    assert_eq!(json(ask(&loader, "ok-next").await)["data"], "ok-next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slice_is_bounded_and_a_load_that_pauses_is_not() {
    let loader = Launch::new("faulty").loader().await;
    assert_eq!(json(ask(&loader, "busy-20").await)["data"], "busy-20");
    let many = join_all((0..10).map(|_| ask(&loader, "busy-15"))).await;
    assert!(
        many.into_iter().all(|answer| answer.is_ok()),
        "ten slices are not one"
    );
    let failed = ask(&loader, "busy-1500").await.unwrap_err();
    assert_eq!(failed.code, "cpu-limit");
}

/// A call that hangs costs its caller its deadline and nobody else anything; its instance is replaced after the grace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_is_a_timeout_and_the_instance_is_replaced() {
    let loader = Launch::new("faulty")
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    let began = Instant::now();
    let failed = ask_within(&loader, "hang", Duration::from_millis(100))
        .await
        .unwrap_err();
    assert_eq!(code(&failed), ("timeout", Origin::Limit));
    assert_eq!(failed.kind, FailureKind::Timeout);
    // The plugin's own limit is 20 s: what was asked for decides.
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(
        json(ask(&loader, "ok").await)["load"],
        2,
        "the same instance answers meanwhile"
    );
    until_replaced(&loader).await;
}

/// A guest that blocks in the host holds its whole instance: who waits is answered by its replacement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_blocks_in_the_host_is_replaced() {
    let loader = Launch::new("faulty")
        .tune(|limits| limits.timeout = Duration::from_secs(8))
        .loader()
        .await;
    let blocked = ask_within(&loader, "sleep-block", Duration::from_millis(100));
    assert_eq!(blocked.await.unwrap_err().code, "timeout");
    // It waits in the queue, because the wedged instance takes nothing, and is answered after the grace of a second.
    let answer = json(ask(&loader, "ok-after").await);
    assert_eq!(
        (&answer["data"], &answer["load"]),
        (&"ok-after".into(), &1.into())
    );
}

async fn until_replaced(loader: &std::sync::Arc<dyn crate::cache::Loader>) {
    let mut last = 0;
    for _ in 0..1000 {
        let load = json(ask(loader, "slow-10").await)["load"].as_u64().unwrap();
        if load <= last {
            return;
        }
        last = load;
    }
    panic!("the instance was not replaced within ten seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_returns_is_passed_on_and_what_is_outside_the_contract_is_not() {
    let loader = Launch::new("faulty").loader().await;
    let failed = ask(&loader, "fail-rate-limited").await.unwrap_err();
    assert_eq!(
        (failed.kind, &*failed.code),
        (FailureKind::RateLimited, "faulty-rate-limited")
    );
    assert_eq!(failed.retry_after, Some(Duration::from_millis(1500)));
    assert!(!failed.is_fault());
    let failed = ask(&loader, "status-99").await.unwrap_err();
    assert_eq!(
        (failed.kind, &*failed.code),
        (FailureKind::Internal, "invalid-status")
    );
    assert!(matches!(
        ask(&loader, "not-modified").await,
        Ok(Outcome::NotModified(_))
    ));
    assert_eq!(found(ask(&loader, "status-203").await).status, Some(203));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_breaker_opens_after_faults_and_tells_when_to_come_back() {
    let launched = Launch::new("faulty").launch().await;
    let loader = std::sync::Arc::clone(&launched.runtime).loader().unwrap();
    // All at once: one after another they would meet the back-off.
    let faults = join_all((0..20).map(|_| ask(&loader, "trap-now"))).await;
    assert!(
        faults
            .iter()
            .all(|fault| fault.as_ref().is_err_and(Failure::is_fault)),
        "{faults:?}"
    );
    let refused = ask(&loader, "ok").await.unwrap_err();
    assert_eq!(refused.code, "plugin-breaker-open");
    assert!(refused.retry_after.is_some() && !refused.is_fault());
    assert!(matches!(
        launched.runtime.condition(),
        super::super::Condition::Open { .. }
    ));
}

/// One thread, so all are asked before the instance takes the first of them.
#[tokio::test]
async fn law_12_more_calls_than_places_wait_their_turn_and_more_than_may_wait_are_refused() {
    let loader = Launch::new("faulty")
        .limits(PluginLimits {
            concurrency: Some(2),
            ..PluginLimits::default()
        })
        .tune(|limits| {
            limits.queue = 4;
            limits.timeout = Duration::from_secs(20);
        })
        .loader()
        .await;
    let answers =
        join_all((0..12).map(|_| ask_within(&loader, "slow-50", Duration::from_secs(20)))).await;
    let (waited, refused) = answers.split_at(4);
    assert!(waited.iter().all(Result::is_ok), "{waited:?}");
    for refused in refused {
        let refused = refused.as_ref().unwrap_err();
        assert_eq!(code(refused), ("plugin-overloaded", Origin::Host));
        assert_eq!(refused.kind, FailureKind::Overloaded);
        assert!(refused.retry_after.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_plugin_finishes_what_it_has_and_takes_nothing_more() {
    let launched = Launch::new("staged")
        .settings(r#"{"latency_ms": 200}"#)
        .launch()
        .await;
    launched.probe.unwrap();
    let loader = std::sync::Arc::clone(&launched.runtime).loader().unwrap();
    let in_flight = {
        let loader = std::sync::Arc::clone(&loader);
        tokio::spawn(async move { ask(&loader, "x").await })
    };
    // Asked for and answered after the one in flight entered, because the queue is first in, first out.
    let (first, ()) = tokio::join!(ask(&loader, "y"), launched.runtime.stop());
    // Whether `y` came before the stop or after it, the answer is one of the two.
    assert!(first.is_ok() || first.unwrap_err().code == "plugin-not-loaded");
    let in_flight = in_flight.await.unwrap();
    assert!(in_flight.is_ok() || in_flight.unwrap_err().code == "plugin-not-loaded");
    assert_eq!(
        ask(&loader, "z").await.unwrap_err().code,
        "plugin-not-loaded"
    );
}

/// A job whose callers have left is in the queue and comes out of it as nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_those_who_left_the_queue() {
    let launched = Launch::new("faulty")
        .limits(PluginLimits {
            concurrency: Some(1),
            instances: Some(1),
            ..PluginLimits::default()
        })
        .tune(|limits| limits.timeout = Duration::from_secs(60))
        .launch()
        .await;
    let loader = std::sync::Arc::clone(&launched.runtime)
        .loader()
        .expect("a loader");
    let mut inside = Box::pin(ask_within(&loader, "slow-300", Duration::from_secs(60)));
    assert!(futures_util::poll!(&mut inside).is_pending());
    let mut queued = Box::pin(ask_within(&loader, "ok", Duration::from_secs(60)));
    assert!(futures_util::poll!(&mut queued).is_pending());
    drop(queued);
    let stopped = tokio::time::timeout(Duration::from_secs(20), launched.runtime.stop());
    let (answer, stopped) = tokio::join!(inside, stopped);
    assert_eq!(json(answer)["data"], "slow-300");
    assert!(stopped.is_ok(), "it waits until its bound, of 61 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_instances_share_the_work() {
    let loader = Launch::new("faulty")
        .limits(PluginLimits {
            instances: Some(3),
            concurrency: Some(1),
            ..PluginLimits::default()
        })
        .tune(|limits| limits.timeout = Duration::from_secs(20))
        .loader()
        .await;
    let answers =
        join_all((0..6).map(|_| ask_within(&loader, "slow-300", Duration::from_secs(20)))).await;
    // Each instance counts its own loads, and none of them did all.
    let first = answers.into_iter().map(json);
    let first = first.filter(|answer| answer["load"] == 1).count();
    assert_eq!(first, 3, "each of the three had a first one");
}

/// Roughly how much one call costs, for the log of the tests; bounded only against a collapse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_costs_microseconds() {
    let loader = Launch::new("faulty").loader().await;
    let calls = 20_000;
    let began = Instant::now();
    for chunk in 0..calls / 100 {
        let answers = join_all((0..100).map(|_| ask(&loader, "ok"))).await;
        assert!(answers.iter().all(Result::is_ok), "{chunk}");
    }
    let each = began.elapsed() / calls;
    eprintln!("one async load: {each:?}");
    assert!(each < Duration::from_millis(1), "{each:?}");
}
