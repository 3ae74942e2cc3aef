//! Allocations of the hot paths, held to the count: none per message routed by a shard, and what the tables say elsewhere.
//!
//! In debug builds a shard sweeps over all that it has after each call, and the sweep allocates: it is counted apart and
//! taken off. `scripts/counts` holds the same counts in the code as it is shipped.
#![allow(clippy::unwrap_used)]
use clawgate_bench::allocations::{Counting, during, so_far};
use clawgate_bench::paths;
use clawgate_bench::paths::shard::{Message, Routing};
use clawgate_core::event::Mode;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: u64 = 500;

#[test]
fn the_counter_counts() {
    let before = so_far();
    let counted = during(|| {
        let mut bytes = Vec::with_capacity(100);
        bytes.push(1_u8);
        bytes.reserve_exact(300);
        assert_eq!(bytes.capacity(), 301);
    });
    assert_eq!((counted.calls, counted.bytes), (2, 301));
    assert_eq!(so_far().calls, before.calls + 2);
    assert_eq!(during(|| ()).calls, 0);
}

/// A message through the shard allocates nothing, whichever way its answer travels. With ids, which come and go by
/// chance, one of the tables that remember them may still find that it must grow, once.
#[test]
fn a_routed_message_allocates_nothing_in_the_shard() {
    for mode in [Mode::Stream, Mode::Whole, Mode::Deliver] {
        for with_id in [false, true] {
            let message = Message { mode, with_id };
            // Few enough that each call of a debug build ends with a sweep.
            let mut routing = Routing::new(64, message);
            let sweep = if cfg!(debug_assertions) { during(|| routing.shard().check()).calls } else { 0 };
            let before = routing.calls();
            let counted = during(|| (0..MESSAGES).for_each(|_| routing.message(message)));
            let calls = routing.calls() - before;
            assert!(3 * MESSAGES <= calls, "each message is at least three events");
            let own = counted.calls - calls * sweep;
            assert!(own <= u64::from(with_id), "{message:?}: {own} allocations");
        }
    }
}

/// The paths outside the shard: exactly what their tables say.
#[test]
fn each_path_allocates_what_it_says() {
    let pure = paths::all()
        .into_iter()
        .filter(|path| !(path.name.starts_with("core/") || path.name.starts_with("route/")));
    for path in pure {
        let mut run = path.prepare();
        (0..64).for_each(|_| run());
        let counted = during(|| (0..MESSAGES).for_each(|_| run()));
        assert_eq!(counted.calls, MESSAGES * path.allocations, "{}", path.name);
    }
}
