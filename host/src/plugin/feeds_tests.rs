//! One reader and what it owes: the order of its steps, its waits, and what it leaves to the next. The clock is tokio's own,
//! paused: waits are told exactly.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::super::compile::Exports;
use super::super::descriptor::Descriptor;
use super::super::runtime::{Condition, Runtime};
use super::super::version::{Facts, PluginKind};
use super::*;
use crate::cache::Loader;
use crate::error::FailureKind;
use crate::key::KeyPolicy;

/// What happened, in its order.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A poll with this cursor, so many milliseconds after the start.
    Polled(Option<String>, u128),
    Applied(Vec<Change>),
}

/// A feed that gives these pages and then waits for ever; and the one who applies them.
struct Stage {
    pages: Mutex<VecDeque<Result<Page, Failure>>>,
    steps: Mutex<Vec<Step>>,
    /// What becomes of the wish to read, one after another; after the last, as in the beginning: each reads for itself.
    duties: Mutex<VecDeque<Duty>>,
    /// One permit lets one page be applied.
    applying: Semaphore,
    /// Whether some tier has not been told yet.
    unsettled: AtomicBool,
    begun: Instant,
}

impl ChangeFeed for Stage {
    fn poll(&self, cursor: Option<Vec<u8>>) -> BoxFuture<'_, Result<Page, Failure>> {
        let cursor = cursor.map(|cursor| String::from_utf8(cursor).unwrap());
        let at = self.begun.elapsed().as_millis();
        self.steps.lock().push(Step::Polled(cursor, at));
        let page = self.pages.lock().pop_front();
        Box::pin(async move {
            match page {
                Some(page) => page,
                None => std::future::pending().await,
            }
        })
    }
}

impl Changes for Stage {
    fn duty<'a>(&'a self, plugin: &'a str, identity: &'a str) -> BoxFuture<'a, Option<Duty>> {
        assert_eq!(plugin, "pg");
        assert!(identity.starts_with("pg~"), "{identity}");
        Box::pin(std::future::ready(self.duties.lock().pop_front()))
    }

    fn is_settled(&self) -> bool {
        !self.unsettled.load(Ordering::Relaxed)
    }

    fn apply<'a>(&'a self, plugin: &'a str, changes: Vec<Change>) -> BoxFuture<'a, ()> {
        assert_eq!(plugin, "pg");
        self.steps.lock().push(Step::Applied(changes));
        Box::pin(async move { self.applying.acquire().await.unwrap().forget() })
    }
}

/// A version whose feed is a stage's.
struct Version(Arc<Stage>);

impl Runtime for Version {
    fn loader(self: Arc<Self>) -> Option<Arc<dyn Loader>> {
        None
    }

    fn key_policy(self: Arc<Self>) -> Option<Arc<dyn KeyPolicy>> {
        None
    }

    fn writer(self: Arc<Self>) -> Option<Arc<dyn crate::write::Writer>> {
        None
    }

    fn change_feed(self: Arc<Self>) -> Option<Arc<dyn ChangeFeed>> {
        Some(Arc::clone(&self.0) as _)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn condition(&self) -> Condition {
        Condition::Ready
    }

    fn memory_peak(&self) -> usize {
        0
    }

    fn stop(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn page(changes: &[&str], cursor: &str, poll_after_ms: u64) -> Result<Page, Failure> {
    Ok(Page {
        changes: tags(changes),
        cursor: cursor.as_bytes().to_vec(),
        poll_after: Duration::from_millis(poll_after_ms),
    })
}

fn tags(tags: &[&str]) -> Vec<Change> {
    tags.iter().map(|tag| Change::Tag((*tag).into())).collect()
}

fn down(retry_after_ms: Option<u64>) -> Result<Page, Failure> {
    Err(Failure {
        retry_after: retry_after_ms.map(Duration::from_millis),
        ..Failure::host(FailureKind::Unavailable, "feed-down", "no source")
    })
}

/// A storage directory, and readers over it.
struct House {
    storage: tempfile::TempDir,
    stops: TaskTracker,
}

impl House {
    fn new() -> Self {
        Self {
            storage: tempfile::tempdir().unwrap(),
            stops: TaskTracker::new(),
        }
    }

    fn version(&self, stage: &Arc<Stage>, identity: &str) -> Arc<Plugin> {
        let exports = Exports {
            change_feed: true,
            ..Exports::default()
        };
        let facts = Facts {
            name: "pg".into(),
            version: None,
            digest: "00".into(),
            identity: identity.into(),
            kinds: PluginKind::of(&exports),
            described: false,
            descriptor: Arc::new(Descriptor::unknown()),
        };
        let runtime = Arc::new(Version(Arc::clone(stage)));
        Plugin::new(facts, runtime, &self.stops)
    }

    /// Begins to read, as at the start of a server.
    fn begin(&self, stage: &Arc<Stage>, plugin: &Arc<Plugin>) -> Feeds {
        let feeds = Feeds::open(self.storage.path()).unwrap();
        let served = vec![Arc::clone(plugin)];
        feeds.begin(Arc::clone(stage) as _, &self.stops, || served);
        feeds
    }
}

fn stage(pages: impl IntoIterator<Item = Result<Page, Failure>>) -> Arc<Stage> {
    Arc::new(Stage {
        pages: Mutex::new(pages.into_iter().collect()),
        steps: Mutex::default(),
        duties: Mutex::default(),
        applying: Semaphore::new(1000),
        unsettled: AtomicBool::new(false),
        begun: Instant::now(),
    })
}

impl Stage {
    /// Waits until it was polled this often, and gives what happened.
    async fn polled(&self, times: usize) -> Vec<Step> {
        loop {
            let steps = self.steps.lock().clone();
            let polls = steps.iter().filter(|step| matches!(step, Step::Polled(..)));
            if polls.count() >= times {
                return steps;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The times of its polls.
    async fn waits(&self, times: usize) -> Vec<u128> {
        let steps = self.polled(times).await.into_iter();
        let polls: Vec<_> = steps
            .filter_map(|step| match step {
                Step::Polled(_, at) => Some(at),
                Step::Applied(_) => None,
            })
            .collect();
        polls.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn cursor(step: &Step) -> Option<&str> {
    match step {
        Step::Polled(cursor, _) => cursor.as_deref(),
        Step::Applied(_) => panic!("not a poll: {step:?}"),
    }
}

/// A wait, give or take what tokio's clock rounds.
#[track_caller]
fn assert_waits(found: &[u128], wanted: &[u128]) {
    let near = |(found, wanted): (&u128, &u128)| *found >= *wanted && *found <= *wanted + 20;
    assert!(
        found.len() == wanted.len() && found.iter().zip(wanted).all(near),
        "{found:?}, and not {wanted:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_cursor_it_starts_at_the_head_and_everything_is_purged_after_that() {
    let house = House::new();
    let stage = stage([page(&[], "head", 5), page(&["a"], "1", 5)]);
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    let steps = stage.polled(3).await;
    assert_eq!(cursor(&steps[0]), None);
    assert_eq!(steps[1], Step::Applied(vec![Change::Everything]));
    assert_eq!(cursor(&steps[2]), Some("head"));
    assert_eq!(steps[3], Step::Applied(tags(&["a"])));
    assert_eq!(cursor(&steps[4]), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_from_the_saved_cursor_and_another_source_starts_anew() {
    let house = House::new();
    let first = stage([page(&[], "head", 5), page(&["a"], "1", 5)]);
    let plugin = house.version(&first, "pg~1");
    let feeds = house.begin(&first, &plugin);
    first.polled(3).await;
    feeds.stop_all();

    let again = stage([page(&[], "1", 5)]);
    let plugin = house.version(&again, "pg~1");
    let feeds = house.begin(&again, &plugin);
    let steps = again.polled(2).await;
    assert_eq!(cursor(&steps[0]), Some("1"));
    assert!(matches!(steps[1], Step::Polled(..)), "nothing was purged");
    feeds.stop_all();

    let other = stage([page(&[], "head", 5)]);
    let plugin = house.version(&other, "pg~2");
    let _feeds = house.begin(&other, &plugin);
    let steps = other.polled(2).await;
    assert_eq!(cursor(&steps[0]), None);
    assert_eq!(steps[1], Step::Applied(vec![Change::Everything]));
}

#[tokio::test(start_paused = true)]
async fn a_swap_hands_the_cursor_over_when_the_reader_before_has_ended() {
    let house = House::new();
    let old = stage([page(&["a"], "1", 5)]);
    old.applying.forget_permits(1000);
    let before = house.version(&old, "pg~1");
    let feeds = house.begin(&old, &before);
    old.polled(1).await;
    let new = stage([page(&["b"], "2", 5)]);
    let after = house.version(&new, "pg~1");
    feeds.start(&after, &house.stops);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The old one still applies what it read: two at once would save over each other. And nothing is saved before it is
    // applied: who dies now reads it again.
    assert_eq!(*new.steps.lock(), []);
    let cursors = Cursors::open(house.storage.path()).unwrap();
    assert_eq!(cursors.load("pg", "pg~1").await, None);
    old.applying.add_permits(1);
    assert_eq!(cursor(&new.polled(1).await[0]), Some("1"));
    assert_eq!(old.waits(1).await, [], "the old one polls no more");
}

#[tokio::test(start_paused = true)]
async fn the_feed_of_a_retired_plugin_is_read_no_more() {
    let house = House::new();
    let stage = stage([page(&[], "head", 1000), page(&["a"], "1", 5)]);
    let plugin = house.version(&stage, "pg~1");
    let feeds = house.begin(&stage, &plugin);
    stage.polled(1).await;
    feeds.stop("pg");
    house.stops.close();
    drop(plugin);
    house.stops.wait().await;
    assert!(stage.begun.elapsed() < Duration::from_secs(1));
    assert_eq!(stage.pages.lock().len(), 1, "the second page was not read");
}

#[tokio::test(start_paused = true)]
async fn a_failing_feed_is_asked_more_and_more_rarely_until_it_succeeds_and_its_error_is_shown() {
    let house = House::new();
    let stage = stage([
        down(None),
        down(None),
        down(None),
        page(&[], "head", 5),
        page(&["a"], "1", 500),
        down(None),
    ]);
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    stage.polled(2).await;
    let shown = plugin.feed_trouble().unwrap();
    assert!(shown.contains("feed-down: no source"), "{shown}");
    stage.polled(5).await;
    assert_eq!(plugin.feed_trouble(), None);
    // A success resets the waits.
    assert_waits(&stage.waits(7).await, &[100, 200, 400, 100, 500, 100]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_is_asked_when_it_says_so_within_bounds() {
    let house = House::new();
    let stage = stage([
        page(&["a"], "1", 300),
        page(&["b"], "2", 0),
        page(&[], "2", 0),
        page(&[], "2", 86_400_000),
        down(Some(7000)),
        down(Some(86_400_000)),
    ]);
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    assert_waits(&stage.waits(7).await, &[300, 1, 100, 60_000, 7000, 60_000]);
}

/// Where nodes keep how far they read, and whether this one still may.
#[derive(Clone)]
struct Shelf {
    progress: Arc<Mutex<Option<Vec<u8>>>>,
    stands: tokio::sync::watch::Sender<bool>,
    ended: Arc<AtomicBool>,
}

impl Shelf {
    fn new(progress: Option<&str>) -> Self {
        let progress = progress.map(|progress| progress.as_bytes().to_vec());
        Self {
            progress: Arc::new(Mutex::new(progress)),
            stands: tokio::sync::watch::Sender::new(true),
            ended: Arc::default(),
        }
    }

    fn ours(&self) -> Duty {
        Duty::Ours(Box::new(self.clone()))
    }

    fn holds(&self) -> Option<String> {
        let progress = self.progress.lock().clone();
        progress.map(|progress| String::from_utf8(progress).unwrap())
    }
}

impl Tenure for Shelf {
    fn progress(&self) -> Option<Vec<u8>> {
        self.progress.lock().clone()
    }

    fn stands(&self) -> bool {
        *self.stands.borrow()
    }

    fn lost(&self) -> BoxFuture<'_, ()> {
        let mut stands = self.stands.subscribe();
        Box::pin(async move { drop(stands.wait_for(|stands| !stands).await) })
    }

    fn save<'a>(&'a self, progress: &'a [u8]) -> BoxFuture<'a, Saved> {
        Box::pin(async move {
            if !self.stands() {
                return Saved::Lost;
            }
            *self.progress.lock() = Some(progress.to_vec());
            Saved::Saved
        })
    }

    fn end(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.ended.store(true, Ordering::Relaxed);
        Box::pin(std::future::ready(()))
    }
}

/// A duty that another has for this long.
fn others(ms: u64) -> Duty {
    Duty::Others(Box::pin(async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }))
}

#[tokio::test(start_paused = true)]
async fn a_feed_is_polled_only_by_who_has_the_duty_and_from_where_the_last_one_came() {
    let house = House::new();
    let shelf = Shelf::new(Some("7"));
    let stage = stage([page(&["a"], "8", 5)]);
    let duties = [others(700), Duty::Unavailable, others(1000), shelf.ours()];
    stage.duties.lock().extend(duties);
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    let steps = stage.polled(2).await;
    assert_eq!(cursor(&steps[0]), Some("7"));
    assert!(
        matches!(steps[0], Step::Polled(_, 1800..=1850)),
        "{steps:?}"
    );
    assert_eq!(steps[1], Step::Applied(tags(&["a"])));
    assert_eq!(shelf.holds().as_deref(), Some("8"));
    let own = Cursors::open(house.storage.path()).unwrap();
    assert_eq!(own.load("pg", "pg~1").await, None, "not on its own disk");
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_duty_polls_no_more_and_saves_nothing() {
    let house = House::new();
    let shelf = Shelf::new(Some("7"));
    let stage = stage([page(&["a"], "8", 5)]);
    stage.applying.forget_permits(1000);
    stage
        .duties
        .lock()
        .extend([shelf.ours(), others(3_600_000)]);
    let plugin = house.version(&stage, "pg~1");
    let feeds = house.begin(&stage, &plugin);
    stage.polled(1).await;
    // It is frozen while it applies a page, and another has read that page meanwhile.
    shelf.stands.send_replace(false);
    *shelf.progress.lock() = Some(b"9".to_vec());
    stage.applying.add_permits(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(stage.waits(1).await, [], "polled once");
    assert_eq!(shelf.holds().as_deref(), Some("9"));
    assert_eq!(feeds.counts().reading.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_waits_is_given_up_with_the_duty_and_the_next_begins_where_the_other_came_to() {
    let house = House::new();
    let (first, second) = (Shelf::new(Some("7")), Shelf::new(Some("9")));
    let stage = stage([]);
    stage.duties.lock().extend([first.ours(), second.ours()]);
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    stage.polled(1).await;
    first.stands.send_replace(false);
    let steps = stage.polled(2).await;
    assert_eq!(
        [cursor(&steps[0]), cursor(&steps[1])],
        [Some("7"), Some("9")]
    );
}

#[tokio::test(start_paused = true)]
async fn who_cannot_read_the_feed_lets_another_try_and_a_stop_hands_over() {
    let house = House::new();
    let (first, second) = (Shelf::new(Some("7")), Shelf::new(Some("7")));
    let stage = stage([down(Some(7000))]);
    stage.duties.lock().extend([first.ours(), second.ours()]);
    let plugin = house.version(&stage, "pg~1");
    let feeds = house.begin(&stage, &plugin);
    stage.polled(1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(first.ended.load(Ordering::Relaxed));
    assert!(plugin.feed_trouble().unwrap().contains("feed-down"));
    // It asks for the duty again when it would have polled again.
    assert_waits(&stage.waits(2).await, &[7000]);
    feeds.stop_all();
    house.stops.close();
    drop(plugin);
    house.stops.wait().await;
    assert!(second.ended.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_duty_that_nobody_knows_is_told_after_a_while_and_forgotten_when_one_is_known() {
    let house = House::new();
    let stage = stage([]);
    let away = std::iter::repeat_with(|| Duty::Unavailable).take(30);
    stage.duties.lock().extend(away);
    stage.duties.lock().push_back(others(3_600_000));
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(plugin.feed_trouble(), None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(plugin.feed_trouble().unwrap().contains("Redis is away"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(plugin.feed_trouble(), None);
    assert_eq!(*stage.steps.lock(), []);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_does_not_change_is_written_down_again() {
    let house = House::new();
    let shelf = Shelf::new(Some("7"));
    let idle = (0..62).map(|_| page(&[], "7", 60_000));
    let stage = stage(idle);
    stage.duties.lock().push_back(shelf.ours());
    let plugin = house.version(&stage, "pg~1");
    let _feeds = house.begin(&stage, &plugin);
    stage.polled(59).await;
    // Lost where it lay.
    *shelf.progress.lock() = None;
    stage.polled(63).await;
    assert_eq!(shelf.holds().as_deref(), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_cannot_be_saved_is_told_and_the_feed_is_read_on() {
    let house = House::new();
    let stage = stage([
        page(&[], "head", 5),
        page(&["a"], "1", 5),
        page(&[], "1", 500),
        page(&[], "1", 500),
    ]);
    let plugin = house.version(&stage, "pg~1");
    let feeds = Feeds::open(house.storage.path()).unwrap();
    let dir = house.storage.path().join("feeds");
    std::fs::remove_dir(&dir).unwrap();
    let served = vec![Arc::clone(&plugin)];
    feeds.begin(Arc::clone(&stage) as _, &house.stops, || served);
    let steps = stage.polled(3).await;
    assert_eq!(steps[3], Step::Applied(tags(&["a"])));
    let shown = plugin.feed_trouble().unwrap();
    assert!(shown.contains("[storage] dir"), "{shown}");
    // As soon as it can be, it is, although nothing new was told.
    std::fs::create_dir(&dir).unwrap();
    stage.polled(5).await;
    assert_eq!(plugin.feed_trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn law_4_no_cursor_is_saved_before_every_tier_was_told() {
    let house = House::new();
    let first = stage([
        page(&[], "head", 5),
        page(&["a"], "1", 5),
        page(&[], "1", 500),
    ]);
    first.unsettled.store(true, Ordering::Relaxed);
    let feeds = house.begin(&first, &house.version(&first, "pg~1"));
    first.polled(3).await;
    feeds.stop_all();
    // It stopped before the tier was back: the page is read again from where it was settled, which is nowhere.
    let second = stage([
        page(&["a"], "1", 5),
        page(&[], "1", 500),
        page(&[], "1", 500),
    ]);
    let feeds = house.begin(&second, &house.version(&second, "pg~1"));
    let steps = second.polled(2).await;
    assert_eq!(cursor(&steps[0]), None);
    // Now everything is told, and the cursor is saved with the next page, although that tells nothing new.
    feeds.stop_all();
    let third = stage([page(&[], "1", 500), page(&[], "1", 500)]);
    house.begin(&third, &house.version(&third, "pg~1"));
    assert_eq!(cursor(&third.polled(1).await[0]), Some("1"));
}
