//! `/api/sessions`: sessions of every state of their life, and what an operator can do about them.
mod list;
mod show;

pub(super) use list::{list, unavailable};
pub(super) use show::show;

use super::Call;
use crate::auth::Identity;
use crate::clock::unix_millis;
use crate::connection::Connection;
use crate::gateway::{Gateway, is_api};
use crate::http;
use crate::inquire;
use crate::mesh::{Letter, Reply};
use crate::sessions::{Named, parse_id, write_id};
use crate::store::{Key, SessionRow};
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_adapters::Bad;
use clawgate_adapters::rest::{self, SessionAction, decode_session};
use clawgate_core::codes::Code;
use clawgate_core::event::{Event, Operation, Scope};
use clawgate_core::home::{home, session_hash};
use clawgate_core::id::{ChannelId, Client, SessionId, ShardId};
use clawgate_core::plan::RunningMode;
use clawgate_core::view::{Address, SessionView, State};
use serde_json::{Value, json};
use std::rc::Rc;
use std::sync::Arc;

/// Where a session stands in its life. One that comes back is active again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// In memory: its first message is not answered yet, or what the store knows of it not there yet.
    Init,
    /// In memory.
    Active,
    /// It left memory; the next message, or an operation, brings it back.
    Dormant,
    /// It has been silent for so long that it leaves the store next; until then it comes back as any other.
    Expired,
    /// It is in the archive. A message begins it anew.
    Archived,
}

impl Life {
    const ALL: [Self; 5] = [Self::Init, Self::Active, Self::Dormant, Self::Expired, Self::Archived];

    const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Active => "active",
            Self::Dormant => "dormant",
            Self::Expired => "expired",
            Self::Archived => "archived",
        }
    }

    /// Of one in memory.
    fn of(view: &SessionView<'_>) -> Self {
        let is_first = view.messages <= 1 && view.state != State::Idle;
        if is_first || !view.known { Self::Init } else { Self::Active }
    }

    /// Of one in the store alone.
    fn of_stored(thread: &Thread, row: &SessionRow) -> Self {
        let silent = unix_millis().saturating_sub(row.active_millis);
        if Self::archive_millis(thread) < silent { Self::Expired } else { Self::Dormant }
    }

    /// How long a session must be silent before it leaves the store.
    fn archive_millis(thread: &Thread) -> u64 {
        thread.shared.kept.get().map_or(u64::MAX, |kept| kept.archive_millis())
    }
}

fn at(millis: u64) -> String {
    let mut text = Vec::new();
    clawgate_adapters::time::write_rfc3339(&mut text, millis);
    String::from_utf8(text).unwrap_or_default()
}

fn row(thread: &Thread, view: &SessionView<'_>) -> Value {
    let gateway = thread.gateway();
    let plan = &gateway.plan;
    let channel = &plan.channel(view.address.channel).name;
    let mut id = String::new();
    write_id(&mut id, channel, &view.address);
    let ago = |time| thread.now().since(time).as_millis();
    let millis = |time| unix_millis().saturating_sub(u64::try_from(ago(time)).unwrap_or(u64::MAX));
    let created = if view.created_millis == 0 { millis(view.created) } else { view.created_millis };
    json!({
        "id": id,
        "channel": &**channel,
        "peer": view.address.peer,
        "state": view.state.name(),
        "lifecycle": Life::of(view).name(),
        "agent": view.agent.map(|agent| plan.agent(agent).name.to_string()),
        "whileRunning": view.running_mode.map(RunningMode::name),
        "messages": view.messages,
        "waiting": view.waiting,
        "shard": thread.id.0,
        "createdAt": at(created),
        "lastActiveAt": at(millis(view.active)),
    })
}

/// A session that is not in memory.
fn stored_row(thread: &Thread, row: &SessionRow, life: Life) -> Value {
    let gateway = thread.gateway();
    let (peer, chat) = match row.scope {
        Scope::Direct => (row.party.as_str(), row.chat.as_str()),
        Scope::Group => ("", row.party.as_str()),
    };
    let channel = gateway.channel(&row.channel).unwrap_or(ChannelId(u16::MAX));
    let mut id = String::new();
    let address = Address { channel, scope: row.scope, chat, thread: &row.thread, peer };
    write_id(&mut id, &row.channel, &address);
    let hash = session_hash(thread.shared.secret(), &row.channel, row.scope, peer, chat, &row.thread);
    json!({
        "id": id,
        "channel": row.channel,
        "peer": peer,
        "state": State::Idle.name(),
        "lifecycle": life.name(),
        "agent": row.agent,
        "whileRunning": row.running_mode,
        "messages": row.messages,
        "waiting": 0,
        "shard": home(hash, thread.shared.cores()).0,
        "createdAt": at(row.created_millis),
        "lastActiveAt": at(row.active_millis),
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
    let Named { channel, scope, peer, chat, thread: topic } = *named;
    let hash = gateway.plan.hash(thread.shared.secret(), channel, scope, peer, chat, topic);
    home(hash, thread.shared.cores())
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
    let errand = Box::new(move |there: &Rc<Thread>| carry_out(there, client, &user, id, action));
    thread.outgoing.borrow_mut().letter(to, Letter::Errand(errand));
}

/// Operates a session on its shard. One that only the store has is brought into memory first.
fn carry_out(thread: &Rc<Thread>, client: Client, user: &Arc<str>, id: String, action: Action) {
    let gateway = thread.gateway();
    let named = parse_id(&gateway, user, &id);
    let find = |named: &Named<'_>| {
        thread.shard.borrow().find(named.channel, named.scope, named.peer, named.chat, named.thread)
    };
    if let Some(session) = find(&named) {
        return perform(thread, client, session, &action);
    }
    let (key, user) = (key_of(&gateway, &named), user.clone());
    inquire::load(thread, key.clone(), move |thread, loaded| match loaded {
        Ok(Some(loaded)) => {
            let gateway = thread.gateway();
            let named = parse_id(&gateway, &user, &id);
            inquire::take_in(thread, named.channel, &loaded);
            let Named { channel, scope, peer, chat, thread: topic } = named;
            let session = thread.shard.borrow().find(channel, scope, peer, chat, topic);
            match session {
                Some(session) => perform(thread, client, session, &action),
                None => refuse(thread, client, Code::Busy, Code::Busy.advice()),
            }
        }
        Ok(None) => say_where_it_is(thread, client, key),
        Err(trouble) => {
            let text = format!("this session is not in memory, and the store does not answer: {trouble}");
            refuse(thread, client, Code::StoreUnavailable, &text);
        }
    });
}

/// It is not in memory and not in the store: is it in the archive?
fn say_where_it_is(thread: &Rc<Thread>, client: Client, key: Key) {
    inquire::find_archived(thread, key, move |thread, found| match found {
        Ok(Some(_)) => refuse(thread, client, Code::NotFound, ARCHIVED),
        Ok(None) => refuse(thread, client, Code::NotFound, NO_SESSION),
        Err(why) => {
            let text = format!(
                "there is no such session but perhaps in the archive, which cannot be read now: {why}"
            );
            refuse(thread, client, Code::StoreUnavailable, &text);
        }
    });
}

const NO_SESSION: &str = "there is no such session";
const ARCHIVED: &str = "this session is archived, and nothing changes in the archive; it can be read, and a message to it \
                        begins it anew";

fn refuse(thread: &Rc<Thread>, client: Client, code: Code, text: &str) {
    crate::execute::reply(thread, client, Reply::Operated { refused: Some(code) }, text);
}

fn perform(thread: &Rc<Thread>, client: Client, session: SessionId, action: &Action) {
    let operation = match action {
        Action::Reset => Operation::Reset,
        Action::Close => Operation::Close,
        Action::Send(text) => Operation::Send(text),
        Action::Set(name, value) => Operation::Set { name, value },
        Action::Assign(agent) => match thread.gateway().agent(agent) {
            Some(agent) => Operation::Assign(agent),
            None => return refuse(thread, client, Code::NotFound, "there is no agent of this name"),
        },
        Action::Stop => Operation::Stop,
        Action::Mode(mode) => Operation::Mode(*mode),
    };
    thread.handle(Event::Operate { client, session, operation });
}

/// An operation was carried out, or refused; `text` says why where the code alone does not.
pub(crate) fn operated(thread: &Rc<Thread>, connection: &Rc<Connection>, refused: Option<Code>, text: &str) {
    let Some(code) = refused else { return respond_data(thread, connection, "{\"done\":true}") };
    thread.refused(code);
    let text = if text.is_empty() { code.advice() } else { text };
    let wait = if code == Code::StoreUnavailable { 1_000 } else { 0 };
    http::respond_error(thread, connection, code, text, wait);
}

fn not_found(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    thread.refused(Code::NotFound);
    http::respond_error(thread, connection, Code::NotFound, NO_SESSION, 0);
}

/// The name of a conversation in the store.
fn key_of(gateway: &Gateway, named: &Named<'_>) -> Key {
    let party = match named.scope {
        Scope::Direct => named.peer,
        Scope::Group => named.chat,
    };
    Key::new(&gateway.plan.channel(named.channel).name, named.scope, party, named.thread)
}
