//! The change feed of a component: an instance of its own, and one poll after another in it.
//!
//! It has no part in the loader's breaker: a feed that fails is asked again more and more rarely anyway (see `feeds`), and
//! its trouble is no reason not to load.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::bindings::{self, change_feed, types};
use super::fault::{self, Denials};
use super::instance::{self, Live, Mould, metered, sliced};
use super::meter::Meter;
use super::runtime::{Change, ChangeFeed, Page};
use crate::error::{Failure, FailureKind, Origin};

/// A running change feed.
pub(super) struct Feed {
    mould: Mould,
    /// The instance, while no poll is in it. A poll that ends badly, or is dropped, takes it along.
    idle: Mutex<Option<Live>>,
}

impl Feed {
    /// A feed that makes its instance when it is first polled, unless there is one already.
    pub(super) fn new(mould: Mould, first: Option<Live>) -> Self {
        Self {
            mould,
            idle: Mutex::new(first),
        }
    }

    /// Stops the instance. A poll that is in it is the caller's to end first.
    pub(super) async fn stop(&self) {
        let idle = self.idle.lock().take();
        if let Some(live) = idle {
            self.mould.stop(live).await;
        }
    }

    async fn ask(&self, cursor: Option<Vec<u8>>) -> Result<Page, Failure> {
        let kit = &self.mould.kit;
        let idle = self.idle.lock().take();
        let mut live = match idle {
            Some(live) => live,
            None => self.mould.begin(Meter::slice(kit.limits.cpu)).await?,
        };
        let budget = kit.limits.feed_wait + kit.limits.timeout;
        match timeout(budget, self.ask_in(&mut live, cursor)).await {
            Ok(answered) => {
                // It trapped: the store is dead, and dropped with what is returned here.
                let said = answered?;
                *self.idle.lock() = Some(live);
                let said = said.map_err(|returned| kit.conceal(bindings::failure(returned)))?;
                page(said, kit.limits.feed_cursor)
            }
            Err(_elapsed) => Err(fault::timeout(&kit.name, budget)),
        }
    }

    async fn ask_in(
        &self,
        live: &mut Live,
        cursor: Option<Vec<u8>>,
    ) -> Result<Result<change_feed::Page, types::Failure>, Failure> {
        let Mould {
            engine,
            kit,
            worldly,
        } = &self.mould;
        let store = &mut live.store;
        let guest = match &worldly.feed {
            Some(indices) => indices.load(&mut *store, &live.instance),
            None => Err(wasmtime::format_err!(
                "the component exports no `change-feed`"
            )),
        }
        .map_err(|error| instance::host(kit, &error))?;
        let (max, wait) = (kit.limits.feed_page, kit.limits.feed_wait);
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let meter = Arc::clone(&store.data().meter);
        meter.enforce(true);
        let ran = metered(
            engine,
            kit,
            &meter,
            store.run_concurrent(async |accessor| {
                sliced(&meter, guest.call_poll(accessor, cursor, max, wait_ms)).await
            }),
        )
        .await;
        match ran {
            Ok(Ok(said)) => Ok(said),
            Ok(Err(error)) | Err(error) => Err(fault::of(&error, kit, store.data_mut())),
        }
    }
}

impl ChangeFeed for Feed {
    fn poll(&self, cursor: Option<Vec<u8>>) -> BoxFuture<'_, Result<Page, Failure>> {
        Box::pin(async move {
            let denials = Denials::watch(&self.mould.kit);
            let page = self.ask(cursor).await;
            page.map_err(|failure| denials.explain(failure))
        })
    }
}

/// A page on its way out. One with more changes than were asked for is taken all the same: what a guest can hand over in
/// one call is bounded, and a change that is left out is a value that stays wrong.
fn page(said: change_feed::Page, cursor_max: usize) -> Result<Page, Failure> {
    if said.cursor.len() > cursor_max {
        return Err(Failure {
            origin: Origin::Returned,
            ..Failure::host(
                FailureKind::Internal,
                "cursor-too-long",
                format!(
                    "the change feed gave a cursor of {} bytes; it has at most {cursor_max}",
                    said.cursor.len()
                ),
            )
        });
    }
    let changes = said.changes.into_iter().map(|change| match change {
        change_feed::Change::Item(item) => Change::Item {
            route: item.route,
            params: bindings::params(item.params),
        },
        change_feed::Change::Tag(tag) => Change::Tag(tag),
        change_feed::Change::Everything => Change::Everything,
    });
    Ok(Page {
        changes: changes.collect(),
        cursor: said.cursor,
        poll_after: Duration::from_millis(said.poll_after_ms.into()),
    })
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
