//! `/api/dlq`: dead letters, which are messages that could not be answered or whose answer no platform took. Listed and
//! shown from the store; tried again by their session's shard, in the order of the session, or dropped.
use super::Call;
use super::sessions::respond_data;
use crate::clock::unix_millis;
use crate::connection::Connection;
use crate::http;
use crate::inquire;
use crate::kept::Kept;
use crate::mesh::{Letter, Reply};
use crate::store::{Answer, DeadLetter, LetterFilter, Query};
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_core::codes::Code;
use clawgate_core::effect::Outcome;
use clawgate_core::event::{Event, Mode, Restored, Scope};
use clawgate_core::home::{home, session_hash};
use clawgate_core::id::{Client, Uid};
use clawgate_core::record::Accepted;
use serde_json::{Value, json};
use std::rc::Rc;

/// Letters of one page: by default.
const PAGE: usize = 50;
const NO_LETTER: &str = "there is no such dead letter";

/// Lists dead letters, a page at a time, the oldest first.
pub(super) fn list(call: &mut Call<'_>) {
    if !is_admin(call) {
        return;
    }
    let limit = call.parameter("limit").map_or(Ok(PAGE), |text| text.parse());
    let Ok(limit @ 1..=500) = limit else {
        return call.refuse(Code::BadRequest, "`limit` is a number from 1 to 500");
    };
    let after = match call.parameter("cursor").map(|cursor| cursor.parse()) {
        None => None,
        Some(Ok(uid)) => Some(uid),
        Some(Err(_)) => {
            return call.refuse(Code::BadRequest, "`cursor` is what the page before gave as `next`");
        }
    };
    let text = |name: &str| call.parameter(name).map(std::borrow::Cow::into_owned);
    let filter = LetterFilter { channel: text("channel"), key: None, code: text("code") };
    let place = call.connection.place;
    inquire::ask(call.thread, Query::DeadLetters { filter, after, limit }, move |thread, answer| {
        let Some(connection) = thread.connection(place) else { return };
        match answer {
            Ok(Answer::DeadLetters { rows, next }) => {
                let rows: Vec<Value> = rows.iter().map(|letter| shown(letter, false)).collect();
                let next = next.map(|uid| uid.to_string());
                respond_data(thread, &connection, &json!({ "letters": rows, "next": next }).to_string());
            }
            Ok(_) | Err(_) => unavailable(thread, &connection),
        }
    });
}

/// Shows one with all that is known of it.
pub(super) fn show(call: &mut Call<'_>) {
    if !is_admin(call) {
        return;
    }
    let Some(uid) = uid_of(call) else { return };
    let place = call.connection.place;
    inquire::ask(call.thread, Query::DeadLetter { uid }, move |thread, answer| {
        let Some(connection) = thread.connection(place) else { return };
        match answer {
            Ok(Answer::DeadLetter(Some(letter))) => {
                respond_data(thread, &connection, &shown(&letter, true).to_string());
            }
            Ok(Answer::DeadLetter(None)) => not_found(thread, &connection),
            Ok(_) | Err(_) => unavailable(thread, &connection),
        }
    });
}

/// Tries one again, or drops it.
pub(super) fn operate(call: &mut Call<'_>) {
    if !is_admin(call) {
        return;
    }
    let Some(uid) = uid_of(call) else { return };
    if !super::chat::is_json(call) {
        return call.refuse(Code::BadMediaType, Code::BadMediaType.advice());
    }
    let action = serde_json::from_slice::<Value>(call.body).ok();
    let replay = match action.as_ref().and_then(|body| body["action"].as_str()) {
        Some("replay") => true,
        Some("drop") => false,
        Some(_) | None => return call.refuse(Code::MissingField, "`action` is \"replay\" or \"drop\""),
    };
    let (thread, connection) = (call.thread, call.connection);
    if !thread.shared.kept.get().is_some_and(Kept::has_saved_rows) {
        // One that was tried again before the last stop may still be in the store.
        thread.refused(Code::StoreUnavailable);
        let text = "the store has not yet what was left for it before the last stop; try again in a moment";
        return http::respond_error(thread, connection, Code::StoreUnavailable, text, 1_000);
    }
    let opened = connection.tickets.borrow_mut().open(Form::Operation, &call.id, "", thread.now());
    let Some(ticket) = opened else { return call.refuse(Code::Busy, Code::Busy.advice()) };
    let client = connection.client(thread, ticket);
    let key = call.identity.as_ref().map_or_else(String::new, |identity| identity.id.clone());
    tracing::info!(key, uid, replay, "a dead letter is operated");
    inquire::ask(call.thread, Query::DeadLetter { uid }, move |thread, answer| match answer {
        Ok(Answer::DeadLetter(Some(letter))) => send_home(thread, client, letter, replay),
        Ok(Answer::DeadLetter(None)) => {
            refuse(thread, client, Code::NotFound, "there is no such dead letter")
        }
        Ok(_) | Err(_) => refuse(thread, client, Code::StoreUnavailable, ""),
    });
}

fn is_admin(call: &Call<'_>) -> bool {
    let admin = call.identity.as_ref().is_some_and(|identity| identity.scopes.admin);
    if !admin {
        call.refuse(
            Code::Forbidden,
            "dead letters are whole messages: this needs a key with the scope `admin`",
        );
    }
    admin
}

fn uid_of(call: &Call<'_>) -> Option<u64> {
    let uid = call.id.parse().ok();
    if uid.is_none() {
        call.refuse(Code::NotFound, "the id of a dead letter is a number; /api/dlq lists them");
    }
    uid
}

fn unavailable(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    thread.refused(Code::StoreUnavailable);
    let text = "the store does not answer; see /health/detailed";
    http::respond_error(thread, connection, Code::StoreUnavailable, text, 1_000);
}

fn not_found(thread: &Rc<Thread>, connection: &Rc<Connection>) {
    thread.refused(Code::NotFound);
    http::respond_error(thread, connection, Code::NotFound, NO_LETTER, 0);
}

fn refuse(thread: &Rc<Thread>, client: Client, code: Code, why: &str) {
    let why = if why.is_empty() && code == Code::NotFound { NO_LETTER } else { why };
    crate::execute::reply(thread, client, Reply::Operated { refused: Some(code) }, why);
}

/// Brings a letter to the shard of its session: there it is known whether it was tried again already.
fn send_home(thread: &Rc<Thread>, client: Client, letter: Box<DeadLetter>, replay: bool) {
    let (secret, cores) = (thread.shared.secret(), thread.shared.cores());
    let DeadLetter { channel, scope, peer, chat, thread: topic, .. } = &*letter;
    let gateway = thread.gateway();
    let hash = match gateway.channel(channel) {
        Some(id) => gateway.plan.hash(secret, id, *scope, peer, chat, topic),
        None => session_hash(secret, channel, *scope, peer, chat, topic),
    };
    let shard = home(hash, cores);
    let errand = Box::new(move |there: &Rc<Thread>| carry_out(there, client, &letter, replay));
    thread.outgoing.borrow_mut().letter(shard, Letter::Errand(errand));
}

fn carry_out(thread: &Rc<Thread>, client: Client, letter: &DeadLetter, replay: bool) {
    let Some(keeper) = thread.keeper.get() else {
        return refuse(thread, client, Code::StoreUnavailable, "");
    };
    if keeper.was_taken_up(letter.uid) {
        let why = "this dead letter was tried again, or dropped, a moment ago";
        return refuse(thread, client, Code::NotFound, why);
    }
    if !replay {
        return thread.handle(Event::DropLetter { client, uid: Uid(letter.uid) });
    }
    let (channel, agent) = (letter.channel.as_str(), "");
    if thread.gateway().channel(channel).is_none() {
        let why = format!(
            "the channel `{channel}` of this dead letter is not configured any more: put it back to try again, or drop \
             the letter"
        );
        return refuse(thread, client, Code::NotFound, &why);
    }
    let accepted = Accepted {
        uid: Uid(letter.uid),
        unix_millis: letter.accepted_millis,
        scope: letter.scope,
        mode: Mode::Deliver,
        outbound: letter.outbound,
        replayed: true,
        channel,
        agent,
        id: "",
        chat: &letter.chat,
        thread: &letter.thread,
        peer: &letter.peer,
        name: &letter.name,
        text: &letter.text,
        ..Accepted::default()
    };
    let reply = letter.reply.as_deref().map(|text| (Outcome::Answered, text));
    let parts = u16::try_from(letter.next_part).unwrap_or(u16::MAX);
    let restored = Restored { accepted, reply, history: false, parts, shown: "" };
    thread.handle(Event::Restore { client, restored: &restored });
}

fn at(millis: u64) -> String {
    let mut text = Vec::new();
    clawgate_adapters::time::write_rfc3339(&mut text, millis);
    String::from_utf8(text).unwrap_or_default()
}

fn shown(letter: &DeadLetter, whole: bool) -> Value {
    let mut row = json!({
        "id": letter.uid.to_string(),
        "channel": letter.channel,
        "scope": match letter.scope { Scope::Direct => "direct", Scope::Group => "group" },
        "peer": letter.peer,
        "chat": letter.chat,
        "thread": letter.thread,
        "code": letter.code,
        "detail": letter.detail,
        "attempts": letter.attempts,
        "answered": letter.reply.is_some(),
        "acceptedAt": at(letter.accepted_millis),
        "failedAt": at(letter.failed_millis),
        "ageSeconds": unix_millis().saturating_sub(letter.failed_millis) / 1_000,
    });
    if whole {
        row["name"] = letter.name.as_str().into();
        row["event"] = letter.event.as_str().into();
        row["message"] = letter.text.as_str().into();
        row["reply"] = letter.reply.as_deref().map_or(Value::Null, Value::from);
        row["partsDelivered"] = letter.next_part.into();
        row["outbound"] = letter.outbound.into();
    }
    row
}
