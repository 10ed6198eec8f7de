//! Whether what pages point at is there: files, headings, and tests by their names. Reads text; asks no network.

use std::fs;
use std::path::{Component, Path, PathBuf};

use larder_tests::larder::repository;

use crate::page::Page;

/// The links of a page that lead nowhere, each with the reason.
pub(crate) fn broken(page: &Page, pages: &[Page]) -> Vec<String> {
    let fault = |(line, link): &(usize, String)| {
        let why = unresolved(page, link, pages)?;
        Some(format!("{}:{line}: {link}: {why}", page.path))
    };
    page.links.iter().filter_map(fault).collect()
}

fn unresolved(page: &Page, link: &str, pages: &[Page]) -> Option<String> {
    // What is elsewhere may be gone tomorrow, and that is no fault of this change.
    if link.starts_with("https://") || link.starts_with("http://") {
        return None;
    }
    let (file, anchor) = link
        .split_once('#')
        .map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() {
        page.path.clone()
    } else {
        let beside = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        match plain(&beside.join(file)) {
            Some(path) => path,
            None => return Some("is above the repository".to_owned()),
        }
    };
    if !repository().join(&path).exists() {
        return Some(format!("there is no {path}"));
    }
    let anchor = anchor?;
    let Some(there) = pages.iter().find(|page| page.path == path) else {
        let read = path.ends_with(".md").then(|| Page::read(&path));
        return match read {
            Some(there) if there.anchors.iter().any(|known| known == anchor) => None,
            Some(_) => Some(format!("no heading of {path} is called that")),
            None => Some("only pages have headings".to_owned()),
        };
    };
    let known = there.anchors.iter().any(|known| known == anchor);
    (!known).then(|| {
        format!(
            "no heading of {path} is called that; there are {}",
            there.anchors.join(", ")
        )
    })
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> Option<String> {
    let mut made = PathBuf::new();
    for piece in path.components() {
        match piece {
            Component::ParentDir if !made.pop() => return None,
            Component::Normal(name) => made.push(name),
            _ => {}
        }
    }
    Some(made.to_string_lossy().into_owned())
}

/// Whether there is a test of this name in this file (`tests/FILE.rs`, or a directory of files `tests/DIR/`). That
/// none is skipped, the house rules see to (`tests/tidy.rs`).
pub(crate) fn is_test(file: &str, name: &str) -> bool {
    let path = repository().join(file);
    let text = if path.is_dir() {
        let entries = fs::read_dir(&path).expect("a directory").flatten();
        entries
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .collect()
    } else {
        fs::read_to_string(&path).unwrap_or_default()
    };
    text.split("fn ")
        .zip(text.split("fn ").skip(1))
        .any(|(before, after)| {
            let attributes = before.rsplit_once("\n\n").map_or(before, |(_, last)| last);
            let is_test = attributes.contains("#[tokio::test") || attributes.contains("#[test]");
            is_test
                && after
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('('))
        })
}

#[test]
fn a_test_is_found_by_its_whole_name_and_a_helper_is_none() {
    let here = "tests/docs/links.rs";
    assert!(is_test(
        here,
        "a_test_is_found_by_its_whole_name_and_a_helper_is_none"
    ));
    assert!(is_test(
        "tests/docs",
        "a_test_is_found_by_its_whole_name_and_a_helper_is_none"
    ));
    assert!(!is_test(here, "a_test_is_found"));
    assert!(!is_test(here, "broken") && !is_test(here, "plain"));
}
