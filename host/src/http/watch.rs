//! `Accept: text/event-stream` on a route that is watched: the entry, and then what becomes of it. Owns who watches what and
//! when it is looked at again; knows nothing of what a change comes from.
//!
//! # States, not a log
//! For each key that is watched there is one task, however many watch. It looks at what the memory tier holds every
//! [`LOOK`]: as long as that is the very entry which was told, and fresh, nothing has changed. A purge of any scope, a store of
//! this node, the word for a store of another, a resynchronisation, an eviction and the end of the ttl all show in that one
//! look, so none of them is told of who watches: hits and stores cost nothing more than without, and no order of subscribing,
//! reading and changing exists in which a change is missed, because a later look sees the same state. What it costs is a
//! look-up for each watched key ten times a second, and up to [`LOOK`] until a change is seen.
//!
//! When there is something to see the cache is asked as for any client, so a load is one flight for all who watch and all who
//! ask. Between two askings there is [`APART`], and more while they find nothing new: a storm of purges, or a route that stores
//! nothing, is no storm of loads.
//!
//! What was found replaces what was found before, in one place for all who watch the key: who reads slowly has one event in
//! hand and then the latest, and holds up nobody.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};

use super::respond::{self, CACHE_STATUS};
use super::{Body, Service, batch, problem};
use crate::cache::Answer;
use crate::cache::entry::Entry;
use crate::metrics::Metrics;
use crate::route::Snapshot;
use crate::route::derive::Derived;

/// Between two looks at what the memory tier holds.
const LOOK: Duration = Duration::from_millis(100);
/// Between two askings of the cache for one key.
const APART: Duration = Duration::from_millis(250);
/// The most that becomes, doubling while nothing new is found.
const APART_MAX: Duration = Duration::from_secs(1);
/// Silence after which a comment is sent, so that nobody between takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What a stream begins with: when a client that lost it is to come back, in milliseconds.
const GREETING: &str = "retry: 2000\n\n";
/// The media type of a stream (HTML, section 9.2).
const EVENT_STREAM: &str = "text/event-stream";
/// What is watched, and by how many at most.
pub struct Watchers {
    most: usize,
    places: Arc<Semaphore>,
    /// One for each key's text. Taken out by its task when nobody watches any more.
    keys: Mutex<HashMap<Arc<str>, Arc<Watched>>>,
    /// The server stops: streams end.
    stop: watch::Receiver<bool>,
}

/// A key that is watched.
struct Watched {
    /// How the last who came asks for it; after a reload it is derived from that again.
    asked: Mutex<Asking>,
    /// What was found last; none before the first look.
    found: watch::Sender<Option<Arc<Event>>>,
}

#[derive(Clone)]
struct Asking {
    target: Arc<str>,
    headers: Arc<HeaderMap>,
    derived: Arc<Derived>,
}

/// What was found, as it is sent.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    id: String,
    text: Bytes,
}

impl Watchers {
    /// Room for `most` streams, which end when `stop` says so.
    pub fn new(most: usize, stop: watch::Receiver<bool>) -> Self {
        let most = most.min(Semaphore::MAX_PERMITS);
        Self {
            most,
            places: Arc::new(Semaphore::new(most)),
            keys: Mutex::default(),
            stop,
        }
    }
}

impl Service {
    /// Answers a watcher with a stream, or with 503 where there are too many.
    pub(super) fn watch(
        self: &Arc<Self>,
        target: &str,
        request: &HeaderMap,
        derived: Arc<Derived>,
    ) -> Response<Body> {
        let watchers = &self.watchers;
        let Ok(place) = Arc::clone(&watchers.places).try_acquire_owned() else {
            self.metrics.watchers_refused.inc();
            return over(watchers.most);
        };
        let asking = Asking {
            target: target.into(),
            headers: Arc::new(request.clone()),
            derived,
        };
        let last = request.get("last-event-id");
        let last = last.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        let found = self.subscribe(asking);
        let seat = Seat::new(place, Arc::clone(&self.metrics));
        let mut response = Response::new(events(found, last, seat));
        let headers = response.headers_mut();
        for (name, text) in [
            (header::CONTENT_TYPE, EVENT_STREAM),
            (header::CACHE_CONTROL, "no-store"),
            (header::VARY, "accept"),
            (CACHE_STATUS, "larder; detail=watch"),
        ] {
            headers.insert(name, HeaderValue::from_static(text));
        }
        response
    }

    /// What is found of a key from now on, beginning with what was found last.
    fn subscribe(self: &Arc<Self>, asking: Asking) -> watch::Receiver<Option<Arc<Event>>> {
        let text: Arc<str> = asking.derived.ask.key.text().into();
        // Under this lock a key has its task or has none: see `is_over`.
        let mut keys = self.watchers.keys.lock();
        match keys.entry(Arc::clone(&text)) {
            Place::Occupied(place) => {
                let watched = place.get();
                *watched.asked.lock() = asking;
                watched.found.subscribe()
            }
            Place::Vacant(place) => {
                let (found, receiver) = watch::channel(None);
                let watched = Arc::new(Watched {
                    asked: Mutex::new(asking),
                    found,
                });
                place.insert(Arc::clone(&watched));
                let held = Held {
                    service: Arc::clone(self),
                    text,
                    watched,
                };
                tokio::spawn(held.keep());
                receiver
            }
        }
    }
}

/// A watched key in the hands of its task. Dropped, however the task ends, it is watched no more, and its streams end.
struct Held {
    service: Arc<Service>,
    text: Arc<str>,
    watched: Arc<Watched>,
}

impl Held {
    /// Until nobody watches, the key is no more what these requests ask for, or the server stops.
    async fn keep(self) {
        let mut stop = self.service.watchers.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.look_on() => {}
        }
    }

    async fn look_on(&self) {
        let mut routes = self.service.routes.load_full();
        let mut told: Option<Entry> = None;
        let (mut due, mut apart) = (Instant::now(), APART);
        while !self.is_over() {
            let now = self.service.routes.load_full();
            if !Arc::ptr_eq(&now, &routes) {
                if !self.derive_again(&now) {
                    return;
                }
                routes = now;
            }
            let asking = self.watched.asked.lock().clone();
            if !self.is_unchanged(&asking, told.as_ref()) && Instant::now() >= due {
                let is_new;
                (told, is_new) = self.look(&asking).await;
                apart = if is_new {
                    APART
                } else {
                    (apart * 2).min(APART_MAX)
                };
                due = Instant::now() + apart;
            }
            sleep(LOOK).await;
        }
    }

    /// Whether what was told is there, and fresh.
    fn is_unchanged(&self, asking: &Asking, told: Option<&Entry>) -> bool {
        let ask = &asking.derived.ask;
        let held = self.service.cache.peek(ask);
        matches!((held, told), (Some(held), Some(told)) if held.entry.is_same(told))
    }

    /// Asks the cache, and shows what it answers. What that was, and whether it is something else than before.
    async fn look(&self, asking: &Asking) -> (Option<Entry>, bool) {
        let derived = &asking.derived;
        derived.brief.metrics.request();
        let answer = self.service.cache.answer(&derived.ask, false).await;
        self.service.count(derived, &answer);
        let entry = match &answer {
            Answer::Hit { entry, .. }
            | Answer::Miss { entry, .. }
            | Answer::Stale { entry, .. } => Some(entry.clone()),
            _ => None,
        };
        let now_ms = self.service.cache.clock().now_ms();
        // What a watcher says of codings and of what it has is its own, and this is for all of them.
        let none = HeaderMap::new();
        let asked = self.service.asked(&none, now_ms);
        let response = respond::respond(derived, answer, &asked);
        let event = Event::new(&asking.target, response).await;
        let is_new = self.watched.found.send_if_modified(|found| {
            let is_new = found.as_ref().is_none_or(|found| found.id != event.id);
            if is_new {
                *found = Some(Arc::new(event));
            }
            is_new
        });
        (entry, is_new)
    }

    /// After a reload: whether the same key is still what is asked for, and how from now on.
    fn derive_again(&self, routes: &Snapshot) -> bool {
        let mut asked = self.watched.asked.lock();
        let metrics = &self.service.metrics;
        metrics.derivations.inc();
        let Ok(derived) = routes.derive(&asked.target, &*asked.headers, metrics) else {
            return false;
        };
        let is_same = derived.ask.key.text() == &*self.text;
        let goes_on = is_same && derived.bypass.is_none() && derived.route.config.watch;
        asked.derived = derived;
        goes_on
    }

    /// Whether nobody watches any more. Judged under the lock under which others come: who comes later finds no task, and
    /// begins one.
    fn is_over(&self) -> bool {
        if self.watched.found.receiver_count() > 0 {
            return false;
        }
        let mut keys = self.service.watchers.keys.lock();
        if self.watched.found.receiver_count() > 0 {
            return false;
        }
        self.forget(&mut keys);
        true
    }

    fn forget(&self, keys: &mut HashMap<Arc<str>, Arc<Watched>>) {
        if keys
            .get(&self.text)
            .is_some_and(|held| Arc::ptr_eq(held, &self.watched))
        {
            keys.remove(&self.text);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.forget(&mut self.service.watchers.keys.lock());
    }
}

impl Event {
    /// An answer as an event: the item of a batch, under a name that says what it is. Its id is the entity tag, so that what
    /// is loaded again and found the same is no change.
    async fn new(target: &str, response: Response<Body>) -> Self {
        let status = response.status();
        let etag = response.headers().get(header::ETAG);
        let (name, id) = match etag.and_then(|etag| etag.to_str().ok()) {
            Some(etag) => ("entry", etag.to_owned()),
            None if status == StatusCode::NOT_FOUND => ("missing", "missing".to_owned()),
            None => ("failure", format!("failure-{}", status.as_u16())),
        };
        // It ends with a line break and has no other.
        let line = batch::line(target.to_owned(), response).await;
        let mut text = format!("event: {name}\nid: {id}\ndata: ").into_bytes();
        text.extend_from_slice(&line);
        text.push(b'\n');
        Self {
            id,
            text: text.into(),
        }
    }
}

/// A place among those who watch; given back on drop, also when the client leaves.
struct Seat(
    #[allow(dead_code, reason = "held, not read")] OwnedSemaphorePermit,
    Arc<Metrics>,
);

impl Seat {
    fn new(place: OwnedSemaphorePermit, metrics: Arc<Metrics>) -> Self {
        metrics.watchers.inc();
        Self(place, metrics)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.1.watchers.dec();
    }
}

/// The stream of one watcher. It is asked for the next piece when the client has taken the last, and looks then at what
/// there is: nothing is kept for it in between.
fn events(found: watch::Receiver<Option<Arc<Event>>>, last: Option<String>, seat: Seat) -> Body {
    let state = (found, last, seat, false);
    let pieces = stream::unfold(state, |(mut found, mut last, seat, greeted)| async move {
        if !greeted {
            let piece = Bytes::from_static(GREETING.as_bytes());
            return Some((Ok(Frame::data(piece)), (found, last, seat, true)));
        }
        loop {
            let event = found.borrow_and_update().clone();
            if let Some(event) = event.filter(|event| last.as_ref() != Some(&event.id)) {
                last = Some(event.id.clone());
                seat.1.watch_events.inc();
                let piece = event.text.clone();
                return Some((Ok(Frame::data(piece)), (found, last, seat, true)));
            }
            tokio::select! {
                changed = found.changed() => if changed.is_err() {
                    return None;
                },
                () = sleep(HEARTBEAT) => {
                    let piece = Bytes::from_static(b":\n\n");
                    return Some((Ok(Frame::data(piece)), (found, last, seat, true)));
                }
            }
        }
    });
    Body::stream(StreamBody::new(pieces))
}

/// One watcher too many.
fn over(most: usize) -> Response<Body> {
    let detail = format!("{most} clients watch, the most allowed ([server] max_watchers)");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = problem::of_write(status, "too-many-watchers", detail);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Whether the client prefers a stream (RFC 9110 section 12.5.1). A wildcard is no wish for one: every client would have it.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let (mut stream, mut other) = (0.0_f32, 0.0_f32);
    for field in headers.get_all(header::ACCEPT) {
        for range in field.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| {
                let (name, weight) = part.split_once('=')?;
                name.trim().eq_ignore_ascii_case("q").then_some(weight)
            });
            let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
            let of = if media_type.eq_ignore_ascii_case(EVENT_STREAM) {
                &mut stream
            } else {
                &mut other
            };
            *of = of.max(weight);
        }
    }
    stream > 0.0 && stream >= other
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn only_a_client_that_prefers_a_stream_gets_one() {
        for (accept, wanted) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; q=0.9, */*;q=0.1", true),
            ("application/json;q=0.5, text/event-stream", true),
            ("*/*", false),
            ("text/*", false),
            ("text/event-stream;q=0", false),
            ("text/event-stream;q=no", false),
            ("text/event-stream;q=0.5, application/json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(is_wanted(&headers), wanted, "{accept}");
        }
        assert!(!is_wanted(&HeaderMap::new()));
    }

    fn event(id: &str) -> Option<Arc<Event>> {
        Some(Arc::new(Event {
            id: id.to_owned(),
            text: id.to_owned().into(),
        }))
    }

    async fn next(body: &mut Body) -> Option<Bytes> {
        Some(body.frame().await?.unwrap().into_data().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_the_latest_a_known_state_is_not_told_and_silence_is_broken() {
        let (sender, found) = watch::channel(event("a"));
        let places = Arc::new(Semaphore::new(1));
        let metrics = Arc::new(Metrics::default());
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let seat = Seat::new(place, Arc::clone(&metrics));
        let mut body = events(found, Some("a".to_owned()), seat);
        assert_eq!(next(&mut body).await.unwrap(), GREETING);
        assert_eq!(next(&mut body).await.unwrap(), ":\n\n", "it has a already");
        sender.send_replace(event("b"));
        sender.send_replace(event("c"));
        assert_eq!(next(&mut body).await.unwrap(), "c");
        assert_eq!((metrics.watchers.get(), metrics.watch_events.get()), (1, 1));
        drop(sender);
        assert_eq!(next(&mut body).await, None);
        drop(body);
        assert_eq!((metrics.watchers.get(), places.available_permits()), (0, 1));
    }
}
