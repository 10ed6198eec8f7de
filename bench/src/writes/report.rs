//! What was measured of writes, and the tables. Pure; must not know how samples are made.

use std::fmt::{self, Write as _};

use super::writer::{EVERYONE, Kind};
use crate::{
    put::Burst,
    report::{median, milliseconds, thousands, two_places},
};

/// One writer in one round.
pub(super) struct Turn {
    pub(super) round: usize,
    pub(super) kind: Kind,
    pub(super) burst: Burst,
    /// Until everything that was acknowledged was in the database.
    pub(super) made_seconds: f64,
    /// Of the server, until then.
    pub(super) cpu_seconds: f64,
}

/// What write-behind took while the database was stopped, and how it was made afterwards.
pub(super) struct Kept {
    pub(super) taken: Burst,
    pub(super) taken_cpu_seconds: f64,
    pub(super) drained_seconds: f64,
    pub(super) drained_cpu_seconds: f64,
}

/// A queue that was made, and as many direct writes beside it.
pub(super) struct Drain {
    pub(super) kept: Kept,
    pub(super) direct: Turn,
}

impl Turn {
    fn per_second(&self) -> f64 {
        self.burst.acknowledged as f64 / self.burst.seconds
    }

    fn made_per_second(&self) -> f64 {
        self.burst.acknowledged as f64 / self.made_seconds
    }

    fn per_cpu_second(&self) -> f64 {
        self.burst.acknowledged as f64 / self.cpu_seconds
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} acknowledged/s, {} made/s, {} per CPU-second",
            self.kind.name(),
            thousands(Some(self.per_second())),
            thousands(Some(self.made_per_second())),
            thousands(Some(self.per_cpu_second())),
        )
    }
}

impl Drain {
    fn count(&self) -> f64 {
        self.kept.taken.acknowledged as f64
    }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "taken in {:.2} s, made in {:.2} s; directly in {:.2} s",
            self.kept.taken.seconds, self.kept.drained_seconds, self.direct.burst.seconds
        )
    }
}

/// The table of acknowledged writes.
pub(super) fn turns(turns: &[Turn], version: &str, sync_us: f64) -> String {
    let mut text = format!(
        "\n### Acknowledged writes\n\n\
         PostgreSQL {version}, `fsync = on`, `synchronous_commit = on`; a sync of this disk takes {sync_us:.0} µs. Every \
         acknowledged write was found in the database.\n\n\
         | | acknowledged/s | to axum | made/s | to axum | writes per CPU-second | to axum | p50 | p99 |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for kind in EVERYONE {
        let figure = |of: fn(&Turn) -> f64| median(of_kind(turns, kind).map(of).collect());
        let mut line = format!("| {} |", kind.title());
        for of in [
            Turn::per_second,
            Turn::made_per_second,
            Turn::per_cpu_second,
        ] {
            let ratio = two_places(ratio(turns, kind, of));
            let _ = write!(line, " {} | {ratio} |", thousands(figure(of)));
        }
        let _ = writeln!(
            text,
            "{line} {} | {} |",
            milliseconds(figure(|turn| turn.burst.p50_us as f64)),
            milliseconds(figure(|turn| turn.burst.p99_us as f64)),
        );
    }
    text
}

/// The table of what was pending.
pub(super) fn drains(drains: &[Drain], pending: u64) -> String {
    let figure = |of: &dyn Fn(&Drain) -> f64| median(drains.iter().map(of).collect());
    let direct = |drain: &Drain| drain.direct.per_second();
    let mut text = format!(
        "\n### {} writes\n\n| | seconds | writes/s | to axum | writes per CPU-second |\n|---|---:|---:|---:|---:|\n",
        thousands(Some(pending as f64))
    );
    type Of<'a> = &'a dyn Fn(&Drain) -> f64;
    let lines: [(&str, Of<'_>, Of<'_>); 3] = [
        (
            "Larder takes them while PostgreSQL is stopped",
            &|drain| drain.kept.taken.seconds,
            &|drain| drain.kept.taken_cpu_seconds,
        ),
        (
            "Larder makes them when it is back",
            &|drain| drain.kept.drained_seconds,
            &|drain| drain.kept.drained_cpu_seconds,
        ),
        (
            "axum + tokio-postgres makes as many directly",
            &|drain| drain.direct.burst.seconds,
            &|drain| drain.direct.cpu_seconds,
        ),
    ];
    for (title, seconds, cpu) in lines {
        let per_second = |drain: &Drain| drain.count() / seconds(drain);
        let ratio = figure(&|drain| per_second(drain) / direct(drain));
        let _ = writeln!(
            text,
            "| {title} | {} | {} | {} | {} |",
            two_places(figure(seconds)),
            thousands(figure(&per_second)),
            two_places(ratio),
            thousands(figure(&|drain| drain.count() / cpu(drain))),
        );
    }
    text
}

fn of_kind(turns: &[Turn], kind: Kind) -> impl Iterator<Item = &Turn> {
    turns.iter().filter(move |turn| turn.kind == kind)
}

/// The median over rounds of a figure in units of the hand-written handler's *in the same round*, as `report::ratio`.
fn ratio(turns: &[Turn], kind: Kind, of: fn(&Turn) -> f64) -> Option<f64> {
    let paired = of_kind(turns, kind).filter_map(|turn| {
        let mut peers = of_kind(turns, Kind::AxumPostgres);
        let peer = peers.find(|peer| peer.round == turn.round)?;
        Some(of(turn) / of(peer))
    });
    median(paired.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(acknowledged: u64, seconds: f64) -> Burst {
        Burst {
            acknowledged,
            seconds,
            p50_us: 500,
            p99_us: 1_000,
        }
    }

    fn turn(round: usize, kind: Kind, acknowledged: u64) -> Turn {
        Turn {
            round,
            kind,
            burst: burst(acknowledged, 2.0),
            made_seconds: 4.0,
            cpu_seconds: 1.0,
        }
    }

    #[test]
    fn ratios_are_paired_by_round_and_writes_count_until_they_are_made() {
        let samples = [
            turn(1, Kind::LarderBehind, 10_000),
            turn(1, Kind::AxumPostgres, 20_000),
            turn(2, Kind::LarderBehind, 20_000),
            turn(2, Kind::AxumPostgres, 40_000),
        ];
        let text = turns(&samples, "15.1", 300.0);
        let line = "write-behind, queue on disk | 7,500 | 0.50 | 3,750 | 0.50 | 15,000 | 0.50 | 0.50 ms | 1.00 ms |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("takes 300 µs"), "{text}");
    }

    #[test]
    fn a_drain_is_held_against_direct_writes_of_its_round() {
        let drain = Drain {
            kept: Kept {
                taken: burst(1_000, 0.5),
                taken_cpu_seconds: 0.25,
                drained_seconds: 4.0,
                drained_cpu_seconds: 2.0,
            },
            direct: turn(0, Kind::AxumPostgres, 1_000),
        };
        let text = drains(&[drain], 1_000);
        for line in [
            "stopped | 0.50 | 2,000 | 4.00 | 4,000 |",
            "is back | 4.00 | 250 | 0.50 | 500 |",
            "directly | 2.00 | 500 | 1.00 | 1,000 |",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
