//! Who may ask what of the admin listener: tokens, where they stand, how they are replaced, and what is written down of changes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use http::Method;
use larder_tests::larder::{Home, Log};
use larder_tests::{Answer, Authority, Builder, Larder, eventually, json};
use tokio::process::Child;

const TOKEN: &str = "token-of-the-operator";
const READ: &str = "token-of-the-dashboard";

fn demo() -> Builder {
    Larder::with()
        .plugin("demo", "[config]\nlatency_ms = 1\n")
        .route("/data/{key}", "demo", "ttl = \"1h\"")
}

fn keep(home: &Home, file: &str, text: &str, mode: u32) {
    let path = home.path(file);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
}

async fn ask(larder: &Larder, token: &str, method: Method, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let fields = [("authorization", bearer.as_str())];
    let body = Bytes::copy_from_slice(body.as_bytes());
    larder.admin.request(method, path, &fields, body).await
}

async fn status(larder: &Larder, token: &str) -> u16 {
    let answer = ask(larder, token, Method::GET, "/routes", "").await;
    answer.status.as_u16()
}

async fn guarded() -> Larder {
    demo()
        .admin(&format!("token = {TOKEN:?}"))
        .env("LARDER_ADMIN_READ_TOKEN", READ)
        .start()
        .await
}

#[tokio::test]
async fn who_may_read_changes_nothing() {
    let larder = guarded().await;
    larder.get("/data/42").await;
    for path in [
        "/metrics",
        "/overview",
        "/plugins",
        "/routes",
        "/entries?path=/data/42",
    ] {
        let answer = ask(&larder, READ, Method::GET, path, "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let all = "{\"all\": true}";
    for (path, body) in [
        ("/purge", all),
        ("/reload", ""),
        ("/plugins/demo/reload", ""),
        ("/warm", "{\"paths\": [\"/data/1\"]}"),
        ("/queue/dead/drop", all),
    ] {
        let answer = ask(&larder, READ, Method::POST, path, body).await;
        answer.expect_problem(403, "read-only-token");
    }
    assert!(larder.get("/data/42").await.is_hit());
    let answer = ask(&larder, TOKEN, Method::POST, "/purge", all).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!larder.get("/data/42").await.is_hit());
}

#[tokio::test]
async fn a_file_that_is_no_place_for_a_token_is_refused_with_what_to_do() {
    let home = demo().admin("token_file = \"token\"").write();
    let refused = async |words: [&str; 2]| {
        for arguments in [
            ["check", "--config", "larder.toml"],
            ["serve", "--config", "larder.toml"],
        ] {
            let ran = home.run(&arguments).await;
            assert_eq!(ran.status.code(), Some(1), "{}", ran.all());
            for word in ["token_file of [admin]"].iter().chain(&words) {
                assert!(ran.all().contains(word), "{word}: {}", ran.all());
            }
        }
    };
    refused(["it cannot be read", "name a file that this user may read"]).await;
    keep(&home, "token", TOKEN, 0o604);
    refused(["everybody on this machine may read it", "chmod o="]).await;
    keep(&home, "token", "\n", 0o600);
    refused(["its first line is no token", "visible ASCII"]).await;
    keep(&home, "token", &format!("{TOKEN}\n# since May\n"), 0o640);
    let larder = Larder::start(home).await;
    assert_eq!(status(&larder, TOKEN).await, 200);
    assert_eq!(status(&larder, "").await, 401);
}

#[tokio::test]
async fn tokens_are_replaced_while_the_server_runs_or_stay_both() {
    let home = demo()
        .admin("token_file = \"token\"\nread_token_file = \"reader\"")
        .write();
    keep(&home, "token", TOKEN, 0o600);
    keep(&home, "reader", READ, 0o600);
    let larder = Larder::start(home).await;
    assert_eq!(status(&larder, READ).await, 200);
    // One of the two is bad: neither is taken over.
    keep(&larder, "token", "token-of-another", 0o600);
    keep(&larder, "reader", "", 0o600);
    larder.hang_up();
    eventually("the bad file is named", async || {
        let log = larder.log();
        (log.contains("read_token_file of [admin]") && log.contains("not taken over")).then_some(())
    })
    .await;
    for (token, expect) in [(TOKEN, 200), (READ, 200), ("token-of-another", 401)] {
        assert_eq!(status(&larder, token).await, expect, "{token}");
    }
    keep(&larder, "reader", "reader-of-another", 0o600);
    larder.hang_up();
    eventually("the new token is taken", async || {
        (status(&larder, "token-of-another").await == 200).then_some(())
    })
    .await;
    for (token, expect) in [(TOKEN, 401), (READ, 401), ("reader-of-another", 200)] {
        assert_eq!(status(&larder, token).await, expect, "{token}");
    }
    for secret in [TOKEN, READ, "of-another"] {
        assert!(!larder.log().contains(secret), "{secret} is in the log");
    }
}

/// The lines of the audit log that have these words.
fn audited(larder: &Larder, words: &[&str]) -> usize {
    let log = larder.log();
    log.lines()
        .filter(|line| {
            line.contains("larder::audit") && words.iter().all(|word| line.contains(word))
        })
        .count()
}

#[tokio::test]
async fn each_change_is_one_line_that_says_who_asked_and_what_became_of_it() {
    let larder = guarded().await;
    larder.get("/data/42").await;
    let path = "{\"path\": \"/data/42\"}";
    let post = async |token: &str, path: &str, body: &str| {
        ask(&larder, token, Method::POST, path, body).await.json()
    };
    let seq = post(TOKEN, "/purge", path).await["seq"].clone();
    post(
        TOKEN,
        "/purge",
        "{\"tags\": [\"a\", \"b\"], \"mode\": \"expire\"}",
    )
    .await;
    post(TOKEN, "/purge", "{\"route\": \"/none\"}").await;
    post(TOKEN, "/plugins/demo/reload", "").await;
    post(TOKEN, "/plugins/%1b%5b31mred%0aINFO/reload", "").await;
    post(TOKEN, "/warm", "{\"paths\": [\"/data/1\"]}").await;
    post(TOKEN, "/reload", "").await;
    post(READ, "/purge", path).await;
    post("wrong-token", "/purge", path).await;
    // A read is no change.
    ask(&larder, TOKEN, Method::GET, "/entries?path=/data/42", "").await;
    let seq = format!("outcome=\"deleted, seq {seq}\"");
    let wanted: &[&[&str]] = &[
        &[
            "what=\"POST /purge\"",
            "on=\"resource %2Fdata%2F%7Bkey%7D:42\"",
            &seq,
            "who=\"token\"",
            "peer=\"127.0.0.1:",
        ],
        &["on=\"tag a, tag b\"", "outcome=\"expired, seq "],
        &["outcome=\"unknown-route: there is no route /none"],
        &[
            "what=\"POST /plugins/demo/reload\"",
            "on=\"plugin demo\"",
            "outcome=\"ready, digest ",
        ],
        &[
            "what=\"POST /plugins/%1b%5b31mred%0aINFO/reload\"",
            "no \\u{1b}[31mred\\nINFO.wasm in",
        ],
        &[
            "what=\"POST /warm\"",
            "on=\"1 paths\"",
            "outcome=\"1 loaded, 0 failed\"",
        ],
        &[
            "what=\"POST /reload\"",
            "on=\"configuration\"",
            "outcome=\"0 changed",
        ],
        &[
            "what=\"POST /purge\"",
            "outcome=\"read-only-token: ",
            "who=\"read-token\"",
        ],
        &[
            "what=\"POST /purge\"",
            "outcome=\"unauthorized: ",
            "who=\"no token that is known\"",
        ],
    ];
    eventually("every change is written down", async || {
        (audited(&larder, &["change"]) >= wanted.len()).then_some(())
    })
    .await;
    for words in wanted {
        assert_eq!(audited(&larder, words), 1, "{words:?}");
    }
    assert_eq!(audited(&larder, &[]), wanted.len());
    for secret in [TOKEN, READ, "wrong-token", "\u{1b}[31m"] {
        assert!(!larder.log().contains(secret), "{secret:?} is in the log");
    }
}

#[tokio::test]
async fn who_is_refused_cannot_fill_the_log() {
    let larder = guarded().await;
    for _ in 0..200 {
        let answer = larder.admin.post("/purge", &json!({"all": true})).await;
        assert_eq!(answer.status, 401);
    }
    // 20 a second: the requests have not taken ten.
    let written = audited(&larder, &["unauthorized"]);
    assert!((1..200).contains(&written), "{written} lines");
    eventually("those that were left out are counted", async || {
        larder.admin.post("/purge", &json!({"all": true})).await;
        (audited(&larder, &["more changes were refused", "left_out="]) >= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn on_loopback_without_a_token_it_is_anybody() {
    let larder = demo().start().await;
    larder.purge(json!({"all": true})).await;
    eventually("the purge is written down", async || {
        (audited(&larder, &["on=\"everything\"", "who=\"anybody\""]) == 1).then_some(())
    })
    .await;
}

/// A server whose admin listener speaks TLS and asks for certificates; where it listens.
async fn secured(authority: &Authority, home: &Home) -> (Child, Log, u16) {
    let (cert, key) = authority.sign(0);
    keep(home, "cert.pem", &cert, 0o600);
    keep(home, "key.pem", &key, 0o600);
    keep(home, "ca.pem", &authority.pem, 0o600);
    let log = Log::default();
    let mut child = home
        .command(&["serve", "--config", "larder.toml"])
        .spawn()
        .expect("it starts");
    log.follow(child.stderr.take().expect("it is piped"));
    log.follow(child.stdout.take().expect("it is piped"));
    let address = eventually("the server says where it listens", async || {
        log.address(0, "listening on http://")?;
        log.address(0, "admin on https://")
    })
    .await;
    (child, log, address.port())
}

#[tokio::test]
async fn commands_speak_to_a_listener_with_tls() {
    let authority = Authority::new();
    let home = demo()
        .admin("cert = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"ca.pem\"\ntoken_file = \"token\"")
        .write();
    keep(&home, "token", TOKEN, 0o600);
    let (_child, log, port) = secured(&authority, &home).await;
    let own = authority.sign(0);
    keep(&home, "own.pem", &own.0, 0o600);
    keep(&home, "own-key.pem", &own.1, 0o600);
    let url = format!("https://localhost:{port}");
    let at = ["--admin", url.as_str(), "--token-file", "token"];
    let trusted = ["--ca", "ca.pem"];
    let shown = ["--cert", "own.pem", "--key", "own-key.pem"];
    let run = async |arguments: &[&[&str]]| home.run(&arguments.concat()).await;
    let ran = run(&[&["plugins"], &at, &trusted, &shown]).await;
    assert!(
        ran.status.success() && ran.stdout.contains("demo  loader  ready"),
        "{}",
        ran.all()
    );
    let ran = run(&[&["reload"], &at, &trusted, &shown]).await;
    assert!(
        ran.status.success() && ran.stdout == "nothing has changed\n",
        "{}",
        ran.all()
    );
    home.reconfigure("ttl = \"1h\"", "ttl = \"2h\"");
    let ran = run(&[&["reload"], &at, &trusted, &shown]).await;
    assert_eq!(
        ran.stdout,
        "routes[/data/{key}].ttl: 1h → 2h\n",
        "{}",
        ran.all()
    );
    let who = "who=\"token, client certificate rcgen self signed cert\"";
    eventually("the reload is written down", async || {
        log.text().contains(who).then_some(())
    })
    .await;
    for (arguments, words) in [
        (&[&["plugins"][..], &at, &shown][..], "--ca FILE"),
        (&[&["plugins"], &at, &trusted], "--cert and --key"),
        (
            &[&["plugins"], &at, &["--ca", "token"], &shown],
            "it holds no certificate",
        ),
        (
            &[&["plugins"], &at, &trusted, &shown[..2]],
            "mean nothing without each other",
        ),
        (
            &[&["plugins"], &at, &["--ca", "none.pem"], &shown],
            "it cannot be read",
        ),
    ] {
        let ran = run(arguments).await;
        assert_eq!(ran.status.code(), Some(1), "{}", ran.all());
        assert!(ran.stderr.contains(words), "{words}: {}", ran.all());
    }
}
