//! Identity, and who keeps a version alive (law 8: requests in flight finish on the old one).

use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::cache::{Absence, Batching};
use crate::key::Parts;

/// A runtime whose loads wait for a permit, and which tells when it is stopped.
struct Scripted {
    permits: Arc<Semaphore>,
    stopped: CancellationToken,
}

impl Runtime for Scripted {
    fn loader(self: Arc<Self>) -> Option<Arc<dyn Loader>> {
        Some(self)
    }

    fn key_policy(self: Arc<Self>) -> Option<Arc<dyn KeyPolicy>> {
        None
    }

    fn writer(self: Arc<Self>) -> Option<Arc<dyn crate::write::Writer>> {
        None
    }

    fn change_feed(self: Arc<Self>) -> Option<Arc<dyn ChangeFeed>> {
        None
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn condition(&self) -> Condition {
        Condition::Ready
    }

    fn memory_peak(&self) -> usize {
        0
    }

    fn stop(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.stopped.cancel() })
    }
}

impl Loader for Scripted {
    fn name(&self) -> &str {
        "scripted"
    }

    fn load(&self, _: Question) -> BoxFuture<'static, Result<Outcome, Failure>> {
        let permits = Arc::clone(&self.permits);
        Box::pin(async move {
            permits.acquire().await.expect("never closed").forget();
            Ok(Outcome::Missing(Absence::default()))
        })
    }
}

struct Stage {
    plugin: Arc<Plugin>,
    permits: Arc<Semaphore>,
    stopped: CancellationToken,
    stops: TaskTracker,
}

fn stage() -> Stage {
    let permits = Arc::new(Semaphore::new(0));
    let stopped = CancellationToken::new();
    let stops = TaskTracker::new();
    let runtime = Arc::new(Scripted {
        permits: Arc::clone(&permits),
        stopped: stopped.clone(),
    });
    let facts = Facts {
        name: "demo".into(),
        version: None,
        digest: "00".into(),
        identity: "demo~0".into(),
        kinds: vec![PluginKind::Loader],
        described: false,
        descriptor: Arc::new(Descriptor::unknown()),
    };
    Stage {
        plugin: Plugin::new(facts, runtime, &stops),
        permits,
        stopped,
        stops,
    }
}

fn question() -> Question {
    Question {
        route: "/data/{key}".into(),
        parts: Parts::from([]),
        timeout: Duration::from_secs(1),
        traceparent: None,
        known: None,
        batching: Batching::ALONE,
    }
}

#[tokio::test]
async fn law_8_a_version_stops_when_its_last_call_ends() {
    let stage = stage();
    let loader = stage.plugin.loader().unwrap();
    let call = tokio::spawn(loader.load(question()));
    drop((loader, stage.plugin));
    // Whatever was to be stopped has been spawned by now: nothing was.
    assert!(stage.stops.is_empty());
    stage.permits.add_permits(1);
    assert!(call.await.unwrap().is_ok());
    stage.stopped.cancelled().await;
}

#[tokio::test]
async fn a_call_that_was_given_up_lets_go_too() {
    let stage = stage();
    let call = stage.plugin.loader().unwrap().load(question());
    drop(stage.plugin);
    assert!(stage.stops.is_empty());
    drop(call);
    stage.stopped.cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_nobody_lets_go_of_is_stopped_in_the_end() {
    let stage = stage();
    stage.plugin.retire();
    let before = tokio::time::Instant::now();
    stage.stopped.cancelled().await;
    assert_eq!(before.elapsed().as_secs(), RETIRE_MAX.as_secs());
    drop(stage.plugin);
    stage.stops.close();
    stage.stops.wait().await;
}

#[test]
fn identity_tells_sources_apart_and_redeploys_not() {
    let description = |name: &str, version: &str, cache_version| Description {
        name: name.into(),
        version: version.into(),
        cache_version,
        descriptor: String::new(),
    };
    let config = |value: Value| value.as_object().unwrap().clone();
    let base = |stem: &str, described: Option<Description>, digest: &str, value: Value| {
        identity(stem, described.as_ref(), digest, &config(value))
    };
    let one = base(
        "demo",
        Some(description("demo", "1", 1)),
        "aa",
        json!({"b": [1, {"y": 1, "x": 2}], "a": "x"}),
    );
    assert!(
        one.starts_with("demo~") && one.len() == "demo~".len() + 16,
        "{one}"
    );

    // The same source: another build, another version for people, another order of the same settings.
    let mut reordered = Map::new();
    reordered.insert("a".into(), json!("x"));
    reordered.insert("b".into(), json!([1, {"x": 2, "y": 1}]));
    let again = identity("demo", Some(&description("demo", "2", 1)), "bb", &reordered);
    assert_eq!(one, again);

    let settings = || json!({"b": [1, {"y": 1, "x": 2}], "a": "x"});
    let others = [
        base("demo2", Some(description("demo", "1", 1)), "aa", settings()),
        base("demo", Some(description("demo2", "1", 1)), "aa", settings()),
        base("demo", Some(description("demo", "1", 2)), "aa", settings()),
        base(
            "demo",
            Some(description("demo", "1", 1)),
            "aa",
            json!({"b": [1, {"y": 1, "x": 2}], "a": "y"}),
        ),
        base("demo", None, "aa", settings()),
        base("demo", None, "bb", settings()),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(&one, other);
        assert!(!others[..index].contains(other), "{other}");
    }
}
