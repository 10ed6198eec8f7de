//! `larder compile-component`: what the process that compiles does. It takes away from itself what it must not use, begins
//! anew within that, reads one component, and writes its code. Knows nothing of plugins, nor who started it but that it
//! waits.
//!
//! **In this order.** The limits come first and the program begins again behind them: an allocator reserves memory before
//! `main`, which limits set later would not count. The engine is compared before the component is read: code for another
//! one would only be refused. The component is read to its last byte before the watch begins, because both read the same
//! input.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

use super::super::engine::{Waiting, config};
use super::worker::{PROGRAM, Task, answer_of, exit};

/// Requests in flight go before a component that is not served yet.
const NICE: i32 = 5;
/// After the first signal for too much CPU time, which a parent may have told this process to ignore, the kill follows.
const CPU_GRACE_SECONDS: u64 = 2;

/// Compiles the component on the standard input to the standard output.
pub fn compile_component(task: Task) -> ExitCode {
    let done = if task.bounded {
        compile(task)
    } else {
        bound(task)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            eprintln!("{why}");
            ExitCode::from(code)
        }
    }
}

type Fault = (u8, String);

fn unable(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| (exit::UNABLE, format!("{what}: {error}"))
}

/// Bounds this process and begins again.
fn bound(task: Task) -> Result<(), Fault> {
    let limits = [
        (
            Resource::Cpu,
            task.cpu_seconds,
            task.cpu_seconds + CPU_GRACE_SECONDS,
        ),
        (Resource::As, task.memory, task.memory),
        // It would be as large as the memory it died of.
        (Resource::Core, 0, 0),
    ];
    for (resource, current, maximum) in limits {
        let most = getrlimit(resource).maximum;
        let within = |wanted: u64| Some(most.map_or(wanted, |most| most.min(wanted)));
        let limit = Rlimit {
            current: within(current),
            maximum: within(maximum),
        };
        setrlimit(resource, limit)
            .map_err(|error| unable("the compiler cannot be bounded")(error.into()))?;
    }
    let _ = nice(NICE);
    let again = Task {
        bounded: true,
        ..task
    };
    let error = Command::new(PROGRAM)
        .arg0("larder")
        .args(again.arguments())
        .exec();
    let code = match error.raw_os_error() {
        Some(number) if number == rustix::io::Errno::NOMEM.raw_os_error() => exit::MEMORY,
        _ => exit::UNABLE,
    };
    Err((code, format!("the compiler cannot begin: {error}")))
}

fn compile(task: Task) -> Result<(), Fault> {
    let engine = engine_of(task.compatibility)?;
    let mut component = Vec::new();
    let mut input = io::stdin().lock().take(task.size as u64);
    input
        .read_to_end(&mut component)
        .map_err(unable("the component cannot be read"))?;
    drop(input);
    if component.len() < task.size {
        return Err((exit::UNABLE, "the component was not sent whole".to_owned()));
    }
    std::thread::Builder::new()
        .spawn(end_with_the_host)
        .map_err(|error| (exit::MEMORY, format!("no thread can be started: {error}")))?;
    let code = super::code_of(&engine, &component).map_err(|error| {
        let code = match error.downcast_ref::<wasmtime::OutOfMemory>() {
            Some(_) => exit::MEMORY,
            None => exit::INVALID,
        };
        (code, format!("{error:#}"))
    })?;
    let (digest, code) = answer_of(&code);
    let mut out = io::stdout().lock();
    out.write_all(digest.as_bytes())
        .and_then(|()| out.write_all(code))
        .and_then(|()| out.flush())
        .map_err(unable("the code cannot be handed over"))
}

/// The engine that the code is for.
fn engine_of(compatibility: u64) -> Result<wasmtime::Engine, Fault> {
    for waiting in Waiting::EACH {
        // Nothing is instantiated here, so there is no pool of instances: what is compiled is the same.
        let engine = wasmtime::Engine::new(&config(false, waiting)).map_err(|error| {
            let why = format!("the compiler cannot be set up: {error:#}");
            (exit::UNABLE, why)
        })?;
        if super::compatibility(&engine) == compatibility {
            return Ok(engine);
        }
    }
    let why = "the compiler is set up for other engines than the one that asks";
    Err((exit::UNABLE, why.to_owned()))
}

/// The host holds the other end of the input while it waits. However it goes away, nobody needs the code any more.
fn end_with_the_host() {
    let mut nothing = [0];
    let _ = io::stdin().lock().read(&mut nothing);
    std::process::exit(i32::from(exit::UNABLE));
}
