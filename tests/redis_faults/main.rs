//! Every fault of Redis and of the network before it × a hit, a miss, a refresh and a purge (law 6).
//!
//! A cell is passed when what it asks while the fault lasts is answered, with the right value and in time, and when two
//! seconds after the fault is over both nodes share Redis again: `faults` is what is done, `cells` what is asked and what
//! must come of it, `stage` who plays. The four cells of a fault are played at once, so that each of them meets it first.
//!
//! A measurement over a bound is taken again, in a round with new actors: harm persists, and what a busy machine does
//! passes. Whatever goes wrong, the last line is `faults N/N`, and each cell that is not passed has said why.
//! `LARDER_FAULT=SIGSTOP` plays the faults of that name alone.

mod cells;
mod faults;
mod stage;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use cells::{Amiss, CELLS, Cell, Round};
use faults::{FAULTS, Fault};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use stage::{Control, Nodes};

/// Rounds of a fault at most.
const ROUNDS: usize = 4;

/// What a cell came to: what was measured, or why it is not passed.
type Verdict = Result<(Duration, Duration), Amiss>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_6_whatever_happens_to_redis_requests_and_purges_are_answered_in_time() {
    let wanted = std::env::var("LARDER_FAULT").unwrap_or_default();
    let faults = FAULTS.iter().filter(|fault| fault.name.contains(&wanted));
    let faults: Vec<&Fault> = faults.collect();
    let (mut passed, mut amiss) = (0, Vec::new());
    let played = play(&faults, &mut passed, &mut amiss);
    if let Err(Amiss::Late(why) | Amiss::Wrong(why)) = caught(played).await {
        amiss.push(why);
    }
    say(&format!("faults {passed}/{}", faults.len() * CELLS.len()));
    assert!(amiss.is_empty(), "{}", amiss.join("\n"));
}

/// All of them, one after the other.
async fn play(faults: &[&Fault], passed: &mut usize, amiss: &mut Vec<String>) -> Result<(), Amiss> {
    let control = Control::start().await;
    for (place, fault) in faults.iter().enumerate() {
        for (cell, verdict) in judged(fault, &control, place * ROUNDS).await {
            let name = format!("{} × {}", fault.name, cell.name());
            match verdict {
                Ok((added, recovered)) => {
                    *passed += 1;
                    say(&format!(
                        "ok    {name:<28} {:>6.1} ms added at most, shared again after {:>5} ms",
                        added.as_secs_f64() * 1000.0,
                        recovered.as_millis()
                    ));
                }
                Err(Amiss::Late(why) | Amiss::Wrong(why)) => {
                    say(&format!("FAIL  {name:<28} {why}"));
                    amiss.push(format!("{name}: {why}"));
                }
            }
        }
    }
    Ok(())
}

/// Plays a fault until all of its cells are passed, or one is wrong, or it was played often enough.
async fn judged(fault: &Fault, control: &Control, first: usize) -> Vec<(Cell, Verdict)> {
    let mut judged: Vec<(Cell, Verdict)> = Vec::new();
    for number in first..first + ROUNDS {
        let late = |(_, verdict): &&(Cell, Verdict)| matches!(verdict, Err(Amiss::Late(_)));
        if number > first && !judged.iter().any(|judged| late(&judged)) {
            break;
        }
        let played = AssertUnwindSafe(played(fault, control, number));
        let again = played.catch_unwind().await.unwrap_or_else(|panicked| {
            let why = said(&*panicked);
            CELLS
                .map(|cell| (cell, Err(Amiss::Wrong(why.clone()))))
                .into()
        });
        if judged.is_empty() {
            judged = again;
            continue;
        }
        for ((cell, before), (_, now)) in judged.iter_mut().zip(again) {
            if let Err(Amiss::Late(why)) = before {
                say(&format!("again {} × {}: {why}", fault.name, cell.name()));
                *before = now;
            } else if matches!(now, Err(Amiss::Wrong(_))) {
                *before = now;
            }
        }
    }
    judged
}

/// One round: all four cells before, during and after the fault.
async fn played(fault: &Fault, control: &Control, number: usize) -> Vec<(Cell, Verdict)> {
    let (mut server, nodes) = Nodes::start(fault).await;
    let round = Round {
        number,
        nodes: &nodes,
        control,
    };
    join_all(CELLS.map(|cell| cell.prepare(round))).await;
    fault.strike(&mut server).await;
    let played = join_all(CELLS.map(|cell| caught(cell.play(round, fault.purges)))).await;
    fault.heal(&mut server).await;
    let healed = Instant::now();
    let recovered = CELLS.iter().zip(played).map(async |(cell, played)| {
        let played = match played {
            Ok(played) => played,
            Err(amiss) => return (*cell, Err(amiss)),
        };
        let recovered = caught(cell.recover(round, healed, &played)).await;
        (*cell, recovered.map(|recovered| (played.added, recovered)))
    });
    let judged = join_all(recovered).await;
    if judged.iter().any(|(_, verdict)| verdict.is_err()) {
        say(&format!(
            "--- what the node said ---\n{}--- end ---",
            nodes.hit.log()
        ));
    }
    judged
}

/// What comes of it; a panic is wrong, and says what was panicked with.
async fn caught<T>(played: impl Future<Output = Result<T, Amiss>>) -> Result<T, Amiss> {
    let played = AssertUnwindSafe(played).catch_unwind().await;
    played.unwrap_or_else(|panicked| Err(Amiss::Wrong(said(&*panicked))))
}

fn said(panicked: &(dyn std::any::Any + Send)) -> String {
    let said = panicked.downcast_ref::<String>().cloned();
    let said = said.or_else(|| {
        panicked
            .downcast_ref::<&str>()
            .map(|said| (*said).to_owned())
    });
    said.unwrap_or_else(|| "it panicked".to_owned())
}

/// Written, not printed: so it is seen of a test that passes, too.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
