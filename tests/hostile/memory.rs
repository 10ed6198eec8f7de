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

/// Waits until the resident memory is what it was, within a tenth; says what it was and is.
///
/// What stays although the harm is over may be a leak, or what the threads' allocators keep for the next time, which a
/// server that is asked little gives back late. They are told apart by doing the harm `again`: what is kept for the next
/// time is used then, and a leak comes on top.
///
/// # Errors
/// It does not come back, and grows again.
pub(crate) async fn comes_back(
    larder: &Larder,
    before: Usage,
    again: impl AsyncFnOnce(),
) -> Result<String, String> {
    let most = before.resident + before.resident / 10 + FIRST_USE;
    let kept = match settles(larder, most).await {
        Ok(now) => return Ok(told(&[before, now])),
        Err(kept) => kept,
    };
    again().await;
    let most = kept.resident + FIRST_USE / 2;
    match settles(larder, most).await {
        Ok(now) => Ok(told(&[before, kept, now])),
        Err(grown) => Err(format!(
            "memory does not come back, and the same again takes more: {}",
            told(&[before, kept, grown])
        )),
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
