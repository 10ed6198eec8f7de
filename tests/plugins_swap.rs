//! Live replacement: a new component or sidecar is judged aside and swapped in one step; a bad one changes nothing; what is
//! wrong is named with its remedy.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use larder_tests::{
    Larder, Origin, Redis, Reply, Value, Wasm, before, call, eventually, json, sidecar, throughout,
};

fn demo(text: &str) -> String {
    format!("[config]\ntext = \"{text} {{key}}\"\nlatency_ms = 5\n")
}

async fn with_demo() -> Larder {
    Larder::with()
        .plugin("demo", &demo("one"))
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .start()
        .await
}

async fn says(larder: &Larder, path: &str) -> String {
    let answer = larder.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["data"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The same component with another digest: a custom section (id 0, a size, a name and nothing) is added to it, which
/// changes nothing that it does.
fn redeployed(wasm: &Wasm, version: u8) -> Vec<u8> {
    let mut bytes = wasm.bytes();
    bytes.extend_from_slice(&[0, 3, 1, b'v', version]);
    bytes
}

#[tokio::test]
async fn a_sidecar_edit_changes_the_answer_of_a_key_that_is_cached() {
    let larder = with_demo().await;
    assert_eq!(says(&larder, "/data/42").await, "one 42");
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    larder.sidecar("demo", &demo("two"));
    eventually("the new text is answered", async || {
        (says(&larder, "/data/42").await == "two 42").then_some(())
    })
    .await;
    // And back: entries of the first configuration are still its own.
    larder.sidecar("demo", &demo("one"));
    eventually("the old text is answered", async || {
        (says(&larder, "/data/42").await == "one 42").then_some(())
    })
    .await;
}

#[tokio::test]
async fn replacing_the_component_changes_the_source_and_redeploying_it_keeps_the_cache() {
    let origin = Origin::start();
    let larder = with_demo().await;
    assert_eq!(says(&larder, "/data/42").await, "one 42");
    let digest = larder.plugin("demo").await["digest"].clone();
    larder.install_bytes("demo", &redeployed(&Wasm::plugin("demo"), 1));
    larder
        .until_plugin("demo", "has another digest", |plugin| {
            plugin["digest"] != digest && plugin["error"].is_null()
        })
        .await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    // Another source: first the sidecar, which does not fit what runs and waits, then the component that it fits.
    larder.sidecar(
        "demo",
        &sidecar(&origin, &format!("{}/{{key}}", origin.url())),
    );
    larder.until_refused("demo", &["url"]).await;
    assert_eq!(
        says(&larder, "/data/42").await,
        "one 42",
        "a sidecar that does not fit waits"
    );
    larder.install("demo", &Wasm::plugin("http"));
    eventually("the new source answers", async || {
        let answer = larder.get("/data/42").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.json()["call"] == json!(1)).then_some(())
    })
    .await;
    assert!(larder.plugin("demo").await["error"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_8_a_hundred_swaps_under_load_fail_no_request() {
    let larder = Larder::with()
        .plugin("demo", &demo("0"))
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .start()
        .await;
    let done = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    let readers = join_all((0..8).map(|reader| {
        let (larder, done, asked) = (&larder, &done, &asked);
        async move {
            // Cold keys, so that every request goes through the plugin, and one that is shared.
            for i in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let key = if i % 4 == 0 {
                    "shared".to_owned()
                } else {
                    format!("{reader}-{i}")
                };
                let text = says(larder, &format!("/data/{key}")).await;
                assert!(text.ends_with(&format!(" {key}")), "{text} for {key}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }));
    let swaps = async {
        for swap in 1..=100_u8 {
            // Both files in turn; `reload` judges them without waiting for the watcher.
            if swap % 2 == 0 {
                larder.install_bytes("demo", &redeployed(&Wasm::plugin("demo"), swap));
            } else {
                larder.sidecar("demo", &demo(&swap.to_string()));
            }
            let answer = larder.reload("demo").await;
            assert_eq!(answer.status, 200, "swap {swap}: {answer:?}");
            if swap % 2 == 1 {
                assert_eq!(
                    says(&larder, "/data/shared").await,
                    format!("{swap} shared"),
                    "the swap is seen at once"
                );
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(readers, swaps);
    assert!(asked.load(Ordering::Relaxed) > 100);
    assert_eq!(larder.plugin("demo").await["state"], "ready");
}

#[tokio::test]
async fn law_8_a_request_in_flight_finishes_on_the_old_version_and_is_not_mixed_with_the_new() {
    let (old, new) = (Origin::start(), Origin::start());
    let larder = before(&old, "ttl = \"1h\"\ntimeout = \"20s\"")
        .start()
        .await;
    let gate = old.gate("/42");
    let (first, second) = tokio::join!(larder.get("/things/42"), async {
        gate.arrived(1).await;
        larder.sidecar("gated", &sidecar(&new, &new.url()));
        assert_eq!(larder.reload("gated").await.status, 200);
        // The new version answers while the old one still loads.
        let second = larder.get("/things/42").await;
        gate.open();
        second
    });
    assert_eq!((call(&first), call(&second)), (1, 1));
    assert_eq!((old.calls("/42"), new.calls("/42")), (1, 1));
    larder
        .get("/things/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    assert_eq!((old.calls("/42"), new.calls("/42")), (1, 1));
}

#[tokio::test]
async fn law_8_a_bad_component_never_replaces_a_good_one() {
    let larder = with_demo().await;
    let digest = larder.plugin("demo").await["digest"].clone();
    let core_module = b"\0asm\x01\0\0\0";
    for (what, bytes, words) in [
        (
            "text",
            b"not WebAssembly at all".to_vec(),
            &["demo.wasm"][..],
        ),
        ("nothing", Vec::new(), &["demo.wasm"]),
        ("a core module", core_module.to_vec(), &["component"]),
        (
            "half a component",
            Wasm::plugin("demo").bytes()[..5000].to_vec(),
            &["demo.wasm"],
        ),
        (
            "a component of another world",
            Wasm::guest("no-world").bytes(),
            &["larder:plugin"],
        ),
        (
            "an import that nobody has",
            Wasm::guest("wrong-import").bytes(),
            &["acme:missing/thing"],
        ),
        (
            "one that needs what it is not granted",
            Wasm::guest("needy").bytes(),
            &["base"],
        ),
    ] {
        larder.install_bytes("demo", &bytes);
        let reload = larder.reload("demo").await;
        reload.expect_problem(422, "plugin-refused");
        let error = larder.until_refused("demo", words).await;
        let told =
            |line: &str| line.contains("refused") && words.iter().all(|word| line.contains(word));
        eventually(
            &format!("{what}: the log says it too: {error}"),
            async || larder.log().lines().any(told).then_some(()),
        )
        .await;
        let plugin = larder.plugin("demo").await;
        assert_eq!(
            (&plugin["state"], &plugin["digest"]),
            (&json!("ready"), &digest),
            "{what}: {plugin}"
        );
        assert_eq!(
            says(&larder, &format!("/data/{}", what.replace(' ', "-"))).await,
            format!("one {}", what.replace(' ', "-"))
        );
    }
    larder.install("demo", &Wasm::plugin("demo"));
    larder
        .until_plugin("demo", "is well again", |plugin| plugin["error"].is_null())
        .await;
}

#[tokio::test]
async fn a_plugin_that_is_bad_from_the_start_is_named_with_its_remedy_and_stops_nobody() {
    let larder = Larder::with()
        .plugin("demo", &demo("one"))
        .guest("no-world", "")
        .guest("wrong-import", "")
        .component("needy", Wasm::guest("needy"), "[config]\nbase = \"x\"\n")
        .component(
            "settings",
            Wasm::plugin("demo"),
            "[config]\ntxt = \"x\"\nlatency_ms = \"soon\"\n",
        )
        .component("sidecar", Wasm::plugin("demo"), "[grant]\nhttp = []\n")
        .component("sidecar-key", Wasm::plugin("demo"), "[grants]\nhtp = []\n")
        .component("unread", Wasm::plugin("demo"), "[config\n")
        .route("/data/{key}", "demo", "")
        .route("/needy/{key}", "needy", "")
        .start()
        .await;
    for (name, words) in [
        ("no-world", &["larder:plugin"][..]),
        ("wrong-import", &["acme:missing/thing"]),
        (
            "needy",
            &[
                "http",
                "[grants]",
                "the origin that the setting `base` names",
            ],
        ),
        ("settings", &["txt", "latency_ms"]),
        ("sidecar", &["grant", "grants"]),
        ("sidecar-key", &["htp", "http"]),
        ("unread", &["unread.toml"]),
    ] {
        larder.until_refused(name, words).await;
        assert_eq!(larder.plugin(name).await["state"], "broken", "{name}");
    }
    assert_eq!(says(&larder, "/data/42").await, "one 42");
    let answer = larder.get("/needy/42").await;
    answer.expect_problem(503, "plugin-not-loaded");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let ready = larder.admin.get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(
        ready.text().contains("needy"),
        "told in the body: {ready:?}"
    );
}

#[tokio::test]
async fn a_broken_plugin_is_judged_again_when_either_file_changes() {
    let larder = Larder::with()
        .guest("needy", "")
        .route("/needy/{key}", "needy", "")
        .start()
        .await;
    larder.until_refused("needy", &["base"]).await;
    larder.sidecar(
        "needy",
        "[config]\nbase = \"http://127.0.0.1:1\"\n[grants]\nhttp = [\"http://127.0.0.1:1\"]\n",
    );
    larder
        .until_plugin("needy", "is ready", |plugin| plugin["state"] == "ready")
        .await;
    assert_eq!(larder.get("/needy/42").await.status, 200);
}

#[tokio::test]
async fn a_half_written_file_is_not_loaded_early() {
    let larder = with_demo().await;
    let before = larder.plugin("demo").await;
    let whole = redeployed(&Wasm::plugin("demo"), 7);
    let path = larder.path("plugins/demo.wasm");
    // Written in place and slowly, as a copy over a bad line would: a piece every 30 ms, which is less than the 100 ms
    // that a file has to be still.
    let mut file = std::fs::File::create(&path).expect("the component is written in place");
    let mut pieces = whole.chunks(whole.len() / 20 + 1);
    let mut tick = tokio::time::interval(Duration::from_millis(30));
    for piece in pieces.by_ref() {
        tick.tick().await;
        file.write_all(piece).expect("a piece");
        file.flush().expect("reaches the file");
        let now = larder.plugin("demo").await;
        assert!(
            now["error"].is_null(),
            "judged while it was half written: {now}"
        );
        assert_eq!(says(&larder, "/data/42").await, "one 42");
    }
    drop(file);
    larder
        .until_plugin("demo", "is the new file", |plugin| {
            plugin["digest"] != before["digest"] && plugin["error"].is_null()
        })
        .await;
}

#[tokio::test]
async fn a_new_file_is_loaded_and_a_removed_one_is_retired() {
    let larder = with_demo().await;
    assert_eq!(says(&larder, "/data/42").await, "one 42");
    larder.install("extra", &Wasm::plugin("demo"));
    larder
        .until_plugin("extra", "is loaded", |plugin| plugin["state"] == "ready")
        .await;
    larder.remove("demo");
    // A cold key each time: what was loaded before the removal stays a hit.
    let mut key = 0;
    let miss = eventually("the plugin is retired", async || {
        key += 1;
        let answer = larder.get(&format!("/data/cold-{key}")).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    miss.expect_problem(503, "plugin-not-loaded");
    assert!(miss.header("retry-after").is_some(), "{miss:?}");
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
    larder.install("demo", &Wasm::plugin("demo"));
    eventually("it is back", async || {
        (larder.get("/data/back").await.status == 200).then_some(())
    })
    .await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=memory");
}

#[tokio::test]
async fn a_plugin_that_is_broken_at_start_still_serves_its_hits_from_redis() {
    let redis = Redis::start().await;
    let mut larder = Larder::with()
        .plugin("demo", &demo("one"))
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .redis(&redis.url())
        .start()
        .await;
    assert_eq!(says(&larder, "/data/42").await, "one 42");
    larder.terminate();
    larder.exit().await;
    larder.install_bytes("demo", b"broken");
    let home = larder.into_home().await;
    let larder = Larder::start(home).await;
    larder
        .get("/data/42")
        .await
        .expect(200, "larder; hit; ttl=N; detail=redis");
    larder
        .get("/data/43")
        .await
        .expect_problem(503, "plugin-not-loaded");
}

#[tokio::test]
async fn law_8_a_new_version_that_does_not_start_or_fails_its_probe_keeps_the_old_one() {
    let staged = |more: &str| format!("[config]\nversion = \"2\"\n{more}\n");
    let larder = Larder::with()
        .guest("staged", "[config]\nversion = \"1\"\n")
        .route("/staged/{key}", "staged", "")
        .start()
        .await;
    let version =
        async |key: &str| larder.get(&format!("/staged/{key}")).await.json()["version"].clone();
    assert_eq!(version("a").await, "1");
    for (i, (fault, word)) in [
        ("start_fails = true", "start-fails"),
        ("probe_fails = true", "probe-fails"),
        ("start_traps = true", "panics on purpose"),
        ("probe_traps = true", "panics on purpose"),
    ]
    .into_iter()
    .enumerate()
    {
        larder.sidecar("staged", &staged(fault));
        larder.until_refused("staged", &[word]).await;
        assert_eq!(version(&format!("after-{i}")).await, "1", "{fault}");
    }
    // No limit on a slice of computing while it starts; and the old one serves until the new one is ready.
    larder.sidecar("staged", &staged("start_busy_ms = 300\nprobe_ms = 300"));
    eventually("the new version answers", async || {
        let answer = larder.get("/staged/cold").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        (answer.json()["version"] == "2" && answer.json()["started"] == json!(true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn when_the_server_starts_a_failing_probe_does_not_refuse_the_plugin_and_a_failing_start_does()
 {
    let larder = Larder::with()
        .component(
            "unwell",
            Wasm::guest("staged"),
            "[config]\nprobe_fails = true\n",
        )
        .component(
            "unable",
            Wasm::guest("staged"),
            "[config]\nstart_fails = true\n",
        )
        .route("/unwell/{key}", "unwell", "")
        .route("/unable/{key}", "unable", "")
        .start()
        .await;
    assert_eq!(larder.get("/unwell/42").await.status, 200, "served");
    let unwell = larder.plugin("unwell").await;
    assert_eq!(unwell["state"], "degraded", "and shown: {unwell}");
    assert!(
        unwell["error"]
            .as_str()
            .unwrap_or_default()
            .contains("probe-fails"),
        "{unwell}"
    );
    larder
        .get("/unable/42")
        .await
        .expect_problem(503, "plugin-not-loaded");
}

#[tokio::test]
async fn law_8_requests_wait_for_nobody_while_a_new_version_takes_its_time_to_start() {
    let larder = Larder::with()
        .guest("staged", "[config]\nversion = \"1\"\n")
        .route("/staged/{key}", "staged", "")
        .start()
        .await;
    larder.sidecar("staged", "[config]\nversion = \"2\"\nstart_ms = 1000\n");
    let mut i = 0;
    let switched = eventually("the new version answers", async || {
        i += 1;
        let asked = Instant::now();
        let answer = larder.get(&format!("/staged/{i}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            asked.elapsed() < Duration::from_millis(900),
            "a request waited {:?} for the start",
            asked.elapsed()
        );
        (answer.json()["version"] == "2").then_some(i)
    })
    .await;
    assert!(switched > 1);
}

#[tokio::test]
async fn a_retired_instance_is_stopped() {
    let larder = Larder::with()
        .guest("staged", "[config]\nversion = \"1\"\n")
        .route("/staged/{key}", "staged", "")
        .start()
        .await;
    assert_eq!(larder.get("/staged/a").await.status, 200);
    larder.remove("staged");
    // `staged` logs its stages.
    eventually("lifecycle.stop was called", async || {
        let log = larder.log();
        log.lines()
            .any(|line| line.contains("staged") && line.contains("stop"))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn reload_judges_the_files_now() {
    let larder = Larder::with()
        .plugin("demo", &demo("one"))
        .route("/data/{key}", "demo", "ttl = \"1h\"")
        .section("[plugins]\nwatch = false")
        .start()
        .await;
    assert_eq!(says(&larder, "/data/42").await, "one 42");
    larder.sidecar("demo", &demo("two"));
    throughout(Instant::now() + Duration::from_millis(500), async || {
        assert_eq!(
            says(&larder, "/data/42").await,
            "one 42",
            "the directory is not watched"
        );
    })
    .await;
    let answer = larder.reload("demo").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["name"]),
        (200, &json!("demo"))
    );
    assert_eq!(says(&larder, "/data/42").await, "two 42");
    larder
        .reload("nobody")
        .await
        .expect_problem(404, "unknown-plugin");
}

#[tokio::test]
async fn law_11_a_damaged_cache_of_compiled_code_is_compiled_anew() {
    fn files(directory: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                files(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut larder = with_demo().await;
    let damages: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        |bytes| bytes[..bytes.len() / 2].to_vec(),
        |bytes| vec![0x55; bytes.len()],
        |mut bytes| {
            // One bit, in the middle: the header stays as it was.
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            bytes
        },
    ];
    for (i, damage) in damages.into_iter().enumerate() {
        larder.terminate();
        larder.exit().await;
        let mut kept = Vec::new();
        files(&larder.path("larder-data"), &mut kept);
        assert!(!kept.is_empty(), "compiled code is kept in [storage] dir");
        for file in kept {
            let bytes = std::fs::read(&file).expect("it is read");
            std::fs::write(&file, damage(bytes)).expect("it is damaged");
        }
        larder = Larder::start(larder.into_home().await).await;
        assert_eq!(
            says(&larder, &format!("/data/{i}")).await,
            format!("one {i}")
        );
    }
}

#[tokio::test]
async fn a_key_policy_is_replaced_live_too() {
    let origin = Origin::start();
    origin.on("/*", Reply::counted());
    let larder = Larder::with()
        .guest("gated", &sidecar(&origin, &origin.url()))
        .plugin("tenant-key", "[config]\nheader = \"x-tenant\"\n")
        .route(
            "/orders/{id}",
            "gated",
            "key = \"tenant-key\"\nkey_headers = [\"x-tenant\", \"x-team\"]",
        )
        .start()
        .await;
    let headers = [("x-tenant", "acme"), ("x-team", "red")];
    larder.get_with("/orders/7", &headers).await;
    assert_eq!(origin.calls("/acme"), 1);
    larder.sidecar("tenant-key", "[config]\nheader = \"x-team\"\n");
    eventually("the new policy derives", async || {
        assert_eq!(larder.get_with("/orders/7", &headers).await.status, 200);
        (origin.calls("/red") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_plugins_are_is_told() {
    let larder = Larder::with()
        .plugin("demo", "")
        .plugin("tenant-key", "")
        .guest("faulty-blocking", "")
        .route("/data/{key}", "demo", "")
        .start()
        .await;
    let all = larder.admin.get("/plugins").await.json();
    let names: Vec<_> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|plugin| plugin["name"].clone())
        .collect();
    assert_eq!(names, ["demo", "faulty-blocking", "tenant-key"]);
    let fields = |name: &str, kind: &str, described: bool| {
        let plugin = all
            .as_array()
            .and_then(|all| all.iter().find(|plugin| plugin["name"] == name))
            .expect("it is listed");
        assert_eq!(
            (&plugin["kind"], &plugin["state"]),
            (&json!(kind), &json!("ready")),
            "{plugin}"
        );
        assert!(
            plugin["digest"]
                .as_str()
                .is_some_and(|digest| digest.len() >= 32),
            "{plugin}"
        );
        assert_eq!(plugin["version"].is_string(), described, "{plugin}");
        assert_eq!(plugin["error"], Value::Null, "{plugin}");
    };
    fields("demo", "loader", true);
    fields("tenant-key", "key-policy", true);
    fields("faulty-blocking", "blocking-loader", false);
}
