//! What the service manager is told of the life of this process: systemd, or who else has set NOTIFY_SOCKET (sd_notify(3)).
//! Says nothing where nobody listens.

use sd_notify::NotifyState;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

/// It answers; `status` is what `systemctl status` shows of it.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its configuration again; [`ready`] ends that. The clock tells systemd to which of its signals this belongs.
pub(super) fn reloading() {
    let status = NotifyState::Status("reading the configuration again");
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, status]),
        Err(error) => warn!(%error, "the clock cannot be read"),
    }
}

/// It begins to end.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Says that it lives, twice in the time after which it would be taken for dead. From a task of the runtime: where that
/// stands still nothing is said, and it is right to end the process.
pub(super) fn keep_alive() -> Option<AbortOnDropHandle<()>> {
    let limit = sd_notify::watchdog_enabled()?;
    let mut every = tokio::time::interval(limit / 2);
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            every.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    })))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager at NOTIFY_SOCKET cannot be told");
    }
}
