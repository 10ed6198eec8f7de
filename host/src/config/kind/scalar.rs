//! Durations, sizes, counts, shares, switches and directories.

use std::path::PathBuf;
use std::time::Duration;

use super::{Fault, Form, Kind, Scalar, units};
use crate::config::RefreshAhead;

/// The longest duration of any setting: times are counted in milliseconds and added to instants, and must not overflow there.
const PERIOD_MAX: Duration = Duration::from_secs(36_500 * 24 * 3600);
/// The longest wait: the contract tells a guest its deadline in milliseconds of 32 bits.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// A duration that may be `"0"`.
#[derive(Debug)]
pub struct Period;

impl Kind for Period {
    fn name() -> String {
        "duration".to_owned()
    }
}

impl Scalar for Period {
    type Value = Duration;
    const UNITS: &'static [&'static str] = &["s", "ms"];
    const EXAMPLE: &'static str =
        r#"a number and a unit in quotes, such as "200ms", "60s" or "1h""#;

    fn parse(text: &str) -> Result<Duration, Fault> {
        let duration = humantime::parse_duration(text).map_err(|error| {
            let remedy = match text.parse::<f64>() {
                Ok(_) => units::<Self>(text).unwrap_or_else(|| Self::EXAMPLE.to_owned()),
                Err(_) => Self::EXAMPLE.to_owned(),
            };
            Fault::new(
                format!("{text:?} is not a duration: {error}"),
                format!("write {remedy}"),
            )
        })?;
        if duration > PERIOD_MAX {
            return Err(Fault::new(
                format!("{text:?} is longer than 100 years"),
                r#"write at most "36500d""#,
            ));
        }
        Ok(duration)
    }
}

/// A duration that something is waited for: never zero.
#[derive(Debug)]
pub struct Timeout;

impl Kind for Timeout {
    fn name() -> String {
        Period::name()
    }
}

impl Scalar for Timeout {
    type Value = Duration;
    const UNITS: &'static [&'static str] = Period::UNITS;
    const EXAMPLE: &'static str = Period::EXAMPLE;

    fn parse(text: &str) -> Result<Duration, Fault> {
        let duration = Period::parse(text)?;
        if duration < Duration::from_millis(1) {
            return Err(Fault::new(
                format!("{text:?} leaves no time at all"),
                r#"write at least "1ms""#,
            ));
        }
        if duration > TIMEOUT_MAX {
            return Err(Fault::new(
                format!("{text:?} is longer than a day"),
                r#"write at most "24h""#,
            ));
        }
        Ok(duration)
    }
}

/// A time in which things gather: `"0"` is none, and clocks tell whole milliseconds.
#[derive(Debug)]
pub struct Window;

impl Kind for Window {
    fn name() -> String {
        Period::name()
    }
}

impl Scalar for Window {
    type Value = Duration;
    const UNITS: &'static [&'static str] = Period::UNITS;
    const EXAMPLE: &'static str = Period::EXAMPLE;

    fn parse(text: &str) -> Result<Duration, Fault> {
        let duration = Period::parse(text)?;
        if duration.subsec_nanos() % 1_000_000 != 0 {
            return Err(Fault::new(
                format!("{text:?} is not a whole number of milliseconds"),
                r#"write whole milliseconds, such as "1ms", or "0" for none"#,
            ));
        }
        if duration > TIMEOUT_MAX {
            return Err(Fault::new(
                format!("{text:?} is longer than a day"),
                r#"write a few milliseconds, such as "5ms""#,
            ));
        }
        Ok(duration)
    }
}

/// A number of bytes, which may be `"0"`.
#[derive(Debug)]
pub struct Size;

impl Kind for Size {
    fn name() -> String {
        "size".to_owned()
    }
}

impl Scalar for Size {
    type Value = u64;
    const UNITS: &'static [&'static str] = &["B"];
    const EXAMPLE: &'static str =
        r#"a number and a unit in quotes, such as "64KiB", "256MiB" or "2GiB""#;

    fn parse(text: &str) -> Result<u64, Fault> {
        let bad = || {
            Fault::new(
                format!("{text:?} is not a size"),
                format!("write {}", Self::EXAMPLE),
            )
        };
        // The library takes a leading or a lone point for zero; a size begins with a digit.
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(bad());
        }
        let bytes = text.parse::<bytesize::ByteSize>().map_err(|_| bad())?.0;
        // It saturates; no machine has that much.
        if bytes > i64::MAX as u64 {
            return Err(Fault::new(
                format!("{text:?} is more than can be addressed"),
                r#"write at most "7EiB""#,
            ));
        }
        Ok(bytes)
    }
}

/// A size with a least value.
fn at_least(text: &str, least: u64, why: &str) -> Result<u64, Fault> {
    let bytes = Size::parse(text)?;
    if bytes < least {
        return Err(Fault::new(
            format!("{text:?} is too small: {why}"),
            format!(
                "write at least \"{}\"",
                bytesize::ByteSize(least)
                    .display()
                    .iec()
                    .to_string()
                    .replace(' ', "")
                    .replace(".0", "")
            ),
        ));
    }
    Ok(bytes)
}

/// Room for the head of a request.
#[derive(Debug)]
pub struct HeadSize;

impl Kind for HeadSize {
    fn name() -> String {
        Size::name()
    }
}

impl Scalar for HeadSize {
    type Value = u64;
    const UNITS: &'static [&'static str] = Size::UNITS;
    const EXAMPLE: &'static str = Size::EXAMPLE;

    fn parse(text: &str) -> Result<u64, Fault> {
        at_least(
            text,
            8 * 1024,
            "an ordinary head of a request may need 8KiB",
        )
    }
}

/// A size that is never zero.
#[derive(Debug)]
pub struct Room;

impl Kind for Room {
    fn name() -> String {
        Size::name()
    }
}

impl Scalar for Room {
    type Value = u64;
    const UNITS: &'static [&'static str] = Size::UNITS;
    const EXAMPLE: &'static str = Size::EXAMPLE;

    fn parse(text: &str) -> Result<u64, Fault> {
        at_least(text, 1, "nothing fits")
    }
}

/// How many of something: never zero.
#[derive(Debug)]
pub struct Count;

/// The most of anything countable: beyond it a bound would bound nothing.
const COUNT_MAX: usize = 10_000_000;

impl Kind for Count {
    const FORM: Form = Form::Integer;
    fn name() -> String {
        "whole number".to_owned()
    }
}

impl Scalar for Count {
    type Value = usize;
    const EXAMPLE: &'static str = "a whole number above 0, without quotes";

    fn parse(text: &str) -> Result<usize, Fault> {
        match text.parse::<usize>() {
            Ok(count) if (1..=COUNT_MAX).contains(&count) => Ok(count),
            _ => Err(Fault::new(
                format!("{text} is not a number from 1 to {COUNT_MAX}"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// How many keys are asked for again after a start; 0 turns it off.
#[derive(Debug)]
pub struct HotKeys;

/// Each may be some kilobytes in memory, and is a line of a file.
const HOT_KEYS_MAX: usize = 10_000;

impl Kind for HotKeys {
    const FORM: Form = Form::Integer;
    fn name() -> String {
        Count::name()
    }
}

impl Scalar for HotKeys {
    type Value = usize;
    const EXAMPLE: &'static str =
        "a whole number without quotes, such as 1000, or 0 to turn it off";

    fn parse(text: &str) -> Result<usize, Fault> {
        match text.parse::<usize>() {
            Ok(count) if count <= HOT_KEYS_MAX => Ok(count),
            _ => Err(Fault::new(
                format!("{text} is not a number from 0 to {HOT_KEYS_MAX}"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// How many in a second: never zero.
#[derive(Debug)]
pub struct Rate;

/// The most that anything paced is asked for in a second.
const RATE_MAX: u32 = 10_000;

impl Kind for Rate {
    const FORM: Form = Form::Integer;
    fn name() -> String {
        Count::name()
    }
}

impl Scalar for Rate {
    type Value = u32;
    const EXAMPLE: &'static str = "a whole number above 0, without quotes";

    fn parse(text: &str) -> Result<u32, Fault> {
        match text.parse::<u32>() {
            Ok(rate) if (1..=RATE_MAX).contains(&rate) => Ok(rate),
            _ => Err(Fault::new(
                format!("{text} is not a number from 1 to {RATE_MAX}"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// A share of something, from 0 to 1.
#[derive(Debug)]
pub struct Ratio;

impl Kind for Ratio {
    const FORM: Form = Form::Number;
    fn name() -> String {
        "ratio".to_owned()
    }
}

impl Scalar for Ratio {
    type Value = f64;
    const EXAMPLE: &'static str = "a number from 0 to 1, such as 0.1";

    fn parse(text: &str) -> Result<f64, Fault> {
        match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            _ => Err(Fault::new(
                format!("{text} is not between 0 and 1"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// When a hit begins to reload what is still fresh.
#[derive(Debug)]
pub struct Ahead;

impl Kind for Ahead {
    fn name() -> String {
        "\"off\", \"auto\" or a percentage".to_owned()
    }
}

impl Scalar for Ahead {
    type Value = RefreshAhead;
    const EXAMPLE: &'static str = "\"off\", \"auto\", or a share of the ttl such as \"80%\"";

    fn parse(text: &str) -> Result<RefreshAhead, Fault> {
        let share = text.strip_suffix('%').map(str::parse::<f64>);
        match (text, share) {
            ("off", _) => Ok(RefreshAhead::Off),
            ("auto", _) => Ok(RefreshAhead::Auto),
            (_, Some(Ok(share))) if share > 0.0 && share < 100.0 => {
                Ok(RefreshAhead::After(share / 100.0))
            }
            (_, Some(_)) => Err(Fault::new(
                format!("{text:?} is not between 0% and 100%"),
                format!("write {}", Self::EXAMPLE),
            )),
            _ => Err(Fault::new(
                format!("{text:?} is no moment of the ttl"),
                format!("write {}", Self::EXAMPLE),
            )),
        }
    }
}

/// On or off.
#[derive(Debug)]
pub struct Switch;

impl Kind for Switch {
    const FORM: Form = Form::Boolean;
    fn name() -> String {
        "boolean".to_owned()
    }
}

impl Scalar for Switch {
    type Value = bool;
    const EXAMPLE: &'static str = "true or false";

    fn parse(text: &str) -> Result<bool, Fault> {
        text.parse().map_err(|_| {
            Fault::new(
                format!("{text:?} is neither true nor false"),
                format!("write {}", Self::EXAMPLE),
            )
        })
    }
}

/// A directory; the reader makes it absolute.
#[derive(Debug)]
pub struct Directory;

impl Kind for Directory {
    fn name() -> String {
        "directory".to_owned()
    }
}

impl Scalar for Directory {
    type Value = PathBuf;
    const EXAMPLE: &'static str = "a path in quotes";

    fn parse(text: &str) -> Result<PathBuf, Fault> {
        if text.is_empty() || text.contains('\0') {
            return Err(Fault::new(
                format!("{text:?} is not a path"),
                format!("write {}", Self::EXAMPLE),
            ));
        }
        Ok(PathBuf::from(text))
    }
}

/// The path of a file.
#[derive(Debug)]
pub struct File;

impl Kind for File {
    fn name() -> String {
        "file".to_owned()
    }
}

impl Scalar for File {
    type Value = PathBuf;
    const EXAMPLE: &'static str = Directory::EXAMPLE;

    fn parse(text: &str) -> Result<PathBuf, Fault> {
        Directory::parse(text)
    }
}
