//! The server's resident memory, which must come back. Must not know what was tried.

use std::time::{Duration, Instant};

use larder_tests::{Larder, Usage};

/// Memory that may be taken for other reasons: what a first use of something maps, an allocator's caches. Allowed once to
/// each case, and once, not 29 times, to all of them together.
const FIRST_USE: u64 = 16 << 20;

/// What is resident now.
pub(crate) fn now(larder: &Larder) -> Usage {
    larder.usage()
}

/// Waits until the resident memory is what it was, within a tenth; says what it was and is.
///
/// # Errors
/// It does not come back.
pub(crate) async fn comes_back(larder: &Larder, before: Usage) -> Result<String, String> {
    let most = before.resident + before.resident / 10 + FIRST_USE;
    let until = Instant::now() + larder_tests::wait::PATIENCE;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        let now = larder.usage();
        let told = format!("{:.0} → {:.0} MiB", before.mebibytes(), now.mebibytes());
        if now.resident <= most {
            return Ok(told);
        }
        if Instant::now() > until {
            return Err(format!("memory does not come back: {told}"));
        }
    }
}
