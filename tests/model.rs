//! Random operations on three nodes, while Redis, the network and the nodes fail, against a model that knows what may be
//! answered. A schedule follows from its seed: a failing one is run again by its number,
//! `make model MODEL=SEED`, and many with `make model MODEL=FIRST-LAST`.
//!
//! What the model knows: the origin numbers the calls of a path, so what was loaded later has the higher number. After a
//! purge was acknowledged, an answer with a number that was given out before the purge was sent is older than it.

use std::time::{Duration, Instant};

use larder_tests::{Client, Larder, Link, Origin, Redis, Value, before, call, eventually, json};

/// How long a node that hears nothing trusts what it has.
const TRUST: Duration = Duration::from_millis(300);
/// What the machine may add to that.
const SLACK: Duration = Duration::from_secs(2);
/// No request takes longer, whatever happens.
const STUCK: Duration = Duration::from_secs(10);
const PATHS: [&str; 4] = ["/things/1", "/things/2", "/things/3", "/things/4"];
const STEPS: usize = 60;

/// A generator of numbers that follow from a seed (xorshift).
struct Numbers(u64);

impl Numbers {
    fn of(seed: u64) -> Self {
        // Near seeds begin far from each other, and none is 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % bound as u64).expect("below a usize")
    }
}

/// A node, and its way to Redis.
struct Node {
    larder: Larder,
    link: Link,
}

/// What may still be answered for a path.
#[derive(Clone, Copy, Default)]
struct Least {
    /// Numbers up to this one are older than a purge that was acknowledged…
    purged: u64,
    /// …by this node…
    by: usize,
    /// …at this time; `None`: nobody else was told yet.
    told: Option<Instant>,
}

struct Model {
    origin: Origin,
    redis: Redis,
    nodes: Vec<Node>,
    /// By path, the purges that were acknowledged.
    purges: [Vec<Least>; PATHS.len()],
    said: Vec<String>,
}

impl Model {
    async fn start() -> Self {
        let (origin, redis) = (Origin::start(), Redis::start().await);
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let link = Link::to(redis.address());
            let settings = "ttl = \"1h\"\nstale_while_revalidate = \"1h\"\nstale_if_error = \"1h\"";
            let larder = before(&origin, settings)
                .redis(&format!("redis://{}", link.address()))
                .section(&format!("trust = \"{}ms\"", TRUST.as_millis()))
                .start()
                .await;
            nodes.push(Node { larder, link });
        }
        Self {
            origin,
            redis,
            nodes,
            purges: Default::default(),
            said: Vec::new(),
        }
    }

    /// The highest number that was given out for a path.
    fn given(&self, path: usize) -> u64 {
        self.origin.calls(PATHS[path].trim_start_matches("/things")) as u64
    }

    async fn get(&mut self, node: usize, path: usize) {
        let asked = Instant::now();
        let client = Client::new(self.nodes[node].larder.public.address());
        let answer = tokio::time::timeout(STUCK, client.get(PATHS[path])).await;
        let answer = answer.unwrap_or_else(|_| panic!("a stuck request: {:#?}", self.said));
        let number = call(&answer);
        assert_eq!(
            answer.json()["path"],
            PATHS[path].trim_start_matches("/things"),
            "a foreign value: {:#?}",
            self.said
        );
        for least in &self.purges[path] {
            let binds =
                node == least.by || least.told.is_some_and(|told| told + TRUST + SLACK < asked);
            assert!(
                !binds || number > least.purged,
                "node {node} answered {number} for {}, purged up to {} by node {}: {:#?}\n{answer:?}",
                PATHS[path],
                least.purged,
                least.by,
                self.said
            );
        }
        self.said
            .push(format!("node {node} answers {number} for {}", PATHS[path]));
    }

    async fn purge(&mut self, node: usize, what: Value, paths: &[usize]) {
        let given: Vec<u64> = paths.iter().map(|path| self.given(*path)).collect();
        let answer = self.nodes[node].larder.purge(what.clone()).await;
        let told = (answer["pending"] == json!([])).then(Instant::now);
        self.said.push(format!(
            "node {node} purges {what}, told: {}, up to {given:?}",
            told.is_some()
        ));
        for (path, purged) in paths.iter().zip(given) {
            self.purges[*path].push(Least {
                purged,
                by: node,
                told,
            });
        }
    }

    async fn step(&mut self, numbers: &mut Numbers) {
        let (node, path) = (numbers.below(3), numbers.below(PATHS.len()));
        let all: Vec<usize> = (0..PATHS.len()).collect();
        match numbers.below(100) {
            0..60 => self.get(node, path).await,
            60..70 => {
                let exact = numbers.below(2) == 1;
                self.purge(
                    node,
                    json!({ "path": PATHS[path], "exact": exact }),
                    &[path],
                )
                .await;
            }
            70..73 => {
                self.purge(node, json!({ "route": "/things/{id}" }), &all)
                    .await;
            }
            73..75 => self.purge(node, json!({ "all": true }), &all).await,
            75..79 => {
                self.said.push(format!("node {node} is cut off"));
                self.nodes[node].link.cut();
            }
            79..82 => {
                self.said.push(format!("node {node} hears nothing"));
                self.nodes[node].link.stall();
            }
            82..90 => {
                self.said.push(format!("node {node} is connected again"));
                self.nodes[node].link.heal().await;
            }
            90..92 => {
                self.said
                    .push("Redis is killed, and comes back empty".into());
                self.redis.restart().await;
            }
            92..94 => {
                self.said.push("Redis forgets everything".into());
                self.redis.run::<()>("FLUSHALL", &[] as &[&str]).await;
            }
            94..96 => {
                self.said.push("Redis freezes for three look-ups".into());
                self.redis.freeze();
                for each in 0..3 {
                    self.get(each, path).await;
                }
                self.redis.thaw();
            }
            _ => {
                self.said
                    .push(format!("node {node} is killed, and comes back"));
                let Node { larder, link } = self.nodes.remove(node);
                let home = larder.into_home().await;
                // It is ready only with its Redis.
                link.heal().await;
                let larder = Larder::start(home).await;
                self.nodes.insert(node, Node { larder, link });
            }
        }
    }

    /// Everything heals: then every purge binds every node.
    async fn settle(&mut self) {
        for node in &self.nodes {
            node.link.heal().await;
        }
        for node in &self.nodes {
            eventually("the node has told and heard everything", async || {
                let redis = node.larder.admin.get("/readyz").await.json()["redis"].clone();
                (redis["available"] == true && redis["pending_purges"] == 0).then_some(())
            })
            .await;
        }
        let long_ago = Instant::now().checked_sub(TRUST + SLACK * 2);
        for least in self.purges.iter_mut().flatten() {
            least.told = long_ago;
        }
        // The last of the words is on its way for a moment.
        tokio::time::timeout(STUCK, async {
            for node in 0..3 {
                for (place, path) in PATHS.iter().enumerate() {
                    let least = self.purges[place].iter().map(|least| least.purged).max();
                    eventually("the purges are heard", async || {
                        let answer = self.nodes[node].larder.get(path).await;
                        (Some(call(&answer)) > least).then_some(())
                    })
                    .await;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("a purge was lost: {:#?}", self.said));
        for node in 0..3 {
            for path in 0..PATHS.len() {
                self.get(node, path).await;
            }
        }
    }
}

#[tokio::test]
async fn laws_3_4_and_6_hold_on_three_nodes_whatever_fails() {
    let wanted = std::env::var("LARDER_MODEL").unwrap_or_else(|_| "1-12".into());
    let (first, last) = wanted.split_once('-').unwrap_or((&wanted, &wanted));
    let number = |text: &str| {
        text.parse::<u64>()
            .expect("LARDER_MODEL is a seed, or FIRST-LAST")
    };
    for seed in number(first)..=number(last) {
        eprintln!("seed {seed}");
        let (mut model, mut numbers) = (Model::start().await, Numbers::of(seed));
        for _ in 0..STEPS {
            model.step(&mut numbers).await;
        }
        model.settle().await;
    }
}
