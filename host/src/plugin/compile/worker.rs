//! Who compiles: a process of its own, whose CPU time and memory the system bounds, so that what a hostile component does
//! to the compiler ends there. Owns how that process is started, spoken with and understood when it dies; knows neither the
//! cache of compiled code nor what the process does ([`super::bounded`]).

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::super::examine;
use super::super::output::harmless;
use super::super::runtime::Refusal;
use crate::config;
use crate::config::defaults::plugins as setting;

/// The image that runs, whatever lies at its path by now: after an upgrade, another version would compile for this one.
pub(super) const PROGRAM: &str = "/proc/self/exe";
/// The hidden command of that program.
const COMMAND: &str = "compile-component";
/// What the process may say on its standard error; the rest is dropped.
const SAID_MAX: u64 = 4096;
/// By the clock a compilation may take this many times its CPU time: a busy machine is no fault of the component.
const CLOCK: u32 = 5;
/// Threads of the compiler: each needs memory of its own.
const THREADS_MAX: usize = 4;

/// How a process that ends by itself says why. Any other end is a crash.
pub(super) mod exit {
    /// The component is no component.
    pub(in super::super) const INVALID: u8 = 65;
    /// The component asks for more memory than there may be.
    pub(in super::super) const MEMORY: u8 = 66;
    /// The process could not begin.
    pub(in super::super) const UNABLE: u8 = 67;
}

/// What one compilation may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time of all its threads; the system counts whole seconds, so it is rounded up.
    pub cpu: Duration,
    /// Address space, in bytes.
    pub memory: u64,
}

impl CompileLimits {
    /// As `[plugins]` says.
    pub fn of(plugins: &config::Plugins) -> Self {
        Self {
            cpu: plugins.compile_cpu,
            memory: plugins.compile_memory,
        }
    }

    fn cpu_seconds(self) -> u64 {
        self.cpu.as_secs() + u64::from(self.cpu.subsec_nanos() > 0)
    }

    fn clock(self) -> Duration {
        Duration::from_secs(self.cpu_seconds()) * CLOCK
    }
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            cpu: setting::compile_cpu.default_value(),
            memory: setting::compile_memory.default_value(),
        }
    }
}

/// What the process is asked to do: all that it is told beside the component itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// The hash of the engine that the code is for.
    pub compatibility: u64,
    /// Bytes of the component, which are the beginning of its standard input.
    pub size: usize,
    /// CPU time, in seconds.
    pub cpu_seconds: u64,
    /// Address space, in bytes.
    pub memory: u64,
    /// Whether it is bounded already.
    pub bounded: bool,
}

impl Task {
    /// The command line, after the program's name.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec![
            COMMAND.to_owned(),
            format!("--compatibility={}", self.compatibility),
            format!("--size={}", self.size),
            format!("--cpu-seconds={}", self.cpu_seconds),
            format!("--memory={}", self.memory),
        ];
        arguments.extend(self.bounded.then(|| "--bounded".to_owned()));
        arguments.into_iter().map(OsString::from).collect()
    }
}

/// Who compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// This program, started once more for each component, within these limits.
    Process(CompileLimits),
    /// This process, within none: for a program that has no [`COMMAND`], such as a test of this crate.
    Here,
}

impl Worker {
    /// The compiled code of a component, for the engine with this hash.
    pub(super) async fn compile(
        self,
        engine: &wasmtime::Engine,
        compatibility: u64,
        name: &str,
        bytes: Bytes,
    ) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Process(limits) => compile_aside(limits, compatibility, name, bytes).await,
            Self::Here => {
                let (engine, name) = (engine.clone(), name.to_owned());
                let work = move || {
                    let code = super::code_of(&engine, &bytes);
                    code.map_err(|error| {
                        examine::not_compiled(&name, bytes.len(), &format!("{error:#}"))
                    })
                };
                let done = tokio::task::spawn_blocking(work).await;
                done.unwrap_or_else(|error| {
                    Err(Refusal::bare(format!("the compiler failed: {error}")))
                })
            }
        }
    }
}

async fn compile_aside(
    limits: CompileLimits,
    compatibility: u64,
    name: &str,
    bytes: Bytes,
) -> Result<Vec<u8>, Refusal> {
    let task = Task {
        compatibility,
        size: bytes.len(),
        cpu_seconds: limits.cpu_seconds(),
        memory: limits.memory,
        bounded: false,
    };
    let unable = |error: std::io::Error| {
        Refusal::new(
            format!("`{name}` is not compiled: the compiler cannot be started: {error}"),
            "it is this program, started again from /proc/self/exe: /proc must be mounted, and one more process allowed",
        )
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut child = Command::new(PROGRAM)
        .arg0("larder")
        .args(task.arguments())
        // Nothing of the host's: the environment may hold secrets.
        .env_clear()
        .env("RAYON_NUM_THREADS", cores.min(THREADS_MAX).to_string())
        // Ctrl-C is for the host, which ends it by closing its standard input.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(unable)?;
    let (mut input, output, errors) = (
        child.stdin.take().expect("it is piped"),
        child.stdout.take().expect("it is piped"),
        child.stderr.take().expect("it is piped"),
    );
    let mut said = Vec::new();
    let talk = async {
        // The input stays open until the process has ended: its end tells it that nobody waits any more.
        let write = async {
            let _ = input.write_all(&bytes).await;
            input
        };
        let read = async {
            let mut answer = Vec::new();
            let mut output = output.take(limits.memory);
            output.read_to_end(&mut answer).await.map(|_| answer)
        };
        let listen = async {
            let mut errors = errors;
            let _ = (&mut errors).take(SAID_MAX).read_to_end(&mut said).await;
            let _ = tokio::io::copy(&mut errors, &mut tokio::io::sink()).await;
        };
        let (_input, answer, (), status) = tokio::join!(write, read, listen, child.wait());
        Ok::<_, std::io::Error>((answer?, status?))
    };
    let ended = tokio::time::timeout(limits.clock(), talk).await;
    let Ok(ended) = ended else {
        let _ = child.kill().await;
        return Err(Refusal::new(
            format!(
                "`{name}` is not compiled: it took longer than {}, {CLOCK} times compile_cpu",
                humantime::format_duration(limits.clock())
            ),
            "try again when the machine is less busy; compile_cpu of [plugins] in larder.toml sets the limit",
        ));
    };
    let (answer, status) = ended.map_err(unable)?;
    let said = String::from_utf8_lossy(&said);
    if !status.success() {
        return Err(died(name, limits, bytes.len(), status, said.trim()));
    }
    code_of(answer).ok_or_else(|| {
        Refusal::new(
            format!("`{name}` is not compiled: what the compiler gave is damaged"),
            "reload it; if it happens again, the machine's memory is at fault",
        )
    })
}

/// The answer of the process, unchecked: the digest of the code, then the code.
pub(super) fn answer_of(code: &[u8]) -> (blake3::Hash, &[u8]) {
    (blake3::hash(code), code)
}

/// The code of an answer that is whole.
fn code_of(mut answer: Vec<u8>) -> Option<Vec<u8>> {
    let digest: [u8; blake3::OUT_LEN] = answer.get(..blake3::OUT_LEN)?.try_into().ok()?;
    answer.drain(..blake3::OUT_LEN);
    (blake3::hash(&answer) == blake3::Hash::from_bytes(digest)).then_some(answer)
}

/// What the end of the process says about the component.
fn died(name: &str, limits: CompileLimits, size: usize, status: ExitStatus, said: &str) -> Refusal {
    let said = harmless(said);
    let signal = status.signal().and_then(Signal::from_named_raw);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    // Rust's own words when an allocation fails. What is said of an invalid component may hold names of its own.
    let out_of_memory = code != Some(exit::INVALID)
        && (said.contains("memory allocation of") || said.contains("out of memory"));
    if signal == Some(Signal::XCPU) {
        return Refusal::new(
            format!(
                "`{name}` is not compiled: compiling it took more than {} s of CPU time",
                limits.cpu_seconds()
            ),
            format!(
                "a plugin that needs that much is most likely not what it says; if you trust it, write compile_cpu = \"{}s\" under [plugins] in larder.toml",
                limits.cpu_seconds() * 2
            ),
        );
    }
    if code == Some(exit::MEMORY) || out_of_memory {
        let mebibytes = limits.memory.div_ceil(1 << 20);
        return Refusal::new(
            format!(
                "`{name}` is not compiled: compiling it took more than {mebibytes} MiB of memory"
            ),
            format!(
                "a plugin that needs that much is most likely not what it says; if you trust it, write compile_memory = \"{}MiB\" under [plugins] in larder.toml",
                mebibytes * 2
            ),
        );
    }
    if code == Some(exit::INVALID) {
        return examine::not_compiled(name, size, &said);
    }
    if code == Some(exit::UNABLE) {
        return Refusal::bare(format!("`{name}` is not compiled: {said}"));
    }
    let how = match (signal, status.signal()) {
        (Some(Signal::KILL), _) => {
            "it was killed, as the system does when memory is short".to_owned()
        }
        (_, Some(number)) => format!("it died of signal {number}"),
        (_, None) => format!("it ended with {status}"),
    };
    let told = match said.as_ref() {
        "" => String::new(),
        said => format!(", and said: {said}"),
    };
    Refusal::new(
        format!("`{name}` is not compiled: the compiler failed on it: {how}{told}"),
        "build it again with other tools, or report it: no component should do that",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CompileLimits = CompileLimits {
        cpu: Duration::from_millis(1500),
        memory: 300 << 20,
    };

    /// As wait(2) gives it: a signal is its number, an exit code is shifted.
    fn check(wait_status: i32, said: &str, expect: &str) {
        let refusal = died("x", LIMITS, 10, ExitStatus::from_raw(wait_status), said);
        assert_eq!(refusal.to_string(), expect);
    }

    #[test]
    fn every_end_of_the_process_is_told_for_what_it_is() {
        check(
            24,
            "",
            "`x` is not compiled: compiling it took more than 2 s of CPU time (a plugin that needs that much is most likely \
             not what it says; if you trust it, write compile_cpu = \"4s\" under [plugins] in larder.toml)",
        );
        check(
            6,
            "memory allocation of 4096 bytes failed",
            "`x` is not compiled: compiling it took more than 300 MiB of memory (a plugin that needs that much is most \
             likely not what it says; if you trust it, write compile_memory = \"600MiB\" under [plugins] in larder.toml)",
        );
        check(
            101 << 8,
            "thread 'main' panicked at \u{1b}[31m",
            "`x` is not compiled: the compiler failed on it: it ended with exit status: 101, and said: thread 'main' \
             panicked at ␛[31m (build it again with other tools, or report it: no component should do that)",
        );
        check(
            9,
            "",
            "`x` is not compiled: the compiler failed on it: it was killed, as the system does when memory is short (build \
             it again with other tools, or report it: no component should do that)",
        );
        check(
            i32::from(exit::INVALID) << 8,
            "bad magic",
            "`x` is no valid component: bad magic (build it again; `wasm-tools validate` says the same)",
        );
    }

    #[test]
    fn an_answer_that_is_not_whole_is_no_code() {
        let (digest, code) = answer_of(b"code");
        let whole = [digest.as_bytes(), code].concat();
        assert_eq!(code_of(whole.clone()).as_deref(), Some(&b"code"[..]));
        assert_eq!(code_of(whole[..whole.len() - 1].to_vec()), None);
        assert_eq!(code_of(whole[..10].to_vec()), None);
    }

    #[test]
    fn limits_are_whole_seconds_and_five_times_as_many_by_the_clock() {
        assert_eq!(LIMITS.cpu_seconds(), 2);
        assert_eq!(LIMITS.clock(), Duration::from_secs(10));
    }
}
