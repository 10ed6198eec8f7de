//! Many keys asked for because they will be wanted, and not because anybody waits: a few at once and so many a second, so that
//! sources and clients hardly notice. Must not know which, nor why.

use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _, iter, unfold};
use tokio::time::{MissedTickBehavior, interval};

/// Asked for at once: a small part of what the server may load at once, which clients need.
const AT_ONCE: usize = 16;

/// Asks for each, in this order, `rate` a second at most (and at least one), and gives what comes of it as it comes. Dropping
/// it begins no more.
pub fn paced<T, F: Future>(
    wanted: impl IntoIterator<Item = T>,
    rate: u32,
    ask: impl FnMut(T) -> F,
) -> impl Stream<Item = F::Output> {
    let mut pace = interval(Duration::from_secs(1) / rate.max(1));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ticks = unfold(pace, async |mut pace| {
        pace.tick().await;
        Some(((), pace))
    });
    iter(wanted)
        .zip(ticks)
        .map(|(wanted, ())| wanted)
        .map(ask)
        .buffer_unordered(AT_ONCE)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_rate() {
        let begun: Vec<Instant> = paced(0..350, 100, async |_| Instant::now()).collect().await;
        for (first, later) in begun.iter().zip(&begun[100..]) {
            let within = *later - *first;
            assert!(within >= Duration::from_secs(1), "101 within {within:?}");
        }
        let whole = begun[349] - begun[0];
        assert!(
            whole < Duration::from_secs(4),
            "as fast as it may: {whole:?}"
        );
    }

    /// What was held up is not caught up with in a burst.
    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_after_all_were_slow() {
        let mut begun = Vec::new();
        let answers = paced(0..100, 100, |number| {
            begun.push(Instant::now());
            async move {
                if number < AT_ONCE {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            }
        });
        answers.collect::<Vec<_>>().await;
        assert!(
            begun[AT_ONCE] - begun[0] >= Duration::from_secs(10),
            "a few at once"
        );
        for pair in begun.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap >= Duration::from_millis(10), "{gap:?}");
        }
    }
}
