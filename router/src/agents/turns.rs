//! Turns and the workers that have them, on the turn's own core: given to a worker, or waiting for one; what the worker
//! says becomes what the shard hears. The connections are [`super::worker`]'s, on theirs.
use super::pool::{Known, Worker};
use super::{turn_name, worker, write_turn};
use crate::call::Started;
use crate::config::outside;
use crate::gateway::{Gateway, Upstream};
use crate::mesh::Letter;
use crate::thread::Thread;
use crate::usage::Meter;
use crate::voice::Voice;
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Event, Failure, Piece, Retry};
use clawgate_core::id::CallId;
use clawgate_core::time::Time;
use clawgate_providers::said::Counts;
use clawgate_providers::{End, Said, Stop};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The workers of one agent, as a model is called.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) agent: Box<str>,
    pub(crate) waiting_max: u32,
    pub(crate) wait_max: Duration,
    /// Turns that wait, process; the same over all configurations.
    pub(crate) waiting: Arc<AtomicU32>,
}

impl Workers {
    /// The workers of an agent. `before` is the configuration that this one takes the place of: who waits goes on waiting.
    pub(crate) fn compile(workers: &outside::Workers, before: Option<&Gateway>) -> Self {
        let known =
            before.into_iter().flat_map(|before| &before.upstreams).find_map(|upstream| match upstream {
                Upstream::Workers(known) => (*known.agent == *workers.agent).then(|| known.waiting.clone()),
                Upstream::Echo(_) | Upstream::Scripted(_) | Upstream::Remote(_) | Upstream::Agent(_) => None,
            });
        Self {
            agent: workers.agent.as_str().into(),
            waiting_max: workers.waiting_max,
            wait_max: workers.wait_max,
            waiting: known.unwrap_or_default(),
        }
    }
}

/// What one thread knows of workers, and has with them.
#[derive(Debug, Default)]
pub(crate) struct Here {
    pub(crate) known: Known,
    parked: RefCell<VecDeque<Parked>>,
    running: RefCell<HashMap<CallId, Running>>,
    due: Cell<Option<Time>>,
}

/// A turn that waits for a worker.
#[derive(Debug)]
struct Parked {
    started: Started,
    until: Time,
    /// It never had a chance: as many as may wait already.
    is_refused: bool,
}

/// A turn that a worker has.
struct Running {
    started: Started,
    worker: Arc<Worker>,
    /// The call's name towards the worker.
    ticket: u64,
    voice: Voice,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({:?} at {})", self.started.call, self.worker.id)
    }
}

/// What became of a call at its worker.
#[derive(Clone, Debug)]
pub(super) enum Word {
    Text(String),
    Reasoning(String),
    Done {
        text: String,
        counts: Option<Counts>,
        stop: Stop<'static>,
    },
    Failed {
        code: Code,
        retry: Retry,
        detail: String,
    },
    /// The worker is gone.
    Lost,
}

/// Gives a turn to a worker, or has it wait for one. Called while effects are carried out.
pub(crate) fn start(thread: &Rc<Thread>, started: Started) {
    let Some(workers) = workers_of(&started) else { return };
    let (agent, wait_max) = (workers.agent.clone(), workers.wait_max);
    if let Some(worker) = thread.workers.known.take(&agent) {
        return give(thread, started, worker);
    }
    let fits = |waiting: u32| (waiting < workers.waiting_max).then_some(waiting + 1);
    let is_refused = workers.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_err();
    let until = if is_refused { thread.now() } else { thread.now() + wait_max };
    if !is_refused {
        thread.shared.workers.waits(thread.id, true);
    }
    let here = &thread.workers;
    here.parked.borrow_mut().push_back(Parked { started, until, is_refused });
    here.due.set(Some(here.due.get().map_or(until, |due| due.min(until))));
    // A place that was given back before we said that we wait is found by this.
    if !is_refused {
        serve(thread);
    }
}

fn workers_of(started: &Started) -> Option<&Workers> {
    match &started.gateway.upstreams[usize::from(started.model.0)] {
        Upstream::Workers(workers) => Some(workers),
        Upstream::Echo(_) | Upstream::Scripted(_) | Upstream::Remote(_) | Upstream::Agent(_) => None,
    }
}

/// One waits no longer.
fn unpark(thread: &Thread, parked: &Parked) {
    if parked.is_refused {
        return;
    }
    if let Some(workers) = workers_of(&parked.started) {
        workers.waiting.fetch_sub(1, Ordering::AcqRel);
    }
    thread.shared.workers.waits(thread.id, false);
}

/// Gives those who wait to workers that have room, the longest waiting first.
pub(super) fn serve(thread: &Rc<Thread>) {
    let mut waiting = thread.workers.parked.take();
    let mut left = VecDeque::with_capacity(waiting.len());
    let mut full: Vec<Box<str>> = Vec::new();
    while let Some(parked) = waiting.pop_front() {
        let Some(workers) = workers_of(&parked.started) else { continue };
        let agent = &workers.agent;
        let worker =
            if parked.is_refused || full.contains(agent) { None } else { thread.workers.known.take(agent) };
        match worker {
            Some(worker) => {
                unpark(thread, &parked);
                give(thread, parked.started, worker);
            }
            None => {
                if !parked.is_refused && !full.contains(agent) {
                    full.push(agent.clone());
                }
                left.push_back(parked);
            }
        }
    }
    // Giving a turn away parks none.
    thread.workers.parked.replace(left);
}

/// Runs at the end of each turn of the loop: who has waited for too long fails in words.
pub(crate) fn turn(thread: &Rc<Thread>) {
    let here = &thread.workers;
    let now = thread.now();
    if here.due.get().is_none_or(|due| now < due) {
        return;
    }
    let (late, waiting): (VecDeque<_>, VecDeque<_>) =
        here.parked.take().into_iter().partition(|parked| parked.until <= now);
    here.due.set(waiting.iter().map(|parked| parked.until).min());
    here.parked.replace(waiting);
    for parked in late {
        unpark(thread, &parked);
        let Started { call, control, .. } = &parked.started;
        thread.upstreams.end(*call);
        if control.is_cancelled() {
            continue;
        }
        let agent = workers_of(&parked.started).map_or("", |workers| &workers.agent);
        let detail = match (thread.workers.known.has(agent), parked.is_refused) {
            (false, _) => "no worker of this agent is connected",
            (true, false) => "no worker of this agent had room in time",
            (true, true) => "too many messages wait for a worker of this agent",
        };
        let failure = Failure { code: Code::AgentBusy, retry: Retry::Elsewhere, status: 0, detail };
        thread.handle(Event::Ended { call: *call, end: event::End::Failed(failure) });
    }
}

/// When [`turn`] has something to do next.
pub(crate) fn next_deadline(thread: &Thread) -> Option<Time> {
    thread.workers.due.get()
}

/// Hands a turn to a worker that has a place for it.
fn give(thread: &Rc<Thread>, started: Started, worker: Arc<Worker>) {
    let ticket = thread.random();
    let call = started.call;
    let mut message = Vec::new();
    let written = turn_name(thread, &started).and_then(|name| {
        write_turn(thread, &started, &name, |turn| worker::write_turn(&mut message, ticket, turn))
    });
    let Some(voice) = written else {
        // The turn is over; its place is free again.
        return worker::release(thread, &worker);
    };
    started.count(thread);
    started.control.meter(|meter| meter.heard_by(&voice));
    started.control.meter(Meter::answering);
    let (from, place) = (thread.id, worker.place);
    let errand =
        Box::new(move |there: &Rc<Thread>| worker::take(there, place, (from, call, ticket), &message));
    thread.outgoing.borrow_mut().letter(worker.core, Letter::Errand(errand));
    thread.workers.running.borrow_mut().insert(call, Running { started, worker, ticket, voice });
}

/// A call's worker says something.
pub(super) fn hear(thread: &Rc<Thread>, call: CallId, ticket: u64, word: Word) {
    let mut running = thread.workers.running.borrow_mut();
    if running.get(&call).is_none_or(|running| running.ticket != ticket) {
        return;
    }
    // What it causes may cancel it: then nobody must hold the table.
    let Some(mut call_at) = running.remove(&call) else { return };
    drop(running);
    let outcome = match &word {
        Word::Text(_) | Word::Reasoning(_) => None,
        Word::Done { .. } => Some("done"),
        Word::Failed { .. } => Some("failed"),
        Word::Lost => Some("lost"),
    };
    let is_over = outcome.is_some();
    if let Some(outcome) = outcome {
        thread.count(|counts| counts.worker_turns.entry(outcome).or_default());
    }
    let goes_on = say(thread, &mut call_at, &word);
    if is_over {
        return;
    }
    if goes_on && !call_at.started.control.is_cancelled() {
        thread.workers.running.borrow_mut().insert(call, call_at);
    } else {
        dismiss(thread, &call_at);
    }
}

/// Passes on what a worker said; false once nothing more is wanted.
fn say(thread: &Rc<Thread>, running: &mut Running, word: &Word) -> bool {
    let mut one = |said: Said<'_>| {
        let (call, control) = (running.started.call, &running.started.control);
        if control.is_cancelled() {
            return false;
        }
        control.hear(&said);
        running.voice.hear(call, said, &mut |event| {
            if matches!(event, Event::Ended { .. }) {
                thread.upstreams.end(call);
            }
            thread.handle(event);
        })
    };
    match word {
        Word::Text(text) => one(Said::Piece(Piece::Text(text))),
        Word::Reasoning(text) => one(Said::Piece(Piece::Reasoning(text))),
        Word::Done { text, counts, stop } => {
            if !text.is_empty() {
                one(Said::Piece(Piece::Text(text)));
            }
            if let Some(counts) = counts {
                one(Said::Usage(*counts));
            }
            one(Said::Ended(End::Finished(*stop)))
        }
        Word::Failed { code, retry, detail } => {
            one(Said::Ended(End::Failed(Failure { code: *code, retry: *retry, status: 0, detail })))
        }
        Word::Lost => {
            let detail = "the worker that answered is gone";
            let failure = Failure { code: Code::UpstreamTruncated, retry: Retry::AtOnce, status: 0, detail };
            one(Said::Ended(End::Failed(failure)))
        }
    }
}

/// The worker need not go on.
fn dismiss(thread: &Rc<Thread>, running: &Running) {
    thread.count(|counts| counts.worker_turns.entry("cancelled").or_default());
    let (place, ticket) = (running.worker.place, running.ticket);
    let errand = Box::new(move |there: &Rc<Thread>| worker::cancel(there, place, ticket));
    thread.outgoing.borrow_mut().letter(running.worker.core, Letter::Errand(errand));
}

/// The shard wants nothing more of a call.
pub(crate) fn cancel(thread: &Rc<Thread>, call: CallId) {
    let here = &thread.workers;
    let running = here.running.borrow_mut().remove(&call);
    if let Some(running) = running {
        return dismiss(thread, &running);
    }
    let mut parked = here.parked.borrow_mut();
    if let Some(at) = parked.iter().position(|parked| parked.started.call == call)
        && let Some(left) = parked.remove(at)
    {
        drop(parked);
        unpark(thread, &left);
    }
}

/// The client of a call has no room for more, or has room again.
pub(crate) fn pause(thread: &Rc<Thread>, call: CallId, paused: bool) {
    let running = thread.workers.running.borrow();
    let Some(Running { worker, ticket, .. }) = running.get(&call) else { return };
    let (place, ticket) = (worker.place, *ticket);
    let errand = Box::new(move |there: &Rc<Thread>| worker::pause(there, place, ticket, paused));
    thread.outgoing.borrow_mut().letter(worker.core, Letter::Errand(errand));
}

/// Turns that workers have, of this core.
pub(crate) fn running(thread: &Thread) -> usize {
    thread.workers.running.borrow().len()
}
