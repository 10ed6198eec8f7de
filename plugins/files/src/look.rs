//! The look at the files that every load begins with, shared: a directory of many files takes a while to look at, and a
//! hundred loads need not each do it. Must not know what is done with what is seen.
//!
//! A load must not be told of files as they were before it came, or what was read after a purge could be older than the
//! purge. So a load never joins the look that is running, only the one that comes after it.

use crate::breathe;
use crate::index::Fault;
use crate::scan::Layout;
use crate::stamp::{Stamp, stamps};
use futures_channel::oneshot::{Receiver, channel};
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use std::cell::RefCell;
use std::rc::Rc;

type Look = Shared<Receiver<Result<Rc<[Stamp]>, Fault>>>;

#[derive(Default)]
struct Looks {
    running: Option<Look>,
    /// Begins when the running one has ended.
    next: Option<Look>,
}

thread_local! {
    static LOOKS: RefCell<Looks> = RefCell::default();
}

/// The files as they are at a moment after this call began.
///
/// # Errors
/// What cannot be read.
pub(crate) async fn look(layout: &Layout) -> Result<Rc<[Stamp]>, Fault> {
    let look = LOOKS.with_borrow_mut(|looks| match (&looks.running, &looks.next) {
        (_, Some(next)) => next.clone(),
        (Some(running), None) if running.peek().is_none() => {
            let next = begin(layout, Some(running.clone()));
            looks.next.insert(next).clone()
        }
        _ => looks.running.insert(begin(layout, None)).clone(),
    });
    look.await
        .unwrap_or_else(|_| Err(Fault::Unreadable("the look was given up".to_owned())))
}

/// Looks in the background, so that it ends whoever stops waiting; after `before`, if that is still running.
fn begin(layout: &Layout, before: Option<Look>) -> Look {
    let (seen, look) = channel();
    let layout = layout.clone();
    wit_bindgen::spawn_local(async move {
        if let Some(before) = before {
            let _ = before.await; // what it saw is for those who waited for it
            // From here on nobody may join this one.
            LOOKS.with_borrow_mut(|looks| looks.running = looks.next.take());
        }
        let stamps = stamps(&layout, &breathe).await;
        let _ = seen.send(stamps.map(Rc::from)); // an error: nobody waits any more
    });
    look.shared()
}
