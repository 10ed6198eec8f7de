//! What the concurrent code of the cache is made of, named in one place. `host/interleavings` compiles that code with a
//! concurrency checker's in their stead, which decides at every one of them who goes on. Counters that decide nothing need not
//! be from here. Knows nothing of what it is used for.

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

pub(crate) use parking_lot::{Mutex, RwLock};
pub(crate) use tokio::spawn;
pub(crate) use tokio::sync::Notify;
pub(crate) use tokio::task::JoinHandle;
pub(crate) use tokio::time::timeout;
