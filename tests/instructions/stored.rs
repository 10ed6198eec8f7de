//! What is stored of the counts, and how what is counted compares. Pure but for the one file; must not know how anything is
//! counted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use larder_tests::larder::repository;

/// Instructions for a request, by the way it takes.
pub(crate) type Counts = BTreeMap<String, u64>;

/// How far a count may be from what is stored, in either direction.
const TOLERANCE: f64 = 0.05;
/// Set to 1, what is counted is stored.
const UPDATE: &str = "UPDATE_INSTRUCTIONS";

fn file() -> PathBuf {
    repository().join("tests/fixtures/instructions.json")
}

/// Holds what was counted against what is stored, or stores it.
///
/// # Panics
/// When a count is further from the stored one than the tolerance.
pub(crate) fn compare(counted: &Counts) {
    let file = file();
    if std::env::var_os(UPDATE).is_some_and(|update| update == "1") {
        let text = serde_json::to_string_pretty(counted).expect("names and numbers are JSON");
        std::fs::write(&file, text + "\n").expect("the counts are stored");
        return;
    }
    let text = std::fs::read_to_string(&file).expect("there are stored counts");
    let stored: Counts = serde_json::from_str(&text).expect("names and whole numbers");
    let faults = faults(&stored, counted);
    assert!(
        faults.is_empty(),
        "instructions for a request, in tests/fixtures/instructions.json and now:\n  {}\nIf that is meant, `{UPDATE}=1 make instructions` \
         stores what was counted; say in the commit why it changed. Another compiler changes all of them a little: store \
         them in a commit of their own. Where the instructions are: `callgrind_annotate` (bench/README.md, Instructions)",
        faults.join("\n  ")
    );
}

/// What differs by more than the tolerance, a line each.
fn faults(stored: &Counts, counted: &Counts) -> Vec<String> {
    let mut faults = Vec::new();
    for (way, &now) in counted {
        let Some(&before) = stored.get(way) else {
            faults.push(format!("{way}: {now}, and nothing is stored"));
            continue;
        };
        let change = now as f64 / before as f64 - 1.0;
        let verdict = if change > TOLERANCE {
            "it became slower"
        } else if change < -TOLERANCE {
            "it became faster: store that, so that it stays so"
        } else {
            continue;
        };
        faults.push(format!(
            "{way}: {before} → {now} ({:+.1} %): {verdict}",
            change * 100.0
        ));
    }
    let gone = stored.keys().filter(|way| !counted.contains_key(*way));
    faults.extend(gone.map(|way| format!("{way}: stored, and not counted any more")));
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Counts {
        let named = list.iter().map(|(way, count)| ((*way).to_owned(), *count));
        named.collect()
    }

    #[test]
    fn both_directions_are_told_and_what_is_within_the_tolerance_is_not() {
        let stored = counts(&[("a", 1000), ("b", 1000), ("c", 1000), ("gone", 1)]);
        let counted = counts(&[("a", 1049), ("b", 1060), ("c", 940), ("new", 7)]);
        assert_eq!(
            faults(&stored, &counted),
            [
                "b: 1000 → 1060 (+6.0 %): it became slower",
                "c: 1000 → 940 (-6.0 %): it became faster: store that, so that it stays so",
                "new: 7, and nothing is stored",
                "gone: stored, and not counted any more",
            ]
        );
        assert!(self::faults(&stored, &stored).is_empty());
    }
}
