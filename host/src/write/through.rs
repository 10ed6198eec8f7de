//! Write-through: the source is changed, and then answered. The cache forgets what it has of the resource on both sides of
//! that, so that no load in flight, on any node, brings the old value back (law 4).
//!
//! # Two purges
//!
//! The first, before the source is told, is an `expire`: loads that began before it are not stored, and what is there stays
//! to fall back on, should the change be refused. The second, after it, is a `delete`, if the change was made or may have
//! been: a load that began between the two may have read either value, and is older than the second.
//!
//! - A load begins, the change is made, the load ends: its stamp is lower than the second purge, or the first.
//! - The change is made, a load begins before the second purge: it has the new value, and is thrown away; a load more.
//! - A load begins after the second purge: its source was asked after the change.
//!
//! # What a writer says that a read would give
//!
//! It is true of some moment between the two purges. Kept with a stamp of the second, it would survive whatever else was
//! purged in between: another change of the same resource, or a purge because the source was changed by others. So it is kept
//! only if nothing at all was: if the second purge has the number that follows the first's. Otherwise the next read loads.
//!
//! # A client that leaves
//!
//! Nothing of this is given up half way: who asks for it does so in a task of the host, like a load, and the writer is called in
//! one of its own, so that what follows is done whatever ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Mutation, Operation, Precondition, Receipt, Writer, is_uncertain};
use crate::cache::entry::Entry;
use crate::cache::generations::{Mode, Scope};
use crate::cache::{Ask, Cache};
use crate::error::{Failure, FailureKind};
use crate::sync::{self, spawn};
use crate::trace::Span;

/// What a client wants done.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What to do.
    pub operation: Operation,
    /// On what condition.
    pub expect: Precondition,
    /// The same for every attempt; none: this is the only one.
    pub idempotency_key: Option<String>,
    /// Whether what the writer says of it may be kept: not where a key policy keeps the resource out of the cache.
    pub may_keep: bool,
}

/// What a change came to.
#[derive(Clone, Debug)]
pub struct Done {
    /// What the writer says.
    pub receipt: Receipt,
    /// What it says that a read would now give, made an entry.
    pub entry: Option<Entry>,
}

/// Makes a change. To be polled to its end, in a task of the host: what it has begun must be purged after it.
///
/// # Errors
/// Why it was not made, or may not have been.
pub async fn write(
    cache: &Arc<Cache>,
    ask: &Ask,
    writer: &Arc<dyn Writer>,
    wish: Wish,
) -> Result<Done, Arc<Failure>> {
    let resource = Scope::Resource(ask.key.resource().clone());
    let first = cache.purge(&resource, Mode::Expire).await;
    let timeout = ask.binding.policy.timeout;
    // Before the source is told: what it says is no older than this.
    let as_of_ms = cache.clock().now_ms();
    // As a load is: the source is told of the host's own trace, and that one is linked with the client's.
    let request = Span::current();
    let span = if request.is_some() {
        request.load(format!("write {}", ask.binding.route))
    } else {
        Span::NONE
    };
    let call = span.call(format!("call {}", writer.name()));
    let mutation = Mutation {
        route: Arc::clone(&ask.binding.route),
        parts: Arc::clone(&ask.parts),
        timeout,
        traceparent: call.traceparent(),
        operation: wish.operation,
        expect: wish.expect,
        idempotency_key: wish
            .idempotency_key
            .map_or_else(key, |key| scoped(ask, &key)),
        sequence: sequence(),
    };
    let result = one(writer, mutation, timeout).await;
    if let Err(failure) = &result {
        call.fail(|| failure.to_string());
    }
    drop(call);
    let receipt = match result {
        Ok(receipt) => receipt,
        Err(failure) => {
            if is_uncertain(&failure) {
                cache.purge(&resource, Mode::Delete).await;
            }
            return Err(Arc::new(failure));
        }
    };
    for tag in &receipt.tags {
        let tag = Scope::Tag(tag.as_str().into());
        cache.purge(&tag, Mode::Delete).await;
    }
    let second = cache.purge(&resource, Mode::Delete).await;
    let alone =
        first.shared && second.shared && second.seq == first.seq + receipt.tags.len() as u64 + 1;
    let entry = match receipt.entry.clone() {
        None => None,
        Some(found) => {
            let seq = (alone && wish.may_keep).then_some(second.seq);
            let kept = cache.keep_written(ask, (found, as_of_ms), writer.name(), seq);
            match kept.await {
                Ok(entry) => Some(entry),
                Err(failure) => {
                    // The change was made, and that is what was asked for; what cannot be sent is not.
                    tracing::warn!(
                        writer = writer.name(),
                        "what it says of a change is not taken: {failure}"
                    );
                    None
                }
            }
        }
    };
    Ok(Done { receipt, entry })
}

/// Tells a writer of one change.
async fn one(
    writer: &Arc<dyn Writer>,
    mutation: Mutation,
    timeout: Duration,
) -> Result<Receipt, Failure> {
    // The writer ends itself in time and knows best what to say of it; this is for one that does not.
    const GRACE: Duration = Duration::from_millis(100);
    let unknown = |code, what: String| {
        let message = format!("writer `{}` {what}", writer.name());
        Err(Failure::host(FailureKind::Timeout, code, message))
    };
    // In a task of its own: whatever ends it, what follows is done.
    let call = spawn(writer.write(vec![mutation]));
    match sync::timeout(timeout + GRACE, call).await {
        Ok(Ok(mut results)) => results
            .pop()
            .unwrap_or_else(|| unknown("no-result", "gave no result".to_owned())),
        Ok(Err(_)) => unknown("write-aborted", "panicked".to_owned()),
        Err(_) => unknown("timeout", format!("did not answer within {timeout:?}")),
    }
}

/// A key that nobody else has.
pub(super) fn key() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A client's key as a source may know it: of this resource and these parts alone, for clients do not know each other's.
pub(super) fn scoped(ask: &Ask, key: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |text: &str| {
        // Its length first: no two different lists of fields are one text.
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    field(ask.key.resource().text());
    for part in ask.parts.iter() {
        field(&part.name);
        field(&part.value);
    }
    field(key);
    hasher.finalize().to_hex().to_string()
}

/// Grows with every change that this process makes, and, as far as clocks agree, with those of others and of later
/// processes. Where the order of changes must hold absolutely, a queue gives the numbers.
fn sequence() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX >> 20) << 20;
    let next = |last: u64| Some(last.max(now) + 1);
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .map_or(now, |last| last.max(now) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_grow_and_keys_differ() {
        let numbers: Vec<u64> = (0..1000).map(|_| sequence()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            i64::try_from(numbers[999]).is_ok(),
            "a database keeps it as a bigint"
        );
        assert_ne!(key(), key());
    }
}
