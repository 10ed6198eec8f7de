//! The well-behaved plugin beside the hostile one: how long its answers take, compared with the same plugin's in a server
//! that nobody attacks, in the same moment. Must not know what is being tried.
//!
//! What makes this fair on a machine of two cores that has other things to do, and able to see harm:
//!
//! - The control is a second server of the same program, asked in turn with the attacked one, by the same thread, in the
//!   same window. Whatever slows the machine down slows both, and the bound rises with the control's own slowing.
//! - Requests are sent by the clock, not one after the other: one that cannot be sent in time, because the one before it
//!   still waits, counts from when it should have been sent. So a stall is seen by all requests that fall into it, and not
//!   by the one alone that happened to be on its way.
//! - What asks runs on a thread and a runtime of its own, so that the work of this process is not measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Method;
use larder_tests::{Client, Larder};

/// Connections to each server, so that no single one of its threads is what is measured.
const LANES: usize = 8;
/// How often each connection asks: 500 requests a second to each server, a small part of what it can answer.
const EVERY: Duration = Duration::from_millis(16);
/// Requests of each connection in one window, at least: 800 to each server, so the 99th percentile has eight above it.
const REQUESTS: usize = 100;
/// Keys of the neighbour. They come again, and nothing of them is kept: what the server remembers does not grow by them.
const KEYS: usize = 512;

/// What may come on top of twice the quiet value. The attacked server has threads that compute, which the control has not,
/// and the kernel lets each of them have a core for some milliseconds, whatever is done here. A neighbour that waits for a
/// hostile plugin waits for its `cpu` limit, which is 50 ms, and does not pass.
const FLOOR: Duration = Duration::from_millis(10);

/// A measurement over the bound is taken again, over a new attack, because noise passes and harm does not.
const ROUNDS: usize = 5;

/// The 99th percentiles of one window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow {
    /// In the server that is attacked.
    pub(crate) attacked: Duration,
    /// In the one that is not.
    pub(crate) control: Duration,
}

/// How far a window is.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Of the lanes, how many have asked often enough.
    filled: AtomicUsize,
    /// What it is to be measured beside has ended.
    done: AtomicBool,
}

impl Window {
    /// Whether there are requests enough: who attacks for as long as it is measured stops now.
    pub(crate) fn is_full(&self) -> bool {
        self.filled.load(Ordering::Relaxed) == 2 * LANES
    }
}

pub(crate) struct Neighbour {
    servers: [SocketAddr; 2],
    /// While nobody does harm.
    pub(crate) quiet: Slow,
    /// Never attacked; it runs for as long as this.
    _control: Larder,
}

impl Neighbour {
    /// Starts the control, and measures both servers while nobody does harm.
    pub(crate) async fn quiet(larder: &Larder) -> Result<Self, String> {
        let control = Larder::with()
            .plugin("demo", "[config]\nlatency_ms = 0\n")
            .route("/neighbour/{key}", "demo", "ttl = \"0\"")
            .start()
            .await;
        let servers = [larder.public.address(), control.public.address()];
        measured(servers, async |_| ()).await?;
        let ((), one) = measured(servers, async |_| ()).await?;
        let ((), other) = measured(servers, async |_| ()).await?;
        Ok(Self {
            servers,
            quiet: Slow {
                attacked: one.attacked.min(other.attacked),
                control: one.control.min(other.control),
            },
            _control: control,
        })
    }

    /// The longest 99th percentile that passes beside this one of the control.
    fn bound(&self, control: Duration) -> Duration {
        let noise = control.as_secs_f64() / self.quiet.control.as_secs_f64();
        (self.quiet.attacked * 2).mul_f64(noise.max(1.0)) + FLOOR
    }

    /// Measures the neighbour while `attack` goes on, which is told its round and begins after `anew`. What came of the first
    /// round, and the percentiles of the last.
    ///
    /// # Errors
    /// The neighbour was not answered, or it was too slow in every round.
    pub(crate) async fn watch<T>(
        &self,
        anew: impl AsyncFn(),
        attack: impl AsyncFn(usize, &Window) -> T,
    ) -> (Option<T>, Result<Slow, String>) {
        let mut first = None;
        for round in 1.. {
            anew().await;
            let (told, slow) = match measured(self.servers, async |window| {
                attack(round - 1, window).await
            })
            .await
            {
                Ok(both) => both,
                Err(why) => return (first, Err(why)),
            };
            first.get_or_insert(told);
            let bound = self.bound(slow.control);
            if slow.attacked <= bound {
                return (first, Ok(slow));
            }
            if round == ROUNDS {
                let why = format!(
                    "the neighbour's p99 is {:.1?}, over {bound:.1?}, and the control's {:.1?}",
                    slow.attacked, slow.control
                );
                return (first, Err(why));
            }
        }
        unreachable!("the last round returns")
    }
}

/// One window: asks both servers until there are requests enough and `meanwhile` has ended.
async fn measured<T>(
    servers: [SocketAddr; 2],
    meanwhile: impl AsyncFnOnce(&Window) -> T,
) -> Result<(T, Slow), String> {
    let window = Arc::new(Window::default());
    let asking = {
        let window = Arc::clone(&window);
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(ask(servers, &window))
        })
    };
    // Set even if it panics: who asks would go on for ever.
    struct Ends<'a>(&'a Window);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.done.store(true, Ordering::Relaxed);
        }
    }
    let told = {
        let _ends = Ends(&window);
        meanwhile(&window).await
    };
    let [attacked, control] = asking.await.map_err(|fault| fault.to_string())??;
    Ok((told, Slow { attacked, control }))
}

/// The 99th percentile of each server.
async fn ask(servers: [SocketAddr; 2], window: &Window) -> Result<[Duration; 2], String> {
    let begin = Instant::now() + EVERY;
    let lanes = (0..2 * LANES).map(|lane| {
        // They take turns: the servers, and the connections to each of them.
        let first = begin + EVERY * u32::try_from(lane).expect("few") / (2 * LANES as u32);
        ask_by_the_clock(servers[lane % 2], lane / 2, first, window)
    });
    let took = try_join_all(lanes).await?;
    Ok([0, 1].map(|server| {
        let lanes = took.iter().skip(server).step_by(2);
        let mut all: Vec<_> = lanes.flatten().copied().collect();
        all.sort_unstable();
        all[all.len() * 99 / 100]
    }))
}

/// How long each answer took, on one connection.
async fn ask_by_the_clock(
    server: SocketAddr,
    lane: usize,
    first: Instant,
    window: &Window,
) -> Result<Vec<Duration>, String> {
    let client = Client::new(server);
    let get = async |number: usize| {
        let path = format!("/neighbour/{}", number % KEYS);
        let asked = client.attempt(Method::GET, &path, &[], Bytes::new());
        let answer = asked
            .await
            .map_err(|fault| format!("the neighbour is not answered: {fault:#}"))?;
        if answer.status != 200 {
            return Err(format!("the neighbour is answered {answer:?}"));
        }
        Ok(())
    };
    // To connect is no part of it.
    get(lane).await?;
    let mut took = Vec::with_capacity(REQUESTS);
    // Ticks that were missed are made up for, at once, and each says when it should have been.
    let mut clock = tokio::time::interval_at(first.into(), EVERY);
    loop {
        let before = Instant::now();
        let at = clock.tick().await.into_std();
        let in_time = before < at;
        // A timer is late by a millisecond; what is late because of the server is late from `at`.
        let began = if in_time { Instant::now() } else { at };
        get(took.len() * LANES + lane).await?;
        took.push(began.elapsed());
        if took.len() == REQUESTS {
            window.filled.fetch_add(1, Ordering::Relaxed);
        }
        if took.len() >= REQUESTS && window.done.load(Ordering::Relaxed) {
            return Ok(took);
        }
    }
}
