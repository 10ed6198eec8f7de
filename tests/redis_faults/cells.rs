//! What is asked while a fault lasts, and what must come of it: a hit, a miss, a refresh and a purge. Must not know the
//! fault.
//!
//! Every answer must be one, hold the right value, and take no longer than the timeout of Redis and [`SLACK`] beyond what
//! the control takes for the same at the same moment. Two seconds after the fault is over the tier is shared again.

use std::time::{Duration, Instant};

use larder_tests::wait::tried_until;
use larder_tests::{Answer, Larder, Origin, Reply, json};

use crate::faults::Purges;
use crate::stage::{Control, Nodes, is_whole};

/// `[redis] timeout`, as it comes.
const TIMEOUT: Duration = Duration::from_millis(100);
/// What law 6 may cost beside it.
const SLACK: Duration = Duration::from_millis(50);
/// "Within 2 s of healing."
pub(crate) const HEALED_WITHIN: Duration = Duration::from_secs(2);
/// Times that each is asked, one after the other, in one round: the first meet a breaker that is closed, the last most
/// likely one that is open.
const ASKS: usize = 5;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Hit,
    Miss,
    Refresh,
    Purge,
}

pub(crate) const CELLS: [Cell; 4] = [Cell::Hit, Cell::Miss, Cell::Refresh, Cell::Purge];

/// Why a cell is not passed.
#[derive(Debug)]
pub(crate) enum Amiss {
    /// It took too long, which a busy machine can do too: it is tried again.
    Late(String),
    /// No machine does that.
    Wrong(String),
}

/// One round: the names of what is asked in it, the nodes and the control.
#[derive(Clone, Copy)]
pub(crate) struct Round<'a> {
    /// No other round has it.
    pub(crate) number: usize,
    pub(crate) nodes: &'a Nodes,
    pub(crate) control: &'a Control,
}

/// What a cell was answered while the fault lasted.
#[derive(Debug, Default)]
pub(crate) struct Played {
    /// The most that an answer took beyond the control's.
    pub(crate) added: Duration,
    /// What was purged, and the number of the last call before each purge.
    purged: Vec<(String, u64)>,
}

/// What an ask took on both sides.
struct Timed<T> {
    answer: T,
    added: Duration,
}

impl Played {
    /// Takes a measurement in.
    fn within<T>(&mut self, what: &str, timed: Timed<T>) -> Result<T, Amiss> {
        self.added = self.added.max(timed.added);
        if timed.added > TIMEOUT + SLACK {
            let why = format!("{what} took {:.0?} longer than the control", timed.added);
            return Err(Amiss::Late(why));
        }
        Ok(timed.answer)
    }
}

impl Cell {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Refresh => "refresh",
            Self::Purge => "purge",
        }
    }

    /// Before the fault: what is to be found, or to be reloaded, or to be purged, is stored.
    pub(crate) async fn prepare(self, round: Round<'_>) {
        for ask in 0..ASKS {
            match self {
                Self::Hit => {
                    round.both_get("things", &round.id(self, ask)).await;
                    // In Redis, and not in the memory of the node that is hit.
                    round.other(&round.id(self, ask + ASKS)).await;
                }
                Self::Miss => {}
                Self::Refresh => {
                    for (route, ask) in [("things", ask), ("strict", ask + ASKS)] {
                        round.expires(&round.id(self, ask));
                        round.both_get(route, &round.id(self, ask)).await;
                    }
                }
                Self::Purge => {
                    round.both_get("things", &round.id(self, ask)).await;
                    round.other(&round.id(self, ask)).await;
                }
            }
        }
    }

    /// While the fault lasts.
    pub(crate) async fn play(self, round: Round<'_>, purges: Purges) -> Result<Played, Amiss> {
        let mut played = Played::default();
        for ask in 0..ASKS {
            let (one, two) = (round.id(self, ask), round.id(self, ask + ASKS));
            match self {
                Self::Hit => {
                    round.get("things", &one, 1, &mut played).await?;
                    round.get("things", &two, 1, &mut played).await?;
                }
                Self::Miss => round.get("things", &one, 1, &mut played).await?,
                Self::Refresh => {
                    round.get("strict", &two, 2, &mut played).await?;
                    round.get("things", &one, 1, &mut played).await?;
                    round.until_refreshed(&one).await?;
                }
                Self::Purge => {
                    round.purge(&one, purges, &mut played).await?;
                    let (_, purged) = &played.purged[ask];
                    let least = purged + 1;
                    round.get("things", &one, least, &mut played).await?;
                }
            }
        }
        // What is wrong with Redis is told in its body (law 6).
        let ready = round.nodes.hit.admin.get("/readyz").await;
        if ready.status != 200 {
            return Err(Amiss::Wrong(format!("it is not ready: {ready:?}")));
        }
        Ok(played)
    }

    /// After the fault: how long after it was `healed` both nodes share what they have again.
    pub(crate) async fn recover(
        self,
        round: Round<'_>,
        healed: Instant,
        played: &Played,
    ) -> Result<Duration, Amiss> {
        let mut number = 2 * ASKS;
        let shared = soon(healed, async || {
            number += 1;
            let (nodes, id) = (round.nodes, round.id(self, number));
            match self {
                Self::Hit => round.is_found(&nodes.other, &nodes.hit, &id).await,
                Self::Miss => round.is_found(&nodes.hit, &nodes.other, &id).await,
                Self::Refresh => round.is_refreshed(&id).await,
                Self::Purge => round.is_purged(played).await,
            }
        });
        shared.await?;
        Ok(healed.elapsed())
    }
}

impl Round<'_> {
    /// What is asked as the `number`th in a column.
    fn id(&self, cell: Cell, number: usize) -> String {
        format!("{}-{}-{number}", cell.name(), self.number)
    }

    /// The first answer for it is past its ttl at once.
    fn expires(&self, id: &str) {
        let short = Reply::counted().header("x-ttl-ms", "1");
        for origin in [&self.nodes.origin, &self.control.origin] {
            origin.script(&format!("/{id}"), [short.clone(), Reply::counted()]);
        }
    }

    /// From the node and the control, before the fault.
    async fn both_get(&self, route: &str, id: &str) {
        let path = format!("/{route}/{id}");
        let (one, control) =
            tokio::join!(self.nodes.hit.get(&path), self.control.larder.get(&path));
        assert_eq!(
            (one.status, control.status),
            (200.try_into().unwrap(), 200.try_into().unwrap())
        );
    }

    async fn other(&self, id: &str) {
        let answer = self.nodes.other.get(&format!("/things/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// While the fault lasts, in time, and no older than the call of this number.
    async fn get(
        &self,
        route: &str,
        id: &str,
        least: u64,
        played: &mut Played,
    ) -> Result<(), Amiss> {
        let path = format!("/{route}/{id}");
        let timed = beside(self.nodes.hit.get(&path), self.control.larder.get(&path)).await;
        number(&timed.answer, id, least)?;
        let what = format!("GET {path} ({})", timed.answer.cache_status());
        played.within(&what, timed)?;
        Ok(())
    }

    /// What is reloaded behind is answered soon.
    async fn until_refreshed(&self, id: &str) -> Result<(), Amiss> {
        soon(Instant::now(), async || {
            let answer = self.nodes.hit.get(&format!("/things/{id}")).await;
            if number(&answer, id, 1)? > 1 {
                return Ok(());
            }
            Err(Amiss::Late(format!("{id} was not reloaded: {answer:?}")))
        })
        .await
    }

    async fn purge(&self, id: &str, purges: Purges, played: &mut Played) -> Result<(), Amiss> {
        let what = json!({ "path": format!("/things/{id}") });
        let given = calls(&self.nodes.origin, id);
        let timed = beside(
            self.nodes.hit.purge(what.clone()),
            self.control.larder.purge(what),
        )
        .await;
        played.purged.push((id.to_owned(), given));
        let said = played.within("POST /purge", timed)?;
        let waits = match &said["pending"] {
            pending if *pending == json!([]) => false,
            pending if *pending == json!(["redis"]) => true,
            _ => return Err(Amiss::Wrong(format!("what is pending? {said}"))),
        };
        match purges {
            Purges::Wait if !waits => Err(Amiss::Wrong(format!("who was told? {said}"))),
            Purges::Arrive if waits => Err(Amiss::Late(format!("Redis was there: {said}"))),
            _ if waits && said["durable"] != true => {
                Err(Amiss::Wrong(format!("a crash would lose it: {said}")))
            }
            _ => Ok(()),
        }
    }

    /// What `one` has loaded, `two` finds in Redis.
    async fn is_found(&self, one: &Larder, two: &Larder, id: &str) -> Result<(), Amiss> {
        let path = format!("/things/{id}");
        let loaded = number(&one.get(&path).await, id, 1)?;
        self.is_found_in_redis(two, &path, (id, loaded)).await
    }

    async fn is_found_in_redis(
        &self,
        larder: &Larder,
        path: &str,
        (id, loaded): (&str, u64),
    ) -> Result<(), Amiss> {
        let answer = larder.get(path).await;
        let found = number(&answer, id, 1)?;
        if answer.is("larder; hit; ttl=N; detail=redis") && found == loaded {
            return Ok(());
        }
        let how = answer.cache_status();
        Err(Amiss::Late(format!("{path} was not found in Redis: {how}")))
    }

    /// What one has reloaded, the other finds in Redis.
    async fn is_refreshed(&self, id: &str) -> Result<(), Amiss> {
        self.expires(id);
        let path = format!("/strict/{id}");
        number(&self.nodes.hit.get(&path).await, id, 1)?;
        let answer = self.nodes.hit.get(&path).await;
        let reloaded = number(&answer, id, 1)?;
        if !answer.is("larder; fwd=stale; fwd-status=200; stored") {
            let how = answer.cache_status();
            return Err(Amiss::Late(format!("{path} was not reloaded: {how}")));
        }
        self.is_found_in_redis(&self.nodes.other, &path, (id, reloaded))
            .await
    }

    /// What one has purged, the other answers no more, and nothing waits to be told.
    async fn is_purged(&self, played: &Played) -> Result<(), Amiss> {
        for (id, purged) in &played.purged {
            let path = format!("/things/{id}");
            number(&self.nodes.hit.get(&path).await, id, purged + 1)?;
            let other = self.nodes.other.get(&path).await;
            if number(&other, id, 1)? <= *purged {
                return Err(Amiss::Late(format!(
                    "{path} was answered from before its purge"
                )));
            }
        }
        let told = is_whole(&self.nodes.hit).await;
        told.ok_or_else(|| Amiss::Late("purges waited to be told".into()))
    }
}

/// The number of the origin's call that an answer holds: of this one, and no lower.
fn number(answer: &Answer, id: &str, least: u64) -> Result<u64, Amiss> {
    let body = (answer.status == 200).then(|| answer.json());
    let number = body
        .filter(|body| body["path"] == format!("/{id}"))
        .and_then(|body| body["call"].as_u64());
    match number {
        Some(number) if number >= least => Ok(number),
        Some(number) => Err(Amiss::Wrong(format!(
            "{id}: answered {number} where nothing below {least} may be: {answer:?}"
        ))),
        None => Err(Amiss::Wrong(format!("{id}: not its answer: {answer:?}"))),
    }
}

fn calls(origin: &Origin, id: &str) -> u64 {
    origin.calls(&format!("/{id}")) as u64
}

/// Tries again while it is late, for as long as it may be. What is wrong is wrong at once.
async fn soon(
    since: Instant,
    mut attempt: impl AsyncFnMut() -> Result<(), Amiss>,
) -> Result<(), Amiss> {
    let tried = tried_until(since + HEALED_WITHIN, async || match attempt().await {
        Err(Amiss::Late(why)) => Err(why),
        ended => Ok(ended),
    });
    tried.await.unwrap_or_else(|why| {
        let late = format!("{:.0?} later, {why}", since.elapsed());
        Err(Amiss::Late(late))
    })
}

/// Asks both at the same moment.
async fn beside<T>(asked: impl Future<Output = T>, control: impl Future<Output = T>) -> Timed<T> {
    let ((answer, took), (_, control)) = tokio::join!(timed(asked), timed(control));
    Timed {
        answer,
        added: took.saturating_sub(control),
    }
}

async fn timed<T>(asked: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (asked.await, began.elapsed())
}
