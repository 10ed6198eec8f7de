//! Every form of the SDK that the examples do not show, in one component: a batch loader, a writer, a change feed and a
//! life. What is written is kept in the instance, and the feed tells of it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use larder_plugin::prelude::*;
use larder_plugin::{Change, Expect, Mutation, Operation, Page, Poll, Receipt};

#[derive(Deserialize, JsonSchema)]
struct Params {
    /// Which number; `7` is not there, and `13` fails.
    id: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// What the source is called.
    source: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            source: "forms".to_owned(),
        }
    }
}

thread_local! {
    static STARTED: RefCell<bool> = const { RefCell::new(false) };
    static WRITTEN: RefCell<BTreeMap<u32, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
}

async fn load_many(questions: Vec<(Params, Context<Config>)>) -> Vec<Result<Reply<Value>>> {
    let batch = questions.len();
    let answer = |(params, context): (Params, Context<Config>)| match params.id {
        7 => Ok(Reply::missing()),
        13 => Err(Error::unavailable("thirteen").code("unlucky")),
        id => {
            let started = STARTED.with_borrow(|started| *started);
            let value =
                json!({ "id": id, "batch": batch, "source": context.source, "started": started });
            Ok(Reply::found(value).tag(format!("id:{id}")))
        }
    };
    questions.into_iter().map(answer).collect()
}

async fn write(mutation: Mutation<Params>, _: Context<Config>) -> Result<Receipt> {
    let id = mutation.params.id;
    WRITTEN.with_borrow_mut(|written| {
        let there = written.contains_key(&id);
        if mutation.expect == Expect::Absent && there {
            return Err(Error::conflict("it is there already"));
        }
        match mutation.operation {
            Operation::Put { body, .. } => written.insert(id, body),
            Operation::Delete => written.remove(&id),
        };
        Ok(Receipt::done().created(!there).tag(format!("id:{id}")))
    })
}

async fn poll(poll: Poll, _: Context<Config>) -> Result<Page> {
    let ids = WRITTEN.with_borrow(|written| written.keys().copied().collect::<Vec<_>>());
    let changes = ids
        .into_iter()
        .take(poll.max)
        .map(|id| Change::item([("id", id.to_string())]));
    Ok(
        Page::new(changes.collect(), poll.cursor.unwrap_or_default())
            .poll_after(Duration::from_secs(1)),
    )
}

/// Names that an author may well have: what `plugin!` writes must not take them for its own.
type Result<T> = std::result::Result<T, Error>;
struct Plugin;

impl Lifecycle for Plugin {
    async fn start() -> Result<()> {
        STARTED.set(true);
        Ok(())
    }
}

larder_plugin::plugin! {
    about: "Every form in one.",
    cache_version: 2,
    batch_loader: load_many,
    writer: write,
    change_feed: poll,
    lifecycle: Plugin,
}
