//! An allocator that counts, thread by thread. Owns the counters, never the memory: that is the system's.
//!
//! Counted by thread, so that what a test harness does beside the path that is counted does not count.
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNTED: Cell<Allocations> = const { Cell::new(Allocations { calls: 0, bytes: 0 }) };
}

/// What a thread has allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// Allocations, and growths of what was allocated before.
    pub calls: u64,
    /// Bytes asked for in them; of a growth, those that it added.
    pub bytes: u64,
}

/// To be made the `#[global_allocator]` of a binary that counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting;

impl Counting {
    fn note(bytes: usize) {
        // A thread that is about to end has no counter any more, and nobody who would read it.
        let _ = COUNTED.try_with(|counted| {
            let Allocations { calls, bytes: sum } = counted.get();
            counted.set(Allocations { calls: calls + 1, bytes: sum + bytes as u64 });
        });
    }
}

// SAFETY: every call is handed to the system's allocator as it came, and its answer handed back. The counter is a
// `Cell` without a destructor, and touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What the calling thread has allocated so far: nothing, unless [`Counting`] is the allocator.
#[must_use]
pub fn so_far() -> Allocations {
    COUNTED.with(Cell::get)
}

/// What `work` allocates on the calling thread.
pub fn during(work: impl FnOnce()) -> Allocations {
    let before = so_far();
    work();
    let after = so_far();
    Allocations { calls: after.calls - before.calls, bytes: after.bytes - before.bytes }
}
