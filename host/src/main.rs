//! The binary: parse, wire, run. Knows nothing of how anything works.

fn main() {}
