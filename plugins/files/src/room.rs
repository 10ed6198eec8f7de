//! How much memory there is: `[limits] memory` as the plugin can see it, by asking for more. Must not know what for.
//!
//! An allocation that fails ends the instance, unless it was one that may fail. So the index asks before there is nothing
//! left for the loads that go on beside it.

use std::hint::black_box;

/// What is kept free for all that is not the index.
const KEPT_FREE: usize = 6 << 20;
/// What the plugin takes for itself, before there is an index.
const OWN: usize = 4 << 20;

const MEBIBYTE: usize = 1 << 20;

/// Whether there is less left than what is kept free.
pub(crate) fn is_short() -> bool {
    reserve(KEPT_FREE).is_none()
}

/// So much memory, if it can be had. The compiler must not see that nobody uses it.
fn reserve(bytes: usize) -> Option<Vec<u8>> {
    let mut reserved = Vec::new();
    reserved.try_reserve_exact(black_box(bytes)).ok()?;
    Some(black_box(reserved))
}

/// The limit, in bytes; nothing where there is none.
pub(crate) fn limit() -> Option<usize> {
    // What the last loop takes is lost to the allocator, so it is given all that it can use first.
    let kept: Vec<_> = (16..=22)
        .rev()
        .filter_map(|power| reserve(1 << power))
        .collect();
    let limit = grow_to_the_end();
    drop(kept);
    limit
}

#[cfg(target_family = "wasm")]
fn grow_to_the_end() -> Option<usize> {
    use std::arch::wasm32::{memory_grow, memory_size};
    const PAGE: usize = 64 << 10;
    while memory_grow::<0>(1) != usize::MAX {}
    Some(memory_size::<0>() * PAGE)
}

#[cfg(not(target_family = "wasm"))]
fn grow_to_the_end() -> Option<usize> {
    None
}

/// What `memory` must be, in mebibytes, for an index of so many `bytes`, where `limit` was not enough.
pub(crate) fn mebibytes_for(bytes: usize, limit: Option<usize>) -> usize {
    let enough = bytes + OWN + KEPT_FREE + 2 * MEBIBYTE;
    let more = limit.map_or(0, |limit| limit + 2 * MEBIBYTE);
    enough.max(more).div_ceil(4 * MEBIBYTE) * 4
}

#[cfg(test)]
mod tests {
    use super::{MEBIBYTE, mebibytes_for};

    #[test]
    fn what_is_asked_for_is_enough_and_more_than_there_was() {
        assert_eq!(mebibytes_for(16 * MEBIBYTE, Some(12 * MEBIBYTE)), 28);
        assert_eq!(mebibytes_for(16 * MEBIBYTE, Some(28 * MEBIBYTE)), 32);
        assert_eq!(mebibytes_for(1, None), 16);
    }
}
