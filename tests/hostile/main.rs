//! One component that does whatever harm its settings say, 29 ways, beside a neighbour that must not notice (law 9).
//!
//! A case is passed when it ends as the table of [`cases`] says (a typed error; a lifetime that is cut), every request to
//! the neighbour is answered meanwhile, the neighbour's 99th percentile stays under a bound ([`neighbour`] says which, and
//! what it does not see), and the server's resident memory comes back. `cases` is what is tried and what must come of it, `attack` tries it, `neighbour` watches,
//! `files` makes the components whose harm is in the file.

mod attack;
mod cases;
mod files;
mod neighbour;

use std::io::Write as _;

use attack::Stage;
use cases::CASES;
use neighbour::Neighbour;

#[tokio::test]
async fn law_9_hostile_plugins_hurt_neither_the_host_nor_their_neighbours() {
    let stage = Stage::set().await;
    let neighbour = Neighbour::quiet(&stage.larder).await;
    let (mut passed, mut faults) = (0, Vec::new());
    for case in CASES {
        let before = stage.larder.usage();
        let (told, p99) = neighbour
            .watch(|again| attack::attack(&stage, case, again))
            .await;
        let memory = neighbour::memory_comes_back(&stage.larder, before).await;
        let verdict = told.and_then(|told| {
            let p99 = p99?;
            Ok(format!("{told:<40} p99 {p99:>6.1?}  {}", memory?))
        });
        let line = match verdict {
            Ok(line) => {
                passed += 1;
                format!("ok    {:<36} {line}", case.name)
            }
            Err(why) => {
                faults.push(format!("{}: {why}", case.name));
                format!("FAIL  {:<36} {why}", case.name)
            }
        };
        say(&line);
    }
    let told = format!(
        "the neighbour's quiet p99: {:.1?}\nhostile {passed}/{}",
        neighbour.quiet,
        CASES.len()
    );
    say(&told);
    assert_eq!(CASES.len(), 29);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Written, not printed: so it is seen of a test that passes, too.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
