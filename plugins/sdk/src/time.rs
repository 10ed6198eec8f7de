//! Waiting, without keeping the other calls of the instance from going on.

use std::time::Duration;

/// Waits. A native test does not: what it waits for would only make it slow.
pub async fn sleep(duration: Duration) {
    #[cfg(target_arch = "wasm32")]
    {
        let nanos = duration.as_nanos().try_into().unwrap_or(u64::MAX);
        wasip3::clocks::monotonic_clock::wait_for(nanos).await;
    }
    #[cfg(not(target_arch = "wasm32"))]
    let _ = duration;
}
