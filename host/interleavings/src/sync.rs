//! The checker's locks, atomics and tasks, in the shape of those in the host's `sync`. What the checker does not have is the
//! real thing with a point before each of its steps at which another task may go on.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::OnceLock as StdOnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{Either, select};
pub(crate) use shuttle::future::{JoinHandle, spawn};
use shuttle::rand::Rng as _;
use shuttle::sync::atomic::AtomicBool;
pub(crate) use shuttle::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use tokio::sync::futures::Notified;

thread_local! {
    static TIMES_OUT: Cell<bool> = const { Cell::new(false) };
}

/// Whether a time may run out at any moment, from now on and on this thread; otherwise none ever does, so that who waits for
/// what nobody tells waits for ever, and the checker finds out.
pub fn let_times_run_out(may: bool) {
    TIMES_OUT.set(may);
}

/// Whether a time may run out.
pub fn may_times_run_out() -> bool {
    TIMES_OUT.get()
}

/// Another task may go on here.
#[derive(Debug, Default)]
struct Point(AtomicBool);

impl Point {
    fn pass(&self) {
        self.0.load(Ordering::SeqCst);
    }
}

/// A task gives way: its question or its answer is on the way.
pub async fn step() {
    shuttle::future::yield_now().await;
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
        self.0.lock().expect("nobody panicked with it")
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> shuttle::sync::RwLockReadGuard<'_, T> {
        self.0.read().expect("nobody panicked with it")
    }

    pub(crate) fn write(&self) -> shuttle::sync::RwLockWriteGuard<'_, T> {
        self.0.write().expect("nobody panicked with it")
    }
}

#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    point: Point,
    once: StdOnceLock<T>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            point: Point::default(),
            once: StdOnceLock::new(),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.point.pass();
        self.once.get()
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.point.pass();
        self.once.set(value)
    }
}

#[derive(Debug)]
pub(crate) struct Notify {
    point: Point,
    notify: tokio::sync::Notify,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self {
            point: Point::default(),
            notify: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        self.point.pass();
        self.notify.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        self.point.pass();
        self.notify.notify_waiters();
    }
}

/// A time ran out.
#[derive(Debug)]
pub(crate) struct Elapsed;

/// As tokio's, but the time runs out whenever the checker lets it; see [`let_times_run_out`].
pub(crate) async fn timeout<F: Future>(_: Duration, work: F) -> Result<F::Output, Elapsed> {
    if !may_times_run_out() {
        return Ok(work.await);
    }
    let moments = shuttle::rand::thread_rng().gen_range(0..60);
    let timer = spawn(async move {
        for _ in 0..moments {
            step().await;
        }
    });
    match select(pin!(work), timer).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(_) => Err(Elapsed),
    }
}
