//! What a hostile client may send, and what comes of it: a table of cases, each with its answer.
//!
//! After each of them the same must hold ([`Stage::is_well`]): a well-behaved client is answered from the cache with what
//! was there before, and nothing that was hidden in a body was ever taken for a request. `shapes` is HTTP/1.1 that two
//! servers may read differently; `requests` is what one may send in good form; `crowds` are a thousand slow clients;
//! `floods` is HTTP/2; `secured` is TLS; `operator` is the admin listener, method by method.
//!
//! Whatever goes wrong, the last line is `abuse N/N`, and each case that is not passed has said why.

mod crowds;
mod floods;
mod operator;
mod requests;
mod secured;
mod shapes;
mod stage;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use stage::Stage;

/// One case: its name, and what is tried. It says why it is not passed.
type Case<'s> = (String, LocalBoxFuture<'s, Result<(), String>>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn law_12_hostile_clients_get_one_answer_or_none_and_hurt_nobody() {
    let stage = Stage::set().await;
    let mut cases: Vec<Case<'_>> = Vec::new();
    cases.extend(shapes::cases(&stage));
    cases.extend(requests::cases(&stage));
    cases.extend(operator::cases(&stage));
    cases.extend(floods::cases(&stage));
    cases.extend(secured::cases());
    cases.extend(crowds::cases(&stage));
    let (all, mut passed, mut faults) = (cases.len(), 0, Vec::new());
    for (name, case) in cases {
        let case = async {
            case.await?;
            stage.is_well().await
        };
        let ended = AssertUnwindSafe(case).catch_unwind().await;
        match ended.unwrap_or_else(|panic| Err(told(&*panic))) {
            Ok(()) => passed += 1,
            Err(why) => {
                say(&format!("FAIL  {name}: {why}"));
                faults.push(format!("{name}: {why}"));
            }
        }
    }
    say(&format!("abuse {passed}/{all}"));
    assert!(all >= 90, "{all}");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn told(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
        .to_owned()
}

/// Past the harness, which keeps what a passed test prints.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Fails with what was found, unless it is so.
fn ensure(is_so: bool, found: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(found()) }
}
