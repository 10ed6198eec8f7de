//! Compiling, judging, describing and starting, with real components.

use std::sync::Arc;
use std::time::Duration;

use super::super::testing::{Launch, compiled, engine, guest};
use super::super::{Egress, Engine, Limits, Refusal, Secrets, Spec, Worker};
use crate::config::PluginLimits;
use crate::error::FailureKind;

async fn refused(name: &str) -> Refusal {
    match engine().compile(name, guest(name)).await {
        Ok(compiled) => panic!("{name} was taken: {compiled:?}"),
        Err(refusal) => refusal,
    }
}

#[tokio::test]
async fn a_component_is_compiled_once_and_mapped_afterwards_and_damage_is_noticed() {
    let storage = tempfile::tempdir().unwrap();
    let counts = |engine: &Engine| engine.compiler().counts();

    let first = Engine::new(storage.path(), Worker::Here).unwrap();
    let one = first.compile("echo", guest("echo")).await.unwrap();
    assert_eq!(counts(&first), (1, 0));

    let second = Engine::new(storage.path(), Worker::Here).unwrap();
    let two = second.compile("echo", guest("echo")).await.unwrap();
    assert_eq!(counts(&second), (0, 1));
    assert_eq!((&one.digest, one.exports), (&two.digest, two.exports));

    let compiled = storage.path().join("compiled");
    let code = std::fs::read_dir(&compiled)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        })
        .unwrap();
    let mut bytes = std::fs::read(&code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    // Not written in place: the engines above have it mapped.
    std::fs::remove_file(&code).unwrap();
    std::fs::write(&code, bytes).unwrap();
    let third = Engine::new(storage.path(), Worker::Here).unwrap();
    drop(third.compile("echo", guest("echo")).await.unwrap());
    assert_eq!(counts(&third), (1, 0), "the damaged code is not run");
    third.compile("echo", guest("echo")).await.unwrap();
    assert_eq!(counts(&third), (1, 1), "and is replaced");
}

/// Whatever they are called: what was compiled is there once, from the first to the last who uses it.
#[tokio::test]
async fn plugins_of_the_same_bytes_share_what_was_compiled() {
    let storage = tempfile::tempdir().unwrap();
    let engine = Engine::new(storage.path(), Worker::Here).unwrap();
    let one = engine.compile("one", guest("echo")).await.unwrap();
    let two = engine.compile("two", guest("echo")).await.unwrap();
    let other = engine.compile("other", guest("staged")).await.unwrap();
    assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
    assert_eq!(engine.compiler().counts(), (2, 0));

    // A plugin that runs is one that uses it.
    let spec = Spec {
        name: "one".to_owned(),
        compiled: one,
        settings: "{}".to_owned(),
        secrets: Secrets::default(),
        egress: Egress::denied("one"),
        limits: Limits::resolve(&PluginLimits::default(), &two.exports),
    };
    let launched = engine.launch(spec).await.unwrap();
    drop((two, other));
    assert_eq!(engine.compiled.all().len(), 1);
    let three = engine.compile("three", guest("echo")).await.unwrap();
    assert_eq!(engine.compiler().counts(), (2, 0));
    let left = Arc::downgrade(&three);
    drop(three);
    assert!(left.upgrade().is_some());

    // And one that was stopped and let go of does not.
    Arc::clone(&launched.runtime).stop().await;
    drop(launched);
    assert!(left.upgrade().is_none());
    engine.compile("four", guest("echo")).await.unwrap();
    assert_eq!(engine.compiler().counts(), (2, 1), "it is mapped anew");
}

/// Whichever of them is first at each step; that they meet after both found nothing is forced in `shared`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_compile_the_same_at_once_share_it_too() {
    let storage = tempfile::tempdir().unwrap();
    let engine = Engine::new(storage.path(), Worker::Here).unwrap();
    let all = ["one", "two", "three", "four"].map(|name| {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move { engine.compile(name, guest("echo")).await.unwrap() })
    });
    let all = futures_util::future::join_all(all).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
    assert_eq!(engine.compiler().counts().0, 1);
}

/// In the engine that keeps no record of calls, where it can wait for nothing.
#[tokio::test]
async fn what_is_a_key_policy_and_nothing_else_runs_where_calls_cost_less() {
    let waits = async |name| {
        let compiled = compiled(name).await;
        let prepared = &compiled.prepared;
        let pure = prepared.pure.as_ref().map(|pure| pure.pre.engine());
        let worldly = prepared
            .worldly
            .as_ref()
            .map(|worldly| worldly.pre.engine());
        let runs_in = pure.or(worldly).expect("it is a plugin");
        !wasmtime::Engine::same(runs_in, &engine().pure)
    };
    assert!(!waits("faulty-policy").await);
    assert!(waits("echo").await, "it loads");
    assert!(!super::super::examine::only_derives(&guest("echo")));
    let policy = guest("faulty-policy");
    assert!(super::super::examine::only_derives(&policy));
    for cut in 0..policy.len().min(4096) {
        assert!(!super::super::examine::only_derives(&policy[..cut]));
    }
}

#[tokio::test]
async fn exports_and_imports_are_told() {
    let echo = compiled("echo").await;
    assert!(echo.exports.loader && echo.exports.metadata && !echo.exports.blocking_loader);
    assert_eq!(echo.size, guest("echo").len() as u64);
    assert!(
        echo.imports
            .iter()
            .any(|import| import.starts_with("larder:plugin/settings@0.1")),
        "{:?}",
        echo.imports
    );
    assert!(compiled("faulty-blocking").await.exports.blocking_loader);
    assert!(compiled("faulty-policy").await.exports.key_policy);
}

#[tokio::test]
async fn an_import_that_nobody_offers_is_named_with_a_remedy() {
    let refusal = refused("wrong-import").await;
    assert_eq!(
        refusal.message,
        "`wrong-import` imports `acme:missing/thing@1.0.0`, which this host does not offer"
    );
    assert!(
        refusal
            .remedy
            .is_some_and(|remedy| remedy.contains("wac plug"))
    );
}

#[tokio::test]
async fn a_component_that_is_no_plugin_is_told_what_it_exports_and_what_is_expected() {
    let refusal = refused("no-world").await;
    assert!(
        refusal.message.contains("no plugin") && refusal.message.contains("larder:plugin/loader"),
        "{refusal}"
    );
    assert!(refusal.remedy.is_some());
}

#[tokio::test]
async fn a_component_that_is_cut_short_says_so() {
    let whole = guest("echo");
    let half = whole.slice(..whole.len() / 2);
    let refusal = engine().compile("half", half).await.unwrap_err();
    assert!(refusal.message.contains("cut short"), "{refusal}");
}

#[tokio::test]
async fn a_component_describes_itself_or_not() {
    let engine = engine();
    let description = engine
        .describe(&*compiled("echo").await)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&*description.name, description.cache_version), ("echo", 1));
    assert!(
        description
            .descriptor
            .contains("Answers what it was asked.")
    );
    assert_eq!(
        engine.describe(&*compiled("faulty").await).await.unwrap(),
        None
    );
    assert_eq!(
        engine
            .describe(&*compiled("faulty-policy").await)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_and_probing_are_told_apart() {
    let fails = |settings| async move {
        let spec = Launch::new("staged").settings(settings).spec().await;
        engine()
            .launch(spec)
            .await
            .err()
            .map(|refusal| refusal.message)
    };
    let message = fails(r#"{"start_fails": true}"#).await.unwrap();
    assert!(
        message.contains("`staged` does not start") && message.contains("start"),
        "{message}"
    );
    let message = fails(r#"{"start_traps": true}"#).await.unwrap();
    assert!(message.contains("trap"), "{message}");

    let launched = Launch::new("staged")
        .settings(r#"{"probe_fails": true}"#)
        .launch()
        .await;
    assert!(launched.probe.is_err());
    assert!(launched.runtime.probe().await.is_err());
    let launched = Launch::new("staged").launch().await;
    assert!(launched.probe.is_ok() && launched.runtime.probe().await.is_ok());
}

/// `start` has no `cpu` slice limit, and its budget of wall clock holds even for a busy loop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_may_compute_for_long_but_not_for_ever() {
    let launched = Launch::new("staged")
        .settings(r#"{"start_busy_ms": 300}"#)
        .launch()
        .await;
    launched.probe.unwrap();
    for settings in [r#"{"start_busy_ms": 60000}"#, r#"{"start_ms": 60000}"#] {
        let spec = Launch::new("staged")
            .settings(settings)
            .tune(|limits| limits.lifecycle = Duration::from_millis(300))
            .spec()
            .await;
        let refusal = engine().launch(spec).await.err().unwrap();
        assert!(
            refusal.message.contains("took longer than 300ms"),
            "{refusal}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_reach_the_guest() {
    let loader = Launch::new("echo")
        .settings(r#"{"body": "hello", "tags": ["a"], "ttl_ms": 5000}"#)
        .loader()
        .await;
    let found = super::super::testing::found(super::super::testing::ask(&loader, "x").await);
    assert_eq!(
        (&*found.body, &*found.tags),
        (&b"hello"[..], &["a".to_owned()][..])
    );
    assert_eq!(found.ttl, Some(Duration::from_secs(5)));
    let unfit = Launch::new("echo")
        .settings(r#"{"nonsense": 1}"#)
        .loader()
        .await;
    let failed = super::super::testing::ask(&unfit, "x").await.unwrap_err();
    assert_eq!(
        (failed.kind, &*failed.code),
        (FailureKind::Internal, "settings-unfit")
    );
}
