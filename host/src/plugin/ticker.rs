//! The clock of guest code: ends an epoch every millisecond while guests run, and sleeps while none do.
//!
//! Owns one thread. Knows nothing of stores: whoever runs guest code calls [`Ticker::pulse`] when it begins and whenever
//! it meets the end of an epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// The length of an epoch: the grain of every `cpu` limit.
pub(super) const EPOCH: Duration = Duration::from_millis(1);
/// Epochs without guest code after which the thread sleeps until the next pulse. Few: each takes the core from whoever serves
/// for a moment, and a key policy that is asked now and then (a sample of what is remembered) would keep it awake for good.
const IDLE_EPOCHS: u32 = 4;

/// The ticker of engines. Ends with the first of them that does.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    /// Guest code ran since the last epoch ended.
    busy: AtomicBool,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
}

impl Ticker {
    /// Starts the thread. It ends soon after the engines are dropped.
    pub(super) fn start<const N: usize>(engines: [EngineWeak; N]) -> Self {
        let shared = Arc::new(Shared {
            busy: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("epochs".to_owned())
            .spawn(move || run(&engines, &theirs))
            .expect("a thread can be started");
        Self {
            shared,
            thread: handle.thread().clone(),
        }
    }

    /// Guest code runs now. Costs one load when it was already said in this epoch.
    ///
    /// The interleaving: the thread announces `asleep` and then looks at `busy` again; a caller sets `busy` and then looks
    /// at `asleep`. Both orders are sequentially consistent, so at least one of the two sees the other. A caller that finds
    /// `busy` already set comes before the swap that clears it, and the thread stays awake for some epochs after that.
    pub(super) fn pulse(&self) {
        if self.shared.busy.load(Ordering::SeqCst) {
            return;
        }
        self.shared.busy.store(true, Ordering::SeqCst);
        if self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

fn run(engines: &[EngineWeak], shared: &Shared) {
    let mut idle = 0;
    loop {
        thread::park_timeout(EPOCH);
        for engine in engines {
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
        idle = if shared.busy.swap(false, Ordering::SeqCst) {
            0
        } else {
            idle + 1
        };
        if idle < IDLE_EPOCHS {
            continue;
        }
        idle = 0;
        shared.asleep.store(true, Ordering::SeqCst);
        if shared.busy.load(Ordering::SeqCst) {
            shared.asleep.store(false, Ordering::SeqCst);
            continue;
        }
        // Woken by a pulse or by the end of the engines; once in a while it looks by itself whether the engines still are.
        while shared.asleep.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_secs(5));
            if engines.iter().any(|engine| engine.upgrade().is_none()) {
                return;
            }
        }
    }
}
