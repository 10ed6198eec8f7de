//! `larder redis-acl`: what an operator tells Redis of the user that Larder logs in as.

use std::process::ExitCode;

use super::args::Settings;
use super::serve::servers;
use crate::cache::redis::acl;
use crate::config::{Problem, QueueKind};

/// Prints the command for the configuration's prefix and mode.
pub(super) fn run(settings: &Settings) -> ExitCode {
    let config = match settings.load() {
        Ok((config, warnings)) => {
            super::complain(warnings);
            config
        }
        Err(problems) => {
            super::complain(problems);
            return ExitCode::FAILURE;
        }
    };
    let Some(redis) = &config.redis else {
        let problem = Problem::error("no Redis is configured, so there is no prefix to make a user for")
            .remedy("write url = \"redis://127.0.0.1:6379\" into [redis], or pass --redis redis://127.0.0.1:6379");
        super::complain([problem]);
        return ExitCode::FAILURE;
    };
    let queues = config.writes_behind() && config.writes.queue == QueueKind::Redis;
    match acl(&servers(&redis.servers), &redis.prefix, queues) {
        Ok(line) => {
            super::print(&format!("{line}\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            super::complain([Problem::error(error.to_string())]);
            ExitCode::FAILURE
        }
    }
}
