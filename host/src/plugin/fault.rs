//! Why a store died, in words for the reader of an error: which limit or which trap, and the last lines the guest printed.

use std::time::Duration;

use wasmtime::Trap;
use wasmtime::component::ResourceTableError;
use wasmtime_wasi::I32Exit;

use super::Egress;
use super::adapter::Unreadable;
use super::linkers::Impure;
use super::state::{Grown, Kit, State};
use crate::error::{Failure, FailureKind, Origin};

/// The failure that stands for an error of wasmtime. The store it came from is dead, and if it passed a limit its plugin is
/// under suspicion.
pub(super) fn of(error: &wasmtime::Error, kit: &Kit, state: &mut State) -> Failure {
    let name = &kit.name;
    let limits = &kit.limits;
    let (origin, code, mut message) = if state.meter.exceeded() {
        let message = format!(
            "`{name}` ran for longer than {:?} without a pause ([limits] cpu)",
            limits.cpu
        );
        (Origin::Limit, "cpu-limit", message)
    } else if is_host_data(error) || said_too_much(error) {
        let message = format!(
            "`{name}` handed over more than {} bytes in one call ([limits] {} and {} bytes beside it)",
            limits.handed,
            if limits.handed > limits.body.saturating_add(limits.host_data) {
                "memory"
            } else {
                "body"
            },
            limits.host_data
        );
        (Origin::Limit, "output-limit", message)
    } else if let Some(exit) = error.downcast_ref::<I32Exit>() {
        (
            Origin::Trap,
            "trap",
            format!("`{name}` called exit({})", exit.0),
        )
    } else if let Some(impure) = error.downcast_ref::<Impure>() {
        (Origin::Trap, "trap", format!("`{name}`: {impure}"))
    } else if is_handles(error) {
        let message = format!(
            "`{name}` held more than {} handles at once; it must drop what it does not need",
            limits.handles
        );
        (Origin::Limit, "handle-limit", message)
    } else if is_random(error) {
        let message = format!(
            "`{name}` wanted more than {} random bytes in one call; it may seed a generator of its own",
            limits.random
        );
        (Origin::Limit, "random-limit", message)
    } else if let Some(grown) = state.memory.take_refused() {
        match grown {
            Grown::Memory => {
                let message = format!(
                    "`{name}` wanted more than {} bytes of memory ([limits] memory)",
                    limits.memory
                );
                (Origin::Limit, "memory-limit", message)
            }
            Grown::Tables => {
                let message = format!(
                    "`{name}` wanted more than {} elements in its tables",
                    limits.table_elements
                );
                (Origin::Limit, "table-limit", message)
            }
        }
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        let what = trap.to_string();
        let what = what.strip_prefix("wasm trap: ").unwrap_or(&what).to_owned();
        (Origin::Trap, "trap", format!("`{name}` trapped: {what}"))
    } else {
        (Origin::Trap, "trap", format!("`{name}` failed: {error}"))
    };
    let last = state.output.last_lines();
    if !last.is_empty() {
        message.push_str("; it last said: ");
        message.push_str(&last);
    }
    if origin == Origin::Limit {
        kit.suspicion.arises();
    }
    Failure::fault(origin, code, message)
}

/// As wasmtime's error for exhausted hostcall fuel, where Larder reads what a guest has left.
fn said_too_much(error: &wasmtime::Error) -> bool {
    error.downcast_ref() == Some(&Unreadable::TooMuch)
}

/// wasmtime's error for exhausted hostcall fuel is private, and so known by its text.
fn is_host_data(error: &wasmtime::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.to_string().contains("fuel allocated for hostcalls"))
}

/// Of what the host keeps for a guest, and of what the guest makes by itself. The latter's error is known by its text.
fn is_handles(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<ResourceTableError>(),
            Some(ResourceTableError::Full)
        ) || cause.to_string().contains("handle limit exceeded")
    })
}

/// This one is known by its text, too.
fn is_random(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        let text = cause.to_string();
        text.starts_with("requested len ") && text.contains("exceeds limit")
    })
}

/// A call that was in the guest did not end in time.
pub(super) fn timeout(name: &str, after: Duration) -> Failure {
    Failure::fault(
        Origin::Limit,
        "timeout",
        format!("`{name}` did not answer within {after:?}"),
    )
}

/// A call that never reached the guest: all its places were taken for too long. Not the guest's fault.
pub(super) fn no_place(name: &str, after: Duration) -> Failure {
    Failure::host(
        FailureKind::Timeout,
        "timeout",
        format!("`{name}` had no free place within {after:?} ([limits] concurrency, instances)"),
    )
}

/// A call that never reached the guest: no instance was ready in time. It says nothing of the source, so it is not remembered.
pub(super) fn no_instance(name: &str, after: Duration) -> Failure {
    Failure {
        retry_after: Some(Duration::from_secs(1)),
        ..Failure::host(
            FailureKind::Overloaded,
            "plugin-starting",
            format!(
                "`{name}` had no instance ready within {after:?}: one is being started, or rests after a fault; ask again"
            ),
        )
    }
}

/// A neighbour killed the instance that a call was in, and there was no time left to ask again. Not the call's fault.
pub(super) fn not_asked_again(name: &str, after: Duration) -> Failure {
    Failure::host(
        FailureKind::Timeout,
        "timeout",
        format!("`{name}` died under another call, and asking again took longer than {after:?}"),
    )
}

/// A call was turned away: there was no room to wait, or it could not be answered in time. `backlog` is how long those who
/// wait will keep the plugin busy.
pub(super) fn overloaded(name: &str, waiting: usize, backlog: Duration) -> Failure {
    // Before that time is over there is no use in asking again; nobody is sent away for longer than half a minute.
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(30));
    Failure {
        retry_after: Some(backlog.clamp(least, most)),
        ..Failure::host(
            FailureKind::Overloaded,
            "plugin-overloaded",
            format!(
                "`{name}` is asked for more than it does ({waiting} calls wait); [limits] concurrency and instances bound what it does at once"
            ),
        )
    }
}

/// A batching loader gave another number of results than it was asked questions: it is not known which is whose.
pub(super) fn batch_length(name: &str, asked: usize, given: usize) -> Failure {
    Failure {
        origin: Origin::Returned,
        ..Failure::host(
            FailureKind::Internal,
            "batch-length",
            format!(
                "`{name}` was asked {asked} questions in a batch and gave {given} results; it owes one for each"
            ),
        )
    }
}

/// The version was taken out of service.
pub(super) fn stopped(name: &str) -> Failure {
    Failure::host(
        FailureKind::NotLoaded,
        "plugin-not-loaded",
        format!("`{name}` is being stopped"),
    )
}

/// How often the egress of a plugin had denied something when a call began.
pub(super) struct Denials<'a> {
    kit: &'a Kit,
    egress: Option<&'a Egress>,
    before: u64,
}

impl<'a> Denials<'a> {
    /// Begins to look.
    pub(super) fn watch(kit: &'a Kit) -> Self {
        let egress = kit.egress.as_deref();
        Self {
            kit,
            egress,
            before: egress.map_or(0, Egress::denied_count),
        }
    }

    /// Adds the newest denial to the message of a failure, if there was one meanwhile, and takes secrets out of it.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        let mut failure = self.kit.conceal(failure);
        let denied = self
            .egress
            .filter(|egress| egress.denied_count() > self.before);
        if let Some(denial) = denied.and_then(|egress| egress.denials().pop())
            && !failure.message.contains(&denial)
        {
            failure.message.push_str("; ");
            failure.message.push_str(&denial);
        }
        failure
    }
}
