//! Sessions that a shard asks the store for, and what it hears. So many questions are under way at once that their
//! answers always find room on their way back; the others wait here, in order, as after a restart with very many
//! messages that go on.
use crate::keep::{Keeper, key_of};
use crate::mesh::{ERRANDS_MAX, Errand, Letter};
use crate::store::{Answer, Loaded, Query, Trouble};
use crate::thread::Thread;
use clawgate_core::event::{Event, Stored};
use clawgate_core::id::{SessionId, Uid};
use clawgate_core::plan::RunningMode;
use clawgate_core::view::Role;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Questions of a shard under way: a quarter of the errands that may wait for it, which others need too.
const UNDER_WAY_MAX: usize = ERRANDS_MAX / 4;

/// What a shard asks for.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// Asked, and the answer not taken here; an answer that finds no room on its way is not counted.
    under_way: Arc<AtomicUsize>,
    waiting: RefCell<VecDeque<SessionId>>,
}

/// Asks the store for a session, now or once others have their answers.
pub(crate) fn ask(thread: &Rc<Thread>, keeper: &Keeper, session: SessionId) {
    let loads = &keeper.loads;
    // Nobody asks for more sessions than there are turns, but some of those that wait here may have given up.
    let is_full = thread.gateway().plan.limits.turns_max as usize <= loads.waiting.borrow().len();
    if is_full {
        refuse(thread, session);
    } else {
        loads.waiting.borrow_mut().push_back(session);
    }
    go_on(thread, keeper);
}

fn go_on(thread: &Rc<Thread>, keeper: &Keeper) {
    // The store bounds what waits at it, for all shards and for whoever else asks.
    let share = keeper.store.reads_max() / 2 / usize::from(thread.shared.cores());
    let most = UNDER_WAY_MAX.min(share).max(1);
    while keeper.loads.under_way.load(Ordering::Acquire) < most {
        let Some(session) = keeper.loads.waiting.borrow_mut().pop_front() else { return };
        ask_now(thread, keeper, session);
    }
}

fn ask_now(thread: &Rc<Thread>, keeper: &Keeper, session: SessionId) {
    // It may have ended while it waited.
    let Some(key) = key_of(thread, session) else { return };
    let gateway = thread.gateway();
    let limits = &gateway.plan.limits;
    let query = Query::Load {
        key,
        messages_max: usize::from(limits.history_messages_max),
        bytes_max: limits.history_bytes_max as usize,
    };
    let (shared, shard, under_way) = (thread.shared.clone(), thread.id, keeper.loads.under_way.clone());
    under_way.fetch_add(1, Ordering::AcqRel);
    let reply = move |answer: Result<Answer, Trouble>| {
        let errand: Errand = Box::new(move |there: &Rc<Thread>| {
            there.touch();
            let loaded = match answer {
                Ok(Answer::Loaded(loaded)) => Some(loaded),
                Ok(_) | Err(_) => None,
            };
            tell_loaded(there, session, loaded);
            if let Some(keeper) = there.keeper.get() {
                keeper.loads.under_way.fetch_sub(1, Ordering::AcqRel);
                go_on(there, keeper);
            }
        });
        // Where too many errands of others wait the shard hears nothing, and its own deadline tells it.
        if shared.mesh.errand(shard, errand).is_err() {
            under_way.fetch_sub(1, Ordering::AcqRel);
        }
    };
    if keeper.store.read(query, limits.load_age_max, reply).is_err() {
        keeper.loads.under_way.fetch_sub(1, Ordering::AcqRel);
        refuse(thread, session);
    }
}

/// Says that it is not to be had: not at once, since effects are being carried out.
fn refuse(thread: &Rc<Thread>, session: SessionId) {
    let errand = Box::new(move |there: &Rc<Thread>| tell_loaded(there, session, None));
    thread.outgoing.borrow_mut().letter(thread.id, Letter::Errand(errand));
}

fn tell_loaded(thread: &Rc<Thread>, session: SessionId, loaded: Option<Option<Box<Loaded>>>) {
    let Some(found) = loaded else {
        thread.handle(Event::Loaded { session, stored: None });
        return;
    };
    let Some(loaded) = found else {
        thread.handle(Event::Loaded { session, stored: Some(&Stored::default()) });
        return;
    };
    with_stored(&loaded, |stored| thread.handle(Event::Loaded { session, stored: Some(&stored) }));
}

/// What the store knows of a session, as the shard hears it.
pub(crate) fn with_stored(loaded: &Loaded, tell: impl FnOnce(Stored<'_>)) {
    let history: Vec<(Role, &str)> =
        loaded.history.iter().map(|said| (said.role, said.text.as_str())).collect();
    let row = &loaded.session;
    let context: Vec<(&str, &str)> =
        row.context.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stored = Stored {
        agent: row.agent.as_deref().unwrap_or_default(),
        messages: u32::try_from(row.messages).unwrap_or(u32::MAX),
        history: &history,
        context: &context,
        history_from: Uid(row.history_from),
        mode: RunningMode::ALL.into_iter().find(|mode| row.running_mode.as_deref() == Some(mode.name())),
        found: true,
        created_millis: row.created_millis,
    };
    tell(stored);
}
