//! How one server is reached: by a Unix socket, and by TLS with or without certificates on both sides.

use larder_tests::postgres::certificates;
use larder_tests::{Origin, eventually, redis_group};

use super::{are_one_cache, node, unready};

#[tokio::test]
async fn by_a_unix_socket() {
    let origin = Origin::start();
    let server = redis_group::on_a_socket().await;
    let url = format!(
        "url = \"redis+unix://{}\"",
        server.path("redis.sock").display()
    );
    let (one, other) = (node(&origin, &url).await, node(&origin, &url).await);
    are_one_cache(&one, &other, "/things/42").await;
}

#[tokio::test]
async fn by_tls_with_certificates_on_both_sides() {
    let (origin, directory) = (Origin::start(), tempfile::tempdir().expect("a directory"));
    certificates(
        directory.path(),
        &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
    );
    let (_server, port) = redis_group::with_tls(directory.path(), true).await;
    let file = |name: &str| format!("{:?}", directory.path().join(name).display().to_string());
    let url = format!("url = \"rediss://127.0.0.1:{port}\"");
    let all = format!(
        "{url}\nca = {}\ncert = {}\nkey = {}",
        file("ca.crt"),
        file("server.crt"),
        file("server.key")
    );
    let (one, other) = (node(&origin, &all).await, node(&origin, &all).await);
    are_one_cache(&one, &other, "/things/42").await;
    // Without the authority, and without a certificate of its own: served without Redis, and said why.
    let anonymous = format!("{url}\nca = {}", file("ca.crt"));
    for (lines, word) in [
        (url.as_str(), "certificate"),
        (anonymous.as_str(), "certificate"),
    ] {
        let larder = unready(&origin, lines).await;
        assert_eq!(larder.get("/things/42").await.status, 200);
        eventually("it is said why", async || {
            let ready = larder.admin.get("/readyz").await.json();
            let error = ready["redis"]["error"].as_str()?.to_lowercase();
            error.contains(word).then_some(())
        })
        .await;
    }
}
