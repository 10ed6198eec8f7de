//! The scripts of the queue: one for each thing that is done in one step. What is sent, and nothing of what comes of it.

use std::time::Duration;

use redis::{Script, Value};

use crate::cache::redis::link::{Link, Road};
use crate::cache::redis::names::PIECES;
use crate::cache::redis::scripts::{call, run};
use crate::cache::redis::trouble::Trouble;

/// The scripts, their names hashed once.
pub(in crate::cache::redis) struct Steps {
    pub(super) push: Script,
    pub(super) settle: Script,
    pub(super) revive: Script,
    pub(super) discard: Script,
    pub(super) find: Script,
    pub(super) newest: Script,
    pub(super) dead: Script,
    pub(super) depth: Script,
}

impl Steps {
    pub(in crate::cache::redis) fn new() -> Self {
        let step = |body: &str| Script::new(&[include_str!("queue.lua"), body].concat());
        let adding = |body: &str| step(&[include_str!("add.lua"), body].concat());
        Self {
            push: adding(include_str!("push.lua")),
            settle: step(include_str!("settle.lua")),
            revive: adding(include_str!("revive.lua")),
            discard: step(include_str!("discard.lua")),
            find: step(include_str!("find.lua")),
            newest: step(include_str!("newest.lua")),
            dead: step(include_str!("dead.lua")),
            depth: step(include_str!("depth.lua")),
        }
    }

    /// All of them, to be loaded.
    pub(in crate::cache::redis) fn all(&self) -> [&Script; 8] {
        [
            &self.push,
            &self.settle,
            &self.revive,
            &self.discard,
            &self.find,
            &self.newest,
            &self.dead,
            &self.depth,
        ]
    }
}

/// Where a step is sent.
pub(super) struct To<'a> {
    pub(super) link: &'a Link,
    pub(super) road: Road,
    /// The keys of the partition.
    pub(super) pieces: &'a [String; PIECES.len()],
    pub(super) limit: Duration,
}

impl To<'_> {
    /// Runs a step with these arguments.
    pub(super) async fn run(&self, script: &Script, arguments: &[&[u8]]) -> Result<Value, Trouble> {
        let names: usize = self.pieces.iter().map(|piece| piece.len() + 16).sum();
        let texts: usize = arguments.iter().map(|argument| argument.len() + 16).sum();
        let keys = self.pieces.len();
        let mut command = call(script, keys, arguments.len(), names + texts);
        command.arg(self.pieces).arg(arguments);
        run(self.link, self.road, script, &command, self.limit).await
    }
}
