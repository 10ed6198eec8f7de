//! The 29 cases: what is tried, and what must come of it. Must not know how it is tried.

/// One case.
pub(crate) struct Case {
    /// As the table prints it.
    pub(crate) name: &'static str,
    pub(crate) harm: Harm,
}

/// Where the harm is, and what must come of it: the status and the code of the problem.
pub(crate) enum Harm {
    /// In `load`, of `hostile` with this `do`, these lines of its sidecar, and ORIGIN and OTHER in them filled in.
    Load(&'static str, &'static str, &'static [(u16, &'static str)]),
    /// In `derive`, of `hostile` with this `do`.
    Derive(&'static str, &'static [(u16, &'static str)]),
    /// More than one question has to be asked; `attack` knows which.
    Special(Special),
}

#[derive(Clone, Copy)]
pub(crate) enum Special {
    TableBomb,
    LogFlood,
    Escapes,
    Connections,
    Literals,
    Redirect,
    Rebinding,
    Impure,
    Parts,
    Impersonation,
    LineBreaks,
    Lifetime,
    Import,
    CompileBomb,
    Names,
}

/// Room to do the harm in: a busy machine must not end the guest for its slice before it has met the limit in question.
pub(crate) const SLOW: &str = "[limits]\ncpu = \"5s\"\ntimeout = \"10s\"\n";

const fn load(
    name: &'static str,
    r#do: &'static str,
    lines: &'static str,
    comes: &'static [(u16, &'static str)],
) -> Case {
    Case {
        name,
        harm: Harm::Load(r#do, lines, comes),
    }
}

const fn derive(
    name: &'static str,
    r#do: &'static str,
    comes: &'static [(u16, &'static str)],
) -> Case {
    Case {
        name,
        harm: Harm::Derive(r#do, comes),
    }
}

const fn special(name: &'static str, special: Special) -> Case {
    Case {
        name,
        harm: Harm::Special(special),
    }
}

pub(crate) const CASES: &[Case] = &[
    load("loop in load", "loop", "", &[(502, "cpu-limit")]),
    derive("loop in key policy", "loop", &[(500, "cpu-limit")]),
    load("deep recursion", "recurse", SLOW, &[(502, "trap")]),
    load("trap", "trap", "", &[(502, "trap")]),
    load("panic in load", "panic", "", &[(502, "trap")]),
    derive("panic in key policy", "panic", &[(500, "trap")]),
    load(
        "sleep in a host call",
        "sleep",
        "[limits]\ntimeout = \"300ms\"\n",
        &[(504, "timeout")],
    ),
    load("memory bomb", "memory", SLOW, &[(502, "memory-limit")]),
    special("table bomb", Special::TableBomb),
    load("1 GiB output", "output", SLOW, &[(502, "output-limit")]),
    load(
        "oversized host-call data",
        "host-data",
        SLOW,
        &[(502, "output-limit")],
    ),
    load(
        "a million handles",
        "handles",
        SLOW,
        &[(502, "handle-limit")],
    ),
    load(
        "unbounded random request",
        "random",
        SLOW,
        &[(502, "random-limit")],
    ),
    load(
        "decompression bomb",
        "inflate",
        "target = \"ORIGIN/bomb\"\n[grants]\nhttp = [\"ORIGIN\"]\n[limits]\ncpu = \"5s\"\ntimeout = \"10s\"\n",
        &[(502, "memory-limit")],
    ),
    special("log flood", Special::LogFlood),
    special("terminal escapes in logs", Special::Escapes),
    load(
        "1 byte/s origin",
        "fetch",
        "target = \"ORIGIN/drip\"\n[grants]\nhttp = [\"ORIGIN\"]\n[limits]\ntimeout = \"500ms\"\n",
        &[(504, "timeout")],
    ),
    special("1,000 connections", Special::Connections),
    special("forbidden address literals", Special::Literals),
    special("redirect to them", Special::Redirect),
    special("rebinding", Special::Rebinding),
    special("non-deterministic key policy", Special::Impure),
    special("empty, 10 MiB and binary key parts", Special::Parts),
    special("impersonating another route's keys", Special::Impersonation),
    special("CR LF in headers and content types", Special::LineBreaks),
    special("absurd TTLs", Special::Lifetime),
    special("forbidden imports", Special::Import),
    special("compile bomb", Special::CompileBomb),
    special("data smuggled out in DNS names", Special::Names),
];
