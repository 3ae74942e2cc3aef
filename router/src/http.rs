//! The HTTP side of a connection: requests read whole, handed to the API one at a time, answers written in order.
//! Heads and bodies are `wire`'s to read; what a path means is `api`'s.
use crate::api;
use crate::auth::RateState;
use crate::clock::{unix_millis, unix_seconds};
use crate::connection::{Connection, Protocol};
use crate::door::{self, Visit};
use crate::execute;
use crate::mesh::Reply;
use crate::reload::Current;
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_adapters::{merged, rest};
use clawgate_core::codes::Code;
use clawgate_core::event::Usage;
use clawgate_core::id::{ChannelId, ModelId};
use clawgate_core::time::Time;
use clawgate_wire::http1::{
    BodyDecoder, CONTINUE, HeadLimits, Length, Refusal, RequestHead, begin_chunk, end_chunk, parse_request,
    write_last_chunk, write_response_head,
};
use std::rc::Rc;

/// The longest request target.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// The state of one HTTP connection.
#[derive(Debug, Default)]
pub(crate) struct Http {
    /// Since when the request that is arriving has been arriving; `None` between requests.
    arriving: Option<Time>,
    /// Its head is complete.
    has_head: bool,
    /// When the last answer was complete.
    idle_since: Time,
    /// Bytes that must be there before it is worth looking again.
    need: usize,
    chunked: Option<Chunked>,
    continued: bool,
    /// The request that is being answered.
    pub(crate) exchange: Option<Exchange>,
}

/// A chunked body on its way in.
#[derive(Debug)]
struct Chunked {
    decoder: BodyDecoder,
    body: Vec<u8>,
    /// Bytes of the request that were read so far, its head included.
    read: usize,
}

/// What the answer must know of its request.
#[derive(Debug)]
pub(crate) struct Exchange {
    keep_alive: bool,
    minor: u8,
    head_only: bool,
    pub(crate) rate: Option<RateState>,
    /// The browser's origin, where it is allowed to read the answer.
    pub(crate) origin: Option<Box<str>>,
    /// The head of an event stream is out.
    streaming: bool,
    beat: Time,
    /// The channel whose webhook this is, by the configuration that it came under.
    pub(crate) webhook: Option<(Current, ChannelId)>,
    /// It came to a door. Boxed, because most do not.
    pub(crate) visit: Option<Box<Visit>>,
    /// The body of a webhook's acknowledgement.
    pub(crate) ack: bytes::Bytes,
}

/// Acts on the connection's HTTP state; `None` once it speaks another protocol.
pub(crate) fn with<R>(connection: &Connection, act: impl FnOnce(&mut Http) -> R) -> Option<R> {
    match &mut *connection.protocol.borrow_mut() {
        Protocol::Http(http) => Some(act(http)),
        Protocol::WebSocket(_) => None,
    }
}

/// What to do next with the bytes of a request.
enum Step {
    /// It is not all there.
    Wait,
    /// It is: so many bytes of head, so many of body behind it.
    Whole(usize, usize),
    /// It is, and its body was chunked: so many bytes in all.
    Decoded(usize, usize, Vec<u8>),
    /// It is not acceptable.
    Refuse(Refusal),
    /// The API does not want it.
    Unwanted,
}

/// Handles every complete request in `bytes`, until one waits for its answer. Returns the bytes that are done with.
pub(crate) fn on_bytes(thread: &Rc<Thread>, connection: &Rc<Connection>, bytes: &mut [u8]) -> usize {
    let mut done = 0;
    loop {
        let busy = with(connection, |http| http.exchange.is_some());
        if done == bytes.len() || busy != Some(false) || connection.is_ending() {
            return done;
        }
        match next_request(thread, connection, &bytes[done..]) {
            Step::Wait => return done,
            Step::Unwanted => return bytes.len(),
            Step::Refuse(refusal) => {
                refuse(thread, connection, refusal);
                return bytes.len();
            }
            Step::Whole(head, body) => {
                let (head_bytes, rest) = bytes[done..].split_at_mut(head);
                handle(thread, connection, head_bytes, &mut rest[..body]);
                done += head + body;
            }
            Step::Decoded(head, read, mut body) => {
                handle(thread, connection, &bytes[done..done + head], &mut body);
                done += read;
            }
        }
    }
}

fn head_limits(thread: &Thread) -> HeadLimits {
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    HeadLimits {
        head_bytes_max: limits.head_bytes_max,
        headers_max: limits.headers_max,
        target_bytes_max: TARGET_BYTES_MAX,
    }
}

/// Looks whether a whole request is there.
fn next_request(thread: &Rc<Thread>, connection: &Rc<Connection>, bytes: &[u8]) -> Step {
    let now = thread.now();
    let (need, first) = with(connection, |http| {
        let first = http.arriving.is_none();
        http.arriving.get_or_insert(now);
        (http.need, first)
    })
    .unwrap_or_default();
    if first {
        connection.wake_at(thread, now + thread.gateway().limits.head_age_max);
    }
    if bytes.len() < need {
        return Step::Wait;
    }
    let head = match parse_request(bytes, &head_limits(thread)) {
        Ok(Some(head)) => head,
        Ok(None) => return Step::Wait,
        Err(refusal) => return Step::Refuse(refusal),
    };
    let ready = match head.body {
        Length::None => Some(0),
        Length::Exact(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            (length <= bytes.len() - head.bytes).then_some(length)
        }
        Length::Chunked | Length::UntilClose => None,
    };
    if let Some(body) = ready {
        if thread.gateway().limits.body_bytes_max < body {
            return Step::Refuse(Refusal::BodyTooLong);
        }
        return Step::Whole(head.bytes, body);
    }
    await_body(thread, connection, &head, bytes)
}

/// The head is there and its body is not, or comes in chunks.
fn await_body(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    head: &RequestHead<'_>,
    bytes: &[u8],
) -> Step {
    let had_head = with(connection, |http| std::mem::replace(&mut http.has_head, true)).unwrap_or(true);
    if !had_head {
        let Some(body_max) = api::admit(thread, connection, head) else { return Step::Unwanted };
        if let Length::Exact(length) = head.body
            && (body_max as u64) < length
        {
            return Step::Refuse(Refusal::BodyTooLong);
        }
        let chunked = (head.body == Length::Chunked).then(|| Chunked {
            decoder: BodyDecoder::new(Length::Chunked, body_max as u64),
            body: Vec::new(),
            read: head.bytes,
        });
        with(connection, |http| http.chunked = chunked);
    }
    let body_age_max = thread.gateway().limits.body_age_max;
    connection.wake_at(thread, thread.now() + body_age_max);
    let step = with(connection, |http| match &mut http.chunked {
        None => {
            if let Length::Exact(length) = head.body {
                http.need = head.bytes.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            }
            Step::Wait
        }
        Some(chunked) => match read_chunks(chunked, bytes) {
            Ok(false) => Step::Wait,
            Ok(true) => http.chunked.take().map_or(Step::Wait, |c| Step::Decoded(head.bytes, c.read, c.body)),
            Err(refusal) => Step::Refuse(refusal),
        },
    })
    .unwrap_or(Step::Wait);
    if matches!(step, Step::Wait) && head.expect_continue {
        let continued = with(connection, |http| std::mem::replace(&mut http.continued, true)).unwrap_or(true);
        if !continued {
            connection.write(thread, |out| out.extend_from_slice(CONTINUE));
        }
    }
    step
}

fn read_chunks(chunked: &mut Chunked, bytes: &[u8]) -> Result<bool, Refusal> {
    loop {
        let part = chunked.decoder.decode(&bytes[chunked.read..])?;
        chunked.body.extend_from_slice(part.data);
        chunked.read += part.consumed;
        if part.done {
            return Ok(true);
        }
        if part.consumed == 0 {
            return Ok(false);
        }
    }
}

/// Hands a whole request to the API.
fn handle(thread: &Rc<Thread>, connection: &Rc<Connection>, head: &[u8], body: &mut [u8]) {
    thread.count(|c| &mut c.requests);
    let Ok(Some(head)) = parse_request(head, &head_limits(thread)) else { return };
    with(connection, |http| {
        *http = Http { idle_since: thread.now(), ..Http::default() };
        http.exchange = Some(Exchange {
            keep_alive: head.keep_alive && thread.draining.get().is_none(),
            minor: head.minor,
            head_only: head.method == "HEAD",
            rate: None,
            origin: None,
            streaming: false,
            beat: thread.now(),
            webhook: None,
            visit: None,
            ack: bytes::Bytes::new(),
        });
    });
    api::handle(thread, connection, &head, body);
}

/// A request that breaks HTTP: the answer is the connection's last.
fn refuse(thread: &Rc<Thread>, connection: &Rc<Connection>, refusal: Refusal) {
    let code = if matches!(refusal, Refusal::BodyTooLong | Refusal::HeadTooLong) {
        Code::TooLarge
    } else {
        Code::BadRequest
    };
    thread.refused(code);
    tracing::debug!(shard = thread.id.0, code = refusal.code(), "a request was refused");
    answer_and_close(thread, connection, refusal.status(), code, refusal.code());
}

/// Refuses the request that is arriving, and closes: what follows its head cannot be told from the next request.
pub(crate) fn refuse_arriving(thread: &Rc<Thread>, connection: &Rc<Connection>, code: Code, text: &str) {
    thread.refused(code);
    answer_and_close(thread, connection, code.status(), code, text);
}

fn answer_and_close(thread: &Rc<Thread>, connection: &Rc<Connection>, status: u16, code: Code, text: &str) {
    let mut body = Vec::new();
    rest::write_error(&mut body, code, text, 0, unix_millis());
    let length = Length::Exact(body.len() as u64);
    connection.write(thread, |out| {
        write_response_head(out, status, &[("content-type", "application/json")], length, false);
        out.extend_from_slice(&body);
    });
    connection.end(thread);
}

/// Says why, in the protocol's own way, and closes.
pub(crate) fn close_with(thread: &Rc<Thread>, connection: &Rc<Connection>, code: Code) {
    let streaming =
        with(connection, |http| http.exchange.as_ref().is_some_and(|e| e.streaming)).unwrap_or(false);
    if streaming {
        connection.end(thread);
    } else {
        answer_and_close(thread, connection, code.status(), code, code.advice());
    }
}

/// Numbers as header values.
struct Digits(String);

/// Writes a whole answer, and makes the connection ready for the next request.
pub(crate) fn respond(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    status: u16,
    content_type: &str,
    extra: &[(&str, &str)],
    body: &[u8],
) {
    let Some(Some(exchange)) = with(connection, |http| {
        http.arriving = None;
        http.idle_since = thread.now();
        http.exchange.take()
    }) else {
        return;
    };
    let numbers = exchange.rate.map(|rate| rate_numbers(&rate));
    let mut headers = Vec::with_capacity(12);
    headers.push(("content-type", content_type));
    push_common(&exchange, numbers.as_ref(), &mut headers);
    headers.extend_from_slice(extra);
    connection.write(thread, |out| {
        write_response_head(out, status, &headers, Length::Exact(body.len() as u64), exchange.keep_alive);
        if !exchange.head_only {
            out.extend_from_slice(body);
        }
    });
    if exchange.keep_alive {
        let idle = thread.gateway().limits.idle_age_max;
        connection.wake_at(thread, thread.now() + idle);
        connection.resume(thread);
    } else {
        connection.end(thread);
    }
}

fn rate_numbers(rate: &RateState) -> [Digits; 3] {
    let reset = unix_seconds() + rate.reset_after.as_secs() + u64::from(rate.reset_after.subsec_nanos() != 0);
    [Digits(rate.limit.to_string()), Digits(rate.remaining.to_string()), Digits(reset.to_string())]
}

fn push_common<'a>(
    exchange: &'a Exchange,
    rate: Option<&'a [Digits; 3]>,
    headers: &mut Vec<(&'a str, &'a str)>,
) {
    headers.push(("x-content-type-options", "nosniff"));
    if let Some([limit, remaining, reset]) = rate {
        headers.push(("x-ratelimit-limit", &limit.0));
        headers.push(("x-ratelimit-remaining", &remaining.0));
        headers.push(("x-ratelimit-reset", &reset.0));
    }
    if let Some(origin) = &exchange.origin {
        headers.push(("access-control-allow-origin", origin));
        headers.push(("vary", "origin"));
        headers.push((
            "access-control-expose-headers",
            "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after",
        ));
    }
}

/// Answers with JSON.
pub(crate) fn respond_json(thread: &Rc<Thread>, connection: &Rc<Connection>, status: u16, body: &[u8]) {
    respond(thread, connection, status, "application/json", &[("cache-control", "no-store")], body);
}

/// Answers with a failure in the envelope.
pub(crate) fn respond_error(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    code: Code,
    text: &str,
    wait_millis: u32,
) {
    let seconds = wait_millis.div_ceil(1_000);
    let body = match door::dialect_of(connection) {
        Some(dialect) => door::error_body(dialect, code, text),
        None => {
            let mut body = Vec::new();
            rest::write_error(&mut body, code, text, seconds, unix_millis());
            body
        }
    };
    let retry_after = seconds.to_string();
    let mut extra = vec![("cache-control", "no-store")];
    if seconds != 0 {
        extra.push(("retry-after", &retry_after));
    }
    if code.status() == 401 {
        // RFC 9110 11.6.1: a 401 says how to authenticate.
        extra.push(("www-authenticate", "Bearer"));
    }
    respond(thread, connection, code.status(), "application/json", &extra, &body);
}

/// Begins an event stream.
pub(crate) fn begin_stream(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    let heartbeat = thread.gateway().limits.heartbeat;
    let head = with(connection, |http| {
        let exchange = http.exchange.as_mut()?;
        exchange.streaming = true;
        exchange.beat = thread.now() + heartbeat;
        // A client of HTTP/1.0 knows no chunks: its stream ends with the connection.
        exchange.keep_alive &= exchange.minor == 1;
        let numbers = exchange.rate.map(|rate| rate_numbers(&rate));
        let mut headers = Vec::with_capacity(12);
        headers.push(("content-type", "text/event-stream"));
        headers.push(("cache-control", "no-cache, no-transform"));
        headers.push(("x-accel-buffering", "no"));
        push_common(exchange, numbers.as_ref(), &mut headers);
        let length = if exchange.minor == 1 { Length::Chunked } else { Length::UntilClose };
        let mut head = Vec::with_capacity(512);
        write_response_head(&mut head, 200, &headers, length, exchange.keep_alive);
        Some(head)
    });
    if let Some(Some(head)) = head {
        connection.write(thread, |out| out.extend_from_slice(&head));
        connection.wake_at(thread, thread.now() + heartbeat);
    }
}

/// Writes one record of an event stream.
pub(crate) fn stream(thread: &Rc<Thread>, connection: &Rc<Connection>, record: impl FnOnce(&mut Vec<u8>)) {
    let chunked =
        with(connection, |http| http.exchange.as_ref().is_some_and(|e| e.minor == 1)).unwrap_or(false);
    connection.write(thread, |out| {
        if chunked {
            let chunk = begin_chunk(out);
            record(out);
            end_chunk(out, chunk);
        } else {
            record(out);
        }
    });
}

pub(crate) fn end_stream(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    let Some(Some(exchange)) = with(connection, |http| {
        http.arriving = None;
        http.idle_since = thread.now();
        http.exchange.take()
    }) else {
        return;
    };
    if exchange.minor == 1 {
        connection.write(thread, write_last_chunk);
    }
    if exchange.keep_alive {
        connection.resume(thread);
    } else {
        connection.end(thread);
    }
}

/// Tells the client what became of its request.
pub(crate) fn reply(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, reply: Reply, text: &str) {
    let mut tickets = connection.tickets.borrow_mut();
    let Some(ticket) = tickets.get(number) else {
        if let Reply::Accepted { shard, turn, .. } = reply {
            drop(tickets);
            execute::left(thread, shard, turn);
        }
        return;
    };
    let form = ticket.form;
    if matches!(form, Form::Webhook | Form::Request | Form::RequestEvents) {
        drop(tickets);
        if form == Form::Webhook {
            return api::webhooks::reply(thread, connection, number, reply);
        }
        return door::reply(thread, connection, number, reply, text);
    }
    match reply {
        Reply::Accepted { shard, turn, place, .. } => {
            ticket.turn = Some((shard, turn));
            if form == Form::Events {
                let (session, id) = (ticket.session(), ticket.id());
                begin_stream(thread, connection);
                if place != 0 {
                    stream(thread, connection, |out| rest::write_sse_queued(out, session, id, place));
                }
                drop(tickets);
            }
        }
        Reply::Piece { seq, .. } => {
            let first = !std::mem::replace(&mut ticket.started, true);
            ticket.shown = seq;
            let (session, id, began) = (ticket.session(), ticket.id(), ticket.began);
            stream(thread, connection, |out| rest::write_sse_chunk(out, text, session, id, seq));
            drop(tickets);
            if first {
                thread.first_piece_took(began);
            }
            connection.check_pressure(thread);
        }
        Reply::Done { seq, usage, model, .. } => {
            drop(tickets);
            finish(thread, connection, number, &Done { seq, usage, model }, text);
        }
        Reply::Merged { seq, .. } => {
            drop(tickets);
            finish_merged(thread, connection, number, seq);
        }
        Reply::Failed { code, retry_after_millis, .. } | Reply::Refused { code, retry_after_millis } => {
            let seq = if let Reply::Failed { seq, .. } = reply { seq } else { 0 };
            drop(tickets);
            fail(thread, connection, number, &Failed { seq, code, retry_after_millis }, text);
        }
        Reply::Duplicate => {
            tickets.close(number);
            drop(tickets);
            let text = "this id was answered before, or is being answered";
            respond_error(thread, connection, Code::Duplicate, text, 0);
        }
        Reply::Ignored(_) => {
            tickets.close(number);
            drop(tickets);
            respond_error(thread, connection, Code::PolicyDenied, Code::PolicyDenied.advice(), 0);
        }
        // Nobody who waits for an answer asks for a receipt.
        Reply::Durable => {}
        Reply::Operated { refused } => {
            tickets.close(number);
            drop(tickets);
            api::sessions::operated(thread, connection, refused, text);
        }
    }
}

/// The end of an answer.
struct Done {
    seq: u32,
    usage: Usage,
    model: ModelId,
}

fn finish(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, done: &Done, text: &str) {
    let mut tickets = connection.tickets.borrow_mut();
    let Some(ticket) = tickets.get(number) else { return };
    let (form, began) = (ticket.form, ticket.began);
    let gateway = thread.gateway();
    let model = gateway.model_name(done.model);
    let (session, id) = (ticket.session(), ticket.id());
    let mut body = Vec::new();
    if form == Form::Events {
        stream(thread, connection, |out| {
            rest::write_sse_done(out, session, &done.usage, id, model, done.seq)
        });
    } else {
        rest::write_envelope(&mut body, text, session, model, &done.usage, unix_millis());
    }
    tickets.close(number);
    drop(tickets);
    thread.took(began);
    if form == Form::Events {
        end_stream(thread, connection);
    } else {
        respond_json(thread, connection, 200, &body);
    }
}

/// The message is answered together with another one.
fn finish_merged(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, seq: u32) {
    let mut tickets = connection.tickets.borrow_mut();
    let Some(ticket) = tickets.get(number) else { return };
    let form = ticket.form;
    let mut body = Vec::new();
    if form == Form::Events {
        let (session, id) = (ticket.session(), ticket.id());
        stream(thread, connection, |out| merged::write_sse_done(out, session, id, seq));
    } else {
        merged::write_envelope(&mut body, ticket.session(), unix_millis());
    }
    tickets.close(number);
    drop(tickets);
    if form == Form::Events {
        end_stream(thread, connection);
    } else {
        respond_json(thread, connection, 200, &body);
    }
}

/// The end without an answer.
struct Failed {
    seq: u32,
    code: Code,
    retry_after_millis: u32,
}

fn fail(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, failed: &Failed, text: &str) {
    let Failed { seq, code, retry_after_millis } = *failed;
    let words = if text.is_empty() { code.advice() } else { text };
    let streaming =
        with(connection, |http| http.exchange.as_ref().is_some_and(|e| e.streaming)).unwrap_or(false);
    let mut tickets = connection.tickets.borrow_mut();
    let Some(ticket) = tickets.get(number) else { return };
    if streaming {
        let (session, id) = (ticket.session(), ticket.id());
        let wait = retry_after_millis.div_ceil(1_000);
        stream(thread, connection, |out| rest::write_sse_error(out, code, words, id, session, wait, seq));
    }
    tickets.close(number);
    drop(tickets);
    if streaming {
        end_stream(thread, connection);
    } else {
        respond_error(thread, connection, code, words, retry_after_millis);
    }
}

/// Begins to end it for a restart: at once if nothing is under way, else with the answer.
pub(crate) fn drain(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    let idle = with(connection, |http| {
        if let Some(exchange) = &mut http.exchange {
            exchange.keep_alive = false;
        }
        http.exchange.is_none() && http.arriving.is_none()
    });
    if idle == Some(true) {
        connection.end(thread);
    }
}

/// Deadlines of what arrives and of idleness, heartbeats of streams. Returns when to look again.
pub(crate) fn on_alarm(thread: &Rc<Thread>, connection: &Rc<Connection>) -> Time {
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    let now = thread.now();
    enum Due {
        Nothing(Time),
        Late,
        Idle,
        Beat,
    }
    let due = with(connection, |http| {
        if let Some(exchange) = &mut http.exchange {
            if exchange.streaming && exchange.beat <= now {
                exchange.beat = now + limits.heartbeat;
                return Due::Beat;
            }
            return Due::Nothing(if exchange.streaming { exchange.beat } else { now + limits.heartbeat });
        }
        let (since, max) = match http.arriving {
            Some(since) if http.has_head => (since, limits.head_age_max + limits.body_age_max),
            Some(since) => (since, limits.head_age_max),
            None => (http.idle_since, limits.idle_age_max),
        };
        if now < since + max {
            return Due::Nothing(since + max);
        }
        // Browsers open connections ahead and may never use them: an answer there would be taken for another request's.
        let begun = http.arriving.is_some() && connection.has_carry();
        if begun { Due::Late } else { Due::Idle }
    });
    match due {
        Some(Due::Nothing(at)) => at,
        Some(Due::Beat) => {
            stream(thread, connection, |out| clawgate_wire::sse::write_comment(out, ""));
            now + limits.heartbeat
        }
        Some(Due::Late) => {
            connection.abort(thread, Code::HeadTimeout);
            now + limits.heartbeat
        }
        Some(Due::Idle) | None => {
            connection.end(thread);
            now + limits.heartbeat
        }
    }
}

/// The last words of a process that stops before it has answered.
pub(crate) fn part(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    with(connection, |http| {
        if let Some(exchange) = &mut http.exchange {
            exchange.keep_alive = false;
        }
    });
    let failed = |seq| Failed { seq, code: Code::Draining, retry_after_millis: 1_000 };
    let open = connection.tickets.borrow().numbers();
    for number in open {
        let form = connection.tickets.borrow_mut().get(number).map(|ticket| ticket.form);
        if matches!(form, Some(Form::Request | Form::RequestEvents)) {
            door::part(thread, connection, number);
            continue;
        }
        let shown = connection.tickets.borrow_mut().get(number).map_or(0, |ticket| ticket.shown);
        fail(thread, connection, number, &failed(shown + 1), "");
    }
    // A question to other threads has no ticket.
    respond_error(thread, connection, Code::Draining, Code::Draining.advice(), 1_000);
}

impl Http {
    /// Since when it is there, if it has not asked for anything yet.
    pub(crate) fn unasked_since(&self) -> Option<Time> {
        self.arriving.filter(|_| self.exchange.is_none())
    }

    /// A connection that was just accepted.
    pub(crate) fn new(now: Time) -> Self {
        // Its first request is due like any other's head: silence is not a way to hold a descriptor.
        Self { arriving: Some(now), idle_since: now, ..Self::default() }
    }
}
