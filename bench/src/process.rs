//! Child processes on one core each, and the CPU time they used. Owns pinning, logs and /proc; must not
//! know what the processes serve.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    process::{Pid, Signal},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long a child may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The two cores of a run, as the kernel numbers them.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    /// Where the contestants run, one under load at a time.
    pub(crate) server: usize,
    /// Where the load and Redis run.
    pub(crate) load: usize,
}

impl Cores {
    /// The first two cores this process may use: a container need not be given 0 and 1.
    pub(crate) fn allowed() -> Result<Self> {
        let set = sched_getaffinity(None).context("cannot read which cores are allowed")?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core));
        match (allowed.next(), allowed.next()) {
            (Some(server), Some(load)) => Ok(Self { server, load }),
            _ => bail!(
                "two cores are needed, one for the server and one for the load; give the process another"
            ),
        }
    }
}

/// Starts a command on one core. Must be called from a runtime of one thread, see the comment inside.
pub(crate) fn spawn_on(core: usize, command: &mut Command) -> Result<Child> {
    spawn_among(&[core], command)
}

fn spawn_among(cores: &[usize], command: &mut Command) -> Result<Child> {
    // A child inherits the affinity of the thread that starts it, so it is pinned before its first
    // instruction: a runtime that counts its cores at start counts one. No await lies between the two
    // calls and the runtime has one thread, so nothing else is started with this affinity.
    let before = sched_getaffinity(None)?;
    pin_among(cores)?;
    let child = command.kill_on_drop(true).spawn();
    sched_setaffinity(None, &before)?;
    child.with_context(|| format!("cannot start {}", command.as_std().get_program().display()))
}

/// Keeps this thread on one core from now on: where the load is the program's own.
pub(crate) fn pin(core: usize) -> Result<()> {
    pin_among(&[core])
}

/// Keeps this thread on these cores from now on.
pub(crate) fn pin_among(cores: &[usize]) -> Result<()> {
    let mut pinned = CpuSet::new();
    for &core in cores {
        pinned.set(core);
    }
    sched_setaffinity(None, &pinned).with_context(|| format!("cannot pin to cores {cores:?}"))
}

/// Resident memory in bytes, proc_pid_status(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) resident: u64,
    /// What is this process's own: heap, stacks, and pages of files that it wrote to.
    pub(crate) anonymous: u64,
    /// Pages of files, which the kernel can drop and read again, and which are there once for all who map them.
    pub(crate) files: u64,
}

/// How often threads have left their cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    /// Because they had nothing to do.
    pub(crate) slept: u64,
    /// Because somebody else was to have the core.
    pub(crate) sent_away: u64,
}

impl Switches {
    pub(crate) fn sum(self) -> u64 {
        self.slept + self.sent_away
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            slept: self.slept.saturating_sub(before.slept),
            sent_away: self.sent_away.saturating_sub(before.sent_away),
        }
    }
}

/// A server of a run. Dropped, it is killed.
pub(crate) struct Server {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Server {
    /// Starts a server on a core; what it prints goes to `NAME.log` in `directory`.
    pub(crate) fn start(
        name: &str,
        core: usize,
        directory: &Path,
        command: Command,
    ) -> Result<Self> {
        Self::start_among(name, &[core], directory, command)
    }

    /// The same on several cores: a runtime that counts its cores finds as many.
    pub(crate) fn start_among(
        name: &str,
        cores: &[usize],
        directory: &Path,
        mut command: Command,
    ) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Its own, so that its workers can be ended with it.
            .process_group(0);
        let child = spawn_among(cores, &mut command)?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self {
            name: name.to_owned(),
            pid: pid.with_context(|| format!("{name} ended at once"))?,
            child,
            log,
        })
    }

    /// As the system knows it.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// The status, if the server has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The CPU time used so far, user and system, by all threads and all descendants: the clock of the comparison.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let of = |id: u32| ticks(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?);
        let tree = self.tree();
        let own = of(tree[0]).with_context(|| {
            format!(
                "{} has ended during the measurement\n{}",
                self.name,
                self.last_lines()
            )
        })?;
        // A descendant that has ended meanwhile is counted by who waited for it.
        let ticks = own + tree[1..].iter().filter_map(|id| of(*id)).sum::<u64>();
        Ok(Duration::from_secs_f64(
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        ))
    }

    /// How often its threads, and those of its descendants, have left the core so far.
    pub(crate) fn switches(&self) -> Switches {
        let threads = self.tree().into_iter().flat_map(threads);
        let switches = threads.filter_map(|thread| {
            let status = fs::read_to_string(thread.join("status")).ok()?;
            Some(Switches {
                slept: counted(&status, "voluntary_ctxt_switches:")?,
                sent_away: counted(&status, "nonvoluntary_ctxt_switches:")?,
            })
        });
        switches.fold(Switches::default(), |sum, one| Switches {
            slept: sum.slept + one.slept,
            sent_away: sum.sent_away + one.sent_away,
        })
    }

    /// Its process and all descendants.
    fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.pid.as_raw_nonzero().get().cast_unsigned()];
        let mut at = 0;
        while let Some(&parent) = tree.get(at) {
            for thread in threads(parent) {
                let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
                tree.extend(
                    children
                        .split_ascii_whitespace()
                        .filter_map(|id| id.parse::<u32>().ok()),
                );
            }
            at += 1;
        }
        tree
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        Ok(self.memory()?.resident)
    }

    /// Resident memory now, and what it is made of.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()))?;
        memory(&status).context("the kernel does not say how much is resident")
    }

    /// The end of what the server printed, for an error message.
    pub(crate) fn last_lines(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Tries until it succeeds, and gives up when the server ends or that takes too long.
    pub(crate) async fn until<T>(
        &mut self,
        limit: Duration,
        attempt: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) if self.ended().is_some() || Instant::now() > deadline => {
                    let (name, lines) = (&self.name, self.last_lines());
                    bail!("{name} does not answer as it should: {error:#}\n{lines}")
                }
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Asks the server to end, and kills it if it does not.
    pub(crate) async fn stop(self) {
        self.stop_by(Signal::TERM).await;
    }

    /// Asks the server to end by a signal, and kills it if it does not.
    pub(crate) async fn stop_by(mut self, signal: Signal) {
        let _ = rustix::process::kill_process(self.pid, signal);
        if timeout(GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// A worker that outlives who started it would go on listening, and being counted by nobody.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

/// The directories of a process's threads.
fn threads(process: u32) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{process}/task"))
        .into_iter()
        .flatten();
    threads.flatten().map(|thread| thread.path())
}

/// A number of `/proc/PID/status`, proc(5).
fn counted(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line?.trim().parse().ok()
}

/// `utime` + `stime` + `cutime` + `cstime` of `/proc/PID/stat`, proc(5), in clock ticks: its own, and that of the
/// children that it has waited for. The second field is the program's name and may hold spaces and brackets, so fields
/// are counted from its last bracket.
fn ticks(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let times: Vec<u64> = fields
        .take(4)
        .map_while(|field| field.parse().ok())
        .collect();
    (times.len() == 4).then(|| times.iter().sum())
}

fn memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        anonymous: field("RssAnon:")?,
        files: field("RssFile:")?,
    })
}

/// The path of a program: itself if it names a file, else the first of that name in `PATH` or in the places
/// where Debian keeps servers, which `PATH` often leaves out.
pub(crate) fn find_program(name: &str, remedy: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("`{name}` is not installed: {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::{Memory, counted, memory, ticks};

    #[test]
    fn cpu_time_is_found_behind_a_name_with_brackets() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 9 0 0 0 150 50 3 4 20 0 2 0 100";
        assert_eq!(ticks(stat), Some(207));
        assert_eq!(ticks("7 (short) S 1"), None);
    }

    #[test]
    fn switches_of_both_kinds_are_told_apart() {
        let status = "Threads:\t1\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(counted(status, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(counted(status, "nonvoluntary_ctxt_switches:"), Some(3));
    }

    #[test]
    fn resident_memory_is_read_by_its_parts() {
        let status = "VmHWM:\t  9 kB\nVmRSS:\t    7 kB\nRssAnon:\t  4 kB\nRssFile:\t   3 kB\n";
        let read = memory(status);
        assert_eq!(
            read,
            Some(Memory {
                resident: 7 * 1024,
                anonymous: 4 * 1024,
                files: 3 * 1024
            })
        );
        assert_eq!(memory("VmRSS:\t 7 kB\n"), None);
    }
}
