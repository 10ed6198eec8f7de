//! A writer, with the loader that reads what it wrote: `write` takes PUT and DELETE to the source, `load` asks the source.
//!
//! The source here is a map in the instance's memory, which is gone with the instance: put yours in its place.

use std::cell::RefCell;
use std::collections::BTreeMap;

use larder_plugin::prelude::*;
use larder_plugin::{Mutation, Operation, Receipt};

thread_local! {
    static SOURCE: RefCell<BTreeMap<String, String>> = RefCell::default();
}

/// The parts that it understands. Larder checks requests by it, and answers 422 to what does not fit.
#[derive(Deserialize, JsonSchema)]
struct Params {
    /// What is read or written.
    key: String,
}

/// The answer, as JSON.
#[derive(Debug, Serialize, JsonSchema)]
struct Record {
    key: String,
    text: String,
}

async fn load(params: Params, _: Context) -> Result<Record, Error> {
    let text = SOURCE.with_borrow(|source| source.get(&params.key).cloned());
    Ok(Record {
        text: text.unwrap_or_default(),
        key: params.key,
    })
}

async fn write(mutation: Mutation<Params>, _: Context) -> Result<Receipt, Error> {
    let created = apply(&mutation.params.key, mutation.operation)?;
    Ok(Receipt::done().created(created))
}

/// Whether there was nothing before.
fn apply(key: &str, operation: Operation) -> Result<bool, Error> {
    match operation {
        Operation::Put { body, .. } => {
            let text = String::from_utf8(body)
                .map_err(|_| Error::invalid_request("the body is not UTF-8"))?;
            let before = SOURCE.with_borrow_mut(|source| source.insert(key.to_owned(), text));
            Ok(before.is_none())
        }
        Operation::Delete => {
            SOURCE.with_borrow_mut(|source| source.remove(key));
            Ok(false)
        }
    }
}

larder_plugin::plugin! {
    about: "Keeps one text for each key.",
    loader: load,
    writer: write,
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_plugin::testing::Test;

    fn put(key: &str, text: &str) -> Result<bool, Error> {
        let operation = Operation::Put {
            content_type: None,
            body: text.as_bytes().to_vec(),
        };
        apply(key, operation)
    }

    fn text(key: &str) -> Value {
        let answer = Test::new().load(load, &[("key", key)]);
        answer.unwrap().json()["text"].clone()
    }

    #[test]
    fn what_was_written_is_read() {
        assert!(put("42", "one").unwrap());
        assert!(!put("42", "two").unwrap());
        assert_eq!(text("42"), "two");
        apply("42", Operation::Delete).unwrap();
        assert_eq!(text("42"), "");
    }
}
