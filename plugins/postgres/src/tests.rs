//! Loads, changes and the change feed against a real PostgreSQL, natively: the sockets are tokio's, and all else is what runs in the
//! component. What the host makes of it is tried by `tests/postgres.rs` at the top of the repository.

mod changes;
mod encrypted;
mod reads;
mod writes;

use larder_plugin_support::{Failure, Outcome, Param, Question, Target};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::postgres::{PASSWORD, Postgres, READER};
use crate::{Instance, settings::Settings};

/// Runs a test where tasks may be spawned that are not `Send`, as in a component.
async fn locally(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

/// The `[config]` in front of a server, with more or other members.
fn settings(postgres: &Postgres, more: &Value) -> Settings {
    let mut settings = json!({
        "host": "127.0.0.1", "port": postgres.address().port(), "database": "postgres", "user": READER,
    });
    let members = settings.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    serde_json::from_value(settings).expect("the settings fit")
}

/// An instance in front of a server.
fn instance(postgres: &Postgres, more: &Value) -> Instance {
    let password = || Ok(Some(PASSWORD.to_owned()));
    Instance::new(settings(postgres, more), password).expect("the settings make sense")
}

/// A question for a route, with 5 s to answer it.
fn question(route: &str, parts: &[(&str, &str)]) -> Question {
    Question {
        target: Target {
            route: route.to_owned(),
            parts: parts
                .iter()
                .map(|&(name, value)| Param {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
                .collect(),
            deadline_ms: 5_000,
            traceparent: None,
            hints: Vec::new(),
        },
        known: None,
    }
}

/// The JSON of what was found; `null` for what is missing.
fn body(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Found(entry) => serde_json::from_slice(&entry.body).expect("the body is JSON"),
        Outcome::Missing(_) => Value::Null,
        Outcome::NotModified(_) => unreachable!("nothing was known"),
    }
}

/// One load alone.
async fn load(instance: &Instance, route: &str, parts: &[(&str, &str)]) -> Result<Value, Failure> {
    let mut results = instance.loads.load_many(&[question(route, parts)]).await;
    results.remove(0).map(body)
}
