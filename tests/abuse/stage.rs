//! The server that is abused, with an origin behind it, and what must hold after each case.

use larder_tests::{Client, Larder, Origin, Reply, before, sidecar};

use super::ensure;

/// The body that slow readers do not read: longer than what the kernel keeps for a client with a small window.
pub(super) const LARGE: usize = 1024 * 1024;

pub(super) struct Stage {
    pub(super) origin: Origin,
    pub(super) larder: Larder,
    good: String,
}

pub(super) const TOKEN: &str = "correct-horse";
pub(super) const READ_TOKEN: &str = "battery-staple";

impl Stage {
    pub(super) async fn set() -> Self {
        let origin = Origin::start();
        origin.on("/large", Reply::counted().body("x".repeat(LARGE)));
        let url = origin.url();
        let larder = before(&origin, "ttl = \"1h\"")
            .guest("echo", "")
            .guest("writing", &sidecar(&origin, &url))
            .route("/echo/{key}", "echo", "ttl = \"1h\"")
            .route("/tree/{*rest}", "echo", "ttl = \"1h\"")
            .route("/written/{id}", "writing", "ttl = \"1h\"\nwrite = \"through\"")
            .route(
                "/mine/{id}",
                "gated",
                "ttl = \"1h\"\nkey = { path = [\"id\"], headers = [\"authorization\"] }",
            )
            .server(
                "header_timeout = \"2s\"\nwrite_timeout = \"2s\"\nbody_timeout = \"1s\"\nbody_bytes = \"64KiB\"\nheader_bytes = \"16KiB\"\nmax_headers = 50",
            )
            .admin(&format!("token = \"{TOKEN}\"\nread_token = \"{READ_TOKEN}\""))
            .start()
            .await;
        let good = larder.get("/things/good").await.text().to_owned();
        larder.get("/things/large").await;
        Self {
            origin,
            larder,
            good,
        }
    }

    /// A well-behaved client gets what it got before, from the cache; what was hidden in a body was asked of nobody.
    pub(super) async fn is_well(&self) -> Result<(), String> {
        // On a connection of its own: one that was idle may be closed in the same moment.
        let client = Client::new(self.larder.public.address());
        let answer = client.get("/things/good").await;
        ensure(answer.is_hit() && answer.text() == self.good, || {
            format!("a well-behaved client is answered {answer:?}")
        })?;
        let smuggled = self.origin.calls("/smuggled");
        ensure(smuggled == 0, || {
            format!("a request that was hidden was answered {smuggled} times")
        })
    }
}
