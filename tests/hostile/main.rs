//! One component that does whatever harm its settings say, 29 ways, beside a neighbour that must not notice (law 9).
//!
//! A case is passed when it ends as the table of [`cases`] says (a typed error; a lifetime that is cut), and when the attack
//! is kept up, every request to the neighbour is answered, the neighbour's 99th percentile stays under a bound
//! ([`neighbour`] says which), and the server's resident memory comes back: after each of them, and after all. `cases` is what is tried and what must come of
//! it, `attack` tries it, `crowd` keeps it up, `neighbour` watches, `memory` weighs, `files` makes the components whose harm
//! is in the file, `turning` is a name that turns around.
//!
//! Whatever goes wrong, the last line is `hostile N/29`, and each case that is not passed has said why.

mod attack;
mod cases;
mod crowd;
mod files;
mod memory;
mod neighbour;
mod turning;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;

use attack::{Stage, harmful};
use cases::{CASES, Case};
use futures_util::FutureExt as _;
use neighbour::Neighbour;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_9_hostile_plugins_hurt_neither_the_host_nor_their_neighbours() {
    let (mut passed, mut faults) = (0, Vec::new());
    let played = play(&mut passed, &mut faults);
    if let Err(why) = caught(played).await {
        faults.push(why);
    }
    say(&format!("hostile {passed}/{}", CASES.len()));
    assert_eq!(CASES.len(), 29);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// All cases one after the other, and what the whole of them leaves behind.
async fn play(passed: &mut usize, faults: &mut Vec<String>) -> Result<(), String> {
    let stage = Stage::set().await;
    let neighbour = Neighbour::quiet(&stage.larder).await?;
    let quiet = neighbour.quiet;
    say(&format!(
        "the neighbour's quiet p99: {:.1?}, in the control {:.1?}",
        quiet.attacked, quiet.control
    ));
    let before = memory::now(&stage.larder);
    for case in CASES {
        match caught(tried(&stage, &neighbour, case)).await {
            Ok(line) => {
                *passed += 1;
                say(&format!("ok    {:<36} {line}", case.name));
            }
            Err(why) => {
                say(&format!("FAIL  {:<36} {why}", case.name));
                faults.push(format!("{}: {why}", case.name));
            }
        }
    }
    let all_again = async || {
        for case in CASES {
            let _ = again(&stage, case).await;
        }
    };
    let told = memory::comes_back(&stage.larder, before, all_again).await?;
    say(&format!("memory before and after all of them: {told}"));
    Ok(())
}

/// One case: tried once and judged; kept up while the neighbour is measured; weighed.
async fn tried(stage: &Stage, neighbour: &Neighbour, case: &Case) -> Result<String, String> {
    let before = memory::now(&stage.larder);
    let (told, asked, slow);
    if harmful(case).is_empty() {
        // The harm is in a file: it lasts for as long as the file is judged.
        let (judged, p99) = neighbour
            .watch(
                async || (),
                async |round, _| caught(attack::attack(stage, case, round)).await,
            )
            .await;
        (told, asked, slow) = (judged.unwrap_or_else(unjudged)?, 1, p99?);
    } else {
        told = attack::attack(stage, case, 0).await?;
        let (crowd, p99) = neighbour
            .watch(
                async || crowd::begin_anew(stage, case).await,
                async |_, window| crowd::keep_up(stage, case, |_| !window.is_full()).await,
            )
            .await;
        slow = p99?;
        asked = crowd.unwrap_or(Ok(0))?;
    }
    let once_more = async || {
        let _ = match harmful(case).is_empty() {
            true => again(stage, case).await,
            false => {
                crowd::begin_anew(stage, case).await;
                let each = asked / crowd::ATTACKERS;
                caught(crowd::keep_up(stage, case, |asked| asked < each))
                    .await
                    .map(|_| String::new())
            }
        };
    };
    let memory = memory::comes_back(&stage.larder, before, once_more).await?;
    Ok(format!(
        "{told:<40} {asked:>5} attacks  p99 {:>7.1?} beside {:>7.1?}  {memory}",
        slow.attacked, slow.control
    ))
}

/// Does the harm of a case once more; what comes of it was judged.
async fn again(stage: &Stage, case: &Case) -> Result<String, String> {
    caught(attack::attack(stage, case, 1)).await
}

fn unjudged() -> Result<String, String> {
    Err("it was not tried to its end".to_owned())
}

/// What comes of it; a panic is an error that says what was panicked with.
async fn caught<T>(tried: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let panicked = match AssertUnwindSafe(tried).catch_unwind().await {
        Ok(told) => return told,
        Err(panicked) => panicked,
    };
    let said = panicked.downcast_ref::<String>().cloned().or_else(|| {
        panicked
            .downcast_ref::<&str>()
            .map(|said| (*said).to_owned())
    });
    Err(said.unwrap_or_else(|| "it panicked".to_owned()))
}

/// Written, not printed: so it is seen of a test that passes, too.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
