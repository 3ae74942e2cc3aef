//! The doors for clients of models: `POST /v1/chat/completions`, `/v1/responses` and `/v1/messages`, `GET /v1/models`.
//! A request names an agent as its model and brings its whole conversation; it is answered in its own format.
use super::Call;
use super::chat::{is_json, may_spend};
use crate::clock::unix_seconds;
use crate::gateway::API;
use crate::http;
use crate::sessions::check_id;
use crate::tickets::Form;
use crate::voice::content_of;
use clawgate_core::codes::Code;
use clawgate_core::event::{Inbound, Kind as What, Mode, Scope};
use clawgate_core::time::Time;
use clawgate_providers::Kind;
use clawgate_providers::door::{self, Model, Problem, Refusal};

/// The header by which a client keeps its requests to one session: in order, and with one agent.
const SESSION_HEADER: &str = "x-session-id";

/// Sessions are looked for on the connection's own core so many times.
const TRIES_MAX: usize = 32;

/// The format that clients of this path speak, if it is not ours.
pub(super) fn dialect_of(path: &str) -> Option<Kind> {
    match path.strip_prefix("/v1/")? {
        "messages" => Some(Kind::Anthropic),
        "responses" => Some(Kind::OpenAiResponses),
        "chat/completions" | "models" => Some(Kind::OpenAiChat),
        other => other.starts_with("models/").then_some(Kind::OpenAiChat),
    }
}

pub(super) fn chat_completions(call: &mut Call<'_>) {
    ask(call, Kind::OpenAiChat);
}

pub(super) fn responses(call: &mut Call<'_>) {
    ask(call, Kind::OpenAiResponses);
}

pub(super) fn messages(call: &mut Call<'_>) {
    ask(call, Kind::Anthropic);
}

/// Hands a whole request to a shard.
fn ask(call: &mut Call<'_>, kind: Kind) {
    let (thread, connection) = (call.thread, call.connection);
    if !is_json(call) {
        return call.refuse(Code::BadMediaType, Code::BadMediaType.advice());
    }
    let Some(identity) = call.identity.clone() else { return };
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    if (limits.core.request_bytes_max as usize) < call.body.len() {
        return call.refuse(Code::TooLarge, "the request is longer than `limits.requestBytesMax`");
    }
    let request = match door::read(kind, call.body) {
        Ok(request) => request,
        Err(refusal) => return refuse(call, kind, &refusal),
    };
    let name = request.model.plain();
    let Some(agent) = gateway.agent(&name) else {
        let text =
            format!("there is no agent of the name `{}`; GET /v1/models lists those that are", shown(&name));
        return call.refuse(Code::NotFound, &text);
    };
    let Ok(text) = std::str::from_utf8(call.body) else {
        return call.refuse(Code::BadJson, "the body is not UTF-8");
    };
    // A whole answer is held until it is complete.
    let answer = if request.stream { 0 } else { u64::from(limits.core.request_bytes_max) };
    let Some(reserved) = thread.shared.requests.take(text.len() as u64 + answer, limits.requests_bytes_max)
    else {
        thread.refused(Code::Busy);
        return http::respond_error(thread, connection, Code::Busy, Code::Busy.advice(), 1_000);
    };
    let (given, beta) = match named(call, kind) {
        Ok(named) => named,
        Err((code, text)) => return call.refuse(code, text),
    };
    let (mode, form) =
        if request.stream { (Mode::Stream, Form::RequestEvents) } else { (Mode::Whole, Form::Request) };
    let mut inbound = Inbound {
        id: "",
        chat: "",
        thread: given,
        peer: &identity.user,
        name: beta,
        text,
        sent_millis: 0,
        channel: API,
        kind: What::Message,
        scope: Scope::Direct,
        mentioned: true,
        mode,
        class: identity.class,
        agent: Some(agent),
        receipt: false,
        content: content_of(kind),
        fleeting: given.is_empty(),
        account: identity.account,
    };
    if !may_spend(thread, connection, &identity) {
        return;
    }
    let own = if given.is_empty() { own_session(call, &inbound) } else { String::new() };
    if given.is_empty() {
        inbound.thread = &own;
    }
    let opened = connection.tickets.borrow_mut().open(form, inbound.thread, "", thread.now());
    let Some(ticket) = opened else { return call.refuse(Code::Busy, Code::Busy.advice()) };
    crate::door::reserve(connection, reserved);
    thread.submit(connection.client(thread, ticket), &inbound);
}

/// The session that the client names, and what its `anthropic-beta` says; both may be empty.
fn named<'a>(call: &Call<'a>, kind: Kind) -> Result<(&'a str, &'a str), (Code, &'static str)> {
    let headers = &call.head.headers;
    let given = headers.get(SESSION_HEADER).unwrap_or_default();
    if !given.is_empty() {
        check_id(given).map_err(|text| (Code::InvalidSession, text))?;
    }
    let beta = headers.get("anthropic-beta").filter(|_| kind == Kind::Anthropic).unwrap_or_default();
    if usize::from(call.thread.gateway().limits.core.name_bytes_max) < beta.len() {
        return Err((Code::TooLarge, "`anthropic-beta` is longer than `limits.nameBytesMax`"));
    }
    Ok((given, beta))
}

/// A session for one request. Nobody knows it: it may as well live on the core of its connection.
fn own_session(call: &Call<'_>, inbound: &Inbound<'_>) -> String {
    let thread = call.thread;
    let made_up = || format!("request-{:016x}", thread.random());
    let is_near = |own: &String| thread.home(&Inbound { thread: own, ..*inbound }) == thread.id;
    (0..TRIES_MAX).map(|_| made_up()).find(is_near).unwrap_or_else(made_up)
}

/// As much of a name as an error repeats.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(100)]
}

fn refuse(call: &Call<'_>, kind: Kind, refusal: &Refusal) {
    call.thread.refused(refusal.code);
    let problem: Problem<'_> = refusal.problem();
    let mut body = Vec::new();
    door::write_error(kind, &problem, &mut body);
    http::respond_json(call.thread, call.connection, problem.status, &body);
}

/// The agents, as models: in the shape of whoever asks.
pub(super) fn list(call: &mut Call<'_>) {
    let gateway = call.thread.gateway();
    let (kind, created, created_at) = describe(call);
    let model = |agent| Model { id: agent, created, created_at: &created_at };
    let mut body = Vec::new();
    door::write_models(kind, gateway.plan.agents.iter().map(|agent| model(&*agent.name)), &mut body);
    http::respond_json(call.thread, call.connection, 200, &body);
}

/// One of them.
pub(super) fn show(call: &mut Call<'_>) {
    let gateway = call.thread.gateway();
    if gateway.agent(&call.id).is_none() {
        return call
            .refuse(Code::NotFound, "there is no agent of this name; GET /v1/models lists those that are");
    }
    let (kind, created, created_at) = describe(call);
    let mut body = Vec::new();
    door::write_model(kind, &Model { id: &call.id, created, created_at: &created_at }, &mut body);
    http::respond_json(call.thread, call.connection, 200, &body);
}

/// Whose shape, and since when they are there: since we are.
fn describe(call: &Call<'_>) -> (Kind, u64, String) {
    let anthropic = call.head.headers.get("anthropic-version").is_some();
    let created = unix_seconds().saturating_sub(call.thread.now().since(Time::ZERO).as_secs());
    let mut created_at = Vec::new();
    clawgate_adapters::time::write_rfc3339(&mut created_at, created * 1_000);
    let created_at = String::from_utf8(created_at).unwrap_or_default();
    (if anthropic { Kind::Anthropic } else { Kind::OpenAiChat }, created, created_at)
}
