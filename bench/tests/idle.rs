//! What an idle session takes, counted: ten messages were said in it, and two context variables are set. Every allocation
//! counts as the block that mimalloc, the gateway's allocator, has for it. ARCHITECTURE.md, "What an idle session takes",
//! says which byte is whose.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use clawgate_bench::paths::shard::plan;
use clawgate_core::bounds::Bounds;
use clawgate_core::effect::{Effect, Effects};
use clawgate_core::event::{End, Event, Inbound, Mode, Operation, Piece, Stop, Stored};
use clawgate_core::home::Secret;
use clawgate_core::id::{ChannelId, Client, ShardId, Uid};
use clawgate_core::log::Start;
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

const SESSIONS: usize = 16_000;
/// Messages of a client in each session; each is answered with as much.
const ASKED: usize = 5;
/// As long as the messages of the benchmark of this (P10).
const TEXT: &str = "fifty-six bytes: a question of usual length, all in all.";
/// Bytes of a session that all of it must fit into; what the process has beside its shard is not among them.
const BYTES_MAX: usize = 900;

thread_local! {
    /// Bytes of the blocks that this thread holds.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

/// The block that mimalloc takes for so many bytes: pairs of words up to 64 bytes, then four sizes for each doubling.
fn block(bytes: usize) -> usize {
    let words = bytes.div_ceil(8).max(1);
    if words <= 8 {
        return words.next_multiple_of(2) * 8;
    }
    let shift = (words - 1).ilog2() - 2;
    ((((words - 1) >> shift) + 1) << shift) * 8
}

fn add(bytes: usize) {
    // A thread that is about to end counts no more.
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(bytes)));
}

fn subtract(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_sub(bytes)));
}

// SAFETY: every call is handed to the system's allocator as it came, and its answer handed back. The counter is a `Cell`
// without a destructor, and touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(block(layout.size()));
        // SAFETY: the caller's promise is the one that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        subtract(block(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn shard(sessions_max: usize) -> Shard {
    let mut plan = plan(sessions_max);
    let agent = &mut plan.agents[0];
    (agent.history, agent.needs_history) = (true, true);
    let plan = Arc::new(plan);
    let bounds = Arc::new(Bounds::new(&plan, 1));
    Shard::new(ShardId(0), 1, plan, bounds, 1)
}

/// A message is asked and answered in the session of this name.
fn say(shard: &mut Shard, thread: &str, out: &mut Effects) {
    let client = Client { core: 0, slot: 1, generation: 1, ticket: 1 };
    let inbound = Inbound { thread, peer: "figures", text: TEXT, mode: Mode::Stream, ..Inbound::default() };
    shard.handle(Time::from_millis(1), Event::Inbound { client, inbound }, out);
    let started = |effect: &Effect| if let Effect::Start { call, .. } = effect { Some(*call) } else { None };
    let loads = |effect: &Effect| if let Effect::Load { session } = effect { Some(*session) } else { None };
    if let Some(session) = out.list().iter().find_map(loads) {
        // A store that has never heard of it.
        shard.handle(Time::from_millis(1), Event::Loaded { session, stored: Some(&Stored::default()) }, out);
    }
    let call = out.list().iter().find_map(started).unwrap();
    out.clear();
    shard.handle(Time::from_millis(1), Event::Piece { call, piece: Piece::Text(TEXT) }, out);
    shard.handle(Time::from_millis(1), Event::Ended { call, end: End::Finished(Stop::Complete) }, out);
    let saves = |effect: &Effect| if let Effect::Save { save, .. } = effect { Some(*save) } else { None };
    let last = out.list().iter().filter_map(saves).max();
    out.clear();
    if let Some(save) = last {
        shard.handle(Time::from_millis(1), Event::Saved { save }, out);
        out.clear();
    }
}

#[test]
fn an_idle_session_fits_into_a_kilobyte() {
    assert_eq!([1, 16, 17, 64, 65, 580, 1_025, 8_192].map(block), [16, 16, 32, 64, 80, 640, 1_280, 8_192]);
    let (mut shard, mut out) = (shard(SESSIONS), Effects::new());
    let names: Vec<String> = (0..SESSIONS).map(|n| format!("s{}", 100_000_000 + n)).collect();
    let before = HELD.get();
    for _ in 0..ASKED {
        names.iter().for_each(|name| say(&mut shard, name, &mut out));
    }
    for name in &names {
        let session =
            shard.find(ChannelId(0), clawgate_core::event::Scope::Direct, "figures", "", name).unwrap();
        for (name, value) in [("city", "Buenos Aires"), ("language", "es")] {
            let operation = Operation::Set { name, value };
            let client = Client::NOBODY;
            shard.handle(Time::from_millis(1), Event::Operate { client, session, operation }, &mut out);
            out.clear();
        }
        let memory = shard.memory(session).unwrap();
        assert_eq!((memory.history.len(), memory.variables.count()), (2 * ASKED, 2));
    }
    let each = (HELD.get() - before) / SESSIONS;
    assert!(each <= BYTES_MAX, "an idle session takes {each} bytes, and {BYTES_MAX} are promised");
}

/// With a store behind it, a session that made room for another one is on disk, and nothing of it in memory (row D4).
#[test]
fn a_dormant_session_takes_nothing() {
    const AWAKE: usize = 500;
    let (mut shard, mut out) = (shard(AWAKE), Effects::new());
    let (secret, uid_after) = (Secret([1, 2]), Uid(0));
    let unix_micros = 1_795_000_000_000_000;
    let start = Start { secret, unix_micros, uid_after, lsn: 1, journal: false, store: true, outlives: true };
    shard.begin_with(&start);
    let mut wake = |from: usize, to: usize| {
        (from..to).for_each(|n| say(&mut shard, &format!("s{}", 100_000_000 + n), &mut out));
        (HELD.get(), shard.load().sessions as usize)
    };
    // Twice as many as may be awake: what grows once has grown.
    let (before, awake) = wake(0, 2 * AWAKE);
    assert_eq!(awake, AWAKE);
    let (after, awake) = wake(2 * AWAKE, SESSIONS);
    assert_eq!(awake, AWAKE);
    let asleep = SESSIONS - 2 * AWAKE;
    assert!(after <= before + asleep, "{asleep} dormant sessions took {} bytes", after - before);
}
