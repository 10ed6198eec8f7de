//! A writer, with the loader that reads what it wrote: `write` takes PUT and DELETE to the source, `load` asks the source.
//!
//! The source here is a directory with a file for each key: put yours in its place. Whatever it is, the two share nothing but
//! it: loads and writes run in instances of their own.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use larder_plugin::prelude::*;
use larder_plugin::{Body, Expect, Mutation, Pending, Receipt};

/// What stands in `[config]` of the sidecar.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Where the texts are: a directory that `[grants] dirs` opens.
    dir: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: "/texts".to_owned(),
        }
    }
}

/// The parts that it understands. Larder checks requests by it, and answers 422 to what does not fit.
#[derive(Deserialize, JsonSchema)]
struct Params {
    /// What is read or written.
    #[schemars(length(min = 1, max = 100))]
    key: String,
}

/// The answer, as JSON, and the body of a PUT. Larder checks bodies by it, and answers 422 to what does not fit.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Record {
    text: String,
}

async fn load(params: Params, context: Context<Config>) -> Result<Reply<Record>, Error> {
    match fs::read_to_string(file(&context.dir, &params.key)) {
        Ok(text) => Ok(Reply::found(Record { text })),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Reply::missing()),
        Err(error) => Err(Error::unavailable(format!("it cannot be read: {error}"))),
    }
}

async fn write(mutation: Mutation<Params>, context: Context<Config>) -> Result<Receipt, Error> {
    apply(&context.dir, mutation)
}

/// Makes the change, and says so only when it is made.
fn apply(dir: &str, mutation: Mutation<Params>) -> Result<Receipt, Error> {
    let file = file(dir, &mutation.params.key);
    let exists = file.exists();
    let holds = match mutation.expect {
        Expect::Anything => true,
        Expect::Absent => !exists,
        Expect::Present => exists,
        // It gives no entity tags.
        Expect::Etag(_) => false,
    };
    if !holds {
        return Err(Error::conflict("the text is not as it was expected to be"));
    }
    let done = match mutation.operation.json()? {
        Some(Record { text }) => {
            // Whole or not at all: whoever reads meanwhile finds the one before.
            let aside = file.with_extension(format!("{}.new", mutation.sequence));
            fs::write(&aside, text).and_then(|()| fs::rename(&aside, &file))
        }
        // A DELETE has no body.
        None if exists => fs::remove_file(&file),
        None => Ok(()),
    };
    done.map_err(|error| Error::unavailable(format!("it cannot be written: {error}")))?;
    Ok(Receipt::done().created(!exists))
}

/// The file of a key, whatever characters that has.
fn file(dir: &str, key: &str) -> PathBuf {
    let name: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    Path::new(dir).join(name)
}

larder_plugin::plugin! {
    about: "Keeps one text for each key.",
    needs: Needs::new().dir("/texts", "where the texts are kept; writing needs mode = \"rw\""),
    loader: load,
    writer: write,
    request: Body::json::<Record>(),
    // A read gives what was put, so Larder may answer with that while a change waits in its queue.
    pending: Pending::Payload,
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_plugin::Operation;
    use larder_plugin::testing::{Answer, Test};

    /// A directory of its own for each test.
    fn dir(test: &str) -> String {
        let dir = std::env::temp_dir().join(format!("{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir.to_str().unwrap().to_owned()
    }

    fn change(dir: &str, operation: Operation, expect: Expect) -> Result<Receipt, Error> {
        let mutation = Mutation {
            params: Params { key: "4/2".to_owned() },
            operation,
            expect,
            idempotency_key: "1".to_owned(),
            sequence: 1,
        };
        apply(dir, mutation)
    }

    fn put(text: &str) -> Operation {
        Operation::Put {
            content_type: Some("application/json".to_owned()),
            body: json!({ "text": text }).to_string().into_bytes(),
        }
    }

    fn read(dir: &str) -> Answer {
        let test = Test::new().config(json!({ "dir": dir }));
        test.load(load, &[("key", "4/2")]).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = dir("read");
        assert!(read(&dir).is_missing());
        change(&dir, put("one"), Expect::Absent).unwrap();
        assert_eq!(read(&dir).json()["text"], "one");
        change(&dir, put("two"), Expect::Anything).unwrap();
        assert_eq!(read(&dir).json()["text"], "two");
        change(&dir, Operation::Delete, Expect::Anything).unwrap();
        assert!(read(&dir).is_missing());
    }

    #[test]
    fn what_does_not_hold_is_a_conflict() {
        let dir = dir("conflict");
        assert!(change(&dir, put("one"), Expect::Present).is_err());
        assert!(read(&dir).is_missing());
    }
}
