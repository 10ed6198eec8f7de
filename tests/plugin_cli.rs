//! `larder plugin`: what an author is told of a component, what one call shows, that a recorded call is the same without its
//! source, and that a new project of each language builds into a component that answers.

use bytes::Bytes;
use http::Method;
use larder_tests::larder::{Home, Ran, repository};
use larder_tests::{Client, Larder, Origin, Reply, Wasm, json};

use std::time::Duration;

/// How long a build may take: it fetches what the language needs, and the registries of the languages may be slow.
const BUILDING: Duration = Duration::from_secs(20 * 60);
/// How long the first call of a component may take, which compiles it: one from Python is large.
const COMPILING: Duration = Duration::from_secs(240);

/// A directory whose commands keep what they compile beside it.
fn home() -> Home {
    Larder::with()
        .env("LARDER_STORAGE_DIR", "larder-data")
        .write()
}

fn assert_says(ran: &Ran, words: &[&str]) {
    let said = ran.all();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

fn assert_ended(ran: &Ran, status: i32) {
    assert_eq!(ran.status.code(), Some(status), "{}", ran.all());
}

#[tokio::test]
async fn inspect_says_what_each_first_party_plugin_is_and_needs() {
    let home = home();
    for (name, words) in [
        (
            "demo",
            &["kinds    loader", "latency_ms", "default 150", "key"][..],
        ),
        ("files", &["dirs = {", "[grants]", "path", "required"]),
        (
            "http",
            &["http = [", "url = \"…\"", "wasi:http/client@0.3.0"],
        ),
        (
            "tenant-key",
            &["kinds    key-policy", "default \"x-tenant\""],
        ),
    ] {
        home.install(name, &Wasm::plugin(name));
        let ran = home
            .run(&["plugin", "inspect", &format!("plugins/{name}.wasm")])
            .await;
        assert_ended(&ran, 0);
        assert_says(&ran, words);
        assert_says(
            &ran,
            &[
                "digest   ",
                "pin      digest = \"sha256:",
                "larder:plugin/metadata@0.1.0",
            ],
        );
    }
}

#[tokio::test]
async fn inspect_shows_the_digest_that_the_server_shows() {
    let larder = Larder::with().plugin("demo", "").start().await;
    let served = larder.plugin("demo").await;
    let ran = larder
        .run(&["plugin", "inspect", "plugins/demo.wasm", "--json"])
        .await;
    assert_ended(&ran, 0);
    let said: larder_tests::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(said["digest"], served["digest"]);
    assert_eq!(said["refused"], false);
}

#[tokio::test]
async fn inspect_ends_with_1_and_a_remedy_for_what_would_be_refused() {
    let home = home();
    home.install("stranger", &Wasm::guest("no-world"));
    home.install("needy", &Wasm::guest("needy"));
    home.sidecar("needy", "[config]\nbse = \"x\"\n");
    home.install_bytes("broken", b"no component");
    for (file, words) in [
        (
            "plugins/stranger.wasm",
            &[
                "acme:other/greeting@1.0.0",
                "This host would refuse it",
                "larder wit",
            ][..],
        ),
        ("plugins/needy.wasm", &["needy.toml", "bse"]),
        (
            "plugins/broken.wasm",
            &["is not WebAssembly", "cargo build --target wasm32-wasip2"],
        ),
        (
            "plugins/absent.wasm",
            &["there is no such file", "dist/NAME.wasm"],
        ),
        ("larder.toml", &["call it NAME.wasm"]),
    ] {
        let ran = home.run(&["plugin", "inspect", file]).await;
        assert_ended(&ran, 1);
        assert_says(&ran, words);
        assert_says(&ran, &["remedy:"]);
    }
}

#[tokio::test]
async fn a_call_shows_the_outcome_and_what_it_took() {
    let home = home();
    home.install("demo", &Wasm::plugin("demo"));
    home.sidecar("demo", "[config]\ntext = \"about {key}\"\nlatency_ms = 0\n");
    let ran = home
        .run(&["plugin", "call", "plugins/demo.wasm", "--part", "key=42"])
        .await;
    assert_ended(&ran, 0);
    assert_says(
        &ran,
        &[
            "found    200 application/json",
            "about 42",
            "time     compile",
            "memory   ",
            "log      nothing",
        ],
    );

    // Another sidecar, and a question that the plugin cannot answer.
    std::fs::write(home.path("other.toml"), "[config]\ntext = \"other\"\n").expect("a sidecar");
    let other = [
        "plugin",
        "call",
        "plugins/demo.wasm",
        "--part",
        "key=42",
        "--settings",
        "other.toml",
    ];
    assert_says(&home.run(&other).await, &["other"]);
    let ran = home.run(&["plugin", "call", "plugins/demo.wasm"]).await;
    assert_ended(&ran, 1);
    assert_says(
        &ran,
        &[
            "failed, which a client sees as 502",
            "template-part-missing",
        ],
    );
}

#[tokio::test]
async fn a_call_of_a_key_policy_shows_its_decision() {
    let home = home();
    home.install("tenant-key", &Wasm::plugin("tenant-key"));
    let file = "plugins/tenant-key.wasm";
    let request = ["plugin", "call", file, "--request", "GET /orders/42?x=1"];
    let ran = home
        .run(&[&request[..], &["--header", "X-Tenant: acme"]].concat())
        .await;
    assert_ended(&ran, 0);
    assert_says(
        &ran,
        &[
            "visible  private",
            "part     x-tenant = \"acme\"",
            "part     key = \"42\"",
        ],
    );
    let ran = home.run(&request).await;
    assert_ended(&ran, 1);
    assert_says(&ran, &["rejected, which a client sees as 422"]);
    let ran = home
        .run(&["plugin", "call", file, "--part", "key=42"])
        .await;
    assert_ended(&ran, 1);
    assert_says(&ran, &["is no loader", "--request 'GET /data/42'"]);
}

#[tokio::test]
async fn a_call_that_fails_ends_with_1_and_a_wrong_command_line_with_2() {
    let home = home();
    home.install("http", &Wasm::plugin("http"));
    home.sidecar(
        "http",
        "[config]\nurl = \"http://127.0.0.1:1/{key}\"\n[grants]\nhttp = [\"http://127.0.0.1:2\"]\n",
    );
    let ran = home
        .run(&["plugin", "call", "plugins/http.wasm", "--part", "key=42"])
        .await;
    assert_ended(&ran, 1);
    assert_says(
        &ran,
        &[
            "failed, which a client sees as 502",
            "http = [\"http://127.0.0.1:2\", \"http://127.0.0.1:1\"]",
        ],
    );
    for wrong in [
        &["--part", "key"][..],
        &["--header", "a: b"],
        &["--part", "key=1", "--request", "GET /x"],
        &["--timeout", "soon"],
        &["--request", "/data/42"],
    ] {
        let ran = home
            .run(&[&["plugin", "call", "plugins/http.wasm"], wrong].concat())
            .await;
        assert_ended(&ran, 2);
    }
}

/// A directory with `http` in front of `origin`, and a secret.
fn before(origin: &Origin, secret: &str) -> Home {
    let sidecar = format!(
        "[config]\nurl = \"{url}/{{key}}\"\nheaders = {{ authorization = \"Bearer {{secret:token}}\" }}\n\
         [secrets]\ntoken = {{ env = \"TOKEN\" }}\n[grants]\nhttp = [\"{url}\"]\n",
        url = origin.url()
    );
    Larder::with()
        .plugin("http", &sidecar)
        .env("LARDER_STORAGE_DIR", "larder-data")
        .env("TOKEN", secret)
        .write()
}

const RECORD: [&str; 7] = [
    "plugin",
    "record",
    "plugins/http.wasm",
    "--part",
    "key=42",
    "--out",
    "call.json",
];

#[tokio::test]
async fn a_recorded_call_is_the_same_without_its_source() {
    let origin = Origin::start();
    let secret = "s3cret-of-the-test";
    origin.on(
        "/42",
        Reply::json(&format!("{{\"echo\":\"{secret}\"}}")).etag("\"1\""),
    );
    let home = before(&origin, secret);
    let ran = home.run(&RECORD).await;
    assert_ended(&ran, 0);
    assert_says(&ran, &["recorded in call.json, with 1 request by HTTP"]);
    let recorded = std::fs::read_to_string(home.path("call.json")).expect("the recording");
    assert!(!recorded.contains(secret), "{recorded}");
    assert!(recorded.contains("Bearer SECRET_token"), "{recorded}");
    assert_eq!(origin.calls("/42"), 1);

    origin.refuse().await;
    let ran = home.run(&["plugin", "replay", "call.json"]).await;
    assert_ended(&ran, 0);
    assert_says(&ran, &["the same"]);
    assert_eq!(origin.calls("/42"), 1);
}

#[tokio::test]
async fn a_replay_names_what_differs_and_what_was_not_recorded() {
    let origin = Origin::start();
    origin.on("/42", Reply::json("{\"temperature\":20}"));
    let home = before(&origin, "s3cret-of-the-test");
    assert_ended(&home.run(&RECORD).await, 0);
    let recorded = std::fs::read_to_string(home.path("call.json")).expect("the recording");
    let edit = |from: &str, to: &str| {
        assert!(recorded.contains(from), "{from} is not in {recorded}");
        std::fs::write(home.path("call.json"), recorded.replacen(from, to, 1)).expect("written");
    };

    // The answer that was right once is another one now.
    edit("\"temperature\": 20", "\"temperature\": 19");
    let ran = home.run(&["plugin", "replay", "call.json"]).await;
    assert_ended(&ran, 1);
    assert_says(
        &ran,
        &[
            "-        \"temperature\": 19",
            "+        \"temperature\": 20",
        ],
    );

    edit(
        &format!("{}/42", origin.url()),
        &format!("{}/43", origin.url()),
    );
    let ran = home.run(&["plugin", "replay", "call.json"]).await;
    assert_ended(&ran, 1);
    assert_says(
        &ran,
        &["not in the recording", &format!("GET {}/42", origin.url())],
    );
    assert_eq!(origin.calls("/42"), 1);

    // Another component gives another answer.
    std::fs::write(home.path("call.json"), &recorded).expect("written");
    home.install("demo", &Wasm::plugin("demo"));
    let ran = home
        .run(&["plugin", "replay", "call.json", "plugins/demo.wasm"])
        .await;
    assert_ended(&ran, 1);
    let ran = home.run(&["plugin", "replay", "larder.toml"]).await;
    assert_ended(&ran, 1);
    assert_says(&ran, &["no recorded call", "larder plugin record"]);
}

#[tokio::test]
async fn new_refuses_what_there_is_not_with_the_reason() {
    let home = home();
    for (arguments, status, words) in [
        (
            &["weather", "--lang", "js", "--kind", "loader"][..],
            2,
            "use --kind blocking-loader",
        ),
        (
            &["weather", "--lang", "python", "--kind", "blocking-loader"],
            2,
            "use --kind loader",
        ),
        (
            &["weather", "--lang", "python", "--kind", "writer"],
            2,
            "use --lang rust",
        ),
        (&["weather", "--lang", "cobol"], 2, "rust, python, js"),
        (&["2fast", "--lang", "rust"], 2, "begin with a letter"),
        (&["../up", "--lang", "rust"], 2, "use letters, digits"),
        (&["serde", "--lang", "rust"], 2, "choose another"),
        (
            &["plugins", "--lang", "js"],
            1,
            "choose another name, or remove it",
        ),
    ] {
        home.install("demo", &Wasm::plugin("demo"));
        let ran = home.run(&[&["plugin", "new"], arguments].concat()).await;
        assert_ended(&ran, status);
        assert_says(&ran, &[words]);
    }
    assert!(!home.path("weather").exists());
    let ran = home.run(&["plugin", "build", "plugins"]).await;
    assert_ended(&ran, 1);
    assert_says(&ran, &["is no project of a plugin", "larder plugin new"]);
}

/// Makes a project, builds it, and asks it with these arguments. Building is slow, and may fetch what the language needs.
async fn made(home: &Home, new: &[&str], ask: &[&str]) -> Ran {
    let name = new[0];
    let ran = home.run(&[&["plugin", "new"], new].concat()).await;
    assert_ended(&ran, 0);
    share_what_is_built(home, name);
    build(home, name).await;
    let file = format!("{name}/dist/{name}.wasm");
    home.run_within(
        COMPILING,
        &[&["plugin", "call", file.as_str()], ask].concat(),
    )
    .await
}

/// Projects in Rust have their dependencies in common, and building those takes longest.
fn share_what_is_built(home: &Home, name: &str) {
    let project = home.path(name);
    if project.join("Cargo.toml").exists() {
        let shared = repository().join("target/plugin-cli");
        std::fs::create_dir_all(&shared).expect("a directory below target/");
        std::os::unix::fs::symlink(shared, project.join("target")).expect("a link");
    }
}

async fn build(home: &Home, name: &str) {
    let child = home
        .command(&["plugin", "build", name])
        .spawn()
        .expect("the program starts");
    let built = tokio::time::timeout(BUILDING, child.wait_with_output());
    let output = built
        .await
        .unwrap_or_else(|_| panic!("the build of {name} takes longer than {BUILDING:?}"))
        .expect("a build that ends says how");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("dist/{name}.wasm: ")), "{said}");
}

#[tokio::test]
async fn a_new_project_in_rust_builds_and_answers_for_each_kind() {
    let home = home();
    let key = ["--part", "key=42"];
    // What a text is kept in: a directory that the sidecar opens.
    let sidecar = "[grants]\ndirs = { \"/texts\" = { host = \"texts\", mode = \"rw\" } }\n";
    std::fs::create_dir(home.path("texts")).expect("a directory");
    std::fs::write(home.path("keep.toml"), sidecar).expect("a sidecar");
    std::fs::write(home.path("texts/3432"), "Hello, 42").expect("a text");
    for (new, ask, words) in [
        (&["greet", "--lang", "rust"][..], &key[..], "Hello, 42"),
        (
            &["wait", "--lang", "rust", "--kind", "blocking-loader"],
            &key,
            "Hello, 42",
        ),
        (
            &["keep", "--lang", "rust", "--kind", "writer"],
            &["--part", "key=42", "--settings", "keep.toml"],
            "Hello, 42",
        ),
        (
            &["tenants", "--lang", "rust", "--kind", "key-policy"],
            &["--request", "GET /data/42", "--header", "x-tenant: acme"],
            "part     tenant = \"acme\"",
        ),
    ] {
        let ran = made(&home, new, ask).await;
        assert_ended(&ran, 0);
        assert_says(&ran, &[words]);
        let lock =
            std::fs::read_to_string(home.path(new[0]).join("Cargo.lock")).expect("a lock file");
        let fresh = Larder::with().write();
        let ran = fresh.run(&[&["plugin", "new"], new].concat()).await;
        assert_ended(&ran, 0);
        let written =
            std::fs::read_to_string(fresh.path(new[0]).join("Cargo.lock")).expect("a lock file");
        assert_eq!(lock, written, "cargo changed the lock file of {new:?}");
    }
    written(home, sidecar).await;
}

/// The rest of the guide to a writer: what is put is read, and put again it is read anew.
async fn written(home: Home, sidecar: &str) {
    let wasm = std::fs::read(home.path("keep/dist/keep.wasm")).expect("a component");
    home.install_bytes("keep", &wasm);
    home.sidecar("keep", sidecar);
    std::fs::create_dir(home.path("plugins/texts")).expect("a directory");
    home.configure(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [[routes]]\npath = \"/keep/{key}\"\nloader = \"keep\"\nwrite = \"through\"\n",
    );
    let larder = Larder::start(home).await;
    let client = Client::new(larder.public.address());
    let json = [("content-type", "application/json")];
    for (text, status) in [("Hello", 201), ("Goodbye", 204)] {
        let body = Bytes::from(json!({ "text": text }).to_string());
        let answer = client.request(Method::PUT, "/keep/42", &json, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        for _ in 0..2 {
            assert_eq!(larder.get("/keep/42").await.json()["text"], text);
        }
    }
    // What the plugin says of a body is what the server goes by.
    let body = Bytes::from_static(b"{\"text\": 5}");
    let answer = client.request(Method::PUT, "/keep/42", &json, body).await;
    let problem = answer.expect_problem(422, "invalid-request");
    let fault = &problem["errors"][0];
    assert_eq!(
        (&fault["where"], &fault["pointer"], &fault["code"]),
        (&json!("body"), &json!("/text"), &json!("type")),
        "{problem}"
    );
    let body = Bytes::from_static(b"Hello");
    let text = [("content-type", "text/plain")];
    let answer = client.request(Method::PUT, "/keep/42", &text, body).await;
    answer.expect_problem(415, "content-type-unsupported");
}

#[tokio::test]
async fn a_new_project_in_python_builds_and_is_served() {
    let home = home();
    let ran = made(
        &home,
        &["weather", "--lang", "python"],
        &["--part", "key=42"],
    )
    .await;
    assert_ended(&ran, 0);
    assert_says(&ran, &["Hello, 42"]);
    // What a server would answer with 422 does not get as far as the plugin.
    let ran = home
        .run(&["plugin", "call", "weather/dist/weather.wasm"])
        .await;
    assert_ended(&ran, 1);
    assert_says(&ran, &["\"key\" is required", "--part key="]);
    decides(&home, "python").await;
    served(home, "weather").await;
}

#[tokio::test]
async fn a_new_project_in_javascript_builds_and_is_served() {
    let home = home();
    let ran = made(&home, &["weather", "--lang", "js"], &["--part", "key=42"]).await;
    assert_ended(&ran, 0);
    assert_says(&ran, &["Hello, 42"]);
    decides(&home, "js").await;
    served(home, "weather").await;
}

/// A new key policy in this language, told of a request and asked for the parts. Each language makes and frees what it is told
/// and what it says in its own way.
async fn decides(home: &Home, language: &str) {
    let ran = made(
        home,
        &["tenants", "--lang", language, "--kind", "key-policy"],
        &[
            "--request",
            "GET /data/42?lang=de&page=1",
            "--header",
            "x-tenant: acmé",
        ],
    )
    .await;
    assert_ended(&ran, 0);
    let parts = ["tenant = \"acmé\"", "key = \"42\"", "lang = \"de\""];
    assert_says(&ran, &parts);
    let file = "tenants/dist/tenants.wasm";
    let ran = home
        .run(&["plugin", "call", file, "--request", "GET /data/42"])
        .await;
    assert_ended(&ran, 1);
    assert_says(&ran, &["rejected", "tenant-missing"]);
}

/// The rest of the guide: copied into the plugin directory it is served, the second time from the cache.
async fn served(home: Home, name: &str) {
    let wasm = std::fs::read(home.path(name).join(format!("dist/{name}.wasm")));
    home.install_bytes(name, &wasm.expect("a component"));
    // The route that there is without a configuration; with one, only the ports are free ones.
    home.configure(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [[routes]]\npath = \"/{name}/{{key}}\"\nloader = {name:?}\n"
    ));
    let larder = Larder::start(home).await;
    let path = format!("/{name}/42");
    let answer = larder.get(&path).await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
    assert_eq!(answer.json()["message"], "Hello, 42");
    let answer = larder.get(&path).await;
    answer.expect(200, "larder; hit; ttl=N; detail=memory");
}
