//! Law 8, with real components: a bad plugin never replaces a good one, and no call fails because of a swap.
//!
//! Needs the guests of `tests/guests/build.sh` and `plugins/build.sh`, as `make test` builds them.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::sync::watch as channel;

use super::super::pages::tests::resident;
use super::super::status::PluginState;
use super::super::version::PluginKind;
use super::*;
use crate::cache::{Batching, Outcome, Question};
use crate::config::{Environment, Overrides};
use crate::key::Parts;

/// A plugin directory, and a registry over it.
struct House {
    dir: TempDir,
    registry: Arc<Registry>,
    /// Every set that `on_change` was told.
    sets: channel::Receiver<Arc<PluginSet>>,
}

/// A directory before it is opened.
struct Plot(TempDir);

impl Plot {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        Self(dir)
    }

    fn plugin(self, name: &str, guest: &str) -> Self {
        place_component(self.0.path(), name, &guest_bytes(guest));
        self
    }

    fn sidecar(self, name: &str, text: &str) -> Self {
        place(self.0.path(), &format!("{name}.toml"), text.as_bytes());
        self
    }

    async fn open(self, watched: bool) -> House {
        let file = self.0.path().join("larder.toml");
        std::fs::write(&file, format!("[plugins]\nwatch = {watched}\n")).unwrap();
        let config = config(&file);
        let (tell, sets) = channel::channel(Arc::default());
        let on_change = move |set| drop(tell.send(set));
        let registry = Registry::open(&config, Worker::Here).unwrap();
        registry.judge(Arc::new(on_change)).await;
        House {
            dir: self.0,
            registry,
            sets,
        }
    }
}

fn config(file: &Path) -> Config {
    crate::config::load(Some(file), &Overrides::default(), &Environment::default())
        .expect("a good file")
        .0
}

impl House {
    fn component(&self, name: &str, guest: &str) {
        place_component(self.dir.path(), name, &guest_bytes(guest));
    }

    fn sidecar(&self, name: &str, text: &str) {
        place(self.dir.path(), &format!("{name}.toml"), text.as_bytes());
    }

    fn status(&self, name: &str) -> PluginStatus {
        let all = self.registry.status();
        all.into_iter()
            .find(|it| it.name == name)
            .expect("it has a row")
    }

    /// Waits until `condition` holds for the status of a plugin.
    async fn until(&self, name: &str, condition: impl Fn(&PluginStatus) -> bool) -> PluginStatus {
        let waiting = async {
            loop {
                if let Some(status) = self
                    .registry
                    .status()
                    .into_iter()
                    .find(|it| it.name == name && condition(it))
                {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting)
            .await
            .unwrap_or_else(|_| panic!("it never came: {:?}", self.registry.status()))
    }

    async fn answer(&self, name: &str) -> serde_json::Value {
        answer(&self.registry.set(), name).await
    }
}

async fn answer(set: &PluginSet, name: &str) -> serde_json::Value {
    let loader = set
        .get(name)
        .expect("it is served")
        .loader()
        .expect("it loads");
    let question = Question {
        route: "/data/{key}".into(),
        parts: Parts::from([]),
        timeout: Duration::from_secs(10),
        traceparent: None,
        known: None,
        batching: Batching::ALONE,
    };
    match loader.load(question).await {
        Ok(Outcome::Found(found)) => serde_json::from_slice(&found.body).unwrap(),
        other => panic!("not an answer: {other:?}"),
    }
}

/// The bytes of a guest, or of a first-party plugin.
fn guest_bytes(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    ["tests/guests/dist", "plugins/dist"]
        .iter()
        .find_map(|dir| std::fs::read(root.join(dir).join(format!("{name}.wasm"))).ok())
        .unwrap_or_else(|| {
            panic!("{name}.wasm is not built: run tests/guests/build.sh and plugins/build.sh")
        })
}

/// Puts a file into the plugin directory in one step, as a careful deployment does.
fn place(root: &Path, file_name: &str, bytes: &[u8]) {
    let unfinished = root.join(format!("{file_name}.new"));
    std::fs::write(&unfinished, bytes).unwrap();
    std::fs::rename(&unfinished, root.join("plugins").join(file_name)).unwrap();
}

fn place_component(root: &Path, name: &str, bytes: &[u8]) {
    place(root, &format!("{name}.wasm"), bytes);
}

/// The same component with another digest: a custom section says nothing to anybody.
fn rebuilt(guest: &str, salt: u8) -> Vec<u8> {
    let mut bytes = guest_bytes(guest);
    bytes.extend([0, 3, 1, b's', salt]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_loaded_whole_and_the_broken_ones_are_shown() {
    let house = Plot::new()
        .plugin("good", "staged")
        .plugin("needy", "needy")
        .plugin("alien", "no-world")
        .plugin("wrong", "wrong-import")
        .plugin("tenant", "tenant-key")
        .open(false)
        .await;
    assert!(
        !house.sets.has_changed().unwrap(),
        "the initial set is not a change"
    );
    std::fs::write(
        house.dir.path().join("plugins/text.wasm"),
        "not a component",
    )
    .unwrap();
    assert!(house.registry.reload("text").await.is_err());

    let status = house.registry.status();
    let states: Vec<_> = status
        .iter()
        .map(|it| (it.name.as_str(), it.state.name()))
        .collect();
    assert_eq!(
        states,
        [
            ("alien", "broken"),
            ("good", "ready"),
            ("needy", "broken"),
            ("tenant", "ready"),
            ("text", "broken"),
            ("wrong", "broken"),
        ]
    );
    for row in &status {
        assert_eq!(
            row.error.is_some(),
            row.state == PluginState::Broken,
            "{row:?}"
        );
    }
    // Everything that is missing is told at once, with the lines to write.
    let needy = house.status("needy").error.unwrap();
    assert!(
        needy.contains("base") && needy.contains("[grants] write `http = "),
        "{needy}"
    );
    assert_eq!(house.status("tenant").kinds, [PluginKind::KeyPolicy]);
    assert!(
        house
            .registry
            .set()
            .get("tenant")
            .unwrap()
            .key_policy()
            .is_some()
    );
    assert_eq!(house.answer("good").await["version"], "1");
    // What may be a loader is told, so that its route can say why it does not answer; `text` came later, which is a change.
    assert!(house.sets.has_changed().unwrap());
    let told = house.sets.borrow().clone();
    let refused: Vec<_> = told.refused_loaders().collect();
    assert_eq!(refused, ["alien", "needy", "text", "wrong"]);
    std::fs::remove_file(house.dir.path().join("plugins/text.wasm")).unwrap();
    assert!(house.registry.reload("text").await.is_ok());
    let set = house.registry.set();
    assert!(set.refused_loaders().all(|name| name != "text"));
}

#[tokio::test(flavor = "multi_thread")]
async fn law_8_a_good_version_replaces_a_good_one_and_a_bad_one_does_not() {
    let mut house = Plot::new()
        .plugin("it", "staged")
        .sidecar("it", "[config]\nversion = \"one\"\n")
        .open(false)
        .await;
    let old = house.registry.set();
    house.sidecar("it", "[config]\nversion = \"two\"\n");
    let status = house.registry.reload("it").await.unwrap();
    assert_eq!((status.state, status.error), (PluginState::Ready, None));
    assert!(
        house.sets.has_changed().unwrap(),
        "told before reload returns"
    );
    assert_eq!(
        answer(&house.sets.borrow_and_update(), "it").await["version"],
        "two"
    );
    // Who pinned the old set goes on with the old version.
    assert_eq!(answer(&old, "it").await["version"], "one");
    assert_ne!(
        old.get("it").unwrap().identity(),
        house.registry.set().get("it").unwrap().identity()
    );

    for (bad, word) in [
        (
            "[config]\nversion = 5\n",
            "it.toml:2: [config] version: expected a string, found a whole number",
        ),
        ("[config]\nvresion = \"x\"\n", "vresion"),
        ("[config\n", "it.toml"),
        ("[config]\nstart_traps = true\n", "panics on purpose"),
        ("[config]\nstart_fails = true\n", "start-fails"),
        ("[config]\nprobe_fails = true\n", "probe-fails"),
        ("[limits]\nmemory = \"64KiB\"\n", ""),
        ("[grants]\nhttp = [\"nonsense\"]\n", "nonsense"),
        (
            "[grants]\ndirs = { \"/data\" = { host = \"/nonexistent\", mode = \"ro\" } }\n",
            "/nonexistent",
        ),
    ] {
        house.sidecar("it", bad);
        let Err(ReloadError::Refused(why)) = house.registry.reload("it").await else {
            panic!("{bad} was taken");
        };
        assert!(why.contains(word), "{bad}: {why}");
        let status = house.status("it");
        assert_eq!(status.state, PluginState::Ready, "what is served is well");
        assert!(status.error.unwrap().contains(&why));
        assert_eq!(house.answer("it").await["version"], "two");
    }
    assert!(!house.sets.has_changed().unwrap());

    house.sidecar("it", "[config]\nversion = \"three\"\n");
    assert_eq!(house.registry.reload("it").await.unwrap().error, None);
    assert_eq!(house.answer("it").await["version"], "three");
    let counts = house.registry.counts();
    assert_eq!((counts.swaps, counts.refusals), (3, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_say_nothing_new_are_left_alone() {
    let house = Plot::new().plugin("it", "staged").open(false).await;
    assert_eq!(house.answer("it").await["instance_loads"], 1);
    house.registry.reload("it").await.unwrap();
    house.sidecar("it", "");
    house.component("it", "staged");
    house.registry.reload("it").await.unwrap();
    assert_eq!(
        house.answer("it").await["instance_loads"],
        2,
        "the same instance"
    );
    let identity = |house: &House| {
        house
            .registry
            .set()
            .get("it")
            .unwrap()
            .identity()
            .to_owned()
    };
    let before = identity(&house);

    // A redeploy of the same source is a swap, and its entries stay.
    place_component(house.dir.path(), "it", &rebuilt("staged", 1));
    house.registry.reload("it").await.unwrap();
    assert_eq!(
        house.answer("it").await["instance_loads"],
        1,
        "a fresh instance"
    );
    assert_eq!(identity(&house), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loader_stays_a_loader_and_a_policy_a_policy() {
    let house = Plot::new()
        .plugin("it", "staged")
        .plugin("key", "tenant-key")
        .open(false)
        .await;
    house.component("it", "tenant-key");
    house.component("key", "staged");
    for (name, role) in [
        ("it", "serves as a loader"),
        ("key", "serves as a key policy"),
    ] {
        let error = house.registry.reload(name).await.unwrap_err().to_string();
        assert!(error.contains(role) && error.contains("remove"), "{error}");
    }
    assert_eq!(house.answer("it").await["version"], "1");
    // Removed first, a name is free.
    std::fs::remove_file(house.dir.path().join("plugins/it.wasm")).unwrap();
    house.registry.reload("it").await.unwrap();
    house.component("it", "tenant-key");
    let status = house.registry.reload("it").await.unwrap();
    assert_eq!(status.kinds, [PluginKind::KeyPolicy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_plugin_is_retired_and_remembered() {
    let mut house = Plot::new().plugin("it", "staged").open(false).await;
    let set = house.registry.set();
    let identity = set.get("it").unwrap().identity().to_owned();
    std::fs::remove_file(house.dir.path().join("plugins/it.wasm")).unwrap();
    let status = house.registry.reload("it").await.unwrap();
    assert_eq!(status.state, PluginState::Retired);
    assert!(house.sets.borrow_and_update().get("it").is_none());
    assert_eq!(
        answer(&set, "it").await["version"],
        "1",
        "a request in flight"
    );
    assert_eq!(
        &*house.registry.set().last_known("it").unwrap().identity,
        identity
    );
    assert_eq!(
        house.registry.reload("never").await,
        Err(ReloadError::Unknown)
    );
    assert_eq!(
        house.registry.reload("../it").await,
        Err(ReloadError::Unknown)
    );

    // It is remembered by the next server too.
    drop(set);
    house.registry.shutdown(Duration::from_secs(20)).await;
    let again = Plot(house.dir).open(false).await;
    let known = again.registry.set().last_known("it").unwrap();
    assert_eq!(&*known.identity, identity);
    assert!(known.loads && !known.derives);
    assert!(known.descriptor.settings.is_some());
    assert!(again.registry.status().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_out_of_reach_at_the_start_is_served_and_asked_again() {
    let house = Plot::new()
        .plugin("it", "staged")
        .sidecar("it", "[config]\nprobe_fails = true\n")
        .open(false)
        .await;
    let status = house.status("it");
    assert_eq!(status.state, PluginState::Degraded);
    assert!(status.error.unwrap().contains("probe-fails"));
    assert_eq!(house.answer("it").await["version"], "1");
    // A reload of the same files is a fresh try of what is not well. It is no better, so nothing changes.
    let status = house.registry.reload("it").await.unwrap();
    assert_eq!(status.state, PluginState::Degraded);
    assert_eq!(house.registry.counts().swaps, 1);
    house.sidecar("it", "");
    assert_eq!(
        house.registry.reload("it").await.unwrap().state,
        PluginState::Ready
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_watched() {
    let house = Plot::new().plugin("it", "staged").open(true).await;
    house.sidecar("it", "[config]\nversion = \"two\"\n");
    let set = house
        .sets
        .clone()
        .wait_for(|set| set.get("it").is_some())
        .await
        .unwrap()
        .clone();
    assert_eq!(answer(&set, "it").await["version"], "two");

    // A component that comes in pieces. (That half of one is not judged is for the tests of `watch`, which own their clock.)
    let bytes = rebuilt("staged", 2);
    let path = house.dir.path().join("plugins/late.wasm");
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    std::fs::write(&path, first).unwrap();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    std::io::Write::write_all(&mut file, rest).unwrap();
    drop(file);
    house
        .until("late", |it| it.state == PluginState::Ready)
        .await;

    // A sidecar that does not fit waits for its component.
    house.sidecar("it", "[config]\ntext = \"x\"\nlatency_ms = 0\n");
    house.until("it", |it| it.error.is_some()).await;
    assert_eq!(house.answer("it").await["version"], "two");
    house.component("it", "demo");
    let status = house.until("it", |it| it.error.is_none()).await;
    assert_eq!(status.state, PluginState::Ready);
    assert_eq!(house.answer("it").await["data"], "x");

    std::fs::remove_file(&path).unwrap();
    house
        .until("late", |it| it.state == PluginState::Retired)
        .await;
    assert!(house.registry.set().get("late").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn law_8_swaps_under_calls_fail_none_of_them() {
    let house = Plot::new()
        .plugin("it", "staged")
        .sidecar("it", "[config]\nversion = \"0\"\nlatency_ms = 3\n")
        .open(false)
        .await;
    let done = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let registry = Arc::clone(&house.registry);
            let done = Arc::clone(&done);
            tokio::spawn(async move {
                let mut calls = 0;
                while !done.load(Ordering::Relaxed) {
                    let set = registry.set();
                    answer(&set, "it").await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for version in 1..=20 {
        house.sidecar(
            "it",
            &format!("[config]\nversion = \"{version}\"\nlatency_ms = 3\n"),
        );
        house.registry.reload("it").await.unwrap();
        assert_eq!(house.answer("it").await["version"], version.to_string());
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.expect("no call failed") > 20);
    }
    assert_eq!(house.registry.counts().swaps, 21);
    house.registry.shutdown(Duration::from_secs(20)).await;
    assert!(
        house.registry.shared.stops.is_empty(),
        "every version has stopped"
    );
}

/// On one thread, so that nothing of it can be done before its client is gone.
#[tokio::test]
async fn a_reload_that_nobody_waits_for_is_finished() {
    let house = Plot::new().plugin("it", "staged").open(false).await;
    house.sidecar("it", "[config]\nversion = \"two\"\n");
    // The client goes away after the first step.
    let begun = house.registry.reload("it").now_or_never();
    assert!(begun.is_none());
    let mut sets = house.sets.clone();
    let set = sets
        .wait_for(|set| set.get("it").is_some())
        .await
        .unwrap()
        .clone();
    assert_eq!(answer(&set, "it").await["version"], "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_every_problem_and_serves_nothing() {
    let house = Plot::new()
        .plugin("good", "staged")
        .plugin("dim", "staged")
        .sidecar("dim", "[config]\nprobe_fails = true\n")
        .plugin("needy", "needy")
        .sidecar("needy", "[config]\n\nbase = 5\n")
        .sidecar("alone", "")
        .plugin("with space", "staged")
        .open(false)
        .await;
    let file = house.dir.path().join("larder.toml");
    let problems = crate::plugin::check(&config(&file), Worker::Here, |_| Vec::new()).await;
    let told: Vec<_> = problems.iter().map(sentence).collect();
    assert_eq!(told.len(), 5, "{told:#?}");
    assert!(
        told[0].starts_with("with space.wasm: the file name"),
        "{told:#?}"
    );
    assert!(
        told[1].starts_with("alone.toml: there is no component"),
        "{told:#?}"
    );
    assert!(
        told[2].starts_with("dim.wasm: its probe fails"),
        "{told:#?}"
    );
    assert!(
        told[3].starts_with("needy.toml:3: [config] base: expected a string, found a whole number"),
        "{told:#?}"
    );
    assert!(told[4].contains("[grants] write `http = "), "{told:#?}");
    assert!(problems.iter().all(|it| it.remedy.is_some()), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_only_for_now_is_tried_again() {
    let sidecar = "[config]\npath = \"/data/late.json\"\nformat = \"json\"\nkey = \"id\"\n\
                   [grants]\ndirs = { \"/data\" = { host = \"../data\", mode = \"ro\" } }\n";
    let plot = Plot::new()
        .plugin("first", "files")
        .sidecar("first", sidecar);
    let data = plot.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let house = plot.plugin("swapped", "staged").open(false).await;
    let first = house.status("first");
    assert_eq!(first.state, PluginState::Degraded, "{first:?}");
    let before = house.status("swapped").digest;
    house.sidecar("swapped", sidecar);
    house.component("swapped", "files");
    let refused = house.registry.reload("swapped").await.unwrap_err();
    assert!(refused.to_string().contains("its probe fails"), "{refused}");
    assert_eq!(house.status("swapped").digest, before);

    // Nobody says a word about it, but the source comes up.
    std::fs::write(data.join("late.json"), "[]").unwrap();
    house
        .until("first", |it| it.state == PluginState::Ready)
        .await;
    let status = house.until("swapped", |it| it.error.is_none()).await;
    assert_eq!(status.state, PluginState::Ready);
    assert_ne!(status.digest, before);
}

/// After the start, and again after a plugin was replaced.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn pages_that_only_loading_needs_are_given_back_when_no_more_is_loaded() {
    let house = Plot::new().plugin("one", "echo").open(false).await;
    let engine = Arc::clone(&house.registry.shared.court.engine);
    let given_back = async || {
        let waiting = async {
            loop {
                let images = engine.images();
                if images.len() == 1 && resident(&images[0]) == 0 {
                    return images;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
        waited.expect("nothing was given back")
    };
    let before = given_back().await;
    house.answer("one").await;
    assert!(resident(&before[0]) > 0);

    // The version before goes, with everything that was compiled for it.
    house.component("one", "staged");
    house.registry.reload("one").await.unwrap();
    assert_ne!(given_back().await, before);
}
