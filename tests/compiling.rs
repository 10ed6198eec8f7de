//! Compiling is bounded, and what a component does to the compiler ends there (law 9); the server answers meanwhile, from its
//! first moment on. The components here are no plugins: compiling comes first.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use larder_tests::larder::Log;
use larder_tests::{Builder, Client, Larder, Usage, Value, eventually, eventually_within, json};

/// Longer than any limit of these tests, on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(60);

/// A component of one function: `depth` blocks in each other, and in the innermost as many jumps as `jumps` to any of them.
/// The compiler's work grows with the product, of which the file has little.
fn bomb(depth: usize, jumps: usize) -> Vec<u8> {
    let mut text = "(component (core module (func (param i32) (result i32) ".to_owned();
    text.push_str(&"block ".repeat(depth));
    let labels = (0..depth).fold(String::new(), |mut labels, label| {
        let _ = write!(labels, "{label} ");
        labels
    });
    for _ in 0..jumps {
        let _ = write!(text, "block local.get 0 br_table {labels} end ");
    }
    text.push_str(&"end ".repeat(depth));
    text.push_str("local.get 0)))");
    wat::parse_str(text).expect("the text is a component")
}

/// A good plugin beside the name `bomb`, with these lines in `[plugins]`.
fn with(limits: &str) -> Builder {
    Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 0\n")
        .route("/demo/{key}", "demo", "")
        .route("/bomb/{key}", "bomb", "")
        .section(&format!("[plugins]\n{limits}"))
}

/// Waits until the component is refused, and gives the reason.
async fn refused(larder: &Larder) -> String {
    let told = eventually_within(LONG, "the bomb is refused", async || {
        let all = larder.admin.get("/plugins").await.json();
        let all = all.as_array().expect("GET /plugins is an array");
        let bomb = all.iter().find(|plugin| plugin["name"] == "bomb")?;
        bomb["error"].as_str().map(str::to_owned)
    });
    told.await
}

#[tokio::test]
async fn law_9_a_component_that_takes_the_compiler_long_is_refused_and_the_server_answers_meanwhile()
 {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let public = port.expect("a free port");
    let home = with("compile_cpu = \"2s\"")
        .env("LARDER_SERVER_LISTEN", &public.to_string())
        .write();
    home.install_bytes("bomb", &bomb(1000, 1000));
    let mut child = home
        .command(&["serve"])
        .spawn()
        .expect("the program starts");
    let log = Log::default();
    log.follow(child.stderr.take().expect("standard error is piped"));
    let admin = eventually("it says where operators connect", async || {
        log.address(0, "admin on http://")
    });
    let (admin, public) = (Client::new(admin.await), Client::new(public));

    // From the first moment on: it lives, and says that it is not ready, and why.
    assert_eq!(admin.get("/livez").await.status, 200);
    let ready = admin.get("/readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(ready.json()["starting"], true);
    for answer in [public.get("/demo/1").await, public.get("/nowhere").await] {
        answer.expect_problem(503, "starting");
        answer.expect(503, "larder; detail=starting");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let purge = admin.post("/purge", &json!({ "path": "/demo/1" })).await;
    purge.expect_problem(503, "starting");
    assert_eq!(log.address(0, "listening on http://"), None);

    eventually_within(LONG, "it is ready", async || {
        (admin.get("/readyz").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(public.get("/demo/1").await.status, 200);
    public
        .get("/bomb/1")
        .await
        .expect_problem(503, "plugin-not-loaded");
    let all = admin.get("/plugins").await.json();
    let bomb = all.as_array().expect("an array").iter();
    let bomb: Vec<&Value> = bomb.filter(|plugin| plugin["name"] == "bomb").collect();
    let error = bomb[0]["error"].as_str().expect("it has an error");
    for words in [
        "took more than 2 s of CPU time",
        "compile_cpu = \"4s\" under [plugins]",
    ] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
}

#[tokio::test]
async fn law_9_a_component_that_takes_the_compiler_much_memory_is_refused_and_others_are_not() {
    let larder = with("compile_memory = \"256MiB\"").start().await;
    larder.install_bytes("bomb", &bomb(1000, 1000));
    let error = refused(&larder).await;
    for words in [
        "took more than 256 MiB of memory",
        "compile_memory = \"512MiB\" under [plugins]",
    ] {
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
    // The server has none of it, and the next is compiled within the same limit.
    assert_eq!(larder.get("/demo/1").await.status, 200);
    larder.install("echo", &larder_tests::Wasm::guest("echo"));
    let ready = |plugin: &Value| plugin["state"] == "ready";
    larder.until_plugin("echo", "is ready", ready).await;
}

/// The process whose parent is this one, if it has one.
fn child_of(parent: u32) -> Option<u32> {
    let line = format!("PPid:\t{parent}");
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|read| read == line)
        })
}

/// Whether a process runs: one that nobody has waited for yet does not.
fn runs(pid: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

#[tokio::test]
async fn a_compiler_does_not_outlive_its_server() {
    // Left alone it would go on for longer than the test waits.
    let mut larder = with("compile_memory = \"8GiB\"").start().await;
    let server = larder.id();
    larder.install_bytes("bomb", &bomb(1000, 1000));
    let compiler = eventually("it is being compiled", async || child_of(server)).await;
    eventually("it has the whole component and works on it", async || {
        (Usage::of(compiler).mebibytes() > 100.0).then_some(())
    })
    .await;
    larder.kill().await;
    eventually_within(Duration::from_secs(4), "the compiler is gone", async || {
        (!runs(compiler)).then_some(())
    })
    .await;
}
