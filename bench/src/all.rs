//! Every measurement, one after the other, each in a process of its own: what one has pinned or filled does not meet the next.
//! Owns their order and where their results are kept; must not know what they measure.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

/// The measurements, and what each takes beside `--quick` and `--samples`.
const ALL: [&str; 10] = [
    "run",
    "cost",
    "calm",
    "cores",
    "start",
    "memory",
    "hit-ratio",
    "flat",
    "purge",
    "flame",
];

/// What is measured, and where it is kept.
#[derive(Args)]
pub(crate) struct Options {
    /// One short round of each: shows that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Where to keep `table.md`, `plot.svg`, `flame.svg` and the raw samples, one file a measurement.
    #[arg(long, default_value = "target/bench")]
    directory: PathBuf,
    /// Only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    for name in &options.only {
        ensure!(
            ALL.contains(&name.as_str()),
            "--only {name}: the measurements are {}",
            ALL.join(", ")
        );
    }
    let directory = &options.directory;
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let file = directory.join("table.md");
    let mut table =
        File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut missed = Vec::new();
    for name in ALL {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("== {name}");
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(name)
            .arg("--samples")
            .arg(directory.join(name).with_extension("ndjson"));
        if options.quick {
            command.arg("--quick");
        }
        if name == "run" {
            command.arg("--plot").arg(directory.join("plot.svg"));
        }
        if name == "flame" {
            command.arg("--svg").arg(directory.join("flame.svg"));
        }
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        // What was measured before a failure is kept, and the others are measured all the same.
        table.write_all(&output.stdout)?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            missed.push(name);
        }
    }
    eprintln!("kept in {}", directory.display());
    ensure!(missed.is_empty(), "not measured: {}", missed.join(", "));
    Ok(())
}
