//! The clock of guest code: ends an epoch every millisecond while guests run, and sleeps while none do.
//!
//! Owns one thread. Knows nothing of stores: whoever runs guest code says so when it begins, and calls [`Ticker::pulse`] whenever
//! it meets the end of an epoch.
//!
//! Each end of an epoch takes the core from whoever serves for a moment, a thousand times in a second. Key policies are called
//! for a microsecond each, and it is nearly always in vain; so while nothing else runs, epochs are longer. A call that meets
//! the end of two is not short, so what follows is counted in milliseconds; the end of one is met by many that are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// The length of an epoch: the grain of every `cpu` limit, but for that of a key policy, which may be noticed two long ones later.
pub(super) const EPOCH: Duration = Duration::from_millis(1);
/// The length of one in which only short calls begin: so much later is it noticed that one of them is not.
const LONG_EPOCH: Duration = Duration::from_millis(5);
/// Epochs without guest code, or with none but short calls, after which there are longer ones, or none until the next pulse. Few,
/// for what each costs.
const IDLE_EPOCHS: u32 = 4;

/// What has run since the last epoch ended, and so how long the next one is.
const NOTHING: u8 = 0;
const SHORT: u8 = 1;
const ANY: u8 = 2;

/// The ticker of engines. Ends with the first of them that does.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    /// What ran since the last epoch ended.
    ran: AtomicU8,
    /// What the epoch that passes now is made for: [`ANY`] is met every millisecond, [`SHORT`] in long epochs, and for
    /// [`NOTHING`] the thread sleeps.
    made_for: AtomicU8,
}

impl Ticker {
    /// Starts the thread. It ends soon after the engines are dropped.
    pub(super) fn start<const N: usize>(engines: [EngineWeak; N]) -> Self {
        let shared = Arc::new(Shared {
            ran: AtomicU8::new(NOTHING),
            made_for: AtomicU8::new(ANY),
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
    pub(super) fn pulse(&self) {
        self.runs(ANY);
    }

    /// Guest code runs now, and is nearly always at its end in a moment.
    pub(super) fn pulse_short(&self) {
        self.runs(SHORT);
    }

    /// The interleaving: the thread announces what its epoch is `made_for` and then looks at what `ran` again; a caller raises
    /// `ran` and then looks at `made_for`. Both orders are sequentially consistent, so at least one of the two sees the
    /// other. A caller that finds both as high already has nothing to say: the swap that clears `ran` comes later, and the
    /// thread makes no longer epochs for some time after that. One that finds `ran` so and `made_for` not has met another
    /// that is between the two, and does not rely on it: its thread may be held up there.
    fn runs(&self, what: u8) {
        let Shared { ran, made_for } = &*self.shared;
        if ran.load(Ordering::SeqCst) >= what && made_for.load(Ordering::SeqCst) >= what {
            return;
        }
        ran.fetch_max(what, Ordering::SeqCst);
        if made_for.fetch_max(what, Ordering::SeqCst) < what {
            self.thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

/// How long epochs are, from what has run in those before.
#[derive(Default)]
struct Rhythm {
    /// Epochs one after another in which less ran than they were made for.
    idle: u32,
}

impl Rhythm {
    /// What the next epoch is made for, after one made for `epoch` in which this `ran`.
    fn next(&mut self, epoch: u8, ran: u8) -> u8 {
        self.idle = if ran < epoch { self.idle + 1 } else { 0 };
        if self.idle < IDLE_EPOCHS {
            return epoch;
        }
        self.idle = 0;
        ran
    }
}

fn run(engines: &[EngineWeak], shared: &Shared) {
    let Shared { ran, made_for } = shared;
    let mut rhythm = Rhythm::default();
    loop {
        let epoch = made_for.load(Ordering::SeqCst);
        thread::park_timeout(if epoch == ANY { EPOCH } else { LONG_EPOCH });
        if made_for.load(Ordering::SeqCst) > epoch {
            // Woken in a long one: nobody is to meet its end before a millisecond of its own is over.
            continue;
        }
        for engine in engines {
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
        let next = rhythm.next(epoch, ran.swap(NOTHING, Ordering::SeqCst));
        if next == epoch {
            continue;
        }
        made_for.store(next, Ordering::SeqCst);
        made_for.fetch_max(ran.load(Ordering::SeqCst), Ordering::SeqCst);
        // Woken by a pulse or by the end of the engines; once in a while it looks by itself whether the engines still are.
        while made_for.load(Ordering::SeqCst) == NOTHING {
            thread::park_timeout(Duration::from_secs(5));
            if engines.iter().any(|engine| engine.upgrade().is_none()) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the epoch is made for that follows those in which this ran. Who says that it runs shortens the epoch at once.
    fn after(mut epoch: u8, ran: &[u8]) -> u8 {
        let mut rhythm = Rhythm::default();
        for ran in ran {
            epoch = rhythm.next(epoch.max(*ran), *ran);
        }
        epoch
    }

    #[test]
    fn while_there_are_only_short_calls_epochs_are_long_and_without_any_there_are_none() {
        assert_eq!(after(ANY, &[SHORT; 3]), ANY);
        assert_eq!(after(ANY, &[SHORT; 4]), SHORT);
        assert_eq!(after(ANY, &[SHORT, SHORT, ANY, SHORT, SHORT]), ANY);
        assert_eq!(after(ANY, &[NOTHING; 4]), NOTHING);
        assert_eq!(after(SHORT, &[NOTHING; 3]), SHORT);
        assert_eq!(after(SHORT, &[NOTHING; 4]), NOTHING);
        assert_eq!(after(SHORT, &[SHORT; 9]), SHORT);
        // What meets the end of a long one is not short.
        assert_eq!(after(SHORT, &[ANY]), ANY);
    }

    #[test]
    fn who_says_that_guest_code_runs_shortens_the_epoch_and_never_makes_it_longer() {
        let ticker = Ticker {
            shared: Arc::new(Shared {
                ran: AtomicU8::new(NOTHING),
                made_for: AtomicU8::new(NOTHING),
            }),
            thread: thread::current(),
        };
        let shared = Arc::clone(&ticker.shared);
        let state = || {
            let Shared { ran, made_for } = &*shared;
            (ran.load(Ordering::SeqCst), made_for.load(Ordering::SeqCst))
        };
        ticker.pulse_short();
        assert_eq!(state(), (SHORT, SHORT));
        ticker.pulse();
        assert_eq!(state(), (ANY, ANY));
        ticker.pulse_short();
        assert_eq!(state(), (ANY, ANY));
        // Another is held up after it has raised the one, and before it raises the other.
        shared.made_for.store(NOTHING, Ordering::SeqCst);
        ticker.pulse();
        assert_eq!(state(), (ANY, ANY));
        // The epoch has ended; the next one is as short as it was.
        shared.ran.store(NOTHING, Ordering::SeqCst);
        ticker.pulse_short();
        assert_eq!(state(), (SHORT, ANY));
    }
}
