//! The well-behaved plugin beside the hostile one, and the server's memory: what must not change. Must not know what is
//! being tried.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder_tests::{Larder, Usage};

/// Loads of the neighbour in one measurement: one in a hundred of them are slower than what is compared.
const SAMPLES: usize = 300;

/// What is fast enough whatever the quiet value is. The machine has few cores and they do other things, too: a pause of the
/// scheduler's is of this order, and must not fail a case. A neighbour that waits for a hostile plugin again and again waits
/// for its `cpu` limit of 50 ms each time, and does not pass; one that waited once is not noticed.
const FLOOR: Duration = Duration::from_millis(25);

/// A measurement over the bound is taken again, because noise passes and harm does not.
const ROUNDS: usize = 3;

/// Memory that may be had for other reasons: what a first use of something maps, an allocator's caches.
const MEMORY_FLOOR: u64 = 16 << 20;

pub(crate) struct Neighbour<'a> {
    larder: &'a Larder,
    /// Its 99th percentile while nobody does harm.
    pub(crate) quiet: Duration,
    asked: AtomicUsize,
}

impl<'a> Neighbour<'a> {
    /// Measures it alone, after warming it up.
    pub(crate) async fn quiet(larder: &'a Larder) -> Self {
        let mut neighbour = Self {
            larder,
            quiet: Duration::ZERO,
            asked: AtomicUsize::new(0),
        };
        let done = AtomicBool::new(true);
        neighbour.sample(&done).await.expect("it answers");
        neighbour.quiet = neighbour.sample(&done).await.expect("it answers");
        neighbour
    }

    /// What comes of an attack, and the neighbour's 99th percentile while it lasts. The attack is told how often it was
    /// made before: a measurement that may be noise is taken again, over another one.
    pub(crate) async fn watch<F: Future<Output = Result<String, String>>>(
        &self,
        attack: impl Fn(usize) -> F,
    ) -> (Result<String, String>, Result<Duration, String>) {
        let bound = FLOOR.max(self.quiet * 2);
        let mut told = None;
        for round in 0..ROUNDS {
            let done = AtomicBool::new(false);
            let attacked = async {
                let told = attack(round).await;
                done.store(true, Ordering::Relaxed);
                told
            };
            let (now, p99) = tokio::join!(attacked, self.sample(&done));
            // Only the first is judged: a second meets what the first has left behind, such as an open breaker.
            let told = told.get_or_insert(now).clone();
            match p99 {
                Ok(p99) if p99 > bound && round + 1 < ROUNDS => {}
                Ok(p99) if p99 > bound => {
                    let why = format!("the neighbour's p99 is {p99:.1?}, over {bound:.1?}");
                    return (told, Err(why));
                }
                other => return (told, other),
            }
        }
        unreachable!("the last round returns")
    }

    /// The 99th percentile of loads one after the other, until there are enough and `done`.
    async fn sample(&self, done: &AtomicBool) -> Result<Duration, String> {
        let mut took = Vec::new();
        while took.len() < SAMPLES || !done.load(Ordering::Relaxed) {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            let answer = self.larder.get(&format!("/neighbour/{number}")).await;
            took.push(began.elapsed());
            if answer.status != 200 {
                return Err(format!("the neighbour is not answered: {answer:?}"));
            }
        }
        took.sort();
        Ok(took[took.len() * 99 / 100])
    }
}

/// Waits until the server's resident memory is what it was, within a tenth; says what it was and is.
pub(crate) async fn memory_comes_back(larder: &Larder, before: Usage) -> Result<String, String> {
    let most = before.resident + before.resident / 10 + MEMORY_FLOOR;
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
