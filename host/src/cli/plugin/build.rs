//! `larder plugin build`: makes `dist/NAME.wasm` of a project in any of the three languages, and looks at it with the host.
//!
//! The language's tool is installed into the project; what has to be there before is cargo, python3 or npm.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bytesize::ByteSize;
use clap::Args;

use super::inspect::needs;
use super::{Ended, end, is_error, with_workshop};
use crate::config::Problem;
use crate::plugin::{SidecarOf, Subject};

const EXAMPLES: &str = "\
Examples:
  larder plugin build
  larder plugin build weather

A project has a Cargo.toml (Rust: cargo, with the target wasm32-wasip2), a pyproject.toml (Python: componentize-py, in .venv)
or a package.json (JavaScript: jco, in node_modules). The first build installs the tool, which needs the network.

Exit status: 0 if there is a component that this host takes, 1 if there is none, 2 if the command line is wrong.";

/// `larder plugin build`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Build {
    /// The project.
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(arguments: &Build) -> ExitCode {
    let built = build(&arguments.dir).map_err(Ended::from);
    end(built.and_then(|name| look(&arguments.dir, &name)))
}

/// Builds, and says the name of the plugin.
fn build(dir: &Path) -> Result<String, Problem> {
    if dir.join("Cargo.toml").is_file() {
        rust(dir)
    } else if dir.join("pyproject.toml").is_file() {
        python(dir)
    } else if dir.join("package.json").is_file() {
        js(dir)
    } else {
        Err(
            Problem::error("there is no Cargo.toml, pyproject.toml or package.json, so this is no project of a plugin")
                .at(dir, None)
                .remedy("name the directory of one, or make one with `larder plugin new NAME --lang rust|python|js`"),
        )
    }
}

/// What the host says of the component that was built.
fn look(dir: &Path, name: &str) -> Result<ExitCode, Ended> {
    let component = dir.join("dist").join(format!("{name}.wasm"));
    let subject = Subject {
        component: component.clone(),
        sidecar: SidecarOf::Beside,
    };
    with_workshop(async |workshop| {
        let inspection = workshop.inspect(&subject).await?;
        let kinds: Vec<_> = inspection.kinds.iter().map(|kind| kind.name()).collect();
        let mut text = format!(
            "built {}: {}, {}\n",
            component.display(),
            if kinds.is_empty() {
                "no plugin".to_owned()
            } else {
                kinds.join(", ")
            },
            ByteSize(inspection.size as u64)
        );
        needs(&mut text, &inspection);
        crate::cli::print(&text);
        crate::cli::complain(inspection.problems.iter().cloned());
        Ok(match inspection.problems.iter().any(is_error) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    })
}

fn rust(dir: &Path) -> Result<String, Problem> {
    let file = dir.join("Cargo.toml");
    let name = toml_at(&file, &["package", "name"])?;
    wanted(dir, "cargo", "install Rust from https://rustup.rs")?;
    rust_target(dir)?;
    run_in(
        dir,
        "cargo",
        &[
            "build",
            "--release",
            "--target",
            "wasm32-wasip2",
            "--target-dir",
            "target",
        ],
    )?;
    let built = dir
        .join("target/wasm32-wasip2/release")
        .join(format!("{}.wasm", name.replace('-', "_")));
    let dist = dir.join("dist");
    let (aside, whole) = (
        dist.join(format!(".{name}.new")),
        dist.join(format!("{name}.wasm")),
    );
    // A server may be watching: it sees the file when it is whole.
    std::fs::create_dir_all(&dist)
        .and_then(|()| std::fs::copy(&built, &aside))
        .and_then(|_| std::fs::rename(&aside, &whole))
        .map_err(|error| {
            Problem::error(format!("{} cannot be put there: {error}", built.display()))
                .at(&whole, None)
                .remedy("the manifest needs [lib] with crate-type = [\"cdylib\"], and dist must be writable")
        })?;
    Ok(name)
}

/// The standard library for the target, added where rustup can.
fn rust_target(dir: &Path) -> Result<(), Problem> {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(dir)
        .output();
    let Ok(sysroot) = sysroot else {
        return Ok(());
    };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    let library = Path::new(sysroot.trim()).join("lib/rustlib/wasm32-wasip2/lib");
    if library.is_dir() {
        return Ok(());
    }
    wanted(
        dir,
        "rustup",
        "add the standard library for wasm32-wasip2 as you installed Rust, or install it from https://rustup.rs",
    )?;
    run_in(dir, "rustup", &["target", "add", "wasm32-wasip2"])
}

fn python(dir: &Path) -> Result<String, Problem> {
    let file = dir.join("pyproject.toml");
    let name = toml_at(&file, &["project", "name"])?;
    let kind = toml_at(&file, &["tool", "larder", "kind"])?;
    if !["loader", "key-policy"].contains(&&*kind) {
        return Err(Problem::error(format!("[tool.larder] kind is {kind:?}"))
            .at(file, None)
            .remedy("write kind = \"loader\" or kind = \"key-policy\""));
    }
    wanted(
        dir,
        "python3",
        "install Python 3.11 or later with venv, e.g. apt-get install python3-venv",
    )?;
    // The list that was installed is kept inside, so that a changed one is noticed.
    let installed = std::fs::read(dir.join(".venv/requirements.txt")).ok();
    let listed = std::fs::read(dir.join("requirements.txt")).unwrap_or_default();
    if installed.as_deref() != Some(&listed) {
        crate::cli::print("installing componentize-py into .venv\n");
        run_in(dir, "python3", &["-m", "venv", "--clear", ".venv"])?;
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            "requirements.txt",
        ];
        run_in(dir, ".venv/bin/python", &pip)?;
        std::fs::write(dir.join(".venv/requirements.txt"), &listed).map_err(|error| {
            Problem::error(format!("it cannot be written: {error}")).at(dir.join(".venv"), None)
        })?;
    }
    let dist = dir.join("dist");
    std::fs::create_dir_all(&dist)
        .map_err(|error| Problem::error(format!("it cannot be made: {error}")).at(&dist, None))?;
    let module = format!("larder_plugin.component_{}", kind.replace('-', "_"));
    let aside = format!("dist/.{name}.new");
    run_in(
        dir,
        ".venv/bin/componentize-py",
        &[
            "--wit-path",
            "wit",
            "--world",
            &kind,
            "componentize",
            &module,
            "--python-path",
            ".",
            "--output",
            &aside,
        ],
    )?;
    std::fs::rename(dir.join(&aside), dist.join(format!("{name}.wasm"))).map_err(|error| {
        Problem::error(format!("the component cannot be put there: {error}")).at(&dist, None)
    })?;
    Ok(name)
}

fn js(dir: &Path) -> Result<String, Problem> {
    let file = dir.join("package.json");
    let package = read(&file)?;
    let package: serde_json::Value = serde_json::from_str(&package)
        .map_err(|error| Problem::error(format!("it is not JSON: {error}")).at(&file, None))?;
    let Some(name) = package["name"].as_str() else {
        return Err(Problem::error("it has no \"name\"")
            .at(file, None)
            .remedy("write \"name\": \"NAME\""));
    };
    wanted(
        dir,
        "npm",
        "install Node.js 18 or later with npm, e.g. from https://nodejs.org",
    )?;
    let stamp = |path: &str| {
        std::fs::metadata(dir.join(path))
            .and_then(|it| it.modified())
            .ok()
    };
    if stamp("node_modules/.package-lock.json") < stamp("package-lock.json") {
        crate::cli::print("installing jco into node_modules\n");
        run_in(
            dir,
            "npm",
            &[
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ],
        )?;
    }
    run_in(dir, "npm", &["run", "--silent", "build"])?;
    Ok(name.to_owned())
}

fn read(file: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(file)
        .map_err(|error| Problem::error(format!("it cannot be read: {error}")).at(file, None))
}

/// A text in a TOML file.
fn toml_at(file: &Path, path: &[&str]) -> Result<String, Problem> {
    let table: toml::Table = read(file)?
        .parse()
        .map_err(|error| Problem::error(format!("it is not TOML: {error}")).at(file, None))?;
    let mut value = &toml::Value::Table(table);
    for step in path {
        let Some(inner) = value.get(step) else {
            let (key, tables) = path.split_last().unwrap_or((&"", &[]));
            return Err(
                Problem::error(format!("it has no {key} in [{}]", tables.join(".")))
                    .at(file, None)
                    .remedy(
                        "look at a new project: `larder plugin new NAME --lang rust|python|js`",
                    ),
            );
        };
        value = inner;
    }
    match value.as_str() {
        Some(text) if crate::plugin::is_plugin_name(text) || path.last() != Some(&"name") => {
            Ok(text.to_owned())
        }
        _ => Err(Problem::error(format!(
            "{} {value} cannot be the name of a plugin",
            path.join(".")
        ))
        .at(file, None)
        .remedy(crate::plugin::PLUGIN_NAME_RULE)),
    }
}

/// Whether a program can be started at all.
fn wanted(dir: &Path, program: &str, remedy: &str) -> Result<(), Problem> {
    let started = Command::new(program)
        .arg("--version")
        .current_dir(dir)
        .output();
    match started {
        Ok(_) => Ok(()),
        Err(error) => Err(Problem::error(format!("{program} is missing ({error})")).remedy(remedy)),
    }
}

/// Runs a program in the project, with its output where this one's goes.
fn run_in(dir: &Path, program: &str, arguments: &[&str]) -> Result<(), Problem> {
    let line = format!("{program} {}", arguments.join(" "));
    // A program of the project is named from the project, wherever this process is.
    let path = match program.starts_with('.') {
        true => std::path::absolute(dir.join(program)).unwrap_or_else(|_| dir.join(program)),
        false => PathBuf::from(program),
    };
    let status = Command::new(path).args(arguments).current_dir(dir).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Problem::error(format!("`{line}` failed ({status})"))
            .at(dir, None)
            .remedy("its own message is above")),
        Err(error) => {
            Err(Problem::error(format!("`{line}` cannot be started: {error}")).at(dir, None))
        }
    }
}
