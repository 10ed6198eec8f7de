//! Whether replicas have what was written. Knows no purges.
//!
//! `WAIT` holds up every answer behind it on its connection, and a replica that hangs makes it take all its time and up to
//! 100 ms more, because Redis looks at its clock that often. So it has a connection of its own, one is under way at a time,
//! and whoever comes meanwhile shares the next one.
//!
//! It speaks of what was written on its own connection before it. Servers differ in what else they count, so a write goes
//! ahead of it: replicas take writes in order, and who has that one has all that were answered before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::link::{Link, Server, ask};
use super::trouble::Trouble;
use crate::cache::freshness::millis;

/// Redis ends a `WAIT` this much later than it was told, at most, and the machine may be busy.
const LATE: Duration = Duration::from_millis(250);

/// What is known of one server.
#[derive(Default)]
pub(super) struct Copies {
    /// How many have asked.
    asked: AtomicU64,
    answered: Mutex<Answered>,
}

#[derive(Default)]
struct Answered {
    /// Holds for those who were among the first so many to ask.
    asked: u64,
    replicas: Option<u32>,
}

impl Copies {
    /// Waits until a replica has what the server has answered so far, for about `limit` at most. `write` is any write to a
    /// key that the server holds. How many replicas have it; none where there is no replica, which the server must say
    /// before `deadline`.
    pub(super) async fn of_written(
        &self,
        link: &Link,
        write: &Cmd,
        (deadline, limit): (Instant, Duration),
    ) -> Option<u32> {
        let mine = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut answered = self.answered.lock().await;
        if answered.asked < mine {
            // Whoever has asked by now had its write answered before ours is sent.
            let asked = self.asked.load(Ordering::Acquire);
            // That there are replicas, and that they have it, is not known when this fails.
            let replicas = wait(link, write, (deadline, limit))
                .await
                .unwrap_or(Some(0));
            *answered = Answered { asked, replicas };
        }
        answered.replicas
    }
}

async fn wait(
    link: &Link,
    write: &Cmd,
    (deadline, limit): (Instant, Duration),
) -> Result<Option<u32>, Trouble> {
    let mut connection = link.waits.clone();
    // They come and go while a connection stands.
    let mut info = redis::cmd("INFO");
    info.arg("replication");
    let info: String = read(ask(&mut connection, &info, deadline - Instant::now()).await?)?;
    if Server::replicas_of(&info) == 0 {
        return Ok(None);
    }
    ask(&mut connection, write, limit).await?;
    let mut wait = redis::cmd("WAIT");
    wait.arg(1).arg(millis(limit).max(1));
    Ok(Some(read(
        ask(&mut connection, &wait, limit + LATE).await?,
    )?))
}

fn read<T: redis::FromRedisValue>(answer: Value) -> Result<T, Trouble> {
    redis::from_redis_value(answer).map_err(|error| Trouble::Strange(error.to_string()))
}
