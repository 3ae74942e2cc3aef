//! The end of work: what runs is finished, clients are told to come back, and after a time what is left is told so. A
//! process that stops refuses what is new; one that hands over to another process takes nothing new in, but answers
//! whoever it had let in.
use crate::connection::{Connection, Protocol};
use crate::driver;
use crate::gateway::Shared;
use crate::journal::Journal;
use crate::keep::Keeper;
use crate::thread::Thread;
use crate::{http, usage, websocket};
use clawgate_core::event::Event;
use clawgate_core::id::ShardId;
use signal_hook::iterator::backend::Handle;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::time::Duration;

/// How often a draining thread looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);
/// How long an end waits for the disk.
const JOURNAL_CLOSE_AGE_MAX: Duration = Duration::from_secs(5);
/// How long a connection that was taken in and has not asked yet is waited for before a process hands over.
const UNASKED_AGE_MAX: Duration = Duration::from_secs(5);
/// Clients told to come back in one second; more of them are spread over more seconds, up to so many.
const RETURNS_A_SECOND: u32 = 1_000;
const RETURN_SECONDS_MAX: u32 = 30;

/// What work ends for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// The process stops.
    Stop,
    /// Another process goes on.
    HandOver,
}

const WORKING: u8 = 0;
const OVER: u8 = 1;
const CALLED_OFF: u8 = 2;

/// How far the threads are with a drain. No thread ends before all are done: another one's requests may need it.
#[derive(Debug)]
pub(crate) struct Drain {
    state: AtomicU8,
    /// By thread: it has nothing left to do.
    quiet: Vec<AtomicBool>,
    /// Threads that have not ended.
    running: AtomicU16,
}

impl Drain {
    pub(crate) fn new(cores: u16) -> Self {
        Self {
            state: AtomicU8::new(WORKING),
            quiet: (0..cores).map(|_| AtomicBool::new(false)).collect(),
            running: AtomicU16::new(cores),
        }
    }

    /// One begins, perhaps after another that was called off.
    fn begin(&self) {
        // Looks of the one before count for nothing.
        self.quiet.iter().for_each(|quiet| quiet.store(false, Ordering::Release));
        let _ = self.state.compare_exchange(CALLED_OFF, WORKING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A thread says whether it has nothing left to do; true once that holds, or held, for all.
    fn is_over(&self, thread: ShardId, is_quiet: bool) -> bool {
        self.quiet[usize::from(thread.0)].store(is_quiet, Ordering::Release);
        if is_quiet && self.quiet.iter().all(|quiet| quiet.load(Ordering::Acquire)) {
            return self.end();
        }
        self.state.load(Ordering::Acquire) == OVER
    }

    /// Ends it for all threads; false if it was called off.
    fn end(&self) -> bool {
        let ended = self.state.compare_exchange(WORKING, OVER, Ordering::AcqRel, Ordering::Acquire);
        ended.is_ok() || ended == Err(OVER)
    }

    /// Work goes on after all; false if it is too late for that.
    fn call_off(&self) -> bool {
        self.state.compare_exchange(WORKING, CALLED_OFF, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// A thread ends; true for the last one.
    fn finishing(&self) -> bool {
        self.running.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Tells all threads to drain, at most so long; the last one that is done closes `signals`.
pub(crate) fn begin(shared: &Shared, parting: Parting, limit: Duration, signals: &Handle) {
    shared.drain.begin();
    for core in 0..shared.cores() {
        let closing = signals.clone();
        let errand = Box::new(move |thread: &Rc<Thread>| {
            begin_here(thread, parting);
            let round = thread.drains.get();
            driver::spawn(drain_task(thread.clone(), round, limit, closing));
        });
        // Thousands of errands wait only if the thread is stuck: then the second signal's turn has come.
        let _ = shared.mesh.errand(ShardId(core), errand);
    }
}

/// Work goes on after all; false if it is too late for that.
pub(crate) fn call_off(shared: &Shared) -> bool {
    if !shared.drain.call_off() {
        return false;
    }
    for core in 0..shared.cores() {
        let errand = Box::new(|thread: &Rc<Thread>| {
            thread.drains.set(thread.drains.get().wrapping_add(1));
            thread.draining.set(None);
            thread.open_doors();
        });
        let _ = shared.mesh.errand(ShardId(core), errand);
    }
    true
}

fn begin_here(thread: &Rc<Thread>, parting: Parting) {
    thread.drains.set(thread.drains.get().wrapping_add(1));
    if thread.draining.get() == Some(Parting::Stop) {
        return;
    }
    let before = thread.draining.replace(Some(parting));
    match parting {
        // Connections are still accepted: who asks for our health hears how it is.
        Parting::Stop => thread.handle(Event::Drain),
        Parting::HandOver => thread.shut_doors(),
    }
    if before.is_none() {
        for connection in thread.all_connections() {
            dismiss(thread, &connection);
        }
    }
}

/// Begins to end a connection: at once if nothing is under way on it.
pub(crate) fn dismiss(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    let is_websocket = matches!(*connection.protocol.borrow(), Protocol::WebSocket(_));
    if is_websocket {
        websocket::drain(thread, connection);
    } else {
        http::drain(thread, connection);
    }
}

/// When a client shall come back, seconds: not all in the same one.
pub(crate) fn return_seconds(thread: &Thread) -> u32 {
    let spread = (thread.shared.connections() / RETURNS_A_SECOND + 1).min(RETURN_SECONDS_MAX);
    let drawn = thread.random() % u64::from(spread);
    1 + u32::try_from(drawn).unwrap_or(0)
}

/// Waits for what runs, at most so long, then ends the thread; the last one ends the process.
async fn drain_task(thread: Rc<Thread>, round: u32, limit: Duration, signals: Handle) {
    let deadline = thread.now() + limit;
    loop {
        thread.touch();
        if thread.drains.get() != round {
            // Called off, or another one goes on in place of this one.
            return;
        }
        if thread.shared.drain.is_over(thread.id, is_quiet(&thread)) || thread.stop.get() {
            break;
        }
        if deadline <= thread.now() {
            if !thread.shared.drain.end() {
                return;
            }
            let (connections, turns) = (thread.connection_count(), turns_of(&thread));
            tracing::warn!(shard = thread.id.0, connections, turns, "the drain's time is up");
            break;
        }
        driver::sleep(LOOK).await;
    }
    close_journal(&thread).await;
    for connection in thread.all_connections() {
        part(&thread, &connection);
    }
    thread.upstreams.cancel_all();
    usage::flush(&thread);
    if !thread.stop.replace(true) && thread.shared.drain.finishing() {
        signals.close();
    }
    thread.touch();
}

/// Waits until what was journalled is on disk and what was saved is in the store. A disk that does not take it is not
/// waited for: what was acknowledged is there already.
async fn close_journal(thread: &Rc<Thread>) {
    let deadline = thread.now() + JOURNAL_CLOSE_AGE_MAX;
    if let Some(journal) = thread.journal.get() {
        journal.close();
    }
    let is_done = || {
        thread.journal.get().is_none_or(Journal::is_closed)
            && thread.keeper.get().is_none_or(Keeper::is_quiet)
    };
    while !is_done() && !thread.stop.get() {
        thread.touch();
        if deadline <= thread.now() {
            tracing::warn!(shard = thread.id.0, "the journal could not be closed in time");
            return;
        }
        driver::sleep(LOOK).await;
    }
}

/// The last words on a connection: what was not answered is said to be, as far as the socket takes it at once.
fn part(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    if !connection.is_ending() {
        let is_websocket = matches!(*connection.protocol.borrow(), Protocol::WebSocket(_));
        if is_websocket {
            websocket::part(thread, connection);
        } else {
            http::part(thread, connection);
        }
    }
    connection.flush(thread);
    connection.vanish();
}

fn turns_of(thread: &Thread) -> u32 {
    let load = thread.shard.borrow().load();
    load.waiting + load.ready + load.running + load.backing_off + load.delivering + load.lookups
}

/// Has this thread nothing left to do?
fn is_quiet(thread: &Thread) -> bool {
    if turns_of(thread) != 0 {
        return false;
    }
    let waits = thread.draining.get() == Some(Parting::HandOver);
    let age_max = thread.gateway().limits.head_age_max.min(UNASKED_AGE_MAX);
    let is_awaited = |connection: &Connection| {
        let unasked = http::with(connection, |http| http.unasked_since()).flatten();
        unasked.is_some_and(|since| thread.now().since(since) < age_max)
    };
    thread
        .all_connections()
        .iter()
        .all(|connection| connection.is_quiet() && !(waits && is_awaited(connection)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ShardId = ShardId(0);
    const TWO: ShardId = ShardId(1);

    #[test]
    fn it_is_over_when_all_are_quiet_at_once() {
        let drain = Drain::new(2);
        assert!(!drain.is_over(ONE, true) && !drain.is_over(TWO, false));
        assert!(!drain.is_over(ONE, false) && !drain.is_over(TWO, true));
        assert!(drain.is_over(ONE, true));
        // For good, whatever comes.
        assert!(drain.is_over(TWO, false) && drain.end() && !drain.call_off());
        assert!(!drain.finishing() && drain.finishing());
    }

    #[test]
    fn one_that_is_called_off_ends_nothing() {
        let drain = Drain::new(2);
        assert!(!drain.is_over(ONE, true));
        assert!(drain.call_off());
        assert!(!drain.is_over(TWO, true) && !drain.end() && !drain.call_off());
        // The next one begins from the beginning.
        drain.begin();
        assert!(!drain.is_over(ONE, true));
        assert!(drain.end());
        drain.begin();
        assert!(drain.is_over(TWO, false));
    }
}
