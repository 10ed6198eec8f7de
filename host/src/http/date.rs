//! `Date` of a response (RFC 9110 section 6.6.1), which a thread writes out once a second. Must not know what is answered.

use std::cell::RefCell;
use std::time::SystemTime;

thread_local! {
    static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Calls with the date. `now_ms` may be of any clock: by it is told whether a second has passed, which is cheaper than to ask
/// the system's, whose date it is.
pub(super) fn with<R>(now_ms: u64, call: impl FnOnce(&str) -> R) -> R {
    LAST.with_borrow_mut(|(second, date)| {
        let now = now_ms / 1000;
        if *second != now {
            *second = now;
            *date = httpdate::fmt_http_date(SystemTime::now());
        }
        call(date)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_date_is_that_of_the_second() {
        let is_now = |date: &str| {
            let date = httpdate::parse_http_date(date).unwrap();
            SystemTime::now().duration_since(date).unwrap() < Duration::from_secs(60)
        };
        assert!(with(7_000, is_now));
        LAST.set((7, "kept".into()));
        with(7_999, |date| assert_eq!(date, "kept"));
        assert!(with(8_000, is_now), "a second has passed");
    }
}
