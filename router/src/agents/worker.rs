//! A worker's connection, on its own core: it registers, gets turns, and says what becomes of them. The turns live on their
//! own cores ([`super::turns`]); what is said here goes there by letter.
//!
//! Nothing that a worker says is believed: a call that it does not have, a message that is none, more bytes than an answer
//! may have are coded errors, counted, and after some of them the connection ends.
use super::pool::{self, Worker};
use super::turns::{self, Word};
use crate::connection::{Connection, Place, Protocol};
use crate::gateway::Upstream;
use crate::mesh::Letter;
use crate::thread::Thread;
use crate::websocket::{self, send_text};
use clawgate_adapters::websocket as protocol;
use clawgate_core::codes::Code;
use clawgate_core::event::Retry;
use clawgate_core::id::{CallId, ShardId};
use clawgate_providers::Json;
use clawgate_providers::agent::{AgentTurn, WorkerMessage, read_worker_message};
use clawgate_providers::raw::Text;
use clawgate_wire::json;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Messages of a worker that make no sense, before its connection ends.
const FAULTS_MAX: u32 = 16;
/// Calls that ended lately: what a worker still says of them is late, and no fault.
const ENDED_MAX: usize = 1_024;

/// A worker's side of a WebSocket.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    worker: Option<Arc<Worker>>,
    jobs: HashMap<u64, Job>,
    ended: VecDeque<u64>,
    faults: u32,
}

/// A turn that the worker has.
#[derive(Clone, Copy, Debug)]
struct Job {
    shard: ShardId,
    call: CallId,
    /// Bytes of messages about it so far.
    bytes: usize,
}

impl Desk {
    fn end(&mut self, ticket: u64) -> Option<Job> {
        let job = self.jobs.remove(&ticket)?;
        if ENDED_MAX <= self.ended.len() {
            self.ended.pop_front();
        }
        self.ended.push_back(ticket);
        Some(job)
    }
}

fn with<R>(connection: &Connection, act: impl FnOnce(&mut Desk) -> R) -> Option<R> {
    match &mut *connection.protocol.borrow_mut() {
        Protocol::WebSocket(websocket) => websocket.worker.as_mut().map(|desk| act(desk)),
        Protocol::Http(_) => None,
    }
}

/// A call's name, as workers know it.
fn ticket_of(text: &Text<'_>) -> Option<u64> {
    u64::from_str_radix(text.plain().strip_prefix("call_")?, 16).ok()
}

fn write_call(out: &mut Vec<u8>, kind: &str, ticket: u64) {
    out.extend_from_slice(b"{\"type\":");
    json::write_str(out, kind);
    out.extend_from_slice(b",\"call\":");
    json::write_str(out, &format!("call_{ticket:016x}"));
}

/// Writes what a worker is told of a turn.
pub(super) fn write_turn(out: &mut Vec<u8>, ticket: u64, turn: AgentTurn<'_, '_>) {
    write_call(out, "turn", ticket);
    turn.write(out);
    out.push(b'}');
}

fn send_call(thread: &Rc<Thread>, connection: &Rc<Connection>, kind: &str, ticket: u64) {
    send_text(thread, connection, |out| {
        write_call(out, kind, ticket);
        out.push(b'}');
    });
}

/// Gives a place back.
pub(super) fn release(thread: &Rc<Thread>, worker: &Worker) {
    pool::give(thread, worker);
}

/// A turn for the worker at this place.
pub(super) fn take(
    thread: &Rc<Thread>,
    place: Place,
    (shard, call, ticket): (ShardId, CallId, u64),
    message: &[u8],
) {
    let connection = thread.connection(place).filter(|connection| !connection.is_ending());
    let taken = connection.as_ref().and_then(|connection| {
        with(connection, |desk| {
            desk.worker.as_ref()?;
            desk.jobs.insert(ticket, Job { shard, call, bytes: 0 });
            Some(())
        })
        .flatten()
    });
    match (connection, taken) {
        (Some(connection), Some(())) => {
            send_text(thread, &connection, |out| out.extend_from_slice(message));
            connection.check_growth(thread);
        }
        (_, _) => tell(thread, shard, call, ticket, Word::Lost),
    }
}

fn tell(thread: &Rc<Thread>, shard: ShardId, call: CallId, ticket: u64, word: Word) {
    let errand = Box::new(move |there: &Rc<Thread>| turns::hear(there, call, ticket, word));
    thread.outgoing.borrow_mut().letter(shard, Letter::Errand(errand));
}

/// The gateway wants no more of a call.
pub(super) fn cancel(thread: &Rc<Thread>, place: Place, ticket: u64) {
    let Some(connection) = thread.connection(place) else { return };
    let ended = with(&connection, |desk| desk.end(ticket).and(desk.worker.clone())).flatten();
    if let Some(worker) = ended {
        send_call(thread, &connection, "cancel", ticket);
        release(thread, &worker);
    }
}

/// A call's client takes no more for now, or does again.
pub(super) fn pause(thread: &Rc<Thread>, place: Place, ticket: u64, paused: bool) {
    let Some(connection) = thread.connection(place) else { return };
    if with(&connection, |desk| desk.jobs.contains_key(&ticket)) == Some(true) {
        send_call(thread, &connection, if paused { "pause" } else { "resume" }, ticket);
    }
}

/// The connection is gone, and with it what the worker had: other workers get it.
pub(crate) fn gone(thread: &Rc<Thread>, connection: &Connection) {
    let Some((Some(worker), jobs)) =
        with(connection, |desk| (desk.worker.take(), std::mem::take(&mut desk.jobs)))
    else {
        return;
    };
    let (id, turns) = (worker.id, jobs.len());
    tracing::info!(shard = thread.id.0, worker = id, turns, "a worker is gone");
    pool::leave(thread, &worker);
    for (ticket, job) in jobs {
        tell(thread, job.shard, job.call, ticket, Word::Lost);
    }
}

/// The process ends: the worker keeps what it has, and connects again when we close.
pub(crate) fn drain(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    send_text(thread, connection, |out| out.extend_from_slice(b"{\"type\":\"drain\"}"));
}

/// A message of the worker's.
pub(crate) fn on_message(thread: &Rc<Thread>, connection: &Rc<Connection>, bytes: &[u8]) {
    let message = match read_worker_message(bytes) {
        Ok(message) => message,
        Err(text) => return fault(thread, connection, Code::BadRequest, text, ""),
    };
    let identity = websocket::identity_of(connection);
    match (message, identity) {
        (WorkerMessage::Auth { token }, _) => websocket::authenticate(thread, connection, &token.plain()),
        (WorkerMessage::Ping, _) => send_text(thread, connection, |out| protocol::write_pong(out, "")),
        (_, None) => {
            let text = "say {\"type\":\"auth\",\"token\":…} first";
            fault(thread, connection, Code::Unauthenticated, text, "");
        }
        (_, Some(identity)) if !identity.scopes.agent => {
            let text = "the key of a worker has the scope `agent`";
            refuse(thread, connection, Code::Forbidden, text, "");
            websocket::close_with(thread, connection, Code::Forbidden);
        }
        (WorkerMessage::Register { agents, capacity }, Some(_)) => {
            register(thread, connection, &agents, capacity);
        }
        (WorkerMessage::Delta { call, text, reasoning }, Some(_)) => {
            let Some((ticket, job)) = job_of(thread, connection, &call, bytes.len()) else { return };
            let text = text.filter(|text| !text.is_empty());
            let reasoning = reasoning.filter(|text| !text.is_empty());
            if text.is_none() && reasoning.is_none() {
                let text = "a delta has `text` or `reasoning`";
                return fault(thread, connection, Code::MissingField, text, &call.plain());
            }
            if let Some(text) = reasoning {
                tell(thread, job.shard, job.call, ticket, Word::Reasoning(text.plain().into_owned()));
            }
            if let Some(text) = text {
                tell(thread, job.shard, job.call, ticket, Word::Text(text.plain().into_owned()));
            }
        }
        (WorkerMessage::Done { call, text, usage, stop }, Some(_)) => {
            let text = text.map(|text| text.plain().into_owned()).unwrap_or_default();
            end(thread, connection, &call, bytes.len(), Word::Done { text, counts: usage, stop });
        }
        (WorkerMessage::Error { call, error }, Some(_)) => {
            let mut json = Json::new();
            let failure = error.failure(&mut json);
            let (code, retry, detail) = (failure.code, failure.retry, failure.detail.to_owned());
            end(thread, connection, &call, bytes.len(), Word::Failed { code, retry, detail });
        }
    }
}

/// The call that a message is about, if the worker has it.
fn job_of(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    call: &Text<'_>,
    bytes: usize,
) -> Option<(u64, Job)> {
    let ticket = ticket_of(call);
    let bytes_max = thread.gateway().limits.upstream_body_bytes_max;
    let found = with(connection, |desk| {
        let ticket = ticket?;
        let late = desk.ended.contains(&ticket);
        let job = desk.jobs.get_mut(&ticket).map(|job| {
            job.bytes = job.bytes.saturating_add(bytes);
            *job
        });
        Some((ticket, job, late))
    });
    match found.flatten() {
        Some((ticket, Some(job), _)) if job.bytes <= bytes_max => Some((ticket, job)),
        Some((ticket, Some(job), _)) => {
            let detail = "the worker said more than limits.upstreamBodyBytesMax allows".to_owned();
            let word = Word::Failed { code: Code::UpstreamMalformed, retry: Retry::Elsewhere, detail };
            tell(thread, job.shard, job.call, ticket, word);
            cancel(thread, connection.place, ticket);
            fault(
                thread,
                connection,
                Code::TooLarge,
                "this call said more than an answer may",
                &call.plain(),
            );
            None
        }
        Some((_, None, true)) => {
            thread.count(|counts| &mut counts.worker_late);
            None
        }
        Some((_, None, false)) | None => {
            fault(thread, connection, Code::NotFound, "this worker has no such call", &call.plain());
            None
        }
    }
}

/// The worker is done with a call.
fn end(thread: &Rc<Thread>, connection: &Rc<Connection>, call: &Text<'_>, bytes: usize, word: Word) {
    let Some((ticket, job)) = job_of(thread, connection, call, bytes) else { return };
    tell(thread, job.shard, job.call, ticket, word);
    let worker = with(connection, |desk| desk.end(ticket).and(desk.worker.clone())).flatten();
    if let Some(worker) = worker {
        release(thread, &worker);
    }
}

fn register(thread: &Rc<Thread>, connection: &Rc<Connection>, agents: &[Text<'_>], capacity: u32) {
    let gateway = thread.gateway();
    if with(connection, |desk| desk.worker.is_some()) == Some(true) {
        let text = "it is registered already: connect again to change that";
        return fault(thread, connection, Code::BadRequest, text, "");
    }
    let mut names: Vec<Box<str>> = Vec::with_capacity(agents.len());
    for agent in agents {
        let name = agent.plain();
        let is_ours = gateway.upstreams.iter().any(|upstream| match upstream {
            Upstream::Workers(workers) => *workers.agent == *name,
            Upstream::Echo(_) | Upstream::Scripted(_) | Upstream::Remote(_) | Upstream::Agent(_) => false,
        });
        if !is_ours {
            let text = "there is no agent of this name and of the type `worker`";
            return fault(thread, connection, Code::NotFound, text, "");
        }
        if !names.iter().any(|known| **known == *name) {
            names.push(name.into());
        }
    }
    if !thread.shared.workers.enter(gateway.limits.workers_max) {
        refuse(thread, connection, Code::TooManyConnections, "`limits.workersMax` workers are there", "");
        return websocket::close_with(thread, connection, Code::TooManyConnections);
    }
    let capacity = capacity.min(gateway.limits.worker_turns_max);
    let id = thread.random();
    let worker = Worker::new(id, thread.id, connection.place, names.into_boxed_slice(), capacity);
    with(connection, |desk| desk.worker = Some(worker.clone()));
    let agents = worker.agents.join(", ");
    tracing::info!(shard = thread.id.0, worker = id, agents, capacity, "a worker registered");
    send_text(thread, connection, |out| {
        out.extend_from_slice(b"{\"type\":\"registered\",\"worker\":");
        json::write_str(out, &format!("worker_{id:016x}"));
        out.extend_from_slice(b",\"capacity\":");
        json::write_u64(out, capacity.into());
        out.push(b'}');
    });
    pool::join(thread, worker);
}

/// Tells the worker what was wrong.
fn refuse(thread: &Rc<Thread>, connection: &Rc<Connection>, code: Code, text: &str, call: &str) {
    thread.refused(code);
    send_text(thread, connection, |out| {
        out.extend_from_slice(b"{\"type\":\"error\",\"code\":");
        json::write_str(out, code.name());
        out.extend_from_slice(b",\"message\":");
        json::write_str(out, text);
        if !call.is_empty() {
            out.extend_from_slice(b",\"call\":");
            json::write_str(out, &call[..call.floor_char_boundary(64)]);
        }
        out.push(b'}');
    });
}

/// The worker said what makes no sense.
fn fault(thread: &Rc<Thread>, connection: &Rc<Connection>, code: Code, text: &str, call: &str) {
    thread.count(|counts| &mut counts.worker_faults);
    refuse(thread, connection, code, text, call);
    let faults = with(connection, |desk| {
        desk.faults += 1;
        desk.faults
    });
    if faults.is_some_and(|faults| FAULTS_MAX <= faults) {
        websocket::close_with(thread, connection, Code::BadFrame);
    }
}
