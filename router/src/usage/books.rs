//! The books: what all threads have counted, added up on a thread of their own, which also writes it down and answers
//! questions. No shard waits for it: a queue that is full leaves lines with whoever counted them.
use super::files::Files;
use super::{Day, Entry, Tally, day_of};
use crate::clock::unix_seconds;
use crate::config::limits::Limits;
use crate::data::Folder;
use crate::gateway::{Gateway, Shared};
use crate::thread::Thread;
use clawgate_core::id::ShardId;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Batches that wait for the thread; beyond, lines stay where they were counted.
const BATCHES_MAX: u64 = 256;

/// What one thread counted for one entry.
pub(crate) type Line = (Entry, Tally);

/// What somebody wants to know. Texts that are not given are any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    pub(crate) days: Option<RangeInclusive<Day>>,
    pub(crate) key: Option<String>,
    pub(crate) agent: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) session: Option<String>,
    /// What rows are told apart by.
    pub(crate) by: By,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
}

/// What rows are told apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) day: bool,
    pub(crate) key: bool,
    pub(crate) agent: bool,
    pub(crate) model: bool,
    pub(crate) session: bool,
}

/// The answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<Line>,
    /// Of all rows, also those of other pages.
    pub(crate) total: Tally,
    /// Rows follow behind these.
    pub(crate) more: bool,
}

/// What is done with an answer, on the asker's own thread.
type Heard = Box<dyn FnOnce(&Rc<Thread>, Answer) + Send>;

enum Command {
    Add(Vec<Line>),
    Ask { question: Box<Question>, asker: ShardId, shared: Arc<Shared>, heard: Heard },
    Close,
}

/// What the thread tells about itself.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rows: AtomicU64,
    /// Rows whose session was left out to make room.
    pub(crate) folded: AtomicU64,
    /// Times that a file could not be written.
    pub(crate) write_failures: AtomicU64,
    waiting: AtomicU64,
}

/// The way to the books.
#[derive(Debug)]
pub(crate) struct Books {
    commands: Mutex<Sender<Command>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) figures: Arc<Figures>,
}

impl Books {
    /// Opens them, with what earlier runs left in the data directory, and tells the keys' accounts what is used of today.
    ///
    /// # Errors
    /// In words for the operator.
    pub(crate) fn open(folder: Option<&Folder>, gateway: &Gateway) -> Result<Self, String> {
        let mut ledger = Rows::new(&gateway.limits);
        let today = day_of(unix_seconds());
        let files = match folder {
            Some(folder) => Some(Files::open(folder.below("usage")?, today, &mut ledger)?),
            None => None,
        };
        for (entry, tally) in ledger.of_days(today..=today) {
            if let Some(account) = gateway.keys.account_named(&entry.key) {
                account.requests.add(today, tally.requests);
                account.tokens.add(today, tally.tokens());
            }
        }
        let figures = Arc::new(Figures::default());
        let (commands, incoming) = channel();
        let keeper = Keeper { rows: ledger, files, figures: figures.clone() };
        let body = move || keeper.run(&incoming);
        let thread = std::thread::Builder::new().name("usage".to_owned()).spawn(body);
        let thread = thread.map_err(|why| format!("cannot start a thread: {why}"))?;
        Ok(Self { commands: Mutex::new(commands), thread: Mutex::new(Some(thread)), figures })
    }

    fn send(&self, command: Command) -> bool {
        // Locked for as long as it takes to push, and by whoever comes once a second.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(command).is_ok()
    }

    /// Hands over lines, if there is room for them.
    pub(crate) fn offer(&self, lines: impl FnOnce() -> Vec<Line>) -> bool {
        if BATCHES_MAX <= self.figures.waiting.fetch_add(1, Ordering::AcqRel) {
            self.figures.waiting.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        self.send(Command::Add(lines()))
    }

    /// Asks; the answer comes on the asker's own thread. False if it will not.
    pub(crate) fn ask(
        &self,
        thread: &Thread,
        question: Question,
        heard: impl FnOnce(&Rc<Thread>, Answer) + Send + 'static,
    ) -> bool {
        let (asker, shared) = (thread.id, thread.shared.clone());
        self.send(Command::Ask { question: Box::new(question), asker, shared, heard: Box::new(heard) })
    }

    /// Waits until all that was handed over is written.
    pub(crate) fn close(&self) {
        self.send(Command::Close);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the usage accounts failed");
        }
    }
}

/// The rows, and their bound.
#[derive(Debug)]
pub(super) struct Rows {
    rows: BTreeMap<Entry, Tally>,
    rows_max: usize,
    days_max: u32,
    /// Sessions of earlier days are not told apart.
    folded_until: Day,
    folded: u64,
}

impl Rows {
    fn new(limits: &Limits) -> Self {
        Self {
            rows: BTreeMap::new(),
            rows_max: limits.usage_rows_max,
            days_max: limits.usage_days_max,
            folded_until: 0,
            folded: 0,
        }
    }

    /// Is this day too long ago to be kept?
    pub(super) const fn is_over(&self, day: Day, today: Day) -> bool {
        day.saturating_add(self.days_max) <= today
    }

    pub(super) fn add(&mut self, mut entry: Entry, tally: &Tally) {
        if entry.day < self.folded_until {
            entry.session = Box::default();
        }
        if let Some(row) = self.rows.get_mut(&entry) {
            return row.add(tally);
        }
        while self.rows_max <= self.rows.len() && !entry.session.is_empty() {
            if !self.fold_oldest(entry.day) {
                entry.session = Box::default();
                self.folded += 1;
            }
        }
        self.rows.entry(entry).or_default().add(tally);
    }

    /// Leaves the sessions of the oldest day before `day` out; false if there is none whose sessions are told apart.
    fn fold_oldest(&mut self, day: Day) -> bool {
        let from = Entry { day: self.folded_until, ..Entry::default() };
        let oldest = self.rows.range(from..).next().map(|(entry, _)| entry.day);
        let Some(oldest) = oldest.filter(|oldest| *oldest < day) else { return false };
        self.folded_until = oldest + 1;
        let all: Vec<Entry> = self.of_days(oldest..=oldest).map(|(entry, _)| entry.clone()).collect();
        for entry in all.into_iter().filter(|entry| !entry.session.is_empty()) {
            let Some(tally) = self.rows.remove(&entry) else { continue };
            self.folded += 1;
            self.rows.entry(Entry { session: Box::default(), ..entry }).or_default().add(&tally);
        }
        true
    }

    pub(super) fn of_days(&self, days: RangeInclusive<Day>) -> impl Iterator<Item = (&Entry, &Tally)> {
        let (first, last) = (*days.start(), *days.end());
        let from = Entry { day: first, ..Entry::default() };
        self.rows.range(from..).take_while(move |(entry, _)| entry.day <= last)
    }

    /// Forgets what is too old.
    fn forget(&mut self, today: Day) {
        let first = (today + 1).saturating_sub(self.days_max);
        if self.rows.first_key_value().is_some_and(|(entry, _)| entry.day < first) {
            self.rows = self.rows.split_off(&Entry { day: first, ..Entry::default() });
        }
    }

    fn answer(&self, question: &Question) -> Answer {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let days = question.days.clone().unwrap_or(0..=Day::MAX);
        let by = question.by;
        let mut groups: BTreeMap<Entry, Tally> = BTreeMap::new();
        let mut total = Tally::default();
        for (entry, tally) in self.of_days(days) {
            let is_asked_for = fits(&question.key, &entry.key)
                && fits(&question.agent, &entry.agent)
                && fits(&question.model, &entry.model)
                && fits(&question.session, &entry.session);
            if !is_asked_for {
                continue;
            }
            let kept =
                |keep: bool, text: &str| -> Box<str> { if keep { text.into() } else { Box::default() } };
            let group = Entry {
                day: if by.day { entry.day } else { 0 },
                key: kept(by.key, &entry.key),
                agent: kept(by.agent, &entry.agent),
                model: kept(by.model, &entry.model),
                session: kept(by.session, &entry.session),
            };
            groups.entry(group).or_default().add(tally);
            total.add(tally);
        }
        let count = groups.len();
        let rows: Vec<Line> = groups.into_iter().skip(question.offset).take(question.limit).collect();
        let more = question.offset.saturating_add(rows.len()) < count;
        Answer { rows, total, more }
    }
}

/// The thread that has them.
struct Keeper {
    rows: Rows,
    files: Option<Files>,
    figures: Arc<Figures>,
}

impl Keeper {
    fn run(mut self, incoming: &Receiver<Command>) {
        self.tell();
        while let Ok(command) = incoming.recv() {
            match command {
                Command::Add(lines) => {
                    self.figures.waiting.fetch_sub(1, Ordering::AcqRel);
                    self.add(lines);
                }
                Command::Ask { question, asker, shared, heard } => {
                    let answer = self.rows.answer(&question);
                    // A thread that takes no errand has thousands waiting: its client gives up by itself.
                    let _ = shared.mesh.errand(asker, Box::new(move |thread| heard(thread, answer)));
                }
                Command::Close => break,
            }
        }
        // What could not be written before is tried once more.
        self.write(&[]);
    }

    fn add(&mut self, lines: Vec<Line>) {
        for (entry, tally) in &lines {
            self.rows.add(entry.clone(), tally);
        }
        self.write(&lines);
        self.tell();
    }

    fn write(&mut self, lines: &[Line]) {
        let today = day_of(unix_seconds());
        self.rows.forget(today);
        let Some(files) = &mut self.files else { return };
        if let Err(why) = files.append(lines, &self.rows, today)
            && self.figures.write_failures.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::error!(%why, "the usage accounts cannot be written; they are right in memory, and tried again");
        }
    }

    fn tell(&self) {
        self.figures.rows.store(self.rows.rows.len() as u64, Ordering::Relaxed);
        self.figures.folded.store(self.rows.folded, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::usage) fn rows(rows_max: usize) -> Rows {
        Rows { rows: BTreeMap::new(), rows_max, days_max: 3, folded_until: 0, folded: 0 }
    }

    pub(in crate::usage) fn entry(day: Day, key: &str, session: &str) -> Entry {
        Entry { day, key: key.into(), agent: "main".into(), model: "gpt".into(), session: session.into() }
    }

    pub(in crate::usage) const ONE: Tally = Tally {
        requests: 1,
        calls: 1,
        unfinished_calls: 0,
        prompt_tokens: 10,
        completion_tokens: 5,
        cached_tokens: 2,
        cache_created_tokens: 1,
        reasoning_tokens: 3,
        estimated_calls: 0,
        estimated_tokens: 0,
    };

    #[test]
    fn rows_are_asked_for_by_what_they_are() {
        let mut books = rows(100);
        for (day, key, session) in [(1, "ana", "s1"), (1, "ana", "s2"), (2, "ana", "s1"), (2, "ben", "s1")] {
            books.add(entry(day, key, session), &ONE);
        }
        let ask = |question: Question| {
            let Answer { rows, total, more } = books.answer(&Question { limit: 2, ..question });
            let shown: Vec<String> =
                rows.iter().map(|(e, t)| format!("{} {} {} {}", e.day, e.key, e.session, t.calls)).collect();
            (shown.join(", "), total.calls, more)
        };
        let by_day = By { day: true, ..By::default() };
        assert_eq!(ask(Question { by: by_day, ..Question::default() }), ("1   2, 2   2".into(), 4, false));
        let key = Some("ana".to_owned());
        let by = By { session: true, ..By::default() };
        assert_eq!(ask(Question { key, by, ..Question::default() }), ("0  s1 2, 0  s2 1".into(), 3, false));
        let by = By { day: true, key: true, session: true, ..By::default() };
        let first = ask(Question { by, days: Some(1..=2), ..Question::default() });
        assert_eq!(first, ("1 ana s1 1, 1 ana s2 1".into(), 4, true));
        let rest = ask(Question { by, offset: 2, ..Question::default() });
        assert_eq!(rest, ("2 ana s1 1, 2 ben s1 1".into(), 4, false));
        assert_eq!(ask(Question { days: Some(3..=9), ..Question::default() }), (String::new(), 0, false));
    }

    #[test]
    fn sessions_make_room_and_no_token_is_lost() {
        let mut books = rows(4);
        for session in ["a", "b", "c"] {
            books.add(entry(1, "ana", session), &ONE);
        }
        for session in ["a", "b", "c", "d", "e"] {
            books.add(entry(2, "ana", session), &ONE);
        }
        let old: Vec<_> = books.of_days(1..=1).map(|(entry, tally)| (&*entry.session, tally.calls)).collect();
        assert_eq!(old, [("", 3)], "the older day's sessions go first");
        let all: u64 = books.of_days(2..=2).map(|(_, tally)| tally.calls).sum();
        assert_eq!(all, 5);
        assert!(books.rows.len() <= 5, "one row above the bound for those that are not told apart");
        books.add(entry(1, "ana", "late"), &ONE);
        assert_eq!(books.of_days(1..=1).count(), 1);
        books.forget(3);
        assert_eq!(books.rows.first_key_value().map(|(entry, _)| entry.day), Some(1));
        books.forget(4);
        assert_eq!(books.rows.first_key_value().map(|(entry, _)| entry.day), Some(2));
    }
}
