//! Shards with the real journal over a disk that forgets, a store that is written behind, a platform that repeats what was
//! not acknowledged, clients that leave and come back, operators: and the process dies at any step, and starts again with
//! another number of shards on what is left.
//!
//! What must hold: what was acknowledged is answered or a dead letter, once, in the order of its session; nothing is
//! acknowledged or posted before what it rests on is on disk; what is over stays over; the store ends with what was said
//! and with the letters that are owed, and nothing is left over.
//!
//! Knobs as in `sim.rs`: `SIM_SEED`, `SIM_SEEDS`, `SIM_STEPS`, `SIM_TRACE`.
mod gateway;
mod ledger;
mod links;
mod marks;
mod people;
mod previews;
mod rest;
mod restart;
mod store;
mod world;

use marks::{Marks, Wanted};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

const SEEDS: u64 = 64;
const STEPS: u64 = 5_000;

fn knob(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs one seed to its end; the panic of a failure begins with the seed.
fn run(seed: u64, has_links: bool, steps: u64) -> (u64, Marks) {
    let mut world = World::new(seed, has_links, knob("SIM_TRACE").is_some());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        while world.step < steps {
            world.step();
        }
        world.rest();
    }));
    if let Err(panic) = outcome {
        let why = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        panic!(
            "SIM_SEED={seed} SIM_STEPS={steps}, step {}: {why}\nthe last lines:\n{}",
            world.step,
            world.trace.tail()
        );
    }
    (world.trace.hash(), world.marks)
}

fn run_all(seeds: std::ops::Range<u64>, has_links: bool, steps: u64) -> Marks {
    let next = AtomicU64::new(seeds.start);
    let marks = Mutex::new(Marks::default());
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if !seeds.contains(&seed) {
                    return;
                }
                let (_, seen) = run(seed, has_links, steps);
                marks.lock().unwrap().merge(&seen);
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                next.store(seeds.end, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
    });
    marks.into_inner().unwrap()
}

/// Runs the seeds that the knobs ask for, and asks whether enough happened.
fn try_all(has_links: bool, wanted: Wanted) {
    let steps = knob("SIM_STEPS").unwrap_or(STEPS);
    if let Some(seed) = knob("SIM_SEED") {
        let (hash, marks) = run(seed, has_links, steps);
        eprintln!("seed {seed}: {hash:016x}\n{}", marks.table());
        return;
    }
    let seeds = knob("SIM_SEEDS").unwrap_or(SEEDS);
    let marks = run_all(0..seeds, has_links, steps);
    if knob("SIM_MARKS").is_some() {
        eprintln!("{}", marks.table());
    }
    if SEEDS <= seeds && STEPS <= steps {
        let missing = marks.missing(wanted);
        assert!(missing.is_empty(), "too seldom in {seeds} seeds: {missing:?}\nseen:\n{}", marks.table());
    }
}

#[test]
fn crashes() {
    try_all(false, marks::WANTED);
}

/// The same where accounts of several channels are one person's.
#[test]
fn crashes_of_linked_accounts() {
    try_all(true, marks::WANTED_OF_LINKS);
}

#[test]
fn the_same_seed_crashes_in_the_same_way() {
    for (seed, has_links) in [(3, false), (11, false), (3, true)] {
        let (one, two) = (run(seed, has_links, 2_000), run(seed, has_links, 2_000));
        assert_eq!(one.0, two.0, "seed {seed} has two histories");
    }
    assert_ne!(run(3, false, 500).0, run(4, false, 500).0, "two seeds have one history");
}
