//! Commands and flags, as clap sees them. A flag stands for a setting of `larder.toml`; its text is judged where the
//! file's is, so both are refused in the same words.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};

use super::compile_component::CompileComponent;
use super::operate::entry::Entry;
use super::operate::plugins::Plugins;
use super::operate::purge::Purge;
use super::operate::reload::Reload;
use super::operate::top::Top;
use super::plugin::Plugin;
use crate::config::{self, Config, Environment, Overrides, Problem, defaults as setting};

/// A read-through cache server whose data loaders and key policies are WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, propagate_version = true)]
pub(super) struct Larder {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve: larder.toml if there is one, else every loader of ./plugins at /NAME/{key}, from memory.
    Serve(Settings),
    /// Report every problem of the configuration and the plugins at once; exit with 1 if one is an error.
    Check(Check),
    /// Make, build, look at and try out plugins.
    #[command(subcommand)]
    Plugin(Plugin),
    /// Print the API document (OpenAPI 3.1) of the configuration and its plugins.
    Openapi(Settings),
    /// Print the command that gives Larder its user in Redis, allowed what it needs and nothing more.
    RedisAcl(Settings),
    /// Print the contract between Larder and its plugins, in WIT.
    Wit,
    /// Say what is stored of a path, and why it is fresh or stale.
    Entry(Entry),
    /// Purge a path, tags, a route or everything.
    Purge(Purge),
    /// Say which plugins are loaded, and what is wrong with those that are not.
    Plugins(Plugins),
    /// Make a server that runs read its configuration again, as SIGHUP does.
    Reload(Reload),
    /// Watch a server that runs, in the terminal: rates, hits, failures, routes, plugins.
    Top(Top),
    /// Print what makes a shell complete these commands: source it, or put it where the shell looks.
    Completions {
        /// Of which shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page of each command into a directory.
    Man {
        /// Where, e.g. /usr/local/share/man/man1.
        dir: PathBuf,
    },
    #[command(hide = true)]
    CompileComponent(CompileComponent),
}

/// Where the configuration is, and what stands over it.
///
/// Every other setting of a table that stands once is LARDER_TABLE_KEY in the environment, e.g. LARDER_ADMIN_TOKEN; flags
/// win over the environment, and the environment over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Settings {
    /// The configuration [default: ./larder.toml if there is one].
    #[arg(
        long,
        value_name = "FILE",
        env = "LARDER_CONFIG",
        hide_env_values = true
    )]
    config: Option<OsString>,
    /// Where consumers connect (LARDER_SERVER_LISTEN).
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<OsString>,
    /// Where operators connect (LARDER_ADMIN_LISTEN).
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<OsString>,
    /// The directory of NAME.wasm and NAME.toml (LARDER_PLUGINS_DIR).
    #[arg(long, value_name = "DIR")]
    plugins_dir: Option<OsString>,
    /// Compiled components, and what outlives a restart (LARDER_STORAGE_DIR).
    #[arg(long, value_name = "DIR")]
    storage_dir: Option<OsString>,
    /// Room of the memory tier, e.g. 256MiB; 0 turns it off (LARDER_MEMORY_CAPACITY).
    #[arg(long, value_name = "SIZE")]
    memory: Option<OsString>,
    /// redis://host:port; one with a password is safer in the environment (LARDER_REDIS_URL).
    #[arg(long, value_name = "URL")]
    redis: Option<OsString>,
}

impl Settings {
    /// Those of one file alone.
    pub(super) fn of_file(config: Option<OsString>) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// The configuration of this process with its warnings.
    ///
    /// # Errors
    /// Every problem, when at least one is an error.
    pub fn load(&self) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        config::load(self.file(), &self.overrides(), &Environment::of_process())
    }

    /// The configuration as far as it can be read, with every problem.
    pub(super) fn read(&self) -> (Option<Config>, Vec<Problem>) {
        config::read(self.file(), &self.overrides(), &Environment::of_process())
    }

    /// An empty name is an empty LARDER_CONFIG: not set.
    fn file(&self) -> Option<&Path> {
        self.config
            .as_deref()
            .filter(|file| !file.is_empty())
            .map(Path::new)
    }

    fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        overrides.set("--listen", &setting::server::listen, self.listen.clone());
        overrides.set(
            "--admin-listen",
            &setting::admin::listen,
            self.admin_listen.clone(),
        );
        overrides.set(
            "--plugins-dir",
            &setting::plugins::dir,
            self.plugins_dir.clone(),
        );
        overrides.set(
            "--storage-dir",
            &setting::storage::dir,
            self.storage_dir.clone(),
        );
        overrides.set("--memory", &setting::memory::capacity, self.memory.clone());
        overrides.set("--redis", &setting::redis::url, self.redis.clone());
        overrides
    }
}

/// `larder check`
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// Take warnings for errors.
    #[arg(long)]
    pub(super) strict: bool,
    /// Print every setting with its default and its meaning instead.
    #[arg(long)]
    pub(super) defaults: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        use clap::CommandFactory as _;
        Larder::command().debug_assert();
    }

    /// So it is for every other variable, and a compose file cannot say "not set" otherwise.
    #[test]
    fn an_empty_name_of_a_file_is_none() {
        let parsed = Larder::try_parse_from(["larder", "serve", "--config", ""]).unwrap();
        let Command::Serve(settings) = parsed.command else {
            panic!("serve is another command");
        };
        assert_eq!(settings.file(), None);
    }

    #[test]
    fn a_flag_is_refused_in_the_words_of_the_file() {
        let parsed =
            Larder::try_parse_from(["larder", "serve", "--listen", ":80", "--memory", "1TB2"]);
        let Command::Serve(settings) = parsed.unwrap().command else {
            panic!("serve is another command");
        };
        let (_, problems) = config::read(None, &settings.overrides(), &Environment::default());
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "error: --listen: \":80\" is not an address to listen on\n  remedy: write \"127.0.0.1:80\", or \
                 \"0.0.0.0:80\" for every interface",
                "error: --memory: \"1TB2\" is not a size\n  remedy: write a number and a unit in quotes, such as \
                 \"64KiB\", \"256MiB\" or \"2GiB\"",
            ]
        );
    }
}
