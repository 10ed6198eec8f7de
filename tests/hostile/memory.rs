//! The server's resident memory, which must come back. Must not know what was tried.

use std::time::{Duration, Instant};

use larder_tests::{Larder, Usage};

/// Memory that may be taken for other reasons: what a first use of something maps, an allocator's caches. Allowed once to
/// each case, and once, not 29 times, to all of them together.
const FIRST_USE: u64 = 16 << 20;

/// How long it may take to come back. Longer is of no use: what an idle server's threads have cached stays with them.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is resident now.
pub(crate) fn now(larder: &Larder) -> Usage {
    larder.usage()
}

/// How often the harm is done again before what stays is called a leak. What an allocator keeps, it keeps for each thread: a
/// thread that was not there the last time keeps some more, but sooner or later all of them were.
const AGAIN: usize = 4;

/// Waits until the resident memory is what it was, within a tenth; says what it was and is.
///
/// What stays although the harm is over may be a leak, or what the threads' allocators keep for the next time, which a
/// server that is asked little gives back late. They are told apart by doing the harm `again`: what is kept for the next
/// time is used then, and a leak comes on top, each time.
///
/// # Errors
/// It does not come back, and grows again and again.
pub(crate) async fn comes_back(
    larder: &Larder,
    before: Usage,
    mut again: impl AsyncFnMut(),
) -> Result<String, String> {
    let most = before.resident + before.resident / 10 + FIRST_USE;
    let (mut readings, mut settled) = (vec![before], settles(larder, most).await);
    for _ in 0..AGAIN {
        let Err(kept) = settled else { break };
        readings.push(kept);
        again().await;
        settled = settles(larder, kept.resident + FIRST_USE / 2).await;
    }
    match settled {
        Ok(now) => {
            readings.push(now);
            Ok(told(&readings))
        }
        Err(grown) => {
            readings.push(grown);
            Err(format!(
                "memory does not come back, and the same again takes more, {AGAIN} times: {}",
                told(&readings)
            ))
        }
    }
}

/// Asks the server for little, so that its threads have work to give memory back at, until no more than `most` is resident.
///
/// # Errors
/// What is resident when that has taken too long.
async fn settles(larder: &Larder, most: u64) -> Result<Usage, Usage> {
    let until = Instant::now() + PATIENCE;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        let now = larder.usage();
        if now.resident <= most {
            return Ok(now);
        }
        if Instant::now() > until {
            return Err(now);
        }
        larder.get("/neighbour/settles").await;
    }
}

fn told(readings: &[Usage]) -> String {
    let readings: Vec<String> = readings
        .iter()
        .map(|reading| format!("{:.0}", reading.mebibytes()))
        .collect();
    format!("{} MiB", readings.join(" → "))
}
