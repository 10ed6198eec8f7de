//! What a page shows of a terminal: commands, and what they say. Owns what of it may differ each time; runs nothing.

use std::fmt::Write as _;

/// The commands, each that is said to be answered with an error (`curl … # 422: no number`) with that said to the shell.
pub(crate) fn expecting(commands: &str) -> String {
    let mut script = String::new();
    for line in commands.lines() {
        let status = line.rsplit_once(" # ").map(|(_, comment)| comment.trim());
        let status = status.and_then(|comment| comment.get(..3));
        let status =
            status.filter(|status| status.parse::<u16>().is_ok_and(|status| status >= 300));
        match status {
            Some(status) if line.starts_with("curl ") => {
                let _ = writeln!(script, "EXPECT={status} {line}");
            }
            _ => {
                let _ = writeln!(script, "{line}");
            }
        }
    }
    script
}

/// The commands of a transcript, each with the output that is shown for it.
pub(crate) fn exchanges(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            found.push((command.to_owned(), String::new()));
        } else if let Some((command, output)) = found.last_mut() {
            let to = if command.ends_with('\\') {
                command
            } else {
                output
            };
            to.push('\n');
            to.push_str(line);
        }
    }
    found
}

/// The id of a change is another one each time: that of the last answer stands in its place.
pub(crate) fn with_last_write(command: &str) -> String {
    let Some((before, after)) = command.split_once("/writes/") else {
        return command.to_owned();
    };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    format!("{before}$(last_write){rest}")
}

/// Whether what is shown was said. `…` is any text, and what is volatile is any; lines may be left out, and those that
/// are shown stand in their order. JSON is the same value, or, with a `…` in it, the
/// same text without space.
pub(crate) fn compare(wanted: &str, got: &str) -> Result<(), String> {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    if let Some(wanted) = read(wanted) {
        let same = read(got).is_some_and(|got| got == wanted);
        return if same {
            Ok(())
        } else {
            Err(wanted.to_string())
        };
    }
    let json = wanted.trim_start().starts_with(['{', '[']);
    let lines = |text: &str| -> Vec<String> {
        if json {
            let squeezed: String = text.split_whitespace().collect();
            return vec![volatile(&squeezed)];
        }
        text.lines().map(|line| volatile(line.trim_end())).collect()
    };
    let got = lines(got);
    let mut rest = got.iter();
    for line in lines(wanted) {
        let pieces: Vec<&str> = line.split('…').collect();
        if !line.is_empty() && !rest.any(|got| is_like(&pieces, got)) {
            return Err(line);
        }
    }
    Ok(())
}

/// What comes before a number that is another one each time.
const BEFORE_A_NUMBER: &[&str] = &["=", "age: ", " seq ", " for ", "_ms\":"];

/// With such numbers as `N`, and the ids of changes as `ID`.
fn volatile(line: &str) -> String {
    let mut made = String::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = |kind: fn(char) -> bool| rest.find(|c| !kind(c)).unwrap_or(rest.len());
        let id = length(|c| c.is_ascii_hexdigit());
        let number = length(|c| c.is_ascii_digit());
        let skipped = if id == 32 {
            made.push_str("ID");
            id
        } else if number > 0 && BEFORE_A_NUMBER.iter().any(|before| made.ends_with(before)) {
            made.push('N');
            number
        } else {
            made.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    made
}

fn is_like(pieces: &[&str], got: &str) -> bool {
    let [first, between @ .., last] = pieces else {
        return pieces.first().is_some_and(|only| *only == got);
    };
    let Some(mut rest) = got.strip_prefix(first) else {
        return false;
    };
    for piece in between {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn what_is_shown_is_told_from_what_is_not() {
    let got = "HTTP/1.1 200 OK\r\nage: 12\r\netag: \"~abc\"\r\n\r\n{\"a\":1}";
    for wanted in [
        "HTTP/1.1 200 OK\netag: \"~…\"",
        "age: 0\n\n{\"a\":1}",
        "{…}",
    ] {
        let got = if wanted.starts_with('{') {
            "{\"a\":1}"
        } else {
            got
        };
        assert_eq!(compare(wanted, got), Ok(()));
    }
    for wanted in [
        "HTTP/1.1 404 Not Found",
        "etag: \"~…\"\nage: 0",
        "age: 12 s",
        "{\"a\":\"1\"}",
    ] {
        assert!(compare(wanted, got).is_err(), "{wanted}");
    }
    assert_eq!(compare("{ \"a\": […] }", "{\"a\":[1,\n 2]}"), Ok(()));
    assert_eq!(
        volatile("ttl=-3; {\"a_ms\":17,\"b\":17} for 59.4 s at seq 3"),
        "ttl=-3; {\"a_ms\":N,\"b\":17} for N.4 s at seq N"
    );
    assert_eq!(
        volatile("/writes/00c41b8f6a0e2f90b3f1d5f2a4c7e8a1 in 12ms"),
        "/writes/ID in 12ms"
    );
}
