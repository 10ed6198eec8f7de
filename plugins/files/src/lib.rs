//! `files`: records out of JSON, NDJSON or CSV files, found by a key field, and written. To copy from when the source is worth an index:
//! one that is built in slices while other loads wait for it, and built again when the source has changed.
//!
//! | setting | default | what it is |
//! |---|---|---|
//! | `path` | | a file, or a directory whose files of that format count as one, as the plugin sees it |
//! | `format` | | `json`, `ndjson` or `csv` |
//! | `pointer` | `""` | `json`: where the array of records is, as a JSON pointer (RFC 6901) |
//! | `key` | | the field to find records by; the part of that name is looked up, else the only part |
//!
//! Grants: `dirs`. A sidecar, `files.toml`:
//!
//! ```toml
//! [config]
//! path = "/data/iso_3166-1.json"
//! format = "json"
//! pointer = "/3166-1"
//! key = "alpha_2"
//! [grants]
//! dirs = { "/data" = { host = "data", mode = "ro" } }
//! ```
//!
//! with `mode = "rw"` where it shall write.
//!
//! It answers the record as the file has it; one of a CSV file as a JSON object of strings. Without such a record:
//! missing. Of several, the first counts: files in the order of their names.
//!
//! **Memory.** Only the places of the records are held, 16 bytes each: a million of them take 16 MiB, and three million
//! fit the default limit. More than fit are a failure `index-too-large`, which says how many there are and what to write.
//!
//! **Changes.** Every load looks at the files first: one that was added, removed, replaced or written into is seen by
//! the next load, and only what changed is indexed again. Loads wait for that until their deadline, and then fail as
//! `index-not-ready` (a stale entry, where there is one, is answered meanwhile). It is better to replace a file by renaming
//! a new one over it than to write into it: half a file is indexed as what it is, or is `files-unreadable`.

//!
//! **Writes.** A PUT makes the record what the JSON object in its body says, as it was sent (of a CSV file an object with a string
//! for each column), and adds it to the last file where there is none; a DELETE removes it, from every file that has it. The key
//! field must be what the request is for. Each file is replaced whole, by one that was written beside it, to the disk, and then
//! renamed: it is read as it was or as it is, after a crash too. So a change costs as much as copying the file, and all that come
//! together are one copy. What a crash leaves (`.NAME.….larder-new`) is no file of any format, and swept after an hour. The new file
//! has the owner and the rights that the server gives; a link is not followed, but refused (`file-is-link`).
//!
//! The entity tag of a PUT is that of a read, and `If-Match` compares it. A file is replaced only if it is as it was looked at:
//! what others write into it meanwhile is noticed, and it begins anew, but for the very moment of the renaming. Changes of one file
//! are made one after another; each indexes it anew, in an instance of the writer, which takes as much memory as the loader's. The
//! files know no order of changes (`sequence`): the one that comes last counts.

mod edit;
mod index;
mod look;
mod places;
mod room;
mod scan;
mod stamp;
mod write;

use exports::larder::plugin::{lifecycle, loader, metadata, writer};
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use index::{Fault, Found, Index};
use larder_plugin_support::{
    Entry, Failure, FailureKind, Outcome, Param, Question, Validator, part, settings,
};
use scan::Layout;
use stamp::Stamp;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use wasip3::clocks::monotonic_clock::wait_for;

wit_bindgen::generate!({
    path: "../../wit",
    inline: "
        package larder:files;
        world files {
            include larder:plugin/loader-plugin@0.1.0;
            include larder:plugin/writer-plugin@0.1.0;
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

struct Files;
export!(Files);

impl loader::Guest for Files {
    async fn load(Question { target, known }: Question) -> Result<Outcome, Failure> {
        let layout: Layout = settings()?;
        let key = wanted(&target.parts, &layout.key)?;
        let Some(body) = in_time(target.deadline_ms, find(&layout, key)).await? else {
            return Ok(Outcome::nothing());
        };
        let etag = Some(etag(&body));
        if known.is_some_and(|known| known.etag == etag) {
            return Ok(Outcome::unchanged());
        }
        let validator = Some(Validator {
            etag,
            last_modified_ms: None,
        });
        Ok(Outcome::Found(Entry {
            validator,
            ..Entry::new("application/json", body)
        }))
    }
}

impl writer::Guest for Files {
    async fn write(mutations: Vec<writer::Mutation>) -> Vec<Result<writer::Receipt, Failure>> {
        match settings::<Layout>() {
            Ok(layout) => write::write(&layout, &mutations).await,
            Err(failure) => mutations.iter().map(|_| Err(failure.clone())).collect(),
        }
    }
}

/// What `work` comes to, unless that takes too long for an index.
async fn in_time<T>(
    deadline_ms: u32,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let too_late = async {
        // A little before the deadline: the host would only say that it is over.
        let patience_ms = deadline_ms - deadline_ms / 16;
        wait_for(u64::from(patience_ms) * 1_000_000).await;
        Err(Failure::new(
            FailureKind::Timeout,
            "index-not-ready",
            "the files are still being indexed, and that goes on; ask again".to_owned(),
        ))
    };
    futures_lite::future::or(work, too_late).await
}

/// The entity tag of a record as a read gives it.
fn etag(body: &[u8]) -> String {
    format!("\"{:032x}\"", index::digest(body))
}

/// The key to look up.
fn wanted<'p>(parts: &'p [Param], key: &str) -> Result<&'p str, Failure> {
    match (part(parts, key), parts) {
        (Some(value), _) => Ok(value),
        (None, [only]) => Ok(&only.value),
        (None, _) => {
            let message = format!(
                "no part is called `{key}`, and there is not just one; add `{key}` to the route's path or key"
            );
            Err(Failure::new(FailureKind::Internal, "part-missing", message))
        }
    }
}

/// The record of `key`, as the files have it at some moment during this call.
async fn find(layout: &Layout, key: &str) -> Result<Option<Vec<u8>>, Failure> {
    // A file may change between the look at the index and the look at the record. Then both are taken again.
    for _ in 0..3 {
        let (index, current) = index(layout).await.map_err(failure)?;
        match index.find(key, &breathe).await.map_err(failure)? {
            Found::Record(record) => return Ok(Some(record)),
            Found::Nothing if current => return Ok(None),
            Found::Nothing | Found::FileChanged => {}
        }
    }
    Err(failure(Fault::Unreadable(format!(
        "the files at `{}` change faster than they are read",
        layout.path
    ))))
}

/// An index in the making, or made.
struct Build {
    /// The files as they were when it was begun.
    stamps: Vec<Stamp>,
    index: Shared<futures_channel::oneshot::Receiver<Result<Rc<Index>, Fault>>>,
}

thread_local! {
    /// The last index that was asked for. All the loads of this instance share it, its failure too.
    static LAST: RefCell<Option<Build>> = const { RefCell::new(None) };
}

/// The index of the files as they are now, and whether it was already there: if not, they may have changed while it was
/// made.
async fn index(layout: &Layout) -> Result<(Rc<Index>, bool), Fault> {
    loop {
        let stamps = look::look(layout).await?;
        let (index, current) = LAST.with_borrow_mut(|last| match last {
            Some(build) if build.stamps == *stamps => (build.index.clone(), true),
            // One at a time, or files that change often would be indexed many times at once. This one is waited for, and
            // then there is another look.
            Some(build) if build.index.peek().is_none() => (build.index.clone(), false),
            _ => (
                begin(layout.clone(), stamps.to_vec(), last).index.clone(),
                true,
            ),
        });
        let was_there = index.peek().is_some();
        let built = index
            .await
            .map_err(|_| Fault::Unreadable("indexing was given up".to_owned()))?;
        if current {
            return Ok((built?, was_there));
        }
    }
}

/// Begins an index in the place of the last. A load that gives up waiting does not stop it: it goes on in the background,
/// for the next ones.
fn begin(layout: Layout, stamps: Vec<Stamp>, last: &mut Option<Build>) -> &Build {
    let (built, index) = futures_channel::oneshot::channel();
    let files = stamps.clone();
    let before = last.take().and_then(|last| match last.index.peek() {
        Some(Ok(Ok(index))) => Some(index.clone()),
        _ => None,
    });
    wit_bindgen::spawn_local(async move {
        let index = Index::build(files, before, &layout, &breathe).await;
        let _ = built.send(index.map(Rc::new)); // an error: nobody waits any more
    });
    last.insert(Build {
        stamps,
        index: index.shared(),
    })
}

/// Ends a slice of computing. The host measures the time between two waits, so this must be a wait, if a short one: a bare
/// yield comes straight back.
async fn breathe() {
    wait_for(1).await;
}

async fn wait(duration: Duration) {
    wait_for(duration.as_nanos().try_into().unwrap_or(u64::MAX)).await;
}

fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Unreadable(message) => {
            Failure::new(FailureKind::Unavailable, "files-unreadable", message)
        }
        Fault::TooLarge(message) => Failure::new(FailureKind::Internal, "index-too-large", message),
    }
}

impl lifecycle::Guest for Files {
    async fn start() -> Result<(), Failure> {
        let pointer = settings::<Layout>()?.pointer;
        if !(pointer.is_empty() || pointer.starts_with('/')) {
            let message = format!(
                "the setting `pointer`, `{pointer}`, is no JSON pointer; write `/{pointer}`"
            );
            return Err(Failure::new(
                FailureKind::Internal,
                "pointer-invalid",
                message,
            ));
        }
        Ok(())
    }

    /// Indexes, so that the first load need not wait, and files that cannot be read do not replace ones that can. What is
    /// too large for the budget of a probe is indexed on in the background.
    async fn probe() -> Result<(), Failure> {
        let layout: Layout = settings()?;
        let indexed = async { index(&layout).await.map(drop).map_err(failure) };
        let enough = async {
            wait_for(8_000_000_000).await;
            Ok(())
        };
        futures_lite::future::or(indexed, enough).await
    }

    async fn stop() {}
}

impl metadata::Guest for Files {
    fn describe() -> metadata::Description {
        metadata::Description {
            name: "files".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cache_version: 1,
            descriptor: include_str!("../descriptor.json").to_owned(),
        }
    }
}
