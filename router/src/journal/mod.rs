//! The journal of a thread's shard: what the core's writer asks for is carried out through the ring, or by the thread of
//! [`files`] where there is none. It takes no decision about a record, and never waits for a disk.
//!
//! What the shard appends in a turn of the loop is written at its end, if nothing is under way; what is done meanwhile
//! becomes an event at the end of the turn in which it is known.
mod files;
mod name;
pub(crate) mod past;
pub(crate) mod shown;

use crate::clock::unix_millis;
use crate::config;
use crate::config::journal::Mode as Configured;
use crate::driver::{self, Kind};
use crate::keep;
use crate::metrics::Durations;
use crate::thread::Thread;
use clawgate_core::event::Event;
use clawgate_core::id::ShardId;
use clawgate_core::journal::format::Name;
use clawgate_core::journal::writer::{self, Deed, Done, Mode, Owner, Settings, State, Writer};
use clawgate_core::log::JournalState;
use clawgate_core::time::Time;
use files::{Files, Older, Outcome, Work};
use past::Past;
use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Attempts in a row that may fail before new work is refused.
const FAILURES_MAX: u16 = 3;
/// The pauses between attempts.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// When old files are tried again that could not be removed.
const DISCARD_AGAIN: Duration = Duration::from_secs(10);
/// A shard's smallest files.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The number of a start's first record.
pub(crate) const FIRST_LSN: u64 = 1;
/// How often in one turn what a shard appends because of the journal's word is taken at once.
const ROUNDS_A_TURN: usize = 8;

/// What all threads share of the journal.
#[derive(Debug)]
pub(crate) struct Journals {
    folder: PathBuf,
    files: Files,
    settings: Settings,
    lineage: u64,
    /// Files of earlier starts.
    older: Mutex<Vec<Older>>,
    has_older: bool,
    /// Shards that have not taken over what they need of them, and one more for the store's rows.
    behind: AtomicU16,
    /// What reading the past said.
    past: Past,
}

impl Journals {
    /// Begins with what [`past::read`] found in this folder.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(
        folder: PathBuf,
        config: &config::journal::Journal,
        past: Past,
        shards: u16,
    ) -> io::Result<Self> {
        Ok(Self {
            files: Files::start(folder.clone(), shards)?,
            folder,
            settings: settings(config, shards),
            lineage: past.lineage,
            older: Mutex::new(past.older.clone()),
            has_older: !past.older.is_empty(),
            behind: AtomicU16::new(shards + 1),
            past,
        })
    }

    /// Where it lies.
    fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Waits until the files are as they stay: when all shards' journals are closed.
    pub(crate) fn settle(&self) {
        self.files.settle();
    }

    /// What earlier starts left.
    pub(crate) const fn past(&self) -> &Past {
        &self.past
    }

    /// Files of earlier starts that are still there.
    fn older_left(&self) -> usize {
        self.older.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The most memory that the journals of all shards take: what is not safe yet, in two buffers that grew by doubling.
    pub(crate) fn memory_bytes(&self, shards: u16) -> u64 {
        4 * self.settings.buffer_bytes_max as u64 * u64::from(shards)
    }
}

/// Each shard's part of what is configured.
fn settings(config: &config::journal::Journal, shards: u16) -> Settings {
    let disk_bytes_max = (config.disk_bytes_max / u64::from(shards.max(1))).max(8 * SEGMENT_BYTES_MIN);
    let segment_bytes = config.segment_bytes.min(disk_bytes_max / 8) / 4_096 * 4_096;
    let half = usize::try_from(segment_bytes / 2).unwrap_or(usize::MAX);
    Settings {
        mode: match config.mode {
            Configured::Always => Mode::Always,
            Configured::Interval => Mode::Interval(config.interval),
            Configured::Os => Mode::Os,
        },
        segment_bytes,
        disk_bytes_max,
        buffer_bytes_max: config.buffer_bytes_max.min(half),
        failures_max: FAILURES_MAX,
        retry_min: RETRY_MIN,
        retry_max: RETRY_MAX,
    }
}

/// The file that is written, as this thread reaches it.
#[derive(Clone, Debug)]
enum Handle {
    Ring(Rc<driver::File>),
    Thread(Arc<std::fs::File>),
}

/// What is shown of a journal.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) state: State,
    pub(crate) counts: writer::Counts,
    pub(crate) disk_bytes: u64,
    pub(crate) segments: usize,
    pub(crate) buffered: usize,
    pub(crate) syncs: Durations,
}

/// The journal of one shard.
#[derive(Debug)]
pub(crate) struct Journal {
    writer: RefCell<Writer>,
    has_ring: bool,
    /// The files that were made, the newest last: the one that is written and the one that follows.
    handles: RefCell<Vec<(u64, Handle)>>,
    deeds: RefCell<Vec<Deed>>,
    /// Something happened here in this turn.
    stirred: Cell<bool>,
    /// When the sync began that is under way.
    sync_began: Cell<Time>,
    syncs: RefCell<Durations>,
    /// The file that is being made or removed.
    errand: Cell<u64>,
    /// What this shard took over from earlier starts is safe when this record is; none once it was said to be.
    taken_over: Cell<Option<u64>>,
    is_closed: Cell<bool>,
    state: Cell<JournalState>,
}

impl Journal {
    /// The journal of this shard, in a new lineage. `salt` is random.
    fn new(journals: &Journals, shard: ShardId, has_ring: bool, salt: u64) -> Self {
        let Journals { lineage, has_older, .. } = *journals;
        let owner = Owner { lineage, shard: shard.0, salt, first_lsn: FIRST_LSN, has_older };
        Self {
            writer: RefCell::new(Writer::new(journals.settings.clone(), owner)),
            has_ring,
            handles: RefCell::default(),
            deeds: RefCell::default(),
            stirred: Cell::new(true),
            sync_began: Cell::new(Time::ZERO),
            syncs: RefCell::default(),
            errand: Cell::new(0),
            taken_over: Cell::new(None),
            is_closed: Cell::new(false),
            state: Cell::new(JournalState::Open),
        }
    }

    /// Takes a record; it is written at the end of the turn.
    pub(crate) fn append(&self, lsn: u64, record: &[u8]) {
        self.writer.borrow_mut().append(lsn, record);
        self.stirred.set(true);
    }

    /// The shard took over all that it needs of earlier starts: what it appended so far is enough.
    pub(crate) fn took_over(&self) {
        self.taken_over.set(Some(self.writer.borrow().appended()));
        self.stirred.set(true);
    }

    /// Writes and syncs what there is; [`Self::is_closed`] says when that is done.
    pub(crate) fn close(&self) {
        self.writer.borrow_mut().close();
        self.stirred.set(true);
    }

    /// Is everything written and synced, and will nothing more be?
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// How it stands.
    pub(crate) fn state(&self) -> JournalState {
        self.state.get()
    }

    /// When the turn must be ended although nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.writer.borrow().next_deadline()
    }

    pub(crate) fn report(&self) -> Report {
        let writer = self.writer.borrow();
        Report {
            state: writer.state(),
            counts: writer.counts(),
            disk_bytes: writer.disk_bytes(),
            segments: writer.segments(),
            buffered: writer.buffered(),
            syncs: self.syncs.borrow().clone(),
        }
    }

    fn handle(&self, segment: u64) -> Option<Handle> {
        let mut handles = self.handles.borrow_mut();
        let at = handles.iter().position(|(number, _)| *number == segment)?;
        // Those before it are written no more.
        handles.drain(..at);
        handles.first().map(|(_, handle)| handle.clone())
    }
}

/// Begins the journal of this thread's shard, if the process has one. Before anything is admitted.
pub(crate) fn begin(thread: &Rc<Thread>) {
    let Some(journals) = thread.shared.journals() else { return };
    let driver = thread.shared.drivers.get(usize::from(thread.id.0)).and_then(std::sync::OnceLock::get);
    let has_ring = driver.is_some_and(|name| *name != Kind::Epoll.name());
    let journal = Journal::new(journals, thread.id, has_ring, thread.random());
    // It is begun once.
    let _ = thread.journal.set(journal);
}

/// The end of a turn: what was appended is written, and what is done becomes events.
pub(crate) fn turn(thread: &Rc<Thread>) {
    let Some(journal) = thread.journal.get() else { return };
    let due = journal.next_deadline().is_some_and(|due| due <= thread.now());
    if !journal.stirred.replace(false) && !due {
        return;
    }
    for _ in 0..ROUNDS_A_TURN {
        let released = thread.shard.borrow_mut().released();
        let mut deeds = journal.deeds.take();
        {
            let mut writer = journal.writer.borrow_mut();
            writer.release(released);
            writer.advance(thread.now(), unix_millis(), &mut deeds);
        }
        for deed in deeds.drain(..) {
            carry_out(thread, journal, deed);
        }
        journal.deeds.replace(deeds);
        if !journal.stirred.replace(false) {
            break;
        }
    }
    hand_in(thread, journal);
    // The shard may have had more to say than there were rounds.
    if journal.stirred.get() {
        thread.shared.mesh.ring(thread.id);
    }
}

fn carry_out(thread: &Rc<Thread>, journal: &Journal, deed: Deed) {
    match deed {
        Deed::Create { segment, bytes, reuse } => {
            journal.errand.set(segment);
            let (name, reuse) = (name_of(thread, segment), reuse.map(|segment| name_of(thread, segment)));
            ask(thread, Work::Create { name, bytes, reuse });
        }
        Deed::Delete { segment } => {
            journal.handles.borrow_mut().retain(|(number, _)| *number != segment);
            ask(thread, Work::Delete { name: name_of(thread, segment) });
        }
        Deed::Write { segment, offset, bytes } => match journal.handle(segment) {
            Some(Handle::Ring(file)) => driver::spawn(write_task(thread.clone(), file, offset, bytes)),
            Some(Handle::Thread(file)) => ask(thread, Work::Write { file, offset, bytes }),
            None => done(thread, Done::Written { bytes, result: Err(writer::Fault::Broken) }),
        },
        Deed::Sync { segment } => {
            journal.sync_began.set(thread.now());
            match journal.handle(segment) {
                Some(Handle::Ring(file)) => driver::spawn(sync_task(thread.clone(), file)),
                Some(Handle::Thread(file)) => ask(thread, Work::Sync { file }),
                None => done(thread, Done::Synced(Err(writer::Fault::Broken))),
            }
        }
        Deed::Durable { lsn } => {
            thread.handle(Event::Durable { lsn });
            journal.stirred.set(true);
        }
        Deed::Carry { lsn } => {
            thread.handle(Event::Carry { lsn });
            let released = thread.shard.borrow_mut().released();
            let mut writer = journal.writer.borrow_mut();
            writer.release(released);
            writer.carried(thread.now());
            journal.stirred.set(true);
        }
        Deed::State { state, fault } => tell_state(thread, state, fault),
        Deed::Closed => journal.is_closed.set(true),
    }
}

fn tell_state(thread: &Rc<Thread>, state: State, fault: Option<writer::Fault>) {
    let shard = thread.id.0;
    let state = match (state, fault) {
        (State::Open, _) => {
            tracing::info!(shard, "the journal takes records again");
            JournalState::Open
        }
        (State::Full, Some(_)) => {
            tracing::error!(shard, "the disk of the journal is full: new work is refused; make room");
            JournalState::Full
        }
        (State::Full, None) => {
            tracing::warn!(
                shard,
                "the journal is full: new work is refused; see `journal.diskBytesMax`, or the disk is slow"
            );
            JournalState::Full
        }
        (State::Failed, _) => {
            tracing::error!(shard, "the journal cannot be written: new work is refused until it can");
            JournalState::Failed
        }
    };
    if let Some(journal) = thread.journal.get() {
        journal.state.set(state);
    }
    keep::tell_state(thread);
}

fn name_of(thread: &Thread, segment: u64) -> Name {
    let lineage = thread.shared.journals().map_or(0, |journals| journals.lineage);
    Name { lineage, shard: thread.id.0, segment }
}

fn ask(thread: &Rc<Thread>, work: Work) {
    let Some(journals) = thread.shared.journals() else { return };
    if !journals.files.ask(&thread.shared, thread.id, work) {
        tracing::error!(shard = thread.id.0, "the journal's thread takes no work: this is a bug");
    }
}

async fn write_task(thread: Rc<Thread>, file: Rc<driver::File>, offset: u64, bytes: Vec<u8>) {
    let (result, bytes) = file.write_at(bytes, offset).await;
    thread.touch();
    on_outcome(&thread, Outcome::Written(bytes, result));
}

async fn sync_task(thread: Rc<Thread>, file: Rc<driver::File>) {
    let result = file.sync().await;
    thread.touch();
    on_outcome(&thread, Outcome::Synced(result));
}

/// Something is done.
pub(super) fn on_outcome(thread: &Rc<Thread>, outcome: Outcome) {
    let Some(journal) = thread.journal.get() else { return };
    let complain = |what: &str, result: io::Result<()>| {
        result.map_err(|why| {
            tracing::warn!(shard = thread.id.0, %why, "the journal could not {what}");
            files::fault(&why)
        })
    };
    let answer = match outcome {
        Outcome::Created(result) => {
            let made = result.and_then(|file| journal.take_file(file));
            Done::Created(complain("make a file", made))
        }
        Outcome::Deleted(result) => Done::Deleted(complain("remove a file", result)),
        Outcome::Written(bytes, result) => Done::Written { bytes, result: complain("write", result) },
        Outcome::Synced(result) => {
            let took = thread.now().since(journal.sync_began.get());
            journal.syncs.borrow_mut().record(took);
            Done::Synced(complain("sync", result))
        }
        Outcome::Discarded(left) => return on_discarded(thread, left),
    };
    done(thread, answer);
}

fn done(thread: &Thread, answer: Done) {
    let Some(journal) = thread.journal.get() else { return };
    journal.writer.borrow_mut().on_done(thread.now(), answer);
    journal.stirred.set(true);
}

impl Journal {
    fn take_file(&self, file: std::fs::File) -> io::Result<()> {
        let handle = if self.has_ring {
            Handle::Ring(Rc::new(driver::File::new(file)?))
        } else {
            Handle::Thread(Arc::new(file))
        };
        self.handles.borrow_mut().push((self.errand.get(), handle));
        Ok(())
    }
}

/// Once what this shard took over is safe it says so; the last shard has the files of earlier starts removed.
fn hand_in(thread: &Rc<Thread>, journal: &Journal) {
    let Some(journals) = thread.shared.journals() else { return };
    let Some(lsn) = journal.taken_over.get() else { return };
    if journal.writer.borrow().is_safe(lsn) {
        journal.taken_over.set(None);
        step(thread, journals);
    }
}

/// What earlier starts left for the store is confirmed.
pub(crate) fn rows_saved(thread: &Rc<Thread>) {
    if let Some(journals) = thread.shared.journals() {
        step(thread, journals);
    }
}

fn step(thread: &Rc<Thread>, journals: &Journals) {
    if journals.has_older && journals.behind.fetch_sub(1, Ordering::AcqRel) == 1 {
        discard(thread);
    }
}

fn discard(thread: &Rc<Thread>) {
    let Some(journals) = thread.shared.journals() else { return };
    let older = std::mem::take(&mut *journals.older.lock().unwrap_or_else(PoisonError::into_inner));
    ask(thread, Work::Discard { older });
}

fn on_discarded(thread: &Rc<Thread>, left: Vec<Older>) {
    let Some(journals) = thread.shared.journals() else { return };
    if !left.is_empty() {
        *journals.older.lock().unwrap_or_else(PoisonError::into_inner) = left;
        driver::spawn(discard_again(thread.clone()));
        return;
    }
    tracing::info!("what earlier starts left was taken over, and their files are gone");
    for core in 0..thread.shared.cores() {
        let gone = Box::new(|there: &Rc<Thread>| {
            if let Some(journal) = there.journal.get() {
                journal.writer.borrow_mut().older_gone();
                journal.stirred.set(true);
            }
        });
        thread.outgoing.borrow_mut().letter(ShardId(core), crate::mesh::Letter::Errand(gone));
    }
}

async fn discard_again(thread: Rc<Thread>) {
    driver::sleep(DISCARD_AGAIN).await;
    thread.touch();
    discard(&thread);
}
