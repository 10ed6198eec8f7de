//! Numbers as people read them.

use bytesize::ByteSize;

/// `1,234`.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many a second: with a decimal where it says something.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is shown to people"
)]
pub(super) fn rate(count: u64, seconds: f64) -> String {
    let rate = count as f64 / seconds;
    if rate < 100.0 {
        format!("{rate:.1}")
    } else {
        number(rate.round() as u64)
    }
}

/// A part of a whole; `-` where there is no whole.
#[allow(clippy::cast_precision_loss, reason = "it is shown to people")]
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}

/// The end of a bucket: `≤ 25 ms`, `> 2.5 s`; `-` where nothing was measured.
pub(super) fn within(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.is_infinite() => "> 2.5 s".to_owned(),
        Some(seconds) if seconds >= 1.0 => format!("≤ {seconds} s"),
        Some(seconds) => format!("≤ {} ms", (seconds * 1e5).round() / 1e2),
    }
}

/// How long ago, roughly.
pub(super) fn span(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// `12.3 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!(
            [number(7), number(1_234), number(1_234_567)],
            ["7", "1,234", "1,234,567"]
        );
        assert_eq!([rate(123, 10.0), rate(12_345, 10.0)], ["12.3", "1,235"]);
        assert_eq!([percent(1, 3), percent(0, 0)], ["33.3 %", "-"]);
        assert_eq!(
            [
                Some(0.000_25),
                Some(0.025),
                Some(2.5),
                Some(f64::INFINITY),
                None
            ]
            .map(within),
            ["≤ 0.25 ms", "≤ 25 ms", "≤ 2.5 s", "> 2.5 s", "-"]
        );
        assert_eq!(
            [119_000, 120_000, 7_200_000, 172_800_000].map(span),
            ["119 s", "2 min", "2 h", "2 d"]
        );
        assert_eq!(bytes(12 << 20), "12.0 MiB");
    }
}
