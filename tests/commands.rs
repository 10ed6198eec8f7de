//! The commands with which an operator asks a server that runs, and what is made of the definition of all commands.

use std::process::Stdio;

use larder_tests::larder::program;
use larder_tests::{Larder, Value, eventually};
use tokio::process::Command;

/// What a command ended in: its status, what it said, what it complained of.
struct Ran(Option<i32>, String, String);

/// Runs a command beside a server, on another machine as it were: with no configuration and no variable but these.
async fn larder(variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(program());
    let output = command
        .args(arguments)
        .current_dir(elsewhere.path())
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran(
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

async fn demo(admin: &str) -> (Larder, String) {
    let larder = Larder::with()
        .admin(admin)
        .plugin("demo", "[config]\nlatency_ms = 1\ntags = [\"all\"]\n")
        .route(
            "/data/{key}",
            "demo",
            "ttl = \"1h\"\nstale_if_error = \"1h\"",
        )
        .start()
        .await;
    let url = format!("http://{}", larder.admin.address());
    (larder, url)
}

#[tokio::test]
async fn a_path_is_looked_up_purged_and_expired_from_a_shell() {
    let (server, url) = demo("").await;
    let at = ["--admin", url.as_str()];
    let Ran(code, said, _) = larder(&[], &[&["entry", "/data/42"][..], &at].concat()).await;
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "/data/42 of /data/{key}: nothing is stored\n")
    );
    server.get("/data/42").await;
    let Ran(code, said, complaints) =
        larder(&[], &[&["entry", "/data/42"][..], &at].concat()).await;
    assert_eq!(code, Some(0), "{complaints}");
    for wanted in [
        "found in memory: fresh for 3",
        "  loader  demo\n",
        "  tags    all\n",
        "application/json, status 200, public",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let Ran(code, said, _) =
        larder(&[], &[&["entry", "/data/42", "--json"][..], &at].concat()).await;
    let printed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (code, &printed["entries"][0]["loader"]),
        (Some(0), &"demo".into())
    );
    let Ran(code, said, _) =
        larder(&[], &[&["purge", "/data/42", "--expire"][..], &at].concat()).await;
    assert!(
        code == Some(0) && said.starts_with("expired at seq "),
        "{said}"
    );
    let Ran(_, said, _) = larder(&[], &[&["entry", "/data/42"][..], &at].concat()).await;
    assert!(
        said.contains("stale, a purge ended its ttl; still answered if a load fails"),
        "{said}"
    );
    // By tag, as a script would, with the address in the environment.
    let Ran(code, said, _) = larder(
        &[("LARDER_ADMIN_URL", &url)],
        &["purge", "--tag", "all", "--json"],
    )
    .await;
    let printed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &printed["done"]), (Some(0), &"deleted".into()));
    let answer = server.get("/data/42").await;
    answer.expect(200, "larder; fwd=uri-miss; stored");
}

#[tokio::test]
async fn plugins_are_listed_and_judged_anew() {
    let (server, url) = demo("").await;
    let at = ["--admin", url.as_str()];
    let Ran(code, said, _) = larder(&[], &[&["plugins"][..], &at].concat()).await;
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("NAME  KIND    STATE  VERSION  DIGEST"),
        "{said}"
    );
    assert!(said.contains("\ndemo  loader  ready  0.1.0"), "{said}");
    // What is bad is refused, in the words of the server, and the one before goes on.
    server.sidecar("demo", "[config]\nlatency_ms = \"long\"\n");
    let Ran(code, _, complaints) =
        larder(&[], &[&["plugins", "--reload", "demo"][..], &at].concat()).await;
    assert_eq!(code, Some(1));
    assert!(
        complaints.contains("plugin-refused (422)") && complaints.contains("latency_ms"),
        "{complaints}"
    );
    eventually("it is shown", async || {
        let Ran(_, said, _) = larder(&[], &[&["plugins"][..], &at].concat()).await;
        said.contains("the files that lie there are not served")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_goes_wrong_is_told_with_its_remedy() {
    let (server, url) = demo("token = \"a-secret-of-some-length\"").await;
    let at = ["--admin", url.as_str()];
    let entry = [&["entry", "/data/42"][..], &at].concat();
    let Ran(code, _, complaints) = larder(&[], &entry).await;
    assert_eq!(code, Some(1));
    assert!(
        complaints.contains("unauthorized (401)") && complaints.contains("LARDER_ADMIN_TOKEN"),
        "{complaints}"
    );
    let Ran(_, _, complaints) = larder(&[("LARDER_ADMIN_TOKEN", "another")], &entry).await;
    assert!(
        complaints.contains("the token in force is another"),
        "{complaints}"
    );
    let Ran(code, ..) = larder(&[("LARDER_ADMIN_TOKEN", "a-secret-of-some-length")], &entry).await;
    assert_eq!(code, Some(0));
    let token = server.path("token");
    std::fs::write(&token, "a-secret-of-some-length\n").expect("a file");
    let file = token.to_str().expect("a path");
    let Ran(code, ..) = larder(&[], &[&entry[..], &["--token-file", file]].concat()).await;
    assert_eq!(code, Some(0));
    let unknown = [&["entry", "/nowhere", "--token-file", file][..], &at].concat();
    let Ran(_, _, complaints) = larder(&[], &unknown).await;
    assert!(complaints.contains("unknown-path (404)"), "{complaints}");
    // Beside the server's own configuration, which the tests leave the port to the system in.
    let ran = server.run(&["entry", "/data/42"]).await;
    assert!(
        ran.stderr.contains("[admin] listen is on any free port"),
        "{ran:?}"
    );
    let Ran(code, _, complaints) = larder(&[], &["plugins", "--admin", "http://127.0.0.1:1"]).await;
    assert_eq!(code, Some(1));
    assert!(
        complaints.contains("http://127.0.0.1:1 does not answer: ")
            && complaints.contains("remedy: start the server"),
        "{complaints}"
    );
    let Ran(code, ..) = larder(&[], &["purge"]).await;
    assert_eq!(code, Some(2), "usage");
}

#[tokio::test]
async fn shells_complete_the_commands() {
    let Ran(code, script, _) = larder(&[], &["completions", "bash"]).await;
    assert_eq!(code, Some(0));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("larder");
    std::fs::write(&file, script).expect("a file");
    let ask = format!(
        "source {} && COMP_WORDS=(larder pu) COMP_CWORD=1 && _larder larder pu larder && echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let ran = Command::new("bash")
        .args(["--norc", "-c", &ask])
        .output()
        .await
        .expect("bash runs");
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout).trim(),
        "purge",
        "{ran:?}"
    );
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let Ran(code, script, _) = larder(&[], &["completions", shell]).await;
        assert!(code == Some(0) && script.contains("purge"), "{shell}");
    }
}

#[tokio::test]
async fn every_command_has_a_page_with_its_flags() {
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().to_str().expect("a path");
    let Ran(code, _, complaints) = larder(&[], &["man", to]).await;
    assert_eq!(code, Some(0), "{complaints}");
    let page = |name: &str| {
        std::fs::read_to_string(dir.path().join(name))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    for (name, wanted) in [
        ("larder.1", "purge"),
        ("larder-serve.1", "\\-\\-listen"),
        ("larder-purge.1", "\\-\\-tag"),
        ("larder-plugin.1", "inspect"),
        ("larder-plugin-new.1", "\\-\\-lang"),
    ] {
        let text = page(name);
        assert!(text.contains(wanted), "{name}: {wanted}: {text}");
        assert!(
            text.starts_with(".ie \\n(.g .ds Aq") || text.contains(".TH"),
            "{name}"
        );
    }
    assert!(
        !dir.path().join("larder-compile-component.1").exists(),
        "it is nobody's to run"
    );
}
