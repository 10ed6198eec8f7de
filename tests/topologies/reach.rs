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

/// The parties of TLS: an authority's directory, and what `[redis]` says of the files in it.
struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
        certificates(directory.path(), &key);
        Self(directory)
    }

    /// Servers are trusted that it has signed.
    fn trusted(&self) -> String {
        format!("ca = {:?}", self.0.path().join("ca.crt"))
    }

    /// This node shows what it has signed.
    fn shown(&self) -> String {
        let file = |name: &str| self.0.path().join(name);
        format!(
            "cert = {:?}\nkey = {:?}",
            file("server.crt"),
            file("server.key")
        )
    }
}

/// A node with these lines serves without Redis, and says all of these words of why.
async fn is_refused(origin: &Origin, lines: &str, words: &[&str]) {
    let larder = unready(origin, lines).await;
    assert_eq!(larder.get("/things/42").await.status, 200);
    eventually("it is said why", async || {
        let ready = larder.admin.get("/readyz").await.json();
        let error = ready["redis"]["error"].as_str()?.to_owned();
        words.iter().all(|word| error.contains(word)).then_some(())
    })
    .await;
    let ready = larder.admin.get("/readyz").await.json();
    assert_eq!(ready["redis"]["available"], false, "{ready}");
}

#[tokio::test]
async fn by_tls_with_an_authority_of_ones_own() {
    let (origin, ours, theirs) = (Origin::start(), Authority::new(), Authority::new());
    let (_server, port) = redis_group::with_tls(ours.0.path(), false).await;
    let url = format!("url = \"rediss://127.0.0.1:{port}\"");
    let lines = format!("{url}\n{}", ours.trusted());
    let (one, other) = (node(&origin, &lines).await, node(&origin, &lines).await);
    are_one_cache(&one, &other, "/things/42").await;
    let wrong = format!("{url}\n{}", theirs.trusted());
    let unsigned = ["certificate", "ca = "];
    is_refused(&origin, &wrong, &unsigned).await;
    // Left out, it is whom the system trusts.
    is_refused(&origin, &url, &unsigned).await;
    let nameless = lines.replace("127.0.0.1", "127.0.0.2");
    is_refused(&origin, &nameless, &["certificate", "another name"]).await;
}

#[tokio::test]
async fn a_cluster_by_tls_with_certificates_on_both_sides() {
    let (origin, ours) = (Origin::start(), Authority::new());
    let mut cluster = redis_group::Cluster::with_tls(ours.0.path()).await;
    let lines = format!(
        "{}\n{}\n{}",
        cluster.settings(),
        ours.trusted(),
        ours.shown()
    );
    let (one, other) = (node(&origin, &lines).await, node(&origin, &lines).await);
    for path in ["/things/42", "/things/43", "/things/44", "/things/45"] {
        are_one_cache(&one, &other, path).await;
    }
    // What takes the place of a server is reached by TLS too.
    let dead = cluster.holder_of("larder:{g}", 0).await;
    let asked = (dead + 1) % 3;
    cluster.servers[dead].kill().await;
    cluster.until_replaced(dead, asked).await;
    super::until_available(&one).await;
    super::until_available(&other).await;
    are_one_cache(&one, &other, "/things/46").await;
}

#[tokio::test]
async fn by_tls_with_certificates_on_both_sides() {
    let (origin, ours, theirs) = (Origin::start(), Authority::new(), Authority::new());
    let (_server, port) = redis_group::with_tls(ours.0.path(), true).await;
    let url = format!("url = \"rediss://127.0.0.1:{port}\"\n{}", ours.trusted());
    let lines = format!("{url}\n{}", ours.shown());
    let (one, other) = (node(&origin, &lines).await, node(&origin, &lines).await);
    are_one_cache(&one, &other, "/things/42").await;
    is_refused(&origin, &url, &["certificate", "cert = "]).await;
    let wrong = format!("{url}\n{}", theirs.shown());
    is_refused(&origin, &wrong, &["does not take", "cert = "]).await;
}
