//! Servers are killed while clients write: what was acknowledged is in the real database afterwards, in its order, and nothing
//! was reverted.
//!
//! Twenty rounds by default; `LARDER_KILLS=200 cargo test --release --workspace --test kills` (`make kills`) plays more,
//! `LARDER_KILLS_SEED=N` other ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use larder_tests::larder::repository;
use larder_tests::postgres::{PASSWORD, READER};
use larder_tests::{Builder, Client, Larder, Postgres, Redis, eventually, eventually_within};
use parking_lot::Mutex;

/// What clients write, one each.
const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A table, and a record of everything that it ever was.
const TABLES: &str = "
    create table things (key text primary key, value bigint not null);
    create table history (at bigserial primary key, key text not null, value bigint not null);
    create function remember() returns trigger language plpgsql security definer as $$
        begin insert into public.history (key, value) values (new.key, new.value); return new; end $$;
    create trigger remember after insert or update on things for each row execute function remember();
    grant select, insert, update, delete on things to larder_reader;
";

const ROUTE: &str = "ttl = \"1h\"\ntimeout = \"2s\"\nwrite = \"behind\"\npending = \"payload\"";

fn sidecar(postgres: &Postgres) -> String {
    let address = postgres.address();
    let port = address.port();
    format!(
        "[config]\nhost = \"127.0.0.1\"\nport = {port}\ndatabase = \"postgres\"\nuser = \"{READER}\"\n\
         connect_timeout = \"500ms\"\n\
         [config.queries.\"/things/{{key}}\"]\nsql = \"select key, value from things where key = any($key)\"\n\
         params = {{ key = \"text\" }}\nkey = \"key\"\nresult = \"one\"\n\
         [config.writes.\"/things/{{key}}\"]\ntable = \"things\"\nkey = {{ key = \"text\" }}\n\
         columns = {{ value = \"bigint\" }}\n[config.order]\n[config.once]\n\
         [secrets]\npassword = {{ env = \"DATABASE_PASSWORD\" }}\n[grants]\ntcp = [\"{address}\"]\n"
    )
}

async fn postgres() -> Postgres {
    let postgres = Postgres::start().await;
    let tables = TABLES.replace("larder_reader", READER);
    postgres.run(&tables).await;
    let install = repository().join("plugins/postgres/install-writes.sql");
    let writer = format!("writer={READER}");
    postgres.run_file(Path::new(&install), &[&writer]).await;
    postgres
}

fn node(postgres: &Postgres) -> Builder {
    Larder::with()
        .plugin("postgres", &sidecar(postgres))
        .env("DATABASE_PASSWORD", PASSWORD)
        .route("/things/{key}", "postgres", ROUTE)
}

/// What a client was told of its writes.
#[derive(Default)]
struct Record {
    acknowledged: Vec<u64>,
    attempted: u64,
}

/// Clients that write 1, 2, 3, … to a key each, through whichever node answers.
struct Clients {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    attempts: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Record>>,
}

impl Clients {
    fn start(nodes: &[Larder]) -> Self {
        let addresses = nodes.iter().map(|node| node.public.address()).collect();
        let addresses = Arc::new(Mutex::new(addresses));
        let attempts = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = KEYS.iter().enumerate().map(|(turn, key)| {
            let shared = (Arc::clone(&addresses), Arc::clone(&attempts));
            tokio::spawn(write(key, turn, shared, Arc::clone(&stop)))
        });
        let tasks = tasks.collect();
        Self {
            addresses,
            attempts,
            stop,
            tasks,
        }
    }

    /// Waits for some attempts more.
    async fn go_on(&self, attempts: u64) {
        let wanted = self.attempts.load(Ordering::SeqCst) + attempts;
        eventually("clients go on", async || {
            (self.attempts.load(Ordering::SeqCst) >= wanted).then_some(())
        })
        .await;
    }

    fn moved(&self, place: usize, node: &Larder) {
        self.addresses.lock()[place] = node.public.address();
    }

    async fn stop(self) -> BTreeMap<&'static str, Record> {
        self.stop.store(true, Ordering::SeqCst);
        let mut records = BTreeMap::new();
        for (key, task) in KEYS.iter().zip(self.tasks) {
            records.insert(*key, task.await.expect("a client goes on"));
        }
        records
    }
}

async fn write(
    key: &str,
    mut turn: usize,
    (addresses, attempts): (Arc<Mutex<Vec<SocketAddr>>>, Arc<AtomicU64>),
    stop: Arc<AtomicBool>,
) -> Record {
    let mut record = Record::default();
    let path = format!("/things/{key}");
    let mut seldom = tokio::time::interval(Duration::from_millis(5));
    while !stop.load(Ordering::SeqCst) {
        turn += 1;
        let address = {
            let all = addresses.lock();
            all[turn % all.len()]
        };
        record.attempted += 1;
        attempts.fetch_add(1, Ordering::SeqCst);
        let value = record.attempted;
        let body = Bytes::from(format!("{{\"value\": {value}}}"));
        let answer = Client::new(address)
            .attempt(
                Method::PUT,
                &path,
                &[("content-type", "application/json")],
                body,
            )
            .await;
        match answer {
            Ok(answer) if answer.status == 202 => record.acknowledged.push(value),
            // Not acknowledged: it may have been accepted or not.
            Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            // Nobody is there: not so often then.
            Err(_) => drop(seldom.tick().await),
        }
    }
    record
}

/// Random numbers that can be played again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // Splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("it is a number"))
}

/// Everything is pending no more, and nothing was given up.
async fn until_drained(node: &Larder) {
    let within = Duration::from_secs(60);
    eventually_within(within, "all is made", async || {
        let queue = node.admin.get("/queue").await.json();
        assert_eq!(queue["dead"], 0, "{queue}");
        (queue["pending"] == 0).then_some(())
    })
    .await;
}

/// Holds the record of the clients against that of the database.
async fn check(postgres: &Postgres, records: &BTreeMap<&'static str, Record>) {
    let session = postgres.session().await;
    let rows = session
        .query("select key, value from history order by at", &[])
        .await
        .expect("it can be read");
    let mut made: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for row in rows {
        let value: i64 = row.get(1);
        let value = u64::try_from(value).expect("clients count from 1");
        made.entry(row.get(0)).or_default().push(value);
    }
    let mut all = 0;
    for (key, record) in records {
        let made = made.get(*key).cloned().unwrap_or_default();
        assert!(
            made.is_sorted_by(|a, b| a < b),
            "{key} was reverted, or made twice: {made:?}"
        );
        let lost: Vec<_> = record
            .acknowledged
            .iter()
            .filter(|value| made.binary_search(value).is_err())
            .collect();
        assert!(lost.is_empty(), "{key}: lost {lost:?}, of {made:?}");
        assert!(made.last().is_none_or(|last| *last <= record.attempted));
        all += record.acknowledged.len();
    }
    let fewest = records
        .values()
        .map(|record| record.acknowledged.len())
        .min();
    println!("{all} writes were acknowledged, and all of them are there");
    assert!(fewest > Some(0), "a client never got through");
}

#[tokio::test]
async fn law_7_a_node_with_its_queue_on_disk_is_killed_and_its_source() {
    let rounds = setting("LARDER_KILLS", 20);
    let seed = setting("LARDER_KILLS_SEED", 1);
    println!("LARDER_KILLS={rounds} LARDER_KILLS_SEED={seed}");
    let mut dice = Dice(seed);
    let mut postgres = postgres().await;
    let mut nodes = [node(&postgres).start_compiled("postgres").await];
    let clients = Clients::start(&nodes);
    for round in 0..rounds {
        clients.go_on(dice.below(400)).await;
        // The source dies too, every few rounds, and is away while the node comes back.
        let with_source = round % 5 == 3;
        if with_source {
            postgres.kill().await;
        }
        nodes[0].kill().await;
        nodes[0].start_again().await;
        clients.moved(0, &nodes[0]);
        if with_source {
            clients.go_on(dice.below(400)).await;
            postgres.restart().await;
        }
    }
    clients.go_on(100).await;
    let records = clients.stop().await;
    until_drained(&nodes[0]).await;
    check(&postgres, &records).await;
}

#[tokio::test]
async fn law_7_two_nodes_with_their_queue_in_redis_are_killed_and_redis_and_the_source() {
    let rounds = setting("LARDER_KILLS", 20);
    let seed = setting("LARDER_KILLS_SEED", 1);
    println!("LARDER_KILLS={rounds} LARDER_KILLS_SEED={seed}");
    let mut dice = Dice(seed.wrapping_add(1 << 32));
    let mut postgres = postgres().await;
    let mut redis = Redis::start_durable().await;
    let node = |postgres: &Postgres| {
        node(postgres)
            .redis(&redis.url())
            .section("[writes]\nqueue = \"redis\"\ndurability = \"always\"")
    };
    let mut nodes = [
        node(&postgres).start_compiled("postgres").await,
        node(&postgres).start_compiled("postgres").await,
    ];
    let clients = Clients::start(&nodes);
    for round in 0..rounds {
        clients.go_on(dice.below(400)).await;
        match round % 5 {
            2 => {
                redis.kill().await;
                clients.go_on(dice.below(50)).await;
                redis.restart().await;
            }
            4 => {
                postgres.kill().await;
                clients.go_on(dice.below(400)).await;
                postgres.restart().await;
            }
            _ => {
                let place = usize::try_from(dice.below(2)).expect("it is 0 or 1");
                nodes[place].kill().await;
                // Long enough, sometimes, for the other to take over what it was about.
                clients.go_on(dice.below(1000)).await;
                nodes[place].start_again().await;
                clients.moved(place, &nodes[place]);
            }
        }
    }
    clients.go_on(100).await;
    let records = clients.stop().await;
    until_drained(&nodes[0]).await;
    check(&postgres, &records).await;
}
