//! `POST /api/chat`: one message, answered whole or as an event stream.
use super::Call;
use crate::auth::Identity;
use crate::connection::Connection;
use crate::gateway::API;
use crate::http;
use crate::sessions::check_id;
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_adapters::Bad;
use clawgate_adapters::rest::decode_chat;
use clawgate_core::codes::Code;
use clawgate_core::event::{Content, Inbound, Kind, Mode, Scope};
use std::rc::Rc;

/// Is this a body that we read?
pub(super) fn is_json(call: &Call<'_>) -> bool {
    let media = call.head.headers.get("content-type").unwrap_or("application/json");
    let media = media.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
}

/// Takes a message from its key's budget; false if that is used up, and its sender was told so.
pub(super) fn may_spend(thread: &Rc<Thread>, connection: &Rc<Connection>, identity: &Identity) -> bool {
    let Err(wait) = identity.spend() else { return true };
    thread.refused(Code::BudgetSpent);
    http::respond_error(thread, connection, Code::BudgetSpent, Code::BudgetSpent.advice(), wait);
    false
}

/// Hands the message to its session's shard.
pub(super) fn chat(call: &mut Call<'_>) {
    let (thread, connection) = (call.thread, call.connection);
    if !is_json(call) {
        return call.refuse(Code::BadMediaType, Code::BadMediaType.advice());
    }
    let Some(identity) = call.identity.clone() else { return };
    let mut json = thread.json.borrow_mut();
    let request = match decode_chat(call.body, &mut json) {
        Ok(request) => request,
        Err(Bad { code, text }) => {
            thread.refused(code);
            return http::respond_error(thread, connection, code, &text, 0);
        }
    };
    drop(json);
    let refuse = |code: Code, text: &str| {
        thread.refused(code);
        http::respond_error(thread, connection, code, text, 0);
    };
    if !matches!(request.channel, "" | "api") {
        return refuse(Code::NotFound, "clients speak on the channel `api`");
    }
    let agent = match request.agent {
        "" => None,
        name => match thread.gateway().agent(name) {
            Some(agent) => Some(agent),
            None => return refuse(Code::NotFound, "there is no agent of this name"),
        },
    };
    let own;
    let session = if request.session_id.is_empty() {
        own = format!("session-{:016x}", thread.random());
        &own
    } else {
        request.session_id
    };
    if let Err(text) = check_id(session) {
        return refuse(Code::InvalidSession, text);
    }
    if !may_spend(thread, connection, &identity) {
        return;
    }
    let accepts = call.head.headers.get("accept").unwrap_or_default();
    let stream = request.stream || accepts.starts_with("text/event-stream");
    let (mode, form) = if stream { (Mode::Stream, Form::Events) } else { (Mode::Whole, Form::Envelope) };
    let opened = connection.tickets.borrow_mut().open(form, session, request.id, thread.now());
    let Some(ticket) = opened else { return refuse(Code::Busy, Code::Busy.advice()) };
    let inbound = Inbound {
        id: request.id,
        chat: "",
        thread: session,
        peer: &identity.user,
        name: &identity.user,
        text: request.message,
        sent_millis: 0,
        channel: API,
        kind: Kind::Message,
        scope: Scope::Direct,
        mentioned: true,
        mode,
        class: identity.class,
        agent,
        receipt: false,
        content: Content::WORDS,
        fleeting: false,
        account: identity.account,
    };
    thread.submit(connection.client(thread, ticket), &inbound);
}
