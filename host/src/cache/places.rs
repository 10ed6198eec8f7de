//! Who may load and who may wait for a load: the bounds of the host and of a route, and what each route has for itself.
//!
//! Of the places that there are, half belong to the routes, in equal shares, and half to whoever comes first. So a route
//! whose source has become slow holds at most its own share and the common half: however many ask for it, every other
//! route still finds its own share free. A single route has them all.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::sync::AtomicUsize;

/// The places of one kind in this process.
#[derive(Debug)]
pub struct Places {
    max: usize,
    taken: AtomicUsize,
    /// Those of the common half.
    common: AtomicUsize,
}

/// What one route has taken of one kind.
#[derive(Debug, Default)]
struct Taken {
    all: AtomicUsize,
    /// Of its own share.
    own: AtomicUsize,
    /// How many are its own.
    share: AtomicUsize,
}

/// What a route may take. One for a pattern, over all of its bindings: a reload frees no place that is taken.
#[derive(Debug)]
pub struct RoutePlaces {
    loads: Taken,
    waiters: Taken,
    /// Loads of this route at once.
    loads_max: AtomicUsize,
}

/// Whose loads or waiters are meant.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Loads that run.
    Load,
    /// Requests that wait for one.
    Waiter,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The route has as many as it may, which are so many.
    Route(usize),
    /// Its share is taken, and so is the common half; so many places there are in all.
    Host(usize),
}

impl Default for RoutePlaces {
    fn default() -> Self {
        Self {
            loads: Taken::default(),
            waiters: Taken::default(),
            loads_max: AtomicUsize::new(usize::MAX),
        }
    }
}

impl RoutePlaces {
    /// One of `routes` routes, of which each has an equal share of half of all places; none of its own where there are
    /// fewer places than that. `loads_max`: how many loads of it may run at once, if that is bounded.
    ///
    /// While the number of routes changes, the shares may add up to more than half for as long as what was taken under the
    /// old ones is held.
    pub fn share_out(&self, routes: usize, all: super::Bounds, loads_max: Option<usize>) {
        let share = |max: usize| max / 2 / routes.max(1);
        self.loads.share.store(share(all.loads_max), Relaxed);
        self.waiters.share.store(share(all.waiters_max), Relaxed);
        self.loads_max
            .store(loads_max.unwrap_or(usize::MAX), Relaxed);
    }

    /// Loads of the route that run now, and requests that wait for one.
    pub fn taken(&self) -> (usize, usize) {
        (self.loads.all.load(Relaxed), self.waiters.all.load(Relaxed))
    }

    fn of(&self, kind: Kind) -> (&Taken, usize) {
        match kind {
            Kind::Load => (&self.loads, self.loads_max.load(Relaxed)),
            Kind::Waiter => (&self.waiters, usize::MAX),
        }
    }
}

impl Places {
    /// So many.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: AtomicUsize::new(0),
            common: AtomicUsize::new(0),
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Takes one for a route: of its own share while there is one, else of the common half.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn take(self: &Arc<Self>, route: &Arc<RoutePlaces>, kind: Kind) -> Result<Place, Full> {
        let (taken, most) = route.of(kind);
        if !raise(&taken.all, most) {
            return Err(Full::Route(most));
        }
        let is_own = raise(&taken.own, taken.share.load(Relaxed));
        if !is_own && !raise(&self.common, self.max - self.max / 2 + self.unshared(taken)) {
            taken.all.fetch_sub(1, Relaxed);
            return Err(Full::Host(self.max));
        }
        self.taken.fetch_add(1, Relaxed);
        Ok(Place {
            places: Arc::clone(self),
            route: Arc::clone(route),
            kind,
            is_own,
        })
    }

    /// Nobody has a share where there are too few places for that: then they are all common.
    fn unshared(&self, taken: &Taken) -> usize {
        if taken.share.load(Relaxed) == 0 {
            self.max / 2
        } else {
            0
        }
    }
}

/// One more, if it is then no more than `most`.
fn raise(count: &AtomicUsize, most: usize) -> bool {
    count
        .fetch_update(Relaxed, Relaxed, |now| (now < most).then_some(now + 1))
        .is_ok()
}

/// A place that is taken; given back on drop.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    route: Arc<RoutePlaces>,
    kind: Kind,
    is_own: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (taken, _) = self.route.of(self.kind);
        let from = if self.is_own {
            &taken.own
        } else {
            &self.places.common
        };
        from.fetch_sub(1, Relaxed);
        taken.all.fetch_sub(1, Relaxed);
        self.places.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Bounds;

    fn route(routes: usize, all: usize, loads_max: Option<usize>) -> Arc<RoutePlaces> {
        let places = RoutePlaces::default();
        let bounds = Bounds {
            loads_max: all,
            waiters_max: all,
        };
        places.share_out(routes, bounds, loads_max);
        Arc::new(places)
    }

    fn fill(places: &Arc<Places>, route: &Arc<RoutePlaces>) -> Vec<Place> {
        std::iter::from_fn(|| places.take(route, Kind::Load).ok()).collect()
    }

    #[test]
    fn a_route_that_takes_all_it_can_leaves_the_others_their_shares() {
        let places = Places::new(20);
        let (slow, other, third) = (route(3, 20, None), route(3, 20, None), route(3, 20, None));
        let held = fill(&places, &slow);
        // Its own 3 and the common 10.
        assert_eq!(held.len(), 13);
        assert_eq!(places.take(&slow, Kind::Load).unwrap_err(), Full::Host(20));
        assert_eq!(fill(&places, &other).len(), 3);
        assert_eq!(fill(&places, &third).len(), 3);
    }

    #[test]
    fn what_is_given_back_goes_where_it_came_from() {
        let places = Places::new(8);
        let (one, other) = (route(2, 8, None), route(2, 8, None));
        let mut held = fill(&places, &one);
        assert_eq!((held.len(), places.taken()), (6, 6));
        // The common ones were taken last.
        drop(held.split_off(2));
        let others = fill(&places, &other);
        assert_eq!(others.len(), 6);
        drop((held, others));
        assert_eq!((places.taken(), one.taken()), (0, (0, 0)));
        assert_eq!(fill(&places, &one).len(), 6);
    }

    #[test]
    fn one_route_has_all_places_and_so_have_many_that_are_too_many_for_a_share() {
        let places = Places::new(7);
        assert_eq!(fill(&places, &route(1, 7, None)).len(), 7);
        let places = Places::new(1);
        assert_eq!(fill(&places, &route(5, 1, None)).len(), 1);
    }

    #[test]
    fn a_route_has_a_bound_of_its_own() {
        let places = Places::new(100);
        let bounded = route(2, 100, Some(2));
        let held = fill(&places, &bounded);
        assert_eq!(held.len(), 2);
        assert_eq!(
            places.take(&bounded, Kind::Load).unwrap_err(),
            Full::Route(2)
        );
        // Who waits for those loads is another matter.
        places.take(&bounded, Kind::Waiter).unwrap();
    }
}
