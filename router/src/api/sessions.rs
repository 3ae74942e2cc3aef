//! `/api/sessions`: what is under way, and what an operator can do about it.
use super::Call;
use crate::auth::Identity;
use crate::clock::unix_millis;
use crate::connection::{Connection, Place};
use crate::gateway::{Gateway, is_api};
use crate::http;
use crate::mesh::Letter;
use crate::sessions::{Named, parse_id, write_id};
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_adapters::Bad;
use clawgate_adapters::rest::{self, SessionAction, decode_session};
use clawgate_core::codes::Code;
use clawgate_core::event::{Event, Operation};
use clawgate_core::home::{home, session_hash};
use clawgate_core::id::{Client, ShardId};
use clawgate_core::plan::RunningMode;
use clawgate_core::view::{Role, SessionView, State};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

/// Sessions of one page: by default, and at the most.
const PAGE: (usize, usize) = (50, 500);

/// Where a page begins, and what it shows.
#[derive(Clone, Debug)]
struct Page {
    shard: u16,
    slot: u32,
    limit: usize,
    channel: Option<String>,
    state: Option<State>,
    /// Only the sessions of this user; `None` for all.
    owner: Option<String>,
}

fn state_of(name: &str) -> Option<State> {
    [State::Idle, State::Waiting, State::Processing].into_iter().find(|state| state.name() == name)
}

/// Lists sessions, a page at a time.
pub(super) fn list(call: &mut Call<'_>) {
    let Some(identity) = call.identity.clone() else { return };
    let limit = call.parameter("limit").map_or(Ok(PAGE.0), |text| text.parse());
    let Ok(limit @ 1..=500) = limit else {
        return call.refuse(Code::BadRequest, "`limit` is a number from 1 to 500");
    };
    let (shard, slot) = match call.parameter("cursor") {
        None => (0, 0),
        Some(cursor) => match cursor.split_once('.').map(|(shard, slot)| (shard.parse(), slot.parse())) {
            Some((Ok(shard), Ok(slot))) => (shard, slot),
            _ => return call.refuse(Code::BadRequest, "`cursor` is what the page before gave as `next`"),
        },
    };
    let state = match call.parameter("state") {
        None => None,
        Some(name) => match state_of(&name) {
            Some(state) => Some(state),
            None => return call.refuse(Code::BadRequest, "`state` is idle, waiting or processing"),
        },
    };
    let owner = (!identity.scopes.read && !identity.scopes.admin).then(|| identity.user.clone());
    let channel = call.parameter("channel").map(std::borrow::Cow::into_owned);
    let page = Page { shard, slot, limit: limit.min(PAGE.1), channel, state, owner };
    let asker = (call.thread.id, call.connection.place);
    collect(call.thread, page, Vec::new(), asker);
}

/// Adds this shard's sessions to the page, and passes it on to the next shard while there is room.
fn collect(thread: &Rc<Thread>, mut page: Page, mut rows: Vec<Value>, asker: (ShardId, Place)) {
    if page.shard != thread.id.0 && page.shard < thread.shared.cores() {
        let to = ShardId(page.shard);
        let errand = Box::new(move |there: &Rc<Thread>| collect(there, page, rows, asker));
        thread.outgoing.borrow_mut().letter(to, Letter::Errand(errand));
        return;
    }
    let mut full = false;
    if page.shard < thread.shared.cores() {
        let shard = thread.shard.borrow();
        for view in shard.sessions(page.slot) {
            if page.limit <= rows.len() {
                page.slot = view.id.slot;
                full = true;
                break;
            }
            if shows(thread, &page, &view) {
                rows.push(row(thread, &view));
            }
        }
    }
    // The cursor is the client's word: its shard may be any number.
    let following = page.shard.saturating_add(1);
    if !full && following < thread.shared.cores() {
        let page = Page { shard: following, slot: 0, ..page };
        return collect(thread, page, rows, asker);
    }
    let next = full.then(|| format!("{}.{}", page.shard, page.slot));
    let body = json!({ "sessions": rows, "next": next }).to_string();
    let (core, place) = asker;
    let back = Box::new(move |here: &Rc<Thread>| {
        if let Some(connection) = here.connection(place) {
            respond_data(here, &connection, &body);
        }
    });
    thread.outgoing.borrow_mut().letter(core, Letter::Errand(back));
}

fn shows(thread: &Thread, page: &Page, view: &SessionView<'_>) -> bool {
    let gateway = thread.gateway();
    let channel = &gateway.plan.channel(view.address.channel).name;
    let owned = match &page.owner {
        None => true,
        Some(user) => is_api(view.address.channel) && view.address.peer == user,
    };
    owned
        && page.channel.as_deref().is_none_or(|wanted| wanted == &**channel)
        && page.state.is_none_or(|wanted| wanted == view.state)
}

fn row(thread: &Thread, view: &SessionView<'_>) -> Value {
    let gateway = thread.gateway();
    let plan = &gateway.plan;
    let channel = &plan.channel(view.address.channel).name;
    let mut id = String::new();
    write_id(&mut id, channel, &view.address);
    let ago = |time| thread.now().since(time).as_millis();
    let at = |time| {
        let mut text = Vec::new();
        let millis = unix_millis().saturating_sub(u64::try_from(ago(time)).unwrap_or(u64::MAX));
        clawgate_adapters::time::write_rfc3339(&mut text, millis);
        String::from_utf8(text).unwrap_or_default()
    };
    json!({
        "id": id,
        "channel": &**channel,
        "peer": view.address.peer,
        "state": view.state.name(),
        "agent": view.agent.map(|agent| plan.agent(agent).name.to_string()),
        "whileRunning": view.running_mode.map(RunningMode::name),
        "messages": view.messages,
        "waiting": view.waiting,
        "shard": thread.id.0,
        "createdAt": at(view.created),
        "lastActiveAt": at(view.active),
    })
}

/// Wraps JSON in the envelope of all API answers.
pub(super) fn respond_data(thread: &Rc<Thread>, connection: &Rc<Connection>, data: &str) {
    let mut body = Vec::with_capacity(data.len() + 128);
    rest::begin_data(&mut body);
    body.extend_from_slice(data.as_bytes());
    rest::end_data(&mut body, unix_millis());
    http::respond_json(thread, connection, 200, &body);
}

/// May this key see, and operate, this session?
fn may(identity: &Identity, named: &Named<'_>, change: bool) -> bool {
    let own = is_api(named.channel) && named.peer == identity.user;
    own || identity.scopes.admin || (!change && identity.scopes.read)
}

fn home_of(thread: &Thread, gateway: &Gateway, named: &Named<'_>) -> ShardId {
    let channel = &gateway.plan.channel(named.channel).name;
    let hash =
        session_hash(thread.shared.secret(), channel, named.scope, named.peer, named.chat, named.thread);
    home(hash, thread.shared.cores())
}

/// Shows one session with its history.
pub(super) fn show(call: &mut Call<'_>) {
    let Some(identity) = call.identity.clone() else { return };
    let (thread, connection) = (call.thread, call.connection);
    let gateway = thread.gateway();
    let id = call.id.to_string();
    let named = parse_id(&gateway, &identity.user, &id);
    if !may(&identity, &named, false) {
        return call.refuse(Code::Forbidden, Code::Forbidden.advice());
    }
    let (asker, place, user) = (thread.id, connection.place, identity.user.clone());
    let to = home_of(thread, &gateway, &named);
    let errand = Box::new(move |there: &Rc<Thread>| {
        let found = describe(there, &user, &id);
        let back = Box::new(move |here: &Rc<Thread>| {
            let Some(connection) = here.connection(place) else { return };
            match found {
                Some(body) => respond_data(here, &connection, &body),
                None => not_found(here, &connection),
            }
        });
        there.outgoing.borrow_mut().letter(asker, Letter::Errand(back));
    });
    thread.outgoing.borrow_mut().letter(to, Letter::Errand(errand));
}

fn not_found(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    thread.refused(Code::NotFound);
    http::respond_error(thread, connection, Code::NotFound, "there is no such session in memory", 0);
}

fn describe(thread: &Rc<Thread>, user: &str, id: &str) -> Option<String> {
    let gateway = thread.gateway();
    let named = parse_id(&gateway, user, id);
    let shard = thread.shard.borrow();
    let session = shard.find(named.channel, named.scope, named.peer, named.chat, named.thread)?;
    let view = shard.sessions(session.slot).next().filter(|view| view.id == session)?;
    let mut row = row(thread, &view);
    let memory = shard.memory(session)?;
    let history: Vec<_> = memory
        .history
        .map(|(role, text)| {
            let role = match role {
                Role::User => "user",
                Role::Agent => "assistant",
            };
            json!({ "role": role, "content": text })
        })
        .collect();
    let context: serde_json::Map<_, _> =
        memory.variables.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    row["history"] = history.into();
    row["context"] = context.into();
    Some(row.to_string())
}

/// An operation on its way to the session's core: the texts own their memory.
#[derive(Debug)]
enum Action {
    Reset,
    Close,
    Send(String),
    Set(String, String),
    Assign(String),
    Stop,
    Mode(Option<RunningMode>),
}

impl Action {
    /// For the log, which holds no texts.
    const fn name(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Close => "close",
            Self::Send(_) => "send",
            Self::Set(..) => "set",
            Self::Assign(_) => "assign",
            Self::Stop => "stop",
            Self::Mode(_) => "mode",
        }
    }
}

/// Operates a session.
pub(super) fn operate(call: &mut Call<'_>) {
    let Some(identity) = call.identity.clone() else { return };
    let (thread, connection) = (call.thread, call.connection);
    let gateway = thread.gateway();
    if !super::chat::is_json(call) {
        return call.refuse(Code::BadMediaType, Code::BadMediaType.advice());
    }
    let mut json = thread.json.borrow_mut();
    let action = match decode_session(call.body, &mut json) {
        Ok(SessionAction::Reset) => Action::Reset,
        Ok(SessionAction::Close) => Action::Close,
        Ok(SessionAction::Send(text)) => Action::Send(text.to_owned()),
        Ok(SessionAction::Set { name, value }) => Action::Set(name.to_owned(), value.to_owned()),
        Ok(SessionAction::Stop) => Action::Stop,
        Ok(SessionAction::Mode(mode)) => Action::Mode(mode),
        Ok(SessionAction::Assign { agent }) => match gateway.agent(agent) {
            // By name: the session's core may work by another configuration.
            Some(_) => Action::Assign(agent.to_owned()),
            None => return call.refuse(Code::NotFound, "there is no agent of this name"),
        },
        Err(Bad { code, text }) => {
            thread.refused(code);
            return http::respond_error(thread, connection, code, &text, 0);
        }
    };
    drop(json);
    let id = call.id.to_string();
    let named = parse_id(&gateway, &identity.user, &id);
    if !may(&identity, &named, true) {
        return call.refuse(Code::Forbidden, Code::Forbidden.advice());
    }
    let opened = connection.tickets.borrow_mut().open(Form::Operation, &id, "", thread.now());
    let Some(ticket) = opened else { return call.refuse(Code::Busy, Code::Busy.advice()) };
    let client = connection.client(thread, ticket);
    let to = home_of(thread, &gateway, &named);
    tracing::info!(key = identity.id, session = id, action = action.name(), "a session is operated");
    let user: Arc<str> = identity.user.as_str().into();
    let errand = Box::new(move |there: &Rc<Thread>| carry_out(there, client, &user, &id, &action));
    thread.outgoing.borrow_mut().letter(to, Letter::Errand(errand));
}

fn carry_out(thread: &Rc<Thread>, client: Client, user: &str, id: &str, action: &Action) {
    let gateway = thread.gateway();
    let named = parse_id(&gateway, user, id);
    let found = thread.shard.borrow().find(named.channel, named.scope, named.peer, named.chat, named.thread);
    let Some(session) = found else {
        let refused = crate::mesh::Reply::Operated { refused: Some(Code::NotFound) };
        return crate::execute::reply(thread, client, refused, "");
    };
    let operation = match action {
        Action::Reset => Operation::Reset,
        Action::Close => Operation::Close,
        Action::Send(text) => Operation::Send(text),
        Action::Set(name, value) => Operation::Set { name, value },
        Action::Assign(agent) => match thread.gateway().agent(agent) {
            Some(agent) => Operation::Assign(agent),
            None => {
                let refused = crate::mesh::Reply::Operated { refused: Some(Code::NotFound) };
                return crate::execute::reply(thread, client, refused, "");
            }
        },
        Action::Stop => Operation::Stop,
        Action::Mode(mode) => Operation::Mode(*mode),
    };
    thread.handle(Event::Operate { client, session, operation });
}

/// An operation was carried out, or refused, for a reason of its own if there is one.
pub(crate) fn operated(thread: &Rc<Thread>, connection: &Rc<Connection>, refused: Option<Code>, why: &str) {
    match refused {
        None => respond_data(thread, connection, "{\"done\":true}"),
        Some(code) if !why.is_empty() => {
            thread.refused(code);
            http::respond_error(thread, connection, code, why, 0);
        }
        Some(Code::NotFound) => not_found(thread, connection),
        Some(code) => {
            thread.refused(code);
            http::respond_error(thread, connection, code, code.advice(), 0);
        }
    }
}
