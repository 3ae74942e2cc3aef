//! What operators ask the store about, beside what the shards ask it for: answered here or not at all, within a
//! deadline, and never on the path of a message.
use crate::driver;
use crate::gateway::is_api;
use crate::keep;
use crate::mesh::Errand;
use crate::store::{Answer, ArchivePage, Health, Key, Loaded, Query, SessionFilter, Trouble};
use crate::thread::Thread;
use clawgate_core::event::{Event, Inbound, Mode, Scope};
use clawgate_core::id::ChannelId;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The store may take this long, as it may for a turn.
fn patience(thread: &Thread) -> Duration {
    thread.gateway().plan.limits.load_age_max
}

/// Asks the store, and goes on here with what it says.
pub(crate) fn ask(
    thread: &Rc<Thread>,
    query: Query,
    done: impl FnOnce(&Rc<Thread>, Result<Answer, Trouble>) + Send + 'static,
) {
    let Some(keeper) = thread.keeper.get() else {
        return done(thread, Err(Trouble::Down("there is no store".to_owned())));
    };
    let held = Arc::new(Mutex::new(Some(done)));
    let (shared, here, mine) = (thread.shared.clone(), thread.id, held.clone());
    let reply = move |answer| {
        let taken = mine.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(done) = taken else { return };
        let errand: Errand = Box::new(move |thread: &Rc<Thread>| {
            thread.touch();
            done(thread, answer);
        });
        // Where too many errands wait, the client hears nothing and asks again.
        let _ = shared.mesh.errand(here, errand);
    };
    if let Err(full) = keeper.store().read(query, patience(thread), reply) {
        let taken = held.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = taken {
            done(thread, Err(Trouble::Late(full.to_string())));
        }
    }
}

/// Goes on once the store has all that this shard saved of a conversation, or of all of them: true if it has, false if
/// it does not come to it.
pub(crate) fn once_saved(
    thread: &Rc<Thread>,
    key: Option<&Key>,
    then: impl FnOnce(&Rc<Thread>, bool) + 'static,
) {
    let then = Rc::new(RefCell::new(Some(then)));
    let mine = then.clone();
    keep::once_saved(thread, key, move |thread| {
        let then = mine.borrow_mut().take();
        if let Some(then) = then {
            then(thread, true);
        }
    });
    if then.borrow().is_none() {
        return;
    }
    let works = thread.keeper.get().is_some_and(|keeper| keeper.store().health() == Health::Ok);
    if !works {
        let then = then.borrow_mut().take();
        return then.into_iter().for_each(|then| then(thread, false));
    }
    let thread = thread.clone();
    driver::spawn(async move {
        driver::sleep(patience(&thread)).await;
        thread.touch();
        let then = then.borrow_mut().take();
        if let Some(then) = then {
            then(&thread, false);
        }
    });
}

/// What the store knows of a conversation of this shard, once it knows all that was saved of it.
pub(crate) fn load(
    thread: &Rc<Thread>,
    key: Key,
    done: impl FnOnce(&Rc<Thread>, Result<Option<Box<Loaded>>, Trouble>) + Send + 'static,
) {
    let query = {
        let limits = &thread.gateway().plan.limits;
        Query::Load {
            key: key.clone(),
            messages_max: usize::from(limits.history_messages_max),
            bytes_max: limits.history_bytes_max as usize,
        }
    };
    let behind = thread.shared.kept.get().is_some_and(|kept| kept.is_behind(&key));
    once_saved(thread, Some(&key), move |thread, saved| {
        if !saved || behind {
            return done(thread, Err(Trouble::Late("the store does not take what was saved".to_owned())));
        }
        ask(thread, query, move |thread, answer| match answer {
            Ok(Answer::Loaded(loaded)) => done(thread, Ok(loaded)),
            Ok(_) => done(thread, Ok(None)),
            Err(trouble) => done(thread, Err(trouble)),
        });
    });
}

/// Brings a session that the store has into the memory of this shard, as if its peer had come back.
pub(crate) fn take_in(thread: &Rc<Thread>, channel: ChannelId, loaded: &Loaded) {
    let row = &loaded.session;
    let (peer, chat) = match row.scope {
        Scope::Direct => (row.party.as_str(), row.chat.as_str()),
        Scope::Group => ("", row.party.as_str()),
    };
    let mode = if is_api(channel) { Mode::Whole } else { Mode::Deliver };
    let inbound =
        Inbound { channel, scope: row.scope, peer, chat, thread: &row.thread, mode, ..Inbound::default() };
    crate::loads::with_stored(loaded, |stored| thread.handle(Event::Recalled { inbound, stored: &stored }));
}

/// Looks for a conversation in the archive, and goes on here with what is found.
pub(crate) fn find_archived(
    thread: &Rc<Thread>,
    key: Key,
    done: impl FnOnce(&Rc<Thread>, io::Result<Option<Loaded>>) + Send + 'static,
) {
    let Some(keeper) = thread.keeper.get() else { return done(thread, Ok(None)) };
    let (shared, here) = (thread.shared.clone(), thread.id);
    keeper.store().find_archived(key, move |found| {
        let errand: Errand = Box::new(move |thread: &Rc<Thread>| {
            thread.touch();
            done(thread, found);
        });
        let _ = shared.mesh.errand(here, errand);
    });
}

/// Reads a page of the archive, and goes on here with it.
pub(crate) fn archived(
    thread: &Rc<Thread>,
    at: u64,
    filter: SessionFilter,
    limit: usize,
    done: impl FnOnce(&Rc<Thread>, io::Result<ArchivePage>) + Send + 'static,
) {
    let Some(keeper) = thread.keeper.get() else { return done(thread, Ok(ArchivePage::default())) };
    let (shared, here) = (thread.shared.clone(), thread.id);
    keeper.store().archived(at, filter, limit, move |page| {
        let errand: Errand = Box::new(move |thread: &Rc<Thread>| {
            thread.touch();
            done(thread, page);
        });
        let _ = shared.mesh.errand(here, errand);
    });
}
