//! The core under a seeded simulator: several shards, their mesh, hundreds of conversations, and actors with faults,
//! watched by a shadow model that was written from the contract ([`clawgate_core::event`], [`clawgate_core::effect`])
//! and shares no code with the shards.
//!
//! A failure names its seed; the same seed is the same history for ever. Knobs:
//! - `SIM_SEED=n`: only this seed.
//! - `SIM_SEEDS=n`: seeds `0..n` (64).
//! - `SIM_STEPS=n`: steps of each (20,000).
//! - `SIM_TRACE=1`: print every event and effect.
//! - `SIM_MARKS=1`: print what was covered.
//!
//! `scripts/sim [seeds] [steps]` runs any number; `scripts/planted` checks that this file finds what it should.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stderr, reason = "SIM_TRACE asks for it")]

#[path = "sim/actors.rs"]
mod actors;
#[path = "sim/admission.rs"]
mod admission;
#[path = "sim/agenda.rs"]
mod agenda;
#[path = "sim/answers.rs"]
mod answers;
#[path = "sim/board.rs"]
mod board;
#[path = "sim/breakers.rs"]
mod breakers;
#[path = "sim/calls.rs"]
mod calls;
#[path = "sim/dice.rs"]
mod dice;
#[path = "sim/fairness.rs"]
mod fairness;
#[path = "sim/marks.rs"]
mod marks;
#[path = "sim/meeting.rs"]
mod meeting;
#[path = "sim/memory.rs"]
mod memory;
#[path = "sim/notices.rs"]
mod notices;
#[path = "sim/operations.rs"]
mod operations;
#[path = "sim/paces.rs"]
mod paces;
#[path = "sim/people.rs"]
mod people;
#[path = "sim/plans.rs"]
mod plans;
#[path = "sim/platform.rs"]
mod platform;
#[path = "sim/posts.rs"]
mod posts;
#[path = "sim/shadow.rs"]
mod shadow;
#[path = "sim/trace.rs"]
mod trace;
#[path = "sim/turn.rs"]
mod turn;
#[path = "sim/upstream.rs"]
mod upstream;
#[path = "sim/weather.rs"]
mod weather;
#[path = "sim/world.rs"]
mod world;

use crate::marks::Marks;
use crate::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds and steps of a run without knobs.
const SEEDS: u64 = 64;
const STEPS: u64 = 20_000;

/// What must happen at least once in a full run: every fault, every limit, every effect, every end.
const WANTED: &[&str] = &[
    "action Advance",
    "action Arrive",
    "action Backward",
    "action Jump",
    "action Leave",
    "action Listeners",
    "action Operate",
    "action Press",
    "action Reconfigure",
    "action Repeat",
    "action Stale",
    "calm",
    "flood",
    "storm",
    "silence",
    "slow readers",
    "hot sessions",
    "platforms",
    "operators",
    "hours",
    "outage",
    "effect Accepted",
    "effect Duplicate",
    "effect Ignored Empty",
    "effect Ignored Group",
    "effect Ignored Kind",
    "effect Ignored Sender",
    "effect Ignored Unmentioned",
    "effect Refused AgentBusy",
    "effect Refused Busy",
    "effect Refused Draining",
    "effect Refused InvalidSession",
    "effect Refused NotFound",
    "effect Refused SessionFull",
    "effect Refused TextEmpty",
    "effect Refused TooLarge",
    "effect Refused UpstreamUnavailable",
    "effect Start",
    "effect Cancel",
    "effect Pause",
    "effect Resume",
    "effect Send",
    "effect Finish",
    "effect Merged",
    "effect Deliver",
    "effect Nudge",
    "effect Fail Cancelled",
    "effect Fail ReplyTooLong",
    "effect Fail SessionFull",
    "effect Fail SlowConsumer",
    "effect Fail WaitedTooLong",
    "effect Fail NotFound",
    "effect Fail UpstreamFailed",
    "effect Fail UpstreamMalformed",
    "effect Fail UpstreamRateLimited",
    "effect Fail UpstreamTimeout",
    "effect Fail UpstreamTruncated",
    "effect Fail UpstreamUnavailable",
    "settled Answered",
    "settled Cancelled",
    "settled Merged",
    "settled Failed ReplyTooLong",
    "settled Failed SlowConsumer",
    "settled Failed WaitedTooLong",
    "settled Dead DeliveryFailed",
    "settled Dead NotFound",
    "settled Dead SessionFull",
    "settled Dead UpstreamTimeout",
    "settled Dead UpstreamUnavailable",
    "settled Dead WaitedTooLong",
    "publish Created",
    "publish Received",
    "publish Routed",
    "publish Generated",
    "publish Delivered",
    "publish Updated",
    "publish Failed",
    "operation Reset",
    "operation Close",
    "operation Send",
    "operation Set",
    "operation Assign",
    "operation Stop",
    "operation Mode",
    "operator speaks",
    "operation refused Busy",
    "operation refused Draining",
    "operation refused NotFound",
    "operation refused SessionFull",
    "operation refused TextEmpty",
    "operation refused TooLarge",
    "cancelled for Clock(Header)",
    "cancelled for Clock(FirstPiece)",
    "cancelled for Clock(Silence)",
    "cancelled for Clock(Call)",
    "cancelled for Clock(SlowClient)",
    "cancelled for Left",
    "cancelled for Interrupted",
    "cancelled for Operator",
    "cancelled for Steered",
    "cancelled for TooLong",
    "collected",
    "steered",
    "interrupted",
    "merged at the cap",
    "names before texts",
    "refused early",
    "failed Backoff",
    "failed After",
    "failed Elsewhere",
    "failed Never",
    "tried again at once",
    "tried again later",
    "fallback",
    "stop Complete",
    "stop Filtered",
    "stop Length",
    "breaker Closed",
    "breaker Open",
    "breaker HalfOpen",
    "delivery Confirmed",
    "delivery Refused",
    "delivery Retry",
    "delivery Retry after",
    "delivery timed out",
    "delivered again",
    "answer in parts",
    "apology",
    "too long, delivered in part",
    "late piece",
    "late end",
    "late delivery",
    "agent running_max reached",
    "model running_max reached",
    "turns_max reached",
    "sessions_max reached",
    "session evicted",
    "session expired",
    "Low waits while Normal starts",
    "Low waits while Vip starts",
    "Normal waits while Low starts",
    "Normal waits while Vip starts",
    "Vip waits while Low starts",
    "Vip waits while Normal starts",
];

fn knob(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs one seed to its end; the panic of a failure begins with the seed.
fn run(seed: u64, steps: u64) -> (u64, Marks) {
    let echo = knob("SIM_TRACE").is_some();
    let mut world = World::new(seed, steps, echo);
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

/// Runs the seeds on all processors; what was covered, added up.
fn run_all(seeds: std::ops::Range<u64>, steps: u64) -> Marks {
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
                let (_, covered) = run(seed, steps);
                marks.lock().unwrap().merge(&covered);
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

#[test]
fn seeds() {
    let steps = knob("SIM_STEPS").unwrap_or(STEPS);
    if let Some(seed) = knob("SIM_SEED") {
        let (hash, marks) = run(seed, steps);
        eprintln!("seed {seed}: {hash:016x}\n{}", marks.table());
        return;
    }
    let seeds = knob("SIM_SEEDS").unwrap_or(SEEDS);
    let marks = run_all(0..seeds, steps);
    if knob("SIM_MARKS").is_some() {
        eprintln!("{}", marks.table());
    }
    if SEEDS <= seeds && STEPS <= steps {
        let missing = marks.missing(WANTED);
        assert!(missing.is_empty(), "never seen in {seeds} seeds: {missing:?}\nseen:\n{}", marks.table());
    }
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in [3, 11] {
        let (one, two) = (run(seed, 4_000), run(seed, 4_000));
        assert_eq!(one.0, two.0, "seed {seed} has two histories");
        assert_eq!(one.1, two.1);
    }
    assert_ne!(run(3, 500).0, run(4, 500).0, "two seeds have one history");
}
