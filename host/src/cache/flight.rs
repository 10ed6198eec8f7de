//! One load per key in a process, which others join (law 3).
//!
//! A flight is owned by the host, not by the client that happened to start it: it runs in a task of its own, and a
//! guard in that task publishes a result whatever happens to it, so nobody is left waiting.
//!
//! # Why a second load cannot slip in
//!
//! A flight ends in this order: entry stored, flight removed from the table, result published. A request that finds no
//! flight in the table leads a new one, and the new flight looks into the memory tier (into the shared tier where there
//! is none) before it asks the loader. So between "A misses in the tiers" and "A leads":
//! - B's flight is still in the table: A joins it.
//! - B's flight has been removed: its entry was stored before that, and A's flight finds it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::entry::Entry;
use super::generations::Stamp;
use super::memory::PrecomputedHasher;
use super::places::{Full, Kind, Place, Places, RoutePlaces};
use crate::error::{Failure, FailureKind};
use crate::key::Key;
use crate::sync::{Mutex, Notify, OnceLock};
use crate::trace::Link;

/// What a flight brought back.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The entry, to be judged by everyone who receives it.
    pub entry: Entry,
    /// Whether any tier took it.
    pub stored: bool,
    /// How the loader (or a tier) came to it.
    pub by: LoadedBy,
}

/// How a flight came to its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadedBy {
    /// A loader answered with a value or an absence.
    Loader,
    /// A loader said that the entry in hand is still true.
    Revalidation,
    /// Another flight had stored it just before this one took off.
    Earlier,
    /// Nobody yet: a change that is accepted and not made will make it so.
    Pending,
}

/// A flight's result, shared by all who wait for it.
pub type FlightResult = Result<Loaded, Arc<Failure>>;

/// One load in the air.
pub struct Flight {
    /// The seq noted before it began.
    pub stamp: Stamp,
    /// The trace of its load, once that has begun, for who waits for it.
    pub(super) trace: OnceLock<Link>,
    result: OnceLock<FlightResult>,
    landed: Notify,
}

impl Flight {
    /// Waits for the result. Cancel-safe: nobody's leaving changes the flight.
    pub async fn wait(&self) -> FlightResult {
        loop {
            // Registered before the look: a result published in between wakes this waiter.
            let landed = self.landed.notified();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            landed.await;
        }
    }
}

/// Whether a request leads a flight or joins one.
pub enum Boarding {
    /// It must be flown: run it in a task of its own and end the guard with its result.
    Lead(FlightGuard),
    /// Somebody else's.
    Join(Arc<Flight>),
}

/// All flights in the air.
pub struct Flights {
    shards: Box<[Shard]>,
    places: Arc<Places>,
}

type Shard = Mutex<HashMap<Key, Arc<Flight>, BuildHasherDefault<PrecomputedHasher>>>;

const SHARDS: usize = 64;

impl Flights {
    /// A table for at most `flying_max` loads at once (law 12).
    pub fn new(flying_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            places: Places::new(flying_max),
        }
    }

    /// Joins the flight of a key, or leads a new one for `route`, stamped by `stamp`. A flight that `joinable` refuses (it began
    /// before a purge that covers it) is left to those who wait for it and replaced in the table.
    ///
    /// # Errors
    /// `too-many-loads` or `too-many-route-loads` when a new flight would pass a bound.
    pub fn board(
        self: &Arc<Self>,
        key: &Key,
        route: &Arc<RoutePlaces>,
        stamp: impl FnOnce() -> Stamp,
        joinable: impl FnOnce(Stamp) -> bool,
    ) -> Result<Boarding, Failure> {
        let mut shard = self.shard(key).lock();
        if let Some(flight) = shard.get(key)
            && joinable(flight.stamp)
        {
            return Ok(Boarding::Join(Arc::clone(flight)));
        }
        let place = self.take_place(route)?;
        let flight = Arc::new(Flight {
            stamp: stamp(),
            trace: OnceLock::new(),
            result: OnceLock::new(),
            landed: Notify::new(),
        });
        shard.insert(key.clone(), Arc::clone(&flight));
        Ok(Boarding::Lead(FlightGuard {
            flights: Arc::clone(self),
            key: key.clone(),
            flight,
            _place: place,
        }))
    }

    /// A place among the loads at once; held by every flight, and to be held for a load that no flight stands for (a bypass).
    ///
    /// # Errors
    /// `too-many-loads`, `too-many-route-loads`.
    pub fn take_place(&self, route: &Arc<RoutePlaces>) -> Result<Place, Failure> {
        self.places
            .take(route, Kind::Load)
            .map_err(|full| match full {
                Full::Route(most) => overloaded(
                    "too-many-route-loads",
                    format!("{most} loads of this route are running, the most allowed (its max_loads)"),
                ),
                Full::Host(most) => overloaded(
                    "too-many-loads",
                    format!(
                        "this route's share of the {most} loads that may run at once is taken, and so is what all share \
                         ([server] max_loads)"
                    ),
                ),
            })
    }

    /// Loads running now.
    pub fn flying(&self) -> usize {
        self.places.taken()
    }

    fn shard(&self, key: &Key) -> &Shard {
        // The high bits: the map inside uses the low ones.
        &self.shards[(key.hash64() >> 58) as usize % SHARDS]
    }
}

/// A bound of the host is reached: 503 with `Retry-After`.
pub fn overloaded(code: &'static str, message: String) -> Failure {
    Failure {
        retry_after: Some(std::time::Duration::from_secs(1)),
        ..Failure::host(FailureKind::Overloaded, code, message)
    }
}

/// The leader's duty: whoever drops it without a result (a panic, a shutdown) publishes a failure.
pub struct FlightGuard {
    flights: Arc<Flights>,
    key: Key,
    flight: Arc<Flight>,
    _place: Place,
}

impl FlightGuard {
    /// The flight that is led.
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Removes the flight from the table, then publishes: see the module's order.
    pub fn land(self, result: FlightResult) {
        self.remove();
        let _ = self.flight.result.set(result);
        // `self` is dropped now and wakes the waiters.
    }

    fn remove(&self) {
        let mut shard = self.flights.shard(&self.key).lock();
        // It may have been replaced by a flight that began after a purge.
        if shard
            .get(&self.key)
            .is_some_and(|flight| Arc::ptr_eq(flight, &self.flight))
        {
            shard.remove(&self.key);
        }
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        if self.flight.result.get().is_none() {
            self.remove();
            let message = "the load ended without a result: it panicked or the server is stopping";
            let failure = Failure::host(FailureKind::Internal, "load-aborted", message);
            let _ = self.flight.result.set(Err(Arc::new(failure)));
        }
        self.flight.landed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Resource;

    const STAMP: Stamp = Stamp {
        epoch: 1,
        seq: 1,
        sync: 0,
    };

    fn key(value: &str) -> Key {
        Key::new(&Resource::new("/data/{key}", [value]), "demo~1", &[]).unwrap()
    }

    fn lead(flights: &Arc<Flights>, value: &str) -> FlightGuard {
        match flights
            .board(&key(value), &Arc::default(), || STAMP, |_| true)
            .unwrap()
        {
            Boarding::Lead(guard) => guard,
            Boarding::Join(_) => panic!("nobody should be in the air"),
        }
    }

    #[tokio::test]
    async fn law_3_a_leader_that_panics_strands_nobody() {
        let flights = Arc::new(Flights::new(10));
        let guard = lead(&flights, "a");
        let flight = Arc::clone(guard.flight());
        let leader = tokio::spawn(async move {
            let _guard = guard;
            panic!("on purpose");
        });
        assert_eq!(flight.wait().await.unwrap_err().code, "load-aborted");
        assert!(leader.await.is_err());
        lead(&flights, "a").land(Err(Arc::new(overloaded("x", String::new()))));
        assert_eq!(flights.flying(), 0);
    }

    #[tokio::test]
    async fn law_4_a_flight_older_than_a_purge_is_replaced_and_does_not_remove_its_successor() {
        let flights = Arc::new(Flights::new(10));
        let old = lead(&flights, "a");
        let Boarding::Lead(new) = flights
            .board(&key("a"), &Arc::default(), || STAMP, |_| false)
            .unwrap()
        else {
            panic!("a flight that may not be joined is replaced");
        };
        let failed = || Err(Arc::new(overloaded("x", String::new())));
        old.land(failed());
        let Boarding::Join(joined) = flights
            .board(&key("a"), &Arc::default(), || STAMP, |_| true)
            .unwrap()
        else {
            panic!("the successor is still in the air");
        };
        assert!(Arc::ptr_eq(&joined, new.flight()));
        new.land(failed());
    }

    #[tokio::test]
    async fn law_12_over_the_bound_a_new_load_is_refused_and_joining_is_not() {
        let flights = Arc::new(Flights::new(1));
        let guard = lead(&flights, "a");
        assert!(matches!(
            flights.board(&key("a"), &Arc::default(), || STAMP, |_| true),
            Ok(Boarding::Join(_))
        ));
        let refused = flights
            .board(&key("b"), &Arc::default(), || STAMP, |_| true)
            .err()
            .unwrap();
        assert_eq!(
            (refused.kind, refused.code.as_ref()),
            (FailureKind::Overloaded, "too-many-loads")
        );
        drop(guard);
        drop(lead(&flights, "b"));
    }
}
