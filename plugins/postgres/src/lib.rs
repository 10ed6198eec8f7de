//! `postgres`: rows of PostgreSQL as JSON, one named query for each route. To copy from when the source is a database: a wire
//! protocol over a granted socket, connections that the loads in flight share, many questions in one statement, many changes
//! in another, and a change feed, so that what was updated is not answered for the rest of its time to live.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `host`, `port` | , 5432 | where the server is |
//! | `database`, `user` | | what to read, and as whom; the password is the secret `password` |
//! | `tls` | `"prefer"` | `require`, `prefer` or `disable`; see `docs/postgres.md` |
//! | `ca` | | the authorities to verify the certificate by: PEM text, or a file in a granted directory |
//! | `server_name` | `host` | what the certificate must be made out to |
//! | `connections` | 4 | the most connections of one instance |
//! | `connect_timeout` | `"2s"` | how long opening one may take |
//! | `rows_max` | 10000 | the most rows of one answer |
//! | `body_max` | 8 MiB | the longest answer, in bytes; raise it together with `[limits] body` |
//! | `queries."ROUTE"` | | the query of a route: `sql`, `params`, `key`, `result`, `ttl`, `tags` |
//! | `writes."ROUTE"` | | what PUT and DELETE change: `table`, `key`, `columns`, `ignore`, `delete`, `tags` |
//! | `order` | off | refuses changes that come late, by the tables of `install-writes.sql`: `keep` (`"30d"`) |
//! | `once` | off | makes a change that comes twice once, by those tables: `keep` (`"7d"`) |
//! | `feed` | off | reads the outbox of `install.sql`: `every` (`"1s"`), `keep` (`"1d"`) |
//!
//! Grants: `tcp` to the server. A sidecar, `postgres.toml`:
//!
//! ```toml
//! [config]
//! host = "db.internal"
//! database = "shop"
//! user = "larder"
//! [config.queries."/countries/{alpha_2}"]
//! sql = "select alpha_2, name from countries where alpha_2 = any($alpha_2)"
//! params = { alpha_2 = "text" }
//! key = "alpha_2"
//! result = "one"
//! [config.feed]
//! [secrets]
//! password = { env = "SHOP_PASSWORD" }
//! [grants]
//! tcp = ["db.internal:5432"]
//! networks = ["10.0.0.0/8"]
//! ```
//!
//! # Layout
//! - `settings`, `sql`: what the sidecar says, judged; the text of statements.
//! - `loads`, `answer`: questions to statements, rows to outcomes.
//! - `writes`: mutations to statements, and what became of them.
//! - `feed`: the outbox to changes.
//! - `pool`, `connection`, `tls`, `net`: the way to the server.
//! - `fault`: what went wrong, for clients and for operators.

mod answer;
mod connection;
mod fault;
mod feed;
mod loads;
mod net;
mod pool;
mod settings;
mod sql;
mod tls;
mod writes;

// The actor of the black-box tests, and how those wait.
#[cfg(test)]
#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "../../../tests/src/ports.rs"]
mod ports;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "not every test needs all of it")]
#[path = "../../../tests/src/wait.rs"]
mod wait;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use connection::{Purpose, Server};
use exports::larder::plugin::{batch_loader, change_feed, lifecycle, metadata, writer};
use fault::Fault;
use feed::Feed;
use larder_plugin_support::contract::secrets::{self, SecretError};
use larder_plugin_support::{Failure, FailureKind, Outcome, Question};
use loads::Loads;
use pool::Pool;
use settings::Settings;
use tls::Connector;
use writes::Writes;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:postgres;
        world postgres {
            include larder:plugin/batch-loader-plugin@0.1.0;
            include larder:plugin/writer-plugin@0.1.0;
            include larder:plugin/change-feed-plugin@0.1.0;
            include larder:plugin/described@0.1.0;
        }
    ",
    with: {
        "larder:plugin/types@0.1.0": larder_plugin_support::contract::types,
        "larder:plugin/settings@0.1.0": larder_plugin_support::contract::settings,
        "larder:plugin/secrets@0.1.0": larder_plugin_support::contract::secrets,
        "larder:plugin/log@0.1.0": larder_plugin_support::contract::log,
    },
});

struct Postgres;
export!(Postgres);

/// What an instance is made of.
struct Instance {
    /// Of loads, which do not write, and of writes.
    pools: [Rc<Pool>; 2],
    loads: Loads,
    writes: Writes,
    feed: Option<Feed>,
}

impl Instance {
    /// # Errors
    /// A failure that names the setting that makes no sense.
    fn new(
        settings: Settings,
        password: fn() -> Result<Option<String>, Fault>,
    ) -> Result<Self, Failure> {
        settings.judge()?;
        let connector = Connector::new(&settings).map_err(Fault::for_operator)?;
        let feed = settings.feed.clone();
        let server = Rc::new(Server {
            settings,
            connector,
            password: Box::new(password),
        });
        let connections = server.settings.connections;
        let pool = Pool::new(Rc::clone(&server), || Purpose::Loads, connections);
        // One call is in an instance of a writer at a time, and nothing goes on in it between two.
        let writing = Pool::new(Rc::clone(&server), || Purpose::Writes, 1);
        Ok(Self {
            loads: Loads::new(&server.settings, Rc::clone(&pool))?,
            writes: Writes::new(&server.settings, Rc::clone(&writing))?,
            feed: feed.map(|feed| Feed::new(server, feed)),
            pools: [pool, writing],
        })
    }
}

thread_local! {
    static INSTANCE: RefCell<Option<Rc<Instance>>> = const { RefCell::new(None) };
}

/// The one of this instance of the component: made when the host starts it.
fn instance() -> Result<Rc<Instance>, Failure> {
    if let Some(instance) = INSTANCE.with_borrow(Clone::clone) {
        return Ok(instance);
    }
    let instance = Rc::new(Instance::new(larder_plugin_support::settings()?, password)?);
    INSTANCE.set(Some(Rc::clone(&instance)));
    Ok(instance)
}

/// The secret `password`; none where the sidecar has none, which is right for a server that asks for none.
fn password() -> Result<Option<String>, Fault> {
    match secrets::get("password") {
        Ok(password) => Ok(Some(password)),
        Err(SecretError::NotGranted) => Ok(None),
        Err(SecretError::Unavailable) => Err(Fault::new(
            FailureKind::Denied,
            "secret-unavailable",
            "the secret `password` cannot be had; set the variable, or write the file, that [secrets] of the sidecar names"
                .to_owned(),
        )),
    }
}

impl batch_loader::Guest for Postgres {
    async fn load_many(questions: Vec<Question>) -> Vec<Result<Outcome, Failure>> {
        match instance() {
            Ok(instance) => instance.loads.load_many(&questions).await,
            Err(failure) => vec![Err(failure); questions.len()],
        }
    }
}

impl writer::Guest for Postgres {
    async fn write(mutations: Vec<writer::Mutation>) -> Vec<Result<writer::Receipt, Failure>> {
        match instance() {
            Ok(instance) => instance.writes.write(&mutations).await,
            Err(failure) => mutations.iter().map(|_| Err(failure.clone())).collect(),
        }
    }
}

impl change_feed::Guest for Postgres {
    async fn poll(
        cursor: Option<Vec<u8>>,
        max: u32,
        wait_ms: u32,
    ) -> Result<change_feed::Page, Failure> {
        let instance = instance()?;
        let Some(feed) = &instance.feed else {
            return Ok(Feed::off());
        };
        let wait = Duration::from_millis(wait_ms.into());
        feed.poll(cursor.as_deref(), max, wait)
            .await
            .map_err(Fault::for_operator)
    }
}

impl lifecycle::Guest for Postgres {
    /// Refuses settings that no query could be run with.
    async fn start() -> Result<(), Failure> {
        instance().map(drop)
    }

    /// Connects, prepares every query, and has every change planned.
    async fn probe() -> Result<(), Failure> {
        let instance = instance()?;
        let probed = async {
            instance.loads.probe().await?;
            instance.writes.probe().await
        };
        probed.await.map_err(Fault::for_operator)
    }

    async fn stop() {
        if let Some(instance) = INSTANCE.take() {
            instance.pools.iter().for_each(|pool| pool.close());
        }
    }
}

impl metadata::Guest for Postgres {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "postgres".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: include_str!("../descriptor.json").to_owned(),
        }
    }
}
