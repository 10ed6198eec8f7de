//! The attack kept up: several attackers ask for the same harm for as long as the neighbour is measured. Must not know the
//! neighbour, nor what should come of a case.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use tokio::time::{MissedTickBehavior, interval};

use crate::attack::{Stage, harmful};
use crate::cases::Case;

/// Attackers at once: enough that one of them waits for a place whenever a plugin is free.
pub(crate) const ATTACKERS: usize = 8;
/// How often each of them asks at most. What is refused at once is no harm, and asked as fast as can be it would only be load.
const EVERY: Duration = Duration::from_millis(5);
/// Keys of an attack: each is another one, and what is remembered of them is bounded.
const KEYS: usize = 100_000;

/// Makes the plugins of a case able to do harm again, and lets each do it once: what is measured is the attack that is kept
/// up. The first call of a key policy that never ends does block its thread, for as long as its `cpu` limit.
pub(crate) async fn begin_anew(stage: &Stage, case: &Case) {
    for (number, plugin) in harmful(case).iter().enumerate() {
        // Another version of the same files: with its breaker closed, and not in quarantine.
        stage.larder.reload(plugin).await;
        // What comes of it is told when it is kept up.
        let _ = harm(stage, &format!("/{plugin}/first{number}")).await;
    }
}

/// Keeps the attack of a case up for as long as each attacker, told how often it has asked, is to go on. Says how many requests
/// it was.
///
/// # Errors
/// A request was not answered, or with an error that has no type.
pub(crate) async fn keep_up(
    stage: &Stage,
    case: &Case,
    goes_on: impl Fn(usize) -> bool,
) -> Result<usize, String> {
    let plugins = harmful(case);
    let attackers = (0..ATTACKERS).map(async |attacker| {
        let mut pace = interval(EVERY);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = 0;
        while goes_on(asked) {
            pace.tick().await;
            let plugin = &plugins[asked % plugins.len()];
            let key = (asked * ATTACKERS + attacker) % KEYS;
            harm(stage, &format!("/{plugin}/crowd{key}")).await?;
            asked += 1;
        }
        Ok(asked)
    });
    let asked: Result<usize, String> = join_all(attackers).await.into_iter().sum();
    stage.unreached()?;
    asked
}

async fn harm(stage: &Stage, path: &str) -> Result<(), String> {
    let asked = stage
        .larder
        .public
        .attempt(Method::GET, path, &[], Bytes::new());
    let answer = asked
        .await
        .map_err(|fault| format!("{path} is not answered: {fault:#}"))?;
    let told = answer.header("content-type") == Some("application/problem+json");
    match answer.status.as_u16() {
        200..400 => Ok(()),
        _ if told && answer.json()["code"].is_string() => Ok(()),
        _ => Err(format!("{path} is answered without a type: {answer:?}")),
    }
}
