//! What an entry keeps, gives back, and weighs.

use super::*;
use crate::cache::variants::Budget;
use proptest::prelude::*;

fn found(headers: &[(&str, &str)]) -> Found {
    Found {
        status: None,
        content_type: Some("application/json".into()),
        headers: headers.iter().map(|(n, v)| Param::new(*n, *v)).collect(),
        body: Bytes::from_static(b"{}"),
        validator: None,
        ttl: None,
        tags: Vec::new(),
        hints: Vec::new(),
    }
}

#[test]
fn headers_the_host_owns_or_cannot_send_are_dropped_and_counted() {
    let offered = found(&[
        ("X-Source", "db"),
        ("Set-Cookie", "a=1"),
        ("Transfer-Encoding", "chunked"),
        ("x-bad", "a\r\nb"),
        ("bad name", "x"),
        ("ETag", "\"1\""),
    ]);
    let (content, dropped) = Content::from_found(offered, "demo", Visibility::Public).unwrap();
    assert_eq!(content.headers, [Param::new("x-source", "db")]);
    assert_eq!(dropped, 5);
}

const KEY: &str = "{%2Fdata%2F%7Bkey%7D:42}:demo~1:key=42&lang=d%20e";

/// Of a content, under [`KEY`]: what it was made of comes out again.
fn kept(content: Content) -> Entry {
    let draft = Draft {
        content,
        times: Times {
            loaded_ms: 1_700_000_000_000,
            ttl_ms: 60_000,
            ttl_from_loader: true,
            swr_ms: u64::MAX,
            sie_ms: 3_600_000,
        },
        stamp: Stamp {
            epoch: u64::MAX,
            seq: u64::MAX - 1,
            sync: 7,
        },
        as_of_ms: 1_699_999_999_000,
    };
    let entry = draft.clone().keep(KEY);
    let again = entry.draft();
    assert_eq!(again.content, draft.content);
    assert_eq!((again.times, again.stamp), (draft.times, draft.stamp));
    assert_eq!((again.as_of_ms, &*entry.key()), (draft.as_of_ms, KEY));
    entry
}

fn content(found: Found) -> Content {
    Content::from_found(found, "demo", Visibility::Private)
        .unwrap()
        .0
}

#[test]
fn what_is_kept_is_what_was_made_whatever_of_it_is_rare() {
    let plain = kept(content(found(&[])));
    assert!(plain.rare().is_none());
    for rare in [
        found(&[("x-source", "db")]),
        Found {
            tags: vec!["red".into(), "data:42".into()],
            ..found(&[])
        },
        Found {
            status: Some(203),
            content_type: Some("x".repeat(common::CONTENT_TYPE_MAX + 1)),
            ..found(&[])
        },
        Found {
            body: vec![b'x'; INLINE_MAX + 1].into(),
            ..found(&[])
        },
    ] {
        assert!(kept(content(rare)).rare().is_some());
    }
    for etag in [None, Some("v1"), Some("\"v1\""), Some("no etag")] {
        let validator = Some(Validator {
            etag: etag.map(str::to_owned),
            last_modified_ms: etag.is_none().then_some(7),
        });
        let entry = kept(content(Found {
            validator: validator.clone(),
            ..found(&[])
        }));
        assert_eq!(entry.validator(), validator);
    }
    let missing = Content::missing(vec!["red".into()], "demo", Visibility::Public);
    assert_eq!(kept(missing).etag(&mut TagRoom::default()), "");
}

#[test]
fn a_body_is_in_the_entry_or_apart_and_neither_is_copied_to_be_sent() {
    for length in [0, 1, INLINE_MAX, INLINE_MAX + 1] {
        let body = Bytes::from(vec![b'x'; length]);
        let entry = kept(content(Found {
            body: body.clone(),
            ..found(&[])
        }));
        assert_eq!((entry.bytes(), entry.len()), (&*body, length));
        assert_eq!(entry.inline().is_some(), length <= INLINE_MAX);
        assert_eq!(entry.body().as_ptr(), entry.bytes().as_ptr(), "{length}");
    }
    let long = Bytes::from(vec![b'x'; INLINE_MAX + 1]);
    let at = long.as_ptr();
    let entry = kept(content(Found {
        body: long,
        ..found(&[])
    }));
    assert_eq!(entry.draft().keep(KEY).bytes().as_ptr(), at);
}

#[test]
fn an_entry_is_found_under_its_own_key_alone() {
    let entry = kept(content(found(&[])));
    let key = |value: &str, identity: &str, parts: &[Param]| {
        Key::new(&Resource::new("/data/{key}", [value]), identity, parts).unwrap()
    };
    let parts = [Param::new("key", "42"), Param::new("lang", "d e")];
    let own = key("42", "demo~1", &parts);
    assert!(own.text() == KEY && entry.is_of(&own));
    assert!(entry.is_variant_of(own.resource()));
    for other in [
        key("4", "demo~1", &parts),
        key("421", "demo~1", &parts),
        key("42", "demo~2", &parts),
        key("42", "demo~1", &parts[..1]),
        key("42", "demo~1", &[]),
    ] {
        assert!(!entry.is_of(&other), "{}", other.text());
    }
    for other in [Resource::new("/data/{key}", ["4"]), Resource::new("/", [])] {
        assert!(!entry.is_variant_of(&other), "{}", other.text());
    }
}

#[test]
fn times_that_do_not_fit_are_never_longer_nor_later() {
    let check = |loaded_ms: u64, as_of_ms: u64, wanted: u64| {
        let mut draft = kept(content(found(&[]))).draft();
        draft.times.loaded_ms = loaded_ms;
        draft.as_of_ms = as_of_ms;
        draft.times.ttl_ms = u64::MAX;
        let entry = draft.keep(KEY);
        assert_eq!(entry.as_of_ms(), wanted);
        assert_eq!(entry.times().ttl_ms, U48::MAX);
        assert_eq!(entry.times().loaded_ms, loaded_ms.min(U48::MAX));
    };
    const NOW: u64 = 1_700_000_000_000;
    const FAR: u64 = i32::MAX as u64;
    check(NOW, NOW + FAR, NOW + FAR);
    check(NOW, NOW + FAR + 1, NOW + FAR);
    check(NOW, NOW - FAR, NOW - FAR);
    check(NOW, NOW - FAR - 2, 0);
    check(u64::MAX, 0, 0);
    check(0, 5, 5);
}

#[test]
fn an_entry_takes_little_beside_what_it_keeps() {
    // Tens of millions have one each: a field that is added by mistake is to be noticed.
    assert_eq!((size_of::<Entry>(), size_of::<Head>()), (8, 72));
    for (bytes, size) in [
        (0, 0),
        (1, 16),
        (64, 64),
        (65, 80),
        (128, 128),
        (129, 160),
        (217, 224),
        (257, 320),
        (5000, 5120),
        (600_000, 602_112),
    ] {
        assert_eq!(allocated(bytes), size, "{bytes}");
    }
    let body = vec![b'x'; 100];
    let entry = kept(content(Found {
        body: body.into(),
        ..found(&[])
    }));
    let alike = entry.draft().keep(KEY);
    // The head, `:42`, `key=42&lang=d%20e` and the body are 208 bytes.
    assert_eq!(alike.weight(), 224);
}

#[test]
fn an_entry_weighs_the_same_once_it_has_variants_and_what_is_made_of_it_has_them_too() {
    let entry = kept(content(found(&[])));
    let before = entry.weight();
    assert!(entry.variants().is_none());
    let budget = Budget::new(VARIANTS_BYTES as u64);
    let share = || budget.take(VARIANTS_BYTES as u64);
    let variants = Arc::clone(entry.variants_with(share().unwrap()));
    assert_eq!(entry.weight(), before);
    assert!(share().is_none(), "it is held as long as they are");
    assert!(Arc::ptr_eq(&variants, entry.variants().unwrap()));
    let renewed = entry.draft().keep(KEY);
    drop(entry);
    assert!(Arc::ptr_eq(&variants, renewed.variants().unwrap()));
    drop((renewed, variants));
    assert!(share().is_some());
}

#[test]
fn digests_are_written_as_they_are_read() {
    for digest in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
        let mut room = TagRoom::default();
        let text = String::from_utf8(room.write(digest.to_be_bytes()).to_vec()).unwrap();
        assert_eq!(text, format!("\"~{digest:032x}\""));
        assert_eq!(Etag::of(&text), Etag::Digest(digest));
    }
    let hex = "0123456789abcdef0123456789abcdef";
    for text in [
        format!("\"~{}\"", hex.to_uppercase()),
        format!("\"~+{}\"", &hex[1..]),
        format!("\"~0{hex}\""),
        format!("\"{hex}\""),
        format!("W/\"~{hex}\""),
        format!("\"~{}é{}\"", &hex[..15], &hex[..15]),
        String::new(),
    ] {
        assert_eq!(Etag::of(&text), Etag::Text(text));
    }
}

proptest! {
    /// Of any text: a damaged list of keys or a test may name what no request becomes.
    #[test]
    fn the_pieces_of_a_key_are_its_text(text in "[{}:a&=é]{0,12}") {
        prop_assert_eq!(pieces(&text).concat(), text);
    }
}

#[test]
fn statuses_that_http_cannot_carry_are_the_loaders_fault() {
    for status in [0, 100, 199, 204, 304, 600] {
        let offered = Found {
            status: Some(status),
            ..found(&[])
        };
        let failure = Content::from_found(offered, "demo", Visibility::Public).unwrap_err();
        assert_eq!(failure.code, "invalid-status", "{status}");
    }
}

#[test]
fn entity_tags_go_on_the_wire_quoted() {
    let check = |given: &str, expect: Option<&str>| {
        assert_eq!(quoted(given).as_deref(), expect, "{given:?}");
    };
    check("abc", Some("\"abc\""));
    check("\"abc\"", Some("\"abc\""));
    check("W/\"abc\"", Some("W/\"abc\""));
    check("a b", None);
    check("a\"b", None);
    check("", None);
}
