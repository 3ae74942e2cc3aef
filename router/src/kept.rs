//! What outlives the process, opened before the shards begin: the secret, the journal of earlier runs, the store. What
//! the records of earlier runs add up to becomes rows for the store and turns that go on.
//!
//! The files of earlier runs go once the turns that were not over are written anew and the store has confirmed the rows.
use crate::clock::unix_millis;
use crate::config::Config;
use crate::data::Folder;
use crate::driver;
use crate::gateway::{Gateway, Shared};
use crate::journal::{self, Journals, past};
use crate::keep::{self, Confirmations, Keeper, mark_bytes, mark_words};
use crate::recall::{self, Rest};
use crate::side::Side;
use crate::store::{Answer, CursorRow, Health, Key, Op, Query, Said, SessionRow, State, Store};
use crate::thread::Thread;
use clawgate_core::codes::Code;
use clawgate_core::dedup::mark;
use clawgate_core::event::{Event, Scope};
use clawgate_core::home::{Secret, home, session_hash};
use clawgate_core::id::{Client, ShardId, Uid};
use clawgate_core::links;
use clawgate_core::log::Start;
use clawgate_core::past::{Fact, Left, Past};
use clawgate_core::record::{Accepted, Forgot};
use clawgate_core::view::Role;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Rows of earlier runs that are handed to the store at once.
const BATCH_OPS: usize = 512;
/// How long the start waits for a store that does not take rows of earlier runs; then they wait in memory.
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// The start waits so long for the latest name that the store knows.
const UID_PATIENCE: Duration = Duration::from_secs(5);
const UID_PATIENCE_IF_DOWN: Duration = Duration::from_millis(200);
/// How long the end waits for the store.
const STORE_CLOSE_AGE_MAX: Duration = Duration::from_secs(5);

/// What outlives the process.
#[derive(Debug)]
pub(crate) struct Kept {
    /// What sessions and event ids are hashed with.
    pub(crate) secret: Secret,
    pub(crate) journals: Option<Journals>,
    pub(crate) store: Store,
    /// The thread of the store's lines and of the watch over its deadlines: it ends with its last handle.
    _side: Side,
    /// Held by whoever offers refused rows again.
    pub(crate) retrying: Mutex<()>,
    /// Sessions that nobody spoke in for longer are archived.
    archive_age_min: Duration,
    /// Every turn of this run has a later name.
    uid_after: Uid,
    /// What each shard takes up, until it does.
    shares: Mutex<Vec<Share>>,
    /// Rows of earlier runs that the store has not taken, and the number under which the last of them is confirmed.
    rows: Mutex<Rows>,
    /// That all of them are confirmed, for those who ask often.
    rows_saved: AtomicBool,
    /// Event ids that the store remembers and the shards were not told.
    untold: Option<Rest>,
}

/// What one shard takes up of earlier runs.
#[derive(Debug, Default)]
struct Share {
    left: Vec<Left>,
    marks: Vec<([u64; 2], u64)>,
    /// Sessions that were closed, by their hashes.
    closed: Vec<(u64, Uid)>,
    endings: Vec<([u64; 2], Result<String, Code>)>,
}

/// Rows of earlier runs on their way to the store.
#[derive(Debug, Default)]
struct Rows {
    waiting: Vec<Op>,
    /// Sessions among them, until all rows are confirmed.
    sessions: HashSet<Key>,
    /// Batches handed over.
    handed: u64,
    is_confirmed: bool,
}

impl Kept {
    /// Opens what is configured. The data directory, if there is one, is ours.
    ///
    /// # Errors
    /// In words for the operator.
    pub(crate) fn open(
        folder: Option<&Folder>,
        config: &Config,
        gateway: &Gateway,
        shared: &Arc<Shared>,
    ) -> Result<Self, String> {
        let shards = shared.cores();
        let secret = match folder {
            None => *shared.secret(),
            Some(folder) => {
                let bytes = folder.secret()?;
                let word =
                    |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
                Secret([word(0), word(8)])
            }
        };
        let (store, side) = open_store(config, shared)?;
        let shares = (0..shards).map(|_| Share::default()).collect();
        let (rows, closed) = (Rows::default(), HashMap::new());
        let mut reading = Reading { secret, store: &store, shares, rows, closed, shared, gateway };
        let (marks, untold) = recall::begin(&store, &gateway.plan.limits, shared.clock);
        for (bytes, at) in marks {
            let words = mark_words(&bytes);
            reading.share_of(words[0]).marks.push((words, at));
        }
        let mut past = Past::new();
        let journals = match folder.filter(|_| config.journal.enabled) {
            None => None,
            Some(folder) => {
                let path = folder.below("journal")?;
                let mut unknown = 0_u64;
                let read = past::read(&path, |record| {
                    let known = past.take(record.payload, &mut |fact| reading.take(&fact));
                    unknown += u64::from(!known);
                })?;
                if unknown != 0 {
                    tracing::error!(
                        unknown,
                        "records of the journal are of a kind that this version does not know"
                    );
                }
                let journals = Journals::start(path, &config.journal, read, shards)
                    .map_err(|why| format!("the journal cannot be begun: {why}"))?;
                Some(journals)
            }
        };
        let uid_after = past.last().max(last_uid(&store));
        let restored = past.into_left().map(|left| reading.share(left)).filter(|shared| *shared).count();
        reading.hand_over();
        if restored != 0 {
            tracing::info!(turns = restored, "what was not answered before the last stop goes on");
        }
        let Reading { shares, rows, .. } = reading;
        let (shares, rows) = (Mutex::new(shares), Mutex::new(rows));
        Ok(Self {
            secret,
            journals,
            store,
            _side: side,
            retrying: Mutex::default(),
            archive_age_min: config.store.archive_age_min,
            uid_after,
            shares,
            rows,
            rows_saved: AtomicBool::new(false),
            untold,
        })
    }

    /// Are all rows of earlier runs confirmed?
    pub(crate) fn has_saved_rows(&self) -> bool {
        self.rows_saved.load(Ordering::Acquire)
    }

    /// Does the store not know yet what earlier runs left of this session?
    pub(crate) fn is_behind(&self, key: &Key) -> bool {
        !self.has_saved_rows()
            && self.rows.lock().unwrap_or_else(PoisonError::into_inner).sessions.contains(key)
    }

    /// How long a session must be silent before it leaves the store, milliseconds.
    pub(crate) fn archive_millis(&self) -> u64 {
        u64::try_from(self.archive_age_min.as_millis()).unwrap_or(u64::MAX)
    }

    /// Hands rows over that were refused before: the number under which they are confirmed as past. `None` where the store
    /// does not take them now.
    pub(crate) fn offer_again(&self, shared: &Shared, ops: &mut Vec<Op>) -> Option<u64> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if !rows.waiting.is_empty() {
            return None;
        }
        self.store.offer(shared.confirmations.past(), rows.handed + 1, ops).ok()?;
        rows.handed += 1;
        Some(rows.handed)
    }

    /// Hands rows of earlier runs over that the store did not take before; true once all are confirmed. Asked by one
    /// shard.
    fn rows_are_confirmed(&self, shared: &Shared) -> bool {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.is_confirmed {
            return false;
        }
        if !rows.waiting.is_empty() {
            rows.offer(&self.store, shared.confirmations.past());
        }
        rows.is_confirmed = rows.waiting.is_empty() && rows.handed <= shared.confirmations.of_past();
        if rows.is_confirmed {
            rows.sessions = HashSet::new();
            self.rows_saved.store(true, Ordering::Release);
        }
        rows.is_confirmed
    }

    /// Ends the store: what waits is written, within bounds. What others may find in the data directory does not change
    /// any more.
    pub(crate) fn close(&self) {
        if !self.store.close(STORE_CLOSE_AGE_MAX) {
            tracing::warn!(
                "the store did not take all in time: what the journal has of it is handed over at the next start"
            );
        }
        if let Some(journals) = &self.journals {
            journals.settle();
        }
    }
}

impl Rows {
    fn offer(&mut self, store: &Store, shard: u16) {
        if store.offer(shard, self.handed + 1, &mut self.waiting).is_ok() {
            self.handed += 1;
        }
    }
}

fn open_store(config: &Config, shared: &Arc<Shared>) -> Result<(Store, Side), String> {
    let side = Side::start().map_err(|why| format!("the side thread cannot be started: {why}"))?;
    let weak = Arc::downgrade(shared);
    let store = Store::start(&config.store.plan, &side, shared.clock, move |confirmed| {
        Confirmations::hear(&weak, confirmed)
    })
    .map_err(|why| format!("the store cannot be opened: {why}"))?;
    Ok((store, side))
}

/// The latest name that the store was ever told: where the journal is gone, or the clock was set back, nobody else knows
/// it.
fn last_uid(store: &Store) -> Uid {
    // One that is down was waited for before.
    let patience = if store.health() == Health::Ok { UID_PATIENCE } else { UID_PATIENCE_IF_DOWN };
    let (answer, answered) = sync_channel(1);
    let asked = store.read(Query::LastUid, patience, move |said| drop(answer.send(said)));
    let said = asked.ok().and_then(|()| answered.recv_timeout(UID_PATIENCE).ok());
    if let Some(Ok(Answer::LastUid(uid))) = said {
        return Uid(uid);
    }
    tracing::warn!(
        "the store does not say which names it knows: new ones follow the journal's and the clock"
    );
    Uid(0)
}

/// The journal of earlier runs while it is read.
struct Reading<'a> {
    secret: Secret,
    store: &'a Store,
    shares: Vec<Share>,
    rows: Rows,
    /// When each session was closed last, by its hash: an end that is told once more may say what was said before.
    closed: HashMap<u64, Uid>,
    shared: &'a Shared,
    gateway: &'a Gateway,
}

impl Reading<'_> {
    fn hash(&self, accepted: &Accepted<'_>) -> u64 {
        let Accepted { channel, scope, peer, chat, thread, .. } = *accepted;
        match self.gateway.channel(channel) {
            Some(id) => self.gateway.plan.hash(&self.secret, id, scope, peer, chat, thread),
            None => session_hash(&self.secret, channel, scope, peer, chat, thread),
        }
    }

    fn mark(&self, accepted: &Accepted<'_>) -> [u64; 2] {
        let (hash, Accepted { channel, scope, peer, id, .. }) = (self.hash(accepted), *accepted);
        match self.gateway.channel(channel) {
            Some(channel) => self.gateway.plan.mark(&self.secret, channel, scope, peer, (hash, id)),
            None => mark(&self.secret, hash, id),
        }
    }

    /// Under which name the store has its session.
    fn key(&self, accepted: &Accepted<'_>) -> Key {
        key(&self.owner(accepted))
    }

    /// As it would be if its person had written on the channel that linked conversations are kept under.
    fn owner<'a>(&'a self, accepted: &Accepted<'a>) -> Accepted<'a> {
        let Accepted { channel, scope, peer, .. } = *accepted;
        let id = self.gateway.channel(channel);
        match id.and_then(|id| self.gateway.plan.links.person(id, scope, peer)) {
            None => *accepted,
            Some((channel, peer)) => {
                Accepted { channel: &self.gateway.plan.channel(channel).name, peer, ..*accepted }
            }
        }
    }

    /// Its session, as far as the message tells of it.
    fn session(&self, accepted: &Accepted<'_>) -> SessionRow {
        let owner = self.owner(accepted);
        let mut row = bare_session(&owner);
        if owner.channel != accepted.channel {
            row.chat = links::origin(accepted.channel, accepted.peer, accepted.chat);
        }
        row
    }

    fn share_of(&mut self, hash: u64) -> &mut Share {
        let shard = home(hash, self.shared.cores());
        &mut self.shares[usize::from(shard.0)]
    }

    fn take(&mut self, fact: &Fact<'_>) {
        match *fact {
            Fact::Seen(accepted) => {
                let mark = self.mark(&accepted);
                self.share_of(mark[0]).marks.push((mark, accepted.unix_millis));
                self.push(Op::Seen { mark: mark_bytes(mark), unix_millis: accepted.unix_millis });
            }
            Fact::Said { ref accepted, reply } => self.said(accepted, reply),
            Fact::Dead { ref accepted, code, attempts, detail, reply, parts } => {
                let letter = keep::letter(accepted, code, (attempts, detail), reply, parts);
                self.push(Op::Dead(Box::new(letter)));
            }
            Fact::Ended { ref accepted, ending } => {
                let mark = self.mark(accepted);
                self.share_of(mark[0]).endings.push((mark, ending.map(str::to_owned)));
            }
            Fact::EndedAs { mark, ending } => {
                self.share_of(mark[0]).endings.push((mark, ending.map(str::to_owned)));
            }
            Fact::Mark { mark, unix_millis } => {
                self.share_of(mark[0]).marks.push((mark, unix_millis));
                self.push(Op::Seen { mark: mark_bytes(mark), unix_millis });
            }
            Fact::Revived(uid) => self.push(Op::DeadDrop { uid: uid.0 }),
            Fact::Forgot(ref forgot) => self.forgot(forgot),
            Fact::Cursor { channel, value } => self.push(Op::Cursor(CursorRow {
                channel: channel.to_owned(),
                value: value.to_owned(),
                revision: unix_millis(),
            })),
        }
    }

    fn said(&mut self, accepted: &Accepted<'_>, reply: &str) {
        if self.closed.get(&self.hash(accepted)).is_some_and(|closed| accepted.uid < *closed) {
            return;
        }
        let key = self.key(accepted);
        let at = accepted.unix_millis;
        // The session may never have been saved itself; where it was, that row is newer.
        self.push(Op::Session(Box::new(self.session(accepted))));
        let said = |role, text: &str| {
            let said = Said { uid: accepted.uid.0, role, text: text.to_owned(), unix_millis: at };
            Op::Said { key: key.clone(), said }
        };
        if !accepted.text.is_empty() {
            self.push(said(Role::User, accepted.text));
        }
        self.push(said(Role::Agent, reply));
    }

    /// A session was reset or closed: what was told of it before goes again.
    fn forgot(&mut self, forgot: &Forgot<'_>) {
        let accepted = Accepted {
            scope: forgot.scope,
            channel: forgot.channel,
            peer: forgot.peer,
            chat: forgot.chat,
            thread: forgot.thread,
            ..Accepted::default()
        };
        if forgot.closed {
            let hash = forgot.session_hash(&self.secret);
            self.share_of(hash).closed.push((hash, forgot.uid));
            self.closed.insert(hash, forgot.uid);
            let Uid(revision) = forgot.uid;
            self.push(Op::Close { key: key(&accepted), revision, before: revision });
            return;
        }
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        self.push(Op::Session(Box::new(SessionRow {
            agent: text(forgot.agent),
            running_mode: text(forgot.mode),
            messages: u64::from(forgot.messages),
            created_millis: forgot.created_millis,
            active_millis: forgot.active_millis,
            history_from: forgot.from.0,
            revision: forgot.uid.0,
            ..bare_session(&accepted)
        })));
    }

    /// Gives a turn to the shard that it lives on.
    fn share(&mut self, left: Left) -> bool {
        let Some(restored) = left.restored() else { return false };
        let accepted = restored.accepted;
        if restored.history && restored.reply.is_some() {
            // What was said is saved again. Without its session nobody would find it, and that may never have been saved.
            self.push(Op::Session(Box::new(self.session(&accepted))));
        }
        let hash = self.hash(&accepted);
        self.share_of(hash).left.push(left);
        true
    }

    fn push(&mut self, op: Op) {
        match &op {
            Op::Said { key, .. } => drop(self.rows.sessions.insert(key.clone())),
            Op::Session(row) => drop(self.rows.sessions.insert(row.key())),
            Op::Close { .. } | Op::Seen { .. } | Op::Dead(_) | Op::DeadDrop { .. } | Op::Cursor(_) => {}
        }
        self.rows.waiting.push(op);
        if self.rows.waiting.len() == BATCH_OPS {
            self.hand_over();
        }
    }

    /// Hands over what waits. A store that works and only has much to do is waited for.
    fn hand_over(&mut self) {
        let deadline = self.shared.clock.now() + STORE_PATIENCE;
        while !self.rows.waiting.is_empty() {
            self.rows.offer(self.store, self.shared.confirmations.past());
            let works = self.store.health() == Health::Ok;
            if self.rows.waiting.is_empty() || !works || deadline <= self.shared.clock.now() {
                return;
            }
            self.shared.confirmations.await_more(Duration::from_millis(50));
        }
    }
}

fn key(accepted: &Accepted<'_>) -> Key {
    Key::new(accepted.channel, accepted.scope, party(accepted), accepted.thread)
}

const fn party<'a>(accepted: &Accepted<'a>) -> &'a str {
    match accepted.scope {
        Scope::Direct => accepted.peer,
        Scope::Group => accepted.chat,
    }
}

fn bare_session(accepted: &Accepted<'_>) -> SessionRow {
    SessionRow {
        channel: accepted.channel.to_owned(),
        scope: accepted.scope,
        party: party(accepted).to_owned(),
        thread: accepted.thread.to_owned(),
        chat: accepted.chat.to_owned(),
        name: String::new(),
        agent: None,
        running_mode: None,
        state: State::Active,
        context: Vec::new(),
        tools: Vec::new(),
        messages: 1,
        created_millis: accepted.unix_millis,
        active_millis: accepted.unix_millis,
        history_from: 0,
        revision: 1,
    }
}

/// Begins this thread's shard with what it takes up of earlier runs, before anything is admitted.
pub(crate) fn begin(thread: &Rc<Thread>) {
    let Some(kept) = thread.shared.kept.get() else { return };
    let since_start = thread.clock.now().0 / 1_000;
    let start = Start {
        secret: kept.secret,
        unix_micros: (unix_millis() * 1_000).saturating_sub(since_start),
        uid_after: kept.uid_after,
        lsn: journal::FIRST_LSN,
        journal: kept.journals.is_some(),
        store: true,
        outlives: kept.store.outlives(),
    };
    thread.shard.borrow_mut().begin_with(&start);
    let bytes_max = thread.gateway().limits.unsaved_bytes_max / usize::from(thread.shared.cores());
    // It is begun once.
    let _ = thread.keeper.set(Keeper::new(kept.store.clone(), bytes_max));
    journal::begin(thread);
    let share = {
        let mut shares = kept.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.get_mut(usize::from(thread.id.0)).map(std::mem::take).unwrap_or_default()
    };
    {
        let mut shard = thread.shard.borrow_mut();
        share.marks.iter().for_each(|(mark, at)| shard.remember_mark(*mark, *at));
        if kept.untold.is_none() {
            shard.remembers_since(None);
        }
        share.closed.iter().for_each(|(hash, uid)| shard.remember_closed(*hash, *uid));
        for (mark, ending) in &share.endings {
            shard.keep_ending_before(*mark, ending.as_deref().map_err(|code| *code));
        }
    }
    for left in &share.left {
        if let Some(restored) = left.restored() {
            thread.handle(Event::Restore { client: Client::NOBODY, restored: &restored });
        }
    }
    if let Some(journal) = thread.journal.get() {
        journal.took_over();
    }
    if thread.id.0 == 0 {
        driver::spawn(keep::chores_task(thread.clone(), kept.archive_age_min));
        if let Some(rest) = kept.untold {
            driver::spawn(recall::task(thread.clone(), rest));
        }
    }
}

/// Looks after the rows of earlier runs, on one shard.
pub(crate) fn turn(thread: &Rc<Thread>) {
    if thread.id.0 != 0 {
        return;
    }
    let Some(kept) = thread.shared.kept.get() else { return };
    if kept.rows_are_confirmed(&thread.shared) {
        journal::rows_saved(thread);
        // Sessions and messages may wait for that on any shard.
        (0..thread.shared.cores()).for_each(|core| thread.shared.mesh.ring(ShardId(core)));
    }
}
