//! What a server's time goes into, function by function, for each request, and how often its threads slept, were sent away, or
//! called the kernel to wait for each other. Owns how that is sampled and counted; must not know who is compared with whom.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::{
    generator::Load,
    process::{Switches, find_program},
    subject::{Subject, Turn},
};

/// Samples a second of each core. Not a round number, so that it does not beat with what happens every millisecond.
const FREQUENCY: &str = "1997";
/// How long `perf` may take to begin, and how long it goes on after the load.
const AROUND: Duration = Duration::from_secs(1);
const CALLS: &str = "raw_syscalls:sys_enter";
const FUTEXES: &str = "syscalls:sys_enter_futex";

/// `perf`, and where it may keep what it has sampled.
pub(crate) struct Profiler {
    perf: PathBuf,
    kept: PathBuf,
}

/// Where a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Kernel,
    Program,
    /// libc, the allocator, compiled plugins.
    Else,
}

impl Place {
    pub(crate) const ALL: [(Self, &str); 3] = [
        (Self::Kernel, "the kernel"),
        (Self::Program, "the program"),
        (Self::Else, "libraries"),
    ];
}

/// What was seen of one server, in any number of turns.
#[derive(Clone, Default)]
pub(crate) struct Profile {
    samples: BTreeMap<(Place, String), u64>,
    /// Of the turns that were sampled.
    requests: u64,
    cpu: Duration,
    /// Of the turns in which calls were counted.
    counted: u64,
    calls: u64,
    futexes: u64,
    switches: Switches,
}

impl Profiler {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            perf: find_program(
                "perf",
                "`.ci/setup bench` installs it (Debian: linux-perf); it needs root, or kernel.perf_event_paranoid of -1",
            )?,
            kept: directory.join("perf.data"),
        })
    }

    /// Puts a load on a server twice: its calls are counted, and its functions sampled.
    pub(crate) async fn look(
        &self,
        subject: &mut Subject,
        load: Load,
        profile: &mut Profile,
    ) -> Result<()> {
        let before = subject.switches();
        let arguments = ["stat", "-x", ";", "-e", CALLS, "-e", FUTEXES];
        let (turn, said) = self.watch(&arguments, subject, load.clone()).await?;
        profile.calls += count(&said, CALLS)?;
        profile.futexes += count(&said, FUTEXES)?;
        let switches = subject.switches().since(before);
        profile.switches.slept += switches.slept;
        profile.switches.sent_away += switches.sent_away;
        profile.counted += turn.outcome.requests;

        let kept = self.kept.display().to_string();
        let arguments = [
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            FREQUENCY,
            "-o",
            &kept,
        ];
        let (turn, _) = self.watch(&arguments, subject, load).await?;
        profile.requests += turn.outcome.requests;
        profile.cpu += turn.cpu;
        let told = Command::new(&self.perf)
            .args(["script", "-F", "ip,sym,dso", "-i", &kept])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .await?;
        ensure!(told.status.success(), "perf script: {}", told.status);
        let program = subject.program()?;
        for line in String::from_utf8_lossy(&told.stdout).lines() {
            if let Some(function) = function(line, &program) {
                *profile.samples.entry(function).or_default() += 1;
            }
        }
        Ok(())
    }

    /// One turn, and what `perf` says of it.
    async fn watch(
        &self,
        arguments: &[&str],
        subject: &mut Subject,
        load: Load,
    ) -> Result<(Turn, String)> {
        // Before and after the load the server does nothing, so all that is seen is of these requests.
        let watched = load.length + 2 * AROUND;
        let watching = Command::new(&self.perf)
            .args(arguments)
            .args(["-p", &subject.pid().to_string()])
            .args(["--", "sleep", &watched.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("perf cannot be started")?;
        let turn = async {
            tokio::time::sleep(AROUND).await;
            subject.turn(load).await
        };
        let (turn, watched) = tokio::join!(turn, watching.wait_with_output());
        let (turn, watched) = (turn?, watched?);
        let said = String::from_utf8_lossy(&watched.stderr).into_owned();
        ensure!(watched.status.success(), "perf: {}", said.trim());
        Ok((turn, said))
    }
}

/// What `perf stat` has counted of one event.
fn count(said: &str, event: &str) -> Result<u64> {
    said.lines()
        .find(|line| line.split(';').any(|field| field == event))
        .and_then(|line| line.split(';').next()?.parse().ok())
        .with_context(|| format!("perf counted no {event}: {}", said.trim()))
}

/// The function of one sample: an address, a name, and in brackets the file it is from.
fn function(line: &str, program: &str) -> Option<(Place, String)> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    let file = file.strip_suffix(')')?;
    let place = if file.starts_with("[kernel") || file.starts_with("[guest.kernel") {
        Place::Kernel
    } else if file.ends_with(program) {
        Place::Program
    } else {
        Place::Else
    };
    // Rust's names end in a hash of what they were compiled from.
    let name = match name.trim().rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => name.trim(),
    };
    Some((place, name.to_owned()))
}

impl Profile {
    /// Nanoseconds of each request, of the samples for which this holds.
    fn nanoseconds(&self, of: impl Fn(&(Place, String)) -> bool) -> f64 {
        let all: u64 = self.samples.values().sum();
        let these: u64 = self
            .samples
            .iter()
            .filter(|(function, _)| of(function))
            .map(|(_, samples)| samples)
            .sum();
        let each = self.cpu.as_secs_f64() * 1e9 / self.requests as f64;
        each * these as f64 / all as f64
    }

    pub(crate) fn of_place(&self, place: Place) -> f64 {
        self.nanoseconds(|function| function.0 == place)
    }

    pub(crate) fn all(&self) -> f64 {
        self.nanoseconds(|_| true)
    }

    fn of(&self, function: &(Place, String)) -> f64 {
        self.nanoseconds(|other| other == function)
    }

    /// For a thousand requests: system calls, those that wait for a lock or wake who does, and how often a thread left its core because it
    /// had nothing to do, and because others were to have it.
    pub(crate) fn counts(&self) -> [f64; 4] {
        let Switches { slept, sent_away } = self.switches;
        [self.calls, self.futexes, slept, sent_away]
            .map(|count| count as f64 * 1000.0 / self.counted as f64)
    }
}

/// The functions that take most nanoseconds more of each request in the second than in the first, with both.
pub(crate) fn grown(before: &Profile, after: &Profile, most: usize) -> Vec<(String, f64, f64)> {
    let mut functions: Vec<_> = after
        .samples
        .keys()
        .map(|function| (function.1.clone(), before.of(function), after.of(function)))
        .filter(|(_, before, after)| after > before)
        .collect();
    functions.sort_by(|a, b| f64::total_cmp(&(b.2 - b.1), &(a.2 - a.1)));
    functions.truncate(most);
    functions
}

/// A name that fits a table.
pub(crate) fn shown(name: &str) -> String {
    const LONGEST: usize = 90;
    let mut short = String::new();
    for letter in name.chars().take(LONGEST) {
        // What ends a cell in Markdown.
        let _ = write!(short, "{}", if letter == '|' { '¦' } else { letter });
    }
    if name.chars().count() > LONGEST {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_a_function_in_the_kernel_the_program_or_a_library() {
        let of = |line| function(line, "larder");
        assert_eq!(
            of("ffffffff8a tcp_sendmsg_locked ([kernel.kallsyms])"),
            Some((Place::Kernel, "tcp_sendmsg_locked".into()))
        );
        assert_eq!(
            of("  55d0aa <a::B<(u8, C)> as d::E>::f::h0123456789abcdef (/x/release/larder)"),
            Some((Place::Program, "<a::B<(u8, C)> as d::E>::f".into()))
        );
        assert_eq!(
            of("7f00 malloc (/usr/lib/libc.so.6)"),
            Some((Place::Else, "malloc".into()))
        );
        assert_eq!(of(""), None);
    }

    #[test]
    fn what_grew_is_told_for_each_request_however_many_there_were() {
        let profile = |requests, samples: [(&str, u64); 2]| Profile {
            samples: samples
                .map(|(name, samples)| ((Place::Program, name.to_owned()), samples))
                .into(),
            requests,
            cpu: Duration::from_millis(10),
            ..Profile::default()
        };
        let before = profile(2_000, [("lock", 10), ("work", 90)]);
        let after = profile(1_000, [("lock", 60), ("work", 40)]);
        assert_eq!(before.all(), 5_000.0);
        assert_eq!(
            grown(&before, &after, 9),
            [("lock".to_owned(), 500.0, 6_000.0)]
        );
        assert_eq!(grown(&before, &after, 0), []);
        assert_eq!(after.of_place(Place::Program), 10_000.0);
        assert_eq!(after.of_place(Place::Kernel), 0.0);
    }

    #[test]
    fn calls_are_told_for_a_thousand_requests() {
        let said =
            "4000;;raw_syscalls:sys_enter;1;100.00;;\n3;;syscalls:sys_enter_futex;1;100.00;;\n";
        let profile = Profile {
            counted: 2_000,
            calls: count(said, CALLS).unwrap(),
            futexes: count(said, FUTEXES).unwrap(),
            switches: Switches {
                slept: 20,
                sent_away: 1,
            },
            ..Profile::default()
        };
        assert_eq!(profile.counts(), [2_000.0, 1.5, 10.0, 0.5]);
        assert!(count("<not counted>;;raw_syscalls:sys_enter;", CALLS).is_err());
    }
}
