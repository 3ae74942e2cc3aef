//! What a shard saves and asks for, and the store: effects become rows, answers become events. It decides nothing.
//!
//! What was saved in a turn of the loop is handed over at its end, in order, under the number of its last save. A
//! session is read only once the store has confirmed all that this shard saved of it before, so that nobody finds less
//! than he left. What the store does not take waits here, within bounds: beyond them nothing new is acknowledged, and
//! what the journal does not wait for is dropped and counted.
use crate::clock::unix_millis;
use crate::gateway::Shared;
use crate::journal::Journal;
use crate::kept::Kept;
use crate::loads::{self, Loads};
use crate::mesh::{Errand, Letter};
use crate::store::{
    Answer, Confirmed, DeadLetter, Key, Mark, Op, Query, Said, SessionRow, State, Store, Trouble,
};
use crate::thread::Thread;
use clawgate_core::codes::Code;
use clawgate_core::effect::{Dead, Effects, Saved};
use clawgate_core::event::{Event, Scope, Sight};
use clawgate_core::id::{SessionId, ShardId};
use clawgate_core::log::JournalState;
use clawgate_core::record::{Accepted, Record};
use clawgate_core::time::Time;
use clawgate_core::view::{Address, Role};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Dead letters that were taken up and are remembered: far longer than the store takes to forget them.
const TAKEN_UP_MAX: usize = 1_024;
/// When rows are offered again that the store did not take.
const AGAIN: Duration = Duration::from_millis(20);

/// What the store has confirmed, by shard; the last one is what was read of earlier runs.
#[derive(Debug)]
pub(crate) struct Confirmations {
    known: Vec<AtomicU64>,
    /// For the start, which waits where the store has much to do.
    heard: (Mutex<()>, Condvar),
}

impl Confirmations {
    pub(crate) fn new(shards: u16) -> Self {
        Self { known: (0..=shards).map(|_| AtomicU64::new(0)).collect(), heard: Default::default() }
    }

    /// The number under which what was read of earlier runs is confirmed.
    pub(crate) fn past(&self) -> u16 {
        u16::try_from(self.known.len() - 1).unwrap_or(u16::MAX)
    }

    /// How much of what was read of earlier runs is confirmed.
    pub(crate) fn of_past(&self) -> u64 {
        self.of(self.past())
    }

    fn of(&self, shard: u16) -> u64 {
        self.known.get(usize::from(shard)).map_or(0, |confirmed| confirmed.load(Ordering::Acquire))
    }

    /// Hears of what became durable, on the store's thread, and wakes whose it is.
    pub(crate) fn hear(shared: &Weak<Shared>, confirmed: &[Confirmed]) {
        let Some(shared) = shared.upgrade() else { return };
        for (shard, ticket) in confirmed {
            if let Some(known) = shared.confirmations.known.get(usize::from(*shard)) {
                known.fetch_max(*ticket, Ordering::AcqRel);
            }
            // What is past wakes the first shard, which looks after it.
            let woken = if *shard < shared.cores() { *shard } else { 0 };
            shared.mesh.ring(ShardId(woken));
        }
        shared.confirmations.heard.1.notify_all();
    }

    /// Waits until something is confirmed, or so long.
    pub(crate) fn await_more(&self, patience: Duration) {
        let heard = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether there is room now is asked next, whatever woke us.
        drop(self.heard.1.wait_timeout(heard, patience));
    }
}

/// An event id that a message waits for: the message's number, the id's mark, and from when on it counts.
type Doubt = (u64, [u64; 2], u64);
/// What goes on, on its thread.
type Going = Box<dyn FnOnce(&Rc<Thread>)>;

/// What waits until the store has heard of all that came before it.
enum Then {
    /// A session is asked for.
    Ask(SessionId),
    /// An operator's question goes on.
    GoOn(Going),
}

impl std::fmt::Debug for Then {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Then")
    }
}

/// One shard's side of the store.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) store: Store,
    /// Sessions that the store is asked for.
    pub(crate) loads: Loads,
    /// What was saved and not handed over, the number of the last of it, and its bytes.
    ops: RefCell<Vec<Op>>,
    last: Cell<u64>,
    bytes: Cell<usize>,
    bytes_max: usize,
    confirmed: Cell<u64>,
    /// What was saved of each session last, and is not confirmed; and in the order of the numbers.
    unconfirmed: RefCell<HashMap<Key, u64>>,
    unconfirmed_order: RefCell<VecDeque<(u64, Key)>>,
    /// What goes on once this number is confirmed.
    asked: RefCell<VecDeque<(u64, Then)>>,
    /// Sessions that are asked for once the store has all rows of earlier runs.
    asked_of_past: RefCell<Vec<SessionId>>,
    /// Event ids that are asked for once the store has what earlier runs left for it.
    doubted: RefCell<VecDeque<Doubt>>,
    /// When rows are offered again.
    again: Cell<Option<Time>>,
    is_full: Cell<bool>,
    dropped: Cell<u64>,
    /// Dead letters that were tried again or dropped lately: the store may not know yet.
    taken_up: RefCell<VecDeque<u64>>,
}

impl Keeper {
    pub(crate) fn new(store: Store, bytes_max: usize) -> Self {
        Self {
            store,
            loads: Loads::default(),
            ops: RefCell::default(),
            last: Cell::new(0),
            bytes: Cell::new(0),
            bytes_max,
            confirmed: Cell::new(0),
            unconfirmed: RefCell::default(),
            unconfirmed_order: RefCell::default(),
            asked: RefCell::default(),
            asked_of_past: RefCell::default(),
            doubted: RefCell::default(),
            again: Cell::new(None),
            is_full: Cell::new(false),
            dropped: Cell::new(0),
            taken_up: RefCell::default(),
        }
    }

    /// How new work stands that must be saved.
    pub(crate) fn state(&self) -> JournalState {
        if self.is_full.get() { JournalState::Full } else { JournalState::Open }
    }

    pub(crate) const fn store(&self) -> &Store {
        &self.store
    }

    /// Was this dead letter tried again, or dropped, a short while ago?
    pub(crate) fn was_taken_up(&self, uid: u64) -> bool {
        self.taken_up.borrow().contains(&uid)
    }

    /// Drops a dead letter.
    pub(crate) fn drop_letter(&self, uid: u64) {
        let mut taken_up = self.taken_up.borrow_mut();
        if taken_up.len() == TAKEN_UP_MAX {
            taken_up.pop_front();
        }
        taken_up.push_back(uid);
        drop(taken_up);
        self.push(Op::DeadDrop { uid }, None, true);
    }

    /// Rows that were dropped because too many waited; none that the journal keeps is among them.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// When the turn must be ended although nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.again.get()
    }

    /// Is everything handed over and confirmed?
    pub(crate) fn is_quiet(&self) -> bool {
        self.ops.borrow().is_empty() && self.last.get() <= self.confirmed.get()
    }

    fn push(&self, op: Op, key: Option<Key>, needed: bool) {
        let bytes = self.bytes.get() + op.bytes();
        if !needed && self.bytes_max < bytes {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        self.bytes.set(bytes);
        self.ops.borrow_mut().push(op);
        if let Some(key) = key {
            self.unconfirmed_order.borrow_mut().push_back((self.last.get(), key.clone()));
            self.unconfirmed.borrow_mut().insert(key, self.last.get());
        }
    }

    fn on_confirmed(&self, confirmed: u64) {
        self.confirmed.set(confirmed);
        let (mut order, mut last) = (self.unconfirmed_order.borrow_mut(), self.unconfirmed.borrow_mut());
        while let Some((save, key)) = order.pop_front_if(|(save, _)| *save <= confirmed) {
            if last.get(&key) == Some(&save) {
                last.remove(&key);
            }
        }
    }

    /// Offers what waits. True if that changed whether too much waits.
    fn offer(&self, shard: u16, now: Time) -> bool {
        let mut ops = self.ops.borrow_mut();
        if !ops.is_empty() {
            if self.store.offer(shard, self.last.get(), &mut ops).is_ok() {
                self.bytes.set(0);
                self.again.set(None);
            } else {
                self.again.set(Some(now + AGAIN));
            }
        }
        let is_full = self.bytes_max < self.bytes.get();
        self.is_full.replace(is_full) != is_full
    }
}

/// Takes what a shard saves.
pub(crate) fn save(
    thread: &Rc<Thread>,
    save: u64,
    session: SessionId,
    needed: bool,
    saved: Saved,
    effects: &Effects,
) {
    let Some(keeper) = thread.keeper.get() else { return };
    keeper.last.set(save);
    let (op, key) = match saved {
        Saved::Said { uid, text, reply } => {
            let Some(key) = key_of(thread, session) else { return };
            let at = uid.micros() / 1_000;
            let said = |role, text: &str| {
                let said = Said { uid: uid.0, role, text: text.to_owned(), unix_millis: at };
                Op::Said { key: key.clone(), said }
            };
            let text = effects.text(text);
            if !text.is_empty() {
                keeper.push(said(Role::User, text), None, needed);
            }
            (said(Role::Agent, effects.text(reply)), Some(key))
        }
        Saved::Session { revision, history_from } => {
            let Some(row) = row_of(thread, session, revision.0, history_from.0) else { return };
            let key = row.key();
            (Op::Session(Box::new(row)), Some(key))
        }
        Saved::Closed { revision } => {
            let Some(key) = key_of(thread, session) else { return };
            (Op::Close { key: key.clone(), revision: revision.0, before: revision.0 }, Some(key))
        }
        Saved::Seen { mark, unix_millis } => (Op::Seen { mark: mark_bytes(mark), unix_millis }, None),
        Saved::Dead(dead) => {
            let Some(letter) = letter_of(&dead, effects) else { return };
            keeper.taken_up.borrow_mut().retain(|uid| *uid != letter.uid);
            (Op::Dead(Box::new(letter)), None)
        }
        Saved::Revived { uid } => return keeper.drop_letter(uid.0),
    };
    keeper.push(op, key, needed);
}

/// A mark as the store has it: the conversation's hash first, so that a page says whose its marks are.
pub(crate) fn mark_bytes(mark: [u64; 2]) -> Mark {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mark[0].to_be_bytes());
    bytes[8..].copy_from_slice(&mark[1].to_be_bytes());
    bytes
}

/// The reverse of [`mark_bytes`].
pub(crate) fn mark_words(mark: &Mark) -> [u64; 2] {
    let word = |at: usize| mark[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    [word(0), word(8)]
}

fn party<'a>(address: &Address<'a>) -> &'a str {
    match address.scope {
        Scope::Direct => address.peer,
        Scope::Group => address.chat,
    }
}

pub(crate) fn key_of(thread: &Thread, session: SessionId) -> Option<Key> {
    let shard = thread.shard.borrow();
    let address = shard.address(session)?;
    Some(Key::new(shard.channel_name(session), address.scope, party(&address), address.thread))
}

fn row_of(thread: &Thread, session: SessionId, revision: u64, history_from: u64) -> Option<SessionRow> {
    let shard = thread.shard.borrow();
    let (view, memory) = (shard.session_to_save(session)?, shard.memory(session)?);
    let ago = |at: Time| u64::try_from(thread.now().since(at).as_millis()).unwrap_or(0);
    let now = unix_millis();
    let agent = view.agent.filter(|_| view.assigned);
    let address = view.address;
    Some(SessionRow {
        channel: shard.channel_name(session).to_owned(),
        scope: address.scope,
        party: party(&address).to_owned(),
        thread: address.thread.to_owned(),
        chat: address.chat.to_owned(),
        name: String::new(),
        agent: agent.map(|agent| thread.gateway().plan.agent(agent).name.as_ref().to_owned()),
        running_mode: view.running_mode.map(|mode| mode.name().to_owned()),
        state: State::Active,
        context: memory.variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        tools: Vec::new(),
        messages: u64::from(view.messages),
        created_millis: match view.created_millis {
            0 => now.saturating_sub(ago(view.created)),
            known => known,
        },
        active_millis: now.saturating_sub(ago(view.active)),
        history_from,
        revision,
    })
}

fn letter_of(dead: &Dead, effects: &Effects) -> Option<DeadLetter> {
    let Dead { record, code, attempts, answered, parts, detail, reply } = *dead;
    let Some(Record::Accepted(accepted)) = Record::decode(effects.bytes(record)) else { return None };
    let reply = answered.then(|| effects.text(reply));
    Some(letter(&accepted, code, (attempts, effects.text(detail)), reply, parts))
}

/// A dead letter as the store has it.
pub(crate) fn letter(
    accepted: &Accepted<'_>,
    code: Code,
    (attempts, detail): (u16, &str),
    reply: Option<&str>,
    parts: u16,
) -> DeadLetter {
    DeadLetter {
        uid: accepted.uid.0,
        channel: accepted.channel.to_owned(),
        scope: accepted.scope,
        peer: accepted.peer.to_owned(),
        chat: accepted.chat.to_owned(),
        thread: accepted.thread.to_owned(),
        name: accepted.name.to_owned(),
        event: accepted.id.to_owned(),
        text: accepted.text.to_owned(),
        outbound: accepted.outbound,
        reply: reply.map(str::to_owned),
        next_part: u32::from(parts),
        code: code.name().to_owned(),
        detail: detail.to_owned(),
        attempts: u32::from(attempts),
        accepted_millis: accepted.unix_millis,
        failed_millis: unix_millis(),
    }
}

/// Asks the store for a session.
pub(crate) fn load(thread: &Rc<Thread>, session: SessionId) {
    let Some(keeper) = thread.keeper.get() else { return };
    let Some(key) = key_of(thread, session) else { return };
    if thread.shared.kept.get().is_some_and(|kept| kept.is_behind(&key)) {
        let mut asked = keeper.asked_of_past.borrow_mut();
        if !asked.contains(&session) {
            asked.push(session);
        }
        return;
    }
    let after = keeper.unconfirmed.borrow().get(&key).copied();
    match after.filter(|after| keeper.confirmed.get() < *after) {
        Some(after) => keeper.asked.borrow_mut().push_back((after, Then::Ask(session))),
        None => loads::ask(thread, keeper, session),
    }
}

/// Goes on once the store has all that this shard saved of this conversation, or of all of them; at once if it has.
pub(crate) fn once_saved(thread: &Rc<Thread>, key: Option<&Key>, then: impl FnOnce(&Rc<Thread>) + 'static) {
    let Some(keeper) = thread.keeper.get() else { return then(thread) };
    let last = match key {
        Some(key) => keeper.unconfirmed.borrow().get(key).copied().unwrap_or(0),
        None => keeper.last.get(),
    };
    if last <= keeper.confirmed.get() {
        return then(thread);
    }
    keeper.asked.borrow_mut().push_back((last, Then::GoOn(Box::new(then))));
}

/// Asks the store whether it knows an event id. Before it has what earlier runs left for it, it could not say.
pub(crate) fn look_up(thread: &Rc<Thread>, lookup: u64, mark: [u64; 2], since_millis: u64) {
    let Some(keeper) = thread.keeper.get() else { return };
    let doubt = (lookup, mark, since_millis);
    if thread.shared.kept.get().is_some_and(Kept::has_saved_rows) {
        look_up_now(thread, keeper, doubt);
    } else {
        // No more messages wait, and the patience of the first ends first: that is the shard's to know.
        let mut doubted = keeper.doubted.borrow_mut();
        doubted.push_back(doubt);
        if (thread.gateway().plan.limits.lookups_max as usize) < doubted.len() {
            doubted.pop_front();
        }
    }
}

fn look_up_now(thread: &Rc<Thread>, keeper: &Keeper, (lookup, mark, since_millis): Doubt) {
    let query = Query::WasSeen { mark: mark_bytes(mark), since_millis };
    ask(thread, keeper, query, lookup, |there, lookup, answer| {
        let sight = match answer {
            Some(Answer::WasSeen(None)) => Sight::Never,
            Some(Answer::WasSeen(Some(unix_millis))) => Sight::At { unix_millis },
            Some(_) | None => Sight::Unknown,
        };
        there.handle(Event::Sighted { lookup, sight });
    });
}

/// Asks the store, and tells the shard what it says of `about`; without an answer where too many questions wait.
pub(crate) fn ask<T: Clone + Send + 'static>(
    thread: &Rc<Thread>,
    keeper: &Keeper,
    query: Query,
    about: T,
    tell: fn(&Rc<Thread>, T, Option<Answer>),
) {
    let (shared, shard, asked) = (thread.shared.clone(), thread.id, about.clone());
    let reply = move |answer: Result<Answer, Trouble>| {
        let errand: Errand = Box::new(move |there: &Rc<Thread>| {
            there.touch();
            tell(there, asked, answer.ok());
        });
        // Where too many errands wait the shard hears nothing, and its own deadline tells it.
        let _ = shared.mesh.errand(shard, errand);
    };
    if keeper.store.read(query, thread.gateway().plan.limits.load_age_max, reply).is_err() {
        // Not at once: effects are being carried out.
        let errand = Box::new(move |there: &Rc<Thread>| tell(there, about, None));
        thread.outgoing.borrow_mut().letter(thread.id, Letter::Errand(errand));
    }
}

/// The end of a turn: what was saved is handed over, what was confirmed becomes an event.
pub(crate) fn turn(thread: &Rc<Thread>) {
    let Some(keeper) = thread.keeper.get() else { return };
    let confirmed = thread.shared.confirmations.of(thread.id.0);
    if keeper.confirmed.get() < confirmed {
        keeper.on_confirmed(confirmed);
        thread.handle(Event::Saved { save: confirmed });
        loop {
            let next = keeper.asked.borrow_mut().pop_front_if(|(after, _)| *after <= confirmed);
            match next {
                Some((_, Then::Ask(session))) => loads::ask(thread, keeper, session),
                Some((_, Then::GoOn(then))) => then(thread),
                None => break,
            }
        }
    }
    if thread.shared.kept.get().is_some_and(Kept::has_saved_rows) {
        for session in keeper.asked_of_past.take() {
            load(thread, session);
        }
        for doubt in keeper.doubted.take() {
            look_up_now(thread, keeper, doubt);
        }
    }
    if keeper.offer(thread.id.0, thread.now()) {
        tell_state(thread);
    }
}

/// Tells the shard how work stands that must be written and saved: as the worse of the journal and the store.
pub(crate) fn tell_state(thread: &Rc<Thread>) {
    let journal = thread.journal.get().map_or(JournalState::Open, Journal::state);
    let keeper = thread.keeper.get().map_or(JournalState::Open, Keeper::state);
    let state = match (journal, keeper) {
        (JournalState::Failed, _) | (_, JournalState::Failed) => JournalState::Failed,
        (JournalState::Full, _) | (_, JournalState::Full) => JournalState::Full,
        (JournalState::Open, JournalState::Open) => JournalState::Open,
    };
    if keeper != JournalState::Open && journal == JournalState::Open {
        tracing::warn!(
            shard = thread.id.0,
            "the store does not keep up: new work that must be kept is refused; see `limits.unsavedBytesMax`"
        );
    }
    thread.handle(Event::Journal { state });
}

/// How often what is old is looked for in the store.
const CHORES_EVERY: Duration = Duration::from_secs(3_600);
/// Sessions that are archived at once.
const ARCHIVED_AT_ONCE: usize = 500;
/// The store may take this long for one of its chores.
const CHORE_PATIENCE: Duration = Duration::from_secs(60);

/// Has the store forget ids that are too old, and archive sessions that nobody spoke in for long. On one thread.
pub(crate) async fn chores_task(thread: Rc<Thread>, archive_age_min: Duration) {
    loop {
        crate::driver::sleep(CHORES_EVERY).await;
        thread.touch();
        let Some(keeper) = thread.keeper.get() else { return };
        let before =
            |age: Duration| unix_millis().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let before_millis = before(thread.gateway().plan.limits.dedup_age_max);
        let told = |answer: Result<Answer, Trouble>| {
            if let Err(trouble) = answer {
                tracing::warn!(%trouble, "the store could not forget what is old; it is tried again in an hour");
            }
        };
        // One that finds no room is tried again in an hour.
        let _ = keeper.store.read(Query::ForgetSeen { before_millis }, CHORE_PATIENCE, told);
        archive(&keeper.store, before(archive_age_min));
    }
}

/// Archives sessions, so many at a time, until none is old enough.
fn archive(store: &Store, before_millis: u64) {
    let (again, query) = (store.clone(), Query::Expire { before_millis, sessions_max: ARCHIVED_AT_ONCE });
    let told = move |answer: Result<Answer, Trouble>| match answer {
        Ok(Answer::Expired { sessions, more }) => {
            tracing::info!(sessions, "sessions were archived");
            if more && sessions != 0 {
                archive(&again, before_millis);
            }
        }
        Ok(_) => {}
        Err(trouble) => {
            tracing::warn!(%trouble, "sessions could not be archived; it is tried again in an hour")
        }
    };
    let _ = store.read(query, CHORE_PATIENCE, told);
}
