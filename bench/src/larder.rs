//! The configuration that Larder is measured with: nothing switched off, only the loader made instant.
//! Owns the files of one Larder and the command that serves them; must not know who measures it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::client::TENANT;

/// The key of the measured route.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// `tenant-key`, the key policy in Wasm.
    Policy,
    /// The path parameter, derived by the host.
    Native,
}

/// What one Larder is given.
pub(crate) struct Setting<'a> {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) key: Key,
    /// With a Redis the memory tier is turned off, so that every hit is a Redis hit.
    pub(crate) redis: Option<&'a str>,
    /// The text of the `demo` loader; `{key}` stands for the key.
    pub(crate) text: &'a str,
}

/// The command that serves what a file says, and nothing that the environment says.
pub(crate) fn serve(program: &Path, config: &Path) -> Result<Command> {
    ensure!(
        program.is_file(),
        "{} is not there: `make build` makes it, --larder names another",
        program.display()
    );
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LARDER_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// The host to measure: the one that was named, or else the one beside this program.
pub(crate) fn program(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(program) => Ok(program.to_owned()),
        None => Ok(std::env::current_exe()?.with_file_name("larder")),
    }
}

/// Writes `larder.toml` and a plugin directory into `directory`; returns the path of the former.
pub(crate) fn write(
    directory: &Path,
    plugins_dist: &Path,
    setting: &Setting<'_>,
) -> Result<PathBuf> {
    let plugins = directory.join("plugins");
    fs::create_dir_all(&plugins)?;
    let copy = |name: &str, sidecar: String| -> Result<()> {
        let component = plugins_dist.join(name).with_extension("wasm");
        fs::copy(&component, plugins.join(name).with_extension("wasm")).with_context(|| {
            format!("cannot copy {}: `make build` makes it", component.display())
        })?;
        Ok(fs::write(
            plugins.join(name).with_extension("toml"),
            sidecar,
        )?)
    };
    copy(
        "demo",
        format!("[config]\ntext = \"{}\"\nlatency_ms = 0\n", setting.text),
    )?;
    if setting.key == Key::Policy {
        copy(
            "tenant-key",
            format!("[config]\nheader = \"{}\"\n", TENANT.0),
        )?;
    }
    let file = directory.join("larder.toml");
    fs::write(&file, toml(setting))?;
    Ok(file)
}

fn toml(setting: &Setting<'_>) -> String {
    let Setting { listen, admin, .. } = setting;
    let key = match setting.key {
        Key::Policy => format!("key = \"tenant-key\"\nkey_headers = [\"{}\"]", TENANT.0),
        Key::Native => "key = { path = [\"key\"] }".to_owned(),
    };
    let tiers = match setting.redis {
        Some(url) => format!("[memory]\ncapacity = \"0\"\n[redis]\nurl = \"{url}\""),
        None => "[memory]\ncapacity = \"256MiB\"".to_owned(),
    };
    format!(
        r#"[server]
listen = "{listen}"
[admin]
listen = "{admin}"
{tiers}
[plugins]
dir = "plugins"
[storage]
dir = "larder-data"
[[routes]]
path = "/data/{{key}}"
loader = "demo"
{key}
ttl = "1h"
"#
    )
}
