//! The allocator of a component: what was freed last is given again, without a search.
//!
//! A call of a plugin allocates a dozen short texts, each of which the host asks for and the guest frees, so that to
//! allocate is most of what a key policy does. Freed blocks of up to 256 bytes are kept in lists by their size, and the first of
//! a list is the next of that size. All else is the system's allocator's. Must not know what is allocated.
//!
//! What is usual is written into whoever allocates: a component is a tenth larger for it, and a call of a key policy, which
//! allocates sixteen times, a tenth shorter.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// Sizes are multiples of this, and so are addresses.
const STEP: usize = 16;
/// Lists: of blocks of 16 bytes, of 32, and so on.
const LISTS: usize = 16;
/// Blocks that a list keeps. What is over goes back to the system, which can make larger ones of it: a heap that was full of
/// short texts once is not full of them for good.
const KEPT_MAX: u32 = 64;

/// Of a thread of its own: the components that this is for have one.
pub struct Heap([List; LISTS]);

struct List {
    first: Cell<*mut Free>,
    kept: Cell<u32>,
}

/// A block that is free: its first bytes say which is the next.
struct Free {
    next: *mut Free,
}

// SAFETY: shared among threads only where there are none; `new` is not there otherwise.
unsafe impl Sync for Heap {}

impl Heap {
    /// Nothing is kept yet.
    #[cfg(any(test, all(target_arch = "wasm32", not(target_feature = "atomics"))))]
    pub const fn new() -> Self {
        Self(
            [const {
                List {
                    first: Cell::new(ptr::null_mut()),
                    kept: Cell::new(0),
                }
            }; LISTS],
        )
    }
}

/// The place of the list of such blocks, if they are kept in one.
#[inline]
fn place(layout: Layout) -> Option<usize> {
    // The size is never 0: that is the contract of `GlobalAlloc`.
    let place = layout.size().wrapping_sub(1) / STEP;
    (place < LISTS && layout.align() <= STEP).then_some(place)
}

/// A block of a list: as long as its longest, so that each fits.
#[inline]
fn block(place: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and the size far from the largest that there can be.
    unsafe { Layout::from_size_align_unchecked((place + 1) * STEP, STEP) }
}

/// Whatever no list has. Out of the way, so that what is usual is short wherever it is called.
#[cold]
#[inline(never)]
unsafe fn alloc_anew(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promise, and a block is not empty.
    unsafe { System.alloc(place(layout).map_or(layout, block)) }
}

/// As [`alloc_anew`].
#[cold]
#[inline(never)]
unsafe fn give_back(pointer: *mut u8, layout: Layout) {
    // SAFETY: `alloc_anew` asked for it with this layout.
    unsafe { System.dealloc(pointer, place(layout).map_or(layout, block)) }
}

// SAFETY: a block comes from the system with the layout of its list and goes back with the same one, or it is in one list, and
// nobody has it: it is put there when it is freed, and taken out before it is given. `place` depends on the layout alone, and who
// frees a block says the layout that it was asked for with. What the host writes is asked for by `cabi_realloc`, which is
// wit-bindgen's, and that asks this allocator: Rust frees what the host has written.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(place) = place(layout) {
            let list = &self.0[place];
            let first = list.first.get();
            if !first.is_null() {
                // SAFETY: it is free, so it begins with what `dealloc` has written.
                list.first.set(unsafe { (*first).next });
                list.kept.set(list.kept.get() - 1);
                return first.cast();
            }
        }
        // SAFETY: the caller's promise.
        unsafe { alloc_anew(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(place) = place(layout) {
            let list = &self.0[place];
            let kept = list.kept.get();
            if kept < KEPT_MAX {
                let free: *mut Free = pointer.cast();
                let next = list.first.get();
                // SAFETY: it is a block of this list, so there is room and it is aligned; and nobody uses it any more.
                unsafe { free.write(Free { next }) };
                list.first.set(free);
                list.kept.set(kept + 1);
                return;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { give_back(pointer, layout) }
    }

    #[inline(never)]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (place(layout), place(new)) {
            // SAFETY: it came from there with this layout.
            (None, None) => unsafe { System.realloc(pointer, layout, size) },
            (old, new) if old == new => pointer,
            _ => {
                // SAFETY: the caller's promise; the new block is another, and as much is copied as both hold.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                        self.dealloc(pointer, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).expect("a layout")
    }

    #[test]
    fn what_was_freed_last_is_given_again_to_whoever_asks_for_that_size() {
        let heap = Heap::new();
        // SAFETY: each block is freed once, with its layout, and not used afterwards.
        unsafe {
            let (a, b) = (heap.alloc(layout(17)), heap.alloc(layout(32)));
            heap.dealloc(a, layout(17));
            heap.dealloc(b, layout(32));
            assert_ne!(heap.alloc(layout(33)), b, "of another size");
            assert_eq!(heap.alloc(layout(20)), b);
            assert_eq!(heap.alloc(layout(32)), a);
            for (pointer, size) in [(a, 32), (b, 20)] {
                heap.dealloc(pointer, layout(size));
            }
        }
    }

    #[test]
    fn what_grows_and_shrinks_keeps_what_is_in_it() {
        let heap = Heap::new();
        let sizes = [1, 16, 17, 200, 256, 257, 5_000, 300, 256, 40, 16, 3];
        // SAFETY: the block is as long as the last of the sizes that it was given.
        unsafe {
            let mut pointer = heap.alloc(layout(sizes[0]));
            pointer.write(7);
            for pair in sizes.windows(2) {
                pointer = heap.realloc(pointer, layout(pair[0]), pair[1]);
                assert_eq!(pointer.read(), 7, "{pair:?}");
                let kept = pair[0].min(pair[1]);
                for at in 1..kept {
                    assert_eq!(pointer.add(at).read(), at as u8, "{pair:?}: {at}");
                }
                for at in kept..pair[1] {
                    pointer.add(at).write(if at == 0 { 7 } else { at as u8 });
                }
            }
            heap.dealloc(pointer, layout(3));
        }
    }

    #[test]
    fn law_12_a_list_keeps_so_many_blocks() {
        let heap = Heap::new();
        let many = KEPT_MAX as usize + 10;
        // SAFETY: each is freed once, with its layout.
        unsafe {
            let blocks: Vec<_> = (0..many).map(|_| heap.alloc(layout(8))).collect();
            for block in blocks {
                heap.dealloc(block, layout(8));
            }
        }
        assert_eq!(heap.0[0].kept.get(), KEPT_MAX);
        let mut free = heap.0[0].first.get();
        let mut counted = 0;
        while !free.is_null() {
            // SAFETY: it is in the list, so it is free.
            free = unsafe { (*free).next };
            counted += 1;
        }
        assert_eq!(counted, KEPT_MAX);
    }
}
