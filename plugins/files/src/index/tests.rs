//! What the index of `files` promises, on files of each format. Runs natively: it needs no host.

use super::{Fault, Found, Index};
use crate::scan::{Format, Layout};
use crate::stamp::{self, Stamp};
use futures_lite::future::block_on;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A directory of the test's own, gone when it ends.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("larder-files-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn layout(path: &Path, format: Format, pointer: &str) -> Layout {
    Layout {
        path: path.display().to_string(),
        format,
        pointer: pointer.to_owned(),
        key: "id".to_owned(),
    }
}

pub(crate) fn stamps(layout: &Layout) -> Result<Vec<Stamp>, Fault> {
    block_on(stamp::stamps(layout, &async || {}))
}

pub(crate) fn build(layout: &Layout) -> Result<Index, Fault> {
    let files = stamps(layout).unwrap();
    block_on(Index::build(files, None, layout, &async || {}))
}

fn find(index: &Index, key: &str) -> Result<Found, Fault> {
    block_on(index.find(key, &async || {}))
}

/// The record of `key` in `text`, or what is wrong.
fn check(format: Format, pointer: &str, text: &str, key: &str, expect: Result<&str, &str>) {
    let dir = Dir::new(&format!(
        "{format:?}-{:x}",
        super::digest(&(pointer, text, key))
    ));
    let found = build(&layout(&dir.file("file", text), format, pointer))
        .and_then(|index| find(&index, key));
    match (found, expect) {
        (Ok(Found::Record(record)), Ok(expect)) => {
            assert_eq!(String::from_utf8_lossy(&record), expect, "{text}");
        }
        (Ok(Found::Nothing), Ok("")) => {}
        (Err(Fault::Unreadable(fault)), Err(part)) => {
            assert!(fault.contains(part), "{fault:?} does not say {part:?}");
        }
        (found, _) => panic!("{text:?} gave {found:?}, not {expect:?}"),
    }
}

#[test]
fn json_records_are_found_where_the_pointer_says() {
    let check = |pointer, text, key, expect| check(Format::Json, pointer, text, key, expect);
    check(
        "",
        r#"[{"id":"a"}, {"x":[{"id":"no"}],"id":"b"} ]"#,
        "b",
        Ok(r#"{"x":[{"id":"no"}],"id":"b"}"#),
    );
    check(
        "",
        r#"[{"id":"a"}, {"x":[{"id":"no"}],"id":"b"} ]"#,
        "no",
        Ok(""),
    );
    check(
        "/3166-1",
        r#"{"o":[{"id":"a"}],"3166-1":[{"id":"a","n":1}],"p":[]}"#,
        "a",
        Ok(r#"{"id":"a","n":1}"#),
    );
    check(
        "/a~1b/1/~0",
        r#"{"a/b":[{"~":[{"id":"x"}]},{"~":[{"id":"y"}]}]}"#,
        "y",
        Ok(r#"{"id":"y"}"#),
    );
    check(
        "/a~1b/1/~0",
        r#"{"a/b":[{"~":[{"id":"x"}]},{"~":[{"id":"y"}]}]}"#,
        "x",
        Ok(""),
    );
    check(
        "",
        r#"[1, [], {"id": 42 }, {"id":"42","second":1}]"#,
        "42",
        Ok(r#"{"id": 42 }"#),
    );
    check(
        "",
        r#"[{"id":"a\"\u00e9"}]"#,
        "a\"é",
        Ok(r#"{"id":"a\"\u00e9"}"#),
    );
    check(
        "",
        r#"[{"id":{"id":"deep"}},{"id":["deep"]},{"id":null}]"#,
        "deep",
        Ok(""),
    );
    check("", "[]", "a", Ok(""));
    check(
        "/x",
        r#"{"x":{"id":"a"}}"#,
        "a",
        Err("no array of records at `pointer`, \"/x\""),
    );
    check("", r#"[{"id":"a"}"#, "a", Err("at byte 11"));
    check("", "", "a", Err("at byte 0"));
}

#[test]
fn ndjson_records_are_the_lines() {
    let check = |text, key, expect| check(Format::Ndjson, "", text, key, expect);
    check(
        "{\"id\":1}\n\n{\"id\":\"b\",\"x\":{\"id\":\"c\"}}\r\n",
        "b",
        Ok("{\"id\":\"b\",\"x\":{\"id\":\"c\"}}"),
    );
    check("{\"id\":1}\n{\"id\":2}", "2", Ok("{\"id\":2}"));
    check("{\"id\":1}\n{\"id\":2}", "3", Ok(""));
    check("{\"id\":1}\n{\"id\":", "1", Err("at byte 15"));
}

#[test]
fn csv_records_become_objects() {
    let check = |text, key, expect| check(Format::Csv, "", text, key, expect);
    check(
        "id,name\na,Alpha\nb,\"Be, \"\"ta\"\"\nx\"\n",
        "b",
        Ok(r#"{"id":"b","name":"Be, \"ta\"\nx"}"#),
    );
    check(
        "name,id\r\nAlpha,a\r\n\r\nBeta,b",
        "b",
        Ok(r#"{"id":"b","name":"Beta"}"#),
    );
    check("id,name\na,Alpha\n", "id", Ok(""));
    check("name\nAlpha\n", "a", Err("no column `id`"));
    check("id,name\na\n", "a", Err("line: 2"));
}

#[test]
fn a_directory_is_all_its_files_of_the_format() {
    let dir = Dir::new("directory");
    dir.file("2.ndjson", "{\"id\":\"b\"}\n{\"id\":\"a\",\"late\":1}");
    dir.file("1.ndjson", "{\"id\":\"a\"}");
    dir.file("3.json", "not looked at");
    let index = build(&layout(&dir.0, Format::Ndjson, "")).unwrap();
    assert_eq!(
        find(&index, "a"),
        Ok(Found::Record(b"{\"id\":\"a\"}".to_vec()))
    );
    assert_eq!(
        find(&index, "b"),
        Ok(Found::Record(b"{\"id\":\"b\"}".to_vec()))
    );
}

#[test]
fn a_changed_file_is_noticed_by_its_look_and_by_its_record() {
    let dir = Dir::new("changed");
    let layout = layout(&dir.file("file", "{\"id\":\"a\"}\n"), Format::Ndjson, "");
    let before = stamps(&layout).unwrap();
    let index = build(&layout).unwrap();
    dir.file("file", "{\"id\":\"b\",\"longer\":1}\n");
    assert_ne!(stamps(&layout).unwrap(), before);
    assert_eq!(find(&index, "a"), Ok(Found::FileChanged));
    std::fs::remove_file(dir.0.join("file")).unwrap();
    assert_eq!(find(&index, "a"), Ok(Found::FileChanged));
    let Err(Fault::Unreadable(fault)) = stamps(&layout) else {
        panic!("there is no file")
    };
    assert!(fault.contains("cannot be read"), "{fault}");
}

#[test]
fn only_what_changed_is_indexed_again() {
    let dir = Dir::new("again");
    for name in ["1.ndjson", "2.ndjson", "3.ndjson"] {
        dir.file(name, &format!("{{\"id\":\"{name}\"}}"));
    }
    let layout = layout(&dir.0, Format::Ndjson, "");
    let first = Rc::new(build(&layout).unwrap());
    std::fs::remove_file(dir.0.join("1.ndjson")).unwrap();
    dir.file("2.ndjson", "{\"id\":\"other\"}");
    dir.file("0.ndjson", "{\"id\":\"new\"}");
    let files = stamps(&layout).unwrap();
    let again = Index::build(files, Some(first.clone()), &layout, &async || {});
    let second = block_on(again).unwrap();
    assert_eq!(second.files.len(), 3);
    assert!(Rc::ptr_eq(&second.files[2], &first.files[2]));
    for (key, is_there) in [
        ("new", true),
        ("1.ndjson", false),
        ("2.ndjson", false),
        ("other", true),
        ("3.ndjson", true),
    ] {
        let found = find(&second, key).unwrap();
        assert_eq!(matches!(found, Found::Record(_)), is_there, "{key}");
    }
}

#[test]
fn a_record_is_not_found_by_its_hash_alone() {
    let dir = Dir::new("collision");
    let text = "{\"id\":\"a\"}\n{\"id\":\"b\"}\n";
    let layout = layout(&dir.file("file", text), Format::Ndjson, "");
    let mut index = build(&layout).unwrap();
    // As if `b` had the hash of `a` too, and came first.
    let file = Rc::get_mut(&mut index.files[0]).unwrap();
    let places: Vec<_> = ["b", "a"]
        .map(|key| file.places.of(key).next().unwrap())
        .into();
    file.places = super::Places::default();
    for (at, place) in places.into_iter().enumerate() {
        // The order of places with one hash is that of the file, so the wrong one needs the lower offset.
        assert_eq!(at == 0, place.from > 0);
        file.places.note("b", place).unwrap();
    }
    file.places.end();
    assert_eq!(
        find(&index, "b"),
        Ok(Found::Record(b"{\"id\":\"b\"}".to_vec()))
    );
    assert_eq!(find(&index, "a"), Ok(Found::Nothing));
}

#[test]
fn a_large_file_is_indexed_in_slices() {
    let dir = Dir::new("slices");
    for (format, head, each) in [
        (Format::Ndjson, "", "{\"id\":NN}\n"),
        (Format::Csv, "id\n", "NN\n"),
    ] {
        let rows: String = (0..200_000)
            .map(|number: u32| each.replace("NN", &number.to_string()))
            .collect();
        let layout = layout(&dir.file("large", &(head.to_owned() + &rows)), format, "");
        let slices = Cell::new(0);
        let breathe = async || slices.set(slices.get() + 1);
        let index = block_on(Index::build(
            stamps(&layout).unwrap(),
            None,
            &layout,
            &breathe,
        ))
        .unwrap();
        assert!(
            slices.get() >= rows.len() / (512 << 10),
            "{} slices of {} bytes",
            slices.get(),
            rows.len()
        );
        assert!(matches!(find(&index, "199999"), Ok(Found::Record(_))));
    }
}
