//! The answer that every contestant gives: which keys there are, and what bytes each of them has. Owns the
//! equality of the bodies; must not know who serves them.

use anyhow::{Result, ensure};

/// How many keys are filled and then asked for, round and round.
pub(crate) const KEYS: usize = 1_000;

/// `{"data":"Data for key k0000"}`: the shortest answer there is.
pub(crate) const SHORTEST: usize = 29;

/// The longest answer. The text goes to the peers as one argument or variable, and Linux takes 128 KiB.
pub(crate) const LONGEST: usize = 100_000;

/// The name of a key. All have the same width, so that all answers of a run have the same size.
pub(crate) fn key(number: usize) -> String {
    format!("k{number:04}")
}

/// The path of a key on every contestant.
pub(crate) fn path(number: usize) -> String {
    format!("/data/{}", key(number))
}

/// The text of the source, `{key}` standing for the key, such that the whole answer has `size` bytes.
pub(crate) fn template(size: usize) -> Result<String> {
    ensure!(
        (SHORTEST..=LONGEST).contains(&size),
        "--body {size}: a body has {SHORTEST} to {LONGEST} bytes"
    );
    let padding = "abcdefghijklmnopqrstuvwxyz0123456789"
        .chars()
        .cycle()
        .take(size - SHORTEST);
    Ok(format!(
        "Data for key {{key}}{}",
        padding.collect::<String>()
    ))
}

/// The answer for one key: what the tutorial's handler returns, `{"data": text}`, in compact JSON.
pub(crate) fn render(template: &str, key: &str) -> Vec<u8> {
    serde_json::json!({ "data": template.replace("{key}", key) })
        .to_string()
        .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_exactly_the_size_asked_for() {
        for size in [SHORTEST, 300, 16_384] {
            let template = template(size).unwrap();
            for number in [0, 7, KEYS - 1] {
                assert_eq!(render(&template, &key(number)).len(), size);
            }
        }
    }

    #[test]
    fn a_size_that_no_answer_can_have_is_refused() {
        assert!(template(SHORTEST - 1).is_err());
        assert!(template(LONGEST + 1).is_err());
    }
}
