//! Calls to models: the request written, the answer read as it comes, pieces handed to the shard. All pieces of one
//! read leave in one write, because the loop writes once a turn.
use crate::driver;
use crate::gateway::{Remote, Upstream};
use crate::reload::Current;
use crate::thread::Thread;
use crate::tools;
use crate::upstream::{self, Control, Fault, Origin};
use crate::usage::Meter;
use crate::voice::{self, Voice};
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Event, Failure, Piece, Retry};
use clawgate_core::id::{AgentId, CallId, ModelId};
use clawgate_providers::echo::Echo;
use clawgate_providers::failure;
use clawgate_providers::request::{Request, Unsupported};
use clawgate_providers::{End, Json, Limits, Said, Turn};
use clawgate_wire::http1::{HeadLimits, parse_response};
use std::rc::Rc;
use std::time::Duration;

/// A call as its shard started it. It goes on by the configuration of its start: the ids are of that one.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) gateway: Current,
    pub(crate) call: CallId,
    pub(crate) agent: AgentId,
    pub(crate) model: ModelId,
    pub(crate) control: Rc<Control>,
}

/// What our own models say in one turn of the loop, at most. They know no network that would slow them down, and only
/// at the end of a turn is written what clients are owed, and heard which of them have no room left.
const PIECES_A_TURN: usize = 128;
const TURN: Duration = Duration::from_millis(1);

/// Says a long text again, no faster than its client reads.
pub(crate) async fn echo(
    thread: Rc<Thread>,
    call: CallId,
    echo: Echo,
    (text, mut voice): (String, Voice),
    (control, meter): (Rc<Control>, Option<Meter>),
) {
    control.count_by(meter);
    for (step, said) in echo.steps(&text).enumerate() {
        if step % PIECES_A_TURN == 0 {
            driver::sleep(TURN).await;
            flow(&thread, &control).await;
            thread.touch();
        }
        if control.is_cancelled() {
            return;
        }
        hand(&thread, call, &control, &mut voice, said);
    }
}

/// Waits until more is wanted of a call: its client has room, and the client's core keeps up with what it is brought. One
/// that has no time is as slow as a client that does not read.
async fn flow(thread: &Thread, control: &Control) {
    control.flow().await;
    while thread.outgoing.borrow().is_stuck() && !control.is_cancelled() {
        driver::sleep(TURN).await;
    }
}

/// Plays a script.
pub(crate) async fn scripted(thread: Rc<Thread>, started: Started) {
    started.count(&thread);
    let Started { gateway, call, model, control, .. } = started;
    let Upstream::Scripted(script) = &gateway.upstreams[usize::from(model.0)] else { return };
    thread.touch();
    let Some((text, mut voice)) = told(&thread, call) else { return };
    if control.is_cancelled() {
        return;
    }
    control.meter(|meter| meter.heard_by(&voice));
    control.meter(Meter::answering);
    thread.handle(Event::Piece { call, piece: Piece::Alive });
    let mut step = 0;
    while let Some((pause, said)) = script.step(step, &text) {
        let pause = if (step + 1) % PIECES_A_TURN == 0 { pause.max(TURN) } else { pause };
        if !pause.is_zero() {
            driver::sleep(pause).await;
            thread.touch();
        }
        flow(&thread, &control).await;
        thread.touch();
        if control.is_cancelled() {
            return;
        }
        if !hand(&thread, call, &control, &mut voice, said) {
            return;
        }
        step += 1;
    }
    // Silent for good: the shard's deadlines end it.
}

impl Started {
    /// What it uses is counted from here on.
    fn count(&self, thread: &Rc<Thread>) {
        self.control.count_by(self.meter(thread));
    }

    /// The same, for what the same turn asks its model next.
    pub(crate) fn count_on(&self, thread: &Rc<Thread>) {
        self.control.count_by(self.meter(thread).map(Meter::continued));
    }

    fn meter(&self, thread: &Rc<Thread>) -> Option<Meter> {
        Meter::begin(thread, &self.gateway, self.call, self.agent, self.model)
    }
}

/// Calls a model over the network.
pub(crate) async fn remote(thread: Rc<Thread>, started: Started) {
    started.count(&thread);
    thread.touch();
    if let Some(exchange) = tools::turn::begin(&thread, &started) {
        return tools::turn::run(thread, started, exchange).await;
    }
    let Started { gateway, call, agent, model, control } = &started;
    let Upstream::Remote(target) = &gateway.upstreams[usize::from(model.0)] else { return };
    let mut body = Vec::new();
    let system = gateway.systems.get(usize::from(agent.0)).map_or("", String::as_str);
    let (request, mut voice) = match write_request(&thread, *call, target, system, &mut body) {
        Some(Ok(written)) => written,
        Some(Err(why)) => return unspeakable(&thread, *call, &why, Retry::Elsewhere),
        None => return,
    };
    started.control.meter(|meter| meter.heard_by(&voice));
    if let Tried::Heard = send(&thread, &started, target, &mut voice, (&request, &body)).await
        && !control.is_cancelled()
    {
        thread.upstreams.end(*call);
    }
}

/// What came of one request to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    /// The call is over, and its shard knows.
    Over,
    /// The model was heard to its end.
    Heard,
}

/// One request of a turn whose model may call tools.
pub(crate) async fn attempt(
    thread: &Rc<Thread>,
    started: &Started,
    request: &Request<'_>,
    voice: &mut Voice,
) -> Tried {
    let Started { gateway, call, model, .. } = started;
    let Upstream::Remote(target) = &gateway.upstreams[usize::from(model.0)] else { return Tried::Over };
    let mut body = Vec::new();
    match target.endpoint.encode_request(request, &mut body) {
        Ok(head) => send(thread, started, target, voice, (&head, &body)).await,
        Err(unsupported) => {
            unspeakable(thread, *call, &unspeakable_text(&unsupported), voice.retry(Retry::Elsewhere));
            Tried::Over
        }
    }
}

/// Sends a request and hears its answer.
async fn send(
    thread: &Rc<Thread>,
    started: &Started,
    target: &Remote,
    voice: &mut Voice,
    request: (&http::Request<()>, &[u8]),
) -> Tried {
    let Started { call, control, .. } = started;
    if control.is_cancelled() {
        return Tried::Over;
    }
    let Some(origin) = Origin::of(request.0.uri(), &target.tls, target.connect_age_max) else {
        let fault = Fault::Unreachable("its address has no host".to_owned());
        failed(thread, *call, &fault, voice.retry(Retry::Backoff));
        return Tried::Over;
    };
    let outcome = converse(thread, *call, target, &origin, control, voice, request).await;
    thread.touch();
    if control.is_cancelled() {
        return Tried::Over;
    }
    match outcome {
        Ok(()) => Tried::Heard,
        Err(fault) => {
            failed(thread, *call, &fault, voice.retry(Retry::Backoff));
            Tried::Over
        }
    }
}

/// The model's format has no word for what it is to be asked.
fn unspeakable(thread: &Rc<Thread>, call: CallId, why: &str, retry: Retry) {
    // Another model of the agent's may speak a format that can say it.
    end(thread, call, Failure { code: Code::BadRequest, retry, detail: why });
}

fn unspeakable_text(unsupported: &Unsupported) -> String {
    format!("the model's format has no word for it: {unsupported}")
}

/// What a model of ours is told by a turn, and who hears it; `None` if the turn is over.
pub(crate) fn told(thread: &Thread, call: CallId) -> Option<(String, Voice)> {
    let shard = thread.shard.borrow();
    let prompt = shard.prompt(call.turn)?;
    let Some(kind) = voice::door_of(prompt.content) else {
        return Some((prompt.text.to_owned(), Voice::Words));
    };
    // It was read when it came in.
    let request = voice::request_of(&prompt, kind, "").ok()?;
    let bytes_max = thread.gateway().limits.core.request_bytes_max as usize;
    Some((request.last_text(), Voice::of_request(&request, thread.random(), bytes_max)))
}

/// Writes the request of a turn, and says who hears the answer; `None` if the turn was over before this task ran.
fn write_request(
    thread: &Thread,
    call: CallId,
    target: &Remote,
    system: &str,
    body: &mut Vec<u8>,
) -> Option<Result<(http::Request<()>, Voice), String>> {
    let shard = thread.shard.borrow();
    let prompt = shard.prompt(call.turn)?;
    if let Some(kind) = voice::door_of(prompt.content) {
        let bytes_max = thread.gateway().limits.core.request_bytes_max as usize;
        return Some(voice::request_of(&prompt, kind, system).and_then(|request| {
            let head = target.endpoint.encode_request(&request, body);
            let head = head.map_err(|unsupported| unspeakable_text(&unsupported))?;
            Ok((head, Voice::of_request(&request, thread.random(), bytes_max)))
        }));
    }
    let (mut context, mut history) = (prompt.variables, prompt.history);
    let turn = Turn {
        system,
        context: &mut context,
        history: &mut history,
        text: prompt.text,
        user: prompt.address.peer,
    };
    Some(Ok((target.endpoint.encode(turn, body), Voice::Words)))
}

/// How long the end of a body may follow the end of its answer. One that does not come costs the connection.
const REST_AGE_MAX: Duration = Duration::from_secs(1);

async fn converse(
    thread: &Rc<Thread>,
    call: CallId,
    target: &Remote,
    origin: &Origin,
    control: &Rc<Control>,
    voice: &mut Voice,
    (request, body): (&http::Request<()>, &[u8]),
) -> Result<(), Fault> {
    // The shard's own deadlines cancel; a stream may be as long as they let it.
    let (mut wire, mut answer) =
        upstream::exchange(thread, origin, control, request, body, u64::MAX, None).await?;
    thread.handle(Event::Piece { call, piece: Piece::Alive });
    let mut json = Json::new();
    if !(200..300).contains(&answer.status) {
        let body = bounded_body(thread, &mut wire, &mut answer, control).await;
        let Ok(Some(head)) = parse_response(&answer.head, &HEAD_LIMITS, false) else {
            return Err(Fault::Closed);
        };
        let mut detail = String::new();
        let failure = target.endpoint.failure(answer.status, &head.headers, &body, &mut detail);
        thread.touch();
        end(thread, call, Failure { retry: voice.retry(failure.retry), ..failure });
        return Ok(());
    }
    if let Some(failure) = unreadable(&answer) {
        end(thread, call, Failure { retry: voice.retry(failure.retry), ..failure });
        return Ok(());
    }
    control.meter(Meter::answering);
    // No two answers of a conversation give their calls the same ids.
    let decoder = target.endpoint.decoder(answer_limits(&thread.gateway().limits));
    let mut decoder = decoder.with_seed(thread.random());
    let mut text = Vec::new();
    let (mut failed, mut rest) = (false, None);
    loop {
        upstream::take_body(&mut wire, &mut answer, &mut text)?;
        let used = decoder.decode(&mut text, &mut json, &mut |said| {
            let finished = matches!(said, Said::Ended(End::Finished(_)));
            failed |= !hand(thread, call, control, voice, said) && !finished;
        });
        text.drain(..used);
        // Nobody hears what follows a failure: the model must not go on.
        if answer.body.is_done() || control.is_cancelled() || failed {
            break;
        }
        if !decoder.is_ended() {
            flow(thread, control).await;
            if wire.fill(thread, control, None).await? == 0 {
                break;
            }
            continue;
        }
        let deadline = *rest.get_or_insert_with(|| thread.now() + REST_AGE_MAX);
        if !matches!(wire.fill(thread, control, Some(deadline)).await, Ok(1..)) {
            break;
        }
    }
    if !decoder.is_ended() {
        decoder.finish(&mut text, &mut json, &mut |said| {
            hand(thread, call, control, voice, said);
        });
    }
    if answer.keep_alive && answer.body.is_done() && !control.is_cancelled() {
        thread.upstreams.keep(wire, thread.now());
    }
    Ok(())
}

/// The call failed.
fn end(thread: &Rc<Thread>, call: CallId, failure: Failure<'_>) {
    thread.upstreams.end(call);
    thread.handle(Event::Ended { call, end: event::End::Failed(failure) });
}

fn answer_limits(limits: &crate::config::limits::Limits) -> Limits {
    Limits {
        event_bytes_max: limits.upstream_event_bytes_max,
        body_bytes_max: limits.upstream_body_bytes_max,
        calls_max: limits.tool_calls_max,
    }
}

/// A head that was read before, and is read again for its fields.
const HEAD_LIMITS: HeadLimits =
    HeadLimits { head_bytes_max: usize::MAX, headers_max: 64, target_bytes_max: 0 };

/// What the head says of a body that nobody here can read.
fn unreadable(answer: &upstream::Answer) -> Option<Failure<'static>> {
    let head = parse_response(&answer.head, &HEAD_LIMITS, false).ok().flatten()?;
    failure::unreadable(&head.headers)
}

/// An error's body, as far as it comes: what it says is welcome, not needed.
async fn bounded_body(
    thread: &Rc<Thread>,
    wire: &mut upstream::Wire,
    answer: &mut upstream::Answer,
    control: &Control,
) -> Vec<u8> {
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    let deadline = thread.now() + limits.connect_age_max;
    let mut body = Vec::new();
    while body.len() < limits.upstream_body_bytes_max {
        let taken = upstream::take_body(wire, answer, &mut body);
        if taken.is_err() || answer.body.is_done() {
            break;
        }
        if !matches!(wire.fill(thread, control, Some(deadline)).await, Ok(1..)) {
            break;
        }
    }
    body.truncate(limits.upstream_body_bytes_max);
    body
}

/// Passes on what was said. False once nothing more is wanted of the call.
fn hand(thread: &Rc<Thread>, call: CallId, control: &Control, voice: &mut Voice, said: Said<'_>) -> bool {
    if control.is_cancelled() {
        return false;
    }
    control.hear(&said);
    voice.hear(call, said, &mut |event| {
        if matches!(event, Event::Ended { .. }) {
            thread.upstreams.end(call);
        }
        thread.handle(event);
    })
}

fn failed(thread: &Rc<Thread>, call: CallId, fault: &Fault, retry: Retry) {
    thread.count(|c| &mut c.upstream_faults);
    let code = match fault {
        Fault::Unreachable(_) | Fault::Forbidden(_) | Fault::Cancelled => Code::UpstreamFailed,
        Fault::Full | Fault::NoDescriptor => Code::UpstreamUnavailable,
        Fault::Closed => Code::UpstreamTruncated,
        Fault::TimedOut => Code::UpstreamTimeout,
        Fault::Malformed(_) => Code::UpstreamMalformed,
    };
    let detail = format!("the model {}", fault.text());
    end(thread, call, Failure { code, retry, detail: &detail });
}
