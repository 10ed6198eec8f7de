//! Turns and queues, with a clock that the tests move.

use super::*;

/// A caller, by name.
#[derive(Debug, PartialEq, Eq)]
struct Caller {
    name: String,
    size: usize,
    deadline: Instant,
    is_gone: bool,
}

impl Waits for Caller {
    fn is_gone(&self) -> bool {
        self.is_gone
    }
    fn size(&self) -> usize {
        self.size
    }
    fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// A queue at a moment that is told.
struct World {
    fair: Fair<Caller>,
    now: Instant,
}

const TIME: Duration = Duration::from_secs(2);

impl World {
    /// Calls take 50 ms.
    fn new(max: usize) -> Self {
        let mut fair = Fair::new(max);
        fair.took(Duration::from_millis(50));
        Self {
            fair,
            now: Instant::now(),
        }
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    /// `a1` is a caller of route `a`. Gives the names of those who go for it.
    fn push(&mut self, name: &str) -> Vec<String> {
        self.push_of(name, 1, false)
    }

    fn push_of(&mut self, name: &str, size: usize, is_gone: bool) -> Vec<String> {
        self.push_as(name, size, is_gone, TIME)
    }

    /// A caller that stops waiting in so many milliseconds.
    fn push_until(&mut self, name: &str, ms: u64) -> Vec<String> {
        self.push_as(name, 1, false, Duration::from_millis(ms))
    }

    fn push_as(&mut self, name: &str, size: usize, is_gone: bool, time: Duration) -> Vec<String> {
        let caller = Caller {
            name: name.to_owned(),
            size,
            deadline: self.now + time,
            is_gone,
        };
        names(self.fair.push(&name[..1].into(), caller, self.now))
    }

    /// Who is next, and who is turned away.
    fn pop(&mut self) -> (Option<String>, Vec<String>) {
        let next = self.fair.pop(self.now);
        (next.taken.map(|caller| caller.name), names(next.shed))
    }

    fn order(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.pop().0).collect()
    }
}

fn names(callers: Vec<Caller>) -> Vec<String> {
    callers.into_iter().map(|caller| caller.name).collect()
}

#[test]
fn routes_take_turns_however_many_wait_of_one() {
    let mut world = World::new(100);
    for name in ["a1", "a2", "a3", "a4", "b1", "c1", "b2"] {
        world.push(name);
    }
    assert_eq!(world.order(), ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]);
    assert!(world.fair.is_empty());
    assert_eq!(world.fair.size(), 0);
}

#[test]
fn a_burst_is_served_as_it_came_and_a_standing_lane_from_its_end() {
    let mut world = World::new(100);
    for name in ["a1", "a2", "a3"] {
        world.push(name);
    }
    // As long as a call takes says nothing of overload.
    assert_eq!(world.after(50).pop().0.unwrap(), "a1");
    world.after(1);
    world.push("a4");
    assert_eq!(world.order(), ["a4", "a3", "a2"]);
    // It was empty: what comes now is another burst.
    world.push("a5");
    world.push("a6");
    assert_eq!(world.order(), ["a5", "a6"]);
}

#[test]
fn a_lane_that_stands_does_not_turn_its_neighbour() {
    let mut world = World::new(100);
    world.push("a1");
    world.push("a2");
    world.after(100);
    world.push("b1");
    world.push("b2");
    assert_eq!(world.order(), ["a2", "b1", "a1", "b2"]);
}

#[test]
fn who_has_waited_for_half_of_its_time_in_a_standing_lane_is_told_so() {
    let mut world = World::new(100);
    world.push("a1");
    world.after(500);
    world.push("a2");
    world.after(501);
    world.push("a3");
    assert_eq!(world.pop(), (Some("a3".into()), vec!["a1".into()]));
    assert_eq!(world.pop(), (Some("a2".into()), vec![]));
}

#[test]
fn who_has_less_time_left_than_a_call_takes_is_told_so() {
    let mut world = World::new(100);
    world.push_of("a1", 1, true);
    world.after(60);
    // It has 70 ms.
    world.push_until("a2", 70);
    world.after(30);
    // Not half of them are over, and 40 ms are less than a call takes.
    assert_eq!(world.pop(), (None, vec!["a1".into(), "a2".into()]));
}

#[test]
fn a_burst_is_served_whatever_time_is_left() {
    let mut world = World::new(100);
    world.push_until("a1", 30);
    world.after(20);
    assert_eq!(world.pop().0.unwrap(), "a1");
}

#[test]
fn without_room_the_longest_lane_gives_way() {
    let mut world = World::new(4);
    for name in ["a1", "a2", "a3", "b1"] {
        assert_eq!(world.push(name), Vec::<String>::new());
    }
    // A burst: who comes last.
    assert_eq!(world.push("a4"), ["a4"]);
    assert_eq!(world.push("b2"), ["a3"]);
    // A standing lane: who came first.
    world.after(60);
    world.push("a5");
    assert_eq!(world.fair.size(), 4);
    let mut world = World::new(2);
    world.push("a1");
    world.push("a2");
    world.after(60);
    assert_eq!(world.push("a3"), ["a1"]);
}

#[test]
fn who_has_left_goes_before_anybody_who_waits() {
    let mut world = World::new(2);
    world.push_of("a1", 1, true);
    world.push("a2");
    assert_eq!(world.push("a3"), ["a1"]);
    assert_eq!(world.order(), ["a2", "a3"]);
}

#[test]
fn who_has_left_is_never_served() {
    let mut world = World::new(9);
    world.push_of("a1", 1, true);
    world.push("a2");
    world.push_of("a3", 1, true);
    world.push_of("b1", 1, true);
    world.after(60);
    assert_eq!(world.order(), ["a2"]);
    assert!(world.fair.is_empty() && world.fair.size() == 0);
}

#[test]
fn a_batch_takes_as_much_room_as_it_has_questions() {
    let mut world = World::new(10);
    world.push_of("a1", 6, false);
    world.push_of("b1", 4, false);
    assert_eq!(world.push_of("b2", 3, false), ["b2"]);
    assert_eq!(world.fair.size(), 10);
    // One larger than all the room there is cannot wait at all.
    let mut world = World::new(2);
    assert_eq!(world.push_of("a1", 3, false), ["a1"]);
    assert!(world.fair.is_empty());
}

#[test]
fn the_backlog_is_what_the_places_need_for_who_waits() {
    let mut world = World::new(1000);
    for i in 0..100 {
        world.push(&format!("a{i}"));
    }
    assert_eq!(world.fair.backlog(10), Duration::from_millis(500));
}

/// Ten times what can be done, for a minute: who is served has hardly waited, as many are served as can be, and nobody
/// waits for longer than half of its time.
#[test]
fn under_ten_times_the_load_who_is_served_has_hardly_waited() {
    let mut world = World::new(10_000);
    // One place that serves a call in 50 ms, and a caller every 5 ms.
    let begun = world.now;
    let (mut served, mut slow, mut shed) = (0, 0, 0);
    for step in 0..12_000_u64 {
        world.push(&format!("a{step}"));
        if step % 10 == 9 {
            let now = world.now;
            let next = world.fair.pop(now);
            let waited = next.taken.map(|caller| now + TIME - caller.deadline);
            served += 1;
            slow += usize::from(waited.unwrap() > Duration::from_millis(50));
            shed += next.shed.len();
            for caller in next.shed {
                assert!(now + TIME - caller.deadline <= Duration::from_millis(1050));
            }
        }
        world.after(5);
    }
    assert_eq!(world.now - begun, Duration::from_secs(60));
    assert_eq!((served, slow), (1200, 0));
    // Those of the last second still wait.
    assert!(shed > 10_500, "{shed}");
}
