//! What edits make of files of each format. Runs natively: it needs no host.

use super::{Edit, Lost, rewrite, sweep};
use crate::index::Index;
use crate::index::tests::{Dir, build, layout, stamps};
use crate::places::Place;
use crate::scan::{Format, Layout};
use futures_lite::future::block_on;
use std::fs::{self, File};
use std::time::{Duration, SystemTime};

/// The edits of a text: `a=TEXT`, `-a`, `+TEXT`.
fn edits(index: &Index, words: &[&str]) -> Vec<Edit> {
    let place = |key: &str| -> Place {
        let spots = block_on(index.all(key, &async || {})).unwrap();
        spots.expect("nothing changed").first().expect(key).place
    };
    let edit = |word: &&str| match (word.strip_prefix('-'), word.strip_prefix('+')) {
        (Some(key), _) => Edit::Remove(place(key)),
        (_, Some(text)) => Edit::Add(text.as_bytes().to_vec()),
        _ => {
            let (key, text) = word.split_once('=').expect("an edit");
            Edit::Replace(place(key), text.as_bytes().to_vec())
        }
    };
    words.iter().map(edit).collect()
}

fn edit(layout: &Layout, words: &[&str]) -> Result<(), Lost> {
    let index = build(layout).unwrap();
    let edits = edits(&index, words);
    apply(&index, layout, edits)
}

fn apply(index: &Index, layout: &Layout, edits: Vec<Edit>) -> Result<(), Lost> {
    let about = index.file(0).expect("there is a file");
    let until = SystemTime::now() + Duration::from_secs(60);
    block_on(rewrite(
        about.stamp,
        layout.format,
        about.end,
        edits,
        until,
        &async || {},
    ))
}

#[track_caller]
fn check(format: Format, pointer: &str, text: &str, words: &[&str], expect: &str) {
    let name = format!(
        "edit-{format:?}-{:x}",
        crate::index::digest(&(pointer, text, words))
    );
    let dir = Dir::new(&name);
    let file = dir.file("file", text);
    let layout = layout(&file, format, pointer);
    edit(&layout, words).expect("it is rewritten");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        expect,
        "{text} {words:?}"
    );
    build(&layout).expect("it is a file as before");
    let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn elements_of_an_array_come_and_go_with_their_commas() {
    let check =
        |text: &str, words: &[&str], expect: &str| check(Format::Json, "", text, words, expect);
    let (a, b, c) = (r#"{"id":"a"}"#, r#"{"id":"b"}"#, r#"{"id":"c"}"#);
    let all = format!("[\n  {a},\n  {b},\n  {c}\n]\n");
    let new = r#"{"id":"n"}"#;
    check(
        &all,
        &[&format!("b={new}")],
        &format!("[\n  {a},\n  {new},\n  {c}\n]\n"),
    );
    check(&all, &["-a"], &format!("[\n  {b},\n  {c}\n]\n"));
    check(&all, &["-b"], &format!("[\n  {a},\n  {c}\n]\n"));
    check(&all, &["-c"], &format!("[\n  {a},\n  {b}\n]\n"));
    check(&all, &["-c", "-b"], &format!("[\n  {a}\n]\n"));
    check(&all, &["-a", "-c"], &format!("[\n  {b}\n]\n"));
    check(&all, &["-a", "-b", "-c"], "[\n  \n]\n");
    check(
        &all,
        &[&format!("+{new}")],
        &format!("[\n  {a},\n  {b},\n  {c},\n{new}\n]\n"),
    );
    check(
        &all,
        &["-c", &format!("+{new}")],
        &format!("[\n  {a},\n  {b},\n{new}\n]\n"),
    );
    check(
        &all,
        &["-a", "-b", "-c", &format!("+{new}"), "+{}"],
        &format!("[\n  {new},\n{{}}\n]\n"),
    );
    check("[]", &[&format!("+{new}")], &format!("[{new}]"));
    check(" [ ] ", &[&format!("+{new}")], &format!(" [{new} ] "));
    // What is no record stays.
    check(&format!("[1,{a},[],{b}]"), &["-b", "-a"], "[1,[]]");
    check(
        &format!("[{a},\"]\"]"),
        &[&format!("+{new}")],
        &format!("[{a},\"]\",\n{new}]"),
    );
}

#[test]
fn an_array_inside_leaves_what_is_around_it() {
    let text = r#"{"other": [{"id":"a"}], "all": [{"id":"a"} , {"id":"b"}], "more": []}"#;
    check(
        Format::Json,
        "/all",
        text,
        &["-b", r#"+{"id":"n"}"#, r#"a={"id":"a","x":[1]}"#],
        "{\"other\": [{\"id\":\"a\"}], \"all\": [{\"id\":\"a\",\"x\":[1]} ,\n{\"id\":\"n\"}], \"more\": []}",
    );
}

#[test]
fn lines_come_and_go_with_their_ends() {
    let check =
        |text: &str, words: &[&str], expect: &str| check(Format::Ndjson, "", text, words, expect);
    let lines = "{\"id\":\"a\"}\n{\"id\":\"b\"}\r\n{\"id\":\"c\"}";
    check(lines, &["-a"], "{\"id\":\"b\"}\r\n{\"id\":\"c\"}");
    check(lines, &["-b"], "{\"id\":\"a\"}\n{\"id\":\"c\"}");
    check(lines, &["-c"], "{\"id\":\"a\"}\n{\"id\":\"b\"}\r\n");
    check(lines, &["+{}"], &format!("{lines}\n{{}}\n"));
    check(
        lines,
        &["+{}", "+[]", "b=1"],
        "{\"id\":\"a\"}\n1\r\n{\"id\":\"c\"}\n{}\n[]\n",
    );
    check("", &["+{}", "+{}"], "{}\n{}\n");
    check("\n{\"id\":\"a\"}\n", &["-a"], "\n");
    check("\n", &["+{}"], "\n{}\n");
}

#[test]
fn rows_come_and_go_with_their_ends() {
    let check =
        |text: &str, words: &[&str], expect: &str| check(Format::Csv, "", text, words, expect);
    let rows = "id,name\r\na,\"x\ny\"\r\nb,z\r\n";
    check(rows, &["a=a,w"], "id,name\r\na,w\r\nb,z\r\n");
    check(rows, &["b=b,w"], "id,name\r\na,\"x\ny\"\r\nb,w\r\n");
    check(rows, &["-a"], "id,name\r\nb,z\r\n");
    check(rows, &["-b"], "id,name\r\na,\"x\ny\"\r\n");
    check(rows, &["-a", "-b", "+c,d"], "id,name\r\nc,d\n");
    check("id,name\na,b", &["a=a,c", "+d,e"], "id,name\na,c\nd,e\n");
    check("id,name", &["+a,b"], "id,name\na,b\n");
}

#[test]
fn two_states_of_a_file_never_look_alike() {
    let dir = Dir::new("alike");
    let file = dir.file("file", "{\"id\":\"a\",\"n\":1}\n");
    let layout = layout(&file, Format::Ndjson, "");
    // A clock that is behind what wrote the file before.
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(ahead)
        .unwrap();
    let mut seen = Vec::new();
    for n in 0..20 {
        seen.extend(stamps(&layout).unwrap());
        edit(&layout, &[&format!("a={{\"id\":\"a\",\"n\":{}}}", n % 10)]).unwrap();
    }
    for (at, stamp) in seen.iter().enumerate() {
        assert!(!seen[..at].contains(stamp), "{at}");
    }
}

#[test]
fn a_file_that_changed_is_not_overwritten_and_a_link_is_no_file() {
    let dir = Dir::new("changed");
    let file = dir.file("file", "{\"id\":\"a\"}\n");
    let layout = layout(&file, Format::Ndjson, "");
    let index = build(&layout).unwrap();
    let edits = edits(&index, &["-a"]);
    dir.file("file", "{\"id\":\"a\"}\n{\"id\":\"b\"}\n");
    let lost = apply(&index, &layout, edits);
    assert!(matches!(lost, Err(Lost::Changed)), "{lost:?}");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "{\"id\":\"a\"}\n{\"id\":\"b\"}\n"
    );
    #[cfg(unix)]
    {
        let link = file.with_file_name("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let layout = Layout {
            path: link.display().to_string(),
            ..layout
        };
        assert!(matches!(edit(&layout, &["-a"]), Err(Lost::Link)));
    }
}

#[test]
fn what_a_crash_left_is_swept_when_it_is_old() {
    let dir = Dir::new("sweep");
    let old = dir.file(".file.1.larder-new", "half");
    let young = dir.file(".file.2.larder-new", "half");
    let other = dir.file("file.larder-new", "mine");
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    for path in [&old, &other] {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    sweep(&dir.file("file", "")).unwrap();
    assert_eq!(
        [&old, &young, &other].map(|path| path.exists()),
        [false, true, true]
    );
}

#[test]
fn of_two_that_replace_one_state_only_one_does() {
    let dir = Dir::new("claims");
    let file = dir.file("file", "{\"id\":\"a\"}\n");
    let layout = layout(&file, Format::Ndjson, "");
    let [first, second] = [0, 1].map(|_| build(&layout).unwrap());
    // The first is in the middle, as its claim is there, when the second begins.
    let about = first.file(0).unwrap();
    let soon = SystemTime::now() + Duration::from_secs(60);
    let claim = super::Claim::make(about.stamp, soon).unwrap();
    let lost = apply(&second, &layout, vec![Edit::Add(b"{}".to_vec())]);
    assert!(matches!(lost, Err(Lost::Busy)), "{lost:?}");
    drop(claim);
    // The first has replaced the state that the second has read.
    apply(&first, &layout, vec![Edit::Add(b"[]".to_vec())]).unwrap();
    let lost = apply(&second, &layout, vec![Edit::Add(b"{}".to_vec())]);
    assert!(matches!(lost, Err(Lost::Changed)), "{lost:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"id\":\"a\"}\n[]\n");
    // A claim outlives its holder, but not what it said.
    let index = build(&layout).unwrap();
    let about = index.file(0).unwrap();
    std::mem::forget(
        super::Claim::make(about.stamp, SystemTime::now() - Duration::from_secs(1)).unwrap(),
    );
    apply(&index, &layout, vec![Edit::Add(b"1".to_vec())]).unwrap();
    let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
