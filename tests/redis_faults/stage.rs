//! Who plays: an origin, the node that the fault hits, another one on the same Redis, and beside them a control whose Redis
//! is well. Must not know what is asked.

use larder_tests::redis_group::Process;
use larder_tests::{Larder, Link, Origin, Redis, before, eventually};

use crate::faults::{Fault, Kind};

/// Of the routes `/things/{id}` and `/strict/{id}`: the first has a window in which it is reloaded behind.
const LAX: &str = "ttl = \"1h\"\nstale_while_revalidate = \"1h\"\nstale_if_error = \"1h\"";
const STRICT: &str = "ttl = \"1h\"\nstale_if_error = \"1h\"\njitter = 0.0";
/// Longer than a round: what is in memory is trusted all the while.
const TRUST: &str = "trust = \"5m\"";

/// What the nodes share.
#[derive(Debug)]
pub(crate) enum Server {
    /// One Redis, and the way of the first node to it.
    Alone { redis: Box<Redis>, link: Link },
    /// A master and the replica that takes its place.
    Watched(Box<Watched>),
}

#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) master: Process,
    pub(crate) sentinel: Process,
    _replica: Process,
}

/// The nodes of one round.
pub(crate) struct Nodes {
    pub(crate) origin: Origin,
    /// The one that is asked while the fault lasts.
    pub(crate) hit: Larder,
    /// The one that shows what is in Redis. What the network does to the first one does not concern it.
    pub(crate) other: Larder,
}

/// Asked the same at the same moment: what it takes, the machine takes.
pub(crate) struct Control {
    pub(crate) origin: Origin,
    pub(crate) larder: Larder,
    _redis: Redis,
}

impl Control {
    pub(crate) async fn start() -> Self {
        let (origin, redis) = (Origin::start(), Redis::start().await);
        let larder = start(&origin, &url_line(&redis.url())).await;
        Self {
            origin,
            larder,
            _redis: redis,
        }
    }
}

impl Nodes {
    /// For one round of this fault.
    pub(crate) async fn start(fault: &Fault) -> (Server, Self) {
        let origin = Origin::start();
        let (server, one, two) = if fault.kind == Kind::Failover {
            let (server, lines) = watched().await;
            (server, lines.clone(), lines)
        } else {
            let redis = match fault.kind {
                Kind::Loading => Redis::start_to_load().await,
                _ => Redis::start().await,
            };
            let link = Link::to(redis.address());
            let (one, two) = (format!("redis://{}", link.address()), redis.url());
            let redis = Box::new(redis);
            let server = Server::Alone { redis, link };
            (server, url_line(&one), url_line(&two))
        };
        let (hit, other) = tokio::join!(start(&origin, &one), start(&origin, &two));
        (server, Self { origin, hit, other })
    }
}

fn url_line(url: &str) -> String {
    format!("url = {url:?}")
}

/// A node whose `[redis]` holds these lines, once it is in use.
async fn start(origin: &Origin, lines: &str) -> Larder {
    let larder = before(origin, LAX)
        .route("/strict/{id}", "gated", STRICT)
        .section(&format!("[redis]\n{lines}\n{TRUST}"))
        .start()
        .await;
    eventually("Redis is in use", async || is_whole(&larder).await).await;
    larder
}

/// Redis is in use, and there is nothing to tell it.
pub(crate) async fn is_whole(larder: &Larder) -> Option<()> {
    let ready = larder.admin.get("/readyz").await.json();
    let redis = &ready["redis"];
    (redis["available"] == true && redis["pending_purges"] == 0).then_some(())
}

/// A master with a replica, and a Sentinel that promotes that soon; and how a node reaches them.
async fn watched() -> (Server, String) {
    let master = Process::alone().await;
    let replica = Process::copying(&master).await;
    master.until_copied_by(1).await;
    let sentinel = Process::sentinel_of(&master, 1, 500).await;
    sentinel.until_watching(1).await;
    let lines = format!(
        "mode = \"sentinel\"\nurl = \"redis://mymaster\"\nurls = [{:?}]",
        sentinel.url()
    );
    let watched = Watched {
        master,
        sentinel,
        _replica: replica,
    };
    (Server::Watched(Box::new(watched)), lines)
}
