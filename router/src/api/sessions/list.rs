//! `GET /api/sessions`: sessions of every state of their life, a page at a time.
//!
//! The store's come first, in the order of their keys, as they are in memory where they are there; then those that are
//! so new that the store has no row of them. So none comes twice, whatever leaves memory or comes back between two pages.
//! Without the store there is only memory, and the page says so. The archive is listed when it is asked for.
use super::super::Call;
use super::{Life, respond_data, row, stored_row};
use crate::clock::unix_millis;
use crate::connection::{Connection, Place};
use crate::gateway::is_api;
use crate::gather::{Answer as Tell, gather, gather_later};
use crate::http;
use crate::inquire;
use crate::mesh::Letter;
use crate::store::{Answer, Key, Query, SessionFilter, SessionRow};
use crate::thread::Thread;
use clawgate_core::codes::Code;
use clawgate_core::event::Scope;
use clawgate_core::id::ShardId;
use clawgate_core::view::{SessionView, State};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

/// Sessions of one page, by default.
const PAGE: usize = 50;
/// Why a page may lack some.
const PARTIAL: &str = "the store does not answer; these are the sessions in memory";

/// Which sessions are meant by `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Doing(State),
    Life(Life),
}

impl Wanted {
    fn named(name: &str) -> Option<Self> {
        let doing = [State::Idle, State::Waiting, State::Processing].into_iter();
        let doing = doing.map(|state| (state.name(), Self::Doing(state)));
        let living = Life::ALL.into_iter().map(|life| (life.name(), Self::Life(life)));
        doing.chain(living).find(|(known, _)| *known == name).map(|(_, wanted)| wanted)
    }

    /// Where the first page begins.
    const fn beginning(self) -> Cursor {
        match self {
            Self::Doing(_) | Self::Life(Life::Init | Life::Active) => {
                Cursor::Memory { at: (0, 0), new: false }
            }
            Self::All | Self::Life(Life::Dormant | Life::Expired) => Cursor::Store(None),
            Self::Life(Life::Archived) => Cursor::Archive(0),
        }
    }
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cursor {
    /// At this shard and slot; if `new`, with those alone that the store has no row of.
    Memory { at: (u16, u32), new: bool },
    /// After this key.
    Store(Option<Key>),
    /// At this byte.
    Archive(u64),
}

impl Cursor {
    fn write(&self) -> String {
        match self {
            Self::Memory { at: (shard, slot), new: false } => format!("m{shard}.{slot}"),
            Self::Memory { at: (shard, slot), new: true } => format!("n{shard}.{slot}"),
            Self::Store(key) => {
                let bytes = key.as_ref().map_or("", Key::as_str).bytes();
                bytes.fold("s".to_owned(), |text, byte| format!("{text}{byte:02x}"))
            }
            Self::Archive(at) => format!("a{at}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (kind, rest) = (text.chars().next()?, text.get(1..)?);
        match kind {
            'm' | 'n' => {
                let (shard, slot) = rest.split_once('.')?;
                Some(Self::Memory { at: (shard.parse().ok()?, slot.parse().ok()?), new: kind == 'n' })
            }
            's' => {
                let digits = rest.as_bytes().chunks(2);
                let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
                let bytes = digits.map(byte).collect::<Option<Vec<u8>>>()?;
                Some(Self::Store(Some(Key::stored(&String::from_utf8(bytes).ok()?))))
            }
            'a' => rest.parse().ok().map(Self::Archive),
            _ => None,
        }
    }
}

/// What a page shows, and to whom.
#[derive(Clone, Debug)]
struct Page {
    limit: usize,
    channel: Option<String>,
    agent: Option<String>,
    wanted: Wanted,
    /// Only the sessions of this user; `None` for all.
    owner: Option<String>,
    /// There may be more than it can show.
    partial: bool,
    asker: (ShardId, Place),
}

/// Lists sessions, a page at a time.
pub(in crate::api) fn list(call: &mut Call<'_>) {
    let Some(identity) = call.identity.clone() else { return };
    let limit = call.parameter("limit").map_or(Ok(PAGE), |text| text.parse());
    let Ok(limit @ 1..=500) = limit else {
        return call.refuse(Code::BadRequest, "`limit` is a number from 1 to 500");
    };
    let wanted = call.parameter("state").map_or(Some(Wanted::All), |name| Wanted::named(&name));
    let Some(wanted) = wanted else {
        let known = "`state` is idle, waiting, processing, init, active, dormant, expired or archived";
        return call.refuse(Code::BadRequest, known);
    };
    let cursor = call.parameter("cursor").map_or(Some(wanted.beginning()), |text| Cursor::read(&text));
    let Some(cursor) = cursor else {
        return call.refuse(Code::BadRequest, "`cursor` is what the page before gave as `next`");
    };
    let owner = (!identity.scopes.read && !identity.scopes.admin).then(|| identity.user.clone());
    let (channel, agent) = (call.parameter("channel"), call.parameter("agent"));
    let (channel, agent) = (channel.map(Cow::into_owned), agent.map(Cow::into_owned));
    let asker = (call.thread.id, call.connection.place);
    let page = Page { limit, channel, agent, wanted, owner, partial: false, asker };
    match cursor {
        Cursor::Memory { at, new } => {
            let partial = !new && matches!(wanted, Wanted::All);
            collect(call.thread, Page { partial, ..page }, (at, new), Vec::new());
        }
        Cursor::Store(None) => {
            // What was said a moment ago is in the store before it is asked.
            let flushed = |there: &Rc<Thread>, answer: Tell<bool>| inquire::once_saved(there, None, answer);
            gather_later(call.thread, flushed, move |thread, saved: Vec<bool>| {
                if saved.into_iter().all(|saved| saved) {
                    from_store(thread, page, None);
                } else {
                    without_store(thread, page);
                }
            });
        }
        Cursor::Store(after) => from_store(call.thread, page, after),
        Cursor::Archive(at) => from_archive(call.thread, page, at),
    }
}

impl Page {
    /// As the store understands it.
    fn filter(&self, archive_millis: u64) -> SessionFilter {
        let long_ago = unix_millis().saturating_sub(archive_millis);
        let (active_from, active_before) = match self.wanted {
            Wanted::Life(Life::Dormant) => (long_ago, None),
            Wanted::Life(Life::Expired) => (0, Some(long_ago)),
            Wanted::All | Wanted::Doing(_) | Wanted::Life(Life::Init | Life::Active | Life::Archived) => {
                (0, None)
            }
        };
        // A user's own sessions are those of our own protocols: elsewhere its name is another's.
        let own = self.owner.as_ref().map(|_| "api".to_owned());
        SessionFilter {
            channel: self.channel.clone().or(own),
            agent: self.agent.clone(),
            owner: self.owner.clone(),
            active_from,
            active_before,
            ..SessionFilter::default()
        }
    }

    /// A user asks for what can be none of its own.
    fn is_empty(&self) -> bool {
        self.owner.is_some() && self.channel.as_deref().is_some_and(|channel| channel != "api")
    }

    fn shows(&self, thread: &Thread, view: &SessionView<'_>) -> bool {
        let plan = &thread.gateway().plan;
        let owned = match &self.owner {
            None => true,
            Some(user) => is_api(view.address.channel) && view.address.peer == user,
        };
        let is = |agent| &*plan.agent(agent).name;
        owned
            && self
                .channel
                .as_deref()
                .is_none_or(|wanted| wanted == &*plan.channel(view.address.channel).name)
            && self.agent.as_deref().is_none_or(|wanted| view.agent.map(is) == Some(wanted))
            && match self.wanted {
                Wanted::All => true,
                Wanted::Doing(state) => state == view.state,
                Wanted::Life(life) => life == Life::of(view),
            }
    }

    /// Answers, on the core of the one who asked.
    fn answer(&self, thread: &Rc<Thread>, rows: &[Value], next: Option<&Cursor>) {
        let partial = self.partial.then_some(PARTIAL);
        let next = next.map(Cursor::write);
        let body = json!({ "sessions": rows, "next": next, "partial": partial }).to_string();
        let (core, place) = self.asker;
        let back = Box::new(move |here: &Rc<Thread>| {
            if let Some(connection) = here.connection(place) {
                respond_data(here, &connection, &body);
            }
        });
        thread.outgoing.borrow_mut().letter(core, Letter::Errand(back));
    }
}

/// Adds this shard's sessions to the page, and passes it on to the next shard while there is room.
fn collect(thread: &Rc<Thread>, page: Page, from: ((u16, u32), bool), mut rows: Vec<Value>) {
    let ((shard, slot), new) = from;
    if shard != thread.id.0 && shard < thread.shared.cores() {
        let errand = Box::new(move |there: &Rc<Thread>| collect(there, page, from, rows));
        thread.outgoing.borrow_mut().letter(ShardId(shard), Letter::Errand(errand));
        return;
    }
    let mut full = None;
    if shard < thread.shared.cores() {
        let sessions = thread.shard.borrow();
        for view in sessions.sessions(slot) {
            if page.limit <= rows.len() {
                full = Some(Cursor::Memory { at: (shard, view.id.slot), new });
                break;
            }
            if !(new && view.stored) && page.shows(thread, &view) {
                rows.push(row(thread, &view));
            }
        }
    }
    // The cursor is the client's word: its shard may be any number.
    let following = shard.saturating_add(1);
    if full.is_none() && following < thread.shared.cores() {
        return collect(thread, page, ((following, 0), new), rows);
    }
    page.answer(thread, &rows, full.as_ref());
}

/// The first page, from memory, because the store does not answer.
fn without_store(thread: &Rc<Thread>, page: Page) {
    let wanted = matches!(page.wanted, Wanted::All);
    let page = Page { partial: true, ..page };
    if wanted { collect(thread, page, ((0, 0), false), Vec::new()) } else { page.answer(thread, &[], None) }
}

fn from_store(thread: &Rc<Thread>, page: Page, after: Option<Key>) {
    if page.is_empty() {
        return page.answer(thread, &[], None);
    }
    let first = after.is_none();
    let filter = page.filter(Life::archive_millis(thread));
    inquire::ask(thread, Query::Sessions { filter, after, limit: page.limit }, move |thread, answer| {
        match answer {
            Ok(Answer::Sessions { rows, next }) => join_memory(thread, page, rows, next),
            Ok(_) | Err(_) if first => without_store(thread, page),
            Ok(_) | Err(_) => {
                let Some(connection) = thread.connection(page.asker.1) else { return };
                unavailable(thread, &connection, "the store does not answer; ask for this page again");
            }
        }
    });
}

pub(in crate::api) fn unavailable(thread: &Rc<Thread>, connection: &Rc<Connection>, text: &str) {
    thread.refused(Code::StoreUnavailable);
    http::respond_error(thread, connection, Code::StoreUnavailable, text, 1_000);
}

/// Shows sessions of the store as they are in memory, where they are there.
fn join_memory(thread: &Rc<Thread>, page: Page, rows: Vec<SessionRow>, next: Option<Key>) {
    let stored = Arc::new(rows);
    let asked = stored.clone();
    gather(
        thread,
        move |there| in_memory(there, &asked),
        move |thread, found| {
            let mut shown: Vec<Option<Value>> = vec![None; stored.len()];
            for (at, row) in found.into_iter().flatten() {
                shown[at] = Some(row);
            }
            let rows = stored.iter().zip(shown).filter_map(|(stored, shown)| match (shown, page.wanted) {
                (None, _) => Some(stored_row(thread, stored, Life::of_stored(thread, stored))),
                (Some(row), Wanted::All) => Some(row),
                // It is neither dormant nor expired.
                (Some(_), _) => None,
            });
            let rows: Vec<Value> = rows.collect();
            match next {
                Some(key) => page.answer(thread, &rows, Some(&Cursor::Store(Some(key)))),
                None if page.wanted == Wanted::All => collect(thread, page, ((0, 0), true), rows),
                None => page.answer(thread, &rows, None),
            }
        },
    );
}

/// Those that are in the memory of this shard, by their place.
fn in_memory(thread: &Rc<Thread>, rows: &[SessionRow]) -> Vec<(usize, Value)> {
    let gateway = thread.gateway();
    let shard = thread.shard.borrow();
    let find = |stored: &SessionRow| {
        let channel = gateway.channel(&stored.channel)?;
        let (peer, chat) = match stored.scope {
            Scope::Direct => (stored.party.as_str(), ""),
            Scope::Group => ("", stored.party.as_str()),
        };
        let session = shard.find(channel, stored.scope, peer, chat, &stored.thread)?;
        shard.session(session).map(|view| row(thread, &view))
    };
    rows.iter().enumerate().filter_map(|(at, stored)| Some((at, find(stored)?))).collect()
}

fn from_archive(thread: &Rc<Thread>, page: Page, at: u64) {
    if page.is_empty() {
        return page.answer(thread, &[], None);
    }
    let (filter, limit) = (page.filter(0), page.limit);
    inquire::archived(thread, at, filter, limit, move |thread, read| match read {
        Ok(read) => {
            let rows = read.rows.iter().map(|row| stored_row(thread, row, Life::Archived));
            let rows: Vec<Value> = rows.collect();
            page.answer(thread, &rows, read.next.map(Cursor::Archive).as_ref());
        }
        Err(why) => {
            let Some(connection) = thread.connection(page.asker.1) else { return };
            unavailable(thread, &connection, &format!("the archive cannot be read now: {why}"));
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let key = Key::new("tg", Scope::Direct, "ünal", "t");
        for cursor in [
            Cursor::Memory { at: (3, 17), new: false },
            Cursor::Memory { at: (0, u32::MAX), new: true },
            Cursor::Store(Some(key)),
            Cursor::Archive(1 << 40),
        ] {
            let text = cursor.write();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'), "{text}");
            assert_eq!(Cursor::read(&text), Some(cursor));
        }
        for bad in ["", "x", "1.2", "m1", "m1.x", "m65536.0", "sx", "sfff", "sff", "a", "a-1", "ü"] {
            assert_eq!(Cursor::read(bad), None, "{bad:?}");
        }
    }
}
