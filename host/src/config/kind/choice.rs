//! Settings that are one of a few words.

use super::{Fault, Kind, Scalar};
use crate::config::sidecar::DirMode;
use crate::config::{Coding, Durability, LogFormat, PendingReads, QueueKind, UnknownQuery, Write};

/// Declares kinds: what each is called, what it is a choice of, and its words with what they mean.
macro_rules! choices {
    ($($(#[$doc:meta])* $kind:ident -> $value:ty, $what:literal, $words:literal, $example:literal {
        $($word:literal => $is:expr,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $kind;

        impl Kind for $kind {
            fn name() -> String {
                $words.to_owned()
            }
        }

        impl Scalar for $kind {
            type Value = $value;
            const EXAMPLE: &'static str = $example;

            fn parse(text: &str) -> Result<$value, Fault> {
                match text {
                    $($word => Ok($is),)*
                    _ => Err(Fault::new(
                        format!("{text:?} is not a way to {}", $what),
                        format!("write {}", Self::EXAMPLE),
                    )),
                }
            }
        }
    )*};
}

choices! {
    /// A route's `write`.
    WriteMode -> Write, "write",
    r#""off", "through" or "behind""#,
    r#""through", which answers when the source has the change, "behind", which answers when the queue has it, or "off""# {
        "off" => Write::Off,
        "through" => Write::Through,
        "behind" => Write::Behind,
    }
    /// A route's `pending`.
    PendingMode -> PendingReads, "read what is pending",
    r#""payload" or "wait""#,
    r#""payload", where what is sent is what a read gives, or "wait""# {
        "payload" => PendingReads::Payload,
        "wait" => PendingReads::Wait,
    }
    /// One of a route's `compress`.
    ContentCoding -> Coding, "compress a body",
    r#"content coding"#,
    r#""br", "zstd" or "gzip""# {
        "br" => Coding::Brotli,
        "zstd" => Coding::Zstd,
        "gzip" => Coding::Gzip,
    }
    /// A route's `unknown_query`.
    UnknownQueryMode -> UnknownQuery, "treat unknown query parameters",
    r#""ignore" or "refuse""#,
    r#""ignore", or "refuse" to answer 422"# {
        "ignore" => UnknownQuery::Ignore,
        "refuse" => UnknownQuery::Refuse,
    }
    /// `[log] format`
    LogForm -> LogFormat, "write a log",
    r#""text" or "json""#,
    r#""text", or "json" for an object a line"# {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
    }
    /// `[writes] queue`
    QueueMode -> QueueKind, "keep what is pending",
    r#""disk" or "redis""#,
    r#""disk", for one node, or "redis", for several"# {
        "disk" => QueueKind::Disk,
        "redis" => QueueKind::Redis,
    }
    /// `[writes] durability`
    DurabilityMode -> Durability, "keep what is pending in Redis",
    r#""always", "everysec" or "memory""#,
    r#""always", "everysec" or "memory", as appendfsync of Redis has it"# {
        "always" => Durability::Always,
        "everysec" => Durability::EverySecond,
        "memory" => Durability::Memory,
    }
    /// How a granted directory may be used.
    Access -> DirMode, "use a directory",
    r#""ro" or "rw""#,
    r#""ro" to read, or "rw" to write too"# {
        "ro" => DirMode::ReadOnly,
        "rw" => DirMode::ReadWrite,
    }
}
