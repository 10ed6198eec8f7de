//! What the service manager is told of the life of this process: systemd, or who else has set NOTIFY_SOCKET (sd_notify(3)).
//! Says nothing where nobody listens, and makes nobody wait for who listens: a socket that is full blocks its sender, so a
//! thread of its own sends.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use sd_notify::NotifyState;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

/// Something to be told.
enum Word {
    Ready(String),
    /// With the clock, by which systemd knows to which of its signals this belongs.
    Reloading(NotifyState<'static>),
    Stopping(String),
    Alive,
}

/// Words that wait to be sent at most: there are a handful in the life of a process, beside those that it lives.
const WORDS_MAX: usize = 64;

/// Words that were not sent yet.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// It answers; `status` is what `systemctl status` shows of it.
pub(super) fn ready(status: &str) {
    tell(Word::Ready(status.to_owned()));
}

/// It reads its configuration again; [`ready`] ends that.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(Word::Reloading(now)),
        Err(error) => warn!(%error, "the clock cannot be read"),
    }
}

/// It begins to end.
pub(super) fn stopping(status: &str) {
    tell(Word::Stopping(status.to_owned()));
}

/// Says that it lives, twice in the time after which it would be taken for dead. From a task of the runtime: where that
/// stands still nothing is said, and it is right to end the process.
pub(super) fn keep_alive() -> Option<AbortOnDropHandle<()>> {
    let limit = sd_notify::watchdog_enabled()?;
    let mut every = tokio::time::interval(limit / 2);
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            every.tick().await;
            // While nobody hears, once is enough; and what else is to be said finds room.
            if WAITING.load(Ordering::Relaxed) == 0 {
                tell(Word::Alive);
            }
        }
    })))
}

fn tell(word: Word) {
    static THREAD: OnceLock<Option<SyncSender<Word>>> = OnceLock::new();
    let Some(thread) = THREAD.get_or_init(start) else {
        return;
    };
    WAITING.fetch_add(1, Ordering::Relaxed);
    if thread.try_send(word).is_err() {
        WAITING.fetch_sub(1, Ordering::Relaxed);
        warn!("the service manager at NOTIFY_SOCKET does not hear");
    }
}

fn start() -> Option<SyncSender<Word>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, words) = sync_channel(WORDS_MAX);
    let told = thread::Builder::new()
        .name("supervisor".to_owned())
        .spawn(move || {
            for word in words {
                send(&word);
                WAITING.fetch_sub(1, Ordering::Relaxed);
            }
        });
    match told {
        Ok(_) => Some(sender),
        Err(error) => {
            warn!(%error, "the service manager cannot be told");
            None
        }
    }
}

fn send(word: &Word) {
    let sent = match word {
        Word::Ready(status) => {
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
        }
        Word::Reloading(now) => sd_notify::notify(&[
            NotifyState::Reloading,
            now.clone(),
            NotifyState::Status("reading the configuration again"),
        ]),
        Word::Stopping(status) => {
            sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(status)])
        }
        Word::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
    };
    if let Err(error) = sent {
        warn!(%error, "the service manager at NOTIFY_SOCKET cannot be told");
    }
}
