//! The store in memory: for tests, and for who needs none. Bounded: beyond, the sessions that were idle for longest go,
//! and what may not be lost (dead letters, cursors, marks) is refused until there is room.
use super::backend::{Backend, Keep, MarkPage, Trouble, fitting};
use super::query::Loaded;
use super::row::{CursorRow, DeadLetter, Key, Mark, Op, Said, SessionRow, day_of, millis_of, role_number};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that a mark costs, about.
const MARK_BYTES: usize = 48;

/// How much there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bytes of all, about.
    pub(crate) bytes_max: usize,
    pub(crate) keep: Keep,
}

impl Place {
    /// An empty store; the lines that share it are opened with it.
    pub(super) fn instance(&self) -> Instance {
        Instance { place: self.clone(), tables: Arc::default() }
    }
}

/// A store in memory that lines open.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    place: Place,
    tables: Arc<Mutex<Tables>>,
}

/// One line to it.
#[derive(Debug)]
pub(super) struct Memory(Instance);

#[derive(Clone, Debug, Default)]
struct Conversation {
    /// Its own, for the order of activity.
    number: u64,
    session: Option<SessionRow>,
    said: BTreeMap<(u64, u8), Said>,
    active_millis: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Tables {
    conversations: BTreeMap<Key, Conversation>,
    /// By the time when somebody spoke last, and by number.
    active: BTreeMap<(u64, u64), Key>,
    last_number: u64,
    letters: BTreeMap<u64, DeadLetter>,
    cursors: BTreeMap<String, CursorRow>,
    marks: BTreeMap<u64, BTreeMap<Mark, u32>>,
    last_uid: u64,
    bytes: usize,
}

impl Tables {
    /// Changes a conversation, made if it is not there, and keeps the sums and the order of activity right. What is in
    /// its place stays there: with a million of them a way through the tree is what a change costs.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Conversation)) {
        let found = match self.conversations.get_mut(key) {
            Some(found) => found,
            None => {
                self.last_number += 1;
                let new = Conversation { number: self.last_number, ..Conversation::default() };
                self.active.insert((new.active_millis, new.number), key.clone());
                self.conversations.entry(key.clone()).or_insert(new)
            }
        };
        let before = found.active_millis;
        change(found);
        let rows = found.said.values().map(|said| said.text.len() + 96);
        let session = found.session.as_ref().map_or(0, SessionRow::bytes);
        let bytes = rows.sum::<usize>() + session + 2 * key.as_str().len();
        self.bytes = self.bytes + bytes - found.bytes;
        found.bytes = bytes;
        if found.active_millis != before
            && let Some(key) = self.active.remove(&(before, found.number))
        {
            self.active.insert((found.active_millis, found.number), key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(conversation) = self.conversations.remove(key) {
            self.active.remove(&(conversation.active_millis, conversation.number));
            self.bytes -= conversation.bytes;
        }
    }

    fn apply(&mut self, op: &Op, keep: Keep) {
        self.last_uid = self.last_uid.max(op.last_uid());
        match op {
            Op::Said { key, said } => self.change(key, |conversation| {
                let from = conversation.session.as_ref().map_or(0, |row| row.history_from);
                if from <= said.uid {
                    let place = (said.uid, role_number(said.role));
                    conversation.said.entry(place).or_insert_with(|| said.clone());
                }
                if conversation.session.is_none() {
                    conversation.active_millis = conversation.active_millis.max(said.unix_millis);
                }
            }),
            Op::Session(row) => self.change(&row.key(), |conversation| {
                if conversation.session.as_ref().is_none_or(|old| old.revision < row.revision) {
                    conversation.active_millis = row.active_millis;
                    conversation.said = conversation.said.split_off(&(row.history_from, 0));
                    conversation.session = Some((**row).clone());
                    if Keep::is_due(row) {
                        trim(conversation, keep);
                    }
                }
            }),
            Op::Close { key, revision, before } => {
                let Some(found) = self.conversations.get(key) else { return };
                if found.session.as_ref().is_some_and(|row| *revision < row.revision) {
                    return;
                }
                if found.said.range((*before, 0)..).next().is_none() {
                    self.remove(key);
                    return;
                }
                self.change(key, |conversation| {
                    conversation.session = None;
                    conversation.said = conversation.said.split_off(&(*before, 0));
                });
            }
            Op::Dead(letter) => {
                if !self.letters.contains_key(&letter.uid) {
                    self.bytes += op.bytes();
                    self.letters.insert(letter.uid, (**letter).clone());
                }
            }
            Op::DeadDrop { uid } => {
                if let Some(letter) = self.letters.remove(uid) {
                    self.bytes -= Op::Dead(Box::new(letter)).bytes();
                }
            }
            Op::Cursor(row) => {
                if self.cursors.get(&row.channel).is_none_or(|old| old.revision < row.revision) {
                    self.bytes += op.bytes();
                    if let Some(old) = self.cursors.insert(row.channel.clone(), row.clone()) {
                        self.bytes -= Op::Cursor(old).bytes();
                    }
                }
            }
            Op::Seen { mark, unix_millis } => {
                let (day, millis) = day_of(*unix_millis);
                let of_day = self.marks.entry(day).or_default();
                if !of_day.contains_key(mark) {
                    of_day.insert(*mark, millis);
                    self.bytes += MARK_BYTES;
                }
            }
        }
    }
}

fn trim(conversation: &mut Conversation, keep: Keep) {
    let lengths = conversation.said.values().rev().map(|said| said.text.len());
    let kept = fitting(lengths, keep.messages_max, keep.bytes_max);
    for _ in kept..conversation.said.len() {
        conversation.said.pop_first();
    }
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Memory {
    type Place = Instance;

    async fn open(place: &Self::Place, _: bool) -> Result<Self, Trouble> {
        Ok(Self(place.clone()))
    }

    async fn apply(&mut self, ops: &[Op]) -> Result<(), Trouble> {
        let Place { bytes_max, keep } = self.0.place;
        let mut tables = self.tables();
        let coming: usize = ops.iter().map(Op::bytes).sum();
        while bytes_max < tables.bytes + coming
            && let Some((_, key)) = tables.active.pop_first()
        {
            tables.remove(&key);
        }
        let needs_room = ops.iter().any(|op| matches!(op, Op::Dead(_) | Op::Seen { .. } | Op::Cursor(_)));
        if needs_room && bytes_max < tables.bytes + coming {
            let why = "the memory for the store is full of dead letters and marks: drop dead letters, or choose \
                       a store on disk";
            return Err(Trouble::Down(why.to_owned()));
        }
        for op in ops {
            tables.apply(op, keep);
        }
        Ok(())
    }

    async fn load(
        &mut self,
        key: &Key,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Loaded>, Trouble> {
        let tables = self.tables();
        let Some(conversation) = tables.conversations.get(key) else { return Ok(None) };
        let Some(session) = conversation.session.clone() else { return Ok(None) };
        let said = &conversation.said;
        let kept = fitting(said.values().rev().map(|said| said.text.len()), messages_max, bytes_max);
        let history = said.values().skip(said.len() - kept).cloned().collect();
        Ok(Some(Loaded { session, history }))
    }

    async fn sessions(
        &mut self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(Key, Option<SessionRow>)>, Trouble> {
        let tables = self.tables();
        let range = (Bound::Excluded(Key::stored(after)), Bound::Unbounded);
        let found = tables.conversations.range(range);
        let rows = found.filter_map(|(key, found)| found.session.clone().map(|row| (key.clone(), Some(row))));
        Ok(rows.take(limit).collect())
    }

    async fn idle(&mut self, before_millis: u64, limit: usize) -> Result<Vec<(Key, u64)>, Trouble> {
        let tables = self.tables();
        let idle = tables.active.range(..(before_millis, 0)).take(limit);
        let revision = |key: &Key| {
            let session = tables.conversations.get(key).and_then(|found| found.session.as_ref());
            session.map_or(0, |row| row.revision)
        };
        Ok(idle.map(|(_, key)| (key.clone(), revision(key))).collect())
    }

    async fn letters(
        &mut self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Option<DeadLetter>)>, Trouble> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let tables = self.tables();
        let found = tables.letters.range((begin, Bound::Unbounded)).take(limit);
        Ok(found.map(|(uid, letter)| (*uid, Some(letter.clone()))).collect())
    }

    async fn letter(&mut self, uid: u64) -> Result<Option<DeadLetter>, Trouble> {
        Ok(self.tables().letters.get(&uid).cloned())
    }

    async fn cursors(&mut self) -> Result<Vec<CursorRow>, Trouble> {
        Ok(self.tables().cursors.values().cloned().collect())
    }

    async fn seen_days(&mut self) -> Result<Vec<u64>, Trouble> {
        Ok(self.tables().marks.keys().copied().collect())
    }

    async fn seen(&mut self, day: u64, after: Option<Mark>, limit: usize) -> Result<MarkPage, Trouble> {
        let tables = self.tables();
        let Some(marks) = tables.marks.get(&day) else { return Ok((Vec::new(), None)) };
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found: Vec<_> =
            marks.range((begin, Bound::Unbounded)).take(limit).map(|(mark, at)| (*mark, *at)).collect();
        let next = found.last().filter(|_| found.len() == limit).map(|(mark, _)| *mark);
        Ok((found, next))
    }

    async fn was_seen(&mut self, mark: &Mark, first_day: u64) -> Result<Option<u64>, Trouble> {
        let tables = self.tables();
        let mut days = tables.marks.range(first_day..).rev();
        let found = days.find_map(|(day, marks)| Some((*day, *marks.get(mark)?)));
        Ok(found.map(|(day, millis)| millis_of(day, millis)))
    }

    async fn last_uid(&mut self) -> Result<u64, Trouble> {
        Ok(self.tables().last_uid)
    }

    async fn forget_day(&mut self, day: u64) -> Result<(), Trouble> {
        let mut tables = self.tables();
        let marks = tables.marks.remove(&day).map_or(0, |marks| marks.len());
        tables.bytes -= marks * MARK_BYTES;
        Ok(())
    }
}
