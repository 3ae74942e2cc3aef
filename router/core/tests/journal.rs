//! The journal over a disk that tears, forgets, lies and fails, under a seed: a shard that accepts, settles and carries,
//! the writer, crashes of the process and of the power, and starts that read what is left.
//!
//! What must hold at each start: what was called durable is there, in order, once, as it was; what is not whole is never
//! returned; nothing that was durably settled comes back; damage is claimed where there is some, and nowhere else.
//!
//! `JOURNAL_SEED=n` runs one seed, `JOURNAL_SEEDS=n` so many (200), `JOURNAL_STEPS=n` steps of each (3,000), `SIM_TRACE=1`
//! prints all.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stderr, reason = "SIM_TRACE asks for it")]

mod crashes;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/disk.rs"]
mod disk;
#[path = "journal/shop.rs"]
mod shop;
#[path = "sim/trace.rs"]
mod trace;

use shop::Shop;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, steps: u64, echo: bool) -> (u64, shop::Seen) {
    let mut shop = Shop::new(seed, echo);
    let ran = catch_unwind(AssertUnwindSafe(|| shop.run(steps)));
    if let Err(panic) = ran {
        eprintln!("{}\nJOURNAL_SEED={seed}", shop.trace.tail());
        std::panic::resume_unwind(panic);
    }
    (shop.trace.hash(), shop.seen)
}

#[test]
fn nothing_durable_is_lost_and_nothing_damaged_returned() {
    let steps = knob("JOURNAL_STEPS").unwrap_or(3_000);
    let echo = knob("SIM_TRACE").is_some();
    if let Some(seed) = knob("JOURNAL_SEED") {
        let (_, seen) = run(seed, steps, echo);
        eprintln!("{seen:?}");
        return;
    }
    let mut all = shop::Seen::default();
    for seed in 0..knob("JOURNAL_SEEDS").unwrap_or(200) {
        all.add(&run(seed, steps, echo).1);
    }
    eprintln!("{all:?}");
    // A run in which nothing went wrong proves nothing.
    let wanted = [
        ("accepted", all.accepted, 20_000),
        ("settled", all.settled, 30_000),
        ("killed", all.kills, 200),
        ("cut", all.cuts, 200),
        ("flipped", all.flips, 50),
        ("damage that was proven", all.proven, 5),
        ("ends that were torn", all.torn, 20),
        ("faults", all.faults, 500),
        ("carried", all.carried, 500),
        ("left out", all.left_out, 50),
        ("holes that were mended", all.mended, 3),
        ("times full", all.full, 50),
        ("times failed", all.failed, 10),
        ("segments begun", all.segments, 2_000),
        ("files used again", all.reused, 300),
    ];
    for (what, count, least) in wanted {
        assert!(least <= count, "{what}: {count}, fewer than {least}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        assert_eq!(run(seed, 2_000, false).0, run(seed, 2_000, false).0, "seed {seed}");
    }
}
