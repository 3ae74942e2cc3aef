//! `GET /api/sessions/:id`: one session with what it remembers, wherever it is: in memory, in the store, in the archive.
use super::super::Call;
use super::list::unavailable;
use super::{Life, home_of, key_of, may, not_found, respond_data, row, stored_row};
use crate::connection::Place;
use crate::inquire;
use crate::mesh::Letter;
use crate::sessions::parse_id;
use crate::store::{Key, Loaded};
use crate::thread::Thread;
use clawgate_core::codes::Code;
use clawgate_core::id::{SessionId, ShardId};
use clawgate_core::view::Role;
use serde_json::{Map, Value, json};
use std::rc::Rc;

/// What became of the question.
enum Found {
    Session(String),
    Nothing,
    Unavailable(String),
}

/// Shows one session with its history.
pub(in crate::api) fn show(call: &mut Call<'_>) {
    let Some(identity) = call.identity.clone() else { return };
    let (thread, connection) = (call.thread, call.connection);
    let gateway = thread.gateway();
    let id = call.id.to_string();
    let named = parse_id(&gateway, &identity.user, &id);
    if !may(&identity, &named, false) {
        return call.refuse(Code::Forbidden, Code::Forbidden.advice());
    }
    let (asker, user) = ((thread.id, connection.place), identity.user.clone());
    let to = home_of(thread, &gateway, &named);
    let errand = Box::new(move |there: &Rc<Thread>| look(there, &user, &id, asker));
    thread.outgoing.borrow_mut().letter(to, Letter::Errand(errand));
}

/// Looks for it on its shard: in memory first.
fn look(thread: &Rc<Thread>, user: &str, id: &str, asker: (ShardId, Place)) {
    let gateway = thread.gateway();
    let named = parse_id(&gateway, user, id);
    let key = key_of(&gateway, &named);
    let session =
        thread.shard.borrow().find(named.channel, named.scope, named.peer, named.chat, named.thread);
    if let Some(session) = session {
        let (whole, shown) = of_memory(thread, session);
        if whole {
            return tell(thread, asker, Found::Session(shown.to_string()));
        }
        return inquire::load(thread, key, move |thread, loaded| {
            let found = match loaded {
                // What is not loaded yet is shown as the store has it.
                Ok(Some(loaded)) => Found::Session(with_memory(shown, &loaded).to_string()),
                Ok(None) => Found::Session(shown.to_string()),
                Err(trouble) => Found::Unavailable(format!("the store does not answer: {trouble}")),
            };
            tell(thread, asker, found);
        });
    }
    inquire::load(thread, key.clone(), move |thread, loaded| match loaded {
        Ok(Some(loaded)) => {
            let life = Life::of_stored(thread, &loaded.session);
            let shown = with_memory(stored_row(thread, &loaded.session, life), &loaded);
            tell(thread, asker, Found::Session(shown.to_string()));
        }
        Ok(None) => look_in_archive(thread, key, asker),
        Err(trouble) => {
            tell(thread, asker, Found::Unavailable(format!("the store does not answer: {trouble}")));
        }
    });
}

fn look_in_archive(thread: &Rc<Thread>, key: Key, asker: (ShardId, Place)) {
    inquire::find_archived(thread, key, move |thread, found| {
        let found = match found {
            Ok(None) => Found::Nothing,
            Ok(Some(loaded)) => {
                let shown = stored_row(thread, &loaded.session, Life::Archived);
                Found::Session(with_memory(shown, &loaded).to_string())
            }
            Err(why) => Found::Unavailable(format!("the archive cannot be read now: {why}")),
        };
        tell(thread, asker, found);
    });
}

/// Answers on the core of the one who asked.
fn tell(thread: &Rc<Thread>, (core, place): (ShardId, Place), found: Found) {
    let back = Box::new(move |here: &Rc<Thread>| {
        let Some(connection) = here.connection(place) else { return };
        match found {
            Found::Session(body) => respond_data(here, &connection, &body),
            Found::Nothing => not_found(here, &connection),
            Found::Unavailable(text) => unavailable(here, &connection, &text),
        }
    });
    thread.outgoing.borrow_mut().letter(core, Letter::Errand(back));
}

/// A session of this shard, and whether that is all that there is of it.
fn of_memory(thread: &Thread, session: SessionId) -> (bool, Value) {
    let shard = thread.shard.borrow();
    let (Some(view), Some(memory)) = (shard.session(session), shard.memory(session)) else {
        return (false, Value::Null);
    };
    let mut shown = row(thread, &view);
    shown["history"] = memory.history.map(|(role, text)| line(role, text)).collect();
    let context: Map<_, _> =
        memory.variables.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    shown["context"] = context.into();
    (view.known, shown)
}

/// Adds what the store remembers; what is there already is newer.
fn with_memory(mut shown: Value, loaded: &Loaded) -> Value {
    let newer = shown["context"].take();
    let mut context: Map<_, _> = loaded
        .session
        .context
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    if let Value::Object(newer) = newer {
        context.extend(newer);
    }
    shown["context"] = context.into();
    shown["history"] = loaded.history.iter().map(|said| line(said.role, &said.text)).collect();
    shown
}

fn line(role: Role, text: &str) -> Value {
    let role = match role {
        Role::User => "user",
        Role::Agent => "assistant",
    };
    json!({ "role": role, "content": text })
}
