//! The WebSocket side of a connection: frames in, the client protocol's messages handled, answers framed out.
//! Frames are `wire`'s, messages are `adapters::websocket`'s; this is where they meet the shard.
use crate::agents::worker::{self, Desk};
use crate::auth::Identity;
use crate::connection::{Connection, Fed, Protocol};
use crate::driver::Socket;
use crate::events;
use crate::execute;
use crate::gateway::API;
use crate::mesh::{Letter, Reply};
use crate::sessions;
use crate::thread::Thread;
use crate::tickets::{Form, Ticket, Tickets};
use crate::tls::ServerTls;
use clawgate_adapters::websocket::{self as protocol, ClientMessage};
use clawgate_adapters::{Bad, merged};
use clawgate_core::bucket::Verdict;
use clawgate_core::codes::Code;
use clawgate_core::event::{Content, Inbound, Kind, Mode, Scope};
use clawgate_core::id::{AgentId, ShardId};
use clawgate_core::time::Time;
use clawgate_wire::websocket::{
    Decoder, Item, Opcode, Role, Step, Violation, begin_frame, end_frame, write_close, write_frame,
};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// What a connection wants to be told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subscribed {
    pub(crate) message: bool,
    pub(crate) status: bool,
}

/// The state of one WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    decoder: Decoder,
    /// The fragments of a message so far.
    message: Vec<u8>,
    /// Who speaks, once it has said so.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) subscribed: Subscribed,
    /// The session of messages that name none.
    session: Box<str>,
    /// Its first message decided on which core it lives.
    settled: bool,
    opened: Time,
    /// Heartbeats that were not answered, and when the next is due.
    missed: u16,
    beat: Time,
    /// Its client is the worker of an agent.
    pub(crate) worker: Option<Box<Desk>>,
}

impl WebSocket {
    /// A connection that was just upgraded.
    pub(crate) fn new(thread: &Thread, identity: Option<Arc<Identity>>) -> Self {
        let gateway = thread.gateway();
        let limits = &gateway.limits;
        let max =
            if identity.is_some() { limits.frame_bytes_max } else { limits.frame_bytes_unauthenticated_max };
        Self {
            decoder: Decoder::new(Role::Server, max),
            message: Vec::new(),
            identity,
            subscribed: Subscribed::default(),
            session: Box::default(),
            settled: thread.shared.cores() == 1,
            opened: thread.now(),
            missed: 0,
            beat: thread.now() + limits.heartbeat,
            worker: None,
        }
    }

    /// Its client is the worker of an agent: it stays where it is.
    pub(crate) fn for_worker(mut self) -> Self {
        (self.worker, self.settled) = (Some(Box::default()), true);
        self
    }

    /// The longest message that it takes, bytes.
    pub(crate) fn set_message_bytes_max(&mut self, max: usize) {
        self.decoder.set_message_bytes_max(max);
    }
}

/// A connection on its way to the core of its session.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) fd: OwnedFd,
    pub(crate) address: IpAddr,
    pub(crate) tls: Option<Box<ServerTls>>,
    pub(crate) websocket: Box<WebSocket>,
    pub(crate) carry: Vec<u8>,
}

impl Moving {
    /// Takes it up on the core that it moved to.
    pub(crate) fn arrive(mut self, thread: &Rc<Thread>) {
        self.websocket.settled = true;
        let Ok(socket) = Socket::new(self.fd) else {
            thread.shared.connection_closed(self.address);
            return;
        };
        let subscribed = self.websocket.subscribed;
        let now = thread.now();
        let (address, tls, carry, websocket) = (self.address, self.tls, self.carry, self.websocket);
        let mut place = None;
        thread.admit(|at| {
            place = Some(at);
            let connection = Connection::new(at, address, socket, tls, Protocol::WebSocket(websocket), now);
            connection.bring(carry);
            connection
        });
        // It may have left before a change of the configuration, and arrived after it.
        if let Some(connection) = place.and_then(|place| thread.connection(place)) {
            thread.renew(&connection);
            if thread.draining.get().is_some() {
                drain(thread, &connection);
            }
        }
        if let Some(place) = place
            && (subscribed.message || subscribed.status)
        {
            events::subscribe(thread, place);
        }
    }
}

/// It could not move: it stays for good.
pub(crate) fn stay(connection: &Connection) {
    with(connection, |websocket| websocket.settled = true);
}

fn with<R>(connection: &Connection, act: impl FnOnce(&mut WebSocket) -> R) -> Option<R> {
    match &mut *connection.protocol.borrow_mut() {
        Protocol::WebSocket(websocket) => Some(act(websocket)),
        Protocol::Http(_) => None,
    }
}

/// What one frame asks for, once the decoder is released.
enum Heard {
    Nothing,
    /// A whole message: so many bytes at the end of the frame.
    Message(usize),
    /// The last fragment of one.
    Assembled,
    Pong,
    Ping(Vec<u8>),
    Close(u16),
    Violated(Violation),
    NeedMore,
}

/// Handles every complete frame in `bytes`.
pub(crate) fn on_bytes(thread: &Rc<Thread>, connection: &Rc<Connection>, bytes: &mut [u8]) -> Fed {
    let mut done = 0;
    while !connection.is_ending() {
        let (consumed, heard) = next_frame(connection, &mut bytes[done..]);
        let start = done;
        done += consumed;
        match heard {
            Heard::NeedMore => break,
            Heard::Nothing => {}
            Heard::Pong => {
                with(connection, |websocket| websocket.missed = 0);
            }
            Heard::Ping(payload) => {
                connection.write(thread, |out| write_frame(out, Opcode::Pong, true, None, &payload));
            }
            Heard::Message(len) => {
                if let Some(to) = on_frame(thread, connection, &mut bytes[start..done], len) {
                    return Fed::Move(start, to);
                }
                thread.count(|c| &mut c.frames);
            }
            Heard::Assembled => {
                thread.count(|c| &mut c.frames);
                let message = with(connection, |websocket| std::mem::take(&mut websocket.message));
                on_message(thread, connection, &mut message.unwrap_or_default(), false);
            }
            Heard::Close(code) => {
                connection.write(thread, |out| write_close(out, None, code, ""));
                connection.end(thread);
            }
            Heard::Violated(violation) => {
                thread.refused(Code::BadFrame);
                tracing::debug!(
                    shard = thread.id.0,
                    code = violation.code(),
                    "a peer broke the WebSocket protocol"
                );
                connection
                    .write(thread, |out| write_close(out, None, violation.close_code(), violation.code()));
                connection.end(thread);
            }
        }
    }
    Fed::Consumed(done)
}

/// Takes one frame off the front: how many bytes it had, and what it says.
fn next_frame(connection: &Connection, bytes: &mut [u8]) -> (usize, Heard) {
    let mut protocol = connection.protocol.borrow_mut();
    let Protocol::WebSocket(websocket) = &mut *protocol else { return (0, Heard::NeedMore) };
    match websocket.decoder.decode(bytes) {
        Err(violation) => (0, Heard::Violated(violation)),
        Ok(Step::NeedMore(_)) => (0, Heard::NeedMore),
        Ok(Step::Frame { consumed, item }) => {
            let heard = match item {
                Item::Text(payload) | Item::Binary(payload) => Heard::Message(payload.len()),
                Item::Fragment { payload, first, last, .. } => {
                    if first {
                        websocket.message.clear();
                    }
                    websocket.message.extend_from_slice(payload);
                    if last { Heard::Assembled } else { Heard::Nothing }
                }
                Item::Ping(payload) => Heard::Ping(payload.to_vec()),
                Item::Pong(_) => Heard::Pong,
                // RFC 6455 5.5.1: "When sending a Close frame in response, the endpoint typically echos the status
                // code it received."
                Item::Close { code, .. } => Heard::Close(code.unwrap_or(1000)),
            };
            (consumed, heard)
        }
    }
}

/// Handles a whole message that came in one frame, unless its connection belongs on another core.
fn on_frame(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    frame: &mut [u8],
    len: usize,
) -> Option<ShardId> {
    let at = frame.len() - len;
    let settled = with(connection, |websocket| websocket.settled).unwrap_or(true);
    if settled {
        return on_message(thread, connection, &mut frame[at..], false);
    }
    // Parsing spoils the text, and a connection that moves takes the frame along: once per connection it is copied.
    let copy = frame[at..].to_vec();
    let to = on_message(thread, connection, &mut frame[at..], true)?;
    frame[at..].copy_from_slice(&copy);
    // The payload is in clear already: with a key of zero it stays so when it is read again.
    frame[at - 4..at].fill(0);
    Some(to)
}

/// Handles one message of the client protocol. With `may_move`, the first message for a session of another core is
/// not handled: its connection goes there first.
fn on_message(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    bytes: &mut [u8],
    may_move: bool,
) -> Option<ShardId> {
    if with(connection, |websocket| websocket.worker.is_some()) == Some(true) {
        worker::on_message(thread, connection, bytes);
        return None;
    }
    let mut json = thread.json.borrow_mut();
    let message = match protocol::decode(bytes, &mut json) {
        Ok(message) => message,
        Err(Bad { code, text }) => {
            thread.refused(code);
            send_error(thread, connection, code, &text, "", "", 0);
            return None;
        }
    };
    drop(json);
    let identity = with(connection, |websocket| websocket.identity.clone()).flatten();
    match (message, identity) {
        (ClientMessage::Auth { token }, _) => authenticate(thread, connection, token),
        (ClientMessage::Ping { id }, _) => send_text(thread, connection, |out| protocol::write_pong(out, id)),
        (_, None) => {
            let text = "say {\"type\":\"auth\",\"token\":…} first";
            thread.refused(Code::Unauthenticated);
            send_error(thread, connection, Code::Unauthenticated, text, "", "", 0);
        }
        (
            ClientMessage::Message { id, channel, content, session_id, stream, receipt, agent },
            Some(identity),
        ) => {
            let said = Said { id, channel, content, session_id, stream, receipt, agent };
            return on_said(thread, connection, &identity, &said, may_move);
        }
        (ClientMessage::Subscribe { message, status }, Some(_)) => {
            subscribe(thread, connection, message, status, true)
        }
        (ClientMessage::Unsubscribe { message, status }, Some(_)) => {
            subscribe(thread, connection, message, status, false);
        }
        (ClientMessage::Stop { session_id, id }, Some(_)) => stop(thread, connection, session_id, id),
    }
    None
}

/// Who speaks on this connection, once it has said so.
pub(crate) fn identity_of(connection: &Connection) -> Option<Arc<Identity>> {
    with(connection, |websocket| websocket.identity.clone()).flatten()
}

pub(crate) fn authenticate(thread: &Rc<Thread>, connection: &Rc<Connection>, token: &str) {
    let gateway = thread.gateway();
    let Some(identity) = gateway.keys.identify(Some(token)) else {
        let advice = Code::Unauthenticated.advice();
        send_error(thread, connection, Code::Unauthenticated, advice, "", "", 0);
        close_with(thread, connection, Code::Unauthenticated);
        return;
    };
    send_text(thread, connection, |out| protocol::write_auth_ok(out, &identity.user));
    with(connection, |websocket| {
        websocket.decoder.set_message_bytes_max(gateway.limits.frame_bytes_max);
        websocket.identity = Some(identity);
    });
}

struct Said<'a> {
    id: &'a str,
    channel: &'a str,
    content: &'a str,
    session_id: &'a str,
    stream: bool,
    receipt: bool,
    agent: &'a str,
}

fn on_said(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    identity: &Arc<Identity>,
    said: &Said<'_>,
    may_move: bool,
) -> Option<ShardId> {
    let refuse = |code: Code, text: &str, wait: u32| {
        thread.refused(code);
        send_error(thread, connection, code, text, said.id, said.session_id, wait);
        None
    };
    if thread.draining.get().is_some() {
        return refuse(Code::Draining, Code::Draining.advice(), crate::drain::return_seconds(thread));
    }
    let own = if said.session_id.is_empty() { own_session_of(thread, connection) } else { Box::default() };
    let session_id = if said.session_id.is_empty() { &*own } else { said.session_id };
    let agent = match check_said(thread, identity, said, session_id) {
        Ok(agent) => agent,
        Err((code, text)) => return refuse(code, text, 0),
    };
    let (mode, form) = if said.stream { (Mode::Stream, Form::Pieces) } else { (Mode::Whole, Form::Message) };
    let inbound = Inbound {
        id: said.id,
        chat: "",
        thread: session_id,
        peer: &identity.user,
        name: &identity.user,
        text: said.content,
        sent_millis: 0,
        channel: API,
        kind: Kind::Message,
        scope: Scope::Direct,
        mentioned: true,
        mode,
        class: identity.class,
        agent,
        receipt: said.receipt,
        content: Content::WORDS,
        fleeting: false,
        account: identity.account,
    };
    let home = thread.home(&inbound);
    if may_move && home != thread.id && connection.tickets.borrow().is_empty() {
        return Some(home);
    }
    stay(connection);
    if let Verdict::Refused { retry_after, .. } = identity.take(thread, connection.address, thread.now()) {
        let wait = u32::try_from(retry_after.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX);
        return refuse(Code::RateLimited, Code::RateLimited.advice(), wait.max(1));
    }
    if let Err(wait) = identity.spend() {
        return refuse(Code::BudgetSpent, Code::BudgetSpent.advice(), seconds(wait));
    }
    let opened = connection.tickets.borrow_mut().open(form, session_id, said.id, thread.now());
    let Some(ticket) = opened else {
        return refuse(Code::Busy, "too many messages of this connection are not answered yet", 1);
    };
    if said.receipt
        && let Some(ticket) = connection.tickets.borrow_mut().get(ticket)
    {
        ticket.receipt = true;
    }
    thread.submit_at(home, connection.client(thread, ticket), &inbound);
    None
}

/// May it be said, so and by this key? Returns the agent that was asked for.
fn check_said(
    thread: &Thread,
    identity: &Identity,
    said: &Said<'_>,
    session_id: &str,
) -> Result<Option<AgentId>, (Code, &'static str)> {
    if !identity.scopes.chat {
        return Err((Code::Forbidden, Code::Forbidden.advice()));
    }
    if !matches!(said.channel, "" | "api") {
        return Err((Code::NotFound, "clients speak on the channel `api`"));
    }
    sessions::check_id(session_id).map_err(|text| (Code::InvalidSession, text))?;
    if said.agent.is_empty() {
        return Ok(None);
    }
    let agent = thread.gateway().agent(said.agent);
    agent.map(Some).ok_or((Code::NotFound, "there is no agent of this name"))
}

fn own_session_of(thread: &Thread, connection: &Connection) -> Box<str> {
    with(connection, |websocket| {
        if websocket.session.is_empty() {
            websocket.session = format!("ws-{:016x}", thread.random()).into_boxed_str();
        }
        websocket.session.clone()
    })
    .unwrap_or_default()
}

fn subscribe(thread: &Rc<Thread>, connection: &Rc<Connection>, message: bool, status: bool, on: bool) {
    let now = with(connection, |websocket| {
        if message {
            websocket.subscribed.message = on;
        }
        if status {
            websocket.subscribed.status = on;
        }
        websocket.subscribed
    });
    let Some(now) = now else { return };
    if !(now.message || now.status) {
        events::unsubscribe(thread, connection.place);
    } else if !events::subscribe(thread, connection.place) {
        with(connection, |websocket| websocket.subscribed = Subscribed::default());
        thread.refused(Code::Busy);
        let text = "too many connections listen to events (`limits.subscribersMax`)";
        send_error(thread, connection, Code::Busy, text, "", "", 1);
    }
}

fn stop(thread: &Rc<Thread>, connection: &Rc<Connection>, session_id: &str, id: &str) {
    let mut stopped = Vec::new();
    let mut tickets = connection.tickets.borrow_mut();
    tickets.close_where(|ticket| {
        let named = (!id.is_empty() && ticket.id() == id)
            || (!session_id.is_empty() && ticket.session() == session_id);
        if named {
            stopped.push((ticket.turn, ticket.session().to_owned(), ticket.id().to_owned()));
        }
        named
    });
    drop(tickets);
    for (turn, session, id) in stopped {
        // The shard says nothing more of a turn whose client left: its end is told here. Of a message that is still on
        // its way there the client leaves when the shard says that it took it.
        if let Some((shard, turn)) = turn {
            thread.tell(shard, Letter::Left { turn });
        }
        send_error(thread, connection, Code::Cancelled, "stopped by its client", &id, &session, 0);
    }
    if thread.draining.get().is_some() {
        drain(thread, connection);
    }
}

/// Frames one text message.
pub(crate) fn send_text(thread: &Rc<Thread>, connection: &Rc<Connection>, write: impl FnOnce(&mut Vec<u8>)) {
    connection.write(thread, |out| {
        let frame = begin_frame(out);
        write(out);
        end_frame(out, frame, Opcode::Text);
    });
}

fn send_error(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    code: Code,
    text: &str,
    id: &str,
    session: &str,
    wait_seconds: u32,
) {
    send_text(thread, connection, |out| protocol::write_error(out, code, text, id, session, wait_seconds));
}

/// Says why, in the protocol's own way, and closes.
pub(crate) fn close_with(thread: &Rc<Thread>, connection: &Rc<Connection>, code: Code) {
    let close = if code.close() == 0 { 1008 } else { code.close() };
    connection.write(thread, |out| write_close(out, None, close, code.name()));
    connection.end(thread);
}

/// Seconds to wait, as people are told: rounded up.
fn seconds(millis: u32) -> u32 {
    millis.div_ceil(1_000)
}

/// Tells the client what became of its message.
pub(crate) fn reply(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, reply: Reply, text: &str) {
    let mut tickets = connection.tickets.borrow_mut();
    let into = merged_into(&mut tickets, reply);
    let Some(ticket) = tickets.get(number) else {
        if let Reply::Accepted { shard, turn, .. } = reply {
            drop(tickets);
            execute::left(thread, shard, turn);
        }
        return;
    };
    let (session, id) = (ticket.session(), ticket.id());
    let last = match reply {
        Reply::Accepted { shard, turn, place, durable, again } => {
            if ticket.receipt && !durable {
                send_text(thread, connection, |out| protocol::write_accepted(out, id, session, again));
            }
            if place != 0 {
                send_text(thread, connection, |out| protocol::write_queued(out, id, session, place));
            }
            (ticket.turn, ticket.unwritten) = (Some((shard, turn)), durable);
            false
        }
        Reply::Durable => {
            send_text(thread, connection, |out| protocol::write_accepted(out, id, session, false));
            ticket.is_over_once_written()
        }
        Reply::Piece { seq, .. } => {
            send_text(thread, connection, |out| protocol::write_chunk(out, text, session, id, seq));
            if !ticket.started {
                ticket.started = true;
                thread.first_piece_took(ticket.began);
            }
            false
        }
        Reply::Done { seq, usage, model, .. } => {
            if ticket.form == Form::Message {
                send_text(thread, connection, |out| protocol::write_message(out, text, session, id));
            }
            let gateway = thread.gateway();
            let model = gateway.model_name(model);
            send_text(thread, connection, |out| protocol::write_done(out, session, &usage, id, model, seq));
            thread.took(ticket.began);
            true
        }
        Reply::Merged { seq, .. } => {
            send_text(thread, connection, |out| merged::write_done(out, session, id, &into, seq));
            true
        }
        Reply::Duplicate => {
            send_text(thread, connection, |out| protocol::write_accepted(out, id, session, true));
            true
        }
        Reply::Refused { code, retry_after_millis } | Reply::Failed { code, retry_after_millis, .. } => {
            tell_error(thread, connection, ticket, (code, text), retry_after_millis);
            true
        }
        Reply::Ignored(_) => {
            tell_error(thread, connection, ticket, (Code::PolicyDenied, ""), 0);
            true
        }
        Reply::Operated { .. } => true,
    };
    if ticket.is_over(last) {
        tickets.close(number);
        if tickets.is_empty() && thread.draining.get().is_some() {
            drop(tickets);
            drain(thread, connection);
            return;
        }
    }
    drop(tickets);
    connection.check_growth(thread);
}

/// The client's own id of the message that another one is answered together with, if it came by this connection.
fn merged_into(tickets: &mut Tickets, reply: Reply) -> String {
    let Reply::Merged { shard, into, .. } = reply else { return String::new() };
    tickets.of(shard, into).map(|ticket| ticket.id().to_owned()).unwrap_or_default()
}

fn tell_error(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    ticket: &Ticket,
    (code, text): (Code, &str),
    retry_after_millis: u32,
) {
    let words = if text.is_empty() { code.advice() } else { text };
    let (session, id, wait) = (ticket.session(), ticket.id(), seconds(retry_after_millis));
    send_text(thread, connection, |out| protocol::write_error(out, code, words, id, session, wait));
}

/// Begins to end it for a restart: at once if nothing is under way, else with the last answer.
pub(crate) fn drain(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    if with(connection, |websocket| websocket.worker.is_some()) == Some(true) {
        return worker::drain(thread, connection);
    }
    if connection.tickets.borrow().is_empty() && !connection.is_ending() {
        let text = "the gateway restarts: connect again";
        send_error(thread, connection, Code::Draining, text, "", "", crate::drain::return_seconds(thread));
        close_with(thread, connection, Code::Draining);
    }
}

/// The last words of a process that stops before it has answered.
pub(crate) fn part(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    let wait = crate::drain::return_seconds(thread);
    for ticket in connection.tickets.borrow_mut().open_ones() {
        let text = "the gateway stopped before the answer was complete: send it again";
        let (id, session) = (ticket.id(), ticket.session());
        send_error(thread, connection, Code::Draining, text, id, session, wait);
    }
    close_with(thread, connection, Code::Draining);
}

/// Heartbeats, and the deadline for `auth`. Returns when to look again.
pub(crate) fn on_alarm(thread: &Rc<Thread>, connection: &Rc<Connection>) -> Time {
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    let now = thread.now();
    let verdict = with(connection, |websocket| {
        if websocket.identity.is_none() && websocket.opened + limits.auth_age_max <= now {
            return Err(Some(Code::AuthTimeout));
        }
        // Whatever was heard since the last beat is a sign of life.
        if websocket.beat <= now {
            if now.since(connection.heard.get()) < limits.heartbeat {
                websocket.missed = 0;
            } else if limits.missed_heartbeats_max <= websocket.missed {
                return Err(None);
            } else {
                websocket.missed += 1;
            }
            websocket.beat = now + limits.heartbeat;
            return Ok((true, websocket.beat));
        }
        let auth = if websocket.identity.is_none() {
            websocket.opened + limits.auth_age_max
        } else {
            websocket.beat
        };
        Ok((false, auth.min(websocket.beat)))
    });
    match verdict {
        Some(Ok((beat, next))) => {
            if beat {
                connection.write(thread, |out| write_frame(out, Opcode::Ping, true, None, b""));
            }
            next
        }
        Some(Err(Some(code))) => {
            connection.abort(thread, code);
            now + limits.heartbeat
        }
        Some(Err(None)) | None => {
            thread.count(|c| &mut c.dead_peers);
            connection.vanish();
            now + limits.heartbeat
        }
    }
}
